/*
 * event_store_shard: what a database with an event store needs to be one of
 * several.
 *
 * A stream belongs to one of 1024 slots, by a hash of its name, and a slot to
 * one shard.  The router (event_store_cluster) knows which; so does the shard,
 * and its word counts: a router that has not heard yet that a slot has moved is
 * refused with SQLSTATE 55ES1 and looks again.
 *
 * A slot moves by copying: its events are imported by the new shard with their
 * versions, ids and times, at positions of their own, and stay where they were,
 * too.  So that a reader of all shards meets each event once, a copy is left
 * out where the order of events is read: an event is a copy if its slot did not
 * belong to the shard when it was written.
 *
 * Who appends holds lock (slot, 0) in share mode from before he looks whether
 * the slot is here to the end of his transaction; who gives slots away, or
 * takes them, holds it exclusively.
 */
\echo Use "CREATE EXTENSION event_store_shard" to load this file. \quit

GRANT USAGE ON SCHEMA event_store_shard TO PUBLIC;

CREATE TABLE event_store_shard.identity (
    shard int NOT NULL
);
CREATE UNIQUE INDEX identity_one_row ON event_store_shard.identity ((true));
COMMENT ON TABLE event_store_shard.identity IS 'which shard of its cluster this database is; one row';
COMMENT ON COLUMN event_store_shard.identity.shard IS 'number of the shard: 1, 2, 3 ...';

CREATE TABLE event_store_shard.slot (
    slot int PRIMARY KEY CHECK (slot BETWEEN 0 AND 1023)
);
COMMENT ON TABLE event_store_shard.slot IS 'the slots that belong to this shard';
COMMENT ON COLUMN event_store_shard.slot.slot IS 'slot of a stream: event_store_shard.slot_of(stream_id)';

-- ALWAYS: also for what logical replication brings
CREATE FUNCTION event_store_shard.slots_changed() RETURNS trigger
    LANGUAGE c AS 'MODULE_PATHNAME', 'event_store_cluster_slots_changed';
COMMENT ON FUNCTION event_store_shard.slots_changed() IS 'tells all sessions, which keep the table in memory';
REVOKE ALL ON FUNCTION event_store_shard.slots_changed() FROM PUBLIC;
CREATE TRIGGER slots_changed AFTER INSERT OR UPDATE OR DELETE ON event_store_shard.slot
    FOR EACH ROW EXECUTE FUNCTION event_store_shard.slots_changed();
ALTER TABLE event_store_shard.slot ENABLE ALWAYS TRIGGER slots_changed;

CREATE TABLE event_store_shard.copy (
    copy_id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    slot int NOT NULL CHECK (slot BETWEEN 0 AND 1023),
    from_shard int NOT NULL,
    after_position bigint NOT NULL,
    upto_position bigint,
    copied_upto bigint NOT NULL DEFAULT 0,
    last_copied bigint NOT NULL DEFAULT 0
);
CREATE INDEX copy_slot_idx ON event_store_shard.copy (slot);
COMMENT ON TABLE event_store_shard.copy IS 'slots that were moved to this shard, or are being moved';
COMMENT ON COLUMN event_store_shard.copy.copy_id IS 'number of the move, on this shard';
COMMENT ON COLUMN event_store_shard.copy.slot IS 'the slot';
COMMENT ON COLUMN event_store_shard.copy.from_shard IS 'where it came from';
COMMENT ON COLUMN event_store_shard.copy.after_position IS 'events of the slot after this position of this shard ...';
COMMENT ON COLUMN event_store_shard.copy.upto_position IS '... and up to this one are copies; NULL while the slot is on its way';
COMMENT ON COLUMN event_store_shard.copy.copied_upto IS 'position of the other shard up to which events have been copied';
COMMENT ON COLUMN event_store_shard.copy.last_copied IS 'position, on the other shard, of the last event that was copied';

SELECT pg_catalog.pg_extension_config_dump('event_store_shard.identity', '');
SELECT pg_catalog.pg_extension_config_dump('event_store_shard.slot', '');
SELECT pg_catalog.pg_extension_config_dump('event_store_shard.copy', '');
SELECT pg_catalog.pg_extension_config_dump('event_store_shard.copy_copy_id_seq', '');

