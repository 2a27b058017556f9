#!/usr/bin/env node
'use strict';
const { assert, Feed, LIMIT, judge, stored, test, until } = require('./lib');
const { common } = require('./common');
const { Nats } = require('./nats');
const sink = new Nats();

common(sink, ({ pg, nothing_in_hand }) => {
  test('what NATS will never take is parked, its stream waits, others go on; then it goes on, too', async () => {
    const more = { max_msg_size: 2000 };
    await sink.create('small', more);
    pg.psql(`SELECT es_create_subscription('small', ARRAY['Small'])`);
    const feed = new Feed(pg, [...sink.args(), '--subscription=small', '--target=small.{type}', '--option=stream=small'], 'feed-small');
    await feed.start();
    for (const [stream, size] of [['Small-1', 10], ['Small-1', 5000], ['Small-1', 11], ['Small-2', 12]]) {
      pg.psql(`SELECT es_append('${stream}', es_any(), 'T', to_jsonb(repeat('x', ${size})))`);
    }
    await until('the event is parked', () => pg.psql(
      `SELECT string_agg(state || ' ' || version, ',' ORDER BY version) FROM event_store.parked_events WHERE subscription = 'small'`)
      .startsWith('parked 2'), LIMIT);
    await until('others go on', async () => (await sink.read('small')).some((m) => m.subject === 'Small-2'), LIMIT);
    assert.match(feed.said(), /"event given back" position=\d+ stream="Small-1" event_type="T" state="parked" reason="the message has up to \d+ bytes, NATS takes 2000"/);
    assert.deepEqual((await sink.read('small')).map((m) => m.subject), ['Small-1', 'Small-2']);

    const answer = await sink.client.request('$JS.API.STREAM.UPDATE.small', { name: 'small', subjects: ['small.>'], storage: 'file' });
    assert.ok(!answer.error, JSON.stringify(answer.error));
    await feed.end();
    await feed.start();
    pg.psql(`SELECT es_retry_parked('small')`);
    await until('all are there', async () => (await sink.count('small')) >= 4, LIMIT);
    const verdict = judge(stored(pg, "e.stream_id LIKE 'Small-%'"), await sink.read('small'));
    assert.deepEqual(verdict, { lost: 0, strange: 0, misplaced: 0, repeated: 0 });
    await nothing_in_hand('small');
    await feed.end();
    pg.psql(`SELECT es_drop_subscription('small')`);
    // the other feed's subscription has them, too
  }, LIMIT);

  test('messages of others suppress nothing, whatever their numbers', async () => {
    await sink.create('foreign', { duplicate_window: 100000000 });
    pg.psql(`SELECT es_create_subscription('foreign', ARRAY['Foreign'])`);
    const head = Number(pg.psql('SELECT es_head()'));
    for (let i = 1; i <= 6; i++) await sink.client.request('foreign.other', { specversion: '1.0', sequence: String(head + i).padStart(19, '0') });
    const written = Date.now();
    pg.psql(`SELECT es_append('Foreign-1', es_any(), 'T', '1') FROM generate_series(1, 6)`);
    const feed = new Feed(pg, [...sink.args(), '--subscription=foreign', '--target=foreign.{type}', '--option=stream=foreign'], 'feed-foreign');
    await until('the window is over', () => Date.now() - written > 200, LIMIT);
    await feed.start();
    await nothing_in_hand('foreign');
    assert.deepEqual(judge(stored(pg, "e.stream_id = 'Foreign-1'"), (await sink.read('foreign')).filter((m) => m.id)),
      { lost: 0, strange: 0, misplaced: 0, repeated: 0 });

    // its own it knows, older than the window
    const last = Date.now();
    await feed.end();
    pg.psql(`SELECT es_reset_subscription('foreign')`);
    await until('the window is over', () => Date.now() - last > 200, LIMIT);
    await feed.start();
    await nothing_in_hand('foreign');
    await feed.end();
    assert.equal((await sink.read('foreign')).filter((m) => m.id).length, 6);
    pg.psql(`SELECT es_drop_subscription('foreign')`);
  }, LIMIT);

  test('a stream into which others publish, too', async () => {
    await sink.create('shared', {});
    pg.psql(`SELECT es_create_subscription('shared', ARRAY['Shared'])`);
    const feed = new Feed(pg, [...sink.args(), '--subscription=shared', '--target=shared.{type}', '--option=stream=shared'], 'feed-shared');
    await feed.start();
    let stop = false;
    const other = (async () => {
      while (!stop) await sink.client.request('shared.other', { other: 1 });
    })();
    await until('the feed has noticed', () => {
      pg.psql(`SELECT es_append_batch('Shared-' || i, es_any(), ARRAY['T', 'T'], ARRAY['1', '2']::jsonb[]) FROM generate_series(1, 10) AS i`);
      return feed.said().includes('"others publish in the stream');
    }, LIMIT);
    const events = stored(pg, "e.stream_id LIKE 'Shared-%'");
    const ours = async () => (await sink.read('shared')).filter((m) => m.id);
    await until('all are there', async () => judge(events, await ours()).lost === 0, LIMIT);
    stop = true;
    await other;
    assert.deepEqual(judge(events, await ours()), { lost: 0, strange: 0, misplaced: 0, repeated: 0 });
    await feed.end();
  }, LIMIT);
});
