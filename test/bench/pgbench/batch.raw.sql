\set s :lo + :step * random(0, :count - 1)
\set c :s % 10
INSERT INTO events (stream_id, version, event_type, schema_version, data, metadata) SELECT 'Order' || :c::text || '-' || :s::text, nextval('version'), e.event_type, 1, e.data, e.metadata FROM unnest(:types::text[], :datas::jsonb[], :metadatas::jsonb[]) AS e (event_type, data, metadata);
