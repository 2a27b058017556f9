-- Projections: definitions, running in the session, errors, rebuild.
-- What workers do is tested with the TAP tests; here projections are paused,
-- except where the test waits for them.
SET client_min_messages = warning;
CREATE ROLE regress_projection_owner LOGIN;
CREATE ROLE regress_projection_other LOGIN;
SELECT es_grant('regress_projection_owner', 'admin');
SELECT es_grant('regress_projection_other', 'admin');

-- the order summary of every tutorial
CREATE TABLE order_summary (order_id text PRIMARY KEY, state text, total numeric);
CREATE FUNCTION on_order(e es_event) RETURNS void LANGUAGE sql AS $$
    INSERT INTO order_summary SELECT (e).stream_id, 'placed', ((e).data->>'total')::numeric WHERE (e).event_type = 'OrderPlaced';
    UPDATE order_summary SET state = 'shipped' WHERE (e).event_type = 'OrderShipped' AND order_id = (e).stream_id;
$$;
SELECT es_create_projection('orders', 'on_order(es_event)', categories => '{PrjOrder,PrjSick}');
SELECT version FROM es_append('PrjOrder-1', 0, 'OrderPlaced', '{"total": 12.5}');
SELECT version FROM es_append('PrjOrder-2', 0, 'OrderPlaced', '{"total": 7}');
SELECT version FROM es_append('PrjOrder-1', 1, 'OrderShipped', '{}');
SELECT es_wait_projection('orders', es_head());
SELECT * FROM order_summary ORDER BY order_id;
SELECT name, state, lag_events, lag_seconds, events_applied, attempts, error_sqlstate
  FROM event_store.projections;
-- what the filter does not want does not keep the waiter waiting
SELECT version FROM es_append('PrjOther-1', 0, 'Something', '{}');
SELECT es_wait_projection('orders', es_head());
-- what is in vain is refused at once: a position that there is not,
\set VERBOSITY sqlstate
SELECT es_wait_projection('orders', es_head() + 1000);
-- events of this transaction, which nobody sees before its end, unless they
-- were rolled back,
BEGIN;
SELECT version FROM es_append('PrjOrder-1', es_any(), 'OrderShipped', '{}');
SELECT es_wait_projection('orders', es_head());
ROLLBACK;
BEGIN;
SAVEPOINT a;
SELECT version FROM es_append('PrjOrder-1', es_any(), 'OrderShipped', '{}');
SAVEPOINT b;
SELECT version FROM es_append('PrjOrder-1', es_any(), 'OrderShipped', '{}');
RELEASE b;
ROLLBACK TO a;
SELECT es_wait_projection('orders', es_head());
SAVEPOINT c;
SELECT version FROM es_append('PrjOrder-1', es_any(), 'OrderShipped', '{}');
RELEASE c;
SAVEPOINT d;
ROLLBACK TO d;
SELECT es_wait_projection('orders', 0);
ROLLBACK;
\set VERBOSITY default
-- a projection that is paused or has stopped, unless it is there already
SELECT es_pause_projection('orders');
SELECT es_wait_projection('orders', es_head());
SELECT version FROM es_append('PrjSick-9', 0, 'OrderPlaced', '{"total": "many"}');
\set VERBOSITY sqlstate
SELECT es_wait_projection('orders', es_head());
\set VERBOSITY default
SELECT name, state, error_sqlstate FROM event_store.projections;
CREATE FUNCTION pg_temp.wait() RETURNS text LANGUAGE plpgsql AS $$
DECLARE
    detail text;
    hint text;
BEGIN
    RETURN es_wait_projection('orders', es_head());
EXCEPTION WHEN OTHERS THEN
    GET STACKED DIAGNOSTICS detail = PG_EXCEPTION_DETAIL, hint = PG_EXCEPTION_HINT;
    RETURN sqlstate || ' ' || regexp_replace(sqlerrm || ' / ' || detail || ' / ' || hint, '(position[ =])[0-9]+', '\1N', 'g');
