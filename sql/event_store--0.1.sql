\echo Use "CREATE EXTENSION event_store" to load this file. \quit

-- Functions and types live in the schema that CREATE EXTENSION names, tables
-- and views in schema event_store.  Plain CREATE throughout: nothing planted
-- beforehand is adopted.

-- What is not qualified below comes from pg_catalog: a function of the same
-- name in the target schema must not be a better match.
SET LOCAL search_path = pg_catalog, pg_temp;

CREATE SCHEMA event_store;
COMMENT ON SCHEMA event_store IS 'tables and views of the event store';
REVOKE ALL ON SCHEMA event_store FROM PUBLIC;

--
-- Tables.  The store writes them below the executor (no trigger, no foreign
-- key); all but snapshot are only ever inserted into.
--

CREATE TABLE event_store.stream (
    stream_no bigint NOT NULL,
    stream_id pg_catalog.text COLLATE pg_catalog."C" NOT NULL,
    PRIMARY KEY (stream_no),
    UNIQUE (stream_id)
) USING heap;
CREATE SEQUENCE event_store.stream_stream_no_seq AS bigint
    OWNED BY event_store.stream.stream_no;
COMMENT ON TABLE event_store.stream IS 'one row for each stream: its name, once, and the number that events carry';
COMMENT ON COLUMN event_store.stream.stream_no IS 'number of the stream, internal';
COMMENT ON COLUMN event_store.stream.stream_id IS 'name of the stream, {Type}-{id}';
COMMENT ON SEQUENCE event_store.stream_stream_no_seq IS 'numbers of streams';

CREATE TABLE event_store.event_type (
    type_no int NOT NULL,
    category pg_catalog.text COLLATE pg_catalog."C" NOT NULL,
    event_type pg_catalog.text COLLATE pg_catalog."C" NOT NULL,
    PRIMARY KEY (type_no)
) USING heap;
CREATE INDEX event_type_category_event_type_idx ON event_store.event_type (category, event_type);
CREATE INDEX event_type_event_type_idx ON event_store.event_type (event_type);
CREATE SEQUENCE event_store.event_type_type_no_seq AS int
    OWNED BY event_store.event_type.type_no;
COMMENT ON TABLE event_store.event_type IS 'the event types of each category, with the number that events carry; two appends that introduce a type at the same time make a row each';
COMMENT ON COLUMN event_store.event_type.type_no IS 'number of the event type in its category, internal';
COMMENT ON COLUMN event_store.event_type.category IS 'part of the stream''s name before the first "-"';
COMMENT ON COLUMN event_store.event_type.event_type IS 'name of the event type';
COMMENT ON SEQUENCE event_store.event_type_type_no_seq IS 'numbers of event types';

-- fixed-width columns first, in order of alignment
CREATE TABLE event_store.event (
    global_position bigint NOT NULL,
    stream_no bigint NOT NULL,
    created_at timestamptz NOT NULL,
    event_id uuid NOT NULL,
    version int NOT NULL,
    type_no int NOT NULL,
    schema_version int NOT NULL,
    data jsonb NOT NULL,
    metadata jsonb NOT NULL,
    -- entries arrive in order but for a few of concurrent appends
    PRIMARY KEY (global_position) WITH (fillfactor = 97),
    UNIQUE (stream_no, version),
    UNIQUE (event_id)
) USING heap;
CREATE INDEX event_type_no_global_position_idx ON event_store.event (type_no, global_position);
CREATE SEQUENCE event_store.event_global_position_seq AS bigint
    OWNED BY event_store.event.global_position;
COMMENT ON TABLE event_store.event IS 'all events; written by es_append only, never changed; see view event_store.events';
COMMENT ON COLUMN event_store.event.global_position IS 'place in the global order; ascending, with gaps';
COMMENT ON COLUMN event_store.event.stream_no IS 'see event_store.stream';
COMMENT ON COLUMN event_store.event.version IS 'place in the stream: 1, 2, 3 ... without holes; 4 bytes, for these are in every row';
COMMENT ON COLUMN event_store.event.created_at IS 'when it was appended, by the server''s clock; not an order';
COMMENT ON COLUMN event_store.event.event_id IS 'unique in the store';
COMMENT ON COLUMN event_store.event.type_no IS 'see event_store.event_type';
COMMENT ON COLUMN event_store.event.schema_version IS 'version of the shape of data';
COMMENT ON COLUMN event_store.event.data IS 'payload, any JSON value';
COMMENT ON COLUMN event_store.event.metadata IS 'correlation_id, causation_id, user_id ...; a JSON object';
COMMENT ON SEQUENCE event_store.event_global_position_seq IS 'positions of the global order';

-- not unique: two appends may write the same mark and must not wait for it
CREATE TABLE event_store.mark (
    global_position bigint NOT NULL
) USING heap;
CREATE INDEX mark_global_position_idx ON event_store.mark (global_position);
COMMENT ON TABLE event_store.mark IS 'settled marks: everything up to this position is settled for whoever sees the row';
COMMENT ON COLUMN event_store.mark.global_position IS 'position up to which everything is settled';

CREATE TABLE event_store.snapshot (
    stream_no bigint NOT NULL,
    schema_version int NOT NULL,
    version bigint NOT NULL,
    created_at timestamptz NOT NULL,
    data jsonb NOT NULL,
    PRIMARY KEY (stream_no, schema_version)
) USING heap WITH (fillfactor = 70);
COMMENT ON TABLE event_store.snapshot IS 'newest snapshot of each stream and schema version; a cache';
COMMENT ON COLUMN event_store.snapshot.stream_no IS 'see event_store.stream';
COMMENT ON COLUMN event_store.snapshot.schema_version IS 'version of the shape of data';
COMMENT ON COLUMN event_store.snapshot.version IS 'version of the stream that data is the state of';
COMMENT ON COLUMN event_store.snapshot.created_at IS 'when it was taken';
COMMENT ON COLUMN event_store.snapshot.data IS 'state of the stream';

SELECT pg_catalog.pg_extension_config_dump('event_store.stream', '');
SELECT pg_catalog.pg_extension_config_dump('event_store.stream_stream_no_seq', '');
SELECT pg_catalog.pg_extension_config_dump('event_store.event_type', '');
SELECT pg_catalog.pg_extension_config_dump('event_store.event_type_type_no_seq', '');
SELECT pg_catalog.pg_extension_config_dump('event_store.event', '');
SELECT pg_catalog.pg_extension_config_dump('event_store.event_global_position_seq', '');
SELECT pg_catalog.pg_extension_config_dump('event_store.mark', '');
SELECT pg_catalog.pg_extension_config_dump('event_store.snapshot', '');

--
-- Append-only.  Statement triggers refuse statements that touch no row, row
-- triggers what the apply worker of logical replication does.
--

CREATE FUNCTION event_store.es_guard() RETURNS trigger
    LANGUAGE c AS 'MODULE_PATHNAME', 'es_guard';
COMMENT ON FUNCTION event_store.es_guard() IS 'refuses changes that are not appends, SQLSTATE VE003';
REVOKE ALL ON FUNCTION event_store.es_guard() FROM PUBLIC;

CREATE TRIGGER es_guard_statement BEFORE INSERT OR UPDATE OR DELETE OR TRUNCATE ON event_store.event
    FOR EACH STATEMENT EXECUTE FUNCTION event_store.es_guard();
CREATE TRIGGER es_guard_row BEFORE INSERT OR UPDATE OR DELETE ON event_store.event
    FOR EACH ROW EXECUTE FUNCTION event_store.es_guard();
CREATE TRIGGER es_guard_statement BEFORE INSERT OR UPDATE OR DELETE OR TRUNCATE ON event_store.stream
    FOR EACH STATEMENT EXECUTE FUNCTION event_store.es_guard();
CREATE TRIGGER es_guard_row BEFORE INSERT OR UPDATE OR DELETE ON event_store.stream
    FOR EACH ROW EXECUTE FUNCTION event_store.es_guard();
CREATE TRIGGER es_guard_statement BEFORE INSERT OR UPDATE OR DELETE OR TRUNCATE ON event_store.event_type
    FOR EACH STATEMENT EXECUTE FUNCTION event_store.es_guard();
CREATE TRIGGER es_guard_row BEFORE INSERT OR UPDATE OR DELETE ON event_store.event_type
    FOR EACH ROW EXECUTE FUNCTION event_store.es_guard();
CREATE TRIGGER es_guard_statement BEFORE INSERT OR UPDATE OR DELETE OR TRUNCATE ON event_store.mark
    FOR EACH STATEMENT EXECUTE FUNCTION event_store.es_guard();
CREATE TRIGGER es_guard_row BEFORE INSERT OR UPDATE OR DELETE ON event_store.mark
    FOR EACH ROW EXECUTE FUNCTION event_store.es_guard();

ALTER TABLE event_store.event ENABLE ALWAYS TRIGGER es_guard_statement;
ALTER TABLE event_store.event ENABLE ALWAYS TRIGGER es_guard_row;
ALTER TABLE event_store.stream ENABLE ALWAYS TRIGGER es_guard_statement;
ALTER TABLE event_store.stream ENABLE ALWAYS TRIGGER es_guard_row;
ALTER TABLE event_store.event_type ENABLE ALWAYS TRIGGER es_guard_statement;
ALTER TABLE event_store.event_type ENABLE ALWAYS TRIGGER es_guard_row;
ALTER TABLE event_store.mark ENABLE ALWAYS TRIGGER es_guard_statement;
ALTER TABLE event_store.mark ENABLE ALWAYS TRIGGER es_guard_row;

