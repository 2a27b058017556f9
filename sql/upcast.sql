-- Upcasters: old events in today's shape, on every way to read them
\set SHOW_CONTEXT never

CREATE FUNCTION upcast_1(data jsonb) RETURNS jsonb LANGUAGE sql IMMUTABLE STRICT
    AS $$ SELECT data - 'amount' || jsonb_build_object('total', data->'amount') $$;
CREATE FUNCTION upcast_2(data jsonb) RETURNS jsonb LANGUAGE plpgsql IMMUTABLE
    AS $$ BEGIN RETURN data || '{"currency": "EUR"}'; END $$;
CREATE FUNCTION upcast_3(data jsonb) RETURNS jsonb LANGUAGE sql IMMUTABLE
    AS $$ SELECT jsonb_set(data, '{currency}', '"euro"') $$;

SELECT version FROM es_append('Up-1', 0, 'Posted', '{"amount": 10}', event_id => '00000000-0000-4000-8000-0000000ca001');
SELECT version FROM es_append('Up-1', 1, 'Posted', '{"total": 20}', event_id => '00000000-0000-4000-8000-0000000ca002', schema_version => 2);
SELECT version FROM es_append('Up-1', 2, 'Drafted', '{"total": 30, "currency": "GBP"}', event_id => '00000000-0000-4000-8000-0000000ca003');
SELECT version FROM es_append('Up-1', 3, 'Kept', '{"amount": 40}', event_id => '00000000-0000-4000-8000-0000000ca004');
SELECT version FROM es_append('Upper-1', 0, 'Posted', '{"amount": 50}', event_id => '00000000-0000-4000-8000-0000000ca005');

CREATE VIEW upcast_stream AS
    SELECT version, event_type, schema_version, data FROM es_read_stream('Up-1');

--
-- Chains
--

TABLE upcast_stream;
-- the next schema version, unless something else is said
SELECT es_define_upcaster('Posted', 1, 'upcast_1(jsonb)');
TABLE upcast_stream;
-- another type begins with schema version 1
SELECT es_define_upcaster('Posted', 2, 'upcast_2(jsonb)', 'Drafted');
TABLE upcast_stream;
SELECT es_define_upcaster('Drafted', 1, to_schema_version => 7, upcaster => 'public.upcast_3(jsonb)');
TABLE upcast_stream;
TABLE event_store.upcaster ORDER BY event_type, schema_version;

-- stored and read, side by side: the newest of each shape
SELECT stored_event_type, stored_schema_version AS stored, stored_data, event_type, schema_version, data, stream_id, version FROM es_preview_upcasters();
SELECT stored_data, data, version FROM es_preview_upcasters('Posted', 1);
SELECT count(*) FROM es_preview_upcasters('Kept');

--
-- Every way to read
--

SELECT version, event_type, schema_version, data FROM es_read_stream('Up-1', 2, 2);
SELECT version, event_type, schema_version, data FROM es_read_stream('Up-1', backward => true, max_count => 2);
SELECT stream_id, version, event_type, schema_version, data FROM es_read_all(0, NULL, '{Up,Upper}');
SELECT version, event_type, data FROM es_read_category('Up', backward => true);
SELECT version, event_type, schema_version, data FROM es_read_event('00000000-0000-4000-8000-0000000ca001');
SELECT e.version, e.event_type, e.schema_version, e.data FROM es_load('Up-1') AS l, unnest(l.events) AS e;
SELECT es_envelope(e)->'data' AS data FROM es_read_stream('Up-1', 1, 1) AS e;
SELECT stream_id, version, event_type, schema_version, data FROM event_store.events WHERE category IN ('Up', 'Upper') ORDER BY global_position;

-- the stored event is as it was, and so is what a retry is compared with
SELECT e.version, t.event_type, e.schema_version, e.data
  FROM event_store.event AS e JOIN event_store.event_type AS t USING (type_no)
 WHERE t.category = 'Up' ORDER BY e.version;
SELECT version, is_duplicate FROM es_append('Up-1', 0, 'Posted', '{"amount": 10}', event_id => '00000000-0000-4000-8000-0000000ca001');

