-- Tags, queries, and appends on a condition
\set SHOW_CONTEXT never
\pset format unaligned
\pset tuples_only on
\pset null (null)

CREATE FUNCTION pg_temp.error(statement text) RETURNS SETOF text LANGUAGE plpgsql AS $$
DECLARE
    detail text;
    hint text;
BEGIN
    EXECUTE statement;
    RETURN NEXT 'no error';
EXCEPTION WHEN OTHERS THEN
    GET STACKED DIAGNOSTICS detail = PG_EXCEPTION_DETAIL, hint = PG_EXCEPTION_HINT;
    RETURN NEXT SQLSTATE || ': ' || SQLERRM || coalesce(' / ' || nullif(regexp_replace(regexp_replace(detail, 'position=\d+', 'position=N'), ' is \d+\.', ' is N.'), ''), '')
        || coalesce(' / ' || nullif(hint, ''), '');
END
$$;
SELECT es_head() AS start \gset

-- tags on every form of append; they are a set
SELECT version FROM es_append('Dcb-1', 0, 'DcbA', '1', tags => ARRAY['b', 'a', 'b', 'a']);
SELECT version FROM es_append_batch('Dcb-1', 1, ARRAY['DcbA', 'DcbB', 'DcbB'], ARRAY['2', '3', '4']::jsonb[],
    tags => ARRAY['["a"]', NULL, '[]']::jsonb[]);
SELECT version FROM es_append('Dcb-1', 4, '[{"event_type": "DcbB", "data": 5, "tags": ["c", "a"]}, {"event_type": "DcbB", "data": 6, "tags": null}]');
SELECT version FROM es_append_streams('[{"stream_id": "Dcb-2", "expected_version": 0, "events": {"event_type": "DcbA", "data": 7, "tags": ["a", "c"]}}]');
SELECT version, is_duplicate FROM es_append_if('[{"event_type": "DcbC", "data": 8, "tags": ["a"], "stream_id": "Dcb-2"}, {"event_type": "DcbC", "data": 9, "tags": ["c"]}, {"event_type": "DcbC", "data": 10, "stream_id": "Dcb-2"}]',
    '{"items": [{"tags": ["nobody has this"]}]}');
SELECT data, es_tags(e), stream_id, version, event_type FROM es_read_all(:start) e;
SELECT data, tags, stream_id, version, category FROM event_store.events WHERE global_position > :start ORDER BY global_position;
SELECT stream_no IS NULL, version, tags FROM event_store.event WHERE global_position > :start ORDER BY global_position;

-- an event that belongs to no stream
SELECT stream_id, version, es_envelope(e) ->> 'stream_id', es_envelope(e) -> 'version' FROM es_read_query('{"items": [{"event_types": ["DcbC"], "tags": ["c"]}]}') e;
SELECT e.data FROM es_read_event((SELECT event_id FROM es_read_query('{"items": [{"event_types": ["DcbC"], "tags": ["c"]}]}'))) e;
SELECT data FROM es_read_category('Dcb', :start);
SELECT data FROM es_read_all(:start, event_types => ARRAY['DcbC']);
SELECT data FROM event_store.events WHERE category IS NULL AND global_position > :start;
-- es_tags of what is no stored event
SELECT es_tags(ROW(1, 'x', 1, gen_random_uuid(), 'A', 1, '1', '{}', now())::es_event), es_tags(ROW(NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL)::es_event), es_tags(NULL);

