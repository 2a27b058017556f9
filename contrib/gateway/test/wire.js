#!/usr/bin/env node
// What clients may do on the wire and seldom do: they end late, break off in the
// middle, send more than is asked for.
'use strict';
const { assert, delay, flavour, fresh, freePort, Gateway, Postgres, run, test, until } = require('./lib');
const crypto = require('node:crypto');
const fs = require('node:fs');
const http2 = require('node:http2');
const net = require('node:net');

const pg = new Postgres();
const gateway = new Gateway(pg);
const F = flavour('kurrentdb');
const { K } = F;
const generated = '@kurrent/kurrentdb-client/generated/kurrentdb/protocols';
const V1 = require(`${generated}/v1/streams_pb`);
const { Empty, StreamIdentifier, UUID } = require(`${generated}/v1/shared_pb`);
const { Empty: GoogleEmpty } = require('google-protobuf/google/protobuf/empty_pb');
const V2 = require(`${generated}/v2/streams/streams_pb`);

const S = '/event_store.client.streams.Streams/';
const V = '/kurrentdb.protocol.v2.streams.StreamsService/';
const FEATURES = '/event_store.client.server_features.ServerFeatures/GetSupportedMethods';

const frame = (message) => {
  const payload = Buffer.from(message.serializeBinary());
  const head = Buffer.alloc(5);
  head.writeUInt32BE(payload.length, 1);
  return Buffer.concat([head, payload]);
};

function target(stream) {
  const name = new StreamIdentifier();
  name.setStreamName(Buffer.from(stream).toString('base64'));
  const options = new V1.AppendReq.Options();
  options.setStreamIdentifier(name);
  options.setAny(new Empty());
  const request = new V1.AppendReq();
  request.setOptions(options);
  return frame(request);
}

function proposed(type = 'Happened') {
  const id = new UUID();
  id.setString(crypto.randomUUID());
  const message = new V1.AppendReq.ProposedMessage();
  message.setId(id);
  message.getMetadataMap().set('type', type);
  message.getMetadataMap().set('content-type', 'application/json');
  message.setData(Buffer.from('{}'));
  const request = new V1.AppendReq();
  request.setProposedMessage(message);
  return frame(request);
}

function session(stream) {
  const record = new V2.AppendRecord();
  record.setRecordId(crypto.randomUUID());
  record.setData(Buffer.from('{}'));
  const schema = new V2.SchemaInfo();
  schema.setFormat(1);
  schema.setName('Happened');
  record.setSchema(schema);
  const request = new V2.AppendRequest();
  request.setStream(stream);
  request.setExpectedRevision('-2');
  request.setRecordsList([record]);
  return frame(request);
}

function readAll() {
  const all = new V1.ReadReq.Options.AllOptions();
  all.setStart(new Empty());
  const uuid = new V1.ReadReq.Options.UUIDOption();
  uuid.setString(new Empty());
  const options = new V1.ReadReq.Options();
  options.setAll(all);
  options.setNoFilter(new Empty());
  options.setCount('1');
  options.setUuidOption(uuid);
  const request = new V1.ReadReq();
  request.setOptions(options);
  return frame(request);
}

function subscribe(stream) {
  const name = new StreamIdentifier();
  name.setStreamName(Buffer.from(stream).toString('base64'));
  const from = new V1.ReadReq.Options.StreamOptions();
  from.setStreamIdentifier(name);
  from.setStart(new Empty());
  const uuid = new V1.ReadReq.Options.UUIDOption();
  uuid.setString(new Empty());
  const options = new V1.ReadReq.Options();
  options.setStream(from);
  options.setNoFilter(new Empty());
  options.setSubscription(new V1.ReadReq.Options.SubscriptionOptions());
  options.setUuidOption(uuid);
  const request = new V1.ReadReq();
  request.setOptions(options);
  return frame(request);
}

// how many events each of the streams has
const written = (streams) => pg.psql(`SELECT string_agg(es_stream_version(s)::text, ',' ORDER BY i)
  FROM unnest('{${streams}}'::text[]) WITH ORDINALITY AS u(s, i)`).split(',').map(Number);

// --- frames ------------------------------------------------------------------