--
-- Types and constants
--

CREATE TYPE @extschema@.es_event AS (
    global_position bigint,
    stream_id text,
    version bigint,
    event_id uuid,
    event_type text,
    schema_version int,
    data jsonb,
    metadata jsonb,
    created_at timestamptz
);
COMMENT ON TYPE @extschema@.es_event IS 'an event as it is read';

-- a named type: a record would have to be described anew for each call
CREATE TYPE @extschema@.es_appended AS (
    event_id uuid,
    version bigint,
    global_position bigint,
    is_duplicate boolean
);
COMMENT ON TYPE @extschema@.es_appended IS 'what an append answers for each event';

CREATE FUNCTION @extschema@.es_any() RETURNS bigint
    LANGUAGE sql IMMUTABLE PARALLEL SAFE AS 'SELECT -1::pg_catalog.int8';
COMMENT ON FUNCTION @extschema@.es_any() IS 'expected version: no check';

CREATE FUNCTION @extschema@.es_exists() RETURNS bigint
    LANGUAGE sql IMMUTABLE PARALLEL SAFE AS 'SELECT -2::pg_catalog.int8';
COMMENT ON FUNCTION @extschema@.es_exists() IS 'expected version: the stream must exist';

--
-- Append.  Not STRICT: a NULL is an error, never a silent no-op.
--

CREATE FUNCTION @extschema@.es_append(stream_id text, expected_version bigint, event_type text, data jsonb,
        metadata jsonb DEFAULT '{}', event_id uuid DEFAULT NULL, schema_version int DEFAULT 1)
    RETURNS @extschema@.es_appended
    LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'es_append';
COMMENT ON FUNCTION @extschema@.es_append(text, bigint, text, jsonb, jsonb, uuid, int) IS
    'appends one event to a stream under an expected version; SQLSTATE VE001 on a version conflict, VE002 on an id conflict';

CREATE FUNCTION @extschema@.es_append_batch(stream_id text, expected_version bigint, event_types text[], data jsonb[],
        metadata jsonb[] DEFAULT NULL, event_ids uuid[] DEFAULT NULL, schema_versions int[] DEFAULT NULL)
    RETURNS SETOF @extschema@.es_appended
    LANGUAGE c VOLATILE PARALLEL UNSAFE ROWS 10 AS 'MODULE_PATHNAME', 'es_append_batch';
COMMENT ON FUNCTION @extschema@.es_append_batch(text, bigint, text[], jsonb[], jsonb[], uuid[], int[]) IS
    'appends many events to a stream atomically; the fastest way';

CREATE FUNCTION @extschema@.es_append(stream_id text, expected_version bigint, events jsonb)
    RETURNS SETOF @extschema@.es_appended
    LANGUAGE c VOLATILE PARALLEL UNSAFE ROWS 10 AS 'MODULE_PATHNAME', 'es_append_json';
COMMENT ON FUNCTION @extschema@.es_append(text, bigint, jsonb) IS
    'appends events given as one JSON object or an array of objects, atomically';

--
-- Read
--

CREATE FUNCTION @extschema@.es_read_stream(stream_id text, from_version bigint DEFAULT NULL,
        max_count bigint DEFAULT NULL, backward boolean DEFAULT false)
    RETURNS SETOF @extschema@.es_event
    LANGUAGE c STABLE PARALLEL RESTRICTED ROWS 50 AS 'MODULE_PATHNAME', 'es_read_stream';
COMMENT ON FUNCTION @extschema@.es_read_stream(text, bigint, bigint, boolean) IS
    'events of a stream in the order of their versions; from_version is inclusive';

CREATE FUNCTION @extschema@.es_read_all(after_position bigint DEFAULT NULL, max_count bigint DEFAULT 1000,
        categories text[] DEFAULT NULL, event_types text[] DEFAULT NULL, backward boolean DEFAULT false)
    RETURNS SETOF @extschema@.es_event
    LANGUAGE c STABLE PARALLEL RESTRICTED AS 'MODULE_PATHNAME', 'es_read_all';
COMMENT ON FUNCTION @extschema@.es_read_all(bigint, bigint, text[], text[], boolean) IS
    'events in the global order, always a settled prefix: no lower position can appear later; after_position is exclusive';

CREATE FUNCTION @extschema@.es_read_category(category text, after_position bigint DEFAULT NULL,
        max_count bigint DEFAULT 1000, backward boolean DEFAULT false)
    RETURNS SETOF @extschema@.es_event
    LANGUAGE c STABLE PARALLEL RESTRICTED AS 'MODULE_PATHNAME', 'es_read_category';
COMMENT ON FUNCTION @extschema@.es_read_category(text, bigint, bigint, boolean) IS
    'events of the streams of one category in the global order, a settled prefix';

CREATE FUNCTION @extschema@.es_stream_version(stream_id text) RETURNS bigint
    LANGUAGE c STABLE PARALLEL RESTRICTED AS 'MODULE_PATHNAME', 'es_stream_version';
COMMENT ON FUNCTION @extschema@.es_stream_version(text) IS 'last version of a stream, 0 if there is no such stream';

CREATE FUNCTION @extschema@.es_head() RETURNS bigint
    LANGUAGE c STABLE PARALLEL RESTRICTED AS 'MODULE_PATHNAME', 'es_head';
COMMENT ON FUNCTION @extschema@.es_head() IS 'highest settled position, 0 when the store is empty';

CREATE FUNCTION @extschema@.es_read_event(event_id uuid) RETURNS @extschema@.es_event
    LANGUAGE c STABLE PARALLEL RESTRICTED AS 'MODULE_PATHNAME', 'es_read_event';
COMMENT ON FUNCTION @extschema@.es_read_event(uuid) IS 'the event with this id, NULL when unknown';

