-- Who may do what: nothing for PUBLIC, and what es_grant gives and es_revoke takes
\set SHOW_CONTEXT never

SET client_min_messages = warning;
DROP ROLE IF EXISTS regress_es_none, regress_es_reader, regress_es_writer, regress_es_admin, regress_es_tenant, "regress es ""odd""";
RESET client_min_messages;
CREATE ROLE regress_es_none;
CREATE ROLE regress_es_reader;
CREATE ROLE regress_es_writer;
CREATE ROLE regress_es_admin;

SELECT version FROM es_append('Priv-1', 0, 'A', '{}', '{"tenant": "a"}', '00000000-0000-4000-8000-0000009b0001');
SELECT version FROM es_append('Priv-1', 1, 'B', '{}', '{"tenant": "b"}', '00000000-0000-4000-8000-0000009b0002');
SELECT version FROM es_append('Priv-1', 2, 'C', '{}', '{"tenant": "a"}', '00000000-0000-4000-8000-0000009b0003');
SELECT es_snapshot('Priv-1', 1, '{}');

CREATE FUNCTION pg_temp.try(statement text) RETURNS text LANGUAGE plpgsql AS $$
BEGIN
    EXECUTE statement;
    RAISE EXCEPTION USING ERRCODE = 'ZZ999';
EXCEPTION
    WHEN SQLSTATE 'ZZ999' THEN RETURN 'ok';
    WHEN OTHERS THEN RETURN sqlstate;
END
$$;
CREATE FUNCTION pg_temp.error(statement text) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
    detail text;
BEGIN
    EXECUTE statement;
    RETURN 'no error';
EXCEPTION WHEN OTHERS THEN
    GET STACKED DIAGNOSTICS detail = PG_EXCEPTION_DETAIL;
    RETURN concat_ws(' / ', sqlstate || ': ' || sqlerrm, nullif(detail, ''));
END
$$;

-- the result of every call for a role; what it writes is undone
CREATE TEMP TABLE call (n serial, sql text);
INSERT INTO call (sql) VALUES
    ($$SELECT es_append('Priv-1', es_any(), 'T', '{}')$$),
    ($$SELECT es_append_batch('Priv-1', es_any(), '{T}', '{1}')$$),
    ($$SELECT es_append('Priv-1', es_any(), '{"event_type": "T", "data": 1}')$$),
    ($$SELECT es_snapshot('Priv-1', 2, '{}')$$),
    ($$SELECT es_any()$$),
    ($$SELECT es_exists()$$),
    ($$SELECT es_read_stream('Priv-1')$$),
    ($$SELECT es_stream_version('Priv-1')$$),
    ($$SELECT es_head()$$),
    ($$SELECT es_wait(0, '0 s')$$),
    ($$SELECT es_read_event('00000000-0000-4000-8000-0000009b0001')$$),
    ($$SELECT es_envelope(ROW(1, 'S', 1, '00000000-0000-4000-8000-0000009b0001', 'T', 1, '{}', '{}', now())::es_event)$$),
    ($$SELECT es_read_snapshot('Priv-1')$$),
    ($$SELECT es_load('Priv-1')$$),
    ($$SELECT es_read_all(0)$$),
    ($$SELECT es_read_category('Priv')$$),
    ($$SELECT es_grant('regress_es_none', 'reader')$$),
    ($$SELECT es_revoke('regress_es_none', 'reader')$$),
    ($$SELECT event_store.es_change_grants('regress_es_none', 'reader', true)$$),
    ($$SELECT event_store.es_role_functions('reader')$$),
    ($$SELECT FROM event_store.events$$),
    ($$SELECT FROM event_store.status$$),
    ($$SELECT FROM event_store.event$$),
    ($$SELECT FROM event_store.stream$$),
    ($$SELECT FROM event_store.event_type$$),
    ($$SELECT FROM event_store.mark$$),
    ($$SELECT FROM event_store.snapshot$$),
    ($$INSERT INTO event_store.event SELECT * FROM event_store.event WHERE false$$),
    ($$INSERT INTO event_store.mark VALUES (1)$$),
    ($$UPDATE event_store.event SET version = 1 WHERE false$$),
    ($$DELETE FROM event_store.event WHERE false$$),
    ($$TRUNCATE event_store.event$$),
    ($$DELETE FROM event_store.snapshot WHERE false$$),
    ($$SELECT nextval('event_store.event_global_position_seq')$$),
    ($$SELECT setval('event_store.event_global_position_seq', 1)$$),
    ($$SET LOCAL event_store.max_event_size = '1MB'$$),
    ($$SET LOCAL event_store.max_batch_size = 10$$),
    ($$SET LOCAL event_store.notify = off$$),
    ($$SET LOCAL event_store.force_sync_commit = off$$);
