\set n :n + 1
\set s :run * 100 + :client_id
\set c :s % 10
\set t random(0, 9)
SELECT * FROM emt_append_to_stream(ARRAY[gen_random_uuid()::text], ARRAY[:data::jsonb], ARRAY[:metadata::jsonb], ARRAY['1'], ARRAY['OrderEvent' || :t::text], ARRAY['E'], 'Order' || :c::text || '-' || :s::text, 'Order' || :c::text, :n::bigint - 1, 'emt' || chr(58) || 'default');