CREATE FUNCTION @extschema@.es_envelope(event @extschema@.es_event) RETURNS jsonb
    LANGUAGE sql STABLE STRICT PARALLEL SAFE
    SET search_path = pg_catalog, pg_temp
    AS $$
    SELECT jsonb_build_object(
        'event_id', (event).event_id,
        'stream_id', (event).stream_id,
        'event_type', (event).event_type,
        'version', (event).version,
        'schema_version', (event).schema_version,
        'data', (event).data,
        'metadata', jsonb_build_object('timestamp',
            to_char((event).created_at AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"'))
            || (event).metadata,
        'global_position', (event).global_position,
        'created_at', to_char((event).created_at AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"'))
    $$;
COMMENT ON FUNCTION @extschema@.es_envelope(@extschema@.es_event) IS
    'an event as one JSON document; metadata gets a timestamp when the writer gave none';

-- An event's type, schema version and data in today's shape, for the view.
-- While no upcaster is defined the planner puts the argument in their place.
CREATE FUNCTION event_store.es_upcast_support(internal) RETURNS internal
    LANGUAGE c STRICT AS 'MODULE_PATHNAME', 'es_upcast_support';
COMMENT ON FUNCTION event_store.es_upcast_support(internal) IS 'planner support of es_upcast_type, es_upcast_schema_version and es_upcast_data';
REVOKE ALL ON FUNCTION event_store.es_upcast_support(internal) FROM PUBLIC;

CREATE FUNCTION event_store.es_upcast_type(event_type text, schema_version int) RETURNS text
    LANGUAGE c STABLE STRICT PARALLEL RESTRICTED SUPPORT event_store.es_upcast_support
    AS 'MODULE_PATHNAME', 'es_upcast_type';
COMMENT ON FUNCTION event_store.es_upcast_type(text, int) IS 'the type as which stored events of this type and schema version are read';
REVOKE ALL ON FUNCTION event_store.es_upcast_type(text, int) FROM PUBLIC;

CREATE FUNCTION event_store.es_upcast_schema_version(event_type text, schema_version int) RETURNS int
    LANGUAGE c STABLE STRICT PARALLEL RESTRICTED SUPPORT event_store.es_upcast_support
    AS 'MODULE_PATHNAME', 'es_upcast_schema_version';
COMMENT ON FUNCTION event_store.es_upcast_schema_version(text, int) IS 'the schema version as which stored events of this type and schema version are read';
REVOKE ALL ON FUNCTION event_store.es_upcast_schema_version(text, int) FROM PUBLIC;

CREATE FUNCTION event_store.es_upcast_data(event_type text, schema_version int, data jsonb,
        event_id uuid, stream_id text, version bigint) RETURNS jsonb
    LANGUAGE c STABLE STRICT PARALLEL RESTRICTED COST 10 SUPPORT event_store.es_upcast_support
    AS 'MODULE_PATHNAME', 'es_upcast_data';
COMMENT ON FUNCTION event_store.es_upcast_data(text, int, jsonb, uuid, text, bigint) IS 'data of a stored event as it is read; the last three arguments are for errors';
REVOKE ALL ON FUNCTION event_store.es_upcast_data(text, int, jsonb, uuid, text, bigint) FROM PUBLIC;

CREATE VIEW event_store.events AS
    SELECT e.global_position, s.stream_id::pg_catalog.text, e.version::pg_catalog.int8, e.event_id,
           event_store.es_upcast_type(t.event_type, e.schema_version) AS event_type,
           event_store.es_upcast_schema_version(t.event_type, e.schema_version) AS schema_version,
           event_store.es_upcast_data(t.event_type, e.schema_version, e.data,
                                      e.event_id, s.stream_id, e.version) AS data,
           e.metadata, e.created_at,
           t.category::pg_catalog.text
      FROM event_store.event e
      JOIN event_store.stream s ON s.stream_no OPERATOR(pg_catalog.=) e.stream_no
      JOIN event_store.event_type t ON t.type_no OPERATOR(pg_catalog.=) e.type_no
     -- before 15 a view reads with its owner's rights and would go round
     -- row-level security: then it shows nothing to whom policies apply
     WHERE pg_catalog.current_setting('server_version_num')::pg_catalog.int4 OPERATOR(pg_catalog.>=) 150000
        OR NOT pg_catalog.row_security_active('event_store.event'::pg_catalog.regclass);
COMMENT ON VIEW event_store.events IS
    'all visible events with names, for plain SQL; to follow the global order use es_read_all, which never skips';

DO $$
BEGIN
    IF pg_catalog.current_setting('server_version_num')::pg_catalog.int4 OPERATOR(pg_catalog.>=) 150000 THEN
        ALTER VIEW event_store.events SET (security_invoker = true);
    END IF;
END
$$;

--
-- Waiting and status
--

CREATE FUNCTION @extschema@.es_wait(after_position bigint, timeout interval DEFAULT '30 s') RETURNS bigint
    LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'es_wait';
COMMENT ON FUNCTION @extschema@.es_wait(bigint, interval) IS
    'sleeps in the server until the settled head is beyond the position or the time is up; the head';

CREATE FUNCTION event_store.es_head_status(OUT settled_head bigint, OUT last_position bigint,
        OUT blocking_position bigint, OUT blocking_xid xid)
    RETURNS record
    LANGUAGE c VOLATILE PARALLEL RESTRICTED AS 'MODULE_PATHNAME', 'es_head_status';
COMMENT ON FUNCTION event_store.es_head_status() IS 'the settled head and what holds it back; see view event_store.status';
REVOKE ALL ON FUNCTION event_store.es_head_status() FROM PUBLIC;

CREATE VIEW event_store.status AS
    SELECT h.settled_head, h.last_position, h.blocking_position, h.blocking_xid,
           a.pid AS blocking_pid, p.gid AS blocking_gid,
           pg_catalog.clock_timestamp() OPERATOR(pg_catalog.-) COALESCE(a.xact_start, p.prepared) AS blocking_age,
           w.pid AS worker_pid
      FROM event_store.es_head_status() h
      LEFT JOIN pg_catalog.pg_stat_activity a ON a.backend_xid OPERATOR(pg_catalog.=) h.blocking_xid
      LEFT JOIN pg_catalog.pg_prepared_xacts p ON p.transaction OPERATOR(pg_catalog.=) h.blocking_xid
      LEFT JOIN pg_catalog.pg_stat_activity w
             ON w.backend_type OPERATOR(pg_catalog.=) 'event_store worker'
            AND w.datname OPERATOR(pg_catalog.=) pg_catalog.current_database();
COMMENT ON VIEW event_store.status IS
    'settled head, last position, and the transaction that holds the head back, if any';

--
-- Snapshots
--

CREATE FUNCTION @extschema@.es_snapshot(stream_id text, version bigint, data jsonb, schema_version int DEFAULT 1)
    RETURNS boolean
    LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'es_snapshot';
COMMENT ON FUNCTION @extschema@.es_snapshot(text, bigint, jsonb, int) IS
    'keeps the state of a stream at a version; false when a newer snapshot is there already';

CREATE FUNCTION @extschema@.es_read_snapshot(stream_id text, schema_version int DEFAULT NULL,
        OUT stream_id text, OUT version bigint, OUT data jsonb, OUT schema_version int, OUT created_at timestamptz)
    RETURNS record
    LANGUAGE c STABLE PARALLEL RESTRICTED AS 'MODULE_PATHNAME', 'es_read_snapshot';
COMMENT ON FUNCTION @extschema@.es_read_snapshot(text, int) IS
    'newest snapshot of a stream, of one schema version or of any; NULL when there is none';

CREATE FUNCTION @extschema@.es_load(stream_id text, schema_version int DEFAULT NULL,
        OUT version bigint, OUT snapshot_version bigint, OUT snapshot jsonb, OUT events @extschema@.es_event[])
    RETURNS record
    LANGUAGE c STABLE PARALLEL RESTRICTED AS 'MODULE_PATHNAME', 'es_load';
COMMENT ON FUNCTION @extschema@.es_load(text, int) IS
    'newest snapshot of a stream and the events after it, in one call';

--
-- Schema evolution and aggregates.  Functions are remembered by name, because
-- OIDs change with pg_dump and pg_upgrade.
--

CREATE TABLE event_store.upcaster (
    event_type pg_catalog.text COLLATE pg_catalog."C" NOT NULL,
    schema_version int NOT NULL,
    upcaster pg_catalog.text NOT NULL,
    to_event_type pg_catalog.text COLLATE pg_catalog."C" NOT NULL,
    to_schema_version int NOT NULL,
    PRIMARY KEY (event_type, schema_version)
) USING heap;
COMMENT ON TABLE event_store.upcaster IS 'upcasters: how events of an event type and schema version are read; see es_define_upcaster';
COMMENT ON COLUMN event_store.upcaster.event_type IS 'type of the stored events, or of what another upcaster gives';
COMMENT ON COLUMN event_store.upcaster.schema_version IS 'version of the shape of data';
COMMENT ON COLUMN event_store.upcaster.upcaster IS 'the function f(data jsonb) RETURNS jsonb';
COMMENT ON COLUMN event_store.upcaster.to_event_type IS 'type of the result';
COMMENT ON COLUMN event_store.upcaster.to_schema_version IS 'schema version of the result';

CREATE TABLE event_store.aggregate (
    category pg_catalog.text COLLATE pg_catalog."C" NOT NULL,
    reducer pg_catalog.text NOT NULL,
    initial_state jsonb NOT NULL,
    snapshot_every int NOT NULL,
    schema_version int NOT NULL,
    PRIMARY KEY (category)
) USING heap;
COMMENT ON TABLE event_store.aggregate IS 'aggregates: how the state of the streams of a category is computed; see es_define_aggregate';
COMMENT ON COLUMN event_store.aggregate.category IS 'part of the stream''s name before the first "-"';
COMMENT ON COLUMN event_store.aggregate.reducer IS 'the function f(state jsonb, event es_event) RETURNS jsonb';
COMMENT ON COLUMN event_store.aggregate.initial_state IS 'state of a stream without events';
COMMENT ON COLUMN event_store.aggregate.snapshot_every IS 'es_state saves a snapshot after folding so many events; 0 = never';
COMMENT ON COLUMN event_store.aggregate.schema_version IS 'version of the shape of the state; snapshots of other versions are not used';

SELECT pg_catalog.pg_extension_config_dump('event_store.upcaster', '');
SELECT pg_catalog.pg_extension_config_dump('event_store.aggregate', '');

CREATE FUNCTION event_store.es_definition_changed() RETURNS trigger
    LANGUAGE c AS 'MODULE_PATHNAME', 'es_definition_changed';
COMMENT ON FUNCTION event_store.es_definition_changed() IS 'makes all sessions notice changed definitions';
REVOKE ALL ON FUNCTION event_store.es_definition_changed() FROM PUBLIC;

CREATE TRIGGER es_definition_changed AFTER INSERT OR UPDATE OR DELETE OR TRUNCATE ON event_store.upcaster
    FOR EACH STATEMENT EXECUTE FUNCTION event_store.es_definition_changed();
CREATE TRIGGER es_definition_changed AFTER INSERT OR UPDATE OR DELETE OR TRUNCATE ON event_store.aggregate
    FOR EACH STATEMENT EXECUTE FUNCTION event_store.es_definition_changed();
ALTER TABLE event_store.upcaster ENABLE ALWAYS TRIGGER es_definition_changed;
ALTER TABLE event_store.aggregate ENABLE ALWAYS TRIGGER es_definition_changed;

CREATE FUNCTION @extschema@.es_define_upcaster(event_type text, schema_version int, upcaster regprocedure,
        to_event_type text DEFAULT NULL, to_schema_version int DEFAULT NULL) RETURNS void
    LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'es_define_upcaster';
COMMENT ON FUNCTION @extschema@.es_define_upcaster(text, int, regprocedure, text, int) IS
    'events of this type and schema version are read through upcaster, f(data jsonb) RETURNS jsonb';

CREATE FUNCTION @extschema@.es_drop_upcaster(event_type text, schema_version int) RETURNS void
    LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'es_drop_upcaster';
COMMENT ON FUNCTION @extschema@.es_drop_upcaster(text, int) IS 'removes an upcaster';

CREATE FUNCTION @extschema@.es_check_upcasters(event_type text, max_count bigint DEFAULT 1000)
    RETURNS TABLE (event_id uuid, stream_id text, version bigint, schema_version int, sqlstate text, message text)
    LANGUAGE c VOLATILE PARALLEL UNSAFE ROWS 10 AS 'MODULE_PATHNAME', 'es_check_upcasters';
COMMENT ON FUNCTION @extschema@.es_check_upcasters(text, bigint) IS
    'takes every stored event of a type (NULL: of all) through its upcasters; the first max_count failures';

CREATE FUNCTION @extschema@.es_define_aggregate(category text, reducer regprocedure, initial_state jsonb DEFAULT '{}',
        snapshot_every int DEFAULT 50, schema_version int DEFAULT 1) RETURNS void
    LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'es_define_aggregate';
COMMENT ON FUNCTION @extschema@.es_define_aggregate(text, regprocedure, jsonb, int, int) IS
    'the state of a category''s streams is their events folded by reducer, f(state jsonb, event es_event) RETURNS jsonb';

CREATE FUNCTION @extschema@.es_drop_aggregate(category text) RETURNS void
    LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'es_drop_aggregate';
COMMENT ON FUNCTION @extschema@.es_drop_aggregate(text) IS 'removes an aggregate and its snapshots';

CREATE FUNCTION @extschema@.es_state(stream_id text, at_version bigint DEFAULT NULL, at_time timestamptz DEFAULT NULL,
        OUT version bigint, OUT state jsonb)
    RETURNS record
    LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'es_state';
COMMENT ON FUNCTION @extschema@.es_state(text, bigint, timestamptz) IS
    'state of a stream by its category''s reducer: now, at a version or at a time';

CREATE FUNCTION @extschema@.es_drop_snapshots(stream_id text DEFAULT NULL) RETURNS bigint
    LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'es_drop_snapshots';
COMMENT ON FUNCTION @extschema@.es_drop_snapshots(text) IS 'throws away the snapshots of a stream, or all; how many';

--
-- Projections
--

-- Names of roles and functions are text: OIDs would not survive dump and
-- restore.  Room on the pages lets a checkpoint move without index entries.
CREATE TABLE event_store.projection (
    name pg_catalog.text COLLATE pg_catalog."C" NOT NULL,
    is_shadow boolean NOT NULL,
    owner pg_catalog.text NOT NULL,
    handler pg_catalog.text NOT NULL,
    reset_handler pg_catalog.text,
    categories pg_catalog.text[],
    event_types pg_catalog.text[],
    batch_size int NOT NULL,
    policy pg_catalog.text NOT NULL,
    max_attempts int NOT NULL,
    state pg_catalog.text NOT NULL,
    position bigint NOT NULL,
    generation bigint NOT NULL,
    replay_until bigint NOT NULL DEFAULT 0,
    attempts int NOT NULL DEFAULT 0,
    next_attempt_at timestamptz,
    applied bigint NOT NULL DEFAULT 0,
    rate float8 NOT NULL DEFAULT 0,
    rate_since timestamptz NOT NULL DEFAULT pg_catalog.clock_timestamp(),
    rate_applied bigint NOT NULL DEFAULT 0,
    created_at timestamptz NOT NULL DEFAULT pg_catalog.clock_timestamp(),
    started_at timestamptz NOT NULL DEFAULT pg_catalog.clock_timestamp(),
    updated_at timestamptz NOT NULL DEFAULT pg_catalog.clock_timestamp(),
    error_sqlstate pg_catalog.text,
    error_message pg_catalog.text,
    error_position bigint,
    error_at timestamptz,
    PRIMARY KEY (name, is_shadow)
) USING heap WITH (fillfactor = 50);
COMMENT ON TABLE event_store.projection IS 'projections with their checkpoints; see view event_store.projections';
COMMENT ON COLUMN event_store.projection.name IS 'name of the projection';
COMMENT ON COLUMN event_store.projection.is_shadow IS 'a new version, catching up beside the original';
COMMENT ON COLUMN event_store.projection.owner IS 'role as which the handler runs';
COMMENT ON COLUMN event_store.projection.handler IS 'signature of f(es_event) or f(es_event[])';
COMMENT ON COLUMN event_store.projection.reset_handler IS 'signature of f(), which empties the read model';
COMMENT ON COLUMN event_store.projection.categories IS 'categories of interest, NULL = all';
COMMENT ON COLUMN event_store.projection.event_types IS 'event types of interest, NULL = all';
COMMENT ON COLUMN event_store.projection.batch_size IS 'most events in one transaction';
COMMENT ON COLUMN event_store.projection.policy IS 'what becomes of an event that keeps failing: stop, park or skip';
COMMENT ON COLUMN event_store.projection.max_attempts IS 'attempts before the policy decides';
COMMENT ON COLUMN event_store.projection.state IS 'running, paused or stopped';
COMMENT ON COLUMN event_store.projection.position IS 'checkpoint: the read model contains everything up to here and nothing after';
COMMENT ON COLUMN event_store.projection.generation IS 'changes whenever the position is set, not moved';
COMMENT ON COLUMN event_store.projection.replay_until IS 'up to here events have been applied before; see es_is_replaying';
COMMENT ON COLUMN event_store.projection.attempts IS 'failed attempts at the next event';
COMMENT ON COLUMN event_store.projection.next_attempt_at IS 'not before this time';
COMMENT ON COLUMN event_store.projection.applied IS 'events applied since the start or the last rebuild';
COMMENT ON COLUMN event_store.projection.rate IS 'events per second, of late';
COMMENT ON COLUMN event_store.projection.rate_since IS 'start of the window over which the rate is being measured';
COMMENT ON COLUMN event_store.projection.rate_applied IS 'events applied in that window';
COMMENT ON COLUMN event_store.projection.created_at IS 'when it was created';
COMMENT ON COLUMN event_store.projection.started_at IS 'when it was started from the beginning';
COMMENT ON COLUMN event_store.projection.updated_at IS 'last movement or change of state';
COMMENT ON COLUMN event_store.projection.error_sqlstate IS 'last error: its SQLSTATE';
COMMENT ON COLUMN event_store.projection.error_message IS 'last error: its message';
COMMENT ON COLUMN event_store.projection.error_position IS 'last error: the event, NULL when none was to blame';
COMMENT ON COLUMN event_store.projection.error_at IS 'last error: when';

CREATE TABLE event_store.projection_parked (
    projection pg_catalog.text COLLATE pg_catalog."C" NOT NULL,
    is_shadow boolean NOT NULL,
    global_position bigint NOT NULL,
    stream_id pg_catalog.text COLLATE pg_catalog."C" NOT NULL,
    disposition pg_catalog.text NOT NULL,
    attempts int NOT NULL,
    sqlstate pg_catalog.text,
    message pg_catalog.text,
    parked_at timestamptz NOT NULL,
    PRIMARY KEY (projection, is_shadow, global_position)
) USING heap;
-- every slice asks which streams wait, however many events do
CREATE INDEX projection_parked_stream ON event_store.projection_parked (projection, is_shadow, stream_id)
    WHERE disposition OPERATOR(pg_catalog.=) 'parked';
COMMENT ON TABLE event_store.projection_parked IS 'events that a projection has passed without applying them; see es_retry_projection_parked';
COMMENT ON COLUMN event_store.projection_parked.projection IS 'name of the projection';
COMMENT ON COLUMN event_store.projection_parked.is_shadow IS 'parked by the new version in preparation';
COMMENT ON COLUMN event_store.projection_parked.global_position IS 'position of the event';
COMMENT ON COLUMN event_store.projection_parked.stream_id IS 'stream of the event';
COMMENT ON COLUMN event_store.projection_parked.disposition IS 'parked: it failed; behind: it waits behind a parked event of its stream; skipped: it failed and is only recorded';
COMMENT ON COLUMN event_store.projection_parked.attempts IS 'how often it was tried';
COMMENT ON COLUMN event_store.projection_parked.sqlstate IS 'SQLSTATE of the last failure';
COMMENT ON COLUMN event_store.projection_parked.message IS 'message of the last failure';
COMMENT ON COLUMN event_store.projection_parked.parked_at IS 'when it was passed';

SELECT pg_catalog.pg_extension_config_dump('event_store.projection', '');
SELECT pg_catalog.pg_extension_config_dump('event_store.projection_parked', '');

CREATE FUNCTION @extschema@.es_create_projection(name text, handler regprocedure,
        categories text[] DEFAULT NULL, event_types text[] DEFAULT NULL,
        batch_size int DEFAULT 1000, after_position bigint DEFAULT 0,
        policy text DEFAULT 'stop', reset_handler regprocedure DEFAULT NULL,
        max_attempts int DEFAULT 5, paused boolean DEFAULT false)
    RETURNS void
    LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'es_create_projection';
COMMENT ON FUNCTION @extschema@.es_create_projection(text, regprocedure, text[], text[], int, bigint, text, regprocedure, int, boolean) IS
    'creates a projection: the handler, f(es_event) or f(es_event[]), is given every event once, as the calling role';

CREATE FUNCTION @extschema@.es_drop_projection(name text) RETURNS void
    LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'es_drop_projection';
COMMENT ON FUNCTION @extschema@.es_drop_projection(text) IS 'drops a projection; its read model stays';

CREATE FUNCTION @extschema@.es_pause_projection(name text) RETURNS void
    LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'es_pause_projection';
COMMENT ON FUNCTION @extschema@.es_pause_projection(text) IS 'lets workers leave a projection alone';

CREATE FUNCTION @extschema@.es_resume_projection(name text) RETURNS void
    LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'es_resume_projection';
COMMENT ON FUNCTION @extschema@.es_resume_projection(text) IS 'goes on with a paused or stopped projection where it stopped';

CREATE FUNCTION @extschema@.es_run_projection(name text) RETURNS bigint
    LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'es_run_projection';
COMMENT ON FUNCTION @extschema@.es_run_projection(text) IS 'catches up now, in this transaction; number of events applied';

CREATE FUNCTION @extschema@.es_wait_projection(name text, global_position bigint, timeout interval DEFAULT '30 s') RETURNS boolean
    LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'es_wait_projection';
COMMENT ON FUNCTION @extschema@.es_wait_projection(text, bigint, interval) IS
    'waits until a projection has reached a position; false when the time is up';

CREATE FUNCTION @extschema@.es_is_replaying() RETURNS boolean
    LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'es_is_replaying';
COMMENT ON FUNCTION @extschema@.es_is_replaying() IS
    'in a handler: whether this event was applied before a rebuild, so that side effects are not to be repeated';

CREATE FUNCTION @extschema@.es_rebuild_projection(name text) RETURNS void
    LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'es_rebuild_projection';
COMMENT ON FUNCTION @extschema@.es_rebuild_projection(text) IS 'calls the reset handler and starts over from the first event';

CREATE FUNCTION @extschema@.es_prepare_projection(name text, handler regprocedure, reset_handler regprocedure DEFAULT NULL,
        categories text[] DEFAULT NULL, event_types text[] DEFAULT NULL, keep_filters boolean DEFAULT true)
    RETURNS void
    LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'es_prepare_projection';
COMMENT ON FUNCTION @extschema@.es_prepare_projection(text, regprocedure, regprocedure, text[], text[], boolean) IS
    'starts a new version of a projection, with a read model of its own, beside the present one';

CREATE FUNCTION @extschema@.es_switch_projection(name text, switch_handler regprocedure DEFAULT NULL, max_lag bigint DEFAULT 10000)
    RETURNS bigint
    LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'es_switch_projection';
COMMENT ON FUNCTION @extschema@.es_switch_projection(text, regprocedure, bigint) IS
    'lets the new version catch up and makes it the projection, in one transaction; the switch handler can rename tables';

CREATE FUNCTION @extschema@.es_cancel_rebuild(name text) RETURNS void
    LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'es_cancel_rebuild';
COMMENT ON FUNCTION @extschema@.es_cancel_rebuild(text) IS 'forgets the new version of a projection';

CREATE FUNCTION @extschema@.es_retry_projection_parked(name text, stream_id text DEFAULT NULL) RETURNS bigint
    LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'es_retry_projection_parked';
COMMENT ON FUNCTION @extschema@.es_retry_projection_parked(text, text) IS
    'gives the parked events, of one stream or all, to the handler again; number of events applied';

CREATE FUNCTION @extschema@.es_discard_projection_parked(name text, stream_id text DEFAULT NULL) RETURNS bigint
    LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'es_discard_projection_parked';
COMMENT ON FUNCTION @extschema@.es_discard_projection_parked(text, text) IS
    'gives up the parked and skipped events, of one stream or all; number of events given up';

-- what a projection has still to do: events up to a position, and the oldest
CREATE FUNCTION event_store.es_projection_backlog(after_position bigint, upto bigint, categories text[], event_types text[],
        OUT events bigint, OUT oldest timestamptz)
    RETURNS record
    LANGUAGE c VOLATILE PARALLEL RESTRICTED AS 'MODULE_PATHNAME', 'es_projection_backlog';
COMMENT ON FUNCTION event_store.es_projection_backlog(bigint, bigint, text[], text[]) IS
    'number and age of the events that the filters want in a range of positions';
REVOKE ALL ON FUNCTION event_store.es_projection_backlog(bigint, bigint, text[], text[]) FROM PUBLIC;

CREATE VIEW event_store.projections AS
    SELECT p.name, p.is_shadow, p.owner, p.handler, p.reset_handler, p.categories, p.event_types,
           p.batch_size, p.policy, p.state, p.position,
           b.events AS lag_events,
           COALESCE(pg_catalog.date_part('epoch', pg_catalog.clock_timestamp() OPERATOR(pg_catalog.-) b.oldest), 0) AS lag_seconds,
           CASE WHEN pg_catalog.clock_timestamp() OPERATOR(pg_catalog.-) p.updated_at OPERATOR(pg_catalog.>) '10 s'::interval
                THEN 0 ELSE p.rate END AS events_per_second,
           p.applied AS events_applied,
           w.pid AS worker_pid, p.attempts, p.max_attempts, p.next_attempt_at,
           p.error_sqlstate, p.error_message, p.error_position, p.error_at,
           (SELECT pg_catalog.count(*) FROM event_store.projection_parked k
             WHERE k.projection OPERATOR(pg_catalog.=) p.name AND k.is_shadow OPERATOR(pg_catalog.=) p.is_shadow
               AND k.disposition OPERATOR(pg_catalog.<>) 'skipped') AS events_parked,
           (SELECT pg_catalog.count(*) FROM event_store.projection_parked k
             WHERE k.projection OPERATOR(pg_catalog.=) p.name AND k.is_shadow OPERATOR(pg_catalog.=) p.is_shadow
               AND k.disposition OPERATOR(pg_catalog.=) 'skipped') AS events_skipped,
           p.created_at, p.started_at, p.updated_at
      FROM event_store.projection p
      CROSS JOIN LATERAL event_store.es_projection_backlog(p.position, 9223372036854775807, p.categories, p.event_types) b
      LEFT JOIN pg_catalog.pg_roles r ON r.rolname OPERATOR(pg_catalog.=) p.owner::pg_catalog.name
      LEFT JOIN LATERAL (
            SELECT l.pid FROM pg_catalog.pg_locks l
             WHERE l.locktype OPERATOR(pg_catalog.=) 'advisory' AND l.objsubid OPERATOR(pg_catalog.=) 5 AND l.granted
               AND l.database OPERATOR(pg_catalog.=) (SELECT d.oid FROM pg_catalog.pg_database d
                                 WHERE d.datname OPERATOR(pg_catalog.=) pg_catalog.current_database())
               AND l.objid OPERATOR(pg_catalog.=) r.oid
             LIMIT 1) w ON true;
COMMENT ON VIEW event_store.projections IS
    'projections: checkpoint, what they lag behind, worker, last error';

CREATE VIEW event_store.projection_progress AS
    SELECT q.name, q.is_shadow, q.state, q.position, q.target_position, q.events_done, q.events_to_do, q.events_per_second,
           CASE WHEN q.events_to_do OPERATOR(pg_catalog.=) 0 THEN '0 s'::interval
                WHEN q.events_per_second OPERATOR(pg_catalog.>) 0
                THEN pg_catalog.make_interval(secs => q.events_to_do OPERATOR(pg_catalog./) q.events_per_second)
           END AS time_left,
           q.started_at
      FROM (SELECT p.name, p.is_shadow, p.state, p.position, t.target_position, p.applied AS events_done,
                   b.events AS events_to_do,
                   CASE WHEN pg_catalog.clock_timestamp() OPERATOR(pg_catalog.-) p.updated_at OPERATOR(pg_catalog.>) '10 s'::interval
                        THEN 0 ELSE p.rate END AS events_per_second, p.started_at
              FROM event_store.projection p
              LEFT JOIN event_store.projection o
                     ON p.is_shadow AND NOT o.is_shadow AND o.name OPERATOR(pg_catalog.=) p.name
              CROSS JOIN LATERAL (
                    SELECT CASE WHEN p.is_shadow THEN o.position ELSE p.replay_until END AS target_position) t
              CROSS JOIN LATERAL event_store.es_projection_backlog(p.position, t.target_position, p.categories, p.event_types) b
             WHERE p.is_shadow OR p.position OPERATOR(pg_catalog.<) p.replay_until) q
     WHERE q.is_shadow OR q.events_to_do OPERATOR(pg_catalog.>) 0;
COMMENT ON VIEW event_store.projection_progress IS
    'rebuilds that are going on: events done and to do, events per second, time left';

--
-- Subscriptions
--

CREATE TABLE event_store.subscription (
    slots int NOT NULL,
    max_retries int NOT NULL,
    lease interval NOT NULL,
    retry_delay interval NOT NULL,
    created_at timestamptz NOT NULL,
    name pg_catalog.text COLLATE pg_catalog."C" NOT NULL,
    categories pg_catalog.text[],
    event_types pg_catalog.text[],
    created_by pg_catalog.text,
    PRIMARY KEY (name)
) USING heap;
COMMENT ON TABLE event_store.subscription IS 'durable subscriptions; changed by functions only';
COMMENT ON COLUMN event_store.subscription.slots IS 'virtual slots of a consumer group; 0 = no group, one cursor';
COMMENT ON COLUMN event_store.subscription.max_retries IS 'retries of a failed event before it is parked';
COMMENT ON COLUMN event_store.subscription.lease IS 'how long a consumer may take for what it has fetched';
COMMENT ON COLUMN event_store.subscription.retry_delay IS 'pause before the first retry; doubles each time';
COMMENT ON COLUMN event_store.subscription.created_at IS 'when it was made';
COMMENT ON COLUMN event_store.subscription.name IS 'name of the subscription';
COMMENT ON COLUMN event_store.subscription.categories IS 'categories that it wants, NULL = all';
COMMENT ON COLUMN event_store.subscription.event_types IS 'event types that it wants, NULL = all';
COMMENT ON COLUMN event_store.subscription.created_by IS 'role that made it';

CREATE TABLE event_store.subscription_checkpoint (
    position bigint NOT NULL,
    scanned bigint NOT NULL,
    delivered bigint NOT NULL,
    session bigint,
    lease_until timestamptz NOT NULL DEFAULT '-infinity',
    updated_at timestamptz NOT NULL,
    slot int NOT NULL,
    pid int,
    subscription pg_catalog.text COLLATE pg_catalog."C" NOT NULL,
    member pg_catalog.text COLLATE pg_catalog."C",
    PRIMARY KEY (subscription, slot)
) USING heap WITH (fillfactor = 50);
COMMENT ON TABLE event_store.subscription_checkpoint IS 'checkpoint of each subscription, of a group''s one for each slot; see view event_store.subscriptions';
COMMENT ON COLUMN event_store.subscription_checkpoint.position IS 'everything up to here is done';
COMMENT ON COLUMN event_store.subscription_checkpoint.scanned IS 'where the checkpoint goes when all that was handed out is acknowledged';
COMMENT ON COLUMN event_store.subscription_checkpoint.delivered IS 'last position handed out and not acknowledged, 0 = nothing is out';
COMMENT ON COLUMN event_store.subscription_checkpoint.session IS 'session that fetched last, a random number; NULL = a consumer with a name';
COMMENT ON COLUMN event_store.subscription_checkpoint.lease_until IS 'when what was handed out goes to others';
COMMENT ON COLUMN event_store.subscription_checkpoint.updated_at IS 'when the row was written';
COMMENT ON COLUMN event_store.subscription_checkpoint.slot IS 'virtual slot of a group; 0 without a group';
COMMENT ON COLUMN event_store.subscription_checkpoint.pid IS 'server process that fetched or acknowledged last';
COMMENT ON COLUMN event_store.subscription_checkpoint.subscription IS 'name of the subscription';
COMMENT ON COLUMN event_store.subscription_checkpoint.member IS 'consumer that fetched last; in a group the member that owns the slot';

CREATE TABLE event_store.subscription_member (
    position bigint NOT NULL,
    scanned bigint NOT NULL,
    delivered bigint NOT NULL,
    lease interval NOT NULL,
    lease_until timestamptz NOT NULL,
    joined_at timestamptz NOT NULL,
    updated_at timestamptz NOT NULL,
    pid int,
    subscription pg_catalog.text COLLATE pg_catalog."C" NOT NULL,
    member pg_catalog.text COLLATE pg_catalog."C" NOT NULL,
    PRIMARY KEY (subscription, member)
) USING heap WITH (fillfactor = 50);
COMMENT ON TABLE event_store.subscription_member IS 'members of consumer groups; see view event_store.subscription_members';
COMMENT ON COLUMN event_store.subscription_member.position IS 'everything of its slots up to here is done, or up to the slot''s own checkpoint if that is higher';
COMMENT ON COLUMN event_store.subscription_member.scanned IS 'where position goes when all that was handed out is acknowledged';
COMMENT ON COLUMN event_store.subscription_member.delivered IS 'last position handed out and not acknowledged, 0 = nothing is out';
COMMENT ON COLUMN event_store.subscription_member.lease IS 'how long it stays a member without fetching or acknowledging';
COMMENT ON COLUMN event_store.subscription_member.lease_until IS 'when its slots go to others';
COMMENT ON COLUMN event_store.subscription_member.joined_at IS 'when it joined';
COMMENT ON COLUMN event_store.subscription_member.updated_at IS 'when the row was written';
COMMENT ON COLUMN event_store.subscription_member.pid IS 'server process that fetched or acknowledged last';
COMMENT ON COLUMN event_store.subscription_member.subscription IS 'name of the subscription';
COMMENT ON COLUMN event_store.subscription_member.member IS 'name of the member';

CREATE TABLE event_store.parked_stream (
    stream_no bigint NOT NULL,
    next_version bigint NOT NULL,
    done_position bigint NOT NULL,
    delivered_version bigint NOT NULL,
    failed_version bigint,
    failed_position bigint,
    next_attempt_at timestamptz NOT NULL,
    first_failed_at timestamptz NOT NULL,
    failed_at timestamptz NOT NULL,
    slot int NOT NULL,
    attempts int NOT NULL,
    subscription pg_catalog.text COLLATE pg_catalog."C" NOT NULL,
    state pg_catalog.text COLLATE pg_catalog."C" NOT NULL,
    reason pg_catalog.text,
    discarded pg_catalog.int8[] NOT NULL DEFAULT '{}',
    PRIMARY KEY (subscription, stream_no)
) USING heap WITH (fillfactor = 70);
COMMENT ON TABLE event_store.parked_stream IS 'streams that a failed event holds up; see view event_store.parked_events';
COMMENT ON COLUMN event_store.parked_stream.stream_no IS 'see event_store.stream';
COMMENT ON COLUMN event_store.parked_stream.next_version IS 'first version of the stream that is not done, at most the failed one';
COMMENT ON COLUMN event_store.parked_stream.done_position IS 'the stream is held up at least until the checkpoint is here; last position that was discarded';
COMMENT ON COLUMN event_store.parked_stream.delivered_version IS 'last version handed out and not acknowledged, 0 = none';
COMMENT ON COLUMN event_store.parked_stream.failed_version IS 'version of the failed event; NULL = it is through, the queue is being caught up';
COMMENT ON COLUMN event_store.parked_stream.failed_position IS 'position of that';
COMMENT ON COLUMN event_store.parked_stream.next_attempt_at IS 'when it is delivered again';
COMMENT ON COLUMN event_store.parked_stream.first_failed_at IS 'when it failed for the first time';
COMMENT ON COLUMN event_store.parked_stream.failed_at IS 'when it failed last';
COMMENT ON COLUMN event_store.parked_stream.slot IS 'virtual slot of the stream';
COMMENT ON COLUMN event_store.parked_stream.attempts IS 'how often it failed';
COMMENT ON COLUMN event_store.parked_stream.subscription IS 'name of the subscription';
COMMENT ON COLUMN event_store.parked_stream.state IS 'retry: delivered again by itself; parked: waits for es_retry_parked';
COMMENT ON COLUMN event_store.parked_stream.reason IS 'what the consumer said';
COMMENT ON COLUMN event_store.parked_stream.discarded IS 'positions that were discarded although events before them are not done';

SELECT pg_catalog.pg_extension_config_dump('event_store.subscription', '');
SELECT pg_catalog.pg_extension_config_dump('event_store.subscription_checkpoint', '');
SELECT pg_catalog.pg_extension_config_dump('event_store.subscription_member', '');
SELECT pg_catalog.pg_extension_config_dump('event_store.parked_stream', '');

CREATE FUNCTION @extschema@.es_create_subscription(name text, categories text[] DEFAULT NULL,
        event_types text[] DEFAULT NULL, after_position bigint DEFAULT 0, slots int DEFAULT NULL,
        lease interval DEFAULT '30 s', max_retries int DEFAULT 10, retry_delay interval DEFAULT '1 s')
    RETURNS void
    LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'es_create_subscription';
COMMENT ON FUNCTION @extschema@.es_create_subscription(text, text[], text[], bigint, int, interval, int, interval) IS
    'makes a durable subscription; with slots it is a consumer group';

CREATE FUNCTION @extschema@.es_drop_subscription(name text) RETURNS void
    LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'es_drop_subscription';
COMMENT ON FUNCTION @extschema@.es_drop_subscription(text) IS 'removes a subscription with its checkpoint, members and parked events';

CREATE FUNCTION @extschema@.es_reset_subscription(name text, after_position bigint DEFAULT 0) RETURNS void
    LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'es_reset_subscription';
COMMENT ON FUNCTION @extschema@.es_reset_subscription(text, bigint) IS
    'starts a subscription again after a position, backward or forward; leases end, nothing stays parked';

CREATE FUNCTION @extschema@.es_fetch(name text, max_count int DEFAULT 100, wait interval DEFAULT '0',
        member text DEFAULT NULL)
    RETURNS SETOF @extschema@.es_event
    LANGUAGE c VOLATILE PARALLEL UNSAFE ROWS 100 AS 'MODULE_PATHNAME', 'es_fetch';
COMMENT ON FUNCTION @extschema@.es_fetch(text, int, interval, text) IS
    'the next events of a subscription, in order; they are this consumer''s until acknowledged or its lease ends';

CREATE FUNCTION @extschema@.es_ack(name text, global_position bigint, member text DEFAULT NULL) RETURNS void
    LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'es_ack';
COMMENT ON FUNCTION @extschema@.es_ack(text, bigint, text) IS
    'everything fetched up to the position is done: moves the checkpoint, never backwards';

CREATE FUNCTION @extschema@.es_nack(name text, global_position bigint, reason text, retry boolean DEFAULT true,
        member text DEFAULT NULL)
    RETURNS text
    LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'es_nack';
COMMENT ON FUNCTION @extschema@.es_nack(text, bigint, text, boolean, text) IS
    'this event could not be handled: retry or park it, its stream waits behind it';

CREATE FUNCTION @extschema@.es_join(name text, member text, lease interval DEFAULT NULL) RETURNS int
    LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'es_join';
COMMENT ON FUNCTION @extschema@.es_join(text, text, interval) IS
    'joins a consumer group; the number of slots that the member owns now';

CREATE FUNCTION @extschema@.es_leave(name text, member text) RETURNS boolean
    LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'es_leave';
COMMENT ON FUNCTION @extschema@.es_leave(text, text) IS
    'leaves a consumer group: its slots are free at once; false if it was no member';

CREATE FUNCTION @extschema@.es_retry_parked(name text, stream_id text DEFAULT NULL) RETURNS bigint
    LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'es_retry_parked';
COMMENT ON FUNCTION @extschema@.es_retry_parked(text, text) IS
    'delivers failed events of one stream or of all again, in order; the number of streams';

CREATE FUNCTION @extschema@.es_discard_parked(name text, global_position bigint) RETURNS boolean
    LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'es_discard_parked';
COMMENT ON FUNCTION @extschema@.es_discard_parked(text, bigint) IS
    'gives up one failed event; its stream goes on with the next one';

CREATE FUNCTION @extschema@.es_discard_parked_stream(name text, stream_id text) RETURNS boolean
    LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'es_discard_parked_stream';
COMMENT ON FUNCTION @extschema@.es_discard_parked_stream(text, text) IS
    'gives up the failed event of a stream and what has queued up behind it';

CREATE FUNCTION event_store.es_subscription_lag(name text, max_count bigint DEFAULT 100000,
        OUT lag_events bigint, OUT oldest timestamptz)
    RETURNS record
    LANGUAGE c VOLATILE PARALLEL RESTRICTED AS 'MODULE_PATHNAME', 'es_subscription_lag';
COMMENT ON FUNCTION event_store.es_subscription_lag(text, bigint) IS
    'events that a subscription has not done yet, counted up to max_count, and the age of the first; see view event_store.subscriptions';
REVOKE ALL ON FUNCTION event_store.es_subscription_lag(text, bigint) FROM PUBLIC;

CREATE VIEW event_store.subscriptions AS
    SELECT s.name::pg_catalog.text, c.checkpoint, l.lag_events,
           coalesce(extract(epoch FROM clock_timestamp() - l.oldest), 0)::float8 AS lag_seconds,
           greatest(h.settled_head - c.checkpoint, 0) AS lag_positions,
           s.categories, s.event_types, nullif(s.slots, 0) AS slots,
           CASE WHEN s.slots > 0 THEN m.members END AS members,
           CASE WHEN s.slots > 0 THEN m.in_flight ELSE c.in_flight END AS in_flight,
           CASE WHEN s.slots = 0 AND c.in_flight THEN coalesce(c.member, 'pid ' || c.pid) END AS holder,
           CASE WHEN s.slots = 0 AND c.in_flight THEN c.lease_until END AS lease_until,
           coalesce(p.retrying, 0) AS retrying_streams, coalesce(p.parked, 0) AS parked_streams,
           s.lease, s.max_retries, s.retry_delay, s.created_by, s.created_at,
           greatest(c.updated_at, m.updated_at) AS updated_at
      FROM event_store.subscription s
      LEFT JOIN LATERAL (
            SELECT min(greatest(k.position, o.position)) AS checkpoint, bool_or(k.delivered > 0) AS in_flight,
                   max(k.member) AS member, max(k.pid) AS pid, max(k.lease_until) AS lease_until,
                   max(k.updated_at) AS updated_at
              FROM event_store.subscription_checkpoint k
              LEFT JOIN event_store.subscription_member o ON o.subscription = k.subscription AND o.member = k.member
             WHERE k.subscription = s.name) c ON true
      LEFT JOIN LATERAL (
            SELECT count(*) AS members, coalesce(bool_or(o.delivered > 0), false) AS in_flight, max(o.updated_at) AS updated_at
              FROM event_store.subscription_member o
             WHERE o.subscription = s.name) m ON true
      LEFT JOIN LATERAL (
            SELECT count(*) FILTER (WHERE k.state = 'retry') AS retrying, count(*) FILTER (WHERE k.state = 'parked') AS parked
              FROM event_store.parked_stream k
             WHERE k.subscription = s.name) p ON true
     CROSS JOIN LATERAL event_store.es_subscription_lag(s.name) l
     CROSS JOIN event_store.es_head_status() h;
COMMENT ON VIEW event_store.subscriptions IS
    'subscriptions: checkpoint, lag in events (counted up to 100000) and in seconds (age of the oldest event that is not done), who has events in hand';

CREATE VIEW event_store.subscription_members AS
    SELECT m.subscription::pg_catalog.text, m.member::pg_catalog.text, k.slots, k.checkpoint,
           m.delivered > 0 AS in_flight, nullif(m.delivered, 0) AS delivered_position,
           m.lease, m.lease_until, clock_timestamp() - m.updated_at AS lease_age,
           m.lease_until > clock_timestamp() AS alive, m.pid, m.joined_at
      FROM event_store.subscription_member m
      LEFT JOIN LATERAL (
            SELECT count(*) AS slots, min(greatest(c.position, m.position)) AS checkpoint
              FROM event_store.subscription_checkpoint c
             WHERE c.subscription = m.subscription AND c.member = m.member) k ON true;
COMMENT ON VIEW event_store.subscription_members IS
    'members of consumer groups: slots, checkpoint, lease';

CREATE VIEW event_store.parked_events AS
    SELECT p.subscription::pg_catalog.text, e.global_position, st.stream_id::pg_catalog.text, e.version::pg_catalog.int8,
           event_store.es_upcast_type(t.event_type, e.schema_version) AS event_type,
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
      JOIN event_store.stream st ON st.stream_no = p.stream_no
      JOIN event_store.event e ON e.stream_no = p.stream_no AND e.version >= p.next_version
       AND e.global_position <= greatest(c.position, m.position, p.failed_position)
       AND e.global_position <> ALL (p.discarded)
      JOIN event_store.event_type t ON t.type_no = e.type_no
       AND (s.event_types IS NULL OR e.global_position = p.failed_position
            OR event_store.es_upcast_type(t.event_type, e.schema_version) = ANY (s.event_types))
     WHERE NOT row_security_active('event_store.event'::regclass);
COMMENT ON VIEW event_store.parked_events IS
    'failed events (retry: delivered again by itself; parked: waits for es_retry_parked) and those of the same streams that have queued up behind them; empty for users to whom row-level security applies';

--
-- Permissions
--

-- Which functions a kind of role may call.  A writer can also read what it
-- needs to decide, but only through functions.
CREATE FUNCTION event_store.es_role_functions(kind text) RETURNS SETOF regprocedure
    LANGUAGE sql STABLE
    SET search_path = pg_catalog, pg_temp
    AS $$
    -- the schema may have been renamed since
    SELECT format(f.name, (SELECT quote_ident(n.nspname) FROM pg_extension e
                             JOIN pg_namespace n ON n.oid = e.extnamespace
                            WHERE e.extname = 'event_store'))::regprocedure
      FROM (VALUES
        ('writer', '%1$s.es_append(text, bigint, text, jsonb, jsonb, uuid, int)'),
        ('writer', '%1$s.es_append_batch(text, bigint, text[], jsonb[], jsonb[], uuid[], int[])'),
        ('writer', '%1$s.es_append(text, bigint, jsonb)'),
        ('writer', '%1$s.es_snapshot(text, bigint, jsonb, int)'),
        ('both', '%1$s.es_any()'),
        ('both', '%1$s.es_exists()'),
        ('both', '%1$s.es_read_stream(text, bigint, bigint, boolean)'),
        ('both', '%1$s.es_stream_version(text)'),
        ('both', '%1$s.es_head()'),
        ('both', '%1$s.es_wait(bigint, interval)'),
        ('both', 'event_store.es_head_status()'),
        ('both', '%1$s.es_read_event(uuid)'),
        ('both', '%1$s.es_envelope(%1$s.es_event)'),
        ('both', '%1$s.es_read_snapshot(text, int)'),
        ('both', '%1$s.es_load(text, int)'),
        ('both', '%1$s.es_state(text, bigint, timestamptz)'),
        ('reader', 'event_store.es_upcast_type(text, int)'),
        ('reader', 'event_store.es_upcast_schema_version(text, int)'),
        ('reader', 'event_store.es_upcast_data(text, int, jsonb, uuid, text, bigint)'),
        ('admin', '%1$s.es_define_upcaster(text, int, regprocedure, text, int)'),
        ('admin', '%1$s.es_drop_upcaster(text, int)'),
        ('admin', '%1$s.es_check_upcasters(text, bigint)'),
        ('admin', '%1$s.es_define_aggregate(text, regprocedure, jsonb, int, int)'),
        ('admin', '%1$s.es_drop_aggregate(text)'),
        ('admin', '%1$s.es_drop_snapshots(text)'),
        ('reader', '%1$s.es_read_all(bigint, bigint, text[], text[], boolean)'),
        ('reader', '%1$s.es_read_category(text, bigint, bigint, boolean)'),
        ('admin', '%1$s.es_create_projection(text, regprocedure, text[], text[], int, bigint, text, regprocedure, int, boolean)'),
        ('admin', '%1$s.es_drop_projection(text)'),
        ('admin', '%1$s.es_pause_projection(text)'),
        ('admin', '%1$s.es_resume_projection(text)'),
        ('admin', '%1$s.es_run_projection(text)'),
        ('both', '%1$s.es_wait_projection(text, bigint, interval)'),
        ('both', '%1$s.es_is_replaying()'),
        ('admin', '%1$s.es_rebuild_projection(text)'),
        ('admin', '%1$s.es_prepare_projection(text, regprocedure, regprocedure, text[], text[], boolean)'),
        ('admin', '%1$s.es_switch_projection(text, regprocedure, bigint)'),
        ('admin', '%1$s.es_cancel_rebuild(text)'),
        ('admin', '%1$s.es_retry_projection_parked(text, text)'),
        ('admin', '%1$s.es_discard_projection_parked(text, text)'),
        ('reader', '%1$s.es_fetch(text, int, interval, text)'),
        ('reader', '%1$s.es_ack(text, bigint, text)'),
        ('reader', '%1$s.es_nack(text, bigint, text, boolean, text)'),
        ('reader', '%1$s.es_join(text, text, interval)'),
        ('reader', '%1$s.es_leave(text, text)'),
        ('reader', 'event_store.es_subscription_lag(text, bigint)'),
        ('admin', '%1$s.es_create_subscription(text, text[], text[], bigint, int, interval, int, interval)'),
        ('admin', '%1$s.es_drop_subscription(text)'),
        ('admin', '%1$s.es_reset_subscription(text, bigint)'),
        ('admin', '%1$s.es_retry_parked(text, text)'),
        ('admin', '%1$s.es_discard_parked(text, bigint)'),
        ('admin', '%1$s.es_discard_parked_stream(text, text)'),
        ('admin', 'event_store.es_projection_backlog(bigint, bigint, text[], text[])')
      ) AS f (kind, name)
     WHERE es_role_functions.kind = 'admin'
        OR f.kind = 'both'
        OR f.kind = es_role_functions.kind
    $$;
COMMENT ON FUNCTION event_store.es_role_functions(text) IS 'the functions that es_grant grants to a reader, writer or admin';
REVOKE ALL ON FUNCTION event_store.es_role_functions(text) FROM PUBLIC;

CREATE FUNCTION event_store.es_change_grants(role text, kind text, is_grant boolean) RETURNS void
    LANGUAGE plpgsql
    SET search_path = pg_catalog, pg_temp
    AS $$
DECLARE
    grantee text;
    action text := CASE WHEN is_grant THEN 'GRANT %s TO %s' ELSE 'REVOKE %s FROM %s' END;
    tables text := 'event_store.event, event_store.stream, event_store.event_type, event_store.mark, event_store.events, event_store.status, event_store.subscriptions, event_store.subscription_members, event_store.parked_events';
    function_name regprocedure;
BEGIN
    IF role IS NULL OR kind IS NULL THEN
        RAISE null_value_not_allowed USING MESSAGE = 'role and kind must not be null';
    END IF;
    IF kind NOT IN ('reader', 'writer', 'admin') THEN
        RAISE invalid_parameter_value USING
            MESSAGE = format('invalid kind "%s"', kind),
            DETAIL = 'It must be reader, writer or admin.';
    END IF;
    SELECT quote_ident(rolname) INTO grantee FROM pg_roles WHERE rolname = role;
    IF NOT FOUND THEN
        RAISE undefined_object USING MESSAGE = format('role "%s" does not exist', role);
    END IF;

    -- what readers and writers share stays while the role is the other one
    FOR function_name IN
        SELECT f FROM event_store.es_role_functions(kind) AS f
         WHERE is_grant
            OR kind = 'admin'
            OR f NOT IN (SELECT event_store.es_role_functions('reader') INTERSECT
                         SELECT event_store.es_role_functions('writer'))
            OR NOT (SELECT bool_and(has_function_privilege(role, o, 'EXECUTE'))
                      FROM event_store.es_role_functions(CASE kind WHEN 'reader' THEN 'writer' ELSE 'reader' END) AS o)
    LOOP
        EXECUTE format(action, format('EXECUTE ON FUNCTION %s', function_name), grantee);
    END LOOP;
    IF kind IN ('reader', 'admin') THEN
        EXECUTE format(action, 'USAGE ON SCHEMA event_store', grantee);
        EXECUTE format(action, 'SELECT ON ' || tables, grantee);
    END IF;
    IF kind = 'admin' THEN
        EXECUTE format(action, 'SELECT ON event_store.snapshot, event_store.upcaster, event_store.aggregate', grantee);
        EXECUTE format(action, 'SELECT ON event_store.projections, event_store.projection_progress, event_store.projection_parked', grantee);
    END IF;
END
$$;
COMMENT ON FUNCTION event_store.es_change_grants(text, text, boolean) IS 'does the work of es_grant and es_revoke';
REVOKE ALL ON FUNCTION event_store.es_change_grants(text, text, boolean) FROM PUBLIC;

CREATE FUNCTION @extschema@.es_grant(role text, kind text) RETURNS void
    LANGUAGE sql
    SET search_path = pg_catalog, pg_temp
    AS 'SELECT event_store.es_change_grants($1, $2, true)';
COMMENT ON FUNCTION @extschema@.es_grant(text, text) IS
    'gives a role what a reader, writer or admin of the store needs; for the owner of the extension';

CREATE FUNCTION @extschema@.es_revoke(role text, kind text) RETURNS void
    LANGUAGE sql
    SET search_path = pg_catalog, pg_temp
    AS 'SELECT event_store.es_change_grants($1, $2, false)';
COMMENT ON FUNCTION @extschema@.es_revoke(text, text) IS 'takes back what es_grant gave';

-- nothing for PUBLIC
REVOKE ALL ON FUNCTION @extschema@.es_any() FROM PUBLIC;
REVOKE ALL ON FUNCTION @extschema@.es_exists() FROM PUBLIC;
REVOKE ALL ON FUNCTION @extschema@.es_append(text, bigint, text, jsonb, jsonb, uuid, int) FROM PUBLIC;
REVOKE ALL ON FUNCTION @extschema@.es_append_batch(text, bigint, text[], jsonb[], jsonb[], uuid[], int[]) FROM PUBLIC;
REVOKE ALL ON FUNCTION @extschema@.es_append(text, bigint, jsonb) FROM PUBLIC;
REVOKE ALL ON FUNCTION @extschema@.es_read_stream(text, bigint, bigint, boolean) FROM PUBLIC;
REVOKE ALL ON FUNCTION @extschema@.es_read_all(bigint, bigint, text[], text[], boolean) FROM PUBLIC;
REVOKE ALL ON FUNCTION @extschema@.es_read_category(text, bigint, bigint, boolean) FROM PUBLIC;
REVOKE ALL ON FUNCTION @extschema@.es_stream_version(text) FROM PUBLIC;
REVOKE ALL ON FUNCTION @extschema@.es_head() FROM PUBLIC;
REVOKE ALL ON FUNCTION @extschema@.es_wait(bigint, interval) FROM PUBLIC;
REVOKE ALL ON FUNCTION @extschema@.es_read_event(uuid) FROM PUBLIC;
REVOKE ALL ON FUNCTION @extschema@.es_envelope(@extschema@.es_event) FROM PUBLIC;
REVOKE ALL ON FUNCTION @extschema@.es_snapshot(text, bigint, jsonb, int) FROM PUBLIC;
REVOKE ALL ON FUNCTION @extschema@.es_read_snapshot(text, int) FROM PUBLIC;
REVOKE ALL ON FUNCTION @extschema@.es_load(text, int) FROM PUBLIC;
REVOKE ALL ON FUNCTION @extschema@.es_define_upcaster(text, int, regprocedure, text, int) FROM PUBLIC;
REVOKE ALL ON FUNCTION @extschema@.es_drop_upcaster(text, int) FROM PUBLIC;
REVOKE ALL ON FUNCTION @extschema@.es_check_upcasters(text, bigint) FROM PUBLIC;
REVOKE ALL ON FUNCTION @extschema@.es_define_aggregate(text, regprocedure, jsonb, int, int) FROM PUBLIC;
REVOKE ALL ON FUNCTION @extschema@.es_drop_aggregate(text) FROM PUBLIC;
REVOKE ALL ON FUNCTION @extschema@.es_state(text, bigint, timestamptz) FROM PUBLIC;
REVOKE ALL ON FUNCTION @extschema@.es_drop_snapshots(text) FROM PUBLIC;
REVOKE ALL ON FUNCTION @extschema@.es_create_projection(text, regprocedure, text[], text[], int, bigint, text, regprocedure, int, boolean) FROM PUBLIC;
REVOKE ALL ON FUNCTION @extschema@.es_drop_projection(text) FROM PUBLIC;
REVOKE ALL ON FUNCTION @extschema@.es_pause_projection(text) FROM PUBLIC;
REVOKE ALL ON FUNCTION @extschema@.es_resume_projection(text) FROM PUBLIC;
REVOKE ALL ON FUNCTION @extschema@.es_run_projection(text) FROM PUBLIC;
REVOKE ALL ON FUNCTION @extschema@.es_wait_projection(text, bigint, interval) FROM PUBLIC;
REVOKE ALL ON FUNCTION @extschema@.es_is_replaying() FROM PUBLIC;
REVOKE ALL ON FUNCTION @extschema@.es_rebuild_projection(text) FROM PUBLIC;
REVOKE ALL ON FUNCTION @extschema@.es_prepare_projection(text, regprocedure, regprocedure, text[], text[], boolean) FROM PUBLIC;
REVOKE ALL ON FUNCTION @extschema@.es_switch_projection(text, regprocedure, bigint) FROM PUBLIC;
REVOKE ALL ON FUNCTION @extschema@.es_cancel_rebuild(text) FROM PUBLIC;
REVOKE ALL ON FUNCTION @extschema@.es_retry_projection_parked(text, text) FROM PUBLIC;
REVOKE ALL ON FUNCTION @extschema@.es_discard_projection_parked(text, text) FROM PUBLIC;
REVOKE ALL ON FUNCTION @extschema@.es_fetch(text, int, interval, text) FROM PUBLIC;
REVOKE ALL ON FUNCTION @extschema@.es_ack(text, bigint, text) FROM PUBLIC;
REVOKE ALL ON FUNCTION @extschema@.es_nack(text, bigint, text, boolean, text) FROM PUBLIC;
REVOKE ALL ON FUNCTION @extschema@.es_join(text, text, interval) FROM PUBLIC;
REVOKE ALL ON FUNCTION @extschema@.es_leave(text, text) FROM PUBLIC;
REVOKE ALL ON FUNCTION @extschema@.es_create_subscription(text, text[], text[], bigint, int, interval, int, interval) FROM PUBLIC;
REVOKE ALL ON FUNCTION @extschema@.es_drop_subscription(text) FROM PUBLIC;
REVOKE ALL ON FUNCTION @extschema@.es_reset_subscription(text, bigint) FROM PUBLIC;
REVOKE ALL ON FUNCTION @extschema@.es_retry_parked(text, text) FROM PUBLIC;
REVOKE ALL ON FUNCTION @extschema@.es_discard_parked(text, bigint) FROM PUBLIC;
REVOKE ALL ON FUNCTION @extschema@.es_discard_parked_stream(text, text) FROM PUBLIC;
REVOKE ALL ON FUNCTION @extschema@.es_grant(text, text) FROM PUBLIC;
REVOKE ALL ON FUNCTION @extschema@.es_revoke(text, text) FROM PUBLIC;
