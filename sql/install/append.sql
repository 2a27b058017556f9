-- a named type: a record would have to be described anew for each call
CREATE TYPE @extschema@.es_appended AS (
    event_id uuid,
    version bigint,
    global_position bigint,
    is_duplicate boolean
);
COMMENT ON TYPE @extschema@.es_appended IS 'what an append answers for each event';
COMMENT ON COLUMN @extschema@.es_appended.event_id IS 'id of the event';
COMMENT ON COLUMN @extschema@.es_appended.version IS 'its place in the stream; NULL for an event that belongs to no stream';
COMMENT ON COLUMN @extschema@.es_appended.global_position IS 'its place in the global order';
COMMENT ON COLUMN @extschema@.es_appended.is_duplicate IS 'an earlier call has appended it, nothing was written';

CREATE FUNCTION @extschema@.es_any() RETURNS bigint
    LANGUAGE sql IMMUTABLE PARALLEL SAFE AS 'SELECT -100::pg_catalog.int8';
COMMENT ON FUNCTION @extschema@.es_any() IS 'expected version: no check';
REVOKE ALL ON FUNCTION @extschema@.es_any() FROM PUBLIC;

CREATE FUNCTION @extschema@.es_exists() RETURNS bigint
    LANGUAGE sql IMMUTABLE PARALLEL SAFE AS 'SELECT -101::pg_catalog.int8';
COMMENT ON FUNCTION @extschema@.es_exists() IS 'expected version: the stream must exist';
REVOKE ALL ON FUNCTION @extschema@.es_exists() FROM PUBLIC;

--
-- Append.  Not STRICT: a NULL is an error, never a silent no-op.
--

CREATE FUNCTION @extschema@.es_append(stream_id text, expected_version bigint, event_type text, data jsonb,
        metadata jsonb DEFAULT '{}', event_id uuid DEFAULT NULL, schema_version int DEFAULT 1,
        tags text[] DEFAULT NULL)
    RETURNS @extschema@.es_appended
    LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'es_append';
COMMENT ON FUNCTION @extschema@.es_append(text, bigint, text, jsonb, jsonb, uuid, int, text[]) IS
    'appends one event to a stream under an expected version; SQLSTATE VE001 on a version conflict, VE002 on an id conflict';
REVOKE ALL ON FUNCTION @extschema@.es_append(text, bigint, text, jsonb, jsonb, uuid, int, text[]) FROM PUBLIC;

CREATE FUNCTION @extschema@.es_append_batch(stream_id text, expected_version bigint, event_types text[], data jsonb[],
        metadata jsonb[] DEFAULT NULL, event_ids uuid[] DEFAULT NULL, schema_versions int[] DEFAULT NULL,
        tags jsonb[] DEFAULT NULL)
    RETURNS SETOF @extschema@.es_appended
    LANGUAGE c VOLATILE PARALLEL UNSAFE ROWS 10 AS 'MODULE_PATHNAME', 'es_append_batch';
COMMENT ON FUNCTION @extschema@.es_append_batch(text, bigint, text[], jsonb[], jsonb[], uuid[], int[], jsonb[]) IS
    'appends many events to a stream atomically; the fastest way';
REVOKE ALL ON FUNCTION @extschema@.es_append_batch(text, bigint, text[], jsonb[], jsonb[], uuid[], int[], jsonb[]) FROM PUBLIC;

CREATE FUNCTION @extschema@.es_append(stream_id text, expected_version bigint, events jsonb)
    RETURNS SETOF @extschema@.es_appended
    LANGUAGE c VOLATILE PARALLEL UNSAFE ROWS 10 AS 'MODULE_PATHNAME', 'es_append_json';
COMMENT ON FUNCTION @extschema@.es_append(text, bigint, jsonb) IS
    'appends events given as one JSON object or an array of objects, atomically';
REVOKE ALL ON FUNCTION @extschema@.es_append(text, bigint, jsonb) FROM PUBLIC;

CREATE FUNCTION @extschema@.es_append_streams(appends jsonb)
    RETURNS TABLE (stream_id text, event_id uuid, version bigint, global_position bigint, is_duplicate boolean)
    LANGUAGE c VOLATILE PARALLEL UNSAFE ROWS 10 AS 'MODULE_PATHNAME', 'es_append_streams';
COMMENT ON FUNCTION @extschema@.es_append_streams(jsonb) IS
    'appends to several streams atomically, each under its expected version; an entry without events is only checked';
REVOKE ALL ON FUNCTION @extschema@.es_append_streams(jsonb) FROM PUBLIC;

CREATE FUNCTION @extschema@.es_append_if(events jsonb, fail_if jsonb, after_position bigint DEFAULT NULL)
    RETURNS SETOF @extschema@.es_appended
    LANGUAGE c VOLATILE PARALLEL UNSAFE ROWS 10 AS 'MODULE_PATHNAME', 'es_append_if';
COMMENT ON FUNCTION @extschema@.es_append_if(jsonb, jsonb, bigint) IS
    'appends events unless one above after_position matches the query fail_if; SQLSTATE VE007 then';
REVOKE ALL ON FUNCTION @extschema@.es_append_if(jsonb, jsonb, bigint) FROM PUBLIC;

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
