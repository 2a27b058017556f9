-- Durable subscriptions: create, fetch, acknowledge, filters, leases, errors,
-- failed events.
\set VERBOSITY terse

SELECT es_head() AS base \gset

-- eight events on three streams of two categories
SELECT count(*) FROM (
    SELECT (es_append(s, es_any(), t, to_jsonb(n))).version
      FROM (VALUES (1, 'SubA-1', 'Opened'), (2, 'SubB-1', 'Opened'), (3, 'SubA-1', 'Changed'),
                   (4, 'SubA-2', 'Opened'), (5, 'SubB-1', 'Changed'), (6, 'SubA-1', 'Closed'),
                   (7, 'SubA-2', 'Changed'), (8, 'SubA-1', 'Reopened')) AS e (n, s, t)
     ORDER BY n) a;

-- a fetch from a subscription, with the number of the event
CREATE FUNCTION pg_temp.take(name text, max_count int DEFAULT 100) RETURNS TABLE (n int, stream_id text, event_type text)
    LANGUAGE sql VOLATILE AS
    $$ SELECT (data)::int, stream_id, event_type FROM es_fetch(name, max_count) $$;

SELECT es_create_subscription('sub_all', after_position => :base);
SELECT es_create_subscription('sub_a', ARRAY['SubA'], after_position => :base);
SELECT es_create_subscription('sub_type', event_types => ARRAY['Opened', 'Closed'], after_position => :base);
SELECT es_create_subscription('sub_both', ARRAY['SubA'], ARRAY['Opened'], :base);
SELECT es_create_subscription('sub_none', ARRAY['SubNone'], NULL, :base);

-- from the checkpoint on, in order; again until acknowledged
SELECT * FROM pg_temp.take('sub_all', 3);
SELECT * FROM pg_temp.take('sub_all', 2);
SELECT es_ack('sub_all', (SELECT global_position FROM event_store.events WHERE stream_id = 'SubB-1' AND version = 1));
SELECT * FROM pg_temp.take('sub_all', 3);
SELECT es_ack('sub_all', max(global_position)) FROM es_fetch('sub_all', 3);
SELECT * FROM pg_temp.take('sub_all');
SELECT * FROM pg_temp.take('sub_a');
SELECT * FROM pg_temp.take('sub_type');
SELECT * FROM pg_temp.take('sub_both');
SELECT * FROM pg_temp.take('sub_none');

-- a consumer with a name is another one, in the same session too, while that holds the lease
SELECT count(*) FROM es_fetch('sub_type', 1, '0', 'named');
SELECT pg_advisory_unlock_all();
SELECT count(*) FROM es_fetch('sub_type', 1, '0', 'named');
SELECT * FROM pg_temp.take('sub_type');
-- told once
SELECT * FROM pg_temp.take('sub_type');

-- never backwards
SELECT es_ack('sub_all', max(global_position)) FROM es_fetch('sub_all');
SELECT es_ack('sub_all', 1);
SELECT * FROM pg_temp.take('sub_all');
SELECT name, checkpoint = es_head() AS at_head, lag_events, lag_seconds, in_flight, slots, members
  FROM event_store.subscriptions WHERE name = 'sub_all';
-- a bookmark is moved by hand
SELECT es_reset_subscription('sub_none', es_head());
SELECT name, checkpoint = es_head() AS at_head, lag_events, lag_seconds > 0 AS lags, lag_positions > 0 AS behind, in_flight,
       holder IS NOT NULL AS held, lease, max_retries, retry_delay, categories, event_types
  FROM event_store.subscriptions WHERE name LIKE 'sub\_%' ORDER BY name;

-- in a transaction that is rolled back nothing has happened
BEGIN;
SELECT es_ack('sub_both', max(global_position)) FROM es_fetch('sub_both');
SELECT * FROM pg_temp.take('sub_both');
ROLLBACK;
SELECT * FROM pg_temp.take('sub_both');
-- nor after a savepoint
BEGIN;
SAVEPOINT s;
SELECT es_ack('sub_both', max(global_position)) FROM es_fetch('sub_both');
ROLLBACK TO SAVEPOINT s;
SELECT * FROM pg_temp.take('sub_both');
COMMIT;

