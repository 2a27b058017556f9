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
