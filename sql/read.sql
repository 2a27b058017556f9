-- Reading: a stream, everything, a category, one event, the head
\set SHOW_CONTEXT never

-- positions are shown as a distance from where this test begins
SELECT coalesce(pg_sequence_last_value('event_store.event_global_position_seq'), 0) AS base \gset

SELECT count(*) FROM es_append_batch('ReadOrder-1', 0, '{Placed,Paid,Shipped}', '{1,2,3}');                -- 1 to 3
SELECT count(*) FROM es_append_batch('ReadOrder-2', 0, '{Placed,Cancelled}', '{4,5}');                      -- 4, 5
SELECT count(*) FROM es_append_batch('ReadCart-1', 0, '{Opened,Placed}', '{6,7}');                          -- 6, 7
SELECT count(*) FROM es_append('ReadOrder-1', 3, 'Returned', '8',
                               '{"correlation_id": "c", "causation_id": "d", "user_id": "u"}',
                               '00000000-0000-4000-8000-000000ad0008', 2);                                  -- 8
SELECT count(*) FROM es_append('ReadOrder', 0, 'Placed', '9');                                              -- 9
SELECT count(*) FROM es_append('ReadOrderX-1', 0, 'Placed', '10');                                          -- 10
SELECT count(*) FROM es_append('ReadOrder-3-x', 0, 'Placed', '11');                                         -- 11

-- a short form of events
CREATE FUNCTION pg_temp.short(base bigint, e es_event) RETURNS text LANGUAGE sql
    AS $$ SELECT (e).global_position - base || ' ' || (e).stream_id || ':' || (e).version || ' ' || (e).event_type $$;

--
-- A stream
--

SELECT global_position - :base AS position, stream_id, version, event_type, schema_version, data, metadata,
       created_at BETWEEN now() - interval '1 minute' AND clock_timestamp() AS recent
  FROM es_read_stream('ReadOrder-1');
-- from_version is inclusive
SELECT version, data FROM es_read_stream('ReadOrder-1', 3);
SELECT version FROM es_read_stream('ReadOrder-1', from_version => 4);
SELECT version FROM es_read_stream('ReadOrder-1', 5);
SELECT version FROM es_read_stream('ReadOrder-1', 9223372036854775807);
SELECT version FROM es_read_stream('ReadOrder-1', 0, 1);
SELECT version FROM es_read_stream('ReadOrder-1', 2, 2);
SELECT version FROM es_read_stream('ReadOrder-1', 2, 0);
SELECT version FROM es_read_stream('ReadOrder-1', max_count => 0);
SELECT count(*) FROM es_read_stream('ReadOrder-1', NULL, NULL);
SELECT count(*) FROM es_read_stream('ReadOrder-1', max_count => 9223372036854775807);
-- backward
SELECT version FROM es_read_stream('ReadOrder-1', backward => true);
SELECT version FROM es_read_stream('ReadOrder-1', 3, backward => true);
SELECT version FROM es_read_stream('ReadOrder-1', 3, 2, true);
SELECT version FROM es_read_stream('ReadOrder-1', 99, 1, true);
SELECT version FROM es_read_stream('ReadOrder-1', 0, backward => true);
SELECT version FROM es_read_stream('ReadOrder-1', max_count => 0, backward => true);
-- unknown
SELECT version FROM es_read_stream('ReadOrder-unknown');
SELECT version FROM es_read_stream('ReadOrder-unknown', 1, 10, true);
SELECT version FROM es_read_stream('readorder-1');
-- in a select list, and joined
SELECT (es_read_stream('ReadOrder-2')).version;
SELECT s.id, e.version FROM (VALUES ('ReadOrder-2'), ('ReadCart-1')) AS s (id), es_read_stream(s.id) AS e ORDER BY s.id, e.version;
SELECT version FROM es_read_stream('ReadOrder-1') LIMIT 2;

--
-- Everything: after_position is exclusive
--

