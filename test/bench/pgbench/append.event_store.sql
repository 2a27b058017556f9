\set s :lo + :step * random(0, :count - 1)
\set c :s % 10
\set t random(0, 9)
SELECT * FROM es_append('Order' || :c::text || '-' || :s::text, es_any(), 'OrderEvent' || :t::text, :data::jsonb, :metadata::jsonb);