-- queries
\set read 'SELECT string_agg(data::text, \' \' ORDER BY n) FROM es_read_query(:query, :start, NULL) WITH ORDINALITY AS e (a,b,c,d,type,f,data,h,i,n) WHERE type ~ \'^Dcb\''
\set query '\'{"items": [{"tags": ["a"]}]}\''
:read;
\set query '\'{"items": [{"tags": ["a", "c"]}]}\''
:read;
\set query '\'{"items": [{"tags": ["c", "a", "c"]}]}\''
:read;
\set query '\'{"items": [{"tags": ["a", "nobody has this"]}]}\''
:read;
\set query '\'{"items": [{"event_types": ["DcbA"]}]}\''
:read;
\set query '\'{"items": [{"event_types": ["DcbA", "DcbC"], "tags": ["c"]}]}\''
:read;
\set query '\'{"items": [{"event_types": ["DcbB"]}, {"tags": ["a"]}, {"tags": ["c"], "event_types": ["DcbC"]}]}\''
:read;
\set query '\'{"items": [{"event_types": ["DcbA"]}, {}]}\''
:read;
\set query '\'{"items": []}\''
:read;
\set query '\'{}\''
:read;
\set query '\'{"items": [{"event_types": [], "tags": []}]}\''
:read;
SELECT data FROM es_read_query('{"items": [{"tags": ["a"]}, {"event_types": ["DcbA"]}]}', max_count => 3, backward => true);
SELECT data FROM es_read_query('{"items": [{"tags": ["c", "a"]}]}', after_position => (SELECT max(global_position) FROM event_store.event), backward => true);
SELECT data FROM es_read_query('{"items": [{"tags": ["a"]}]}', :start, 2);
SELECT count(*) FROM es_read_query('{"items": [{"tags": ["a"]}]}', :start, 0);
EXPLAIN (COSTS OFF) SELECT * FROM es_read_query('{"items": [{"tags": ["a"]}]}', 7) LIMIT 1;

-- many tags, walked in step: the same as one by one
SELECT count(*) FROM generate_series(1, 600) n, es_append('DcbMany', es_any(), 'DcbMany', to_jsonb(n),
    tags => ARRAY['two:' || n % 2, 'three:' || n % 3, 'seven:' || n % 7, 'hundred:' || n % 100]);
SELECT bool_and(q.found = w.wanted) AS equal, sum(cardinality(q.found)) > 0 AS any
  FROM generate_series(0, 1) a, generate_series(0, 2) b, generate_series(0, 6) c,
       (VALUES (false), (true)) AS v (backward),
       LATERAL (SELECT coalesce(array_agg(data::int ORDER BY n), '{}') AS found
                  FROM es_read_query(jsonb_build_object('items', jsonb_build_array(jsonb_build_object('tags', ARRAY['two:' || a, 'three:' || b, 'seven:' || c]))),
                       backward => backward, max_count => NULL) WITH ORDINALITY AS e (a1,b1,c1,d1,e1,f1,data,h1,i1,n)) q,
       LATERAL (SELECT coalesce(array_agg(n ORDER BY CASE WHEN backward THEN -n ELSE n END), '{}') AS wanted
                  FROM generate_series(1, 600) n WHERE n % 2 = a AND n % 3 = b AND n % 7 = c) w;

-- the rules of dcb.events, row by row
SELECT es_head() AS head \gset
\set one '[{"event_type": "DcbR", "data": 1, "tags": ["r"]}]'
-- no event matches: appended
SELECT is_duplicate FROM es_append_if(:'one', '{"items": [{"event_types": ["DcbR"], "tags": ["r"]}]}');
-- one matches, no position: refused
SELECT pg_temp.error(format('SELECT es_append_if(%L, %L)', :'one', '{"items": [{"event_types": ["DcbR"], "tags": ["r"]}]}'));
-- one matches, at the position: not newer
SELECT is_duplicate FROM es_append_if(:'one', '{"items": [{"event_types": ["DcbR"], "tags": ["r"]}]}', es_head());
-- one matches, below and above it
SELECT pg_temp.error(format('SELECT es_append_if(%L, %L, %s)', :'one', '{"items": [{"event_types": ["DcbR"], "tags": ["r"]}]}', es_head() - 1));
-- type only, tag only; one against the other
SELECT pg_temp.error(format('SELECT es_append_if(%L, %L, %s)', :'one', '{"items": [{"event_types": ["DcbR"]}]}', :head));
SELECT pg_temp.error(format('SELECT es_append_if(%L, %L, %s)', :'one', '{"items": [{"tags": ["r"]}]}', :head));
-- another type, another tag, not all tags: appended
SELECT count(*) FROM es_append_if(:'one', '{"items": [{"event_types": ["DcbS"], "tags": ["r"]}]}', :head);
SELECT count(*) FROM es_append_if(:'one', '{"items": [{"event_types": ["DcbR"], "tags": ["s"]}]}', :head);
SELECT count(*) FROM es_append_if(:'one', '{"items": [{"event_types": ["DcbR"], "tags": ["r", "s"]}]}', :head);
-- items are alternatives
SELECT pg_temp.error(format('SELECT es_append_if(%L, %L, %s)', :'one', '{"items": [{"tags": ["s"]}, {"event_types": ["DcbR"]}]}', :head));
-- the empty query means everything
SELECT pg_temp.error(format('SELECT es_append_if(%L, %L, %s)', :'one', '{}', es_head() - 1));
SELECT pg_temp.error(format('SELECT es_append_if(%L, %L, %s)', :'one', '{"items": []}', es_head() - 1));
SELECT count(*) FROM es_append_if(:'one', '{}', es_head());
-- an append without a condition, and without tags, is seen as well
SELECT es_head() AS head \gset
SELECT version FROM es_append('DcbPlain', es_any(), 'DcbPlain', '1');
SELECT pg_temp.error(format('SELECT es_append_if(%L, %L, %s)', :'one', '{"items": [{"event_types": ["DcbPlain"]}]}', :head));
-- a position that has not been there yet
SELECT pg_temp.error(format('SELECT es_append_if(%L, %L, %s)', :'one', '{}', 9223372036854775807)) ~ '^VE004: "after_position" is ahead of the head';
-- nothing of a refused append is left
SELECT count(*) FROM es_read_query('{"items": [{"tags": ["r"]}]}', :head);

