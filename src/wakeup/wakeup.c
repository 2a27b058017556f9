/*-------------------------------------------------------------------------
 * wakeup/wakeup.c
 *	  Wake consumers after commit, outside the commit.
 *
 * NOTIFY inside an appending transaction would take a lock of the whole
 * server until after its fsync and end group commit.  So an appender only
 * sets the latch of its database's worker (wakeup/worker.c) once its
 * transaction has become visible.  The worker finds the settled head, publishes
 * it here, wakes the sessions that sleep in es_wait and the like, and sends one
 * coalesced NOTIFY.
 *
 * That latch is dear: for one client it is the largest single part of an
 * append.  So the worker is called only where somebody is to be told: a session
 * that waits (it counts itself before it looks for the last time, so a commit
 * either sees it or is seen by it), a session that listens (wakeup/listen.c),
 * or a projection that has no worker at the moment.  Otherwise the worker
 * looks once a second.
 *
 * event_store.notify is about consumers.  Projections need the worker in every
 * mode, so in the others an append calls it for them: where they follow, which
 * the worker knows while it runs, and whoever looks while it does not
 * (es_wakeup_is_followed).
 *
 * What is shared is in wakeup/shared.c.
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/table.h"
#include "access/xact.h"
#include "commands/async.h"
#include "storage/condition_variable.h"
#include "storage/ipc.h"
#include "storage/latch.h"
#include "storage/lock.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"

#include "base/compat.h"
#include "log/head.h"
#include "log/store.h"
#include "settings.h"
#include "wakeup/shared.h"
#include "wakeup/slots.h"
#include "wakeup/start.h"
#include "wakeup/wakeup.h"

/* fourth field of the advisory lock tag that a database's worker holds */
#define ES_LOCK_CLASS_WORKER	6

/* pause between two attempts to start the worker */
#define ES_WORKER_RETRY_MS		1000

/* how long a new worker waits for one that is about to end, in pauses */
#define ES_CLAIM_PAUSES			100
#define ES_CLAIM_PAUSE_US		10000

/* how often a session looks whether anything follows where no worker does */
#define ES_FOLLOWS_MS			1000

/* how often waiters look for themselves, without and with a worker */
#define ES_POLL_MS				20
#define ES_STANDBY_POLL_MS		2
#define ES_FALLBACK_MS			5000

/* whether this process is counted among the waiters, the listeners */
static bool es_wakeup_waiting = false;
static bool es_wakeup_listening = false;

/* whether this transaction has appended, or done what the worker must see */
static bool es_wakeup_pending = false;
static bool es_wakeup_urgent = false;

/* tells whether the worker's tasks want events */
static bool (*es_wakeup_follows) (void) = NULL;

static void es_wakeup_exit(int code, Datum arg);

/*
 * Start the database's worker unless it runs.
 *
 * Nothing that goes wrong here matters to the caller: a later call tries
 * again.
 */
void
es_worker_ensure(void)
{
	EsWakeupEntry *entry;
	uint64		now;
	uint64		attempted_at;

	if (RecoveryInProgress() || IsBinaryUpgrade || !IsUnderPostmaster)
		return;
	entry = es_wakeup_get();
	if (entry == NULL || likely(pg_atomic_read_u32(&entry->worker) != 0))
		return;

	/* it would see no extension, and end: at commit */
	if (IsTransactionState() && es_store_is_new())
		return;

	now = (uint64) GetCurrentTimestamp();
	attempted_at = pg_atomic_read_u64(&entry->attempted_at);
	if (now - attempted_at < ES_WORKER_RETRY_MS * UINT64CONST(1000) ||
		!pg_atomic_compare_exchange_u64(&entry->attempted_at, &attempted_at, now))
		return;

	/* the launcher tries again where this comes to nothing, or the worker dies */
	pg_atomic_write_u32(&entry->wanted, 1);
	if (!es_slot_is_free_for(MyDatabaseId) || !es_start_database_worker(MyDatabaseId, NULL))
		es_slot_wait();
	else
		es_wakeup_launcher_call();
}

