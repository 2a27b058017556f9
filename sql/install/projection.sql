--
-- Projections
--

-- Names of roles and functions are text: OIDs would not survive dump and
-- restore.  Room on the pages lets a checkpoint move without index entries.
CREATE TABLE event_store.projection (
    name pg_catalog.text COLLATE pg_catalog."C" NOT NULL,
    is_shadow boolean NOT NULL,
    owner pg_catalog.text NOT NULL,
    handler pg_catalog.text NOT NULL,
    reset_handler pg_catalog.text,
    categories pg_catalog.text[],
    event_types pg_catalog.text[],
    batch_size int NOT NULL,
    policy pg_catalog.text NOT NULL,
    max_attempts int NOT NULL,
    state pg_catalog.text NOT NULL,
    position bigint NOT NULL,
    generation bigint NOT NULL,
    replay_until bigint NOT NULL DEFAULT 0,
    attempts int NOT NULL DEFAULT 0,
    next_attempt_at timestamptz,
    applied bigint NOT NULL DEFAULT 0,
    rate float8 NOT NULL DEFAULT 0,
    rate_since timestamptz NOT NULL DEFAULT pg_catalog.clock_timestamp(),
    rate_applied bigint NOT NULL DEFAULT 0,
    created_at timestamptz NOT NULL DEFAULT pg_catalog.clock_timestamp(),
    started_at timestamptz NOT NULL DEFAULT pg_catalog.clock_timestamp(),
    updated_at timestamptz NOT NULL DEFAULT pg_catalog.clock_timestamp(),
    error_sqlstate pg_catalog.text,
    error_message pg_catalog.text,
    error_position bigint,
    error_at timestamptz,
    replicated boolean NOT NULL DEFAULT false,
    PRIMARY KEY (name, is_shadow)
) USING heap WITH (fillfactor = 50);
COMMENT ON TABLE event_store.projection IS 'projections with their checkpoints; see view event_store.projections';
COMMENT ON COLUMN event_store.projection.name IS 'name of the projection';
COMMENT ON COLUMN event_store.projection.is_shadow IS 'a new version, catching up beside the original';
COMMENT ON COLUMN event_store.projection.owner IS 'role as which the handler runs';
COMMENT ON COLUMN event_store.projection.handler IS 'signature of f(es_event) or f(es_event[])';
COMMENT ON COLUMN event_store.projection.reset_handler IS 'signature of f(), which empties the read model';
COMMENT ON COLUMN event_store.projection.categories IS 'categories of interest, NULL = all';
COMMENT ON COLUMN event_store.projection.event_types IS 'event types of interest, NULL = all';
COMMENT ON COLUMN event_store.projection.batch_size IS 'most events in one transaction';
COMMENT ON COLUMN event_store.projection.policy IS 'what becomes of an event that keeps failing: stop, park or skip';
COMMENT ON COLUMN event_store.projection.max_attempts IS 'attempts before the policy decides';
COMMENT ON COLUMN event_store.projection.state IS 'running, paused or stopped';
COMMENT ON COLUMN event_store.projection.position IS 'checkpoint: the read model contains everything up to here and nothing after';
COMMENT ON COLUMN event_store.projection.generation IS 'changes whenever the position is set, not moved';
COMMENT ON COLUMN event_store.projection.replay_until IS 'up to here events have been applied before; see es_is_replaying';
COMMENT ON COLUMN event_store.projection.attempts IS 'failed attempts at the next event';
COMMENT ON COLUMN event_store.projection.next_attempt_at IS 'not before this time';
COMMENT ON COLUMN event_store.projection.applied IS 'events applied since the start or the last rebuild';
COMMENT ON COLUMN event_store.projection.rate IS 'events per second, of late';
COMMENT ON COLUMN event_store.projection.rate_since IS 'start of the window over which the rate is being measured';
COMMENT ON COLUMN event_store.projection.rate_applied IS 'events applied in that window';
COMMENT ON COLUMN event_store.projection.created_at IS 'when it was created';
COMMENT ON COLUMN event_store.projection.started_at IS 'when it was started from the beginning';
COMMENT ON COLUMN event_store.projection.updated_at IS 'last movement or change of state';
COMMENT ON COLUMN event_store.projection.error_sqlstate IS 'last error: its SQLSTATE';
COMMENT ON COLUMN event_store.projection.error_message IS 'last error: its message';
COMMENT ON COLUMN event_store.projection.error_position IS 'last error: the event, NULL when none was to blame';
COMMENT ON COLUMN event_store.projection.error_at IS 'last error: when';
COMMENT ON COLUMN event_store.projection.replicated IS 'it came by logical replication and is not run here before es_take_over()';
CREATE TRIGGER es_mark_replicated BEFORE INSERT OR UPDATE ON event_store.projection
    FOR EACH ROW EXECUTE FUNCTION event_store.es_mark_replicated();
