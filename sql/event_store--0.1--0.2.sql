\echo Use "ALTER EXTENSION event_store UPDATE TO '0.2'" to load this file. \quit

-- What is not qualified below comes from pg_catalog, as in the install script.
SET LOCAL search_path = pg_catalog, pg_temp;

-- Who updates the extension need not be who has created it: what is new shall
-- belong to the latter.
SELECT set_config('es_update.role', current_setting('role'), true);
SELECT set_config('role', r.rolname, true)
  FROM pg_extension e JOIN pg_roles r ON r.oid = e.extowner
 WHERE e.extname = 'event_store' AND r.rolsuper;

--
-- Expected versions: numbers that no other store gives a meaning to
--

CREATE OR REPLACE FUNCTION @extschema@.es_any() RETURNS bigint
    LANGUAGE sql IMMUTABLE PARALLEL SAFE AS 'SELECT -100::pg_catalog.int8';

CREATE OR REPLACE FUNCTION @extschema@.es_exists() RETURNS bigint
    LANGUAGE sql IMMUTABLE PARALLEL SAFE AS 'SELECT -101::pg_catalog.int8';

--
-- Several streams in one append
--

CREATE FUNCTION @extschema@.es_append_streams(appends jsonb)
    RETURNS TABLE (stream_id text, event_id uuid, version bigint, global_position bigint, is_duplicate boolean)
    LANGUAGE c VOLATILE PARALLEL UNSAFE ROWS 10 AS 'MODULE_PATHNAME', 'es_append_streams';
COMMENT ON FUNCTION @extschema@.es_append_streams(jsonb) IS
    'appends to several streams atomically, each under its expected version; an entry without events is only checked';
REVOKE ALL ON FUNCTION @extschema@.es_append_streams(jsonb) FROM PUBLIC;

--
-- Projections and subscriptions that logical replication has brought are not
-- run before es_take_over().  A subscriber's are marked now: what the rows are
-- in a table that a subscription writes cannot be told otherwise.
--

CREATE FUNCTION event_store.es_mark_replicated() RETURNS trigger
    LANGUAGE c AS 'MODULE_PATHNAME', 'es_mark_replicated';
COMMENT ON FUNCTION event_store.es_mark_replicated() IS 'marks a projection or subscription that logical replication brings: it is not run here';
REVOKE ALL ON FUNCTION event_store.es_mark_replicated() FROM PUBLIC;

ALTER TABLE event_store.projection ADD COLUMN replicated boolean NOT NULL DEFAULT false;
COMMENT ON COLUMN event_store.projection.replicated IS 'it came by logical replication and is not run here before es_take_over()';
CREATE TRIGGER es_mark_replicated BEFORE INSERT OR UPDATE ON event_store.projection
    FOR EACH ROW EXECUTE FUNCTION event_store.es_mark_replicated();
ALTER TABLE event_store.projection ENABLE ALWAYS TRIGGER es_mark_replicated;
UPDATE event_store.projection SET replicated = true
 WHERE EXISTS (SELECT FROM pg_subscription_rel WHERE srrelid = 'event_store.projection'::regclass);

ALTER TABLE event_store.subscription ADD COLUMN replicated boolean NOT NULL DEFAULT false;
COMMENT ON COLUMN event_store.subscription.replicated IS 'it came by logical replication and is not run here before es_take_over()';
ALTER TABLE event_store.subscription ADD COLUMN query jsonb;
COMMENT ON COLUMN event_store.subscription.query IS 'query of streams, event types and tags, NULL = none; see es_read_query';
ALTER TABLE event_store.subscription ADD COLUMN cardinal_ids boolean NOT NULL DEFAULT false;
COMMENT ON COLUMN event_store.subscription.cardinal_ids IS 'streams whose names are the same up to the first "+" of the id share a slot';
ALTER TABLE event_store.subscription_checkpoint ADD COLUMN taken_at timestamptz;
COMMENT ON COLUMN event_store.subscription_checkpoint.taken_at IS 'since when the consumer that fetched last has had it, without another one in between; NULL = not known, or a group';
CREATE TRIGGER es_mark_replicated BEFORE INSERT OR UPDATE ON event_store.subscription
    FOR EACH ROW EXECUTE FUNCTION event_store.es_mark_replicated();
ALTER TABLE event_store.subscription ENABLE ALWAYS TRIGGER es_mark_replicated;
UPDATE event_store.subscription SET replicated = true
 WHERE EXISTS (SELECT FROM pg_subscription_rel WHERE srrelid = 'event_store.subscription'::regclass);

CREATE FUNCTION @extschema@.es_take_over() RETURNS bigint
    LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'es_take_over';
COMMENT ON FUNCTION @extschema@.es_take_over() IS
    'a former logical subscriber takes the place of its publisher: runs the projections and subscriptions that came by replication; how many there are';
REVOKE ALL ON FUNCTION @extschema@.es_take_over() FROM PUBLIC;

--
-- Consumers: where one can go no further its lag is not known, and a reason is
-- given; what a session that is gone had in hand is not in flight
--

COMMENT ON FUNCTION @extschema@.es_ack(text, bigint, text) IS
    'everything fetched up to the position is done: moves the checkpoint, never backwards, never beyond what was handed out';

CREATE FUNCTION event_store.es_projection_error_visible(owner text) RETURNS boolean
    LANGUAGE c STABLE STRICT PARALLEL RESTRICTED AS 'MODULE_PATHNAME', 'es_projection_error_visible';
COMMENT ON FUNCTION event_store.es_projection_error_visible(text) IS
    'whether the current user may read what may quote events: errors of this role''s handlers, queries of its subscriptions';
REVOKE ALL ON FUNCTION event_store.es_projection_error_visible(text) FROM PUBLIC;

CREATE OR REPLACE VIEW event_store.subscriptions AS
    SELECT s.name::pg_catalog.text, c.checkpoint, l.lag_events,
           CASE WHEN l.lag_events IS NOT NULL
                THEN coalesce(extract(epoch FROM clock_timestamp() - l.oldest), 0)::float8 END AS lag_seconds,
           CASE WHEN l.lag_events IS NOT NULL THEN greatest(h.settled_head - c.checkpoint, 0) END AS lag_positions,
           s.categories, s.event_types, nullif(s.slots, 0) AS slots,
           CASE WHEN s.slots > 0 THEN m.members END AS members,
           CASE WHEN s.slots > 0 THEN m.in_flight ELSE c.in_flight END AS in_flight,
           CASE WHEN s.slots = 0 AND c.in_flight THEN coalesce(c.member, 'pid ' || c.pid) END AS holder,
           CASE WHEN s.slots = 0 AND c.in_flight THEN c.lease_until END AS lease_until,
           coalesce(p.retrying, 0) AS retrying_streams, coalesce(p.parked, 0) AS parked_streams,
           s.lease, s.max_retries, s.retry_delay, s.created_by, s.created_at,
           greatest(c.updated_at, m.updated_at) AS updated_at,
           CASE WHEN s.replicated THEN 'it came by logical replication and is not run here before es_take_over()'
                WHEN h.settled_head IS NULL THEN 'the global order is not available'
                WHEN l.lag_events IS NULL THEN 'the checkpoint is ahead of the head' END AS reason,
           CASE WHEN event_store.es_projection_error_visible(coalesce(s.created_by, '')) THEN s.query END AS query,
           s.cardinal_ids
      FROM event_store.subscription s
      LEFT JOIN LATERAL (
            SELECT min(greatest(k.position, o.position)) AS checkpoint,
                   -- a session that is gone holds its lock no longer; a standby does not see it
                   bool_or(k.delivered > 0 AND k.lease_until > clock_timestamp()
                           AND (k.session IS NULL OR pg_is_in_recovery() OR EXISTS (
                                SELECT FROM pg_locks x
                                 WHERE x.locktype = 'advisory' AND x.objsubid = 7 AND x.granted
                                   AND x.mode = 'ExclusiveLock'
                                   AND x.database = (SELECT d.oid FROM pg_database d WHERE d.datname = current_database())
                                   AND x.classid = ((k.session >> 32) & 4294967295)::oid
                                   AND x.objid = (k.session & 4294967295)::oid))) AS in_flight,
                   max(k.member) AS member, max(k.pid) AS pid, max(k.lease_until) AS lease_until,
                   max(k.updated_at) AS updated_at
              FROM event_store.subscription_checkpoint k
              LEFT JOIN event_store.subscription_member o ON o.subscription = k.subscription AND o.member = k.member
             WHERE k.subscription = s.name) c ON true
      LEFT JOIN LATERAL (
            SELECT count(*) AS members, max(o.updated_at) AS updated_at,
                   coalesce(bool_or(o.delivered > 0 AND o.lease_until > clock_timestamp()), false) AS in_flight
              FROM event_store.subscription_member o
             WHERE o.subscription = s.name) m ON true
      LEFT JOIN LATERAL (
            SELECT count(*) FILTER (WHERE k.state = 'retry') AS retrying, count(*) FILTER (WHERE k.state = 'parked') AS parked
              FROM event_store.parked_stream k
             WHERE k.subscription = s.name) p ON true
     CROSS JOIN LATERAL event_store.es_subscription_lag(s.name) l
     CROSS JOIN event_store.es_head_status() h;
COMMENT ON VIEW event_store.subscriptions IS
    'subscriptions: checkpoint, lag in events (counted up to 100000) and in seconds (age of the oldest event that is not done), NULL with a reason where it can go no further, who has events in hand';

CREATE OR REPLACE VIEW event_store.subscription_members AS
    SELECT m.subscription::pg_catalog.text, m.member::pg_catalog.text, k.slots, k.checkpoint,
           m.delivered > 0 AND m.lease_until > clock_timestamp() AS in_flight,
           nullif(m.delivered, 0) AS delivered_position,
           m.lease, m.lease_until, clock_timestamp() - m.updated_at AS lease_age,
           m.lease_until > clock_timestamp() AS alive, m.pid, m.joined_at
      FROM event_store.subscription_member m
      LEFT JOIN LATERAL (
            SELECT count(*) AS slots, min(greatest(c.position, m.position)) AS checkpoint
              FROM event_store.subscription_checkpoint c
             WHERE c.subscription = m.subscription AND c.member = m.member) k ON true;
COMMENT ON VIEW event_store.subscription_members IS
    'members of consumer groups: slots, checkpoint, lease';

--
-- Read
--

CREATE FUNCTION event_store.es_read_support(internal) RETURNS internal
    LANGUAGE c STRICT AS 'MODULE_PATHNAME', 'es_read_support';
COMMENT ON FUNCTION event_store.es_read_support(internal) IS 'planner support for the functions that read events';
REVOKE ALL ON FUNCTION event_store.es_read_support(internal) FROM PUBLIC;
ALTER FUNCTION @extschema@.es_read_stream(text, bigint, bigint, boolean) SUPPORT event_store.es_read_support;
ALTER FUNCTION @extschema@.es_read_all(bigint, bigint, text[], text[], boolean) SUPPORT event_store.es_read_support;
ALTER FUNCTION @extschema@.es_read_category(text, bigint, bigint, boolean) SUPPORT event_store.es_read_support;

--
-- What DDL does to the tables.  Event triggers see it without anything being
-- preloaded; they fire whatever session_replication_role says.
--

CREATE FUNCTION event_store.es_check_table(name regclass) RETURNS void
    LANGUAGE c STRICT AS 'MODULE_PATHNAME', 'es_check_table';
COMMENT ON FUNCTION event_store.es_check_table(regclass) IS 'refuses, SQLSTATE 55000, what a table has that appends do not heed: triggers, constraints, defaults, rules';
REVOKE ALL ON FUNCTION event_store.es_check_table(regclass) FROM PUBLIC;

-- A trigger of the store that is enabled at all is ENABLE ALWAYS: pg_restore
-- --disable-triggers enables all triggers of a table when it is done, and makes
-- plain ones of them, which the apply worker of logical replication does not fire.
CREATE FUNCTION event_store.es_guard_ddl() RETURNS event_trigger
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path = pg_catalog, pg_temp
    AS $$
DECLARE
    altered regclass;
    weak name[];
    is_guarded boolean;