-- the transaction's own events
BEGIN;
SELECT version FROM es_append('SubA-3', 0, 'Opened', '9');
SELECT * FROM pg_temp.take('sub_all');
ROLLBACK;
SELECT * FROM pg_temp.take('sub_all');

-- does not wait for what its snapshot cannot show, ends at the timeout
BEGIN ISOLATION LEVEL REPEATABLE READ;
SELECT count(*) FROM es_fetch('sub_all', 1, '1 h');
COMMIT;
SELECT count(*) FROM es_fetch('sub_all', 1, '10 ms');

-- start again
SELECT es_reset_subscription('sub_all', :base);
SELECT count(*) FROM pg_temp.take('sub_all');

-- retry: the stream waits, the others go on
SELECT es_create_subscription('sub_fail', ARRAY['SubA'], NULL, :base, max_retries => 1, retry_delay => '0');
SELECT * FROM pg_temp.take('sub_fail', 2);
SELECT global_position AS failed FROM event_store.events WHERE stream_id = 'SubA-1' AND version = 1 \gset
SELECT es_nack('sub_fail', :failed, 'no good');
SELECT es_nack('sub_fail', :failed, 'told twice');
SELECT es_nack('sub_fail', (SELECT global_position FROM event_store.events WHERE stream_id = 'SubA-1' AND version = 2), 'behind it');
SELECT es_ack('sub_fail', max(global_position)) FROM event_store.events WHERE stream_id = 'SubA-1' AND version = 2;
SELECT * FROM pg_temp.take('sub_fail');
-- the second failure is one too many
SELECT es_nack('sub_fail', :failed, 'still no good');
SELECT es_ack('sub_fail', max(global_position)) FROM es_fetch('sub_fail');
SELECT * FROM pg_temp.take('sub_fail');
SELECT subscription, stream_id, version, event_type, state, attempts, reason, next_attempt_at
  FROM event_store.parked_events ORDER BY global_position;
SELECT name, retrying_streams, parked_streams FROM event_store.subscriptions WHERE name = 'sub_fail';
-- once more by hand
SELECT es_retry_parked('sub_fail', 'SubA-2');
SELECT es_retry_parked('sub_fail', 'SubA-1');
SELECT * FROM pg_temp.take('sub_fail');
SELECT es_ack('sub_fail', :failed);
SELECT * FROM pg_temp.take('sub_fail');
-- parked at once
SELECT es_nack('sub_fail', (SELECT global_position FROM event_store.events WHERE stream_id = 'SubA-1' AND version = 2), 'never', false);
SELECT stream_id, version, state, attempts, reason FROM event_store.parked_events ORDER BY global_position;
SELECT es_discard_parked('sub_fail', :failed);
SELECT es_discard_parked('sub_fail', (SELECT global_position FROM event_store.events WHERE stream_id = 'SubA-1' AND version = 2));
SELECT * FROM pg_temp.take('sub_fail');
SELECT es_nack('sub_fail', (SELECT global_position FROM event_store.events WHERE stream_id = 'SubA-1' AND version = 3), NULL, false);
SELECT es_discard_parked_stream('sub_fail', 'SubA-2');
SELECT es_discard_parked_stream('sub_fail', 'SubA-1');
SELECT * FROM pg_temp.take('sub_fail');
SELECT count(*) FROM event_store.parked_events;
SELECT count(*) FROM event_store.parked_stream;
-- and goes on
SELECT version FROM es_append('SubA-1', es_any(), 'Changed', '10');
SELECT * FROM pg_temp.take('sub_fail');

-- what precedes a failed event in its batch is not done before it is acknowledged
SELECT es_create_subscription('sub_pending', ARRAY['Pend'], retry_delay => '0');
SELECT count(*) FROM (SELECT es_append('Pend-1', es_any(), 'Happened', '0') FROM generate_series(1, 4)) a;
SELECT min(global_position) AS one, min(global_position) + 1 AS two, min(global_position) + 2 AS three,
       max(global_position) AS four FROM event_store.events WHERE stream_id = 'Pend-1' \gset