ALTER TABLE event_store.projection ENABLE ALWAYS TRIGGER es_mark_replicated;

CREATE TABLE event_store.projection_parked (
    projection pg_catalog.text COLLATE pg_catalog."C" NOT NULL,
    is_shadow boolean NOT NULL,
    global_position bigint NOT NULL,
    stream_id pg_catalog.text COLLATE pg_catalog."C" NOT NULL,
    disposition pg_catalog.text NOT NULL,
    attempts int NOT NULL,
    sqlstate pg_catalog.text,
    message pg_catalog.text,
    parked_at timestamptz NOT NULL,
    PRIMARY KEY (projection, is_shadow, global_position)
) USING heap;
-- every slice asks which streams wait, however many events do
CREATE INDEX projection_parked_stream ON event_store.projection_parked (projection, is_shadow, stream_id)
    WHERE disposition OPERATOR(pg_catalog.=) 'parked';
COMMENT ON TABLE event_store.projection_parked IS 'events that a projection has passed without applying them; see es_retry_projection_parked';
COMMENT ON COLUMN event_store.projection_parked.projection IS 'name of the projection';
COMMENT ON COLUMN event_store.projection_parked.is_shadow IS 'parked by the new version in preparation';
COMMENT ON COLUMN event_store.projection_parked.global_position IS 'position of the event';
COMMENT ON COLUMN event_store.projection_parked.stream_id IS 'stream of the event; where it belongs to none, a tab and its first tag, by which such events wait for each other';
COMMENT ON COLUMN event_store.projection_parked.disposition IS 'parked: it failed; behind: it waits behind a parked event of its stream; skipped: it failed and is only recorded';
COMMENT ON COLUMN event_store.projection_parked.attempts IS 'how often it was tried';
COMMENT ON COLUMN event_store.projection_parked.sqlstate IS 'SQLSTATE of the last failure';
COMMENT ON COLUMN event_store.projection_parked.message IS 'message of the last failure';
COMMENT ON COLUMN event_store.projection_parked.parked_at IS 'when it was passed';

-- messages may quote events
CREATE POLICY es_visible ON event_store.projection_parked FOR SELECT
    USING (NOT row_security_active('event_store.event'::regclass));
ALTER TABLE event_store.projection_parked ENABLE ROW LEVEL SECURITY;

SELECT pg_catalog.pg_extension_config_dump('event_store.projection', '');
SELECT pg_catalog.pg_extension_config_dump('event_store.projection_parked', '');

CREATE FUNCTION @extschema@.es_create_projection(name text, handler regprocedure,
        categories text[] DEFAULT NULL, event_types text[] DEFAULT NULL,
        batch_size int DEFAULT 1000, after_position bigint DEFAULT 0,
        policy text DEFAULT 'stop', reset_handler regprocedure DEFAULT NULL,
        max_attempts int DEFAULT 5, paused boolean DEFAULT false, if_not_exists boolean DEFAULT false)
    RETURNS void
    LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'es_create_projection';
COMMENT ON FUNCTION @extschema@.es_create_projection(text, regprocedure, text[], text[], int, bigint, text, regprocedure, int, boolean, boolean) IS
    'creates a projection: the handler, f(es_event) or f(es_event[]), is given every event once, as the calling role';
REVOKE ALL ON FUNCTION @extschema@.es_create_projection(text, regprocedure, text[], text[], int, bigint, text, regprocedure, int, boolean, boolean) FROM PUBLIC;