/*
 * Called by _PG_init of whoever has given the worker a task that wants events.
 *
 * follows		does it, as far as has been committed, or this transaction has
 *				done?  It may say yes when it cannot tell, and never fails
 */
void
es_wakeup_set_follower(bool (*follows) (void))
{
	es_wakeup_follows = follows;
}

/*
 * The worker's tasks may want events from now on.
 */
static void
es_wakeup_follow(EsWakeupEntry *entry)
{
	uint32		old = pg_atomic_read_u32(&entry->followed);

	while (!pg_atomic_compare_exchange_u32(&entry->followed, &old, (old | 1) + 2))
		;
}

/*
 * Do the worker's tasks want events?  While there is no worker this looks.
 *
 * changed		this transaction has changed what there is to follow
 */
static bool
es_wakeup_is_followed(EsWakeupEntry *entry, bool changed)
{
	static TimestampTz looked_at = 0;
	uint32		before = pg_atomic_read_u32(&entry->followed);
	TimestampTz now;

	if (es_wakeup_follows == NULL)
		return false;
	if (!changed && pg_atomic_read_u32(&entry->worker) != 0)
		return (before & 1) != 0;

	/* nobody is told of what a restore brings */
	now = GetCurrentTimestamp();
	if (!changed && (before & 1) == 0 && !es_time_is_up(looked_at, now, ES_FOLLOWS_MS))
		return false;
	looked_at = now;
	if (es_wakeup_follows())
	{
		if ((before & 1) == 0)
			es_wakeup_follow(entry);
		return true;
	}
	if (!changed)
		es_wakeup_end_look(before, false);
	return false;
}

/*
 * Called by an append: tell the world once its transaction has committed.
 *
 * position		the highest appended one; 0 = nothing was appended, but the
 *				worker's tasks have to look
 */
void
es_wakeup_after_commit(int64 position)
{
	/* while an error may be raised: at commit it will be asked for again */
	EsWakeupEntry *entry = es_wakeup_get();

	if (es_notify_mode == ES_NOTIFY_TRANSACTION && position != 0)
	{
		char		payload[32];

		snprintf(payload, sizeof(payload), INT64_FORMAT, position);
		Async_Notify("event_store", payload);
	}
	if (entry != NULL &&
		(es_notify_mode == ES_NOTIFY_WORKER || es_wakeup_is_followed(entry, position == 0)))
	{
		es_worker_ensure();
		es_wakeup_pending = true;
		if (position == 0)
			es_wakeup_urgent = true;
	}
}

/*
 * Whoever is counted is not when its process ends.  There are few places for
 * such callbacks, and a session may begin to listen any number of times.
 */
static void
es_wakeup_register_exit(void)
{
	static bool registered = false;

	if (!registered)
		before_shmem_exit(es_wakeup_exit, (Datum) 0);
	registered = true;
}

/*
 * Count this process among those who wait, from before its last look until it
 * gives up or has what it wanted.
 */
static void
es_wakeup_begin_wait(EsWakeupEntry *entry)
{
	if (es_wakeup_waiting)
		return;
	es_wakeup_register_exit();

	/* a full barrier: whoever commits unseen by what follows sees this */
	pg_atomic_fetch_add_u32(&entry->waiters, 1);
	es_wakeup_waiting = true;
}

static void
es_wakeup_end_wait(void)
{
	if (es_wakeup_waiting)
		pg_atomic_fetch_sub_u32(&es_wakeup_get()->waiters, 1);
	es_wakeup_waiting = false;
}

/*
 * This session listens, or does not any longer.
 */
void
es_wakeup_listen(bool listens)
{
	EsWakeupEntry *entry = es_wakeup_get();

	if (entry == NULL || listens == es_wakeup_listening)
		return;
	es_wakeup_register_exit();
	pg_atomic_fetch_add_u32(&entry->listeners, listens ? 1 : -1);
	es_wakeup_listening = listens;
}

