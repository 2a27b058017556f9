#!/usr/bin/env node
'use strict';
const { assert, Feed, freePort, from_headers, judge, LIMIT, stored, test, until } = require('./lib');
const { common } = require('./common');
const http = require('node:http');

// A receiver that keeps what it has confirmed, and what it has seen.
class Receiver {
  constructor() {
    this.name = 'http';
    this.suppresses = false;
    this.binary = true;
    this.got = [];
    this.answer = () => 200;
  }

  async start() {
    this.server = http.createServer((request, response) => {
      const parts = [];
      request.on('data', (part) => parts.push(part));
      request.on('error', () => {});
      request.on('end', async () => {
        const body = Buffer.concat(parts).toString();
        const { headers } = request;
        const m = headers['content-type'].startsWith('application/cloudevents+json') ? JSON.parse(body) : from_headers(headers, 'ce-', body);
        this.request = { url: request.url, method: request.method, headers };
        const status = await this.answer(m, request);
        if (status < 300) this.got.push(m);
        response.writeHead(status, status === 503 ? { 'retry-after': '1' } : {}).end();
      });
    });
    await new Promise((resolve) => this.server.listen(this.port || 0, '127.0.0.1', resolve));
    this.port = this.server.address().port;
  }

  async kill() {
    const closed = new Promise((resolve) => this.server.close(resolve));
    this.server.closeAllConnections();
    await closed;
  }

  stop() {
    return this.kill();
  }

  args() {
    return ['--sink=http', `--target=http://127.0.0.1:${this.port}/in/{category}/{stream}?type={type}`];
  }

  async count() {
    return this.got.length;
  }

  async read() {
    return [...this.got];
  }
}

const sink = new Receiver();

