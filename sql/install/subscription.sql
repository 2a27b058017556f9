--
-- Subscriptions
--

CREATE TABLE event_store.subscription (
    slots int NOT NULL,
    max_retries int NOT NULL,
    lease interval NOT NULL,
    retry_delay interval NOT NULL,
    created_at timestamptz NOT NULL,
    name pg_catalog.text COLLATE pg_catalog."C" NOT NULL,
    categories pg_catalog.text[],
    event_types pg_catalog.text[],
    created_by pg_catalog.text,
    replicated boolean NOT NULL DEFAULT false,
    query jsonb,
    cardinal_ids boolean NOT NULL DEFAULT false,
    PRIMARY KEY (name)
) USING heap;
COMMENT ON TABLE event_store.subscription IS 'durable subscriptions; changed by functions only';
COMMENT ON COLUMN event_store.subscription.slots IS 'virtual slots of a consumer group; 0 = no group, one cursor';
COMMENT ON COLUMN event_store.subscription.max_retries IS 'retries of a failed event before it is parked';
COMMENT ON COLUMN event_store.subscription.lease IS 'how long a consumer may take for what it has fetched';
COMMENT ON COLUMN event_store.subscription.retry_delay IS 'pause before the first retry; doubles each time';
COMMENT ON COLUMN event_store.subscription.created_at IS 'when it was made';
COMMENT ON COLUMN event_store.subscription.name IS 'name of the subscription';
COMMENT ON COLUMN event_store.subscription.categories IS 'categories that it wants, NULL = all';
COMMENT ON COLUMN event_store.subscription.event_types IS 'event types that it wants, NULL = all';
COMMENT ON COLUMN event_store.subscription.created_by IS 'role that made it';
COMMENT ON COLUMN event_store.subscription.replicated IS 'it came by logical replication and is not run here before es_take_over()';
COMMENT ON COLUMN event_store.subscription.query IS 'query of streams, event types and tags, NULL = none; see es_read_query';
COMMENT ON COLUMN event_store.subscription.cardinal_ids IS 'streams whose names are the same up to the first "+" of the id share a slot';
CREATE TRIGGER es_mark_replicated BEFORE INSERT OR UPDATE ON event_store.subscription
    FOR EACH ROW EXECUTE FUNCTION event_store.es_mark_replicated();
ALTER TABLE event_store.subscription ENABLE ALWAYS TRIGGER es_mark_replicated;

CREATE TABLE event_store.subscription_checkpoint (
    position bigint NOT NULL,
    scanned bigint NOT NULL,
    delivered bigint NOT NULL,
    session bigint,
    lease_until timestamptz NOT NULL DEFAULT '-infinity',
    updated_at timestamptz NOT NULL,
    slot int NOT NULL,
    pid int,
    subscription pg_catalog.text COLLATE pg_catalog."C" NOT NULL,
    member pg_catalog.text COLLATE pg_catalog."C",
    taken_at timestamptz,
    PRIMARY KEY (subscription, slot)
) USING heap WITH (fillfactor = 50);
COMMENT ON TABLE event_store.subscription_checkpoint IS 'checkpoint of each subscription, of a group''s one for each slot; see view event_store.subscriptions';
COMMENT ON COLUMN event_store.subscription_checkpoint.position IS 'everything up to here is done';
COMMENT ON COLUMN event_store.subscription_checkpoint.scanned IS 'where the checkpoint goes when all that was handed out is acknowledged';
COMMENT ON COLUMN event_store.subscription_checkpoint.delivered IS 'last position handed out and not acknowledged, 0 = nothing is out';
COMMENT ON COLUMN event_store.subscription_checkpoint.session IS 'session that fetched last, a random number; NULL = a consumer with a name';
COMMENT ON COLUMN event_store.subscription_checkpoint.lease_until IS 'when what was handed out goes to others';
COMMENT ON COLUMN event_store.subscription_checkpoint.updated_at IS 'when the row was written';
COMMENT ON COLUMN event_store.subscription_checkpoint.slot IS 'virtual slot of a group; 0 without a group';
COMMENT ON COLUMN event_store.subscription_checkpoint.pid IS 'server process that fetched or acknowledged last';
COMMENT ON COLUMN event_store.subscription_checkpoint.subscription IS 'name of the subscription';
COMMENT ON COLUMN event_store.subscription_checkpoint.member IS 'consumer that fetched last; in a group the member that owns the slot';
COMMENT ON COLUMN event_store.subscription_checkpoint.taken_at IS 'since when the consumer that fetched last has had it, without another one in between; NULL = not known, or a group';

