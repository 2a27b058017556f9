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
COMMENT ON COLUMN event_store.upcaster.upcaster IS 'the function, f(data jsonb) or f(data jsonb, metadata jsonb) RETURNS jsonb';
COMMENT ON COLUMN event_store.upcaster.to_event_type IS 'type of the result';
COMMENT ON COLUMN event_store.upcaster.to_schema_version IS 'schema version of the result';

SELECT pg_catalog.pg_extension_config_dump('event_store.upcaster', '');

CREATE FUNCTION event_store.es_definition_changed() RETURNS trigger
    LANGUAGE c AS 'MODULE_PATHNAME', 'es_definition_changed';
COMMENT ON FUNCTION event_store.es_definition_changed() IS 'makes all sessions notice changed definitions';
REVOKE ALL ON FUNCTION event_store.es_definition_changed() FROM PUBLIC;

CREATE TRIGGER es_definition_changed AFTER INSERT OR UPDATE OR DELETE OR TRUNCATE ON event_store.upcaster
    FOR EACH STATEMENT EXECUTE FUNCTION event_store.es_definition_changed();
ALTER TABLE event_store.upcaster ENABLE ALWAYS TRIGGER es_definition_changed;
-- the apply worker of logical replication fires no triggers of statements
CREATE TRIGGER es_definition_changed_row AFTER INSERT OR UPDATE OR DELETE ON event_store.upcaster
    FOR EACH ROW EXECUTE FUNCTION event_store.es_definition_changed();
ALTER TABLE event_store.upcaster ENABLE ALWAYS TRIGGER es_definition_changed_row;

CREATE FUNCTION @extschema@.es_define_upcaster(event_type text, schema_version int, upcaster regprocedure,
        to_event_type text DEFAULT NULL, to_schema_version int DEFAULT NULL, if_not_exists boolean DEFAULT false)
    RETURNS void
    LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'es_define_upcaster';
COMMENT ON FUNCTION @extschema@.es_define_upcaster(text, int, regprocedure, text, int, boolean) IS
    'events of this type and schema version are read through upcaster, f(data jsonb) or f(data jsonb, metadata jsonb) RETURNS jsonb';
REVOKE ALL ON FUNCTION @extschema@.es_define_upcaster(text, int, regprocedure, text, int, boolean) FROM PUBLIC;

CREATE FUNCTION @extschema@.es_define_upcaster(event_type text, schema_version int, upcaster text,
        to_event_type text DEFAULT NULL, to_schema_version int DEFAULT NULL, if_not_exists boolean DEFAULT false)
    RETURNS void
    LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'es_define_upcaster';
COMMENT ON FUNCTION @extschema@.es_define_upcaster(text, int, text, text, int, boolean) IS
    'takes the function''s name, which needs argument types only where several have it';
REVOKE ALL ON FUNCTION @extschema@.es_define_upcaster(text, int, text, text, int, boolean) FROM PUBLIC;

CREATE FUNCTION @extschema@.es_drop_upcaster(event_type text, schema_version int) RETURNS void
    LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'es_drop_upcaster';
COMMENT ON FUNCTION @extschema@.es_drop_upcaster(text, int) IS 'removes an upcaster';
REVOKE ALL ON FUNCTION @extschema@.es_drop_upcaster(text, int) FROM PUBLIC;

CREATE FUNCTION @extschema@.es_check_upcasters(event_type text, max_count bigint DEFAULT 1000)
    RETURNS TABLE (event_id uuid, stream_id text, version bigint, schema_version int, sqlstate text, message text)
    LANGUAGE c VOLATILE PARALLEL UNSAFE ROWS 10 AS 'MODULE_PATHNAME', 'es_check_upcasters';
COMMENT ON FUNCTION @extschema@.es_check_upcasters(text, bigint) IS
    'takes every stored event of a type (NULL: of all) through its upcasters; the first max_count failures';
REVOKE ALL ON FUNCTION @extschema@.es_check_upcasters(text, bigint) FROM PUBLIC;

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

CREATE FUNCTION event_store.es_consumed_type(event_type text, schema_version int) RETURNS text
    LANGUAGE c STABLE STRICT PARALLEL RESTRICTED SUPPORT event_store.es_upcast_support
    AS 'MODULE_PATHNAME', 'es_consumed_type';
COMMENT ON FUNCTION event_store.es_consumed_type(text, int) IS
    'the type as which consumers get stored events of this type and schema version, whatever event_store.upcast says';
REVOKE ALL ON FUNCTION event_store.es_consumed_type(text, int) FROM PUBLIC;

CREATE FUNCTION event_store.es_upcast_schema_version(event_type text, schema_version int) RETURNS int
    LANGUAGE c STABLE STRICT PARALLEL RESTRICTED SUPPORT event_store.es_upcast_support
    AS 'MODULE_PATHNAME', 'es_upcast_schema_version';
COMMENT ON FUNCTION event_store.es_upcast_schema_version(text, int) IS 'the schema version as which stored events of this type and schema version are read';
REVOKE ALL ON FUNCTION event_store.es_upcast_schema_version(text, int) FROM PUBLIC;

CREATE FUNCTION event_store.es_upcast_data(event_type text, schema_version int, data jsonb,
        event_id uuid, stream_id text, version bigint, metadata jsonb DEFAULT 'null') RETURNS jsonb
    LANGUAGE c STABLE STRICT PARALLEL RESTRICTED COST 10 SUPPORT event_store.es_upcast_support
    AS 'MODULE_PATHNAME', 'es_upcast_data';
COMMENT ON FUNCTION event_store.es_upcast_data(text, int, jsonb, uuid, text, bigint, jsonb) IS
    'data of a stored event as it is read; id, stream and version are for errors';
REVOKE ALL ON FUNCTION event_store.es_upcast_data(text, int, jsonb, uuid, text, bigint, jsonb) FROM PUBLIC;

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
