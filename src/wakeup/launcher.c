/*-------------------------------------------------------------------------
 * wakeup/launcher.c
 *	  The launcher: starts the workers of databases.
 *
 * With shared_preload_libraries the server has one.  It starts a worker in
 * every database when the server starts; those that find no extension end at
 * once.  After that it starts those again that have ended before their work
 * was done.  Without it an append starts the worker that it needs
 * (es_worker_ensure).
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/genam.h"
#include "access/heapam.h"
#include "access/table.h"
#include "access/tableam.h"
#include "access/xact.h"
#include "catalog/pg_database.h"
#include "miscadmin.h"
#include "pgstat.h"
#include "postmaster/bgworker.h"
#include "storage/ipc.h"
#include "storage/latch.h"
#include "utils/memutils.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"

#include "base/compat.h"
#include "wakeup/slots.h"
#include "wakeup/start.h"
#include "wakeup/wakeup.h"
#include "wakeup/worker.h"

/* restart of the launcher after a crash, s */
#define ES_LAUNCHER_RESTART_S	5

/*
 * How soon the launcher starts a worker again.  The pause doubles while they
 * die before they are ES_LAUNCHER_HEALTHY_MS old.
 */
#define ES_LAUNCHER_LOOK_MS		1000
#define ES_LAUNCHER_HEALTHY_MS	(10 * 1000)

/* how long a worker may take to begin before the next one is started, in steps */
#define ES_LAUNCHER_STEPS		100
#define ES_LAUNCHER_STEP_MS		10

/* databases that it has not been able to try yet */
static List *es_launcher_untried = NIL;

PGDLLEXPORT void es_launcher_main(Datum main_arg);

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

		if (es_start_can_connect(database) && !database->datistemplate)
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

static EsStarted *
es_launcher_get(Oid database)
{
	static List *launched = NIL;

	return es_started_get(&launched, database, sizeof(EsStarted));
}

/*
 * Start a worker in one database, unless one is about to run or those before
 * died too soon.
 */
static void
es_launcher_start(Oid database)
{
	EsStarted  *launched = es_launcher_get(database);
	TimestampTz now = GetCurrentTimestamp();

	if (es_started_lives(launched,
						 es_slot_gave_way_since(database, launched->started_at) ? 0 :
						 ES_LAUNCHER_HEALTHY_MS,
						 ES_LAUNCHER_LOOK_MS) ||
		!es_started_is_due(launched, now) || es_wakeup_is_starting(database))
		return;
	if (!es_slot_is_free_for(database) || !es_start_database_worker(database, launched))
		es_slot_wait_for(database);
}

/*
 * Wait until a worker has begun its work, or has ended because there is none.
 */
static void
es_launcher_await(EsStarted *launched)
{
	pid_t		pid;

	for (int i = 0; i < ES_LAUNCHER_STEPS; i++)
	{
		if (GetBackgroundWorkerPid(launched->handle, &pid) == BGWH_STOPPED ||
			es_wakeup_has_worker(launched->key))
			break;
		(void) WaitLatch(MyLatch, WL_LATCH_SET | WL_TIMEOUT | WL_EXIT_ON_PM_DEATH,
						 ES_LAUNCHER_STEP_MS, es_wait_event(ES_WAIT_LAUNCHER));
		ResetLatch(MyLatch);
		es_start_heed_signals();
	}
}

/*
 * Try one of the databases for which there was no slot at the start of the
 * server.
 */
static void
es_launcher_try(List *databases)
{
	Oid			database = linitial_oid(es_launcher_untried);
	EsStarted  *launched = es_launcher_get(database);
	bool		done = !list_member_oid(databases, database) || es_wakeup_has_worker(database);

	if (!done)
	{
		es_launcher_start(database);
		if (launched->handle != NULL)
			es_launcher_await(launched);
		done = launched->handle != NULL;
	}
	if (done)
	{
		es_launcher_untried = list_delete_first(es_launcher_untried);
		es_slot_launcher_served(es_launcher_untried != NIL);
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
	long		result = ES_START_MAX_PAUSE_MS;

	if (orphans == NIL && es_launcher_untried == NIL)
		return -1;
	databases = es_launcher_databases(context);
	if (es_launcher_untried != NIL)
		es_launcher_try(databases);
	StartTransactionCommand();
	foreach(lc, orphans)
	{
		Oid			database = lfirst_oid(lc);

		/* dropped, or maybe open again one day */
		if (!list_member_oid(databases, database))
		{
			es_slot_forget(database);
			continue;
		}
		result = ES_LAUNCHER_LOOK_MS;
		if (es_worker_database_is_wanted(database))
			es_slot_forget(database);
		else
			es_launcher_start(database);
	}
	CommitTransactionCommand();
	MemoryContextSwitchTo(context);
	return es_slot_others_wait() ? ES_CROWDED_MS : result;
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

	es_start_take_signals();
	BackgroundWorkerInitializeConnection(NULL, NULL, 0);
	MemoryContextSwitchTo(context);
	es_wakeup_launcher_begin();

	/* one slot beyond those that stay at a time: most find no extension */
	foreach(lc, es_launcher_databases(context))
	{
		EsStarted  *launched = es_launcher_get(lfirst_oid(lc));

		CHECK_FOR_INTERRUPTS();
		es_launcher_start(launched->key);
		if (launched->handle != NULL)
			es_launcher_await(launched);
		else
		{
			MemoryContextSwitchTo(TopMemoryContext);
			es_launcher_untried = lappend_oid(es_launcher_untried, launched->key);
			MemoryContextSwitchTo(context);
		}
	}

	pgstat_report_activity(STATE_IDLE, NULL);
	for (;;)
	{
		(void) WaitLatch(MyLatch,
						 WL_LATCH_SET | WL_EXIT_ON_PM_DEATH | (pause_ms >= 0 ? WL_TIMEOUT : 0),
						 pause_ms, es_wait_event(ES_WAIT_LAUNCHER));
		ResetLatch(MyLatch);
		es_start_heed_signals();

		/* some end at once, many together */
		pause_ms = es_slot_others_wait() ? ES_CROWDED_MS : ES_LAUNCHER_LOOK_MS;
		if (!es_time_is_up(looked_at, GetCurrentTimestamp(), pause_ms))
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
es_launcher_init(void)
{
	BackgroundWorker worker;

	if (!process_shared_preload_libraries_in_progress || IsBinaryUpgrade)
		return;

	es_start_describe(&worker, "es_launcher_main", "event_store launcher", "event_store launcher");
	worker.bgw_restart_time = ES_LAUNCHER_RESTART_S;
	RegisterBackgroundWorker(&worker);
}
