-- The read functions in FROM as a plan node: what is scanned, what falls back to the function, and that both say the same
\set SHOW_CONTEXT never

SELECT coalesce(pg_sequence_last_value('event_store.event_global_position_seq'), 0) AS base \gset
SELECT count(*) FROM generate_series(1, 120) AS i,
    LATERAL es_append('Scan-' || i % 7, es_any(), (ARRAY['Placed', 'Paid', 'Shipped'])[i % 3 + 1], jsonb_build_object('i', i, 'pad', repeat('x', i)));
SELECT count(*) FROM es_append('ScanLarge-1', 0, 'Placed', (SELECT jsonb_agg(md5(i::text)) FROM generate_series(1, 1000) AS i));
-- long names
SELECT count(*) FROM es_append('Scan-' || repeat('n', 250), 0, repeat('t', 255), '1');
-- events of no stream
SELECT count(*) FROM es_append_if('[{"event_type": "Loose", "data": 1, "tags": ["scan:1"]}, {"event_type": "Loose", "data": 2, "tags": ["scan:1", "scan:2"]}]', '{"items": [{"event_types": ["Never"]}]}');

--
-- What is scanned
--

-- from the first query of a session on
\c
EXPLAIN (COSTS OFF) SELECT * FROM es_read_all() LIMIT 10;
EXPLAIN (COSTS OFF) SELECT count(*) FROM es_read_all(NULL, NULL);
EXPLAIN (COSTS OFF) SELECT data FROM es_read_stream('Scan-1', 2, 3);
EXPLAIN (COSTS OFF) SELECT data FROM es_read_category('Scan', backward => true) WHERE version > 3;
EXPLAIN (COSTS OFF) SELECT * FROM es_read_all(5, event_types => '{Paid}', categories => '{Scan,Other}');
EXPLAIN (COSTS OFF) SELECT data FROM es_read_query('{"items": [{"tags": ["scan:1"]}]}', 5) ORDER BY global_position LIMIT 2;
EXPLAIN (COSTS OFF) SELECT s.id, e.version FROM (VALUES ('Scan-1'), ('Scan-2')) AS s (id), es_read_stream(s.id) AS e;
-- events come in order
EXPLAIN (COSTS OFF) SELECT * FROM es_read_all() ORDER BY global_position LIMIT 10;
EXPLAIN (COSTS OFF) SELECT * FROM es_read_all(backward => true) ORDER BY global_position DESC;
EXPLAIN (COSTS OFF) SELECT * FROM es_read_stream('Scan-1') ORDER BY version;
EXPLAIN (COSTS OFF) SELECT * FROM es_read_stream('Scan-1', backward => true) ORDER BY version DESC;
EXPLAIN (COSTS OFF) SELECT * FROM es_read_all() ORDER BY global_position DESC;
EXPLAIN (COSTS OFF) SELECT * FROM es_read_stream('Scan-1') ORDER BY data;
-- views, SQL functions, subqueries
CREATE VIEW scan_view AS SELECT stream_id, data FROM es_read_category('Scan', max_count => NULL);
EXPLAIN (COSTS OFF) SELECT data FROM scan_view WHERE stream_id = 'Scan-1';
CREATE FUNCTION scan_inlined(name text) RETURNS SETOF es_event LANGUAGE sql STABLE AS 'SELECT * FROM es_read_stream(name)';
EXPLAIN (COSTS OFF) SELECT version FROM scan_inlined('Scan-1');
-- an event as a whole
EXPLAIN (COSTS OFF) SELECT es_envelope(e) FROM es_read_stream('Scan-1') AS e;
-- the number of rows is known, or estimated
CREATE FUNCTION scan_rows(query text) RETURNS float8 LANGUAGE plpgsql AS $$
DECLARE
    plan json;
BEGIN
    EXECUTE 'EXPLAIN (FORMAT json) ' || query INTO plan;
    RETURN plan->0->'Plan'->>'Plan Rows';
END
$$;
SELECT scan_rows('SELECT * FROM es_read_all(0, 7)'), scan_rows('SELECT * FROM es_read_stream(''a'')'),
       scan_rows('SELECT * FROM es_read_stream(''a'', max_count => 3)');