CREATE TABLE event_store.subscription_member (
    position bigint NOT NULL,
    scanned bigint NOT NULL,
    delivered bigint NOT NULL,
    lease interval NOT NULL,
    lease_until timestamptz NOT NULL,
    joined_at timestamptz NOT NULL,
    updated_at timestamptz NOT NULL,
    pid int,
    subscription pg_catalog.text COLLATE pg_catalog."C" NOT NULL,
    member pg_catalog.text COLLATE pg_catalog."C" NOT NULL,
    PRIMARY KEY (subscription, member)
) USING heap WITH (fillfactor = 50);
COMMENT ON TABLE event_store.subscription_member IS 'members of consumer groups; see view event_store.subscription_members';
COMMENT ON COLUMN event_store.subscription_member.position IS 'everything of its slots up to here is done, or up to the slot''s own checkpoint if that is higher';
COMMENT ON COLUMN event_store.subscription_member.scanned IS 'where position goes when all that was handed out is acknowledged';
COMMENT ON COLUMN event_store.subscription_member.delivered IS 'last position handed out and not acknowledged, 0 = nothing is out';
COMMENT ON COLUMN event_store.subscription_member.lease IS 'how long it stays a member without fetching or acknowledging';
COMMENT ON COLUMN event_store.subscription_member.lease_until IS 'when its slots go to others';
COMMENT ON COLUMN event_store.subscription_member.joined_at IS 'when it joined';
COMMENT ON COLUMN event_store.subscription_member.updated_at IS 'when the row was written';
COMMENT ON COLUMN event_store.subscription_member.pid IS 'server process that fetched or acknowledged last';
COMMENT ON COLUMN event_store.subscription_member.subscription IS 'name of the subscription';
COMMENT ON COLUMN event_store.subscription_member.member IS 'name of the member';

CREATE TABLE event_store.parked_stream (
    stream_no bigint NOT NULL,
    next_version bigint NOT NULL,
    done_position bigint NOT NULL,
    delivered_version bigint NOT NULL,
    failed_version bigint,
    failed_position bigint,
    next_attempt_at timestamptz NOT NULL,
    first_failed_at timestamptz NOT NULL,
    failed_at timestamptz NOT NULL,
    slot int NOT NULL,
    attempts int NOT NULL,
    subscription pg_catalog.text COLLATE pg_catalog."C" NOT NULL,
    state pg_catalog.text COLLATE pg_catalog."C" NOT NULL,
    reason pg_catalog.text,
    discarded pg_catalog.int8[] NOT NULL DEFAULT '{}',
    PRIMARY KEY (subscription, stream_no)
) USING heap WITH (fillfactor = 70);
COMMENT ON TABLE event_store.parked_stream IS 'streams that a failed event holds up; see view event_store.parked_events';
COMMENT ON COLUMN event_store.parked_stream.stream_no IS 'see event_store.stream';
COMMENT ON COLUMN event_store.parked_stream.next_version IS 'first version of the stream that is not done, at most the failed one';
COMMENT ON COLUMN event_store.parked_stream.done_position IS 'the stream is held up at least until the checkpoint is here; last position that was discarded';
COMMENT ON COLUMN event_store.parked_stream.delivered_version IS 'last version handed out and not acknowledged, 0 = none';
COMMENT ON COLUMN event_store.parked_stream.failed_version IS 'version of the failed event; NULL = it is through, the queue is being caught up';
COMMENT ON COLUMN event_store.parked_stream.failed_position IS 'position of that';
COMMENT ON COLUMN event_store.parked_stream.next_attempt_at IS 'when it is delivered again';
COMMENT ON COLUMN event_store.parked_stream.first_failed_at IS 'when it failed for the first time';
COMMENT ON COLUMN event_store.parked_stream.failed_at IS 'when it failed last';
COMMENT ON COLUMN event_store.parked_stream.slot IS 'virtual slot of the stream';
COMMENT ON COLUMN event_store.parked_stream.attempts IS 'how often it failed';
COMMENT ON COLUMN event_store.parked_stream.subscription IS 'name of the subscription';
COMMENT ON COLUMN event_store.parked_stream.state IS 'retry: delivered again by itself; parked: waits for es_retry_parked';
COMMENT ON COLUMN event_store.parked_stream.reason IS 'what the consumer said';
COMMENT ON COLUMN event_store.parked_stream.discarded IS 'positions that were discarded although events before them are not done';