BEGIN
    FOR altered, weak, is_guarded IN
        SELECT t.tgrelid, array_agg(DISTINCT t.tgname) FILTER (WHERE t.tgenabled NOT IN ('A', 'D')),
               bool_or(t.tgfoid = 'event_store.es_guard()'::regprocedure)
          FROM pg_event_trigger_ddl_commands() AS c
          JOIN pg_trigger AS t ON t.tgrelid = coalesce(
                   (SELECT o.tgrelid FROM pg_trigger AS o WHERE c.classid = 'pg_trigger'::regclass AND o.oid = c.objid),
                   (SELECT o.ev_class FROM pg_rewrite AS o WHERE c.classid = 'pg_rewrite'::regclass AND o.oid = c.objid),
                   c.objid)
          JOIN pg_class AS r ON r.oid = t.tgrelid
          JOIN pg_proc AS f ON f.oid = t.tgfoid
         WHERE r.relnamespace = 'event_store'::regnamespace AND f.pronamespace = 'event_store'::regnamespace
         GROUP BY t.tgrelid
    LOOP
        FOR i IN 1 .. coalesce(cardinality(weak), 0) LOOP
            EXECUTE format('ALTER TABLE %s ENABLE ALWAYS TRIGGER %I', altered, weak[i]);
        END LOOP;
        IF is_guarded THEN
            PERFORM event_store.es_check_table(altered);
        END IF;
    END LOOP;
END
$$;
COMMENT ON FUNCTION event_store.es_guard_ddl() IS 'keeps the triggers of the store ENABLE ALWAYS, and refuses triggers and the like that appends do not heed';
REVOKE ALL ON FUNCTION event_store.es_guard_ddl() FROM PUBLIC;

CREATE EVENT TRIGGER event_store_ddl ON ddl_command_end
    WHEN TAG IN ('ALTER TABLE', 'CREATE TRIGGER', 'CREATE RULE')
    EXECUTE FUNCTION event_store.es_guard_ddl();
ALTER EVENT TRIGGER event_store_ddl ENABLE ALWAYS;
COMMENT ON EVENT TRIGGER event_store_ddl IS 'what ALTER TABLE, CREATE TRIGGER and CREATE RULE may do to the tables of the event store';

CREATE FUNCTION event_store.es_watch_drop() RETURNS void
    LANGUAGE c AS 'MODULE_PATHNAME', 'es_watch_drop';
COMMENT ON FUNCTION event_store.es_watch_drop() IS 'loads the library, which then sees what is dropped';
REVOKE ALL ON FUNCTION event_store.es_watch_drop() FROM PUBLIC;

CREATE FUNCTION event_store.es_guard_drop() RETURNS event_trigger
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path = pg_catalog, pg_temp
    AS $$
BEGIN
    PERFORM event_store.es_watch_drop();
EXCEPTION WHEN OTHERS THEN
    -- without its library, or with that of another version, the extension can still be dropped
    NULL;
END
$$;
COMMENT ON FUNCTION event_store.es_guard_drop() IS 'makes a command that drops the event store say how many events go';
REVOKE ALL ON FUNCTION event_store.es_guard_drop() FROM PUBLIC;

CREATE EVENT TRIGGER event_store_drop ON ddl_command_start
    WHEN TAG IN ('DROP EXTENSION', 'DROP SCHEMA', 'DROP OWNED')
    EXECUTE FUNCTION event_store.es_guard_drop();
ALTER EVENT TRIGGER event_store_drop ENABLE ALWAYS;
COMMENT ON EVENT TRIGGER event_store_drop IS 'commands that may drop the event store';

-- Tags
--

CREATE FUNCTION event_store.es_tag_index_handler(internal) RETURNS index_am_handler
    LANGUAGE c AS 'MODULE_PATHNAME', 'es_tag_index_handler';
COMMENT ON FUNCTION event_store.es_tag_index_handler(internal) IS 'access method event_store_tags';
REVOKE ALL ON FUNCTION event_store.es_tag_index_handler(internal) FROM PUBLIC;
CREATE ACCESS METHOD event_store_tags TYPE INDEX HANDLER event_store.es_tag_index_handler;
COMMENT ON ACCESS METHOD event_store_tags IS 'btree with an entry for each tag of an event';
CREATE OPERATOR CLASS event_store.es_tag_ops DEFAULT FOR TYPE pg_catalog.text[] USING event_store_tags AS
    FUNCTION 1 pg_catalog.bttextcmp(pg_catalog.text, pg_catalog.text), STORAGE pg_catalog.text;
COMMENT ON OPERATOR FAMILY event_store.es_tag_ops USING event_store_tags IS 'the tags of an event';
COMMENT ON OPERATOR CLASS event_store.es_tag_ops USING event_store_tags IS 'the tags of an event';
CREATE OPERATOR CLASS event_store.es_position_ops DEFAULT FOR TYPE pg_catalog.int8 USING event_store_tags AS
    FUNCTION 1 pg_catalog.btint8cmp(pg_catalog.int8, pg_catalog.int8);
COMMENT ON OPERATOR FAMILY event_store.es_position_ops USING event_store_tags IS 'its position';
COMMENT ON OPERATOR CLASS event_store.es_position_ops USING event_store_tags IS 'its position';

-- an event may belong to no stream, and then to no category; tables in the
-- order in which appends lock them
ALTER TABLE event_store.event ALTER COLUMN stream_no DROP NOT NULL, ALTER COLUMN version DROP NOT NULL,
    ADD COLUMN tags pg_catalog.text[] COLLATE pg_catalog."C", ADD COLUMN hash bytea;
ALTER TABLE event_store.event_type ALTER COLUMN category DROP NOT NULL;
COMMENT ON COLUMN event_store.event_type.category IS 'part of the stream''s name before the first "-"; NULL for events that belong to no stream';
COMMENT ON COLUMN event_store.event.stream_no IS 'see event_store.stream; NULL for an event that belongs to no stream';
COMMENT ON COLUMN event_store.event.version IS 'place in the stream: 1, 2, 3 ... without holes; 4 bytes, for these are in every row; NULL for an event that belongs to no stream';
COMMENT ON COLUMN event_store.event.tags IS 'tags of the event, sorted, each once; NULL if it has none';
COMMENT ON COLUMN event_store.event.hash IS 'SHA-256 over the event and the hash of the one before it in its stream; NULL if event_store.hash_chain was off';
COMMENT ON COLUMN @extschema@.es_event.global_position IS 'place in the global order; ascending, with gaps';
COMMENT ON COLUMN @extschema@.es_event.stream_id IS 'name of the stream, {Type}-{id}; NULL for an event that belongs to no stream';
COMMENT ON COLUMN @extschema@.es_event.version IS 'place in the stream: 1, 2, 3 ... without holes; NULL for an event that belongs to no stream';
COMMENT ON COLUMN @extschema@.es_event.event_id IS 'unique in the store';
COMMENT ON COLUMN @extschema@.es_event.event_type IS 'name of the event type, in today''s shape';
COMMENT ON COLUMN @extschema@.es_event.schema_version IS 'version of the shape of data, in today''s shape';
COMMENT ON COLUMN @extschema@.es_event.data IS 'payload, any JSON value, in today''s shape';
COMMENT ON COLUMN @extschema@.es_event.metadata IS 'correlation_id, causation_id, user_id ...; a JSON object';
COMMENT ON COLUMN @extschema@.es_event.created_at IS 'when it was appended, by the server''s clock; not an order';
COMMENT ON COLUMN @extschema@.es_appended.event_id IS 'id of the event';
COMMENT ON COLUMN @extschema@.es_appended.version IS 'its place in the stream; NULL for an event that belongs to no stream';
COMMENT ON COLUMN @extschema@.es_appended.global_position IS 'its place in the global order';
COMMENT ON COLUMN @extschema@.es_appended.is_duplicate IS 'an earlier call has appended it, nothing was written';
-- An id that the store makes ends with its event's position, by which it is found.
CREATE FUNCTION event_store.es_id_has_position(event_id uuid, global_position bigint) RETURNS boolean
    LANGUAGE c IMMUTABLE STRICT PARALLEL SAFE AS 'MODULE_PATHNAME', 'es_id_has_position';
COMMENT ON FUNCTION event_store.es_id_has_position(uuid, bigint) IS 'does an event id end with this position, as ids do that the store makes?';
REVOKE ALL ON FUNCTION event_store.es_id_has_position(uuid, bigint) FROM PUBLIC;
CREATE UNIQUE INDEX event_event_id_idx ON event_store.event (event_id)
    WHERE NOT event_store.es_id_has_position(event_id, global_position);
-- of a type, too, entries arrive in order but for a few of concurrent appends
ALTER INDEX IF EXISTS event_store.event_type_no_global_position_idx SET (fillfactor = 97);
-- reads the table once, and finds nothing to enter
CREATE INDEX event_tags_global_position_idx ON event_store.event USING event_store_tags (tags, global_position);
-- the library looks for all of these from now on
ALTER TABLE event_store.event DROP CONSTRAINT event_event_id_key;

-- Functions that get more arguments stay who they are, with their grants,
-- and whatever was made of them: views, functions in standard SQL, generated
-- columns go on to work.
CREATE FUNCTION event_store.es_new_arguments(old regprocedure, new regprocedure) RETURNS void
    LANGUAGE sql AS $$
    UPDATE pg_catalog.pg_proc o
       SET pronargs = n.pronargs, pronargdefaults = n.pronargdefaults, proargtypes = n.proargtypes,
           proallargtypes = n.proallargtypes, proargmodes = n.proargmodes,
           proargnames = n.proargnames, proargdefaults = n.proargdefaults
      FROM pg_catalog.pg_proc n
     WHERE o.oid = $1 AND n.oid = $2
    $$;

CREATE FUNCTION event_store.es_new_upcast_data(event_type text, schema_version int, data jsonb,
        event_id uuid, stream_id text, version bigint, metadata jsonb DEFAULT 'null') RETURNS jsonb
    LANGUAGE c STRICT AS 'MODULE_PATHNAME', 'es_upcast_data';
SELECT event_store.es_new_arguments('event_store.es_upcast_data(text, int, jsonb, uuid, text, bigint)'::regprocedure,
    'event_store.es_new_upcast_data(text, int, jsonb, uuid, text, bigint, jsonb)'::regprocedure);
DROP FUNCTION event_store.es_new_upcast_data(text, int, jsonb, uuid, text, bigint, jsonb);
COMMENT ON FUNCTION event_store.es_upcast_data(text, int, jsonb, uuid, text, bigint, jsonb) IS
    'data of a stored event as it is read; id, stream and version are for errors';

CREATE OR REPLACE VIEW event_store.events AS
    SELECT e.global_position, s.stream_id::pg_catalog.text, e.version::pg_catalog.int8, e.event_id,
           event_store.es_upcast_type(t.event_type, e.schema_version) AS event_type,
           event_store.es_upcast_schema_version(t.event_type, e.schema_version) AS schema_version,
           event_store.es_upcast_data(t.event_type, e.schema_version, e.data,
                                      e.event_id, coalesce(s.stream_id, ''), coalesce(e.version, 0),
                                      e.metadata) AS data,
           e.metadata, e.created_at,
           t.category::pg_catalog.text,
           coalesce(e.tags, '{}') AS tags
      FROM event_store.event e
      LEFT JOIN event_store.stream s ON s.stream_no OPERATOR(pg_catalog.=) e.stream_no
      JOIN event_store.event_type t ON t.type_no OPERATOR(pg_catalog.=) e.type_no
     -- before 15 a view reads with its owner's rights and would go round
     -- row-level security: then it shows nothing to whom policies apply
     WHERE pg_catalog.current_setting('server_version_num')::pg_catalog.int4 OPERATOR(pg_catalog.>=) 150000
        OR NOT pg_catalog.row_security_active('event_store.event'::pg_catalog.regclass);

-- CREATE OR REPLACE VIEW has taken that away
DO $$
BEGIN
    IF current_setting('server_version_num')::int >= 150000 THEN
        ALTER VIEW event_store.events SET (security_invoker = true);
    END IF;
END
$$;

CREATE FUNCTION event_store.es_new_append(stream_id text, expected_version bigint, event_type text, data jsonb,
        metadata jsonb DEFAULT '{}', event_id uuid DEFAULT NULL, schema_version int DEFAULT 1,
        tags text[] DEFAULT NULL)
    RETURNS @extschema@.es_appended
    LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'es_append';
