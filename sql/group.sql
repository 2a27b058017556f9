-- Consumer groups: slots, members, delivery, errors.
SELECT es_head() AS base \gset
SELECT count(*) FROM (
    SELECT es_append('Grp-' || n % 20, es_any(), 'Happened', to_jsonb(n)) FROM generate_series(1, 100) n) a;

SELECT es_create_subscription('grp', ARRAY['Grp'], NULL, :base, 12);
SELECT name, slots, members, lag_events, in_flight, holder FROM event_store.subscriptions WHERE name = 'grp';

-- the first fetch joins
SELECT count(*), count(DISTINCT stream_id) AS streams FROM es_fetch('grp', member => 'm1');
SELECT member, slots, in_flight, alive, lease FROM event_store.subscription_members WHERE subscription = 'grp' ORDER BY member;
SELECT es_join('grp', 'm2', '1 min');
-- what is in hand does not move
SELECT count(*) FROM es_fetch('grp', member => 'm2');
SELECT es_ack('grp', es_head(), 'm1');
SELECT count(*) FROM es_fetch('grp', member => 'm1');
SELECT count(*) FROM es_fetch('grp', member => 'm2');
SELECT member, slots, in_flight, alive, lease FROM event_store.subscription_members WHERE subscription = 'grp' ORDER BY member;

-- every event once, a stream with one member, in order
SELECT count(*) FROM (
    SELECT es_append('Grp-' || n % 20, es_any(), 'Happened', to_jsonb(n)) FROM generate_series(101, 200) n) a;
CREATE TEMP TABLE got (nr serial, member text, global_position bigint, stream_id text);
INSERT INTO got (member, global_position, stream_id)
    SELECT 'm1', global_position, stream_id FROM es_fetch('grp', 1000, member => 'm1');
INSERT INTO got (member, global_position, stream_id)
    SELECT 'm2', global_position, stream_id FROM es_fetch('grp', 1000, member => 'm2');
SELECT count(*), count(DISTINCT global_position) AS events, count(DISTINCT stream_id) AS streams,
       count(DISTINCT (member, stream_id)) AS owned, count(DISTINCT member) AS members FROM got;
SELECT count(*) AS out_of_order
  FROM got a JOIN got b ON a.member = b.member AND a.nr < b.nr AND a.global_position > b.global_position;

-- each acknowledges for itself, in part
SELECT es_ack('grp', (SELECT global_position FROM got WHERE member = 'm1' ORDER BY nr OFFSET 4 LIMIT 1), 'm1');
SELECT count(*) = (SELECT count(*) - 5 FROM got WHERE member = 'm1') AS rest_of_m1 FROM es_fetch('grp', 1000, member => 'm1');
SELECT count(*) = (SELECT count(*) FROM got WHERE member = 'm2') AS all_of_m2 FROM es_fetch('grp', 1000, member => 'm2');
SELECT lag_events FROM event_store.subscriptions WHERE name = 'grp';
SELECT es_ack('grp', es_head(), 'm2');
-- again is no harm
SELECT es_ack('grp', es_head(), 'm2');
-- only what was handed out: with events in hand, with none
\set VERBOSITY sqlstate
SELECT es_create_subscription('hand', ARRAY['Grp'], NULL, :base, 1);
SELECT max(global_position) AS got FROM es_fetch('hand', 2, member => 'm1') \gset
SELECT es_ack('hand', :got + 1, 'm1');
SELECT es_ack('hand', :got, 'm1');
SELECT checkpoint = :got AS done FROM event_store.subscriptions WHERE name = 'hand';
SELECT es_ack('hand', :got, 'm1');
SELECT es_ack('hand', :got + 1, 'm1');
SELECT es_leave('hand', 'm1');
SELECT es_ack('hand', :got, 'm1');
SELECT checkpoint = :got AS stays FROM event_store.subscriptions WHERE name = 'hand';
SELECT es_drop_subscription('hand');
\set VERBOSITY default

