-- The schema comes from the package (emmett_schema.mjs).
CREATE VIEW bench.positions AS SELECT global_position FROM emt_messages;

INSERT INTO emt_messages (stream_position, transaction_id, stream_id, partition,
						  message_schema_version, message_id, message_type, message_data, message_metadata)
SELECT version, pg_current_xact_id(), stream_id, 'emt:default',
	   '1', gen_random_uuid()::text, event_type, data, metadata
FROM bench.events(0, (SELECT last_event FROM bench.config));

INSERT INTO emt_streams (stream_id, stream_position, partition, stream_type, stream_metadata)
SELECT stream_id, max(stream_position), 'emt:default', split_part(stream_id, '-', 1), '{}'
FROM emt_messages
GROUP BY stream_id;