SELECT event_store.es_new_arguments('@extschema@.es_append(text, bigint, text, jsonb, jsonb, uuid, int)'::regprocedure,
    'event_store.es_new_append(text, bigint, text, jsonb, jsonb, uuid, int, text[])'::regprocedure);
DROP FUNCTION event_store.es_new_append(text, bigint, text, jsonb, jsonb, uuid, int, text[]);

CREATE FUNCTION event_store.es_new_append(stream_id text, expected_version bigint, event_types text[], data jsonb[],
        metadata jsonb[] DEFAULT NULL, event_ids uuid[] DEFAULT NULL, schema_versions int[] DEFAULT NULL,
        tags jsonb[] DEFAULT NULL)
    RETURNS SETOF @extschema@.es_appended
    LANGUAGE c VOLATILE PARALLEL UNSAFE ROWS 10 AS 'MODULE_PATHNAME', 'es_append_batch';
SELECT event_store.es_new_arguments('@extschema@.es_append_batch(text, bigint, text[], jsonb[], jsonb[], uuid[], int[])'::regprocedure,
    'event_store.es_new_append(text, bigint, text[], jsonb[], jsonb[], uuid[], int[], jsonb[])'::regprocedure);
DROP FUNCTION event_store.es_new_append(text, bigint, text[], jsonb[], jsonb[], uuid[], int[], jsonb[]);

CREATE FUNCTION event_store.es_new_subscription(name text, categories text[] DEFAULT NULL,
        event_types text[] DEFAULT NULL, after_position bigint DEFAULT 0, slots int DEFAULT NULL,
        lease interval DEFAULT '30 s', max_retries int DEFAULT 10, retry_delay interval DEFAULT '1 s',
        query jsonb DEFAULT NULL, if_not_exists boolean DEFAULT false, cardinal_ids boolean DEFAULT false)
    RETURNS void
    LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'es_create_subscription';
SELECT event_store.es_new_arguments('@extschema@.es_create_subscription(text, text[], text[], bigint, int, interval, int, interval)'::regprocedure,
    'event_store.es_new_subscription(text, text[], text[], bigint, int, interval, int, interval, jsonb, boolean, boolean)'::regprocedure);
DROP FUNCTION event_store.es_new_subscription(text, text[], text[], bigint, int, interval, int, interval, jsonb, boolean, boolean);

CREATE FUNCTION event_store.es_new_projection(name text, handler regprocedure,
        categories text[] DEFAULT NULL, event_types text[] DEFAULT NULL,
        batch_size int DEFAULT 1000, after_position bigint DEFAULT 0,
        policy text DEFAULT 'stop', reset_handler regprocedure DEFAULT NULL,
        max_attempts int DEFAULT 5, paused boolean DEFAULT false, if_not_exists boolean DEFAULT false)
    RETURNS void
    LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'es_create_projection';
SELECT event_store.es_new_arguments('@extschema@.es_create_projection(text, regprocedure, text[], text[], int, bigint, text, regprocedure, int, boolean)'::regprocedure,
    'event_store.es_new_projection(text, regprocedure, text[], text[], int, bigint, text, regprocedure, int, boolean, boolean)'::regprocedure);
DROP FUNCTION event_store.es_new_projection(text, regprocedure, text[], text[], int, bigint, text, regprocedure, int, boolean, boolean);

CREATE FUNCTION event_store.es_new_aggregate(category text, reducer regprocedure, initial_state jsonb DEFAULT '{}',
        snapshot_every int DEFAULT 50, schema_version int DEFAULT 1, if_not_exists boolean DEFAULT false)
    RETURNS void
    LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'es_define_aggregate';
SELECT event_store.es_new_arguments('@extschema@.es_define_aggregate(text, regprocedure, jsonb, int, int)'::regprocedure,
    'event_store.es_new_aggregate(text, regprocedure, jsonb, int, int, boolean)'::regprocedure);
DROP FUNCTION event_store.es_new_aggregate(text, regprocedure, jsonb, int, int, boolean);

CREATE FUNCTION event_store.es_new_upcaster(event_type text, schema_version int, upcaster regprocedure,
        to_event_type text DEFAULT NULL, to_schema_version int DEFAULT NULL, if_not_exists boolean DEFAULT false)
    RETURNS void
    LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'es_define_upcaster';
SELECT event_store.es_new_arguments('@extschema@.es_define_upcaster(text, int, regprocedure, text, int)'::regprocedure,
    'event_store.es_new_upcaster(text, int, regprocedure, text, int, boolean)'::regprocedure);
DROP FUNCTION event_store.es_new_upcaster(text, int, regprocedure, text, int, boolean);
COMMENT ON FUNCTION @extschema@.es_define_upcaster(text, int, regprocedure, text, int, boolean) IS
    'events of this type and schema version are read through upcaster, f(data jsonb) or f(data jsonb, metadata jsonb) RETURNS jsonb';
COMMENT ON COLUMN event_store.upcaster.upcaster IS 'the function, f(data jsonb) or f(data jsonb, metadata jsonb) RETURNS jsonb';

CREATE FUNCTION event_store.es_new_prepare(name text, handler regprocedure, reset_handler regprocedure DEFAULT NULL,
        categories text[] DEFAULT NULL, event_types text[] DEFAULT NULL, keep_filters boolean DEFAULT true,
        if_not_exists boolean DEFAULT false)
    RETURNS void
    LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'es_prepare_projection';
SELECT event_store.es_new_arguments('@extschema@.es_prepare_projection(text, regprocedure, regprocedure, text[], text[], boolean)'::regprocedure,
    'event_store.es_new_prepare(text, regprocedure, regprocedure, text[], text[], boolean, boolean)'::regprocedure);
DROP FUNCTION event_store.es_new_prepare(text, regprocedure, regprocedure, text[], text[], boolean, boolean);

DROP FUNCTION event_store.es_new_arguments(regprocedure, regprocedure);

-- The name of a function, without its argument types, will do.

CREATE FUNCTION @extschema@.es_define_upcaster(event_type text, schema_version int, upcaster text,
        to_event_type text DEFAULT NULL, to_schema_version int DEFAULT NULL, if_not_exists boolean DEFAULT false)
    RETURNS void
    LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'es_define_upcaster';
COMMENT ON FUNCTION @extschema@.es_define_upcaster(text, int, text, text, int, boolean) IS
    'takes the function''s name, which needs argument types only where several have it';
REVOKE ALL ON FUNCTION @extschema@.es_define_upcaster(text, int, text, text, int, boolean) FROM PUBLIC;

CREATE FUNCTION @extschema@.es_define_aggregate(category text, reducer text, initial_state jsonb DEFAULT '{}',
        snapshot_every int DEFAULT 50, schema_version int DEFAULT 1, if_not_exists boolean DEFAULT false)
    RETURNS void
    LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'es_define_aggregate';
COMMENT ON FUNCTION @extschema@.es_define_aggregate(text, text, jsonb, int, int, boolean) IS
    'takes the function''s name, which needs argument types only where several have it';
REVOKE ALL ON FUNCTION @extschema@.es_define_aggregate(text, text, jsonb, int, int, boolean) FROM PUBLIC;

CREATE FUNCTION @extschema@.es_create_projection(name text, handler text,
        categories text[] DEFAULT NULL, event_types text[] DEFAULT NULL,
        batch_size int DEFAULT 1000, after_position bigint DEFAULT 0,
        policy text DEFAULT 'stop', reset_handler text DEFAULT NULL,
        max_attempts int DEFAULT 5, paused boolean DEFAULT false, if_not_exists boolean DEFAULT false)
    RETURNS void
    LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'es_create_projection';
COMMENT ON FUNCTION @extschema@.es_create_projection(text, text, text[], text[], int, bigint, text, text, int, boolean, boolean) IS
    'takes the functions'' names, which need argument types only where several have them';
REVOKE ALL ON FUNCTION @extschema@.es_create_projection(text, text, text[], text[], int, bigint, text, text, int, boolean, boolean) FROM PUBLIC;

CREATE FUNCTION @extschema@.es_prepare_projection(name text, handler text, reset_handler text DEFAULT NULL,
        categories text[] DEFAULT NULL, event_types text[] DEFAULT NULL, keep_filters boolean DEFAULT true,
        if_not_exists boolean DEFAULT false)
    RETURNS void
    LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'es_prepare_projection';
COMMENT ON FUNCTION @extschema@.es_prepare_projection(text, text, text, text[], text[], boolean, boolean) IS
    'takes the functions'' names, which need argument types only where several have them';
REVOKE ALL ON FUNCTION @extschema@.es_prepare_projection(text, text, text, text[], text[], boolean, boolean) FROM PUBLIC;

-- no default: a call without the handler would fit both
CREATE FUNCTION @extschema@.es_switch_projection(name text, switch_handler text, max_lag bigint DEFAULT 10000)
    RETURNS bigint
    LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'es_switch_projection';
COMMENT ON FUNCTION @extschema@.es_switch_projection(text, text, bigint) IS
    'takes the function''s name, which needs argument types only where several have it';
REVOKE ALL ON FUNCTION @extschema@.es_switch_projection(text, text, bigint) FROM PUBLIC;

CREATE FUNCTION @extschema@.es_append_if(events jsonb, fail_if jsonb, after_position bigint DEFAULT NULL)
    RETURNS SETOF @extschema@.es_appended
    LANGUAGE c VOLATILE PARALLEL UNSAFE ROWS 10 AS 'MODULE_PATHNAME', 'es_append_if';
COMMENT ON FUNCTION @extschema@.es_append_if(jsonb, jsonb, bigint) IS
    'appends events unless one above after_position matches the query fail_if; SQLSTATE VE007 then';
REVOKE ALL ON FUNCTION @extschema@.es_append_if(jsonb, jsonb, bigint) FROM PUBLIC;

CREATE FUNCTION @extschema@.es_read_query(query jsonb, after_position bigint DEFAULT NULL, max_count bigint DEFAULT 1000,
        backward boolean DEFAULT false)
    RETURNS SETOF @extschema@.es_event
    LANGUAGE c STABLE PARALLEL RESTRICTED ROWS 50 SUPPORT event_store.es_read_support
    AS 'MODULE_PATHNAME', 'es_read_query';
COMMENT ON FUNCTION @extschema@.es_read_query(jsonb, bigint, bigint, boolean) IS
    'events that match a query of streams, event types and tags in the global order, a settled prefix';
REVOKE ALL ON FUNCTION @extschema@.es_read_query(jsonb, bigint, bigint, boolean) FROM PUBLIC;

CREATE FUNCTION @extschema@.es_position_at(at timestamptz) RETURNS bigint
    LANGUAGE sql STABLE STRICT PARALLEL RESTRICTED
    SET search_path = pg_catalog, pg_temp
    AS $$
    -- what is not settled may have been appended before
    SELECT least((SELECT min(e.global_position) - 1 FROM event_store.event e WHERE e.created_at >= at),
                 h.settled_head)
      FROM event_store.es_head_status() h
     WHERE h.settled_head IS NOT NULL
    $$;
COMMENT ON FUNCTION @extschema@.es_position_at(timestamptz) IS
    'position to read after for all events from that time on; 0 = from the beginning, the head = none yet';
REVOKE ALL ON FUNCTION @extschema@.es_position_at(timestamptz) FROM PUBLIC;

CREATE FUNCTION event_store.es_check_category(category text) RETURNS void
    LANGUAGE c IMMUTABLE STRICT PARALLEL SAFE AS 'MODULE_PATHNAME', 'es_check_category_name';
COMMENT ON FUNCTION event_store.es_check_category(text) IS 'refuses, SQLSTATE 22023, what cannot be a category';
REVOKE ALL ON FUNCTION event_store.es_check_category(text) FROM PUBLIC;

CREATE FUNCTION @extschema@.es_list_streams(category text DEFAULT NULL, prefix text DEFAULT NULL,
        after_stream text DEFAULT NULL, max_count bigint DEFAULT 1000)
    RETURNS TABLE (stream_id text, version bigint, last_position bigint, last_created_at timestamptz)
    LANGUAGE plpgsql STABLE PARALLEL RESTRICTED ROWS 100
    SET search_path = pg_catalog, pg_temp
    AS $$
