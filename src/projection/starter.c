/*-------------------------------------------------------------------------
 * projection/starter.c
 *	  Start workers for projections; runs in the database's worker.
 *
 * Each role that owns projections with something to do gets one worker.  It
 * holds an advisory lock of a private class for its life, by which view
 * event_store.projections finds it, too.  When no worker can be had, that is
 * noted as the projections' error and tried again.
 *
 * Roles that have to wait because there are as many workers as settings allow
 * take turns: while one waits, the database's worker holds a lock that tells
 * the workers so, and one that has served long enough ends.  Who has waited
 * longest comes next.
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "access/table.h"
#include "catalog/pg_authid.h"
#include "catalog/pg_type.h"
#include "postmaster/bgworker.h"
#include "storage/lock.h"
#include "utils/builtins.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"
#include "utils/syscache.h"
#include "utils/timestamp.h"

#include "base/compat.h"
#include "settings.h"
#include "log/head.h"
#include "projection/projection.h"
#include "log/sql.h"
#include "wakeup/worker.h"

/* the database's worker looks at projections so often at the most */
#define ES_RECONCILE_MS			50

/* a worker as the database's worker knows it */
typedef struct EsOwnerWorker
{
	Oid			owner;
	BackgroundWorkerHandle *handle; /* NULL = none */
	TimestampTz started_at;
	long		pause_ms;		/* before the next start; grows while they die */
	bool		noted;			/* why it does not run is in the table */
} EsOwnerWorker;

static List *es_owner_workers = NIL;

/* a role waits, and the workers know */
static bool es_turn_asked = false;

static EsSql es_note_query =
ES_SQL("UPDATE event_store.projection p"
		 " SET error_sqlstate = $2, error_message = $3, error_position = NULL,"
		 " error_at = CASE WHEN $2 IS NOT NULL THEN pg_catalog.clock_timestamp() END"
		 " FROM (SELECT q.name, q.is_shadow FROM event_store.projection q"
		 "  WHERE q.owner OPERATOR(pg_catalog.=) $1"
		 "  AND ($2 IS NOT NULL AND q.state OPERATOR(pg_catalog.=) 'running'"
		 "  OR q.error_sqlstate OPERATOR(pg_catalog.=) '53400'"
		 "  OR q.error_sqlstate OPERATOR(pg_catalog.=) '08004')"
		 "  FOR UPDATE SKIP LOCKED) f"
		 " WHERE p.name OPERATOR(pg_catalog.=) f.name"
		 " AND p.is_shadow OPERATOR(pg_catalog.=) f.is_shadow",
		 3, TEXTOID, TEXTOID, TEXTOID);

static EsOwnerWorker *
es_owner_worker(Oid owner)
{
	MemoryContext old_context;
	EsOwnerWorker *worker;
	ListCell   *lc;

	foreach(lc, es_owner_workers)
	{
		worker = lfirst(lc);
		if (worker->owner == owner)
			return worker;
	}
	old_context = MemoryContextSwitchTo(TopMemoryContext);
	worker = palloc0(sizeof(EsOwnerWorker));
	worker->owner = owner;
	es_owner_workers = lappend(es_owner_workers, worker);
	MemoryContextSwitchTo(old_context);
	return worker;
}

/*
 * Let the workers know, or no longer, that a role waits for one of them to end.
 */
static void
es_projection_ask_for_turn(bool ask)
{
	LOCKTAG		tag;

	if (ask == es_turn_asked)
		return;
	es_projection_owner_tag(&tag, InvalidOid);
	if (!ask)
	{
		(void) LockRelease(&tag, ExclusiveLock, true);
		es_turn_asked = false;
	}
	else if (LockAcquire(&tag, ExclusiveLock, true, true) != LOCKACQUIRE_NOT_AVAIL)
		es_turn_asked = true;
}

/*
 * For a worker: does another role wait for its turn?
 */
