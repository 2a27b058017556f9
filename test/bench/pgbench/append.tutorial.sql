\set s :lo + :step * random(0, :count - 1)
\set c :s % 10
\set t random(0, 9)
BEGIN;
SELECT coalesce(max(version), 0) AS cur FROM events WHERE stream_id = 'Order' || :c::text || '-' || :s::text \gset
INSERT INTO events (stream_id, version, event_type, schema_version, data, metadata) VALUES ('Order' || :c::text || '-' || :s::text, :cur::bigint + 1, 'OrderEvent' || :t::text, 1, :data, :metadata) ON CONFLICT (stream_id, version) DO NOTHING;
COMMIT;