BEGIN
    PERFORM event_store.es_check_category(category);
    IF max_count < 0 THEN
        RAISE 'invalid value for "max_count"' USING
            ERRCODE = 'invalid_parameter_value',
            DETAIL = format('It must be at least 0, not %s.', max_count);
    END IF;
    RETURN QUERY
    SELECT s.stream_id::text, e.version::int8, e.global_position, e.created_at
      FROM event_store.stream s
     CROSS JOIN LATERAL (SELECT l.version, l.global_position, l.created_at FROM event_store.event l
                          WHERE l.stream_no = s.stream_no
                          ORDER BY l.version DESC LIMIT 1) e
     WHERE (es_list_streams.category IS NULL
            OR split_part(s.stream_id, '-', 1) = es_list_streams.category)
       AND s.stream_id LIKE (regexp_replace(
               coalesce(prefix, CASE es_list_streams.category WHEN '' THEN '-' ELSE es_list_streams.category END, ''),
               '([\\%_])', '\\\1', 'g') || '%')
       AND (after_stream IS NULL OR s.stream_id > after_stream)
     ORDER BY s.stream_id
     LIMIT max_count;
END
$$;
COMMENT ON FUNCTION @extschema@.es_list_streams(text, text, text, bigint) IS
    'streams by name, page by page, with their last version and its position and time';
REVOKE ALL ON FUNCTION @extschema@.es_list_streams(text, text, text, bigint) FROM PUBLIC;

CREATE FUNCTION @extschema@.es_tags(event @extschema@.es_event) RETURNS text[]
    LANGUAGE c STABLE STRICT PARALLEL RESTRICTED AS 'MODULE_PATHNAME', 'es_tags';
COMMENT ON FUNCTION @extschema@.es_tags(@extschema@.es_event) IS 'the tags of a stored event, sorted; an empty array if it has none';
REVOKE ALL ON FUNCTION @extschema@.es_tags(@extschema@.es_event) FROM PUBLIC;


CREATE FUNCTION @extschema@.es_decide(query jsonb, reducer regprocedure, initial jsonb,
        OUT state jsonb, OUT after_position bigint)
    RETURNS record
    LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'es_decide';
COMMENT ON FUNCTION @extschema@.es_decide(jsonb, regprocedure, jsonb) IS
    'folds the events that a query matches, in one snapshot; the state, and the position to decide with: see es_append_if';
REVOKE ALL ON FUNCTION @extschema@.es_decide(jsonb, regprocedure, jsonb) FROM PUBLIC;

CREATE FUNCTION @extschema@.es_decide(query jsonb, reducer text, initial jsonb,
        OUT state jsonb, OUT after_position bigint)
    RETURNS record
    LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'es_decide';
COMMENT ON FUNCTION @extschema@.es_decide(jsonb, text, jsonb) IS
    'takes the function''s name, which needs argument types only where several have it';
REVOKE ALL ON FUNCTION @extschema@.es_decide(jsonb, text, jsonb) FROM PUBLIC;


CREATE FUNCTION event_store.es_consumed_type(event_type text, schema_version int) RETURNS text
    LANGUAGE c STABLE STRICT PARALLEL RESTRICTED SUPPORT event_store.es_upcast_support
    AS 'MODULE_PATHNAME', 'es_consumed_type';
COMMENT ON FUNCTION event_store.es_consumed_type(text, int) IS
    'the type as which consumers get stored events of this type and schema version, whatever event_store.upcast says';
REVOKE ALL ON FUNCTION event_store.es_consumed_type(text, int) FROM PUBLIC;

CREATE OR REPLACE VIEW event_store.parked_events AS
    SELECT p.subscription::pg_catalog.text, e.global_position, st.stream_id::pg_catalog.text, e.version::pg_catalog.int8,
           event_store.es_consumed_type(t.event_type, e.schema_version) AS event_type,
           CASE WHEN e.global_position = p.failed_position THEN p.state::pg_catalog.text ELSE 'queued' END AS state,
           CASE WHEN e.global_position = p.failed_position THEN p.attempts ELSE 0 END AS attempts,
           CASE WHEN e.global_position = p.failed_position THEN p.reason END AS reason,
           CASE WHEN e.global_position = p.failed_position THEN p.first_failed_at END AS first_failed_at,
           CASE WHEN e.global_position = p.failed_position THEN p.failed_at END AS failed_at,
           CASE WHEN e.global_position = p.failed_position AND p.state = 'retry' THEN p.next_attempt_at END AS next_attempt_at,
           e.event_id
      FROM event_store.parked_stream p
      JOIN event_store.subscription s ON s.name = p.subscription
      JOIN event_store.subscription_checkpoint c ON c.subscription = p.subscription AND c.slot = p.slot
      LEFT JOIN event_store.subscription_member m ON m.subscription = c.subscription AND m.member = c.member
      LEFT JOIN event_store.stream st ON st.stream_no = p.stream_no
      -- an event that belongs to no stream is held up by itself
      JOIN event_store.event e ON (e.stream_no = p.stream_no OR e.global_position = - p.stream_no)
       AND coalesce(e.version, 1) >= p.next_version
       AND e.global_position <= greatest(c.position, m.position, p.failed_position)
       AND e.global_position <> ALL (p.discarded)
      JOIN event_store.event_type t ON t.type_no = e.type_no
       AND (s.event_types IS NULL OR e.global_position = p.failed_position
            OR event_store.es_consumed_type(t.event_type, e.schema_version) = ANY (s.event_types))
     -- an event that failed is there, whatever the subscription wants today
       AND (s.query IS NULL OR e.global_position = p.failed_position
            OR EXISTS (SELECT 1
                         FROM jsonb_array_elements(coalesce(nullif(nullif(s.query -> 'items', 'null'), '[]'), '[{}]')) AS i(item)
                        CROSS JOIN LATERAL (SELECT nullif(nullif(i.item -> 'event_types', 'null'), '[]') AS event_types,
                                                   nullif(nullif(i.item -> 'tags', 'null'), '[]') AS tags,
                                                   nullif(nullif(i.item -> 'streams', 'null'), '[]') AS streams,
                                                   nullif(nullif(i.item -> 'stream_prefixes', 'null'), '[]') AS prefixes) AS w
                        WHERE (w.event_types IS NULL OR w.event_types ? event_store.es_consumed_type(t.event_type, e.schema_version))
                          AND (w.tags IS NULL OR to_jsonb(e.tags) @> w.tags)
                          AND (w.streams IS NULL OR w.streams ? st.stream_id)
                          AND (w.prefixes IS NULL
                               OR EXISTS (SELECT 1 FROM jsonb_array_elements_text(w.prefixes) AS x(prefix)
                                           WHERE starts_with(st.stream_id, x.prefix)))))
     WHERE NOT row_security_active('event_store.event'::regclass);

--
-- Watching, and the kind monitor
--

-- figures that pg_stat_activity shows to few
CREATE FUNCTION event_store.es_transaction_status(blocking_xid xid, OUT pid int, OUT started_at timestamptz)
    RETURNS record
    LANGUAGE c VOLATILE PARALLEL RESTRICTED AS 'MODULE_PATHNAME', 'es_transaction_status';
COMMENT ON FUNCTION event_store.es_transaction_status(xid) IS 'process and start of a transaction that is running; see view event_store.status';
REVOKE ALL ON FUNCTION event_store.es_transaction_status(xid) FROM PUBLIC;

CREATE FUNCTION event_store.es_worker_status(OUT pid int, OUT waiting_since timestamptz, OUT obstacle text)
    RETURNS record
    LANGUAGE c VOLATILE PARALLEL RESTRICTED AS 'MODULE_PATHNAME', 'es_worker_status';
COMMENT ON FUNCTION event_store.es_worker_status() IS
    'the database''s background worker, since when it or one of its projections'' waits for a free slot, and why it cannot have one at all';
REVOKE ALL ON FUNCTION event_store.es_worker_status() FROM PUBLIC;

CREATE OR REPLACE VIEW event_store.status AS
    SELECT h.settled_head, h.last_position, h.blocking_position, h.blocking_xid,
           a.pid AS blocking_pid, p.gid AS blocking_gid,
           pg_catalog.clock_timestamp() OPERATOR(pg_catalog.-) COALESCE(a.started_at, p.prepared) AS blocking_age,
           w.pid AS worker_pid
      FROM event_store.es_head_status() h
     CROSS JOIN LATERAL event_store.es_transaction_status(h.blocking_xid) a
      LEFT JOIN pg_catalog.pg_prepared_xacts p ON p.transaction OPERATOR(pg_catalog.=) h.blocking_xid
     CROSS JOIN event_store.es_worker_status() w;
COMMENT ON VIEW event_store.status IS
    'settled head, last position, and the transaction that holds the head back, if any';

CREATE FUNCTION event_store.es_statistics(OUT appends bigint, OUT events bigint, OUT conflicts bigint,
        OUT condition_failures bigint, OUT id_conflicts bigint, OUT duplicates bigint,
        OUT notifications bigint, OUT wakeups bigint, OUT reads bigint, OUT reset_at timestamptz)
    RETURNS record
    LANGUAGE c VOLATILE PARALLEL RESTRICTED AS 'MODULE_PATHNAME', 'es_statistics';
COMMENT ON FUNCTION event_store.es_statistics() IS 'counters of this database; see view event_store.statistics';
REVOKE ALL ON FUNCTION event_store.es_statistics() FROM PUBLIC;

CREATE VIEW event_store.statistics AS
    SELECT s.appends, s.events, s.conflicts, s.condition_failures, s.id_conflicts, s.duplicates,
           s.notifications, s.wakeups, s.reads, s.reset_at
      FROM event_store.es_statistics() s;
COMMENT ON VIEW event_store.statistics IS
    'what this database''s store has done since reset_at, the start of the server or es_reset_statistics()';
COMMENT ON COLUMN event_store.statistics.appends IS 'calls that have written';
COMMENT ON COLUMN event_store.statistics.events IS 'events that they have written';
COMMENT ON COLUMN event_store.statistics.conflicts IS 'appends refused with VE001';
COMMENT ON COLUMN event_store.statistics.condition_failures IS 'appends refused with VE007';
COMMENT ON COLUMN event_store.statistics.id_conflicts IS 'appends refused with VE002';
COMMENT ON COLUMN event_store.statistics.duplicates IS 'retries that were answered';
COMMENT ON COLUMN event_store.statistics.notifications IS 'NOTIFYs that the worker has sent';
COMMENT ON COLUMN event_store.statistics.wakeups IS 'waiting sessions that were woken';
COMMENT ON COLUMN event_store.statistics.reads IS 'reads that were begun';
COMMENT ON COLUMN event_store.statistics.reset_at IS 'since when';

CREATE FUNCTION @extschema@.es_reset_statistics() RETURNS void
    LANGUAGE c VOLATILE PARALLEL RESTRICTED AS 'MODULE_PATHNAME', 'es_reset_statistics';
COMMENT ON FUNCTION @extschema@.es_reset_statistics() IS 'sets the counters of event_store.statistics to 0';
REVOKE ALL ON FUNCTION @extschema@.es_reset_statistics() FROM PUBLIC;

--
-- Row-level security: names of streams, snapshots, messages of handlers
--

-- A name that no event of the stream may be seen with is hidden, too.  The
-- store itself reads below the executor and asks no policy.
CREATE FUNCTION event_store.es_stream_visible_support(internal) RETURNS internal
    LANGUAGE c STRICT AS 'MODULE_PATHNAME', 'es_stream_visible_support';
COMMENT ON FUNCTION event_store.es_stream_visible_support(internal) IS 'planner support of es_stream_visible';
REVOKE ALL ON FUNCTION event_store.es_stream_visible_support(internal) FROM PUBLIC;

CREATE FUNCTION event_store.es_stream_visible(stream_no bigint) RETURNS boolean
    LANGUAGE c STABLE STRICT PARALLEL UNSAFE COST 1000 SUPPORT event_store.es_stream_visible_support
    AS 'MODULE_PATHNAME', 'es_stream_visible';
COMMENT ON FUNCTION event_store.es_stream_visible(bigint) IS
    'whether the policies on the event table let the current user see an event of the stream';
