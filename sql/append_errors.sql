-- Bad input of the append functions: the error, and that nothing is written
\set SHOW_CONTEXT never
\pset format unaligned
\pset tuples_only on

SELECT 1 FROM es_append('Err-1', 0, 'A', '{}', event_id => '00000000-0000-4000-8000-0000000e0001');
SELECT pg_sequence_last_value('event_store.event_global_position_seq') AS position,
       (SELECT count(*) FROM event_store.event) AS events,
       (SELECT count(*) FROM event_store.stream) AS streams,
       (SELECT count(*) FROM event_store.event_type) AS types \gset before_

-- the error of a statement, one field a line, and whether it drew a position
CREATE FUNCTION pg_temp.error(statement text) RETURNS SETOF text LANGUAGE plpgsql AS $$
DECLARE
    before bigint := pg_sequence_last_value('event_store.event_global_position_seq');
    message text;
    detail text;
    hint text;
BEGIN
    BEGIN
        EXECUTE statement;
        RETURN NEXT 'no error';
        RETURN;
    EXCEPTION WHEN OTHERS THEN
        GET STACKED DIAGNOSTICS message = MESSAGE_TEXT, detail = PG_EXCEPTION_DETAIL, hint = PG_EXCEPTION_HINT;
        RETURN NEXT sqlstate || ': ' || message;
        IF detail <> '' THEN
            RETURN NEXT '    ' || detail;
        END IF;
        IF hint <> '' THEN
            RETURN NEXT '    HINT: ' || hint;
        END IF;
    END;
    IF before <> pg_sequence_last_value('event_store.event_global_position_seq') THEN
        RETURN NEXT '    a position was drawn';
    END IF;
END
$$;

--
-- One event: NULLs
--

SELECT pg_temp.error($$SELECT es_append(NULL, 0, 'A', '{}')$$);
SELECT pg_temp.error($$SELECT es_append('Err-1', NULL, 'A', '{}')$$);
SELECT pg_temp.error($$SELECT es_append('Err-1', 1, NULL, '{}')$$);
SELECT pg_temp.error($$SELECT es_append('Err-1', 1, 'A', NULL)$$);
SELECT pg_temp.error($$SELECT es_append('Err-1', 1, 'A', '{}', schema_version => NULL)$$);

--
-- Names: 1 to 255 bytes, no control characters
--

SELECT pg_temp.error($$SELECT es_append('', 0, 'A', '{}')$$);
SELECT pg_temp.error($$SELECT es_append('Err-1', 1, '', '{}')$$);
SELECT pg_temp.error($$SELECT es_append(repeat('x', 256), 0, 'A', '{}')$$);
SELECT pg_temp.error($$SELECT es_append('Err-1', 1, repeat('x', 256), '{}')$$);
-- bytes, not characters
SELECT pg_temp.error($$SELECT es_append(repeat(U&'\20ac', 86), 0, 'A', '{}')$$);
SELECT pg_temp.error($$SELECT es_append(repeat('x', 100000), 0, 'A', '{}')$$);
SELECT pg_temp.error($$SELECT es_append(E'Err-\n', 0, 'A', '{}')$$);
SELECT pg_temp.error($$SELECT es_append(E'\tErr', 0, 'A', '{}')$$);
SELECT pg_temp.error($$SELECT es_append(E'Err-\x7f', 0, 'A', '{}')$$);
SELECT pg_temp.error($$SELECT es_append(U&'Err-\0085', 0, 'A', '{}')$$);
SELECT pg_temp.error($$SELECT es_append('Err-1', 1, E'A\r', '{}')$$);
SELECT pg_temp.error($$SELECT es_append('Err-1', 1, E'\x01', '{}')$$);
-- every one of them
SELECT count(*) FROM generate_series(1, 159) AS c, pg_temp.error(format('SELECT es_append(%L, 0, %L, %L)', 'Err-' || chr(c), 'A', '{}')) AS e
 WHERE (c < 32 OR c >= 127) AND e LIKE '22023: invalid value for "stream_id"';

--
-- Versions
--