-- events of one's own transaction count
BEGIN;
SELECT count(*) FROM es_append_if(:'one', '{"items": [{"event_types": ["DcbR"]}]}', :head);
SAVEPOINT s;
SELECT pg_temp.error(format('SELECT es_append_if(%L, %L, %s)', :'one', '{"items": [{"event_types": ["DcbR"]}]}', :head));
ROLLBACK TO s;
-- and those of a savepoint that was rolled back do not
SELECT count(*) FROM es_append_if('[{"event_type": "DcbT", "data": 1}]', '{"items": [{"event_types": ["DcbT"]}]}');
ROLLBACK TO s;
SELECT count(*) FROM es_append_if('[{"event_type": "DcbT", "data": 1}]', '{"items": [{"event_types": ["DcbT"]}]}');
ROLLBACK;

-- a retry is answered before the condition is asked
\set known '[{"event_type": "DcbU", "data": 1, "tags": ["u"], "event_id": "00000000-0000-4000-8000-00000000dcb1"}, {"event_type": "DcbU", "data": 2, "stream_id": "DcbU-1", "event_id": "00000000-0000-4000-8000-00000000dcb2"}]'
SELECT version, is_duplicate FROM es_append_if(:'known', '{"items": [{"event_types": ["DcbU"]}]}');
SELECT version, is_duplicate FROM es_append_if(:'known', '{"items": [{"event_types": ["DcbU"]}]}');
SELECT version, is_duplicate FROM es_append_if(:'known', '{}', 0);
-- other data, partly known, in another stream, without stream, in another order
SELECT pg_temp.error(format('SELECT es_append_if(%L, %L)', replace(:'known', '"data": 1', '"data": 5'), '{}'));
SELECT pg_temp.error(format('SELECT es_append_if(%L, %L)', replace(:'known', 'dcb1', 'dcb9'), '{}'));
SELECT pg_temp.error(format('SELECT es_append_if(%L, %L)', replace(:'known', 'DcbU-1', 'DcbU-2'), '{}'));
SELECT pg_temp.error(format('SELECT es_append_if(%L, %L)', replace(:'known', '"stream_id": "DcbU-1", ', ''), '{}'));
SELECT pg_temp.error('SELECT es_append(''DcbU-1'', 1, ''DcbU'', ''1'', event_id => ''00000000-0000-4000-8000-00000000dcb1'')');
SELECT pg_temp.error(format('SELECT es_append_if(%L, %L)', replace(:'known', 'dcb2', 'dcb1'), '{}'));
-- tags are no part of what is compared, as metadata is none
SELECT is_duplicate FROM es_append_if(replace(:'known', '"u"', '"v"')::jsonb, '{}');

