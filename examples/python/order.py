#!/usr/bin/env python3
"""An order service on event_store, with psycopg.

    psql -f examples/orders.sql                 once
    python3 examples/python/order.py [conninfo]

Everything goes through SQL functions, so there is no client library to install.  Each statement is a transaction of
its own (autocommit); that is all that the store needs, also behind PgBouncer in transaction mode.
"""
import json
import random
import sys
import time
import uuid

import psycopg

conninfo = sys.argv[1] if len(sys.argv) > 1 else ''
connection = None


def query(sql, *params):
    """One statement.  If the connection is lost, nobody knows whether it was carried out: send the same again, which
    is safe, for the events have their ids already, and an append that was carried out answers the second time what it
    answered the first."""
    global connection
    for attempt in range(10):
        try:
            if connection is None or connection.closed:
                # prepare_threshold=None: a pooler may give each statement another session
                connection = psycopg.connect(conninfo, autocommit=True, prepare_threshold=None)
            return connection.execute(sql, params).fetchall()
        except psycopg.OperationalError as error:
            if error.sqlstate is not None and error.sqlstate[:2] not in ('08', '57'):
                raise
            connection = None
            time.sleep(random.uniform(0, 0.05 * 2 ** attempt))
    raise RuntimeError('the database cannot be reached')


def append(stream, version, events):
    """Append events to a stream that the caller has seen at that version; 0 means that it must not exist yet."""
    rows = query('SELECT version, global_position, is_duplicate FROM es_append(%s, %s, %s::jsonb)',
                 stream, version, json.dumps(events))
    return rows[-1]


def handle(stream, decide):
    """A command: load the state, decide, append.  VE001 says that somebody else was faster: then the decision was made
    on old state, so make it again.  A pause of random length keeps many writers of one stream from meeting again."""
    for attempt in range(40):
        (version, state), = query('SELECT version, state FROM es_state(%s)', stream)
        events = [{'event_id': str(uuid.uuid4()), **event} for event in decide(state, version)]
        if not events:
            return None                     # nothing to do; an empty append would be an error
        try:
            return append(stream, version, events)
        except psycopg.DatabaseError as error:
            if error.sqlstate != 'VE001':
                raise
            time.sleep(random.uniform(0, 0.01 * (attempt + 1)))
    raise RuntimeError(f'{stream} is too busy')


def place(order, total):
    return handle(order, lambda state, version: [] if version else [
        {'event_type': 'OrderPlaced', 'schema_version': 2, 'data': {'total': total, 'currency': 'EUR'}}])


def add_item(order, price):
    def decide(state, version):
        if state.get('status') != 'placed':
            raise ValueError(f'{order} cannot be changed any more')
        return [{'event_type': 'ItemAdded', 'data': {'price': price}, 'metadata': {'user_id': 'u7'}}]
    return handle(order, decide)


def summary(order, position):
    """Read your writes: wait until the projection has what was appended, then ask the read model."""
    (there,), = query("SELECT es_wait_projection('order_summary', %s, '10 s')", position)
    assert there, 'the projection is behind'
    return query('SELECT status, items FROM shop.order_summary WHERE order_id = %s', order)[0]


def ship(member):
    """One member of a consumer group: fetch, handle, acknowledge.  What a member that dies had in hand is delivered
    again when its lease ends, so ship() asks the order itself whether it is done."""
    rows = query("SELECT stream_id, global_position FROM es_fetch('shipping', 100, '1 s', member => %s)", member)
    failed = set()
    for order, position in rows:
        if order in failed:
            continue                        # comes again, behind the event that failed
        try:
            handle(order, lambda state, version: [] if state['status'] == 'shipped' else [
                {'event_type': 'OrderShipped', 'data': {}}])
        except RuntimeError as error:
            failed.add(order)
            query("SELECT es_nack('shipping', %s, %s, member => %s)", position, str(error), member)
    if rows:
        query("SELECT es_ack('shipping', %s, member => %s)", rows[-1][1], member)
    return len(rows)


def main():
    order = f'Order-{uuid.uuid4()}'

    place(order, 10)
    version, position, _ = add_item(order, 2.5)
    print('two events, version', version)
    print('read model:', *summary(order, position))

    # the answer got lost, and the same append is sent once more
    events = [{'event_id': str(uuid.uuid4()), 'event_type': 'ItemAdded', 'data': {'price': 1}}]
    first = append(order, version, events)
    again = append(order, version, events)
    print('sent twice:', 'once in the store' if again == (first[0], first[1], True) else 'twice!')

    # somebody who has not seen it
    try:
        append(order, version, [{'event_type': 'OrderCancelled', 'data': {}}])
    except psycopg.DatabaseError as error:
        print('too late:', error.sqlstate)

    while ship('python-1'):
        pass
    query("SELECT es_leave('shipping', 'python-1')")
    (version, state), = query('SELECT version, state FROM es_state(%s)', order)
    print('shipped:', version, json.dumps(state, sort_keys=True))

    # an event in the shape of long ago
    old = f'Order-{uuid.uuid4()}'
    append(old, 0, [{'event_type': 'OrderPlaced', 'schema_version': 1, 'data': {'cents': 1250}}])
    (data,), = query('SELECT data FROM es_read_stream(%s)', old)
    print('an old event:', json.dumps(data, sort_keys=True))


main()
