-- Properties over many rows: more than 20 000 events, appended by random calls
-- of all forms in transactions some of which are rolled back, compared with a
-- model that is kept beside the store.
--
-- The seed is fixed, so the calls are the same each time.  The test uses
-- streams "PropA-..." to "PropE-..." and leaves them behind.
\set ON_ERROR_STOP on
SET client_min_messages = warning;
SELECT plan(26);

SELECT coalesce(pg_sequence_last_value('event_store.event_global_position_seq'), 0) AS base \gset

CREATE TEMP TABLE model (n bigserial, stream_id text, version bigint, event_type text, event_id uuid, schema_version int, data jsonb, global_position bigint);
CREATE TEMP TABLE outcome (name text, wrong text);

-- one random append and its model
CREATE FUNCTION pg_temp.step(run text) RETURNS int LANGUAGE plpgsql AS $$
DECLARE
    stream text := 'Prop' || chr(65 + floor(random() * 5)::int) || '-' || run || '-' || floor(random() * 40)::int;
    current bigint := (SELECT coalesce(max(version), 0) FROM model WHERE model.stream_id = stream);
    size int := CASE WHEN random() < 0.3 THEN 1 WHEN random() < 0.9 THEN 1 + floor(random() * 60)::int ELSE 100 + floor(random() * 200)::int END;
    form text := CASE WHEN size = 1 AND random() < 0.6 THEN 'one' WHEN random() < 0.5 THEN 'batch' ELSE 'json' END;
    kind float := random();
    expected bigint := CASE WHEN kind < 0.6 THEN current WHEN kind < 0.8 OR current = 0 THEN es_any() ELSE es_exists() END;
    types text[];
    payloads jsonb[];
    ids uuid[];
    schema_versions int[];
    wrong bigint := expected + 1 + floor(random() * 3)::int;
    call text;
    first bigint;
    again bigint;
BEGIN
    SELECT array_agg('Type' || floor(random() * 8)::int), array_agg(jsonb_build_object('stream', stream, 'version', current + i, 'pad', repeat('x', floor(random() * 300)::int))),
           array_agg(md5(random()::text || clock_timestamp()::text || i)::uuid), array_agg(1 + floor(random() * 3)::int)
      INTO types, payloads, ids, schema_versions FROM generate_series(1, size) AS i;

    IF expected >= 0 AND random() < 0.1 THEN
        BEGIN
            PERFORM es_append_batch(stream, wrong, types, payloads, NULL, ids, schema_versions);
            INSERT INTO outcome VALUES ('conflict', format('%s: no error for version %s at %s', stream, wrong, current));
        EXCEPTION WHEN SQLSTATE 'VE001' THEN
            INSERT INTO outcome VALUES ('conflict', NULL);
        END;
    END IF;

    IF form = 'one' THEN
        INSERT INTO model (stream_id, version, event_type, event_id, schema_version, data, global_position)
        SELECT stream, a.version, types[1], a.event_id, schema_versions[1], payloads[1], a.global_position
          FROM es_append(stream, expected, types[1], payloads[1], '{}', ids[1], schema_versions[1]) AS a;
    ELSIF form = 'batch' THEN
        INSERT INTO model (stream_id, version, event_type, event_id, schema_version, data, global_position)
        SELECT stream, a.version, types[a.i], a.event_id, schema_versions[a.i], payloads[a.i], a.global_position
          FROM ROWS FROM (es_append_batch(stream, expected, types, payloads, NULL, ids, schema_versions)) WITH ORDINALITY AS a (event_id, version, global_position, is_duplicate, i);
    ELSE
        INSERT INTO model (stream_id, version, event_type, event_id, schema_version, data, global_position)
        SELECT stream, a.version, types[a.i], a.event_id, schema_versions[a.i], payloads[a.i], a.global_position
          FROM ROWS FROM (es_append(stream, expected,
                 (SELECT jsonb_agg(jsonb_build_object('event_type', types[i], 'data', payloads[i], 'event_id', ids[i], 'schema_version', schema_versions[i]) ORDER BY i)
                    FROM generate_series(1, size) AS i))) WITH ORDINALITY AS a (event_id, version, global_position, is_duplicate, i);
    END IF;

    -- a retry
    IF random() < 0.2 THEN
        SELECT min(global_position) INTO first FROM model WHERE event_id = ids[1];
        SELECT min(global_position) INTO again FROM es_append_batch(stream, expected, types, payloads, NULL, ids, schema_versions) WHERE is_duplicate;
        INSERT INTO outcome VALUES ('retry', CASE WHEN again = first THEN NULL ELSE format('%s: %s instead of %s', stream, again, first) END);
    END IF;
    RETURN size;