SELECT pg_temp.short(:base, e) FROM es_read_all(:base) AS e;
SELECT pg_temp.short(:base, e) FROM es_read_all(:base + 9) AS e;
SELECT pg_temp.short(:base, e) FROM es_read_all(after_position => :base + 3, max_count => 2) AS e;
SELECT count(*) FROM es_read_all(:base + 11);
SELECT count(*) FROM es_read_all(:base, 0);
SELECT count(*) FROM es_read_all(:base, NULL);
SELECT count(*) FROM es_read_all(max_count => 0);
-- backward: below the position
SELECT pg_temp.short(:base, e) FROM es_read_all(max_count => 3, backward => true) AS e;
SELECT pg_temp.short(:base, e) FROM es_read_all(:base + 4, 3, backward => true) AS e;
SELECT pg_temp.short(:base, e) FROM es_read_all(9223372036854775807, 1, backward => true) AS e;
SELECT count(*) FROM es_read_all(1, NULL, backward => true);
SELECT count(*) FROM es_read_all(0, NULL, backward => true);
SELECT count(*) FROM es_read_all(:base + 4, 0, backward => true);
-- filters
SELECT pg_temp.short(:base, e) FROM es_read_all(:base, categories => '{ReadOrder}') AS e;
SELECT pg_temp.short(:base, e) FROM es_read_all(:base, categories => '{ReadCart,ReadOrderX,ReadNone}') AS e;
SELECT pg_temp.short(:base, e) FROM es_read_all(:base, event_types => '{Placed}') AS e;
SELECT pg_temp.short(:base, e) FROM es_read_all(:base, event_types => '{Paid,Cancelled,Unknown}') AS e;
SELECT pg_temp.short(:base, e) FROM es_read_all(:base, categories => '{ReadOrder}', event_types => '{Placed,Opened}') AS e;
SELECT pg_temp.short(:base, e) FROM es_read_all(:base, 2, '{ReadOrder}', '{Placed}') AS e;
SELECT pg_temp.short(:base, e) FROM es_read_all(:base + 1, 2, '{ReadOrder}', '{Placed}') AS e;
SELECT pg_temp.short(:base, e) FROM es_read_all(NULL, 2, '{ReadOrder}', '{Placed}', true) AS e;
SELECT pg_temp.short(:base, e) FROM es_read_all(:base + 9, 2, '{ReadOrder}', '{Placed}', true) AS e;
-- a filter named twice does not double, an empty one matches nothing, NULL is none
SELECT count(*) FROM es_read_all(:base, categories => '{ReadCart,ReadCart}', event_types => '{Opened,Opened}');
SELECT count(*) FROM es_read_all(:base, categories => '{}');
SELECT count(*) FROM es_read_all(:base, event_types => '{}');
SELECT count(*) FROM es_read_all(:base, categories => '{}', event_types => '{Placed}');
SELECT count(*) FROM es_read_all(:base, categories => '{}', backward => true);
SELECT count(*) FROM es_read_all(:base, categories => '{ReadNone}');
SELECT count(*) FROM es_read_all(:base, categories => NULL, event_types => NULL);

--
-- A category: the name before the first "-", or all of it
--

SELECT pg_temp.short(:base, e) FROM es_read_category('ReadOrder') AS e;
SELECT pg_temp.short(:base, e) FROM es_read_category('ReadOrder', :base + 3) AS e;
SELECT pg_temp.short(:base, e) FROM es_read_category('ReadOrder', :base + 3, 2) AS e;
SELECT pg_temp.short(:base, e) FROM es_read_category('ReadOrder', max_count => 2, backward => true) AS e;
SELECT pg_temp.short(:base, e) FROM es_read_category('ReadOrder', :base + 8, 2, true) AS e;
SELECT count(*) FROM es_read_category('ReadOrder', NULL, NULL);
SELECT count(*) FROM es_read_category('ReadOrder', max_count => 0);
SELECT count(*) FROM es_read_category('ReadNone');
SELECT count(*) FROM es_read_category('Read');
SELECT count(*) FROM es_read_category('readorder');

-- pages put together are the whole
WITH RECURSIVE page AS (
    SELECT 0 AS n, :base::bigint AS last, 0::bigint AS events
    UNION ALL
    SELECT n + 1, p.last, events + p.count
      FROM page, LATERAL (SELECT max(global_position) AS last, count(*) FROM es_read_all(page.last, 3)) AS p
     WHERE p.count > 0)
