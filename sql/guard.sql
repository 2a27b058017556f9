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
-- What appends would not heed cannot be added.  What passes, in the end: indexes,
-- columns that are null, foreign keys that refer to events, triggers of a table
-- that is written by statements.
--

CREATE FUNCTION pg_temp.trigger() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN new; END';
CREATE DOMAIN pg_temp.short AS text CHECK (length(value) < 10);
CREATE DOMAIN pg_temp.five AS int DEFAULT 5;
CREATE TEMP TABLE ddl (n serial, sql text);
INSERT INTO ddl (sql) VALUES
    ('CREATE TRIGGER t AFTER INSERT ON event_store.%I FOR EACH ROW EXECUTE FUNCTION pg_temp.trigger()'),
    ('CREATE TRIGGER t BEFORE INSERT OR UPDATE ON event_store.%I FOR EACH ROW EXECUTE FUNCTION pg_temp.trigger()'),
    ('CREATE TRIGGER t AFTER DELETE OR INSERT ON event_store.%I FOR EACH STATEMENT EXECUTE FUNCTION pg_temp.trigger()'),
    ('CREATE CONSTRAINT TRIGGER t AFTER INSERT ON event_store.%I DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION pg_temp.trigger()'),
    ('CREATE RULE r AS ON INSERT TO event_store.%I DO ALSO SELECT 1'),
    ('CREATE RULE r AS ON INSERT TO event_store.%I DO INSTEAD NOTHING'),
    ('ALTER TABLE event_store.%I ADD COLUMN five int DEFAULT 5'),
    ('ALTER TABLE event_store.%I ADD COLUMN five int, ALTER COLUMN five SET DEFAULT 5'),
    ('ALTER TABLE event_store.%I ADD COLUMN five int NOT NULL DEFAULT 5'),
    ('ALTER TABLE event_store.%I ADD COLUMN five int GENERATED BY DEFAULT AS IDENTITY'),
    ('ALTER TABLE event_store.%I ADD COLUMN five serial'),
    ('ALTER TABLE event_store.%I ADD COLUMN five pg_temp.five'),
    ('ALTER TABLE event_store.%I ADD COLUMN five pg_temp.short'),
    ('ALTER TABLE event_store.%I ADD COLUMN five bigint GENERATED ALWAYS AS (%I + 5) STORED'),
    ('ALTER TABLE event_store.%I ADD CHECK (%I > -5)'),
    ('ALTER TABLE event_store.%I ADD CHECK (%I > -5) NOT VALID'),
    ('ALTER TABLE event_store.%I ADD FOREIGN KEY (%I) REFERENCES event_store.stream NOT VALID'),
    ('ALTER TABLE event_store.%I ADD EXCLUDE (%I WITH =)'),
    -- these are heeded
    ('CREATE TRIGGER t AFTER UPDATE ON event_store.%I FOR EACH ROW EXECUTE FUNCTION pg_temp.trigger()'),
    ('CREATE INDEX ON event_store.%I ((%I + 5))'),
    ('ALTER TABLE event_store.%I ADD COLUMN five int');
SELECT n || ' ' || split_part(pg_temp.error(format(sql, 'event', 'global_position')), ' / Remove', 1) FROM ddl ORDER BY n LIMIT 18;
SELECT pg_temp.error(format(sql, 'event', 'global_position')) FROM ddl ORDER BY n LIMIT 1;
SELECT name || ': ' || string_agg(left(pg_temp.error(format(sql, name, key)), 5), ' ' ORDER BY n) FROM ddl, guarded WHERE n <= 18 GROUP BY name ORDER BY name;
BEGIN;
SELECT name || ': ' || string_agg(left(pg_temp.error(format(sql, name, key)), 8), ' ' ORDER BY n) FROM ddl, guarded WHERE n > 18 GROUP BY name ORDER BY name;
CREATE TABLE public.guard_reference (event bigint REFERENCES event_store.event);
CREATE TRIGGER t AFTER INSERT ON event_store.snapshot FOR EACH ROW EXECUTE FUNCTION pg_temp.trigger();
SELECT version FROM es_append('Guard-3', 0, 'New', '1');
SELECT es_snapshot('Guard-3', 1, '{}');
SELECT five IS NULL AS null_is_right FROM event_store.event ORDER BY global_position DESC LIMIT 1;
ROLLBACK;
-- other tables are nobody's concern
CREATE TABLE guard_other (five int DEFAULT 5 CHECK (five > 0));
CREATE TRIGGER t AFTER INSERT ON guard_other FOR EACH ROW EXECUTE FUNCTION pg_temp.trigger();
DROP TABLE guard_other;