-- what other stores call "no stream", "any" and "exists", and all other negative numbers, in each form
SELECT left(e, 54), count(DISTINCT expected) AS numbers, count(DISTINCT form) AS forms
  FROM unnest('{-1,-2,-3,-4,-99,-102,-9223372036854775808}'::bigint[]) AS expected,
       unnest(ARRAY[$$es_append('Err-1', %s, 'A', '{}')$$, $$es_append_batch('Err-1', %s, '{A}', '{1}')$$,
                    $$es_append('Err-1', %s, '{"event_type": "A", "data": 1}')$$]) AS form,
       pg_temp.error(format('SELECT ' || form, expected)) AS e
 WHERE e !~ 'is no version of a stream' GROUP BY 1 ORDER BY 1;
SELECT pg_temp.error($$SELECT es_append('Err-1', -1, 'A', '{}')$$);
SELECT pg_temp.error($$SELECT es_append('Err-1', -9223372036854775808, 'A', '{}')$$);
SELECT pg_temp.error($$SELECT es_append('Err-1', 9223372036854775807, 'A', '{}')$$);
SELECT left(e, 5) FROM pg_temp.error($$SELECT es_append('Err-1', 9223372036854775808, 'A', '{}')$$) AS e LIMIT 1;
SELECT left(e, 5) FROM pg_temp.error($$SELECT es_append('Err-1', '9223372036854775808', 'A', '{}')$$) AS e LIMIT 1;
SELECT pg_temp.error($$SELECT es_append('Err-1', 1, 'A', '{}', schema_version => 0)$$);
SELECT pg_temp.error($$SELECT es_append('Err-1', 1, 'A', '{}', schema_version => -1)$$);
SELECT pg_temp.error($$SELECT es_append('Err-1', 0, 'A', '{}')$$);
SELECT pg_temp.error($$SELECT es_append('Err-1', 2, 'A', '{}')$$);
SELECT pg_temp.error($$SELECT es_append('Err-none', 1, 'A', '{}')$$);
SELECT pg_temp.error($$SELECT es_append('Err-none', es_exists(), 'A', '{}')$$);

--
-- Metadata is an object
--

SELECT pg_temp.error($$SELECT es_append('Err-1', 1, 'A', '{}', '[]')$$);
SELECT pg_temp.error($$SELECT es_append('Err-1', 1, 'A', '{}', 'null')$$);
SELECT pg_temp.error($$SELECT es_append('Err-1', 1, 'A', '{}', '"x"')$$);
SELECT pg_temp.error($$SELECT es_append('Err-1', 1, 'A', '{}', '1')$$);

--
-- Event ids
--

SELECT pg_temp.error($$SELECT es_append('Err-1', 1, 'A', '{}', event_id => '00000000-0000-4000-8000-0000000e0001')$$);
SELECT pg_temp.error($$SELECT es_append('Err-2', 0, 'A', '{}', event_id => '00000000-0000-4000-8000-0000000e0001')$$);
SELECT pg_temp.error($$SELECT es_append('Err-1', es_any(), 'B', '{}', event_id => '00000000-0000-4000-8000-0000000e0001')$$);
SELECT pg_temp.error($$SELECT es_append_batch('Err-1', es_any(), '{A,A}', '{1,2}',
    event_ids => '{00000000-0000-4000-8000-0000000e0009,00000000-0000-4000-8000-0000000e0009}')$$);

--
-- Limits
--

SELECT pg_temp.error($$SELECT es_append('Err-1', 1, 'A', to_jsonb(repeat('x', 1024 * 1024)))$$);
SET event_store.max_event_size = '1kB';
SELECT pg_temp.error($$SELECT es_append('Err-1', 1, 'A', to_jsonb(repeat('x', 1000)), '{"some": "metadata"}')$$);
SELECT pg_temp.error($$SELECT es_append_batch('Err-1', 1, '{A,B}', ARRAY['1', to_jsonb(repeat('x', 1024))])$$);
SELECT pg_temp.error($$SELECT es_append('Err-1', 1, jsonb_build_array('{"event_type": "A", "data": 1}'::jsonb,
    jsonb_build_object('event_type', 'B', 'data', repeat('x', 1024))))$$);
RESET event_store.max_event_size;
SELECT pg_temp.error($$SELECT es_append_batch('Err-1', 1, array_fill('A'::text, '{10001}'), array_fill('1'::jsonb, '{10001}'))$$);
SET event_store.max_batch_size = 2;
SELECT pg_temp.error($$SELECT es_append_batch('Err-1', 1, '{A,B,C}', '{1,2,3}')$$);
SELECT pg_temp.error($$SELECT es_append('Err-1', 1, '[{"event_type": "A", "data": 1}, {"event_type": "B", "data": 1}, {"event_type": "C", "data": 1}]')$$);
RESET event_store.max_batch_size;
SELECT left(e, 5) FROM pg_temp.error($$SET event_store.max_event_size = 0$$) AS e LIMIT 1;
SELECT left(e, 5) FROM pg_temp.error($$SET event_store.max_batch_size = 0$$) AS e LIMIT 1;

