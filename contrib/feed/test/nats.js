// nats-server, and as much of its protocol as it takes to look into a stream.
'use strict';
const { delay, folder, freePort, from_headers, LIMIT, Server, until } = require('./lib');
const net = require('node:net');
const path = require('node:path');

class Client {
  constructor(port) {
    this.pending = new Map();
    this.next = 0;
    this.buffer = Buffer.alloc(0);
    this.socket = net.connect(port, '127.0.0.1');
    this.socket.on('error', () => {});
    this.socket.on('data', (data) => {
      this.buffer = Buffer.concat([this.buffer, data]);
      this.take();
    });
    this.socket.write('CONNECT {"verbose":false,"headers":true,"no_responders":true}\r\nSUB answer.* 1\r\n');
  }

  take() {
    for (;;) {
      const end = this.buffer.indexOf('\r\n');
      if (end < 0) return;
      const [word, ...rest] = this.buffer.subarray(0, end).toString().split(' ');
      if (word !== 'MSG' && word !== 'HMSG') {
        this.buffer = this.buffer.subarray(end + 2);
        if (word === 'PING') this.socket.write('PONG\r\n');
        continue;
      }
      const size = Number(rest.at(-1));
      if (this.buffer.length < end + 2 + size + 2) return;
      const body = this.buffer.subarray(end + 2, end + 2 + size);
      this.buffer = this.buffer.subarray(end + 2 + size + 2);
      const answer = this.pending.get(rest[0]);
      this.pending.delete(rest[0]);
      if (answer) answer(word === 'MSG' ? JSON.parse(body) : { error: { description: body.toString() } });
    }
  }

  request(subject, body) {
    const inbox = `answer.${++this.next}`;
    const text = body ? JSON.stringify(body) : '';
    return new Promise((resolve) => {
      this.pending.set(inbox, resolve);
      this.socket.write(`PUB ${subject} ${inbox} ${Buffer.byteLength(text)}\r\n${text}\r\n`);
    });
  }
}

class Nats {
  constructor() {
    this.name = 'nats';
    this.suppresses = true;
    this.binary = true;
  }

  async start() {
    this.port = this.port || await freePort();
    this.server = new Server('nats-server', 'nats-server', ['-a', '127.0.0.1', '-p', String(this.port), '-js', '-sd', path.join(folder, 'nats')]);
    this.server.spawn();
    await until('nats-server', () => new Promise((resolve) => {
      const socket = net.connect(this.port, '127.0.0.1', () => { socket.destroy(); resolve(true); });
      socket.on('error', () => resolve(false));
    }), LIMIT);
    this.client = new Client(this.port);
    if (!this.made) {
      await this.create('events', {});
      this.made = true;
    }
  }

  async create(name, more) {
    const answer = await this.client.request(`$JS.API.STREAM.CREATE.${name}`, { name, subjects: [`${name}.>`], storage: 'file', ...more });
    if (answer.error) throw new Error(JSON.stringify(answer.error));
  }

  async kill() {
    this.client.socket.destroy();
    await this.server.end('SIGKILL');
  }

  stop() {
    return this.kill();
  }

  args() {
    return ['--sink=nats', `--server=nats://127.0.0.1:${this.port}`];
  }

  async count(stream = 'events') {
    for (;;) {
      const info = await this.client.request(`$JS.API.STREAM.INFO.${stream}`);
      if (info.state) return info.state.messages;
      await delay(50);
    }
  }

  // all messages as CloudEvents, in order
  async read(stream = 'events') {
    const info = await this.client.request(`$JS.API.STREAM.INFO.${stream}`);
    const got = [];
    for (let seq = info.state.first_seq; seq <= info.state.last_seq && info.state.messages > 0; seq += 200) {
      got.push(...await Promise.all(Array.from({ length: Math.min(200, info.state.last_seq - seq + 1) }, (_, i) =>
        this.client.request(`$JS.API.STREAM.MSG.GET.${stream}`, { seq: seq + i }))));
    }
    return got.filter((g) => g.message && g.message.hdrs).map(({ message }) => {
      const body = Buffer.from(message.data, 'base64').toString();
      const headers = {};
      for (const line of Buffer.from(message.hdrs || '', 'base64').toString().split('\r\n').slice(1)) {
        const colon = line.indexOf(':');
        if (colon > 0) headers[line.slice(0, colon).toLowerCase()] = line.slice(colon + 1).trim();
      }
      this.last = { subject: message.subject, headers };
      if (headers['content-type'].startsWith('application/cloudevents+json')) return JSON.parse(body);
      return from_headers(headers, 'ce-', body);
    });
  }
}

module.exports = { Nats };
