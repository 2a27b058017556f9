-- The matrix of doc/permissions.md: for every function, table and view of the
-- extension, who may use it: its owner, a reader, a writer, a monitor, an admin,
-- and a role that was given nothing.
\set ON_ERROR_STOP on
BEGIN;
SELECT plan(9);

CREATE ROLE t_owner NOLOGIN;
CREATE ROLE t_reader NOLOGIN;
CREATE ROLE t_writer NOLOGIN;
CREATE ROLE t_monitor NOLOGIN;
CREATE ROLE t_admin NOLOGIN;
CREATE ROLE t_nobody NOLOGIN;
DO $$
BEGIN
    EXECUTE format('GRANT %I TO t_owner', (SELECT r.rolname FROM pg_extension AS x JOIN pg_roles AS r ON r.oid = x.extowner WHERE x.extname = 'event_store'));
END $$;
SELECT es_grant('t_' || kind, kind) FROM unnest(ARRAY['reader', 'writer', 'monitor', 'admin']) AS kind;

-- As documented: r reader, w writer, m monitor; an admin has everything that is
-- listed, nobody anything.  What is not listed is the owner's alone.
CREATE TEMP TABLE documented (name text PRIMARY KEY, kinds text);
INSERT INTO documented VALUES
    -- append
    ('es_append(text,bigint,text,jsonb,jsonb,uuid,integer,text[])', 'w'), ('es_append_if(jsonb,jsonb,bigint)', 'w'),
    ('es_read_query(jsonb,bigint,bigint,boolean)', 'rw'), ('es_tags(es_event)', 'rw'),
    ('es_append(text,bigint,jsonb)', 'w'),
    ('es_append_batch(text,bigint,text[],jsonb[],jsonb[],uuid[],integer[],jsonb[])', 'w'),
    ('es_append_streams(jsonb)', 'w'),
    ('es_any()', 'rw'), ('es_exists()', 'rw'),
    ('es_decide(jsonb,regprocedure,jsonb)', 'rw'), ('es_decide(jsonb,text,jsonb)', 'rw'), ('es_verify(text)', ''),
    ('es_import(text)', ''), ('event_store.es_import_progress()', 'm'),
    -- read
    ('es_read_stream(text,bigint,bigint,boolean)', 'rw'), ('es_stream_version(text)', 'rw'), ('es_head()', 'rwm'),
    ('es_read_event(uuid)', 'rw'), ('es_envelope(es_event)', 'rw'), ('es_wait(bigint,interval)', 'rw'),
    ('es_read_all(bigint,bigint,text[],text[],boolean)', 'r'), ('es_read_category(text,bigint,bigint,boolean)', 'r'),
    ('es_position_at(timestamp with time zone)', 'r'), ('es_list_streams(text,text,text,bigint)', 'r'),
    ('event_store.es_check_category(text)', 'r'),
    ('event_store.es_upcast_type(text,integer)', 'r'), ('event_store.es_consumed_type(text,integer)', 'r'),
    ('event_store.es_upcast_schema_version(text,integer)', 'r'),
    ('event_store.es_upcast_data(text,integer,jsonb,uuid,text,bigint,jsonb)', 'r'), ('event_store.es_stream_visible(bigint)', 'r'),
    -- state
    ('es_snapshot(text,bigint,jsonb,integer)', 'w'), ('es_read_snapshot(text,integer)', 'rw'), ('es_load(text,integer)', 'rw'),
    ('es_state(text,bigint,timestamp with time zone)', 'rw'),
    ('es_define_aggregate(text,regprocedure,jsonb,integer,integer,boolean)', ''), ('es_define_aggregate(text,text,jsonb,integer,integer,boolean)', ''),
    ('es_drop_aggregate(text)', ''), ('es_drop_snapshots(text)', ''),
    -- evolution
    ('es_define_upcaster(text,integer,regprocedure,text,integer,boolean)', ''), ('es_define_upcaster(text,integer,text,text,integer,boolean)', ''),
    ('es_drop_upcaster(text,integer)', ''), ('es_check_upcasters(text,bigint)', ''),
    ('es_preview_upcasters(text,bigint)', ''),
    -- subscriptions
    ('es_fetch(text,integer,interval,text)', 'r'), ('es_ack(text,bigint,text)', 'r'), ('es_nack(text,bigint,text,boolean,text)', 'r'),
    ('es_join(text,text,interval)', 'r'), ('es_leave(text,text)', 'r'),
    ('es_create_subscription(text,text[],text[],bigint,integer,interval,integer,interval,jsonb,boolean,boolean)', ''), ('es_drop_subscription(text)', ''),
    ('es_reset_subscription(text,bigint)', ''), ('es_retry_parked(text,text)', ''), ('es_discard_parked(text,bigint)', ''),
    ('es_discard_parked_stream(text,text)', ''),
    ('event_store.es_subscription_lag(text,bigint)', 'rm'),
    -- projections
    ('es_wait_projection(text,bigint,interval)', 'rw'), ('es_is_replaying()', 'rw'),
    ('es_create_projection(text,regprocedure,text[],text[],integer,bigint,text,regprocedure,integer,boolean,boolean)', ''),
    ('es_create_projection(text,text,text[],text[],integer,bigint,text,text,integer,boolean,boolean)', ''),
    ('es_drop_projection(text)', ''), ('es_pause_projection(text)', ''), ('es_resume_projection(text)', ''), ('es_run_projection(text)', ''),
    ('es_rebuild_projection(text,boolean)', ''),
    ('es_prepare_projection(text,regprocedure,regprocedure,text[],text[],boolean,boolean)', ''),
    ('es_prepare_projection(text,text,text,text[],text[],boolean,boolean)', ''),
    ('es_switch_projection(text,regprocedure,bigint)', ''), ('es_switch_projection(text,text,bigint)', ''), ('es_cancel_rebuild(text)', ''),
    ('es_take_over()', ''),
    ('es_retry_projection_parked(text,text)', ''), ('es_discard_projection_parked(text,text)', ''),
    ('event_store.es_projection_backlog(text,boolean,boolean)', 'rm'), ('event_store.es_projection_error_visible(text)', 'rm'),
    -- watching
    ('event_store.es_head_status()', 'rwm'), ('event_store.es_transaction_status(xid)', 'rm'), ('event_store.es_worker_status()', 'rm'),
    ('event_store.es_statistics()', 'm'), ('es_reset_statistics()', ''),
    -- tables
    ('event_store.event', 'r'), ('event_store.stream', 'r'), ('event_store.event_type', 'r'), ('event_store.mark', 'r'),
    ('event_store.snapshot', ''), ('event_store.upcaster', ''), ('event_store.aggregate', ''), ('event_store.projection_parked', ''),
    -- views
    ('event_store.events', 'r'), ('event_store.parked_events', 'r'), ('event_store.status', 'rm'), ('event_store.categories', 'rm'), ('event_store.consumers', 'rm'),
    ('event_store.subscriptions', 'rm'), ('event_store.subscription_members', 'rm'),
    ('event_store.projections', 'rm'), ('event_store.projection_progress', 'rm'), ('event_store.statistics', 'm'),
    ('event_store.import_progress', 'm');

