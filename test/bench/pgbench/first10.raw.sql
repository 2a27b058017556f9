SELECT global_position, stream_id, version, event_id, event_type, schema_version, data, metadata, created_at FROM events ORDER BY global_position LIMIT 10;