SELECT pg_catalog.pg_extension_config_dump('event_store.subscription', '');
SELECT pg_catalog.pg_extension_config_dump('event_store.subscription_checkpoint', '');
SELECT pg_catalog.pg_extension_config_dump('event_store.subscription_member', '');
SELECT pg_catalog.pg_extension_config_dump('event_store.parked_stream', '');

CREATE FUNCTION @extschema@.es_create_subscription(name text, categories text[] DEFAULT NULL,
        event_types text[] DEFAULT NULL, after_position bigint DEFAULT 0, slots int DEFAULT NULL,
        lease interval DEFAULT '30 s', max_retries int DEFAULT 10, retry_delay interval DEFAULT '1 s',
        query jsonb DEFAULT NULL, if_not_exists boolean DEFAULT false, cardinal_ids boolean DEFAULT false)
    RETURNS void
    LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'es_create_subscription';
COMMENT ON FUNCTION @extschema@.es_create_subscription(text, text[], text[], bigint, int, interval, int, interval, jsonb, boolean, boolean) IS
    'makes a durable subscription; with slots it is a consumer group';
REVOKE ALL ON FUNCTION @extschema@.es_create_subscription(text, text[], text[], bigint, int, interval, int, interval, jsonb, boolean, boolean) FROM PUBLIC;

CREATE FUNCTION @extschema@.es_drop_subscription(name text) RETURNS void
    LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'es_drop_subscription';
COMMENT ON FUNCTION @extschema@.es_drop_subscription(text) IS 'removes a subscription with its checkpoint, members and parked events';
REVOKE ALL ON FUNCTION @extschema@.es_drop_subscription(text) FROM PUBLIC;

CREATE FUNCTION @extschema@.es_reset_subscription(name text, after_position bigint DEFAULT 0) RETURNS void
    LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'es_reset_subscription';
COMMENT ON FUNCTION @extschema@.es_reset_subscription(text, bigint) IS
    'starts a subscription again after a position, backward or forward; leases end, nothing stays parked';
REVOKE ALL ON FUNCTION @extschema@.es_reset_subscription(text, bigint) FROM PUBLIC;

CREATE FUNCTION @extschema@.es_fetch(name text, max_count int DEFAULT 100, wait interval DEFAULT '0',
        member text DEFAULT NULL)
    RETURNS SETOF @extschema@.es_event
    LANGUAGE c VOLATILE PARALLEL UNSAFE ROWS 100 AS 'MODULE_PATHNAME', 'es_fetch';
COMMENT ON FUNCTION @extschema@.es_fetch(text, int, interval, text) IS
    'the next events of a subscription, in order; they are this consumer''s until acknowledged or its lease ends';
REVOKE ALL ON FUNCTION @extschema@.es_fetch(text, int, interval, text) FROM PUBLIC;

CREATE FUNCTION @extschema@.es_ack(name text, global_position bigint, member text DEFAULT NULL) RETURNS void
    LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'es_ack';
COMMENT ON FUNCTION @extschema@.es_ack(text, bigint, text) IS
    'everything fetched up to the position is done: moves the checkpoint, never backwards, never beyond what was handed out';
REVOKE ALL ON FUNCTION @extschema@.es_ack(text, bigint, text) FROM PUBLIC;

CREATE FUNCTION @extschema@.es_nack(name text, global_position bigint, reason text, retry boolean DEFAULT true,
        member text DEFAULT NULL)
    RETURNS text
    LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'es_nack';
COMMENT ON FUNCTION @extschema@.es_nack(text, bigint, text, boolean, text) IS
    'this event could not be handled: retry or park it, its stream waits behind it';
REVOKE ALL ON FUNCTION @extschema@.es_nack(text, bigint, text, boolean, text) FROM PUBLIC;

CREATE FUNCTION @extschema@.es_join(name text, member text, lease interval DEFAULT NULL) RETURNS int
    LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'es_join';
COMMENT ON FUNCTION @extschema@.es_join(text, text, interval) IS
    'joins a consumer group; the number of slots that the member owns now';