static void
es_wakeup_exit(int code, Datum arg)
{
	es_wakeup_end_wait();
	if (es_wakeup_listening)
		pg_atomic_fetch_sub_u32(&es_wakeup_get()->listeners, 1);
	es_wakeup_listening = false;
}

/*
 * Is there anybody to be told of a commit?
 */
static bool
es_wakeup_wanted(EsWakeupEntry *entry)
{
	/* pairs with the one of es_wakeup_begin_wait */
	pg_memory_barrier();
	return !es_wakeup_shared->preloaded ||
		pg_atomic_read_u32(&entry->waiters) != 0 ||
		pg_atomic_read_u32(&entry->listeners) != 0 ||
		(pg_atomic_read_u32(&entry->followed) & 1) != 0;
}

/*
 * At the end of a transaction that has appended: have the worker look.
 *
 * An abort may settle a position that held others back.  A prepared
 * transaction will do so one day without telling anybody; while its positions
 * are pending the worker looks every now and then, and does not end.
 */
static void
es_wakeup_xact_callback(XactEvent event, void *arg)
{
	uint32		worker;
	bool		urgent = es_wakeup_urgent;

	switch (event)
	{
		case XACT_EVENT_ABORT:
		case XACT_EVENT_COMMIT:
		case XACT_EVENT_PREPARE:
			break;
		default:
			return;
	}

	/*
	 * An error has ended the wait, maybe one that was caught.  Workers wait
	 * over their transactions.
	 */
	if (MyBackendType != B_BG_WORKER)
		es_wakeup_end_wait();
	if (!es_wakeup_pending)
		return;
	es_wakeup_pending = es_wakeup_urgent = false;
	if (es_wakeup_get() == NULL)
		return;
	if (urgent)
		es_wakeup_follow(es_wakeup_get());
	else if (!es_wakeup_wanted(es_wakeup_get()))
		return;
	pg_atomic_write_u32(&es_wakeup_get()->called, 1);
	pg_memory_barrier();
	worker = pg_atomic_read_u32(&es_wakeup_get()->worker);
	if (worker != 0)
		SetLatch(&GetPGProcByNumber(worker - 1)->procLatch);
	else
		es_worker_ensure();		/* it has ended since, or may begin now */
}

/*
 * Get ready to sleep until the next broadcast.  Call, look whether there is
 * something to do, then sleep: a broadcast in between is not lost, and whoever
 * commits what that look did not see calls the worker.
 */
void
es_wakeup_prepare(void)
{
	EsWakeupEntry *entry = es_wakeup_get();

	if (entry == NULL)
		return;
	ConditionVariablePrepareToSleep(&entry->settled);
	es_wakeup_begin_wait(entry);
}

/*
 * Sleep until the next broadcast, at most max_ms.  Obeys interrupts.
 *
 * Result: false when the time was up.
 */
bool
es_wakeup_sleep(long max_ms)
{
	EsWaitFor	wait = MyBackendType == B_BG_WORKER ? ES_WAIT_PROJECTION : ES_WAIT_EVENTS;
	EsWakeupEntry *entry = es_wakeup_get();

	if (entry != NULL)
	{
		/* a caught error, or the end of a transaction, may have undone it */
		es_wakeup_begin_wait(entry);

		/*
		 * A broadcast since es_wakeup_prepare has set the latch, but waiting
		 * for a lock has maybe reset it; have the list of sleepers checked
		 * before the first sleep.
		 */
		SetLatch(MyLatch);
		return !ConditionVariableTimedSleep(&entry->settled, max_ms, es_wait_event(wait));
	}

	(void) WaitLatch(MyLatch, WL_LATCH_SET | WL_TIMEOUT | WL_EXIT_ON_PM_DEATH,
					 Min(max_ms, ES_POLL_MS), es_wait_event(wait));
	ResetLatch(MyLatch);
	CHECK_FOR_INTERRUPTS();
	return false;
}

/*
 * Wait no longer.
 */
