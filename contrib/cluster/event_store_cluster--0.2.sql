/*
 * event_store_cluster: the router.  Its functions have the names and arguments
 * of event_store's and send each stream to the database that has it, by
 * PL/Proxy; functions that read the order of events ask all shards and merge
 * their answers.
 *
 * A stream belongs to one of 1024 slots, by a hash of its name, a slot to one
 * shard: table slot.  The shard knows too (event_store_shard), and its word
 * counts: what it refuses because the slot has gone, or is just going, is tried
 * again after a look at the table.
 *
 * Table slot is kept in memory by each session; a trigger tells of changes.
 *
 * PL/Proxy's cluster is the foreign server "event_store_cluster"; its partition
 * n - 1 ("part") is shard n.  Each call is a transaction of its own on the
 * shard.  After an error PL/Proxy opens a new connection, and says so with a
 * NOTICE, which is for nobody (client_min_messages).
 */
\echo Use "CREATE EXTENSION event_store_cluster" to load this file. \quit

CREATE SCHEMA event_store_cluster;
COMMENT ON SCHEMA event_store_cluster IS 'the router of event stores on several servers';

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
COMMENT ON TYPE @extschema@.es_event IS 'an event as it is read; its global position is one of its shard';

CREATE TYPE @extschema@.es_appended AS (
    event_id uuid,
    version bigint,
    global_position bigint,
    is_duplicate boolean
);
COMMENT ON TYPE @extschema@.es_appended IS 'what an append answers for each event';

CREATE TABLE event_store_cluster.slot (
    slot int PRIMARY KEY,
    shard int NOT NULL
);
COMMENT ON TABLE event_store_cluster.slot IS 'where the streams are: the shard of each slot';
COMMENT ON COLUMN event_store_cluster.slot.slot IS 'slot of a stream: event_store_cluster.slot_of(stream_id)';
COMMENT ON COLUMN event_store_cluster.slot.shard IS 'number of the shard: 1, 2, 3 ...';

-- ALWAYS: also for what logical replication brings
CREATE FUNCTION event_store_cluster.slots_changed() RETURNS trigger
    LANGUAGE c AS 'MODULE_PATHNAME', 'event_store_cluster_slots_changed';
COMMENT ON FUNCTION event_store_cluster.slots_changed() IS 'tells all sessions, which keep the table in memory';
REVOKE ALL ON FUNCTION event_store_cluster.slots_changed() FROM PUBLIC;
CREATE TRIGGER slots_changed AFTER INSERT OR UPDATE OR DELETE ON event_store_cluster.slot
    FOR EACH ROW EXECUTE FUNCTION event_store_cluster.slots_changed();
ALTER TABLE event_store_cluster.slot ENABLE ALWAYS TRIGGER slots_changed;

CREATE TABLE event_store_cluster.move (
    move_id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    slot int NOT NULL,
    from_shard int NOT NULL,
    from_position bigint NOT NULL,
    to_shard int NOT NULL,
    to_position bigint NOT NULL,
    moved_at timestamptz NOT NULL DEFAULT clock_timestamp()
);
CREATE INDEX move_slot_idx ON event_store_cluster.move (slot);
COMMENT ON TABLE event_store_cluster.move IS 'the moves of slots; reads of all shards keep the events of a stream in order by it';
COMMENT ON COLUMN event_store_cluster.move.move_id IS 'number of the move';
COMMENT ON COLUMN event_store_cluster.move.slot IS 'the slot';
COMMENT ON COLUMN event_store_cluster.move.from_shard IS 'where it was';
COMMENT ON COLUMN event_store_cluster.move.from_position IS 'position there of its last event, at least';
COMMENT ON COLUMN event_store_cluster.move.to_shard IS 'where it went';
COMMENT ON COLUMN event_store_cluster.move.to_position IS 'position there after which its events are new, not copies';
COMMENT ON COLUMN event_store_cluster.move.moved_at IS 'when it went';

SELECT pg_catalog.pg_extension_config_dump('event_store_cluster.slot', '');
SELECT pg_catalog.pg_extension_config_dump('event_store_cluster.move', '');
SELECT pg_catalog.pg_extension_config_dump('event_store_cluster.move_move_id_seq', '');

--
-- Where a stream is, and what to do when it was not there
--

-- The same function as event_store_shard.slot_of, for good: it says where every
-- stream is.
CREATE FUNCTION event_store_cluster.slot_of(stream_id text) RETURNS int
    LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE
    AS 'SELECT (pg_catalog.hashtextextended($1 COLLATE "C", 0) OPERATOR(pg_catalog.&) 1023)::pg_catalog.int4';
COMMENT ON FUNCTION event_store_cluster.slot_of(text) IS 'slot of a stream, 0 to 1023';
REVOKE ALL ON FUNCTION event_store_cluster.slot_of(text) FROM PUBLIC;

-- VOLATILE: a second look in one statement must see what has changed
CREATE FUNCTION event_store_cluster.part_of(stream_id text) RETURNS int
    LANGUAGE c VOLATILE PARALLEL UNSAFE
    AS 'MODULE_PATHNAME', 'event_store_cluster_part_of';
COMMENT ON FUNCTION event_store_cluster.part_of(text) IS 'partition of PL/Proxy''s cluster that has a stream';
REVOKE ALL ON FUNCTION event_store_cluster.part_of(text) FROM PUBLIC;

CREATE FUNCTION event_store_cluster.shard_of(stream_id text) RETURNS int
    LANGUAGE sql VOLATILE PARALLEL UNSAFE
    AS 'SELECT event_store_cluster.part_of($1) OPERATOR(pg_catalog.+) 1';
COMMENT ON FUNCTION event_store_cluster.shard_of(text) IS 'number of the shard that has a stream, whether there is such a stream or not';
REVOKE ALL ON FUNCTION event_store_cluster.shard_of(text) FROM PUBLIC;

CREATE FUNCTION event_store_cluster.one_part(appends jsonb) RETURNS int
    LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE
    SET search_path = pg_catalog, pg_temp
    AS $$
DECLARE
    shards int[];
BEGIN
    -- what is not as it should be goes somewhere, and is refused there
    IF jsonb_typeof(appends) = 'array' THEN
        SELECT array_agg(DISTINCT event_store_cluster.shard_of(a ->> 'stream_id')) INTO shards
          FROM jsonb_array_elements(appends) AS a;
    END IF;
    IF cardinality(shards) > 1 THEN
        RAISE feature_not_supported USING
            MESSAGE = 'streams of one append are on different shards',
            DETAIL = (SELECT string_agg(format('stream=%s shard=%s', a ->> 'stream_id',
                                               event_store_cluster.shard_of(a ->> 'stream_id')), E'\n')
                        FROM jsonb_array_elements(appends) AS a),
            HINT = 'Several streams can be appended to atomically only where one database has all of them.';
    END IF;
    RETURN coalesce(shards[1] - 1, event_store_cluster.part_of(NULL));
END
$$;
COMMENT ON FUNCTION event_store_cluster.one_part(jsonb) IS
    'partition of the shard that has all streams of es_append_streams; 0A000 if there is no such shard';
REVOKE ALL ON FUNCTION event_store_cluster.one_part(jsonb) FROM PUBLIC;

-- Returns if the call should be tried again, after a short while.  PL/Proxy
-- puts words before what the shard says, which are taken away; its own errors
-- are of connections.  The statement may have run for long before the call that
-- has failed: only that one's time counts; since -infinity nothing is tried again.
CREATE FUNCTION event_store_cluster.failed(state text, message text, detail text, hint text, since timestamptz) RETURNS void
    LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE
    SET search_path = pg_catalog, pg_temp
    AS $$