REVOKE ALL ON FUNCTION @extschema@.es_join(text, text, interval) FROM PUBLIC;

CREATE FUNCTION @extschema@.es_leave(name text, member text) RETURNS boolean
    LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'es_leave';
COMMENT ON FUNCTION @extschema@.es_leave(text, text) IS
    'leaves a consumer group: its slots are free at once; false if it was no member';
REVOKE ALL ON FUNCTION @extschema@.es_leave(text, text) FROM PUBLIC;

CREATE FUNCTION @extschema@.es_retry_parked(name text, stream_id text DEFAULT NULL) RETURNS bigint
    LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'es_retry_parked';
COMMENT ON FUNCTION @extschema@.es_retry_parked(text, text) IS
    'delivers failed events of one stream or of all again, in order; the number of streams';
REVOKE ALL ON FUNCTION @extschema@.es_retry_parked(text, text) FROM PUBLIC;

CREATE FUNCTION @extschema@.es_discard_parked(name text, global_position bigint) RETURNS boolean
    LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'es_discard_parked';
COMMENT ON FUNCTION @extschema@.es_discard_parked(text, bigint) IS
    'gives up one failed event; its stream goes on with the next one';
REVOKE ALL ON FUNCTION @extschema@.es_discard_parked(text, bigint) FROM PUBLIC;

CREATE FUNCTION @extschema@.es_discard_parked_stream(name text, stream_id text) RETURNS boolean
    LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'es_discard_parked_stream';
COMMENT ON FUNCTION @extschema@.es_discard_parked_stream(text, text) IS
    'gives up the failed event of a stream and what has queued up behind it';
REVOKE ALL ON FUNCTION @extschema@.es_discard_parked_stream(text, text) FROM PUBLIC;

CREATE FUNCTION event_store.es_subscription_lag(name text, max_count bigint DEFAULT 100000,
        OUT lag_events bigint, OUT oldest timestamptz)
    RETURNS record
    LANGUAGE c VOLATILE PARALLEL RESTRICTED AS 'MODULE_PATHNAME', 'es_subscription_lag';
COMMENT ON FUNCTION event_store.es_subscription_lag(text, bigint) IS
    'events that a subscription has not done yet, counted up to max_count, and the age of the first; see view event_store.subscriptions';
REVOKE ALL ON FUNCTION event_store.es_subscription_lag(text, bigint) FROM PUBLIC;

CREATE VIEW event_store.subscriptions AS
    SELECT s.name::pg_catalog.text, c.checkpoint, l.lag_events,
           CASE WHEN l.lag_events IS NOT NULL
                THEN coalesce(extract(epoch FROM clock_timestamp() - l.oldest), 0)::float8 END AS lag_seconds,
           CASE WHEN l.lag_events IS NOT NULL THEN greatest(h.settled_head - c.checkpoint, 0) END AS lag_positions,
           s.categories, s.event_types, nullif(s.slots, 0) AS slots,
           CASE WHEN s.slots > 0 THEN m.members END AS members,
           CASE WHEN s.slots > 0 THEN m.in_flight ELSE c.in_flight END AS in_flight,
           CASE WHEN s.slots = 0 AND c.in_flight THEN coalesce(c.member, 'pid ' || c.pid) END AS holder,
           CASE WHEN s.slots = 0 AND c.in_flight THEN c.lease_until END AS lease_until,
           coalesce(p.retrying, 0) AS retrying_streams, coalesce(p.parked, 0) AS parked_streams,
           s.lease, s.max_retries, s.retry_delay, s.created_by, s.created_at,
           greatest(c.updated_at, m.updated_at) AS updated_at,
           CASE WHEN s.replicated THEN 'it came by logical replication and is not run here before es_take_over()'
                WHEN h.settled_head IS NULL THEN 'the global order is not available'
                WHEN l.lag_events IS NULL THEN 'the checkpoint is ahead of the head' END AS reason,
           CASE WHEN event_store.es_projection_error_visible(coalesce(s.created_by, '')) THEN s.query END AS query,
           s.cardinal_ids
      FROM event_store.subscription s
      LEFT JOIN LATERAL (
            SELECT min(greatest(k.position, o.position)) AS checkpoint,
                   -- a session that is gone holds its lock no longer; a standby does not see it
                   bool_or(k.delivered > 0 AND k.lease_until > clock_timestamp()
                           AND (k.session IS NULL OR pg_is_in_recovery() OR EXISTS (
                                SELECT FROM pg_locks x
                                 WHERE x.locktype = 'advisory' AND x.objsubid = 7 AND x.granted
                                   AND x.mode = 'ExclusiveLock'
                                   AND x.database = (SELECT d.oid FROM pg_database d WHERE d.datname = current_database())
                                   AND x.classid = ((k.session >> 32) & 4294967295)::oid
                                   AND x.objid = (k.session & 4294967295)::oid))) AS in_flight,
                   max(k.member) AS member, max(k.pid) AS pid, max(k.lease_until) AS lease_until,
                   max(k.updated_at) AS updated_at
              FROM event_store.subscription_checkpoint k
              LEFT JOIN event_store.subscription_member o ON o.subscription = k.subscription AND o.member = k.member
             WHERE k.subscription = s.name) c ON true
      LEFT JOIN LATERAL (
            SELECT count(*) AS members, max(o.updated_at) AS updated_at,
                   coalesce(bool_or(o.delivered > 0 AND o.lease_until > clock_timestamp()), false) AS in_flight
              FROM event_store.subscription_member o
             WHERE o.subscription = s.name) m ON true
      LEFT JOIN LATERAL (
            SELECT count(*) FILTER (WHERE k.state = 'retry') AS retrying, count(*) FILTER (WHERE k.state = 'parked') AS parked
              FROM event_store.parked_stream k
             WHERE k.subscription = s.name) p ON true
     CROSS JOIN LATERAL event_store.es_subscription_lag(s.name) l
     CROSS JOIN event_store.es_head_status() h;