-- Who gets past the event trigger finds the append refused: a new stream of a
-- new type writes three of the tables.
BEGIN;
ALTER EVENT TRIGGER event_store_ddl DISABLE;
CREATE FUNCTION pg_temp.append_beside(sql text) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
    result text;
BEGIN
    EXECUTE sql;
    result := pg_temp.error($e$SELECT es_append('Guard-' || g, 0, 'Type' || g, '{}') FROM gen_random_uuid() AS g$e$);
    RAISE EXCEPTION '%', result;
EXCEPTION WHEN raise_exception THEN
    RETURN left(result, 5);
END
$$;
SELECT name || ': ' || string_agg(pg_temp.append_beside(format(sql, name, key)), ' ' ORDER BY n) FROM ddl, guarded WHERE n <= 18 AND name <> 'mark' GROUP BY name ORDER BY name;
SELECT name || ': ' || string_agg(left(pg_temp.append_beside(format(sql, name, key)), 5), ' ' ORDER BY n) FROM ddl, guarded WHERE n > 18 AND name <> 'mark' GROUP BY name ORDER BY name;
-- appends write a mark about every 1024 positions
SELECT count(*) FROM es_append_batch('Guard-1', es_any(), array_fill('A'::text, ARRAY[2500]), array_fill('1'::jsonb, ARRAY[2500]));
CREATE TRIGGER t AFTER INSERT ON event_store.mark FOR EACH ROW EXECUTE FUNCTION pg_temp.trigger();
SELECT split_part(pg_temp.error($$SELECT es_append_batch('Guard-1', es_any(), array_fill('A'::text, ARRAY[2500]), array_fill('1'::jsonb, ARRAY[2500]))$$), ' / ', 1);
-- a trigger that does not fire is none
CREATE TRIGGER t AFTER INSERT ON event_store.event FOR EACH ROW EXECUTE FUNCTION pg_temp.trigger();
SELECT left(pg_temp.error($$SELECT es_append('Guard-1', es_any(), 'A', '1')$$), 5);
ALTER TABLE event_store.event DISABLE TRIGGER t;
SELECT pg_temp.error($$SELECT es_append('Guard-1', es_any(), 'A', '1')$$);
ALTER TABLE event_store.event ENABLE REPLICA TRIGGER t;
SELECT pg_temp.error($$SELECT es_append('Guard-1', es_any(), 'A', '1')$$);
SET LOCAL session_replication_role = replica;
SELECT left(pg_temp.error($$SELECT es_append('Guard-1', es_any(), 'A', '1')$$), 5);
ROLLBACK;

--
-- Columns and indexes that everybody relies on
--

-- what the error is when a command comes before a call, or the command's own
CREATE FUNCTION pg_temp.after(commands text, call text) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
    result text;
BEGIN
    EXECUTE commands;
    result := pg_temp.error(call);
    RAISE EXCEPTION '%', result;
EXCEPTION WHEN raise_exception THEN
    RETURN sqlerrm;
WHEN OTHERS THEN
    RETURN 'refused ' || sqlstate || ': ' || sqlerrm;
END
$$;
CREATE TEMP TABLE altered (n serial, sql text);
INSERT INTO altered (sql) VALUES
    ('ALTER TABLE event_store.event DROP COLUMN hash'),
    ('ALTER TABLE event_store.event RENAME COLUMN hash TO other'),
    ('ALTER TABLE event_store.event ALTER COLUMN hash TYPE text'),
    ('ALTER TABLE event_store.event RENAME COLUMN tags TO other'),
    ('ALTER TABLE event_store.mark ALTER COLUMN global_position TYPE numeric'),
    ('ALTER TABLE event_store.mark DROP COLUMN global_position, ADD COLUMN global_position bigint'),
    ('ALTER TABLE event_store.event RENAME COLUMN metadata TO other'),
    ('ALTER TABLE event_store.event RENAME COLUMN version TO other'),
    ('ALTER TABLE event_store.stream RENAME COLUMN stream_id TO other'),
    ('ALTER TABLE event_store.event_type RENAME COLUMN category TO other'),
    ('ALTER TABLE event_store.mark RENAME COLUMN global_position TO other');
