-- es_append in its three forms: what is written, and what is answered

-- positions are shown as a distance from where this test begins
SELECT coalesce(pg_sequence_last_value('event_store.event_global_position_seq'), 0) AS base \gset

--
-- One event
--

SELECT version, global_position - :base AS position, is_duplicate
  FROM es_append('Append-1', 0, 'Placed', '{"total": 42}');
SELECT * FROM es_append('Append-1', 1, 'Paid', '{"by": "card"}', '{"user_id": "u1"}',
                        '00000000-0000-4000-8000-0000000a0001', 3) AS a (id, version, position, is_duplicate)
 WHERE position > :base;
SELECT event_id, version, is_duplicate
  FROM es_append(stream_id => 'Append-1', expected_version => 2, event_type => 'Shipped',
                 schema_version => 2, event_id => '00000000-0000-4000-8000-0000000a0002', data => '{}');
-- NULL for what the store fills in
SELECT version, event_id IS NOT NULL AS has_id
  FROM es_append('Append-1', 3, 'Returned', '{}', metadata => NULL, event_id => NULL);
SELECT version, event_id = '00000000-0000-4000-8000-0000000a0001' AS same_id, event_type, schema_version, data, metadata
  FROM es_read_stream('Append-1') ORDER BY version;
-- the result is one composite value
SELECT (es_append('Append-1', 4, 'Closed', '{}')).version;
-- a call for each row of a query
SELECT (es_append('Append-' || n, es_any(), 'Counted', to_jsonb(n))).version FROM generate_series(1, 3) AS n;

-- made ids are UUIDs of version 7, ascending in time
SELECT bool_and(event_id::text ~ '^[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}$') AS version_7,
       count(DISTINCT event_id) AS ids
  FROM es_append_batch('Append-ids', 0, array_fill('Made'::text, '{200}'), array_fill('{}'::jsonb, '{200}'));
SELECT abs(extract(epoch FROM created_at - to_timestamp(('x' || left(replace(event_id::text, '-', ''), 12))::bit(48)::bigint / 1000.0))) < 10 AS made_now
  FROM es_read_stream('Append-ids', max_count => 1);
SELECT bool_and(event_id > before) AS ascending
  FROM (SELECT event_id, lag(event_id) OVER (ORDER BY version) AS before FROM es_read_stream('Append-ids')) AS e
 WHERE before IS NOT NULL;

--
-- Expected versions
--

SELECT es_any(), es_exists();
SELECT version FROM es_append('Append-any', es_any(), 'A', '{}');
SELECT version FROM es_append('Append-any', es_any(), 'A', '{}');
SELECT version FROM es_append('Append-any', es_exists(), 'A', '{}');
SELECT version FROM es_append('Append-any', 3, 'A', '{}');
-- as numbers, for drivers that send a parameter
SELECT version FROM es_append('Append-any', -100, 'A', '{}');
SELECT version FROM es_append('Append-any', -101, 'A', '{}');

--
-- Any JSON value is data
--

SELECT version FROM es_append('Append-json', 0, 'A', 'null');
SELECT version FROM es_append('Append-json', 1, 'A', '"text \u00e9 \u20ac"');
SELECT version FROM es_append('Append-json', 2, 'A', '-1.50');
SELECT version FROM es_append('Append-json', 3, 'A', 'true');
SELECT version FROM es_append('Append-json', 4, 'A', '[]');
SELECT version FROM es_append('Append-json', 5, 'A', '[1, [2, {"deep": null}]]');
SELECT version, data, jsonb_typeof(data) FROM es_read_stream('Append-json');

--
-- Arrays
--

SELECT version, global_position - min(global_position) OVER () AS distance, is_duplicate, event_id
  FROM es_append_batch('Append-batch', 0, '{A,B,A}', ARRAY['{"n": 1}', '[2]', 'null']::jsonb[],
                       ARRAY['{"m": 1}', NULL, '{}']::jsonb[],
                       '{00000000-0000-4000-8000-0000000b0001,00000000-0000-4000-8000-0000000b0002,00000000-0000-4000-8000-0000000b0003}',
                       '{1,2,3}');
-- optional arrays left out; one id given, one made; bounds do not matter
SELECT version, is_duplicate FROM es_append_batch('Append-batch', 3, '{C}', '{"4"}');
SELECT version, event_id = '00000000-0000-4000-8000-0000000b0006' AS given
  FROM es_append_batch('Append-batch', 4, '[0:1]={D,E}', '[7:8]={5,6}',
                       event_ids => '{NULL,00000000-0000-4000-8000-0000000b0006}');