COMMENT ON VIEW event_store.subscriptions IS
    'subscriptions: checkpoint, lag in events (counted up to 100000) and in seconds (age of the oldest event that is not done), NULL with a reason where it can go no further, who has events in hand';
COMMENT ON COLUMN event_store.subscriptions.name IS 'name of the subscription';
COMMENT ON COLUMN event_store.subscriptions.checkpoint IS 'everything up to this position is done';
COMMENT ON COLUMN event_store.subscriptions.lag_events IS 'events behind, counted up to 100000; NULL where it can go no further';
COMMENT ON COLUMN event_store.subscriptions.lag_seconds IS 'age of the oldest event that is not done';
COMMENT ON COLUMN event_store.subscriptions.lag_positions IS 'positions behind the head';
COMMENT ON COLUMN event_store.subscriptions.categories IS 'categories that it wants; NULL = all';
COMMENT ON COLUMN event_store.subscriptions.event_types IS 'event types that it wants, in today''s shape; NULL = all';
COMMENT ON COLUMN event_store.subscriptions.slots IS 'slots of a consumer group; NULL = one consumer at a time';
COMMENT ON COLUMN event_store.subscriptions.members IS 'members of the group';
COMMENT ON COLUMN event_store.subscriptions.in_flight IS 'has somebody events in hand?';
COMMENT ON COLUMN event_store.subscriptions.holder IS 'who has them, if it is one consumer';
COMMENT ON COLUMN event_store.subscriptions.lease_until IS 'until when they are his';
COMMENT ON COLUMN event_store.subscriptions.retrying_streams IS 'streams that are held up and delivered again by themselves';
COMMENT ON COLUMN event_store.subscriptions.parked_streams IS 'streams that wait behind a parked event';
COMMENT ON COLUMN event_store.subscriptions.lease IS 'how long events are lent';
COMMENT ON COLUMN event_store.subscriptions.max_retries IS 'retries of a failed event before it is parked';
COMMENT ON COLUMN event_store.subscriptions.retry_delay IS 'pause before the second attempt';
COMMENT ON COLUMN event_store.subscriptions.created_by IS 'role that made it';
COMMENT ON COLUMN event_store.subscriptions.created_at IS 'when it was made';
COMMENT ON COLUMN event_store.subscriptions.updated_at IS 'when its checkpoint moved last';
COMMENT ON COLUMN event_store.subscriptions.reason IS 'why it can go no further; NULL = it can';
COMMENT ON COLUMN event_store.subscriptions.query IS 'query of streams, types and tags, beside its other filters; NULL = none, or for who may not read events';
COMMENT ON COLUMN event_store.subscriptions.cardinal_ids IS 'do streams that share a cardinal id stay with one member?';

