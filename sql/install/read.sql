--
-- Read
--

CREATE FUNCTION event_store.es_read_support(internal) RETURNS internal
    LANGUAGE c STRICT AS 'MODULE_PATHNAME', 'es_read_support';
COMMENT ON FUNCTION event_store.es_read_support(internal) IS 'planner support for the functions that read events';
REVOKE ALL ON FUNCTION event_store.es_read_support(internal) FROM PUBLIC;

CREATE FUNCTION @extschema@.es_read_stream(stream_id text, from_version bigint DEFAULT NULL,
        max_count bigint DEFAULT NULL, backward boolean DEFAULT false)
    RETURNS SETOF @extschema@.es_event
    LANGUAGE c STABLE PARALLEL RESTRICTED ROWS 50 SUPPORT event_store.es_read_support
    AS 'MODULE_PATHNAME', 'es_read_stream';
COMMENT ON FUNCTION @extschema@.es_read_stream(text, bigint, bigint, boolean) IS
    'events of a stream in the order of their versions; from_version is inclusive';
REVOKE ALL ON FUNCTION @extschema@.es_read_stream(text, bigint, bigint, boolean) FROM PUBLIC;

CREATE FUNCTION @extschema@.es_read_all(after_position bigint DEFAULT NULL, max_count bigint DEFAULT 1000,
        categories text[] DEFAULT NULL, event_types text[] DEFAULT NULL, backward boolean DEFAULT false)
    RETURNS SETOF @extschema@.es_event
    LANGUAGE c STABLE PARALLEL RESTRICTED SUPPORT event_store.es_read_support
    AS 'MODULE_PATHNAME', 'es_read_all';
COMMENT ON FUNCTION @extschema@.es_read_all(bigint, bigint, text[], text[], boolean) IS
    'events in the global order, always a settled prefix: no lower position can appear later; after_position is exclusive';
REVOKE ALL ON FUNCTION @extschema@.es_read_all(bigint, bigint, text[], text[], boolean) FROM PUBLIC;

CREATE FUNCTION @extschema@.es_read_category(category text, after_position bigint DEFAULT NULL,
        max_count bigint DEFAULT 1000, backward boolean DEFAULT false)
    RETURNS SETOF @extschema@.es_event
    LANGUAGE c STABLE PARALLEL RESTRICTED SUPPORT event_store.es_read_support
    AS 'MODULE_PATHNAME', 'es_read_category';
COMMENT ON FUNCTION @extschema@.es_read_category(text, bigint, bigint, boolean) IS
    'events of the streams of one category in the global order, a settled prefix';
REVOKE ALL ON FUNCTION @extschema@.es_read_category(text, bigint, bigint, boolean) FROM PUBLIC;

CREATE FUNCTION @extschema@.es_stream_version(stream_id text) RETURNS bigint
    LANGUAGE c STABLE PARALLEL RESTRICTED AS 'MODULE_PATHNAME', 'es_stream_version';
COMMENT ON FUNCTION @extschema@.es_stream_version(text) IS 'last version of a stream, 0 if there is no such stream';
REVOKE ALL ON FUNCTION @extschema@.es_stream_version(text) FROM PUBLIC;

CREATE FUNCTION @extschema@.es_head() RETURNS bigint
    LANGUAGE c STABLE PARALLEL RESTRICTED AS 'MODULE_PATHNAME', 'es_head';
COMMENT ON FUNCTION @extschema@.es_head() IS 'highest settled position, 0 when the store is empty';
REVOKE ALL ON FUNCTION @extschema@.es_head() FROM PUBLIC;

CREATE FUNCTION @extschema@.es_read_event(event_id uuid) RETURNS @extschema@.es_event
    LANGUAGE c STABLE PARALLEL RESTRICTED AS 'MODULE_PATHNAME', 'es_read_event';
COMMENT ON FUNCTION @extschema@.es_read_event(uuid) IS 'the event with this id, NULL when unknown';
REVOKE ALL ON FUNCTION @extschema@.es_read_event(uuid) FROM PUBLIC;

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

CREATE FUNCTION @extschema@.es_read_query(query jsonb, after_position bigint DEFAULT NULL, max_count bigint DEFAULT 1000,
        backward boolean DEFAULT false)
    RETURNS SETOF @extschema@.es_event
    LANGUAGE c STABLE PARALLEL RESTRICTED ROWS 50 SUPPORT event_store.es_read_support
    AS 'MODULE_PATHNAME', 'es_read_query';
COMMENT ON FUNCTION @extschema@.es_read_query(jsonb, bigint, bigint, boolean) IS
    'events that match a query of streams, event types and tags in the global order, a settled prefix';
REVOKE ALL ON FUNCTION @extschema@.es_read_query(jsonb, bigint, bigint, boolean) FROM PUBLIC;

