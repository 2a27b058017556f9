--
-- Permissions
--

-- Which functions a kind of role may call.  A writer can also read what it
-- needs to decide, but only through functions.  both: reader and writer; watch:
-- reader and monitor.
CREATE FUNCTION event_store.es_role_functions(kind text) RETURNS SETOF regprocedure
    LANGUAGE sql STABLE
    SET search_path = pg_catalog, pg_temp
    AS $$
    -- the schema may have been renamed since
    SELECT format(f.name, (SELECT quote_ident(n.nspname) FROM pg_extension e
                             JOIN pg_namespace n ON n.oid = e.extnamespace
                            WHERE e.extname = 'event_store'))::regprocedure
      FROM (VALUES
        ('writer', '%1$s.es_append(text, bigint, text, jsonb, jsonb, uuid, int, text[])'),
        ('writer', '%1$s.es_append_batch(text, bigint, text[], jsonb[], jsonb[], uuid[], int[], jsonb[])'),
        ('writer', '%1$s.es_append(text, bigint, jsonb)'),
        ('writer', '%1$s.es_append_streams(jsonb)'),
        ('writer', '%1$s.es_append_if(jsonb, jsonb, bigint)'),
        ('admin', '%1$s.es_import(text)'),
        ('writer', '%1$s.es_snapshot(text, bigint, jsonb, int)'),
        ('both', '%1$s.es_any()'),
        ('both', '%1$s.es_exists()'),
        ('both', '%1$s.es_read_stream(text, bigint, bigint, boolean)'),
        ('both', '%1$s.es_stream_version(text)'),
        ('all', '%1$s.es_head()'),
        ('both', '%1$s.es_wait(bigint, interval)'),
        ('all', 'event_store.es_head_status()'),
        ('watch', 'event_store.es_transaction_status(xid)'),
        ('watch', 'event_store.es_worker_status()'),
        ('monitor', 'event_store.es_statistics()'),
        ('monitor', 'event_store.es_import_progress()'),
        ('admin', '%1$s.es_reset_statistics()'),
        ('both', '%1$s.es_read_event(uuid)'),
        ('both', '%1$s.es_read_query(jsonb, bigint, bigint, boolean)'),
        ('reader', '%1$s.es_position_at(timestamptz)'),
        ('reader', 'event_store.es_check_category(text)'),
        ('reader', '%1$s.es_list_streams(text, text, text, bigint)'),
        ('both', '%1$s.es_tags(%1$s.es_event)'),
        ('both', '%1$s.es_decide(jsonb, regprocedure, jsonb)'),
        ('both', '%1$s.es_decide(jsonb, text, jsonb)'),
        ('both', '%1$s.es_envelope(%1$s.es_event)'),
        ('both', '%1$s.es_read_snapshot(text, int)'),
        ('both', '%1$s.es_load(text, int)'),
        ('both', '%1$s.es_state(text, bigint, timestamptz)'),
        ('reader', 'event_store.es_upcast_type(text, int)'),
        ('reader', 'event_store.es_consumed_type(text, int)'),
        ('reader', 'event_store.es_upcast_schema_version(text, int)'),
        ('reader', 'event_store.es_upcast_data(text, int, jsonb, uuid, text, bigint, jsonb)'),
        ('admin', '%1$s.es_define_upcaster(text, int, regprocedure, text, int, boolean)'),
        ('admin', '%1$s.es_define_upcaster(text, int, text, text, int, boolean)'),
        ('admin', '%1$s.es_drop_upcaster(text, int)'),
        ('admin', '%1$s.es_check_upcasters(text, bigint)'),
        ('admin', '%1$s.es_preview_upcasters(text, bigint)'),
        ('admin', '%1$s.es_define_aggregate(text, regprocedure, jsonb, int, int, boolean)'),
        ('admin', '%1$s.es_define_aggregate(text, text, jsonb, int, int, boolean)'),
        ('admin', '%1$s.es_drop_aggregate(text)'),
        ('admin', '%1$s.es_drop_snapshots(text)'),
        ('admin', '%1$s.es_verify(text)'),
        ('reader', '%1$s.es_read_all(bigint, bigint, text[], text[], boolean)'),
        ('reader', '%1$s.es_read_category(text, bigint, bigint, boolean)'),
        ('admin', '%1$s.es_create_projection(text, regprocedure, text[], text[], int, bigint, text, regprocedure, int, boolean, boolean)'),
        ('admin', '%1$s.es_create_projection(text, text, text[], text[], int, bigint, text, text, int, boolean, boolean)'),
        ('admin', '%1$s.es_drop_projection(text)'),
        ('admin', '%1$s.es_pause_projection(text)'),
        ('admin', '%1$s.es_resume_projection(text)'),
        ('admin', '%1$s.es_run_projection(text)'),
        ('admin', '%1$s.es_take_over()'),
        ('both', '%1$s.es_wait_projection(text, bigint, interval)'),
        ('both', '%1$s.es_is_replaying()'),
        ('admin', '%1$s.es_rebuild_projection(text, boolean)'),
        ('admin', '%1$s.es_prepare_projection(text, regprocedure, regprocedure, text[], text[], boolean, boolean)'),
        ('admin', '%1$s.es_prepare_projection(text, text, text, text[], text[], boolean, boolean)'),
        ('admin', '%1$s.es_switch_projection(text, regprocedure, bigint)'),
        ('admin', '%1$s.es_switch_projection(text, text, bigint)'),
        ('admin', '%1$s.es_cancel_rebuild(text)'),
        ('admin', '%1$s.es_retry_projection_parked(text, text)'),
        ('admin', '%1$s.es_discard_projection_parked(text, text)'),
        ('reader', '%1$s.es_fetch(text, int, interval, text)'),
        ('reader', '%1$s.es_ack(text, bigint, text)'),
        ('reader', '%1$s.es_nack(text, bigint, text, boolean, text)'),
        ('reader', '%1$s.es_join(text, text, interval)'),
        ('reader', '%1$s.es_leave(text, text)'),
        ('watch', 'event_store.es_subscription_lag(text, bigint)'),
        ('admin', '%1$s.es_create_subscription(text, text[], text[], bigint, int, interval, int, interval, jsonb, boolean, boolean)'),
        ('admin', '%1$s.es_drop_subscription(text)'),
        ('admin', '%1$s.es_reset_subscription(text, bigint)'),
        ('admin', '%1$s.es_retry_parked(text, text)'),
        ('admin', '%1$s.es_discard_parked(text, bigint)'),
        ('admin', '%1$s.es_discard_parked_stream(text, text)'),
        ('watch', 'event_store.es_projection_backlog(text, boolean, boolean)'),
        ('watch', 'event_store.es_projection_error_visible(text)'),
        ('reader', 'event_store.es_stream_visible(bigint)')
      ) AS f (kind, name)
     WHERE es_role_functions.kind IN ('admin', f.kind)
        OR es_role_functions.kind = ANY (CASE f.kind WHEN 'both' THEN '{reader,writer}'::text[]
                                                     WHEN 'watch' THEN '{reader,monitor}'
                                                     WHEN 'all' THEN '{reader,writer,monitor}' END)
    $$;
