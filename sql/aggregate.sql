-- Aggregates: es_state, snapshots on a cadence, reducers, the command handler
\set SHOW_CONTEXT never

-- a reducer in SQL
CREATE FUNCTION account_reduce(state jsonb, event es_event) RETURNS jsonb LANGUAGE sql IMMUTABLE
    AS $$
    SELECT CASE (event).event_type
        WHEN 'Opened' THEN jsonb_build_object('owner', (event).data->'owner', 'balance', 0)
        WHEN 'Deposited' THEN jsonb_set(state, '{balance}', to_jsonb((state->>'balance')::numeric + ((event).data->>'amount')::numeric))
        WHEN 'Withdrawn' THEN jsonb_set(state, '{balance}', to_jsonb((state->>'balance')::numeric - ((event).data->>'amount')::numeric))
        ELSE state
    END
    $$;

-- the same in PL/pgSQL
CREATE FUNCTION account_reduce_plpgsql(state jsonb, event es_event) RETURNS jsonb LANGUAGE plpgsql
    AS $$
DECLARE
    balance numeric := state->>'balance';
    amount numeric := event.data->>'amount';
BEGIN
    CASE event.event_type
        WHEN 'Opened' THEN
            RETURN jsonb_build_object('owner', event.data->'owner', 'balance', 0);
        WHEN 'Deposited' THEN
            RETURN jsonb_set(state, '{balance}', to_jsonb(balance + amount));
        WHEN 'Withdrawn' THEN
            RETURN jsonb_set(state, '{balance}', to_jsonb(balance - amount));
        ELSE
            RETURN state;
    END CASE;
END
$$;

-- and as an ordinary aggregate over events
CREATE AGGREGATE account_state(es_event) (SFUNC = account_reduce, STYPE = jsonb, INITCOND = '{}');

CREATE FUNCTION account_snapshots() RETURNS TABLE (stream_id text, version bigint, data jsonb, schema_version int) LANGUAGE sql
    AS $$
    SELECT s.stream_id, n.version, n.data, n.schema_version
      FROM event_store.snapshot AS n JOIN event_store.stream AS s USING (stream_no)
     WHERE s.stream_id LIKE 'Account%' ORDER BY s.stream_id, n.schema_version
    $$;

SELECT count(*) FROM es_append_batch('Account-1', 0, '{Opened,Deposited,Deposited,Withdrawn}',
    '{"{\"owner\": \"Ann\"}", "{\"amount\": 10}", "{\"amount\": 5}", "{\"amount\": 3}"}',
    event_ids => '{00000000-0000-4000-8000-0000000d0001,00000000-0000-4000-8000-0000000d0002,00000000-0000-4000-8000-0000000d0003,00000000-0000-4000-8000-0000000d0004}');

--
-- Definitions
--

\set VERBOSITY sqlstate
SELECT es_define_aggregate('Account', 'account_none(jsonb,es_event)');
SELECT es_define_aggregate('Account', 4294967295::oid::regprocedure);
SELECT es_define_aggregate('Account', 'account_state(es_event)');
SELECT es_define_aggregate('Account', 'jsonb_concat(jsonb,jsonb)');
SELECT es_define_aggregate('Account', NULL);
SELECT es_define_aggregate(NULL, 'account_reduce(jsonb,es_event)');
SELECT es_define_aggregate('Acc-ount', 'account_reduce(jsonb,es_event)');
SELECT es_define_aggregate('Account', 'account_reduce(jsonb,es_event)', NULL);
SELECT es_define_aggregate('Account', 'account_reduce(jsonb,es_event)', snapshot_every => -1);
SELECT es_define_aggregate('Account', 'account_reduce(jsonb,es_event)', snapshot_every => NULL);
SELECT es_define_aggregate('Account', 'account_reduce(jsonb,es_event)', schema_version => 0);
SELECT es_define_aggregate('Account', 'account_reduce(jsonb,es_event)', schema_version => NULL);
SELECT es_drop_aggregate('Account');
SELECT es_drop_aggregate(NULL);
SELECT es_state('Account-1');
SELECT es_state(NULL);
\set VERBOSITY default
SELECT es_define_aggregate('Account', 'account_reduce(jsonb,es_event)', '{"new": true}', 3);
SELECT es_define_aggregate('Account', 'account_reduce(jsonb,es_event)');
TABLE event_store.aggregate;