CREATE FUNCTION @extschema@.es_tags(event @extschema@.es_event) RETURNS text[]
    LANGUAGE c STABLE STRICT PARALLEL RESTRICTED AS 'MODULE_PATHNAME', 'es_tags';
COMMENT ON FUNCTION @extschema@.es_tags(@extschema@.es_event) IS 'the tags of a stored event, sorted; an empty array if it has none';
REVOKE ALL ON FUNCTION @extschema@.es_tags(@extschema@.es_event) FROM PUBLIC;

CREATE FUNCTION @extschema@.es_position_at(at timestamptz) RETURNS bigint
    LANGUAGE sql STABLE STRICT PARALLEL RESTRICTED
    SET search_path = pg_catalog, pg_temp
    AS $$
    -- what is not settled may have been appended before
    SELECT least((SELECT min(e.global_position) - 1 FROM event_store.event e WHERE e.created_at >= at),
                 h.settled_head)
      FROM event_store.es_head_status() h
     WHERE h.settled_head IS NOT NULL
    $$;
COMMENT ON FUNCTION @extschema@.es_position_at(timestamptz) IS
    'position to read after for all events from that time on; 0 = from the beginning, the head = none yet';
REVOKE ALL ON FUNCTION @extschema@.es_position_at(timestamptz) FROM PUBLIC;

CREATE FUNCTION event_store.es_check_category(category text) RETURNS void
    LANGUAGE c IMMUTABLE STRICT PARALLEL SAFE AS 'MODULE_PATHNAME', 'es_check_category_name';
COMMENT ON FUNCTION event_store.es_check_category(text) IS 'refuses, SQLSTATE 22023, what cannot be a category';
REVOKE ALL ON FUNCTION event_store.es_check_category(text) FROM PUBLIC;

CREATE FUNCTION @extschema@.es_list_streams(category text DEFAULT NULL, prefix text DEFAULT NULL,
        after_stream text DEFAULT NULL, max_count bigint DEFAULT 1000)
    RETURNS TABLE (stream_id text, version bigint, last_position bigint, last_created_at timestamptz)
    LANGUAGE plpgsql STABLE PARALLEL RESTRICTED ROWS 100
    SET search_path = pg_catalog, pg_temp
    AS $$
BEGIN
    PERFORM event_store.es_check_category(category);
    IF max_count < 0 THEN
        RAISE 'invalid value for "max_count"' USING
            ERRCODE = 'invalid_parameter_value',
            DETAIL = format('It must be at least 0, not %s.', max_count);
    END IF;
    RETURN QUERY
    SELECT s.stream_id::text, e.version::int8, e.global_position, e.created_at
      FROM event_store.stream s
     CROSS JOIN LATERAL (SELECT l.version, l.global_position, l.created_at FROM event_store.event l
                          WHERE l.stream_no = s.stream_no
                          ORDER BY l.version DESC LIMIT 1) e
     WHERE (es_list_streams.category IS NULL
            OR split_part(s.stream_id, '-', 1) = es_list_streams.category)
       AND s.stream_id LIKE (regexp_replace(
               coalesce(prefix, CASE es_list_streams.category WHEN '' THEN '-' ELSE es_list_streams.category END, ''),
               '([\\%_])', '\\\1', 'g') || '%')
       AND (after_stream IS NULL OR s.stream_id > after_stream)
     ORDER BY s.stream_id
     LIMIT max_count;
END
$$;
COMMENT ON FUNCTION @extschema@.es_list_streams(text, text, text, bigint) IS
    'streams by name, page by page, with their last version and its position and time';
REVOKE ALL ON FUNCTION @extschema@.es_list_streams(text, text, text, bigint) FROM PUBLIC;

CREATE VIEW event_store.events AS
    SELECT e.global_position, s.stream_id::pg_catalog.text, e.version::pg_catalog.int8, e.event_id,
           event_store.es_upcast_type(t.event_type, e.schema_version) AS event_type,
           event_store.es_upcast_schema_version(t.event_type, e.schema_version) AS schema_version,
           event_store.es_upcast_data(t.event_type, e.schema_version, e.data,
                                      e.event_id, coalesce(s.stream_id, ''), coalesce(e.version, 0),
                                      e.metadata) AS data,
           e.metadata, e.created_at,
           t.category::pg_catalog.text,
           coalesce(e.tags, '{}') AS tags
      FROM event_store.event e
      LEFT JOIN event_store.stream s ON s.stream_no OPERATOR(pg_catalog.=) e.stream_no
      JOIN event_store.event_type t ON t.type_no OPERATOR(pg_catalog.=) e.type_no
     -- before 15 a view reads with its owner's rights and would go round
     -- row-level security: then it shows nothing to whom policies apply
     WHERE pg_catalog.current_setting('server_version_num')::pg_catalog.int4 OPERATOR(pg_catalog.>=) 150000
        OR NOT pg_catalog.row_security_active('event_store.event'::pg_catalog.regclass);
