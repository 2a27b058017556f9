\set p random(0, :maxpos - 11000)
\set c random(0, 9)
SELECT * FROM es_read_category('Order' || :c::text, :p, 1000);
