-- Import
\set SHOW_CONTEXT never
\pset format unaligned
\pset tuples_only on

-- the error of an import, one field a line
CREATE FUNCTION pg_temp.error(query text) RETURNS SETOF text LANGUAGE plpgsql AS $$
DECLARE
    message text;
    detail text;
    hint text;
BEGIN
    PERFORM es_import(query);
    RETURN NEXT 'no error';
EXCEPTION WHEN OTHERS THEN
    GET STACKED DIAGNOSTICS message = MESSAGE_TEXT, detail = PG_EXCEPTION_DETAIL, hint = PG_EXCEPTION_HINT;
    RETURN QUERY VALUES (SQLSTATE || ': ' || message), ('  ' || nullif(replace(detail, E'\n', E'\n  '), '')), ('  ' || nullif(hint, ''));
END
$$;

-- a store of another make
CREATE TABLE old_events (n int PRIMARY KEY, stream text, no int, id uuid, type text, body jsonb, meta jsonb, at timestamptz, labels text[]);
INSERT INTO old_events
SELECT n, 'Import-' || n % 3, (n - 1) / 3 + 1, md5(n::text)::uuid, 'Type' || n % 2, jsonb_build_object('n', n), '{"user": "u"}',
       '2020-02-02 12:00+00'::timestamptz - n * interval '1 day', CASE WHEN n % 4 = 0 THEN ARRAY['n:' || n, 'even'] END
  FROM generate_series(1, 1000) n;

