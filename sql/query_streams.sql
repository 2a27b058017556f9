-- Queries of streams and of prefixes of their names
\set SHOW_CONTEXT never
\pset format unaligned
\pset tuples_only on
\pset null (null)
SELECT es_head() AS start \gset
SELECT count(*) FROM es_append_if('[{"event_type": "QsA", "data": 1, "stream_id": "Qs-1", "tags": ["qs:x"]},
    {"event_type": "QsA", "data": 2, "stream_id": "Qs-10"}, {"event_type": "QsB", "data": 3, "stream_id": "Qs-1"},
    {"event_type": "QsA", "data": 4, "stream_id": "Qst-1"}, {"event_type": "QsA", "data": 5, "tags": ["qs:x"]},
    {"event_type": "QsB", "data": 6, "stream_id": "Qs-2", "tags": ["qs:x"]}, {"event_type": "QsA", "data": 7, "stream_id": "Qs"}]', '{"items": [{"tags": ["qs:none"]}]}');
SELECT data, stream_id, version FROM es_read_query('{"items": [{"streams": ["Qs-1"]}]}');
SELECT data, stream_id FROM es_read_query('{"items": [{"streams": ["Qs-1", "Qs-2", "Qs-1", "Qs-unknown"]}]}', backward => true);
SELECT data, stream_id FROM es_read_query('{"items": [{"stream_prefixes": ["Qs-1"]}]}');
SELECT data, stream_id FROM es_read_query('{"items": [{"stream_prefixes": ["Qs"]}]}', :start);
SELECT data, stream_id FROM es_read_query('{"items": [{"stream_prefixes": ["Qs-2", "Qst"], "event_types": ["QsA"]}]}');
SELECT data, stream_id FROM es_read_query('{"items": [{"streams": ["Qs-1"], "tags": ["qs:x"]}, {"stream_prefixes": ["Qst-"]}]}');
-- all keys of an item must hold
SELECT data, stream_id FROM es_read_query('{"items": [{"streams": ["Qs-1", "Qst-1"], "stream_prefixes": ["Qst"]}]}');
SELECT count(*) FROM es_read_query('{"items": [{"streams": ["Qs-unknown"]}, {"stream_prefixes": ["Qs-unknown", "QsUnknown"]}]}');
SELECT count(*) FROM es_read_query('{"items": [{"streams": []}]}', :start);
SELECT es_read_query('{"items": [{"streams": "Qs-1"}]}');
SELECT es_read_query('{"items": [{"stream_prefixes": [""]}]}');
SELECT es_read_query('{"items": [{"stream": ["Qs-1"]}]}');

-- subscriptions, a group, what failed, how far behind
SELECT es_create_subscription('qs_one', query => '{"items": [{"streams": ["Qs-1"]}]}');
-- made once; what is there stays, whatever is asked for
SELECT es_create_subscription('qs_one', ARRAY['Other'], if_not_exists => true);
SELECT es_create_subscription('qs_one');
SELECT es_create_subscription('qs_later', query => '{"items": [{"streams": ["Qs-later"]}]}');
SELECT es_create_subscription('qs_prefix', query => '{"items": [{"stream_prefixes": ["Qs-"]}]}', slots => 4, retry_delay => '0');
SELECT es_create_subscription('qs_both', categories => ARRAY['Qs'], event_types => ARRAY['QsB'], query => '{"items": [{"streams": ["Qs-1", "Qst-1"]}]}');
SELECT name, lag_events FROM event_store.subscriptions WHERE name LIKE 'qs%' ORDER BY name;
SELECT data FROM es_fetch('qs_one');
SELECT es_ack('qs_one', es_head());
SELECT data FROM es_fetch('qs_later');
SELECT version FROM es_append('Qs-later', 0, 'QsA', '8');
SELECT version FROM es_append('Qs-1', 2, 'QsA', '9');
SELECT data FROM es_fetch('qs_later');
SELECT data FROM es_fetch('qs_one');
SELECT data FROM es_fetch('qs_both');
SELECT data, global_position AS failed FROM es_fetch('qs_prefix', 2, member => 'm') LIMIT 1 \gset
SELECT es_nack('qs_prefix', :failed, 'bad', retry => false, member => 'm');
SELECT data FROM es_fetch('qs_prefix', 10, member => 'm');
SELECT es_ack('qs_prefix', es_head(), 'm');
SELECT stream_id, version, state FROM event_store.parked_events WHERE subscription = 'qs_prefix' ORDER BY global_position;
SELECT es_retry_parked('qs_prefix');
SELECT data FROM es_fetch('qs_prefix', 1, member => 'm');
SELECT es_ack('qs_prefix', :failed, 'm');
SELECT data FROM es_fetch('qs_prefix', 10, member => 'm');
SELECT name, lag_events FROM event_store.subscriptions WHERE name LIKE 'qs%' ORDER BY name;
SELECT es_reset_subscription('qs_one', 0);
SELECT data FROM es_fetch('qs_one');