COMMENT ON FUNCTION event_store.es_role_functions(text) IS 'the functions that es_grant grants to a reader, writer, monitor or admin';
REVOKE ALL ON FUNCTION event_store.es_role_functions(text) FROM PUBLIC;

-- Tables and views that a kind of role may select from.
CREATE FUNCTION event_store.es_role_relations(kind text) RETURNS SETOF regclass
    LANGUAGE sql STABLE
    SET search_path = pg_catalog, pg_temp
    AS $$
    SELECT ('event_store.' || r.name)::regclass
      FROM (VALUES
        ('reader', 'event'),
        ('reader', 'stream'),
        ('reader', 'event_type'),
        ('reader', 'mark'),
        ('reader', 'events'),
        ('reader', 'parked_events'),
        ('watch', 'status'),
        ('watch', 'categories'),
        ('watch', 'consumers'),
        ('watch', 'subscriptions'),
        ('watch', 'subscription_members'),
        ('watch', 'projections'),
        ('watch', 'projection_progress'),
        ('monitor', 'statistics'),
        ('monitor', 'import_progress'),
        ('admin', 'snapshot'),
        ('admin', 'upcaster'),
        ('admin', 'aggregate'),
        ('admin', 'projection_parked')
      ) AS r (kind, name)
     WHERE es_role_relations.kind IN ('admin', r.kind)
        OR es_role_relations.kind = ANY (CASE r.kind WHEN 'watch' THEN '{reader,monitor}'::text[] END)
    $$;
COMMENT ON FUNCTION event_store.es_role_relations(text) IS 'the tables and views that es_grant opens to a reader, writer, monitor or admin';
REVOKE ALL ON FUNCTION event_store.es_role_relations(text) FROM PUBLIC;

CREATE FUNCTION event_store.es_change_grants(role text, kind text, is_grant boolean) RETURNS void
    LANGUAGE plpgsql
    SET search_path = pg_catalog, pg_temp
    AS $$
DECLARE
    grantee text;
    action text := CASE WHEN is_grant THEN 'GRANT %s TO %s' ELSE 'REVOKE %s FROM %s' END;
    others text[] := '{}';
    object text;
    functions_schema oid := (SELECT extnamespace FROM pg_extension WHERE extname = 'event_store');
