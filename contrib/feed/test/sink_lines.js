#!/usr/bin/env node
'use strict';
const { assert, Feed, freePort, judge, LIMIT, stored, test, until } = require('./lib');
const { common } = require('./common');
const { Lines } = require('./lines');
const fs = require('node:fs');
const path = require('node:path');
const sink = new Lines();

common(sink, ({ pg }) => {
  test('metrics, standard output, and a second feed that waits for the first', async () => {
    pg.psql(`SELECT es_create_subscription('out', ARRAY['Out'])`);
    pg.psql(`SELECT es_append('Out-1', 0, 'T', to_jsonb(i)) FROM generate_series(1, 1) AS i`);
    const port = await freePort();
    const args = ['--subscription=out', `--metrics=127.0.0.1:${port}`];
    const feed = new Feed(pg, args, 'feed-out');
    const output = `${feed.log}.out`;
    feed.stdout = fs.openSync(output, 'a');
    await feed.start();
    const metric = async (name) => {
      const text = await (await fetch(`http://127.0.0.1:${port}/metrics`)).text();
      return Number(new RegExp(`^event_store_feed_${name}{subscription="out",sink="lines"} (\\d+)$`, 'm').exec(text)[1]);
    };
    await until('one is published', async () => await metric('published_events_total') === 1, LIMIT);
    await until('and acknowledged', async () => await metric('in_hand_events') === 0 && await metric('acknowledged_position') > 0, LIMIT);
    assert.equal(await metric('store_up'), 1);
    assert.equal(await metric('sink_up'), 1);
    assert.equal(JSON.parse(fs.readFileSync(output)).subject, 'Out-1');

    const second = new Feed(pg, ['--subscription=out'], 'feed-second');
    second.stdout = fs.openSync(output, 'a');
    await second.start('"store connected"');
    await feed.end('SIGKILL');
    pg.psql(`SELECT es_append('Out-1', 1, 'T', '2')`);
    await until('the second goes on', () => fs.readFileSync(output).toString().split('\n').length === 3, LIMIT);
    await second.end();
  }, LIMIT);

  test('a group: two members share the streams, and one that ends hands its slots over', async () => {
    pg.psql(`SELECT es_create_subscription('team', ARRAY['Team'], slots => 8)`);
    const members = ['a', 'b'].map((name) => {
      const feed = new Feed(pg, ['--subscription=team', `--member=${name}`], `feed-member-${name}`);
      feed.stdout = fs.openSync(`${feed.log}.out`, 'a');
      return feed;
    });
    const got = (feed) => fs.readFileSync(`${feed.log}.out`).toString().split('\n').slice(0, -1).map((line) => JSON.parse(line));
    const append = () => pg.psql(`SELECT es_append('Team-' || i, es_any(), 'T', '1') FROM generate_series(1, 40) AS i`);
    await Promise.all(members.map((feed) => feed.start('"store connected"')));
    const shared = () => pg.psql(`SELECT string_agg(slots::text, ',' ORDER BY member) FROM event_store.subscription_members WHERE subscription = 'team'`);
    await until('both have slots', () => { append(); return shared() === '4,4'; }, LIMIT);
    await members[0].end();
    assert.equal(pg.psql(`SELECT string_agg(member, ',') FROM event_store.subscription_members WHERE subscription = 'team'`), 'b');
    await until('the other has them all', () => shared() === '8', LIMIT);
    append();
    const events = () => stored(pg, "e.stream_id LIKE 'Team-%'");
    await until('all are there', () => judge(events(), members.flatMap(got)).lost === 0, LIMIT);
    for (const feed of members) {
      const seen = new Map();
      for (const m of got(feed)) {
        assert.ok(Number(m.streamversion) > (seen.get(m.subject) || 0));
        seen.set(m.subject, Number(m.streamversion));
      }
    }
    await members[1].end();
  }, LIMIT);

  test('lines of another store, or of positions that were given away again, suppress nothing', async () => {
    pg.psql(`SELECT es_create_subscription('reused', ARRAY['Reused'])`);
    const file = `${sink.file}.reused`;
    const feed = new Feed(pg, ['--subscription=reused', `--target=${file}`], 'feed-reused');
    pg.psql(`SELECT es_append('Reused-1', es_any(), 'T', to_jsonb(i)) FROM generate_series(1, 20) AS i`);
    await feed.start();
    const lines = () => (fs.existsSync(file) ? fs.readFileSync(file).toString().split('\n').slice(0, -1).map((line) => JSON.parse(line)) : []);
    await until('they are written', () => lines().length === 20, LIMIT);
    await feed.end();
    fs.writeFileSync(file, fs.readFileSync(file).toString().replace(/"id":"......../g, '"id":"00000000'));
    pg.psql(`SELECT es_reset_subscription('reused')`);
    await feed.start();
    await until('all is acknowledged', () => pg.psql(`SELECT lag_events = 0 FROM event_store.subscriptions WHERE name = 'reused'`) === 't', LIMIT);
    await feed.end();
    assert.deepEqual(judge(stored(pg, "e.stream_id = 'Reused-1'"), lines().filter((m) => !m.id.startsWith('00000000'))),
      { lost: 0, strange: 0, misplaced: 0, repeated: 0 });
  }, LIMIT);

  test('what is found in the file is on disk before it counts, and so is the name of the file', async () => {
    pg.psql(`SELECT es_create_subscription('sync', ARRAY['Sync'])`);
    const file = `${sink.file}.sync`;
    const syncs = `${sink.file}.syncs`;
    const feed = new Feed(pg, ['--subscription=sync', `--target=${file}`], 'feed-sync');
    feed.env = { ...feed.env, LD_PRELOAD: path.join(__dirname, '..', 'build', 'syncs.so'), FEED_SYNCS: syncs };
    const said = () => (fs.existsSync(syncs) ? fs.readFileSync(syncs).toString().split('\n').slice(0, -1) : []);
    pg.psql(`SELECT es_append('Sync-1', 0, 'T', '1')`);
    await feed.start();
    await until('it is written', () => fs.existsSync(file) && fs.statSync(file).size > 0 && said().length >= 3, LIMIT);
    await feed.end('SIGKILL');
    const { size } = fs.statSync(file);
    assert.deepEqual(said(), ['file 0', 'folder', `file ${size}`]);

    fs.rmSync(syncs);
    await feed.start('"sink connected"');
    await feed.end();
    assert.deepEqual(said().slice(0, 1), [`file ${size}`]);
  }, LIMIT);

  test('a torn line is cut off, and what is in the file is not written again', async () => {
    pg.psql(`SELECT es_create_subscription('torn', ARRAY['Torn'])`);
    const file = `${sink.file}.torn`;
    const feed = new Feed(pg, ['--subscription=torn', `--target=${file}`], 'feed-torn');
    pg.psql(`SELECT es_append('Torn-1', es_any(), 'T', to_jsonb(repeat('x', 1000))) FROM generate_series(1, 300) AS i`);
    await feed.start();
    await until('they are written', () => fs.existsSync(file) && fs.readFileSync(file).toString().split('\n').length === 301, LIMIT);
    await feed.end();
    const lines = fs.readFileSync(file).toString();
    for (const [keep, cut] of [[lines.length, 0], [lines.length, 200], [1200, 100], [500, 0], [0, 0]]) {
      fs.writeFileSync(file, lines.slice(0, keep - cut));
      pg.psql(`SELECT es_reset_subscription('torn')`);
      await feed.start();
      await until('all are there', () => fs.readFileSync(file).toString().split('\n').length === 301, LIMIT);
      await feed.end();
      const got = fs.readFileSync(file).toString().split('\n').slice(0, -1).map((line) => JSON.parse(line));
      assert.deepEqual(judge(stored(pg, "e.stream_id = 'Torn-1'"), got), { lost: 0, strange: 0, misplaced: 0, repeated: 0 });
    }
  }, LIMIT);
});