-- what has queued up behind a failed event is what the subscription wants of its stream
SELECT es_create_subscription('qs_park', query => '{"items": [{"streams": ["Qs-p"], "event_types": ["QsB"]}, {"tags": ["qs:p", "qs:q"]}, {"stream_prefixes": ["Qs-q"]}]}', after_position => es_head());
SELECT count(*) FROM es_append_if('[{"event_type": "QsB", "data": 1, "stream_id": "Qs-p"}, {"event_type": "QsA", "data": 2, "stream_id": "Qs-p"},
    {"event_type": "QsB", "data": 3, "stream_id": "Qs-p", "tags": ["qs:p"]}, {"event_type": "QsA", "data": 4, "stream_id": "Qs-p", "tags": ["qs:p", "qs:q", "qs:r"]},
    {"event_type": "QsA", "data": 5, "stream_id": "Qs-p", "tags": ["qs:p"]}, {"event_type": "QsA", "data": 6, "stream_id": "Qs-q1"},
    {"event_type": "QsA", "data": 7, "stream_id": "Qs-q1"}]', '{"items": [{"tags": ["qs:none"]}]}');
SELECT data FROM es_fetch('qs_park', 10) ORDER BY global_position;
SELECT es_nack('qs_park', global_position, 'bad', retry => false) FROM event_store.events WHERE stream_id IN ('Qs-p', 'Qs-q1') AND version = 1 ORDER BY 1;
SELECT es_ack('qs_park', es_head());
SELECT stream_id, version, state FROM event_store.parked_events WHERE subscription = 'qs_park' ORDER BY global_position;
-- the others are what will be handed out
SELECT es_retry_parked('qs_park');
SELECT data FROM es_fetch('qs_park', 10) ORDER BY global_position;
SELECT es_ack('qs_park', es_head());
SELECT data FROM es_fetch('qs_park', 10) ORDER BY global_position;
SELECT es_drop_subscription('qs_park');

-- a condition may name them, too
SELECT count(*) FROM es_append_if('[{"event_type": "QsA", "data": 10, "stream_id": "Qs-1"}]', '{"items": [{"streams": ["Qs-2", "Qs-new"]}]}', (SELECT max(global_position) FROM es_read_stream('Qs-2')));
\set VERBOSITY sqlstate
SELECT es_append_if('[{"event_type": "QsA", "data": 11}]', '{"items": [{"streams": ["Qs-1"]}]}', :start);
SELECT es_append_if('[{"event_type": "QsA", "data": 11}]', '{"items": [{"stream_prefixes": ["Qs-la"]}]}', :start);
\set VERBOSITY default

-- what is settled of a named stream comes from its own index: the same answer from everywhere, in both directions
SELECT setseed(0.17);
SELECT sum(n) FROM generate_series(1, 120) g,
    LATERAL (SELECT count(*) AS n FROM es_append_batch('Qs-many' || (random() * 5)::int, es_any(),
        array_fill(CASE WHEN g % 3 = 0 THEN 'QsA' ELSE 'QsB' END, ARRAY[30]), array_fill(to_jsonb(g), ARRAY[30]))) a;
DO $$
DECLARE
    _head bigint := es_head();
    _query jsonb;
    _after bigint;
    _max bigint;
    _wrong int := 0;
    _met bigint := 0;
    _expected bigint[];
    _got bigint[];