common(sink, ({ pg, nothing_in_hand, all_there }) => {
  test('URL and headers', async () => {
    const feed = new Feed(pg, [...sink.args(), '--option=header=Authorization: Bearer x'], 'feed-url');
    pg.psql(`SELECT es_append('Url-a/b c', 0, 'What Now?', '1')`);
    await feed.start();
    await all_there();
    assert.equal(sink.request.url, '/in/Url/Url-a%2Fb%20c?type=What%20Now%3F');
    assert.equal(sink.request.method, 'POST');
    assert.equal(sink.request.headers.authorization, 'Bearer x');
    assert.equal(sink.request.headers['content-type'], 'application/cloudevents+json; charset=UTF-8');
    pg.psql(`SELECT es_append('..', 0, 'T', '1')`);
    await all_there();
    assert.equal(sink.request.url, '/in/../..?type=T');
    await nothing_in_hand();
    await feed.end();
  }, LIMIT);

  test('4xx parks, 500 is tried again by the store, 503 makes everything wait', async () => {
    const feed = new Feed(pg, [...sink.args()], 'feed-status');
    let busy = 0;
    let mended = false;
    // what is answered when the feed has just been told to wait, it asks again
    sink.answer = (m) => {
      if (m.subject === 'Bad-1' && m.data === 2) return mended ? 200 : 422;
      if (m.subject === 'Broken-1' && m.data === 2) return feed.said().includes('stream="Broken-1"') ? 204 : 500;
      if (m.subject === 'Busy-1' && m.data === 2) return busy++ < 2 ? 503 : 201;
      return 200;
    };
    for (const stream of ['Bad-1', 'Broken-1', 'Busy-1']) {
      pg.psql(`SELECT count(*) FROM es_append_batch('${stream}', 0, ARRAY['T', 'T', 'T'], ARRAY['1', '2', '3']::jsonb[])`);
    }
    await feed.start();
    await until('one is parked', () => pg.psql(`SELECT count(*) FROM event_store.parked_events WHERE state = 'parked'`) === '1', LIMIT);
    await until('the others are there', async () => judge(stored(pg, "e.stream_id <> 'Bad-1'"), await sink.read()).lost === 0, LIMIT);
    assert.match(feed.said(), /"event given back" position=\d+ stream="Bad-1" event_type="T" state="parked" reason="HTTP status 422"/);
    assert.match(feed.said(), /stream="Broken-1" event_type="T" state="retry" reason="HTTP status 500"/);
    assert.match(feed.said(), /"sink lost" sink="http" error="HTTP status 503" retry_ms=1000/);
    mended = true;
    pg.psql(`SELECT es_retry_parked('feed')`);
    await all_there();
    const verdict = judge(stored(pg), await sink.read());
    assert.equal(verdict.misplaced, 0);
    assert.equal(busy, 3);
    sink.answer = () => 200;
    await nothing_in_hand();
    await feed.end();
  }, LIMIT);

  test('an event without a stream that is refused holds up no other of its tag, nor a stream of that name', async () => {
    let mended = false;
    sink.answer = (m) => (!mended && (m.data === 'bad' || m.data === 'bad 2') ? 422 : 200);
    const free = (...data) => pg.psql(`SELECT count(*) FROM es_append_if('${JSON.stringify(data.map((d) => (
      { event_type: 'T', data: d, tags: ['acct:1'] })))}', '{"items": [{"event_types": ["None"]}]}')`);
    free('first', 'bad', 'second');
    pg.psql(`SELECT count(*) FROM es_append_batch('acct:1', 0, ARRAY['T', 'T'], ARRAY['"bad"', '"stream"']::jsonb[])`);
    free('third', 'bad 2', 'fourth');
    pg.psql(`SELECT es_append('acct:1', 2, 'T', '"stream"')`);
    const feed = new Feed(pg, [...sink.args(), '--target=' + `http://127.0.0.1:${sink.port}/`], 'feed-free');
    await feed.start();
    await until('three are parked', () => pg.psql(`SELECT count(*) FROM event_store.parked_events WHERE state = 'parked'`) === '3', LIMIT);
    await nothing_in_hand();
    const got = async () => (await sink.read()).map((m) => m.data);
    for (const data of ['first', 'second', 'third', 'fourth']) {
      await until(`${data} is there`, async () => (await got()).includes(data), 20000);
    }
    assert.ok(!(await got()).includes('stream'));
    mended = true;
    pg.psql(`SELECT es_retry_parked('feed')`);
    await all_there();
    assert.equal(judge(stored(pg), await sink.read()).misplaced, 0);
    sink.answer = () => 200;
    await nothing_in_hand();
    await feed.end();
  }, LIMIT);

  test('what was left out comes again while others before it are under way', async () => {
    pg.psql(`SELECT es_create_subscription('again', ARRAY['Again'], retry_delay => '1 ms')`);
    const port = await freePort();
    const feed = new Feed(pg, [...sink.args(), '--subscription=again', '--batch=20', `--metrics=127.0.0.1:${port}`], 'feed-again');
    const fetched = async () => Number(/^event_store_feed_fetched_events_total{.*} (\d+)$/m.exec(
      await (await fetch(`http://127.0.0.1:${port}/metrics`)).text())[1]);
    const refused = new Set();
    const answered = new Set();
    let tries = 0;
    // Two batches are in hand, 60 events.  13 streams are held up, so the 60th event, of the first one's stream, is
    // left out.  A batch of retries follows when all are done but the 59th and the 60th, and then one in which the first
    // stream is no longer held up.
    sink.answer = async (m) => {
      if (m.data <= 13 && !refused.has(m.data)) {
        refused.add(m.data);
        return 500;
      }
      if (m.data === 14) await until('the others are done', () => answered.size === 44 && feed.said().split('"event given back"').length === 14, LIMIT);
      if (m.data === 59) await until('two batches more', async () => await fetched() > 83 || tries++ > 100, LIMIT);
      if (m.data > 14 && m.data < 59) answered.add(m.data);
      return 200;
    };
    pg.psql(`SELECT es_append('Again-' || CASE WHEN i IN (1, 60) THEN 0 ELSE i END, es_any(), 'T', to_jsonb(i)) FROM generate_series(1, 150) AS i`);
    await feed.start();
    const events = stored(pg, "e.stream_id LIKE 'Again-%'");
    await until('all is acknowledged', () => pg.psql(`SELECT lag_events = 0 FROM event_store.subscriptions WHERE name = 'again'`) === 't', LIMIT);
    assert.deepEqual(judge(events, (await sink.read()).filter((m) => m.subject && m.subject.startsWith('Again-'))), { lost: 0, strange: 0, misplaced: 0, repeated: 0 });
    assert.ok(tries <= 100);
    sink.answer = () => 200;
    await feed.end();
    pg.psql(`SELECT es_drop_subscription('again')`);
  }, LIMIT);
});
