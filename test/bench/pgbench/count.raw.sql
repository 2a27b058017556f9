SELECT count(stream_id) FROM (SELECT stream_id FROM events ORDER BY global_position) AS everything;