void
es_wakeup_cancel(void)
{
	ConditionVariableCancelSleep();
	es_wakeup_end_wait();
}

/*
 * Wake everybody who sleeps in this database.
 */
void
es_wakeup_broadcast(void)
{
	EsWakeupEntry *entry = es_wakeup_get();

	if (entry != NULL)
	{
		es_count(ES_COUNT_WAKEUPS, pg_atomic_read_u32(&entry->waiters));
		ConditionVariableBroadcast(&entry->settled);
	}
}

/*
 * Has a standby replayed anything since?  If not, nothing can have become
 * visible.  On a primary the answer is always yes: there a commit shows some
 * time after its record.
 */
static bool
es_wakeup_may_have_moved(XLogRecPtr *seen)
{
	XLogRecPtr	now;

	if (!RecoveryInProgress())
		return true;
	now = GetXLogReplayRecPtr(NULL);
	if (now == *seen)
		return false;
	*seen = now;
	return true;
}

/*
 * The settled head as of now, whatever the transaction's snapshot.
 *
 * proven		a settled head found before, 0 = none
 */
static int64
es_wakeup_current_head(int64 proven)
{
	const EsStore *store;
	Relation	event = es_store_open_event(&store, AccessShareLock);
	Snapshot	snapshot = RegisterSnapshot(GetLatestSnapshot());
	int64		head = es_head_settled(event, store, snapshot, proven, NULL);

	UnregisterSnapshot(snapshot);
	table_close(event, AccessShareLock);
	return head;
}

/*
 * The settled head that the worker has told; 0 if it is of another store, of
 * before DROP EXTENSION and CREATE EXTENSION.
 */
int64
es_wakeup_published(void)
{
	EsWakeupEntry *entry = es_wakeup_get();
	Oid			store = es_store_get()->event;
	int64		head;

	if (entry == NULL || pg_atomic_read_u32(&entry->store) != store)
		return 0;
	pg_read_barrier();
	head = (int64) pg_atomic_read_u64(&entry->head);
	pg_read_barrier();
	return pg_atomic_read_u32(&entry->store) == store ? head : 0;
}

/*
 * Sleep until the settled head is beyond a position.
 *
 * On a busy store a worker that rests will look for everybody, and sooner
 * than a look of our own is worth: many consumers that look for themselves
 * would take the CPU from the appenders.
 *
 * after		the position
 * deadline		when to give up
 *
 * Result: the head, as the worker told it if it has just woken us; at the
 * deadline maybe not beyond the position.
 * Errors: those of an interrupt; VE005.
 */
int64
es_wakeup_await(int64 after, TimestampTz deadline)
{
	EsWakeupEntry *entry = es_wakeup_get();
	XLogRecPtr	seen = InvalidXLogRecPtr;
	int64		proven = 0;
	bool		look = false;
	bool		first = true;
	bool		woken = false;

	for (;;)
	{
		long		remaining = TimestampDifferenceMilliseconds(GetCurrentTimestamp(), deadline);
		bool		has_worker;
		int64		head;

		if (remaining > 0 && es_notify_mode == ES_NOTIFY_WORKER)
			es_worker_ensure();
		es_wakeup_prepare();
		if (first)
			look = entry == NULL || pg_atomic_read_u32(&entry->resting) == 0;
		first = false;

		/* where appends call it only for projections nobody relies on it */
		has_worker = entry != NULL && es_notify_mode == ES_NOTIFY_WORKER &&
			pg_atomic_read_u32(&entry->worker) != 0;

		/*
		 * What the worker has seen settled, every later snapshot sees.  Who was
		 * woken by it need not look whether there is more by now.
		 */
		head = has_worker ? es_wakeup_published() : 0;
		if (head > after)
			look = !woken;
		if ((look || !has_worker || remaining <= 0) && es_wakeup_may_have_moved(&seen))
			proven = es_wakeup_current_head(Max(proven, head));
		head = Max(head, proven);
		if (head > after || remaining <= 0)
		{
			es_wakeup_cancel();
			return head;
		}
		woken = es_wakeup_sleep(Min(remaining,
									has_worker ? ES_FALLBACK_MS :
									RecoveryInProgress() ? ES_STANDBY_POLL_MS :
									ES_POLL_MS));
		look = !woken;
	}
}