END $$;
UPDATE event_store.projection SET max_attempts = 1;
-- it stops while we wait
SELECT es_resume_projection('orders');
SELECT pg_temp.wait();
SELECT state, error_sqlstate, error_message, error_position = es_head() AS there, error_at = last_error_at AS now FROM event_store.projections;
-- what is overcome is not in the way, but can be looked up
CREATE OR REPLACE FUNCTION on_order(e es_event) RETURNS void LANGUAGE sql AS $$
    INSERT INTO order_summary SELECT (e).stream_id, 'placed', CASE WHEN (e).data->>'total' <> 'many' THEN ((e).data->>'total')::numeric END
     WHERE (e).event_type = 'OrderPlaced' AND (e).data->>'total' <> 'many';
    UPDATE order_summary SET state = 'shipped' WHERE (e).event_type = 'OrderShipped' AND order_id = (e).stream_id;
$$;
SELECT es_resume_projection('orders');
SELECT es_wait_projection('orders', es_head());
SELECT state, error_sqlstate, error_message, error_position, error_at, last_error_sqlstate, last_error_message, last_error_at IS NOT NULL AS dated FROM event_store.projections;
-- while it is tried again that is its state
UPDATE event_store.projection SET state = 'running', attempts = 2, next_attempt_at = now() + interval '50 s';
SELECT state, attempts, error_sqlstate FROM event_store.projections;
-- who may not read events is not told what the handler says of them
CREATE ROLE regress_projection_writer;
SELECT es_grant('regress_projection_writer', 'writer');
SELECT es_pause_projection('orders');
UPDATE event_store.projection SET state = 'stopped';
SELECT version FROM es_append('PrjSick-9', 1, 'OrderShipped', '{}');
GRANT EXECUTE ON FUNCTION pg_temp.wait() TO PUBLIC;
SELECT pg_temp.wait();
SET ROLE regress_projection_writer;
SELECT pg_temp.wait();
RESET ROLE;
SELECT es_revoke('regress_projection_writer', 'writer');
DROP ROLE regress_projection_writer;
SELECT es_drop_projection('orders');
SELECT count(*) FROM event_store.projections;

-- set-based, with filters by type; nothing twice, nothing left out
CREATE TABLE totals (stream_id text PRIMARY KEY, n bigint, total numeric);
CREATE FUNCTION on_orders(events es_event[]) RETURNS void LANGUAGE sql AS $$
    INSERT INTO totals SELECT stream_id, count(*), sum((data->>'total')::numeric) FROM unnest(events) GROUP BY 1
    ON CONFLICT (stream_id) DO UPDATE SET n = totals.n + EXCLUDED.n, total = totals.total + EXCLUDED.total;
$$;
CREATE FUNCTION reset_totals() RETURNS void LANGUAGE sql AS 'TRUNCATE totals';
SELECT es_create_projection('totals', 'on_orders(es_event[])', categories => '{PrjOrder}', event_types => '{OrderPlaced}',
    batch_size => 2, reset_handler => 'reset_totals()', paused => true);
SELECT es_run_projection('totals');
SELECT es_run_projection('totals');
SELECT * FROM totals ORDER BY 1;
SELECT version FROM es_append_batch('PrjOrder-3', 0, array_fill('OrderPlaced'::text, '{5}'), array_fill('{"total": 1}'::jsonb, '{5}'));
-- a rolled back run leaves no trace; its slices write one checkpoint
BEGIN;
CREATE TABLE checkpoints (position bigint);
CREATE FUNCTION note_checkpoint() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO public.checkpoints VALUES (NEW.position);
    RETURN NULL;
END $$;
CREATE TRIGGER note AFTER UPDATE ON event_store.projection FOR EACH ROW EXECUTE FUNCTION note_checkpoint();
SELECT es_run_projection('totals');
SELECT count(*) FROM checkpoints;
ROLLBACK;
SELECT es_run_projection('totals');
SELECT * FROM totals ORDER BY 1;
-- events of the same transaction
BEGIN;
SELECT version FROM es_append('PrjOrder-4', 0, 'OrderPlaced', '{"total": 3}');
SELECT es_run_projection('totals');
COMMIT;
SELECT * FROM totals ORDER BY 1;

-- from scratch
SELECT es_rebuild_projection('totals'), es_pause_projection('totals');
SELECT count(*) FROM totals WHERE n > 5;
SELECT es_run_projection('totals') > 0 AS ran;
SELECT sum(n), sum(total) FROM totals;
-- a new version keeps the reset handler, which is not called: the old read
-- model is in use
CREATE TABLE totals_new (LIKE totals INCLUDING ALL);
CREATE FUNCTION on_orders_new(events es_event[]) RETURNS void LANGUAGE sql AS $$
    INSERT INTO totals_new SELECT stream_id, count(*), sum((data->>'total')::numeric) FROM unnest(events) GROUP BY 1
    ON CONFLICT (stream_id) DO UPDATE SET n = totals_new.n + EXCLUDED.n, total = totals_new.total + EXCLUDED.total;
