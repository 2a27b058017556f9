/* What event_store_gateway keeps in the database: persistent subscriptions. */
\echo Use "CREATE EXTENSION event_store_gateway" to load this file. \quit

-- A cursor is a subscription of the store (event_store.subscriptions); this is
-- what KurrentDB's have besides.
CREATE TABLE persistent_subscription (
    subscription text COLLATE "C" PRIMARY KEY,
    source text COLLATE "C" NOT NULL,
    group_name text COLLATE "C" NOT NULL,
    start_from bigint NOT NULL,
    filter_on text CHECK (filter_on IN ('stream', 'type')),
    filter_regex text,
    filter_prefixes text[],
    resolve_links boolean NOT NULL,
    extra_statistics boolean NOT NULL,
    max_retries int NOT NULL,
    min_checkpoint int NOT NULL,
    max_checkpoint int NOT NULL,
    max_consumers int NOT NULL,
    live_buffer int NOT NULL,
    read_batch int NOT NULL,
    history_buffer int NOT NULL,
    timeout_ms int NOT NULL,
    checkpoint_ms int NOT NULL,
    strategy text NOT NULL,
    UNIQUE (source, group_name)
);
COMMENT ON TABLE persistent_subscription IS 'persistent subscriptions of KurrentDB clients, with the settings that the clients gave';
COMMENT ON COLUMN persistent_subscription.subscription IS 'name of the store''s subscription that is its cursor';
COMMENT ON COLUMN persistent_subscription.source IS 'stream, $ce-CATEGORY, $et-TYPE or $all';
COMMENT ON COLUMN persistent_subscription.start_from IS 'first revision of a stream, position of $all, -1 = what was new when it was made';

-- An event that a consumer parked, or that failed too often.
CREATE TABLE parked (
    subscription text COLLATE "C" NOT NULL REFERENCES persistent_subscription ON DELETE CASCADE,
    global_position bigint NOT NULL,
    reason text NOT NULL,
    retries int NOT NULL,
    parked_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    replay boolean NOT NULL DEFAULT false,
    PRIMARY KEY (subscription, global_position)
);
CREATE INDEX ON parked (subscription) WHERE replay;
COMMENT ON TABLE parked IS 'events that wait for "replay parked"';
COMMENT ON COLUMN parked.replay IS 'is to be delivered again; the row goes when it is acknowledged';

SELECT pg_catalog.pg_extension_config_dump('persistent_subscription', '');
SELECT pg_catalog.pg_extension_config_dump('parked', '');
