\set p random(0, :maxpos - 1100)
SELECT global_position, stream_id, version, event_id, event_type, schema_version, data, metadata, created_at FROM events WHERE global_position > :p ORDER BY global_position LIMIT 1000;