CREATE FUNCTION @extschema@.es_create_projection(name text, handler text,
        categories text[] DEFAULT NULL, event_types text[] DEFAULT NULL,
        batch_size int DEFAULT 1000, after_position bigint DEFAULT 0,
        policy text DEFAULT 'stop', reset_handler text DEFAULT NULL,
        max_attempts int DEFAULT 5, paused boolean DEFAULT false, if_not_exists boolean DEFAULT false)
    RETURNS void
    LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'es_create_projection';
COMMENT ON FUNCTION @extschema@.es_create_projection(text, text, text[], text[], int, bigint, text, text, int, boolean, boolean) IS
    'takes the functions'' names, which need argument types only where several have them';
REVOKE ALL ON FUNCTION @extschema@.es_create_projection(text, text, text[], text[], int, bigint, text, text, int, boolean, boolean) FROM PUBLIC;

CREATE FUNCTION @extschema@.es_drop_projection(name text) RETURNS void
    LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'es_drop_projection';
COMMENT ON FUNCTION @extschema@.es_drop_projection(text) IS 'drops a projection; its read model stays';
REVOKE ALL ON FUNCTION @extschema@.es_drop_projection(text) FROM PUBLIC;

CREATE FUNCTION @extschema@.es_pause_projection(name text) RETURNS void
    LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'es_pause_projection';
COMMENT ON FUNCTION @extschema@.es_pause_projection(text) IS 'lets workers leave a projection alone';
REVOKE ALL ON FUNCTION @extschema@.es_pause_projection(text) FROM PUBLIC;

CREATE FUNCTION @extschema@.es_resume_projection(name text) RETURNS void
    LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'es_resume_projection';
COMMENT ON FUNCTION @extschema@.es_resume_projection(text) IS 'goes on with a paused or stopped projection where it stopped';
REVOKE ALL ON FUNCTION @extschema@.es_resume_projection(text) FROM PUBLIC;

CREATE FUNCTION @extschema@.es_run_projection(name text) RETURNS bigint
    LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'es_run_projection';
COMMENT ON FUNCTION @extschema@.es_run_projection(text) IS 'catches up now, in this transaction; number of events applied';
REVOKE ALL ON FUNCTION @extschema@.es_run_projection(text) FROM PUBLIC;

CREATE FUNCTION @extschema@.es_wait_projection(name text, global_position bigint, timeout interval DEFAULT '30 s') RETURNS boolean
    LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'es_wait_projection';
COMMENT ON FUNCTION @extschema@.es_wait_projection(text, bigint, interval) IS
    'waits until a projection has reached a position; false when the time is up';
REVOKE ALL ON FUNCTION @extschema@.es_wait_projection(text, bigint, interval) FROM PUBLIC;

CREATE FUNCTION @extschema@.es_is_replaying() RETURNS boolean
    LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'es_is_replaying';
COMMENT ON FUNCTION @extschema@.es_is_replaying() IS
    'in a handler: whether this event was passed (applied, parked or skipped) before a rebuild, so that side effects are not to be repeated';
REVOKE ALL ON FUNCTION @extschema@.es_is_replaying() FROM PUBLIC;

CREATE FUNCTION @extschema@.es_rebuild_projection(name text, without_reset boolean DEFAULT false) RETURNS void
    LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'es_rebuild_projection';
COMMENT ON FUNCTION @extschema@.es_rebuild_projection(text, boolean) IS 'calls the reset handler and starts over from the first event';
REVOKE ALL ON FUNCTION @extschema@.es_rebuild_projection(text, boolean) FROM PUBLIC;

CREATE FUNCTION @extschema@.es_prepare_projection(name text, handler regprocedure, reset_handler regprocedure DEFAULT NULL,
        categories text[] DEFAULT NULL, event_types text[] DEFAULT NULL, keep_filters boolean DEFAULT true,
        if_not_exists boolean DEFAULT false)
    RETURNS void
    LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'es_prepare_projection';
COMMENT ON FUNCTION @extschema@.es_prepare_projection(text, regprocedure, regprocedure, text[], text[], boolean, boolean) IS
    'starts a new version of a projection, with a read model of its own, beside the present one';
REVOKE ALL ON FUNCTION @extschema@.es_prepare_projection(text, regprocedure, regprocedure, text[], text[], boolean, boolean) FROM PUBLIC;