/*
 * Nothing is known to be settled.
 */
static void
es_wakeup_unpublish(EsWakeupEntry *entry)
{
	pg_atomic_write_u32(&entry->store, InvalidOid);
	pg_write_barrier();
	pg_atomic_write_u64(&entry->head, 0);
	pg_write_barrier();
}

static void
es_wakeup_release(int code, Datum arg)
{
	/* who ends knows nothing for the next one */
	es_wakeup_follow(es_wakeup_get());
	pg_atomic_write_u32(&es_wakeup_get()->resting, 0);
	pg_atomic_write_u32(&es_wakeup_get()->worker, 0);
	es_wakeup_broadcast();
	es_wakeup_launcher_call();
}

/*
 * Become this database's worker.
 *
 * Result: false if there is one already.
 */
bool
es_wakeup_claim(void)
{
	EsWakeupEntry *entry = es_wakeup_get();
	LOCKTAG		tag;

	if (entry == NULL)
		return false;
	SET_LOCKTAG_ADVISORY(tag, MyDatabaseId, 0, 0, ES_LOCK_CLASS_WORKER);
	for (int i = 0;
		 LockAcquire(&tag, ExclusiveLock, true, true) == LOCKACQUIRE_NOT_AVAIL;
		 i++)
	{
		/* one that has said it is gone still holds the lock for a moment */
		if (pg_atomic_read_u32(&entry->worker) != 0 || i == ES_CLAIM_PAUSES)
			return false;
		CHECK_FOR_INTERRUPTS();
		pg_usleep(ES_CLAIM_PAUSE_US);
	}
	before_shmem_exit(es_wakeup_release, (Datum) 0);

	/* the entry may be of a database that was dropped and had the same OID */
	es_wakeup_unpublish(entry);
	pg_atomic_write_u32(&entry->wanted, 1);
	pg_atomic_write_u32(&entry->worker, es_proc_number() + 1);
	return true;
}

/*
 * How many sessions sleep.
 */
int
es_wakeup_waiters(void)
{
	return (int) pg_atomic_read_u32(&es_wakeup_get()->waiters);
}

/*
 * The worker is about to look: who comes now may be too late for it.
 *
 * Result: what es_wakeup_end_look wants to know.
 */
uint32
es_wakeup_begin_look(void)
{
	pg_atomic_write_u32(&es_wakeup_get()->resting, 0);
	pg_atomic_write_u32(&es_wakeup_get()->called, 0);
	pg_memory_barrier();
	return pg_atomic_read_u32(&es_wakeup_get()->followed);
}

/*
 * The worker has looked.
 *
 * before		result of es_wakeup_begin_look
 * followed		its tasks want to hear of events.  No has no effect when
 *				somebody has given them something since.
 */
void
es_wakeup_end_look(uint32 before, bool followed)
{
	uint32		now = followed ? before | 1 : before & ~(uint32) 1;

	(void) pg_atomic_compare_exchange_u32(&es_wakeup_get()->followed, &before, now);
}

/*
 * Will the worker look again without being asked?  It has said so, but need
 * not where nobody is to be told.
 */
bool
es_wakeup_keep_looking(void)
{
	if (es_wakeup_wanted(es_wakeup_get()))
		return true;

	/* who has come since relies on what it was told, or looks for himself */
	pg_atomic_write_u32(&es_wakeup_get()->resting, 0);
	return es_wakeup_wanted(es_wakeup_get());
}

/*
 * Has somebody called the worker since it began to look?  Its latch does not
 * tell: where the worker waited for a lock it was reset.
 */
bool
es_wakeup_called(void)
{
	return pg_atomic_read_u32(&es_wakeup_get()->called) != 0;
}