GRANT SELECT ON event_store_shard.identity, event_store_shard.slot, event_store_shard.copy TO PUBLIC;

--
-- Streams.  These functions run with the caller's rights, and tell only what
-- everybody may read: they are left to PUBLIC.  Those that look into tables are
-- plpgsql, which keeps its plans; a function in SQL that has a subquery is planned
-- at every call.
--

-- the same function as event_store_cluster.slot_of
CREATE FUNCTION event_store_shard.slot_of(stream_id text) RETURNS int
    LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE
    AS 'SELECT (pg_catalog.hashtextextended($1 COLLATE "C", 0) OPERATOR(pg_catalog.&) 1023)::pg_catalog.int4';
COMMENT ON FUNCTION event_store_shard.slot_of(text) IS 'slot of a stream, 0 to 1023';

CREATE FUNCTION event_store_shard.is_here(stream_id text) RETURNS boolean
    LANGUAGE plpgsql STABLE PARALLEL SAFE
    AS $$
BEGIN
    RETURN EXISTS (SELECT FROM event_store_shard.slot s
                    WHERE s.slot OPERATOR(pg_catalog.=) coalesce(event_store_shard.slot_of(stream_id), 0));
END
$$;
COMMENT ON FUNCTION event_store_shard.is_here(text) IS 'whether a stream belongs to this shard';

CREATE FUNCTION event_store_shard.is_copy(stream_id text, global_position bigint) RETURNS boolean
    LANGUAGE plpgsql STABLE PARALLEL SAFE
    AS $$
BEGIN
    RETURN EXISTS (SELECT FROM event_store_shard.copy c
                    WHERE c.slot OPERATOR(pg_catalog.=) event_store_shard.slot_of(stream_id)
                      AND c.after_position OPERATOR(pg_catalog.<) is_copy.global_position
                      AND (c.upto_position IS NULL OR c.upto_position OPERATOR(pg_catalog.>=) is_copy.global_position));
END
$$;
COMMENT ON FUNCTION event_store_shard.is_copy(text, bigint) IS
    'whether an event on this shard is the copy of one on the shard from which its stream was moved';

CREATE FUNCTION event_store_shard.reading(stream_id text) RETURNS text
    LANGUAGE plpgsql STABLE PARALLEL SAFE
    AS $$
BEGIN
    IF NOT EXISTS (SELECT FROM event_store_shard.slot s
                    WHERE s.slot OPERATOR(pg_catalog.=) coalesce(event_store_shard.slot_of(stream_id), 0)) THEN
        RAISE SQLSTATE '55ES1' USING
            MESSAGE = pg_catalog.format('stream "%s" does not belong to this shard', stream_id),
            HINT = 'Use the functions of the router, which knows where it is.';
    END IF;
    RETURN stream_id;
END
$$;
COMMENT ON FUNCTION event_store_shard.reading(text) IS
    'the stream, if it belongs to this shard in the snapshot of the calling statement; 55ES1 otherwise';

CREATE FUNCTION event_store_shard.writing(stream_id text) RETURNS text
    LANGUAGE c VOLATILE PARALLEL UNSAFE
    AS 'MODULE_PATHNAME', 'event_store_shard_writing';
COMMENT ON FUNCTION event_store_shard.writing(text) IS
    'the stream, if it belongs to this shard; it stays here to the end of the transaction; 55ES1 otherwise';

CREATE FUNCTION event_store_shard.writing_all(appends jsonb) RETURNS jsonb
    LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE
    AS $$
BEGIN
    -- what is not as it should be is refused by es_append_streams itself
    IF pg_catalog.jsonb_typeof(appends) OPERATOR(pg_catalog.=) 'array' THEN
        PERFORM event_store_shard.writing(a OPERATOR(pg_catalog.->>) 'stream_id')
           FROM pg_catalog.jsonb_array_elements(appends) AS a;
    END IF;
    RETURN appends;
END
$$;
COMMENT ON FUNCTION event_store_shard.writing_all(jsonb) IS 'event_store_shard.writing for all streams of es_append_streams';

