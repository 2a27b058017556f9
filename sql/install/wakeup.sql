--
-- Waiting and status
--

CREATE FUNCTION @extschema@.es_wait(after_position bigint, timeout interval DEFAULT '30 s') RETURNS bigint
    LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'es_wait';
COMMENT ON FUNCTION @extschema@.es_wait(bigint, interval) IS
    'sleeps in the server until the settled head is beyond the position or the time is up; the head';
REVOKE ALL ON FUNCTION @extschema@.es_wait(bigint, interval) FROM PUBLIC;

CREATE FUNCTION event_store.es_head_status(OUT settled_head bigint, OUT last_position bigint,
        OUT blocking_position bigint, OUT blocking_xid xid)
    RETURNS record
    LANGUAGE c VOLATILE PARALLEL RESTRICTED AS 'MODULE_PATHNAME', 'es_head_status';
COMMENT ON FUNCTION event_store.es_head_status() IS 'the settled head and what holds it back; see view event_store.status';
REVOKE ALL ON FUNCTION event_store.es_head_status() FROM PUBLIC;

-- figures that pg_stat_activity shows to few
CREATE FUNCTION event_store.es_transaction_status(blocking_xid xid, OUT pid int, OUT started_at timestamptz)
    RETURNS record
    LANGUAGE c VOLATILE PARALLEL RESTRICTED AS 'MODULE_PATHNAME', 'es_transaction_status';
COMMENT ON FUNCTION event_store.es_transaction_status(xid) IS 'process and start of a transaction that is running; see view event_store.status';
REVOKE ALL ON FUNCTION event_store.es_transaction_status(xid) FROM PUBLIC;

CREATE FUNCTION event_store.es_worker_status(OUT pid int, OUT waiting_since timestamptz, OUT obstacle text)
    RETURNS record
    LANGUAGE c VOLATILE PARALLEL RESTRICTED AS 'MODULE_PATHNAME', 'es_worker_status';
COMMENT ON FUNCTION event_store.es_worker_status() IS
    'the database''s background worker, since when it or one of its projections'' waits for a free slot, and why it cannot have one at all';
REVOKE ALL ON FUNCTION event_store.es_worker_status() FROM PUBLIC;

CREATE VIEW event_store.status AS
    SELECT h.settled_head, h.last_position, h.blocking_position, h.blocking_xid,
           a.pid AS blocking_pid, p.gid AS blocking_gid,
           pg_catalog.clock_timestamp() OPERATOR(pg_catalog.-) COALESCE(a.started_at, p.prepared) AS blocking_age,
           w.pid AS worker_pid
      FROM event_store.es_head_status() h
     CROSS JOIN LATERAL event_store.es_transaction_status(h.blocking_xid) a
      LEFT JOIN pg_catalog.pg_prepared_xacts p ON p.transaction OPERATOR(pg_catalog.=) h.blocking_xid
     CROSS JOIN event_store.es_worker_status() w;
COMMENT ON VIEW event_store.status IS
    'settled head, last position, and the transaction that holds the head back, if any';
COMMENT ON COLUMN event_store.status.settled_head IS 'up to here readers see everything';
COMMENT ON COLUMN event_store.status.last_position IS 'highest position that has been used, committed or not';
COMMENT ON COLUMN event_store.status.blocking_position IS 'what holds the head back, if anything: its position';
COMMENT ON COLUMN event_store.status.blocking_xid IS 'its transaction';
COMMENT ON COLUMN event_store.status.blocking_pid IS 'its process';
COMMENT ON COLUMN event_store.status.blocking_gid IS 'its name, if it is a prepared transaction';
COMMENT ON COLUMN event_store.status.blocking_age IS 'how long its transaction has been open';
COMMENT ON COLUMN event_store.status.worker_pid IS 'the database''s worker; NULL when it is not running';

CREATE FUNCTION event_store.es_statistics(OUT appends bigint, OUT events bigint, OUT conflicts bigint,
        OUT condition_failures bigint, OUT id_conflicts bigint, OUT duplicates bigint,
        OUT notifications bigint, OUT wakeups bigint, OUT reads bigint, OUT reset_at timestamptz)
    RETURNS record
    LANGUAGE c VOLATILE PARALLEL RESTRICTED AS 'MODULE_PATHNAME', 'es_statistics';
COMMENT ON FUNCTION event_store.es_statistics() IS 'counters of this database; see view event_store.statistics';
REVOKE ALL ON FUNCTION event_store.es_statistics() FROM PUBLIC;

CREATE VIEW event_store.statistics AS
    SELECT s.appends, s.events, s.conflicts, s.condition_failures, s.id_conflicts, s.duplicates,
           s.notifications, s.wakeups, s.reads, s.reset_at
      FROM event_store.es_statistics() s;
COMMENT ON VIEW event_store.statistics IS
    'what this database''s store has done since reset_at, the start of the server or es_reset_statistics()';
COMMENT ON COLUMN event_store.statistics.appends IS 'calls that have written';
COMMENT ON COLUMN event_store.statistics.events IS 'events that they have written';
COMMENT ON COLUMN event_store.statistics.conflicts IS 'appends refused with VE001';
COMMENT ON COLUMN event_store.statistics.condition_failures IS 'appends refused with VE007';
COMMENT ON COLUMN event_store.statistics.id_conflicts IS 'appends refused with VE002';
COMMENT ON COLUMN event_store.statistics.duplicates IS 'retries that were answered';
COMMENT ON COLUMN event_store.statistics.notifications IS 'NOTIFYs that the worker has sent';
COMMENT ON COLUMN event_store.statistics.wakeups IS 'waiting sessions that were woken';
COMMENT ON COLUMN event_store.statistics.reads IS 'reads that were begun';
COMMENT ON COLUMN event_store.statistics.reset_at IS 'since when';

CREATE FUNCTION @extschema@.es_reset_statistics() RETURNS void
    LANGUAGE c VOLATILE PARALLEL RESTRICTED AS 'MODULE_PATHNAME', 'es_reset_statistics';
COMMENT ON FUNCTION @extschema@.es_reset_statistics() IS 'sets the counters of event_store.statistics to 0';
REVOKE ALL ON FUNCTION @extschema@.es_reset_statistics() FROM PUBLIC;