SELECT version FROM es_fetch('sub_pending');
SELECT es_nack('sub_pending', :three, 'bad', false), es_nack('sub_pending', :four, 'behind it');
SELECT version FROM es_fetch('sub_pending');
SELECT version, state FROM event_store.parked_events WHERE subscription = 'sub_pending' ORDER BY 1;
SELECT es_discard_parked('sub_pending', :three), es_discard_parked('sub_pending', :three);
SELECT es_nack('sub_pending', :three, 'discarded');
SELECT es_ack('sub_pending', :one);
SELECT version FROM es_fetch('sub_pending');
-- an earlier one fails after all: what is discarded stays so
SELECT es_nack('sub_pending', :two, 'bad', false), es_nack('sub_pending', :four, 'behind it');
SELECT es_ack('sub_pending', :four);
SELECT version, state FROM event_store.parked_events WHERE subscription = 'sub_pending' ORDER BY 1;
SELECT es_retry_parked('sub_pending');
SELECT version FROM es_fetch('sub_pending');
SELECT es_ack('sub_pending', :two);
SELECT version FROM es_fetch('sub_pending');
SELECT es_ack('sub_pending', :four);
SELECT version FROM es_fetch('sub_pending');
SELECT count(*) FROM event_store.parked_stream WHERE subscription = 'sub_pending';
SELECT es_drop_subscription('sub_pending');

-- a stream is discarded up to where it is shown, not to what was discarded before: what lies between is in hand
SELECT es_create_subscription('sub_discard', ARRAY['Disc'], retry_delay => '0');
SELECT count(*) FROM (SELECT es_append('Disc-1', es_any(), 'Happened', '0') FROM generate_series(1, 4)) a;
SELECT count(*) FROM (SELECT es_append('Disc-2', es_any(), 'Happened', '0') FROM generate_series(1, 5)) a;
SELECT min(global_position) - 1 AS base FROM event_store.events WHERE stream_id = 'Disc-1' \gset
SELECT count(*) FROM es_fetch('sub_discard');
SELECT es_nack('sub_discard', :base + 3, 'bad', false), es_discard_parked('sub_discard', :base + 3);
SELECT es_nack('sub_discard', :base + 1, 'bad', false);
-- here another one before it is in hand, too
SELECT es_nack('sub_discard', :base + 8, 'bad', false), es_discard_parked('sub_discard', :base + 8);
SELECT es_nack('sub_discard', :base + 6, 'bad', false);
SELECT stream_id, version, state FROM event_store.parked_events WHERE subscription = 'sub_discard' ORDER BY global_position;
SELECT es_discard_parked_stream('sub_discard', 'Disc-1'), es_discard_parked_stream('sub_discard', 'Disc-2');
SELECT es_ack('sub_discard', :base + 5);
SELECT es_ack('sub_discard', max(global_position)), array_agg(stream_id || ' ' || version) FROM es_fetch('sub_discard');
SELECT es_ack('sub_discard', max(global_position)), array_agg(stream_id || ' ' || version) FROM es_fetch('sub_discard');
SELECT count(*) FROM es_fetch('sub_discard');
SELECT count(*) FROM event_store.parked_stream WHERE subscription = 'sub_discard';
-- twice: the second time there is nothing to give up, and what is in hand is done when it is acknowledged
SELECT es_reset_subscription('sub_discard', :base + 4);
SELECT array_agg(version) FROM es_fetch('sub_discard');
SELECT es_nack('sub_discard', :base + 7, 'bad', false), es_discard_parked_stream('sub_discard', 'Disc-2');
SELECT es_discard_parked_stream('sub_discard', 'Disc-2'), es_ack('sub_discard', :base + 9);
SELECT array_agg(version) FROM es_fetch('sub_discard');
-- what failed was discarded before the consumer comes to the next one
SELECT es_reset_subscription('sub_discard', :base + 4);
SELECT array_agg(version) FROM es_fetch('sub_discard');
SELECT es_nack('sub_discard', :base + 6, 'bad', false), es_discard_parked('sub_discard', :base + 6),
       es_nack('sub_discard', :base + 8, 'behind it');
SELECT es_ack('sub_discard', :base + 9);
SELECT array_agg(version) FROM es_fetch('sub_discard');
SELECT es_drop_subscription('sub_discard');