END
$$;

SELECT setseed(0.42);
DO $$
DECLARE
    run text := to_char(clock_timestamp(), 'HH24MISSUS');
    transactions int := 0;
    rolled_back int := 0;
BEGIN
    WHILE (SELECT count(*) FROM model) < 22000 LOOP
        FOR i IN 1 .. 1 + floor(random() * 4)::int LOOP
            PERFORM pg_temp.step(run);
        END LOOP;
        transactions := transactions + 1;
        IF random() < 0.15 THEN
            rolled_back := rolled_back + 1;
            ROLLBACK;
        ELSE
            COMMIT;
        END IF;
    END LOOP;
    -- savepoints too
    FOR i IN 1 .. 50 LOOP
        BEGIN
            PERFORM pg_temp.step(run);
            IF i % 2 = 0 THEN
                RAISE EXCEPTION USING ERRCODE = 'ZZ999';
            END IF;
        EXCEPTION WHEN SQLSTATE 'ZZ999' THEN
            NULL;
        END;
        PERFORM pg_temp.step(run);
    END LOOP;
    INSERT INTO outcome VALUES ('rolled back', CASE WHEN rolled_back < 10 THEN rolled_back || ' of ' || transactions END);
    COMMIT;
END
$$;
CREATE INDEX ON model (stream_id, version);
CREATE INDEX ON model (global_position);
ANALYZE model;

CREATE TEMP TABLE stored AS SELECT row_number() OVER () AS n, * FROM es_read_all(:base, NULL, '{PropA,PropB,PropC,PropD,PropE}');
ANALYZE stored;

SELECT cmp_ok((SELECT count(*) FROM model), '>=', 20000::bigint, 'at least 20 000 events have been appended');
SELECT is_empty($$SELECT wrong FROM outcome WHERE wrong IS NOT NULL$$, 'every conflict was refused and every retry got the first answer');
SELECT cmp_ok((SELECT count(*) FROM outcome WHERE name = 'retry'), '>', 50::bigint, 'retries were tried');
SELECT cmp_ok((SELECT count(*) FROM outcome WHERE name = 'conflict'), '>', 20::bigint, 'conflicts were tried');

-- the store against the model
SELECT is((SELECT count(*) FROM stored), (SELECT count(*) FROM model), 'all events are there, no others');
SELECT is_empty($$
    SELECT stream_id, version, event_id, event_type, schema_version, data, global_position FROM model
    EXCEPT SELECT stream_id, version, event_id, event_type, schema_version, data, global_position FROM stored$$,
    'each is what was appended, at the position that was answered');
SELECT is_empty($$SELECT * FROM stored WHERE metadata <> '{}' OR created_at > clock_timestamp() OR created_at IS NULL$$, 'and what was not given has its default');

-- versions
SELECT is_empty($$SELECT stream_id FROM stored GROUP BY stream_id HAVING min(version) <> 1 OR max(version) <> count(*) OR count(DISTINCT version) <> count(*)$$,
    'versions of each stream are 1, 2, 3 ... without holes');
SELECT is_empty($$SELECT stream_id FROM (SELECT stream_id, version, lag(version, 1, 0::bigint) OVER (PARTITION BY stream_id ORDER BY global_position) AS before FROM stored) AS s
                  WHERE version <> before + 1$$, 'they ascend with the positions');
SELECT is_empty($$SELECT stream_id FROM (SELECT stream_id, max(version) AS last FROM model GROUP BY stream_id) AS m WHERE es_stream_version(stream_id) <> last$$,
    'es_stream_version agrees');
SELECT is_empty($$SELECT stream_id FROM stored WHERE data->>'stream' <> stream_id OR (data->>'version')::bigint <> version$$, 'each event is where it belongs');

-- positions
SELECT is_empty($$SELECT n FROM (SELECT n, global_position, lag(global_position, 1, 0::bigint) OVER (ORDER BY n) AS before FROM stored) AS s WHERE global_position <= before$$,
    'positions ascend in the order of reading');
SELECT is((SELECT count(DISTINCT global_position) FROM stored), (SELECT count(*) FROM stored), 'no position is there twice');
SELECT is((SELECT count(DISTINCT event_id) FROM stored), (SELECT count(*) FROM stored), 'no id is there twice');
SELECT is(es_head(), (SELECT max(global_position) FROM event_store.event), 'the head is the last of them');
SELECT cmp_ok((SELECT count(*) FROM event_store.mark WHERE global_position > :base), '>', 5::bigint, 'marks have been written');
SELECT cmp_ok((SELECT max(global_position) FROM event_store.mark), '<=', es_head(), 'none is ahead of the head');