SELECT max(n) AS pages, max(events) AS events, max(last) - :base AS last FROM page;

--
-- Versions, one event, the head
--

SELECT es_stream_version('ReadOrder-1'), es_stream_version('ReadOrder'), es_stream_version('ReadOrder-unknown');
SELECT pg_temp.short(:base, es_read_event('00000000-0000-4000-8000-000000ad0008'));
SELECT es_read_event('00000000-0000-4000-8000-00000000dead') IS NULL AS unknown;
SELECT * FROM es_read_event('00000000-0000-4000-8000-00000000dead');
SELECT es_head() - :base AS head;
BEGIN;
-- one's own uncommitted events are there for oneself
SELECT version FROM es_append('ReadOrder-2', 2, 'Reopened', '{}');
SELECT es_stream_version('ReadOrder-2'), es_head() - :base AS head, (SELECT count(*) FROM es_read_all(:base)) AS events,
       (SELECT count(*) FROM es_read_category('ReadOrder')) AS category;
SAVEPOINT s;
SELECT count(*) FROM es_append('ReadOrder-2', 3, 'Lost', '{}');
SELECT es_head() - :base AS head, (SELECT max(global_position) - :base FROM es_read_all(:base)) AS last;
ROLLBACK TO s;
SELECT es_head() - :base AS head, (SELECT max(global_position) - :base FROM es_read_all(:base)) AS last;
ROLLBACK;
SELECT es_stream_version('ReadOrder-2'), es_head() - :base AS head, (SELECT count(*) FROM es_read_all(:base)) AS events;
-- what was rolled back is a gap
SELECT global_position - :base AS position FROM es_append('ReadOrder-2', 2, 'Reopened', '{}');
SELECT es_head() - :base AS head, (SELECT count(*) FROM es_read_all(:base)) AS events,
       (SELECT string_agg((global_position - :base)::text, ' ' ORDER BY global_position) FROM es_read_all(:base + 9)) AS positions;
-- a statement reads with its snapshot: it does not see what it appends itself
SELECT a.version, (SELECT count(*) FROM es_read_stream('ReadOrder-4')) AS before
  FROM es_append('ReadOrder-4', 0, 'Placed', '{}') AS a;
SELECT count(*) FROM es_read_stream('ReadOrder-4');
-- read only, and REPEATABLE READ
BEGIN ISOLATION LEVEL SERIALIZABLE READ ONLY;
SELECT count(*), es_head() - :base AS head FROM es_read_all(:base);
COMMIT;

--
-- Cursors, and results that do not fit into memory
--

BEGIN;
DECLARE c CURSOR FOR SELECT version FROM es_read_stream('ReadOrder-1');
FETCH 2 FROM c;
FETCH ALL FROM c;
MOVE BACKWARD 2 FROM c;
FETCH 1 FROM c;
COMMIT;
SET work_mem = '64kB';
SELECT count(*) FROM es_append_batch('ReadLong-1', 0, array_fill('A'::text, '{5000}'),
                                     (SELECT array_agg(to_jsonb(repeat(n::text, 20))) FROM generate_series(1, 5000) AS n));
SELECT count(*), bool_and(n = version) AS in_order
  FROM (SELECT version, row_number() OVER () AS n FROM es_read_stream('ReadLong-1')) AS e;
SELECT count(*), bool_and(n = version) AS in_order
  FROM (SELECT version, row_number() OVER () AS n FROM es_read_category('ReadLong', max_count => NULL)) AS e;
SELECT count(*), bool_and(5001 - n = version) AS in_order
  FROM (SELECT version, row_number() OVER () AS n FROM es_read_all(NULL, 5000, '{ReadLong}', backward => true)) AS e;
RESET work_mem;
-- the default page
SELECT count(*), max(version) FROM es_read_category('ReadLong');
SELECT count(*), min(version) FROM es_read_category('ReadLong', backward => true);
SELECT count(*) FROM es_read_all(categories => '{ReadLong}');

--
-- The envelope
--