CREATE FUNCTION @extschema@.es_prepare_projection(name text, handler text, reset_handler text DEFAULT NULL,
        categories text[] DEFAULT NULL, event_types text[] DEFAULT NULL, keep_filters boolean DEFAULT true,
        if_not_exists boolean DEFAULT false)
    RETURNS void
    LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'es_prepare_projection';
COMMENT ON FUNCTION @extschema@.es_prepare_projection(text, text, text, text[], text[], boolean, boolean) IS
    'takes the functions'' names, which need argument types only where several have them';
REVOKE ALL ON FUNCTION @extschema@.es_prepare_projection(text, text, text, text[], text[], boolean, boolean) FROM PUBLIC;

CREATE FUNCTION @extschema@.es_switch_projection(name text, switch_handler regprocedure DEFAULT NULL, max_lag bigint DEFAULT 10000)
    RETURNS bigint
    LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'es_switch_projection';
COMMENT ON FUNCTION @extschema@.es_switch_projection(text, regprocedure, bigint) IS
    'lets the new version catch up and makes it the projection, in one transaction; the switch handler can rename tables';
REVOKE ALL ON FUNCTION @extschema@.es_switch_projection(text, regprocedure, bigint) FROM PUBLIC;

-- no default: a call without the handler would fit both
CREATE FUNCTION @extschema@.es_switch_projection(name text, switch_handler text, max_lag bigint DEFAULT 10000)
    RETURNS bigint
    LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'es_switch_projection';
COMMENT ON FUNCTION @extschema@.es_switch_projection(text, text, bigint) IS
    'takes the function''s name, which needs argument types only where several have it';
REVOKE ALL ON FUNCTION @extschema@.es_switch_projection(text, text, bigint) FROM PUBLIC;

CREATE FUNCTION @extschema@.es_cancel_rebuild(name text) RETURNS void
    LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'es_cancel_rebuild';
COMMENT ON FUNCTION @extschema@.es_cancel_rebuild(text) IS 'forgets the new version of a projection';
REVOKE ALL ON FUNCTION @extschema@.es_cancel_rebuild(text) FROM PUBLIC;

CREATE FUNCTION @extschema@.es_retry_projection_parked(name text, stream_id text DEFAULT NULL) RETURNS bigint
    LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'es_retry_projection_parked';
COMMENT ON FUNCTION @extschema@.es_retry_projection_parked(text, text) IS
    'gives the parked events, of one stream or all, to the handler again; number of events applied';
REVOKE ALL ON FUNCTION @extschema@.es_retry_projection_parked(text, text) FROM PUBLIC;

CREATE FUNCTION @extschema@.es_discard_projection_parked(name text, stream_id text DEFAULT NULL) RETURNS bigint
    LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'es_discard_projection_parked';
COMMENT ON FUNCTION @extschema@.es_discard_projection_parked(text, text) IS
    'gives up the parked and skipped events, of one stream or all; number of events given up';
REVOKE ALL ON FUNCTION @extschema@.es_discard_projection_parked(text, text) FROM PUBLIC;

-- what a projection has still to do, in all or up to the target of a rebuild
CREATE FUNCTION event_store.es_projection_backlog(name text, is_shadow boolean, to_target boolean DEFAULT false,
        OUT events bigint, OUT oldest timestamptz)
    RETURNS record
    LANGUAGE c VOLATILE PARALLEL RESTRICTED AS 'MODULE_PATHNAME', 'es_projection_backlog';
COMMENT ON FUNCTION event_store.es_projection_backlog(text, boolean, boolean) IS
    'number and age of the events that a projection, or its new version, has not applied yet; see view event_store.projections';
REVOKE ALL ON FUNCTION event_store.es_projection_backlog(text, boolean, boolean) FROM PUBLIC;

CREATE FUNCTION @extschema@.es_take_over() RETURNS bigint
    LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'es_take_over';
COMMENT ON FUNCTION @extschema@.es_take_over() IS
    'a former logical subscriber takes the place of its publisher: runs the projections and subscriptions that came by replication; how many there are';
REVOKE ALL ON FUNCTION @extschema@.es_take_over() FROM PUBLIC;

