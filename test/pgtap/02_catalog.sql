-- What must hold for every object of the extension, also for those that are
-- added later: comments, privileges, search_path, dump.
\set ON_ERROR_STOP on
BEGIN;
SELECT plan(33);

CREATE TEMP TABLE member AS
    SELECT d.classid, d.objid, pg_describe_object(d.classid, d.objid, 0) AS name
      FROM pg_depend AS d JOIN pg_extension AS x ON d.refclassid = 'pg_extension'::regclass AND x.oid = d.refobjid
     WHERE x.extname = 'event_store' AND d.deptype = 'e';
CREATE TEMP TABLE member_function AS
    SELECT p.*, m.name, l.lanname FROM member AS m JOIN pg_proc AS p ON m.classid = 'pg_proc'::regclass AND p.oid = m.objid
      JOIN pg_language AS l ON l.oid = p.prolang;
CREATE TEMP TABLE member_relation AS
    SELECT c.*, m.name FROM member AS m JOIN pg_class AS c ON m.classid = 'pg_class'::regclass AND c.oid = m.objid;

SELECT cmp_ok((SELECT count(*) FROM member), '>=', 40::bigint, 'the extension has its objects');
SELECT cmp_ok((SELECT count(*) FROM member_function), '>=', 18::bigint, 'functions among them');
SELECT cmp_ok((SELECT count(*) FROM member_relation WHERE relkind = 'r'), '>=', 5::bigint, 'and tables');
SELECT set_eq($$SELECT relname::text FROM member_relation WHERE relkind = 'r' AND relname IN ('event', 'stream', 'event_type', 'mark', 'snapshot')$$,
              ARRAY['event', 'stream', 'event_type', 'mark', 'snapshot'], 'the tables of the core');

--
-- Comments
--

-- the composite types of tables and views and the array types come by themselves
SELECT is_empty($$
    SELECT m.name FROM member AS m
     WHERE NOT EXISTS (SELECT FROM pg_description AS s WHERE s.classoid = m.classid AND s.objoid = m.objid AND s.objsubid = 0 AND s.description <> '')
       AND NOT (m.classid = 'pg_type'::regclass
                AND EXISTS (SELECT FROM pg_type AS t LEFT JOIN pg_class AS c ON c.oid = t.typrelid
                             WHERE t.oid = m.objid AND (t.typelem <> 0 OR c.relkind <> 'c')))$$,
    'every object has a comment');
SELECT is_empty($$
    SELECT r.relname, a.attname FROM member_relation AS r JOIN pg_attribute AS a ON a.attrelid = r.oid
     WHERE r.relkind IN ('r', 'v') AND a.attnum > 0 AND NOT a.attisdropped
       AND col_description(r.oid, a.attnum) IS NULL$$,
    'every column of a table or view has a comment');
SELECT is_empty($$
    SELECT c.relname, a.attname FROM member AS m JOIN pg_type AS t ON m.classid = 'pg_type'::regclass AND t.oid = m.objid
      JOIN pg_class AS c ON c.oid = t.typrelid JOIN pg_attribute AS a ON a.attrelid = c.oid
     WHERE c.relkind = 'c' AND a.attnum > 0 AND NOT a.attisdropped AND col_description(c.oid, a.attnum) IS NULL$$,
    'every attribute of a row type has a comment');
SELECT isnt(obj_description((SELECT oid FROM pg_extension WHERE extname = 'event_store'), 'pg_extension'), NULL, 'the extension has one');

--
-- Privileges: nothing for PUBLIC
--

SELECT is_empty($$
    SELECT name FROM member_function
     WHERE proacl IS NULL OR EXISTS (SELECT FROM aclexplode(proacl) AS a WHERE a.grantee = 0)$$,
    'no function may be called by PUBLIC');
SELECT is_empty($$
    SELECT name FROM member_relation WHERE EXISTS (SELECT FROM aclexplode(relacl) AS a WHERE a.grantee = 0)$$,
    'no table, view or sequence is open to PUBLIC');
SELECT is_empty($$
    SELECT r.name, a.attname FROM member_relation AS r JOIN pg_attribute AS a ON a.attrelid = r.oid, aclexplode(a.attacl) AS e WHERE e.grantee = 0$$,
    'nor is a column');
SELECT is_empty($$
    SELECT nspname FROM pg_namespace WHERE nspname = 'event_store' AND (nspacl IS NULL OR EXISTS (SELECT FROM aclexplode(nspacl) AS a WHERE a.grantee = 0))$$,
    'nor is the schema');
