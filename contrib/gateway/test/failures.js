#!/usr/bin/env node
// What goes wrong outside: PostgreSQL restarts, the gateway is killed, clients
// are many, slow, stopped or talk rubbish.
'use strict';
const { assert, collect, delay, failure, flavour, fresh, gather, Gateway, Postgres, run, test, until } = require('./lib');
const { spawn } = require('node:child_process');
const http2 = require('node:http2');
const net = require('node:net');

const pg = new Postgres();
const gateway = new Gateway(pg);
const F = flavour('kurrentdb');
const { K, expecting } = F;
const event = (n, more = {}) => K.jsonEvent({ type: 'Happened', data: { n, ...more } });
let client;

// Appends numbered events one by one until told to stop; each is tried until it
// is done, with the same id.
function writer(stream) {
  const state = { written: 0, retries: 0, stop: false };
  state.done = (async () => {
    while (!state.stop) {
      const one = event(state.written);
      for (;;) {
        try {
          await client.appendToStream(stream, one, expecting(state.written === 0 ? K.NO_STREAM : BigInt(state.written - 1)));
          break;
        } catch (error) {
          if (error.type === 'wrong-expected-version') throw error;
          state.retries++;
          await delay(20);
        }
      }
      state.written++;
    }
  })();
  return state;
}

async function nothing_lost(stream, written) {
  const got = await collect(client.readStream(stream));
  assert.deepEqual(got.map(({ event: e }) => e.data.n), [...Array(written).keys()]);
}

test('PostgreSQL restarts under writers and subscribers: nothing is lost or doubled', async () => {
  const streams = [fresh('Restart'), fresh('Restart')];
  const writers = streams.map(writer);
  await until('some events', () => writers.every((w) => w.written > 20));
  const subscription = client.subscribeToStream('$ce-Restart', { resolveLinkTos: true });
  const got = gather(subscription);
  for (const mode of ['fast', 'immediate']) {
    await until('more events', () => got.events.length > 40);
    await pg.stop(mode);
    await delay(300);
    await pg.start();
    const before = writers.map((w) => w.written);
    await until('they go on', () => writers.every((w, i) => w.written > before[i] + 20));
  }
  writers.forEach((w) => { w.stop = true; });
  await Promise.all(writers.map((w) => w.done));
  assert.ok(writers.some((w) => w.retries > 0));
  for (const [i, stream] of streams.entries()) await nothing_lost(stream, writers[i].written);
  // the subscription has outlived both restarts
  await got.count(writers[0].written + writers[1].written);
  await delay(100);
  for (const [i, stream] of streams.entries()) {
    const numbers = got.events.filter(({ event: e }) => e.streamId === stream).map(({ event: e }) => e.data.n);
    assert.deepEqual(numbers, [...Array(writers[i].written).keys()]);
  }
  assert.equal(got.error, null);
  await subscription.unsubscribe();
});

test('the gateway is killed under load: nothing is lost or doubled', async () => {
  const streams = Array.from({ length: 8 }, () => fresh('Kill'));
  const writers = streams.map(writer);
  for (let i = 0; i < 3; i++) {
    const before = writers.map((w) => w.written);
    await until('events', () => writers.every((w, k) => w.written > before[k] + 20));
    await gateway.kill();
    await gateway.start();
  }
  writers.forEach((w) => { w.stop = true; });
  await Promise.all(writers.map((w) => w.done));
  assert.ok(writers.some((w) => w.retries > 0));
  for (const [i, stream] of streams.entries()) await nothing_lost(stream, writers[i].written);
});

test('subscriptions that begin while others write miss nothing', async () => {
  const streams = Array.from({ length: 4 }, () => fresh('Begin'));
  const writers = streams.map(writer);
  await until('some events', () => writers.every((w) => w.written > 10));
  const subscriptions = [];
  const got = [];
  for (let i = 0; i < 60; i++) {
    const stream = streams[i % 4];
    subscriptions.push(i % 2 ? client.subscribeToStream(stream) : client.subscribeToStream('$ce-Begin', { resolveLinkTos: true }));
    got.push({ stream, ...gather(subscriptions.at(-1)) });
    got.at(-1).events = [];
    const { events } = got.at(-1);
    subscriptions.at(-1).on('data', ({ event: e }) => { if (e.streamId === stream) events.push(Number(e.revision)); });
    await delay(25);
  }
  writers.forEach((w) => { w.stop = true; });
  await Promise.all(writers.map((w) => w.done));
  for (const [i, g] of got.entries()) {
    const { written } = writers[i % 4];
    await until('all events', () => g.events.length >= written);
    assert.deepEqual(g.events, [...Array(written).keys()], `subscription ${i}`);
  }
  await Promise.all(subscriptions.map((s) => s.unsubscribe()));
});

