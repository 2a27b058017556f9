#!/usr/bin/env node
'use strict';
const { assert, Feed, folder, freePort, from_headers, judge, LIMIT, Server, stored, test, until } = require('./lib');
const { common } = require('./common');
const { execFile } = require('node:child_process');
const fs = require('node:fs');
const path = require('node:path');

class Redis {
  constructor() {
    this.name = 'redis';
    this.suppresses = true;
    this.binary = true;
  }

  async start() {
    this.port = this.port || await freePort();
    const dir = path.join(folder, 'redis');
    fs.mkdirSync(dir, { recursive: true });
    this.server = new Server('redis-server', 'redis-server', ['--bind', '127.0.0.1', '--port', String(this.port), '--dir', dir,
      '--appendonly', 'yes', '--appendfsync', 'always', '--save', '']);
    this.server.spawn();
    await until('redis-server', async () => (await this.cli('PING').catch(() => '')).includes('PONG'), LIMIT);
  }

  cli(...args) {
    return new Promise((resolve, reject) => {
      execFile('redis-cli', ['-p', String(this.port), '--json', ...args], { maxBuffer: 1 << 30 }, (error, stdout) => (error ? reject(error) : resolve(stdout)));
    });
  }

  async kill() {
    await this.server.end('SIGKILL');
  }

  stop() {
    return this.kill();
  }

  args() {
    return ['--sink=redis', `--server=127.0.0.1:${this.port}`];
  }

  async count(key = 'events') {
    return Number(await this.cli('XLEN', key));
  }

  async entries(key = 'events') {
    return JSON.parse(await this.cli('XRANGE', key, '-', '+'));
  }

  async read(key) {
    return (await this.entries(key)).map(([id, words]) => {
      const fields = {};
      for (let i = 0; i < words.length; i += 2) fields[words[i]] = words[i + 1];
      const m = fields.event ? JSON.parse(fields.event) : from_headers(fields, 'ce_', fields.data, (v) => v);
      m.entry = id;
      return m;
    }).map((m) => {
      this.last = m.entry;
      delete m.entry;
      return m;
    });
  }
}

const sink = new Redis();