BEGIN
    IF state = '55ES1' THEN
        IF current_setting('transaction_isolation') <> 'read committed' THEN
            RAISE serialization_failure USING
                MESSAGE = 'could not serialize access: a stream has moved to another shard';
        END IF;
        IF clock_timestamp() < since + interval '30 s' THEN
            PERFORM pg_sleep(0.002);
            RETURN;
        END IF;
        RAISE object_not_in_prerequisite_state USING
            MESSAGE = regexp_replace(message, '^.*?\] REMOTE [^:]*: ', ''),
            HINT = 'Its slot is on its way from one shard to another. CALL es_move_slots again if that has ended early.';
    END IF;
    -- an option of RAISE cannot be left out by an expression
    state := CASE WHEN state <> 'XX000' THEN state
                  WHEN message LIKE 'Pl/Proxy: cluster not found%' THEN '55000'
                  WHEN message LIKE 'PL/Proxy function %' THEN '08000'
                  ELSE state END;
    message := regexp_replace(message, '^.*?\] REMOTE [^:]*: ', '');
    detail := regexp_replace(detail, '^Remote detail: ', '');
    hint := regexp_replace(hint, '^Remote hint: ', '');
    IF detail <> '' AND hint <> '' THEN
        RAISE EXCEPTION USING ERRCODE = state, MESSAGE = message, DETAIL = detail, HINT = hint;
    ELSIF detail <> '' THEN
        RAISE EXCEPTION USING ERRCODE = state, MESSAGE = message, DETAIL = detail;
    ELSIF hint <> '' THEN
        RAISE EXCEPTION USING ERRCODE = state, MESSAGE = message, HINT = hint;
    ELSE
        RAISE EXCEPTION USING ERRCODE = state, MESSAGE = message;
    END IF;
END
$$;
COMMENT ON FUNCTION event_store_cluster.failed(text, text, text, text, timestamptz) IS
    'raises what a shard has raised, in its words; returns after a moment if the shard said that it no longer has the stream, up to 30 s since the time given';
REVOKE ALL ON FUNCTION event_store_cluster.failed(text, text, text, text, timestamptz) FROM PUBLIC;

--
-- Functions of one stream.  For each the call on a shard, without rights for
-- anybody, and the function that chooses the shard, calls that one and tries again
-- (event_store_cluster_routed in event_store_cluster.c, which finds it by its name
-- and arguments).  Where that does more than to choose, it is PL/pgSQL.
--

CREATE FUNCTION @extschema@.es_any() RETURNS bigint
    LANGUAGE sql IMMUTABLE PARALLEL SAFE AS 'SELECT -100::pg_catalog.int8';
COMMENT ON FUNCTION @extschema@.es_any() IS 'expected version: no check';
REVOKE ALL ON FUNCTION @extschema@.es_any() FROM PUBLIC;

CREATE FUNCTION @extschema@.es_exists() RETURNS bigint
    LANGUAGE sql IMMUTABLE PARALLEL SAFE AS 'SELECT -101::pg_catalog.int8';
COMMENT ON FUNCTION @extschema@.es_exists() IS 'expected version: the stream must exist';
REVOKE ALL ON FUNCTION @extschema@.es_exists() FROM PUBLIC;

-- Not FROM es_append: a call in the target list costs the shard half as much
-- to plan, and makes one column of its row.
CREATE FUNCTION event_store_cluster.es_append(part int, text, bigint, text, jsonb, jsonb, uuid, int, text[])
    RETURNS text
    LANGUAGE plproxy VOLATILE PARALLEL UNSAFE
    AS $$
    CLUSTER 'event_store_cluster';
    RUN ON part;
    SELECT @extschema@.es_append(event_store_shard.writing($2), $3, $4, $5, $6, $7, $8, $9)::text;
    $$;
COMMENT ON FUNCTION event_store_cluster.es_append(int, text, bigint, text, jsonb, jsonb, uuid, int, text[]) IS 'es_append on a shard';
REVOKE ALL ON FUNCTION event_store_cluster.es_append(int, text, bigint, text, jsonb, jsonb, uuid, int, text[]) FROM PUBLIC;

CREATE FUNCTION @extschema@.es_append(stream_id text, expected_version bigint, event_type text, data jsonb,
        metadata jsonb DEFAULT '{}', event_id uuid DEFAULT NULL, schema_version int DEFAULT 1,
        tags text[] DEFAULT NULL)
    RETURNS @extschema@.es_appended
    LANGUAGE c VOLATILE PARALLEL UNSAFE
    AS 'MODULE_PATHNAME', 'event_store_cluster_routed';
COMMENT ON FUNCTION @extschema@.es_append(text, bigint, text, jsonb, jsonb, uuid, int, text[]) IS
    'appends one event to a stream under an expected version; SQLSTATE VE001 on a version conflict, VE002 on an id conflict';
REVOKE ALL ON FUNCTION @extschema@.es_append(text, bigint, text, jsonb, jsonb, uuid, int, text[]) FROM PUBLIC;

CREATE FUNCTION event_store_cluster.es_append_batch(part int, text, bigint, text[], jsonb[], jsonb[], uuid[], int[],
        jsonb[])
    RETURNS SETOF @extschema@.es_appended
    LANGUAGE plproxy VOLATILE PARALLEL UNSAFE
    AS $$
    CLUSTER 'event_store_cluster';
    RUN ON part;
    SELECT * FROM @extschema@.es_append_batch(event_store_shard.writing($2), $3, $4, $5, $6, $7, $8, $9);
    $$;
COMMENT ON FUNCTION event_store_cluster.es_append_batch(int, text, bigint, text[], jsonb[], jsonb[], uuid[], int[], jsonb[]) IS 'es_append_batch on a shard';
REVOKE ALL ON FUNCTION event_store_cluster.es_append_batch(int, text, bigint, text[], jsonb[], jsonb[], uuid[], int[], jsonb[]) FROM PUBLIC;

CREATE FUNCTION @extschema@.es_append_batch(stream_id text, expected_version bigint, event_types text[], data jsonb[],
        metadata jsonb[] DEFAULT NULL, event_ids uuid[] DEFAULT NULL, schema_versions int[] DEFAULT NULL,
        tags jsonb[] DEFAULT NULL)
    RETURNS SETOF @extschema@.es_appended
    LANGUAGE c VOLATILE PARALLEL UNSAFE
    AS 'MODULE_PATHNAME', 'event_store_cluster_routed';
COMMENT ON FUNCTION @extschema@.es_append_batch(text, bigint, text[], jsonb[], jsonb[], uuid[], int[], jsonb[]) IS
    'appends many events to a stream atomically; the fastest way';
REVOKE ALL ON FUNCTION @extschema@.es_append_batch(text, bigint, text[], jsonb[], jsonb[], uuid[], int[], jsonb[]) FROM PUBLIC;

CREATE FUNCTION event_store_cluster.es_append(part int, text, bigint, jsonb)
    RETURNS SETOF @extschema@.es_appended
    LANGUAGE plproxy VOLATILE PARALLEL UNSAFE
    AS $$
    CLUSTER 'event_store_cluster';
    RUN ON part;
    SELECT * FROM @extschema@.es_append(event_store_shard.writing($2), $3, $4);
    $$;
COMMENT ON FUNCTION event_store_cluster.es_append(int, text, bigint, jsonb) IS 'es_append on a shard';
REVOKE ALL ON FUNCTION event_store_cluster.es_append(int, text, bigint, jsonb) FROM PUBLIC;

CREATE FUNCTION @extschema@.es_append(stream_id text, expected_version bigint, events jsonb)
    RETURNS SETOF @extschema@.es_appended
    LANGUAGE c VOLATILE PARALLEL UNSAFE
    AS 'MODULE_PATHNAME', 'event_store_cluster_routed';
COMMENT ON FUNCTION @extschema@.es_append(text, bigint, jsonb) IS
    'appends events given as one JSON object or an array of objects, atomically';
REVOKE ALL ON FUNCTION @extschema@.es_append(text, bigint, jsonb) FROM PUBLIC;

CREATE FUNCTION event_store_cluster.es_append_streams(part int, jsonb)
    RETURNS TABLE (stream_id text, event_id uuid, version bigint, global_position bigint, is_duplicate boolean)
    LANGUAGE plproxy VOLATILE PARALLEL UNSAFE
    SET client_min_messages = warning
    AS $$
    CLUSTER 'event_store_cluster';
    RUN ON part;
    SELECT * FROM @extschema@.es_append_streams(event_store_shard.writing_all($2));
    $$;
COMMENT ON FUNCTION event_store_cluster.es_append_streams(int, jsonb) IS 'es_append_streams on a shard';
REVOKE ALL ON FUNCTION event_store_cluster.es_append_streams(int, jsonb) FROM PUBLIC;

CREATE FUNCTION @extschema@.es_append_streams(appends jsonb)
    RETURNS TABLE (stream_id text, event_id uuid, version bigint, global_position bigint, is_duplicate boolean)
    LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE
    AS $$
DECLARE
    message text;
    detail text;
    hint text;
    since timestamptz := pg_catalog.clock_timestamp();
