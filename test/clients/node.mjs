// What node-postgres makes of the store's types; doc/clients.md says it in
// prose.  Prints TAP.  Needs examples/node/node_modules and PG*.
import { createRequire } from 'node:module';
const pg = createRequire(new URL('../../examples/node/', import.meta.url))('pg');

const client = new pg.Client();
let tests = 0;

function is(got, wanted, name) {
  const same = JSON.stringify(got) === JSON.stringify(wanted);
  console.log(`${same ? '' : 'not '}ok ${++tests} - node: ${name}`);
  if (!same) console.log(`# got ${JSON.stringify(got)}, wanted ${JSON.stringify(wanted)}`);
}

async function rows(sql, ...params) {
  return (await client.query(sql, params)).rows;
}

async function error(sql, ...params) {
  try {
    await client.query(sql, params);
    return 'no error';
  } catch (e) {
    return e.code;
  }
}

await client.connect();
const [first] = await rows('SELECT * FROM es_append($1, $2, $3, $4)', 'Node-1', 0, 'Happened', { a: 1 });
is(first.version, '1', 'bigint arrives as a string');
is(typeof first.global_position, 'string', '... global_position too');
is(first.is_duplicate, false, 'boolean arrives as one');
const [event] = await rows('SELECT * FROM es_read_stream($1)', 'Node-1');
is(event.data, { a: 1 }, 'jsonb arrives parsed');
is(event.created_at instanceof Date, true, 'created_at arrives as a Date, with milliseconds only');
const [{ envelope }] = await rows('SELECT es_envelope(e) AS envelope FROM es_read_stream($1) AS e', 'Node-1');
is(envelope.version, 1, 'es_envelope has numbers');
is(await error('SELECT * FROM es_append($1, $2, $3, $4)', 'Node-1', 1, 'Happened', [1, 2]), '22P02',
  'an array as data is taken for an SQL array');
await rows('SELECT * FROM es_append($1, $2, $3, $4)', 'Node-1', 1, 'Happened', JSON.stringify([1, 2]));
is((await rows('SELECT data FROM es_read_stream($1, 2)', 'Node-1'))[0].data, [1, 2], '... with JSON.stringify it is data');
is(await error('SELECT * FROM es_append($1, $2, $3, $4)', 'Node-1', 2, 'Happened', 'text'), '22P02',
  'a string as data must be JSON');
is(await error('SELECT * FROM es_append($1, $2, $3, $4)', 'Node-1', 2, 'Happened', null), '22004',
  'null is SQL NULL');
await rows('SELECT * FROM es_append($1, $2, $3, $4)', 'Node-1', 2, 'Happened', 'null');
is((await rows('SELECT data FROM es_read_stream($1, 3)', 'Node-1'))[0].data, null, '... \'null\' is JSON null');
const batch = await rows('SELECT version FROM es_append_batch($1, $2, $3, $4)', 'Node-1', 3, ['A', 'B'],
  [{ a: 1 }, { b: 2 }]);
is(batch.map(row => row.version), ['4', '5'], 'arrays of objects go to es_append_batch');
const json = await rows('SELECT version FROM es_append($1, $2, $3::jsonb)', 'Node-1', 5,
  JSON.stringify([{ event_type: 'C', data: {} }]));
is(json[0].version, '6', 'the JSON form takes JSON.stringify of an array');
const [load] = await rows('SELECT events FROM es_load($1)', 'Node-1');
is(typeof load.events, 'string', 'es_load: an array of a composite type is an unparsed string');
const [loaded] = await rows(
  'SELECT version, ARRAY(SELECT es_envelope(e) FROM unnest(l.events) AS e) AS events FROM es_load($1) AS l', 'Node-1');
is(loaded.events.map(e => e.event_type), ['Happened', 'Happened', 'Happened', 'A', 'B', 'C'],
  '... as envelopes it is an array of objects');
try {
  await rows('SELECT * FROM es_append($1, $2, $3, $4)', 'Node-1', 0, 'Late', {});
} catch (e) {
  is([e.code, /actual=6/.test(e.detail), e.hint !== undefined], ['VE001', true, true], 'errors have code, detail and hint');
}
is(await error('SELECT * FROM es_append($1, $2, $3, $4::text)', 'Node-2', 0, 'Happened', '{}'), '42883',
  'a parameter that is declared as text finds no function');
is((await rows('SELECT version FROM es_append($1, $2, $3, $4::text::jsonb)', 'Node-2', 0, 'Happened', '{}'))[0].version, '1',
  '... and with a cast it does');
await rows(`CREATE FUNCTION node_count(state jsonb, event es_event) RETURNS jsonb LANGUAGE sql IMMUTABLE
  AS $$ SELECT to_jsonb(state::int + 1) $$`);
await rows(`SELECT es_define_aggregate('NodeTime', 'node_count(jsonb, es_event)', '0')`);
await rows(`SELECT es_import($$ SELECT 'NodeTime-1' AS stream_id, 'A' AS event_type, '{}'::jsonb AS data,
  '2024-05-01 10:00:00.123456+00'::timestamptz AS created_at $$)`);
const [timed] = await rows(`SELECT created_at, created_at::text AS exact FROM es_read_stream('NodeTime-1')`);
const state = at => rows(`SELECT state FROM es_state('NodeTime-1', at_time => $1)`, at);
is((await state(timed.created_at))[0]?.state ?? 0, 0, 'at_time: a Date is too early for its own event');
is((await state(timed.exact))[0].state, 1, '... as text it is not');
const named = await client.query({ name: 'read', text: 'SELECT version FROM es_read_stream($1)', values: ['Node-1'] });
is(named.rows.length, 6, 'a named prepared statement');
console.log(`1..${tests}`);
await client.end();