REVOKE ALL ON FUNCTION event_store.es_stream_visible(bigint) FROM PUBLIC;

CREATE POLICY es_visible ON event_store.stream FOR SELECT USING (event_store.es_stream_visible(stream_no));
ALTER TABLE event_store.stream ENABLE ROW LEVEL SECURITY;

CREATE POLICY es_visible ON event_store.snapshot FOR SELECT
    USING (NOT row_security_active('event_store.event'::regclass));
ALTER TABLE event_store.snapshot ENABLE ROW LEVEL SECURITY;

CREATE VIEW event_store.categories AS
    SELECT c.category, coalesce(s.streams, 0) AS streams, c.events, c.event_types,
           c.last_position, l.created_at AS last_created_at
      FROM (SELECT t.category::text AS category, count(DISTINCT t.event_type) AS event_types,
                   sum(e.events)::bigint AS events, max(e.last_position) AS last_position
              FROM event_store.event_type t
              JOIN (SELECT v.type_no, count(*) AS events, max(v.global_position) AS last_position
                      FROM event_store.event v GROUP BY v.type_no) e ON e.type_no = t.type_no
             GROUP BY t.category) c
      LEFT JOIN (SELECT split_part(n.stream_id, '-', 1)::text AS category, count(*) AS streams
                   FROM event_store.stream n GROUP BY 1) s ON s.category = c.category
      LEFT JOIN event_store.event l ON l.global_position = c.last_position
     WHERE NOT row_security_active('event_store.event'::regclass)
        OR NOT has_table_privilege('event_store.event'::regclass, 'SELECT');
COMMENT ON VIEW event_store.categories IS
    'what is in the store, by category, counted when you look; empty for readers to whom row-level security applies';
COMMENT ON COLUMN event_store.categories.category IS 'part of the stream''s name before the first "-"; NULL = events that belong to no stream';
COMMENT ON COLUMN event_store.categories.streams IS 'its streams';
COMMENT ON COLUMN event_store.categories.events IS 'its events';
COMMENT ON COLUMN event_store.categories.event_types IS 'types of events, as they are stored';
COMMENT ON COLUMN event_store.categories.last_position IS 'position of the newest event';
COMMENT ON COLUMN event_store.categories.last_created_at IS 'when that was appended';

-- messages may quote events
CREATE POLICY es_visible ON event_store.projection_parked FOR SELECT
    USING (NOT row_security_active('event_store.event'::regclass));
ALTER TABLE event_store.projection_parked ENABLE ROW LEVEL SECURITY;

--
-- Projections
--

-- the one of 0.1 doubled a read model without a reset handler
DROP FUNCTION @extschema@.es_rebuild_projection(text);
CREATE FUNCTION @extschema@.es_rebuild_projection(name text, without_reset boolean DEFAULT false) RETURNS void
    LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'es_rebuild_projection';
COMMENT ON FUNCTION @extschema@.es_rebuild_projection(text, boolean) IS 'calls the reset handler and starts over from the first event';
REVOKE ALL ON FUNCTION @extschema@.es_rebuild_projection(text, boolean) FROM PUBLIC;

COMMENT ON FUNCTION @extschema@.es_is_replaying() IS
    'in a handler: whether this event was passed (applied, parked or skipped) before a rebuild, so that side effects are not to be repeated';

-- what a projection has still to do, in all or up to the target of a rebuild
CREATE FUNCTION event_store.es_projection_backlog(name text, is_shadow boolean, to_target boolean DEFAULT false,
        OUT events bigint, OUT oldest timestamptz)
    RETURNS record
    LANGUAGE c VOLATILE PARALLEL RESTRICTED AS 'MODULE_PATHNAME', 'es_projection_backlog';
COMMENT ON FUNCTION event_store.es_projection_backlog(text, boolean, boolean) IS
    'number and age of the events that a projection, or its new version, has not applied yet; see view event_store.projections';
REVOKE ALL ON FUNCTION event_store.es_projection_backlog(text, boolean, boolean) FROM PUBLIC;

-- error: what is in the way now; last_error: also what has been overcome
CREATE OR REPLACE VIEW event_store.projections AS
    SELECT p.name, p.is_shadow, p.owner, p.handler, p.reset_handler, p.categories, p.event_types,
           p.batch_size, p.policy,
           CASE WHEN p.replicated THEN 'replicated'
                WHEN p.state OPERATOR(pg_catalog.=) 'running' AND p.attempts OPERATOR(pg_catalog.>) 0
                THEN 'retrying' ELSE p.state END AS state,
           p.position,
           b.events AS lag_events,
           CASE WHEN b.events IS NOT NULL
                THEN COALESCE(pg_catalog.date_part('epoch', pg_catalog.clock_timestamp() OPERATOR(pg_catalog.-) b.oldest), 0)
           END AS lag_seconds,
           CASE WHEN pg_catalog.clock_timestamp() OPERATOR(pg_catalog.-) p.updated_at OPERATOR(pg_catalog.>) '10 s'::interval
                THEN 0 ELSE p.rate END AS events_per_second,
           p.applied AS events_applied,
           w.pid AS worker_pid, p.attempts, p.max_attempts, p.next_attempt_at,
           CASE WHEN y.stands THEN p.error_sqlstate WHEN y.no_login THEN '08004' WHEN y.no_worker THEN '53400' END AS error_sqlstate,
           CASE WHEN y.stands THEN CASE WHEN x.visible THEN p.error_message END
                WHEN y.no_login THEN 'its owner may not log in, so no worker runs it'
                WHEN y.turned_off THEN 'event_store.max_projection_workers is 0'
                WHEN y.no_worker THEN COALESCE(d.obstacle, 'no free background worker (max_worker_processes)') END AS error_message,
           CASE WHEN y.stands THEN p.error_position END AS error_position,
           CASE WHEN y.stands THEN p.error_at WHEN y.no_worker AND NOT y.turned_off THEN d.waiting_since END AS error_at,
           (SELECT pg_catalog.count(*) FROM event_store.projection_parked k
             WHERE k.projection OPERATOR(pg_catalog.=) p.name AND k.is_shadow OPERATOR(pg_catalog.=) p.is_shadow
               AND k.disposition OPERATOR(pg_catalog.<>) 'skipped') AS events_parked,
           (SELECT pg_catalog.count(*) FROM event_store.projection_parked k
             WHERE k.projection OPERATOR(pg_catalog.=) p.name AND k.is_shadow OPERATOR(pg_catalog.=) p.is_shadow
               AND k.disposition OPERATOR(pg_catalog.=) 'skipped') AS events_skipped,
           p.created_at, p.started_at, p.updated_at,
           CASE WHEN p.replicated THEN 'it came by logical replication and is not run here before es_take_over()'
                WHEN r.oid IS NULL THEN 'its owner does not exist'
                WHEN h.settled_head IS NULL THEN 'the global order is not available'
                WHEN b.events IS NULL THEN 'the checkpoint is ahead of the head' END AS reason,
           p.error_at AS last_error_at, p.error_sqlstate AS last_error_sqlstate,
           CASE WHEN x.visible THEN p.error_message END AS last_error_message,
           p.error_position AS last_error_position
      FROM event_store.projection p
      CROSS JOIN event_store.es_worker_status() d
      CROSS JOIN event_store.es_head_status() h
      CROSS JOIN LATERAL event_store.es_projection_backlog(p.name, p.is_shadow) b
      LEFT JOIN pg_catalog.pg_roles r ON r.rolname OPERATOR(pg_catalog.=) p.owner::pg_catalog.name
      LEFT JOIN LATERAL (
            SELECT l.pid FROM pg_catalog.pg_locks l
             WHERE l.locktype OPERATOR(pg_catalog.=) 'advisory' AND l.objsubid OPERATOR(pg_catalog.=) 5 AND l.granted
               AND l.database OPERATOR(pg_catalog.=) (SELECT d.oid FROM pg_catalog.pg_database d
                                 WHERE d.datname OPERATOR(pg_catalog.=) pg_catalog.current_database())
               AND l.objid OPERATOR(pg_catalog.=) r.oid
             LIMIT 1) w ON true
      CROSS JOIN LATERAL (
            SELECT p.state OPERATOR(pg_catalog.=) 'stopped' OR p.attempts OPERATOR(pg_catalog.>) 0 AS failed,
                   -- without a worker, although there is something to do
                   NOT p.replicated AND p.state OPERATOR(pg_catalog.=) 'running' AND p.attempts OPERATOR(pg_catalog.=) 0
                   AND b.events OPERATOR(pg_catalog.>) 0 AND w.pid IS NULL AND r.oid IS NOT NULL AS waits,
                   -- before 17 a worker cannot connect as who may not log in
                   NOT r.rolcanlogin AND pg_catalog.current_setting('server_version_num')::pg_catalog.int4
                                         OPERATOR(pg_catalog.<) 170000 AS no_login,
                   COALESCE(pg_catalog.current_setting('event_store.max_projection_workers', true) OPERATOR(pg_catalog.=) '0',
                            false) AS turned_off,
                   -- what the database's worker has noted blames no event
                   p.error_position IS NULL AND (p.error_sqlstate OPERATOR(pg_catalog.=) '53400'
                                                 OR p.error_sqlstate OPERATOR(pg_catalog.=) '08004') AS noted,
                   event_store.es_projection_error_visible(p.owner) AS visible) x
      CROSS JOIN LATERAL (
            SELECT x.failed OR x.waits AND x.noted AND NOT x.no_login AND NOT x.turned_off AS stands,
                   x.waits AND x.no_login AS no_login, x.waits AND x.turned_off AS turned_off,
                   x.waits AND (x.turned_off OR d.waiting_since IS NOT NULL OR d.obstacle IS NOT NULL) AS no_worker) y;
COMMENT ON VIEW event_store.projections IS
    'projections: checkpoint, what they lag behind (NULL with a reason where they can go no further), worker, the error in the way and the last one';
COMMENT ON COLUMN event_store.projection_parked.stream_id IS 'stream of the event; where it belongs to none, a tab and its first tag, by which such events wait for each other';
COMMENT ON COLUMN event_store.projections.last_error_at IS 'when the last error was, also one that has been overcome';
COMMENT ON COLUMN event_store.projections.last_error_sqlstate IS 'its SQLSTATE';
COMMENT ON COLUMN event_store.projections.last_error_message IS 'its message; NULL for who may not read events';
COMMENT ON COLUMN event_store.projections.last_error_position IS 'position of the event that failed';

CREATE OR REPLACE VIEW event_store.projection_progress AS
    SELECT q.name, q.is_shadow, q.state, q.position, q.target_position, q.events_done, q.events_to_do, q.events_per_second,
           CASE WHEN q.events_to_do OPERATOR(pg_catalog.=) 0 THEN '0 s'::interval
                WHEN q.events_per_second OPERATOR(pg_catalog.>) 0
                THEN pg_catalog.make_interval(secs => q.events_to_do OPERATOR(pg_catalog./) q.events_per_second)
           END AS time_left,
           q.started_at
      FROM (SELECT p.name, p.is_shadow,
                   CASE WHEN p.replicated THEN 'replicated'
                        WHEN p.state OPERATOR(pg_catalog.=) 'running' AND p.attempts OPERATOR(pg_catalog.>) 0
                        THEN 'retrying' ELSE p.state END AS state,
                   p.position, t.target_position, p.applied AS events_done,
                   b.events AS events_to_do,
                   CASE WHEN pg_catalog.clock_timestamp() OPERATOR(pg_catalog.-) p.updated_at OPERATOR(pg_catalog.>) '10 s'::interval
                        THEN 0 ELSE p.rate END AS events_per_second, p.started_at
              FROM event_store.projection p
              LEFT JOIN event_store.projection o
                     ON p.is_shadow AND NOT o.is_shadow AND o.name OPERATOR(pg_catalog.=) p.name
              CROSS JOIN LATERAL (
                    SELECT CASE WHEN p.is_shadow THEN o.position ELSE p.replay_until END AS target_position) t
              CROSS JOIN LATERAL event_store.es_projection_backlog(p.name, p.is_shadow, true) b
             WHERE p.is_shadow OR p.position OPERATOR(pg_catalog.<) p.replay_until) q
     WHERE q.is_shadow OR q.events_to_do OPERATOR(pg_catalog.>) 0;
