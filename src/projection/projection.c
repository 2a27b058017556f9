/*-------------------------------------------------------------------------
 * projection/projection.c
 *	  Projections: define, stop, run and wait.
 *
 * A projection belongs to the role that made it, and its handler runs as that
 * role.  The role, its members and superusers may change and run it.
 *
 * Locks: functions that change a projection lock its row, and so wait for the
 * slice that a worker is applying, at most event_store.projection_timeout.
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/table.h"
#include "access/xact.h"
#include "catalog/pg_authid.h"
#include "catalog/pg_type.h"
#include "miscadmin.h"
#include "postmaster/bgworker.h"
#include "utils/acl.h"
#include "utils/builtins.h"
#include "utils/fmgrprotos.h"
#include "utils/memutils.h"
#include "utils/rls.h"
#include "utils/snapmgr.h"
#include "utils/syscache.h"
#include "utils/timestamp.h"

#include "base/args.h"
#include "base/compat.h"
#include "base/errors.h"
#include "log/head.h"
#include "log/order.h"
#include "log/replicated.h"
#include "log/sql.h"
#include "projection/projection.h"
#include "settings.h"
#include "wakeup/wakeup.h"
#include "wakeup/worker.h"

PG_FUNCTION_INFO_V1(es_create_projection);
PG_FUNCTION_INFO_V1(es_drop_projection);
PG_FUNCTION_INFO_V1(es_pause_projection);
PG_FUNCTION_INFO_V1(es_resume_projection);
PG_FUNCTION_INFO_V1(es_run_projection);
PG_FUNCTION_INFO_V1(es_wait_projection);
PG_FUNCTION_INFO_V1(es_projection_error_visible);

/* waiters look for themselves so often, should nobody wake them */
#define ES_WAIT_FALLBACK_MS		500

/* this transaction has changed a projection */
static bool es_projection_changed = false;

static EsSql es_insert_query =
ES_SQL("INSERT INTO event_store.projection (name, is_shadow, owner, handler, reset_handler,"
	" categories, event_types, batch_size, policy, max_attempts, state, position, generation)"
	" VALUES ($1, false, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12)"
	" ON CONFLICT (name, is_shadow) DO NOTHING",
		 12, TEXTOID, TEXTOID, TEXTOID, TEXTOID, TEXTARRAYOID, TEXTARRAYOID, INT4OID, TEXTOID, INT4OID, TEXTOID, INT8OID, INT8OID);

static EsSql es_delete_query =
ES_SQL("DELETE FROM event_store.projection p WHERE p.name OPERATOR(pg_catalog.=) $1",
		 1, TEXTOID);

static EsSql es_delete_parked_query =
ES_SQL("DELETE FROM event_store.projection_parked p WHERE p.projection OPERATOR(pg_catalog.=) $1",
		 1, TEXTOID);

static EsSql es_state_query =
ES_SQL("UPDATE event_store.projection p SET state = $2, attempts = 0, next_attempt_at = NULL,"
	" updated_at = pg_catalog.clock_timestamp()"
	" WHERE p.name OPERATOR(pg_catalog.=) $1",
		 2, TEXTOID, TEXTOID);

/*
 * A name argument, zero-terminated.
 */
char *
es_projection_arg_name(FunctionCallInfo fcinfo, int n)
{
	int			len;
	const char *name = es_arg_name(fcinfo, n, "name", &len);

	return pnstrdup(name, len);
}

static void
es_projection_unknown(const char *name)
{
	ereport(ERROR,
			errcode(ERRCODE_UNDEFINED_OBJECT),
			errmsg("projection \"%s\" does not exist", name));
}

/*
 * Lock a projection that the current user may change.
 *
 * Errors: 42704, 42501; 55000 within a handler, which runs under that lock.
 */