$$;
CREATE FUNCTION switch_totals() RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    DROP TABLE totals;
    ALTER TABLE totals_new RENAME TO totals;
    DROP FUNCTION on_orders(es_event[]);
    ALTER FUNCTION on_orders_new(es_event[]) RENAME TO on_orders;
    CREATE OR REPLACE FUNCTION on_orders(events es_event[]) RETURNS void LANGUAGE sql AS 'INSERT INTO totals
        SELECT stream_id, count(*), sum((data->>''total'')::numeric) FROM unnest(events) GROUP BY 1
        ON CONFLICT (stream_id) DO UPDATE SET n = totals.n + EXCLUDED.n, total = totals.total + EXCLUDED.total';
END $$;
BEGIN;
SELECT es_prepare_projection('totals', 'on_orders_new(es_event[])');
SELECT is_shadow, reset_handler FROM event_store.projections ORDER BY 1;
SELECT count(*) > 0 AS untouched FROM totals;
SET LOCAL client_min_messages = notice;
SELECT es_switch_projection('totals', max_lag => 1000000000) AS applied;
SELECT reset_handler FROM event_store.projections;
ROLLBACK;
SELECT es_prepare_projection('totals', 'on_orders_new(es_event[])'), es_pause_projection('totals');
SELECT es_switch_projection('totals', 'switch_totals()', 1000000000) AS applied;
SELECT reset_handler FROM event_store.projections;
UPDATE event_store.projection SET handler = 'public.on_orders(public.es_event[])', state = 'paused';
SELECT sum(n) AS before FROM totals;
SELECT es_rebuild_projection('totals'), es_pause_projection('totals');
SELECT es_run_projection('totals') > 0 AS ran;
SELECT sum(n) AS again FROM totals;
-- told to do without, it doubles
SELECT es_rebuild_projection('totals', without_reset => true), es_pause_projection('totals');
SELECT es_run_projection('totals') > 0 AS ran;
SELECT sum(n) AS doubled FROM totals;
-- without a reset handler it has to be told
UPDATE event_store.projection SET reset_handler = NULL;
SELECT es_rebuild_projection('totals');
SELECT es_rebuild_projection('totals', NULL);
SELECT position > 0 AS stays, state FROM event_store.projections;
SELECT es_drop_projection('totals');

-- a new version beside the old one
CREATE TABLE seen (position bigint PRIMARY KEY, replayed boolean);
CREATE FUNCTION on_any(e es_event) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO seen VALUES (e.global_position, es_is_replaying());
END $$;
CREATE TABLE seen_new (LIKE seen INCLUDING ALL);
CREATE FUNCTION on_any_new(e es_event) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO seen_new VALUES (e.global_position, es_is_replaying());
END $$;
CREATE FUNCTION switch_seen() RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    ALTER TABLE seen RENAME TO seen_old;
    ALTER TABLE seen_new RENAME TO seen;
END $$;
SELECT es_create_projection('seen', 'on_any(es_event)', paused => true);
SELECT es_switch_projection('seen');
SELECT es_cancel_rebuild('seen');
SELECT es_run_projection('seen') = (SELECT count(*) FROM event_store.events) AS all_events;
SELECT es_prepare_projection('seen', 'on_any_new(es_event)'), es_pause_projection('seen');
SELECT es_prepare_projection('seen', 'on_any_new(es_event)');
SELECT name, is_shadow, state FROM event_store.projections ORDER BY is_shadow;
SELECT name, events_to_do = (SELECT count(*) FROM event_store.events) AS everything
  FROM event_store.projection_progress;