-- raw on purpose
SET event_store.upcast = off;
TABLE upcast_stream;
SELECT stream_id, version, event_type, schema_version, data FROM event_store.events WHERE category IN ('Up', 'Upper') ORDER BY global_position;
SELECT version, event_type FROM es_read_all(0, NULL, '{Up}', '{Posted}');
SELECT version, event_type FROM es_read_all(0, NULL, '{Up}', '{Drafted}');
RESET event_store.upcast;

--
-- Filters mean the type that the reader sees
--

SELECT stream_id, version, event_type FROM es_read_all(0, NULL, '{Up,Upper}', '{Drafted}');
SELECT stream_id, version, event_type FROM es_read_all(0, NULL, '{Up,Upper}', '{Posted}');
SELECT stream_id, version, event_type FROM es_read_all(0, NULL, '{Up,Upper}', '{Posted,Kept}');
SELECT stream_id, version, event_type FROM es_read_all(0, 2, '{Up,Upper}', '{Drafted}');
SELECT stream_id, version, event_type FROM es_read_all(NULL, 2, '{Upper}', '{Drafted}', backward => true);
SELECT stream_id, version FROM event_store.events WHERE event_type = 'Drafted' AND category IN ('Up', 'Upper') ORDER BY global_position;
SELECT stream_id, version FROM event_store.events WHERE event_type = 'Posted' AND category IN ('Up', 'Upper') ORDER BY global_position;
-- some schema versions of a type go elsewhere, the others stay
BEGIN;
SELECT es_drop_upcaster('Posted', 2);
SELECT stream_id, version, event_type FROM es_read_all(0, NULL, '{Up,Upper}', '{Drafted}');
SELECT stream_id, version, event_type FROM es_read_all(0, NULL, '{Up,Upper}', '{Posted}');
ROLLBACK;
BEGIN;
SELECT es_drop_upcaster('Posted', 1);
SELECT stream_id, version, event_type FROM es_read_all(0, NULL, '{Up,Upper}', '{Drafted}');
SELECT stream_id, version, event_type FROM es_read_all(0, NULL, '{Up,Upper}', '{Posted}');
ROLLBACK;
SELECT stream_id, version, event_type FROM es_read_all(0, NULL, '{Up,Upper}', '{Posted}');

--
-- What may be defined
--