EsProjection *
es_projection_get_own(const char *name)
{
	EsProjection *projection;

	if (es_handler_active())
		ereport(ERROR,
				errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				errmsg("a projection's handler cannot change or run projections"));

	/* look first: who may not change it shall not lock it either */
	for (int pass = 0; pass < 2; pass++)
	{
		projection = es_projection_load(name, false,
										pass == 0 ? ES_PROJECTION_READ : ES_PROJECTION_LOCK);
		if (projection == NULL && pass == 0)
			continue;			/* or the snapshot is older than it */
		if (projection == NULL)
			es_projection_unknown(name);
		if (OidIsValid(projection->owner_oid) ?
			!has_privs_of_role(GetUserId(), projection->owner_oid) : !superuser())
			ereport(ERROR,
					errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
					errmsg("must be owner of projection \"%s\"", name));
	}
	return projection;
}

/*
 * The same for whoever is to run it or to change how it runs.
 *
 * Errors: 55000 if it came by replication.
 */
EsProjection *
es_projection_get_here(const char *name)
{
	EsProjection *projection = es_projection_get_own(name);

	if (projection->replicated)
		es_replicated_refuse("projection", name);
	return projection;
}

/*
 * Let workers and waiters look once this transaction has committed.
 */
void
es_projection_wake(void)
{
	es_wakeup_after_commit(0);
	es_projection_changed = true;	/* now nothing is left to fail at commit */
}

static void
es_projection_xact_callback(XactEvent event, void *arg)
{
	switch (event)
	{
		case XACT_EVENT_COMMIT:
			if (es_projection_changed)
				es_wakeup_broadcast();
			es_projection_changed = false;
			break;
		case XACT_EVENT_ABORT:
		case XACT_EVENT_PREPARE:
			es_projection_changed = false;
			break;
		default:
			break;
	}
}

/*
 * Without its own login the owner's worker cannot connect before 17.
 */
static void
es_projection_warn_login(Oid owner)
{
	HeapTuple	tuple = SearchSysCache1(AUTHOID, ObjectIdGetDatum(owner));
	bool		can_login = true;

	if (HeapTupleIsValid(tuple))
	{
		can_login = ((Form_pg_authid) GETSTRUCT(tuple))->rolcanlogin;
		ReleaseSysCache(tuple);
	}
	if (!can_login && ES_BYPASS_ROLE_LOGIN == 0)
		ereport(WARNING,
				errmsg("no worker will run projections of role \"%s\", which is not permitted to log in",
					   GetUserNameFromId(owner, true)),
				errhint("Use es_run_projection, or let a role own the projection that may log in."));
}

/*
 * es_create_projection(name text, handler regprocedure, categories text[],
 *						event_types text[], batch_size int,
 *						after_position bigint, policy text,
 *						reset_handler regprocedure, max_attempts int,
 *						paused boolean, if_not_exists boolean) RETURNS void
 *
 * The handlers may be text, their names, too.
 *
 * Errors: 42710; 22023 for a function that cannot be a handler; VE004.
 */
