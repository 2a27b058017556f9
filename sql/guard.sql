-- Append-only: every other way to change the store is refused, to everybody
\set SHOW_CONTEXT never
\pset format unaligned
\pset tuples_only on

SELECT count(*) FROM es_append_batch('Guard-1', 0, '{A,B}', '{1,2}');
SELECT es_snapshot('Guard-1', 2, '{}');
CREATE TEMP TABLE before AS
    SELECT 'event' AS name, count(*), md5(string_agg(t::text, ',' ORDER BY t::text)) AS md5 FROM event_store.event AS t
    UNION ALL SELECT 'stream', count(*), md5(string_agg(t::text, ',' ORDER BY t::text)) FROM event_store.stream AS t
    UNION ALL SELECT 'event_type', count(*), md5(string_agg(t::text, ',' ORDER BY t::text)) FROM event_store.event_type AS t
    UNION ALL SELECT 'mark', count(*), md5(string_agg(t::text, ',' ORDER BY t::text)) FROM event_store.mark AS t;

CREATE FUNCTION pg_temp.error(statement text) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
    message text;
    detail text;
    hint text;
BEGIN
    EXECUTE statement;
    RETURN 'no error';
EXCEPTION WHEN OTHERS THEN
    GET STACKED DIAGNOSTICS message = MESSAGE_TEXT, detail = PG_EXCEPTION_DETAIL, hint = PG_EXCEPTION_HINT;
    RETURN concat_ws(' / ', sqlstate || ': ' || message, nullif(detail, ''), nullif(hint, ''));
END
$$;

-- The statements.  MERGE is there from 15 on; before, the same is done by UPDATE.
CREATE TEMP TABLE statement (n serial, sql text);
INSERT INTO statement (sql) VALUES
    ('UPDATE event_store.%I SET %I = %2$I'),
    ('UPDATE event_store.%I SET %I = %2$I WHERE false'),
    ('DELETE FROM event_store.%I'),
    ('DELETE FROM event_store.%I WHERE false'),
    ('DELETE FROM ONLY event_store.%I AS t USING pg_class AS c WHERE c.oid = 1'),
    ('TRUNCATE event_store.%I'),
    ('TRUNCATE event_store.%I RESTART IDENTITY CASCADE'),
    ('INSERT INTO event_store.%I SELECT * FROM event_store.%1$I'),
    ('INSERT INTO event_store.%I SELECT * FROM event_store.%1$I WHERE false'),
    ('INSERT INTO event_store.%I DEFAULT VALUES'),
    ('INSERT INTO event_store.%I SELECT * FROM event_store.%1$I ON CONFLICT DO NOTHING'),
    ('WITH gone AS (DELETE FROM event_store.%I RETURNING *) SELECT count(*) FROM gone'),
    (CASE WHEN current_setting('server_version_num')::int >= 150000
          THEN 'MERGE INTO event_store.%I AS t USING event_store.%1$I AS s ON t.%2$I = s.%2$I WHEN MATCHED THEN DELETE'
          ELSE 'DELETE FROM event_store.%I AS t USING event_store.%1$I AS s WHERE t.%2$I = s.%2$I' END),
    (CASE WHEN current_setting('server_version_num')::int >= 150000
          THEN 'MERGE INTO event_store.%I AS t USING event_store.%1$I AS s ON t.%2$I = s.%2$I WHEN MATCHED THEN UPDATE SET %2$I = s.%2$I'
          ELSE 'UPDATE event_store.%I AS t SET %2$I = s.%2$I FROM event_store.%1$I AS s WHERE t.%2$I = s.%2$I' END);
CREATE TEMP TABLE guarded (name text, key text);
INSERT INTO guarded VALUES ('event', 'global_position'), ('stream', 'stream_no'), ('event_type', 'type_no'), ('mark', 'global_position');

--
-- As superuser
--