const DATA = 0, HEADERS = 1, RST_STREAM = 3, SETTINGS = 4, PING = 6, WINDOW_UPDATE = 8;
const END_STREAM = 1, END_HEADERS = 4, ACK = 1;

function http2Frame(type, flags, id, payload = Buffer.alloc(0)) {
  const head = Buffer.alloc(9);
  head.writeUIntBE(payload.length, 0, 3);
  head[3] = type;
  head[4] = flags;
  head.writeUInt32BE(id, 5);
  return Buffer.concat([head, payload]);
}

// calls on() with each frame of what comes, and with what goes before the first
function frames(before, on) {
  let rest = Buffer.alloc(0);
  return (data) => {
    rest = Buffer.concat([rest, data]);
    if (before > 0) {
      if (rest.length < before) return;
      on(null, rest.subarray(0, before));
      rest = rest.subarray(before);
      before = 0;
    }
    while (rest.length >= 9 && rest.length >= 9 + rest.readUIntBE(0, 3)) {
      const whole = rest.subarray(0, 9 + rest.readUIntBE(0, 3));
      rest = rest.subarray(whole.length);
      on({ type: whole[3], flags: whole[4], id: whole.readUInt32BE(5), payload: whole.subarray(9) }, whole);
    }
  };
}

// A client of frames: Node.js ends a stream before it resets it.
async function wire() {
  const socket = net.connect(gateway.port, '127.0.0.1');
  socket.on('error', () => {});
  let pongs = 0;
  let answered = false;
  let id = -1;
  socket.on('data', frames(0, (f) => {
    if (f.type === SETTINGS && !(f.flags & ACK)) socket.write(http2Frame(SETTINGS, ACK, 0));
    if (f.type === HEADERS && f.flags & END_STREAM) answered = true;
    if (f.type === PING && f.flags & ACK) pongs++;
    else if (f.type === PING) socket.write(http2Frame(PING, ACK, 0, f.payload));
  }));
  socket.write(Buffer.from('PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n'));
  socket.write(http2Frame(SETTINGS, 0, 0));
  return {
    socket,
    answered: () => answered,
    begin(path) {
      const text = (name, value) => Buffer.concat([Buffer.from([0x10, name.length]), Buffer.from(name),
        Buffer.from([value.length]), Buffer.from(value)]);
      id += 2;
      socket.write(http2Frame(HEADERS, END_HEADERS, id, Buffer.concat([text(':method', 'POST'), text(':scheme', 'http'),
        text(':path', path), text(':authority', 'localhost'), text('content-type', 'application/grpc'), text('te', 'trailers')])));
      return id;
    },
    data: (stream, payload, flags = 0) => socket.write(http2Frame(DATA, flags, stream, payload)),
    reset: (stream) => socket.write(http2Frame(RST_STREAM, 0, stream, Buffer.from([0, 0, 0, 8]))),
    async ping() {
      const before = pongs;
      socket.write(http2Frame(PING, 0, 0, Buffer.alloc(8)));
      await until('a pong', () => pongs > before);
    },
  };
}

// --- the tests ---------------------------------------------------------------

const http = (to = gateway) => {
  const client = http2.connect(`http://127.0.0.1:${to.port}`);
  client.on('error', () => {});
  return client;
};

// a call whose end is sent later
function begin(client, path, body, headers = {}) {
  const request = client.request({ ':method': 'POST', ':path': path, 'content-type': 'application/grpc', te: 'trailers', ...headers });
  const call = { request, answered: false };
  const look = (h) => { if (h['grpc-status'] !== undefined) call.status = Number(h['grpc-status']); };
  request.on('response', (h) => { call.answered = true; look(h); });
  request.on('trailers', look);
  request.on('error', () => {});
  request.on('data', () => {});
  call.over = new Promise((resolve) => { request.on('close', () => resolve(call.status)); });
  if (body) request.write(body);
  return call;
}

