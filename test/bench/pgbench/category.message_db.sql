\set p random(0, :maxpos - 11000)
\set c random(0, 9)
SELECT * FROM get_category_messages('Order' || :c::text, :p::bigint + 1, 1000);
