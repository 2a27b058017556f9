#!/usr/bin/env node
// Who may do what: TLS, user and password, PostgreSQL's rights; how the program
// is started and stopped.
'use strict';
const { assert, collect, failure, flavour, folder, fresh, gather, Gateway, Postgres, run, test, until } = require('./lib');
const { execFileSync, spawnSync } = require('node:child_process');
const fs = require('node:fs');
const path = require('node:path');

const pg = new Postgres();
const F = flavour('eventstore');
const { K, expecting } = F;
const event = (n) => K.jsonEvent({ type: 'Happened', data: { n } });
const file = (name) => path.join(folder, name);
let gateway;

const connect = (login = '') =>
  F.connect(`esdb://${login && `${login}@`}localhost:${gateway.port}?tls=true&tlsCAFile=${file('ca.crt')}`);

async function as(login, body) {
  const client = connect(login);
  try {
    return await body(client);
  } finally {
    await client.dispose();
  }
}

const all = (client) => collect(client.readAll({ maxCount: 5 }));

test('a login reads and writes with the rights of its role', async () => {
  const stream = fresh('Rights');
  await as('writer:secret-w', async (client) => {
    assert.equal((await client.appendToStream(stream, event(1))).success, true);
    assert.equal((await collect(client.readStream(stream))).length, 1);
    assert.equal((await failure(all(client))).type, 'access-denied');
  });
  await as('reader:secret-r', async (client) => {
    assert.ok((await all(client)).length > 0);
    for (const options of [{}, { credentials: { username: 'reader', password: 'secret-r' } }]) {
      assert.equal((await failure(client.appendToStream(stream, event(2), expecting(K.ANY, options)))).type, 'access-denied');
    }
    // for one call only
    const result = await client.appendToStream(stream, event(2), { credentials: { username: 'writer', password: 'secret-w' } });
    assert.equal(result.nextExpectedRevision, 1n);
  });
  assert.equal(pg.psql(`SELECT count(*) FROM es_read_stream('${stream}')`), '2');
});

test('a subscription lasts as long as its right to read', async () => {
  await as('reader:secret-r', async (client) => {
    const subscription = client.subscribeToAll();
    const got = gather(subscription);
    await until('live', () => got.caughtUp);
    await subscription.unsubscribe();
  });
  await as('writer:secret-w', async (client) => {
    const subscription = client.subscribeToAll();
    const got = gather(subscription);
    await until('refused', () => got.error);
    assert.equal(got.error.type, 'access-denied');
  });
});

test('persistent subscriptions: a reader consumes and parks, an admin makes them', async () => {
  const stream = fresh('Work');
  const settings = K.persistentSubscriptionToStreamSettingsFromDefaults({ startFrom: K.START });
  await as('reader:secret-r', async (client) => {
    assert.equal((await failure(client.createPersistentSubscriptionToStream(stream, 'g', settings))).type, 'access-denied');
  });
  await as('boss:secret-b', async (client) => {
    await client.createPersistentSubscriptionToStream(stream, 'g', settings);
    await client.appendToStream(stream, [event(0), event(1)]);
  });
  await as('reader:secret-r', async (client) => {
    const subscription = client.subscribeToPersistentSubscriptionToStream(stream, 'g');
    const got = gather(subscription);
    await got.count(2);
    await subscription.nack('park', 'not mine', got.events[0]);
    await subscription.ack(got.events[1]);
    await until('parked', () => pg.psql('SELECT count(*) FROM event_store_gateway.parked') === '1');
    await until('done', () => pg.psql(`SELECT lag_events FROM event_store.subscriptions WHERE name = '${stream}::g'`) === '0');
    assert.equal((await client.getPersistentSubscriptionToStreamInfo(stream, 'g')).connections[0].username, 'reader');
    await subscription.unsubscribe();
  });
});

test('a wrong password, an unknown role, nobody, a token: access denied', async () => {
  for (const login of ['reader:wrong', 'nobody:x', '']) {
    await as(login, async (client) => {
      assert.equal((await failure(all(client))).type, 'access-denied', login);
    });
  }
  await as('', async (client) => {
    const options = { maxCount: 1, credentials: { username: 'reader', password: '' } };
    assert.equal((await failure(collect(client.readAll(options)))).type, 'access-denied');
  });
});

test('a role that PostgreSQL lets in without a password is refused', async () => {
  await as('careless:anything', async (client) => {
    assert.equal((await failure(all(client))).type, 'access-denied');
  });
  assert.match(Gateway.log(), /did not ask for the password/);
  assert.doesNotMatch(Gateway.log(), /secret-/);
});

