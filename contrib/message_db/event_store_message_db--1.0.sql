\echo Use "CREATE EXTENSION event_store_message_db" to load this file. \quit

-- message-db's functions, type, view and reports, in its schema, on the event
-- store.  They run with the caller's rights.  What is not qualified comes from
-- pg_catalog; of the event store's functions only the schema is not known.
SET LOCAL search_path = pg_catalog, pg_temp;

CREATE SCHEMA message_store;
COMMENT ON SCHEMA message_store IS 'message-db''s interface to the event store';

CREATE TYPE message_store.message AS (
    id varchar,
    stream_name varchar,
    type varchar,
    position bigint,
    global_position bigint,
    data varchar,
    metadata varchar,
    time timestamp
);
COMMENT ON TYPE message_store.message IS 'a message as the functions return it';

--
-- Names of streams
--

CREATE FUNCTION message_store.category(stream_name varchar) RETURNS varchar
    LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$ SELECT pg_catalog.split_part($1, '-', 1)::pg_catalog.varchar $$;
COMMENT ON FUNCTION message_store.category(varchar) IS 'the part of the name before the first "-"';

CREATE FUNCTION message_store.is_category(stream_name varchar) RETURNS boolean
    LANGUAGE sql IMMUTABLE PARALLEL SAFE
    AS $$ SELECT NOT (pg_catalog.strpos($1, '-') OPERATOR(pg_catalog.<>) 0) IS TRUE $$;
COMMENT ON FUNCTION message_store.is_category(varchar) IS 'whether the name has no "-"';

CREATE FUNCTION message_store.id(stream_name varchar) RETURNS varchar
    LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$
    SELECT CASE WHEN pg_catalog.strpos($1, '-') OPERATOR(pg_catalog.>) 0
                THEN pg_catalog.substr($1, pg_catalog.strpos($1, '-') OPERATOR(pg_catalog.+) 1) END::pg_catalog.varchar $$;
COMMENT ON FUNCTION message_store.id(varchar) IS 'the part of the name behind the first "-", NULL for a category';

CREATE FUNCTION message_store.cardinal_id(stream_name varchar) RETURNS varchar
    LANGUAGE sql IMMUTABLE PARALLEL SAFE
    AS $$ SELECT pg_catalog.split_part(message_store.id($1), '+', 1)::pg_catalog.varchar $$;
COMMENT ON FUNCTION message_store.cardinal_id(varchar) IS 'the id before the first "+", NULL for a category';

CREATE FUNCTION message_store.hash_64(value varchar) RETURNS bigint
    LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$
    SELECT ('x' OPERATOR(pg_catalog.||) pg_catalog."left"(pg_catalog.md5($1), 16))::pg_catalog.bit(64)::pg_catalog.int8 $$;
COMMENT ON FUNCTION message_store.hash_64(varchar) IS 'the first 64 bits of the value''s MD5';

CREATE FUNCTION message_store.message_store_version() RETURNS varchar
    LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$ SELECT '1.3.0'::pg_catalog.varchar $$;
COMMENT ON FUNCTION message_store.message_store_version() IS 'the version of message-db whose interface this is';

--
-- Writing
--

CREATE FUNCTION message_store.acquire_lock(stream_name varchar) RETURNS bigint
    LANGUAGE plpgsql VOLATILE
    SET search_path = pg_catalog, pg_temp
    AS $$
DECLARE
    hash int8 := message_store.hash_64(message_store.category(acquire_lock.stream_name));
BEGIN
    PERFORM pg_advisory_xact_lock(hash);
    RETURN hash;
END
$$;
COMMENT ON FUNCTION message_store.acquire_lock(varchar) IS
    'an advisory lock on the category, to the end of the transaction; write_message does not need it and does not take it';

CREATE FUNCTION message_store.write_message(id varchar, stream_name varchar, type varchar, data jsonb,
        metadata jsonb DEFAULT NULL, expected_version bigint DEFAULT NULL) RETURNS bigint
    LANGUAGE c VOLATILE AS 'MODULE_PATHNAME', 'message_db_write_message';
COMMENT ON FUNCTION message_store.write_message(varchar, varchar, varchar, jsonb, jsonb, bigint) IS
    'appends a message; its position in the stream, from 0 on';