test('200 clients', async () => {
  const clients = Array.from({ length: 200 }, () => F.connect(gateway.uri()));
  const subscriptions = clients.map((c) => c.subscribeToStream('$ce-Crowd', { fromRevision: K.END }));
  const got = subscriptions.map(gather);
  await until('all are live', () => got.every((g) => g.caughtUp));
  await Promise.all(clients.map((c, i) => c.appendToStream(`Crowd-${i % 20}`, event(i))));
  await Promise.all(got.map((g) => g.count(200)));
  assert.ok(got.every((g) => new Set(g.events.map(({ link, event: e }) => (link || e).id)).size === 200));
  await Promise.all(clients.map(async (c, i) => { await subscriptions[i].unsubscribe(); await c.dispose(); }));
});

// a client of its own process, which prints the number of each event
const listener = (stream) => {
  const child = spawn(process.execPath, ['-e', `
    const K = require('@kurrent/kurrentdb-client');
    const client = K.KurrentDBClient.connectionString('${gateway.uri('kurrentdb')}&keepAliveInterval=-1');
    const subscription = client.subscribeToStream('${stream}');
    subscription.on('data', (e) => console.log(Number(e.event.revision)));
    subscription.on('caughtUp', () => console.log('caught up'));
    subscription.on('fellBehind', () => console.log('fell behind'));
    subscription.on('error', (e) => { console.log('error ' + e); process.exit(1); });`],
  { cwd: __dirname, stdio: ['ignore', 'pipe', 'inherit'] });
  const got = { child, lines: [], rest: '' };
  child.stdout.on('data', (data) => {
    const parts = (got.rest + data).split('\n');
    got.rest = parts.pop();
    got.lines.push(...parts);
  });
  got.numbers = () => got.lines.filter((l) => /^\d+$/.test(l)).map(Number);
  return got;
};

test('a subscriber that is stopped hurts nobody and misses nothing', async () => {
  const stream = fresh('Stopped');
  const stopped = listener(stream);
  const lively = client.subscribeToStream(stream);
  const got = gather(lively);
  await until('both are live', () => got.caughtUp && stopped.lines.includes('caught up'));
  stopped.child.kill('SIGSTOP');
  const before = gateway.memory();
  const filler = 'x'.repeat(20000);
  let most = 0;
  const total = 3000;
  for (let n = 0; n < total; n += 50) {
    await client.appendToStream(stream, Array.from({ length: 50 }, (_, i) => event(n + i, { filler })));
    most = Math.max(most, gateway.memory());
  }
  await got.count(total);
  // 60 MB went through; of the stopped one's no more than its buffer is kept
  assert.ok(most - before < 40000, `${most - before} kB`);
  stopped.child.kill('SIGCONT');
  await until('it catches up', () => stopped.numbers().length >= total);
  assert.deepEqual(stopped.numbers(), [...Array(total).keys()]);
  assert.ok(stopped.lines.includes('fell behind'));
  stopped.child.kill();
  await lively.unsubscribe();
}, 300000);

test('a huge stream is read without memory, however slow the reader', async () => {
  pg.psql(`SELECT count(*) FROM generate_series(1, 20) AS g(g), LATERAL es_append_batch('Huge-1', CASE WHEN g > 0 THEN es_any() END,
    array_fill('Happened'::text, ARRAY[5000]), array_fill(jsonb_build_object('text', repeat('x', 500)), ARRAY[5000]))`);
  const before = gateway.memory();
  let most = 0;
  let n = 0;
  for await (const { event: e } of client.readStream('Huge-1')) {
    assert.equal(Number(e.revision), n++);
    if (n % 20000 === 0) await delay(300);
    if (n % 1000 === 0) most = Math.max(most, gateway.memory());
  }
  assert.equal(n, 100000);
  assert.ok(most - before < 30000, `${most - before} kB`);
});

// --- rubbish -----------------------------------------------------------------

function call(path, body, headers = {}) {
  return new Promise((resolve) => {
    const session = http2.connect(`http://127.0.0.1:${gateway.port}`);
    session.on('error', () => resolve({ broken: true }));
    const request = session.request({ ':method': 'POST', ':path': path, 'content-type': 'application/grpc', te: 'trailers', ...headers });
    let status;
    const look = (h) => { if (h['grpc-status'] !== undefined) status = Number(h['grpc-status']); };
    request.on('response', look);
    request.on('trailers', look);
    request.on('error', () => {});
    request.on('data', () => {});
    request.on('close', () => { session.close(); resolve({ status }); });
    request.setTimeout(3000, () => request.close());
    request.end(body);
  });
}

const frame = (payload, length = payload.length) => {
  const head = Buffer.alloc(5);
  head.writeUInt32BE(length, 1);
  return Buffer.concat([head, payload]);
};

// numbers that look random and are the same each time
let seed = Number(process.env.SEED || 4711);
const random = (n) => {
  seed = (Math.imul(seed, 1103515245) + 12345) & 0x7fffffff;
  return seed % n;
};
const noise = (n) => Buffer.from(Array.from({ length: n }, () => random(256)));