SELECT version FROM es_append_batch('Append-batch', es_exists(), '{F,F}', '{7,8}', NULL, NULL, NULL);
SELECT version, event_type, schema_version, data, metadata FROM es_read_stream('Append-batch');

--
-- JSON
--

SELECT version, is_duplicate FROM es_append('Append-object', 0, '{"event_type": "A", "data": {"n": 1}}');
SELECT version, event_id, is_duplicate
  FROM es_append('Append-object', 1,
    '[{"event_type": "B", "data": null, "metadata": {"m": 1}, "event_id": "00000000-0000-4000-8000-0000000c0001", "schema_version": 7},
      {"event_type": "C", "data": [2], "metadata": null, "event_id": "0000000000004000800000000C0002AB"}]');
SELECT version FROM es_append('Append-object', 3, '[{"data": 4, "event_type": "D", "event_id": null}]');
SELECT version, event_type, schema_version, data, metadata FROM es_read_stream('Append-object');
SELECT version FROM es_append(events => '{"event_type": "E", "data": 5}', expected_version => 4, stream_id => 'Append-object');
SELECT event_id, version
  FROM es_append('Append-object', 5,
    '{"event_type": "F", "data": 6, "event_id": "{00000000-0000-4000-8000-0000000c0003}", "schema_version": 2.0}');

--
-- Names
--

SELECT version FROM es_append(repeat('x', 255), 0, repeat('y', 255), '{}');
SELECT version FROM es_append('Append-' || repeat(U&'\20ac', 82), 0, U&'gr\00f6\00dfer', '{}');
SELECT version FROM es_append('Append without category', 0, 'a type with spaces', '{}');
SELECT version FROM es_append('-no category', 0, 'A', '{}');
SELECT version FROM es_append('Append-O''Reilly "x" \y%', 0, 'A', '{}');
-- names are compared byte by byte
SELECT version FROM es_append('append-1', 0, 'placed', '{}');
SELECT version FROM es_append('Append-1 ', 0, 'Placed ', '{}');
SELECT stream_id, event_type FROM es_read_stream('Append-O''Reilly "x" \y%');
SELECT left(category, 30) AS category, length(stream_id), length(event_type) FROM event_store.events
 WHERE stream_id IN (repeat('x', 255), 'Append-' || repeat(U&'\20ac', 82), 'Append without category', '-no category')
 ORDER BY global_position;

--
-- Transactions
--

BEGIN;
SELECT version FROM es_append('Append-tx', 0, 'A', '{}');
SELECT version FROM es_append('Append-tx', 1, 'B', '{}');
SAVEPOINT s;
SELECT version FROM es_append('Append-tx', 2, 'lost', '{}');
SELECT count(*), es_stream_version('Append-tx') FROM es_read_stream('Append-tx');
ROLLBACK TO s;
SELECT version FROM es_append('Append-tx', 2, 'C', '{}');
COMMIT;
BEGIN;
SELECT version FROM es_append_batch('Append-tx', 3, '{lost,lost}', '{1,2}');
ROLLBACK;
SELECT version FROM es_append('Append-tx', 3, 'D', '{}');
SELECT string_agg(version || event_type, ' ' ORDER BY version) FROM es_read_stream('Append-tx');
-- a stream whose first append is rolled back does not exist
BEGIN;
SELECT version FROM es_append('Append-gone', 0, 'A', '{}');
SAVEPOINT s;
ROLLBACK;
SELECT es_stream_version('Append-gone');
BEGIN;
SAVEPOINT s;
SELECT version FROM es_append('Append-gone', 0, 'A', '{}');
ROLLBACK TO s;
SELECT version FROM es_append('Append-gone', 0, 'B', '{}');
COMMIT;
SELECT version, event_type FROM es_read_stream('Append-gone');
-- read only
BEGIN READ ONLY;
SELECT version FROM es_append('Append-tx', 4, 'A', '{}');
ROLLBACK;
BEGIN READ ONLY;
SELECT version FROM es_append_batch('Append-tx', 4, '{A}', '{1}');
ROLLBACK;
-- more streams in one transaction than it takes locks for
BEGIN;
SELECT count(*), min(a.version), max(a.version)
  FROM generate_series(1, 600) AS n, es_append('AppendMany-' || n, 0, 'A', '{}') AS a;
SELECT count(*), min(a.version), max(a.version)
  FROM generate_series(1, 600) AS n, es_append('AppendMany-' || n, 1, 'B', '{}') AS a;
COMMIT;
SELECT count(*), count(DISTINCT stream_id), max(version) FROM es_read_category('AppendMany', max_count => NULL);

