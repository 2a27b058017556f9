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

CREATE VIEW event_store.status AS
    SELECT h.settled_head, h.last_position, h.blocking_position, h.blocking_xid,
           a.pid AS blocking_pid, p.gid AS blocking_gid,
           pg_catalog.clock_timestamp() OPERATOR(pg_catalog.-) COALESCE(a.xact_start, p.prepared) AS blocking_age,
           w.pid AS worker_pid
      FROM event_store.es_head_status() h
      LEFT JOIN pg_catalog.pg_stat_activity a ON a.backend_xid OPERATOR(pg_catalog.=) h.blocking_xid
      LEFT JOIN pg_catalog.pg_prepared_xacts p ON p.transaction OPERATOR(pg_catalog.=) h.blocking_xid
      LEFT JOIN pg_catalog.pg_stat_activity w
             ON w.backend_type OPERATOR(pg_catalog.=) 'event_store worker'
            AND w.datname OPERATOR(pg_catalog.=) pg_catalog.current_database();
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