CREATE FUNCTION upcast_stable(data jsonb) RETURNS jsonb LANGUAGE sql STABLE AS 'SELECT data';
CREATE FUNCTION upcast_text(data text) RETURNS jsonb LANGUAGE sql IMMUTABLE AS 'SELECT data::jsonb';
CREATE FUNCTION upcast_json(data jsonb) RETURNS json LANGUAGE sql IMMUTABLE AS 'SELECT data::json';
CREATE FUNCTION upcast_set(data jsonb) RETURNS SETOF jsonb LANGUAGE sql IMMUTABLE AS 'SELECT data';
CREATE FUNCTION upcast_two(data jsonb, more jsonb) RETURNS jsonb LANGUAGE sql IMMUTABLE AS 'SELECT data';
CREATE FUNCTION upcast_pair(data jsonb, more text) RETURNS jsonb LANGUAGE sql IMMUTABLE AS 'SELECT data';
CREATE AGGREGATE upcast_agg(jsonb) (SFUNC = upcast_two, STYPE = jsonb);
CREATE FUNCTION pg_temp.upcast_temp(data jsonb) RETURNS jsonb LANGUAGE sql IMMUTABLE AS 'SELECT data';
\set VERBOSITY sqlstate
SELECT es_define_upcaster('Kept', 1, 'upcast_none(jsonb)');
SELECT es_define_upcaster('Kept', 1, 4294967295::oid::regprocedure);
SELECT es_define_upcaster('Kept', 1, 'upcast_text(text)');
SELECT es_define_upcaster('Kept', 1, 'upcast_json(jsonb)');
SELECT es_define_upcaster('Kept', 1, 'upcast_set(jsonb)');
SELECT es_define_upcaster('Kept', 1, 'upcast_pair(jsonb,text)');
SELECT es_define_upcaster('Kept', 1, 'upcast_agg(jsonb)');
SELECT es_define_upcaster('Kept', 1, 'upcast_stable(jsonb)');
SELECT es_define_upcaster('Kept', 1, 'pg_temp.upcast_temp(jsonb)');
SELECT es_define_upcaster('Posted', 1, 'upcast_1(jsonb)');
SELECT es_define_upcaster(NULL, 1, 'upcast_1(jsonb)');
SELECT es_define_upcaster('Kept', NULL, 'upcast_1(jsonb)');
SELECT es_define_upcaster('Kept', 1, NULL);
SELECT * FROM es_preview_upcasters(max_count => -1);
SELECT es_define_upcaster('', 1, 'upcast_1(jsonb)');
SELECT es_define_upcaster('Kept', 0, 'upcast_1(jsonb)');
SELECT es_define_upcaster('Kept', 1, 'upcast_1(jsonb)', E'a\nb');
SELECT es_define_upcaster('Kept', 1, 'upcast_1(jsonb)', 'Kept', 0);
SELECT es_define_upcaster('Kept', 2147483647, 'upcast_1(jsonb)');
SELECT es_drop_upcaster('Kept', 1);
SELECT es_drop_upcaster('Posted', 3);
SELECT es_drop_upcaster(NULL, 1);
SELECT es_drop_upcaster('Posted', NULL);
\set VERBOSITY default
-- loops: at once, by way of others, and back to an older version
SELECT es_define_upcaster('Kept', 1, 'upcast_1(jsonb)', 'Kept', 1);
SELECT es_define_upcaster('Drafted', 7, 'upcast_1(jsonb)', 'Posted', 1);
SELECT es_define_upcaster('Drafted', 7, 'upcast_1(jsonb)', to_schema_version => 1);
-- but the same type again, at another version, is none
BEGIN;
SELECT es_define_upcaster('Drafted', 7, 'upcast_1(jsonb)', 'Posted', 3);
SELECT version, event_type, schema_version FROM es_read_stream('Up-1', 1, 1);
ROLLBACK;
BEGIN TRANSACTION READ ONLY;
SELECT es_define_upcaster('Kept', 1, 'upcast_1(jsonb)');
ROLLBACK;

--
-- Changes are noticed
--

PREPARE upcast_view AS SELECT version, event_type, data FROM event_store.events WHERE stream_id = 'Up-1' ORDER BY version;
EXECUTE upcast_view;
-- a replaced function
CREATE OR REPLACE FUNCTION upcast_3(data jsonb) RETURNS jsonb LANGUAGE sql IMMUTABLE
    AS $$ SELECT data || '{"third": true}' $$;
TABLE upcast_stream;
BEGIN;
SELECT es_drop_upcaster('Drafted', 1);
TABLE upcast_stream;
SAVEPOINT s;
SELECT es_drop_upcaster('Posted', 2);
SELECT es_drop_upcaster('Posted', 1);
TABLE upcast_stream;
EXECUTE upcast_view;
ROLLBACK TO s;
TABLE upcast_stream;
EXECUTE upcast_view;
ROLLBACK;
TABLE upcast_stream;
EXECUTE upcast_view;
-- a replaced function that an upcaster calls
CREATE FUNCTION upcast_third() RETURNS jsonb LANGUAGE sql IMMUTABLE AS $$ SELECT '{"third": 3}'::jsonb $$;
CREATE OR REPLACE FUNCTION upcast_3(data jsonb) RETURNS jsonb LANGUAGE sql IMMUTABLE
    AS $$ SELECT data || public.upcast_third() $$;
SELECT data FROM es_read_stream('Up-1', 3, 1);
CREATE OR REPLACE FUNCTION upcast_third() RETURNS jsonb LANGUAGE sql IMMUTABLE AS $$ SELECT '{"third": true}'::jsonb $$;
SELECT data FROM es_read_stream('Up-1', 3, 1);
-- changed by hand
UPDATE event_store.upcaster SET to_schema_version = 8 WHERE event_type = 'Drafted';
SELECT version, schema_version FROM es_read_stream('Up-1');
-- a loop that got in by hand
UPDATE event_store.upcaster SET to_schema_version = 1 WHERE event_type = 'Drafted';
SELECT version, schema_version FROM es_read_stream('Up-1', 3, 1);
SELECT version, schema_version FROM es_read_stream('Up-1', 4, 1);
SELECT event_id, sqlstate, message FROM es_check_upcasters('Drafted');
UPDATE event_store.upcaster SET to_schema_version = 7 WHERE event_type = 'Drafted';