BEGIN
    LOOP
        BEGIN
            RETURN QUERY SELECT * FROM event_store_cluster.es_append_streams(event_store_cluster.one_part($1), $1);
            RETURN;
        EXCEPTION WHEN OTHERS THEN
            GET STACKED DIAGNOSTICS message = MESSAGE_TEXT, detail = PG_EXCEPTION_DETAIL, hint = PG_EXCEPTION_HINT;
            PERFORM event_store_cluster.failed(SQLSTATE, message, detail, hint, since);
        END;
    END LOOP;
END
$$;
COMMENT ON FUNCTION @extschema@.es_append_streams(jsonb) IS
    'appends to several streams of one shard atomically, each under its expected version; 0A000 if they are on several';
REVOKE ALL ON FUNCTION @extschema@.es_append_streams(jsonb) FROM PUBLIC;

CREATE FUNCTION @extschema@.es_append_if(events jsonb, fail_if jsonb, after_position bigint DEFAULT NULL)
    RETURNS SETOF @extschema@.es_appended
    LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE
    AS $$
BEGIN
    RAISE feature_not_supported USING
        MESSAGE = 'conditions over events of several shards are not supported',
        DETAIL = 'No shard can tell what another one has just appended.',
        HINT = 'Keep what decisions by tags are about in one database with event_store, or decide by the version of a stream.';
END
$$;
COMMENT ON FUNCTION @extschema@.es_append_if(jsonb, jsonb, bigint) IS 'not over several shards: 0A000';
REVOKE ALL ON FUNCTION @extschema@.es_append_if(jsonb, jsonb, bigint) FROM PUBLIC;

CREATE FUNCTION @extschema@.es_decide(query jsonb, reducer regprocedure, initial jsonb,
        OUT state jsonb, OUT after_position bigint)
    RETURNS record
    LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE
    AS $$
BEGIN
    RAISE feature_not_supported USING
        MESSAGE = 'conditions over events of several shards are not supported',
        DETAIL = 'No position could be given to es_append_if.',
        HINT = 'Keep what decisions by tags are about in one database with event_store, or decide by the version of a stream.';
END
$$;
COMMENT ON FUNCTION @extschema@.es_decide(jsonb, regprocedure, jsonb) IS 'not over several shards: 0A000';
REVOKE ALL ON FUNCTION @extschema@.es_decide(jsonb, regprocedure, jsonb) FROM PUBLIC;

CREATE FUNCTION event_store_cluster.es_read_stream(part int, text, bigint, bigint, boolean)
    RETURNS SETOF @extschema@.es_event
    LANGUAGE plproxy VOLATILE PARALLEL UNSAFE
    SET client_min_messages = warning
    AS $$
    CLUSTER 'event_store_cluster';
    RUN ON part;
    SELECT * FROM @extschema@.es_read_stream(event_store_shard.reading($2), $3, $4, $5);
    $$;
COMMENT ON FUNCTION event_store_cluster.es_read_stream(int, text, bigint, bigint, boolean) IS 'es_read_stream on a shard';
REVOKE ALL ON FUNCTION event_store_cluster.es_read_stream(int, text, bigint, bigint, boolean) FROM PUBLIC;

CREATE FUNCTION @extschema@.es_read_stream(stream_id text, from_version bigint DEFAULT NULL,
        max_count bigint DEFAULT NULL, backward boolean DEFAULT false)
    RETURNS SETOF @extschema@.es_event
    LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE
    AS $$
#variable_conflict use_column
DECLARE
    next_version bigint := from_version;
    missing bigint := max_count;
    event @extschema@.es_event;
    found bigint;
    page bigint;
    message text;
    detail text;
    hint text;
    since timestamptz := pg_catalog.clock_timestamp();
BEGIN
    -- PL/Proxy keeps an answer in memory, so a long stream comes in pages; what
    -- is appended only grows at its end
    LOOP
        BEGIN
            page := CASE WHEN missing OPERATOR(pg_catalog.<=) 1000 THEN missing ELSE 1000 END;
            found := 0;
            FOR event IN
                SELECT * FROM event_store_cluster.es_read_stream(event_store_cluster.part_of($1), $1, next_version, page, $4)
            LOOP
                RETURN NEXT event;
                found := found OPERATOR(pg_catalog.+) 1;
            END LOOP;
            missing := missing OPERATOR(pg_catalog.-) found;
            IF found OPERATOR(pg_catalog.<) 1000 OR missing OPERATOR(pg_catalog.=) 0 THEN
                RETURN;
            END IF;
            since := pg_catalog.clock_timestamp();
            next_version := event.version OPERATOR(pg_catalog.+) CASE WHEN backward THEN -1 ELSE 1 END;
            IF next_version OPERATOR(pg_catalog.<) 1 THEN
                RETURN;
            END IF;
        EXCEPTION WHEN OTHERS THEN
            GET STACKED DIAGNOSTICS message = MESSAGE_TEXT, detail = PG_EXCEPTION_DETAIL, hint = PG_EXCEPTION_HINT;
            PERFORM event_store_cluster.failed(SQLSTATE, message, detail, hint, since);
        END;
    END LOOP;
END
$$;
COMMENT ON FUNCTION @extschema@.es_read_stream(text, bigint, bigint, boolean) IS
    'events of a stream in the order of their versions; from_version is inclusive';
REVOKE ALL ON FUNCTION @extschema@.es_read_stream(text, bigint, bigint, boolean) FROM PUBLIC;

CREATE FUNCTION event_store_cluster.es_stream_version(part int, text)
    RETURNS bigint
    LANGUAGE plproxy VOLATILE PARALLEL UNSAFE
    AS $$
    CLUSTER 'event_store_cluster';
    RUN ON part;
    SELECT @extschema@.es_stream_version(event_store_shard.reading($2));
    $$;
COMMENT ON FUNCTION event_store_cluster.es_stream_version(int, text) IS 'es_stream_version on a shard';
REVOKE ALL ON FUNCTION event_store_cluster.es_stream_version(int, text) FROM PUBLIC;

CREATE FUNCTION @extschema@.es_stream_version(stream_id text)
    RETURNS bigint
    LANGUAGE c VOLATILE PARALLEL UNSAFE
    AS 'MODULE_PATHNAME', 'event_store_cluster_routed';
COMMENT ON FUNCTION @extschema@.es_stream_version(text) IS
    'last version of a stream, 0 if there is no such stream';
REVOKE ALL ON FUNCTION @extschema@.es_stream_version(text) FROM PUBLIC;

CREATE FUNCTION event_store_cluster.es_snapshot(part int, text, bigint, jsonb, int)
    RETURNS boolean
    LANGUAGE plproxy VOLATILE PARALLEL UNSAFE
    AS $$
    CLUSTER 'event_store_cluster';
    RUN ON part;
    SELECT @extschema@.es_snapshot(event_store_shard.writing($2), $3, $4, $5);
    $$;
COMMENT ON FUNCTION event_store_cluster.es_snapshot(int, text, bigint, jsonb, int) IS 'es_snapshot on a shard';
REVOKE ALL ON FUNCTION event_store_cluster.es_snapshot(int, text, bigint, jsonb, int) FROM PUBLIC;

CREATE FUNCTION @extschema@.es_snapshot(stream_id text, version bigint, data jsonb, schema_version int DEFAULT 1)
    RETURNS boolean
    LANGUAGE c VOLATILE PARALLEL UNSAFE
    AS 'MODULE_PATHNAME', 'event_store_cluster_routed';
COMMENT ON FUNCTION @extschema@.es_snapshot(text, bigint, jsonb, int) IS
    'keeps the state of a stream at a version; false when a newer snapshot is there already';
REVOKE ALL ON FUNCTION @extschema@.es_snapshot(text, bigint, jsonb, int) FROM PUBLIC;

CREATE TYPE event_store_cluster.snapshot AS (
    stream_id text,
    version bigint,
    data jsonb,
    schema_version int,
    created_at timestamptz
);
COMMENT ON TYPE event_store_cluster.snapshot IS 'what es_read_snapshot answers';

CREATE FUNCTION event_store_cluster.es_read_snapshot(part int, text, int)
    RETURNS event_store_cluster.snapshot
    LANGUAGE plproxy VOLATILE PARALLEL UNSAFE
    AS $$
    CLUSTER 'event_store_cluster';
    RUN ON part;
    SELECT * FROM @extschema@.es_read_snapshot(event_store_shard.reading($2), $3);
    $$;
COMMENT ON FUNCTION event_store_cluster.es_read_snapshot(int, text, int) IS 'es_read_snapshot on a shard';
REVOKE ALL ON FUNCTION event_store_cluster.es_read_snapshot(int, text, int) FROM PUBLIC;