--
-- State and snapshots
--

SELECT * FROM es_state('Account-unknown');
SELECT * FROM es_state('Account');
-- four events are three or more: saved
SELECT * FROM es_state('Account-1');
SELECT * FROM account_snapshots();
SELECT count(*) FROM es_append_batch('Account-1', 4, '{Deposited,Audited}', '{"{\"amount\": 100}", "{}"}');
-- two are not
SELECT * FROM es_state('Account-1');
SELECT * FROM account_snapshots();
SELECT version FROM es_append('Account-1', 6, 'Withdrawn', '{"amount": 12}');
SELECT * FROM es_state('Account-1');
SELECT * FROM account_snapshots();
-- it is the snapshot that the state is made of
UPDATE event_store.snapshot SET data = '{"balance": 1000}' WHERE data->>'balance' = '100';
SELECT * FROM es_state('Account-1');
-- a cache: thrown away, nothing changes
SELECT es_drop_snapshots('Account-1'), es_drop_snapshots('Account-1'), es_drop_snapshots('Account-unknown');
SELECT * FROM es_state('Account-1');
SELECT es_drop_snapshots() > 0 AS dropped;
SELECT * FROM es_state('Account-1');
SELECT * FROM account_snapshots();

--
-- As of a version, as of a time
--

SELECT v, s.* FROM generate_series(0, 9) AS v, es_state('Account-1', v) AS s ORDER BY v;
SELECT es_state('Account-1', -1);
SELECT pg_catalog.clock_timestamp() AS moment \gset
SELECT version FROM es_append('Account-1', 7, 'Deposited', '{"amount": 1}');
SELECT version FROM es_append('Account-1', 8, 'Deposited', '{"amount": 1}');
SELECT version FROM es_append('Account-1', 9, 'Deposited', '{"amount": 1}');
SELECT * FROM es_state('Account-1');
-- the snapshot is of version 10 now
SELECT * FROM account_snapshots();
SELECT * FROM es_state('Account-1', at_time => :'moment');
SELECT * FROM es_state('Account-1', at_time => 'infinity');
SELECT * FROM es_state('Account-1', at_time => '-infinity');
SELECT * FROM es_state('Account-1', at_version => 5, at_time => :'moment');
SELECT * FROM es_state('Account-1', at_version => 8, at_time => :'moment');
-- the moment of an event is included
SELECT s.* FROM es_read_stream('Account-1', 8, 1) AS e, es_state('Account-1', at_time => e.created_at) AS s;
-- looking back leaves no snapshot
SELECT es_drop_snapshots('Account-1');
SELECT version FROM es_state('Account-1', 9);
SELECT version FROM es_state('Account-1', at_time => :'moment');
SELECT * FROM account_snapshots();

--
-- Saving never makes a read fail
--

BEGIN TRANSACTION READ ONLY;
SELECT * FROM es_state('Account-1');
COMMIT;
BEGIN ISOLATION LEVEL SERIALIZABLE;
SELECT * FROM es_state('Account-1');
COMMIT;
SELECT * FROM account_snapshots();
-- a table that refuses
ALTER TABLE event_store.snapshot ADD CONSTRAINT refuse CHECK (version < 0) NOT VALID;
SELECT * FROM es_state('Account-1');
BEGIN;
SELECT * FROM es_state('Account-1');
SELECT version FROM es_append('Account-2', 0, 'Opened', '{"owner": "Bob"}', event_id => '00000000-0000-4000-8000-0000000d0005');
COMMIT;
ALTER TABLE event_store.snapshot DROP CONSTRAINT refuse;
SELECT * FROM account_snapshots();
SELECT version, state->'owner' AS owner FROM es_state('Account-2');
-- what was saved goes with the transaction
BEGIN;
SELECT count(*) FROM es_append_batch('Account-2', 1, '{Deposited,Deposited}', '{"{\"amount\": 1}", "{\"amount\": 2}"}');
SELECT * FROM es_state('Account-2');
SELECT * FROM account_snapshots();
ROLLBACK;
SELECT * FROM account_snapshots();
SELECT * FROM es_state('Account-2');
-- many at once: all states, and a bounded number of snapshots
SELECT count(*) FROM generate_series(1, 100) AS n,
    es_append_batch('Account-many' || n, 0, '{Opened,Deposited,Deposited}', '{"{}", "{\"amount\": 1}", "{\"amount\": 2}"}');