-- for imports, whose data is the JSON null where this one is NULL
CREATE FUNCTION message_store.event_metadata(metadata jsonb, data jsonb) RETURNS jsonb
    LANGUAGE c IMMUTABLE PARALLEL SAFE AS 'MODULE_PATHNAME', 'message_db_event_metadata';
COMMENT ON FUNCTION message_store.event_metadata(jsonb, jsonb) IS
    'the metadata of the event that write_message makes of a message with this metadata and data';

--
-- Reading
--

-- what write_message has put under "$message_db"
CREATE FUNCTION message_store.stored_metadata(metadata jsonb) RETURNS jsonb
    LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$
    SELECT CASE WHEN $1 OPERATOR(pg_catalog.?) '$message_db'
                THEN $1 OPERATOR(pg_catalog.->) '$message_db' OPERATOR(pg_catalog.->) 'metadata'
                ELSE NULLIF($1, '{}'::pg_catalog.jsonb) END $$;
COMMENT ON FUNCTION message_store.stored_metadata(jsonb) IS 'metadata as write_message was given it';

CREATE FUNCTION message_store.stored_data(data jsonb, metadata jsonb) RETURNS jsonb
    LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$
    SELECT CASE WHEN $2 OPERATOR(pg_catalog.?) '$message_db'
                 AND $2 OPERATOR(pg_catalog.->) '$message_db' OPERATOR(pg_catalog.?) 'no_data'
                THEN NULL ELSE $1 END $$;
COMMENT ON FUNCTION message_store.stored_data(jsonb, jsonb) IS 'data as write_message was given it';

-- and as text, which is most of the work of a read
CREATE FUNCTION message_store.data_text(data jsonb, metadata jsonb) RETURNS varchar
    LANGUAGE c IMMUTABLE STRICT PARALLEL SAFE AS 'MODULE_PATHNAME', 'message_db_data_text';
COMMENT ON FUNCTION message_store.data_text(jsonb, jsonb) IS 'the text of stored_data';

CREATE FUNCTION message_store.metadata_text(metadata jsonb) RETURNS varchar
    LANGUAGE c IMMUTABLE STRICT PARALLEL SAFE AS 'MODULE_PATHNAME', 'message_db_metadata_text';
COMMENT ON FUNCTION message_store.metadata_text(jsonb) IS 'the text of stored_metadata';

-- A consumer group divides the streams of a category by the hash of their
-- cardinal ids.  A stream that is named like its category has none: message-db
-- gives it to no member at all, here it goes by its name.
CREATE FUNCTION message_store.is_wanted(stream_name text, metadata jsonb, correlation varchar, member bigint, size bigint)
    RETURNS boolean
    LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$
    SELECT ($3 IS NULL OR
            pg_catalog.split_part(message_store.stored_metadata($2) OPERATOR(pg_catalog.->>) 'correlationStreamName', '-', 1)
                OPERATOR(pg_catalog.=) $3)
       AND ($4 IS NULL OR
            pg_catalog.mod(pg_catalog.abs(message_store.hash_64(COALESCE(message_store.cardinal_id($1), $1))), COALESCE($5, 1))
                OPERATOR(pg_catalog.=) $4) $$;
COMMENT ON FUNCTION message_store.is_wanted(text, jsonb, varchar, bigint, bigint) IS 'whether a message is one of a correlation and of a member of a consumer group';

CREATE FUNCTION message_store.check_condition(condition varchar) RETURNS void
    LANGUAGE plpgsql STABLE
    SET search_path = pg_catalog, pg_temp
    AS $$
BEGIN
    IF COALESCE(current_setting('message_store.sql_condition', true), '') IN ('', 'off') THEN
        RAISE EXCEPTION 'Retrieval with SQL condition is not activated';
    END IF;
END
$$;
COMMENT ON FUNCTION message_store.check_condition(varchar) IS 'refuses SQL conditions unless message_store.sql_condition is on';

-- The checks of get_category_messages; the category.
CREATE FUNCTION message_store.check_category(category varchar, correlation varchar, member bigint, size bigint) RETURNS text
    LANGUAGE plpgsql STABLE
    SET search_path = pg_catalog, pg_temp
    AS $$