-- a leaver's events go to the others
SELECT es_leave('grp', 'm1');
SELECT es_leave('grp', 'm1');
SELECT count(*) FROM es_fetch('grp', 1000, member => 'm2') f
  JOIN got ON got.global_position = f.global_position AND got.member = 'm2';
SELECT count(*) = (SELECT count(*) - 5 FROM got WHERE member = 'm1') AS rest_of_m1 FROM es_fetch('grp', 1000, member => 'm2');
SELECT member, slots FROM event_store.subscription_members WHERE subscription = 'grp' ORDER BY member;
SELECT es_ack('grp', es_head(), 'm2');
SELECT lag_events, members FROM event_store.subscriptions WHERE name = 'grp';

-- out: cannot acknowledge
SELECT es_ack('grp', 0, 'm1');
SELECT es_nack('grp', 1, 'r', member => 'm1');

-- a failed event of a member
SELECT version FROM es_append('Grp-1', es_any(), 'Happened', '201');
SELECT version FROM es_append('Grp-1', es_any(), 'Happened', '202');
SELECT version FROM es_append('Grp-2', es_any(), 'Happened', '203');
SELECT min(global_position) AS failed FROM es_fetch('grp', member => 'm2') \gset
SELECT es_nack('grp', :failed, 'bad', false, 'm2');
SELECT es_ack('grp', es_head(), 'm2');
SELECT data FROM es_fetch('grp', member => 'm2');
SELECT stream_id, version, state FROM event_store.parked_events ORDER BY global_position;
SELECT es_retry_parked('grp');
SELECT data FROM es_fetch('grp', member => 'm2');
SELECT es_ack('grp', :failed, 'm2');
SELECT data FROM es_fetch('grp', member => 'm2');
SELECT es_ack('grp', es_head(), 'm2');
SELECT data FROM es_fetch('grp', member => 'm2');
SELECT count(*) FROM event_store.parked_events;

-- start again: all members are out, the next fetch joins
SELECT es_reset_subscription('grp', :base);
SELECT count(*) FROM event_store.subscription_members WHERE subscription = 'grp';
SELECT count(*) FROM es_fetch('grp', 1000, member => 'm2');

-- a slot that is ahead of its new owner's others: what queues up there is not lost
SELECT es_head() AS base \gset
SELECT es_create_subscription('ahead', ARRAY['Ahead'], NULL, :base, 2, retry_delay => '0');
SELECT es_join('ahead', 'm1'), es_join('ahead', 'm2');
SELECT count(*) FROM es_fetch('ahead', member => 'm1');
SELECT count(*) FROM es_fetch('ahead', member => 'm2');
-- one stream for each of them
SELECT count(*) FROM (
    SELECT es_append('Ahead-' || n, es_any(), 'Happened', '0') FROM generate_series(1, 20) n) a;
CREATE TEMP TABLE mine AS
    SELECT 'm1' AS member, min(stream_id) AS stream_id FROM es_fetch('ahead', member => 'm1')
    UNION ALL SELECT 'm2', min(stream_id) FROM es_fetch('ahead', member => 'm2');
