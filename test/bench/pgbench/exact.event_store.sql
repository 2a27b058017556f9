\set n :n + 1
\set s :run * 100 + :client_id
\set c :s % 10
\set t random(0, 9)
SELECT * FROM es_append('Order' || :c::text || '-' || :s::text, :n::bigint - 1, 'OrderEvent' || :t::text, :data::jsonb, :metadata::jsonb);
