// What the tests of the feed share beside the gateway's: the feed, and a writer
// that knows what must arrive.
'use strict';
const lib = require('../../gateway/test/lib');
const { assert, delay, folder, until, within } = lib;
const { spawn } = require('node:child_process');
const fs = require('node:fs');
const path = require('node:path');

const program = process.env.FEED || path.join(__dirname, '..', 'build', 'event_store_feed');
const LIMIT = Number(process.env.FEED_LIMIT || 180000);

// A program in the background; whatever it says goes into a log.
class Server {
  constructor(name, command, args, env = {}) {
    Object.assign(this, { name, command, args, env });
    this.log = path.join(folder, `${name}.log`);
  }

  spawn() {
    const log = fs.openSync(this.log, 'a');
    this.child = spawn(this.command, this.args, { env: { ...process.env, ...this.env }, stdio: ['ignore', this.stdout ?? log, log] });
    this.ended = new Promise((resolve) => {
      this.child.on('exit', (code, signal) => resolve({ code, signal }));
      this.child.on('error', (error) => resolve({ error }));
    });
    fs.closeSync(log);
    Server.all.add(this);
    return this;
  }

  async end(signal = 'SIGTERM') {
    this.child.kill(signal);
    const end = await within(this.ended, LIMIT, `${this.name} ends`);
    Server.all.delete(this);
    return end;
  }

  said() {
    return fs.existsSync(this.log) ? fs.readFileSync(this.log).toString() : '';
  }
}
Server.all = new Set();
process.on('exit', () => { for (const server of Server.all) server.child.kill('SIGKILL'); });

class Feed extends Server {
  constructor(pg, args, name = 'feed') {
    super(name, program, args, pg.env);
  }

  // waits for a line of the log that begins after this start
  async start(wanted = '"ready"') {
    const mark = this.said().length;
    this.spawn();
    await until(`feed says ${wanted}`, () => this.said().slice(mark).includes(wanted), LIMIT);
    return this;
  }
}

// Appends to some streams until told to stop, one or several events at a time,
// each append until it is done.
function writer(pg, streams, category = 'Order') {
  const state = { written: 0, stop: false };
  const versions = new Map();
  let seed = Number(process.env.SEED || 4711);
  const random = (n) => {
    seed = (Math.imul(seed, 1103515245) + 12345) & 0x7fffffff;
    return (seed >> 8) % n;
  };
  state.done = (async () => {
    while (!state.stop) {
      const stream = `${category}-${random(streams)}`;
      const version = versions.get(stream) || 0;
      const n = 1 + random(20);
      const sql = `SELECT count(*) FROM es_append_batch('${stream}', ${version},
        array_fill('Happened'::text, ARRAY[${n}]),
        ARRAY(SELECT jsonb_build_object('n', ${version} + i) FROM generate_series(1, ${n}) AS i))`;
      try {
        pg.psql(sql);
        versions.set(stream, version + n);
      } catch (error) {
        await delay(50);
        // a server that died may have kept it all the same
        const now = Number(await until('PostgreSQL', () => {
          try { return pg.psql(`SELECT es_stream_version('${stream}')`); } catch { return ''; }
        }, LIMIT));
        versions.set(stream, now);
      }
      state.written = [...versions.values()].reduce((a, b) => a + b, 0);
      await delay(1);
    }
  })();
  state.versions = versions;
  return state;
}

// Everything of a store in order; and what a sink has of it, judged.  Messages
// are CloudEvents with attributes as texts.
function stored(pg, where = 'true') {
  return JSON.parse(pg.psql(`SELECT coalesce(json_agg(json_build_object('position', e.global_position::text, 'stream', e.stream_id,
    'version', e.version::text, 'id', e.event_id, 'type', e.event_type, 'data', e.data)), '[]')
    FROM es_read_all(max_count => NULL) AS e WHERE ${where}`));
}

function judge(events, messages) {
  const first = new Map();
  const last = new Map();
  const repeated = new Map();
  let misplaced = 0;
  for (const m of messages) {
    if (first.has(m.id)) {
      repeated.set(m.id, (repeated.get(m.id) || 0) + 1);
      continue;
    }
    first.set(m.id, m);
    if (!m.subject) continue;
    const version = Number(m.streamversion);
    if (version !== (last.get(m.subject) || 0) + 1) misplaced++;
    last.set(m.subject, version);
  }
  return {
    lost: events.filter((e) => !first.has(e.id)).length,
    strange: messages.length - [...repeated.values()].reduce((a, b) => a + b, 0) - events.filter((e) => first.has(e.id)).length,
    misplaced,
    repeated: [...repeated.values()].reduce((a, b) => a + b, 0),
  };
}

// The list of what CloudEvents 1.0 asks for, and of what the README promises.
function check_cloudevent(m, e, source) {
  assert.equal(m.specversion, '1.0');
  assert.equal(m.id, e.id);
  assert.equal(m.source, source);
  assert.equal(m.type, e.type);
  assert.equal(m.datacontenttype, 'application/json');
  assert.match(m.time, /^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z$/);
  assert.ok(Math.abs(Date.parse(m.time) - Date.now()) < 3600000, m.time);
  assert.equal(m.sequence, e.position.padStart(19, '0'));
  assert.equal(String(m.schemaversion), String(e.schema_version ?? 1));
  assert.deepEqual(m.data, e.data);
  if (e.stream !== null) {
    assert.equal(m.subject, e.stream);
    assert.equal(m.partitionkey, e.stream);
    assert.equal(m.streamversion, e.version);
  } else {
    assert.ok(!('subject' in m) && !('streamversion' in m));
  }
  for (const name of Object.keys(m)) {
    if (name !== 'data') assert.match(name, /^[a-z0-9]{1,20}$/);
  }
}

// headers of binary mode, with a prefix, become attributes
function from_headers(headers, prefix, body, decode = decodeURIComponent) {
  const m = { data: JSON.parse(body), datacontenttype: headers['content-type'] };
  for (const [name, value] of Object.entries(headers)) {
    if (name.startsWith(prefix)) m[name.slice(prefix.length)] = decode(value);
  }
  return m;
}

module.exports = { ...lib, check_cloudevent, Feed, from_headers, judge, LIMIT, Server, stored, writer };
