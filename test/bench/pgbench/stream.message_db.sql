\set s :lo + :step * random(0, :count - 1)
\set c :s % 10
SELECT * FROM get_stream_messages('Order' || :c::text || '-' || :s::text, 0, 1000);