test('rubbish in messages is answered with an error', async () => {
  console.log(`# seed ${seed}`);
  const S = '/event_store.client.streams.Streams/';
  const P = '/event_store.client.persistent_subscriptions.PersistentSubscriptions/';
  const V = '/kurrentdb.protocol.v2.streams.StreamsService/';
  const J = '/event_store.client.projections.Projections/';
  const methods = [`${S}Read`, `${S}Append`, `${S}BatchAppend`, `${P}Read`, `${P}Create`, `${P}Update`, `${P}Delete`, `${P}GetInfo`, `${P}List`,
    `${P}ReplayParked`, `${V}AppendSession`, `${V}AppendRecords`, `${J}Statistics`, `${J}Enable`, `${J}Disable`, `${J}Reset`];
  for (const method of methods) {
    for (const body of [Buffer.alloc(0), frame(Buffer.alloc(0)), frame(Buffer.from([0x0a, 0x00])), frame(Buffer.from([0x0a, 0x7f, 1])),
      frame(noise(40)), frame(noise(400)), Buffer.concat([frame(Buffer.from([0x0a, 2, 0x0a, 0])), frame(noise(20))])]) {
      const { status } = await call(method, body);
      // who says nothing says nothing wrong
      if (body.length === 0 && [`${S}BatchAppend`, `${P}Read`].includes(method)) continue;
      assert.notEqual(status, 0, `${method} ${body.toString('hex')}`);
      assert.notEqual(status, undefined, `${method} ${body.toString('hex')}`);
    }
  }
  assert.equal((await call('/no.such/Method', frame(Buffer.alloc(0)))).status, 12);
  assert.equal((await call(`${S}Nothing`, frame(Buffer.alloc(0)))).status, 12);
  assert.equal((await call('', frame(Buffer.alloc(0)))).status, 12);
});

test('values nested without end, lengths that lie, messages too large', async () => {
  // a property of AppendRecords that is a list of a list of ...
  let value = Buffer.from([0x20, 1]);
  const field = (tag, payload) => {
    const len = [];
    let n = payload.length;
    do { len.push((n & 127) | (n > 127 ? 128 : 0)); n >>>= 7; } while (n);
    return Buffer.concat([Buffer.from([tag, ...len]), payload]);
  };
  for (let i = 0; i < 3000; i++) value = field(0x32, field(0x0a, value));
  const record = Buffer.concat([
    field(0x12, Buffer.concat([field(0x0a, Buffer.from('k')), field(0x12, value)])),
    field(0x1a, field(0x12, Buffer.from('Type'))), field(0x2a, Buffer.from('Deep-1'))]);
  const path = '/kurrentdb.protocol.v2.streams.StreamsService/AppendRecords';
  assert.equal((await call(path, frame(field(0x0a, record)))).status, 3);
  // more than is sent, and more than may be
  await call(path, frame(Buffer.from([1, 2, 3]), 1000));
  assert.notEqual((await call(path, frame(Buffer.from([1, 2, 3]), 0x7fffffff))).status, 0);
  assert.equal((await call('/event_store.client.streams.Streams/BatchAppend', frame(Buffer.alloc(20 * 1024 * 1024)))).status, 8);
  assert.ok(gateway.alive());
});

test('rubbish on the wire', async () => {
  const preface = Buffer.from('PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n');
  const settings = Buffer.from([0, 0, 0, 4, 0, 0, 0, 0, 0]);
  for (let i = 0; i < 60; i++) {
    const parts = [[noise(200)], [preface, noise(100)], [preface, settings, noise(100)], [Buffer.from('GET / HTTP/1.1\r\n\r\n')],
      [preface, settings, Buffer.from([0, 0, 40, 1, 4, 0, 0, 0, 1]), noise(40)]][i % 5];
    await new Promise((resolve) => {
      const socket = net.connect(gateway.port, '127.0.0.1', () => {
        for (const part of parts) socket.write(part);
        socket.end();
      });
      socket.setTimeout(2000, () => socket.destroy());
      socket.on('error', () => {});
      socket.on('data', () => {});
      socket.on('close', resolve);
    });
  }
  assert.ok(gateway.alive());
});

test('after all that it works as before, and stops', async () => {
  const stream = fresh('After');
  await client.appendToStream(stream, [event(0), event(1)]);
  await nothing_lost(stream, 2);
  assert.equal((await failure(collect(client.readStream(fresh('None'))))).type, 'stream-not-found');
  await client.dispose();
  assert.deepEqual(await gateway.stop(), { code: 0, signal: null });
  assert.doesNotMatch(Gateway.log(), / ERROR /);
});

run(async () => {
  await pg.start();
  pg.psql('CREATE EXTENSION event_store');
  await gateway.start();
  client = F.connect(gateway.uri());
});