common(sink, ({ pg }) => {
  test('an entry\'s id is the position; what comes late goes to the end, once; the key may vary', async () => {
    pg.psql(`SELECT es_create_subscription('late', ARRAY['Late'])`);
    pg.psql(`SELECT es_append('Late-1', es_any(), 'T', '1') FROM generate_series(1, 3)`);
    const events = stored(pg, "e.stream_id = 'Late-1'");
    const feed = new Feed(pg, [...sink.args(), '--subscription=late', '--target=late'], 'feed-late');
    // the second event is held up while the first and the third of other streams pass
    pg.psql(`SELECT es_append('Late-2', es_any(), 'T', '2')`);
    pg.psql(`SELECT max(global_position) FROM es_fetch('late', 100); SELECT es_nack('late', ${events[1].position}, 'not now', false);
      SELECT es_ack('late', (SELECT max(global_position) FROM es_read_all(max_count => NULL)))`);
    pg.psql(`SELECT es_append('Late-2', es_any(), 'T', '3')`);
    await feed.start();
    await until('the newest is there', async () => await sink.count('late') === 1, LIMIT);
    pg.psql(`SELECT es_retry_parked('late')`);
    await until('the late ones are there', async () => await sink.count('late') === 3, LIMIT);
    const ids = (await sink.entries('late')).map(([id]) => id);
    const newest = stored(pg, "e.stream_id = 'Late-2'").at(-1);
    assert.deepEqual(ids, [`${newest.position}-0`, `${newest.position}-1`, `${newest.position}-2`]);
    assert.deepEqual((await sink.read('late')).map((m) => m.id), [newest.id, events[1].id, events[2].id]);
    await feed.end();

    // a stream each
    pg.psql(`SELECT es_reset_subscription('late')`);
    feed.args = [...sink.args(), '--subscription=late', '--target=late:{stream}'];
    for (let i = 0; i < 2; i++) {
      await feed.start();
      await until('all are there', async () => await sink.count('late:Late-1') + await sink.count('late:Late-2') === 5, LIMIT);
      await until('all is acknowledged', () => pg.psql(`SELECT lag_events = 0 FROM event_store.subscriptions WHERE name = 'late'`) === 't', LIMIT);
      await feed.end();
      pg.psql(`SELECT es_reset_subscription('late')`);
    }
    for (const stream of ['Late-1', 'Late-2']) {
      assert.deepEqual((await sink.entries(`late:${stream}`)).map(([id]) => id), stored(pg, `e.stream_id = '${stream}'`).map((e) => `${e.position}-0`));
      assert.deepEqual(judge(stored(pg, `e.stream_id = '${stream}'`), await sink.read(`late:${stream}`)),
        { lost: 0, strange: 0, misplaced: 0, repeated: 0 });
    }
    pg.psql(`SELECT es_drop_subscription('late')`);
  }, LIMIT);

  test('an entry of that id that is another event\'s is no duplicate; ids of deleted entries are not free', async () => {
    pg.psql(`SELECT es_create_subscription('other', ARRAY['Other'])`);
    pg.psql(`SELECT es_append('Other-1', es_any(), 'T', '1') FROM generate_series(1, 6)`);
    const events = stored(pg, "e.stream_id = 'Other-1'");
    const strange = (e, i) => (i % 2 ? ['event', JSON.stringify({ specversion: '1.0', id: e.id.replace(/^......../, '00000000'), subject: e.id })]
      : ['ce_specversion', '1.0', 'ce_id', e.id.replace(/^......../, '00000000'), 'ce_subject', e.id, 'content-type', 'application/json', 'data', '1']);
    for (const [i, e] of events.slice(0, 4).entries()) await sink.cli('XADD', 'other', `${e.position}-0`, ...strange(e, i));
    const feed = new Feed(pg, [...sink.args(), '--subscription=other', '--target=other'], 'feed-other');
    const acknowledged = () => until('all is acknowledged', () => pg.psql(`SELECT lag_events = 0 FROM event_store.subscriptions WHERE name = 'other'`) === 't', LIMIT);
    const ours = async () => (await sink.read('other')).filter((m) => !m.id.startsWith('00000000'));
    await feed.start();
    await acknowledged();
    assert.deepEqual(judge(events, await ours()), { lost: 0, strange: 0, misplaced: 0, repeated: 0 });
    await feed.end();

    // the consumer has deleted all, and all comes again
    for (const [id] of await sink.entries('other')) await sink.cli('XDEL', 'other', id);
    assert.equal(await sink.count('other'), 0);
    pg.psql(`SELECT es_reset_subscription('other')`);
    feed.args.push('--mode=binary');
    await feed.start();
    await acknowledged();
    assert.deepEqual(judge(events, await ours()), { lost: 0, strange: 0, misplaced: 0, repeated: 0 });
    await feed.end();
    pg.psql(`SELECT es_drop_subscription('other')`);
  }, LIMIT);

  for (const member of [[], ['--member=a']]) {
    test(`what comes late is not overtaken ${member}`, async () => {
      const name = `order${member.length}`;
      pg.psql(`SELECT es_create_subscription('${name}', ARRAY['${name}'] ${member.length ? ', slots => 8' : ''})`);
      for (const stream of [`${name}-1`, 'Between-1', `${name}-2`, `${name}-1`]) pg.psql(`SELECT es_append('${stream}', es_any(), 'T', '1')`);
      const between = stored(pg, "e.stream_id = 'Between-1'").at(-1);
      await sink.cli('XADD', name, `${between.position}-0`, 'event', '{"id": "between"}');
      const feed = new Feed(pg, [...sink.args(), `--subscription=${name}`, `--target=${name}`, ...member], `feed-${name}`);
      await feed.start();
      await until('all are there', async () => await sink.count(name) === 4, LIMIT);
      const verdict = judge(stored(pg, `e.stream_id LIKE '${name}-%'`), (await sink.read(name)).slice(1));
      assert.deepEqual(verdict, { lost: 0, strange: 0, misplaced: 0, repeated: 0 });
      await feed.end();
      pg.psql(`SELECT es_drop_subscription('${name}')`);
    }, LIMIT);
  }

  test('a server without memory makes the feed wait', async () => {
    pg.psql(`SELECT es_create_subscription('full', ARRAY['Full'])`);
    await sink.cli('CONFIG', 'SET', 'maxmemory', '1');
    const feed = new Feed(pg, [...sink.args(), '--subscription=full', '--target=full'], 'feed-full');
    pg.psql(`SELECT es_append('Full-' || i % 3, es_any(), 'T', '1') FROM generate_series(1, 30) AS i`);
    await feed.start();
    await until('it waits', () => /"sink lost".*OOM/.test(feed.said()), LIMIT);
    await sink.cli('CONFIG', 'SET', 'maxmemory', '0');
    await until('it goes on', async () => await sink.count('full') === 30, LIMIT);
    assert.deepEqual(judge(stored(pg, "e.stream_id LIKE 'Full-%'"), await sink.read('full')), { lost: 0, strange: 0, misplaced: 0, repeated: 0 });
    await feed.end();
    pg.psql(`SELECT es_drop_subscription('full')`);
  }, LIMIT);
});