CREATE FUNCTION @extschema@.es_read_snapshot(stream_id text, schema_version int DEFAULT NULL)
    RETURNS event_store_cluster.snapshot
    LANGUAGE c VOLATILE PARALLEL UNSAFE
    AS 'MODULE_PATHNAME', 'event_store_cluster_routed';
COMMENT ON FUNCTION @extschema@.es_read_snapshot(text, int) IS
    'newest snapshot of a stream, of one schema version or of any; NULL when there is none';
REVOKE ALL ON FUNCTION @extschema@.es_read_snapshot(text, int) FROM PUBLIC;

CREATE FUNCTION event_store_cluster.es_load(part int, text, int, OUT version bigint, OUT snapshot_version bigint,
        OUT snapshot jsonb, OUT events @extschema@.es_event[])
    LANGUAGE plproxy VOLATILE PARALLEL UNSAFE
    AS $$
    CLUSTER 'event_store_cluster';
    RUN ON part;
    SELECT * FROM @extschema@.es_load(event_store_shard.reading($2), $3);
    $$;
COMMENT ON FUNCTION event_store_cluster.es_load(int, text, int) IS 'es_load on a shard';
REVOKE ALL ON FUNCTION event_store_cluster.es_load(int, text, int) FROM PUBLIC;

CREATE FUNCTION @extschema@.es_load(stream_id text, schema_version int DEFAULT NULL, OUT version bigint,
        OUT snapshot_version bigint, OUT snapshot jsonb, OUT events @extschema@.es_event[])
    LANGUAGE c VOLATILE PARALLEL UNSAFE
    AS 'MODULE_PATHNAME', 'event_store_cluster_routed';
COMMENT ON FUNCTION @extschema@.es_load(text, int) IS
    'newest snapshot of a stream and the events after it, in one call';
REVOKE ALL ON FUNCTION @extschema@.es_load(text, int) FROM PUBLIC;

CREATE FUNCTION event_store_cluster.es_state(part int, text, bigint, timestamptz, OUT version bigint, OUT state jsonb)
    LANGUAGE plproxy VOLATILE PARALLEL UNSAFE
    AS $$
    CLUSTER 'event_store_cluster';
    RUN ON part;
    SELECT * FROM @extschema@.es_state(event_store_shard.writing($2), $3, $4);
    $$;
COMMENT ON FUNCTION event_store_cluster.es_state(int, text, bigint, timestamptz) IS 'es_state on a shard';
REVOKE ALL ON FUNCTION event_store_cluster.es_state(int, text, bigint, timestamptz) FROM PUBLIC;

CREATE FUNCTION @extschema@.es_state(stream_id text, at_version bigint DEFAULT NULL, at_time timestamptz DEFAULT NULL,
        OUT version bigint, OUT state jsonb)
    LANGUAGE c VOLATILE PARALLEL UNSAFE
    AS 'MODULE_PATHNAME', 'event_store_cluster_routed';
COMMENT ON FUNCTION @extschema@.es_state(text, bigint, timestamptz) IS
    'state of a stream by its category''s reducer: now, at a version or at a time';
REVOKE ALL ON FUNCTION @extschema@.es_state(text, bigint, timestamptz) FROM PUBLIC;

CREATE FUNCTION event_store_cluster.es_tags(part int, uuid, text)
    RETURNS text[]
    LANGUAGE plproxy VOLATILE PARALLEL UNSAFE
    SET client_min_messages = warning
    AS $$
    CLUSTER 'event_store_cluster';
    RUN ON part;
    SELECT @extschema@.es_tags(@extschema@.es_read_event($2)) FROM event_store_shard.reading($3);
    $$;
COMMENT ON FUNCTION event_store_cluster.es_tags(int, uuid, text) IS 'es_tags on a shard';
REVOKE ALL ON FUNCTION event_store_cluster.es_tags(int, uuid, text) FROM PUBLIC;

CREATE FUNCTION @extschema@.es_tags(event @extschema@.es_event)
    RETURNS text[]
    LANGUAGE plpgsql VOLATILE STRICT PARALLEL UNSAFE
    AS $$
DECLARE
    message text;
    detail text;
    hint text;
    since timestamptz := pg_catalog.clock_timestamp();
BEGIN
    LOOP
        BEGIN
            -- by its id: the event that was read may be the original of one that has moved
            RETURN event_store_cluster.es_tags(event_store_cluster.part_of((event).stream_id),
                                               (event).event_id, (event).stream_id);
        EXCEPTION WHEN OTHERS THEN
            GET STACKED DIAGNOSTICS message = MESSAGE_TEXT, detail = PG_EXCEPTION_DETAIL, hint = PG_EXCEPTION_HINT;
            PERFORM event_store_cluster.failed(SQLSTATE, message, detail, hint, since);
        END;
    END LOOP;
END
$$;
COMMENT ON FUNCTION @extschema@.es_tags(@extschema@.es_event) IS
    'the tags of a stored event, sorted; an empty array if it has none';
REVOKE ALL ON FUNCTION @extschema@.es_tags(@extschema@.es_event) FROM PUBLIC;

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
REVOKE ALL ON FUNCTION @extschema@.es_envelope(@extschema@.es_event) FROM PUBLIC;

--
-- The order of events, over all shards.  A place in it is a vector: a position
-- for each shard.
--

CREATE TYPE @extschema@.es_shard_event AS (
    global_position bigint,
    stream_id text,
    version bigint,
    event_id uuid,
    event_type text,
    schema_version int,
    data jsonb,
    metadata jsonb,
    created_at timestamptz,
    shard int,
    positions bigint[]
);
COMMENT ON TYPE @extschema@.es_shard_event IS
    'an event as it is read from all shards: its shard, and the positions after which the next read goes on';

-- Each shard answers with its head, in the snapshot of the page, and with a
-- page of its own events; without any with its head alone.
CREATE TYPE event_store_cluster.page_row AS (
    shard int,
    head bigint,
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
COMMENT ON TYPE event_store_cluster.page_row IS 'a row of a page of one shard';

CREATE FUNCTION event_store_cluster.page(positions bigint[], size bigint, categories text[], types text[], back boolean)
    RETURNS SETOF event_store_cluster.page_row
    LANGUAGE plproxy VOLATILE PARALLEL UNSAFE
    SET client_min_messages = warning
    AS $$
    CLUSTER 'event_store_cluster';
    RUN ON ALL;
    SELECT h.shard, h.head, e.*
      FROM (SELECT i.shard, @extschema@.es_head() AS head FROM event_store_shard.identity i OFFSET 0) h
      LEFT JOIN LATERAL (SELECT r.* FROM @extschema@.es_read_all(($1)[h.shard], NULL, $3, $4, $5) r
                          WHERE NOT event_store_shard.is_copy(r.stream_id, r.global_position)
                          LIMIT $2) e ON true;
    $$;
COMMENT ON FUNCTION event_store_cluster.page(bigint[], bigint, text[], text[], boolean) IS 'the next events of each shard, as es_read_all has them';
REVOKE ALL ON FUNCTION event_store_cluster.page(bigint[], bigint, text[], text[], boolean) FROM PUBLIC;

CREATE FUNCTION event_store_cluster.page(positions bigint[], size bigint, query jsonb, back boolean)
    RETURNS SETOF event_store_cluster.page_row
    LANGUAGE plproxy VOLATILE PARALLEL UNSAFE
    SET client_min_messages = warning
    AS $$
    CLUSTER 'event_store_cluster';
    RUN ON ALL;
    SELECT h.shard, h.head, e.*
      FROM (SELECT i.shard, @extschema@.es_head() AS head FROM event_store_shard.identity i OFFSET 0) h
      LEFT JOIN LATERAL (SELECT r.* FROM @extschema@.es_read_query($3, ($1)[h.shard], NULL, $4) r
                          WHERE NOT event_store_shard.is_copy(r.stream_id, r.global_position)
                          LIMIT $2) e ON true;
    $$;
COMMENT ON FUNCTION event_store_cluster.page(bigint[], bigint, jsonb, boolean) IS 'the next events of each shard, as es_read_query has them';
REVOKE ALL ON FUNCTION event_store_cluster.page(bigint[], bigint, jsonb, boolean) FROM PUBLIC;

-- Events of different shards are put in the order of their times, as far as that
-- leaves each shard's own order alone (so a time counts as that of the latest
-- event before it, if that is later).  What is exact besides: events of a stream
-- that has moved come after those that it had where it was, whatever the clocks
-- say; a shard that is at such an event waits until the others have been read,
-- or have nothing more, up to where the stream left them.  done is how far each
-- shard has been read in that sense.
CREATE FUNCTION event_store_cluster.merge(query jsonb, after_positions bigint[], max_count bigint, categories text[],
        event_types text[], backward boolean)
    RETURNS SETOF @extschema@.es_shard_event
    LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE
    SET search_path = pg_catalog, pg_temp
    AS $$