-- what the filter does not want was not handed out, so it cannot have failed
SELECT es_create_subscription('sub_filter', ARRAY['Filt'], ARRAY['Wanted'], es_head(), retry_delay => '0');
SELECT global_position AS other FROM es_append('FiltOther-1', es_any(), 'Wanted', '0') \gset
SELECT global_position AS unwanted FROM es_append('Filt-1', es_any(), 'Unwanted', '0') \gset
SELECT global_position AS wanted FROM es_append('Filt-1', es_any(), 'Wanted', '0') \gset
SELECT stream_id, version FROM es_fetch('sub_filter');
\set VERBOSITY sqlstate
SELECT es_nack('sub_filter', :other, 'bad');
SELECT es_nack('sub_filter', :unwanted, 'bad', false);
\set VERBOSITY terse
-- a retry that was ordered does not make it the first failure
SELECT es_nack('sub_filter', :wanted, 'bad', false);
SELECT first_failed_at AS first FROM event_store.parked_events WHERE subscription = 'sub_filter' \gset
SELECT es_retry_parked('sub_filter'), es_ack('sub_filter', :wanted);
SELECT version FROM es_fetch('sub_filter');
SELECT es_nack('sub_filter', :wanted, 'bad', false);
SELECT version, attempts, first_failed_at = :'first' AS as_before, failed_at > :'first' AS later
  FROM event_store.parked_events WHERE subscription = 'sub_filter';
-- what is wanted in today's shape is seen in it
CREATE FUNCTION sub_upcast(data jsonb) RETURNS jsonb LANGUAGE sql IMMUTABLE AS 'SELECT data';
SELECT es_define_upcaster('Unwanted', 1, 'sub_upcast(jsonb)', to_event_type => 'Late');
SELECT es_create_subscription('sub_late', ARRAY['Filt'], ARRAY['Late'], :other);
SELECT version, event_type FROM es_fetch('sub_late');
SELECT es_nack('sub_late', :unwanted, 'bad', false);
SELECT version, event_type, state FROM event_store.parked_events WHERE subscription = 'sub_late';
-- nor does what is parked disappear with the wish for it
SELECT es_drop_upcaster('Unwanted', 1);
SELECT version, event_type, state FROM event_store.parked_events WHERE subscription = 'sub_late';
SELECT es_drop_subscription('sub_filter'), es_drop_subscription('sub_late');
DROP FUNCTION sub_upcast;

-- a long queue does not keep the other streams waiting
SELECT es_create_subscription('sub_long', ARRAY['Long'], NULL, es_head());
SELECT count(es_append('Long-1', es_any(), 'Happened', '0')) FROM generate_series(1, 30);
SELECT es_nack('sub_long', min(global_position), 'bad', false), es_ack('sub_long', max(global_position)) FROM es_fetch('sub_long');
SELECT version FROM es_append('Long-2', 0, 'Happened', '0');
SELECT es_retry_parked('sub_long');
SELECT es_ack('sub_long', max(global_position)), count(*) FROM es_fetch('sub_long', 10);
SELECT version FROM es_append('Long-2', 1, 'Happened', '0');
SELECT stream_id, version FROM es_fetch('sub_long', 10);
SELECT es_drop_subscription('sub_long');

-- only what was handed out can be acknowledged: beyond it nothing moves and nothing is lost
SELECT es_head() AS base \gset
SELECT count(es_append('Hand-1', es_any(), CASE WHEN n = 3 THEN 'Other' ELSE 'T' END, to_jsonb(n))) FROM generate_series(1, 5) n;
SELECT count(es_append('Hand-2', es_any(), 'Other', to_jsonb(n))) FROM generate_series(6, 7) n;
SELECT es_create_subscription('sub_hand', ARRAY['Hand'], ARRAY['T'], :base, retry_delay => '0');
CREATE FUNCTION pg_temp.checkpoint() RETURNS bigint LANGUAGE sql VOLATILE AS
    $$ SELECT checkpoint FROM event_store.subscriptions WHERE name = 'sub_hand' $$;