SELECT n || ' ' || pg_temp.after(sql, $$SELECT es_append('Guard-1', es_any(), 'A', '1')$$) FROM altered ORDER BY n;
-- snapshots are written by statements, but read below them
SELECT pg_temp.after('ALTER TABLE event_store.snapshot DROP COLUMN data', $$SELECT es_read_snapshot('Guard-1')$$);
SELECT pg_temp.after('ALTER TABLE event_store.snapshot ALTER COLUMN version TYPE int', $$SELECT es_load('Guard-1')$$);
SELECT pg_temp.after('ALTER TABLE event_store.snapshot ALTER COLUMN data TYPE text', $$SELECT es_snapshot('Guard-1', 2, '{}')$$);
SELECT pg_temp.after('ALTER TABLE event_store.snapshot RENAME COLUMN data TO other', $$SELECT es_read_snapshot('Guard-1')$$);
-- past the event trigger both appends and reads are refused
BEGIN;
ALTER EVENT TRIGGER event_store_ddl DISABLE;
SELECT n || ' ' || pg_temp.after(sql, $$SELECT es_append('Guard-1', es_any(), 'A', '1')$$) FROM altered ORDER BY n;
SELECT n || ' ' || left(pg_temp.after(sql, $$SELECT * FROM es_read_all()$$), 5) FROM altered ORDER BY n;
SELECT n || ' ' || left(pg_temp.after(sql, $$SELECT * FROM es_verify()$$), 5) FROM altered ORDER BY n;
ROLLBACK;
-- null is written into these; NOT NULL comes by a catalog that is changed, for there are events that have null there
CREATE TEMP TABLE nullable AS
    SELECT n, c[1] AS relname, c[2] AS attname,
           format('UPDATE pg_attribute SET attnotnull = true WHERE attrelid = %L::regclass AND attname = %L; ', 'event_store.' || c[1], c[2]) AS sql
      FROM unnest(ARRAY['event stream_no', 'event version', 'event tags', 'event hash', 'event_type category']) WITH ORDINALITY AS d (name, n),
           string_to_array(name, ' ') AS c;
SELECT n || ' ' || pg_temp.after(sql || format('ALTER TABLE event_store.%I SET (autovacuum_enabled = on)', relname), 'SELECT 1') FROM nullable ORDER BY n;
SELECT n || ' ' || split_part(pg_temp.after(sql, $$SELECT es_append('Guard-new', 0, 'NullableNew', '1')$$), ' / Remove', 1) FROM nullable ORDER BY n;
SELECT n || ' ' || pg_temp.after(sql, 'SELECT * FROM es_read_all(NULL, 1)') FROM nullable ORDER BY n;
-- what this does to the table is not the command's table
CREATE TABLE guard_parts (LIKE event_store.event) PARTITION BY LIST (global_position);
SELECT pg_temp.after('ALTER TABLE guard_parts ATTACH PARTITION event_store.event DEFAULT', $$SELECT es_append('Guard-1', es_any(), 'A', '1')$$);
DROP TABLE guard_parts;

-- an index that is gone, and one that is invalid: which one does not matter
CREATE TEMP TABLE needed AS
    SELECT i.indexrelid::regclass AS index, c.relname, k.conname
      FROM pg_index AS i JOIN pg_class AS c ON c.oid = i.indrelid LEFT JOIN pg_constraint AS k ON k.conindid = i.indexrelid
     WHERE c.relnamespace = 'event_store'::regnamespace AND c.relname IN ('event', 'stream', 'event_type', 'mark', 'snapshot');