SELECT is_empty($$SELECT nspname FROM member AS m JOIN pg_namespace AS n ON n.oid = m.objid AND m.classid = 'pg_namespace'::regclass WHERE nspname <> 'event_store'$$,
    'the extension has no other schema');

-- es_grant knows every function that an application may call
SELECT is_empty($$
    SELECT f::regprocedure FROM event_store.es_role_functions('admin') AS f
     WHERE f::oid NOT IN (SELECT oid FROM member_function)$$,
    'es_role_functions lists functions of the extension only');
SELECT is_empty($$
    SELECT f.oid::regprocedure FROM member_function AS f
     WHERE f.pronamespace <> 'event_store'::regnamespace AND f.proname NOT IN ('es_grant', 'es_revoke')
       AND f.oid NOT IN (SELECT g::oid FROM event_store.es_role_functions('admin') AS g)$$,
    'es_grant gives an admin every public function but es_grant and es_revoke');
SELECT is_empty($$
    SELECT g FROM event_store.es_role_functions('reader') AS g WHERE g::text ~ 'es_append|es_snapshot|es_define|es_drop|es_create'$$,
    'a reader gets nothing that writes or defines');
SELECT is_empty($$
    (SELECT event_store.es_role_functions('reader') UNION SELECT event_store.es_role_functions('writer'))
    EXCEPT SELECT event_store.es_role_functions('admin')$$,
    'an admin gets what a reader and a writer get');

--
-- search_path
--

SELECT is_empty($$
    SELECT name FROM member_function
     WHERE prosecdef AND NOT EXISTS (SELECT FROM unnest(proconfig) AS c WHERE c ~ '^search_path=pg_catalog,')$$,
    'a function with its owner''s rights has a fixed search_path');
SELECT is_empty($$
    SELECT name FROM member_function
     WHERE lanname = 'plpgsql' AND NOT EXISTS (SELECT FROM unnest(proconfig) AS c WHERE c ~ '^search_path=pg_catalog,')$$,
    'a function in plpgsql too');
SELECT is_empty($$
    SELECT name FROM member_function
     WHERE lanname = 'sql' AND proname NOT IN ('es_any', 'es_exists')
       AND NOT EXISTS (SELECT FROM unnest(proconfig) AS c WHERE c ~ '^search_path=pg_catalog,')$$,
    'a function in SQL too, but for the two constants');
SELECT is_empty($$
    SELECT name FROM member_function, unnest(proconfig) AS c WHERE c LIKE 'search_path=%' AND c !~ ', ?"?pg_temp"?$'$$,
    'pg_temp comes last in it');
SELECT is_empty($$SELECT name FROM member_function WHERE lanname = 'c' AND probin NOT LIKE '%event_store'$$, 'C functions come from this library');
SELECT is_empty($$SELECT name FROM member_function WHERE lanname NOT IN ('c', 'sql', 'plpgsql')$$, 'nothing is written in another language');

-- What is created was resolved in pg_catalog: nothing of it, nor its columns'
-- defaults, constraints, indexes, triggers and views' queries, uses an object of
-- schema public that is not the extension's own.
CREATE TEMP VIEW part AS
    SELECT classid, objid FROM member
    UNION SELECT 'pg_rewrite'::regclass, r.oid FROM pg_rewrite AS r JOIN member_relation AS c ON c.oid = r.ev_class
    UNION SELECT d.classid, d.objid FROM pg_depend AS d JOIN member_relation AS c ON d.refclassid = 'pg_class'::regclass AND d.refobjid = c.oid
     WHERE d.deptype IN ('a', 'i');
CREATE TEMP VIEW in_public AS
    SELECT 'pg_proc'::regclass AS classid, oid FROM pg_proc WHERE pronamespace = 'public'::regnamespace
    UNION ALL SELECT 'pg_operator'::regclass, oid FROM pg_operator WHERE oprnamespace = 'public'::regnamespace
    UNION ALL SELECT 'pg_class'::regclass, oid FROM pg_class WHERE relnamespace = 'public'::regnamespace
    UNION ALL SELECT 'pg_type'::regclass, oid FROM pg_type WHERE typnamespace = 'public'::regnamespace;
