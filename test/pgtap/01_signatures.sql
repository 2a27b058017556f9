-- The functions of the contract: arguments, results, and how the planner may
-- treat them.
\set ON_ERROR_STOP on
BEGIN;
SELECT plan(153);

SELECT has_extension('event_store');
SELECT is((SELECT extversion FROM pg_extension WHERE extname = 'event_store'),
          (SELECT default_version FROM pg_available_extensions WHERE name = 'event_store'), 'the installed version is the default one');

CREATE TEMP TABLE wanted (name text, arguments text, result text, is_set boolean, volatility "char", parallel "char", is_definer boolean);
INSERT INTO wanted VALUES
    ('es_any', '', 'bigint', false, 'i', 's', false),
    ('es_exists', '', 'bigint', false, 'i', 's', false),
    ('es_append', 'stream_id text, expected_version bigint, event_type text, data jsonb, metadata jsonb DEFAULT ''{}''::jsonb, event_id uuid DEFAULT NULL::uuid, schema_version integer DEFAULT 1, tags text[] DEFAULT NULL::text[]', 'es_appended', false, 'v', 'u', false),
    ('es_append', 'stream_id text, expected_version bigint, events jsonb', 'SETOF es_appended', true, 'v', 'u', false),
    ('es_append_batch', 'stream_id text, expected_version bigint, event_types text[], data jsonb[], metadata jsonb[] DEFAULT NULL::jsonb[], event_ids uuid[] DEFAULT NULL::uuid[], schema_versions integer[] DEFAULT NULL::integer[], tags jsonb[] DEFAULT NULL::jsonb[]', 'SETOF es_appended', true, 'v', 'u', false),
    ('es_append_streams', 'appends jsonb', 'TABLE(stream_id text, event_id uuid, version bigint, global_position bigint, is_duplicate boolean)', true, 'v', 'u', false),
    ('es_append_if', 'events jsonb, fail_if jsonb, after_position bigint DEFAULT NULL::bigint', 'SETOF es_appended', true, 'v', 'u', false),
    ('es_import', 'query text', 'bigint', false, 'v', 'u', false),
    ('es_decide', 'query jsonb, reducer regprocedure, initial jsonb, OUT state jsonb, OUT after_position bigint', 'record', false, 'v', 'u', false),
    ('es_decide', 'query jsonb, reducer text, initial jsonb, OUT state jsonb, OUT after_position bigint', 'record', false, 'v', 'u', false),
    ('es_read_query', 'query jsonb, after_position bigint DEFAULT NULL::bigint, max_count bigint DEFAULT 1000, backward boolean DEFAULT false', 'SETOF es_event', true, 's', 'r', false),
    ('es_tags', 'event es_event', 'text[]', false, 's', 'r', false),
    ('es_read_stream', 'stream_id text, from_version bigint DEFAULT NULL::bigint, max_count bigint DEFAULT NULL::bigint, backward boolean DEFAULT false', 'SETOF es_event', true, 's', 'r', false),
    ('es_read_all', 'after_position bigint DEFAULT NULL::bigint, max_count bigint DEFAULT 1000, categories text[] DEFAULT NULL::text[], event_types text[] DEFAULT NULL::text[], backward boolean DEFAULT false', 'SETOF es_event', true, 's', 'r', false),
    ('es_read_category', 'category text, after_position bigint DEFAULT NULL::bigint, max_count bigint DEFAULT 1000, backward boolean DEFAULT false', 'SETOF es_event', true, 's', 'r', false),
    ('es_stream_version', 'stream_id text', 'bigint', false, 's', 'r', false),
    ('es_head', '', 'bigint', false, 's', 'r', false),
    ('es_read_event', 'event_id uuid', 'es_event', false, 's', 'r', false),
    ('es_envelope', 'event es_event', 'jsonb', false, 's', 's', false),
    ('es_snapshot', 'stream_id text, version bigint, data jsonb, schema_version integer DEFAULT 1', 'boolean', false, 'v', 'u', false),
    ('es_read_snapshot', 'stream_id text, schema_version integer DEFAULT NULL::integer, OUT stream_id text, OUT version bigint, OUT data jsonb, OUT schema_version integer, OUT created_at timestamp with time zone', 'record', false, 's', 'r', false),
    ('es_load', 'stream_id text, schema_version integer DEFAULT NULL::integer, OUT version bigint, OUT snapshot_version bigint, OUT snapshot jsonb, OUT events es_event[]', 'record', false, 's', 'r', false),
    ('es_wait', 'after_position bigint, timeout interval DEFAULT ''00:00:30''::interval', 'bigint', false, 'v', 'u', false),
    ('es_grant', 'role text, kind text', 'void', false, 'v', 'u', false),
    ('es_revoke', 'role text, kind text', 'void', false, 'v', 'u', false);

CREATE TEMP TABLE found AS
    SELECT p.proname::text AS name, pg_get_function_arguments(p.oid) AS arguments, pg_get_function_result(p.oid) AS result,
           p.proretset AS is_set, p.provolatile AS volatility, p.proparallel AS parallel, p.prosecdef AS is_definer, p.proisstrict AS is_strict,
           p.prokind AS kind
      FROM pg_proc AS p
      JOIN pg_depend AS d ON d.classid = 'pg_proc'::regclass AND d.objid = p.oid AND d.deptype = 'e'
      JOIN pg_extension AS x ON d.refclassid = 'pg_extension'::regclass AND x.oid = d.refobjid
     WHERE x.extname = 'event_store';

SELECT ok(f.name IS NOT NULL, format('%s(%s) is there', w.name, w.arguments))
  FROM wanted AS w LEFT JOIN found AS f USING (name, arguments) ORDER BY w.name, w.arguments;
SELECT is(f.result, w.result, format('result of %s, with %s commas in its arguments', w.name, commas))
  FROM (SELECT *, length(arguments) - length(replace(arguments, ',', '')) AS commas FROM wanted) AS w
  LEFT JOIN found AS f USING (name, arguments) ORDER BY w.name, w.arguments;
SELECT is(f.is_set, w.is_set, format('%s: a set or not', w.name))
  FROM wanted AS w LEFT JOIN found AS f USING (name, arguments) ORDER BY w.name, w.arguments;
SELECT is(f.volatility, w.volatility, format('volatility of %s', w.name))
  FROM wanted AS w LEFT JOIN found AS f USING (name, arguments) ORDER BY w.name, w.arguments;
SELECT is(f.parallel, w.parallel, format('parallel safety of %s', w.name))
  FROM wanted AS w LEFT JOIN found AS f USING (name, arguments) ORDER BY w.name, w.arguments;
SELECT is(f.is_definer, w.is_definer, format('whose rights %s has', w.name))
  FROM wanted AS w LEFT JOIN found AS f USING (name, arguments) ORDER BY w.name, w.arguments;
-- a NULL must be an error, not a silent NULL
SELECT is_empty($$SELECT name FROM found JOIN wanted USING (name, arguments) WHERE is_strict AND name NOT IN ('es_envelope', 'es_tags')$$, 'only es_envelope and es_tags are strict');

ROLLBACK;
