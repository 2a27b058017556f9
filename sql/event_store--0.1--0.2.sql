\echo Use "ALTER EXTENSION event_store UPDATE TO '0.2'" to load this file. \quit

-- What is not qualified below comes from pg_catalog, as in the install script.
SET LOCAL search_path = pg_catalog, pg_temp;
