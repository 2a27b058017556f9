#!/usr/bin/env node
'use strict';
const { assert, Feed, judge, LIMIT, stored, test, until } = require('./lib');
const { common } = require('./common');
const sink = new (require('./kafka').Kafka)();

common(sink, ({ pg, nothing_in_hand, feed, all_there }) => {
  test('messages of others, whatever their headers and numbers, suppress nothing', async () => {
    const head = Number(pg.psql('SELECT es_head()'));
    for (let i = 1; i <= 6; i++) {
      const sequence = String(head + i).padStart(19, '0');
      const id = `0000000${i}-0000-4000-8000-000000000000`;
      await (i % 2 ? sink.write('1', 'content-type=application/json', `ce_id=${id}`, `ce_sequence=${sequence}`)
        : sink.write(`{"specversion":"1.0","id":"${id}","sequence":"${sequence}"}`, 'content-type=application/cloudevents+json'));
    }
    await sink.write('2', 'content-type=application/json', 'ce_id', 'ce_sequence');
    pg.psql(`SELECT es_append('Others-1', es_any(), 'T', '1') FROM generate_series(1, 6)`);
    feed.args = sink.args();
    await feed.start();
    await nothing_in_hand();
    await all_there();
    await feed.end();
  }, LIMIT);

  test('what Kafka will never take is parked, its stream waits, others go on; then it goes on, too', async () => {
    pg.psql(`SELECT es_create_subscription('small', ARRAY['Small'])`);
    const feed = new Feed(pg, [...sink.args(), '--subscription=small', '--option=message.max.bytes=2000'], 'feed-small');
    for (const [stream, size] of [['Small-1', 10], ['Small-1', 5000], ['Small-1', 11], ['Small-2', 12]]) {
      pg.psql(`SELECT es_append('${stream}', es_any(), 'T', to_jsonb(repeat('x', ${size})))`);
    }
    const got = async () => (await sink.read()).filter((m) => m.subject && m.subject.startsWith('Small-'));
    await feed.start();
    await until('the event is parked', () => pg.psql(
      `SELECT count(*) FROM event_store.parked_events WHERE subscription = 'small' AND state = 'parked'`) === '1', LIMIT);
    await until('others go on', async () => (await got()).length === 2, LIMIT);
    await feed.end();
    feed.args = [...sink.args(), '--subscription=small'];
    await feed.start();
    pg.psql(`SELECT es_retry_parked('small')`);
    await until('all are there', async () => (await got()).length >= 4, LIMIT);
    assert.deepEqual(judge(stored(pg, "e.stream_id LIKE 'Small-%'"), await got()), { lost: 0, strange: 0, misplaced: 0, repeated: 0 });
    await nothing_in_hand('small');
    await feed.end();
    // the other feed of this test publishes into the same topic
    pg.psql(`SELECT es_drop_subscription('small')`);
    pg.psql(`SELECT es_reset_subscription('feed', es_head())`);
  }, LIMIT);
});
