// librdkafka's mock cluster in a process of its own, which outlives the feed; or
// a broker of your own, whose address is in FEED_KAFKA (topic "events" is used).
'use strict';
const { folder, from_headers, LIMIT, until } = require('./lib');
const { execFile, spawn } = require('node:child_process');
const path = require('node:path');

const tool = path.join(__dirname, '..', 'build', 'kafka_tool');
const text = (hex) => Buffer.from(hex.slice(1), 'hex').toString();

class Kafka {
  constructor() {
    this.name = 'kafka';
    // the mock cluster does not look at what makes a producer idempotent
    this.suppresses = Boolean(process.env.FEED_KAFKA);
    this.suppresses_own = true;
    this.binary = true;
    this.servers = process.env.FEED_KAFKA;
    if (this.servers) this.kill = undefined;
  }

  async start() {
    if (this.servers && this.mock) return this.command('up');
    if (this.servers) return;
    this.mock = spawn(tool, ['mock', '3'], { stdio: ['pipe', 'pipe', 'inherit'], cwd: folder });
    this.output = '';
    this.mock.stdout.on('data', (data) => { this.output += data; });
    await until('the mock cluster', () => this.output.includes('\n'), LIMIT);
    this.servers = this.output.trim();
  }

  async command(word) {
    this.output = '';
    this.mock.stdin.write(`${word}\n`);
    await until(`brokers ${word}`, () => this.output.includes('done'), LIMIT);
  }

  // its brokers lose their connections and are gone; what they keep stays
  kill() {
    return this.command('down');
  }

  async stop() {
    if (this.mock) this.mock.stdin.end();
  }

  args() {
    return ['--sink=kafka', `--server=${this.servers}`];
  }

  async lines() {
    const out = await new Promise((resolve, reject) => {
      execFile(tool, ['read', this.servers, 'events'], { maxBuffer: 1 << 30 }, (error, stdout) => (error ? reject(error) : resolve(stdout)));
    });
    return out.split('\n').slice(0, -1);
  }

  write(value, ...headers) {
    return new Promise((resolve, reject) => {
      execFile(tool, ['write', this.servers, 'events', value, ...headers], (error) => (error ? reject(error) : resolve()));
    });
  }

  async count() {
    return (await this.lines()).length;
  }

  // partitions one after the other: what is in order is so within a partition
  async read() {
    const messages = (await this.lines()).map((line) => {
      const words = line.split(' ');
      const n = Number(words[3]);
      const headers = {};
      for (let i = 0; i < n; i++) headers[text(words[4 + 2 * i])] = text(words[5 + 2 * i]);
      const value = text(words[4 + 2 * n]);
      const m = headers['content-type'].startsWith('application/cloudevents+json') ? JSON.parse(value)
        : from_headers(headers, 'ce_', value, (v) => v);
      return { partition: Number(words[0]), offset: Number(words[1]), key: text(words[2]), m };
    });
    messages.sort((a, b) => a.partition - b.partition || a.offset - b.offset);
    for (const { key, m } of messages) {
      if (key !== (m.partitionkey || '')) throw new Error(`key ${key} of ${JSON.stringify(m)}`);
    }
    return messages.map(({ m }) => m);
  }
}

module.exports = { Kafka };