--
-- What is not
--

EXPLAIN (COSTS OFF) SELECT * FROM es_read_stream('Scan-1') WITH ORDINALITY;
EXPLAIN (COSTS OFF) SELECT * FROM ROWS FROM (es_read_stream('Scan-1'), es_read_stream('Scan-2'));
EXPLAIN (COSTS OFF) SELECT es_read_stream('Scan-1');
EXPLAIN (COSTS OFF) SELECT * FROM es_read_stream('Scan-' || floor(random())::text);
CREATE TABLE scan_table (id int, version bigint);
CREATE FUNCTION scan_nodes(query text) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
    plan jsonb;
BEGIN
    EXECUTE 'EXPLAIN (FORMAT json) ' || query INTO plan;
    RETURN (SELECT string_agg(DISTINCT n#>>'{}', ', ') FROM jsonb_path_query(plan, '$.**."Node Type"') AS n WHERE n#>>'{}' IN ('Function Scan', 'Custom Scan'));
END
$$;
SELECT q, scan_nodes(q) FROM (VALUES
    ('SELECT e.version FROM scan_table AS t, es_read_stream(''Scan-1'') AS e FOR UPDATE OF t'),
    ('SELECT e.version FROM scan_table AS t, es_read_stream(''Scan-1'') AS e'),
    ('UPDATE scan_table AS t SET version = e.version FROM es_read_stream(''Scan-1'') AS e'),
    ('UPDATE scan_table AS t SET version = e.version FROM (SELECT version FROM es_read_stream(''Scan-1'') LIMIT 1) AS e'),
    ('DELETE FROM scan_table WHERE version IN (SELECT version FROM es_read_stream(''Scan-1''))'),
    ('DELETE FROM scan_table WHERE version = (SELECT max(version) FROM es_read_stream(''Scan-1''))'),
    ('SELECT * FROM scan_table AS t, LATERAL es_read_stream((SELECT ''Scan-'' || t.id))')
) AS v (q);
-- but what is inserted is
EXPLAIN (COSTS OFF) INSERT INTO scan_table SELECT 1, version FROM es_read_stream('Scan-1');
SET event_store.enable_eventscan = off;
EXPLAIN (COSTS OFF) SELECT * FROM es_read_all() ORDER BY global_position LIMIT 10;
RESET event_store.enable_eventscan;
-- a function that was given a setting runs with it
BEGIN;
ALTER FUNCTION es_read_stream SET work_mem = '1MB';
EXPLAIN (COSTS OFF) SELECT * FROM es_read_stream('Scan-1');
ROLLBACK;
-- and another one of that name is another one
CREATE SCHEMA scan_other;
CREATE FUNCTION scan_other.es_read_stream(text) RETURNS SETOF es_event LANGUAGE sql VOLATILE AS $$ SELECT * FROM es_read_stream($1, NULL, 1) $$;
SELECT version FROM scan_other.es_read_stream('Scan-1');

--
-- Both say the same
--

CREATE FUNCTION scan_differs(query text) RETURNS bigint LANGUAGE plpgsql AS $$
DECLARE
    a text[];
    b text[];
BEGIN
    SET LOCAL event_store.enable_eventscan = on;
    EXECUTE format('SELECT array_agg(q::text) FROM (%s) AS q', query) INTO a;
    SET LOCAL event_store.enable_eventscan = off;
    EXECUTE format('SELECT array_agg(q::text) FROM (%s) AS q', query) INTO b;
    IF a IS DISTINCT FROM b THEN
        RAISE WARNING '% differs: % and %', query, a, b;
    END IF;
    RETURN cardinality(a);
END
$$;
-- the comparison notices a difference
SET client_min_messages = error;
SELECT scan_differs($$SELECT current_setting('event_store.enable_eventscan') FROM es_read_stream('Scan-1', 1, 1)$$);
RESET client_min_messages;

SELECT scan_differs(format(q, :base)) AS rows, q FROM (VALUES
    (1, 'SELECT * FROM es_read_all(%s, NULL)'),
    (2, 'SELECT e FROM es_read_all(%s, NULL) AS e'),
    (3, 'SELECT created_at FROM es_read_all(%s, 10)'),
    (4, 'SELECT metadata, event_id FROM es_read_all(%s + 7, 10)'),
    (5, 'SELECT event_type, stream_id FROM es_read_all(%s, NULL, ''{Scan}'')'),
    (6, 'SELECT schema_version, length(data::text) FROM es_read_all(%s, NULL, NULL, ''{Paid,Placed}'')'),
    (7, 'SELECT * FROM es_read_all(%s, 20, ''{Scan,ScanLarge}'', ''{Placed}'')'),
    (8, 'SELECT * FROM es_read_all(%s, 20, ''{}'')'),
    (9, 'SELECT global_position - %s, version FROM es_read_all(backward => true, max_count => 50)'),
    (10, 'SELECT * FROM es_read_all(%s + 30, 10, backward => true)'),
    (11, 'SELECT * FROM es_read_all(%s, 0)'),
    (12, 'SELECT count(*) FROM es_read_all(%s, NULL)'),
    (13, 'SELECT count(*), sum((data->>''i'')::int) FROM es_read_category(''Scan'', %s)'),
    (14, 'SELECT version, data FROM es_read_category(''Scan'', %s, 10) ORDER BY global_position'),
    (15, 'SELECT version, data FROM es_read_category(''Scan'', %s, 10) ORDER BY global_position DESC'),
    (16, 'SELECT * FROM es_read_category(''Scan'', %s + 50, 7, true) ORDER BY global_position DESC'),
    (17, 'SELECT * FROM es_read_stream(''Scan-1'')'),
    (18, 'SELECT * FROM es_read_stream(''Scan-1'', 3, 4)'),
    (19, 'SELECT * FROM es_read_stream(''Scan-1'', 9, 4, true) ORDER BY version DESC'),
    (20, 'SELECT * FROM es_read_stream(''Scan-1'', 9, 4, true) ORDER BY version'),
    (21, 'SELECT * FROM es_read_stream(''Scan-none'')'),
    (22, 'SELECT * FROM es_read_stream(''Scan-1'', 99)'),
    (23, 'SELECT * FROM es_read_stream(''Scan-1'', max_count => 0)'),
    (24, 'SELECT e.* FROM generate_series(0, 9) AS i, es_read_stream(''Scan-'' || i, 2, i) AS e'),
    (25, 'SELECT i, e.version, e IS NULL FROM generate_series(0, 9) AS i LEFT JOIN es_read_stream(''Scan-'' || i, 5, 2) AS e ON e.event_type <> ''Paid'''),
    (26, 'SELECT a.version, b.stream_id FROM es_read_stream(''Scan-1'') AS a JOIN es_read_stream(''Scan-2'') AS b USING (version)'),
    (27, 'SELECT a.global_position FROM es_read_all(%s) AS a JOIN es_read_category(''Scan'', %1$s) AS b USING (global_position) ORDER BY 1'),
    (28, 'SELECT i, (SELECT count(*) FROM es_read_all(%s) WHERE global_position - %1$s < i) FROM generate_series(1, 5) AS i'),
    (29, 'SELECT i, (SELECT max(version) FROM es_read_stream(''Scan-'' || i)) FROM generate_series(0, 9) AS i'),
    (30, 'SELECT * FROM es_read_all((SELECT %s + 3), (SELECT 5)) WHERE version > (SELECT 1)'),
    (31, 'SELECT stream_id, count(*) FROM es_read_all(%s, NULL) GROUP BY ROLLUP (stream_id) ORDER BY 1'),
    (32, 'SELECT stream_id, row_number() OVER (ORDER BY global_position) FROM es_read_all(%s, 10)'),
    (33, 'SELECT version FROM es_read_stream(''Scan-1'') UNION ALL SELECT version FROM es_read_stream(''Scan-2'')'),
    (34, 'SELECT (e).data, e.stream_id FROM es_read_stream(''Scan-1'') AS e WHERE e.version IN (SELECT version FROM es_read_stream(''Scan-2'', 3, 3))'),
    (35, 'SELECT es_envelope(e) FROM es_read_all(%s, 5) AS e'),
    (36, 'SELECT jsonb_array_length(data), e FROM es_read_stream(''ScanLarge-1'') AS e'),
    (37, 'WITH RECURSIVE w AS (SELECT 1 AS v UNION ALL SELECT w.v + 1 FROM w, es_read_stream(''Scan-1'', w.v + 1, 1)) SELECT * FROM w'),
    (38, 'SELECT * FROM (SELECT data FROM es_read_all(%s) LIMIT 5 OFFSET 3) AS s'),
    (39, 'SELECT max(global_position) - %s, min(global_position) - %1$s FROM es_read_all(%1$s)'),
    (40, 'SELECT length(event_type), length(stream_id) FROM es_read_all(backward => true, max_count => 3)'),
    (41, 'SELECT * FROM es_read_query(''{"items": [{"tags": ["scan:1"]}, {"event_types": ["Paid"]}]}'', %s)'),
    (42, 'SELECT e, e.stream_id, e.version FROM es_read_query(''{"items": [{"tags": ["scan:2"]}]}'', backward => true) AS e ORDER BY global_position DESC'),
    (43, 'SELECT stream_id, version, data FROM es_read_all(%s, NULL) ORDER BY stream_id NULLS FIRST, version, global_position')
) AS v (n, q) ORDER BY n;

--
-- Rescans
--

-- the planner would rather keep the rows
SET enable_material = off;
SET enable_hashjoin = off;
SET enable_mergejoin = off;
SELECT scan_differs('SELECT a.version, b.version FROM es_read_stream(''Scan-1'') AS a LEFT JOIN es_read_category(''Scan'', NULL, 40) AS b ON a.version > b.version');
SELECT scan_differs('SELECT a.i, b.version FROM generate_series(1, 3) AS a (i) LEFT JOIN es_read_stream(''Scan-1'', 3) AS b ON b.version < a.i * 3');
RESET enable_material;
RESET enable_hashjoin;
RESET enable_mergejoin;

--
-- Cursors, in both directions
--

CREATE FUNCTION scan_moves(query text, scan boolean) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
    c refcursor := 'scan_cursor';
    v bigint;
    result text = '';
    move text;
BEGIN
    PERFORM set_config('event_store.enable_eventscan', scan::text, true);
    EXECUTE 'DECLARE scan_cursor SCROLL CURSOR FOR ' || query;
    FOREACH move IN ARRAY string_to_array('NEXT NEXT PRIOR PRIOR PRIOR NEXT NEXT NEXT LAST NEXT PRIOR NEXT NEXT PRIOR PRIOR FIRST PRIOR NEXT ABSOLUTE5 PRIOR RELATIVE-2 ABSOLUTE99 PRIOR ABSOLUTE-2 NEXT', ' ')
    LOOP
        CASE
            WHEN move = 'NEXT' THEN FETCH NEXT FROM c INTO v;
            WHEN move = 'PRIOR' THEN FETCH PRIOR FROM c INTO v;
            WHEN move = 'FIRST' THEN FETCH FIRST FROM c INTO v;
            WHEN move = 'LAST' THEN FETCH LAST FROM c INTO v;
            WHEN move = 'ABSOLUTE5' THEN FETCH ABSOLUTE 5 FROM c INTO v;
            WHEN move = 'ABSOLUTE99' THEN FETCH ABSOLUTE 99 FROM c INTO v;
            WHEN move = 'ABSOLUTE-2' THEN FETCH ABSOLUTE -2 FROM c INTO v;
            WHEN move = 'RELATIVE-2' THEN FETCH RELATIVE -2 FROM c INTO v;
        END CASE;
        result = result || coalesce(v::text, '-') || ' ';
    END LOOP;
    CLOSE c;
    RETURN result;
END
$$;
SELECT replace(q, :'base', '0') AS query, scan_moves(q, true) AS scan, scan_moves(q, true) = scan_moves(q, false) AS same FROM (VALUES
    ('SELECT version FROM es_read_stream(''Scan-1'')'),
    ('SELECT version FROM es_read_stream(''Scan-1'', 3)'),
    ('SELECT version FROM es_read_stream(''Scan-1'', 3, 4)'),
    ('SELECT version FROM es_read_stream(''Scan-1'', 8, backward => true)'),
    ('SELECT version FROM es_read_stream(''Scan-1'', 8, 3, true)'),
    ('SELECT version FROM es_read_stream(''Scan-1'', 8, 1, true)'),
    ('SELECT version FROM es_read_stream(''Scan-1'') WHERE version % 3 = 0'),
    ('SELECT version FROM es_read_stream(''Scan-1'', max_count => 0)'),
    ('SELECT version FROM es_read_stream(''Scan-none'')'),
    ('SELECT (data->>''i'')::bigint FROM es_read_category(''Scan'', max_count => 8)'),
    ('SELECT (data->>''i'')::bigint FROM es_read_category(''Scan'', max_count => 8, backward => true)'),
    (format('SELECT global_position - %1$s FROM es_read_all(%1$s, 8)', :base)),
    (format('SELECT global_position - %1$s FROM es_read_all(%1$s, 8, ''{Scan}'', ''{Paid,Placed}'')', :base)),
    (format('SELECT global_position - %1$s FROM es_read_all(%1$s + 9, 8, backward => true)', :base)),
    (format('SELECT global_position - %1$s FROM es_read_all(%1$s + 5, NULL, ''{Scan}'', ''{Paid}'', true) WHERE global_position > %1$s', :base))
) AS v (q);
-- without SCROLL, too
BEGIN;
DECLARE c CURSOR FOR SELECT version FROM es_read_stream('Scan-1');
FETCH 3 FROM c;
FETCH BACKWARD 2 FROM c;
-- what is appended meanwhile belongs to a later snapshot, and a savepoint is nothing to the cursor
SAVEPOINT s;
SELECT count(*) FROM es_append('Scan-1', es_any(), 'Late', '1');
FETCH 1 FROM c;
ROLLBACK TO s;
SELECT count(*) FROM es_append('Scan-1', es_any(), 'Late', '2');
MOVE FORWARD ALL FROM c;
FETCH BACKWARD 1 FROM c;
ROLLBACK;
-- what a cursor holds over the end of its transaction
BEGIN;
DECLARE c CURSOR WITH HOLD FOR SELECT version FROM es_read_stream('Scan-1', 5);
FETCH 1 FROM c;
COMMIT;
SELECT count(*) FROM es_append('Scan-1', es_any(), 'Late', '3');
FETCH 2 FROM c;
MOVE FORWARD ALL FROM c;
CLOSE c;
-- an error in the middle, caught
DO $$
DECLARE
    e record;
    n int = 0;
BEGIN
    FOR e IN SELECT version, data FROM es_read_stream('Scan-1') LOOP
        BEGIN
            PERFORM count(*), sum(1 / (4 - version)) FROM es_read_stream('Scan-2');
        EXCEPTION WHEN division_by_zero THEN
            n = n + 1;
        END;
    END LOOP;
    RAISE NOTICE 'caught % times', n;
END
$$;
-- a loop over events that commits
CREATE TABLE scan_done (version bigint);
DO $$
DECLARE
    e record;
BEGIN
    FOR e IN SELECT version FROM es_read_stream('Scan-3') LOOP
        INSERT INTO scan_done VALUES (e.version);
        IF e.version % 5 = 0 THEN
            COMMIT;
        ELSIF e.version % 7 = 0 THEN
            ROLLBACK;
        END IF;
    END LOOP;
END
$$;
SELECT count(*), max(version) FROM scan_done;
DROP TABLE scan_done;
-- events appended while their stream is read
SELECT count(a.version), max(a.version) FROM es_read_stream('Scan-2') AS e, LATERAL es_append('Scan-2', es_any(), 'Echo', e.data) AS a;
SELECT count(*), count(*) FILTER (WHERE event_type = 'Echo') FROM es_read_stream('Scan-2');

--
-- Prepared statements and rights
--

SET plan_cache_mode = force_generic_plan;
PREPARE scan(text, bigint, boolean) AS SELECT version, data->'i' AS i FROM es_read_stream($1, max_count => $2, backward => $3) ORDER BY version;
EXPLAIN (COSTS OFF) EXECUTE scan('Scan-1', 2, true);
EXECUTE scan('Scan-1', 2, true);
EXECUTE scan('Scan-2', 2, false);
-- a bad value comes when it is executed
EXECUTE scan('Scan-2', -1, false);
EXECUTE scan(NULL, 1, false);
EXECUTE scan('Scan-2', 1, NULL);
EXPLAIN (COSTS OFF) SELECT * FROM es_read_category('with-dash');
SELECT count(*) FROM es_read_category('with-dash');
SELECT count(*) FROM es_read_all(9223372036854775807) WHERE false;
\set VERBOSITY sqlstate
SELECT count(*) FROM es_read_all(9223372036854775807);
\set VERBOSITY default
-- the plan goes when the function changes
BEGIN;
ALTER FUNCTION es_read_stream SET work_mem = '1MB';
EXPLAIN (COSTS OFF) EXECUTE scan('Scan-1', 2, true);
ROLLBACK;
CREATE ROLE scan_reader;
SET ROLE scan_reader;
EXECUTE scan('Scan-1', 1, false);
EXPLAIN SELECT * FROM es_read_all();
RESET ROLE;
SELECT es_grant('scan_reader', 'reader');
SET ROLE scan_reader;
EXECUTE scan('Scan-1', 1, false);
RESET ROLE;
-- policies are asked for whoever reads, by a plan that is older than they are
ALTER TABLE event_store.event ENABLE ROW LEVEL SECURITY;
CREATE POLICY scan_policy ON event_store.event FOR SELECT TO scan_reader USING (version > 3);
EXECUTE scan('Scan-1', 1, false);
SET ROLE scan_reader;
EXECUTE scan('Scan-1', 1, false);
SELECT count(*) FROM es_read_stream('Scan-1') WHERE version <= 3;
SELECT min(version) FROM es_read_category('Scan', NULL, NULL);
-- a cursor keeps the rights of whom it was opened by
BEGIN;
DECLARE c CURSOR FOR SELECT version FROM es_read_stream('Scan-1', backward => true, from_version => 5);
FETCH 1 FROM c;
RESET ROLE;
FETCH ALL FROM c;
ROLLBACK;
RESET ROLE;
-- a function with its owner's rights reads with them
CREATE FUNCTION scan_definer() RETURNS bigint LANGUAGE sql SECURITY DEFINER AS $$ SELECT min(version) FROM es_read_stream('Scan-1') $$;
SET ROLE scan_reader;
SELECT scan_definer(), min(version) FROM es_read_stream('Scan-1');
SET row_security = off;
SELECT count(*) FROM es_read_stream('Scan-1');
RESET row_security;
RESET ROLE;
DROP POLICY scan_policy ON event_store.event;
ALTER TABLE event_store.event DISABLE ROW LEVEL SECURITY;
SELECT es_revoke('scan_reader', 'reader');
DROP ROLE scan_reader;
RESET plan_cache_mode;
DEALLOCATE scan;

--
-- Upcasters: called for the columns that they make, and only if these are used
--

CREATE FUNCTION scan_upcast(data jsonb) RETURNS jsonb LANGUAGE plpgsql IMMUTABLE AS $$
BEGIN
    IF (data->>'i')::int = 8 THEN
        RAISE EXCEPTION 'eight';
    END IF;
    RETURN data || '{"today": true}';
END
$$;
SELECT es_define_upcaster('Shipped', 1, 'scan_upcast(jsonb)', 'Sent', 2);
SELECT event_type, schema_version, count(*) FROM es_read_stream('Scan-1') GROUP BY 1, 2 ORDER BY 1;
SELECT count(*) FROM es_read_category('Scan');
SELECT count(*) FROM es_read_all(:base, NULL, NULL, '{Sent}');
SELECT version, event_type, data - 'pad' AS data FROM es_read_stream('Scan-1', 3, 3);
SELECT version FROM es_read_stream('Scan-1', 2, 1);
\set VERBOSITY terse
SELECT version, data FROM es_read_stream('Scan-1', 2, 1);
SELECT e FROM es_read_stream('Scan-1', 2, 1) AS e;
\set VERBOSITY default
SELECT scan_differs('SELECT * FROM es_read_stream(''Scan-1'', 3)');
SELECT es_drop_upcaster('Shipped', 1);

-- what a query lists anew with each rescan is not kept (13 has no view of memory)
CREATE FUNCTION scan_memory() RETURNS bigint LANGUAGE plpgsql AS $$
DECLARE
    used bigint := 0;
BEGIN
    IF to_regclass('pg_backend_memory_contexts') IS NOT NULL THEN
        EXECUTE $sql$SELECT sum(used_bytes) FROM pg_backend_memory_contexts WHERE name LIKE 'event_store%'$sql$ INTO used;
    END IF;
    RETURN used;
END
$$;
BEGIN;
DECLARE scan_cursor CURSOR FOR
    SELECT (SELECT e.version FROM es_read_query('{"items": [{"streams": ["Scan-1"], "event_types": ["Placed"]}]}') e
             WHERE e.version % 5 = i % 5 LIMIT 1) FROM generate_series(1, 10000) i;
MOVE 100 FROM scan_cursor;
SELECT scan_memory() AS before \gset
MOVE 2000 FROM scan_cursor;
SELECT scan_memory() - :before < 10000 AS flat;
COMMIT;
DROP FUNCTION scan_memory;

--
-- Plans that outlive the schema's name, or the extension
--

DROP VIEW scan_view;
DROP TABLE scan_table;
DROP SCHEMA scan_other CASCADE;
DROP FUNCTION scan_inlined, scan_rows, scan_nodes, scan_differs, scan_moves, scan_definer, scan_upcast;
SELECT current_database() AS database \gset
CREATE DATABASE scan_plans;
\c scan_plans
CREATE SCHEMA scan_store;
CREATE EXTENSION event_store SCHEMA scan_store;
SELECT version FROM scan_store.es_append('Old-1', 0, 'Placed', '1');
SET plan_cache_mode = force_generic_plan;
PREPARE scan(bigint) AS SELECT stream_id FROM scan_store.es_read_all($1);
EXPLAIN (COSTS OFF) EXECUTE scan(0);
EXECUTE scan(0);
CREATE FUNCTION scan_kept() RETURNS text LANGUAGE plpgsql AS $$
BEGIN
    RETURN (SELECT stream_id FROM scan_store.es_read_all() LIMIT 1);
END
$$;
SELECT scan_kept();
SET client_min_messages = error;
DROP EXTENSION event_store;
RESET client_min_messages;
\set VERBOSITY sqlstate
EXECUTE scan(0);
SELECT scan_kept();
\set VERBOSITY terse
CREATE EXTENSION event_store SCHEMA scan_store;
EXECUTE scan(0);
SELECT version FROM scan_store.es_append('New-1', 0, 'Placed', '1');
EXECUTE scan(0);
SELECT scan_kept();
ALTER SCHEMA scan_store RENAME TO scan_renamed;
EXECUTE scan(0);
EXPLAIN (COSTS OFF) SELECT * FROM scan_renamed.es_read_all();
-- with the functions of 0.1, nothing is scanned until they are updated
SET client_min_messages = error;
DROP EXTENSION event_store;
RESET client_min_messages;
CREATE EXTENSION event_store SCHEMA scan_renamed VERSION '0.1';
EXPLAIN (COSTS OFF) SELECT * FROM scan_renamed.es_read_all();
ALTER EXTENSION event_store UPDATE TO '0.2';
EXPLAIN (COSTS OFF) SELECT * FROM scan_renamed.es_read_all();
\c :database
DROP DATABASE scan_plans WITH (FORCE);
