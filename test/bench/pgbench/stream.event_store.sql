\set s :lo + :step * random(0, :count - 1)
\set c :s % 10
SELECT * FROM es_read_stream('Order' || :c::text || '-' || :s::text);
