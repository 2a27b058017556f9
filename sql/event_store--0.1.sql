\echo Use "CREATE EXTENSION event_store" to load this file. \quit

-- Functions and types live in the schema that CREATE EXTENSION names, tables
-- and views in schema event_store.  Plain CREATE throughout: nothing planted
-- beforehand is adopted.

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
    version bigint NOT NULL,
    created_at timestamptz NOT NULL,
    event_id uuid NOT NULL,
    type_no int NOT NULL,
    schema_version int NOT NULL,
    data jsonb NOT NULL,
    metadata jsonb NOT NULL,
    PRIMARY KEY (global_position),
    UNIQUE (stream_no, version),
    UNIQUE (event_id)
) USING heap;
CREATE INDEX event_type_no_global_position_idx ON event_store.event (type_no, global_position);
CREATE SEQUENCE event_store.event_global_position_seq AS bigint
    OWNED BY event_store.event.global_position;
COMMENT ON TABLE event_store.event IS 'all events; written by es_append only, never changed; see view event_store.events';
COMMENT ON COLUMN event_store.event.global_position IS 'place in the global order; ascending, with gaps';
COMMENT ON COLUMN event_store.event.stream_no IS 'see event_store.stream';
COMMENT ON COLUMN event_store.event.version IS 'place in the stream: 1, 2, 3 ... without holes';
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
        metadata jsonb DEFAULT '{}', event_id uuid DEFAULT NULL, schema_version int DEFAULT 1,
        OUT event_id uuid, OUT version bigint, OUT global_position bigint, OUT is_duplicate boolean)
    RETURNS record
    LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'es_append';
COMMENT ON FUNCTION @extschema@.es_append(text, bigint, text, jsonb, jsonb, uuid, int) IS
    'appends one event to a stream under an expected version; SQLSTATE VE001 on a version conflict, VE002 on an id conflict';

CREATE FUNCTION @extschema@.es_append_batch(stream_id text, expected_version bigint, event_types text[], data jsonb[],
        metadata jsonb[] DEFAULT NULL, event_ids uuid[] DEFAULT NULL, schema_versions int[] DEFAULT NULL)
    RETURNS TABLE (event_id uuid, version bigint, global_position bigint, is_duplicate boolean)
    LANGUAGE c VOLATILE PARALLEL UNSAFE ROWS 10 AS 'MODULE_PATHNAME', 'es_append_batch';
COMMENT ON FUNCTION @extschema@.es_append_batch(text, bigint, text[], jsonb[], jsonb[], uuid[], int[]) IS
    'appends many events to a stream atomically; the fastest way';

CREATE FUNCTION @extschema@.es_append(stream_id text, expected_version bigint, events jsonb)
    RETURNS TABLE (event_id uuid, version bigint, global_position bigint, is_duplicate boolean)
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

CREATE VIEW event_store.events AS
    SELECT e.global_position, s.stream_id::pg_catalog.text, e.version, e.event_id,
           t.event_type::pg_catalog.text, e.schema_version, e.data, e.metadata, e.created_at,
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
    LANGUAGE c VOLATILE PARALLEL UNSAFE SECURITY DEFINER
    SET search_path = pg_catalog, pg_temp
    AS 'MODULE_PATHNAME', 'es_snapshot';
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
-- Permissions
--

-- Which functions a kind of role may call.  A writer can also read what it
-- needs to decide, but only through functions.
CREATE FUNCTION event_store.es_role_functions(kind text) RETURNS SETOF regprocedure
    LANGUAGE sql STABLE
    SET search_path = pg_catalog, pg_temp
    AS $$
    SELECT f.name::regprocedure
      FROM (VALUES
        ('writer', '@extschema@.es_append(text, bigint, text, jsonb, jsonb, uuid, int)'),
        ('writer', '@extschema@.es_append_batch(text, bigint, text[], jsonb[], jsonb[], uuid[], int[])'),
        ('writer', '@extschema@.es_append(text, bigint, jsonb)'),
        ('writer', '@extschema@.es_snapshot(text, bigint, jsonb, int)'),
        ('both', '@extschema@.es_any()'),
        ('both', '@extschema@.es_exists()'),
        ('both', '@extschema@.es_read_stream(text, bigint, bigint, boolean)'),
        ('both', '@extschema@.es_stream_version(text)'),
        ('both', '@extschema@.es_head()'),
        ('both', '@extschema@.es_wait(bigint, interval)'),
        ('both', 'event_store.es_head_status()'),
        ('both', '@extschema@.es_read_event(uuid)'),
        ('both', '@extschema@.es_envelope(@extschema@.es_event)'),
        ('both', '@extschema@.es_read_snapshot(text, int)'),
        ('both', '@extschema@.es_load(text, int)'),
        ('reader', '@extschema@.es_read_all(bigint, bigint, text[], text[], boolean)'),
        ('reader', '@extschema@.es_read_category(text, bigint, bigint, boolean)')
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
    tables text := 'event_store.event, event_store.stream, event_store.event_type, event_store.mark, event_store.events, event_store.status';
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

    FOR function_name IN SELECT f FROM event_store.es_role_functions(kind) AS f LOOP
        EXECUTE format(action, format('EXECUTE ON FUNCTION %s', function_name), grantee);
    END LOOP;
    IF kind IN ('reader', 'admin') THEN
        EXECUTE format(action, 'USAGE ON SCHEMA event_store', grantee);
        EXECUTE format(action, 'SELECT ON ' || tables, grantee);
    END IF;
    IF kind = 'admin' THEN
        EXECUTE format(action, 'SELECT ON event_store.snapshot', grantee);
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
REVOKE ALL ON FUNCTION @extschema@.es_grant(text, text) FROM PUBLIC;
REVOKE ALL ON FUNCTION @extschema@.es_revoke(text, text) FROM PUBLIC;