CREATE FUNCTION event_store_shard.lock_key() RETURNS int
    LANGUAGE sql STABLE PARALLEL SAFE
    AS $$SELECT 'event_store_shard.slot'::pg_catalog.regclass::pg_catalog.oid::pg_catalog.int8::pg_catalog.int4$$;
COMMENT ON FUNCTION event_store_shard.lock_key() IS 'first key of the advisory lock that holds slots where they are; the second is 0';

--
-- Moving.  For the owner, as whom the router's administrator comes here.
--

CREATE FUNCTION event_store_shard.call(function text, arguments text DEFAULT '') RETURNS text
    LANGUAGE sql STABLE
    SET search_path = pg_catalog, pg_temp
    AS $$
    SELECT format('SELECT %I.%I(%s)', n.nspname, $1, $2)
      FROM pg_extension e JOIN pg_namespace n ON n.oid = e.extnamespace
     WHERE e.extname = 'event_store'
    $$;
COMMENT ON FUNCTION event_store_shard.call(text, text) IS 'the statement that calls a function of the event store, in whatever schema that is';
REVOKE ALL ON FUNCTION event_store_shard.call(text, text) FROM PUBLIC;

CREATE FUNCTION event_store_shard.join_cluster(shard int) RETURNS void
    LANGUAGE plpgsql
    SET search_path = pg_catalog, pg_temp
    AS $$
BEGIN
    IF join_cluster.shard = (SELECT i.shard FROM event_store_shard.identity i) THEN
        RETURN;                 -- an attempt that failed on the router
    END IF;
    IF EXISTS (SELECT FROM event_store_shard.identity) THEN
        RAISE object_not_in_prerequisite_state USING
            MESSAGE = format('database "%s" is a shard of a cluster already', current_database());
    END IF;
    INSERT INTO event_store_shard.identity VALUES (join_cluster.shard);
    -- the first one brings its events along
    IF join_cluster.shard = 1 THEN
        INSERT INTO event_store_shard.slot SELECT generate_series(0, 1023);
    ELSIF EXISTS (SELECT FROM event_store.event) THEN
        RAISE object_not_in_prerequisite_state USING
            MESSAGE = format('the event store of database "%s" has events', current_database()),
            HINT = 'Only the first shard of a cluster may begin with events; the others get them by moving slots.';
    END IF;
END
$$;
COMMENT ON FUNCTION event_store_shard.join_cluster(int) IS 'makes this database a shard of a cluster';
REVOKE ALL ON FUNCTION event_store_shard.join_cluster(int) FROM PUBLIC;

CREATE FUNCTION event_store_shard.begin_copy(slots int[], from_shard int, OUT here int[], OUT copied_upto bigint)
    LANGUAGE plpgsql
    SET search_path = pg_catalog, pg_temp
    AS $$
DECLARE
    missing int[] := ARRAY(SELECT unnest(slots) EXCEPT SELECT s.slot FROM event_store_shard.slot s);
BEGIN
    here := ARRAY(SELECT unnest(slots) EXCEPT SELECT unnest(missing));
    -- a move from another shard that ended early: what it has brought are copies
    UPDATE event_store_shard.copy c
       SET upto_position = (SELECT coalesce(max(e.global_position), 0) FROM event_store.event e)
     WHERE c.slot = ANY (missing) AND c.upto_position IS NULL AND c.from_shard <> begin_copy.from_shard;
    -- what a slot has here from an earlier stay was committed before it went
    INSERT INTO event_store_shard.copy (slot, from_shard, after_position)
    SELECT s, begin_copy.from_shard, (SELECT coalesce(max(e.global_position), 0) FROM event_store.event e)
      FROM unnest(missing) AS s
     WHERE NOT EXISTS (SELECT FROM event_store_shard.copy c WHERE c.slot = s AND c.upto_position IS NULL);
    SELECT coalesce(min(c.copied_upto), 0) INTO copied_upto
      FROM event_store_shard.copy c WHERE c.slot = ANY (missing) AND c.upto_position IS NULL;