CREATE FUNCTION event_store.es_projection_error_visible(owner text) RETURNS boolean
    LANGUAGE c STABLE STRICT PARALLEL RESTRICTED AS 'MODULE_PATHNAME', 'es_projection_error_visible';
COMMENT ON FUNCTION event_store.es_projection_error_visible(text) IS
    'whether the current user may read what may quote events: errors of this role''s handlers, queries of its subscriptions';
REVOKE ALL ON FUNCTION event_store.es_projection_error_visible(text) FROM PUBLIC;

-- error: what is in the way now; last_error: also what has been overcome
CREATE VIEW event_store.projections AS
    SELECT p.name, p.is_shadow, p.owner, p.handler, p.reset_handler, p.categories, p.event_types,
           p.batch_size, p.policy,
           CASE WHEN p.replicated THEN 'replicated'
                WHEN p.state OPERATOR(pg_catalog.=) 'running' AND p.attempts OPERATOR(pg_catalog.>) 0
                THEN 'retrying' ELSE p.state END AS state,
           p.position,
           b.events AS lag_events,
           CASE WHEN b.events IS NOT NULL
                THEN COALESCE(pg_catalog.date_part('epoch', pg_catalog.clock_timestamp() OPERATOR(pg_catalog.-) b.oldest), 0)
           END AS lag_seconds,
           CASE WHEN pg_catalog.clock_timestamp() OPERATOR(pg_catalog.-) p.updated_at OPERATOR(pg_catalog.>) '10 s'::interval
                THEN 0 ELSE p.rate END AS events_per_second,
           p.applied AS events_applied,
           w.pid AS worker_pid, p.attempts, p.max_attempts, p.next_attempt_at,
           CASE WHEN y.stands THEN p.error_sqlstate WHEN y.no_login THEN '08004' WHEN y.no_worker THEN '53400' END AS error_sqlstate,
           CASE WHEN y.stands THEN CASE WHEN x.visible THEN p.error_message END
                WHEN y.no_login THEN 'its owner may not log in, so no worker runs it'
                WHEN y.turned_off THEN 'event_store.max_projection_workers is 0'
                WHEN y.no_worker THEN COALESCE(d.obstacle, 'no free background worker (max_worker_processes)') END AS error_message,
           CASE WHEN y.stands THEN p.error_position END AS error_position,
           CASE WHEN y.stands THEN p.error_at WHEN y.no_worker AND NOT y.turned_off THEN d.waiting_since END AS error_at,
           (SELECT pg_catalog.count(*) FROM event_store.projection_parked k
             WHERE k.projection OPERATOR(pg_catalog.=) p.name AND k.is_shadow OPERATOR(pg_catalog.=) p.is_shadow
               AND k.disposition OPERATOR(pg_catalog.<>) 'skipped') AS events_parked,
           (SELECT pg_catalog.count(*) FROM event_store.projection_parked k
             WHERE k.projection OPERATOR(pg_catalog.=) p.name AND k.is_shadow OPERATOR(pg_catalog.=) p.is_shadow
               AND k.disposition OPERATOR(pg_catalog.=) 'skipped') AS events_skipped,
           p.created_at, p.started_at, p.updated_at,
           CASE WHEN p.replicated THEN 'it came by logical replication and is not run here before es_take_over()'
                WHEN r.oid IS NULL THEN 'its owner does not exist'
                WHEN h.settled_head IS NULL THEN 'the global order is not available'
                WHEN b.events IS NULL THEN 'the checkpoint is ahead of the head' END AS reason,
           p.error_at AS last_error_at, p.error_sqlstate AS last_error_sqlstate,
           CASE WHEN x.visible THEN p.error_message END AS last_error_message,
           p.error_position AS last_error_position
      FROM event_store.projection p
      CROSS JOIN event_store.es_worker_status() d
      CROSS JOIN event_store.es_head_status() h
      CROSS JOIN LATERAL event_store.es_projection_backlog(p.name, p.is_shadow) b
      LEFT JOIN pg_catalog.pg_roles r ON r.rolname OPERATOR(pg_catalog.=) p.owner::pg_catalog.name
      LEFT JOIN LATERAL (
            SELECT l.pid FROM pg_catalog.pg_locks l
             WHERE l.locktype OPERATOR(pg_catalog.=) 'advisory' AND l.objsubid OPERATOR(pg_catalog.=) 5 AND l.granted
               AND l.database OPERATOR(pg_catalog.=) (SELECT d.oid FROM pg_catalog.pg_database d
                                 WHERE d.datname OPERATOR(pg_catalog.=) pg_catalog.current_database())
               AND l.objid OPERATOR(pg_catalog.=) r.oid
             LIMIT 1) w ON true
      CROSS JOIN LATERAL (
            SELECT p.state OPERATOR(pg_catalog.=) 'stopped' OR p.attempts OPERATOR(pg_catalog.>) 0 AS failed,
                   -- without a worker, although there is something to do
                   NOT p.replicated AND p.state OPERATOR(pg_catalog.=) 'running' AND p.attempts OPERATOR(pg_catalog.=) 0
                   AND b.events OPERATOR(pg_catalog.>) 0 AND w.pid IS NULL AND r.oid IS NOT NULL AS waits,
                   -- before 17 a worker cannot connect as who may not log in
                   NOT r.rolcanlogin AND pg_catalog.current_setting('server_version_num')::pg_catalog.int4
                                         OPERATOR(pg_catalog.<) 170000 AS no_login,
                   COALESCE(pg_catalog.current_setting('event_store.max_projection_workers', true) OPERATOR(pg_catalog.=) '0',
                            false) AS turned_off,
                   -- what the database's worker has noted blames no event
                   p.error_position IS NULL AND (p.error_sqlstate OPERATOR(pg_catalog.=) '53400'
                                                 OR p.error_sqlstate OPERATOR(pg_catalog.=) '08004') AS noted,
                   event_store.es_projection_error_visible(p.owner) AS visible) x
      CROSS JOIN LATERAL (
            SELECT x.failed OR x.waits AND x.noted AND NOT x.no_login AND NOT x.turned_off AS stands,
                   x.waits AND x.no_login AS no_login, x.waits AND x.turned_off AS turned_off,
                   x.waits AND (x.turned_off OR d.waiting_since IS NOT NULL OR d.obstacle IS NOT NULL) AS no_worker) y;
