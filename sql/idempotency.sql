-- The table of answers to a retry: every kind of ids, expected version and
-- form of append.  Each answer is found in a subtransaction that is rolled
-- back, so that all start from the same store:
--   stream Idem-1, versions 1 to 4, ids a1 to a4, of which a4 is of schema version 2
--   stream Idem-2, version 1, id b1
--   stream Idem-none does not exist
\set SHOW_CONTEXT never
\pset null (null)

CREATE FUNCTION pg_temp.id(name text) RETURNS uuid LANGUAGE sql
    AS $$ SELECT ('00000000-0000-4000-8000-00001de0' || lpad(name, 4, '0'))::uuid $$;

SELECT a.version, a.is_duplicate
  FROM es_append('Idem-1', 0, 'Placed', '{"total": 10, "items": [1, 2]}', '{"user_id": "u1"}', pg_temp.id('a1')) AS a;
SELECT a.version, a.is_duplicate
  FROM es_append_batch('Idem-1', 1, '{Paid,Packed}', ARRAY['{"n": 2}', '"three"']::jsonb[], NULL, ARRAY[pg_temp.id('a2'), pg_temp.id('a3')]) AS a;
SELECT a.version, a.is_duplicate
  FROM es_append('Idem-1', 3, jsonb_build_object('event_type', 'Shipped', 'data', null, 'event_id', pg_temp.id('a4'), 'schema_version', 2)) AS a;
SELECT a.version, a.is_duplicate FROM es_append('Idem-2', 0, 'Placed', '{}', event_id => pg_temp.id('b1')) AS a;

-- what is appended: one row for each event, in order
CREATE TEMP TABLE attempt (name text, n int, event_id uuid, event_type text, data jsonb, metadata jsonb, schema_version int,
                           PRIMARY KEY (name, n));
