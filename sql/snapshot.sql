-- Snapshots: keep the state of a stream at a version, and load with it
\set SHOW_CONTEXT never

SELECT count(*) FROM es_append_batch('Snap-1', 0, '{A,B,C,D,E}', '{1,2,3,4,5}');
SELECT count(*) FROM es_append('Snap-2', 0, 'A', '1');

-- none yet
SELECT * FROM es_read_snapshot('Snap-1');
SELECT es_read_snapshot('Snap-1') IS NULL AS none;
SELECT version, snapshot_version, snapshot, cardinality(events) AS events FROM es_load('Snap-1');
SELECT version, snapshot_version, snapshot, events FROM es_load('Snap-none');
SELECT * FROM es_read_snapshot('Snap-none');

--
-- Newer, same, older version
--

SELECT es_snapshot('Snap-1', 3, '{"sum": 6}');
SELECT stream_id, version, data, schema_version, created_at BETWEEN now() - interval '1 minute' AND clock_timestamp() AS recent
  FROM es_read_snapshot('Snap-1');
SELECT version, snapshot_version, snapshot, (SELECT array_agg(e.event_type ORDER BY e.version) FROM unnest(events) AS e) AS events
  FROM es_load('Snap-1');
-- the same version is written anew
SELECT es_snapshot('Snap-1', 3, '{"sum": 6, "fixed": true}');
SELECT version, data FROM es_read_snapshot('Snap-1');
-- an older one is not kept
SELECT es_snapshot('Snap-1', 2, '{"sum": 3}');
SELECT version, data FROM es_read_snapshot('Snap-1');
-- a newer one replaces
SELECT es_snapshot('Snap-1', 5, '{"sum": 15}');
SELECT version, data FROM es_read_snapshot('Snap-1');
SELECT version, snapshot_version, snapshot, events FROM es_load('Snap-1');
-- events go on after it
SELECT version FROM es_append('Snap-1', 5, 'F', '6');
SELECT l.version, snapshot_version, snapshot, (e).version, (e).event_type, (e).data
  FROM es_load('Snap-1') AS l, LATERAL (SELECT l.events[1] AS e) AS x;
-- any JSON value is a state
SELECT es_snapshot('Snap-2', 1, 'null'), es_snapshot('Snap-2', 1, '[1]', 2);
SELECT version, snapshot_version, snapshot, snapshot IS NULL AS sql_null FROM es_load('Snap-2', 1);

--
-- Schema versions: one snapshot each
--

SELECT es_snapshot('Snap-1', 4, '{"total": 10}', 2);
SELECT es_snapshot('Snap-1', 1, '{"total": 1}', schema_version => 3);
-- of one schema version, or the newest of any
SELECT version, data, schema_version FROM es_read_snapshot('Snap-1', 1);
SELECT version, data, schema_version FROM es_read_snapshot('Snap-1', 2);
SELECT version, data, schema_version FROM es_read_snapshot('Snap-1', schema_version => 3);
SELECT version, data, schema_version FROM es_read_snapshot('Snap-1', 4);
SELECT version, data, schema_version FROM es_read_snapshot('Snap-1');
SELECT version, snapshot_version, snapshot, cardinality(events) AS events FROM es_load('Snap-1', 1);
SELECT version, snapshot_version, snapshot, cardinality(events) AS events FROM es_load('Snap-1', 2);
SELECT version, snapshot_version, snapshot, cardinality(events) AS events FROM es_load('Snap-1', 3);
SELECT version, snapshot_version, snapshot, cardinality(events) AS events FROM es_load('Snap-1', schema_version => 4);
SELECT version, snapshot_version, snapshot, cardinality(events) AS events FROM es_load('Snap-1');
SELECT s.stream_id, n.schema_version, n.version, n.data
  FROM event_store.snapshot AS n JOIN event_store.stream AS s USING (stream_no)
 WHERE s.stream_id LIKE 'Snap-%' ORDER BY s.stream_id, n.schema_version;

--
-- A snapshot is a cache and belongs to its transaction
--

