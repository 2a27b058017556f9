/*-------------------------------------------------------------------------
 * wakeup/worker.c
 *	  The worker of a database, and the launcher that starts them.
 *
 * Each database that uses the store has one worker.  An append's latch wakes
 * it; it finds the settled head, publishes it (wakeup/wakeup.c), sends one NOTIFY
 * for all commits since the last, and sees to it that projections have
 * workers of their own.  While something unsettled holds the order back it
 * looks again every ES_BLOCKED_MS, because an abort, or the end of a prepared
 * transaction, tells nobody.
 *
 * It starts when it is first needed, by es_worker_ensure().  With
 * shared_preload_libraries the launcher also starts it with the server, in
 * every database that has the extension, and again when it has ended before
 * its work was done.  It ends by itself when the extension is gone, nothing
 * has happened for a while, or somebody wants to have the database for
 * himself; the next append starts it again.
 *
 * It runs as the bootstrap superuser and executes no user code.
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/genam.h"
#include "access/heapam.h"
#include "access/table.h"
#include "access/tableam.h"
#include "access/xact.h"
#include "catalog/namespace.h"
#include "catalog/pg_database.h"
#include "catalog/pg_extension.h"
#include "commands/async.h"
#include "pgstat.h"
#include "postmaster/bgworker.h"
#include "postmaster/interrupt.h"
#include "storage/ipc.h"
#include "storage/latch.h"
#include "storage/lock.h"
#include "tcop/tcopprot.h"
#include "utils/builtins.h"
#include "utils/guc.h"
#include "utils/inval.h"
#include "utils/memutils.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"

#include "base/compat.h"
#include "settings.h"
#include "log/head.h"
#include "projection/projection.h"
#include "log/store.h"
#include "wakeup/wakeup.h"
#include "wakeup/worker.h"

/* next look while something holds the order back */
#define ES_BLOCKED_MS	100

/* next look at projections and settings without being woken */
#define ES_IDLE_MS		1000

/*
 * After a round that found something the worker rests (us), so that the
 * appends of a busy store do not pay for waking it each time, and it and the
 * sessions that it wakes get a bounded share of the CPUs: shortly when events
 * come one by one, longer when they come at more than ES_BUSY_RATE a second,
 * and the longer the more sessions there are to be woken.
 */
#define ES_REST_US				400
#define ES_REST_PER_WAITER_US	50
#define ES_BUSY_RATE			3000
#define ES_BUSY_WINDOW_US		10000	/* over so long, at least */
#define ES_BUSY_REST_US			2000
#define ES_BUSY_REST_PER_WAITER_US	1500
#define ES_MAX_REST_US			100000
#define ES_MAX_REST_DOUBLINGS	5	/* when it was called in vain */

/* restart of the launcher after a crash, s */
#define ES_LAUNCHER_RESTART_S	5

/*
 * How soon the launcher starts a worker again.  The pause doubles while they
 * die before they are ES_LAUNCHER_HEALTHY_MS old, or there is no slot for one.
 */
#define ES_LAUNCHER_LOOK_MS		1000
#define ES_LAUNCHER_MAX_PAUSE_MS	(60 * 1000)
#define ES_LAUNCHER_HEALTHY_MS	(10 * 1000)

/* how long a worker may take to begin before the next one is started, in steps */
#define ES_LAUNCHER_STEPS		100
#define ES_LAUNCHER_STEP_MS		10

/* a worker as the launcher knows it */
typedef struct EsLaunched
{
	Oid			database;
	BackgroundWorkerHandle *handle; /* NULL = none that the launcher started */
	TimestampTz started_at;
	long		pause_ms;		/* before the next start */
} EsLaunched;

PGDLLEXPORT void es_worker_main(Datum main_arg);
PGDLLEXPORT void es_launcher_main(Datum main_arg);

/*
 * Has so much time passed?  Also when the clock was set back, or nothing would
 * happen until it has caught up.
 */
bool
es_worker_time_is_up(TimestampTz since, TimestampTz now, int ms)
{
	return now < since || TimestampDifferenceExceeds(since, now, ms);
}

/*
 * Does somebody want a database for himself, to drop, rename or copy it?
 */
