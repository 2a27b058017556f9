--
-- Permissions
--

-- Which functions a kind of role may call.  A writer can also read what it
-- needs to decide, but only through functions.
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
        ('writer', '%1$s.es_snapshot(text, bigint, jsonb, int)'),
        ('both', '%1$s.es_any()'),
        ('both', '%1$s.es_exists()'),
        ('both', '%1$s.es_read_stream(text, bigint, bigint, boolean)'),
        ('both', '%1$s.es_stream_version(text)'),
        ('both', '%1$s.es_head()'),
        ('both', '%1$s.es_wait(bigint, interval)'),
        ('both', 'event_store.es_head_status()'),
        ('both', '%1$s.es_read_event(uuid)'),
        ('both', '%1$s.es_read_query(jsonb, bigint, bigint, boolean)'),
        ('both', '%1$s.es_tags(%1$s.es_event)'),
        ('both', '%1$s.es_envelope(%1$s.es_event)'),
        ('both', '%1$s.es_read_snapshot(text, int)'),
        ('both', '%1$s.es_load(text, int)'),
        ('both', '%1$s.es_state(text, bigint, timestamptz)'),
        ('reader', 'event_store.es_upcast_type(text, int)'),
        ('reader', 'event_store.es_upcast_schema_version(text, int)'),
        ('reader', 'event_store.es_upcast_data(text, int, jsonb, uuid, text, bigint)'),
        ('admin', '%1$s.es_define_upcaster(text, int, regprocedure, text, int)'),
        ('admin', '%1$s.es_drop_upcaster(text, int)'),
        ('admin', '%1$s.es_check_upcasters(text, bigint)'),
        ('admin', '%1$s.es_preview_upcasters(text, bigint)'),
        ('admin', '%1$s.es_define_aggregate(text, regprocedure, jsonb, int, int)'),
        ('admin', '%1$s.es_drop_aggregate(text)'),
        ('admin', '%1$s.es_drop_snapshots(text)'),
        ('reader', '%1$s.es_read_all(bigint, bigint, text[], text[], boolean)'),
        ('reader', '%1$s.es_read_category(text, bigint, bigint, boolean)'),
        ('admin', '%1$s.es_create_projection(text, regprocedure, text[], text[], int, bigint, text, regprocedure, int, boolean)'),
        ('admin', '%1$s.es_drop_projection(text)'),
        ('admin', '%1$s.es_pause_projection(text)'),
        ('admin', '%1$s.es_resume_projection(text)'),
        ('admin', '%1$s.es_run_projection(text)'),
        ('admin', '%1$s.es_take_over()'),
        ('both', '%1$s.es_wait_projection(text, bigint, interval)'),
        ('both', '%1$s.es_is_replaying()'),
        ('admin', '%1$s.es_rebuild_projection(text)'),
        ('admin', '%1$s.es_prepare_projection(text, regprocedure, regprocedure, text[], text[], boolean)'),
        ('admin', '%1$s.es_switch_projection(text, regprocedure, bigint)'),
        ('admin', '%1$s.es_cancel_rebuild(text)'),
        ('admin', '%1$s.es_retry_projection_parked(text, text)'),
        ('admin', '%1$s.es_discard_projection_parked(text, text)'),
        ('reader', '%1$s.es_fetch(text, int, interval, text)'),
        ('reader', '%1$s.es_ack(text, bigint, text)'),
        ('reader', '%1$s.es_nack(text, bigint, text, boolean, text)'),
        ('reader', '%1$s.es_join(text, text, interval)'),
        ('reader', '%1$s.es_leave(text, text)'),
        ('reader', 'event_store.es_subscription_lag(text, bigint)'),
        ('admin', '%1$s.es_create_subscription(text, text[], text[], bigint, int, interval, int, interval)'),
        ('admin', '%1$s.es_drop_subscription(text)'),
        ('admin', '%1$s.es_reset_subscription(text, bigint)'),
        ('admin', '%1$s.es_retry_parked(text, text)'),
        ('admin', '%1$s.es_discard_parked(text, bigint)'),
        ('admin', '%1$s.es_discard_parked_stream(text, text)'),
        ('admin', 'event_store.es_projection_backlog(bigint, bigint, text[], text[])')
      ) AS f (kind, name)
     WHERE es_role_functions.kind = 'admin'
        OR f.kind = 'both'
        OR f.kind = es_role_functions.kind
    $$;
