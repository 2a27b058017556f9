"""What psycopg (3) and psycopg2 make of the store's types; doc/clients.md says it in prose.  Prints TAP."""
import datetime
import json
import uuid

import psycopg
import psycopg2
from psycopg.types.json import Jsonb

tests = 0


def check(got, wanted, name):
    global tests
    tests += 1
    print(f"{'' if got == wanted else 'not '}ok {tests} - python: {name}")
    if got != wanted:
        print(f'# got {got!r}, wanted {wanted!r}')


def error(connection, sql, *params):
    try:
        connection.cursor().execute(sql, params)
        return 'no error'
    except (psycopg.Error, psycopg2.Error) as e:
        # one that psycopg itself raises has no SQLSTATE
        return e.sqlstate if isinstance(e, psycopg.Error) else e.pgcode


three = psycopg.connect(autocommit=True)
row = three.execute('SELECT * FROM es_append(%s, %s, %s, %s)', ('Py-1', 0, 'Happened', Jsonb({'a': 1}))).fetchone()
check((row[1], type(row[0]), row[3]), (1, uuid.UUID, False), 'psycopg: bigint is int, uuid is UUID, boolean is bool')
event = three.execute('SELECT data, created_at FROM es_read_stream(%s)', ('Py-1',)).fetchone()
check(event[0], {'a': 1}, 'psycopg: jsonb arrives parsed')
check(type(event[1]), datetime.datetime, 'psycopg: created_at is a datetime, with microseconds')
check(error(three, 'SELECT * FROM es_append(%s, %s, %s, %s)', 'Py-1', 1, 'Happened', {'a': 1}), None,
      'psycopg: a dict alone cannot be adapted')
check(error(three, 'SELECT * FROM es_append(%s, %s, %s, %s::jsonb)', 'Py-1', 1, 'Happened', json.dumps({'a': 1})),
      'no error', 'psycopg: json.dumps with a cast')
check(error(three, 'SELECT * FROM es_append(%s, %s, %s, %s)', 'Py-1', 2, 'Happened', psycopg.types.json.Json({})),
      '42883', 'psycopg: Json is json, and es_append wants jsonb')
rows = three.execute('SELECT version FROM es_append_batch(%s, %s, %s, %s)',
                     ('Py-1', 2, ['A', 'B'], [Jsonb({'a': 1}), Jsonb([2])])).fetchall()
check(rows, [(3,), (4,)], 'psycopg: lists go to es_append_batch')
check(error(three, 'SELECT * FROM es_append(%s, %s, %s, %s)', 'Py-1', 4, 'Happened', None), '22004',
      'psycopg: None is SQL NULL')
check(error(three, 'SELECT * FROM es_append(%s, %s, %s, %s)', 'Py-1', 4, 'Happened', Jsonb(None)), 'no error',
      'psycopg: Jsonb(None) is JSON null')
load = three.execute('SELECT events FROM es_load(%s)', ('Py-1',)).fetchone()
check(type(load[0]), str, 'psycopg: the array of es_load is an unparsed string')
load = three.execute('SELECT to_jsonb(events) FROM es_load(%s)', ('Py-1',)).fetchone()
check([e['version'] for e in load[0]], [1, 2, 3, 4, 5], 'psycopg: ... to_jsonb(events) is a list of dicts')
try:
    three.execute('SELECT * FROM es_append(%s, %s, %s, %s)', ('Py-1', 0, 'Late', Jsonb({})))
except psycopg.Error as e:
    check((e.sqlstate, 'actual=5' in e.diag.message_detail), ('VE001', True), 'psycopg: sqlstate and diag.message_detail')

two = psycopg2.connect('')
two.autocommit = True
cursor = two.cursor()
check(error(two, 'SELECT * FROM es_append(%s, %s, %s, %s)', 'Py-2', 0, 'Happened', json.dumps({'a': 1})), 'no error',
      'psycopg2: json.dumps needs no cast, parameters are literals')
check(error(two, 'SELECT * FROM es_append_batch(%s, %s, %s, %s)', 'Py-2', 1, ['A'], ['{}']), '42883',
      'psycopg2: a list of strings is text[]')
check(error(two, 'SELECT * FROM es_append_batch(%s, %s, %s, %s::jsonb[])', 'Py-2', 1, ['A'], ['{}']), 'no error',
      'psycopg2: ... with a cast it is jsonb[]')
cursor.execute('SELECT version, event_id, data FROM es_read_stream(%s) LIMIT 1', ('Py-2',))
row = cursor.fetchone()
check((row[0], type(row[1]), row[2]), (1, str, {'a': 1}), 'psycopg2: uuid arrives as a string')
check(error(two, 'SELECT * FROM es_append(%s, %s, %s, %s)', 'Py-2', 0, 'Late', '{}'), 'VE001', 'psycopg2: pgcode')
print(f'1..{tests}')