INSERT INTO attempt VALUES
    ('new id',                       1, pg_temp.id('c1'), 'Placed', '{}', '{}', 1),
    ('no id',                        1, NULL, 'Placed', '{}', '{}', 1),
    ('two new ids',                  1, pg_temp.id('c1'), 'Placed', '{}', '{}', 1),
    ('two new ids',                  2, pg_temp.id('c2'), 'Placed', '{}', '{}', 1),
    ('a new id and no id',           1, pg_temp.id('c1'), 'Placed', '{}', '{}', 1),
    ('a new id and no id',           2, NULL, 'Placed', '{}', '{}', 1),
    ('retry of 1',                   1, pg_temp.id('a1'), 'Placed', '{"items": [1, 2], "total": 10.0}', '{"user_id": "u1"}', 1),
    ('retry of 1, other metadata',   1, pg_temp.id('a1'), 'Placed', '{"items": [1, 2], "total": 10}', '{"attempt": 2}', 1),
    ('retry of 2',                   1, pg_temp.id('a2'), 'Paid', '{"n": 2}', '{}', 1),
    ('retry of 4',                   1, pg_temp.id('a4'), 'Shipped', 'null', '{}', 2),
    ('retry of 1, 2',                1, pg_temp.id('a1'), 'Placed', '{"total": 10, "items": [1, 2]}', '{}', 1),
    ('retry of 1, 2',                2, pg_temp.id('a2'), 'Paid', '{"n": 2}', '{}', 1),
    ('retry of 2, 3',                1, pg_temp.id('a2'), 'Paid', '{"n": 2}', '{}', 1),
    ('retry of 2, 3',                2, pg_temp.id('a3'), 'Packed', '"three"', '{}', 1),
    ('retry of all',                 1, pg_temp.id('a1'), 'Placed', '{"total": 10, "items": [1, 2]}', '{}', 1),
    ('retry of all',                 2, pg_temp.id('a2'), 'Paid', '{"n": 2}', '{}', 1),
    ('retry of all',                 3, pg_temp.id('a3'), 'Packed', '"three"', '{}', 1),
    ('retry of all',                 4, pg_temp.id('a4'), 'Shipped', 'null', '{}', 2),
    ('other type',                   1, pg_temp.id('a1'), 'Replaced', '{"total": 10, "items": [1, 2]}', '{}', 1),
    ('other data',                   1, pg_temp.id('a1'), 'Placed', '{"total": 11, "items": [1, 2]}', '{}', 1),
    ('other order in data',          1, pg_temp.id('a1'), 'Placed', '{"total": 10, "items": [2, 1]}', '{}', 1),
    ('other schema version',         1, pg_temp.id('a4'), 'Shipped', 'null', '{}', 1),
    ('second of other data',         1, pg_temp.id('a1'), 'Placed', '{"total": 10, "items": [1, 2]}', '{}', 1),
    ('second of other data',         2, pg_temp.id('a2'), 'Paid', '{"n": 3}', '{}', 1),
    ('known, new',                   1, pg_temp.id('a4'), 'Shipped', 'null', '{}', 2),
    ('known, new',                   2, pg_temp.id('c1'), 'Placed', '{}', '{}', 1),
    ('new, known',                   1, pg_temp.id('c1'), 'Placed', '{}', '{}', 1),
    ('new, known',                   2, pg_temp.id('a1'), 'Placed', '{"total": 10, "items": [1, 2]}', '{}', 1),
    ('known, no id',                 1, pg_temp.id('a4'), 'Shipped', 'null', '{}', 2),
    ('known, no id',                 2, NULL, 'Placed', '{}', '{}', 1),
    ('no id, known',                 1, NULL, 'Placed', '{}', '{}', 1),
    ('no id, known',                 2, pg_temp.id('a1'), 'Placed', '{"total": 10, "items": [1, 2]}', '{}', 1),
    ('1, 3: not consecutive',        1, pg_temp.id('a1'), 'Placed', '{"total": 10, "items": [1, 2]}', '{}', 1),
    ('1, 3: not consecutive',        2, pg_temp.id('a3'), 'Packed', '"three"', '{}', 1),
    ('2, 1: not in this order',      1, pg_temp.id('a2'), 'Paid', '{"n": 2}', '{}', 1),
    ('2, 1: not in this order',      2, pg_temp.id('a1'), 'Placed', '{"total": 10, "items": [1, 2]}', '{}', 1),
    ('id of another stream',         1, pg_temp.id('b1'), 'Placed', '{}', '{}', 1),
    ('known, id of another stream',  1, pg_temp.id('a4'), 'Shipped', 'null', '{}', 2),
    ('known, id of another stream',  2, pg_temp.id('b1'), 'Placed', '{}', '{}', 1),
    ('new, id of another stream',    1, pg_temp.id('c1'), 'Placed', '{}', '{}', 1),
    ('new, id of another stream',    2, pg_temp.id('b1'), 'Placed', '{}', '{}', 1),
    ('new id twice',                 1, pg_temp.id('c1'), 'Placed', '{}', '{}', 1),
    ('new id twice',                 2, pg_temp.id('c1'), 'Placed', '{}', '{}', 1),
    ('known id twice',               1, pg_temp.id('a1'), 'Placed', '{"total": 10, "items": [1, 2]}', '{}', 1),
    ('known id twice',               2, pg_temp.id('a1'), 'Placed', '{"total": 10, "items": [1, 2]}', '{}', 1),
    ('new id twice, far apart',      1, pg_temp.id('c1'), 'Placed', '{}', '{}', 1),
    ('new id twice, far apart',      2, NULL, 'Placed', '{}', '{}', 1),
    ('new id twice, far apart',      3, pg_temp.id('c2'), 'Placed', '{}', '{}', 1),
    ('new id twice, far apart',      4, pg_temp.id('c1'), 'Placed', '{}', '{}', 1);

-- 'appended 5,6', 'duplicate 1,2' or the SQLSTATE
CREATE FUNCTION pg_temp.answer(form text, stream text, expected bigint, attempt_name text) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
    result text;
    positions bigint[];
    ids uuid[];
    a record;
    before bigint := (SELECT count(*) FROM event_store.event);
    written bigint;