SELECT count(*), sum((s.state->>'balance')::int) FROM generate_series(1, 100) AS n, es_state('Account-many' || n) AS s;
SELECT count(*) BETWEEN 1 AND 99 AS some FROM account_snapshots();
SELECT es_drop_snapshots() > 0 AS dropped;

--
-- Another version of the state
--

SELECT version FROM es_state('Account-1');
SELECT stream_id, version, schema_version FROM account_snapshots();
SELECT es_drop_aggregate('Account');
SELECT * FROM account_snapshots();
CREATE FUNCTION account_reduce_2(state jsonb, event es_event) RETURNS jsonb LANGUAGE sql IMMUTABLE
    AS $$ SELECT jsonb_build_object('events', (state->>'events')::int + 1, 'last', (event).event_type) $$;
SELECT es_snapshot('Account-1', 2, '{"old": true}', 1);
SELECT es_define_aggregate('Account', 'account_reduce_2(jsonb,es_event)', '{"events": 0}', 3, 2);
SELECT * FROM es_state('Account-1');
-- the older ones are removed when the first new one is saved
SELECT * FROM account_snapshots();
-- a snapshot of another origin is not taken for one of the aggregate
SELECT es_drop_aggregate('Account');
SELECT es_snapshot('Account-1', 2, '{"strange": true}', 5);
SELECT es_define_aggregate('Account', 'account_reduce_2(jsonb,es_event)', '{"events": 0}', 0, 5);
SELECT * FROM es_state('Account-1');
-- 0 is never
SELECT * FROM account_snapshots();
-- nor does one taken by hand come between: it is refused, whatever its version
SELECT es_define_aggregate('Apart', 'account_reduce_2(jsonb,es_event)', '{"events": 0}', 2, 1);
SELECT count(*) FROM es_append_batch('Apart-1', 0, '{A,B,C}', '{"{}","{}","{}"}');
SELECT es_snapshot('Apart-1', 2, '{"by": "hand"}');
SELECT es_snapshot('Apart-1', 2, '{"by": "hand"}', 7);
SELECT es_snapshot('Apart', 1, '{"by": "hand"}');
SELECT * FROM es_state('Apart-1');
-- what is loaded is the aggregate's
SELECT version, data, schema_version FROM es_read_snapshot('Apart-1');
SELECT version, snapshot_version, snapshot FROM es_load('Apart-1');
-- a category whose name begins alike is another one
SELECT count(*) FROM es_append_batch('Apartment-1', 0, '{A}', '{"{}"}');
SELECT es_snapshot('Apartment-1', 1, '{"by": "hand"}');
-- once it is gone, they may be taken, and go when there is one again
SELECT es_drop_aggregate('Apart');
SELECT es_read_snapshot('Apart-1') IS NULL AS gone;
SELECT es_snapshot('Apart-1', 2, '{"by": "hand"}'), es_snapshot('Apart-1', 3, '{"by": "hand"}', 7);
SELECT es_define_aggregate('Apart', 'account_reduce_2(jsonb,es_event)', '{"events": 0}', 0, 1);
SELECT es_read_snapshot('Apart-1') IS NULL AS gone, (es_read_snapshot('Apartment-1')).data AS other;
SELECT version, snapshot_version, cardinality(events) FROM es_load('Apart-1');
SELECT * FROM es_state('Apart-1');
SELECT es_drop_aggregate('Apart');
SELECT es_drop_aggregate('Account');

--
-- Reducers in other shapes
--