\set VERBOSITY sqlstate
SELECT es_switch_projection('seen', max_lag => 1);
\set VERBOSITY default
SELECT es_switch_projection('seen', 'switch_seen()', 1000000000) = (SELECT count(*) FROM event_store.events) AS all_events;
SELECT count(*) = (SELECT count(*) FROM event_store.events) AS all_events, bool_and(replayed) FROM seen;
SELECT count(*) FROM event_store.projection_progress;
SELECT handler, is_shadow, lag_events FROM event_store.projections;
CREATE OR REPLACE FUNCTION on_any_new(e es_event) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO seen VALUES (e.global_position, es_is_replaying());
END $$;
SELECT version FROM es_append('PrjOther-1', 1, 'Something', '{}');
SELECT es_run_projection('seen');
SELECT replayed, count(*) > 1 AS many FROM seen GROUP BY 1 ORDER BY 1;
SELECT es_is_replaying();
-- ahead of a store that was restored: what comes after a rebuild is new
UPDATE event_store.projection SET position = es_head() + 3 WHERE name = 'seen';
\set VERBOSITY sqlstate
SELECT es_run_projection('seen');
\set VERBOSITY default
SELECT num_nulls(lag_events, lag_seconds) AS unknown, reason FROM event_store.projections WHERE name = 'seen';
SELECT num_nulls(lag_events, lag_seconds) AS unknown, problem FROM event_store.consumers WHERE name = 'seen';
SELECT es_rebuild_projection('seen', true), es_pause_projection('seen');
TRUNCATE seen;
SELECT version FROM es_append('PrjOther-1', 2, 'Something', '{}');
SELECT es_run_projection('seen') > 0 AS ran;
SELECT position = es_head() AS is_last, replayed FROM seen ORDER BY position DESC LIMIT 2;
SELECT es_drop_projection('seen');

-- no handler at all, and one that moves the checkpoint by hand
SELECT es_create_projection('none', 1::oid::regprocedure);
CREATE FUNCTION on_any_moved(e es_event) RETURNS void LANGUAGE sql AS
    $$ UPDATE event_store.projection SET position = position + 1 WHERE name = 'moved' $$;
SELECT es_create_projection('moved', 'on_any_moved(es_event)', paused => true);
SELECT es_run_projection('moved');
SELECT position FROM event_store.projections WHERE name = 'moved';
SELECT es_drop_projection('moved');
DROP FUNCTION on_any_moved(es_event);

-- a handler that fails
CREATE TABLE picky (stream_id text, version bigint, PRIMARY KEY (stream_id, version));
CREATE FUNCTION on_picky(e es_event) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    IF e.event_type = 'Poison' AND e.data->>'cured' IS NULL AND current_setting('picky.cure', true) IS DISTINCT FROM 'on' THEN
        RAISE 'poisoned at version %', e.version USING ERRCODE = 'P0042', DETAIL = 'the detail';
    END IF;
    INSERT INTO picky VALUES (e.stream_id, e.version);
END $$;
SELECT es_create_projection('picky', 'on_picky(es_event)', categories => '{Picky}', policy => 'park', paused => true);
SELECT version FROM es_append('Picky-1', 0, '[{"event_type": "Fine", "data": {}}, {"event_type": "Poison", "data": {}}, {"event_type": "Fine", "data": {}}]');
\set VERBOSITY terse
SELECT es_run_projection('picky');
\set VERBOSITY sqlstate
SELECT es_run_projection('picky');
SELECT count(*) FROM picky;
SET picky.cure = 'on';
SELECT es_run_projection('picky');
RESET picky.cure;
SELECT * FROM picky ORDER BY 2;
SELECT es_retry_projection_parked('picky'), es_discard_projection_parked('picky', 'Picky-1');
-- what is parked and no longer wanted in today's shape is not given to it
SELECT es_create_projection('choosy', 'on_picky(es_event)', categories => '{Choosy}', event_types => '{Poison}', policy => 'park', max_attempts => 1);
SELECT version FROM es_append('Choosy-1', 0, '[{"event_type": "Poison", "data": {}}, {"event_type": "Poison", "data": {"cured": 1}, "schema_version": 2}]');
SELECT es_wait_projection('choosy', es_head());
CREATE FUNCTION choosy_upcast(data jsonb) RETURNS jsonb LANGUAGE sql IMMUTABLE AS $$ SELECT data $$;
SELECT es_define_upcaster('Poison', 1, 'choosy_upcast(jsonb)', 'Unwanted', 1);
SELECT es_retry_projection_parked('choosy');
SELECT * FROM picky WHERE stream_id = 'Choosy-1';
SELECT es_drop_projection('choosy'), es_drop_upcaster('Poison', 1);
DROP FUNCTION choosy_upcast(jsonb);
CREATE FUNCTION on_tagged(e es_event) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    IF jsonb_exists(e.data, 'poison') AND current_setting('tagged.cured', true) IS DISTINCT FROM 'on' THEN
        RAISE 'no';
    END IF;