SELECT jsonb_pretty(es_envelope(e) - 'global_position' - 'created_at' #- '{metadata,timestamp}') FROM es_read_event('00000000-0000-4000-8000-000000ad0008') AS e;
SELECT (SELECT string_agg(key, ' ' ORDER BY key) FROM jsonb_object_keys(es_envelope(e)) AS key) AS keys,
       (es_envelope(e)->>'global_position')::bigint = e.global_position AS position,
       (es_envelope(e)->>'created_at')::timestamptz = e.created_at AS created_at,
       (es_envelope(e)->'metadata'->>'timestamp')::timestamptz = e.created_at AS timestamp
  FROM es_read_stream('ReadOrder-1', 1, 1) AS e;
SELECT jsonb_pretty(es_envelope(ROW(7, 'S-1', 3, '00000000-0000-4000-8000-000000ad0001', 'T', 2, '[1]', '{}', '2024-02-29 23:59:59.5+02')::es_event));
-- a timestamp that the writer gave stays; display settings do not matter
SET timezone = 'Asia/Kathmandu';
SET datestyle = 'German, DMY';
SET extra_float_digits = 0;
SELECT jsonb_pretty(es_envelope(ROW(7, 'S-1', 3, '00000000-0000-4000-8000-000000ad0001', 'T', 2, 'null', '{"timestamp": "yesterday"}', '2024-02-29 23:59:59+02')::es_event));
RESET timezone;
RESET datestyle;
RESET extra_float_digits;
SELECT es_envelope(NULL) IS NULL AS "null";

--
-- The view
--

SELECT global_position - :base AS position, stream_id, version, event_type, schema_version, data, metadata, category
  FROM event_store.events WHERE category LIKE 'Read%' AND global_position <= :base + 11 ORDER BY global_position;
SELECT string_agg(attname || ' ' || format_type(atttypid, atttypmod), ', ' ORDER BY attnum) FROM pg_attribute
 WHERE attrelid = 'event_store.events'::regclass AND attnum > 0;

--
-- Bad arguments
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
\pset format unaligned
\pset tuples_only on
SELECT pg_temp.error($$SELECT es_read_stream(NULL)$$);
SELECT pg_temp.error($$SELECT es_read_stream('')$$);
SELECT pg_temp.error($$SELECT es_read_stream(repeat('x', 256))$$);
SELECT pg_temp.error($$SELECT es_read_stream(E'a\n')$$);
SELECT pg_temp.error($$SELECT es_read_stream('ReadOrder-1', -1)$$);
SELECT pg_temp.error($$SELECT es_read_stream('ReadOrder-1', -9223372036854775808, backward => true)$$);
SELECT pg_temp.error($$SELECT es_read_stream('ReadOrder-1', max_count => -1)$$);
SELECT pg_temp.error($$SELECT es_read_stream('ReadOrder-1', backward => NULL)$$);
SELECT pg_temp.error($$SELECT es_read_all(-1)$$);
SELECT pg_temp.error($$SELECT es_read_all(0, -1)$$);
-- a cursor beyond the last position: the store is not the one it was
SELECT left(pg_temp.error($$SELECT es_read_all(9223372036854775807)$$), 40);
SELECT left(pg_temp.error($$SELECT es_read_all(9223372036854775807, 0)$$), 40);
SELECT left(pg_temp.error($$SELECT es_read_category('ReadOrder', 9223372036854775807)$$), 40);
SELECT left(pg_temp.error($$SELECT es_read_all(es_head() + 1, event_types => '{Placed}')$$), 40);
SELECT pg_temp.error($$SELECT es_read_all(0, backward => NULL)$$);
SELECT pg_temp.error($$SELECT es_read_all(0, categories => '{A,NULL}')$$);
SELECT pg_temp.error($$SELECT es_read_all(0, categories => '{A,B-1}')$$);
SELECT pg_temp.error($$SELECT es_read_all(0, categories => '{{A},{B}}')$$);
SELECT pg_temp.error($$SELECT es_read_all(0, categories => ARRAY[repeat('x', 256)])$$);
SELECT pg_temp.error($$SELECT es_read_all(0, event_types => '{NULL}')$$);
SELECT pg_temp.error($$SELECT es_read_all(0, event_types => '{A,B,""}')$$);
SELECT pg_temp.error($$SELECT es_read_all(0, event_types => '{{A}}')$$);
SELECT pg_temp.error($$SELECT es_read_all(0, event_types => ARRAY[E'\x1f'])$$);
SELECT pg_temp.error($$SELECT es_read_category(NULL)$$);
SELECT pg_temp.error($$SELECT es_read_category('ReadOrder-1')$$);
SELECT pg_temp.error($$SELECT es_read_category('-')$$);
SELECT pg_temp.error($$SELECT es_read_category('$ce-ReadOrder')$$);
SELECT pg_temp.error($$SELECT es_read_all(0, categories => '{$ce-ReadOrder}')$$);
SELECT pg_temp.error($$SELECT es_read_category(repeat('x', 256))$$);
SELECT pg_temp.error($$SELECT es_list_streams('ReadOrder-1')$$);
SELECT pg_temp.error($$SELECT es_list_streams('$ce-ReadOrder')$$);
-- with a hint
SELECT es_read_category('$ce-ReadOrder');
SELECT es_list_streams('$ce-ReadOrder');
SELECT pg_temp.error($$SELECT es_list_streams('ReadList-', prefix => 'ReadList-')$$);
SELECT pg_temp.error($$SELECT es_list_streams(repeat('x', 256))$$);
SELECT pg_temp.error($$SELECT es_read_category('ReadOrder', -1)$$);
SELECT pg_temp.error($$SELECT es_read_category('ReadOrder', max_count => -1)$$);
SELECT pg_temp.error($$SELECT es_read_category('ReadOrder', backward => NULL)$$);
SELECT pg_temp.error($$SELECT es_stream_version(NULL)$$);
SELECT pg_temp.error($$SELECT es_stream_version('')$$);
SELECT pg_temp.error($$SELECT es_read_event(NULL)$$);
SELECT pg_temp.error($$SELECT es_read_event('x')$$);

--
-- Indexes of an administrator over the columns of the store's own, in another order
--

CREATE INDEX read_position ON event_store.event (global_position DESC);
CREATE INDEX read_type ON event_store.event (type_no, global_position DESC);
CREATE INDEX read_stream ON event_store.event (stream_no DESC, version DESC);
CREATE INDEX read_brin ON event_store.event USING brin (created_at);
SELECT version FROM es_append('ReadOrder-1', 4, 'Placed', '12');
SELECT pg_temp.short(:base, e) FROM es_read_all(:base + 8, 3) AS e;
SELECT pg_temp.short(:base, e) FROM es_read_category('ReadOrder', :base, 3) AS e;
SELECT array_agg(version) FROM es_read_stream('ReadOrder-1');
SELECT es_stream_version('ReadOrder-1') AS version, es_head() > :base + 11 AS head;
DROP INDEX event_store.read_position, event_store.read_type, event_store.read_stream, event_store.read_brin;

--
-- A stream whose name begins with "-" is of category "", which every reader,
-- filter and aggregate takes
--

BEGIN;
SELECT es_head() AS before_dash \gset
SELECT count(*) FROM es_append_batch('-', 0, '{DashA,DashB}', '{1,2}');
SELECT count(*) FROM es_append_batch('-1', 0, '{DashA}', '{3}');
SELECT count(*) FROM es_append_batch('--', 0, '{DashA}', '{4}');
SELECT count(*) FROM es_append('NoDash', 0, 'DashA', '5');
COMMIT;
SELECT stream_id, version, data FROM es_read_category('', :before_dash);
SELECT stream_id, version, data FROM es_read_category('', max_count => 4, backward => true);
SELECT stream_id, version FROM es_read_all(:before_dash, categories => '{"",NoDash}', event_types => '{DashA}');
SELECT count(*) = (SELECT count(category) FROM event_store.events) AS everything
  FROM es_read_all(NULL, NULL, categories => (SELECT array_agg(DISTINCT category) FROM event_store.events WHERE category IS NOT NULL));
SELECT category, count(*) FROM event_store.events WHERE stream_id IN ('-', '--', '-1') GROUP BY category;
SELECT stream_id, version FROM es_list_streams('') WHERE stream_id IN ('-', '--', '-1', 'NoDash');
SELECT stream_id FROM es_list_streams('', prefix => '--');
SELECT stream_id FROM es_list_streams('', after_stream => '-', max_count => 1);
SELECT streams = (SELECT count(*) FROM es_list_streams('', max_count => NULL)) AND events = (SELECT count(*) FROM es_read_category('', 0, NULL)) AS is_right
  FROM event_store.categories WHERE category = '';
SELECT count(*) FROM es_read_stream('-') UNION ALL SELECT es_stream_version('--');
SELECT es_create_subscription('dash', categories => '{""}', after_position => :before_dash);
SELECT stream_id, version FROM es_fetch('dash');
SELECT es_drop_subscription('dash');
CREATE FUNCTION read_dash_sum(state jsonb, event es_event) RETURNS jsonb LANGUAGE sql IMMUTABLE AS
    $$SELECT to_jsonb((state)::text::int + (event.data)::text::int)$$;
SELECT es_define_aggregate('', 'read_dash_sum(jsonb, es_event)', '0', snapshot_every => 1);
SELECT * FROM es_state('-');
SELECT es_drop_aggregate('');
SELECT count(*) FROM event_store.snapshot AS s JOIN event_store.stream USING (stream_no) WHERE stream_id IN ('-', '--', '-1');
CREATE TABLE read_dash (n int);
CREATE FUNCTION read_dash(event es_event) RETURNS void LANGUAGE sql AS 'INSERT INTO read_dash VALUES ((event.data)::text::int)';
SELECT es_create_projection('dash', 'read_dash(es_event)', categories => '{""}', after_position => :before_dash);
SELECT es_run_projection('dash') >= 0;
SELECT array_agg(n ORDER BY n) FROM read_dash;
SELECT es_drop_projection('dash');
DROP FUNCTION read_dash(es_event);
DROP FUNCTION read_dash_sum(jsonb, es_event);
DROP TABLE read_dash;

--
-- A load in one statement leaves its marks as it goes: nobody has to walk over all of it later
--

SELECT count(*) FROM generate_series(1, 100) AS i, LATERAL es_append_batch('ReadLoad-' || i, 0, array_fill('Loaded'::text, ARRAY[100]), array_fill('1'::jsonb, ARRAY[100]));
SELECT es_head() - max(global_position) < 2200 AS near FROM event_store.mark;

--
-- Streams by name; the position of a time
--

SELECT es_append('ReadList-' || i, es_any(), 'Listed', '{}') IS NOT NULL FROM unnest(ARRAY['a', 'a_', 'a%b', 'ab', 'b', 'a']) AS i;
SELECT es_append(i, es_any(), 'Listed', '{}') IS NOT NULL FROM unnest(ARRAY['ReadListed-a', 'ReadList', 'ReadList\_']) AS i;
SELECT stream_id, version FROM es_list_streams('ReadList');
SELECT stream_id, version FROM es_list_streams(prefix => 'ReadList-a');
SELECT stream_id, version FROM es_list_streams(prefix => 'ReadList-a_');
SELECT stream_id, version FROM es_list_streams(prefix => 'ReadList-a%');
SELECT stream_id, version FROM es_list_streams(prefix => 'ReadList\');
SELECT stream_id, version FROM es_list_streams('ReadList', after_stream => 'ReadList-a', max_count => 2);
SELECT count(*) = (SELECT count(*) FROM event_store.stream) AS everything FROM es_list_streams(max_count => NULL);
\set VERBOSITY sqlstate
SELECT * FROM es_list_streams(max_count => -1);
\set VERBOSITY default
SELECT bool_and(l.version = es_stream_version(l.stream_id) AND l.last_position = e.global_position AND l.last_created_at = e.created_at) AS is_right
  FROM es_list_streams('ReadList') AS l JOIN event_store.events AS e USING (stream_id, version);
SELECT es_position_at('-infinity') = (SELECT min(global_position) - 1 FROM event_store.events) AS beginning,
       es_position_at('infinity') = es_head() AS none_yet, es_position_at(NULL) IS NULL AS nothing;
SELECT min(e.global_position) = (SELECT min(global_position) FROM event_store.events WHERE created_at >= t.created_at) AS is_first
  FROM es_read_stream('ReadList-a') AS t, es_read_all(es_position_at(t.created_at), NULL) AS e GROUP BY t.version, t.created_at;
