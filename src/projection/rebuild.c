/*-------------------------------------------------------------------------
 * projection/rebuild.c
 *	  Projections: start over, replace by a new version, see to parked events.
 *
 * A new version of a projection is a second row of the same name, the shadow:
 * it has a handler and a read model of its own and catches up beside the
 * original, which goes on serving.  es_switch_projection makes the shadow the
 * projection in one short transaction, under the locks of both rows.
 *
 * The shadow never passes the original's checkpoint.  So whatever it applies
 * has been applied by the original: it only replays, no side effect is done
 * twice, and none is left out, because what comes after the switch comes to
 * the new handler for the first time.
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/table.h"
#include "catalog/pg_type.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/timestamp.h"

#include "base/args.h"
#include "base/compat.h"
#include "log/scan.h"
#include "log/sql.h"
#include "projection/projection.h"

PG_FUNCTION_INFO_V1(es_rebuild_projection);
PG_FUNCTION_INFO_V1(es_prepare_projection);
PG_FUNCTION_INFO_V1(es_switch_projection);
PG_FUNCTION_INFO_V1(es_cancel_rebuild);
PG_FUNCTION_INFO_V1(es_retry_projection_parked);
PG_FUNCTION_INFO_V1(es_discard_projection_parked);

static EsSql es_rebuild_query =
ES_SQL("UPDATE event_store.projection p"
		 " SET position = 0, replay_until = $2, generation = $3, state = 'running',"
		 " attempts = 0, next_attempt_at = NULL, applied = 0, rate = 0, rate_applied = 0,"
		 " rate_since = pg_catalog.clock_timestamp(), started_at = pg_catalog.clock_timestamp(),"
		 " updated_at = pg_catalog.clock_timestamp()"
		 " WHERE p.name OPERATOR(pg_catalog.=) $1 AND NOT p.is_shadow",
		 3, TEXTOID, INT8OID, INT8OID);

static EsSql es_prepare_query =
ES_SQL("INSERT INTO event_store.projection (name, is_shadow, owner, handler, reset_handler,"
		 " categories, event_types, batch_size, policy, max_attempts, state, position, generation)"
		 " SELECT p.name, true, p.owner, $2, COALESCE($3, p.reset_handler),"
		 " CASE WHEN $6 THEN p.categories ELSE $4 END, CASE WHEN $6 THEN p.event_types ELSE $5 END,"
		 " p.batch_size, p.policy, p.max_attempts, 'running', 0, $7"
		 " FROM event_store.projection p"
		 " WHERE p.name OPERATOR(pg_catalog.=) $1 AND NOT p.is_shadow"
		 " ON CONFLICT (name, is_shadow) DO NOTHING",
		 7, TEXTOID, TEXTOID, TEXTOID, TEXTARRAYOID, TEXTARRAYOID, BOOLOID, INT8OID);

/* so that a snapshot older than the new version fails at the original's lock */
static EsSql es_touch_query =
ES_SQL("UPDATE event_store.projection p SET updated_at = pg_catalog.clock_timestamp()"
		 " WHERE p.name OPERATOR(pg_catalog.=) $1 AND NOT p.is_shadow",
		 1, TEXTOID);

static EsSql es_switch_query =
ES_SQL("UPDATE event_store.projection p"
		 " SET handler = s.handler, reset_handler = s.reset_handler,"
		 " categories = s.categories, event_types = s.event_types,"
		 " position = s.position, generation = $2, replay_until = $3, applied = s.applied,"
		 " attempts = 0, next_attempt_at = NULL, started_at = s.started_at,"
		 " state = CASE WHEN p.state OPERATOR(pg_catalog.=) 'stopped' THEN 'running' ELSE p.state END,"
		 " updated_at = pg_catalog.clock_timestamp()"
		 " FROM event_store.projection s"
		 " WHERE p.name OPERATOR(pg_catalog.=) $1 AND NOT p.is_shadow"
		 " AND s.name OPERATOR(pg_catalog.=) $1 AND s.is_shadow",
		 3, TEXTOID, INT8OID, INT8OID);

static EsSql es_drop_shadow_query =
ES_SQL("DELETE FROM event_store.projection p"
		 " WHERE p.name OPERATOR(pg_catalog.=) $1 AND p.is_shadow",
		 1, TEXTOID);

