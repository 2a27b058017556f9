// What is tested with every sink.
'use strict';
const { assert, check_cloudevent, delay, Feed, judge, LIMIT, Postgres, run, stored, test, until, writer } = require('./lib');

let kills = 0;
const rounds = Number(process.env.FEED_ROUNDS || 2);

const in_order = (messages) => messages.sort((a, b) => (a.sequence < b.sequence ? -1 : 1));

function common(sink, own = () => {}) {
  const pg = new Postgres();
  const feed = new Feed(pg, []);
  const all_there = async (what = 'all events are there') => {
    const events = stored(pg);
    await until(what, async () => judge(events, await sink.read()).lost === 0, LIMIT);
    return events;
  };
  const nothing_in_hand = (subscription = 'feed') => until('all is acknowledged', () => pg.psql(
    `SELECT lag_events = 0 FROM event_store.subscriptions WHERE name = '${subscription}'`) === 't', LIMIT);

  test('events are CloudEvents', async () => {
    pg.psql(`SELECT es_append('Order-1', 0, 'OrderPlaced', '{"total": 10, "note": "a \\"b\\" \\u00e9"}',
      metadata => '{"user": "x", "traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"}')`);
    pg.psql(`SELECT es_append('Order-"1" \u00e9.>*', 0, 'Order Placed', '[1, null]', schema_version => 3)`);
    pg.psql(`SELECT es_append_if('[{"event_type": "Free", "data": 4711, "tags": ["b", "a"]}]', '{"items": [{"event_types": ["None"]}]}')`);
    feed.args = sink.args();
    await feed.start();
    const events = await all_there();
    const messages = in_order(await sink.read());
    messages.forEach((m, i) => check_cloudevent(m, { ...events[i], schema_version: i === 1 ? 3 : 1 }, '/event_store/postgres'));
    assert.deepEqual(JSON.parse(messages[0].metadata).user, 'x');
    assert.equal(messages[0].traceparent, '00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01');
    assert.ok(!('metadata' in messages[1]));
    assert.equal(messages[2].partitionkey, 'a');
    await nothing_in_hand();
    assert.deepEqual(await feed.end(), { code: 0, signal: null });
    assert.match(feed.said(), /LOG "stopped" published=3/);
  }, LIMIT);

  if (sink.binary) {
    test('binary mode', async () => {
      pg.psql(`SELECT es_append('Binary-\u00e9 1', 0, 'OrderPlaced', '{"total": 10, "note": "a \\"b\\" \\u00e9"}', metadata => '{"user": "\u00fc %"}')`);
      feed.args = [...sink.args(), '--mode=binary', '--source=urn:test'];
      await feed.start();
      const events = await all_there();
      const message = in_order(await sink.read()).at(-1);
      check_cloudevent(message, events.at(-1), 'urn:test');
      assert.deepEqual(JSON.parse(message.metadata), { user: '\u00fc %' });
      await nothing_in_hand();
      await feed.end();
    }, LIMIT);
  }

  own({ pg, feed, nothing_in_hand, all_there });

  const kill = (victims, suppresses) => test(`kill -9 of ${victims.join(', ')} in turn: nothing lost, nothing out of order`, async () => {
    const before = await sink.read();
    const known = new Set(before.map((m) => m.id));
    feed.args = [...sink.args(), '--batch=100'];
    await feed.start();
    const load = writer(pg, 20, `Kill${++kills}`);
    for (let round = 0; round < rounds * victims.length; round++) {
      const victim = victims[round % victims.length];
      const count = await sink.count();
      const written = load.written;
      await until('more events', async () => await sink.count() >= count + 50 && load.written >= written + 50, LIMIT);
      if (victim === 'feed') {
        await feed.end('SIGKILL');
        await feed.start();
      } else if (victim === 'sink') {
        await sink.kill();
        await sink.start();
      } else {
        await pg.stop('immediate');
        await pg.start();
      }
    }
    load.stop = true;
    await load.done;
    const events = (await all_there()).filter((e) => !known.has(e.id));
    await nothing_in_hand();
    await feed.end();
    const verdict = judge(events, (await sink.read()).filter((m) => !known.has(m.id)));
    console.log(`# ${sink.name}: ${rounds * victims.length} kills of ${victims.join(', ')}, ${events.length} events, ${JSON.stringify(verdict)}`);
    assert.equal(verdict.lost, 0);
    assert.equal(verdict.misplaced, 0);
    assert.equal(verdict.strange, 0);
    if (suppresses) assert.equal(verdict.repeated, 0);
  }, LIMIT + rounds * 60000);

  if (sink.suppresses_own) kill(['feed', 'server'], true);
  kill(['feed', ...(sink.kill ? ['sink'] : []), 'server'], sink.suppresses);

  run(async () => {
    await pg.start();
    pg.psql('CREATE EXTENSION event_store');
    pg.psql(`SELECT es_create_subscription('feed')`);
    await sink.start();
  }, async () => {
    await sink.stop();
    if (feed.child) feed.child.kill('SIGKILL');
    if (process.env.KEEP_LOG) console.log(feed.said().replace(/^/gm, '# '));
  });
}

module.exports = { common, delay };