BEGIN
    IF NOT message_store.is_category(category) THEN
        RAISE EXCEPTION 'Must be a category: %', category;
    END IF;
    IF strpos(correlation, '-') > 0 THEN
        RAISE EXCEPTION 'Correlation must be a category (Correlation: %)', correlation;
    END IF;
    IF (member IS NULL) <> (size IS NULL) THEN
        RAISE EXCEPTION 'Consumer group member and size must be specified (Consumer Group Member: %, Consumer Group Size: %)',
            member, size;
    ELSIF size < 1 THEN
        RAISE EXCEPTION 'Consumer group size must not be less than 1 (Consumer Group Member: %, Consumer Group Size: %)',
            member, size;
    ELSIF member < 0 THEN
        RAISE EXCEPTION 'Consumer group member must not be less than 0 (Consumer Group Member: %, Consumer Group Size: %)',
            member, size;
    ELSIF member >= size THEN
        RAISE EXCEPTION 'Consumer group member must be less than the group size (Consumer Group Member: %, Consumer Group Size: %)',
            member, size;
    END IF;
    RETURN category;
END
$$;
COMMENT ON FUNCTION message_store.check_category(varchar, varchar, bigint, bigint) IS 'checks what get_category_messages is asked for; the category';

CREATE FUNCTION message_store.check_stream(stream_name varchar) RETURNS text
    LANGUAGE plpgsql STABLE
    SET search_path = pg_catalog, pg_temp
    AS $$
BEGIN
    IF message_store.is_category(stream_name) THEN
        RAISE EXCEPTION 'Must be a stream name: %', stream_name;
    END IF;
    RETURN stream_name;
END
$$;
COMMENT ON FUNCTION message_store.check_stream(varchar) IS 'refuses the name of a category; the name';


CREATE FUNCTION message_store.limit_of(batch_size bigint) RETURNS bigint
    LANGUAGE sql IMMUTABLE PARALLEL SAFE
    AS $$ SELECT NULLIF(COALESCE($1, 1000), -1) $$;
COMMENT ON FUNCTION message_store.limit_of(bigint) IS 'a batch_size as LIMIT: 1000 unless given, none for -1';

-- a negative one is refused by LIMIT, in its words
CREATE FUNCTION message_store.count_of(batch_size bigint) RETURNS bigint
    LANGUAGE sql IMMUTABLE PARALLEL SAFE
    AS $$ SELECT CASE WHEN $1 OPERATOR(pg_catalog.<) 0 THEN NULL ELSE COALESCE($1, 1000) END $$;
COMMENT ON FUNCTION message_store.count_of(bigint) IS 'a batch_size as a number of events, NULL = all';

-- The functions that read call the event store's, whose schema is not the same
-- everywhere: @es@ below.  They are plain SELECTs, which the planner puts into
-- the query that calls them, so that events come one by one as they are
-- fetched.  A position beyond the head is an empty result here.  A condition,
-- SQL as text, goes through a function of its own.
DO $do$
DECLARE
    definitions text := $definitions$
CREATE FUNCTION message_store.get_stream_messages_where(stream_name varchar, "position" bigint, batch_size bigint,
        condition varchar) RETURNS SETOF message_store.message
    LANGUAGE plpgsql STABLE ROWS 100 AS $$
