\set s :lo + :step * random(0, :count - 1)
\set c :s % 10
SELECT count(write_message(gen_random_uuid()::varchar, 'Order' || :c::text || '-' || :s::text, e.event_type, e.data, e.metadata)) FROM unnest(:types::text[], :datas::jsonb[], :metadatas::jsonb[]) AS e (event_type, data, metadata);
