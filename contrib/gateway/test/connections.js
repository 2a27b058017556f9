#!/usr/bin/env node
// How the gateway comes to its connections to PostgreSQL.
'use strict';
const { assert, collect, flavour, folder, fresh, freePort, Gateway, Postgres, run, test, until } = require('./lib');

const pg = new Postgres();
// as a standby: nothing can be written there
const other = new Postgres('other', 'default_transaction_read_only = on');
const F = flavour('kurrentdb');
const { K } = F;
const event = (n) => K.jsonEvent({ type: 'Happened', data: { n } });

// a gateway with settings of its own, and a client of it
async function using(args, env, body) {
  const gateway = await new Gateway(pg, args, env).start();
  const client = F.connect(gateway.uri());
  try {
    return await body(client);
  } finally {
    await client.dispose();
    await gateway.stop();
  }
}

async function works(client) {
  const stream = fresh('Reached');
  await client.appendToStream(stream, [event(0), event(1)]);
  assert.equal((await collect(client.readStream(stream))).length, 2);
}

test('several servers: the first cannot be written to', async () => {
  await using(['-h', `${folder},${folder}`, '-p', `${other.port},${pg.port}`], { PGTARGETSESSIONATTRS: 'read-write' }, works);
});

test('several servers, one after the other, by a connection string', async () => {
  await using(['-d', `host=${folder},127.0.0.1,${folder},${folder} port=${other.port},1,${other.port},${pg.port} ` +
    'dbname=postgres target_session_attrs=read-write'], {}, works);
});

test('several servers: nobody listens at the first', async () => {
  await using(['-h', `127.0.0.1,${folder}`, '-p', `${await freePort()},${pg.port}`], {}, works);
});

run(async () => {
  await pg.start();
  await other.start();
  pg.psql('CREATE EXTENSION event_store');
});
