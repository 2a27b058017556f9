-- Several streams in one append
\set SHOW_CONTEXT never
\pset format unaligned
\pset tuples_only on

-- the error of a call, one field a line
CREATE FUNCTION pg_temp.error(appends jsonb) RETURNS SETOF text LANGUAGE plpgsql AS $$
DECLARE
    message text;
    detail text;
    hint text;
    context text;
BEGIN
    PERFORM es_append_streams(appends);
    RETURN NEXT 'no error';
EXCEPTION WHEN OTHERS THEN
    GET STACKED DIAGNOSTICS message = MESSAGE_TEXT, detail = PG_EXCEPTION_DETAIL, hint = PG_EXCEPTION_HINT,
        context = PG_EXCEPTION_CONTEXT;
    RETURN QUERY VALUES (SQLSTATE || ': ' || message), ('  ' || nullif(replace(detail, E'\n', E'\n  '), '')), ('  ' || nullif(hint, '')),
        ('  ' || substring(context, 'element \d+ of "appends"'));
END
$$;

SELECT stream_id, version, global_position > 0 AS has_position, is_duplicate
  FROM es_append_streams('[
    {"stream_id": "Transfer-1", "expected_version": 0, "events": [{"event_type": "Opened", "data": 1}, {"event_type": "Debited", "data": 2}]},
    {"stream_id": "Transfer-2", "expected_version": 0, "events": {"event_type": "Opened", "data": 3}}]');

-- consumers see the events in the order given, whatever the order of the locks
SELECT stream_id, version FROM es_append_streams('[
    {"stream_id": "Transfer-2", "expected_version": 1, "events": [{"event_type": "Credited", "data": 1}, {"event_type": "Credited", "data": 2}]},
    {"stream_id": "Transfer-9", "expected_version": 0, "events": [{"event_type": "Opened", "data": 3}]},
    {"stream_id": "Transfer-1", "expected_version": 2, "events": [{"event_type": "Debited", "data": 4}]}]');
SELECT stream_id, version, event_type, data FROM es_read_all(categories => ARRAY['Transfer']);
SELECT count(*) = count(DISTINCT global_position) AS distinct_positions FROM es_read_all(categories => ARRAY['Transfer']);

-- all verdicts at once; nothing is written
SELECT pg_temp.error('[
    {"stream_id": "Transfer-1", "expected_version": 1, "events": [{"event_type": "Debited", "data": 1}]},
    {"stream_id": "Transfer-2", "expected_version": 3, "events": [{"event_type": "Credited", "data": 1}]},
    {"stream_id": "Transfer-3", "expected_version": -101, "events": [{"event_type": "Credited", "data": 1}]},
    {"stream_id": "Transfer-9", "expected_version": 0}]');
SELECT pg_temp.error('[
    {"stream_id": "Transfer-1", "expected_version": 3, "events": [{"event_type": "Debited", "data": 1}]},
    {"stream_id": "Transfer-2", "expected_version": 2}]');
SELECT es_stream_version('Transfer-1'), es_stream_version('Transfer-2'), es_stream_version('Transfer-3');

-- the four kinds of expected version
SELECT stream_id, version FROM es_append_streams(jsonb_build_array(
    jsonb_build_object('stream_id', 'Transfer-1', 'expected_version', es_any(), 'events', '[{"event_type": "Debited", "data": 1}]'::jsonb),
    jsonb_build_object('stream_id', 'Transfer-2', 'expected_version', es_exists(), 'events', '[{"event_type": "Debited", "data": 1}]'::jsonb),
    jsonb_build_object('stream_id', 'Transfer-3', 'expected_version', 0, 'events', '[{"event_type": "Opened", "data": 1}]'::jsonb),
    jsonb_build_object('stream_id', 'Transfer-9', 'expected_version', 1, 'events', '[{"event_type": "Debited", "data": 1}]'::jsonb)));

-- checks: at that version, existing, not existing; only checks; nothing is written to them
SELECT stream_id, version FROM es_append_streams('[
    {"stream_id": "Transfer-1", "expected_version": 4, "events": []},
    {"stream_id": "Transfer-2", "expected_version": -101},
    {"stream_id": "Transfer-4", "expected_version": 0, "events": null},
    {"stream_id": "Transfer-3", "expected_version": 1, "events": [{"event_type": "Debited", "data": 1}]}]');
SELECT count(*) FROM es_append_streams('[{"stream_id": "Transfer-1", "expected_version": 4}, {"stream_id": "Transfer-4", "expected_version": 0}]');
SELECT pg_temp.error('[{"stream_id": "Transfer-1", "expected_version": 3}, {"stream_id": "Transfer-4", "expected_version": -101}]');
SELECT es_stream_version('Transfer-1'), es_stream_version('Transfer-4');
-- a stream that was only checked can be made afterwards, in the same transaction too
BEGIN;
SELECT count(*) FROM es_append_streams('[{"stream_id": "Transfer-5", "expected_version": 0}]');
SELECT version FROM es_append('Transfer-5', 0, 'Opened', '1');
COMMIT;