static EsSql es_drop_parked_query =
ES_SQL("DELETE FROM event_store.projection_parked p"
		 " WHERE p.projection OPERATOR(pg_catalog.=) $1 AND p.is_shadow OPERATOR(pg_catalog.=) $2",
		 2, TEXTOID, BOOLOID);

static EsSql es_take_parked_query =
ES_SQL("UPDATE event_store.projection_parked p SET is_shadow = false"
		 " WHERE p.projection OPERATOR(pg_catalog.=) $1 AND p.is_shadow",
		 1, TEXTOID);

static EsSql es_delete_parked_query =
ES_SQL("DELETE FROM event_store.projection_parked p"
		 " WHERE p.projection OPERATOR(pg_catalog.=) $1 AND NOT p.is_shadow"
		 " AND ($2 IS NULL OR p.stream_id OPERATOR(pg_catalog.=) $2)"
		 " AND ($3 OR p.disposition OPERATOR(pg_catalog.<>) 'skipped')",
		 3, TEXTOID, TEXTOID, BOOLOID);

static void
es_drop_parked(const char *name, bool is_shadow)
{
	Datum		values[2] = {CStringGetTextDatum(name), BoolGetDatum(is_shadow)};

	(void) es_sql_once(&es_drop_parked_query, values, NULL);
}

static EsProjection *
es_lock_shadow(const char *name)
{
	EsProjection *shadow = es_projection_load(name, true, ES_PROJECTION_LOCK);

	if (shadow == NULL)
		ereport(ERROR,
				errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				errmsg("projection \"%s\" has no new version in preparation", name),
				errhint("Begin with es_prepare_projection."));
	return shadow;
}

/*
 * es_rebuild_projection(name text, without_reset boolean) RETURNS void
 *
 * Calls the reset handler and starts over from position 0.
 *
 * without_reset	do not call it: the handler can start over on what is there.
 *					0.1 had no such argument and took a missing handler for that
 *
 * Errors: 55000 without a reset handler, unless without_reset; VE006.
 */
Datum
es_rebuild_projection(PG_FUNCTION_ARGS)
{
	EsProjection *projection = es_projection_get_here(es_projection_arg_name(fcinfo, 0));
	Datum		values[3];
	bool		without_reset = PG_NARGS() < 2 ? projection->reset_handler == NULL :
		es_arg_bool(fcinfo, 1, "without_reset");
	int64		replay_until = Max(projection->replay_until, projection->position);
	const EsStore *store;
	Relation	event;

	if (projection->reset_handler == NULL && !without_reset)
		ereport(ERROR,
				errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				errmsg("projection \"%s\" has no reset handler", projection->name),
				errdetail("Its read model would get everything that it has applied a second time."),
				errhint("If the handler can start over on what is there, say without_reset => true; otherwise make it anew with a reset handler, or prepare a new version with es_prepare_projection."));

	event = es_store_open_event(&store, AccessShareLock);

	/* ahead of a restored store, what is still to come would be new */
	replay_until = Min(replay_until, es_scan_highest_inserted(event, store));
	table_close(event, NoLock);

	if (!without_reset)
		es_handler_call_plain(projection, projection->reset_handler);
	es_drop_parked(projection->name, false);
	values[0] = CStringGetTextDatum(projection->name);
	values[1] = Int64GetDatum(replay_until);
	values[2] = Int64GetDatum((int64) GetCurrentTimestamp());
	(void) es_sql_once(&es_rebuild_query, values, NULL);
	es_projection_wake();
	PG_RETURN_VOID();
}

/*
 * es_prepare_projection(name text, handler regprocedure,
 *						 reset_handler regprocedure, categories text[],
 *						 event_types text[], keep_filters boolean,
 *						 if_not_exists boolean) RETURNS void
 *
 * Begins a new version of a projection.  Without filters of its own it gets
 * those of the original, or with keep_filters = false none; without a reset
 * handler that of the original, which is not called now, as it would empty the
 * read model that is in use.  The handlers may be text, their names, too.
 *
 * Errors: 42710 when one is in preparation already.
 */