static bool
es_worker_database_is_wanted(Oid database)
{
	LOCKTAG		tag;

	SET_LOCKTAG_OBJECT(tag, InvalidOid, DatabaseRelationId, database, 0);
	if (LockAcquire(&tag, RowExclusiveLock, false, true) == LOCKACQUIRE_NOT_AVAIL)
		return true;
	(void) LockRelease(&tag, RowExclusiveLock, false);
	return false;
}

/*
 * Is the extension gone, or does somebody want to drop it, or have this
 * database for himself, to drop, rename or copy it?
 *
 * Who wants the database holds its lock and looks for five seconds whether
 * everybody else is gone (CountOtherDBBackends).  DROP EXTENSION locks the
 * extension first of all: a worker's transaction holds that lock in share
 * mode to its end, so that the two do not meet half-way, in a deadlock.
 * Called at the start of a transaction.
 */
bool
es_worker_in_the_way(void)
{
	LOCKTAG		tag;

	if (es_worker_database_is_wanted(MyDatabaseId))
		return true;
	SET_LOCKTAG_OBJECT(tag, MyDatabaseId, ExtensionRelationId,
					   es_store_extension(), 0);
	if (LockAcquire(&tag, AccessShareLock, false, true) == LOCKACQUIRE_NOT_AVAIL)
		return true;
	AcceptInvalidationMessages();
	return !OidIsValid(es_store_extension());
}

/*
 * Do events come in such numbers that the worker had better let some come
 * together, and look again without being asked?
 *
 * events		positions passed since the last call
 */
static bool
es_worker_is_busy(int64 events)
{
	static TimestampTz since = 0;
	static int64 passed = 0;
	static bool busy = false;
	TimestampTz now = GetCurrentTimestamp();

	passed += events;
	if (now - since >= ES_BUSY_WINDOW_US)
	{
		busy = passed * USECS_PER_SEC / (now - since) > ES_BUSY_RATE;
		since = now;
		passed = 0;
	}
	return busy;
}

/*
 * Rest after a round that had something to tell.
 */
static void
es_worker_rest(bool busy, int waiters)
{
	long		rest;

	if (busy)
		rest = Max((long) waiters * ES_BUSY_REST_PER_WAITER_US, ES_BUSY_REST_US);
	else
		rest = ES_REST_US + (long) waiters * ES_REST_PER_WAITER_US;
	pg_usleep(Min(rest, ES_MAX_REST_US));
}

/*
 * Look once: publish the settled head and tell about it.
 *
 * head			in: published last; out: now
 * busy			result: this round's head will soon be old
 *
 * Result: ms until the next look if nobody wakes us, -1 = the extension is
 * not there, or somebody wants the database for himself.
 */
static long
es_worker_round(int64 *head, bool *busy)
{
	static Oid	published_store = InvalidOid;
	const EsStore *store;
	Relation	event;
	int64		now;
	bool		pending;
	bool		waiting;

	*busy = false;
	SetCurrentStatementStartTimestamp();
	StartTransactionCommand();
	PushActiveSnapshot(GetTransactionSnapshot());
	if (es_worker_in_the_way())
	{
		if (!OidIsValid(es_store_extension()))
			es_wakeup_resign();
		PopActiveSnapshot();
		CommitTransactionCommand();
		return -1;
	}

	event = es_store_open_event(&store, AccessShareLock);
	if (!es_head_is_available(store, GetActiveSnapshot()))
	{
		table_close(event, AccessShareLock);
		PopActiveSnapshot();
		CommitTransactionCommand();
		return ES_IDLE_MS;
	}

	/* what was settled in a store that was dropped means nothing here */
	if (published_store != store->event)
		*head = 0;
	published_store = store->event;
	now = es_head_settled(event, store, GetActiveSnapshot(), *head, NULL);
	if (now > *head)
	{
		*busy = es_worker_is_busy(*head > 0 ? now - *head : 1);

		/* those who sleep need not wait for the NOTIFY */
		es_wakeup_publish(published_store, now, *busy);
	}

	/* a busy store is looked at again soon in any case */
	pending = !*busy && es_head_pending(event, store, GetActiveSnapshot(), now, NULL);
	table_close(event, AccessShareLock);
	if (now > *head && es_notify_mode == ES_NOTIFY_WORKER)
	{
		char		payload[32];

		snprintf(payload, sizeof(payload), INT64_FORMAT, now);
		Async_Notify("event_store", payload);
	}
	waiting = es_projection_reconcile();
	PopActiveSnapshot();
	CommitTransactionCommand();
	*head = Max(*head, now);
	return pending || waiting ? ES_BLOCKED_MS : ES_IDLE_MS;
}