END
$$;
COMMENT ON FUNCTION event_store_shard.begin_copy(int[], int) IS
    'begins to take slots, or goes on; those that are here already, and how far the others have come';
REVOKE ALL ON FUNCTION event_store_shard.begin_copy(int[], int) FROM PUBLIC;

CREATE FUNCTION event_store_shard.copy_out(slots int[], after_position bigint, limit_position bigint,
        OUT upto_position bigint, OUT last_position bigint, OUT is_end boolean, OUT events jsonb)
    LANGUAGE plpgsql STABLE
    SET search_path = pg_catalog, pg_temp
    AS $$
DECLARE
    head bigint := limit_position;
BEGIN
    IF head IS NULL THEN
        EXECUTE event_store_shard.call('es_head') INTO head;
    END IF;
    -- a page: what is next in the log, 2000 events or the first 4 MB of them,
    -- and of these the ones that go, as they are stored
    SELECT max(p.global_position), count(*) < 2000 AND max(p.global_position) IS NOT DISTINCT FROM max(p.last),
           max(p.global_position) FILTER (WHERE p.goes),
           jsonb_agg(jsonb_build_object(
               'stream_id', p.stream_id, 'version', p.version, 'event_id', p.event_id, 'event_type', p.event_type,
               'schema_version', p.schema_version, 'data', p.data, 'metadata', p.metadata, 'tags', to_jsonb(p.tags),
               'created_at', p.created_at) ORDER BY p.global_position) FILTER (WHERE p.goes)
      INTO upto_position, is_end, last_position, events
      FROM (SELECT e.*, s.stream_id, t.event_type,
                   s.stream_id IS NOT NULL AND event_store_shard.slot_of(s.stream_id) = ANY (slots) AS goes,
                   max(e.global_position) OVER () AS last,
                   sum(pg_column_size(e.data) + pg_column_size(e.metadata)) OVER before AS bytes
              FROM (SELECT * FROM event_store.event
                     WHERE global_position > after_position AND global_position <= head
                     ORDER BY global_position LIMIT 2000) e
              LEFT JOIN event_store.stream s ON s.stream_no = e.stream_no
              JOIN event_store.event_type t ON t.type_no = e.type_no
            WINDOW before AS (ORDER BY e.global_position ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING)) p
     WHERE coalesce(p.bytes, 0) < 4 * 1024 * 1024;
    upto_position := coalesce(upto_position, after_position);
    is_end := coalesce(is_end, true);
END
$$;
COMMENT ON FUNCTION event_store_shard.copy_out(int[], bigint, bigint) IS
    'a page of the events of slots after a position, up to one or (NULL) as far as everything is settled; where it ends, and whether that is all';
REVOKE ALL ON FUNCTION event_store_shard.copy_out(int[], bigint, bigint) FROM PUBLIC;

CREATE FUNCTION event_store_shard.copy_in(slots int[], upto_position bigint, last_position bigint, events jsonb)
    RETURNS bigint
    LANGUAGE plpgsql
    SET search_path = pg_catalog, pg_temp
    AS $$
DECLARE
    missing jsonb;
    copied bigint := 0;
BEGIN
    -- what has been copied already, by an attempt that ended early or on an
    -- earlier stay, is left out
    SELECT jsonb_agg(e.event ORDER BY e.number) INTO missing
      FROM jsonb_array_elements(events) WITH ORDINALITY AS e (event, number)
      LEFT JOIN event_store.stream s ON s.stream_id = e.event ->> 'stream_id'
     WHERE (e.event ->> 'version')::int >
           coalesce((SELECT max(o.version) FROM event_store.event o WHERE o.stream_no = s.stream_no), 0);
    IF missing IS NOT NULL THEN
        EXECUTE event_store_shard.call('es_import', quote_literal(format(
            $q$SELECT e ->> 'stream_id' AS stream_id, (e ->> 'version')::int8 AS version,
                      (e ->> 'event_id')::uuid AS event_id, e ->> 'event_type' AS event_type,
                      (e ->> 'schema_version')::int4 AS schema_version, e -> 'data' AS data, e -> 'metadata' AS metadata,
                      (e ->> 'created_at')::timestamptz AS created_at,
                      CASE WHEN jsonb_typeof(e -> 'tags') = 'array'
                           THEN ARRAY(SELECT jsonb_array_elements_text(e -> 'tags')) END AS tags
                 FROM jsonb_array_elements(%L) WITH ORDINALITY AS t (e, number) ORDER BY number$q$, missing)))
           INTO copied;
    END IF;
    UPDATE event_store_shard.copy c
       SET copied_upto = greatest(c.copied_upto, copy_in.upto_position),
           last_copied = greatest(c.last_copied, copy_in.last_position)
     WHERE c.slot = ANY (slots) AND c.upto_position IS NULL;
    RETURN copied;