DECLARE
    missing bigint := max_count;
    positions bigint[] := after_positions;
    done bigint[];
    size bigint;
    rows event_store_cluster.page_row[];
    event record;
    moved boolean;
    found bigint;
    advanced boolean;
    reached bigint;
    shards record;
    complete boolean;
    message text;
    detail text;
    hint text;
BEGIN
    IF backward IS NULL THEN
        RAISE null_value_not_allowed USING MESSAGE = 'backward must not be null';
    ELSIF max_count < 0 THEN
        RAISE invalid_parameter_value USING MESSAGE = 'max_count must not be negative';
    ELSIF array_ndims(after_positions) > 1 OR array_lower(after_positions, 1) <> 1 THEN
        RAISE invalid_parameter_value USING MESSAGE = 'positions must be an array of one dimension that begins at 1';
    ELSIF current_setting('transaction_isolation') <> 'read committed' THEN
        RAISE feature_not_supported USING
            MESSAGE = 'the order of events over several shards is read in READ COMMITTED only',
            DETAIL = 'There is no snapshot that several servers share.';
    END IF;
    LOOP
        size := least(missing, 1000);
        BEGIN
            IF query IS NULL THEN
                rows := ARRAY(SELECT p FROM event_store_cluster.page(positions, size, categories, event_types, backward) p);
            ELSE
                rows := ARRAY(SELECT p FROM event_store_cluster.page(positions, size, query, backward) p);
            END IF;
        EXCEPTION WHEN OTHERS THEN
            GET STACKED DIAGNOSTICS message = MESSAGE_TEXT, detail = PG_EXCEPTION_DETAIL, hint = PG_EXCEPTION_HINT;
            PERFORM event_store_cluster.failed(SQLSTATE, message, detail, hint, '-infinity');
        END;
        IF done IS NULL THEN
            positions := ARRAY(SELECT coalesce(after_positions[s.shard], CASE WHEN backward THEN s.head + 1 ELSE 0 END)
                                 FROM (SELECT DISTINCT r.shard, r.head FROM unnest(rows) r) s ORDER BY s.shard);
            done := positions;
        END IF;
        -- seen after the page was read: a move is there before the first event after it
        moved := EXISTS (SELECT FROM event_store_cluster.move m
                          WHERE CASE WHEN backward THEN done[m.to_shard] > m.to_position
                                     ELSE done[m.from_shard] < m.from_position END);
        found := 0;
        advanced := false;
        complete := true;
        FOR event IN
            WITH page AS (
                SELECT p.*,
                       CASE WHEN backward THEN min(p.created_at) OVER before ELSE max(p.created_at) OVER before END AS at,
                       count(*) OVER (PARTITION BY p.shard) = size AS is_full,
                       -- this one, or one before it, must wait
                       bool_or(moved AND event_store_cluster.must_wait(p.shard, p.stream_id, p.global_position, done, backward))
                           OVER before AS waits
                  FROM unnest(rows) WITH ORDINALITY AS p (shard, head, global_position, stream_id, version, event_id,
                           event_type, schema_version, data, metadata, created_at, number)
                 WHERE p.global_position IS NOT NULL
                WINDOW before AS (PARTITION BY p.shard ORDER BY p.number)),
            -- beyond the end of a page that is full something may come that is earlier
            known AS (
                SELECT CASE WHEN backward THEN max(l.at) ELSE min(l.at) END AS at
                  FROM (SELECT CASE WHEN backward THEN min(p.at) ELSE max(p.at) END AS at
                          FROM page p WHERE p.is_full GROUP BY p.shard HAVING NOT bool_or(p.waits)) l)
            SELECT p.* FROM page p, known k
             WHERE NOT p.waits
               AND (k.at IS NULL OR CASE WHEN backward THEN p.at >= k.at ELSE p.at <= k.at END)
             ORDER BY CASE WHEN NOT backward THEN p.at END, CASE WHEN backward THEN p.at END DESC, p.shard, p.number
             LIMIT missing
        LOOP
            positions[event.shard] := event.global_position;
            found := found + 1;
            RETURN NEXT ROW(event.global_position, event.stream_id, event.version, event.event_id, event.event_type,
                            event.schema_version, event.data, event.metadata, event.created_at, event.shard,
                            positions)::@extschema@.es_shard_event;
        END LOOP;
        missing := missing - found;
        EXIT WHEN missing = 0;
        -- as far as the first event that was not returned, or as the shard goes
        FOR shards IN
            SELECT r.shard, max(r.head) AS head, count(r.global_position) < size AS is_end,
                   CASE WHEN backward THEN max(r.global_position) FILTER (WHERE r.global_position < positions[r.shard])
                        ELSE min(r.global_position) FILTER (WHERE r.global_position > positions[r.shard]) END AS unread
              FROM unnest(rows) r GROUP BY r.shard
        LOOP
            IF shards.unread IS NOT NULL THEN
                reached := shards.unread + CASE WHEN backward THEN 1 ELSE -1 END;
                complete := false;
            ELSIF NOT shards.is_end THEN
                reached := positions[shards.shard];
                complete := false;
            ELSE
                reached := CASE WHEN backward THEN 0 ELSE greatest(shards.head, positions[shards.shard]) END;
            END IF;
            advanced := advanced OR reached <> done[shards.shard];
            done[shards.shard] := reached;
        END LOOP;
        EXIT WHEN complete OR (found = 0 AND NOT advanced);
    END LOOP;
END
$$;
COMMENT ON FUNCTION event_store_cluster.merge(jsonb, bigint[], bigint, text[], text[], boolean) IS
    'events of all shards after a vector of positions; does the work of es_read_all, es_read_category and es_read_query';
REVOKE ALL ON FUNCTION event_store_cluster.merge(jsonb, bigint[], bigint, text[], text[], boolean) FROM PUBLIC;

-- m1: a move that the event came after (forward; backward: before); m2: that
-- one, and those of the slot before (after) it.
CREATE FUNCTION event_store_cluster.must_wait(shard int, stream_id text, global_position bigint, done bigint[],
        backward boolean)
    RETURNS boolean
    LANGUAGE sql VOLATILE PARALLEL UNSAFE
    SET search_path = pg_catalog, pg_temp
    AS $$
    SELECT CASE WHEN $5 THEN EXISTS (
                    SELECT FROM event_store_cluster.move m1 JOIN event_store_cluster.move m2 USING (slot)
                     WHERE m1.slot = event_store_cluster.slot_of($2) AND m1.from_shard = $1 AND m1.from_position >= $3
                       AND m2.move_id >= m1.move_id AND m2.to_shard <> $1 AND $4[m2.to_shard] > m2.to_position)
                ELSE EXISTS (
                    SELECT FROM event_store_cluster.move m1 JOIN event_store_cluster.move m2 USING (slot)
                     WHERE m1.slot = event_store_cluster.slot_of($2) AND m1.to_shard = $1 AND m1.to_position < $3
                       AND m2.move_id <= m1.move_id AND m2.from_shard <> $1 AND $4[m2.from_shard] < m2.from_position)
           END
    $$;
COMMENT ON FUNCTION event_store_cluster.must_wait(int, text, bigint, bigint[], boolean) IS
    'whether events of the stream on other shards are to be read before this one';
REVOKE ALL ON FUNCTION event_store_cluster.must_wait(int, text, bigint, bigint[], boolean) FROM PUBLIC;

CREATE FUNCTION @extschema@.es_read_all(after_positions bigint[] DEFAULT NULL, max_count bigint DEFAULT 1000,
        categories text[] DEFAULT NULL, event_types text[] DEFAULT NULL, backward boolean DEFAULT false)
    RETURNS SETOF @extschema@.es_shard_event
    LANGUAGE sql VOLATILE PARALLEL UNSAFE
    AS 'SELECT * FROM event_store_cluster.merge(NULL, $1, $2, $3, $4, $5)';
COMMENT ON FUNCTION @extschema@.es_read_all(bigint[], bigint, text[], text[], boolean) IS
    'events of all shards, of each a settled prefix; go on with positions of the last one';