END $$;
-- events of no stream wait behind one of the same first tag, if they have any
SELECT es_create_projection('tagged', 'on_tagged(es_event)', policy => 'park', max_attempts => 1, event_types => '{Tagged}');
SELECT count(*) FROM es_append_if('[{"event_type": "Tagged", "data": {"poison": 1}, "tags": ["prj:z", "prj:x"]},
    {"event_type": "Tagged", "data": {}, "tags": ["prj:x"]}, {"event_type": "Tagged", "data": {"poison": 1}, "tags": ["prj:y"]},
    {"event_type": "Tagged", "data": {"poison": 1}}, {"event_type": "Tagged", "data": {}, "tags": ["prj:z"]}]',
    '{"items": [{"tags": ["prj:none"]}]}');
SELECT es_wait_projection('tagged', es_head());
SELECT replace(stream_id, E'\t', '(tab)') AS key, disposition FROM event_store.projection_parked WHERE projection = 'tagged' ORDER BY global_position;
SET tagged.cured = 'on';
SELECT es_retry_projection_parked('tagged', E'\tprj:x'), es_retry_projection_parked('tagged', E'\tprj:x') AS again;
SELECT es_discard_projection_parked('tagged', E'\tprj:y'), es_retry_projection_parked('tagged', E'\t');
SELECT es_retry_projection_parked('tagged', 'prj:x'), es_retry_projection_parked('tagged', E'\t' || repeat('x', 300));
SELECT es_retry_projection_parked('tagged', E'prj\tx');
SELECT es_discard_projection_parked('tagged', '');
SELECT count(*) FROM event_store.projection_parked WHERE projection = 'tagged';
SELECT es_drop_projection('tagged');
-- what others of their names have left behind is not theirs
CREATE FUNCTION leave_parked(is_shadow boolean) RETURNS void LANGUAGE sql AS $$
    INSERT INTO event_store.projection_parked (projection, is_shadow, global_position, stream_id, disposition, attempts, parked_at)
    VALUES ('anew', is_shadow, 1, 'Picky-1', 'parked', 1, now()) $$;
SELECT leave_parked(false), leave_parked(true);
SELECT es_create_projection('anew', 'on_picky(es_event)', policy => 'park', paused => true);
SELECT count(*) FROM event_store.projection_parked;
SELECT leave_parked(true);
SELECT es_prepare_projection('anew', 'on_tagged(es_event)'), es_pause_projection('anew');
SELECT count(*) FROM event_store.projection_parked;
SELECT es_drop_projection('anew');
DROP FUNCTION on_tagged(es_event), leave_parked(boolean);

-- a reset or switch handler that fails
CREATE FUNCTION fails() RETURNS void LANGUAGE plpgsql AS $$ BEGIN RAISE 'not now' USING DETAIL = 'the detail'; END $$;
SELECT es_create_projection('resets', 'on_picky(es_event)', reset_handler => 'fails()', paused => true);
SELECT es_prepare_projection('resets', 'on_picky(es_event)'), es_pause_projection('resets');
\set VERBOSITY default
SELECT es_rebuild_projection('resets');
SELECT es_switch_projection('resets', 'fails()');
\set VERBOSITY sqlstate
SELECT es_rebuild_projection('resets');
SELECT es_switch_projection('resets', 'fails()');
SELECT es_drop_projection('resets');
DROP FUNCTION fails();

-- settings that a handler leaves behind are put back
CREATE FUNCTION on_leave(e es_event) RETURNS void LANGUAGE sql AS $$
    SELECT set_config('search_path', 'nowhere', false); SELECT set_config('work_mem', '99MB', false)
$$;
SELECT es_create_projection('leave', 'on_leave(es_event)', paused => true);
SELECT es_run_projection('leave') > 0 AS ran;
SHOW work_mem;
SHOW search_path;
-- a handler cannot run or change projections
CREATE FUNCTION on_recursive(e es_event) RETURNS void LANGUAGE sql AS $$ SELECT es_run_projection('recursive') $$;
SELECT es_create_projection('recursive', 'on_recursive(es_event)', paused => true);
\set VERBOSITY terse
SELECT es_run_projection('recursive');
\set VERBOSITY sqlstate
-- nor commit
CREATE PROCEDURE committing() LANGUAGE plpgsql AS 'BEGIN COMMIT; END';
CREATE FUNCTION on_commit(e es_event) RETURNS void LANGUAGE plpgsql AS 'BEGIN CALL committing(); END';
SELECT es_create_projection('commit', 'on_commit(es_event)', paused => true);
\set VERBOSITY terse
SELECT es_run_projection('commit');
\set VERBOSITY sqlstate
-- a handler that is gone
DROP FUNCTION on_commit(es_event);
SELECT es_run_projection('commit');
SELECT es_drop_projection('commit'), es_drop_projection('recursive'), es_drop_projection('leave'), es_drop_projection('picky');