BEGIN
    IF role IS NULL OR kind IS NULL THEN
        RAISE null_value_not_allowed USING MESSAGE = 'role and kind must not be null';
    END IF;
    IF kind NOT IN ('reader', 'writer', 'monitor', 'admin') THEN
        RAISE invalid_parameter_value USING
            MESSAGE = format('invalid kind "%s"', kind),
            DETAIL = 'It must be reader, writer, monitor or admin.';
    END IF;
    -- two at once would change the same rows of the catalog, an internal error
    LOCK TABLE event_store.aggregate IN SHARE UPDATE EXCLUSIVE MODE;
    SELECT quote_ident(rolname) INTO grantee FROM pg_roles WHERE rolname = role;
    IF NOT FOUND THEN
        RAISE undefined_object USING MESSAGE = format('role "%s" does not exist', role);
    END IF;

    -- what kinds share stays while the role is of another one
    IF NOT is_grant AND kind <> 'admin' THEN
        others := ARRAY(SELECT k FROM unnest('{reader,writer,monitor}'::text[]) AS k
                         WHERE k <> kind
                           AND (SELECT bool_and(has_function_privilege(role, f, 'EXECUTE'))
                                  FROM event_store.es_role_functions(k) AS f));
    END IF;
    FOR object IN
        SELECT format('EXECUTE ON FUNCTION %s', f) FROM event_store.es_role_functions(kind) AS f
         WHERE f NOT IN (SELECT event_store.es_role_functions(k) FROM unnest(others) AS k)
        UNION ALL
        SELECT format('SELECT ON %s', r) FROM event_store.es_role_relations(kind) AS r
         WHERE r NOT IN (SELECT event_store.es_role_relations(k) FROM unnest(others) AS k)
        UNION ALL
        SELECT 'USAGE ON SCHEMA event_store' WHERE kind <> 'writer' AND NOT others && '{reader,monitor}'
        UNION ALL
        -- the schema of the functions need not be the extension's
        SELECT format('USAGE ON SCHEMA %I', n.nspname) FROM pg_namespace AS n
         WHERE n.oid = functions_schema AND n.nspname <> 'public' AND others = '{}'
           AND has_schema_privilege(n.oid, 'USAGE WITH GRANT OPTION')
           AND (NOT is_grant OR NOT has_schema_privilege(role, n.oid, 'USAGE'))
    LOOP
        EXECUTE format(action, object, grantee);
    END LOOP;
END
$$;
COMMENT ON FUNCTION event_store.es_change_grants(text, text, boolean) IS 'does the work of es_grant and es_revoke';
REVOKE ALL ON FUNCTION event_store.es_change_grants(text, text, boolean) FROM PUBLIC;

CREATE FUNCTION @extschema@.es_grant(role text, kind text) RETURNS void
    LANGUAGE sql
    SET search_path = pg_catalog, pg_temp
    AS 'SELECT event_store.es_change_grants($1, $2, true)';
COMMENT ON FUNCTION @extschema@.es_grant(text, text) IS
    'gives a role what a reader, writer, monitor or admin of the store needs; for the owner of the extension';
REVOKE ALL ON FUNCTION @extschema@.es_grant(text, text) FROM PUBLIC;

CREATE FUNCTION @extschema@.es_revoke(role text, kind text) RETURNS void
    LANGUAGE sql
    SET search_path = pg_catalog, pg_temp
    AS 'SELECT event_store.es_change_grants($1, $2, false)';
COMMENT ON FUNCTION @extschema@.es_revoke(text, text) IS 'takes back what es_grant gave';
REVOKE ALL ON FUNCTION @extschema@.es_revoke(text, text) FROM PUBLIC;

-- Who installs this may have default privileges, as a role that makes the
-- tables of an application has them.  They are not meant for this.
DO $$
DECLARE
    given record;
BEGIN
    FOR given IN
        SELECT format('%s %s', CASE c.relkind WHEN 'S' THEN 'SEQUENCE' ELSE 'TABLE' END, c.oid::regclass) AS object, a.grantee
          FROM pg_class AS c
          JOIN pg_depend AS d ON d.classid = 'pg_class'::regclass AND d.objid = c.oid AND d.deptype = 'e'
         CROSS JOIN aclexplode(c.relacl) AS a
         WHERE d.refobjid = (SELECT oid FROM pg_extension WHERE extname = 'event_store') AND c.relkind IN ('r', 'v', 'S')
           AND a.grantee <> c.relowner
        UNION
        SELECT format('FUNCTION %s', p.oid::regprocedure), a.grantee
          FROM pg_proc AS p
          JOIN pg_depend AS d ON d.classid = 'pg_proc'::regclass AND d.objid = p.oid AND d.deptype = 'e'
         CROSS JOIN aclexplode(p.proacl) AS a
         WHERE d.refobjid = (SELECT oid FROM pg_extension WHERE extname = 'event_store')
           AND a.grantee <> p.proowner
        UNION
        SELECT 'SCHEMA event_store', a.grantee
          FROM pg_namespace AS n CROSS JOIN aclexplode(n.nspacl) AS a
         WHERE n.nspname = 'event_store' AND a.grantee <> n.nspowner
    LOOP
        EXECUTE format('REVOKE ALL ON %s FROM %s', given.object,
                       CASE given.grantee WHEN 0 THEN 'PUBLIC' ELSE quote_ident(pg_get_userbyid(given.grantee)) END);
    END LOOP;
END
$$;
