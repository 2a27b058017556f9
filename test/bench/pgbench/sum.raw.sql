\set p random(0, :maxpos - 1100)
SELECT sum((data->>'total')::float8) FROM (SELECT data FROM events WHERE global_position > :p ORDER BY global_position LIMIT 1000) AS page;
