/*-------------------------------------------------------------------------
 * wakeup/worker.c
 *	  The worker of a database.
 *
 * Each database that uses the store has one worker.  An append's latch wakes
 * it; it finds the settled head, publishes it (wakeup/wakeup.c), does what
 * others have asked it to do (es_worker_add_task), which is how projections get
 * workers of their own, and sends one NOTIFY for all commits since the last.
 * That is a transaction of its own: its commit fails while the server's queue
 * of notifications is full, and nothing else is to wait for that.  While
 * something unsettled holds the order back it looks again every ES_BLOCKED_MS,
 * because an abort, or the end of a prepared transaction, tells nobody.
 *
 * It starts when it is first needed, by es_worker_ensure().  With
 * shared_preload_libraries the launcher also starts it with the server, in
 * every database that has the extension, and again when it has ended before
 * its work was done.  It ends by itself when the extension is gone, nothing
 * has happened for a while, or somebody wants to have the database for
 * himself; the next append starts it again.  When the library was replaced it
 * starts its successor and ends.
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
#include "storage/ipc.h"
#include "storage/latch.h"
#include "storage/lock.h"
#include "utils/builtins.h"
#include "utils/fmgrprotos.h"
#include "utils/guc.h"
#include "utils/inval.h"
#include "utils/memutils.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"

#include "base/compat.h"
#include "base/count.h"
#include "base/fault.h"
#include "log/head.h"
#include "log/store.h"
#include "settings.h"
#include "wakeup/shared.h"
#include "wakeup/slots.h"
#include "wakeup/start.h"
#include "wakeup/wakeup.h"
#include "wakeup/worker.h"

/* next look while something holds the order back */
#define ES_BLOCKED_MS	100

/* next look at tasks and settings without being woken */
#define ES_IDLE_MS		1000

/* es_worker_add_task so often at the most */
#define ES_MAX_TASKS	8

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

PGDLLEXPORT void es_worker_main(Datum main_arg);

static EsWorkerTask es_worker_tasks[ES_MAX_TASKS];
static int	es_worker_ntasks = 0;

/*
 * Called by _PG_init of who has something to do in the worker of a database.
 *
 * task			called in each round, in a transaction with a snapshot, whenever
 *				the worker was woken and once in a while; true = something is
 *				waiting: look again soon, and do not end
 */
void
es_worker_add_task(EsWorkerTask task)
{
	if (es_worker_ntasks == lengthof(es_worker_tasks))
		elog(ERROR, "too many tasks of the event store's worker");
	es_worker_tasks[es_worker_ntasks++] = task;
}

/*
 * Does somebody want a database for himself, to drop, rename or copy it?
 */
bool
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
 * There is no extension: nobody is to start another worker here, nor to make
 * way for one.
 */
static void
es_worker_not_wanted(void)
{
	es_slot_forget(MyDatabaseId);
	es_wakeup_resign();
}

/*
 * Look once: publish the settled head and tell about it.
 *
 * head			in: published last; out: now
 * moved		set when those who listen are to be told of it
 * busy			result: this round's head will soon be old
 * follows		result: the tasks want to hear of appends
 *
 * Result: ms until the next look if nobody wakes us, -1 = the extension is
 * not there, or somebody wants the database for himself.
 */
