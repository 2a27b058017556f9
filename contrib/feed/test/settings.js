#!/usr/bin/env node
// Flags, environment and mistakes.
'use strict';
const { assert, run, test } = require('./lib');
const { spawnSync } = require('node:child_process');
const path = require('node:path');
const program = process.env.FEED || path.join(__dirname, '..', 'build', 'event_store_feed');

function feed(args, env = {}) {
  const { status, stdout, stderr } = spawnSync(program, args, { env: { ...process.env, ...env } });
  return { status, out: stdout.toString(), err: stderr.toString() };
}

test('--help and --version', () => {
  for (const flag of ['--help', '-?']) {
    const { status, out, err } = feed([flag]);
    assert.equal(status, 0);
    assert.equal(err, '');
    assert.match(out, /--subscription=NAME/);
    for (const line of out.split('\n')) assert.ok(line.length <= 120, line);
  }
  assert.equal(feed(['--version']).out, 'event_store_feed (event_store) 0.2\n');
});

test('mistakes are told, in flags and in the environment', () => {
  for (const [args, env, message] of [
    [['--nothing'], {}, /unrecognized option/],
    [['more'], {}, /too many arguments \(first is "more"\)/],
    [['--sink=pigeon'], {}, /invalid value for --sink: "pigeon"/],
    [[], { EVENT_STORE_FEED_SINK: 'pigeon' }, /invalid value for --sink: "pigeon"/],
    [['--batch=0'], {}, /invalid value for --batch: "0"/],
    [['--batch=1e3'], {}, /invalid value for --batch: "1e3"/],
    [['--mode=binary'], {}, /invalid value for --mode: "binary"/],
    [['--mode=other'], {}, /invalid value for --mode: "other"/],
    [['--log-level=all'], {}, /invalid value for --log-level: "all"/],
    [['--target=a{stream}'], {}, /invalid value for --target/],
    [['--metrics=9187'], {}, /invalid value for --metrics/],
    [['--option=x'], {}, /invalid value for --option: "x"/],
    [['--option=x=1'], {}, /sink "lines" has no option "x"/],
    [['--sink=nats', '--option=stream=a;x=1'], {}, /sink "nats" has no option "x"/],
  ]) {
    const { status, err } = feed(args, env);
    assert.equal(status, 1, args.join(' '));
    assert.match(err, message);
  }
});

run(() => {});