COMMENT ON VIEW event_store.projections IS
    'projections: checkpoint, what they lag behind (NULL with a reason where they can go no further), worker, the error in the way and the last one';
COMMENT ON COLUMN event_store.projections.name IS 'name of the projection';
COMMENT ON COLUMN event_store.projections.is_shadow IS 'a copy that is built beside the original';
COMMENT ON COLUMN event_store.projections.owner IS 'role as which the handler runs';
COMMENT ON COLUMN event_store.projections.handler IS 'function that applies events';
COMMENT ON COLUMN event_store.projections.reset_handler IS 'function that empties the read model for a rebuild';
COMMENT ON COLUMN event_store.projections.categories IS 'categories that it wants; NULL = all';
COMMENT ON COLUMN event_store.projections.event_types IS 'event types that it wants, in today''s shape; NULL = all';
COMMENT ON COLUMN event_store.projections.batch_size IS 'most events in one transaction';
COMMENT ON COLUMN event_store.projections.policy IS 'what to do about an event that fails: stop, skip or park';
COMMENT ON COLUMN event_store.projections.state IS 'running, retrying, paused, stopped, replicated';
COMMENT ON COLUMN event_store.projections.position IS 'everything up to here is applied';
COMMENT ON COLUMN event_store.projections.lag_events IS 'events behind; NULL where it can go no further';
COMMENT ON COLUMN event_store.projections.lag_seconds IS 'age of the oldest event that is not applied';
COMMENT ON COLUMN event_store.projections.events_per_second IS 'events applied in a second, lately';
COMMENT ON COLUMN event_store.projections.events_applied IS 'events applied since it was made or rebuilt';
COMMENT ON COLUMN event_store.projections.worker_pid IS 'process that runs it; NULL = none';
COMMENT ON COLUMN event_store.projections.attempts IS 'failed attempts in a row';
COMMENT ON COLUMN event_store.projections.max_attempts IS 'attempts before it stops, skips or parks';
COMMENT ON COLUMN event_store.projections.next_attempt_at IS 'when it is tried again';
COMMENT ON COLUMN event_store.projections.error_sqlstate IS 'SQLSTATE of the error that is in the way now; NULL = none is';
COMMENT ON COLUMN event_store.projections.error_message IS 'its message; NULL for who may not read events';
COMMENT ON COLUMN event_store.projections.error_position IS 'position of the event that fails';
COMMENT ON COLUMN event_store.projections.error_at IS 'since when, or when it failed last';
COMMENT ON COLUMN event_store.projections.events_parked IS 'events that are parked';
COMMENT ON COLUMN event_store.projections.events_skipped IS 'events that were skipped';
COMMENT ON COLUMN event_store.projections.created_at IS 'when it was made';
COMMENT ON COLUMN event_store.projections.started_at IS 'when it was started or rebuilt last';
COMMENT ON COLUMN event_store.projections.updated_at IS 'when its position moved last';
COMMENT ON COLUMN event_store.projections.reason IS 'why it can go no further; NULL = it can';
COMMENT ON COLUMN event_store.projections.last_error_at IS 'when the last error was, also one that has been overcome';
COMMENT ON COLUMN event_store.projections.last_error_sqlstate IS 'its SQLSTATE';
COMMENT ON COLUMN event_store.projections.last_error_message IS 'its message; NULL for who may not read events';
COMMENT ON COLUMN event_store.projections.last_error_position IS 'position of the event that failed';

