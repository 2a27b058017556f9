\set p random(0, :maxpos - 1100)
SELECT id, stream_name, type, position, global_position, data, metadata, time FROM message_store.messages WHERE global_position > :p ORDER BY global_position LIMIT 1000;