SELECT n || ' ' || pg_temp.error(format(sql, 'event', 'global_position')) FROM statement ORDER BY n;
SELECT name || ': ' || string_agg(left(pg_temp.error(format(sql, name, key)), 5), ' ' ORDER BY n) FROM statement, guarded GROUP BY name ORDER BY name;
-- every column
SELECT c.attname || ' ' || left(pg_temp.error(format('UPDATE event_store.event SET %I = %1$I', c.attname)), 5)
  FROM pg_attribute AS c WHERE c.attrelid = 'event_store.event'::regclass AND c.attnum > 0 AND NOT c.attisdropped ORDER BY c.attnum;
-- several tables at once
SELECT pg_temp.error('TRUNCATE event_store.snapshot, event_store.event');
-- rows
SELECT pg_temp.error($$INSERT INTO event_store.event VALUES (1000000000, 1, now(), '00000000-0000-4000-8000-0000009a0001', 1, 1, 1, '{}', '{}')$$);
SELECT pg_temp.error($$INSERT INTO event_store.stream VALUES (1000000000, 'Guard-2')$$);
SELECT pg_temp.error($$INSERT INTO event_store.event_type VALUES (1000000000, 'Guard', 'A')$$);
SELECT pg_temp.error($$INSERT INTO event_store.mark VALUES (1000000000)$$);
-- COPY, with rows and without
COPY event_store.event FROM stdin;
1000000000	1	2020-01-01	00000000-0000-4000-8000-0000009a0001	1	1	1	{}	{}
\.
COPY event_store.stream FROM stdin;
\.
COPY event_store.event_type FROM stdin;
1000000000	Guard	A
\.
COPY event_store.mark FROM stdin;
1000000000
\.
COPY (SELECT version, event_type FROM event_store.events WHERE stream_id = 'Guard-1' ORDER BY version) TO stdout;
-- the view cannot be written either
SELECT left(pg_temp.error('DELETE FROM event_store.events'), 5);
SELECT left(pg_temp.error('UPDATE event_store.events SET version = 0'), 5);
SELECT left(pg_temp.error('INSERT INTO event_store.events SELECT * FROM event_store.events'), 5);
-- cursors
BEGIN;
DECLARE c CURSOR FOR SELECT * FROM event_store.event FOR UPDATE;
MOVE 1 FROM c;
SELECT pg_temp.error('DELETE FROM event_store.event WHERE CURRENT OF c');
ROLLBACK;

--
-- session_replication_role = replica, by which ordinary triggers are passed
--

SET session_replication_role = replica;
SELECT name || ': ' || string_agg(left(pg_temp.error(format(sql, name, key)), 5), ' ' ORDER BY n) FROM statement, guarded GROUP BY name ORDER BY name;
RESET session_replication_role;

--
-- A restore is let through, changes are not; one setting of the two is not enough
--

SET row_security = off;
SELECT pg_temp.error($$INSERT INTO event_store.mark VALUES (1000000000)$$);
SET check_function_bodies = off;
BEGIN;
SELECT pg_temp.error($$INSERT INTO event_store.mark VALUES (1000000000)$$);
COPY event_store.stream FROM stdin;
-1	Guard-restored
\.
SELECT count(*) FROM event_store.stream WHERE stream_id = 'Guard-restored';
SELECT name || ': ' || string_agg(left(pg_temp.error(format(sql, name, key)), 5), ' ' ORDER BY n) FROM statement, guarded
 WHERE sql !~ '^INSERT' GROUP BY name ORDER BY name;
ROLLBACK;
SET row_security = on;
SELECT pg_temp.error($$INSERT INTO event_store.mark VALUES (1000000000)$$);
RESET check_function_bodies;
RESET row_security;

--
-- Others, even with every privilege
--