/*
 * The worker wants to end.
 *
 * Result: false if somebody has called it, relying on its being there.
 */
bool
es_wakeup_retire(void)
{
	uint32		worker;

	/* before: who finds no worker wants another one */
	es_wakeup_resign();
	worker = pg_atomic_exchange_u32(&es_wakeup_get()->worker, 0);
	if (!es_wakeup_called())
		return true;
	pg_atomic_write_u32(&es_wakeup_get()->wanted, 1);
	pg_atomic_write_u32(&es_wakeup_get()->worker, worker);
	return false;
}

/*
 * The launcher need not start another worker for this database.
 */
void
es_wakeup_resign(void)
{
	EsWakeupEntry *entry = es_wakeup_find(MyDatabaseId);

	if (entry != NULL)
		pg_atomic_write_u32(&entry->wanted, 0);
}

static void
es_wakeup_launcher_exit(int code, Datum arg)
{
	pg_atomic_write_u32(&es_wakeup_shared->launcher, 0);

	/* the next one finds out for itself what there is to wait for */
	es_slot_launcher_served(false);
}

/*
 * Become the launcher, whose latch is set when a worker ends.
 */
void
es_wakeup_launcher_begin(void)
{
	before_shmem_exit(es_wakeup_launcher_exit, (Datum) 0);
	pg_atomic_write_u32(&es_wakeup_shared->launcher, es_proc_number() + 1);
}

/*
 * Is there a worker in a database?
 */
bool
es_wakeup_has_worker(Oid database)
{
	EsWakeupEntry *entry = es_wakeup_find(database);

	return entry != NULL && pg_atomic_read_u32(&entry->worker) != 0;
}

/*
 * Has a session of a database started a worker that has not had the time yet
 * to begin?
 */
bool
es_wakeup_is_starting(Oid database)
{
	EsWakeupEntry *entry = es_wakeup_find(database);

	return entry != NULL && pg_atomic_read_u64(&entry->waiting_since) == 0 &&
		!es_time_is_up((TimestampTz) pg_atomic_read_u64(&entry->attempted_at),
					   GetCurrentTimestamp(), ES_WORKER_RETRY_MS);
}

/*
 * Databases whose worker has ended for another reason than that there was
 * nothing to do.
 *
 * Result: OIDs in the current memory context.
 */
List *
es_wakeup_orphans(void)
{
	int			used = es_wakeup_used();
	List	   *result = NIL;

	LWLockAcquire(AddinShmemInitLock, LW_SHARED);
	for (int i = 0; i < used; i++)
	{
		EsWakeupEntry *entry = &es_wakeup_shared->entries[i];

		if (OidIsValid(entry->dboid) && pg_atomic_read_u32(&entry->worker) == 0 &&
			(pg_atomic_read_u32(&entry->wanted) != 0 ||
			 pg_atomic_read_u64(&entry->waiting_since) != 0))
			result = lappend_oid(result, entry->dboid);
	}
	LWLockRelease(AddinShmemInitLock);
	return result;
}

/*
 * Tell everybody the settled head of a store.
 *
 * resting		the worker will look again without being asked, and first call
 *				es_wakeup_begin_look
 */
void
es_wakeup_publish(Oid store, int64 head, bool resting)
{
	EsWakeupEntry *entry = es_wakeup_get();

	if (pg_atomic_read_u32(&entry->store) != store)
	{
		es_wakeup_unpublish(entry);
		pg_atomic_write_u32(&entry->store, store);
	}
	if ((int64) pg_atomic_read_u64(&entry->head) < head)
		pg_atomic_write_u64(&entry->head, (uint64) head);
	pg_atomic_write_u32(&entry->resting, resting);
	es_wakeup_broadcast();
}

/*
 * Called once per process, from _PG_init.
 */
void
es_wakeup_init(void)
{
	RegisterXactCallback(es_wakeup_xact_callback, NULL);
	es_wakeup_shared_init();
}