BEGIN
    PERFORM message_store.check_stream($1), message_store.check_condition($4);
    RETURN QUERY EXECUTE pg_catalog.format('
        SELECT id::pg_catalog.varchar, stream_name::pg_catalog.varchar, type::pg_catalog.varchar, position,
               global_position, data::pg_catalog.varchar, metadata::pg_catalog.varchar, time
          FROM (SELECT e.event_id, e.stream_id, e.event_type, e.version OPERATOR(pg_catalog.-) 1, e.global_position,
                       message_store.stored_data(e.data, e.metadata), message_store.stored_metadata(e.metadata),
                       pg_catalog.timezone(''UTC'', e.created_at)
                  FROM @es@.es_read_stream($1, GREATEST(COALESCE($2, 0), 0) OPERATOR(pg_catalog.+) 1) AS e)
               AS messages (id, stream_name, type, position, global_position, data, metadata, time)
         WHERE (%s)
         ORDER BY position LIMIT $3', $4)
        USING $1, $2, message_store.limit_of($3);
END
$$;

CREATE FUNCTION message_store.get_stream_messages(stream_name varchar, "position" bigint DEFAULT 0,
        batch_size bigint DEFAULT 1000, condition varchar DEFAULT NULL) RETURNS SETOF message_store.message
    LANGUAGE sql STABLE ROWS 100 AS $$
    (SELECT e.event_id::pg_catalog.varchar, e.stream_id::pg_catalog.varchar, e.event_type::pg_catalog.varchar,
            e.version OPERATOR(pg_catalog.-) 1, e.global_position,
            message_store.data_text(e.data, e.metadata),
            message_store.metadata_text(e.metadata),
            pg_catalog.timezone('UTC', e.created_at)
       FROM @es@.es_read_stream(message_store.check_stream($1),
                                GREATEST(COALESCE($2, 0), 0) OPERATOR(pg_catalog.+) 1,
                                message_store.count_of($3)) AS e
      WHERE $4 IS NULL
      ORDER BY e.version
      LIMIT message_store.limit_of($3))
    UNION ALL
    SELECT * FROM message_store.get_stream_messages_where($1, $2, $3, $4) WHERE $4 IS NOT NULL $$;

CREATE FUNCTION message_store.get_last_stream_message(stream_name varchar, type varchar DEFAULT NULL)
    RETURNS SETOF message_store.message
    LANGUAGE sql STABLE ROWS 1 AS $$
    SELECT e.event_id::pg_catalog.varchar, e.stream_id::pg_catalog.varchar, e.event_type::pg_catalog.varchar,
           e.version OPERATOR(pg_catalog.-) 1, e.global_position,
           message_store.data_text(e.data, e.metadata),
           message_store.metadata_text(e.metadata),
           pg_catalog.timezone('UTC', e.created_at)
      FROM @es@.es_read_stream($1, NULL, CASE WHEN $2 IS NULL THEN 1 END, true) AS e
     WHERE $2 IS NULL OR e.event_type OPERATOR(pg_catalog.=) $2
     ORDER BY e.version DESC
     LIMIT 1 $$;

CREATE FUNCTION message_store.stream_version(stream_name varchar) RETURNS bigint
    LANGUAGE sql STABLE AS $$ SELECT NULLIF(@es@.es_stream_version($1), 0) OPERATOR(pg_catalog.-) 1 $$;

CREATE FUNCTION message_store.get_category_messages_where(category varchar, "position" bigint, batch_size bigint,
        correlation varchar, consumer_group_member bigint, consumer_group_size bigint, condition varchar)
    RETURNS SETOF message_store.message
    LANGUAGE plpgsql STABLE ROWS 100 AS $$
BEGIN
    PERFORM message_store.check_category($1, $4, $5, $6), message_store.check_condition($7);
    RETURN QUERY EXECUTE pg_catalog.format('
        SELECT id::pg_catalog.varchar, stream_name::pg_catalog.varchar, type::pg_catalog.varchar, position,
               global_position, data::pg_catalog.varchar, metadata::pg_catalog.varchar, time
          FROM (SELECT e.event_id, e.stream_id, e.event_type, e.version OPERATOR(pg_catalog.-) 1, e.global_position,
                       message_store.stored_data(e.data, e.metadata), message_store.stored_metadata(e.metadata),
                       pg_catalog.timezone(''UTC'', e.created_at)
                  FROM @es@.es_read_category($1, LEAST(GREATEST(COALESCE($2, 1), 1) OPERATOR(pg_catalog.-) 1,
                                                       @es@.es_head()), NULL) AS e
                 WHERE message_store.is_wanted(e.stream_id, e.metadata, $4, $5, $6))
               AS messages (id, stream_name, type, position, global_position, data, metadata, time)
         WHERE global_position OPERATOR(pg_catalog.>=) COALESCE($2, 1) AND (%s)
         ORDER BY global_position LIMIT $3', $7)
        USING $1, $2, message_store.limit_of($3), $4, $5, $6;
END
$$;

CREATE FUNCTION message_store.get_category_messages(category varchar, "position" bigint DEFAULT 1,
        batch_size bigint DEFAULT 1000, correlation varchar DEFAULT NULL, consumer_group_member bigint DEFAULT NULL,
        consumer_group_size bigint DEFAULT NULL, condition varchar DEFAULT NULL) RETURNS SETOF message_store.message
    LANGUAGE sql STABLE ROWS 100 AS $$
    (SELECT e.event_id::pg_catalog.varchar, e.stream_id::pg_catalog.varchar, e.event_type::pg_catalog.varchar,
            e.version OPERATOR(pg_catalog.-) 1, e.global_position,
            message_store.data_text(e.data, e.metadata),
            message_store.metadata_text(e.metadata),
            pg_catalog.timezone('UTC', e.created_at)
       FROM @es@.es_read_category(message_store.check_category($1, $4, $5, $6),
                                  LEAST(GREATEST(COALESCE($2, 1), 1) OPERATOR(pg_catalog.-) 1, @es@.es_head()),
                                  CASE WHEN $4 IS NULL AND $5 IS NULL
                                       THEN message_store.count_of($3) END) AS e
      WHERE $7 IS NULL
        AND e.global_position OPERATOR(pg_catalog.>=) COALESCE($2, 1)
        AND ($4 IS NULL AND $5 IS NULL OR message_store.is_wanted(e.stream_id, e.metadata, $4, $5, $6))
      ORDER BY e.global_position
      LIMIT message_store.limit_of($3))
    UNION ALL
    SELECT * FROM message_store.get_category_messages_where($1, $2, $3, $4, $5, $6, $7) WHERE $7 IS NOT NULL $$;

CREATE FUNCTION message_store.grant_client(role text) RETURNS void
    LANGUAGE plpgsql
    SET search_path = pg_catalog, pg_temp
    AS $$
BEGIN
    PERFORM @es@.es_grant(role, 'writer'), @es@.es_grant(role, 'reader');
    EXECUTE format('GRANT USAGE ON SCHEMA message_store TO %1$I', role);
    EXECUTE format('GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA message_store TO %1$I', role);
    EXECUTE format('REVOKE EXECUTE ON FUNCTION message_store.grant_client(text) FROM %1$I', role);
    EXECUTE format('GRANT SELECT ON ALL TABLES IN SCHEMA message_store TO %1$I', role);
END
$$;
$definitions$;
BEGIN
    EXECUTE replace(definitions, '@es@', (SELECT quote_ident(n.nspname)
                                            FROM pg_extension e JOIN pg_namespace n ON n.oid = e.extnamespace
                                           WHERE e.extname = 'event_store'));
END
$do$;

COMMENT ON FUNCTION message_store.get_stream_messages_where(varchar, bigint, bigint, varchar) IS 'get_stream_messages with a condition';
COMMENT ON FUNCTION message_store.get_stream_messages(varchar, bigint, bigint, varchar) IS 'messages of a stream from a position on; batch_size -1: all';
COMMENT ON FUNCTION message_store.get_last_stream_message(varchar, varchar) IS 'the last message of a stream, or of a type in it';
COMMENT ON FUNCTION message_store.stream_version(varchar) IS 'position of the last message of a stream, NULL when there is none';
COMMENT ON FUNCTION message_store.get_category_messages_where(varchar, bigint, bigint, varchar, bigint, bigint, varchar) IS 'get_category_messages with a condition';
COMMENT ON FUNCTION message_store.get_category_messages(varchar, bigint, bigint, varchar, bigint, bigint, varchar) IS 'messages of a category from a global position on; batch_size -1: all';
COMMENT ON FUNCTION message_store.grant_client(text) IS 'gives a role what a message-db client needs; for the owner of event_store';

--
-- The table of message-db, and its reports
--

CREATE VIEW message_store.messages AS
    SELECT e.global_position, e.version OPERATOR(pg_catalog.-) 1 AS position,
           pg_catalog.timezone('UTC', e.created_at) AS time, e.stream_id AS stream_name, e.event_type AS type,
           message_store.stored_data(e.data, e.metadata) AS data,
           message_store.stored_metadata(e.metadata) AS metadata, e.event_id AS id
      FROM event_store.events e;
COMMENT ON VIEW message_store.messages IS 'all messages; written with write_message only';

CREATE VIEW message_store.type_summary AS
    SELECT type, pg_catalog.count(*) AS message_count,
           pg_catalog.round(100.0 OPERATOR(pg_catalog.*) pg_catalog.count(*)
               OPERATOR(pg_catalog./) pg_catalog.sum(pg_catalog.count(*)) OVER (), 2) AS percent
      FROM message_store.messages AS m
     GROUP BY type
     ORDER BY type;
COMMENT ON VIEW message_store.type_summary IS 'how many messages there are of event types';

CREATE VIEW message_store.stream_summary AS
    SELECT stream_name, pg_catalog.count(*) AS message_count,
           pg_catalog.round(100.0 OPERATOR(pg_catalog.*) pg_catalog.count(*)
               OPERATOR(pg_catalog./) pg_catalog.sum(pg_catalog.count(*)) OVER (), 2) AS percent
      FROM message_store.messages AS m
     GROUP BY stream_name
     ORDER BY stream_name;
COMMENT ON VIEW message_store.stream_summary IS 'how many messages there are of streams';

CREATE VIEW message_store.stream_type_summary AS
    SELECT stream_name, type, pg_catalog.count(*) AS message_count,
           pg_catalog.round(100.0 OPERATOR(pg_catalog.*) pg_catalog.count(*)
               OPERATOR(pg_catalog./) pg_catalog.sum(pg_catalog.count(*)) OVER (), 2) AS percent
      FROM message_store.messages AS m
     GROUP BY stream_name, type
     ORDER BY stream_name, type;
COMMENT ON VIEW message_store.stream_type_summary IS 'how many messages there are of streams and types';

CREATE VIEW message_store.type_stream_summary AS
    SELECT type, stream_name, pg_catalog.count(*) AS message_count,
           pg_catalog.round(100.0 OPERATOR(pg_catalog.*) pg_catalog.count(*)
               OPERATOR(pg_catalog./) pg_catalog.sum(pg_catalog.count(*)) OVER (), 2) AS percent
      FROM message_store.messages AS m
     GROUP BY type, stream_name
     ORDER BY type, stream_name;
COMMENT ON VIEW message_store.type_stream_summary IS 'how many messages there are of types and streams';

CREATE VIEW message_store.category_type_summary AS
    SELECT category, type, pg_catalog.count(*) AS message_count,
           pg_catalog.round(100.0 OPERATOR(pg_catalog.*) pg_catalog.count(*)
               OPERATOR(pg_catalog./) pg_catalog.sum(pg_catalog.count(*)) OVER (), 2) AS percent
      FROM (SELECT message_store.category(stream_name::pg_catalog.varchar) AS category, type FROM message_store.messages) AS m
     GROUP BY category, type
     ORDER BY category, type;
COMMENT ON VIEW message_store.category_type_summary IS 'how many messages there are of categories and types';

CREATE VIEW message_store.type_category_summary AS
    SELECT type, category, pg_catalog.count(*) AS message_count,
           pg_catalog.round(100.0 OPERATOR(pg_catalog.*) pg_catalog.count(*)
               OPERATOR(pg_catalog./) pg_catalog.sum(pg_catalog.count(*)) OVER (), 2) AS percent
      FROM (SELECT message_store.category(stream_name::pg_catalog.varchar) AS category, type FROM message_store.messages) AS m
     GROUP BY type, category
     ORDER BY type, category;
COMMENT ON VIEW message_store.type_category_summary IS 'how many messages there are of types and categories';

-- with the rights of the reader; before 15 a view of an owner who sees all shows all
DO $$
DECLARE
    view text;
BEGIN
    IF current_setting('server_version_num')::int >= 150000 THEN
        FOR view IN SELECT oid::regclass FROM pg_class
                     WHERE relnamespace = 'message_store'::regnamespace AND relkind = 'v'
        LOOP
            EXECUTE format('ALTER VIEW %s SET (security_invoker = true)', view);
        END LOOP;
    END IF;
END
$$;

-- nothing for PUBLIC
REVOKE ALL ON ALL FUNCTIONS IN SCHEMA message_store FROM PUBLIC;
REVOKE ALL ON SCHEMA message_store FROM PUBLIC;