COMMENT ON VIEW event_store.projection_progress IS
    'rebuilds that are going on: events done and to do, events per second, time left';

-- which told everybody of any range and filter
DROP FUNCTION event_store.es_projection_backlog(bigint, bigint, text[], text[]);

CREATE VIEW event_store.consumers AS
    SELECT p.name, CASE WHEN p.is_shadow THEN 'new version' ELSE 'projection' END AS kind,
           p.state, p.position, p.lag_events, p.lag_seconds,
           coalesce(p.reason, p.error_message, p.error_sqlstate,
                    CASE WHEN p.events_parked > 0 THEN 'parked events: ' || p.events_parked END) AS problem
      FROM event_store.projections p
     UNION ALL
    SELECT s.name, CASE WHEN s.slots IS NULL THEN 'subscription' ELSE 'group' END,
           CASE WHEN s.reason IS NOT NULL THEN 'stopped' WHEN s.retrying_streams > 0 THEN 'retrying'
                WHEN s.in_flight THEN 'in flight' WHEN s.lag_events > 0 THEN 'waiting' ELSE 'idle' END,
           s.checkpoint, s.lag_events, s.lag_seconds,
           coalesce(s.reason, CASE WHEN s.parked_streams > 0 THEN 'parked streams: ' || s.parked_streams END)
      FROM event_store.subscriptions s;
COMMENT ON VIEW event_store.consumers IS
    'projections and subscriptions at a glance: what they do, how far they are, what is in the way';
COMMENT ON COLUMN event_store.consumers.name IS 'name of the projection or subscription';
COMMENT ON COLUMN event_store.consumers.kind IS 'projection, new version (of that projection, in preparation), subscription or group';
COMMENT ON COLUMN event_store.consumers.state IS 'of a projection: running, retrying, paused, stopped, replicated; of a subscription: idle, waiting (for a consumer), in flight, retrying, stopped';
COMMENT ON COLUMN event_store.consumers.position IS 'everything up to here is done';
COMMENT ON COLUMN event_store.consumers.lag_events IS 'events that are still to be done; of a subscription counted up to 100000';
COMMENT ON COLUMN event_store.consumers.lag_seconds IS 'age of the oldest of them';
COMMENT ON COLUMN event_store.consumers.problem IS 'what is in the way; NULL = nothing';

--
-- Snapshots: those taken by hand where there is an aggregate cannot be told
-- from its own
--

DELETE FROM event_store.snapshot n USING event_store.stream s, event_store.aggregate a
 WHERE n.stream_no = s.stream_no AND (s.stream_id = a.category
        OR s.stream_id >= (a.category || '-') AND s.stream_id < (a.category || '.'));

--

--
-- Every column of a view says what it is
--

COMMENT ON COLUMN event_store.events.global_position IS 'place in the global order; ascending, with gaps';
COMMENT ON COLUMN event_store.events.stream_id IS 'name of the stream; NULL for an event that belongs to none';
COMMENT ON COLUMN event_store.events.version IS 'place in the stream: 1, 2, 3 ...; NULL for an event that belongs to none';
COMMENT ON COLUMN event_store.events.event_id IS 'unique in the store';
COMMENT ON COLUMN event_store.events.event_type IS 'type in today''s shape';
COMMENT ON COLUMN event_store.events.schema_version IS 'version of the shape of data, today''s';
COMMENT ON COLUMN event_store.events.data IS 'payload in today''s shape, any JSON value';
COMMENT ON COLUMN event_store.events.metadata IS 'correlation_id, causation_id, user_id ...; a JSON object';
COMMENT ON COLUMN event_store.events.created_at IS 'when it was appended, by the server''s clock; not an order';
COMMENT ON COLUMN event_store.events.category IS 'part of the stream''s name before the first "-"';
COMMENT ON COLUMN event_store.events.tags IS 'what the event is about, beside its stream';
COMMENT ON COLUMN event_store.status.settled_head IS 'up to here readers see everything';
COMMENT ON COLUMN event_store.status.last_position IS 'highest position that has been used, committed or not';
COMMENT ON COLUMN event_store.status.blocking_position IS 'what holds the head back, if anything: its position';
COMMENT ON COLUMN event_store.status.blocking_xid IS 'its transaction';
COMMENT ON COLUMN event_store.status.blocking_pid IS 'its process';
COMMENT ON COLUMN event_store.status.blocking_gid IS 'its name, if it is a prepared transaction';
COMMENT ON COLUMN event_store.status.blocking_age IS 'how long its transaction has been open';
COMMENT ON COLUMN event_store.status.worker_pid IS 'the database''s worker; NULL when it is not running';
COMMENT ON COLUMN event_store.subscriptions.name IS 'name of the subscription';
COMMENT ON COLUMN event_store.subscriptions.checkpoint IS 'everything up to this position is done';
COMMENT ON COLUMN event_store.subscriptions.lag_events IS 'events behind, counted up to 100000; NULL where it can go no further';
COMMENT ON COLUMN event_store.subscriptions.lag_seconds IS 'age of the oldest event that is not done';
COMMENT ON COLUMN event_store.subscriptions.lag_positions IS 'positions behind the head';
COMMENT ON COLUMN event_store.subscriptions.categories IS 'categories that it wants; NULL = all';
COMMENT ON COLUMN event_store.subscriptions.event_types IS 'event types that it wants, in today''s shape; NULL = all';
COMMENT ON COLUMN event_store.subscriptions.slots IS 'slots of a consumer group; NULL = one consumer at a time';
COMMENT ON COLUMN event_store.subscriptions.members IS 'members of the group';
COMMENT ON COLUMN event_store.subscriptions.in_flight IS 'has somebody events in hand?';
COMMENT ON COLUMN event_store.subscriptions.holder IS 'who has them, if it is one consumer';
COMMENT ON COLUMN event_store.subscriptions.lease_until IS 'until when they are his';
COMMENT ON COLUMN event_store.subscriptions.retrying_streams IS 'streams that are held up and delivered again by themselves';
COMMENT ON COLUMN event_store.subscriptions.parked_streams IS 'streams that wait behind a parked event';
COMMENT ON COLUMN event_store.subscriptions.lease IS 'how long events are lent';
COMMENT ON COLUMN event_store.subscriptions.max_retries IS 'retries of a failed event before it is parked';
COMMENT ON COLUMN event_store.subscriptions.retry_delay IS 'pause before the second attempt';
COMMENT ON COLUMN event_store.subscriptions.created_by IS 'role that made it';
COMMENT ON COLUMN event_store.subscriptions.created_at IS 'when it was made';
COMMENT ON COLUMN event_store.subscriptions.updated_at IS 'when its checkpoint moved last';
COMMENT ON COLUMN event_store.subscriptions.reason IS 'why it can go no further; NULL = it can';
COMMENT ON COLUMN event_store.subscriptions.query IS 'query of streams, types and tags, beside its other filters; NULL = none, or for who may not read events';
COMMENT ON COLUMN event_store.subscriptions.cardinal_ids IS 'do streams that share a cardinal id stay with one member?';
COMMENT ON COLUMN event_store.subscription_members.subscription IS 'name of the subscription';
COMMENT ON COLUMN event_store.subscription_members.member IS 'name of the member';
COMMENT ON COLUMN event_store.subscription_members.slots IS 'slots that it has';
COMMENT ON COLUMN event_store.subscription_members.checkpoint IS 'everything of its slots up to this position is done';
COMMENT ON COLUMN event_store.subscription_members.in_flight IS 'has it events in hand?';
COMMENT ON COLUMN event_store.subscription_members.delivered_position IS 'the last one that it has got';
COMMENT ON COLUMN event_store.subscription_members.lease IS 'how long it counts as alive without a call';
COMMENT ON COLUMN event_store.subscription_members.lease_until IS 'until when it counts as alive';
COMMENT ON COLUMN event_store.subscription_members.lease_age IS 'time since its last call';
COMMENT ON COLUMN event_store.subscription_members.alive IS 'has its lease not run out?';
COMMENT ON COLUMN event_store.subscription_members.pid IS 'process that called last';
COMMENT ON COLUMN event_store.subscription_members.joined_at IS 'when it joined';
COMMENT ON COLUMN event_store.parked_events.subscription IS 'name of the subscription';
COMMENT ON COLUMN event_store.parked_events.global_position IS 'position of the event';
COMMENT ON COLUMN event_store.parked_events.stream_id IS 'its stream';
COMMENT ON COLUMN event_store.parked_events.version IS 'its place there';
COMMENT ON COLUMN event_store.parked_events.event_type IS 'its type, in today''s shape';
COMMENT ON COLUMN event_store.parked_events.state IS 'retry, parked, or queued behind one of those';
COMMENT ON COLUMN event_store.parked_events.attempts IS 'how often it was tried';
COMMENT ON COLUMN event_store.parked_events.reason IS 'what the consumer said';
COMMENT ON COLUMN event_store.parked_events.first_failed_at IS 'when it failed first';
COMMENT ON COLUMN event_store.parked_events.failed_at IS 'when it failed last';
COMMENT ON COLUMN event_store.parked_events.next_attempt_at IS 'when it is handed out again';
COMMENT ON COLUMN event_store.parked_events.event_id IS 'its id';
COMMENT ON COLUMN event_store.projections.name IS 'name of the projection';
COMMENT ON COLUMN event_store.projections.is_shadow IS 'a copy that is built beside the original';
COMMENT ON COLUMN event_store.projections.owner IS 'role as which the handler runs';
COMMENT ON COLUMN event_store.projections.handler IS 'function that applies events';
COMMENT ON COLUMN event_store.projections.reset_handler IS 'function that empties the read model for a rebuild';
COMMENT ON COLUMN event_store.projections.categories IS 'categories that it wants; NULL = all';
COMMENT ON COLUMN event_store.projections.event_types IS 'event types that it wants, in today''s shape; NULL = all';
COMMENT ON COLUMN event_store.projections.batch_size IS 'most events in one transaction';
COMMENT ON COLUMN event_store.projections.policy IS 'what to do about an event that fails: stop, skip or park';
COMMENT ON COLUMN event_store.projections.state IS 'running, retrying, paused, stopped, replicated';
COMMENT ON COLUMN event_store.projections.position IS 'everything up to here is applied';
COMMENT ON COLUMN event_store.projections.lag_events IS 'events behind; NULL where it can go no further';
COMMENT ON COLUMN event_store.projections.lag_seconds IS 'age of the oldest event that is not applied';
COMMENT ON COLUMN event_store.projections.events_per_second IS 'events applied in a second, lately';
COMMENT ON COLUMN event_store.projections.events_applied IS 'events applied since it was made or rebuilt';
COMMENT ON COLUMN event_store.projections.worker_pid IS 'process that runs it; NULL = none';
COMMENT ON COLUMN event_store.projections.attempts IS 'failed attempts in a row';
COMMENT ON COLUMN event_store.projections.max_attempts IS 'attempts before it stops, skips or parks';
COMMENT ON COLUMN event_store.projections.next_attempt_at IS 'when it is tried again';
COMMENT ON COLUMN event_store.projections.error_sqlstate IS 'SQLSTATE of the error that is in the way now; NULL = none is';
COMMENT ON COLUMN event_store.projections.error_message IS 'its message; NULL for who may not read events';
COMMENT ON COLUMN event_store.projections.error_position IS 'position of the event that fails';
COMMENT ON COLUMN event_store.projections.error_at IS 'since when, or when it failed last';
COMMENT ON COLUMN event_store.projections.events_parked IS 'events that are parked';
COMMENT ON COLUMN event_store.projections.events_skipped IS 'events that were skipped';
COMMENT ON COLUMN event_store.projections.created_at IS 'when it was made';
COMMENT ON COLUMN event_store.projections.started_at IS 'when it was started or rebuilt last';
COMMENT ON COLUMN event_store.projections.updated_at IS 'when its position moved last';
COMMENT ON COLUMN event_store.projections.reason IS 'why it can go no further; NULL = it can';
COMMENT ON COLUMN event_store.projection_progress.name IS 'name of the projection';
COMMENT ON COLUMN event_store.projection_progress.is_shadow IS 'a copy that is built beside the original';
COMMENT ON COLUMN event_store.projection_progress.state IS 'what it is doing';
COMMENT ON COLUMN event_store.projection_progress.position IS 'everything up to here is applied';
COMMENT ON COLUMN event_store.projection_progress.target_position IS 'where it has caught up';
COMMENT ON COLUMN event_store.projection_progress.events_done IS 'events applied since it began';
COMMENT ON COLUMN event_store.projection_progress.events_to_do IS 'events until it has caught up';
COMMENT ON COLUMN event_store.projection_progress.events_per_second IS 'events applied in a second, lately';
COMMENT ON COLUMN event_store.projection_progress.time_left IS 'at this pace';
COMMENT ON COLUMN event_store.projection_progress.started_at IS 'when it began';