CREATE TEMP TABLE result (role text, n int, result text);
GRANT SELECT ON call TO PUBLIC;
GRANT INSERT ON result TO PUBLIC;

SELECT es_grant('regress_es_reader', 'reader');
SELECT es_grant('regress_es_writer', 'writer');
SELECT es_grant('regress_es_admin', 'admin');

SET ROLE regress_es_none;
INSERT INTO result SELECT 'none', n, pg_temp.try(sql) FROM call;
SET ROLE regress_es_reader;
INSERT INTO result SELECT 'reader', n, pg_temp.try(sql) FROM call;
SET ROLE regress_es_writer;
INSERT INTO result SELECT 'writer', n, pg_temp.try(sql) FROM call;
SET ROLE regress_es_admin;
INSERT INTO result SELECT 'admin', n, pg_temp.try(sql) FROM call;
RESET ROLE;
SELECT c.sql, max(result) FILTER (WHERE role = 'none') AS none, max(result) FILTER (WHERE role = 'reader') AS reader,
       max(result) FILTER (WHERE role = 'writer') AS writer, max(result) FILTER (WHERE role = 'admin') AS admin
  FROM call AS c JOIN result USING (n) GROUP BY n, c.sql ORDER BY n;

-- what the messages say
SET ROLE regress_es_reader;
SELECT * FROM es_append('Priv-1', es_any(), 'T', '{}');
SELECT * FROM es_append_batch('Priv-1', es_any(), '{T}', '{1}');
SELECT es_snapshot('Priv-1', 1, '{}');
UPDATE event_store.event SET version = 0;
SELECT es_grant('regress_es_reader', 'writer');
SET event_store.max_event_size = '2MB';
SET ROLE regress_es_writer;
SELECT version FROM es_read_all(0);
SELECT count(*) FROM event_store.events;
SELECT version, cardinality(events) FROM es_load('Priv-1', 1);
RESET ROLE;

--
-- Nothing for PUBLIC, whatever the extension consists of
--

SELECT p.oid::regprocedure AS function_for_public
  FROM pg_proc AS p JOIN pg_depend AS d ON d.classid = 'pg_proc'::regclass AND d.objid = p.oid AND d.deptype = 'e'
  JOIN pg_extension AS x ON x.oid = d.refobjid AND d.refclassid = 'pg_extension'::regclass
 WHERE x.extname = 'event_store' AND (p.proacl IS NULL OR EXISTS (SELECT FROM aclexplode(p.proacl) AS a WHERE a.grantee = 0));
SELECT c.oid::regclass AS relation_for_public
  FROM pg_class AS c WHERE c.relnamespace = 'event_store'::regnamespace
   AND EXISTS (SELECT FROM aclexplode(c.relacl) AS a WHERE a.grantee = 0);
SELECT nspname AS schema_for_public FROM pg_namespace
 WHERE nspname = 'event_store' AND (nspacl IS NULL OR EXISTS (SELECT FROM aclexplode(nspacl) AS a WHERE a.grantee = 0));

--
-- es_grant and es_revoke
--