-- arguments
SELECT es_create_projection(NULL, 'on_any(es_event)');
SELECT es_create_projection('', 'on_any(es_event)');
SELECT es_create_projection('x', NULL);
SELECT es_create_projection('x', 'no_such_function(es_event)');
SELECT es_create_projection('x', 'reset_totals()');
SELECT es_create_projection('x', 'pg_catalog.abs(int)');
SELECT es_create_projection('x', 'pg_catalog.count("any")');
SELECT es_create_projection('x', 'on_any(es_event)', reset_handler => 'on_any(es_event)');
CREATE FUNCTION pg_temp.on_temporary(e es_event) RETURNS void LANGUAGE sql AS '';
CREATE FUNCTION pg_temp.reset_temporary() RETURNS void LANGUAGE sql AS '';
SELECT es_create_projection('x', 'pg_temp.on_temporary(es_event)');
SELECT es_create_projection('x', 'on_any(es_event)', reset_handler => 'pg_temp.reset_temporary()');
DROP FUNCTION pg_temp.on_temporary(es_event), pg_temp.reset_temporary();
SELECT es_create_projection('x', 'on_any(es_event)', batch_size => 0);
SELECT es_create_projection('x', 'on_any(es_event)', batch_size => NULL);
SELECT es_create_projection('x', 'on_any(es_event)', policy => 'ignore');
SELECT es_create_projection('x', 'on_any(es_event)', max_attempts => 0);
SELECT es_create_projection('x', 'on_any(es_event)', after_position => -1);
SELECT es_create_projection('x', 'on_any(es_event)', after_position => 1000000000);
SELECT es_create_projection('x', 'on_any(es_event)', categories => '{a-b}');
SELECT es_create_projection('x', 'on_any(es_event)', paused => true);
SELECT es_create_projection('x', 'on_any(es_event)');
SELECT es_wait_projection('x', 1, '-1 s');
SELECT es_wait_projection('x', NULL);
SELECT es_wait_projection('y', 1);
BEGIN ISOLATION LEVEL REPEATABLE READ;
SELECT es_wait_projection('x', 1);
ROLLBACK;
SELECT es_drop_projection('y');
SELECT es_pause_projection('y');
SELECT es_resume_projection('y');
SELECT es_run_projection('y');
SELECT es_rebuild_projection('y');
SELECT es_prepare_projection('y', 'on_any(es_event)');
SELECT es_switch_projection('y');
SELECT es_cancel_rebuild('y');
SELECT es_retry_projection_parked('y');
SELECT es_discard_projection_parked('y');
SELECT es_drop_projection('x');

-- the views count what the filter wants in today's shape, and what is done is done
SELECT version FROM es_append_batch('PrjLag-1', 0, '{LagOld,LagOld,LagNew,LagOther}', '{"{}","{}","{}","{}"}');
CREATE FUNCTION lag_upcast(data jsonb) RETURNS jsonb LANGUAGE sql IMMUTABLE AS $$ SELECT data $$;
SELECT es_define_upcaster('LagOld', 1, 'lag_upcast(jsonb)', 'LagNew', 2);
SELECT es_create_projection('lag_new', 'on_any(es_event)', '{PrjLag}', '{LagNew}', paused => true);
SELECT es_create_projection('lag_old', 'on_any(es_event)', '{PrjLag}', '{LagOld}', paused => true);
SELECT name, lag_events, lag_seconds > 0 AS is_late FROM event_store.projections WHERE name LIKE 'lag%' ORDER BY 1;
SELECT es_run_projection('lag_new'), es_run_projection('lag_old');
SELECT name, lag_events, lag_seconds FROM event_store.projections WHERE name LIKE 'lag%' ORDER BY 1;
BEGIN;
SELECT es_rebuild_projection('lag_new', true), es_rebuild_projection('lag_old', true);
SELECT name, events_to_do FROM event_store.projection_progress ORDER BY 1;
-- one that has stopped moving has no rate
UPDATE event_store.projection SET rate = 5, updated_at = updated_at - interval '1 hour' WHERE name = 'lag_new';
SELECT name, events_to_do, events_per_second, time_left FROM event_store.projection_progress WHERE name = 'lag_new';
ROLLBACK;
-- an event that was appended after the transaction began is not from the future
BEGIN;
SELECT version FROM es_append('PrjLag-1', 4, 'LagOther', '{}');
SELECT es_create_projection('lag_late', 'on_any(es_event)', '{PrjLag}', '{LagOther}', after_position => es_head() - 1, paused => true);
SELECT lag_events, lag_seconds >= 0 AS is_past FROM event_store.projections WHERE name = 'lag_late';
ROLLBACK;
SELECT es_drop_projection('lag_new'), es_drop_projection('lag_old'), es_drop_upcaster('LagOld', 1);
DROP FUNCTION lag_upcast(jsonb);

