-- The table of the tutorials, with their four indexes.
CREATE TABLE events (
	global_position bigserial,
	stream_id text NOT NULL,
	version bigint NOT NULL,
	event_id uuid NOT NULL DEFAULT gen_random_uuid(),
	event_type text NOT NULL,
	schema_version int NOT NULL DEFAULT 1,
	data jsonb NOT NULL,
	metadata jsonb NOT NULL,
	created_at timestamptz NOT NULL DEFAULT now(),
	PRIMARY KEY (event_id),
	UNIQUE (stream_id, version)
);
CREATE INDEX ON events (global_position);
CREATE INDEX ON events (event_type);

-- Versions for the INSERT without checks: above every real one, ascending, and
-- cached, so that they cost next to nothing.
CREATE SEQUENCE version MINVALUE 1000001 CACHE 64;

CREATE VIEW bench.positions AS SELECT global_position FROM events;

INSERT INTO events (stream_id, version, event_type, schema_version, data, metadata)
SELECT stream_id, version, event_type, 1, data, metadata
FROM bench.events(0, (SELECT last_event FROM bench.config));