SELECT pg_temp.error($$SELECT es_grant('regress_es_nobody', 'reader')$$);
SELECT pg_temp.error($$SELECT es_grant('public', 'reader')$$);
SELECT pg_temp.error($$SELECT es_grant('regress_es_none', 'owner')$$);
SELECT pg_temp.error($$SELECT es_grant('regress_es_none', 'Reader')$$);
SELECT pg_temp.error($$SELECT es_grant('regress_es_none', '')$$);
SELECT pg_temp.error($$SELECT es_grant(NULL, 'reader')$$);
SELECT pg_temp.error($$SELECT es_grant('regress_es_none', NULL)$$);
SELECT pg_temp.error($$SELECT es_grant('regress_es_none; DROP TABLE call', 'reader')$$);
SELECT pg_temp.error($$SELECT es_revoke('regress_es_nobody', 'reader')$$);
SELECT pg_temp.error($$SELECT es_revoke('regress_es_none', 'owner')$$);
SELECT pg_temp.error($$SELECT es_revoke(NULL, 'reader')$$);
SELECT pg_temp.error($$SELECT es_revoke('regress_es_none', NULL)$$);
-- what was never granted can be revoked, what is granted twice is granted once
SELECT es_revoke('regress_es_none', 'admin');
SELECT es_grant('regress_es_reader', 'reader');
-- an odd name
CREATE ROLE "regress es ""odd""";
SELECT es_grant('regress es "odd"', 'reader');
SET ROLE "regress es ""odd""";
SELECT count(*) FROM es_read_stream('Priv-1');
RESET ROLE;
SELECT es_revoke('regress es "odd"', 'reader');
DROP ROLE "regress es ""odd""";
-- what readers and writers share stays with whom is the other one, too
SELECT es_grant('regress_es_none', 'reader'), es_grant('regress_es_none', 'writer');
SELECT es_revoke('regress_es_none', 'reader');
SET ROLE regress_es_none;
SELECT pg_temp.try($$SELECT es_append('Priv-1', es_any(), 'T', '{}')$$) AS append, pg_temp.try($$SELECT es_read_stream('Priv-1')$$) AS stream,
       pg_temp.try($$SELECT es_read_all(0)$$) AS "all", pg_temp.try($$SELECT FROM event_store.events$$) AS view;
RESET ROLE;
SELECT es_grant('regress_es_none', 'reader'), es_revoke('regress_es_none', 'writer');
SET ROLE regress_es_none;
SELECT pg_temp.try($$SELECT es_append('Priv-1', es_any(), 'T', '{}')$$) AS append, pg_temp.try($$SELECT es_read_stream('Priv-1')$$) AS stream,
       pg_temp.try($$SELECT es_read_all(0)$$) AS "all", pg_temp.try($$SELECT FROM event_store.events$$) AS view;
RESET ROLE;
SELECT es_revoke('regress_es_none', 'reader');
-- membership works as with any privilege
GRANT regress_es_writer TO regress_es_none;
SET ROLE regress_es_none;
SELECT version FROM es_append('Priv-2', 0, 'A', '{}');
RESET ROLE;
REVOKE regress_es_writer FROM regress_es_none;
-- an application's own function on behalf of a role that has no rights
CREATE FUNCTION public.regress_es_place(id text) RETURNS bigint LANGUAGE sql SECURITY DEFINER
    AS $$ SELECT version FROM es_append(id, es_any(), 'Placed', '{}') $$;
SET ROLE regress_es_none;
SELECT pg_temp.try($$SELECT es_append('Priv-3', 0, 'A', '{}')$$), regress_es_place('Priv-3');
RESET ROLE;
DROP FUNCTION public.regress_es_place(text);

--
-- Row-level security on the event table
--

CREATE ROLE regress_es_tenant;
SELECT es_grant('regress_es_tenant', 'reader');
SELECT es_head() AS head \gset
CREATE POLICY tenant ON event_store.event FOR SELECT TO regress_es_tenant USING (metadata->>'tenant' = current_setting('regress.tenant'));
ALTER TABLE event_store.event ENABLE ROW LEVEL SECURITY;