COMMENT ON VIEW event_store.events IS
    'all visible events with names, for plain SQL; to follow the global order use es_read_all, which never skips';
COMMENT ON COLUMN event_store.events.global_position IS 'place in the global order; ascending, with gaps';
COMMENT ON COLUMN event_store.events.stream_id IS 'name of the stream; NULL for an event that belongs to none';
COMMENT ON COLUMN event_store.events.version IS 'place in the stream: 1, 2, 3 ...; NULL for an event that belongs to none';
COMMENT ON COLUMN event_store.events.event_id IS 'unique in the store';
COMMENT ON COLUMN event_store.events.event_type IS 'type in today''s shape';
COMMENT ON COLUMN event_store.events.schema_version IS 'version of the shape of data, today''s';
COMMENT ON COLUMN event_store.events.data IS 'payload in today''s shape, any JSON value';
COMMENT ON COLUMN event_store.events.metadata IS 'correlation_id, causation_id, user_id ...; a JSON object';
COMMENT ON COLUMN event_store.events.created_at IS 'when it was appended, by the server''s clock; not an order';
COMMENT ON COLUMN event_store.events.category IS 'part of the stream''s name before the first "-"';
COMMENT ON COLUMN event_store.events.tags IS 'what the event is about, beside its stream';

DO $$
BEGIN
    IF pg_catalog.current_setting('server_version_num')::pg_catalog.int4 OPERATOR(pg_catalog.>=) 150000 THEN
        ALTER VIEW event_store.events SET (security_invoker = true);
    END IF;
END
$$;

-- A name that no event of the stream may be seen with is hidden, too.  The
-- store itself reads below the executor and asks no policy.
CREATE FUNCTION event_store.es_stream_visible_support(internal) RETURNS internal
    LANGUAGE c STRICT AS 'MODULE_PATHNAME', 'es_stream_visible_support';
COMMENT ON FUNCTION event_store.es_stream_visible_support(internal) IS 'planner support of es_stream_visible';
REVOKE ALL ON FUNCTION event_store.es_stream_visible_support(internal) FROM PUBLIC;

CREATE FUNCTION event_store.es_stream_visible(stream_no bigint) RETURNS boolean
    LANGUAGE c STABLE STRICT PARALLEL UNSAFE COST 1000 SUPPORT event_store.es_stream_visible_support
    AS 'MODULE_PATHNAME', 'es_stream_visible';
COMMENT ON FUNCTION event_store.es_stream_visible(bigint) IS
    'whether the policies on the event table let the current user see an event of the stream';
REVOKE ALL ON FUNCTION event_store.es_stream_visible(bigint) FROM PUBLIC;

CREATE POLICY es_visible ON event_store.stream FOR SELECT USING (event_store.es_stream_visible(stream_no));
ALTER TABLE event_store.stream ENABLE ROW LEVEL SECURITY;

CREATE POLICY es_visible ON event_store.snapshot FOR SELECT
    USING (NOT row_security_active('event_store.event'::regclass));
ALTER TABLE event_store.snapshot ENABLE ROW LEVEL SECURITY;

CREATE VIEW event_store.categories AS
    SELECT c.category, coalesce(s.streams, 0) AS streams, c.events, c.event_types,
           c.last_position, l.created_at AS last_created_at
      FROM (SELECT t.category::text AS category, count(DISTINCT t.event_type) AS event_types,
                   sum(e.events)::bigint AS events, max(e.last_position) AS last_position
              FROM event_store.event_type t
              JOIN (SELECT v.type_no, count(*) AS events, max(v.global_position) AS last_position
                      FROM event_store.event v GROUP BY v.type_no) e ON e.type_no = t.type_no
             GROUP BY t.category) c
      LEFT JOIN (SELECT split_part(n.stream_id, '-', 1)::text AS category, count(*) AS streams
                   FROM event_store.stream n GROUP BY 1) s ON s.category = c.category
      LEFT JOIN event_store.event l ON l.global_position = c.last_position
     WHERE NOT row_security_active('event_store.event'::regclass)
        OR NOT has_table_privilege('event_store.event'::regclass, 'SELECT');
COMMENT ON VIEW event_store.categories IS
    'what is in the store, by category, counted when you look; empty for readers to whom row-level security applies';
COMMENT ON COLUMN event_store.categories.category IS 'part of the stream''s name before the first "-"; NULL = events that belong to no stream';
COMMENT ON COLUMN event_store.categories.streams IS 'its streams';
COMMENT ON COLUMN event_store.categories.events IS 'its events';
COMMENT ON COLUMN event_store.categories.event_types IS 'types of events, as they are stored';
COMMENT ON COLUMN event_store.categories.last_position IS 'position of the newest event';
COMMENT ON COLUMN event_store.categories.last_created_at IS 'when that was appended';