--
-- Arrays
--

SELECT pg_temp.error($$SELECT es_append_batch(NULL, 1, '{A}', '{1}')$$);
SELECT pg_temp.error($$SELECT es_append_batch('Err-1', NULL, '{A}', '{1}')$$);
SELECT pg_temp.error($$SELECT es_append_batch('Err-1', 1, NULL, '{1}')$$);
SELECT pg_temp.error($$SELECT es_append_batch('Err-1', 1, '{A}', NULL)$$);
SELECT pg_temp.error($$SELECT es_append_batch('', 1, '{A}', '{1}')$$);
SELECT pg_temp.error($$SELECT es_append_batch('Err-1', -3, '{A}', '{1}')$$);
SELECT pg_temp.error($$SELECT es_append_batch('Err-1', 1, '{}', '{}')$$);
SELECT pg_temp.error($$SELECT es_append_batch('Err-1', 1, '{}', '{1}')$$);
-- NULL elements
SELECT pg_temp.error($$SELECT es_append_batch('Err-1', 1, '{A,NULL}', '{1,2}')$$);
SELECT pg_temp.error($$SELECT es_append_batch('Err-1', 1, '{A,B}', '{NULL,2}')$$);
SELECT pg_temp.error($$SELECT es_append_batch('Err-1', 1, '{A,B}', '{1,2}', schema_versions => '{1,NULL}')$$);
-- of different lengths
SELECT pg_temp.error($$SELECT es_append_batch('Err-1', 1, '{A,B}', '{1}')$$);
SELECT pg_temp.error($$SELECT es_append_batch('Err-1', 1, '{A}', '{1,2}')$$);
SELECT pg_temp.error($$SELECT es_append_batch('Err-1', 1, '{A,B}', '{1,2}', '{}')$$);
SELECT pg_temp.error($$SELECT es_append_batch('Err-1', 1, '{A,B}', '{1,2}', event_ids => '{00000000-0000-4000-8000-0000000e0002}')$$);
SELECT pg_temp.error($$SELECT es_append_batch('Err-1', 1, '{A,B}', '{1,2}', schema_versions => '{1,1,1}')$$);
-- of more than one dimension
SELECT pg_temp.error($$SELECT es_append_batch('Err-1', 1, '{{A,B}}', '{1,2}')$$);
SELECT pg_temp.error($$SELECT es_append_batch('Err-1', 1, '{A,B}', '{{1,2}}')$$);
SELECT pg_temp.error($$SELECT es_append_batch('Err-1', 1, '{A}', '{1}', '{{"{}"}}')$$);
SELECT pg_temp.error($$SELECT es_append_batch('Err-1', 1, '{A}', '{1}', event_ids => '{{00000000-0000-4000-8000-0000000e0002}}')$$);
SELECT pg_temp.error($$SELECT es_append_batch('Err-1', 1, '{A}', '{1}', schema_versions => '{{{1}}}')$$);
-- an element that is wrong, the others being right
SELECT pg_temp.error($$SELECT es_append_batch('Err-1', 1, '{A,""}', '{1,2}')$$);
SELECT pg_temp.error($$SELECT es_append_batch('Err-1', 1, ARRAY['A', 'B', repeat('x', 256)], '{1,2,3}')$$);
SELECT pg_temp.error($$SELECT es_append_batch('Err-1', 1, ARRAY['A', E'B\n'], '{1,2}')$$);
SELECT pg_temp.error($$SELECT es_append_batch('Err-1', 1, '{A,B}', '{1,2}', ARRAY['{}', '[]']::jsonb[])$$);
SELECT pg_temp.error($$SELECT es_append_batch('Err-1', 1, '{A,B}', '{1,2}', schema_versions => '{1,0}')$$);

--
-- JSON
--