SET regress.tenant = 'a';
SET ROLE regress_es_tenant;
SELECT version, event_type FROM es_read_stream('Priv-1');
SELECT version, event_type FROM es_read_stream('Priv-1', backward => true);
SELECT version, event_type FROM es_read_stream('Priv-1', max_count => 2);
SELECT version, event_type FROM es_read_stream('Priv-1', 2);
SELECT version, event_type FROM es_read_all(0, NULL);
SELECT version, event_type FROM es_read_all(0, 1);
SELECT version, event_type FROM es_read_all(max_count => 1, backward => true);
SELECT version, event_type FROM es_read_all(0, event_types => '{A,B}', categories => '{Priv}');
SELECT version, event_type FROM es_read_category('Priv');
SELECT version, event_type FROM es_read_category('Priv', backward => true);
SELECT version FROM es_read_event('00000000-0000-4000-8000-0000009b0001');
SELECT es_read_event('00000000-0000-4000-8000-0000009b0002') IS NULL AS hidden;
-- a snapshot may tell of hidden events: there is none
SELECT es_read_snapshot('Priv-1') IS NULL AS hidden;
SELECT snapshot_version, snapshot, (SELECT string_agg(e.event_type, ' ' ORDER BY e.version) FROM unnest(events) AS e) AS events FROM es_load('Priv-1');
-- the order itself is the same for everybody
SELECT es_head() = :head AS same_head, es_stream_version('Priv-1');
SET regress.tenant = 'b';
SELECT version, event_type FROM es_read_stream('Priv-1');
SELECT version, event_type FROM es_read_all(0, NULL);
SELECT es_read_event('00000000-0000-4000-8000-0000009b0001') IS NULL AS hidden, (es_read_event('00000000-0000-4000-8000-0000009b0002')).version;
-- the view shows no more: from 15 on what the policies let pass, before nothing
SELECT count(*) FROM event_store.events WHERE metadata->>'tenant' IS DISTINCT FROM 'b';
SELECT count(*) FROM event_store.event WHERE metadata->>'tenant' IS DISTINCT FROM 'b';
-- asked not to filter, everything is refused
SET row_security = off;
SELECT pg_temp.error($$SELECT es_read_stream('Priv-1')$$);
SELECT pg_temp.error($$SELECT es_read_all(0)$$);
SELECT pg_temp.error($$SELECT es_read_category('Priv')$$);
SELECT pg_temp.error($$SELECT es_read_event('00000000-0000-4000-8000-0000009b0002')$$);
SELECT pg_temp.error($$SELECT es_load('Priv-1')$$);
SELECT pg_temp.error($$SELECT es_read_snapshot('Priv-1')$$);
RESET row_security;
RESET ROLE;
-- to whom no policy applies nothing is shown; writers need not see to append
SET ROLE regress_es_reader;
SELECT count(*) FROM es_read_stream('Priv-1');
SELECT count(*) FROM es_read_all(0);
SELECT count(*) FROM es_read_category('Priv');
SELECT count(*) FROM event_store.events;
SET ROLE regress_es_writer;
SELECT version FROM es_append('Priv-1', 3, 'D', '{}', '{"tenant": "a"}', '00000000-0000-4000-8000-0000009b0004');
SELECT version, is_duplicate FROM es_append('Priv-1', 3, 'D', '{}', '{"tenant": "a"}', '00000000-0000-4000-8000-0000009b0004');
-- and cannot, as the policies are asked with their own rights
SELECT pg_temp.error($$SELECT es_read_stream('Priv-1')$$);
-- where an id is used is not told, and the whole state is not theirs to keep
SELECT pg_temp.error($$SELECT es_append('Priv-9', es_any(), 'D', '{}', NULL, '00000000-0000-4000-8000-0000009b0002')$$);
SELECT pg_temp.error($$SELECT es_snapshot('Priv-1', 4, '{}')$$);
RESET ROLE;
-- the owner is told
SELECT pg_temp.error($$SELECT es_append('Priv-9', es_any(), 'D', '{}', NULL, '00000000-0000-4000-8000-0000009b0002')$$) ~ 'stream=Priv-1.*version=2' AS told;
-- the owner, a superuser: everything
SELECT count(*) FROM es_read_stream('Priv-1');
SELECT snapshot_version FROM es_load('Priv-1');
SELECT count(*) FROM event_store.events WHERE stream_id = 'Priv-1';
ALTER TABLE event_store.event DISABLE ROW LEVEL SECURITY;
DROP POLICY tenant ON event_store.event;
SET ROLE regress_es_tenant;
SELECT count(*) FROM es_read_stream('Priv-1');
RESET ROLE;

--
-- Nothing of hidden events in anything that a grant opens
--

