\set s :lo + :step * random(0, :count - 1)
\set c :s % 10
SELECT * FROM emt_append_to_stream(ARRAY(SELECT gen_random_uuid()::text FROM generate_series(1, 100)), :datas::jsonb[], :metadatas::jsonb[], array_fill('1'::text, ARRAY[100]), :types::text[], array_fill('E'::text, ARRAY[100]), 'Order' || :c::text || '-' || :s::text, 'Order' || :c::text, NULL, 'emt' || chr(58) || 'default');