test('who sends one message is not answered before it has ended', async () => {
  const client = http();
  for (const [path, body] of [[FEATURES, frame(new Empty())], [`${S}Read`, readAll()]]) {
    const late = begin(client, path, body);
    // what is sent later is answered
    for (let i = 0; i < 20; i++) {
      const call = begin(client, path, body);
      call.request.end();
      assert.equal(await call.over, 0);
    }
    assert.equal(late.answered, false, path);
    late.request.end();
    assert.equal(await late.over, 0);
    // one message, and none, and no more
    const twice = begin(client, path, body);
    twice.request.end(body);
    assert.equal(await twice.over, 3);
  }
  client.close();
});

// A client that has the answer before it could end is sent a reset behind it,
// and the one in Rust takes that for a failure.
test('a client in Rust that ends late reads what is there', async () => {
  const stream = fresh('Late');
  const direct = F.connect(gateway.uri());
  await direct.appendToStream(stream, [1, 2, 3].map((n) => K.jsonEvent({ type: 'Happened', data: { n } })));
  let length = 0;
  let ends = 0;
  let window = 65535;
  const sockets = [];
  // lets the first bytes of each call through, and the rest a little later
  const proxy = net.createServer((near) => {
    const far = net.connect(gateway.port, '127.0.0.1');
    sockets.push(near, far);
    for (const socket of [near, far]) socket.on('error', () => {});
    near.on('close', () => far.destroy());
    far.on('close', () => near.destroy());
    const updates = [];
    near.on('data', frames(24, (f, whole) => {
      far.write(whole);
      if (f && f.type === DATA && f.payload.length > 0) length = f.payload.length;
      if (f && f.type === DATA && f.flags & END_STREAM) ends++;
    }));
    far.on('data', frames(0, (f, whole) => {
      if (f.type === WINDOW_UPDATE && f.id > 0 && window < 65535) {
        updates.push(setTimeout(() => near.write(whole), 200));
        return;
      }
      for (let i = 9; f.type === SETTINGS && i < whole.length; i += 6) {
        if (whole.readUInt16BE(i) === 4) whole.writeUInt32BE(window, i + 2);
      }
      near.write(whole);
    }));
    near.on('close', () => updates.forEach(clearTimeout));
  });
  const port = await freePort();
  await new Promise((resolve) => { proxy.listen(port, '127.0.0.1', resolve); });
  const read = async () => {
    const client = F.connect(`kurrentdb://127.0.0.1:${port}?tls=false`);
    const got = [];
    for await (const { event } of client.readStream(stream)) {
      got.push(event.data.n);
      // time for what comes behind the answer
      if (got.length === 1) await delay(50);
    }
    return got;
  };
  assert.deepEqual(await read(), [1, 2, 3]);
  window = length;
  ends = 0;
  for (let i = 0; i < 5; i++) assert.deepEqual(await read(), [1, 2, 3]);
  assert.ok(ends >= 5);
  sockets.forEach((socket) => socket.destroy());
  proxy.close();
  await direct.dispose();
});

test('an append that breaks off writes nothing', async () => {
  for (const [kind, path, parts] of [
    ['Append', `${S}Append`, (stream) => [target(stream), proposed(), proposed()]],
    ['AppendSession', `${V}AppendSession`, (stream) => [session(stream), session(`${stream}Too`)]],
  ]) {
    for (const how of ['reset', 'closed', 'ended']) {
      const streams = Array.from({ length: 30 }, () => fresh(`${kind}-${how}`));
      for (const stream of streams) {
        const client = await wire();
        const id = client.begin(path);
        for (const part of parts(stream)) client.data(id, part);
        // it has all that
        await client.ping();
        if (how === 'reset') client.reset(id);
        else if (how === 'closed') client.socket.destroy();
        else client.data(id, Buffer.alloc(0), END_STREAM);
        if (how === 'ended') await until('it is answered', () => client.answered());
        else if (how === 'reset') await client.ping();
        client.socket.destroy();
      }
      // what was begun has come to PostgreSQL before this, and is done when nothing runs
      const direct = F.connect(gateway.uri());
      await direct.appendToStream(fresh('Flush'), K.jsonEvent({ type: 'F', data: {} }));
      await direct.dispose();
      await until('no append runs', () => pg.psql(`SELECT count(*) FROM pg_stat_activity
        WHERE state = 'active' AND query ~ 'es_append' AND pid <> pg_backend_pid()`) === '0');
      const each = kind === 'Append' ? 2 : 1;
      assert.deepEqual(written(streams), streams.map(() => (how === 'ended' ? each : 0)), `${kind} ${how}`);
    }
  }
});