SELECT es_define_aggregate('Account', 'account_reduce_plpgsql(jsonb,es_event)', snapshot_every => 3);
SELECT * FROM es_state('Account-1');
SELECT * FROM es_state('Account-1');
SELECT account_state(e ORDER BY e.version) AS state FROM es_read_stream('Account-1') AS e;
SELECT e.stream_id, account_state(e ORDER BY e.version) AS state
  FROM es_read_category('Account', max_count => NULL) AS e WHERE e.stream_id IN ('Account-1', 'Account-2') GROUP BY e.stream_id ORDER BY e.stream_id;

--
-- Failures
--

CREATE FUNCTION account_fail(state jsonb, event es_event) RETURNS jsonb LANGUAGE plpgsql
    AS $$
BEGIN
    IF event.version = 3 THEN
        RAISE EXCEPTION 'no deposit today' USING ERRCODE = 'ZZ002';
    END IF;
    RETURN CASE WHEN event.version <> 2 THEN state END;
END
$$;
SELECT es_drop_aggregate('Account');
SELECT es_define_aggregate('Account', 'account_fail(jsonb,es_event)', snapshot_every => 1);
\set SHOW_CONTEXT always
SELECT * FROM es_state('Account-1');
SELECT * FROM es_state('Account-1', 1);
INSERT INTO event_store.snapshot SELECT stream_no, 1, 2, now(), '{}' FROM event_store.stream WHERE stream_id = 'Account-1';
SELECT * FROM es_state('Account-1');
\set SHOW_CONTEXT never
DROP FUNCTION account_fail(jsonb, es_event);
SELECT * FROM es_state('Account-2');
SELECT * FROM es_state('Account-unknown');
-- made again
CREATE FUNCTION account_fail(state jsonb, event es_event) RETURNS jsonb LANGUAGE sql AS 'SELECT to_jsonb((event).version)';
SELECT * FROM es_state('Account-2');
CREATE OR REPLACE FUNCTION account_fail(state jsonb, event es_event) RETURNS jsonb LANGUAGE sql AS $$ SELECT '"replaced"'::jsonb $$;
SELECT es_drop_snapshots() > 0 AS dropped;
SELECT * FROM es_state('Account-2');
SELECT es_drop_aggregate('Account');

--
-- Upcasters
--

CREATE FUNCTION account_euro(data jsonb) RETURNS jsonb LANGUAGE sql IMMUTABLE
    AS $$ SELECT jsonb_set(data, '{amount}', to_jsonb((data->>'amount')::numeric * 2)) $$;
SELECT es_define_aggregate('Account', 'account_reduce(jsonb,es_event)', snapshot_every => 3);
SELECT * FROM es_state('Account-1');
-- states of what was read before are not used any more
SELECT es_define_upcaster('Deposited', 1, 'account_euro(jsonb)');
SELECT * FROM account_snapshots();
SELECT * FROM es_state('Account-1');
SELECT * FROM account_snapshots();
-- raw events, and then no snapshot of others
SET event_store.upcast = off;
SELECT * FROM es_state('Account-1');
SELECT * FROM account_snapshots();
RESET event_store.upcast;
SELECT es_drop_upcaster('Deposited', 1);
SELECT * FROM account_snapshots();
SELECT * FROM es_state('Account-1');

--
-- Who may
--

