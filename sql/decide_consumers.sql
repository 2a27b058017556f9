-- Consumers of tagged events, and of events that belong to no stream
\set SHOW_CONTEXT never
\pset format unaligned
\pset tuples_only on
\pset null (null)
SELECT es_head() AS start \gset
SELECT count(*) FROM es_append_if('[{"event_type": "ConA", "data": 1, "tags": ["con:x", "con:y"]},
    {"event_type": "ConB", "data": 2, "tags": ["con:x"]}, {"event_type": "ConA", "data": 3, "tags": ["con:z"]},
    {"event_type": "ConB", "data": 4, "stream_id": "Con-1", "tags": ["con:y"]}, {"event_type": "ConC", "data": 5},
    {"event_type": "ConA", "data": 6, "tags": ["con:x"]}]', '{"items": [{"event_types": ["ConA"]}]}');

-- a query beside categories and types: all must hold
SELECT es_create_subscription('con_query', after_position => :start, query => '{"items": [{"tags": ["con:x"]}, {"event_types": ["ConC"]}]}');
SELECT es_create_subscription('con_both', event_types => ARRAY['ConA', 'ConC'], after_position => :start, query => '{"items": [{"tags": ["con:x"]}, {"event_types": ["ConB"]}]}');
SELECT es_create_subscription('con_category', categories => ARRAY['Con'], after_position => :start, query => '{"items": [{"tags": ["con:y"]}]}');
SELECT es_create_subscription('con_none', after_position => :start, query => '{"items": [{"tags": ["nobody has this"]}]}');
SELECT name, lag_events, query FROM event_store.subscriptions WHERE name LIKE 'con%' ORDER BY name;
SELECT data, stream_id, es_tags(e) FROM es_fetch('con_query') e;
SELECT es_ack('con_query', es_head());
SELECT data FROM es_fetch('con_both');
SELECT data, stream_id FROM es_fetch('con_category');
SELECT data FROM es_fetch('con_none');
-- the checkpoint goes past what the query does not want
SELECT version FROM es_append('Con-2', 0, 'ConZ', '1');
SELECT count(*) FROM es_fetch('con_query');
SELECT lag_events FROM event_store.subscriptions WHERE name = 'con_query';

-- what it does not want cannot be rejected; what it wants can, and comes again by itself
SELECT global_position AS p2 FROM es_read_query('{"items": [{"event_types": ["ConB"], "tags": ["con:x"]}]}') \gset
SELECT global_position AS p3 FROM es_read_query('{"items": [{"tags": ["con:z"]}]}') \gset
SELECT es_create_subscription('con_nack', after_position => :start, query => '{"items": [{"tags": ["con:x"]}, {"event_types": ["ConC"]}]}', retry_delay => '0');
SELECT data FROM es_fetch('con_nack', 3);
\set VERBOSITY sqlstate
SELECT es_nack('con_nack', :p3, 'not mine');
\set VERBOSITY default
SELECT es_nack('con_nack', :p2, 'bad');
SELECT stream_id, version, event_type, state, attempts, reason, global_position = :p2 FROM event_store.parked_events WHERE subscription = 'con_nack';
SELECT es_ack('con_nack', (SELECT max(global_position) FROM es_read_query('{"items": [{"event_types": ["ConC"]}]}', :start)));
SELECT data FROM es_fetch('con_nack', 10);
SELECT es_nack('con_nack', :p2, 'bad again', retry => false);
SELECT state, attempts, reason FROM event_store.parked_events WHERE subscription = 'con_nack';
SELECT es_ack('con_nack', es_head());
SELECT data FROM es_fetch('con_nack', 10);
SELECT es_retry_parked('con_nack');
SELECT data FROM es_fetch('con_nack', 10);
SELECT es_ack('con_nack', :p2);
SELECT data FROM es_fetch('con_nack', 10);
SELECT count(*) FROM event_store.parked_events WHERE subscription = 'con_nack';
SELECT count(*) FROM event_store.parked_stream WHERE subscription = 'con_nack';

-- several of them fail: each is done when it is acknowledged, and not by a renewal of the lease
SELECT es_reset_subscription('con_nack', :start);
SELECT max(global_position) AS last FROM es_fetch('con_nack', 10) \gset
SELECT es_nack('con_nack', :p2, 'bad'), es_nack('con_nack', :last, 'bad'), es_ack('con_nack', :last);
SELECT data FROM es_fetch('con_nack', 10);
SELECT es_ack('con_nack', 0);
SELECT data FROM es_fetch('con_nack', 10);
SELECT es_ack('con_nack', :p2);
SELECT data FROM es_fetch('con_nack', 10);