Datum
es_prepare_projection(PG_FUNCTION_ARGS)
{
	EsProjection *projection = es_projection_get_here(es_projection_arg_name(fcinfo, 0));
	bool		keep = es_arg_bool(fcinfo, 5, "keep_filters");

	/* one argument less in a database whose script is still that of 0.1 */
	bool		if_not_exists = PG_NARGS() > 6 && es_arg_bool(fcinfo, 6, "if_not_exists");
	Datum	   *names;
	Datum		values[7];
	char		nulls[8] = "       ";
	char	   *reset_handler = NULL;

	(void) es_arg_categories(fcinfo, 3, "categories", &names);
	(void) es_arg_names(fcinfo, 4, "event_types", &names);
	es_arg_required(fcinfo, 1, "handler");

	values[0] = CStringGetTextDatum(projection->name);
	values[1] = CStringGetTextDatum(es_handler_check(es_arg_function(fcinfo, 1, "handler"), "handler",
													 projection->owner_oid, true, true));
	if (PG_ARGISNULL(2))
		nulls[2] = 'n';
	else
	{
		reset_handler = es_handler_check(es_arg_function(fcinfo, 2, "reset_handler"),
										 "reset_handler", projection->owner_oid, false, true);
		values[2] = CStringGetTextDatum(reset_handler);
	}
	for (int i = 0; i < 2; i++)
	{
		nulls[3 + i] = PG_ARGISNULL(3 + i) ? 'n' : ' ';
		values[3 + i] = PG_ARGISNULL(3 + i) ? (Datum) 0 : PG_GETARG_DATUM(3 + i);
	}
	values[5] = BoolGetDatum(keep && PG_ARGISNULL(3) && PG_ARGISNULL(4));
	values[6] = Int64GetDatum((int64) GetCurrentTimestamp());
	if (es_sql_once(&es_prepare_query, values, nulls) == 0)
	{
		/* its read model is being filled: not to be reset */
		ereport(if_not_exists ? NOTICE : ERROR,
				errcode(ERRCODE_DUPLICATE_OBJECT),
				errmsg("a new version of projection \"%s\" is in preparation already%s",
					   projection->name, if_not_exists ? ", skipping" : ""),
				if_not_exists ? 0 : errhint("Use es_switch_projection or es_cancel_rebuild."));
		PG_RETURN_VOID();
	}
	(void) es_sql_once(&es_touch_query, values, NULL);
	es_drop_parked(projection->name, true); /* see es_create_projection */
	if (reset_handler != NULL)
		es_handler_call_plain(projection, reset_handler);
	es_projection_wake();
	PG_RETURN_VOID();
}

/*
 * es_switch_projection(name text, switch_handler regprocedure,
 *						max_lag bigint) RETURNS bigint
 *
 * Lets the new version catch up with the original, calls the switch handler,
 * f(), which may be text, its name, too, and makes the new version the
 * projection.
 *
 * max_lag		refuse when the new version is further behind, in positions
 *
 * Result: number of events that were still missing.
 * Errors: 55000 when it is too far behind.
 */
Datum
es_switch_projection(PG_FUNCTION_ARGS)
{
	EsProjection *projection = es_projection_get_here(es_projection_arg_name(fcinfo, 0));
	EsProjection *shadow = es_lock_shadow(projection->name);
	int64		max_lag = es_arg_int64(fcinfo, 2, "max_lag", 0, PG_INT64_MAX);
	char	   *switch_handler = NULL;
	Datum		values[3];
	int64		applied = 0;

	if (!PG_ARGISNULL(1))
		switch_handler = es_handler_check(es_arg_function(fcinfo, 1, "switch_handler"),
										  "switch_handler", projection->owner_oid, false, false);

	/* the row of the original is locked, so this is where it stays */
	shadow->limit_position = projection->position;
	if (projection->position - shadow->position > max_lag)
		ereport(ERROR,
				errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				errmsg("the new version of projection \"%s\" is " INT64_FORMAT " positions behind",
					   projection->name, projection->position - shadow->position),
				errhint("Wait until view event_store.projection_progress shows that it has caught up, or pass a larger max_lag."));
	if (shadow->position < projection->position)
		applied = es_projection_catch_up(shadow, projection->position);
	if (shadow->position < projection->position)
		ereport(ERROR,
				errcode(ERRCODE_OBJECT_IN_USE),
				errmsg("the new version of projection \"%s\" cannot catch up yet",
					   projection->name),
				errdetail("An unsettled event holds it at position " INT64_FORMAT ".",
						  shadow->position));
	if (switch_handler != NULL)
		es_handler_call_plain(projection, switch_handler);

	/* nothing was renamed, so it empties the old read model in all likelihood */
	else if (projection->reset_handler != NULL && shadow->reset_handler != NULL &&
			 strcmp(projection->reset_handler, shadow->reset_handler) == 0)
		ereport(NOTICE,
				errmsg("projection \"%s\" keeps the reset handler %s",
					   projection->name, projection->reset_handler),
				errhint("Make sure that it empties the read model of %s.", shadow->handler));

	es_drop_parked(projection->name, false);
	values[0] = CStringGetTextDatum(projection->name);
	values[1] = Int64GetDatum((int64) GetCurrentTimestamp());
	values[2] = Int64GetDatum(Max(projection->replay_until, projection->position));
	(void) es_sql_once(&es_switch_query, values, NULL);
	(void) es_sql_once(&es_drop_shadow_query, values, NULL);
	(void) es_sql_once(&es_take_parked_query, values, NULL);
	es_projection_wake();
	PG_RETURN_INT64(applied);
}