-- a retry repeats all that is written; what is checked does not matter then
\set transfer '[{"stream_id": "Transfer-1", "expected_version": 4, "events": [{"event_type": "Debited", "data": 5, "event_id": "00000000-0000-0000-0000-000000000001"}]}, {"stream_id": "Transfer-2", "expected_version": 4, "events": [{"event_type": "Credited", "data": 5, "event_id": "00000000-0000-0000-0000-000000000002"}, {"event_type": "Credited", "data": 6, "event_id": "00000000-0000-0000-0000-000000000003"}]}, {"stream_id": "Transfer-5", "expected_version": 1}]'
CREATE TEMP TABLE first AS SELECT * FROM es_append_streams(:'transfer');
SELECT stream_id, event_id, version, is_duplicate FROM first;
SELECT version FROM es_append('Transfer-5', 1, 'Debited', '1');
SELECT stream_id, a.event_id, a.version, a.global_position = f.global_position AS same_position, a.is_duplicate
  FROM es_append_streams(:'transfer') WITH ORDINALITY a JOIN first f USING (stream_id, event_id) ORDER BY ordinality;
-- under another expected version it is none
SELECT pg_temp.error(replace(:'transfer', '"expected_version": 4', '"expected_version": 5')::jsonb);
-- partly known
SELECT pg_temp.error('[
    {"stream_id": "Transfer-1", "expected_version": 4, "events": [{"event_type": "Debited", "data": 5, "event_id": "00000000-0000-0000-0000-000000000001"}]},
    {"stream_id": "Transfer-2", "expected_version": 6, "events": [{"event_type": "Credited", "data": 5}]},
    {"stream_id": "Transfer-3", "expected_version": 2, "events": [{"event_type": "Credited", "data": 5, "event_id": "00000000-0000-0000-0000-000000000009"}]}]');
SELECT pg_temp.error('[
    {"stream_id": "Transfer-2", "expected_version": 4, "events": [{"event_type": "Credited", "data": 5, "event_id": "00000000-0000-0000-0000-000000000002"}, {"event_type": "Credited", "data": 6, "event_id": "00000000-0000-0000-0000-00000000000a"}]},
    {"stream_id": "Transfer-3", "expected_version": 2, "events": [{"event_type": "Credited", "data": 5}]}]');
-- in another stream
SELECT pg_temp.error('[
    {"stream_id": "Transfer-2", "expected_version": 6, "events": [{"event_type": "Debited", "data": 5, "event_id": "00000000-0000-0000-0000-000000000001"}]},
    {"stream_id": "Transfer-1", "expected_version": 5, "events": [{"event_type": "Credited", "data": 5, "event_id": "00000000-0000-0000-0000-000000000002"}]}]');
-- an id that is known is the graver error
SELECT pg_temp.error('[
    {"stream_id": "Transfer-1", "expected_version": 1, "events": [{"event_type": "A", "data": 1, "event_id": "00000000-0000-0000-0000-00000000000b"}, {"event_type": "Debited", "data": 5, "event_id": "00000000-0000-0000-0000-000000000001"}]}]');
-- an id twice
SELECT pg_temp.error('[
    {"stream_id": "Transfer-1", "expected_version": 5, "events": [{"event_type": "A", "data": 1}, {"event_type": "A", "data": 1, "event_id": "00000000-0000-0000-0000-00000000000c"}]},
    {"stream_id": "Transfer-2", "expected_version": 6, "events": [{"event_type": "A", "data": 1, "event_id": "00000000-0000-0000-0000-00000000000c"}]}]');