REVOKE ALL ON FUNCTION @extschema@.es_read_all(bigint[], bigint, text[], text[], boolean) FROM PUBLIC;

CREATE FUNCTION @extschema@.es_read_category(category text, after_positions bigint[] DEFAULT NULL,
        max_count bigint DEFAULT 1000, backward boolean DEFAULT false)
    RETURNS SETOF @extschema@.es_shard_event
    LANGUAGE sql VOLATILE PARALLEL UNSAFE
    AS 'SELECT * FROM event_store_cluster.merge(NULL, $2, $3, ARRAY[$1], NULL, $4)';
COMMENT ON FUNCTION @extschema@.es_read_category(text, bigint[], bigint, boolean) IS
    'events of the streams of one category, of all shards; go on with positions of the last one';
REVOKE ALL ON FUNCTION @extschema@.es_read_category(text, bigint[], bigint, boolean) FROM PUBLIC;

CREATE FUNCTION @extschema@.es_read_query(query jsonb, after_positions bigint[] DEFAULT NULL, max_count bigint DEFAULT 1000,
        backward boolean DEFAULT false)
    RETURNS SETOF @extschema@.es_shard_event
    LANGUAGE sql VOLATILE PARALLEL UNSAFE
    AS $$SELECT * FROM event_store_cluster.merge(coalesce($1, 'null'), $2, $3, NULL, NULL, $4)$$;
COMMENT ON FUNCTION @extschema@.es_read_query(jsonb, bigint[], bigint, boolean) IS
    'events that match a query of event types and tags, of all shards; go on with positions of the last one';
REVOKE ALL ON FUNCTION @extschema@.es_read_query(jsonb, bigint[], bigint, boolean) FROM PUBLIC;

--
-- All shards
--

CREATE FUNCTION event_store_cluster.es_head()
    RETURNS TABLE (shard int, head bigint)
    LANGUAGE plproxy VOLATILE PARALLEL UNSAFE
    SET client_min_messages = warning
    AS $$
    CLUSTER 'event_store_cluster';
    RUN ON ALL;
    SELECT i.shard, @extschema@.es_head() AS head FROM event_store_shard.identity i;
    $$;
COMMENT ON FUNCTION event_store_cluster.es_head() IS 'es_head of each shard';
REVOKE ALL ON FUNCTION event_store_cluster.es_head() FROM PUBLIC;

CREATE FUNCTION @extschema@.es_head() RETURNS bigint[]
    LANGUAGE sql VOLATILE PARALLEL UNSAFE
    AS 'SELECT array_agg(h.head ORDER BY h.shard) FROM event_store_cluster.es_head() h';
COMMENT ON FUNCTION @extschema@.es_head() IS 'highest settled position of each shard, 0 where it is empty';
REVOKE ALL ON FUNCTION @extschema@.es_head() FROM PUBLIC;

-- a stream that has moved is on several; the copies on the one that has it now
-- are what es_read_stream shows
CREATE FUNCTION event_store_cluster.es_read_event(event_id uuid)
    RETURNS SETOF event_store_cluster.page_row
    LANGUAGE plproxy VOLATILE PARALLEL UNSAFE
    SET client_min_messages = warning
    AS $$
    CLUSTER 'event_store_cluster';
    RUN ON ALL;
    SELECT i.shard, event_store_shard.is_here(e.stream_id)::int::bigint AS head, e.*
      FROM event_store_shard.identity i, @extschema@.es_read_event($1) e
     WHERE e.global_position IS NOT NULL;
    $$;
COMMENT ON FUNCTION event_store_cluster.es_read_event(uuid) IS 'the event with this id, of each shard that has it; head is 1 where its stream belongs';
REVOKE ALL ON FUNCTION event_store_cluster.es_read_event(uuid) FROM PUBLIC;

CREATE FUNCTION @extschema@.es_read_event(event_id uuid) RETURNS @extschema@.es_event
    LANGUAGE sql VOLATILE PARALLEL UNSAFE
    AS $$
    SELECT e.global_position, e.stream_id, e.version, e.event_id, e.event_type, e.schema_version, e.data, e.metadata,
           e.created_at
      FROM event_store_cluster.es_read_event($1) e ORDER BY e.head DESC LIMIT 1
    $$;
COMMENT ON FUNCTION @extschema@.es_read_event(uuid) IS 'the event with this id, NULL when unknown';
REVOKE ALL ON FUNCTION @extschema@.es_read_event(uuid) FROM PUBLIC;

CREATE FUNCTION event_store_cluster.execute(statement text)
    RETURNS TABLE (shard int, result jsonb)
    LANGUAGE plproxy VOLATILE PARALLEL UNSAFE
    SET client_min_messages = warning
    AS $$
    CLUSTER 'event_store_cluster';
    RUN ON ALL;
    SELECT i.shard, r AS result FROM event_store_shard.identity i, event_store_shard.execute($1) r;
    $$;
COMMENT ON FUNCTION event_store_cluster.execute(text) IS 'es_on_shards, without its errors put right';
REVOKE ALL ON FUNCTION event_store_cluster.execute(text) FROM PUBLIC;

CREATE FUNCTION @extschema@.es_on_shards(query text)
    RETURNS TABLE (shard int, result jsonb)
    LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE
    AS $$
DECLARE
    message text;
    detail text;
    hint text;
BEGIN
    RETURN QUERY SELECT * FROM event_store_cluster.execute($1);
EXCEPTION WHEN OTHERS THEN
    GET STACKED DIAGNOSTICS message = MESSAGE_TEXT, detail = PG_EXCEPTION_DETAIL, hint = PG_EXCEPTION_HINT;
    PERFORM event_store_cluster.failed(SQLSTATE, message, detail, hint, '-infinity');
END
$$;
COMMENT ON FUNCTION @extschema@.es_on_shards(text) IS
    'runs a query on every shard, in a transaction on each; its rows, as JSON';
REVOKE ALL ON FUNCTION @extschema@.es_on_shards(text) FROM PUBLIC;

--
-- Administration
--

CREATE FUNCTION event_store_cluster.join_cluster(part int, shard int) RETURNS void
    LANGUAGE plproxy VOLATILE PARALLEL UNSAFE
    SET client_min_messages = warning
    AS $$
    CLUSTER 'event_store_cluster';
    RUN ON part;
    SELECT event_store_shard.join_cluster($2);
    $$;
COMMENT ON FUNCTION event_store_cluster.join_cluster(int, int) IS 'event_store_shard.join_cluster on a shard';
REVOKE ALL ON FUNCTION event_store_cluster.join_cluster(int, int) FROM PUBLIC;

CREATE FUNCTION event_store_cluster.begin_copy(part int, slots int[], from_shard int, OUT here int[], OUT copied_upto bigint)
    LANGUAGE plproxy VOLATILE PARALLEL UNSAFE
    SET client_min_messages = warning
    AS $$
    CLUSTER 'event_store_cluster';
    RUN ON part;
    SELECT * FROM event_store_shard.begin_copy($2, $3);
    $$;
COMMENT ON FUNCTION event_store_cluster.begin_copy(int, int[], int) IS 'event_store_shard.begin_copy on a shard';
REVOKE ALL ON FUNCTION event_store_cluster.begin_copy(int, int[], int) FROM PUBLIC;

CREATE FUNCTION event_store_cluster.copy_out(part int, slots int[], after_position bigint, limit_position bigint,
        OUT upto_position bigint, OUT last_position bigint, OUT is_end boolean, OUT events jsonb)
    LANGUAGE plproxy VOLATILE PARALLEL UNSAFE
    SET client_min_messages = warning
    AS $$
    CLUSTER 'event_store_cluster';
    RUN ON part;
    SELECT * FROM event_store_shard.copy_out($2, $3, $4);
    $$;
COMMENT ON FUNCTION event_store_cluster.copy_out(int, int[], bigint, bigint) IS 'event_store_shard.copy_out on a shard';
REVOKE ALL ON FUNCTION event_store_cluster.copy_out(int, int[], bigint, bigint) FROM PUBLIC;

CREATE FUNCTION event_store_cluster.copy_in(part int, slots int[], upto bigint, last bigint, events jsonb) RETURNS bigint
    LANGUAGE plproxy VOLATILE PARALLEL UNSAFE
    SET client_min_messages = warning
    AS $$
    CLUSTER 'event_store_cluster';
    RUN ON part;
    SELECT event_store_shard.copy_in($2, $3, $4, $5);
    $$;