--
-- Stored and read, side by side
--

-- es_check_upcasters knows only that nothing fails; whether an event still says
-- what it said is seen by comparing
CREATE FUNCTION @extschema@.es_preview_upcasters(stored_as text DEFAULT NULL, max_count bigint DEFAULT 3)
    RETURNS TABLE (stored_event_type text, stored_schema_version int, stored_data jsonb,
                   event_type text, schema_version int, data jsonb,
                   event_id uuid, stream_id text, version bigint)
    LANGUAGE plpgsql STABLE PARALLEL RESTRICTED ROWS 10
    SET search_path = pg_catalog, pg_temp
    SET event_store.upcast = on
    AS $$
#variable_conflict use_column
BEGIN
    IF max_count < 0 THEN
        RAISE 'invalid value for "max_count"' USING
            ERRCODE = 'invalid_parameter_value',
            DETAIL = format('It must be at least 0, not %s.', max_count);
    END IF;
    RETURN QUERY
    SELECT u.event_type, u.schema_version, e.data,
           event_store.es_upcast_type(u.event_type, u.schema_version),
           event_store.es_upcast_schema_version(u.event_type, u.schema_version),
           event_store.es_upcast_data(u.event_type, u.schema_version, e.data, e.event_id, coalesce(s.stream_id, ''), coalesce(e.version, 0),
                                      e.metadata),
           e.event_id, s.stream_id, e.version::bigint
      FROM event_store.upcaster AS u
     CROSS JOIN LATERAL (
            SELECT n.* FROM event_store.event_type AS t
             CROSS JOIN LATERAL (
                    SELECT o.* FROM event_store.event AS o
                     WHERE o.type_no = t.type_no AND o.schema_version = u.schema_version
                     ORDER BY o.global_position DESC LIMIT max_count) AS n
             WHERE t.event_type = u.event_type
             ORDER BY n.global_position DESC LIMIT max_count) AS e
      LEFT JOIN event_store.stream AS s USING (stream_no)
     WHERE stored_as IS NULL OR u.event_type = stored_as
     ORDER BY u.event_type, u.schema_version, e.global_position DESC;
END
$$;
COMMENT ON FUNCTION @extschema@.es_preview_upcasters(text, bigint) IS
    'the newest max_count events of each shape that has an upcaster, as they are stored and as they are read';
REVOKE ALL ON FUNCTION @extschema@.es_preview_upcasters(text, bigint) FROM PUBLIC;

--
-- Import
--

CREATE FUNCTION @extschema@.es_import(query text) RETURNS bigint
    LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'es_import';
COMMENT ON FUNCTION @extschema@.es_import(text) IS
    'imports the rows of a query as events, in their order and with their ids, versions and times, or none of them';
REVOKE ALL ON FUNCTION @extschema@.es_import(text) FROM PUBLIC;

CREATE FUNCTION event_store.es_import_progress(OUT pid int, OUT events bigint, OUT started_at timestamptz)
    RETURNS SETOF record
    LANGUAGE c VOLATILE PARALLEL RESTRICTED ROWS 1 AS 'MODULE_PATHNAME', 'es_import_progress';
COMMENT ON FUNCTION event_store.es_import_progress() IS 'the running imports; see view event_store.import_progress';
REVOKE ALL ON FUNCTION event_store.es_import_progress() FROM PUBLIC;

CREATE VIEW event_store.import_progress AS
    SELECT p.pid, p.events, p.started_at,
           pg_catalog.round(p.events OPERATOR(pg_catalog./) NULLIF(EXTRACT(epoch FROM
               pg_catalog.clock_timestamp() OPERATOR(pg_catalog.-) p.started_at)::numeric, 0), 1) AS events_per_second
      FROM event_store.es_import_progress() p;
COMMENT ON VIEW event_store.import_progress IS 'the running imports of this database';
COMMENT ON COLUMN event_store.import_progress.pid IS 'its process';
COMMENT ON COLUMN event_store.import_progress.events IS 'events written so far, not yet committed';
COMMENT ON COLUMN event_store.import_progress.started_at IS 'when it began';
COMMENT ON COLUMN event_store.import_progress.events_per_second IS 'since then';

--
-- Evidence
--

CREATE FUNCTION @extschema@.es_verify(stream_id text DEFAULT NULL)
    RETURNS TABLE (stream_id text, version bigint, global_position bigint, problem text)
    LANGUAGE c STABLE PARALLEL RESTRICTED ROWS 10 AS 'MODULE_PATHNAME', 'es_verify';
COMMENT ON FUNCTION @extschema@.es_verify(text) IS
    'what somebody has done to the events of a stream, or of the store, behind its back; no row = sound';
REVOKE ALL ON FUNCTION @extschema@.es_verify(text) FROM PUBLIC;

--
-- Definitions that logical replication brings: its apply worker fires no
-- triggers of statements.  And what pg_restore --disable-triggers has left of
-- the others.
--

CREATE TRIGGER es_definition_changed_row AFTER INSERT OR UPDATE OR DELETE ON event_store.upcaster
    FOR EACH ROW EXECUTE FUNCTION event_store.es_definition_changed();
ALTER TABLE event_store.upcaster ENABLE ALWAYS TRIGGER es_definition_changed_row;
CREATE TRIGGER es_definition_changed_row AFTER INSERT OR UPDATE OR DELETE ON event_store.aggregate
    FOR EACH ROW EXECUTE FUNCTION event_store.es_definition_changed();
ALTER TABLE event_store.aggregate ENABLE ALWAYS TRIGGER es_definition_changed_row;

DO $$
DECLARE
    weak record;
BEGIN
    FOR weak IN
        SELECT t.tgrelid::regclass AS altered, t.tgname
          FROM pg_trigger AS t JOIN pg_class AS r ON r.oid = t.tgrelid JOIN pg_proc AS f ON f.oid = t.tgfoid
         WHERE r.relnamespace = 'event_store'::regnamespace AND f.pronamespace = 'event_store'::regnamespace
           AND t.tgenabled NOT IN ('A', 'D')
    LOOP
        EXECUTE format('ALTER TABLE %s ENABLE ALWAYS TRIGGER %I', weak.altered, weak.tgname);
    END LOOP;
END
$$;

--
-- Last, after everything else
--

-- What es_grant grants: the text of sql/install/permissions.sql.
CREATE OR REPLACE FUNCTION event_store.es_role_functions(kind text) RETURNS SETOF regprocedure
    LANGUAGE sql STABLE
    SET search_path = pg_catalog, pg_temp
    AS $$
    -- the schema may have been renamed since
    SELECT format(f.name, (SELECT quote_ident(n.nspname) FROM pg_extension e
                             JOIN pg_namespace n ON n.oid = e.extnamespace
                            WHERE e.extname = 'event_store'))::regprocedure
      FROM (VALUES
        ('writer', '%1$s.es_append(text, bigint, text, jsonb, jsonb, uuid, int, text[])'),
        ('writer', '%1$s.es_append_batch(text, bigint, text[], jsonb[], jsonb[], uuid[], int[], jsonb[])'),
        ('writer', '%1$s.es_append(text, bigint, jsonb)'),
        ('writer', '%1$s.es_append_streams(jsonb)'),
        ('writer', '%1$s.es_append_if(jsonb, jsonb, bigint)'),
        ('admin', '%1$s.es_import(text)'),
        ('writer', '%1$s.es_snapshot(text, bigint, jsonb, int)'),
        ('both', '%1$s.es_any()'),
        ('both', '%1$s.es_exists()'),
        ('both', '%1$s.es_read_stream(text, bigint, bigint, boolean)'),
        ('both', '%1$s.es_stream_version(text)'),
        ('all', '%1$s.es_head()'),
        ('both', '%1$s.es_wait(bigint, interval)'),
        ('all', 'event_store.es_head_status()'),
        ('watch', 'event_store.es_transaction_status(xid)'),
        ('watch', 'event_store.es_worker_status()'),
        ('monitor', 'event_store.es_statistics()'),
        ('monitor', 'event_store.es_import_progress()'),
        ('admin', '%1$s.es_reset_statistics()'),
        ('both', '%1$s.es_read_event(uuid)'),
        ('both', '%1$s.es_read_query(jsonb, bigint, bigint, boolean)'),
        ('reader', '%1$s.es_position_at(timestamptz)'),
        ('reader', 'event_store.es_check_category(text)'),
        ('reader', '%1$s.es_list_streams(text, text, text, bigint)'),
        ('both', '%1$s.es_tags(%1$s.es_event)'),
        ('both', '%1$s.es_decide(jsonb, regprocedure, jsonb)'),
        ('both', '%1$s.es_decide(jsonb, text, jsonb)'),
        ('both', '%1$s.es_envelope(%1$s.es_event)'),
        ('both', '%1$s.es_read_snapshot(text, int)'),
        ('both', '%1$s.es_load(text, int)'),
        ('both', '%1$s.es_state(text, bigint, timestamptz)'),
        ('reader', 'event_store.es_upcast_type(text, int)'),
        ('reader', 'event_store.es_consumed_type(text, int)'),
        ('reader', 'event_store.es_upcast_schema_version(text, int)'),
        ('reader', 'event_store.es_upcast_data(text, int, jsonb, uuid, text, bigint, jsonb)'),
        ('admin', '%1$s.es_define_upcaster(text, int, regprocedure, text, int, boolean)'),
        ('admin', '%1$s.es_define_upcaster(text, int, text, text, int, boolean)'),
        ('admin', '%1$s.es_drop_upcaster(text, int)'),
        ('admin', '%1$s.es_check_upcasters(text, bigint)'),
        ('admin', '%1$s.es_preview_upcasters(text, bigint)'),
        ('admin', '%1$s.es_define_aggregate(text, regprocedure, jsonb, int, int, boolean)'),
        ('admin', '%1$s.es_define_aggregate(text, text, jsonb, int, int, boolean)'),
        ('admin', '%1$s.es_drop_aggregate(text)'),
        ('admin', '%1$s.es_drop_snapshots(text)'),
        ('admin', '%1$s.es_verify(text)'),
        ('reader', '%1$s.es_read_all(bigint, bigint, text[], text[], boolean)'),
        ('reader', '%1$s.es_read_category(text, bigint, bigint, boolean)'),
        ('admin', '%1$s.es_create_projection(text, regprocedure, text[], text[], int, bigint, text, regprocedure, int, boolean, boolean)'),
        ('admin', '%1$s.es_create_projection(text, text, text[], text[], int, bigint, text, text, int, boolean, boolean)'),
        ('admin', '%1$s.es_drop_projection(text)'),
        ('admin', '%1$s.es_pause_projection(text)'),
        ('admin', '%1$s.es_resume_projection(text)'),
        ('admin', '%1$s.es_run_projection(text)'),
        ('admin', '%1$s.es_take_over()'),
        ('both', '%1$s.es_wait_projection(text, bigint, interval)'),
        ('both', '%1$s.es_is_replaying()'),
        ('admin', '%1$s.es_rebuild_projection(text, boolean)'),
        ('admin', '%1$s.es_prepare_projection(text, regprocedure, regprocedure, text[], text[], boolean, boolean)'),
        ('admin', '%1$s.es_prepare_projection(text, text, text, text[], text[], boolean, boolean)'),
        ('admin', '%1$s.es_switch_projection(text, regprocedure, bigint)'),
        ('admin', '%1$s.es_switch_projection(text, text, bigint)'),
        ('admin', '%1$s.es_cancel_rebuild(text)'),
        ('admin', '%1$s.es_retry_projection_parked(text, text)'),
        ('admin', '%1$s.es_discard_projection_parked(text, text)'),
        ('reader', '%1$s.es_fetch(text, int, interval, text)'),
        ('reader', '%1$s.es_ack(text, bigint, text)'),
        ('reader', '%1$s.es_nack(text, bigint, text, boolean, text)'),
        ('reader', '%1$s.es_join(text, text, interval)'),
        ('reader', '%1$s.es_leave(text, text)'),
        ('watch', 'event_store.es_subscription_lag(text, bigint)'),
        ('admin', '%1$s.es_create_subscription(text, text[], text[], bigint, int, interval, int, interval, jsonb, boolean, boolean)'),
        ('admin', '%1$s.es_drop_subscription(text)'),
        ('admin', '%1$s.es_reset_subscription(text, bigint)'),
        ('admin', '%1$s.es_retry_parked(text, text)'),
        ('admin', '%1$s.es_discard_parked(text, bigint)'),
        ('admin', '%1$s.es_discard_parked_stream(text, text)'),
        ('watch', 'event_store.es_projection_backlog(text, boolean, boolean)'),
        ('watch', 'event_store.es_projection_error_visible(text)'),
        ('reader', 'event_store.es_stream_visible(bigint)')
      ) AS f (kind, name)
     WHERE es_role_functions.kind IN ('admin', f.kind)
        OR es_role_functions.kind = ANY (CASE f.kind WHEN 'both' THEN '{reader,writer}'::text[]
                                                     WHEN 'watch' THEN '{reader,monitor}'
                                                     WHEN 'all' THEN '{reader,writer,monitor}' END)
    $$;
