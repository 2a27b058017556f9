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
    category pg_catalog.text COLLATE pg_catalog."C",
    event_type pg_catalog.text COLLATE pg_catalog."C" NOT NULL,
    PRIMARY KEY (type_no)
) USING heap;
CREATE INDEX event_type_category_event_type_idx ON event_store.event_type (category, event_type);
CREATE INDEX event_type_event_type_idx ON event_store.event_type (event_type);
CREATE SEQUENCE event_store.event_type_type_no_seq AS int
    OWNED BY event_store.event_type.type_no;
COMMENT ON TABLE event_store.event_type IS 'the event types of each category, with the number that events carry; two appends that introduce a type at the same time make a row each';
COMMENT ON COLUMN event_store.event_type.type_no IS 'number of the event type in its category, internal';
COMMENT ON COLUMN event_store.event_type.category IS 'part of the stream''s name before the first "-"; NULL for events that belong to no stream';
COMMENT ON COLUMN event_store.event_type.event_type IS 'name of the event type';
COMMENT ON SEQUENCE event_store.event_type_type_no_seq IS 'numbers of event types';

-- An index with an entry (tag, global_position) for each tag of an event; the
-- store alone reads it, the planner never chooses it.
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

-- fixed-width columns first, in order of alignment
CREATE TABLE event_store.event (
    global_position bigint NOT NULL,
    stream_no bigint,
    created_at timestamptz NOT NULL,
    event_id uuid NOT NULL,
    version int,
    type_no int NOT NULL,
    schema_version int NOT NULL,
    data jsonb NOT NULL,
    metadata jsonb NOT NULL,
    -- the last columns, left out of the row of an event without them
    tags pg_catalog.text[] COLLATE pg_catalog."C",
    hash bytea,
    -- entries arrive in order but for a few of concurrent appends
    PRIMARY KEY (global_position) WITH (fillfactor = 97),
    UNIQUE (stream_no, version)
) USING heap;
-- An id that the store makes ends with its event's position, by which it is found.
CREATE FUNCTION event_store.es_id_has_position(event_id uuid, global_position bigint) RETURNS boolean
    LANGUAGE c IMMUTABLE STRICT PARALLEL SAFE AS 'MODULE_PATHNAME', 'es_id_has_position';
COMMENT ON FUNCTION event_store.es_id_has_position(uuid, bigint) IS 'does an event id end with this position, as ids do that the store makes?';
REVOKE ALL ON FUNCTION event_store.es_id_has_position(uuid, bigint) FROM PUBLIC;
CREATE UNIQUE INDEX event_event_id_idx ON event_store.event (event_id)
    WHERE NOT event_store.es_id_has_position(event_id, global_position);
CREATE INDEX event_type_no_global_position_idx ON event_store.event (type_no, global_position) WITH (fillfactor = 97);
CREATE INDEX event_tags_global_position_idx ON event_store.event USING event_store_tags (tags, global_position);
CREATE SEQUENCE event_store.event_global_position_seq AS bigint
    OWNED BY event_store.event.global_position;
COMMENT ON TABLE event_store.event IS 'all events; written by es_append only, never changed; see view event_store.events';
COMMENT ON COLUMN event_store.event.global_position IS 'place in the global order; ascending, with gaps';
COMMENT ON COLUMN event_store.event.stream_no IS 'see event_store.stream; NULL for an event that belongs to no stream';
COMMENT ON COLUMN event_store.event.version IS 'place in the stream: 1, 2, 3 ... without holes; 4 bytes, for these are in every row; NULL for an event that belongs to no stream';
COMMENT ON COLUMN event_store.event.created_at IS 'when it was appended, by the server''s clock; not an order';
COMMENT ON COLUMN event_store.event.event_id IS 'unique in the store';
COMMENT ON COLUMN event_store.event.type_no IS 'see event_store.event_type';
COMMENT ON COLUMN event_store.event.schema_version IS 'version of the shape of data';
COMMENT ON COLUMN event_store.event.data IS 'payload, any JSON value';
COMMENT ON COLUMN event_store.event.metadata IS 'correlation_id, causation_id, user_id ...; a JSON object';
COMMENT ON COLUMN event_store.event.tags IS 'tags of the event, sorted, each once; NULL if it has none';
COMMENT ON COLUMN event_store.event.hash IS 'SHA-256 over the event and the hash of the one before it in its stream; NULL if event_store.hash_chain was off';
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

CREATE FUNCTION event_store.es_mark_replicated() RETURNS trigger
    LANGUAGE c AS 'MODULE_PATHNAME', 'es_mark_replicated';
COMMENT ON FUNCTION event_store.es_mark_replicated() IS 'marks a projection or subscription that logical replication brings: it is not run here';
REVOKE ALL ON FUNCTION event_store.es_mark_replicated() FROM PUBLIC;

DO $$
DECLARE
    guarded text;
BEGIN
    FOREACH guarded IN ARRAY ARRAY['event', 'stream', 'event_type', 'mark'] LOOP
        EXECUTE format('CREATE TRIGGER es_guard_statement BEFORE INSERT OR UPDATE OR DELETE OR TRUNCATE ON event_store.%I'
                       ' FOR EACH STATEMENT EXECUTE FUNCTION event_store.es_guard()', guarded);
        EXECUTE format('CREATE TRIGGER es_guard_row BEFORE INSERT OR UPDATE OR DELETE ON event_store.%I'
                       ' FOR EACH ROW EXECUTE FUNCTION event_store.es_guard()', guarded);
        EXECUTE format('ALTER TABLE event_store.%I ENABLE ALWAYS TRIGGER es_guard_statement,'
                       ' ENABLE ALWAYS TRIGGER es_guard_row', guarded);
    END LOOP;
END
$$;

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
COMMENT ON COLUMN @extschema@.es_event.global_position IS 'place in the global order; ascending, with gaps';
COMMENT ON COLUMN @extschema@.es_event.stream_id IS 'name of the stream, {Type}-{id}; NULL for an event that belongs to no stream';
COMMENT ON COLUMN @extschema@.es_event.version IS 'place in the stream: 1, 2, 3 ... without holes; NULL for an event that belongs to no stream';
COMMENT ON COLUMN @extschema@.es_event.event_id IS 'unique in the store';
COMMENT ON COLUMN @extschema@.es_event.event_type IS 'name of the event type, in today''s shape';
COMMENT ON COLUMN @extschema@.es_event.schema_version IS 'version of the shape of data, in today''s shape';
COMMENT ON COLUMN @extschema@.es_event.data IS 'payload, any JSON value, in today''s shape';
COMMENT ON COLUMN @extschema@.es_event.metadata IS 'correlation_id, causation_id, user_id ...; a JSON object';
COMMENT ON COLUMN @extschema@.es_event.created_at IS 'when it was appended, by the server''s clock; not an order';

--
-- Evidence
--

CREATE FUNCTION @extschema@.es_verify(stream_id text DEFAULT NULL)
    RETURNS TABLE (stream_id text, version bigint, global_position bigint, problem text)
    LANGUAGE c STABLE PARALLEL RESTRICTED ROWS 10 AS 'MODULE_PATHNAME', 'es_verify';
COMMENT ON FUNCTION @extschema@.es_verify(text) IS
    'what somebody has done to the events of a stream, or of the store, behind its back; no row = sound';
REVOKE ALL ON FUNCTION @extschema@.es_verify(text) FROM PUBLIC;
