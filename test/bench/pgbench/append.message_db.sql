\set s :lo + :step * random(0, :count - 1)
\set c :s % 10
\set t random(0, 9)
SELECT write_message(gen_random_uuid()::varchar, 'Order' || :c::text || '-' || :s::text, 'OrderEvent' || :t::text, :data::jsonb, :metadata::jsonb);