CREATE FUNCTION pg_temp.hand(n int, member text DEFAULT NULL) RETURNS text LANGUAGE sql VOLATILE AS
    $$ SELECT string_agg(data::text, ' ') FROM es_fetch('sub_hand', n, '0', member) $$;
\set VERBOSITY sqlstate
-- nothing fetched yet
SELECT es_ack('sub_hand', :base + 1);
SELECT pg_temp.hand(2);
SELECT es_ack('sub_hand', :base + 3);
SELECT es_ack('sub_hand', es_head());
SELECT pg_temp.checkpoint() - :base AS done, pg_temp.hand(2);
-- an acknowledgement of nothing renews the lease
SELECT lease_until AS before FROM event_store.subscriptions WHERE name = 'sub_hand' \gset
SELECT es_ack('sub_hand', 0);
SELECT lease_until > :'before' AS renewed FROM event_store.subscriptions WHERE name = 'sub_hand';
SELECT es_ack('sub_hand', :base + 2), pg_temp.checkpoint() - :base AS done;
SELECT es_ack('sub_hand', :base + 2), es_ack('sub_hand', 0), pg_temp.checkpoint() - :base AS done;
-- acknowledged, nothing is in hand
SELECT es_ack('sub_hand', :base + 3);
-- a part; and again beyond the whole
SELECT pg_temp.hand(2);
SELECT es_ack('sub_hand', :base + 4), pg_temp.checkpoint() - :base AS done;
SELECT es_ack('sub_hand', :base + 6);
-- what a fetch has looked at and left out counts as handed out
SELECT pg_temp.hand(2);
SELECT es_ack('sub_hand', :base + 7), pg_temp.checkpoint() - :base AS done;
SELECT es_ack('sub_hand', es_head()), pg_temp.checkpoint() - :base AS done;
SELECT pg_temp.hand(2);
-- after a reset it does not
SELECT es_reset_subscription('sub_hand', :base);
SELECT es_ack('sub_hand', :base + 7);
-- a consumer with a name
SELECT pg_temp.hand(1, 'm');
SELECT es_ack('sub_hand', :base + 2, 'm');
SELECT es_ack('sub_hand', :base + 1, 'm'), pg_temp.checkpoint() - :base AS done;
SELECT es_ack('sub_hand', :base + 2, 'm');
-- a retry: its event comes alone, the rest stays to be done
SELECT pg_temp.hand(2);
SELECT es_nack('sub_hand', :base + 2, 'bad'), es_ack('sub_hand', :base + 4);
SELECT pg_temp.hand(1);
SELECT es_ack('sub_hand', :base + 5);
SELECT es_ack('sub_hand', :base + 2), pg_temp.checkpoint() - :base AS done;
SELECT pg_temp.hand(10);
SELECT es_ack('sub_hand', es_head()), pg_temp.hand(10);
SELECT es_drop_subscription('sub_hand');

-- errors
\set VERBOSITY default
\set SHOW_CONTEXT never
SELECT es_create_subscription('sub_all');
SELECT es_create_subscription(NULL);
SELECT es_create_subscription('');
SELECT es_create_subscription(repeat('x', 256));
SELECT es_create_subscription('x', ARRAY['a-b']);
SELECT es_create_subscription('x', ARRAY['a', NULL]);
SELECT es_create_subscription('x', NULL, ARRAY['']);
SELECT es_create_subscription('x', after_position => -1);
SELECT es_create_subscription('x', after_position => NULL);
SELECT es_create_subscription('x', slots => 0);
SELECT es_create_subscription('x', slots => 1025);
SELECT es_create_subscription('x', lease => '0');
SELECT es_create_subscription('x', lease => NULL);
SELECT es_create_subscription('x', max_retries => -1);
SELECT es_create_subscription('x', retry_delay => '-1 s');
SELECT es_drop_subscription('x');
SELECT es_reset_subscription('x');
SELECT es_fetch('x');
SELECT es_fetch(NULL);
SELECT es_fetch('sub_all', 0);
SELECT es_fetch('sub_all', NULL);
SELECT es_fetch('sub_all', 1, '-1 s');
SELECT es_fetch('sub_all', 1, NULL);
SELECT es_fetch('sub_all', 1, '0', '');
SELECT es_ack('x', 1);
SELECT es_ack('sub_all', NULL);
SELECT es_ack('sub_all', -1);
SELECT es_nack('x', 1, 'r');
SELECT es_nack('sub_all', 9223372036854775807, 'r');
SELECT es_nack('sub_all', 1, 'r', NULL);
SELECT es_retry_parked('x');
SELECT es_discard_parked('x', 1);
SELECT es_discard_parked_stream('x', 'y');
SELECT es_join('sub_all', 'm');
SELECT es_leave('sub_all', 'm');

