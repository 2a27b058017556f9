\set s :lo + :step * random(0, :count - 1)
\set c :s % 10
SELECT * FROM es_append_batch('Order' || :c::text || '-' || :s::text, es_any(), :types::text[], :datas::jsonb[], :metadatas::jsonb[]);
