\set n :n + 1
\set s :run * 100 + :client_id
\set c :s % 10
\set t random(0, 9)
SELECT write_message(gen_random_uuid()::varchar, 'Order' || :c::text || '-' || :s::text, 'OrderEvent' || :t::text, :data::jsonb, :metadata::jsonb, :n::bigint - 2);
