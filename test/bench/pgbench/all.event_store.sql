\set p random(0, :maxpos - 1100)
SELECT * FROM es_read_all(:p, 1000);