BEGIN;
SELECT version FROM es_append('Snap-2', 1, 'B', '2');
SELECT es_snapshot('Snap-2', 2, '{"two": 2}');
SELECT version, snapshot_version, snapshot FROM es_load('Snap-2');
ROLLBACK;
SELECT version, snapshot_version, snapshot FROM es_load('Snap-2', 1);
DELETE FROM event_store.snapshot WHERE stream_no = (SELECT stream_no FROM event_store.stream WHERE stream_id = 'Snap-2');
SELECT version, snapshot_version, snapshot, cardinality(events) AS events FROM es_load('Snap-2');
-- a large one
SELECT es_snapshot('Snap-2', 1, (SELECT jsonb_object_agg('key' || n, md5(n::text)) FROM generate_series(1, 4000) AS n));
SELECT (SELECT count(*) FROM jsonb_object_keys(snapshot)) AS keys, snapshot->>'key4000' = md5('4000') AS same FROM es_load('Snap-2');

--
-- A long stream
--

SELECT count(*) FROM es_append_batch('Snap-long', 0, array_fill('A'::text, '{2500}'), (SELECT array_agg(to_jsonb(n)) FROM generate_series(1, 2500) AS n));
SELECT version, cardinality(events) AS events, (events[2500]).data FROM es_load('Snap-long');
SELECT es_snapshot('Snap-long', 2400, '{}');
SELECT version, snapshot_version, cardinality(events) AS events, (events[1]).version AS first FROM es_load('Snap-long');

--
-- Bad arguments: nothing is kept
--

CREATE FUNCTION pg_temp.error(statement text) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
    message text;
    detail text;
BEGIN
    EXECUTE statement;
    RETURN 'no error';
EXCEPTION WHEN OTHERS THEN
    GET STACKED DIAGNOSTICS message = MESSAGE_TEXT, detail = PG_EXCEPTION_DETAIL;
    RETURN sqlstate || ': ' || message || CASE WHEN detail <> '' THEN ' / ' || detail ELSE '' END;
END
$$;
SELECT count(*) AS before FROM event_store.snapshot \gset
\pset format unaligned
\pset tuples_only on
-- a version that the stream has not reached, an unknown stream
SELECT pg_temp.error($$SELECT es_snapshot('Snap-1', 7, '{}')$$);
SELECT pg_temp.error($$SELECT es_snapshot('Snap-1', 9223372036854775807, '{}')$$);
SELECT pg_temp.error($$SELECT es_snapshot('Snap-none', 1, '{}')$$);
SELECT pg_temp.error($$SELECT es_snapshot('Snap-1', 0, '{}')$$);
SELECT pg_temp.error($$SELECT es_snapshot('Snap-1', -1, '{}')$$);
SELECT pg_temp.error($$SELECT es_snapshot(NULL, 1, '{}')$$);
SELECT pg_temp.error($$SELECT es_snapshot('Snap-1', NULL, '{}')$$);
SELECT pg_temp.error($$SELECT es_snapshot('Snap-1', 1, NULL)$$);
SELECT pg_temp.error($$SELECT es_snapshot('Snap-1', 1, '{}', NULL)$$);
SELECT pg_temp.error($$SELECT es_snapshot('Snap-1', 1, '{}', 0)$$);
SELECT pg_temp.error($$SELECT es_snapshot('Snap-1', 1, '{}', -1)$$);
SELECT pg_temp.error($$SELECT es_snapshot('', 1, '{}')$$);
SELECT pg_temp.error($$SELECT es_snapshot(E'Snap-\n', 1, '{}')$$);
SELECT pg_temp.error($$SELECT es_snapshot(repeat('x', 256), 1, '{}')$$);
SELECT pg_temp.error($$SELECT es_read_snapshot(NULL)$$);
SELECT pg_temp.error($$SELECT es_read_snapshot('')$$);
SELECT pg_temp.error($$SELECT es_read_snapshot('Snap-1', 0)$$);
SELECT pg_temp.error($$SELECT es_read_snapshot('Snap-1', -1)$$);
SELECT pg_temp.error($$SELECT es_load(NULL)$$);
SELECT pg_temp.error($$SELECT es_load('')$$);
SELECT pg_temp.error($$SELECT es_load('Snap-1', 0)$$);
SELECT pg_temp.error($$SELECT es_load('Snap-1', -1)$$);
BEGIN READ ONLY;
SELECT pg_temp.error($$SELECT es_snapshot('Snap-1', 6, '{}')$$);
SELECT version FROM es_load('Snap-1');
COMMIT;
SELECT count(*) - :before AS kept FROM event_store.snapshot;