-- arguments
SELECT pg_temp.error(s) FROM unnest(ARRAY[
    $$SELECT es_append('Dcb-9', 0, 'A', '1', tags => ARRAY['a', NULL])$$,
    $$SELECT es_append('Dcb-9', 0, 'A', '1', tags => ARRAY[''])$$,
    $$SELECT es_append('Dcb-9', 0, 'A', '1', tags => ARRAY[repeat('x', 256)])$$,
    $$SELECT es_append('Dcb-9', 0, 'A', '1', tags => ARRAY[E'a\tb'])$$,
    $$SELECT es_append('Dcb-9', 0, 'A', '1', tags => ARRAY[ARRAY['a'], ARRAY['b']])$$,
    $$SELECT es_append('Dcb-9', 0, 'A', '1', tags => (SELECT array_agg('t' || i) FROM generate_series(1, 33) i))$$,
    $$SELECT es_append_batch('Dcb-9', 0, ARRAY['A'], ARRAY['1']::jsonb[], tags => ARRAY['["a"]', '["a"]']::jsonb[])$$,
    $$SELECT es_append_batch('Dcb-9', 0, ARRAY['A'], ARRAY['1']::jsonb[], tags => ARRAY['"a"']::jsonb[])$$,
    $$SELECT es_append_batch('Dcb-9', 0, ARRAY['A'], ARRAY['1']::jsonb[], tags => ARRAY['["a", 1]']::jsonb[])$$,
    $$SELECT es_append('Dcb-9', 0, '[{"event_type": "A", "data": 1, "tags": "a"}]')$$,
    $$SELECT es_append('Dcb-9', 0, '[{"event_type": "A", "data": 1, "tags": {"a": 1}}]')$$,
    $$SELECT es_append('Dcb-9', 0, '[{"event_type": "A", "data": 1, "tags": [null]}]')$$,
    $$SELECT es_append('Dcb-9', 0, '[{"event_type": "A", "data": 1, "stream_id": "Dcb-9"}]')$$,
    $$SELECT es_append_if(NULL, '{}')$$,
    $$SELECT es_append_if('[{"event_type": "A", "data": 1}]', NULL)$$,
    $$SELECT es_append_if('[]', '{}')$$,
    $$SELECT es_append_if('[{"event_type": "A", "data": 1}]', '{}', -1)$$,
    $$SELECT es_append_if('[{"event_type": "A", "data": 1, "stream_id": 1}]', '{}')$$,
    $$SELECT es_append_if('[{"event_type": "A", "data": 1, "stream_id": ""}]', '{}')$$,
    $$SELECT es_append_if('[{"event_type": "A", "data": 1, "stream": "a"}]', '{}')$$,
    $$SELECT es_read_query(NULL)$$,
    $$SELECT es_read_query('[]')$$,
    $$SELECT es_read_query('1')$$,
    $$SELECT es_read_query('{"item": []}')$$,
    $$SELECT es_read_query('{"items": {}}')$$,
    $$SELECT es_read_query('{"items": [1]}')$$,
    $$SELECT es_read_query('{"items": [{}, {"types": []}]}')$$,
    $$SELECT es_read_query('{"items": [{"tags": "a"}]}')$$,
    $$SELECT es_read_query('{"items": [{"tags": [1]}]}')$$,
    $$SELECT es_read_query('{"items": [{"event_types": [""]}]}')$$,
    $$SELECT es_read_query('{}', max_count => -1)$$,
    $$SELECT * FROM es_read_query('{}', 9223372036854775807)$$]) AS s;
-- 32 tags are allowed, and repetition does not count
SELECT version FROM es_append('Dcb-9', 0, 'DcbA', '1', tags => (SELECT array_agg('t' || i % 32) FROM generate_series(1, 64) i));
SELECT version FROM es_append('Dcb-9', 1, 'DcbA', '1', tags => ARRAY[repeat('x', 255)]);
SELECT cardinality(es_tags(e)) FROM es_read_stream('Dcb-9') e;
BEGIN READ ONLY;
SELECT es_append_if('[{"event_type": "A", "data": 1}]', '{}');
ROLLBACK;

-- the index survives being rebuilt, and the planner never takes it
REINDEX INDEX event_store.event_tags_global_position_idx;
SELECT data FROM es_read_query('{"items": [{"tags": ["a", "c"]}]}', :start);
SET enable_seqscan = off;
SELECT count(*) = (SELECT count(global_position) FROM event_store.event) FROM event_store.event WHERE tags IS NULL OR tags IS NOT NULL;
CREATE FUNCTION pg_temp.plan(query text) RETURNS SETOF text LANGUAGE plpgsql AS $$
BEGIN
    RETURN QUERY EXECUTE 'EXPLAIN ' || query;
END
$$;
SELECT count(*) FROM pg_temp.plan($$SELECT 1 FROM event_store.event WHERE tags = ARRAY['a'] OR tags IS NULL ORDER BY tags$$) AS p WHERE p ~ 'tags_global';
RESET enable_seqscan;