/*
 * The launcher tries every database; those without the extension take no
 * place in shared memory.
 */
static bool
es_worker_has_extension(void)
{
	bool		result;

	StartTransactionCommand();
	result = OidIsValid(es_store_extension());
	if (!result)
		es_wakeup_resign();
	CommitTransactionCommand();
	return result;
}

/*
 * Main function of a database's worker.
 */
void
es_worker_main(Datum main_arg)
{
	int64		head = 0;
	int			in_vain = 0;
	TimestampTz busy_at;

	pqsignal(SIGHUP, SignalHandlerForConfigReload);
	pqsignal(SIGTERM, die);
	BackgroundWorkerUnblockSignals();
	BackgroundWorkerInitializeConnectionByOid(DatumGetObjectId(main_arg), InvalidOid, 0);

	/* losing a notification in a crash is harmless, waiting for disk is not */
	SetConfigOption("synchronous_commit", "off", PGC_USERSET, PGC_S_OVERRIDE);

	/* in SERIALIZABLE its looks would make appends fail; a lock will be free one day */
	SetConfigOption("default_transaction_isolation", "read committed",
					PGC_USERSET, PGC_S_OVERRIDE);
	SetConfigOption("lock_timeout", "0", PGC_USERSET, PGC_S_OVERRIDE);
	es_no_transaction_timeout();

	if (!es_worker_has_extension() || !es_wakeup_claim())
		proc_exit(0);

	busy_at = GetCurrentTimestamp();
	for (;;)
	{
		int64		before = head;
		int			waiters = es_wakeup_waiters();
		bool		called = es_wakeup_called();
		bool		busy;
		long		timeout;

		CHECK_FOR_INTERRUPTS();
		if (ConfigReloadPending)
		{
			ConfigReloadPending = false;
			ProcessConfigFile(PGC_SIGHUP);
		}

		pgstat_report_activity(STATE_RUNNING, "event_store: looking for the settled head");
		es_wakeup_begin_look();
		timeout = es_worker_round(&head, &busy);
		pgstat_report_stat(false);
		pgstat_report_activity(STATE_IDLE, NULL);
		if (timeout < 0)
		{
			/* the workers of projections shall look, and go, too */
			es_wakeup_broadcast();
			proc_exit(0);
		}

		if (head != before || timeout == ES_BLOCKED_MS)
			busy_at = GetCurrentTimestamp();
		else if (TimestampDifferenceExceeds(busy_at, GetCurrentTimestamp(),
											es_worker_idle_timeout_ms) &&
				 es_wakeup_retire())
			proc_exit(0);

		if (head != before)
		{
			in_vain = 0;
			es_worker_rest(busy, waiters);
		}

		/*
		 * Called in vain: the last round saw that event already.  If that goes
		 * on, others append behind one that holds the order up.
		 */
		else if (called && ++in_vain > 1)
			pg_usleep(ES_REST_US << Min(in_vain - 2, ES_MAX_REST_DOUBLINGS));

		if (!busy && !es_wakeup_called())
			(void) WaitLatch(MyLatch, WL_LATCH_SET | WL_TIMEOUT | WL_EXIT_ON_PM_DEATH,
							 timeout, es_wait_event());
		ResetLatch(MyLatch);
	}
}

/*
 * Have the postmaster start a database's worker.
 *
 * handle		result, to wait for the start; NULL = nobody will
 *
 * Result: false when there is no free slot.
 */
