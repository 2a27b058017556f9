\set s :lo + :step * random(0, :count - 1)
\set c :s % 10
\set t random(0, 9)
SELECT * FROM emt_append_to_stream(ARRAY[gen_random_uuid()::text], ARRAY[:data::jsonb], ARRAY[:metadata::jsonb], ARRAY['1'], ARRAY['OrderEvent' || :t::text], ARRAY['E'], 'Order' || :c::text || '-' || :s::text, 'Order' || :c::text, NULL, 'emt' || chr(58) || 'default');