test('many logins at the same time, each with its own rights', async () => {
  const stream = fresh('Mixed');
  const clients = Array.from({ length: 20 }, (_, i) => connect(i % 2 ? 'writer:secret-w' : 'reader:secret-r'));
  const results = await Promise.all(clients.map((c, i) => c.appendToStream(stream, event(i)).then(() => true, (e) => e.type)));
  assert.deepEqual(results, clients.map((_, i) => (i % 2 ? true : 'access-denied')));
  await Promise.all(clients.map((c) => c.dispose()));
});

test('TLS is not optional', async () => {
  const plain = F.connect(`esdb://localhost:${gateway.port}?tls=false`);
  assert.notEqual((await failure(all(plain))).type, undefined);
  await plain.dispose();
});

test('--help, --version, mistakes', async () => {
  const program = gateway.child.spawnfile;
  assert.match(execFileSync(program, ['--help']).toString(), /Usage:[\s\S]*--listen=HOST:PORT[\s\S]*--username/);
  assert.match(execFileSync(program, ['-?']).toString(), /Usage:/);
  assert.match(execFileSync(program, ['--version']).toString(), /^event_store_gateway \(event_store\) \d/);
  for (const args of [['--connections=0'], ['--nonsense'], ['extra'], ['--tls-cert=x'], ['--anonymous=maybe'],
    ['--listen=256.1.1.1:1'], ['--tls-cert=/nowhere', '--tls-key=/nowhere']]) {
    const { status, stderr } = spawnSync(program, args);
    assert.equal(status, 1, args.join(' '));
    assert.match(stderr.toString(), /event_store_gateway: /);
  }
  assert.equal(spawnSync(program, [], { env: { EVENT_STORE_GATEWAY_CONNECTIONS: 'many' } }).status, 1);
});

test('it stops when told to, with subscribers connected', async () => {
  const client = connect('reader:secret-r');
  const got = gather(client.subscribeToAll());
  await until('live', () => got.caughtUp);
  assert.deepEqual(await gateway.stop(), { code: 0, signal: null });
  await until('the subscriber is told', () => got.error);
  assert.equal(got.error.type, 'unavailable');
  await until('no connection is left', () => pg.psql(
    "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'event_store_gateway'") === '0');
});

test('a database without the extension is an error that says so', async () => {
  pg.psql('CREATE DATABASE bare');
  const bare = await new Gateway(pg, ['-d', 'bare']).start();
  const client = F.connect(bare.uri());
  assert.match((await failure(client.appendToStream('S-1', event(1)))).message, /extension event_store is not installed/);
  await client.dispose();
  assert.deepEqual(await bare.stop(), { code: 0, signal: null });
});

run(async () => {
  const ssl = (...args) => execFileSync('openssl', args, { cwd: folder, stdio: 'ignore' });
  ssl('req', '-x509', '-newkey', 'rsa:2048', '-nodes', '-days', '2', '-keyout', 'ca.key', '-out', 'ca.crt', '-subj', '/CN=test');
  ssl('req', '-newkey', 'rsa:2048', '-nodes', '-keyout', 'node.key', '-out', 'node.csr', '-subj', '/CN=localhost');
  fs.writeFileSync(file('ext'), 'subjectAltName=DNS:localhost,IP:127.0.0.1\n');
  ssl('x509', '-req', '-in', 'node.csr', '-CA', 'ca.crt', '-CAkey', 'ca.key', '-CAcreateserial', '-days', '2', '-extfile', 'ext', '-out', 'node.crt');
  await pg.start();
  pg.psql(`
    CREATE EXTENSION event_store;
    CREATE EXTENSION event_store_gateway;
    SET password_encryption = 'scram-sha-256';
    CREATE ROLE writer LOGIN PASSWORD 'secret-w';
    CREATE ROLE reader LOGIN PASSWORD 'secret-r';
    CREATE ROLE careless LOGIN SUPERUSER;
    CREATE ROLE boss LOGIN PASSWORD 'secret-b';
    SELECT es_grant('writer', 'writer'), es_grant('reader', 'reader'), es_grant('boss', 'admin');
    GRANT USAGE ON SCHEMA event_store_gateway TO reader, boss;
    GRANT SELECT ON event_store_gateway.persistent_subscription TO reader;
    GRANT SELECT, INSERT, UPDATE, DELETE ON event_store_gateway.parked TO reader;
    GRANT ALL ON ALL TABLES IN SCHEMA event_store_gateway TO boss;`);
  gateway = await new Gateway(pg, ['-h', '127.0.0.1', '--tls-cert', file('node.crt'), '--tls-key', file('node.key')]).start();
});