/*
 * es_cancel_rebuild(name text) RETURNS void
 *
 * Forgets the new version.  Its read model is the user's and stays.
 */
Datum
es_cancel_rebuild(PG_FUNCTION_ARGS)
{
	EsProjection *projection = es_projection_get_here(es_projection_arg_name(fcinfo, 0));
	Datum		values[1] = {CStringGetTextDatum(projection->name)};

	(void) es_lock_shadow(projection->name);
	es_drop_parked(projection->name, true);
	(void) es_sql_once(&es_drop_shadow_query, values, NULL);
	PG_RETURN_VOID();
}

/*
 * Forget parked events.
 */
static int64
es_forget_parked(EsProjection *projection, const char *stream, bool skipped_too)
{
	Datum		values[3] = {CStringGetTextDatum(projection->name),
		stream ? CStringGetTextDatum(stream) : (Datum) 0,
	BoolGetDatum(skipped_too)};

	return (int64) es_sql_once(&es_delete_parked_query, values, stream ? NULL : " n ");
}

/*
 * A stream, or for events of no stream what stands for it in the table, see
 * es_event_order_key; NULL = all.
 */
static char *
es_arg_stream(FunctionCallInfo fcinfo, int n)
{
	int			len;
	const char *stream;
	text	   *key;

	if (PG_ARGISNULL(n))
		return NULL;
	key = PG_GETARG_TEXT_PP(n);
	if (VARSIZE_ANY_EXHDR(key) > 0 && *VARDATA_ANY(key) == '\t')
		return text_to_cstring(key);
	stream = es_arg_name(fcinfo, n, "stream_id", &len);
	return pnstrdup(stream, len);
}

/*
 * Retry; errors as the session shall see them.
 */
static int64
es_retry_here(EsProjection *projection, const char *stream)
{
	MemoryContext context = CurrentMemoryContext;
	EsApplied	result;

	memset(&result, 0, sizeof(result));
	PG_TRY();
	{
		(void) es_projection_retry(projection, stream, &result);
	}
	PG_CATCH();
	{
		es_handler_rethrow(projection, &result, context);
	}
	PG_END_TRY();
	return result.applied;
}

/*
 * es_retry_projection_parked(name text, stream_id text) RETURNS bigint
 *
 * Gives the parked events, of one stream or of all, to the handler again, in
 * order; the streams go on from there.
 *
 * Result: number of events applied.
 * Errors: VE006 when the handler fails again; everything stays parked then.
 */
Datum
es_retry_projection_parked(PG_FUNCTION_ARGS)
{
	EsProjection *projection = es_projection_get_here(es_projection_arg_name(fcinfo, 0));
	char	   *stream = es_arg_stream(fcinfo, 1);
	int64		applied = es_retry_here(projection, stream);

	(void) es_forget_parked(projection, stream, false);
	es_projection_wake();
	PG_RETURN_INT64(applied);
}

/*
 * es_discard_projection_parked(name text, stream_id text) RETURNS bigint
 *
 * Gives up the parked and skipped events, of one stream or of all, so that
 * the streams go on after them.
 *
 * Result: number of events given up.
 */
Datum
es_discard_projection_parked(PG_FUNCTION_ARGS)
{
	EsProjection *projection = es_projection_get_here(es_projection_arg_name(fcinfo, 0));
	int64		count = es_forget_parked(projection, es_arg_stream(fcinfo, 1), true);

	es_projection_wake();
	PG_RETURN_INT64(count);
}
