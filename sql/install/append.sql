-- a named type: a record would have to be described anew for each call
CREATE TYPE @extschema@.es_appended AS (
    event_id uuid,
    version bigint,
    global_position bigint,
    is_duplicate boolean
);
COMMENT ON TYPE @extschema@.es_appended IS 'what an append answers for each event';

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
