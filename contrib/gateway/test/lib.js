// What the tests of the gateway share: TAP, a PostgreSQL of their own, the
// gateway, and both clients under the same names.
'use strict';
const assert = require('node:assert');
const { execFileSync, spawn } = require('node:child_process');
const fs = require('node:fs');
const net = require('node:net');
const os = require('node:os');
const path = require('node:path');

const pgConfig = process.env.PG_CONFIG || 'pg_config';
const bin = execFileSync(pgConfig, ['--bindir']).toString().trim();
const program = process.env.GATEWAY ||
  path.join(__dirname, '..', 'build', 'event_store_gateway');
const folder = fs.mkdtempSync(path.join(os.tmpdir(), 'gw-'));
const running = new Set();

const delay = (ms) => new Promise((resolve) => setTimeout(resolve, ms));

// Wait until something is so; the limit is for a test that would never end.
async function until(what, condition, limit = 180000) {
  const end = Date.now() + limit;
  for (;;) {
    const value = await condition();
    if (value) return value;
    if (Date.now() > end) throw new Error(`${what}: not within ${limit} ms`);
    await delay(20);
  }
}

function within(promise, limit, what) {
  let timer;
  return Promise.race([
    promise,
    new Promise((_, reject) => {
      timer = setTimeout(() => reject(new Error(`${what}: not within ${limit} ms`)), limit);
    }),
  ]).finally(() => clearTimeout(timer));
}

// --- TAP ---------------------------------------------------------------------

const tests = [];
const test = (name, body, limit = 240000) => tests.push({ name, body, limit });