CREATE VIEW event_store.subscription_members AS
    SELECT m.subscription::pg_catalog.text, m.member::pg_catalog.text, k.slots, k.checkpoint,
           m.delivered > 0 AND m.lease_until > clock_timestamp() AS in_flight,
           nullif(m.delivered, 0) AS delivered_position,
           m.lease, m.lease_until, clock_timestamp() - m.updated_at AS lease_age,
           m.lease_until > clock_timestamp() AS alive, m.pid, m.joined_at
      FROM event_store.subscription_member m
      LEFT JOIN LATERAL (
            SELECT count(*) AS slots, min(greatest(c.position, m.position)) AS checkpoint
              FROM event_store.subscription_checkpoint c
             WHERE c.subscription = m.subscription AND c.member = m.member) k ON true;
COMMENT ON VIEW event_store.subscription_members IS
    'members of consumer groups: slots, checkpoint, lease';
COMMENT ON COLUMN event_store.subscription_members.subscription IS 'name of the subscription';
COMMENT ON COLUMN event_store.subscription_members.member IS 'name of the member';
COMMENT ON COLUMN event_store.subscription_members.slots IS 'slots that it has';
COMMENT ON COLUMN event_store.subscription_members.checkpoint IS 'everything of its slots up to this position is done';
COMMENT ON COLUMN event_store.subscription_members.in_flight IS 'has it events in hand?';
COMMENT ON COLUMN event_store.subscription_members.delivered_position IS 'the last one that it has got';
COMMENT ON COLUMN event_store.subscription_members.lease IS 'how long it counts as alive without a call';
COMMENT ON COLUMN event_store.subscription_members.lease_until IS 'until when it counts as alive';
COMMENT ON COLUMN event_store.subscription_members.lease_age IS 'time since its last call';
COMMENT ON COLUMN event_store.subscription_members.alive IS 'has its lease not run out?';
COMMENT ON COLUMN event_store.subscription_members.pid IS 'process that called last';
COMMENT ON COLUMN event_store.subscription_members.joined_at IS 'when it joined';

CREATE VIEW event_store.parked_events AS
    SELECT p.subscription::pg_catalog.text, e.global_position, st.stream_id::pg_catalog.text, e.version::pg_catalog.int8,
           event_store.es_consumed_type(t.event_type, e.schema_version) AS event_type,
           CASE WHEN e.global_position = p.failed_position THEN p.state::pg_catalog.text ELSE 'queued' END AS state,
           CASE WHEN e.global_position = p.failed_position THEN p.attempts ELSE 0 END AS attempts,
           CASE WHEN e.global_position = p.failed_position THEN p.reason END AS reason,
           CASE WHEN e.global_position = p.failed_position THEN p.first_failed_at END AS first_failed_at,
           CASE WHEN e.global_position = p.failed_position THEN p.failed_at END AS failed_at,
           CASE WHEN e.global_position = p.failed_position AND p.state = 'retry' THEN p.next_attempt_at END AS next_attempt_at,
           e.event_id
      FROM event_store.parked_stream p
      JOIN event_store.subscription s ON s.name = p.subscription
      JOIN event_store.subscription_checkpoint c ON c.subscription = p.subscription AND c.slot = p.slot
      LEFT JOIN event_store.subscription_member m ON m.subscription = c.subscription AND m.member = c.member
      LEFT JOIN event_store.stream st ON st.stream_no = p.stream_no
      -- an event that belongs to no stream is held up by itself
      JOIN event_store.event e ON (e.stream_no = p.stream_no OR e.global_position = - p.stream_no)
       AND coalesce(e.version, 1) >= p.next_version
       AND e.global_position <= greatest(c.position, m.position, p.failed_position)
       AND e.global_position <> ALL (p.discarded)
      JOIN event_store.event_type t ON t.type_no = e.type_no
       AND (s.event_types IS NULL OR e.global_position = p.failed_position
            OR event_store.es_consumed_type(t.event_type, e.schema_version) = ANY (s.event_types))
     -- an event that failed is there, whatever the subscription wants today
       AND (s.query IS NULL OR e.global_position = p.failed_position
            OR EXISTS (SELECT 1
                         FROM jsonb_array_elements(coalesce(nullif(nullif(s.query -> 'items', 'null'), '[]'), '[{}]')) AS i(item)
                        CROSS JOIN LATERAL (SELECT nullif(nullif(i.item -> 'event_types', 'null'), '[]') AS event_types,
                                                   nullif(nullif(i.item -> 'tags', 'null'), '[]') AS tags,
                                                   nullif(nullif(i.item -> 'streams', 'null'), '[]') AS streams,
                                                   nullif(nullif(i.item -> 'stream_prefixes', 'null'), '[]') AS prefixes) AS w
                        WHERE (w.event_types IS NULL OR w.event_types ? event_store.es_consumed_type(t.event_type, e.schema_version))
                          AND (w.tags IS NULL OR to_jsonb(e.tags) @> w.tags)
                          AND (w.streams IS NULL OR w.streams ? st.stream_id)
                          AND (w.prefixes IS NULL
                               OR EXISTS (SELECT 1 FROM jsonb_array_elements_text(w.prefixes) AS x(prefix)
                                           WHERE starts_with(st.stream_id, x.prefix)))))
     WHERE NOT row_security_active('event_store.event'::regclass);