const refused = async (path, body, headers) => {
  const client = http();
  const call = begin(client, path, null, headers);
  call.request.end(body);
  const status = await call.over;
  client.close();
  return status;
};

test('a text ends where it ends, not at its first zero byte', async () => {
  const stream = fresh('Zero');
  assert.equal(await refused(`${V}AppendSession`, session(`${stream}\0more`)), 3);
  assert.equal(await refused(`${V}AppendSession`, session('\0')), 3);
  const broken = Buffer.concat([target(stream), proposed('Happened\0more')]);
  assert.equal(await refused(`${S}Append`, broken), 3);
  assert.deepEqual(written([stream]), [0]);
  assert.equal(await refused(`${S}Append`, Buffer.concat([target(stream), proposed()])), 0);
  assert.deepEqual(written([stream]), [1]);
});

test('a user and password that are too long are not nobody', async () => {
  const login = (length) => ({ authorization: `Basic ${Buffer.from(`postgres:${'x'.repeat(length)}`).toString('base64')}` });
  assert.equal(await refused(`${S}Read`, readAll(), login(3000)), 16);
  assert.equal(await refused(`${S}Read`, readAll(), { authorization: 'Bearer x' }), 16);
  assert.equal(await refused(`${S}Read`, readAll()), 0);
});

test('a message of millions of parts takes no memory to speak of', async () => {
  // 4 million events that say nothing, and one event with as many properties
  const nothing = Buffer.alloc(8000000, Buffer.from([0x1a, 0x00]));
  const field = (tag, payload) => {
    const head = [tag];
    let n = payload.length;
    do { head.push((n & 127) | (n > 127 ? 128 : 0)); n >>>= 7; } while (n);
    return Buffer.concat([Buffer.from(head), payload]);
  };
  const correlation = field(0x0a, field(0x12, Buffer.from(crypto.randomUUID())));
  const whole = (payload) => {
    const head = Buffer.alloc(5);
    head.writeUInt32BE(payload.length, 1);
    return Buffer.concat([head, payload]);
  };
  // what one such message needs anyhow
  assert.equal(await refused(`${S}BatchAppend`, whole(field(0x7a, nothing))), 3);
  let most = 0;
  const before = gateway.memory();
  const watch = setInterval(() => { most = Math.max(most, gateway.memory()); }, 5);
  for (const body of [Buffer.concat([correlation, nothing]),
    Buffer.concat([correlation, field(0x1a, Buffer.alloc(8000000, Buffer.from([0x12, 0x00])))])]) {
    assert.equal(await refused(`${S}BatchAppend`, whole(body)), 3);
  }
  clearInterval(watch);
  most = Math.max(most, gateway.memory());
  assert.ok(most - before < 60000, `${most - before} kB`);
});