-- prepared, as drivers do it, and beyond the fifth call
PREPARE append (text, bigint, text, jsonb) AS SELECT version FROM es_append($1, $2, $3, $4);
SELECT es_stream_version('Append-prepared');
EXECUTE append ('Append-prepared', 0, 'A', '1');
EXECUTE append ('Append-prepared', 1, 'A', '2');
EXECUTE append ('Append-prepared', 2, 'A', '3');
EXECUTE append ('Append-prepared', 3, 'A', '4');
EXECUTE append ('Append-prepared', 4, 'A', '5');
EXECUTE append ('Append-prepared', 5, 'A', '6');
EXECUTE append ('Append-prepared', 5, 'A', '7');
DEALLOCATE append;
SELECT string_agg(data::text, ' ' ORDER BY version) FROM es_read_stream('Append-prepared');

--
-- Sizes: payloads that are compressed or moved out of line come back equal
--

SELECT jsonb_object_agg('key' || n, md5(n::text)) AS large FROM generate_series(1, 4000) AS n \gset
SELECT version FROM es_append('Append-large', 0, 'Large', :'large', jsonb_build_object('repeated', repeat('x', 50000)));
SELECT count(*)
  FROM es_append_batch('Append-large', 1, array_fill('Large'::text, '{20}'), array_fill(:'large'::jsonb, '{20}'));
SELECT version, data = :'large' AS same, length(metadata->>'repeated') AS repeated
  FROM es_read_stream('Append-large', max_count => 2);
SELECT count(*) FROM es_read_stream('Append-large') WHERE data = :'large';
-- a batch of several chunks keeps its order
SELECT count(*)
  FROM es_append_batch('Append-chunks', 0, array_fill('A'::text, '{1000}'),
                       (SELECT array_agg(to_jsonb(n)) FROM generate_series(1, 1000) AS n));
SELECT count(*), bool_and(data = to_jsonb(version)) AS in_order, bool_and(global_position > before) AS ascending
  FROM (SELECT *, lag(global_position, 1, 0::bigint) OVER (ORDER BY version) AS before FROM es_read_stream('Append-chunks')) AS e;

--
-- No call depends on search_path, and nothing planted there is used
--

CREATE SCHEMA append_evil;
CREATE TABLE append_evil.event (LIKE event_store.event);
CREATE TABLE append_evil.stream (LIKE event_store.stream);
CREATE FUNCTION append_evil.eq(bigint, bigint) RETURNS boolean LANGUAGE plpgsql
    AS $$ BEGIN RAISE 'a planted operator was used'; END $$;
CREATE OPERATOR append_evil.= (LEFTARG = bigint, RIGHTARG = bigint, FUNCTION = append_evil.eq);
SET search_path = append_evil, pg_temp, pg_catalog;
SELECT version FROM public.es_append('Append-path', 0, 'A', '{}');
SELECT count FROM (SELECT count(*) FROM public.es_read_stream('Append-path')) AS c;
SELECT public.es_snapshot('Append-path', 1, '{}');
SELECT snapshot_version, cardinality(events) FROM public.es_load('Append-path');
SELECT public.es_envelope(e) ? 'event_id' AS ok FROM public.es_read_stream('Append-path') AS e;
SET search_path = '';
SELECT version FROM public.es_append('Append-path', 1, 'B', '{}');
SELECT pg_catalog.count(*) FROM public.es_read_stream('Append-path');
RESET search_path;
SET client_min_messages = warning;
DROP SCHEMA append_evil CASCADE;
RESET client_min_messages;

-- every append above is in the log exactly once
SELECT count(*) = count(DISTINCT global_position) AS positions_unique, count(*) = count(DISTINCT event_id) AS ids_unique,
       bool_and(n = version) AS no_holes
  FROM (SELECT *, row_number() OVER (PARTITION BY stream_id ORDER BY global_position) AS n FROM event_store.events) AS e;

--
-- null is as good as absent, for every optional key of an event in JSON
--

SELECT version FROM es_append('Append-null', 0, '{"event_type": "A", "data": null, "metadata": null, "event_id": null, "schema_version": null}');
SELECT count(*) FROM es_append('Append-null', 1, '[{"event_type": "A", "data": 2}, {"schema_version": null, "event_type": "A", "data": 2}]');
SELECT version, schema_version, metadata, data FROM es_read_stream('Append-null');
SELECT count(*) FROM es_append_batch('Append-null', 3, '{A,B}', '{3,4}', '{NULL,"{}"}', '{NULL,NULL}');
SELECT version, metadata FROM es_read_stream('Append-null', 4);

--
-- what the store draws from its sequences is not lastval() of the session
--

CREATE TEMP SEQUENCE append_own START 4711;
SELECT nextval('append_own');
SELECT count(*) FROM es_append_batch('Append-null', 5, '{A,B}', '{3,4}');
SELECT lastval();
