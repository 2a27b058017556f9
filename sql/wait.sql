-- Waiting for events and the state of the order, as one session sees them
\set SHOW_CONTEXT never

SELECT global_position AS base FROM es_append('WaitOrder-1', 0, 'Placed', '1') \gset
SELECT es_head() = :base AS head;

-- there is something beyond: at once
SELECT es_wait(0) = :base AS head;
SELECT es_wait(:base - 1, '1 hour') = :base AS head;
-- nothing beyond: at the timeout
SELECT es_wait(:base, '0') = :base AS head;
SELECT es_wait(after_position => :base, timeout => '10 ms') = :base AS head;
SET statement_timeout = '50ms';
SELECT es_wait(:base, '1 hour');
RESET statement_timeout;

-- the head of now, not of the transaction's snapshot; in its own transaction an event counts
BEGIN ISOLATION LEVEL REPEATABLE READ;
SELECT es_head() = :base AS head;
SELECT version FROM es_append('WaitOrder-1', 1, 'Paid', '2');
SELECT es_wait(:base, '0') > :base AS head;
ROLLBACK;

-- bad arguments
SELECT es_wait(NULL);
SELECT es_wait(0, NULL);
SELECT es_wait(-1);
SELECT es_wait(0, '-1 s');
DO $$
BEGIN
    PERFORM es_wait(es_head() + 1000000);
EXCEPTION WHEN OTHERS THEN
    RAISE NOTICE '% %', SQLSTATE, SQLERRM;
END
$$;

-- what holds the head back
SELECT settled_head = :base AS head, blocking_position, blocking_xid, blocking_pid, blocking_gid, blocking_age
  FROM event_store.status;
BEGIN;
SELECT version, global_position AS mine FROM es_append('WaitOrder-1', 1, 'Paid', '2') \gset
SELECT settled_head = :mine AS head, last_position = :mine AS last, blocking_position FROM event_store.status;
SAVEPOINT s;
SELECT version FROM es_append('WaitOrder-1', 2, 'Paid', '3');
ROLLBACK TO s;
SELECT settled_head = :mine AS head, blocking_position FROM event_store.status;
COMMIT;
SELECT settled_head = :mine AS head, blocking_position FROM event_store.status;

-- settings
SHOW event_store.notify;
SET event_store.notify = 'sometimes';
SET event_store.notify = 'off';
SELECT version FROM es_append('WaitOrder-1', 2, 'Paid', '3');
RESET event_store.notify;
