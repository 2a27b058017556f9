#!/usr/bin/env node
// Everything at once, while backends are terminated, PostgreSQL is stopped and
// the gateway is ended and killed: nothing acknowledged is lost, nothing is
// doubled, and clients are told what is worth a retry.
'use strict';
const { assert, delay, flavour, Gateway, Postgres, run, test, until } = require('./lib');

const pg = new Postgres();
const gateway = new Gateway(pg);
const F = flavour('kurrentdb');
const { K, expecting } = F;
const event = (n) => K.jsonEvent({ type: 'Happened', data: { n } });

// what a client may be told while something is down, by its kind or as a status
const passing = new Set(['unavailable', 'cancelled', 'deadline-exceeded', 'timeout']);
const strange = [];
let stop = false;
// gRPC's core answers a call that comes while the server ends with CANCELLED,
// which the client's reads do not know
const may = (error) => passing.has(error.type) || [1, 4, 14].includes(error.code) ||
  (error.type === 'unknown' && /message: CANCELLED/.test(error.message));
const told = (what, error) => { if (!may(error)) strange.push(`${what}: ${error.type} ${error.message}`); };

// Appends until it is told to stop, each time until it is done, with the same ids.
function writer(name, append) {
  const state = { written: 0, retries: 0 };
  state.done = (async () => {
    const client = F.connect(gateway.uri());
    for (; !stop; state.written++) {
      const attempt = append(state.written);
      for (;;) {
        try {
          await attempt(client);
          break;
        } catch (error) {
          told(name, error);
          state.retries++;
          await delay(30);
        }
      }
    }
    await client.dispose();
  })();
  return state;
}

const writers = [
  writer.bind(null, 'one event', (n) => {
    const one = event(n);
    return (client) => client.appendToStream('One-1', one, expecting(n === 0 ? K.NO_STREAM : BigInt(n - 1)));
  }),
  writer.bind(null, 'five events', (n) => {
    const five = Array.from({ length: 5 }, (_, i) => event(n * 5 + i));
    return (client) => client.appendToStream('Five-1', five, expecting(K.ANY));
  }),
  writer.bind(null, 'a call of its own', (n) => {
    const two = [event(n * 2), event(n * 2 + 1)];
    return (client) => client.appendToStream('Own-1', two, expecting(K.ANY, { credentials: { username: 'x', password: 'y' } }));
  }),
  writer.bind(null, 'several streams', (n) => {
    const [a, b] = [event(n), event(n)];
    return (client) => client.multiStreamAppend([
      { streamName: 'SeveralA-1', expectedState: K.ANY, events: [a] },
      { streamName: 'SeveralB-1', expectedState: K.ANY, events: [b] },
    ]);
  }),
];

// Subscribes again behind the last event whenever it is ended.
function follower(name, subscribe) {
  const state = { positions: [], ends: 0 };
  let last;
  let current;
  state.client = F.connect(gateway.uri());
  const begin = () => {
    if (state.left) return;
    current = subscribe(state.client, last);
    let over = false;
    const again = (error) => {
      if (over) return;
      over = true;
      if (error) told(name, error);
      state.ends++;
      setTimeout(begin, 50);
    };
    current.on('data', (resolved) => {
      if (over) return;
      last = resolved;
      const { position } = resolved.event;
      state.positions.push(Number(position.commit));
    });
    current.on('error', again);
    current.on('end', () => again());
  };
  state.leave = async () => {
    state.left = true;
    await current.unsubscribe().catch(() => {});
    await state.client.dispose();
  };
  begin();
  return state;
}

const behind = (last) => (last ? last.event.position : K.START);
const followers = {
  'SELECT true': follower.bind(null, '$all', (client, last) => client.subscribeToAll({ fromPosition: behind(last) })),
  "stream_id LIKE 'Several%'": follower.bind(null, '$all, filtered', (client, last) => client.subscribeToAll({
    fromPosition: behind(last), filter: K.streamNameFilter({ prefixes: ['Several'] }) })),
  "stream_id = 'One-1'": follower.bind(null, 'a stream', (client, last) => client.subscribeToStream('One-1', {
    fromRevision: last ? last.event.revision : K.START })),
  "stream_id LIKE 'Five-%'": follower.bind(null, 'a category', (client, last) => client.subscribeToStream('$ce-Five', {
    resolveLinkTos: true, fromRevision: last ? last.link.revision : K.START })),
};