-- who may do what
CREATE SCHEMA regress_projection AUTHORIZATION regress_projection_owner;
SET ROLE regress_projection_owner;
CREATE TABLE regress_projection.who (name text, position bigint);
CREATE FUNCTION regress_projection.on_who(e es_event) RETURNS void LANGUAGE sql AS $$
    INSERT INTO regress_projection.who VALUES (current_user, (e).global_position) $$;
SELECT es_create_projection('who', 'regress_projection.on_who(es_event)', paused => true);
SET ROLE regress_projection_other;
SELECT es_run_projection('who');
SELECT es_pause_projection('who');
SELECT es_drop_projection('who');
SELECT es_create_projection('mine', 'regress_projection.on_who(es_event)', paused => true);
-- tables are closed
UPDATE event_store.projection SET owner = 'regress_projection_other';
INSERT INTO event_store.projection_parked DEFAULT VALUES;
SELECT count(*) FROM event_store.projections;
RESET ROLE;
-- the handler runs as its owner, whoever calls
SELECT es_run_projection('who') > 0 AS ran;
SELECT name, count(*) > 0 AS some FROM regress_projection.who GROUP BY 1;
-- who may no longer read events gets none
SELECT es_revoke('regress_projection_owner', 'admin');
SELECT version FROM es_append('PrjOther-1', 3, 'Something', '{}');
SELECT es_run_projection('who');
-- who may no longer execute the handler runs nothing
SELECT es_grant('regress_projection_owner', 'admin');
REVOKE EXECUTE ON FUNCTION regress_projection.on_who(es_event) FROM PUBLIC, regress_projection_owner;
SELECT es_run_projection('who');
SELECT es_drop_projection('who');
\set VERBOSITY default

SELECT es_revoke('regress_projection_owner', 'admin');
SELECT es_revoke('regress_projection_other', 'admin');
DROP SCHEMA regress_projection CASCADE;
DROP FUNCTION on_recursive(es_event), on_leave(es_event), on_picky(es_event), on_any(es_event), on_any_new(es_event),
    switch_seen(), reset_totals(), on_orders(es_event[]), on_order(es_event);
DROP PROCEDURE committing();
DROP TABLE picky, seen, seen_old, totals, order_summary;
DROP ROLE regress_projection_owner, regress_projection_other;

-- made once; what is there stays, whatever is asked for
CREATE FUNCTION proj_once(event es_event) RETURNS void LANGUAGE plpgsql AS $$ BEGIN END $$;
SELECT es_create_projection('proj_once', 'proj_once(es_event)', ARRAY['Once'], paused => true, if_not_exists => true);
SELECT es_create_projection('proj_once', 'proj_once(es_event)', ARRAY['Twice'], if_not_exists => true);
SELECT es_create_projection('proj_once', 'proj_once(es_event)');
SELECT categories, state FROM event_store.projections WHERE name = 'proj_once';
SELECT es_drop_projection('proj_once');
DROP FUNCTION proj_once;

