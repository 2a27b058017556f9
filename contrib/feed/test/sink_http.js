#!/usr/bin/env node
'use strict';
const { assert, Feed, from_headers, judge, LIMIT, stored, test, until } = require('./lib');
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
      request.on('end', () => {
        const body = Buffer.concat(parts).toString();
        const { headers } = request;
        const m = headers['content-type'].startsWith('application/cloudevents+json') ? JSON.parse(body) : from_headers(headers, 'ce-', body);
        this.request = { url: request.url, method: request.method, headers };
        const status = this.answer(m, request);
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
});