Datum
es_create_projection(PG_FUNCTION_ARGS)
{
	Oid			owner = GetUserId();
	char	   *name = es_projection_arg_name(fcinfo, 0);
	int32		batch_size = es_arg_int32(fcinfo, 4, "batch_size", 1, 100000);
	int64		after = es_arg_int64(fcinfo, 5, "after_position", 0, PG_INT64_MAX);
	int32		max_attempts = es_arg_int32(fcinfo, 8, "max_attempts", 1, 1000);
	bool		paused = es_arg_bool(fcinfo, 9, "paused");

	/* one argument less in a database whose script is still that of 0.1 */
	bool		if_not_exists = PG_NARGS() > 10 && es_arg_bool(fcinfo, 10, "if_not_exists");
	Datum	   *names;
	char	   *policy;
	Datum		values[12];
	char		nulls[13] = "            ";
	const EsStore *store;
	Relation	event;

	(void) es_arg_categories(fcinfo, 2, "categories", &names);
	(void) es_arg_names(fcinfo, 3, "event_types", &names);
	es_arg_required(fcinfo, 1, "handler");
	es_arg_required(fcinfo, 6, "policy");
	policy = text_to_cstring(PG_GETARG_TEXT_PP(6));
	if (strcmp(policy, "stop") != 0 && strcmp(policy, "park") != 0 && strcmp(policy, "skip") != 0)
		es_arg_error(ERRCODE_INVALID_PARAMETER_VALUE, "policy", 0,
					 "It must be stop, park or skip.");

	event = es_store_open_event(&store, AccessShareLock);
	es_head_check_start(event, store, after);
	table_close(event, NoLock);

	values[0] = CStringGetTextDatum(name);
	values[1] = CStringGetTextDatum(GetUserNameFromId(owner, false));
	values[2] = CStringGetTextDatum(es_handler_check(es_arg_function(fcinfo, 1, "handler"), "handler",
													 owner, true, true));
	if (PG_ARGISNULL(7))
		nulls[3] = 'n';
	else
		values[3] = CStringGetTextDatum(es_handler_check(es_arg_function(fcinfo, 7, "reset_handler"),
														 "reset_handler", owner, false, true));
	for (int i = 0; i < 2; i++)
	{
		nulls[4 + i] = PG_ARGISNULL(2 + i) ? 'n' : ' ';
		values[4 + i] = PG_ARGISNULL(2 + i) ? (Datum) 0 : PG_GETARG_DATUM(2 + i);
	}
	values[6] = Int32GetDatum(batch_size);
	values[7] = CStringGetTextDatum(policy);
	values[8] = Int32GetDatum(max_attempts);
	values[9] = CStringGetTextDatum(paused ? "paused" : "running");
	values[10] = Int64GetDatum(after);
	values[11] = Int64GetDatum((int64) GetCurrentTimestamp());
	if (es_sql_once(&es_insert_query, values, nulls) == 0)
	{
		ereport(if_not_exists ? NOTICE : ERROR,
				errcode(ERRCODE_DUPLICATE_OBJECT),
				errmsg("projection \"%s\" already exists%s", name,
					   if_not_exists ? ", skipping" : ""));
		PG_RETURN_VOID();
	}

	/* of one of that name, if the publisher of a replica went on parking */
	(void) es_sql_once(&es_delete_parked_query, values, NULL);
	es_projection_warn_login(owner);
	es_projection_wake();
	PG_RETURN_VOID();
}

/*
 * es_drop_projection(name text) RETURNS void
 *
 * The read model is the user's and stays.
 */
Datum
es_drop_projection(PG_FUNCTION_ARGS)
{
	EsProjection *projection = es_projection_get_own(es_projection_arg_name(fcinfo, 0));
	Datum		values[1] = {CStringGetTextDatum(projection->name)};

	/* waits for a worker at the new version; what it parks is seen after that */
	(void) es_sql_once(&es_delete_query, values, NULL);
	(void) es_sql_once(&es_delete_parked_query, values, NULL);
	es_projection_wake();
	PG_RETURN_VOID();
}

static void
es_projection_set_state(EsProjection *projection, const char *state)
{
	Datum		values[2] = {CStringGetTextDatum(projection->name), CStringGetTextDatum(state)};

	(void) es_sql_once(&es_state_query, values, NULL);
	es_projection_wake();
}

/*
 * es_pause_projection(name text) RETURNS void
 *
 * Returns when the slice that is being applied has ended.
 */
Datum
es_pause_projection(PG_FUNCTION_ARGS)
{
	es_projection_set_state(es_projection_get_here(es_projection_arg_name(fcinfo, 0)), "paused");
	PG_RETURN_VOID();
}

/*
 * es_resume_projection(name text) RETURNS void
 *
 * Goes on after a pause, or tries again after an error.
 */
Datum
es_resume_projection(PG_FUNCTION_ARGS)
{
	es_projection_set_state(es_projection_get_here(es_projection_arg_name(fcinfo, 0)), "running");
	PG_RETURN_VOID();
}

/*
 * Apply a slice; errors as the session shall see them.
 */
static void
es_projection_apply_here(EsProjection *projection, int64 upto, EsApplied *result)
{
	MemoryContext context = CurrentMemoryContext;

	memset(result, 0, sizeof(EsApplied));
	PG_TRY();
	{
		es_projection_apply(projection, projection->batch_size, upto,
							ES_CHECKPOINT_LATER, result);
	}
	PG_CATCH();
	{
		es_handler_rethrow(projection, result, context);
	}
	PG_END_TRY();
}