SELECT pg_temp.error($$SELECT es_append(NULL, 1, '{"event_type": "A", "data": 1}')$$);
SELECT pg_temp.error($$SELECT es_append('Err-1', NULL, '{"event_type": "A", "data": 1}')$$);
SELECT pg_temp.error($$SELECT es_append('Err-1', 1, NULL)$$);
SELECT pg_temp.error($$SELECT es_append('Err-1', -3, '{"event_type": "A", "data": 1}')$$);
SELECT pg_temp.error($$SELECT es_append('Err-1', 1, '[]')$$);
SELECT pg_temp.error($$SELECT es_append('Err-1', 1, 'null')$$);
SELECT pg_temp.error($$SELECT es_append('Err-1', 1, '"A"')$$);
SELECT pg_temp.error($$SELECT es_append('Err-1', 1, '7')$$);
-- elements that are no objects
SELECT pg_temp.error($$SELECT es_append('Err-1', 1, '[{"event_type": "A", "data": 1}, null]')$$);
SELECT pg_temp.error($$SELECT es_append('Err-1', 1, '["A"]')$$);
SELECT pg_temp.error($$SELECT es_append('Err-1', 1, '[[{"event_type": "A", "data": 1}]]')$$);
-- keys
SELECT pg_temp.error($$SELECT es_append('Err-1', 1, '{}')$$);
SELECT pg_temp.error($$SELECT es_append('Err-1', 1, '{"event_type": "A"}')$$);
SELECT pg_temp.error($$SELECT es_append('Err-1', 1, '{"data": 1}')$$);
SELECT pg_temp.error($$SELECT es_append('Err-1', 1, '{"event_type": "A", "data": 1, "type": "A"}')$$);
SELECT pg_temp.error($$SELECT es_append('Err-1', 1, '[{"event_type": "A", "data": 1}, {"event_type": "A", "data": 1, "": 0}]')$$);
SELECT pg_temp.error($$SELECT es_append('Err-1', 1, '{"event_type": "A", "data": 1, "Metadata": {}}')$$);
-- types of their values
SELECT pg_temp.error($$SELECT es_append('Err-1', 1, '{"event_type": null, "data": 1}')$$);
SELECT pg_temp.error($$SELECT es_append('Err-1', 1, '{"event_type": 1, "data": 1}')$$);
SELECT pg_temp.error($$SELECT es_append('Err-1', 1, '{"event_type": ["A"], "data": 1}')$$);
SELECT pg_temp.error($$SELECT es_append('Err-1', 1, '{"event_type": "", "data": 1}')$$);
SELECT pg_temp.error($$SELECT es_append('Err-1', 1, '{"event_type": "A\n", "data": 1}')$$);
SELECT pg_temp.error($$SELECT es_append('Err-1', 1, '{"event_type": "A", "data": 1, "metadata": []}')$$);
SELECT pg_temp.error($$SELECT es_append('Err-1', 1, '{"event_type": "A", "data": 1, "metadata": "x"}')$$);
SELECT pg_temp.error($$SELECT es_append('Err-1', 1, '{"event_type": "A", "data": 1, "event_id": 1}')$$);
SELECT pg_temp.error($$SELECT es_append('Err-1', 1, '{"event_type": "A", "data": 1, "event_id": ""}')$$);
SELECT pg_temp.error($$SELECT es_append('Err-1', 1, '{"event_type": "A", "data": 1, "event_id": "00000000-0000-4000-8000-0000000e000"}')$$);
SELECT pg_temp.error($$SELECT es_append('Err-1', 1, '{"event_type": "A", "data": 1, "event_id": "00000000-0000-4000-8000-0000000e000g"}')$$);
SELECT pg_temp.error($$SELECT es_append('Err-1', 1, '{"event_type": "A", "data": 1, "event_id": "00000000-0000-4000-8000-0000000e00010"}')$$);
SELECT pg_temp.error($$SELECT es_append('Err-1', 1, '{"event_type": "A", "data": 1, "event_id": {"a": 1}}')$$);
SELECT pg_temp.error($$SELECT es_append('Err-1', 1, '{"event_type": "A", "data": 1, "schema_version": "1"}')$$);
SELECT pg_temp.error($$SELECT es_append('Err-1', 1, '{"event_type": "A", "data": 1, "schema_version": 0}')$$);
SELECT pg_temp.error($$SELECT es_append('Err-1', 1, '{"event_type": "A", "data": 1, "schema_version": -1}')$$);
SELECT pg_temp.error($$SELECT es_append('Err-1', 1, '{"event_type": "A", "data": 1, "schema_version": 1.5}')$$);
SELECT pg_temp.error($$SELECT es_append('Err-1', 1, '{"event_type": "A", "data": 1, "schema_version": 2147483648}')$$);
SELECT pg_temp.error($$SELECT es_append('Err-1', 1, '{"event_type": "A", "data": 1, "schema_version": 1e30}')$$);
SELECT pg_temp.error($$SELECT es_append('Err-1', 1, '[{"event_type": "A", "data": 1}, {"event_type": "A", "data": 1}, {"event_type": "A", "data": 1, "schema_version": true}]')$$);