--
-- Failures
--

\set SHOW_CONTEXT always
CREATE OR REPLACE FUNCTION upcast_2(data jsonb) RETURNS jsonb LANGUAGE plpgsql IMMUTABLE
    AS $$
BEGIN
    IF data->>'total' = '20' THEN
        RAISE EXCEPTION 'not this one' USING ERRCODE = 'ZZ001', DETAIL = 'it is cursed', HINT = 'exorcise it';
    END IF;
    RETURN CASE WHEN data->>'total' <> '50' THEN data || '{"currency": "EUR"}' END;
END
$$;
SELECT version, data FROM es_read_stream('Up-1');
SELECT version FROM es_read_stream('Up-1', 1, 1);
SELECT version FROM es_read_event('00000000-0000-4000-8000-0000000ca005');
SELECT data FROM event_store.events WHERE stream_id = 'Upper-1';
-- nothing is computed that nobody wants
SELECT count(*) FROM event_store.events WHERE category IN ('Up', 'Upper');
\set SHOW_CONTEXT never
SELECT event_id, stream_id, version, schema_version, sqlstate, message FROM es_check_upcasters('Posted');
SELECT event_id, sqlstate FROM es_check_upcasters('Posted', 1);
SELECT event_id, sqlstate FROM es_check_upcasters('Posted', 0);
SELECT event_id, sqlstate FROM es_check_upcasters('Drafted');
SELECT event_id, sqlstate FROM es_check_upcasters(NULL) WHERE stream_id LIKE 'Up%';
-- it looks through the setting
SET event_store.upcast = off;
SELECT count(*) FROM es_check_upcasters('Posted');
RESET event_store.upcast;
-- a handler can go on after it
DO $$
DECLARE
    detail text;
BEGIN
    PERFORM es_read_stream('Up-1', 2, 1);
EXCEPTION WHEN SQLSTATE 'VE006' THEN
    GET STACKED DIAGNOSTICS detail = PG_EXCEPTION_DETAIL;
    RAISE NOTICE '%: %', SQLERRM, detail;
    RAISE NOTICE '%', (SELECT data FROM es_read_stream('Up-1', 1, 1));
END
$$;
-- dropped
DROP FUNCTION upcast_2(jsonb);
SELECT version, data FROM es_read_stream('Up-1');
SELECT event_id, sqlstate, message FROM es_check_upcasters('Posted', 1);
SELECT version FROM es_read_stream('Up-1', 3);
CREATE FUNCTION upcast_2(data jsonb) RETURNS jsonb LANGUAGE sql IMMUTABLE AS $$ SELECT 'null'::jsonb $$;
SELECT version, event_type, data FROM es_read_stream('Up-1', 1, 2);
-- made again, as something else
DROP FUNCTION upcast_2(jsonb);
CREATE FUNCTION upcast_2(data jsonb) RETURNS int LANGUAGE plpgsql IMMUTABLE AS 'BEGIN RETURN 42; END';
SELECT data FROM es_read_stream('Up-1', 1, 1);
SELECT event_id, sqlstate FROM es_check_upcasters('Posted', 1);
DROP FUNCTION upcast_2(jsonb);
CREATE FUNCTION upcast_2(data jsonb) RETURNS text LANGUAGE plpgsql IMMUTABLE AS $$ BEGIN RETURN 'text'; END $$;
SELECT data FROM es_read_stream('Up-1', 1, 1);
DROP FUNCTION upcast_2(jsonb);
CREATE PROCEDURE upcast_2(INOUT data jsonb) LANGUAGE plpgsql AS 'BEGIN END';
SELECT data FROM es_read_stream('Up-1', 1, 1);
DROP PROCEDURE upcast_2(jsonb);
CREATE FUNCTION upcast_2(data jsonb) RETURNS jsonb LANGUAGE sql IMMUTABLE AS 'SELECT data';
SELECT data FROM es_read_stream('Up-1', 1, 1);