/*
 * Apply everything up to a position, in the present transaction.
 *
 * The checkpoint is written once: versions of one row that a transaction makes
 * are removed only after it, and each update would walk over all of them.
 *
 * projection	locked
 * upto			PG_INT64_MAX = to what is settled now
 *
 * Result: number of events applied.
 */
int64
es_projection_catch_up(EsProjection *projection, int64 upto)
{
	EsApplied	result;
	int64		applied = 0;
	int64		start = projection->position;
	int64		end;

	/* otherwise busy appenders could keep us here for ever */
	if (upto == PG_INT64_MAX)
	{
		PushActiveSnapshot(GetTransactionSnapshot());
		upto = Max(es_head_bound_now(), projection->position);
		PopActiveSnapshot();
	}

	do
	{
		CHECK_FOR_INTERRUPTS();
		es_projection_apply_here(projection, upto, &result);
		applied += result.applied;
	} while (result.more && projection->position < upto);

	end = projection->position;
	projection->position = start;
	if (end > start)
		es_projection_checkpoint(projection, end, applied);
	return applied;
}

/*
 * es_run_projection(name text) RETURNS bigint
 *
 * Catches up with what is settled, in the caller's transaction.
 *
 * Result: number of events given to the handler.
 * Errors: VE006 when the handler fails.
 */
Datum
es_run_projection(PG_FUNCTION_ARGS)
{
	EsProjection *projection = es_projection_get_here(es_projection_arg_name(fcinfo, 0));
	int64		applied = es_projection_catch_up(projection, PG_INT64_MAX);

	/* it got past what had stopped it */
	if (strcmp(projection->state, "stopped") == 0)
		es_projection_set_state(projection, "running");
	else
		es_projection_wake();	/* its new version may follow */
	PG_RETURN_INT64(applied);
}

/*
 * May the current user read what the errors of an owner's handlers say?  They
 * may quote events that row-level security, or the lack of any right to read
 * events, hides from him.
 */
static bool
es_projection_error_is_visible(Oid owner)
{
	Oid			event = es_store_get()->event;

	if (OidIsValid(owner) && has_privs_of_role(GetUserId(), owner))
		return true;
	return pg_class_aclcheck(event, GetUserId(), ACL_SELECT) == ACLCHECK_OK &&
		check_enable_rls(event, InvalidOid, true) != RLS_ENABLED;
}

/*
 * es_projection_error_visible(owner text) RETURNS boolean
 *
 * The same for the views, also for the queries of subscriptions that he has
 * made, which name streams and tags.  An owner that does not exist counts as a
 * stranger.
 */
Datum
es_projection_error_visible(PG_FUNCTION_ARGS)
{
	Oid			owner = get_role_oid(text_to_cstring(PG_GETARG_TEXT_PP(0)), true);

	PG_RETURN_BOOL(es_projection_error_is_visible(owner));
}

/*
 * Refuse to wait for a projection that will not move (55000).
 */
static void
es_projection_check_moves(EsProjection *projection)
{
	const char *detail = NULL;

	if (projection->replicated)
		ereport(ERROR,
				errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				errmsg("projection \"%s\" is replicated and does not run here", projection->name),
				errhint("After the end of the replication call es_take_over."));

	/* one that may not log in can be run by a session */
	if (!OidIsValid(projection->owner_oid))
		ereport(ERROR,
				errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				errmsg("role \"%s\", the owner of projection \"%s\", does not exist",
					   projection->owner, projection->name));
	if (strcmp(projection->state, "running") == 0)
		return;
	if (strcmp(projection->state, "stopped") == 0 && projection->error_sqlstate != NULL)
		detail = psprintf("sqlstate=%s%s%s%s", projection->error_sqlstate,
						  projection->error_position == 0 ? "" :
						  psprintf(" position=" INT64_FORMAT, projection->error_position),
						  es_projection_error_is_visible(projection->owner_oid) ? ": " : "",
						  es_projection_error_is_visible(projection->owner_oid) ?
						  projection->error_message : "");
	ereport(ERROR,
			errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
			errmsg("projection \"%s\" is %s at position " INT64_FORMAT,
				   projection->name, projection->state, projection->position),
			detail ? errdetail("%s", detail) : 0,
			strcmp(projection->state, "stopped") == 0 ?
			errhint("Mend the cause and call es_resume_projection.") :
			errhint("Use es_resume_projection."));
}