static long
es_worker_round(int64 *head, bool *moved, bool *busy, bool *follows)
{
	static Oid	published_store = InvalidOid;
	const EsStore *store;
	Relation	event;
	int64		now;
	bool		pending;
	bool		waiting = false;

	*busy = *follows = false;
	SetCurrentStatementStartTimestamp();
	StartTransactionCommand();
	PushActiveSnapshot(GetTransactionSnapshot());
	if (es_worker_in_the_way())
	{
		if (!OidIsValid(es_store_extension()))
			es_worker_not_wanted();
		PopActiveSnapshot();
		CommitTransactionCommand();
		return -1;
	}

	event = es_store_open_event(&store, AccessShareLock);
	if (!es_head_is_available(store, GetActiveSnapshot()))
	{
		es_slot_served();
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
	*moved |= now > *head;
	for (int i = 0; i < es_worker_ntasks; i++)
		waiting |= es_worker_tasks[i] (follows);
	if (es_slot_others_wait())
		es_slot_help();
	PopActiveSnapshot();
	CommitTransactionCommand();
	*head = Max(*head, now);
	return pending || waiting ? ES_BLOCKED_MS : ES_IDLE_MS;
}

/*
 * Tell those who listen.
 *
 * Result: false when that has failed and is to be tried again.
 */
static bool
es_worker_notify(int64 head)
{
	static TimestampTz failed_at = 0;	/* 0 = the last time it has not */
	MemoryContext context = CurrentMemoryContext;
	TimestampTz now = GetCurrentTimestamp();
	volatile bool ok = true;
	char		payload[32];

	if (failed_at != 0 && !es_time_is_up(failed_at, now, ES_IDLE_MS))
		return false;
	snprintf(payload, sizeof(payload), INT64_FORMAT, head);
	PG_TRY();
	{
		StartTransactionCommand();

		/* nobody makes room in a queue that was full, but whoever asks for this */
		if (failed_at != 0)
			(void) DirectFunctionCall1(pg_notification_queue_usage, (Datum) 0);
		Async_Notify("event_store", payload);
		ES_FAULT_POINT("worker_notifies");
		CommitTransactionCommand();
		es_count(ES_COUNT_NOTIFICATIONS, 1);
	}
	PG_CATCH();
	{
		ErrorData  *error;

		MemoryContextSwitchTo(context);
		error = CopyErrorData();
		QueryCancelPending = false;
		FlushErrorState();
		AbortCurrentTransaction();

		/* once, and not every second for as long as that lasts */
		if (failed_at == 0)
			ereport(LOG,
					errcode(error->sqlerrcode),
					errmsg("could not notify those who listen of new events: %s",
						   error->message ? error->message : ""),
					errdetail("It is tried again every second; consumers that wait, and projections, go on."),
					errhint("A session that listens and stays in a transaction fills the queue of notifications: see pg_notification_queue_usage()."));
		FreeErrorData(error);
		ok = false;
	}
	PG_END_TRY();
	MemoryContextSwitchTo(context);
	failed_at = ok ? 0 : now;
	return ok;
}

/*
 * Make way if another database has waited long enough for a slot: at once
 * when there is nothing to do here, otherwise after a turn.
 *
 * Result: false = go on.
 */
static bool
es_worker_make_way(TimestampTz started_at, TimestampTz idle_since)
{
	TimestampTz now = GetCurrentTimestamp();

	if (!es_slot_others_wait())
		return false;
	if (idle_since != 0)
		return es_time_is_up(idle_since, now, ES_CROWDED_MS) &&
			es_slot_give_way() && es_wakeup_retire();
	if (!es_time_is_up(started_at, now, ES_TURN_MS) || !es_slot_give_way())
		return false;
	es_slot_wait_again();
	return true;
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
		es_worker_not_wanted();
	CommitTransactionCommand();
	return result;
}

/*
 * One that dies, maybe as soon as it starts, is started again after a while,
 * but nobody is to make way for it until then.
 */
static void
es_worker_exit(int code, Datum arg)
{
	if (code != 0)
		es_slot_forget(DatumGetObjectId(arg));
}

/*
 * Main function of a database's worker.
 */
void
es_worker_main(Datum main_arg)
{
	int64		head = 0;
	bool		moved = false;
	int			in_vain = 0;
	TimestampTz started_at;
	TimestampTz busy_at;
	TimestampTz idle_since = 0;

	es_start_take_signals();

	/* when it dies it is too late to attach to shared memory */
	(void) es_wakeup_find(DatumGetObjectId(main_arg));
	before_shmem_exit(es_worker_exit, main_arg);
	es_start_connect(DatumGetObjectId(main_arg), InvalidOid, 0);
	ES_FAULT_POINT("worker_starts");

	/* it has no other work: a lock will be free one day */
	SetConfigOption("lock_timeout", "0", PGC_USERSET, PGC_S_OVERRIDE);

	if (!es_worker_has_extension() || !es_wakeup_claim())
		proc_exit(0);

	started_at = busy_at = GetCurrentTimestamp();
	for (;;)
	{
		int64		before = head;
		int			waiters = es_wakeup_waiters();
		bool		called = es_wakeup_called();
		bool		busy;
		bool		follows;
		uint32		followed;
		long		timeout;

		es_start_heed_signals();

		pgstat_report_activity(STATE_RUNNING, "event_store: looking for the settled head");
		followed = es_wakeup_begin_look();
		timeout = es_worker_round(&head, &moved, &busy, &follows);
		es_wakeup_end_look(followed, follows);
		if (moved)
			moved = timeout >= 0 && es_notify_mode == ES_NOTIFY_WORKER && !es_worker_notify(head);
		pgstat_report_stat(false);
		pgstat_report_activity(STATE_IDLE, NULL);

		/* the next one waits until this one has ended */
		if (es_start_is_outdated() && es_start_database_worker(MyDatabaseId, NULL))
			proc_exit(0);
		if (timeout < 0)
		{
			/* the workers of projections shall look, and go, too */
			es_wakeup_broadcast();
			proc_exit(0);
		}

		if (head != before || timeout == ES_BLOCKED_MS || moved)
			idle_since = 0;
		else if (idle_since == 0)
			idle_since = GetCurrentTimestamp();
		if (es_worker_make_way(started_at, idle_since))
			proc_exit(0);
		if (es_slot_others_wait())
			timeout = Min(timeout, ES_CROWDED_MS);

		if (idle_since == 0)
			busy_at = GetCurrentTimestamp();
		else if (TimestampDifferenceExceeds(busy_at, GetCurrentTimestamp(),
											es_worker_idle_timeout_ms) &&
				 !es_slot_others_wait() && es_wakeup_retire())
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

		if (!(busy && es_wakeup_keep_looking()) && !es_wakeup_called())
			(void) WaitLatch(MyLatch, WL_LATCH_SET | WL_TIMEOUT | WL_EXIT_ON_PM_DEATH,
							 timeout, es_wait_event(ES_WAIT_WORKER));
		ResetLatch(MyLatch);
	}
}