SELECT es_ack('ahead', es_head(), 'm1'), es_ack('ahead', es_head(), 'm2');
SELECT stream_id AS one FROM mine WHERE member = 'm1' \gset
SELECT stream_id AS two FROM mine WHERE member = 'm2' \gset
SELECT global_position AS failed FROM es_append(:'two', es_any(), 'Happened', '"fails"') \gset
SELECT global_position AS first FROM es_append(:'one', es_any(), 'Happened', '"first"') \gset
SELECT global_position AS queued FROM es_append(:'two', es_any(), 'Happened', '"queued"') \gset
SELECT global_position AS last FROM es_append(:'one', es_any(), 'Happened', '"last"') \gset
SELECT data FROM es_fetch('ahead', member => 'm2');
SELECT es_nack('ahead', :failed, 'bad', member => 'm2'), es_ack('ahead', :queued, 'm2');
SELECT data FROM es_fetch('ahead', member => 'm2');
SELECT es_ack('ahead', :failed, 'm2'), es_leave('ahead', 'm2');
-- m1 takes over m2's slot, which is beyond the queued event
SELECT global_position AS got, data FROM es_fetch('ahead', 1, member => 'm1') \gset
\echo :data
SELECT es_ack('ahead', :got, 'm1');
SELECT global_position AS got, data FROM es_fetch('ahead', 1, member => 'm1') \gset
\echo :data
SELECT es_ack('ahead', :got, 'm1');
SELECT global_position AS got, data FROM es_fetch('ahead', 1, member => 'm1') \gset
\echo :data
SELECT es_ack('ahead', :got, 'm1');
SELECT lag_events FROM event_store.subscriptions WHERE name = 'ahead';
SELECT data FROM es_fetch('ahead', member => 'm1');
SELECT es_drop_subscription('ahead');

-- thrown out and joined again: the events are gone nevertheless
SELECT es_create_subscription('again', ARRAY['Ahead'], NULL, :base, 1);
SELECT max(global_position) AS got FROM es_fetch('again', 1, member => 'm1') \gset
SELECT es_leave('again', 'm1'), es_join('again', 'm1');
SELECT es_ack('again', :got, 'm1');
SELECT count(*) FROM es_fetch('again', 1, member => 'm1');
SELECT es_ack('again', :got, 'm1'), es_ack('again', :got, 'm1');
SELECT es_drop_subscription('again');

-- the cursor moves over what nobody wants, even if every call has to renew the lease
SELECT es_create_subscription('lazy', ARRAY['Lazy'], NULL, :base, 2);
SELECT count(*) FROM es_fetch('lazy', member => 'm1');
SELECT count(*) FROM es_append_batch('Unwanted-1', es_any(), array_fill('Happened'::text, ARRAY[1000]), array_fill('1'::jsonb, ARRAY[1000]));
UPDATE event_store.subscription_member SET lease_until = clock_timestamp() WHERE subscription = 'lazy';
SELECT count(*) FROM es_fetch('lazy', 100, '1 h', 'm1');
SELECT checkpoint = es_head() AS moved FROM event_store.subscription_members WHERE subscription = 'lazy';
SELECT es_drop_subscription('lazy');

-- free slots are taken up to the fair share, however the query is planned
SELECT es_create_subscription('fair', ARRAY['Fair'], NULL, :base, 6);
SELECT es_join('fair', m) FROM unnest('{a,b,c}'::text[]) AS m;
SELECT count(*) FROM es_fetch('fair', member => 'a');
SELECT count(*) FROM es_fetch('fair', member => 'b');
SELECT es_leave('fair', 'a');
\c -
SET enable_hashjoin = off;
SET enable_mergejoin = off;
SET enable_hashagg = off;
SET enable_material = off;
SET enable_sort = off;
SELECT count(*) FROM es_fetch('fair', member => 'c');
RESET ALL;
SELECT member, slots FROM event_store.subscription_members WHERE subscription = 'fair' ORDER BY 1;
SELECT es_drop_subscription('fair');

-- errors
SELECT es_fetch('grp');
SELECT es_ack('grp', 1);
SELECT es_nack('grp', 1, 'r');
SELECT es_join('grp', NULL);
SELECT es_join('grp', '');
SELECT es_join('grp', 'm', '0');
SELECT es_join('x', 'm');
SELECT es_leave('x', 'm');
\set VERBOSITY sqlstate
SELECT es_ack('grp', es_head() + 1, 'm2');
SELECT es_reset_subscription('grp', es_head() + 1);
UPDATE event_store.subscription_checkpoint SET position = es_head() + 1 WHERE subscription = 'grp' AND slot = 0;
SELECT lag_events, lag_seconds, lag_positions, reason FROM event_store.subscriptions WHERE name = 'grp';
SELECT es_fetch('grp', member => 'm2');
\set VERBOSITY default