COMMENT ON FUNCTION event_store_cluster.copy_in(int, int[], bigint, bigint, jsonb) IS 'event_store_shard.copy_in on a shard';
REVOKE ALL ON FUNCTION event_store_cluster.copy_in(int, int[], bigint, bigint, jsonb) FROM PUBLIC;

CREATE FUNCTION event_store_cluster.release(part int, slots int[]) RETURNS bigint
    LANGUAGE plproxy VOLATILE PARALLEL UNSAFE
    SET client_min_messages = warning
    AS $$
    CLUSTER 'event_store_cluster';
    RUN ON part;
    SELECT event_store_shard.release($2);
    $$;
COMMENT ON FUNCTION event_store_cluster.release(int, int[]) IS 'event_store_shard.release on a shard';
REVOKE ALL ON FUNCTION event_store_cluster.release(int, int[]) FROM PUBLIC;

CREATE FUNCTION event_store_cluster.accept(part int, slots int[])
    RETURNS TABLE (slot int, from_position bigint, to_position bigint)
    LANGUAGE plproxy VOLATILE PARALLEL UNSAFE
    SET client_min_messages = warning
    AS $$
    CLUSTER 'event_store_cluster';
    RUN ON part;
    SELECT * FROM event_store_shard.accept($2);
    $$;
COMMENT ON FUNCTION event_store_cluster.accept(int, int[]) IS 'event_store_shard.accept on a shard';
REVOKE ALL ON FUNCTION event_store_cluster.accept(int, int[]) FROM PUBLIC;

CREATE FUNCTION event_store_cluster.owners(slots int[])
    RETURNS TABLE (shard int, slot int)
    LANGUAGE plproxy VOLATILE PARALLEL UNSAFE
    SET client_min_messages = warning
    AS $$
    CLUSTER 'event_store_cluster';
    RUN ON ALL;
    SELECT i.shard, s.slot FROM event_store_shard.identity i, event_store_shard.slot s WHERE s.slot = ANY ($1);
    $$;
COMMENT ON FUNCTION event_store_cluster.owners(int[]) IS 'the shards that have the slots, by their own word';
REVOKE ALL ON FUNCTION event_store_cluster.owners(int[]) FROM PUBLIC;

CREATE FUNCTION @extschema@.es_add_shard(connection text) RETURNS int
    LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE
    SET search_path = pg_catalog, pg_temp
    AS $$
DECLARE
    new_shard int;
    definitions text;
BEGIN
    IF connection IS NULL THEN
        RAISE null_value_not_allowed USING MESSAGE = 'connection must not be null';
    END IF;
    LOCK TABLE event_store_cluster.move IN EXCLUSIVE MODE;
    SELECT count(*) + 1 INTO new_shard
      FROM pg_foreign_server s, unnest(s.srvoptions) AS o
     WHERE s.srvname = 'event_store_cluster' AND o ~ '^p[0-9]+=';
    IF new_shard = 1 THEN
        EXECUTE format($s$CREATE SERVER event_store_cluster FOREIGN DATA WRAPPER plproxy
                           OPTIONS (modular_mapping '1', p0 %L)$s$, connection);
        CREATE USER MAPPING FOR PUBLIC SERVER event_store_cluster;
    ELSE
        EXECUTE format('ALTER SERVER event_store_cluster OPTIONS (ADD %I %L)', 'p' || new_shard - 1, connection);
    END IF;
    PERFORM event_store_cluster.join_cluster(new_shard - 1, new_shard);
    IF new_shard = 1 THEN
        INSERT INTO event_store_cluster.slot SELECT generate_series(0, 1023), 1;
    END IF;
    -- a stream must be read alike wherever it is
    SELECT string_agg(DISTINCT format('%s shard=%s', a.result ->> 'what', a.shard), E'\n') INTO definitions
      FROM (SELECT r.*, count(*) OVER (PARTITION BY r.result) AS n
              FROM event_store_cluster.execute(
                $q$SELECT format('upcaster=%s,%s', u.event_type, u.schema_version) AS what, to_jsonb(u) AS definition
                     FROM event_store.upcaster u
                    UNION ALL
                   SELECT format('aggregate=%s', a.category), to_jsonb(a) FROM event_store.aggregate a$q$) r) a
     WHERE a.n < new_shard;
    IF definitions IS NOT NULL THEN
        RAISE object_not_in_prerequisite_state USING
            MESSAGE = 'the shards do not define the same upcasters and aggregates',
            DETAIL = definitions,
            HINT = 'Bring the new shard to the same definitions, then add it.';
    END IF;
    RETURN new_shard;
END
$$;
COMMENT ON FUNCTION @extschema@.es_add_shard(text) IS
    'makes a database with event_store_shard a shard; its number. The first one has all slots, the others none before es_move_slots or es_balance';
REVOKE ALL ON FUNCTION @extschema@.es_add_shard(text) FROM PUBLIC;

-- What is read after this, of the router and of the shards, stays as it is.  A
-- snapshot from before would have the map as it was before the move that was
-- waited for.
CREATE FUNCTION event_store_cluster.lock_moves() RETURNS void
    LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE
    SET search_path = pg_catalog, pg_temp
    AS $$
BEGIN
    IF current_setting('transaction_isolation') <> 'read committed' THEN
        RAISE feature_not_supported USING
            MESSAGE = 'slots are moved in READ COMMITTED only',
            HINT = 'Set default_transaction_isolation to "read committed".';
    END IF;
    LOCK TABLE event_store_cluster.move IN EXCLUSIVE MODE;
END
$$;
COMMENT ON FUNCTION event_store_cluster.lock_moves() IS 'one move at a time: waits for others, and keeps them out to the end of the transaction';
REVOKE ALL ON FUNCTION event_store_cluster.lock_moves() FROM PUBLIC;

CREATE FUNCTION event_store_cluster.move_slots(moving int[], source int, target int) RETURNS bigint
    LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE
    SET search_path = pg_catalog, pg_temp
    AS $$
DECLARE
    begun record;
    missing int[];
    page record;
    upto bigint;
    end_position bigint;
    copied bigint := 0;
    elsewhere text;
BEGIN
    PERFORM event_store_cluster.lock_moves();
    -- the shards' word counts: what a third one has must not be copied from
    -- where it was before
    SELECT string_agg(format('slot=%s shard=%s', o.slot, o.shard), E'\n' ORDER BY o.slot, o.shard) INTO elsewhere
      FROM (SELECT w.*, count(*) OVER (PARTITION BY w.slot) AS n FROM event_store_cluster.owners(moving) w) o
     WHERE o.n > 1 OR o.shard NOT IN (source, target);
    IF elsewhere IS NOT NULL THEN
        RAISE object_not_in_prerequisite_state USING
            MESSAGE = 'slots belong to another shard than the router''s table says',
            DETAIL = elsewhere,
            HINT = 'A move there has ended early, or another router has moved them. CALL es_move_slots to that shard first.';
    END IF;
    SELECT * INTO begun FROM event_store_cluster.begin_copy(target - 1, moving, source);
    missing := ARRAY(SELECT unnest(moving) EXCEPT SELECT unnest(begun.here));
    upto := begun.copied_upto;
    IF missing <> '{}' THEN
        -- what is there, while appends go on
        LOOP
            SELECT * INTO page FROM event_store_cluster.copy_out(source - 1, missing, upto, NULL);
            upto := page.upto_position;
            copied := copied + event_store_cluster.copy_in(target - 1, missing, upto, page.last_position, page.events);
            EXIT WHEN page.is_end;
        END LOOP;
        -- from here on appends to these slots wait; first those under way end
        FOR attempt IN 1 .. 100 LOOP
            BEGIN
                end_position := event_store_cluster.release(source - 1, missing);
                EXIT;
            EXCEPTION WHEN lock_not_available THEN
                IF attempt = 100 THEN
                    RAISE lock_not_available USING
                        MESSAGE = format('appends of shard %s that are under way do not end', source),
                        HINT = 'Nothing has changed. Look for the transactions that hold locks there, and try again.';
                END IF;
                PERFORM pg_sleep(0.1);
            END;
        END LOOP;
        LOOP
            SELECT * INTO page FROM event_store_cluster.copy_out(source - 1, missing, upto, end_position);
            upto := page.upto_position;
            copied := copied + event_store_cluster.copy_in(target - 1, missing, upto, page.last_position, page.events);
            EXIT WHEN page.is_end;
        END LOOP;
    END IF;
    INSERT INTO event_store_cluster.move (slot, from_shard, from_position, to_shard, to_position)
    SELECT a.slot, source, a.from_position, target, a.to_position
      FROM event_store_cluster.accept(target - 1, moving) a ORDER BY a.slot;
    UPDATE event_store_cluster.slot s SET shard = target WHERE s.slot = ANY (moving);
    RETURN copied;
