--
-- Snapshots
--

CREATE FUNCTION @extschema@.es_snapshot(stream_id text, version bigint, data jsonb, schema_version int DEFAULT 1)
    RETURNS boolean
    LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'es_snapshot';
COMMENT ON FUNCTION @extschema@.es_snapshot(text, bigint, jsonb, int) IS
    'keeps the state of a stream at a version; false when a newer snapshot is there already';
REVOKE ALL ON FUNCTION @extschema@.es_snapshot(text, bigint, jsonb, int) FROM PUBLIC;

CREATE FUNCTION @extschema@.es_read_snapshot(stream_id text, schema_version int DEFAULT NULL,
        OUT stream_id text, OUT version bigint, OUT data jsonb, OUT schema_version int, OUT created_at timestamptz)
    RETURNS record
    LANGUAGE c STABLE PARALLEL RESTRICTED AS 'MODULE_PATHNAME', 'es_read_snapshot';
COMMENT ON FUNCTION @extschema@.es_read_snapshot(text, int) IS
    'newest snapshot of a stream, of one schema version or of any; NULL when there is none';
REVOKE ALL ON FUNCTION @extschema@.es_read_snapshot(text, int) FROM PUBLIC;

CREATE FUNCTION @extschema@.es_load(stream_id text, schema_version int DEFAULT NULL,
        OUT version bigint, OUT snapshot_version bigint, OUT snapshot jsonb, OUT events @extschema@.es_event[])
    RETURNS record
    LANGUAGE c STABLE PARALLEL RESTRICTED AS 'MODULE_PATHNAME', 'es_load';
COMMENT ON FUNCTION @extschema@.es_load(text, int) IS
    'newest snapshot of a stream and the events after it, in one call';
REVOKE ALL ON FUNCTION @extschema@.es_load(text, int) FROM PUBLIC;

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

SELECT pg_catalog.pg_extension_config_dump('event_store.aggregate', '');

CREATE TRIGGER es_definition_changed AFTER INSERT OR UPDATE OR DELETE OR TRUNCATE ON event_store.aggregate
    FOR EACH STATEMENT EXECUTE FUNCTION event_store.es_definition_changed();
ALTER TABLE event_store.aggregate ENABLE ALWAYS TRIGGER es_definition_changed;
CREATE TRIGGER es_definition_changed_row AFTER INSERT OR UPDATE OR DELETE ON event_store.aggregate
    FOR EACH ROW EXECUTE FUNCTION event_store.es_definition_changed();
ALTER TABLE event_store.aggregate ENABLE ALWAYS TRIGGER es_definition_changed_row;

CREATE FUNCTION @extschema@.es_define_aggregate(category text, reducer regprocedure, initial_state jsonb DEFAULT '{}',
        snapshot_every int DEFAULT 50, schema_version int DEFAULT 1, if_not_exists boolean DEFAULT false)
    RETURNS void
    LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'es_define_aggregate';
COMMENT ON FUNCTION @extschema@.es_define_aggregate(text, regprocedure, jsonb, int, int, boolean) IS
    'the state of a category''s streams is their events folded by reducer, f(state jsonb, event es_event) RETURNS jsonb';
REVOKE ALL ON FUNCTION @extschema@.es_define_aggregate(text, regprocedure, jsonb, int, int, boolean) FROM PUBLIC;

CREATE FUNCTION @extschema@.es_define_aggregate(category text, reducer text, initial_state jsonb DEFAULT '{}',
        snapshot_every int DEFAULT 50, schema_version int DEFAULT 1, if_not_exists boolean DEFAULT false)
    RETURNS void
    LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'es_define_aggregate';
COMMENT ON FUNCTION @extschema@.es_define_aggregate(text, text, jsonb, int, int, boolean) IS
    'takes the function''s name, which needs argument types only where several have it';
REVOKE ALL ON FUNCTION @extschema@.es_define_aggregate(text, text, jsonb, int, int, boolean) FROM PUBLIC;

CREATE FUNCTION @extschema@.es_drop_aggregate(category text) RETURNS void
    LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'es_drop_aggregate';
COMMENT ON FUNCTION @extschema@.es_drop_aggregate(text) IS 'removes an aggregate and its snapshots';
REVOKE ALL ON FUNCTION @extschema@.es_drop_aggregate(text) FROM PUBLIC;

CREATE FUNCTION @extschema@.es_state(stream_id text, at_version bigint DEFAULT NULL, at_time timestamptz DEFAULT NULL,
        OUT version bigint, OUT state jsonb)
    RETURNS record
    LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'es_state';
COMMENT ON FUNCTION @extschema@.es_state(text, bigint, timestamptz) IS
    'state of a stream by its category''s reducer: now, at a version or at a time';
REVOKE ALL ON FUNCTION @extschema@.es_state(text, bigint, timestamptz) FROM PUBLIC;

CREATE FUNCTION @extschema@.es_drop_snapshots(stream_id text DEFAULT NULL) RETURNS bigint
    LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'es_drop_snapshots';
COMMENT ON FUNCTION @extschema@.es_drop_snapshots(text) IS 'throws away the snapshots of a stream, or all; how many';
REVOKE ALL ON FUNCTION @extschema@.es_drop_snapshots(text) FROM PUBLIC;

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