COMMENT ON VIEW event_store.parked_events IS
    'failed events (retry: delivered again by itself; parked: waits for es_retry_parked) and those of the same streams that have queued up behind them; empty for users to whom row-level security applies';
COMMENT ON COLUMN event_store.parked_events.subscription IS 'name of the subscription';
COMMENT ON COLUMN event_store.parked_events.global_position IS 'position of the event';
COMMENT ON COLUMN event_store.parked_events.stream_id IS 'its stream';
COMMENT ON COLUMN event_store.parked_events.version IS 'its place there';
COMMENT ON COLUMN event_store.parked_events.event_type IS 'its type, in today''s shape';
COMMENT ON COLUMN event_store.parked_events.state IS 'retry, parked, or queued behind one of those';
COMMENT ON COLUMN event_store.parked_events.attempts IS 'how often it was tried';
COMMENT ON COLUMN event_store.parked_events.reason IS 'what the consumer said';
COMMENT ON COLUMN event_store.parked_events.first_failed_at IS 'when it failed first';
COMMENT ON COLUMN event_store.parked_events.failed_at IS 'when it failed last';
COMMENT ON COLUMN event_store.parked_events.next_attempt_at IS 'when it is handed out again';
COMMENT ON COLUMN event_store.parked_events.event_id IS 'its id';

CREATE VIEW event_store.consumers AS
    SELECT p.name, CASE WHEN p.is_shadow THEN 'new version' ELSE 'projection' END AS kind,
           p.state, p.position, p.lag_events, p.lag_seconds,
           coalesce(p.reason, p.error_message, p.error_sqlstate,
                    CASE WHEN p.events_parked > 0 THEN 'parked events: ' || p.events_parked END) AS problem
      FROM event_store.projections p
     UNION ALL
    SELECT s.name, CASE WHEN s.slots IS NULL THEN 'subscription' ELSE 'group' END,
           CASE WHEN s.reason IS NOT NULL THEN 'stopped' WHEN s.retrying_streams > 0 THEN 'retrying'
                WHEN s.in_flight THEN 'in flight' WHEN s.lag_events > 0 THEN 'waiting' ELSE 'idle' END,
           s.checkpoint, s.lag_events, s.lag_seconds,
           coalesce(s.reason, CASE WHEN s.parked_streams > 0 THEN 'parked streams: ' || s.parked_streams END)
      FROM event_store.subscriptions s;
COMMENT ON VIEW event_store.consumers IS
    'projections and subscriptions at a glance: what they do, how far they are, what is in the way';
COMMENT ON COLUMN event_store.consumers.name IS 'name of the projection or subscription';
COMMENT ON COLUMN event_store.consumers.kind IS 'projection, new version (of that projection, in preparation), subscription or group';
COMMENT ON COLUMN event_store.consumers.state IS 'of a projection: running, retrying, paused, stopped, replicated; of a subscription: idle, waiting (for a consumer), in flight, retrying, stopped';
COMMENT ON COLUMN event_store.consumers.position IS 'everything up to here is done';
COMMENT ON COLUMN event_store.consumers.lag_events IS 'events that are still to be done; of a subscription counted up to 100000';
COMMENT ON COLUMN event_store.consumers.lag_seconds IS 'age of the oldest of them';
COMMENT ON COLUMN event_store.consumers.problem IS 'what is in the way; NULL = nothing';