SELECT es_drop_subscription('grp');
SELECT count(*) FROM event_store.subscription_checkpoint;
SELECT count(*) FROM event_store.subscription_members;

-- streams that share a cardinal id stay together, whoever came first
SELECT es_head() AS start \gset
SELECT count(*) FROM generate_series(1, 20) g, LATERAL es_append('Card-' || g || '+late', 0, 'Carded', to_jsonb(g));
SELECT count(*) FROM generate_series(1, 20) g, LATERAL es_append('Card-' || g, 0, 'Carded', to_jsonb(g));
SELECT count(*) FROM generate_series(1, 20) g, LATERAL es_append('Card-' || g || '+late+more', 0, 'Carded', to_jsonb(g));
SELECT count(*) FROM generate_series(1, 20) g, LATERAL es_append('Card+-' || g, 0, 'Carded', to_jsonb(g));
\set VERBOSITY sqlstate
SELECT es_create_subscription('grp_card', cardinal_ids => true);
\set VERBOSITY default
SELECT es_create_subscription('grp_card', ARRAY['Card', 'Card+'], after_position => :start, slots => 16, cardinal_ids => true, retry_delay => '0');
SELECT es_create_subscription('grp_plain', ARRAY['Card', 'Card+'], after_position => :start, slots => 16);
SELECT name, cardinal_ids, lag_events FROM event_store.subscriptions WHERE name IN ('grp_card', 'grp_plain') ORDER BY name;
SELECT es_join(s, m) > 0 FROM unnest('{grp_card,grp_plain}'::text[]) s, unnest('{a,b,c}'::text[]) m;
CREATE TEMP TABLE card_got (s text, member text, stream_id text, global_position bigint);
INSERT INTO card_got SELECT s, m, stream_id, global_position
  FROM unnest('{grp_card,grp_plain}'::text[]) s, unnest('{a,b,c}'::text[]) m, LATERAL es_fetch(s, 1000, member => m);
INSERT INTO card_got SELECT s, m, stream_id, global_position
  FROM unnest('{grp_card,grp_plain}'::text[]) s, unnest('{a,b,c}'::text[]) m, LATERAL es_fetch(s, 1000, member => m)
 WHERE global_position NOT IN (SELECT global_position FROM card_got g WHERE g.s = s);
SELECT s, count(DISTINCT global_position) AS events, count(DISTINCT member) > 1 AS shared,
       bool_and(members = 1) AS together
  FROM (SELECT *, (SELECT count(DISTINCT member) FROM card_got o WHERE o.s = g.s AND split_part(o.stream_id, '-', 1) = split_part(g.stream_id, '-', 1)
                      AND split_part(split_part(o.stream_id, '-', 2), '+', 1) = split_part(split_part(g.stream_id, '-', 2), '+', 1)) AS members
          FROM card_got g) x GROUP BY s ORDER BY s;
-- what has failed stays with the member that has the slot
SELECT es_nack('grp_card', global_position, 'bad', false, member) AS nack FROM card_got WHERE s = 'grp_card' AND stream_id = 'Card-7+late';
SELECT k.slot = (SELECT c.slot FROM event_store.subscription_checkpoint c WHERE c.subscription = 'grp_card' AND c.slot = k.slot AND c.member = (SELECT DISTINCT member FROM card_got WHERE s = 'grp_card' AND stream_id = 'Card-7')) AS same
  FROM event_store.parked_stream k WHERE k.subscription = 'grp_card';
SELECT es_ack('grp_card', es_head(), m) FROM unnest('{a,b,c}'::text[]) m;
SELECT lag_events, parked_streams FROM event_store.subscriptions WHERE name = 'grp_card';
SELECT es_retry_parked('grp_card');
SELECT stream_id FROM unnest('{a,b,c}'::text[]) m, LATERAL es_fetch('grp_card', 10, member => m);
SELECT es_drop_subscription('grp_card'), es_drop_subscription('grp_plain');
DROP TABLE card_got;