BEGIN
    SELECT array_agg(event_type ORDER BY n) AS types, array_agg(attempt.data ORDER BY n) AS data,
           array_agg(attempt.metadata ORDER BY n) AS metadata, array_agg(event_id ORDER BY n) AS ids,
           array_agg(schema_version ORDER BY n) AS schema_versions,
           jsonb_agg(jsonb_strip_nulls(jsonb_build_object('event_type', event_type, 'event_id', event_id,
                                                          'schema_version', schema_version, 'metadata', attempt.metadata))
                     || jsonb_build_object('data', attempt.data) ORDER BY n) AS events
      INTO a FROM attempt WHERE name = attempt_name;
    BEGIN
        IF form = 'one' THEN
            SELECT CASE WHEN is_duplicate THEN 'duplicate ' ELSE 'appended ' END || version, ARRAY[global_position], ARRAY[event_id]
              INTO result, positions, ids
              FROM es_append(stream, expected, a.types[1], a.data[1], a.metadata[1], a.ids[1], a.schema_versions[1]);
        ELSIF form = 'batch' THEN
            SELECT CASE WHEN bool_and(is_duplicate) THEN 'duplicate ' WHEN bool_or(is_duplicate) THEN 'mixed ' ELSE 'appended ' END ||
                   string_agg(version::text, ','), array_agg(global_position), array_agg(event_id)
              INTO result, positions, ids
              FROM es_append_batch(stream, expected, a.types, a.data, a.metadata, a.ids, a.schema_versions);
        ELSE
            SELECT CASE WHEN bool_and(is_duplicate) THEN 'duplicate ' WHEN bool_or(is_duplicate) THEN 'mixed ' ELSE 'appended ' END ||
                   string_agg(version::text, ','), array_agg(global_position), array_agg(event_id)
              INTO result, positions, ids
              FROM es_append(stream, expected, a.events);
        END IF;
        written := (SELECT count(*) FROM event_store.event) - before;
        -- the answer must be what the store holds
        IF EXISTS (SELECT FROM unnest(positions, ids) AS got (position, id)
                    WHERE NOT EXISTS (SELECT FROM event_store.events AS e WHERE e.event_id = got.id AND e.global_position = got.position
                                         AND e.stream_id = stream)) THEN
            result := result || ' WRONG ROWS';
        END IF;
        IF written <> (CASE WHEN result LIKE 'appended%' THEN cardinality(a.types) ELSE 0 END) THEN
            result := result || ' WROTE ' || written;
        END IF;
        RAISE EXCEPTION USING ERRCODE = 'ZZ999';
    EXCEPTION
        WHEN SQLSTATE 'ZZ999' THEN RETURN result;
        WHEN OTHERS THEN RETURN sqlstate;
    END;
END
$$;

SELECT f.form, a.name AS ids, f.stream,
       pg_temp.answer(f.form, f.stream, 0, a.name) AS "0",
       pg_temp.answer(f.form, f.stream, 1, a.name) AS "1",
       pg_temp.answer(f.form, f.stream, 3, a.name) AS "3",
       pg_temp.answer(f.form, f.stream, 4, a.name) AS "4",
       pg_temp.answer(f.form, f.stream, es_any(), a.name) AS "any",
       pg_temp.answer(f.form, f.stream, es_exists(), a.name) AS "exists"
  FROM (VALUES ('one', 'Idem-1'), ('one', 'Idem-none')) AS f (form, stream),
       (SELECT name, max(n) AS n FROM attempt GROUP BY name HAVING max(n) = 1) AS a
 ORDER BY f.stream, a.name COLLATE "C";
SELECT f.form, a.name AS ids, f.stream,
       pg_temp.answer(f.form, f.stream, 0, a.name) AS "0",
       pg_temp.answer(f.form, f.stream, 1, a.name) AS "1",
       pg_temp.answer(f.form, f.stream, 3, a.name) AS "3",
       pg_temp.answer(f.form, f.stream, 4, a.name) AS "4",
       pg_temp.answer(f.form, f.stream, es_any(), a.name) AS "any",
       pg_temp.answer(f.form, f.stream, es_exists(), a.name) AS "exists"
  FROM (VALUES ('batch', 'Idem-1'), ('batch', 'Idem-none')) AS f (form, stream),
       (SELECT DISTINCT name FROM attempt) AS a
 ORDER BY f.stream, a.name COLLATE "C";
-- the JSON form answers as the arrays do, in each case
SELECT count(*) AS answers,
       count(*) FILTER (WHERE pg_temp.answer('batch', s.stream, v.expected::bigint, a.name) = pg_temp.answer('json', s.stream, v.expected, a.name)) AS same
  FROM (VALUES ('Idem-1'), ('Idem-2'), ('Idem-none')) AS s (stream),
       (VALUES (0), (1), (2), (3), (4), (5), (-1), (-2)) AS v (expected),
       (SELECT DISTINCT name FROM attempt) AS a;
-- and so does the form for one event
SELECT count(*) AS answers,
       count(*) FILTER (WHERE pg_temp.answer('batch', s.stream, v.expected::bigint, a.name) = pg_temp.answer('one', s.stream, v.expected, a.name)) AS same
  FROM (VALUES ('Idem-1'), ('Idem-2'), ('Idem-none')) AS s (stream),
       (VALUES (0), (1), (2), (3), (4), (5), (-1), (-2)) AS v (expected),
       (SELECT name FROM attempt GROUP BY name HAVING max(n) = 1) AS a;