COMMENT ON FUNCTION event_store.es_role_functions(text) IS 'the functions that es_grant grants to a reader, writer, monitor or admin';
REVOKE ALL ON FUNCTION event_store.es_role_functions(text) FROM PUBLIC;

-- Tables and views that a kind of role may select from.
CREATE FUNCTION event_store.es_role_relations(kind text) RETURNS SETOF regclass
    LANGUAGE sql STABLE
    SET search_path = pg_catalog, pg_temp
    AS $$
    SELECT ('event_store.' || r.name)::regclass
      FROM (VALUES
        ('reader', 'event'),
        ('reader', 'stream'),
        ('reader', 'event_type'),
        ('reader', 'mark'),
        ('reader', 'events'),
        ('reader', 'parked_events'),
        ('watch', 'status'),
        ('watch', 'categories'),
        ('watch', 'consumers'),
        ('watch', 'subscriptions'),
        ('watch', 'subscription_members'),
        ('watch', 'projections'),
        ('watch', 'projection_progress'),
        ('monitor', 'statistics'),
        ('monitor', 'import_progress'),
        ('admin', 'snapshot'),
        ('admin', 'upcaster'),
        ('admin', 'aggregate'),
        ('admin', 'projection_parked')
      ) AS r (kind, name)
     WHERE es_role_relations.kind IN ('admin', r.kind)
        OR es_role_relations.kind = ANY (CASE r.kind WHEN 'watch' THEN '{reader,monitor}'::text[] END)
    $$;
COMMENT ON FUNCTION event_store.es_role_relations(text) IS 'the tables and views that es_grant opens to a reader, writer, monitor or admin';
REVOKE ALL ON FUNCTION event_store.es_role_relations(text) FROM PUBLIC;

CREATE OR REPLACE FUNCTION event_store.es_change_grants(role text, kind text, is_grant boolean) RETURNS void
    LANGUAGE plpgsql
    SET search_path = pg_catalog, pg_temp
    AS $$
DECLARE
    grantee text;
    action text := CASE WHEN is_grant THEN 'GRANT %s TO %s' ELSE 'REVOKE %s FROM %s' END;
    others text[] := '{}';
    object text;
    functions_schema oid := (SELECT extnamespace FROM pg_extension WHERE extname = 'event_store');
BEGIN
    IF role IS NULL OR kind IS NULL THEN
        RAISE null_value_not_allowed USING MESSAGE = 'role and kind must not be null';
    END IF;
    IF kind NOT IN ('reader', 'writer', 'monitor', 'admin') THEN
        RAISE invalid_parameter_value USING
            MESSAGE = format('invalid kind "%s"', kind),
            DETAIL = 'It must be reader, writer, monitor or admin.';
    END IF;
    -- two at once would change the same rows of the catalog, an internal error
    LOCK TABLE event_store.aggregate IN SHARE UPDATE EXCLUSIVE MODE;
    SELECT quote_ident(rolname) INTO grantee FROM pg_roles WHERE rolname = role;
    IF NOT FOUND THEN
        RAISE undefined_object USING MESSAGE = format('role "%s" does not exist', role);
    END IF;

    -- what kinds share stays while the role is of another one
    IF NOT is_grant AND kind <> 'admin' THEN
        others := ARRAY(SELECT k FROM unnest('{reader,writer,monitor}'::text[]) AS k
                         WHERE k <> kind
                           AND (SELECT bool_and(has_function_privilege(role, f, 'EXECUTE'))
                                  FROM event_store.es_role_functions(k) AS f));
    END IF;
    FOR object IN
        SELECT format('EXECUTE ON FUNCTION %s', f) FROM event_store.es_role_functions(kind) AS f
         WHERE f NOT IN (SELECT event_store.es_role_functions(k) FROM unnest(others) AS k)
        UNION ALL
        SELECT format('SELECT ON %s', r) FROM event_store.es_role_relations(kind) AS r
         WHERE r NOT IN (SELECT event_store.es_role_relations(k) FROM unnest(others) AS k)
        UNION ALL
        SELECT 'USAGE ON SCHEMA event_store' WHERE kind <> 'writer' AND NOT others && '{reader,monitor}'
        UNION ALL
        -- the schema of the functions need not be the extension's
        SELECT format('USAGE ON SCHEMA %I', n.nspname) FROM pg_namespace AS n
         WHERE n.oid = functions_schema AND n.nspname <> 'public' AND others = '{}'
           AND has_schema_privilege(n.oid, 'USAGE WITH GRANT OPTION')
           AND (NOT is_grant OR NOT has_schema_privilege(role, n.oid, 'USAGE'))
    LOOP
        EXECUTE format(action, object, grantee);
    END LOOP;
END
$$;
COMMENT ON FUNCTION event_store.es_change_grants(text, text, boolean) IS 'does the work of es_grant and es_revoke';
REVOKE ALL ON FUNCTION event_store.es_change_grants(text, text, boolean) FROM PUBLIC;
COMMENT ON FUNCTION @extschema@.es_grant(text, text) IS
    'gives a role what a reader, writer, monitor or admin of the store needs; for the owner of the extension';


-- Tables, views and sequences belong to who owns the table of events.
DO $$
DECLARE
    relation record;
BEGIN
    FOR relation IN
        SELECT i.type, i.identity, pg_get_userbyid(t.relowner) AS owner
        FROM pg_extension e
             JOIN pg_depend d ON d.refclassid = 'pg_extension'::regclass AND d.refobjid = e.oid AND d.deptype = 'e'
             JOIN pg_class c ON d.classid = 'pg_class'::regclass AND c.oid = d.objid
             JOIN pg_class t ON t.oid = 'event_store.event'::regclass AND t.relowner <> c.relowner
             CROSS JOIN LATERAL pg_identify_object(d.classid, d.objid, 0) i
        WHERE e.extname = 'event_store' AND pg_get_userbyid(c.relowner) = current_user
              AND NOT EXISTS (SELECT FROM pg_depend s WHERE s.classid = d.classid AND s.objid = d.objid AND s.deptype = 'a')
    LOOP
        EXECUTE format('ALTER %s %s OWNER TO %I', relation.type, relation.identity, relation.owner);
    END LOOP;
END
$$;

-- Who updates this may have default privileges, as a role that makes the
-- tables of an application has them.  They are not meant for what is new.
DO $$
DECLARE
    given record;
BEGIN
    FOR given IN
        SELECT format('%s %s', CASE c.relkind WHEN 'S' THEN 'SEQUENCE' ELSE 'TABLE' END, c.oid::regclass) AS object, a.grantee
          FROM pg_class AS c
          JOIN pg_depend AS d ON d.classid = 'pg_class'::regclass AND d.objid = c.oid AND d.deptype = 'e'
         CROSS JOIN aclexplode(c.relacl) AS a
         WHERE d.refobjid = (SELECT oid FROM pg_extension WHERE extname = 'event_store') AND c.relkind IN ('r', 'v', 'S')
           AND a.grantee <> c.relowner
           AND d.xmin = pg_current_xact_id()::xid
        UNION
        SELECT format('FUNCTION %s', p.oid::regprocedure), a.grantee
          FROM pg_proc AS p
          JOIN pg_depend AS d ON d.classid = 'pg_proc'::regclass AND d.objid = p.oid AND d.deptype = 'e'
         CROSS JOIN aclexplode(p.proacl) AS a
         WHERE d.refobjid = (SELECT oid FROM pg_extension WHERE extname = 'event_store')
           AND a.grantee <> p.proowner
           AND d.xmin = pg_current_xact_id()::xid
    LOOP
        EXECUTE format('REVOKE ALL ON %s FROM %s', given.object,
                       CASE given.grantee WHEN 0 THEN 'PUBLIC' ELSE quote_ident(pg_get_userbyid(given.grantee)) END);
    END LOOP;
END
$$;

-- Roles get what is new for their kind; each is known by a function that it
-- was given.
DO $$
DECLARE
    held record;
    -- what is granted in a script would count as given by the extension, and
    -- not be dumped
    objects oid[] := ARRAY(SELECT objoid FROM pg_init_privs ORDER BY objoid, classoid, objsubid);
    classes oid[] := ARRAY(SELECT classoid FROM pg_init_privs ORDER BY objoid, classoid, objsubid);
    columns int[] := ARRAY(SELECT objsubid FROM pg_init_privs ORDER BY objoid, classoid, objsubid);
    given text[] := ARRAY(SELECT initprivs::text FROM pg_init_privs ORDER BY objoid, classoid, objsubid);
BEGIN
    FOR held IN
        SELECT DISTINCT r.rolname::text AS role, k.kind
          FROM (VALUES ('reader', '@extschema@.es_read_all(bigint, bigint, text[], text[], boolean)'),
                       ('writer', '@extschema@.es_append(text, bigint, jsonb)'),
                       ('admin', '@extschema@.es_drop_aggregate(text)')) AS k (kind, name)
          JOIN pg_proc AS p ON p.oid = k.name::regprocedure
         CROSS JOIN LATERAL aclexplode(p.proacl) AS a
          JOIN pg_roles AS r ON r.oid = a.grantee
         WHERE a.grantee <> p.proowner
    LOOP
        PERFORM event_store.es_change_grants(held.role, held.kind, true);
    END LOOP;
    DELETE FROM pg_init_privs AS i
     WHERE NOT EXISTS (SELECT FROM unnest(objects, classes, columns) AS o (objoid, classoid, objsubid)
                        WHERE (o.objoid, o.classoid, o.objsubid) = (i.objoid, i.classoid, i.objsubid));
    UPDATE pg_init_privs AS i SET initprivs = o.initprivs::aclitem[]
      FROM unnest(objects, classes, columns, given) AS o (objoid, classoid, objsubid, initprivs)
     WHERE (o.objoid, o.classoid, o.objsubid) = (i.objoid, i.classoid, i.objsubid)
       AND i.initprivs::text <> o.initprivs;
END
$$;

-- The workers of 0.1 do not notice that their library was replaced.  Those of
-- the new one wait until this transaction has ended.
DO $$
BEGIN
    FOR attempt IN 1 .. 500 LOOP
        PERFORM pg_stat_clear_snapshot();
        PERFORM pg_terminate_backend(a.pid) FROM pg_stat_activity a
        WHERE a.datname = current_database() AND a.backend_start < now()
              AND a.backend_type IN ('event_store worker', 'event_store projections');
        EXIT WHEN NOT FOUND;
        PERFORM pg_sleep(0.01);
    END LOOP;
    PERFORM @extschema@.es_wait(0, '1 ms');
END
$$;

SELECT set_config('role', current_setting('es_update.role'), true);