BEGIN;
ALTER EVENT TRIGGER event_store_ddl DISABLE;
SELECT relname || ' ' || count(*) || ' ' || append || ' Reads: ' || string_agg(DISTINCT left(read, 5), ' ')
  FROM (SELECT relname, pg_temp.after(sql, $$SELECT es_append('Guard-1', es_any(), 'A', '1')$$) AS append,
               pg_temp.after(sql, $$SELECT * FROM es_read_all()$$) AS read
          FROM (SELECT relname, CASE WHEN conname IS NULL THEN format('DROP INDEX %s', index)
                                     ELSE format('ALTER TABLE event_store.%I DROP CONSTRAINT %I', relname, conname) END AS sql FROM needed) AS d) AS found
 GROUP BY relname, append ORDER BY relname COLLATE "C";
SELECT relname || ' ' || count(*) || ' ' || append
  FROM (SELECT relname, pg_temp.after(format('UPDATE pg_index SET indisvalid = false WHERE indexrelid = %L::regclass; ALTER TABLE event_store.%I SET (autovacuum_enabled = on)', index, relname),
                                      $$SELECT es_append('Guard-1', es_any(), 'A', '1')$$) AS append FROM needed) AS found
 GROUP BY relname, append ORDER BY relname COLLATE "C";
ROLLBACK;
-- without the table
SELECT pg_temp.after('ALTER TABLE event_store.snapshot RENAME TO elsewhere', $$SELECT es_append('Guard-1', es_any(), 'A', '1')$$);
SELECT pg_temp.after('ALTER TABLE event_store.upcaster RENAME TO elsewhere', 'SELECT * FROM es_read_all()');
SELECT pg_temp.after('ALTER TABLE event_store.aggregate RENAME TO elsewhere', $$SELECT es_state('Guard-1')$$);
SELECT pg_temp.after('ALTER TABLE event_store.upcaster DROP COLUMN to_event_type', 'SELECT * FROM es_read_all()');
SELECT pg_temp.after('ALTER TABLE event_store.aggregate ALTER COLUMN reducer TYPE name', $$SELECT es_state('Guard-1')$$);
SELECT pg_temp.after('ALTER TABLE event_store.upcaster RENAME COLUMN upcaster TO other', 'SELECT * FROM es_read_all()');
SELECT pg_temp.after('ALTER TABLE event_store.aggregate RENAME COLUMN initial_state TO other', $$SELECT es_state('Guard-1')$$);
-- rows that others refer to, and the checkpoint of a subscription
SELECT pg_temp.after('ALTER TABLE event_store.stream DISABLE TRIGGER ALL; DELETE FROM event_store.stream; ALTER TABLE event_store.stream ENABLE TRIGGER ALL',
                     'SELECT * FROM es_read_all(NULL, 1)') ~ '^XX001: an event belongs to stream number [0-9]+, which does not exist$';
SELECT pg_temp.after('ALTER TABLE event_store.event_type DISABLE TRIGGER ALL; DELETE FROM event_store.event_type; ALTER TABLE event_store.event_type ENABLE TRIGGER ALL',
                     'SELECT * FROM es_read_all(NULL, 1)') ~ '^XX001: an event is of type number [0-9]+, which does not exist$';
SELECT pg_temp.after($$SELECT es_create_subscription('guarded'); DELETE FROM event_store.subscription_checkpoint WHERE subscription = 'guarded'$$,
                     $$SELECT * FROM es_fetch('guarded')$$);

-- the types of what is returned
SELECT pg_temp.after('ALTER TYPE es_event ADD ATTRIBUTE five int', call) FROM unnest(ARRAY[
    'SELECT * FROM es_read_all()', 'SELECT es_read_all()', $$SELECT e FROM es_read_all() AS e$$, $$SELECT es_load('Guard-1')$$,
    $$SELECT es_read_event((SELECT event_id FROM event_store.events LIMIT 1))$$]) AS call;
SELECT pg_temp.after('ALTER TYPE es_event ALTER ATTRIBUTE version TYPE text', call) FROM unnest(ARRAY[
    'SELECT * FROM es_read_all()', $$SELECT e FROM es_read_all() AS e$$, $$SELECT es_load('Guard-1')$$]) AS call;
SELECT pg_temp.after('ALTER TYPE es_event DROP ATTRIBUTE metadata', 'SELECT * FROM es_read_all()');
SELECT pg_temp.after('ALTER TYPE es_event ALTER ATTRIBUTE event_id TYPE int',
    $$SELECT es_tags(ROW((SELECT min(global_position) FROM event_store.events), 'x', 1, 5, 'A', 1, '1', '{}', now())::es_event)$$);