-- an empty batch is refused for every kind of expected version
SELECT * FROM es_append_batch('Idem-1', es_any(), '{}', '{}');
SELECT * FROM es_append_batch('Idem-1', 4, '{}', '{}');
SELECT * FROM es_append_batch('Idem-1', 0, '{}', '{}', event_ids => '{}');
SELECT * FROM es_append('Idem-1', es_exists(), '[]');

-- nothing has been written by all that
SELECT version, event_id = pg_temp.id('a' || version) AS same_id, event_type, data, metadata FROM es_read_stream('Idem-1');
SELECT es_stream_version('Idem-2'), es_stream_version('Idem-none');

--
-- Details of the errors
--

SELECT * FROM es_append('Idem-1', es_any(), 'Other', '{}', event_id => pg_temp.id('a2'));
SELECT * FROM es_append('Idem-2', es_any(), 'Paid', '{"n": 2}', event_id => pg_temp.id('a2'));
-- the first id of a batch that is not right
SELECT * FROM es_append_batch('Idem-1', es_any(), '{Paid,Packed}', ARRAY['{"n": 2}', '"3"']::jsonb[], NULL, ARRAY[pg_temp.id('a2'), pg_temp.id('a3')]);
SELECT * FROM es_append_batch('Idem-1', 4, '{New,Paid}', ARRAY['{}', '{"n": 2}']::jsonb[], NULL, ARRAY[pg_temp.id('c1'), pg_temp.id('a2')]);

--
-- A retry after more has happened gets the first answer
--

SELECT version, is_duplicate FROM es_append('Idem-3', 0, 'A', '1', event_id => pg_temp.id('d1'));
SELECT version FROM es_append('Idem-3', 1, 'B', '2');
SELECT global_position AS first FROM es_read_event(pg_temp.id('d1')) \gset
SELECT event_id, version, global_position = :first AS same_position, is_duplicate FROM es_append('Idem-3', 0, 'A', '1', event_id => pg_temp.id('d1'));
SELECT event_id, version, global_position = :first AS same_position, is_duplicate FROM es_append('Idem-3', es_any(), 'A', '1', event_id => pg_temp.id('d1'));
-- within one transaction, and after a rollback
BEGIN;
SELECT version, is_duplicate FROM es_append('Idem-3', 2, 'C', '3', event_id => pg_temp.id('d3'));
SELECT version, is_duplicate FROM es_append('Idem-3', 2, 'C', '3', event_id => pg_temp.id('d3'));
SAVEPOINT s;
SELECT version, is_duplicate FROM es_append('Idem-3', 3, 'D', '4', event_id => pg_temp.id('d4'));
ROLLBACK TO s;
SELECT version, is_duplicate FROM es_append('Idem-3', 3, 'D', '4', event_id => pg_temp.id('d4'));
ROLLBACK;
SELECT version, is_duplicate FROM es_append('Idem-3', 2, 'C', '3', event_id => pg_temp.id('d3'));
SELECT version, is_duplicate FROM es_append('Idem-3', 2, 'C', '3', event_id => pg_temp.id('d3'));
-- a retry twice in one statement
SELECT (es_append('Idem-3', 3, 'D', '4', event_id => pg_temp.id('d4'))).is_duplicate FROM generate_series(1, 2);
-- large payloads, stored out of line, are compared too
SELECT jsonb_object_agg('key' || n, md5(n::text)) AS large FROM generate_series(1, 3000) AS n \gset
SELECT version, is_duplicate FROM es_append('Idem-3', 4, 'E', :'large', event_id => pg_temp.id('d5'));
SELECT version, is_duplicate FROM es_append('Idem-3', 4, 'E', :'large', event_id => pg_temp.id('d5'));
SELECT version, is_duplicate FROM es_append('Idem-3', 4, 'E', :'large'::jsonb || '{"key3000": ""}', event_id => pg_temp.id('d5'));
-- a retry of more events than go into one chunk
PREPARE many AS
SELECT count(*), bool_or(is_duplicate) AS any, bool_and(is_duplicate) AS all
  FROM es_append_batch('Idem-4', 0, array_fill('A'::text, '{300}'), (SELECT array_agg(to_jsonb(n)) FROM generate_series(1, 300) AS n), NULL,
                       (SELECT array_agg(('00000000-0000-4000-8000-001de0' || lpad(n::text, 6, '0'))::uuid) FROM generate_series(1, 300) AS n));