/*
 * Has a projection reached a position, as of now?
 *
 * It has, too, when nothing that it wants lies between its checkpoint and the
 * position: then the checkpoint need not move for the answer.
 *
 * Errors: 42704; VE004 for a position that the store has never reached; 55000
 * when the projection has not got there and is stopped or paused, or its owner
 * does not exist.
 */
static bool
es_projection_has_reached(const char *name, int64 position)
{
	EsProjection *projection;
	bool		reached;

	PushActiveSnapshot(GetLatestSnapshot());
	projection = es_projection_load(name, false, ES_PROJECTION_READ);
	if (projection == NULL)
		es_projection_unknown(name);
	reached = projection->position >= position;
	if (!reached)
	{
		const EsStore *store;
		Relation	event = es_store_open_event(&store, AccessShareLock);
		int64		bound;
		int64		clear;
		bool		blocked;

		es_head_check_cursor(event, store, position);
		bound = es_head_bound(event, store, GetActiveSnapshot());
		table_close(event, AccessShareLock);
		reached = bound >= position &&
			!es_projection_has_work(projection, projection->position, position,
									&clear, &blocked) && !blocked;
	}
	if (!reached)
		es_projection_check_moves(projection);
	PopActiveSnapshot();
	return reached;
}

/*
 * es_wait_projection(name text, global_position bigint, timeout interval)
 *		RETURNS boolean
 *
 * Sleeps until the projection has applied everything up to the position.
 *
 * Result: false when the time was up.
 * Errors: 42704; VE004; 55000 as soon as it is in vain; 25001 where the
 * transaction's snapshot would hide the result, or its own events hold
 * everybody up.
 */
Datum
es_wait_projection(PG_FUNCTION_ARGS)
{
	char	   *name = es_projection_arg_name(fcinfo, 0);
	int64		position = es_arg_int64(fcinfo, 1, "global_position", 0, PG_INT64_MAX);
	TimestampTz deadline = es_arg_deadline(fcinfo, 2, "timeout");
	MemoryContext context;
	bool		reached;

	if (IsolationUsesXactSnapshot())
		ereport(ERROR,
				errcode(ERRCODE_ACTIVE_SQL_TRANSACTION),
				errmsg("es_wait_projection needs isolation level READ COMMITTED"),
				errdetail("This transaction would not see what it has waited for."));
	if (es_order_has_appended())
		ereport(ERROR,
				errcode(ERRCODE_ACTIVE_SQL_TRANSACTION),
				errmsg("es_wait_projection cannot run in a transaction that has appended"),
				errdetail("Nobody can see the events of this transaction, or go past them, before it ends."),
				errhint("Call it after COMMIT."));

	context = AllocSetContextCreate(CurrentMemoryContext, "event_store wait",
									ALLOCSET_DEFAULT_SIZES);
	for (;;)
	{
		MemoryContext caller;
		long		remaining;

		es_worker_ensure();
		es_wakeup_prepare();
		caller = MemoryContextSwitchTo(context);
		reached = es_projection_has_reached(name, position);
		MemoryContextSwitchTo(caller);
		MemoryContextReset(context);
		remaining = TimestampDifferenceMilliseconds(GetCurrentTimestamp(), deadline);
		if (reached || remaining <= 0)
			break;
		(void) es_wakeup_sleep(Min(remaining, ES_WAIT_FALLBACK_MS));
	}
	es_wakeup_cancel();
	PG_RETURN_BOOL(reached);
}

/*
 * Called once per process, from _PG_init.
 */
void
es_projection_init(void)
{
	RegisterXactCallback(es_projection_xact_callback, NULL);
	es_worker_add_task(es_projection_reconcile);
	es_wakeup_set_follower(es_projection_any_follows);
}