-- one that reads events by itself, of its own type
CREATE OR REPLACE FUNCTION upcast_2(data jsonb) RETURNS jsonb LANGUAGE sql IMMUTABLE
    AS $$ SELECT data || jsonb_build_object('currency', CASE
          WHEN data->>'total' = '10' THEN (SELECT e.data->'total' FROM es_read_stream('Up-1', 2, 1) AS e) END) $$;
TABLE upcast_stream;

-- and without end
CREATE OR REPLACE FUNCTION upcast_2(data jsonb) RETURNS jsonb LANGUAGE sql IMMUTABLE
    AS $$ SELECT e.data FROM es_read_stream('Up-1', 1, 1) AS e $$;
\set VERBOSITY sqlstate
SELECT data FROM es_read_stream('Up-1', 1, 1);
\set VERBOSITY default
SELECT version, event_type FROM es_read_stream('Up-1', 3);

--
-- With whose rights
--

SET client_min_messages = warning;
DROP ROLE IF EXISTS regress_es_upcast_reader, regress_es_upcast_admin;
RESET client_min_messages;
CREATE ROLE regress_es_upcast_reader;
CREATE ROLE regress_es_upcast_admin;
SELECT es_grant('regress_es_upcast_reader', 'reader'), es_grant('regress_es_upcast_admin', 'admin');
-- the reader's
CREATE OR REPLACE FUNCTION upcast_2(data jsonb) RETURNS jsonb LANGUAGE sql IMMUTABLE
    AS $$ SELECT data || jsonb_build_object('by', current_user) $$;
SET ROLE regress_es_upcast_reader;
SELECT data->'by' AS by FROM es_read_stream('Up-1', 1, 1);
SELECT data->'by' AS by FROM event_store.events WHERE stream_id = 'Up-1' AND version = 1;
SET ROLE regress_es_upcast_admin;
SELECT data->'by' AS by FROM es_read_stream('Up-1', 1, 1);
RESET ROLE;
REVOKE EXECUTE ON FUNCTION upcast_2(jsonb) FROM PUBLIC;
SET ROLE regress_es_upcast_reader;
SELECT data FROM es_read_stream('Up-1', 1, 1);
SELECT data->'total' AS total FROM es_read_stream('Up-1', 3, 1);
SELECT es_define_upcaster('Kept', 1, 'upcast_1(jsonb)');
SELECT es_drop_upcaster('Posted', 1);
SELECT es_check_upcasters('Posted');
SET ROLE regress_es_upcast_admin;
SELECT es_define_upcaster('Kept', 1, 'upcast_2(jsonb)');
SELECT es_define_upcaster('Kept', 1, 'upcast_1(jsonb)');
SELECT event_type, schema_version FROM event_store.upcaster ORDER BY 1, 2;
SELECT es_drop_upcaster('Kept', 1);
RESET ROLE;
-- names mean what the reader's search path says
CREATE SCHEMA upcast_other;
CREATE FUNCTION upcast_other.upcast_word() RETURNS text LANGUAGE sql IMMUTABLE AS $$ SELECT 'other' $$;
CREATE FUNCTION upcast_word() RETURNS text LANGUAGE sql IMMUTABLE AS $$ SELECT 'public' $$;
CREATE OR REPLACE FUNCTION upcast_2(data jsonb) RETURNS jsonb LANGUAGE sql IMMUTABLE
    AS $$ SELECT to_jsonb(upcast_word()) $$;
CREATE OR REPLACE FUNCTION upcast_3(data jsonb) RETURNS jsonb LANGUAGE sql IMMUTABLE AS 'SELECT data';
SELECT data FROM es_read_stream('Up-1', 1, 1);
SET search_path = upcast_other, public;
SELECT data FROM es_read_stream('Up-1', 1, 1);
SET search_path = pg_catalog;
SELECT public.es_define_upcaster('Kept', 1, 'public.upcast_1(jsonb)');
SELECT data FROM public.es_read_stream('Up-1', 4, 1);
SELECT public.es_drop_upcaster('Kept', 1);
RESET search_path;