-- ways of reading agree
CREATE FUNCTION pg_temp.pages(after bigint) RETURNS SETOF bigint LANGUAGE plpgsql AS $$
DECLARE
    page bigint[];
BEGIN
    LOOP
        SELECT array_agg(global_position) INTO page
          FROM es_read_all(after, 1 + floor(random() * 700)::bigint, '{PropA,PropB,PropC,PropD,PropE}');
        EXIT WHEN page IS NULL;
        RETURN QUERY SELECT unnest(page);
        after := page[cardinality(page)];
    END LOOP;
END
$$;
SELECT results_eq(format('SELECT pg_temp.pages(%s)', :base), 'SELECT global_position FROM stored ORDER BY n', 'pages of random size are the whole in order');
SELECT results_eq($$SELECT global_position FROM es_read_all(NULL, (SELECT count(*) FROM stored), '{PropA,PropB,PropC,PropD,PropE}', backward => true)$$,
                  'SELECT global_position FROM stored ORDER BY n DESC', 'backward is the reverse');
SELECT results_eq(format($$SELECT e.global_position FROM unnest('{PropA,PropB,PropC,PropD,PropE}'::text[]) WITH ORDINALITY AS c (name, i),
                           LATERAL (SELECT *, row_number() OVER () AS k FROM es_read_category(c.name, %s, NULL)) AS e ORDER BY c.i, e.k$$, :base),
                  $$SELECT global_position FROM stored ORDER BY split_part(stream_id, '-', 1) COLLATE "C", n$$, 'a category is what the whole has of it');
SELECT results_eq(format($$SELECT e.global_position FROM generate_series(0, 7) AS t,
                           LATERAL (SELECT *, row_number() OVER () AS k FROM es_read_all(%s, NULL, '{PropB,PropD}', ARRAY['Type' || t])) AS e ORDER BY t, e.k$$, :base),
                  $$SELECT global_position FROM stored WHERE stream_id ~ '^Prop[BD]-' ORDER BY event_type COLLATE "C", n$$, 'filters by category and type too');
SELECT results_eq($$SELECT e.event_id FROM (SELECT DISTINCT stream_id FROM model) AS s,
                           LATERAL (SELECT *, row_number() OVER () AS k FROM es_read_stream(s.stream_id)) AS e ORDER BY s.stream_id COLLATE "C", e.k$$,
                  $$SELECT event_id FROM stored ORDER BY stream_id COLLATE "C", version$$, 'streams too');
SELECT results_eq($$SELECT e.event_id FROM (SELECT stream_id, max(version) / 2 AS middle FROM model GROUP BY stream_id) AS s,
                           LATERAL (SELECT *, row_number() OVER () AS k FROM es_read_stream(s.stream_id, middle, 10, true)) AS e ORDER BY s.stream_id COLLATE "C", e.k$$,
                  $$SELECT event_id FROM stored AS e WHERE version BETWEEN (SELECT max(version) / 2 FROM model AS m WHERE m.stream_id = e.stream_id) - 9
                                                                       AND (SELECT max(version) / 2 FROM model AS m WHERE m.stream_id = e.stream_id)
                     ORDER BY stream_id COLLATE "C", version DESC$$, 'parts of streams, backward');
SELECT is_empty($$SELECT m.event_id FROM (SELECT * FROM model ORDER BY random() LIMIT 500) AS m, es_read_event(m.event_id) AS e
                   WHERE e.global_position IS DISTINCT FROM m.global_position OR e.data IS DISTINCT FROM m.data$$, 'each event is found by its id');
SELECT is_empty($$SELECT global_position, stream_id, version, event_id, event_type, schema_version, data, metadata, created_at FROM stored
                  EXCEPT SELECT global_position, stream_id, version, event_id, event_type, schema_version, data, metadata, created_at FROM event_store.events$$,
    'the view shows the same');
SELECT is_empty($$SELECT stream_id FROM (SELECT DISTINCT stream_id FROM model) AS s, es_load(s.stream_id) AS l
                   WHERE l.version <> es_stream_version(stream_id) OR cardinality(l.events) <> l.version OR (l.events[l.version]).version <> l.version$$,
    'es_load has every event of a stream');

SELECT * FROM finish();
