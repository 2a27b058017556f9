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
#include "log/head.h"
#include "log/sql.h"
#include "projection/projection.h"
#include "settings.h"
#include "wakeup/slots.h"
#include "wakeup/start.h"

/* the database's worker looks at projections so often at the most */
#define ES_RECONCILE_MS			50

/* pause before a role's second worker after one that died young */
#define ES_OWNER_PAUSE_MS		200

/* the worker of a role, as the database's worker knows it */
typedef struct EsOwnerWorker
{
	EsStarted	started;		/* key: the role */
	bool		noted;			/* why it does not run is in the table */
} EsOwnerWorker;

static List *es_owner_workers = NIL;

/* a role waits, and the workers know */
static bool es_turn_asked = false;

/* handlers may raise the codes of a note, too, but then an event is to blame */
static EsSql es_note_query =
ES_SQL("UPDATE event_store.projection p"
		 " SET error_sqlstate = $2, error_message = $3, error_position = NULL,"
		 " error_at = CASE WHEN $2 IS NOT NULL THEN pg_catalog.clock_timestamp() END"
		 " FROM (SELECT q.name, q.is_shadow FROM event_store.projection q"
		 "  WHERE q.owner OPERATOR(pg_catalog.=) $1"
		 "  AND q.state OPERATOR(pg_catalog.=) 'running'"
		 "  AND ($2 IS NOT NULL OR q.error_position IS NULL"
		 "   AND (q.error_sqlstate OPERATOR(pg_catalog.=) '53400'"
		 "    OR q.error_sqlstate OPERATOR(pg_catalog.=) '08004'))"
		 "  FOR UPDATE SKIP LOCKED) f"
		 " WHERE p.name OPERATOR(pg_catalog.=) f.name"
		 " AND p.is_shadow OPERATOR(pg_catalog.=) f.is_shadow",
		 3, TEXTOID, TEXTOID, TEXTOID);

static EsOwnerWorker *
es_owner_worker(Oid owner)
{
	return es_started_get(&es_owner_workers, owner, sizeof(EsOwnerWorker));
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
	EsStarted  *started = &worker->started;
	LOCKTAG		tag;

	if (started->handle != NULL)
	{
		/*
		 * One that cannot even start is not started all the time, nor is one
		 * that dies again and again.
		 */
		if (es_started_lives(started,
							 es_slot_gave_way_since(MyDatabaseId, started->started_at) ? 0 :
							 es_turn_asked ? Min(es_worker_idle_timeout_ms, ES_TURN_MS) :
							 es_worker_idle_timeout_ms,
							 ES_OWNER_PAUSE_MS))
			return true;
		if (started->pause_ms > ES_OWNER_PAUSE_MS && !worker->noted)
			es_projection_note_worker(started->key, "08004",
									  "the owner's background worker ends at once, see the server log");
		worker->noted = started->pause_ms > ES_OWNER_PAUSE_MS;
	}

	/* started by an earlier worker of this database */
	es_projection_owner_tag(&tag, started->key);
	if (LockAcquire(&tag, ExclusiveLock, false, true) == LOCKACQUIRE_NOT_AVAIL)
		return true;
	(void) LockRelease(&tag, ExclusiveLock, false);
	return false;
}

static void
es_owner_worker_start(EsOwnerWorker *owner)
{
	Oid			role = owner->started.key;
	BackgroundWorker worker;
	EsProjectionWorkerArgs args = {MyDatabaseId, role};
	char		name[BGW_MAXLEN];

	snprintf(name, sizeof(name), "event_store projections of role %u in database %u",
			 role, MyDatabaseId);
	es_start_describe(&worker, "es_projection_worker_main", "event_store projections", name);
	memcpy(worker.bgw_extra, &args, sizeof(args));
	if (!es_slot_is_free_for(MyDatabaseId) ||
		!es_started_register(&owner->started, &worker))
		es_slot_wait();			/* the views say so */
}

static int
es_owner_worker_compare(const ListCell *a, const ListCell *b)
{
	TimestampTz left = ((EsStarted *) lfirst(a))->started_at;
	TimestampTz right = ((EsStarted *) lfirst(b))->started_at;

	return (left > right) - (left < right);
}

/*
 * Is it time for the next attempt?  Also when the clock was set back: no pause
 * is longer than that.
 */
bool
es_projection_is_due(EsProjection *projection, TimestampTz now)
{
	return projection->next_attempt_at <= now ||
		projection->next_attempt_at - now > ES_START_MAX_PAUSE_MS * INT64CONST(1000);
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
es_projection_reconcile(bool *follows)
{
	static TimestampTz looked_at = 0;
	static bool waiting = false;
	static bool any = true;
	TimestampTz now = GetCurrentTimestamp();
	List	   *projections;
	List	   *turns = NIL;
	ListCell   *lc;
	int64		bound;
	int			alive = 0;
	bool		crowded = false;
	bool		no_slot = false;

	if (!es_time_is_up(looked_at, now, ES_RECONCILE_MS))
	{
		*follows = any;
		return true;
	}
	looked_at = now;
	waiting = false;

	projections = es_projection_list(InvalidOid);
	*follows = any = projections != NIL;
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
		es_slot_served();
		return false;
	}

	bound = es_head_bound_now();

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
		if (es_projection_is_due(projection, now) &&
			es_started_is_due(&owner->started, now))
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
			if (owner->started.handle != NULL)
			{
				alive++;
				continue;
			}
			no_slot = true;
		}
		crowded = true;
	}
	es_projection_ask_for_turn(crowded);
	if (!no_slot)
		es_slot_served();
	return waiting;
}