CREATE ROLE regress_es_restricted;
CREATE ROLE regress_es_monitor;
SELECT es_grant('regress_es_restricted', 'admin');
SELECT es_grant('regress_es_monitor', 'monitor');
SELECT version FROM es_append('PrivA-1', 0, 'A', '{"word": "plain"}', '{"tenant": "a"}');
SELECT version FROM es_append('PrivB-hidden', 0, 'B', '{"word": "hidden"}', '{"tenant": "b"}');
SELECT version FROM es_append('PrivB-both', 0, 'B', '{"word": "hidden"}', '{"tenant": "b"}');
SELECT version FROM es_append('PrivB-both', 1, 'B', '{"word": "plain"}', '{"tenant": "a"}');
SELECT es_snapshot('PrivB-hidden', 1, '{"word": "hidden"}');
SELECT es_create_subscription('priv_named', query => '{"items": [{"streams": ["PrivB-hidden"]}]}');
CREATE FUNCTION regress_es_tells(e es_event) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    RAISE 'tells of % %', e.stream_id, e.data;
END $$;
SELECT es_create_projection('priv_parks', 'regress_es_tells(es_event)', '{PrivB}', max_attempts => 1, policy => 'park');
SELECT es_wait_projection('priv_parks', es_head());
SELECT es_create_projection('priv_stops', 'regress_es_tells(es_event)', '{PrivB}', max_attempts => 1);
CREATE FUNCTION pg_temp.wait() RETURNS text LANGUAGE plpgsql AS $$
BEGIN
    RETURN es_wait_projection('priv_stops', es_head());
EXCEPTION WHEN OTHERS THEN RETURN sqlstate;
END $$;
SELECT pg_temp.wait();
SELECT es_create_subscription('priv_sub', '{PrivB}');
SELECT data->>'word' AS word FROM es_fetch('priv_sub', member => 'm');
SELECT es_nack('priv_sub', (SELECT min(global_position) FROM event_store.events WHERE category = 'PrivB'), 'is hidden', false, 'm');
SELECT es_create_subscription('priv_nack', '{PrivA,PrivB}');
SELECT (SELECT global_position FROM es_read_stream('PrivB-hidden')) AS hidden, (SELECT global_position FROM es_read_stream('PrivB-both', 1, 1)) AS first,
       (SELECT global_position FROM es_read_stream('PrivB-both', 2)) AS second, (SELECT global_position FROM es_read_stream('Priv-2')) AS other \gset

CREATE POLICY tenant ON event_store.event FOR SELECT TO regress_es_restricted USING (metadata->>'tenant' = 'a');
ALTER TABLE event_store.event ENABLE ROW LEVEL SECURITY;
-- every table and view that a role may select from, as text: what of it tells
CREATE FUNCTION pg_temp.leaks() RETURNS TABLE (relation text, leaks bigint) LANGUAGE plpgsql AS $$
BEGIN
    FOR relation IN SELECT c.relname FROM pg_class AS c
                     WHERE c.relnamespace = 'event_store'::regnamespace AND c.relkind IN ('r', 'v')
                       AND has_table_privilege(c.oid, 'SELECT') ORDER BY c.relname COLLATE "C"
    LOOP
        EXECUTE format('SELECT count(*) FROM event_store.%I AS r WHERE r::text ~ %L', relation, 'hidden') INTO leaks;
        RETURN NEXT;
    END LOOP;