END
$$;
COMMENT ON FUNCTION event_store_cluster.move_slots(int[], int, int) IS 'moves slots of one shard to another one; the number of events that were copied';
REVOKE ALL ON FUNCTION event_store_cluster.move_slots(int[], int, int) FROM PUBLIC;

CREATE PROCEDURE @extschema@.es_move_slots(slots int[], to_shard int)
    LANGUAGE plpgsql
    AS $$
DECLARE
    source record;
    lost int[];
    copied bigint;
BEGIN
    -- fails in a transaction block, where the map would not be seen in time
    COMMIT;
    IF to_shard IS NULL OR slots IS NULL THEN
        RAISE null_value_not_allowed USING MESSAGE = 'slots and to_shard must not be null';
    END IF;
    IF NOT EXISTS (SELECT FROM event_store_cluster.es_head() h WHERE h.shard OPERATOR(pg_catalog.=) to_shard) THEN
        RAISE invalid_parameter_value USING MESSAGE = pg_catalog.format('there is no shard %s', to_shard);
    END IF;
    PERFORM event_store_cluster.lock_moves();
    -- what should be there, was given away and has come to nobody: it is whole
    -- where it was
    lost := ARRAY(SELECT s.slot
                    FROM event_store_cluster.slot s
                   WHERE s.slot OPERATOR(pg_catalog.=) ANY (es_move_slots.slots) AND s.shard OPERATOR(pg_catalog.=) to_shard
                  EXCEPT
                  SELECT o.slot FROM event_store_cluster.owners(es_move_slots.slots) o);
    IF pg_catalog.cardinality(lost) OPERATOR(pg_catalog.>) 0 THEN
        PERFORM event_store_cluster.accept(to_shard OPERATOR(pg_catalog.-) 1, lost);
        RAISE NOTICE 'shard % has taken % slots back', to_shard, pg_catalog.cardinality(lost);
    END IF;
    LOOP
        -- under the lock: another mover may have moved them meanwhile
        PERFORM event_store_cluster.lock_moves();
        SELECT s.shard, pg_catalog.array_agg(s.slot ORDER BY s.slot) AS slots INTO source
          FROM event_store_cluster.slot s
         WHERE s.slot OPERATOR(pg_catalog.=) ANY (es_move_slots.slots) AND s.shard OPERATOR(pg_catalog.<>) to_shard
         GROUP BY s.shard ORDER BY s.shard LIMIT 1;
        EXIT WHEN NOT FOUND;
        copied := event_store_cluster.move_slots(source.slots, source.shard, to_shard);
        COMMIT;
        RAISE NOTICE 'moved % slots from shard % to shard %, % events', pg_catalog.cardinality(source.slots), source.shard, to_shard, copied;
    END LOOP;
END
$$;
COMMENT ON PROCEDURE @extschema@.es_move_slots(int[], int) IS
    'moves slots, with their streams, to a shard; appends to them wait for a moment at the end. Call it again if it has ended early';
REVOKE ALL ON PROCEDURE @extschema@.es_move_slots(int[], int) FROM PUBLIC;

CREATE PROCEDURE @extschema@.es_balance()
    LANGUAGE plpgsql
    AS $$
DECLARE
    shards int := (SELECT pg_catalog.count(*) FROM event_store_cluster.es_head());
    target int;
    moving int[];
BEGIN
    FOR target IN 1 .. shards LOOP
        -- what the others have too much, as far as this one has too little
        SELECT pg_catalog.array_agg(o.slot) INTO moving
          FROM (SELECT s.slot
                  FROM (SELECT s.slot, s.shard,
                               pg_catalog.row_number() OVER (PARTITION BY s.shard ORDER BY s.slot)
                                   OPERATOR(pg_catalog.-) (1024 OPERATOR(pg_catalog./) shards) AS too_much
                          FROM event_store_cluster.slot s) s
                 WHERE s.shard OPERATOR(pg_catalog.<>) target AND s.too_much OPERATOR(pg_catalog.>) 0
                 ORDER BY s.too_much DESC, s.slot
                 LIMIT greatest((1024 OPERATOR(pg_catalog./) shards) OPERATOR(pg_catalog.-)
                                (SELECT pg_catalog.count(*) FROM event_store_cluster.slot s
                                  WHERE s.shard OPERATOR(pg_catalog.=) target), 0)) o;
        IF moving IS NOT NULL THEN
            CALL @extschema@.es_move_slots(moving, target);
        END IF;
    END LOOP;
END
$$;
COMMENT ON PROCEDURE @extschema@.es_balance() IS 'moves as few slots as it takes that all shards have the same number of them';
REVOKE ALL ON PROCEDURE @extschema@.es_balance() FROM PUBLIC;

--
-- Permissions: here, who may call what; on a shard the rights of the role as
-- which he comes there.
--

CREATE FUNCTION event_store_cluster.change_grants(role text, kind text, is_grant boolean) RETURNS void
    LANGUAGE plpgsql
    SET search_path = pg_catalog, pg_temp
    AS $$
DECLARE
    action text := CASE WHEN is_grant THEN 'GRANT %s TO %I' ELSE 'REVOKE %s FROM %I' END;
    reads text[] := '{es_any,es_exists,es_read_stream,es_stream_version,es_read_event,es_tags,es_envelope,es_read_snapshot,'
                    'es_load,es_state,es_head,slot_of,shard_of,part_of,failed}';
    orders text[] := '{es_read_all,es_read_category,es_read_query,page,merge,must_wait}';
    writes text[] := '{es_append,es_append_batch,es_append_streams,es_append_if,es_decide,es_snapshot,one_part}';
    object text;
BEGIN
    IF role IS NULL OR kind IS NULL THEN
        RAISE null_value_not_allowed USING MESSAGE = 'role and kind must not be null';
    END IF;
    IF kind NOT IN ('reader', 'writer') THEN
        RAISE invalid_parameter_value USING
            MESSAGE = format('invalid kind "%s"', kind),
            DETAIL = 'It must be reader or writer.',
            HINT = 'A cluster is administered by the owner of the extension.';
    END IF;
    FOR object IN
        SELECT format('EXECUTE ON FUNCTION %s', p.oid::regprocedure)
          FROM pg_depend d JOIN pg_extension x ON d.refclassid = 'pg_extension'::regclass AND d.refobjid = x.oid
          JOIN pg_proc p ON d.classid = 'pg_proc'::regclass AND d.objid = p.oid
         WHERE x.extname = 'event_store_cluster' AND d.deptype = 'e'
           AND p.proname = ANY (CASE kind WHEN 'reader' THEN reads || orders ELSE reads || writes END)
        UNION ALL
        SELECT unnest('{USAGE ON SCHEMA event_store_cluster,USAGE ON FOREIGN SERVER event_store_cluster,'
                      'SELECT ON event_store_cluster.slot,SELECT ON event_store_cluster.move}'::text[])
    LOOP
        EXECUTE format(action, object, role);
    END LOOP;
END
$$;
COMMENT ON FUNCTION event_store_cluster.change_grants(text, text, boolean) IS 'does the work of es_grant and es_revoke';
REVOKE ALL ON FUNCTION event_store_cluster.change_grants(text, text, boolean) FROM PUBLIC;

CREATE FUNCTION @extschema@.es_grant(role text, kind text) RETURNS void
    LANGUAGE sql
    AS 'SELECT event_store_cluster.change_grants($1, $2, true)';
COMMENT ON FUNCTION @extschema@.es_grant(text, text) IS
    'gives a role what a reader or writer needs on the router; on the shards the role as which it comes needs the same';
REVOKE ALL ON FUNCTION @extschema@.es_grant(text, text) FROM PUBLIC;

CREATE FUNCTION @extschema@.es_revoke(role text, kind text) RETURNS void
    LANGUAGE sql
    AS 'SELECT event_store_cluster.change_grants($1, $2, false)';
COMMENT ON FUNCTION @extschema@.es_revoke(text, text) IS 'takes back what es_grant gave; of a reader and writer call es_grant again for what he keeps';
REVOKE ALL ON FUNCTION @extschema@.es_revoke(text, text) FROM PUBLIC;