-- a function's name will do, and needs its argument types only where several
-- have that name
CREATE FUNCTION proj_named(event es_event) RETURNS void LANGUAGE plpgsql AS $$ BEGIN END $$;
CREATE FUNCTION proj_named_reset() RETURNS void LANGUAGE plpgsql AS $$ BEGIN END $$;
CREATE FUNCTION "proj (named)"(event es_event) RETURNS void LANGUAGE plpgsql AS $$ BEGIN END $$;
CREATE FUNCTION proj_fold(state jsonb, event es_event) RETURNS jsonb LANGUAGE sql AS $$ SELECT to_jsonb((state)::int + 1) $$;
CREATE FUNCTION proj_upcast(data jsonb) RETURNS jsonb LANGUAGE sql IMMUTABLE AS $$ SELECT data || '{"seen": 1}' $$;
SELECT es_create_projection('named', 'proj_named', reset_handler => 'proj_named_reset', paused => true);
SELECT es_create_projection('named_too', 'public."proj (named)"', paused => true);
SELECT es_prepare_projection('named', 'proj_named', 'public.proj_named_reset'), es_pause_projection('named');
SELECT es_switch_projection('named', 'proj_named_reset');
SELECT name, handler, reset_handler FROM event_store.projections WHERE name LIKE 'named%' ORDER BY name;
SELECT count(*) FROM es_append('ProjNamed-1', 0, '[{"event_type": "Named", "data": {}}, {"event_type": "Named", "data": {}}]');
SELECT es_define_upcaster('Named', 1, 'proj_upcast'), es_define_aggregate('ProjNamed', 'proj_fold', '0');
SELECT state FROM es_state('ProjNamed-1');
SELECT data FROM es_read_stream('ProjNamed-1', max_count => 1);
SELECT state FROM es_decide('{"items": [{"event_types": ["Named"]}]}', 'proj_fold', '0');
-- as before
SELECT state FROM es_decide('{"items": [{"event_types": ["Named"]}]}', 'proj_fold'::regproc, '0');
SELECT state FROM es_decide('{"items": [{"event_types": ["Named"]}]}', 'proj_fold(jsonb, es_event)'::regprocedure::oid, '0');
SELECT state FROM es_decide('{"items": [{"event_types": ["Named"]}]}', 'proj_fold'::regproc::oid::text, '0');
-- several
CREATE FUNCTION proj_named(events es_event[]) RETURNS void LANGUAGE plpgsql AS $$ BEGIN END $$;
\set VERBOSITY terse
SELECT es_create_projection('named_either', 'proj_named');
\set VERBOSITY default
SELECT es_create_projection('named_array', 'proj_named(es_event[])', paused => true);
SELECT handler FROM event_store.projections WHERE name = 'named_array';
SELECT es_create_projection('named_x', 'no_such_function');
SELECT es_create_projection('named_x', 'proj_named_reset');
SELECT es_create_projection('named_x', 'proj_named_reset(');
SELECT es_create_projection('named_x', '');
SELECT es_create_projection('named_x', NULL::text);
-- made once
SELECT es_prepare_projection('named_too', 'proj_named(es_event)', if_not_exists => true), es_pause_projection('named_too');
SELECT es_prepare_projection('named_too', 'proj_named(es_event[])', if_not_exists => true);
SELECT es_prepare_projection('named_too', 'proj_named(es_event[])');
SELECT handler FROM event_store.projections WHERE name = 'named_too' AND is_shadow;
-- at a glance
SELECT es_create_projection('named_few', 'proj_named(es_event)', '{ProjNamed}', paused => true), es_create_subscription('named_done', '{ProjNone}'),
    es_create_subscription('named_letters', '{ProjNamed}'), es_create_subscription('named_group', '{ProjNamed}', slots => 2);
SELECT event_type, es_nack('named_group', global_position, 'no', false, member => 'm') FROM es_fetch('named_group', 1, member => 'm');
SELECT count(*) FROM es_fetch('named_letters', 1);
SELECT name, kind, state, CASE WHEN kind <> 'new version' THEN lag_events END AS lag, lag_seconds >= 0 AS lags, problem FROM event_store.consumers
 WHERE name IN ('named_few', 'named_done', 'named_letters', 'named_group') OR name = 'named_too' AND kind = 'new version' ORDER BY name;
SELECT es_drop_subscription(name) FROM event_store.subscriptions WHERE name LIKE 'named%';
SELECT es_drop_projection(name) FROM event_store.projections WHERE name LIKE 'named%' AND NOT is_shadow;
SELECT es_drop_upcaster('Named', 1), es_drop_aggregate('ProjNamed');
DROP FUNCTION proj_named(es_event), proj_named(es_event[]), proj_named_reset, "proj (named)", proj_fold, proj_upcast;
