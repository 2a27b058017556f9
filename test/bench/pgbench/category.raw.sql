\set p random(0, :maxpos - 11000)
\set c random(0, 9)
SELECT global_position, stream_id, version, event_id, event_type, schema_version, data, metadata, created_at FROM bench.events_by_category WHERE category = 'Order' || :c::text AND global_position > :p ORDER BY global_position LIMIT 1000;
