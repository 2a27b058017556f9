\set s :lo + :step * random(0, :count - 1)
\set c :s % 10
SELECT stream_id, stream_position, global_position, message_data, message_metadata, message_schema_version, message_type, message_id FROM emt_messages WHERE stream_id = 'Order' || :c::text || '-' || :s::text AND partition = ('emt' || chr(58) || 'default') AND is_archived = FALSE ORDER BY stream_position ASC;