CREATE TEMP VIEW object AS
    SELECT p.oid::regprocedure::text AS name, p.oid, true AS is_function
      FROM pg_proc AS p JOIN pg_depend AS d ON d.classid = 'pg_proc'::regclass AND d.objid = p.oid AND d.deptype = 'e'
      JOIN pg_extension AS x ON x.oid = d.refobjid AND d.refclassid = 'pg_extension'::regclass AND x.extname = 'event_store'
    UNION ALL
    SELECT c.oid::regclass::text, c.oid, false FROM pg_class AS c
     WHERE c.relnamespace = 'event_store'::regnamespace AND c.relkind IN ('r', 'v', 'm', 'p');
CREATE TEMP VIEW granted AS
    SELECT o.name, o.is_function, r.role,
           CASE WHEN o.is_function THEN has_function_privilege('t_' || r.role, o.oid, 'EXECUTE')
                ELSE has_table_privilege('t_' || r.role, o.oid, 'SELECT') END AS may
      FROM object AS o CROSS JOIN unnest(ARRAY['owner', 'reader', 'writer', 'monitor', 'admin', 'nobody']) AS r (role);

SELECT is_empty($$SELECT name FROM documented WHERE name NOT IN (SELECT name FROM object)$$, 'what is documented exists');
SELECT is_empty(format($$
    SELECT g.name, g.role, g.may FROM granted AS g LEFT JOIN documented AS d USING (name)
     WHERE g.role = %L
       AND g.may IS DISTINCT FROM CASE g.role WHEN 'owner' THEN true WHEN 'nobody' THEN false
                                              WHEN 'admin' THEN d.name IS NOT NULL
                                              ELSE coalesce(position(left(g.role, 1) IN d.kinds) > 0, false) END$$, role),
    format('%s: what is granted is what is documented', role))
  FROM unnest(ARRAY['owner', 'reader', 'writer', 'monitor', 'admin', 'nobody']) AS role;
SELECT is_empty($$
    SELECT o.name, r FROM object AS o, unnest(ARRAY['reader', 'writer', 'monitor', 'admin', 'nobody']) AS r
     WHERE NOT o.is_function AND has_table_privilege('t_' || r, o.oid, 'INSERT, UPDATE, DELETE, TRUNCATE, REFERENCES, TRIGGER')$$,
    'nobody else writes a table');
SELECT results_eq($$SELECT r, has_schema_privilege('t_' || r, 'event_store', 'USAGE') FROM unnest(ARRAY['admin', 'monitor', 'nobody', 'reader', 'writer']) AS r$$,
    $$VALUES ('admin', true), ('monitor', true), ('nobody', false), ('reader', true), ('writer', false)$$, 'who may look into the schema of tables and views');
ROLLBACK;