CREATE VIEW event_store.projection_progress AS
    SELECT q.name, q.is_shadow, q.state, q.position, q.target_position, q.events_done, q.events_to_do, q.events_per_second,
           CASE WHEN q.events_to_do OPERATOR(pg_catalog.=) 0 THEN '0 s'::interval
                WHEN q.events_per_second OPERATOR(pg_catalog.>) 0
                THEN pg_catalog.make_interval(secs => q.events_to_do OPERATOR(pg_catalog./) q.events_per_second)
           END AS time_left,
           q.started_at
      FROM (SELECT p.name, p.is_shadow,
                   CASE WHEN p.replicated THEN 'replicated'
                        WHEN p.state OPERATOR(pg_catalog.=) 'running' AND p.attempts OPERATOR(pg_catalog.>) 0
                        THEN 'retrying' ELSE p.state END AS state,
                   p.position, t.target_position, p.applied AS events_done,
                   b.events AS events_to_do,
                   CASE WHEN pg_catalog.clock_timestamp() OPERATOR(pg_catalog.-) p.updated_at OPERATOR(pg_catalog.>) '10 s'::interval
                        THEN 0 ELSE p.rate END AS events_per_second, p.started_at
              FROM event_store.projection p
              LEFT JOIN event_store.projection o
                     ON p.is_shadow AND NOT o.is_shadow AND o.name OPERATOR(pg_catalog.=) p.name
              CROSS JOIN LATERAL (
                    SELECT CASE WHEN p.is_shadow THEN o.position ELSE p.replay_until END AS target_position) t
              CROSS JOIN LATERAL event_store.es_projection_backlog(p.name, p.is_shadow, true) b
             WHERE p.is_shadow OR p.position OPERATOR(pg_catalog.<) p.replay_until) q
     WHERE q.is_shadow OR q.events_to_do OPERATOR(pg_catalog.>) 0;
COMMENT ON VIEW event_store.projection_progress IS
    'rebuilds that are going on: events done and to do, events per second, time left';
COMMENT ON COLUMN event_store.projection_progress.name IS 'name of the projection';
COMMENT ON COLUMN event_store.projection_progress.is_shadow IS 'a copy that is built beside the original';
COMMENT ON COLUMN event_store.projection_progress.state IS 'what it is doing';
COMMENT ON COLUMN event_store.projection_progress.position IS 'everything up to here is applied';
COMMENT ON COLUMN event_store.projection_progress.target_position IS 'where it has caught up';
COMMENT ON COLUMN event_store.projection_progress.events_done IS 'events applied since it began';
COMMENT ON COLUMN event_store.projection_progress.events_to_do IS 'events until it has caught up';
COMMENT ON COLUMN event_store.projection_progress.events_per_second IS 'events applied in a second, lately';
COMMENT ON COLUMN event_store.projection_progress.time_left IS 'at this pace';
COMMENT ON COLUMN event_store.projection_progress.started_at IS 'when it began';