EXECUTE many;
EXECUTE many;
DEALLOCATE many;
SELECT max(version), count(*) FROM es_read_stream('Idem-4');

--
-- Ids that the store has made end with their positions, and are not in the index of ids
--

SELECT event_id AS made, global_position AS at FROM es_append('Made-1', 0, 'A', '1') \gset
SELECT event_store.es_id_has_position(:'made', :at), event_store.es_id_has_position(:'made', :at + 1);
SELECT version, global_position = :at AS same FROM es_read_event(:'made');
-- sent back they are known
\set VERBOSITY sqlstate
SELECT version, is_duplicate FROM es_append('Made-1', 0, 'A', '1', event_id => :'made');
SELECT version FROM es_append('Made-1', es_any(), 'A', '2', event_id => :'made');
SELECT version FROM es_append('Made-2', es_any(), 'A', '1', event_id => :'made');
SELECT version FROM es_append_batch('Made-2', 0, '{A,B}', '{1,2}', NULL, ARRAY[pg_temp.id('e1'), :'made'::uuid]);
-- every chunk of a batch, and events of no stream
SELECT count(*), bool_and(event_store.es_id_has_position(event_id, global_position)) AS own
  FROM es_append_batch('Made-3', 0, array_fill('A'::text, '{200}'), array_fill('1'::jsonb, '{200}'));
SELECT event_id AS made, global_position AS at
  FROM es_append_if('{"event_type": "A", "data": 3, "tags": ["made"]}', '{"items": [{"tags": ["made"]}]}', 0) \gset
SELECT (e.event).data, event_store.es_id_has_position((e.event).event_id, (e.event).global_position) FROM (SELECT es_read_event(:'made')) AS e (event);
-- given, and by chance the position that the event gets
SELECT ('aaaaaaaa-0000-7000-8000-00' || lpad(to_hex(last_value + 1), 10, '0')) AS chance FROM event_store.event_global_position_seq \gset
SELECT version, event_store.es_id_has_position(event_id, global_position) FROM es_append('Made-4', 0, 'A', '1', event_id => :'chance');
SELECT version, is_duplicate FROM es_append('Made-4', 0, 'A', '1', event_id => :'chance');
SELECT version FROM es_append('Made-5', 0, 'A', '1', event_id => :'chance');
-- given, and the position of a later event, which is given the same id
SELECT ('aaaaaaaa-0000-7000-8000-00' || lpad(to_hex(last_value + 3), 10, '0')) AS later FROM event_store.event_global_position_seq \gset
SELECT version, event_store.es_id_has_position(event_id, global_position) FROM es_append('Made-6', 0, 'A', '1', event_id => :'later');
SELECT version FROM es_append_batch('Made-7', 0, '{A,B}', '{1,2}', NULL, ARRAY[pg_temp.id('e2'), :'later'::uuid]);
-- given, and the position of an earlier event with another id
SELECT ('aaaaaaaa-0000-7000-8000-00' || lpad(to_hex(:at), 10, '0')) AS earlier \gset
SELECT version FROM es_append('Made-8', 0, 'A', '1', event_id => :'earlier');
SELECT version, is_duplicate FROM es_append('Made-8', 0, 'A', '1', event_id => :'earlier');
SELECT version FROM es_append('Made-9', 0, 'A', '1', event_id => :'earlier');
SELECT data FROM es_read_event(:'earlier');
-- with a hash, which is made of the id before the position is known
BEGIN;
SET LOCAL event_store.hash_chain = on;
SELECT event_id AS hashed FROM es_append('Made-10', 0, 'A', '1') \gset
SELECT version, is_duplicate FROM es_append('Made-10', 0, 'A', '1', event_id => :'hashed');
-- the stream goes on having hashes, as shows only once it is locked
SET LOCAL event_store.hash_chain = off;
SELECT event_id AS hashed FROM es_append('Made-10', 1, 'A', '2') \gset
SELECT version, is_duplicate FROM es_append('Made-10', 1, 'A', '2', event_id => :'hashed');
ROLLBACK;
SELECT count(*), count(DISTINCT event_id) AS ids FROM event_store.event HAVING count(*) <> count(DISTINCT event_id);
\set VERBOSITY default