-- a consumer group keeps events that belong to no stream in order by their first tag
SELECT es_create_subscription('con_group', after_position => :start, slots => 8, query => '{"items": [{"event_types": ["ConA", "ConB", "ConC"]}]}');
SELECT es_join('con_group', 'a'), es_join('con_group', 'b');
CREATE TEMP TABLE got AS SELECT 'a' AS member, data, es_tags(e) AS tags, stream_id FROM es_fetch('con_group', 100, member => 'a') e;
INSERT INTO got SELECT 'b' AS member, data, es_tags(e) AS tags, stream_id FROM es_fetch('con_group', 100, member => 'b') e;
SELECT count(*), count(DISTINCT data) FROM got;
SELECT bool_and(members = 1) FROM (SELECT count(DISTINCT member) AS members FROM got WHERE stream_id IS NULL GROUP BY tags[1]) g;
SELECT es_nack('con_group', :p2, 'bad', member => (SELECT member FROM got WHERE data = '2'));
SELECT reason FROM event_store.parked_events WHERE subscription = 'con_group';
SELECT es_discard_parked('con_group', :p2);
SELECT es_drop_subscription(name) FROM event_store.subscription WHERE name LIKE 'con%';
\set VERBOSITY terse
SELECT es_create_subscription('con_bad', query => '{"items": 1}');
SELECT es_create_subscription('con_bad', query => '[]');
\set VERBOSITY default

-- a decision model
CREATE FUNCTION con_count(state jsonb, event es_event) RETURNS jsonb LANGUAGE sql IMMUTABLE AS
    $$ SELECT to_jsonb(state::int + event.data::int) $$;
SELECT state, after_position = es_head() AS at_head FROM es_decide('{"items": [{"tags": ["con:x"]}]}', 'con_count(jsonb, es_event)', '100');
SELECT state, after_position = es_head() AS at_head FROM es_decide('{"items": [{"tags": ["nobody has this"]}]}', 'con_count(jsonb, es_event)', '100');
SELECT d.state, a.is_duplicate FROM es_decide('{"items": [{"tags": ["con:x"]}]}', 'con_count(jsonb, es_event)', '0') d,
    es_append_if('[{"event_type": "ConD", "data": 7, "tags": ["con:x"]}]', '{"items": [{"tags": ["con:x"]}]}', d.after_position) a;
SELECT state FROM es_decide('{"items": [{"tags": ["con:x"]}]}', 'con_count(jsonb, es_event)', '0');
\set VERBOSITY sqlstate
SELECT es_decide('{}', 'es_head()', '0');
SELECT es_decide('{}', NULL, '0');
SELECT es_decide('{}', 'con_count(jsonb, es_event)', NULL);
SELECT es_decide('{"items": [{"event_types": ["ConA"]}]}', 'con_count(jsonb, es_event)', '"no number"');
DROP FUNCTION con_count;

-- a query's type is the type that the reader sees
CREATE FUNCTION con_up(data jsonb) RETURNS jsonb LANGUAGE sql IMMUTABLE AS $$ SELECT to_jsonb(100 + data::int) $$;
SELECT es_define_upcaster('ConB', 1, 'con_up(jsonb)', 'ConNew', 2);
SELECT data, event_type FROM es_read_query('{"items": [{"event_types": ["ConNew"]}]}');
SELECT data, event_type FROM es_read_query('{"items": [{"event_types": ["ConNew"], "tags": ["con:y"]}]}');
SELECT data, event_type FROM es_read_query('{"items": [{"event_types": ["ConB"], "tags": ["con:y"]}]}');
SELECT data, event_type FROM es_read_query('{"items": [{"event_types": ["ConB"]}, {"event_types": ["ConA"], "tags": ["con:y"]}]}');
\set VERBOSITY default
SELECT count(*) FROM es_append_if('[{"event_type": "ConNew", "schema_version": 2, "data": 8, "tags": ["con:y"]}]', '{"items": [{"event_types": ["ConB"]}]}', :start);
\set VERBOSITY sqlstate
SELECT es_append_if('[{"event_type": "ConNew", "schema_version": 2, "data": 9}]', '{"items": [{"event_types": ["ConNew"], "tags": ["con:x"]}]}', :start);
\set VERBOSITY default
SELECT es_drop_upcaster('ConB', 1);
DROP FUNCTION con_up;

-- row-level security: reading and es_tags show what the policies show, a condition looks at everything and tells nothing
CREATE ROLE con_user;
SELECT es_grant('con_user', 'writer'), es_grant('con_user', 'reader');
ALTER TABLE event_store.event ENABLE ROW LEVEL SECURITY;
CREATE POLICY con_policy ON event_store.event FOR SELECT TO con_user USING (tags @> ARRAY['con:y']);
SELECT global_position AS hidden FROM es_read_query('{"items": [{"tags": ["con:z"]}]}') \gset
SELECT e::text AS event FROM es_read_query('{"items": [{"tags": ["con:z"]}]}') e \gset
SET ROLE con_user;
SELECT data FROM es_read_query('{"items": [{"event_types": ["ConA", "ConB", "ConC"]}]}', :start);
SELECT data FROM es_read_query('{"items": [{"tags": ["con:x"]}]}', :start);
SELECT es_tags(:'event'::es_event);
SELECT es_append_if('[{"event_type": "ConE", "data": 1}]', '{"items": [{"tags": ["con:z"]}]}', :start);
RESET ROLE;
ALTER TABLE event_store.event DISABLE ROW LEVEL SECURITY;
DROP POLICY con_policy ON event_store.event;
SELECT es_revoke('con_user', 'writer'), es_revoke('con_user', 'reader');
DROP ROLE con_user;