SELECT pg_temp.after($$SELECT es_create_subscription('guarded'); ALTER TYPE es_event DROP ATTRIBUTE metadata$$, $$SELECT * FROM es_fetch('guarded')$$);
SELECT pg_temp.after('ALTER TYPE es_event RENAME ATTRIBUTE data TO other', call) FROM unnest(ARRAY[
    'SELECT * FROM es_read_all()', 'SELECT es_read_all()', $$SELECT e FROM es_read_all() AS e$$, $$SELECT es_load('Guard-1')$$,
    $$SELECT es_read_event((SELECT event_id FROM event_store.events LIMIT 1))$$,
    $$SELECT es_tags(ROW(1, 'x', 1, gen_random_uuid(), 'A', 1, '1', '{}', now())::es_event)$$]) AS call;
SELECT pg_temp.after('ALTER TYPE es_event RENAME ATTRIBUTE version TO other; ALTER TYPE es_event RENAME ATTRIBUTE global_position TO version; ALTER TYPE es_event RENAME ATTRIBUTE other TO global_position',
    'SELECT * FROM es_read_all()');
SELECT pg_temp.after('ALTER TYPE es_event ALTER ATTRIBUTE created_at TYPE timestamptz(0)', 'SELECT * FROM es_read_all()');
SELECT pg_temp.after('ALTER TYPE es_appended RENAME ATTRIBUTE version TO other', call) FROM unnest(ARRAY[
    $$SELECT es_append('Guard-1', es_any(), 'A', '1')$$, $$SELECT * FROM es_append('Guard-1', es_any(), 'A', '1')$$,
    $$SELECT es_append_batch('Guard-1', es_any(), '{A}', '{1}')$$]) AS call;
SELECT pg_temp.after('ALTER TYPE es_appended ADD ATTRIBUTE five int', $$SELECT es_append('Guard-1', es_any(), 'A', '1')$$);
SELECT pg_temp.after('ALTER TYPE es_appended ADD ATTRIBUTE five int', $$SELECT * FROM es_append('Guard-1', es_any(), 'A', '1')$$);
SELECT pg_temp.after('ALTER TYPE es_appended ALTER ATTRIBUTE version TYPE text', $$SELECT * FROM es_append('Guard-1', es_any(), 'A', '1')$$);
SELECT pg_temp.after('ALTER TYPE es_appended ALTER ATTRIBUTE version TYPE text', $$SELECT es_append_batch('Guard-1', es_any(), '{A}', '{1}')$$);

--
-- Functions that are declared otherwise than the extension does
--

SELECT pg_temp.error('SELECT event_store.es_mark_replicated()');
SELECT pg_temp.error('SELECT event_store.es_definition_changed()');
CREATE FUNCTION pg_temp.verify(text) RETURNS record LANGUAGE c AS 'event_store', 'es_verify';
SELECT pg_temp.error('SELECT pg_temp.verify(NULL)');
CREATE FUNCTION pg_temp.verify(text, int) RETURNS SETOF int LANGUAGE c AS 'event_store', 'es_verify';
SELECT pg_temp.error('SELECT pg_temp.verify(NULL, 1)');
CREATE FUNCTION pg_temp.append(text, bigint, text, jsonb, jsonb, uuid, int, text[]) RETURNS int LANGUAGE c AS 'event_store', 'es_append';
SELECT pg_temp.error($$SELECT pg_temp.append('Guard-1', es_any(), 'A', '1', '{}', NULL, 1, NULL)$$);
CREATE FUNCTION pg_temp.load(text, int) RETURNS int LANGUAGE c AS 'event_store', 'es_load';
SELECT pg_temp.error($$SELECT pg_temp.load('Guard-1', NULL)$$);
CREATE FUNCTION pg_temp.decide(jsonb, regprocedure, jsonb) RETURNS record LANGUAGE c AS 'event_store', 'es_decide';
SELECT pg_temp.error($$SELECT pg_temp.decide('{}', 'pg_temp.trigger()', '{}')$$);
-- on a table that is not the extension's, where rows come from elsewhere
CREATE TABLE guard_other (n int);
CREATE TRIGGER t BEFORE INSERT ON guard_other FOR EACH ROW EXECUTE FUNCTION event_store.es_mark_replicated();
INSERT INTO guard_other VALUES (1);
SELECT pg_replication_origin_create('regress_es_guard') > 0;
SELECT pg_replication_origin_session_setup('regress_es_guard');
SELECT pg_temp.error('INSERT INTO guard_other VALUES (2)');
SELECT pg_replication_origin_session_reset();
SELECT pg_replication_origin_drop('regress_es_guard');
DROP TABLE guard_other;