END $$;
GRANT EXECUTE ON FUNCTION pg_temp.leaks() TO PUBLIC;
SELECT * FROM pg_temp.leaks() WHERE leaks > 0;
SET ROLE regress_es_restricted;
SELECT * FROM pg_temp.leaks();
SELECT stream_id FROM event_store.stream WHERE stream_id LIKE 'Priv_-%' ORDER BY 1;
SELECT name, state, error_sqlstate, error_message, last_error_message FROM event_store.projections WHERE name LIKE 'priv%' ORDER BY 1;
SELECT es_create_subscription('priv_own', query => '{"items": [{"streams": ["PrivA-1"]}]}');
SELECT name, query FROM event_store.subscriptions WHERE name IN ('priv_named', 'priv_own') ORDER BY 1;
SELECT count(*) FROM event_store.categories;
-- figures of a projection, not of any range and filter, which would tell of single events
SELECT events FROM event_store.es_projection_backlog('priv_stops', false);
SELECT pg_temp.error($$SELECT event_store.es_projection_backlog(0, 9223372036854775807, '{PrivB}', '{B}')$$);
SELECT pg_temp.error($$SELECT event_store.es_projection_backlog('none', false)$$);
SELECT event_id FROM es_check_upcasters(NULL);
-- what is hidden cannot be failed, retried or discarded: it is not there, even if somebody else has failed it
SELECT stream_id, version FROM es_fetch('priv_nack');
SELECT regexp_replace(pg_temp.error(format('SELECT es_nack(''priv_nack'', %s, ''mine'', false)', p)), 'position [0-9]+', 'position N') AS error
  FROM unnest(ARRAY[:hidden, :first, :other]) AS p;
SELECT es_discard_parked('priv_sub', :hidden) AS discard, es_discard_parked_stream('priv_sub', 'PrivB-hidden') AS discard_stream,
       es_retry_parked('priv_sub', 'PrivB-hidden') AS retry;
SELECT es_nack('priv_nack', :second, 'mine', false), es_retry_parked('priv_nack', 'PrivB-both') AS retry;
BEGIN;
SELECT es_discard_parked('priv_nack', :second) AS discard;
ROLLBACK;
SELECT es_discard_parked_stream('priv_nack', 'PrivB-both') AS discard_stream;
RESET ROLE;
SELECT stream_id, version, state FROM event_store.parked_events WHERE subscription = 'priv_sub';
SET ROLE regress_es_monitor;
SELECT relation, leaks FROM pg_temp.leaks();
SELECT events FROM event_store.categories WHERE category = 'PrivB';
RESET ROLE;
-- a policy may look at the name of the stream
DROP POLICY tenant ON event_store.event;
CREATE POLICY tenant ON event_store.event FOR SELECT TO regress_es_restricted
    USING (EXISTS (SELECT FROM event_store.stream AS s WHERE s.stream_no = event.stream_no AND s.stream_id LIKE 'PrivA-%'));
SET ROLE regress_es_restricted;
SELECT count(*) FROM es_read_category('PrivA');
SELECT count(*) FROM es_read_category('PrivB');
SELECT stream_id FROM event_store.stream WHERE stream_id LIKE 'Priv_-%' ORDER BY 1;
PREPARE names AS SELECT count(*) FROM event_store.stream WHERE stream_id LIKE 'PrivB-%';
EXECUTE names;
RESET ROLE;
-- streams whose names begin with "-", of category '', are no exception
SELECT version FROM es_append('-priv-a', 0, 'PrivDash', '{"word": "plain"}', '{"tenant": "a"}');
SELECT version FROM es_append('-priv-hidden', 0, 'PrivDash', '{"word": "hidden"}', '{"tenant": "b"}');
CREATE FUNCTION pg_temp.dashes() RETURNS TABLE (what text, streams text[]) LANGUAGE sql AS $$
    SELECT 'es_list_streams', array_agg(stream_id ORDER BY stream_id COLLATE "C") FROM es_list_streams('', max_count => NULL) WHERE stream_id LIKE '-priv%'
    UNION ALL SELECT 'es_read_category', array_agg(stream_id ORDER BY global_position) FROM es_read_category('', 0, NULL) WHERE stream_id LIKE '-priv%'
    UNION ALL SELECT 'es_read_all', array_agg(stream_id ORDER BY global_position) FROM es_read_all(0, NULL, '{""}', '{PrivDash}')
    UNION ALL SELECT 'stream', array_agg(stream_id ORDER BY stream_id) FROM event_store.stream WHERE stream_id LIKE '-priv%'
    UNION ALL SELECT 'categories', array_agg(category) FROM event_store.categories WHERE category = ''
