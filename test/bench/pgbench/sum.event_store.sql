\set p random(0, :maxpos - 1100)
SELECT sum((data->>'total')::float8) FROM es_read_all(:p, 1000);
