\set s :lo + :step * random(0, :count - 1)
\set c :s % 10
\set t random(0, 9)
INSERT INTO events (stream_id, version, event_type, schema_version, data, metadata) VALUES ('Order' || :c::text || '-' || :s::text, nextval('version'), 'OrderEvent' || :t::text, 1, :data, :metadata);