-- a check that is cancelled ends with the statement, and leaves nothing behind
CREATE FUNCTION upcast_slow(data jsonb) RETURNS jsonb LANGUAGE plpgsql IMMUTABLE
    AS $$ BEGIN PERFORM pg_sleep(100); RETURN data; END $$;
SELECT es_define_upcaster('Kept', 1, 'upcast_slow(jsonb)');
SET statement_timeout = '50ms';
SELECT count(*) FROM es_check_upcasters('Kept');
RESET statement_timeout;
SELECT 'still there';
SET statement_timeout = '50ms';
DO $$
BEGIN
    PERFORM * FROM es_check_upcasters('Kept');
EXCEPTION WHEN query_canceled THEN
    CREATE TABLE upcast_kept (n int);
END
$$;
RESET statement_timeout;
INSERT INTO upcast_kept VALUES (1);
-- no transaction has been left open
SELECT pg_current_xact_id_if_assigned() IS NULL AS closed;
SELECT es_drop_upcaster('Kept', 1);
DROP TABLE upcast_kept;

--
-- Clean up
--

-- while there is an upcaster, the view's plan calls for it
CREATE FUNCTION upcast_plan(query text) RETURNS boolean LANGUAGE plpgsql AS $$
DECLARE
    line text;
    found boolean := false;
BEGIN
    FOR line IN EXECUTE 'EXPLAIN (VERBOSE) ' || query LOOP
        found := found OR line LIKE '%es_upcast%';
    END LOOP;
    RETURN found;
END
$$;
SELECT upcast_plan('SELECT * FROM event_store.events');
SELECT es_drop_upcaster('Posted', 1), es_drop_upcaster('Posted', 2), es_drop_upcaster('Drafted', 1);
SELECT upcast_plan('SELECT * FROM event_store.events');
TABLE upcast_stream;
EXECUTE upcast_view;
SELECT es_revoke('regress_es_upcast_reader', 'reader'), es_revoke('regress_es_upcast_admin', 'admin');
DROP ROLE regress_es_upcast_reader, regress_es_upcast_admin;
DROP SCHEMA upcast_other CASCADE;

--
-- An upcaster may look at the metadata, and is defined once
--

CREATE FUNCTION upcast_who(data jsonb, metadata jsonb) RETURNS jsonb LANGUAGE sql IMMUTABLE
    AS $$ SELECT data || jsonb_build_object('by', metadata->'user_id') $$;
CREATE FUNCTION upcast_after(data jsonb) RETURNS jsonb LANGUAGE sql IMMUTABLE AS $$ SELECT data || '{"after": true}' $$;
CREATE FUNCTION upcast_meta(data jsonb, metadata jsonb) RETURNS jsonb LANGUAGE plpgsql IMMUTABLE
    AS $$ BEGIN RETURN metadata; END $$;
CREATE FUNCTION upcast_bad(data jsonb, metadata jsonb) RETURNS jsonb LANGUAGE plpgsql IMMUTABLE
    AS $$ BEGIN RETURN data || jsonb_build_object('n', (metadata->>'user_id')::int); END $$;
CREATE FUNCTION upcast_three(jsonb, jsonb, jsonb) RETURNS jsonb LANGUAGE sql IMMUTABLE AS $$ SELECT $1 $$;
CREATE FUNCTION upcast_label(jsonb, text) RETURNS jsonb LANGUAGE sql IMMUTABLE AS $$ SELECT $1 $$;
CREATE FUNCTION upcast_fold(state jsonb, event es_event) RETURNS jsonb LANGUAGE sql IMMUTABLE
    AS $$ SELECT state || jsonb_build_array((event).data->'by') $$;
SELECT version FROM es_append_batch('UpMeta-1', 0, ARRAY['Seen', 'Seen'], ARRAY['{"x": 1}', '{"x": 2}']::jsonb[],
    ARRAY['{"user_id": "ann"}', '{"user_id": "7"}']::jsonb[]);