-- a checkpoint ahead of the head; positions differ from run to run
\set VERBOSITY sqlstate
SELECT es_reset_subscription('sub_all', es_head() + 1);
SELECT es_create_subscription('sub_ahead', after_position => es_head() + 1);
SELECT es_ack('sub_all', es_head() + 100);
-- as in a store that was restored; the lag of it is not known
UPDATE event_store.subscription_checkpoint SET position = es_head() + 1 WHERE subscription = 'sub_all';
SELECT es_fetch('sub_all');
SELECT lag_events, lag_seconds, lag_positions, reason FROM event_store.subscriptions WHERE name = 'sub_all';
\set VERBOSITY default
SELECT es_reset_subscription('sub_all', es_head());
SELECT * FROM es_fetch('sub_all');

BEGIN READ ONLY;
SELECT es_fetch('sub_all');
ROLLBACK;

-- privileges: a reader consumes, an admin manages
CREATE ROLE regress_es_consumer;
SELECT es_grant('regress_es_consumer', 'reader');
GRANT USAGE ON SCHEMA public TO regress_es_consumer;
SET ROLE regress_es_consumer;
SELECT count(*) FROM es_fetch('sub_a');
SELECT es_ack('sub_a', 0);
SELECT es_create_subscription('x');
SELECT es_drop_subscription('sub_a');
SELECT es_reset_subscription('sub_a');
SELECT es_retry_parked('sub_a');
SELECT count(*) > 0 AS visible FROM event_store.subscriptions;
UPDATE event_store.subscription_checkpoint SET position = 0;
RESET ROLE;
-- a stream's queue, of which row-level security hides every third event
SELECT es_head() AS base \gset
SELECT count(*) FROM (SELECT es_append('Hide-1', es_any(), 'T' || n % 2, to_jsonb(n)) FROM generate_series(1, 60) n) a;
SELECT es_create_subscription('sub_hide', ARRAY['Hide'], ARRAY['T1'], :base, retry_delay => '0');
SELECT count(*), min(global_position) AS failed FROM es_fetch('sub_hide') \gset
SELECT es_nack('sub_hide', :failed, 'bad'), es_ack('sub_hide', es_head());
CREATE POLICY hide ON event_store.event TO regress_es_consumer USING (data::int % 3 > 0);
ALTER TABLE event_store.event ENABLE ROW LEVEL SECURITY;
SET ROLE regress_es_consumer;
SELECT version FROM es_fetch('sub_hide');
SELECT es_ack('sub_hide', :failed);
SELECT array_agg(version) FROM es_fetch('sub_hide', 16);
SELECT es_ack('sub_hide', max(global_position)) FROM es_fetch('sub_hide', 16);
SELECT array_agg(version) FROM es_fetch('sub_hide', 16);
SELECT es_ack('sub_hide', es_head());
SELECT count(*) FROM es_fetch('sub_hide');
RESET ROLE;
ALTER TABLE event_store.event DISABLE ROW LEVEL SECURITY;
DROP POLICY hide ON event_store.event;
SELECT count(*) FROM event_store.parked_stream WHERE subscription = 'sub_hide';
SELECT es_revoke('regress_es_consumer', 'reader');
SET ROLE regress_es_consumer;
SELECT count(*) FROM es_fetch('sub_a');
RESET ROLE;
REVOKE ALL ON SCHEMA public FROM regress_es_consumer;
DROP ROLE regress_es_consumer;

SELECT es_drop_subscription(name) FROM event_store.subscription WHERE name LIKE 'sub\_%' ORDER BY name;
SELECT count(*) FROM event_store.subscription_checkpoint;