$$;
GRANT EXECUTE ON FUNCTION pg_temp.dashes() TO PUBLIC;
SELECT * FROM pg_temp.dashes();
DROP POLICY tenant ON event_store.event;
CREATE POLICY tenant ON event_store.event FOR SELECT TO regress_es_restricted USING (metadata->>'tenant' = 'a');
SET ROLE regress_es_restricted;
SELECT * FROM pg_temp.dashes();
RESET ROLE;
-- a policy may look at the category
DROP POLICY tenant ON event_store.event;
CREATE POLICY tenant ON event_store.event FOR SELECT TO regress_es_restricted
    USING (EXISTS (SELECT FROM event_store.event_type AS t WHERE t.type_no = event.type_no AND t.category = ''));
SET ROLE regress_es_restricted;
SELECT * FROM pg_temp.dashes();
SELECT count(*) FROM es_read_category('PrivA');
RESET ROLE;
ALTER TABLE event_store.event DISABLE ROW LEVEL SECURITY;
-- without it everything is as before, and a name leads to the index
SET ROLE regress_es_restricted;
EXECUTE names;
SELECT query FROM event_store.subscriptions WHERE name = 'priv_named';
SET enable_seqscan = off;
SET enable_bitmapscan = off;
EXPLAIN (COSTS OFF) SELECT stream_no FROM event_store.stream WHERE stream_id LIKE 'PrivB-%';
RESET enable_seqscan;
RESET enable_bitmapscan;
SELECT count(*) FROM event_store.snapshot WHERE data::text ~ 'hidden';
SELECT count(*) FROM event_store.projection_parked;
-- a plan from then does not outlive it
RESET ROLE;
ALTER TABLE event_store.event ENABLE ROW LEVEL SECURITY;
SET ROLE regress_es_restricted;
EXECUTE names;
RESET ROLE;
DEALLOCATE names;
ALTER TABLE event_store.event DISABLE ROW LEVEL SECURITY;
DROP POLICY tenant ON event_store.event;

--
-- A monitor: every figure, no event
--

SELECT es_reset_statistics();
SELECT reset_at > now() - interval '1 hour' AS is_reset, appends, events, conflicts, id_conflicts, duplicates, reads FROM event_store.statistics;
SELECT count(*) FROM es_append_batch('PrivS-1', 0, '{A,B,C}', '{1,2,3}', event_ids => ARRAY['00000000-0000-4000-8000-0000009b0101', NULL, NULL]::uuid[]);
SELECT version FROM es_append('PrivS-1', 3, 'A', '1', NULL, '00000000-0000-4000-8000-0000009b0102');
SELECT is_duplicate FROM es_append('PrivS-1', 3, 'A', '1', NULL, '00000000-0000-4000-8000-0000009b0102');
SELECT pg_temp.try($$SELECT es_append('PrivS-1', 0, 'A', '1')$$), pg_temp.try($$SELECT es_append('PrivS-2', 1, '{"event_type": "A", "data": 1}')$$),
       pg_temp.try($$SELECT es_append_batch('PrivS-1', es_any(), '{A}', '{2}', NULL, '{00000000-0000-4000-8000-0000009b0101}')$$);
SELECT count(*) FROM es_read_stream('PrivS-1');
SELECT count(*) FROM es_read_category('PrivS');
SET ROLE regress_es_monitor;
SELECT appends, events, conflicts, condition_failures, id_conflicts, duplicates, reads FROM event_store.statistics;
SELECT streams, events, event_types, last_position = es_head() AS is_last, last_created_at IS NOT NULL AS dated FROM event_store.categories WHERE category = 'PrivS';
SELECT settled_head = es_head() AS head FROM event_store.status;
SELECT name, lag_events, error_sqlstate, error_message FROM event_store.projections WHERE name LIKE 'priv%' ORDER BY 1;
SELECT name, lag_events, query FROM event_store.subscriptions WHERE name IN ('priv_named', 'priv_own', 'priv_sub') ORDER BY 1;
SELECT pg_temp.try('SELECT FROM event_store.subscription_members') AS members, pg_temp.try('SELECT FROM event_store.projection_progress') AS progress,
       pg_temp.try('SELECT FROM event_store.events') AS events, pg_temp.try('SELECT FROM event_store.stream') AS stream,
       pg_temp.try('SELECT FROM event_store.parked_events') AS parked, pg_temp.try('SELECT es_read_all(0)') AS read,
       pg_temp.try('SELECT es_reset_statistics()') AS reset;
