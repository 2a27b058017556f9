\set s :lo + :step * random(0, :count - 1)
\set c :s % 10
SELECT global_position, stream_id, version, event_id, event_type, schema_version, data, metadata, created_at FROM events WHERE stream_id = 'Order' || :c::text || '-' || :s::text ORDER BY version;