END
$$;
COMMENT ON FUNCTION event_store_shard.copy_in(int[], bigint, bigint, jsonb) IS
    'imports a page of copy_out, with versions, ids and times; how many of its events were not here yet';
REVOKE ALL ON FUNCTION event_store_shard.copy_in(int[], bigint, bigint, jsonb) FROM PUBLIC;

CREATE FUNCTION event_store_shard.release(slots int[]) RETURNS bigint
    LANGUAGE plpgsql
    SET search_path = pg_catalog, pg_temp
    -- appends that come meanwhile queue behind this one
    SET lock_timeout = '500ms'
    AS $$
BEGIN
    -- a snapshot from before the wait has not what was waited for
    IF current_setting('transaction_isolation') <> 'read committed' THEN
        RAISE feature_not_supported USING
            MESSAGE = 'a shard gives slots away in READ COMMITTED only',
            HINT = 'Set default_transaction_isolation of the shard''s database to "read committed".';
    END IF;
    PERFORM pg_advisory_xact_lock(event_store_shard.lock_key(), 0);
    DELETE FROM event_store_shard.slot s WHERE s.slot = ANY (slots);
    RETURN (SELECT coalesce(max(e.global_position), 0) FROM event_store.event e);
END
$$;
COMMENT ON FUNCTION event_store_shard.release(int[]) IS
    'gives slots away when all appends that are under way have ended, and tells a position that none of their events is after; nobody appends to them until another shard has accepted them';
REVOKE ALL ON FUNCTION event_store_shard.release(int[]) FROM PUBLIC;

CREATE FUNCTION event_store_shard.accept(slots int[])
    RETURNS TABLE (slot int, from_position bigint, to_position bigint)
    LANGUAGE plpgsql
    SET search_path = pg_catalog, pg_temp
    AS $$
BEGIN
    -- Nobody appends to these slots here before this is committed: the events
    -- that they have up to now are copies, those that come later are not.
    UPDATE event_store_shard.copy c
       SET upto_position = (SELECT coalesce(max(e.global_position), 0) FROM event_store.event e)
     WHERE c.slot = ANY (slots) AND c.upto_position IS NULL;
    INSERT INTO event_store_shard.slot AS s SELECT unnest(slots) ON CONFLICT DO NOTHING;
    RETURN QUERY
    SELECT DISTINCT ON (c.slot) c.slot, c.last_copied, c.upto_position
      FROM event_store_shard.copy c WHERE c.slot = ANY (slots)
     ORDER BY c.slot, c.copy_id DESC;
END
$$;
COMMENT ON FUNCTION event_store_shard.accept(int[]) IS
    'takes slots that have been copied; for each the position of its last event on the shard where it was, and the one here after which its events are new';
REVOKE ALL ON FUNCTION event_store_shard.accept(int[]) FROM PUBLIC;

-- With the caller's rights: nothing that a connection of his own could not do.
CREATE FUNCTION event_store_shard.execute(statement text) RETURNS SETOF jsonb
    LANGUAGE plpgsql
    AS $$
DECLARE
    result record;
BEGIN
    FOR result IN EXECUTE statement LOOP
        RETURN NEXT pg_catalog.to_jsonb(result);
    END LOOP;
END
$$;
COMMENT ON FUNCTION event_store_shard.execute(text) IS 'runs a query; its rows, as JSON';
REVOKE ALL ON FUNCTION event_store_shard.execute(text) FROM PUBLIC;