RESET ROLE;
-- what a monitor and a reader share stays with whom is the other one, too
SELECT es_grant('regress_es_monitor', 'reader'), es_revoke('regress_es_monitor', 'reader');
SET ROLE regress_es_monitor;
SELECT pg_temp.try('SELECT FROM event_store.statistics') AS statistics, pg_temp.try('SELECT FROM event_store.projections') AS projections, pg_temp.try('SELECT FROM event_store.events') AS events;
RESET ROLE;
SELECT es_grant('regress_es_monitor', 'reader'), es_revoke('regress_es_monitor', 'monitor');
SET ROLE regress_es_monitor;
SELECT pg_temp.try('SELECT FROM event_store.statistics') AS statistics, pg_temp.try('SELECT FROM event_store.projections') AS projections, pg_temp.try('SELECT FROM event_store.events') AS events;
RESET ROLE;
SELECT es_revoke('regress_es_monitor', 'reader'), es_revoke('regress_es_restricted', 'admin');
DROP ROLE regress_es_monitor, regress_es_restricted;
SELECT es_drop_projection('priv_parks'), es_drop_projection('priv_stops'), es_drop_subscription('priv_sub'), es_drop_subscription('priv_nack');
SELECT es_drop_subscription('priv_named'), es_drop_subscription('priv_own');
DROP FUNCTION regress_es_tells(es_event);

-- the transaction that holds the head back is no secret
BEGIN;
SELECT version FROM es_append('PrivS-3', 0, 'A', '1');
SET LOCAL ROLE regress_es_reader;
SELECT pid = pg_backend_pid() AS pid, started_at = now() AS started FROM event_store.es_transaction_status((pg_catalog.txid_current() & 4294967295)::text::xid);
ROLLBACK;

--
-- es_revoke leaves nothing: the roles can be dropped
--

SELECT es_revoke('regress_es_tenant', 'reader');
SELECT es_revoke('regress_es_reader', 'reader');
SELECT es_revoke('regress_es_writer', 'writer');
SELECT es_revoke('regress_es_admin', 'admin');
DELETE FROM result;
SET ROLE regress_es_reader;
INSERT INTO result SELECT 'reader', n, pg_temp.try(sql) FROM call;
SET ROLE regress_es_writer;
INSERT INTO result SELECT 'writer', n, pg_temp.try(sql) FROM call;
SET ROLE regress_es_admin;
INSERT INTO result SELECT 'admin', n, pg_temp.try(sql) FROM call;
RESET ROLE;
SELECT role, result, count(*) FROM result GROUP BY role, result ORDER BY role, result;

-- the schema of the functions may be renamed
SELECT n.nspname AS schema FROM pg_extension e JOIN pg_namespace n ON n.oid = e.extnamespace WHERE extname = 'event_store' \gset
BEGIN;
ALTER SCHEMA :"schema" RENAME TO "Renamed";
SELECT "Renamed".es_grant('regress_es_reader', 'reader');
SELECT has_function_privilege('regress_es_reader', '"Renamed".es_head()', 'EXECUTE');
-- and to another schema than public one needs a key
SELECT has_schema_privilege('regress_es_reader', 'Renamed', 'USAGE') AS may;
REVOKE USAGE ON SCHEMA "Renamed" FROM PUBLIC;
SELECT "Renamed".es_revoke('regress_es_reader', 'reader'), "Renamed".es_grant('regress_es_reader', 'reader'), "Renamed".es_grant('regress_es_reader', 'writer');
SET LOCAL ROLE regress_es_reader;
SELECT "Renamed".es_head() > 0 AS head;
RESET ROLE;
SELECT "Renamed".es_revoke('regress_es_reader', 'reader');
SELECT has_schema_privilege('regress_es_reader', 'Renamed', 'USAGE') AS still;
SELECT "Renamed".es_revoke('regress_es_reader', 'writer');
SELECT has_schema_privilege('regress_es_reader', 'Renamed', 'USAGE') AS still;
ROLLBACK;
DROP ROLE regress_es_none, regress_es_reader, regress_es_writer, regress_es_admin, regress_es_tenant;
