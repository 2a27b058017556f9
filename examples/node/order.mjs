#!/usr/bin/env node
// An order service on event_store, with node-postgres.
//
//     psql -f examples/orders.sql                 once
//     npm install --prefix examples/node
//     node examples/node/order.mjs                where to connect to: PGHOST, PGPORT, PGUSER, PGDATABASE
//
// Everything goes through SQL functions, so there is no client library to install.  Each statement is a transaction of
// its own; that is all that the store needs, also behind PgBouncer in transaction mode.
import { randomUUID } from 'node:crypto';
import { setTimeout as sleep } from 'node:timers/promises';
import pg from 'pg';

const pool = new pg.Pool({ max: 4 });
pool.on('error', () => {});             // an idle connection that is cut is replaced at its next use

const isLost = error => /^(08|57P)/.test(error.code ?? '') || error.code?.startsWith('E') ||
  /Connection terminated/.test(error.message);

// One statement.  If the connection is lost, nobody knows whether it was carried out: send the same again, which is
// safe, for the events have their ids already, and an append that was carried out answers the second time what it
// answered the first.
async function query(sql, ...params) {
  for (let attempt = 0; ; attempt++) {
    try {
      return (await pool.query(sql, params)).rows;
    } catch (error) {
      if (!isLost(error) || attempt === 9) throw error;
      await sleep(Math.random() * 50 * 2 ** attempt);
    }
  }
}

// Append events to a stream that the caller has seen at that version; 0 means that it must not exist yet.  bigint
// arrives as a string, for JavaScript's numbers end at 2^53: compare and pass it on as it is.
async function append(stream, version, events) {
  const rows = await query('SELECT version, global_position, is_duplicate FROM es_append($1, $2, $3::jsonb)',
    stream, version, JSON.stringify(events));
  return rows.at(-1);
}

// A command: load the state, decide, append.  VE001 says that somebody else was faster: then the decision was made on
// old state, so make it again.  A pause of random length keeps many writers of one stream from meeting again.
async function handle(stream, decide) {
  for (let attempt = 0; attempt < 40; attempt++) {
    const [{ version, state }] = await query('SELECT version, state FROM es_state($1)', stream);
    const events = decide(state, Number(version)).map(event => ({ event_id: randomUUID(), ...event }));
    if (events.length === 0) return null;               // nothing to do; an empty append would be an error
    try {
      return await append(stream, version, events);
    } catch (error) {
      if (error.code !== 'VE001') throw error;
      await sleep(Math.random() * 10 * (attempt + 1));
    }
  }
  throw new Error(`${stream} is too busy`);
}

const place = (order, total) => handle(order, (state, version) => version > 0 ? [] : [
  { event_type: 'OrderPlaced', schema_version: 2, data: { total, currency: 'EUR' } }]);

const addItem = (order, price) => handle(order, state => {
  if (state.status !== 'placed') throw new Error(`${order} cannot be changed any more`);
  return [{ event_type: 'ItemAdded', data: { price }, metadata: { user_id: 'u7' } }];
});

// Read your writes: wait until the projection has what was appended, then ask the read model.
async function summary(order, position) {
  const [{ there }] = await query("SELECT es_wait_projection('order_summary', $1, '10 s') AS there", position);
  if (!there) throw new Error('the projection is behind');
  const [row] = await query('SELECT status, items FROM shop.order_summary WHERE order_id = $1', order);
  return row;
}

// One member of a consumer group: fetch, handle, acknowledge.  What a member that dies had in hand is delivered again
// when its lease ends, so ship() asks the order itself whether it is done.
async function ship(member) {
  const rows = await query("SELECT stream_id, global_position FROM es_fetch('shipping', 100, '1 s', member => $1)", member);
  const failed = new Set();
  for (const { stream_id: order, global_position: position } of rows) {
    if (failed.has(order)) continue;                    // comes again, behind the event that failed
    try {
      await handle(order, state => state.status === 'shipped' ? [] : [{ event_type: 'OrderShipped', data: {} }]);
    } catch (error) {
      failed.add(order);
      await query("SELECT es_nack('shipping', $1, $2, member => $3)", position, error.message, member);
    }
  }
  if (rows.length > 0) await query("SELECT es_ack('shipping', $1, member => $2)", rows.at(-1).global_position, member);
  return rows.length;
}

const sorted = object => JSON.stringify(object, Object.keys(object).sort());
const order = `Order-${randomUUID()}`;

await place(order, 10);
const added = await addItem(order, 2.5);
console.log('two events, version', added.version);
const { status, items } = await summary(order, added.global_position);
console.log('read model:', status, items);

// the answer got lost, and the same append is sent once more
const events = [{ event_id: randomUUID(), event_type: 'ItemAdded', data: { price: 1 } }];
const first = await append(order, added.version, events);
const again = await append(order, added.version, events);
console.log('sent twice:', again.is_duplicate && again.global_position === first.global_position ?
  'once in the store' : 'twice!');

// somebody who has not seen it
await append(order, added.version, [{ event_type: 'OrderCancelled', data: {} }])
  .catch(error => console.log('too late:', error.code));

while (await ship('node-1') > 0);
await query("SELECT es_leave('shipping', 'node-1')");
const [{ version, state }] = await query('SELECT version, state FROM es_state($1)', order);
console.log('shipped:', version, sorted(state));

// an event in the shape of long ago
const old = `Order-${randomUUID()}`;
await append(old, 0, [{ event_type: 'OrderPlaced', schema_version: 1, data: { cents: 1250 } }]);
const [{ data }] = await query('SELECT data FROM es_read_stream($1)', old);
console.log('an old event:', sorted(data));

await pool.end();