bool
es_worker_register(Oid database, BackgroundWorkerHandle **handle)
{
	BackgroundWorker worker;

	memset(&worker, 0, sizeof(worker));
	worker.bgw_flags = BGWORKER_SHMEM_ACCESS | BGWORKER_BACKEND_DATABASE_CONNECTION;
	worker.bgw_start_time = BgWorkerStart_RecoveryFinished;
	worker.bgw_restart_time = BGW_NEVER_RESTART;	/* the next append does that */
	worker.bgw_main_arg = ObjectIdGetDatum(database);
	worker.bgw_notify_pid = handle != NULL ? MyProcPid : 0;
	strlcpy(worker.bgw_library_name, "event_store", BGW_MAXLEN);
	strlcpy(worker.bgw_function_name, "es_worker_main", BGW_MAXLEN);
	snprintf(worker.bgw_name, BGW_MAXLEN, "event_store worker for database %u", database);
	strlcpy(worker.bgw_type, "event_store worker", BGW_MAXLEN);
	return RegisterDynamicBackgroundWorker(&worker, handle);
}

/*
 * The databases that one can connect to; OIDs in the given context.
 */
static List *
es_launcher_databases(MemoryContext context)
{
	List	   *result = NIL;
	Relation	rel;
	TableScanDesc scan;
	HeapTuple	tuple;

	StartTransactionCommand();
	(void) GetTransactionSnapshot();
	rel = table_open(DatabaseRelationId, AccessShareLock);
	scan = table_beginscan_catalog(rel, 0, NULL);
	while (HeapTupleIsValid(tuple = heap_getnext(scan, ForwardScanDirection)))
	{
		Form_pg_database database = (Form_pg_database) GETSTRUCT(tuple);

		if (database->datallowconn && !database->datistemplate &&
			database->datconnlimit != DATCONNLIMIT_INVALID_DB)
		{
			MemoryContext old_context = MemoryContextSwitchTo(context);

			result = lappend_oid(result, database->oid);
			MemoryContextSwitchTo(old_context);
		}
	}
	table_endscan(scan);
	table_close(rel, AccessShareLock);
	CommitTransactionCommand();
	MemoryContextSwitchTo(context);
	return result;
}

static EsLaunched *
es_launcher_get(Oid database)
{
	static List *launched = NIL;
	MemoryContext old_context;
	EsLaunched *result;
	ListCell   *lc;

	foreach(lc, launched)
	{
		result = lfirst(lc);
		if (result->database == database)
			return result;
	}
	old_context = MemoryContextSwitchTo(TopMemoryContext);
	result = palloc0(sizeof(EsLaunched));
	result->database = database;
	launched = lappend(launched, result);
	MemoryContextSwitchTo(old_context);
	return result;
}

static void
es_launcher_back_off(EsLaunched *launched)
{
	launched->pause_ms = Min(Max(launched->pause_ms * 2, ES_LAUNCHER_LOOK_MS),
							 ES_LAUNCHER_MAX_PAUSE_MS);
}

/*
 * Start a worker in one database, unless one is about to run or those before
 * died too soon.
 */
static void
es_launcher_start(Oid database)
{
	EsLaunched *launched = es_launcher_get(database);
	TimestampTz now = GetCurrentTimestamp();
	MemoryContext old_context;
	bool		registered;
	pid_t		pid;

	if (launched->handle != NULL)
	{
		if (GetBackgroundWorkerPid(launched->handle, &pid) != BGWH_STOPPED)
			return;
		pfree(launched->handle);
		launched->handle = NULL;
		if (es_worker_time_is_up(launched->started_at, now, ES_LAUNCHER_HEALTHY_MS))
			launched->pause_ms = ES_LAUNCHER_LOOK_MS;
		else
			es_launcher_back_off(launched);
	}
	if (!es_worker_time_is_up(launched->started_at, now, launched->pause_ms))
		return;
	launched->started_at = now;
	old_context = MemoryContextSwitchTo(TopMemoryContext);
	registered = es_worker_register(database, &launched->handle);
	MemoryContextSwitchTo(old_context);
	if (!registered)
	{
		launched->handle = NULL;
		es_launcher_back_off(launched);
		ereport(LOG,
				errmsg("could not start the event store's worker for database %u", database),
				errhint("Raise \"max_worker_processes\"; the next append tries again."));
	}
}

/*
 * Wait until a worker has begun its work, or has ended because there is none.
 */
static void
es_launcher_await(EsLaunched *launched)
{
	pid_t		pid;

	for (int i = 0; i < ES_LAUNCHER_STEPS; i++)
	{
		if (GetBackgroundWorkerPid(launched->handle, &pid) == BGWH_STOPPED ||
			es_wakeup_has_worker(launched->database))
			break;
		(void) WaitLatch(MyLatch, WL_LATCH_SET | WL_TIMEOUT | WL_EXIT_ON_PM_DEATH,
						 ES_LAUNCHER_STEP_MS, es_wait_event());
		ResetLatch(MyLatch);
		CHECK_FOR_INTERRUPTS();
	}
}