-- arguments
SELECT pg_temp.error(NULL);
SELECT pg_temp.error('[]');
SELECT pg_temp.error('{}');
SELECT pg_temp.error('1');
SELECT pg_temp.error('[1]');
SELECT pg_temp.error('[{"stream_id": "TransferBad-1", "expected_version": 0}, {"expected_version": 0}]');
SELECT pg_temp.error('[{"stream_id": "TransferBad-1"}]');
SELECT pg_temp.error('[{"stream_id": "TransferBad-1", "expected_version": null}]');
SELECT pg_temp.error('[{"stream_id": null, "expected_version": 0}]');
SELECT pg_temp.error('[{"stream_id": 1, "expected_version": 0}]');
SELECT pg_temp.error('[{"stream_id": "", "expected_version": 0}]');
SELECT pg_temp.error('[{"stream_id": "TransferBad-1", "expected_version": "0"}]');
SELECT pg_temp.error('[{"stream_id": "TransferBad-1", "expected_version": 1.5}]');
SELECT pg_temp.error('[{"stream_id": "TransferBad-1", "expected_version": 1e20}]');
SELECT pg_temp.error('[{"stream_id": "TransferBad-1", "expected_version": -1}]');
SELECT pg_temp.error('[{"stream_id": "TransferBad-1", "expected_version": -100}]');
SELECT pg_temp.error('[{"stream_id": "TransferBad-1", "expected_version": 0, "event": []}]');
SELECT pg_temp.error('[{"stream_id": "TransferBad-1", "expected_version": 0, "events": "x"}]');
SELECT pg_temp.error('[{"stream_id": "TransferBad-1", "expected_version": 0}, {"stream_id": "TransferBad-2", "expected_version": 0, "events": [{"event_type": "A", "data": 1}, {"event_type": "A"}]}]');
SELECT pg_temp.error('[{"stream_id": "TransferBad-1", "expected_version": 0}, {"stream_id": "TransferBad-2", "expected_version": 0}, {"stream_id": "TransferBad-1", "expected_version": 0}]');
SET event_store.max_batch_size = 2;
SELECT pg_temp.error('[{"stream_id": "TransferBad-1", "expected_version": 0, "events": [{"event_type": "A", "data": 1}, {"event_type": "A", "data": 1}]}, {"stream_id": "TransferBad-2", "expected_version": 0, "events": [{"event_type": "A", "data": 1}]}]');
RESET event_store.max_batch_size;
BEGIN READ ONLY;
SELECT es_append_streams('[{"stream_id": "TransferBad-1", "expected_version": 0}]');
ROLLBACK;

-- many streams, more than lock manager locks are spent on
SELECT count(*), sum(version) FROM es_append_streams((
    SELECT jsonb_agg(jsonb_build_object('stream_id', 'TransferMany-' || i, 'expected_version', 0, 'events', '[{"event_type": "A", "data": 1}]'::jsonb))
      FROM generate_series(1, 1000) i));
SELECT count(*), sum(version) FROM es_append_streams((
    SELECT jsonb_agg(jsonb_build_object('stream_id', 'TransferMany-' || i, 'expected_version', 1, 'events', '[{"event_type": "A", "data": 1}]'::jsonb))
      FROM generate_series(1, 1000) i));

--
-- What guards what was written stays as long as that, whose query it ever was: a
-- cursor that fails in a savepoint takes no lock of its first rows along
--

CREATE FUNCTION pg_temp.kept(call text) RETURNS TABLE (lock text, mode text) LANGUAGE plpgsql AS $$
DECLARE
    rows refcursor;
    row record;
BEGIN
    OPEN rows FOR EXECUTE format('SELECT 1 / (2 - g), (SELECT count(*) FROM %s) FROM generate_series(1, 2) AS g', call);
    FETCH rows INTO row;
    BEGIN
        FETCH rows INTO row;
    EXCEPTION WHEN division_by_zero THEN
        NULL;
    END;
    RETURN QUERY SELECT coalesce(l.relation::regclass::text, l.locktype || ' ' || l.objsubid), l.mode
        FROM pg_locks AS l
        WHERE pid = pg_backend_pid() AND (locktype = 'advisory' OR l.mode IN ('RowExclusiveLock', 'ShareRowExclusiveLock', 'ExclusiveLock')
            AND relation IN (SELECT oid FROM pg_class WHERE relkind = 'r' AND relnamespace = 'event_store'::regnamespace AND relname <> 'mark'))
        ORDER BY 1, 2;
END
$$;
CREATE FUNCTION kept_reducer(state jsonb, event es_event) RETURNS jsonb LANGUAGE sql IMMUTABLE AS 'SELECT state';
SELECT version FROM es_append('Kept-1', es_any(), 'Kept', '1');
SELECT * FROM pg_temp.kept($$ es_append('Kept-1', es_any(), 'Kept', '2') $$);
SELECT * FROM pg_temp.kept($$ es_append('Kept-2', es_any(), 'Kept', '1') $$);
SELECT * FROM pg_temp.kept($$ es_append_if('[{"event_type": "Decided", "data": 1}]', '{"items": [{"tags": ["kept"]}]}') $$);
SELECT * FROM pg_temp.kept($$ es_import('SELECT ''Kept-1'' AS stream_id, ''Kept'' AS event_type, ''3''::jsonb AS data') $$);
SELECT * FROM pg_temp.kept($$ es_snapshot('Kept-1', 3, '{}') $$);
SELECT * FROM pg_temp.kept($$ es_define_aggregate('Kept', 'kept_reducer', snapshot_every => 1) $$);
SELECT * FROM pg_temp.kept($$ es_state('Kept-1') $$);
SELECT * FROM pg_temp.kept($$ es_drop_aggregate('Kept') $$);
SELECT version, count(*) FROM es_read_stream('Kept-1') GROUP BY version ORDER BY version;
BEGIN;
SELECT 1 FROM es_create_subscription('kept', slots => 2);
SELECT * FROM pg_temp.kept($$ es_join('kept', 'member') $$) WHERE lock = 'advisory 8';
ROLLBACK;
DROP FUNCTION kept_reducer;