test('appends that do not end fill no memory, whoever they are from', async () => {
  const small = await new Gateway(pg, ['--max-append=65536']).start();
  const text = JSON.stringify({ text: 'x'.repeat(40000) });
  const large = (message) => { message.setData(Buffer.from(text)); return message; };
  const event = () => {
    const request = V1.AppendReq.deserializeBinary(proposed().subarray(5));
    large(request.getProposedMessage());
    return frame(request);
  };
  const request = (stream) => {
    const one = V2.AppendRequest.deserializeBinary(session(stream).subarray(5));
    large(one.getRecordsList()[0]);
    return one;
  };
  const records = (stream) => {
    const all = new V2.AppendRecordsRequest();
    const record = request(stream).getRecordsList()[0];
    record.setStream(stream);
    all.setRecordsList([record]);
    return frame(all);
  };
  const part = (stream) => {
    const all = new V1.BatchAppendReq();
    const id = new UUID();
    id.setString(crypto.randomUUID());
    all.setCorrelationId(id);
    const options = new V1.BatchAppendReq.Options();
    const name = new StreamIdentifier();
    name.setStreamName(Buffer.from(stream).toString('base64'));
    options.setStreamIdentifier(name);
    options.setAny(new GoogleEmpty());
    all.setOptions(options);
    const message = new V1.BatchAppendReq.ProposedMessage();
    message.setId(id);
    message.getMetadataMap().set('type', 'Happened');
    message.getMetadataMap().set('content-type', 'application/json');
    all.setProposedMessagesList([large(message)]);
    return frame(all);
  };
  const stream = fresh('Held');
  for (const [path, body] of [[`${S}Append`, () => Buffer.concat([target(stream), event()])], [`${S}BatchAppend`, () => part(stream)],
    [`${V}AppendSession`, () => frame(request(stream))], [`${V}AppendRecords`, () => records(stream)]]) {
    const nobody = { authorization: `Basic ${Buffer.from('nobody:x').toString('base64')}` };
    const client = http(small);
    const calls = Array.from({ length: 100 }, () => begin(client, path, body(), nobody));
    await until(`${path} is refused`, () => calls.some((c) => c.status === 8), 20000);
    assert.ok(calls.filter((c) => c.status === undefined).length > 10, path);
    // a small one of somebody else passes
    const other = http(small);
    const write = async (payload) => {
      const call = begin(other, `${S}Append`);
      call.request.end(payload);
      return call.over;
    };
    assert.equal(await write(Buffer.concat([target(stream), proposed()])), 0, path);
    assert.equal(await write(Buffer.concat([target(stream), event()])), 8, path);
    // and any, as soon as they are gone
    client.destroy();
    await until('there is room', async () => await write(Buffer.concat([target(stream), event()])) === 0);
    other.close();
  }
  assert.deepEqual(await small.stop(), { code: 0, signal: null });
});

test('calls that are given up leave nothing behind', async () => {
  const stream = fresh('Given');
  // an append that is a call of its own, and is over when it is answered
  const unary = { credentials: { username: 'x', password: 'y' } };
  const direct = F.connect(gateway.uri());
  for (let i = 0; i < 5; i++) {
    await direct.appendToStream(stream, Array.from({ length: 200 }, (_, n) => K.jsonEvent({ type: 'Happened', data: { n, text: 'x'.repeat(2000) } })), unary);
  }
  const files = () => fs.readdirSync(`/proc/${gateway.child.pid}/fd`).length;
  const round = async (count) => {
    const clients = await Promise.all(Array.from({ length: 10 }, wire));
    for (let i = 0; i < count; i++) {
      for (const client of clients) {
        for (const body of [readAll(), subscribe(stream)]) {
          const id = client.begin(`${S}Read`);
          client.data(id, body, END_STREAM);
          if (i % 2) await client.ping();
          client.reset(id);
        }
        const id = client.begin(`${S}Append`);
        client.data(id, target(stream));
        client.reset(id);
      }
    }
    await Promise.all(clients.map((client) => client.ping()));
    clients.forEach((client) => client.socket.destroy());
    const name = fresh('Last');
    await direct.appendToStream(name, K.jsonEvent({ type: 'Last', data: {} }), unary);
  };
  await round(5);
  const [before, open] = [gateway.memory(), files()];
  for (let i = 0; i < 4; i++) await round(5);
  await until('as many files as before', () => files() <= open);
  // 600 calls; each that was kept would have kept at least a kB, most a page of events
  assert.ok(gateway.memory() - before < 5000, `${gateway.memory() - before} kB`);
  // none of them is there any more: the gateway ends at once
  await direct.dispose();
  const ended = await gateway.stop();
  assert.deepEqual(ended, { code: 0, signal: null });
  assert.match(Gateway.log(), /"shutting down" calls=0/);
});

test('calls that the end of the gateway cuts short are worth a retry', async () => {
  if (!gateway.alive()) await gateway.start();
  const client = http();
  const call = begin(client, `${S}Read`, subscribe(fresh('Cut')));
  call.request.end();
  await until('it is answered', () => call.answered);
  await gateway.stop();
  assert.equal(await call.over, 14);
  client.close();
});

run(async () => {
  await pg.start();
  pg.psql('CREATE EXTENSION event_store');
  await gateway.start();
});