bool
es_projection_others_wait(void)
{
	LOCKTAG		tag;

	es_projection_owner_tag(&tag, InvalidOid);
	if (LockAcquire(&tag, ShareLock, true, true) == LOCKACQUIRE_NOT_AVAIL)
		return true;
	(void) LockRelease(&tag, ShareLock, true);
	return false;
}

/*
 * Note in the table why a role has no worker; sqlstate NULL = it has one.
 *
 * What has stopped a projection stays: nobody would find it out again.
 */
void
es_projection_note_worker(Oid owner, const char *sqlstate, const char *message)
{
	char	   *name = GetUserNameFromId(owner, true);
	Datum		values[3] = {0};
	char		nulls[] = "   ";

	if (name == NULL)
		return;
	values[0] = CStringGetTextDatum(name);
	if (sqlstate != NULL)
	{
		values[1] = CStringGetTextDatum(sqlstate);
		values[2] = CStringGetTextDatum(message);
	}
	else
		nulls[1] = nulls[2] = 'n';
	(void) es_sql_once(&es_note_query, values, nulls);
}

/*
 * Does a role have a worker that runs or is about to?
 */
static bool
es_owner_worker_lives(EsOwnerWorker *worker)
{
	LOCKTAG		tag;
	pid_t		pid;

	if (worker->handle != NULL)
	{
		if (GetBackgroundWorkerPid(worker->handle, &pid) != BGWH_STOPPED)
			return true;
		pfree(worker->handle);
		worker->handle = NULL;

		/*
		 * One that cannot even start is not started all the time, nor is one
		 * that dies again and again.
		 */
		if (es_worker_time_is_up(worker->started_at, GetCurrentTimestamp(),
								 es_turn_asked ?
								 Min(es_worker_idle_timeout_ms, ES_TURN_MS) :
								 es_worker_idle_timeout_ms))
			worker->pause_ms = 0;
		else
			worker->pause_ms = Min(Max(worker->pause_ms * 2, 200), ES_RETRY_MAX_MS);
		if (worker->pause_ms > 200 && !worker->noted)
			es_projection_note_worker(worker->owner, "08004",
									  "the owner's background worker ends at once, see the server log");
		worker->noted = worker->pause_ms > 200;
	}

	/* started by an earlier worker of this database */
	es_projection_owner_tag(&tag, worker->owner);
	if (LockAcquire(&tag, ExclusiveLock, false, true) == LOCKACQUIRE_NOT_AVAIL)
		return true;
	(void) LockRelease(&tag, ExclusiveLock, false);
	return false;
}

static void
es_owner_worker_start(EsOwnerWorker *owner)
{
	BackgroundWorker worker;
	EsProjectionWorkerArgs args = {MyDatabaseId, owner->owner};
	MemoryContext old_context;
	bool		registered;

	memset(&worker, 0, sizeof(worker));
	worker.bgw_flags = BGWORKER_SHMEM_ACCESS | BGWORKER_BACKEND_DATABASE_CONNECTION;
	worker.bgw_start_time = BgWorkerStart_RecoveryFinished;
	worker.bgw_restart_time = BGW_NEVER_RESTART;	/* we do that */
	worker.bgw_notify_pid = MyProcPid;
	memcpy(worker.bgw_extra, &args, sizeof(args));
	strlcpy(worker.bgw_library_name, "event_store", BGW_MAXLEN);
	strlcpy(worker.bgw_function_name, "es_projection_worker_main", BGW_MAXLEN);
	snprintf(worker.bgw_name, BGW_MAXLEN, "event_store projections of role %u in database %u",
			 owner->owner, MyDatabaseId);
	strlcpy(worker.bgw_type, "event_store projections", BGW_MAXLEN);

	old_context = MemoryContextSwitchTo(TopMemoryContext);
	registered = RegisterDynamicBackgroundWorker(&worker, &owner->handle);
	MemoryContextSwitchTo(old_context);
	if (!registered)
		owner->handle = NULL;
	if (!registered && !owner->noted)
	{
		es_projection_note_worker(owner->owner, "53400",
								  "no free background worker (max_worker_processes)");
		ereport(WARNING,
				errmsg("could not start a background worker for the projections of role \"%s\"",
					   GetUserNameFromId(owner->owner, false)),
				errhint("Raise \"max_worker_processes\"."));
	}
	owner->noted = owner->noted || !registered;
	if (registered)
		owner->started_at = GetCurrentTimestamp();
}