\set VERBOSITY terse
SELECT es_define_upcaster('Seen', 1, 'upcast_three(jsonb, jsonb, jsonb)');
SELECT es_define_upcaster('Seen', 1, 'upcast_label(jsonb, text)');
\set VERBOSITY default
SELECT es_define_upcaster('Seen', 1, 'upcast_who(jsonb, jsonb)', if_not_exists => true);
SELECT es_define_upcaster('Seen', 2, 'upcast_after(jsonb)', 'Noted');
SELECT event_type, upcaster FROM event_store.upcaster WHERE event_type IN ('Seen', 'Noted') ORDER BY schema_version;
SELECT version, event_type, data FROM es_read_stream('UpMeta-1');
SELECT data FROM es_read_stream('UpMeta-1') WHERE version = 2;
SELECT version, data FROM event_store.events WHERE stream_id = 'UpMeta-1' ORDER BY version;
SELECT data FROM event_store.events WHERE stream_id = 'UpMeta-1' AND version = 1;
SELECT data FROM es_read_query('{"items": [{"event_types": ["Noted"]}]}');
SELECT stored_data, data FROM es_preview_upcasters('Seen');
SELECT es_define_aggregate('UpMeta', 'upcast_fold(jsonb, es_event)', '[]', if_not_exists => true);
SELECT es_define_aggregate('UpMeta', 'upcast_fold(jsonb, es_event)', '[1]', if_not_exists => true);
SELECT es_define_aggregate('UpMeta', 'upcast_fold(jsonb, es_event)', '[]');
SELECT state FROM es_state('UpMeta-1');
-- what is there stays, whatever is asked for
SELECT es_define_upcaster('Seen', 1, 'upcast_meta(jsonb, jsonb)', if_not_exists => true);
SELECT es_define_upcaster('Seen', 1, 'upcast_meta(jsonb, jsonb)');
SELECT es_define_upcaster('Seen', 1, 'upcast_meta(jsonb, jsonb)', if_not_exists => NULL);
SELECT es_drop_upcaster('Seen', 1), es_drop_upcaster('Seen', 2);
SELECT es_define_upcaster('Seen', 1, 'upcast_meta(jsonb, jsonb)');
SELECT data FROM es_read_stream('UpMeta-1');
SELECT es_drop_upcaster('Seen', 1);
SELECT es_define_upcaster('Seen', 1, 'upcast_bad(jsonb, jsonb)');
SELECT stream_id, version, sqlstate, message FROM es_check_upcasters('Seen');
SELECT data FROM es_read_stream('UpMeta-1', 2);
SELECT es_drop_upcaster('Seen', 1), es_drop_aggregate('UpMeta');
DROP FUNCTION upcast_who, upcast_after, upcast_meta, upcast_bad, upcast_three, upcast_label, upcast_fold;

--
-- The setting is about what a read shows: consumers and conditions do not heed it
--

CREATE FUNCTION upcast_new(data jsonb) RETURNS jsonb LANGUAGE sql IMMUTABLE AS $$ SELECT data || '{"new": true}' $$;
CREATE FUNCTION upcast_count(state jsonb, event es_event) RETURNS jsonb LANGUAGE sql IMMUTABLE
    AS $$ SELECT state || jsonb_build_array((event).event_type || ' ' || (event).data::text) $$;
CREATE TABLE upcast_seen (projection text, event_type text, data jsonb);
CREATE FUNCTION upcast_see(event es_event) RETURNS void LANGUAGE sql
    AS $$ INSERT INTO upcast_seen VALUES ('one', (event).event_type, (event).data) $$;
CREATE FUNCTION upcast_see_all(events es_event[]) RETURNS void LANGUAGE sql
    AS $$ INSERT INTO upcast_seen SELECT 'all', event_type, data FROM unnest(events) $$;
