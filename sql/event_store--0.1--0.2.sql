\echo Use "ALTER EXTENSION event_store UPDATE TO '0.2'" to load this file. \quit

-- What is not qualified below comes from pg_catalog, as in the install script.
SET LOCAL search_path = pg_catalog, pg_temp;

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