COMMENT ON FUNCTION event_store.es_role_functions(text) IS 'the functions that es_grant grants to a reader, writer or admin';
REVOKE ALL ON FUNCTION event_store.es_role_functions(text) FROM PUBLIC;

CREATE FUNCTION event_store.es_change_grants(role text, kind text, is_grant boolean) RETURNS void
    LANGUAGE plpgsql
    SET search_path = pg_catalog, pg_temp
    AS $$
DECLARE
    grantee text;
    action text := CASE WHEN is_grant THEN 'GRANT %s TO %s' ELSE 'REVOKE %s FROM %s' END;
    tables text := 'event_store.event, event_store.stream, event_store.event_type, event_store.mark, event_store.events, event_store.status, event_store.subscriptions, event_store.subscription_members, event_store.parked_events';
    function_name regprocedure;
BEGIN
    IF role IS NULL OR kind IS NULL THEN
        RAISE null_value_not_allowed USING MESSAGE = 'role and kind must not be null';
    END IF;
    IF kind NOT IN ('reader', 'writer', 'admin') THEN
        RAISE invalid_parameter_value USING
            MESSAGE = format('invalid kind "%s"', kind),
            DETAIL = 'It must be reader, writer or admin.';
    END IF;
    SELECT quote_ident(rolname) INTO grantee FROM pg_roles WHERE rolname = role;
    IF NOT FOUND THEN
        RAISE undefined_object USING MESSAGE = format('role "%s" does not exist', role);
    END IF;

    -- what readers and writers share stays while the role is the other one
    FOR function_name IN
        SELECT f FROM event_store.es_role_functions(kind) AS f
         WHERE is_grant
            OR kind = 'admin'
            OR f NOT IN (SELECT event_store.es_role_functions('reader') INTERSECT
                         SELECT event_store.es_role_functions('writer'))
            OR NOT (SELECT bool_and(has_function_privilege(role, o, 'EXECUTE'))
                      FROM event_store.es_role_functions(CASE kind WHEN 'reader' THEN 'writer' ELSE 'reader' END) AS o)
    LOOP
        EXECUTE format(action, format('EXECUTE ON FUNCTION %s', function_name), grantee);
    END LOOP;
    IF kind IN ('reader', 'admin') THEN
        EXECUTE format(action, 'USAGE ON SCHEMA event_store', grantee);
        EXECUTE format(action, 'SELECT ON ' || tables, grantee);
    END IF;
    IF kind = 'admin' THEN
        EXECUTE format(action, 'SELECT ON event_store.snapshot, event_store.upcaster, event_store.aggregate', grantee);
        EXECUTE format(action, 'SELECT ON event_store.projections, event_store.projection_progress, event_store.projection_parked', grantee);
    END IF;
END
$$;
COMMENT ON FUNCTION event_store.es_change_grants(text, text, boolean) IS 'does the work of es_grant and es_revoke';
REVOKE ALL ON FUNCTION event_store.es_change_grants(text, text, boolean) FROM PUBLIC;

CREATE FUNCTION @extschema@.es_grant(role text, kind text) RETURNS void
    LANGUAGE sql
    SET search_path = pg_catalog, pg_temp
    AS 'SELECT event_store.es_change_grants($1, $2, true)';
COMMENT ON FUNCTION @extschema@.es_grant(text, text) IS
    'gives a role what a reader, writer or admin of the store needs; for the owner of the extension';
REVOKE ALL ON FUNCTION @extschema@.es_grant(text, text) FROM PUBLIC;

CREATE FUNCTION @extschema@.es_revoke(role text, kind text) RETURNS void
    LANGUAGE sql
    SET search_path = pg_catalog, pg_temp
    AS 'SELECT event_store.es_change_grants($1, $2, false)';
COMMENT ON FUNCTION @extschema@.es_revoke(text, text) IS 'takes back what es_grant gave';
REVOKE ALL ON FUNCTION @extschema@.es_revoke(text, text) FROM PUBLIC;