/*
 * Start the workers again that have made way for somebody, or were killed.
 *
 * Result: ms until the next look is due, -1 = none is.
 */
static long
es_launcher_look(MemoryContext context)
{
	List	   *orphans = es_wakeup_orphans();
	List	   *databases;
	ListCell   *lc;
	long		result = ES_LAUNCHER_MAX_PAUSE_MS;

	if (orphans == NIL)
		return -1;
	databases = es_launcher_databases(context);
	StartTransactionCommand();
	foreach(lc, orphans)
	{
		Oid			database = lfirst_oid(lc);

		/* dropped, or maybe open again one day */
		if (!list_member_oid(databases, database))
			continue;
		result = ES_LAUNCHER_LOOK_MS;
		if (!es_worker_database_is_wanted(database))
			es_launcher_start(database);
	}
	CommitTransactionCommand();
	MemoryContextSwitchTo(context);
	return result;
}

/*
 * Main function of the launcher: start a worker in every database at server
 * start, and again when one has ended although there is work to do.  It is
 * connected to no database, so that the postmaster starts it again after a
 * crash.
 */
void
es_launcher_main(Datum main_arg)
{
	MemoryContext context = AllocSetContextCreate(TopMemoryContext, "event_store launcher",
												  ALLOCSET_DEFAULT_SIZES);
	TimestampTz looked_at = 0;
	long		pause_ms = ES_LAUNCHER_LOOK_MS;
	ListCell   *lc;

	pqsignal(SIGHUP, SignalHandlerForConfigReload);
	pqsignal(SIGTERM, die);
	BackgroundWorkerUnblockSignals();
	BackgroundWorkerInitializeConnection(NULL, NULL, 0);
	MemoryContextSwitchTo(context);
	es_wakeup_launcher_begin();

	/* one slot beyond those that stay at a time: most find no extension */
	foreach(lc, es_launcher_databases(context))
	{
		EsLaunched *launched = es_launcher_get(lfirst_oid(lc));

		CHECK_FOR_INTERRUPTS();
		es_launcher_start(launched->database);
		if (launched->handle != NULL)
			es_launcher_await(launched);
	}

	pgstat_report_activity(STATE_IDLE, NULL);
	for (;;)
	{
		(void) WaitLatch(MyLatch,
						 WL_LATCH_SET | WL_EXIT_ON_PM_DEATH | (pause_ms >= 0 ? WL_TIMEOUT : 0),
						 pause_ms, es_wait_event());
		ResetLatch(MyLatch);
		CHECK_FOR_INTERRUPTS();

		/* some end at once, many together */
		pause_ms = ES_LAUNCHER_LOOK_MS;
		if (!es_worker_time_is_up(looked_at, GetCurrentTimestamp(), ES_LAUNCHER_LOOK_MS))
			continue;
		MemoryContextReset(context);
		pause_ms = es_launcher_look(context);
		looked_at = GetCurrentTimestamp();
	}
}

/*
 * Called once per process, from _PG_init: register the launcher.
 */
void
es_worker_init(void)
{
	BackgroundWorker worker;

	if (!process_shared_preload_libraries_in_progress || IsBinaryUpgrade)
		return;

	memset(&worker, 0, sizeof(worker));
	worker.bgw_flags = BGWORKER_SHMEM_ACCESS | BGWORKER_BACKEND_DATABASE_CONNECTION;
	worker.bgw_start_time = BgWorkerStart_RecoveryFinished;
	worker.bgw_restart_time = ES_LAUNCHER_RESTART_S;
	strlcpy(worker.bgw_library_name, "event_store", BGW_MAXLEN);
	strlcpy(worker.bgw_function_name, "es_launcher_main", BGW_MAXLEN);
	strlcpy(worker.bgw_name, "event_store launcher", BGW_MAXLEN);
	strlcpy(worker.bgw_type, "event_store launcher", BGW_MAXLEN);
	RegisterBackgroundWorker(&worker);
}