BEGIN
    IF (SELECT max(global_position) FROM event_store.mark) < _head - 2500 THEN
        RAISE 'nothing is known to be settled';
    END IF;
    FOR i IN 1 .. 300 LOOP
        _query := (ARRAY['{"items": [{"streams": ["Qs-many1"]}]}', '{"items": [{"streams": ["Qs-many2", "Qs-many3"], "event_types": ["QsA"]}]}',
            '{"items": [{"streams": ["Qs-many2"]}, {"streams": ["Qs-many2", "Qs-many4"], "event_types": ["QsB"]}]}',
            '{"items": [{"stream_prefixes": ["Qs-many1", "Qs-1"]}]}'])[i % 4 + 1];
        _after := (random() * _head)::bigint;
        _max := (ARRAY[1, 7, 1000, NULL])[i / 4 % 4 + 1];
        SELECT array_agg(global_position) INTO _expected FROM (SELECT global_position FROM es_read_all(_after, NULL) e
             WHERE CASE i % 4 WHEN 0 THEN stream_id = 'Qs-many1' WHEN 1 THEN stream_id IN ('Qs-many2', 'Qs-many3') AND event_type = 'QsA'
                   WHEN 2 THEN stream_id = 'Qs-many2' OR stream_id = 'Qs-many4' AND event_type = 'QsB'
                   ELSE stream_id LIKE 'Qs-many1%' OR stream_id LIKE 'Qs-1%' END LIMIT _max) f;
        SELECT array_agg(global_position) INTO _got FROM es_read_query(_query, _after, _max);
        _wrong := _wrong + (_got IS DISTINCT FROM _expected)::int;
        _met := _met + coalesce(cardinality(_got), 0);
        SELECT array_agg(global_position) INTO _expected FROM (SELECT global_position FROM es_read_all(_after, NULL, backward => true) e
             WHERE CASE i % 4 WHEN 0 THEN stream_id = 'Qs-many1' WHEN 1 THEN stream_id IN ('Qs-many2', 'Qs-many3') AND event_type = 'QsA'
                   WHEN 2 THEN stream_id = 'Qs-many2' OR stream_id = 'Qs-many4' AND event_type = 'QsB'
                   ELSE stream_id LIKE 'Qs-many1%' OR stream_id LIKE 'Qs-1%' END LIMIT _max) f;
        SELECT array_agg(global_position) INTO _got FROM es_read_query(_query, _after, _max, backward => true);
        _wrong := _wrong + (_got IS DISTINCT FROM _expected)::int;
        _met := _met + coalesce(cardinality(_got), 0);
    END LOOP;
    RAISE NOTICE 'different answers: %, enough seen: %', _wrong, _met > 20000;
END $$;

-- rows that a superuser has changed, behind the guard's back, where they are
SELECT count(*) FROM es_append_batch('Qs-hot1', es_any(), array_fill('QsHot'::text, ARRAY[40]), array_fill('1'::jsonb, ARRAY[40]));
SELECT count(*) FROM es_append_batch('Qs-hot2', es_any(), array_fill('QsHot'::text, ARRAY[40]), array_fill('2'::jsonb, ARRAY[40]));
ALTER TABLE event_store.event DISABLE TRIGGER es_guard_statement, DISABLE TRIGGER es_guard_row;
CREATE TEMP TABLE qs_was AS SELECT e.global_position, e.ctid AS place FROM event_store.event e JOIN event_store.stream s USING (stream_no) WHERE s.stream_id LIKE 'Qs-hot%';
UPDATE event_store.event e SET metadata = '{"changed": 1}' FROM event_store.stream s WHERE s.stream_no = e.stream_no AND s.stream_id LIKE 'Qs-hot%' AND e.version > 38;
ALTER TABLE event_store.event ENABLE ALWAYS TRIGGER es_guard_statement, ENABLE ALWAYS TRIGGER es_guard_row;
SELECT count(*) > 0 AS some_on_their_page FROM qs_was w JOIN event_store.event e USING (global_position)
 WHERE e.ctid <> w.place AND (e.ctid::text::point)[0] = (w.place::text::point)[0];
SELECT sum(n) FROM generate_series(1, 120) g,
    LATERAL (SELECT count(*) AS n FROM es_append_batch('Qs-after', es_any(), array_fill('QsA'::text, ARRAY[30]), array_fill(to_jsonb(g), ARRAY[30]))) a;
SELECT (SELECT max(global_position) FROM event_store.mark) > max(global_position) AS settled FROM qs_was;
SELECT data, count(*), count(*) FILTER (WHERE metadata <> '{}') AS changed
  FROM es_read_query('{"items": [{"streams": ["Qs-hot1", "Qs-hot2"]}]}') GROUP BY 1 ORDER BY 1;
SELECT data, count(*), count(*) FILTER (WHERE metadata <> '{}') AS changed
  FROM es_read_query('{"items": [{"streams": ["Qs-hot1", "Qs-hot2"]}]}', backward => true) GROUP BY 1 ORDER BY 1;
SELECT es_drop_subscription(s.name) FROM event_store.subscriptions s WHERE name LIKE 'qs%' ORDER BY s.name;