--
-- Text that JSON cannot hold never gets that far
--

SELECT left(e, 5) FROM pg_temp.error($$SELECT es_append('Err-1', 1, 'A', '{"zero": "\u0000"}')$$) AS e LIMIT 1;
SELECT left(e, 5) FROM pg_temp.error($$SELECT es_append('Err-1', 1, 'A', '{')$$) AS e LIMIT 1;

--
-- Of all that nothing is left, and the stream goes on
--

SELECT pg_sequence_last_value('event_store.event_global_position_seq') - :before_position AS positions_drawn,
       (SELECT count(*) FROM event_store.event) - :before_events AS events,
       (SELECT count(*) FROM event_store.stream) - :before_streams AS streams,
       (SELECT count(*) FROM event_store.event_type) - :before_types AS types;
-- the same without the help of a subtransaction
SELECT es_append_batch('Err-1', 1, '{A,B}', '{1,2}', schema_versions => '{1,0}');
SELECT es_append('Err-1', 1, '[{"event_type": "A", "data": 1}, {"event_type": "A"}]');
BEGIN;
SELECT es_append('Err-new', 0, 'New', '{}', '[]');
ROLLBACK;
SELECT es_stream_version('Err-1'), es_stream_version('Err-new'), count(*) FROM event_store.event_type WHERE event_type = 'New';
SELECT version, global_position - :before_position AS position FROM es_append('Err-1', 1, 'A', '{}');

--
-- The highest version, which a stream with an event at 2147483646 soon has
--

SELECT version FROM es_append_batch('Err-top', 0, '{A,B}', '{1,2}');
BEGIN;
ALTER TABLE event_store.event DISABLE TRIGGER ALL;
UPDATE event_store.event SET version = 2147483646
 WHERE version = 2 AND stream_no = (SELECT stream_no FROM event_store.stream WHERE stream_id = 'Err-top');
ALTER TABLE event_store.event ENABLE TRIGGER ALL;
SELECT pg_temp.error($$SELECT es_append_batch('Err-top', 2147483646, '{A,B}', '{1,2}')$$);
SELECT version FROM es_append('Err-top', 2147483646, 'C', '3', event_id => '00000000-0000-4000-8000-0000000e0009');
SELECT pg_temp.error($$SELECT es_append('Err-top', 2147483647, 'D', '4')$$);
SELECT pg_temp.error($$SELECT es_append('Err-top', es_any(), 'D', '4')$$);
SELECT pg_temp.error($$SELECT es_append('Err-top', es_exists(), '{"event_type": "D", "data": 4}')$$);
SELECT pg_temp.error($$SELECT es_append_streams('[{"stream_id": "Err-1", "expected_version": 2, "events": {"event_type": "D", "data": 4}},
                                                  {"stream_id": "Err-top", "expected_version": 2147483647, "events": {"event_type": "D", "data": 4}}]')$$);
-- all the rest works there
SELECT version, is_duplicate FROM es_append('Err-top', 2147483646, 'C', '3', event_id => '00000000-0000-4000-8000-0000000e0009');
SELECT version FROM es_append_streams('[{"stream_id": "Err-1", "expected_version": 2, "events": {"event_type": "D", "data": 4}},
                                        {"stream_id": "Err-top", "expected_version": 2147483647, "events": []}]');
SELECT pg_temp.error($$SELECT es_append('Err-top', 2147483648, 'D', '4')$$);
SELECT es_stream_version('Err-top'), array_agg(version) FROM es_read_stream('Err-top');
SELECT array_agg(version) FROM es_read_stream('Err-top', 2147483647);
SELECT count(*) FROM es_read_stream('Err-top', 2147483648);
SELECT array_agg(version) FROM es_read_stream('Err-top', backward => true);
SELECT es_snapshot('Err-top', 2147483647, '{}');
SELECT version, snapshot_version, events FROM es_load('Err-top');
ROLLBACK;
