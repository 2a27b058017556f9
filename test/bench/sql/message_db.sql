-- The schema comes from the package's own installer.  Positions begin at 0.
CREATE VIEW bench.positions AS SELECT global_position FROM message_store.messages;

INSERT INTO message_store.messages (id, stream_name, position, type, data, metadata)
SELECT gen_random_uuid(), stream_id, version - 1, event_type, data, metadata
FROM bench.events(0, (SELECT last_event FROM bench.config));