SET client_min_messages = warning;
DROP ROLE IF EXISTS regress_es_guard_all, regress_es_guard_owner;
RESET client_min_messages;
CREATE ROLE regress_es_guard_all;
GRANT USAGE ON SCHEMA event_store TO regress_es_guard_all;
GRANT ALL ON ALL TABLES IN SCHEMA event_store TO regress_es_guard_all;
GRANT SELECT ON statement, guarded TO regress_es_guard_all;
SET ROLE regress_es_guard_all;
SELECT name || ': ' || string_agg(left(pg_temp.error(format(sql, name, key)), 5), ' ' ORDER BY n) FROM statement, guarded GROUP BY name ORDER BY name;
SET row_security = off;
SET check_function_bodies = off;
SELECT pg_temp.error($$INSERT INTO event_store.mark VALUES (1000000000)$$);
RESET check_function_bodies;
RESET row_security;
SELECT left(pg_temp.error('SET session_replication_role = replica'), 5);
SELECT left(pg_temp.error('ALTER TABLE event_store.event DISABLE TRIGGER ALL'), 5);
RESET ROLE;
REVOKE ALL ON ALL TABLES IN SCHEMA event_store FROM regress_es_guard_all;
REVOKE ALL ON SCHEMA event_store FROM regress_es_guard_all;
REVOKE ALL ON statement, guarded FROM regress_es_guard_all;
DROP ROLE regress_es_guard_all;

-- the owner of a table who is no superuser
CREATE ROLE regress_es_guard_owner;
BEGIN;
GRANT USAGE, CREATE ON SCHEMA event_store TO regress_es_guard_owner;
ALTER TABLE event_store.event OWNER TO regress_es_guard_owner;
GRANT SELECT ON statement, guarded TO regress_es_guard_owner;
SET ROLE regress_es_guard_owner;
SELECT name || ': ' || string_agg(left(pg_temp.error(format(sql, name, key)), 5), ' ' ORDER BY n) FROM statement, guarded WHERE name = 'event' GROUP BY name;
ROLLBACK;
DROP ROLE regress_es_guard_owner;

--
-- The guard cannot be used otherwise, nor dropped alone
--

SELECT pg_temp.error('SELECT event_store.es_guard()');
SELECT left(pg_temp.error('DROP FUNCTION event_store.es_guard()'), 5);
SELECT left(pg_temp.error('DROP TABLE event_store.event'), 5);
SELECT left(pg_temp.error('DROP TABLE event_store.event CASCADE'), 5);
SELECT left(pg_temp.error('DROP SCHEMA event_store CASCADE'), 5);
-- who may alter the table can switch it off on purpose
BEGIN;
ALTER TABLE event_store.event DISABLE TRIGGER es_guard_statement, DISABLE TRIGGER es_guard_row;
SELECT pg_temp.error('DELETE FROM event_store.event WHERE false');
ROLLBACK;
-- every table that holds events is guarded, in every mode
SELECT c.relname || ' ' || count(*) || ' ' || string_agg(DISTINCT t.tgenabled::text, '')
  FROM pg_trigger AS t JOIN pg_class AS c ON c.oid = t.tgrelid
 WHERE t.tgfoid = 'event_store.es_guard'::regproc AND c.relname IN (SELECT name FROM guarded) GROUP BY c.relname ORDER BY c.relname COLLATE "C";

-- snapshots are a cache: they may be thrown away
BEGIN;
SELECT pg_temp.error('DELETE FROM event_store.snapshot');
SELECT pg_temp.error('TRUNCATE event_store.snapshot');
ROLLBACK;

-- nothing has changed
SELECT count(*) FROM (
    SELECT 'event' AS name, count(*), md5(string_agg(t::text, ',' ORDER BY t::text)) AS md5 FROM event_store.event AS t
    UNION ALL SELECT 'stream', count(*), md5(string_agg(t::text, ',' ORDER BY t::text)) FROM event_store.stream AS t
    UNION ALL SELECT 'event_type', count(*), md5(string_agg(t::text, ',' ORDER BY t::text)) FROM event_store.event_type AS t
    UNION ALL SELECT 'mark', count(*), md5(string_agg(t::text, ',' ORDER BY t::text)) FROM event_store.mark AS t
    INTERSECT SELECT * FROM before) AS same;
SELECT version FROM es_append('Guard-1', 2, 'C', '3');

--
-- Positions that would not be drawn one by one
--

ALTER SEQUENCE event_store.event_global_position_seq CACHE 100;
SELECT pg_temp.error($$SELECT es_append('Guard-1', 3, 'D', '4')$$);
ALTER SEQUENCE event_store.event_global_position_seq CACHE 1;
SELECT version FROM es_append('Guard-1', 3, 'D', '4');