static int
es_owner_worker_compare(const ListCell *a, const ListCell *b)
{
	TimestampTz left = ((EsOwnerWorker *) lfirst(a))->started_at;
	TimestampTz right = ((EsOwnerWorker *) lfirst(b))->started_at;

	return (left > right) - (left < right);
}

static bool
es_owner_may_connect(Oid owner)
{
	HeapTuple	tuple = SearchSysCache1(AUTHOID, ObjectIdGetDatum(owner));
	bool		result = false;

	if (HeapTupleIsValid(tuple))
	{
		result = ((Form_pg_authid) GETSTRUCT(tuple))->rolcanlogin || ES_BYPASS_ROLE_LOGIN != 0;
		ReleaseSysCache(tuple);
	}
	return result;
}

/*
 * Start a worker for each role whose projections have something to do.
 *
 * Called by the database's worker, in a transaction with a snapshot, whenever
 * it was woken and once in a while.
 *
 * Result: true when something is waiting for a worker, or may be.
 */
bool
es_projection_reconcile(void)
{
	static TimestampTz looked_at = 0;
	static bool waiting = false;
	TimestampTz now = GetCurrentTimestamp();
	const EsStore *store;
	Relation	event;
	List	   *projections;
	List	   *turns = NIL;
	ListCell   *lc;
	int64		bound;
	int			alive = 0;
	bool		crowded = false;

	if (!es_worker_time_is_up(looked_at, now, ES_RECONCILE_MS))
		return true;
	looked_at = now;
	waiting = false;

	projections = es_projection_list(InvalidOid);
	foreach(lc, projections)
	{
		EsProjection *projection = lfirst(lc);

		if (es_owner_may_connect(projection->owner_oid))
			(void) es_owner_worker(projection->owner_oid);
	}
	foreach(lc, es_owner_workers)
	{
		if (es_owner_worker_lives(lfirst(lc)))
			alive++;
	}
	if (projections == NIL)
	{
		es_projection_ask_for_turn(false);
		return false;
	}

	event = es_store_open_event(&store, AccessShareLock);
	bound = es_head_bound(event, store, GetActiveSnapshot());
	table_close(event, AccessShareLock);

	foreach(lc, projections)
	{
		EsProjection *projection = lfirst(lc);
		EsSeen	   *seen = es_seen_get(projection);
		EsOwnerWorker *owner;
		bool		blocked;

		if (!es_owner_may_connect(projection->owner_oid))
			continue;
		owner = es_owner_worker(projection->owner_oid);
		if (es_owner_worker_lives(owner))
			continue;
		if (!es_seen_has_work(seen, projection, bound, &blocked))
			continue;
		waiting = true;
		if (projection->next_attempt_at <= now &&
			es_worker_time_is_up(owner->started_at, now, owner->pause_ms))
			turns = list_append_unique_ptr(turns, owner);
	}

	es_seen_forget();

	list_sort(turns, es_owner_worker_compare);
	foreach(lc, turns)
	{
		EsOwnerWorker *owner = lfirst(lc);

		if (alive < es_max_projection_workers)
		{
			es_owner_worker_start(owner);
			if (owner->handle != NULL)
			{
				alive++;
				continue;
			}
		}
		crowded = true;
	}
	es_projection_ask_for_turn(crowded);
	return waiting;
}