CREATE FUNCTION upcast_reset() RETURNS void LANGUAGE sql AS $$ DELETE FROM upcast_seen WHERE projection = 'one' $$;
SELECT es_head() AS upcast_from \gset
SELECT version FROM es_append('UpOff-1', 0, '[{"event_type": "OffOld", "data": {"n": 1}, "tags": ["off:1", "off:old"]},
    {"event_type": "OffNew", "data": {"n": 2}, "tags": ["off:1"]}, {"event_type": "OffOther", "data": {"n": 3}}]');
SELECT global_position AS upcast_first FROM es_read_stream('UpOff-1', 1, 1) \gset
SELECT es_define_upcaster('OffOld', 1, 'upcast_new(jsonb)', 'OffNew');
SELECT es_create_subscription('upoff', event_types => '{OffNew}', after_position => :upcast_from, retry_delay => '0');
SELECT es_create_subscription('upoff_query', query => '{"items": [{"event_types": ["OffNew"], "tags": ["off:1"]}]}');
SELECT es_create_subscription('upoff_group', event_types => '{OffNew}', after_position => :upcast_from, slots => 4);
SELECT es_create_projection('upoff', 'upcast_see', event_types => '{OffNew}', reset_handler => 'upcast_reset',
    after_position => :upcast_from, paused => true);
SELECT es_create_projection('upoff_all', 'upcast_see_all', event_types => '{OffNew}', after_position => :upcast_from, paused => true);
SET event_store.upcast = off;
-- a read, by the types as they are stored
SELECT version, event_type, data FROM es_read_all(:upcast_from, NULL, NULL, '{OffNew}');
SELECT version, event_type, data FROM es_read_query('{"items": [{"event_types": ["OffOld"]}]}', :upcast_from);
-- how far behind, what is handed out, what it is when it has failed
SELECT name, lag_events FROM event_store.subscriptions WHERE name LIKE 'upoff%' ORDER BY name;
SELECT name, lag_events FROM event_store.projections WHERE name LIKE 'upoff%' ORDER BY name;
SELECT version, event_type, data FROM es_fetch('upoff');
SELECT es_nack('upoff', :upcast_first, 'broken');
SELECT version, event_type, state FROM event_store.parked_events WHERE subscription = 'upoff' ORDER BY version;
SELECT es_ack('upoff', max(global_position)) FROM event_store.events WHERE stream_id = 'UpOff-1' AND version = 2;
SELECT version, event_type, data FROM es_fetch('upoff', 100, '5 s');
SELECT es_ack('upoff', :upcast_first);
SELECT version, event_type, data FROM es_fetch('upoff', 100, '5 s');
SELECT version, event_type, data FROM es_fetch('upoff_query');
SELECT version, event_type, data FROM es_fetch('upoff_group', member => 'one');
SELECT es_run_projection('upoff'), es_run_projection('upoff_all');
SELECT * FROM upcast_seen ORDER BY projection, data->'n';
SELECT es_rebuild_projection('upoff'), es_run_projection('upoff');
SELECT * FROM upcast_seen WHERE projection = 'one' ORDER BY data->'n';
SELECT es_prepare_projection('upoff', 'upcast_see', reset_handler => 'upcast_reset'), es_switch_projection('upoff', max_lag => 1000000);
SELECT * FROM upcast_seen WHERE projection = 'one' ORDER BY data->'n';
-- what a decision depends on, and what it must not overlook
SELECT state, after_position = es_head() AS after FROM es_decide('{"items": [{"event_types": ["OffNew"]}]}', 'upcast_count', '[]');
\set VERBOSITY terse
SELECT * FROM es_append_if('[{"event_type": "OffDone", "data": {}}]', '{"items": [{"event_types": ["OffNew"], "tags": ["off:old"]}]}', :upcast_from);
\set VERBOSITY default
-- and to see what an upcaster does one need not set it first
SELECT stored_event_type, event_type, data FROM es_preview_upcasters('OffOld');
RESET event_store.upcast;
SELECT es_drop_subscription('upoff'), es_drop_subscription('upoff_query'), es_drop_subscription('upoff_group'),
    es_drop_projection('upoff'), es_drop_projection('upoff_all'), es_drop_upcaster('OffOld', 1);
DROP TABLE upcast_seen;
DROP FUNCTION upcast_new, upcast_count, upcast_see, upcast_see_all, upcast_reset;