CREATE TEMP VIEW foreign_use AS
    SELECT pg_describe_object(d.classid, d.objid, d.objsubid) AS name,
           pg_describe_object(d.refclassid, d.refobjid, d.refobjsubid) AS uses
      FROM pg_depend AS d JOIN part AS p ON p.classid = d.classid AND p.objid = d.objid
      JOIN in_public AS i ON i.classid = d.refclassid AND i.oid = d.refobjid
     WHERE d.deptype IN ('n', 'a', 'i')
       AND NOT EXISTS (SELECT FROM part AS p WHERE p.classid = d.refclassid AND p.objid = d.refobjid)
       -- arrays of the extension's types come by themselves
       AND NOT EXISTS (SELECT FROM pg_type AS t JOIN part AS p ON p.classid = 'pg_type'::regclass AND p.objid = t.typelem
                        WHERE d.refclassid = 'pg_type'::regclass AND t.oid = d.refobjid);
SELECT is_empty('SELECT name, uses FROM foreign_use', 'nothing uses what is not the extension''s in schema public');

--
-- Dump
--

SELECT set_eq($$SELECT oid FROM member_relation WHERE relkind IN ('r', 'S')$$,
              $$SELECT unnest(extconfig) FROM pg_extension WHERE extname = 'event_store'$$,
              'every table and sequence is dumped with its contents');
SELECT is_empty($$SELECT c FROM pg_extension, unnest(extcondition) AS c WHERE extname = 'event_store' AND c <> ''$$, 'all of it');
SELECT is_empty($$SELECT name FROM member_relation WHERE relkind IN ('r', 'S', 'm') AND relpersistence <> 'p'$$, 'every table is logged');
-- OIDs do not survive a dump
SELECT is_empty($$
    SELECT r.name, a.attname FROM member_relation AS r JOIN pg_attribute AS a ON a.attrelid = r.oid JOIN pg_type AS t ON t.oid = a.atttypid
     WHERE r.relkind = 'r' AND a.attnum > 0 AND (t.typname LIKE 'reg%' OR t.typname IN ('oid', 'xid', 'xid8', 'tid', 'pg_lsn'))$$,
    'no column holds what is local to a cluster');

--
-- Guard and order
--

SELECT set_eq($$
    SELECT c.relname::text, t.tgenabled::text, (t.tgtype & 1) FROM pg_trigger AS t JOIN pg_class AS c ON c.oid = t.tgrelid
     WHERE t.tgfoid = 'event_store.es_guard'::regproc AND c.relname IN ('event', 'stream', 'event_type', 'mark')$$,
    $$SELECT n, 'A', k FROM unnest(ARRAY['event', 'stream', 'event_type', 'mark']) AS n, unnest(ARRAY[0, 1]) AS k$$,
    'tables of events are guarded by statement and row triggers that always fire');
SELECT is_empty($$
    SELECT t.tgrelid::regclass, t.tgname FROM pg_trigger AS t JOIN member_relation AS r ON r.oid = t.tgrelid WHERE NOT t.tgisinternal AND t.tgenabled <> 'A'$$,
    'every trigger of the store always fires');
SELECT set_eq($$
    SELECT a.attname::text || ' ' || c.collname FROM member_relation AS r JOIN pg_attribute AS a ON a.attrelid = r.oid JOIN pg_collation AS c ON c.oid = a.attcollation
     WHERE r.relname IN ('stream', 'event_type') AND r.relkind = 'r'$$,
    ARRAY['stream_id C', 'category C', 'event_type C'], 'names do not depend on the collation of the system');
SELECT is((SELECT count(*) FROM pg_sequence AS s JOIN member_relation AS r ON r.oid = s.seqrelid WHERE s.seqcycle OR s.seqcache <> 1 OR s.seqincrement <> 1),
          0::bigint, 'sequences count up by one, without cache and cycle');

--
-- Control: a use of something in schema public would have been seen.  Last, as
-- it adds to what counts as the extension's.
--

CREATE FUNCTION public.stranger() RETURNS int LANGUAGE sql AS 'SELECT 1';
CREATE VIEW event_store.uses_stranger AS SELECT public.stranger();
INSERT INTO member VALUES ('pg_class'::regclass, 'event_store.uses_stranger'::regclass, 'view');
INSERT INTO member_relation SELECT c.*, 'view' FROM pg_class AS c WHERE c.oid = 'event_store.uses_stranger'::regclass;
SELECT set_eq('SELECT name, uses FROM foreign_use', $$VALUES ('rule _RETURN on view event_store.uses_stranger', 'function stranger()')$$,
              'a view''s use of a function in schema public is seen');

ROLLBACK;