async function run(setup, teardown) {
  let number = 0;
  const only = process.env.ONLY;
  process.on('unhandledRejection', (error) => console.log(`# unhandled: ${error && error.stack}`));
  try {
    await setup();
    for (const { name, body, limit } of tests) {
      if (only && !name.includes(only)) continue;
      number++;
      const started = Date.now();
      try {
        await within(Promise.resolve().then(body), limit, name);
        console.log(`ok ${number} - ${name} # ${Date.now() - started} ms`.replace('#', '--'));
      } catch (error) {
        console.log(`not ok ${number} - ${name}`);
        console.log(`# ${String((error && error.stack) || error)}`.replace(/\n/g, '\n# '));
        for (const name of ['gateway.log', 'pg.log']) {
          const file = path.join(folder, name);
          if (!fs.existsSync(file)) continue;
          const lines = fs.readFileSync(file).toString().trimEnd().split('\n').slice(-15);
          console.log(`# ${name}:\n${lines.map((line) => `#   ${line}`).join('\n')}`);
        }
      }
    }
    console.log(`1..${number}`);
  } catch (error) {
    console.log(`Bail out! ${error && error.stack}`);
  }
  try {
    if (teardown) await teardown();
  } finally {
    await cleanup();
  }
  process.exit(0);
}

async function cleanup() {
  for (const thing of [...running]) await thing.stop('immediate').catch(() => {});
  fs.rmSync(folder, { recursive: true, force: true });
}

// --- PostgreSQL --------------------------------------------------------------

class Postgres {
  constructor(name = 'pg', settings = '') {
    this.name = name;
    this.settings = settings;
    this.dir = path.join(folder, name);
    this.env = { ...process.env, PGHOST: folder, PGPORT: '5432', PGUSER: 'postgres', PGDATABASE: 'postgres' };
  }

  async start() {
    if (!fs.existsSync(this.dir)) {
      execFileSync(path.join(bin, 'initdb'),
        ['-D', this.dir, '-U', 'postgres', '-A', 'trust', '-E', 'UTF8', '--locale=C', '--no-sync']);
      this.port = await freePort();
      fs.appendFileSync(path.join(this.dir, 'postgresql.conf'), `
listen_addresses = '127.0.0.1'
port = 5432
unix_socket_directories = '${folder}'
max_connections = 60
fsync = off
${this.settings}
`.replace('port = 5432', `port = ${this.port}`));
      this.env.PGPORT = String(this.port);
      fs.writeFileSync(path.join(this.dir, 'pg_hba.conf'), `
local all postgres trust
host all careless 127.0.0.1/32 trust
host all all 127.0.0.1/32 scram-sha-256
`);
      running.add(this);
    }
    await this.control('-l', path.join(folder, `${this.name}.log`), 'start');
    return this;
  }

  async stop(mode = 'fast') {
    running.delete(this);
    await this.control('-m', mode, 'stop');
    running.add(this);
  }

  // clients go on meanwhile: one that is held up answers no keep-alive
  control(...args) {
    const child = spawn(path.join(bin, 'pg_ctl'), ['-D', this.dir, '-s', '-w', ...args], { stdio: 'ignore' });
    return new Promise((resolve, reject) => {
      child.on('error', reject);
      child.on('exit', (code) => (code === 0 ? resolve() : reject(new Error(`pg_ctl ${args.join(' ')}: ${code}`))));
    });
  }

  psql(sql) {
    return execFileSync(path.join(bin, 'psql'), ['-XqAt', '-v', 'ON_ERROR_STOP=1', '-c', sql],
      { env: this.env, stdio: ['ignore', 'pipe', 'pipe'], maxBuffer: 1 << 30 }).toString().trim();
  }

  // a session that stays open
  session() {
    const child = spawn(path.join(bin, 'psql'), ['-XqAt'], { env: this.env, stdio: ['pipe', 'pipe', 'inherit'] });
    let output = '';
    let number = 0;
    child.stdout.on('data', (data) => { output += data; });
    return {
      async query(sql) {
        const mark = `done-${++number}`;
        child.stdin.write(`${sql}\n\\echo ${mark}\n`);
        await until(sql, () => output.includes(mark));
      },
      end() { child.stdin.end(); },
    };
  }
}

// Below the ports that the system gives to whoever connects, so that nobody
// has it before the server that it is meant for.
async function freePort() {
  for (;;) {
    const port = 12000 + Math.floor(Math.random() * 18000);
    const free = await new Promise((resolve) => {
      const server = net.createServer();
      server.once('error', () => resolve(false));
      server.listen(port, '127.0.0.1', () => server.close(() => resolve(true)));
    });
    if (free) return port;
  }
}

// --- the gateway -------------------------------------------------------------

class Gateway {
  constructor(pg, args = [], env = {}) {
    this.pg = pg;
    this.args = args;
    this.env = env;
  }

  async start() {
    this.port = this.port || await freePort();
    const log = fs.openSync(path.join(folder, 'gateway.log'), 'a');
    const mark = fs.fstatSync(log).size;
    this.child = spawn(program, ['-l', `127.0.0.1:${this.port}`, '--connections=8', ...this.args],
      { env: { ...this.pg.env, ...this.env }, stdio: ['ignore', log, log] });
    this.ended = new Promise((resolve) => this.child.on('exit', (code, signal) => resolve({ code, signal })));
    running.add(this);
    fs.closeSync(log);
    await until('gateway starts', () => Gateway.log().slice(mark).includes('"ready"'));
    return this;
  }

  static log() {
    return fs.readFileSync(path.join(folder, 'gateway.log')).toString();
  }

  async stop() {
    running.delete(this);
    this.child.kill('SIGTERM');
    return within(this.ended, 120000, 'gateway stops');
  }

  async kill() {
    running.delete(this);
    this.child.kill('SIGKILL');
    return this.ended;
  }

  alive() {
    return this.child.exitCode === null && this.child.signalCode === null;
  }

  // resident memory in kB
  memory() {
    return Number(/VmRSS:\s+(\d+)/.exec(fs.readFileSync(`/proc/${this.child.pid}/status`))[1]);
  }

  uri(scheme = 'esdb', options = '') {
    return `${scheme}://127.0.0.1:${this.port}?tls=false${options}`;
  }
}

// --- clients -----------------------------------------------------------------

// Both in one process do not work: each replaces the other's protocol buffers.
const packages = {
  eventstore: { name: '@eventstore/db-client', expected: 'expectedRevision', scheme: 'esdb' },
  kurrentdb: { name: '@kurrent/kurrentdb-client', expected: 'streamState', scheme: 'kurrentdb' },
};

function flavour(name) {
  const f = packages[name];
  const K = require(f.name);
  return {
    ...f,
    K,
    connect: (uri) => (K.KurrentDBClient || K.EventStoreDBClient).connectionString(uri.replace(/^esdb/, f.scheme)),
    // an append that expects something
    expecting: (what, rest = {}) => ({ [f.expected]: what, ...rest }),
    actual: (error) => error.actualVersion ?? error.actualState,
    wanted: (error) => error.expectedVersion ?? error.expectedState,
    has: (call) => Boolean(K.KurrentDBClient && K.KurrentDBClient.prototype[call]),
  };
}

async function collect(iterable) {
  const all = [];
  for await (const one of iterable) all.push(one);
  return all;
}

// the error of something that must fail
async function failure(promise) {
  try {
    await promise;
  } catch (error) {
    return error;
  }
  throw new Error('it was expected to fail');
}

// the events of a subscription as they come, and a way to wait for them
function gather(subscription) {
  const got = { events: [], error: null, caughtUp: 0, fellBehind: 0, confirmed: false };
  subscription.on('data', (e) => { got.events.push(e); });
  subscription.on('error', (e) => { got.error = e; });
  subscription.on('caughtUp', () => { got.caughtUp++; });
  subscription.on('fellBehind', () => { got.fellBehind++; });
  subscription.on('confirmation', () => { got.confirmed = true; });
  got.count = (n, limit) => until(`${n} events of a subscription`, () => {
    if (got.error) throw got.error;
    return got.events.length >= n;
  }, limit);
  return got;
}

let names = 0;
const fresh = (category) => `${category}-${process.pid}x${++names}`;

module.exports = {
  assert, collect, delay, failure, flavour, folder, fresh, freePort, gather, Gateway, Postgres, run, test, until, within,
};