-- everything is kept, and the order of the rows is the global order
SELECT es_import('SELECT stream AS stream_id, no AS version, id AS event_id, type AS event_type, body AS data, meta AS metadata,
                         2 AS schema_version, at AS created_at, labels AS tags FROM old_events ORDER BY n');
SELECT count(*), count(*) FILTER (WHERE (e.stream_id, e.version, e.event_type, e.schema_version, e.data, e.metadata, e.created_at, e.tags)
                                     IS NOT DISTINCT FROM (o.stream, o.no::bigint, o.type, 2, o.body, o.meta, o.at,
                                                           coalesce((SELECT array_agg(l ORDER BY l COLLATE "C") FROM unnest(o.labels) l), '{}'))) AS equal
  FROM event_store.events e JOIN old_events o ON o.id = e.event_id;
SELECT bool_and(n = nth) FROM (SELECT (data->>'n')::int AS n, row_number() OVER (ORDER BY global_position) AS nth
                                 FROM event_store.events WHERE category = 'Import') x;
SELECT stream_id, version, created_at = '2020-02-02 12:00+00'::timestamptz - interval '7 days' FROM es_read_event(md5('7')::uuid);
SELECT es_stream_version('Import-0'), es_stream_version('Import-1'), es_stream_version('Import-2');
SELECT count(*) FROM es_read_query('{"items": [{"tags": ["even", "n:8"]}]}');

-- what follows: appends, another import, both in one transaction
SELECT version FROM es_append('Import-1', 334, 'Appended', '1');
BEGIN;
SELECT version FROM es_append('Import-1', 335, 'Appended', '2');
SELECT es_import($$ SELECT 'Import-1' AS stream_id, 'Imported' AS event_type, '3'::jsonb AS data, 337 AS version $$);
SELECT version FROM es_append('Import-1', 337, 'Appended', '4');
SELECT es_import($$ SELECT 'Import-1' AS stream_id, 'Imported' AS event_type, '5'::jsonb AS data $$);
COMMIT;
SELECT version, event_type, data FROM es_read_stream('Import-1', 335);

-- only what is needed; versions, ids and times are made, casts are those of an INSERT
SELECT es_import($$ SELECT 'ImportShort-1'::varchar AS stream_id, 'A'::name AS event_type, '{"a": 1}'::json AS data, 1::smallint AS version,
                           '{"x:1","x:2","x:1"}'::varchar[] AS tags
                    UNION ALL SELECT 'ImportShort-1', 'A', '{"a": 2}', NULL, NULL $$);
SELECT version, event_type, data, metadata, schema_version, event_id IS NOT NULL, created_at > now() - interval '1 hour', es_tags(e)
  FROM es_read_stream('ImportShort-1') e;
SELECT es_import($$ SELECT NULL AS stream_id, 'Free' AS event_type, '1'::jsonb AS data, ARRAY['free:1'] AS tags $$);
SELECT stream_id IS NULL, version IS NULL, event_type FROM es_read_query('{"items": [{"tags": ["free:1"]}]}');
SELECT es_import($$ SELECT NULL AS stream_id, 'Bare' AS event_type, 'null'::jsonb AS data, '{}'::text[] AS tags $$);
SELECT stream_id IS NULL, version IS NULL, es_tags(e), data FROM es_read_all(event_types => '{Bare}') e;
SELECT es_import($$ SELECT 'ImportNone-1' AS stream_id, 'A' AS event_type, '1'::jsonb AS data WHERE false $$);

-- the head is cheap: a mark is near
SELECT es_head() = max(global_position) FROM event_store.event;
BEGIN;
SELECT es_import($$ SELECT 'ImportMany-' || g % 50 AS stream_id, 'Many' AS event_type, to_jsonb(g) AS data FROM generate_series(1, 5000) g $$);
COMMIT;
SELECT max(m.global_position) > es_head() - 1600 AS marked, es_head() = (SELECT max(global_position) FROM event_store.event) AS all_settled
  FROM event_store.mark m;
SELECT bool_and(n = nth) FROM (SELECT data::int AS n, row_number() OVER () AS nth FROM es_read_category('ImportMany', max_count => 10000)) x;

-- consumers see it like everything else
SELECT es_create_subscription('import_reader', ARRAY['ImportShort']);
SELECT version, event_type FROM es_fetch('import_reader');
SELECT es_drop_subscription('import_reader');

-- refused, with the row and the reason, and nothing is there
CREATE FUNCTION pg_temp.rows(bad text, n int = 700, at int = 600) RETURNS text LANGUAGE sql AS $$
SELECT format('SELECT stream_id, event_type, data, version, event_id, metadata, schema_version, created_at, tags
                 FROM (SELECT g, (x).* FROM generate_series(1, %s) g,
                       LATERAL (SELECT CASE WHEN g = %s THEN %s ELSE
                            ROW(''ImportBad-'' || g %% 2, ''T'', ''{}'', (g - 1) / 2 + 1, md5(''bad'' || g)::uuid, ''{}'', 1, now(), NULL)::pg_temp.new_event END AS x) y) z ORDER BY g', n, at, bad)
$$;
CREATE TYPE pg_temp.new_event AS (stream_id text, event_type text, data jsonb, version bigint, event_id uuid, metadata jsonb,
                                  schema_version int, created_at timestamptz, tags text[]);
SELECT pg_temp.error(pg_temp.rows($$ROW('ImportBad-0', 'T', '{}', 301, NULL, NULL, 1, now(), NULL)::pg_temp.new_event$$));
SELECT pg_temp.error(pg_temp.rows($$ROW('ImportBad-0', 'T', '{}', 299, NULL, NULL, 1, now(), NULL)::pg_temp.new_event$$));
SELECT pg_temp.error(pg_temp.rows($$ROW('ImportBad-9', 'T', '{}', 0, NULL, NULL, 1, now(), NULL)::pg_temp.new_event$$));
SELECT pg_temp.error(pg_temp.rows($$ROW('ImportBad-9', 'T', '{}', 2, NULL, NULL, 1, now(), NULL)::pg_temp.new_event$$));
SELECT pg_temp.error(pg_temp.rows($$ROW('Import-0', 'T', '{}', 333, NULL, NULL, 1, now(), NULL)::pg_temp.new_event$$));
SELECT pg_temp.error(pg_temp.rows($$ROW('ImportBad-0', 'T', '{}', -9223372036854775808, NULL, NULL, 1, now(), NULL)::pg_temp.new_event$$));
SELECT pg_temp.error(pg_temp.rows($$ROW('ImportBad-0', 'T', '{}', 300, md5('7')::uuid, NULL, 1, now(), NULL)::pg_temp.new_event$$));
SELECT pg_temp.error(pg_temp.rows($$ROW('ImportBad-0', 'T', '{}', 300, md5('bad1')::uuid, NULL, 1, now(), NULL)::pg_temp.new_event$$));
SELECT pg_temp.error(pg_temp.rows($$ROW('ImportBad-0', 'T', '{}', 300, md5('bad599')::uuid, NULL, 1, now(), NULL)::pg_temp.new_event$$));
SELECT pg_temp.error(pg_temp.rows($$ROW('', 'T', '{}', 300, NULL, NULL, 1, now(), NULL)::pg_temp.new_event$$));
SELECT pg_temp.error(pg_temp.rows($$ROW(NULL, 'T', '{}', NULL, NULL, NULL, 1, now(), NULL)::pg_temp.new_event$$));
SELECT pg_temp.error(pg_temp.rows($$ROW(NULL, 'T', '{}', 1, NULL, NULL, 1, now(), '{a}')::pg_temp.new_event$$));
SELECT pg_temp.error(pg_temp.rows($$ROW(repeat('x', 256), 'T', '{}', NULL, NULL, NULL, 1, now(), '{a}')::pg_temp.new_event$$));
SELECT pg_temp.error(pg_temp.rows($$ROW('ImportBad-0', NULL, '{}', 300, NULL, NULL, 1, now(), NULL)::pg_temp.new_event$$));
SELECT pg_temp.error(pg_temp.rows($$ROW('ImportBad-0', E'T\t', '{}', 300, NULL, NULL, 1, now(), NULL)::pg_temp.new_event$$));
SELECT pg_temp.error(pg_temp.rows($$ROW('ImportBad-0', 'T', NULL, 300, NULL, NULL, 1, now(), NULL)::pg_temp.new_event$$));
SELECT pg_temp.error(pg_temp.rows($$ROW('ImportBad-0', 'T', '{}', 300, NULL, '[]', 1, now(), NULL)::pg_temp.new_event$$));
SELECT pg_temp.error(pg_temp.rows($$ROW('ImportBad-0', 'T', '{}', 300, NULL, NULL, 0, now(), NULL)::pg_temp.new_event$$));
SELECT pg_temp.error(pg_temp.rows($$ROW('ImportBad-0', 'T', '{}', 300, NULL, NULL, 1, 'infinity', NULL)::pg_temp.new_event$$));
SELECT pg_temp.error(pg_temp.rows($$ROW('ImportBad-0', 'T', '{}', 300, NULL, NULL, 1, now(), '{a,NULL}')::pg_temp.new_event$$));
SELECT pg_temp.error(pg_temp.rows($$ROW('ImportBad-0', 'T', '{}', 300, NULL, NULL, 1, now(), ARRAY(SELECT g::text FROM generate_series(1, 33) g))::pg_temp.new_event$$));
SET event_store.max_event_size = '1kB';
SELECT pg_temp.error(pg_temp.rows($$ROW('ImportBad-0', 'T', to_jsonb(repeat('x', 2000)), 300, NULL, NULL, 1, now(), NULL)::pg_temp.new_event$$));
RESET event_store.max_event_size;
SELECT count(*) FROM event_store.events WHERE category = 'ImportBad';
SELECT count(*) FROM event_store.stream WHERE stream_id LIKE 'ImportBad%';

-- the first and the last row
SELECT pg_temp.error(pg_temp.rows('NULL', 3, 1));
SELECT pg_temp.error(pg_temp.rows('NULL', 1024, 1024));
-- an error of a cast has its row, too
SELECT pg_temp.error($$ SELECT 'ImportBad-1' AS stream_id, 'T' AS event_type, '1'::jsonb AS data, 1e10 ^ g AS version FROM generate_series(0, 5) g $$);
-- that of the query is none of a row
SELECT pg_temp.error($$ SELECT 'ImportBad-1' AS stream_id, 'T' AS event_type, '1'::jsonb AS data, 1 / (2 - g) AS version FROM generate_series(1, 2) g $$);

-- refused before the first row
SELECT pg_temp.error(NULL);
SELECT pg_temp.error('');
SELECT pg_temp.error('nonsense');
SELECT pg_temp.error('SELECT 1; SELECT 2');
SELECT pg_temp.error('VACUUM');
SELECT pg_temp.error('SELECT * FROM old_events FOR UPDATE');
SELECT pg_temp.error('DELETE FROM old_events RETURNING 1');
SELECT pg_temp.error('WITH gone AS (DELETE FROM old_events RETURNING *) SELECT * FROM gone');
SELECT pg_temp.error($$ SELECT 'a' AS stream_id, 'b' AS event_type $$);
SELECT pg_temp.error($$ SELECT 'a' AS stream_id, 'b' AS event_type, '1'::jsonb AS data, 1 AS position $$);
SELECT pg_temp.error($$ SELECT 'a' AS stream_id, 'b' AS event_type, '1'::jsonb AS data, 'c' AS stream_id $$);
SELECT pg_temp.error($$ SELECT 'a' AS stream_id, 'b' AS event_type, '1' AS data $$);
SELECT pg_temp.error($$ SELECT 'a' AS stream_id, 'b' AS event_type, '1'::jsonb AS data, 'x'::text AS event_id $$);
BEGIN READ ONLY;
SELECT es_import('SELECT 1');
ROLLBACK;
SELECT count(*) FROM old_events;

-- an import of an import: the query may read the store itself
SELECT es_import($$ SELECT 'ImportCopy' || substr(stream_id, 7) AS stream_id, event_type, data FROM event_store.events
                     WHERE category = 'Import' ORDER BY global_position $$);
SELECT count(*) FROM event_store.events WHERE category = 'ImportCopy';

-- a query that appends itself: the stream goes on behind that, whether it stays or not
CREATE FUNCTION import_append(keep boolean) RETURNS int LANGUAGE plpgsql AS $$
BEGIN
    PERFORM es_append('ImportOwn-1', es_any(), 'Own', '{}');
    IF NOT keep THEN
        RAISE division_by_zero;
    END IF;
    RETURN 0;
EXCEPTION WHEN division_by_zero THEN
    RETURN 0;
END
$$;
SELECT es_import($$ SELECT 'ImportOwn-1' AS stream_id, 'A' AS event_type,
                           to_jsonb(n + CASE n WHEN 300 THEN import_append(true) WHEN 600 THEN import_append(false) ELSE 0 END) AS data
                      FROM generate_series(1, 900) AS n $$);
SELECT count(*), max(version), min(version) FILTER (WHERE event_type = 'Own') AS own FROM es_read_stream('ImportOwn-1');
SELECT pg_temp.error($$ SELECT 'ImportOwn-1' AS stream_id, 'A' AS event_type, to_jsonb(import_append(n = 300)) AS data, 901 + n AS version FROM generate_series(1, 300) AS n $$);
CREATE TYPE import_data AS (n int);
CREATE FUNCTION import_cast(value import_data) RETURNS jsonb LANGUAGE sql AS 'SELECT to_jsonb(import_append(true))';
CREATE CAST (import_data AS jsonb) WITH FUNCTION import_cast AS ASSIGNMENT;
SELECT pg_temp.error($$ SELECT 'ImportOwn-1' AS stream_id, 'A' AS event_type, ROW(1)::import_data AS data $$);
SELECT pg_temp.error($$ SELECT 'ImportOwn-2' AS stream_id, 'A' AS event_type, ROW(1)::import_data AS data $$);
SELECT count(*) FROM es_verify('ImportOwn-1');
DROP CAST (import_data AS jsonb);
DROP FUNCTION import_cast, import_append;
DROP TYPE import_data;

-- the caller's rights, and a kind
CREATE ROLE regress_es_importer;
GRANT CREATE ON SCHEMA public TO regress_es_importer;
SET ROLE regress_es_importer;
SELECT pg_temp.error('SELECT * FROM old_events');
RESET ROLE;
SELECT es_grant('regress_es_importer', 'admin');
SET ROLE regress_es_importer;
SELECT pg_temp.error('SELECT stream AS stream_id, type AS event_type, body AS data FROM old_events');
SELECT es_import($$ SELECT 'ImportRole-1' AS stream_id, 'A' AS event_type, '1'::jsonb AS data $$);
RESET ROLE;
SELECT es_revoke('regress_es_importer', 'admin');
REVOKE CREATE ON SCHEMA public FROM regress_es_importer;
DROP ROLE regress_es_importer;

-- the highest version
SELECT version FROM es_append_batch('ImportTop-1', 0, '{A,B}', '{1,2}');
BEGIN;
ALTER TABLE event_store.event DISABLE TRIGGER ALL;
UPDATE event_store.event SET version = 2147483646
 WHERE version = 2 AND stream_no = (SELECT stream_no FROM event_store.stream WHERE stream_id = 'ImportTop-1');
ALTER TABLE event_store.event ENABLE TRIGGER ALL;
SELECT pg_temp.error($$SELECT 'ImportTop-1' AS stream_id, 'A' AS event_type, '1'::jsonb AS data FROM generate_series(1, 2)$$);
SELECT es_import($$SELECT 'ImportTop-1' AS stream_id, 'A' AS event_type, '1'::jsonb AS data$$);
SELECT pg_temp.error($$SELECT 'ImportTop-1' AS stream_id, 'A' AS event_type, '1'::jsonb AS data$$);
SELECT pg_temp.error($$SELECT 'ImportTop-1' AS stream_id, 'A' AS event_type, '1'::jsonb AS data, 2147483648 AS version$$);
ROLLBACK;

SELECT count(*) FROM event_store.import_progress;
DROP TABLE old_events;