-- a guard that is enabled is enabled always
BEGIN;
ALTER TABLE event_store.event DISABLE TRIGGER ALL;
SELECT string_agg(tgname || ' ' || tgenabled::text, ', ' ORDER BY tgname) FROM pg_trigger WHERE tgrelid = 'event_store.event'::regclass;
ALTER TABLE event_store.event ENABLE TRIGGER ALL;
SELECT string_agg(tgname || ' ' || tgenabled::text, ', ' ORDER BY tgname) FROM pg_trigger WHERE tgrelid = 'event_store.event'::regclass;
ALTER TABLE event_store.event ENABLE REPLICA TRIGGER es_guard_row, ENABLE TRIGGER es_guard_statement;
SELECT string_agg(tgname || ' ' || tgenabled::text, ', ' ORDER BY tgname) FROM pg_trigger WHERE tgrelid = 'event_store.event'::regclass;
SET LOCAL session_replication_role = replica;
SELECT left(pg_temp.error('DELETE FROM event_store.event'), 5);
ROLLBACK;
-- and so are the other triggers of the store, but not those of others on its tables
CREATE FUNCTION pg_temp.own_triggers() RETURNS SETOF text LANGUAGE sql AS $$
    SELECT concat_ws(' ', tgrelid::regclass, tgname, tgenabled) FROM pg_trigger
     WHERE tgrelid::regclass::text IN ('event_store.projection', 'event_store.subscription', 'event_store.upcaster',
                                       'event_store.aggregate', 'guard_other')
     ORDER BY tgrelid::regclass::text COLLATE "C", tgname $$;
CREATE FUNCTION pg_temp.another() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END';
BEGIN;
CREATE TABLE guard_other (replicated boolean);
CREATE TRIGGER es_mark_replicated BEFORE INSERT ON guard_other FOR EACH ROW EXECUTE FUNCTION event_store.es_mark_replicated();
CREATE TRIGGER another AFTER INSERT ON event_store.projection FOR EACH ROW EXECUTE FUNCTION pg_temp.another();
ALTER TABLE event_store.projection ENABLE TRIGGER ALL;
ALTER TABLE event_store.subscription ENABLE REPLICA TRIGGER es_mark_replicated;
ALTER TABLE event_store.upcaster ENABLE TRIGGER es_definition_changed;
ALTER TABLE event_store.aggregate ENABLE TRIGGER USER;
SELECT pg_temp.own_triggers();
-- on purpose
ALTER TABLE event_store.projection DISABLE TRIGGER ALL;
SELECT pg_temp.own_triggers();
ROLLBACK;

--
-- Positions that would not be drawn one by one
--

ALTER SEQUENCE event_store.event_global_position_seq CACHE 100;
SELECT pg_temp.error($$SELECT es_append('Guard-1', 3, 'D', '4')$$);
ALTER SEQUENCE event_store.event_global_position_seq CACHE 1;
SELECT version FROM es_append('Guard-1', 3, 'D', '4');

-- or not at all: at the end of a sequence nothing is written
CREATE FUNCTION pg_temp.at_end(name regclass, at bigint, call text) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
    before bigint := pg_sequence_last_value(name);
    result text;
BEGIN
    PERFORM setval(name, at);
    result := pg_temp.error(call);
    PERFORM setval(name, before);
    RETURN result;
