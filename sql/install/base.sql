\echo Use "CREATE EXTENSION event_store" to load this file. \quit

-- Functions and types live in the schema that CREATE EXTENSION names, tables
-- and views in schema event_store.  Plain CREATE throughout: nothing planted
-- beforehand is adopted.

-- What is not qualified below comes from pg_catalog: a function of the same
-- name in the target schema must not be a better match.
SET LOCAL search_path = pg_catalog, pg_temp;

CREATE SCHEMA event_store;
COMMENT ON SCHEMA event_store IS 'tables and views of the event store';
REVOKE ALL ON SCHEMA event_store FROM PUBLIC;