// A consumer of a persistent subscription that connects again.
function consumer() {
  const state = { seen: new Set(), times: 0 };
  state.client = F.connect(gateway.uri());
  const begin = () => {
    if (state.left) return;
    const current = state.client.subscribeToPersistentSubscriptionToStream('Own-1', 'group', { bufferSize: 20 });
    state.current = current;
    let over = false;
    const again = (error) => {
      if (over) return;
      over = true;
      if (error && error.type !== 'persistent-subscription-dropped') told('consumer', error);
      setTimeout(begin, 50);
    };
    current.on('data', (resolved) => {
      state.seen.add(resolved.event.data.n);
      state.times++;
      if (!over) current.ack(resolved).catch(() => {});
    });
    current.on('error', again);
    current.on('end', () => again());
  };
  begin();
  return state;
}

// Reads $all again and again, as far as it comes.
function reader() {
  const state = { whole: 0, broken: 0 };
  state.done = (async () => {
    while (!stop) {
      const client = F.connect(gateway.uri());
      let before = -1n;
      try {
        for await (const { event: e } of client.readAll()) {
          assert.ok(e.position.commit > before);
          before = e.position.commit;
        }
        state.whole++;
      } catch (error) {
        told('reader', error);
        state.broken++;
        await delay(50);
      }
      await client.dispose();
    }
  })();
  return state;
}

const terminate = () => pg.psql(`SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity
  WHERE application_name = 'event_store_gateway' AND random() < 0.7`);

test('nothing is lost or doubled, whatever is killed', async () => {
  const direct = F.connect(gateway.uri());
  await direct.createPersistentSubscriptionToStream('Own-1', 'group', K.persistentSubscriptionToStreamSettingsFromDefaults({ startFrom: K.START }));
  await direct.dispose();
  const writing = writers.map((begin) => begin());
  const following = Object.entries(followers).map(([where, begin]) => ({ where, ...{ state: begin() } }));
  const consuming = [consumer(), consumer()];
  const reading = [reader(), reader()];
  const progress = async (what) => {
    const before = writing.map((w) => w.written);
    await until(`all go on after ${what}`, () => writing.every((w, i) => w.written > before[i] + 5));
  };
  await progress('the beginning');
  let memory = 0;
  for (let i = 0; i < 8; i++) {
    terminate();
    await progress('backends were terminated');
    if (i === 1) memory = gateway.memory();
  }
  assert.ok(gateway.memory() - memory < 20000, `${gateway.memory() - memory} kB`);
  for (const mode of ['fast', 'immediate']) {
    await pg.stop(mode);
    await delay(300);
    await pg.start();
    await progress(`PostgreSQL was stopped, ${mode}`);
  }
  for (let i = 0; i < 5; i++) {
    await gateway.kill();
    await gateway.start();
    await progress('the gateway was killed');
  }
  assert.deepEqual(await gateway.stop(), { code: 0, signal: null });
  await gateway.start();
  await progress('the gateway was ended');
  terminate();

  stop = true;
  await Promise.all([...writing, ...reading].map((w) => w.done));
  const [one, five, own, several] = writing.map((w) => w.written);
  console.log(`# appends ${one} ${five} ${own} ${several}, tried again ${writing.map((w) => w.retries)}, reads ${reading.map((r) => `${r.whole}+${r.broken}`)}`);
  for (const [stream, count] of [['One-1', one], ['Five-1', five * 5], ['Own-1', own * 2], ['SeveralA-1', several], ['SeveralB-1', several]]) {
    assert.equal(pg.psql(`SELECT string_agg(data->>'n', ',' ORDER BY version) FROM es_read_stream('${stream}', 1, 1000000)`),
      Array.from({ length: count }, (_, n) => n).join(','), stream);
  }
  for (const { where, state } of following) {
    const positions = pg.psql(`SELECT string_agg(global_position::text, ',' ORDER BY global_position) FROM es_read_all(0, 1000000)
      WHERE ${where.replace(/^SELECT /, '')}`);
    const last = Number(positions.split(',').pop());
    await until(`all events of ${where}`, () => state.positions.at(-1) >= last);
    assert.equal(state.positions.join(','), positions, where);
    assert.ok(state.ends > 0);
    await state.leave();
  }
  await until('everything was consumed', () => new Set(consuming.flatMap((c) => [...c.seen])).size === own * 2);
  await until('and acknowledged', () => pg.psql("SELECT lag_events FROM event_store.subscriptions WHERE name = 'Own-1::group'") === '0');
  for (const c of consuming) {
    c.left = true;
    await c.client.dispose();
  }
  assert.ok(writing.every((w) => w.retries > 0));
  assert.deepEqual(strange, []);
  // what is left behind: no call, and no session but those of the pool
  await until('nobody waits', () => Number(pg.psql(`SELECT count(*) FROM pg_stat_activity
    WHERE application_name = 'event_store_gateway'`)) <= 9);
  assert.doesNotMatch(Gateway.log(), / ERROR /);
}, 600000);

run(async () => {
  await pg.start();
  pg.psql('CREATE EXTENSION event_store');
  pg.psql('CREATE EXTENSION event_store_gateway');
  await gateway.start();
});