END
$$;
SELECT pg_temp.at_end('event_store.event_global_position_seq', 9223372036854775807, $$SELECT es_append('Guard-1', 4, 'D', '5')$$);
SELECT pg_temp.at_end('event_store.event_global_position_seq', 9223372036854775800, $$SELECT es_append_batch('Guard-1', 4, '{D,D}', '{5,6}')$$);
SELECT pg_temp.at_end('event_store.stream_stream_no_seq', 9223372036854775807, $$SELECT es_append('Guard-end', 0, 'D', '5')$$);
SELECT pg_temp.at_end('event_store.event_type_type_no_seq', 2147483647, $$SELECT es_append('Guard-1', 4, 'AtTheEnd', '5')$$);
SELECT version FROM es_append('Guard-1', 4, 'D', '5');

--
-- Relations that are none
--

SELECT pg_temp.error('SELECT event_store.es_check_table(0)');
SELECT pg_temp.error('SELECT event_store.es_check_table(4294967295::oid)');

--
-- Anybody may make an index with the access method of tags on a table of his own
--

CREATE FUNCTION pg_temp.anybody(command text) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
    result text;
BEGIN
    SET LOCAL ROLE regress_es_anybody;
    result := pg_temp.error(command);
    RESET ROLE;
    RETURN result;
END
$$;
CREATE ROLE regress_es_anybody;
GRANT USAGE ON SCHEMA event_store TO regress_es_anybody;
SET ROLE regress_es_anybody;
CREATE TEMP TABLE any_table (n bigint, tags text[], position bigint, names varchar[], PRIMARY KEY (n));
RESET ROLE;
INSERT INTO any_table VALUES (1, '{a,b}', 7);
SELECT pg_temp.anybody('CREATE INDEX ON any_table USING event_store_tags (n)');
SELECT columns, left(pg_temp.anybody(format('CREATE INDEX ON any_table USING event_store_tags %s', columns)), 5)
FROM unnest(ARRAY['(tags)', '(n, position)', '(position, tags)', '(tags, tags)', '(tags, position, n)',
                  '(tags, position) WHERE n > 0', '(tags, (position + 1))', '((tags || tags), position)',
                  '(names, position)', '(names event_store.es_tag_ops, position)', '(n event_store.es_tag_ops, position)',
                  '(tags, position) INCLUDE (n)', '(tags, position DESC)', '(tags NULLS FIRST, position)']) WITH ORDINALITY AS c (columns, n)
ORDER BY c.n;
SELECT left(pg_temp.anybody('CREATE UNIQUE INDEX ON any_table USING event_store_tags (tags, position)'), 5);
SELECT left(pg_temp.anybody('ALTER TABLE any_table ADD EXCLUDE USING event_store_tags (tags WITH =, position WITH =)'), 5);
-- empty, unlogged, partitioned
SELECT left(pg_temp.anybody('CREATE TEMP TABLE any_empty (n bigint); CREATE INDEX ON any_empty USING event_store_tags (n)'), 5);
CREATE UNLOGGED TABLE any_unlogged (n bigint);
SELECT left(pg_temp.error('CREATE INDEX ON any_unlogged USING event_store_tags (n)'), 5);
DROP TABLE any_unlogged;
CREATE TABLE any_parent (n bigint) PARTITION BY LIST (n);
CREATE INDEX ON any_parent USING event_store_tags (n);
SELECT left(pg_temp.error('CREATE TABLE any_child PARTITION OF any_parent FOR VALUES IN (1)'), 5);
DROP TABLE any_parent;
-- what it is made for
SET ROLE regress_es_anybody;
CREATE INDEX any_index ON any_table USING event_store_tags (tags, position);
RESET ROLE;
INSERT INTO any_table VALUES (2, '{c,c,NULL}', NULL), (3, NULL, 9), (4, '{}', 10), (5, '{{d,e},{f,g}}', 11);
SET enable_seqscan = off;
SELECT count(*) FROM any_table WHERE tags = '{a,b}' AND position = 7;
RESET enable_seqscan;
SELECT left(pg_temp.anybody('INSERT INTO any_table VALUES (6, ARRAY[(SELECT string_agg(md5(i::text), '''') FROM generate_series(1, 1000) i)], 12)'), 5);
REINDEX INDEX any_index;
VACUUM any_table;
SELECT left(pg_temp.anybody('CLUSTER any_table USING any_index'), 5);
DROP TABLE any_table;
REVOKE USAGE ON SCHEMA event_store FROM regress_es_anybody;
DROP ROLE regress_es_anybody;