SET client_min_messages = warning;
DROP ROLE IF EXISTS regress_es_agg_reader, regress_es_agg_writer, regress_es_agg_admin;
RESET client_min_messages;
CREATE ROLE regress_es_agg_reader;
CREATE ROLE regress_es_agg_writer;
CREATE ROLE regress_es_agg_admin;
SELECT es_grant('regress_es_agg_reader', 'reader'), es_grant('regress_es_agg_writer', 'writer'), es_grant('regress_es_agg_admin', 'admin');
SELECT es_drop_snapshots() > 0 AS dropped;
-- a reader gets the state, but others do not start from what he computes
SET ROLE regress_es_agg_reader;
SELECT * FROM es_state('Account-1');
SELECT es_define_aggregate('X', 'account_reduce(jsonb,es_event)');
SELECT es_drop_aggregate('Account');
SELECT es_drop_snapshots();
RESET ROLE;
SELECT * FROM account_snapshots();
-- a writer, who may take snapshots, saves
SET ROLE regress_es_agg_writer;
SELECT * FROM es_state('Account-1');
SELECT * FROM event_store.snapshot;
RESET ROLE;
SELECT * FROM account_snapshots();
-- the reducer runs as the caller
CREATE FUNCTION account_who(state jsonb, event es_event) RETURNS jsonb LANGUAGE sql AS 'SELECT to_jsonb(current_user)';
SELECT es_define_aggregate('Accounting', 'account_who(jsonb,es_event)', snapshot_every => 1);
SELECT version FROM es_append('Accounting-1', 0, 'A', '{}');
SET ROLE regress_es_agg_writer;
SELECT * FROM es_state('Accounting-1');
RESET ROLE;
REVOKE EXECUTE ON FUNCTION account_who(jsonb, es_event) FROM PUBLIC;
SELECT es_drop_snapshots('Accounting-1');
SET ROLE regress_es_agg_writer;
SELECT * FROM es_state('Accounting-1');
SET ROLE regress_es_agg_admin;
SELECT es_define_aggregate('X', 'account_who(jsonb,es_event)');
SELECT es_drop_aggregate('Accounting');
SELECT category FROM event_store.aggregate;
SELECT es_drop_snapshots() > 0 AS dropped;
RESET ROLE;
-- row-level security: only what he may see, and no snapshot of more
SELECT version FROM es_state('Account-1');
ALTER TABLE event_store.event ENABLE ROW LEVEL SECURITY;
CREATE POLICY account_policy ON event_store.event TO regress_es_agg_reader USING (data ? 'owner');
SET ROLE regress_es_agg_reader;
SELECT * FROM es_state('Account-1');
SELECT * FROM es_state('Account-1', 2);
RESET ROLE;
DROP POLICY account_policy ON event_store.event;
ALTER TABLE event_store.event DISABLE ROW LEVEL SECURITY;
SELECT es_revoke('regress_es_agg_reader', 'reader'), es_revoke('regress_es_agg_writer', 'writer'), es_revoke('regress_es_agg_admin', 'admin');
DROP ROLE regress_es_agg_reader, regress_es_agg_writer, regress_es_agg_admin;

--
-- The command handler: load, decide, append with the version that was loaded;
-- on a conflict load and decide again.  "rivals" is for this test only: so many
-- others are faster.
--

CREATE FUNCTION account_withdraw(account text, amount numeric, rivals int DEFAULT 0) RETURNS bigint LANGUAGE plpgsql
    AS $$
DECLARE
    current record;
    new_version bigint;
BEGIN
    LOOP
        SELECT * INTO current FROM es_state(account);
        IF current.version = 0 THEN
            RAISE EXCEPTION 'there is no account %', account;
        END IF;
        IF (current.state->>'balance')::numeric < amount THEN
            RAISE EXCEPTION 'balance % is less than %', current.state->>'balance', amount;
        END IF;

        IF rivals > 0 THEN
            rivals := rivals - 1;
            PERFORM es_append(account, current.version, 'Withdrawn', '{"amount": 50}');
        END IF;

        BEGIN
            SELECT version INTO new_version
              FROM es_append(account, current.version, 'Withdrawn', jsonb_build_object('amount', amount));
            RETURN new_version;
        EXCEPTION WHEN SQLSTATE 'VE001' THEN
            NULL;   -- somebody was faster
        END;
    END LOOP;
END
$$;
SELECT * FROM es_state('Account-1');
SELECT account_withdraw('Account-1', 20);
SELECT account_withdraw('Account-1', 20, rivals => 1);
SELECT * FROM es_state('Account-1');
SELECT account_withdraw('Account-1', 10, rivals => 1);
SELECT account_withdraw('Account-1', 100);
SELECT account_withdraw('Account-none', 1);
SELECT * FROM es_state('Account-1');

SELECT es_drop_aggregate('Account');
