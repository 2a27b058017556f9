/*-------------------------------------------------------------------------
 * log/queue.c
 *	  Who waits for a stream that many append to.
 *
 * The lock manager hands a lock that is released to the one who has waited
 * longest.  He sleeps, and until he has a processor nobody can have the lock,
 * so where many append to one stream it is held for the time of a process
 * switch after each of them.  So whoever finds a stream's lock taken does not
 * queue up in the lock manager at once.  He sleeps here, and when the lock is
 * released one of the sleepers is woken, to try again; who comes just then, and
 * is running, gets the lock before him.
 *
 * That is unfair and unknown to the deadlock detector, thus only for
 * ES_QUEUE_MS.  Who has not got the lock by then queues up in the lock manager, and
 * that gives the lock to nobody else while somebody is queued up there.  So
 * nothing hangs on what happens here but time: whoever gives up a lock without
 * a word, as who commits a prepared transaction does, or a subtransaction that
 * another one is inside of, makes others wait that long.
 *
 * There is a queue for each of a few streams, and others are waited for in the lock
 * manager.  In pg_stat_activity waiting here looks like waiting there; pg_locks
 * does not show it, and lock_timeout begins when it is over.
 *
 * Preloaded libraries only.
 *
 * Lock: a spinlock in each queue; nothing else is taken under it.
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "miscadmin.h"
#include "portability/instr_time.h"
#include "storage/condition_variable.h"
#include "storage/ipc.h"
#include "storage/lwlock.h"
#include "storage/shmem.h"
#include "storage/spin.h"

#include "base/compat.h"
#include "base/fault.h"
#include "base/lock.h"
#include "base/shmem.h"
#include "log/queue.h"
#include "settings.h"

#define ES_NUM_QUEUES	64

/* how long one waits here, in milliseconds */
#define ES_QUEUE_MS		es_fault_queue_ms	/* 20 */

typedef union EsQueue
{
	struct
	{
		slock_t		lock;
		int			nwaiting;	/* 0 = the queue is free */
		Oid			database;
		uint32		high;		/* of the stream's lock */
		uint32		low;
		ConditionVariable released;
	}			q;
	char		pad[PG_CACHE_LINE_SIZE];
} EsQueue;

/* NULL without shared_preload_libraries */
static EsQueue *es_queues = NULL;

/* where this process is counted, NULL = nowhere */
static EsQueue *es_my_queue = NULL;

static void
es_queue_startup(void)
{
	bool		found;

	LWLockAcquire(AddinShmemInitLock, LW_EXCLUSIVE);
	es_queues = ShmemInitStruct("event_store queues", sizeof(EsQueue) * ES_NUM_QUEUES, &found);
	if (!found)
	{
		memset(es_queues, 0, sizeof(EsQueue) * ES_NUM_QUEUES);
		for (int i = 0; i < ES_NUM_QUEUES; i++)
		{
			SpinLockInit(&es_queues[i].q.lock);
			ConditionVariableInit(&es_queues[i].q.released);
		}
	}
	LWLockRelease(AddinShmemInitLock);
}

/*
 * The only queue that a stream can have.
 */
static inline EsQueue *
es_queue_of(const LOCKTAG *tag)
{
	return &es_queues[(tag->locktag_field3 + tag->locktag_field1) % ES_NUM_QUEUES];
}

static inline bool
es_queue_is_of(const EsQueue *queue, const LOCKTAG *tag)
{
	return queue->q.database == tag->locktag_field1 && queue->q.high == tag->locktag_field2 &&
		queue->q.low == tag->locktag_field3;
}

/*
 * Count this process among those who wait for a stream.
 *
 * Result: false if others use the queue.
 */
static bool
es_queue_enter(EsQueue *queue, const LOCKTAG *tag)
{
	bool		ours;

	SpinLockAcquire(&queue->q.lock);
	if (queue->q.nwaiting == 0)
	{
		queue->q.database = tag->locktag_field1;
		queue->q.high = tag->locktag_field2;
		queue->q.low = tag->locktag_field3;
	}
	ours = es_queue_is_of(queue, tag);
	if (ours)
		queue->q.nwaiting++;
	SpinLockRelease(&queue->q.lock);
	if (ours)
		es_my_queue = queue;
	return ours;
}

static void
es_queue_leave(void)
{
	SpinLockAcquire(&es_my_queue->q.lock);
	es_my_queue->q.nwaiting--;
	SpinLockRelease(&es_my_queue->q.lock);
	es_my_queue = NULL;
}

/*
 * Leave without having tried again: a wake-up that has come meanwhile is for
 * another one then.
 */
static void
es_queue_give_up(void)
{
	ConditionVariableCancelSleep();
	ConditionVariableSignal(&es_my_queue->q.released);
	es_queue_leave();
}

/*
 * Process exit without an error, of who is told to end.
 */
static void
es_queue_exit(int code, Datum arg)
{
	if (es_my_queue != NULL)
		es_queue_give_up();
}

/*
 * Wait for a lock as long as one waits here.
 */
static LockAcquireResult
es_queue_wait(EsQueue *queue, const LOCKTAG *tag)
{
	instr_time	start;
	LockAcquireResult result;

	/* by a clock that nobody sets back */
	INSTR_TIME_SET_CURRENT(start);

	/* a release from here on wakes us, one before we find */
	ConditionVariablePrepareToSleep(&queue->q.released);
	ES_FAULT_POINT("queued");
	for (;;)
	{
		instr_time	now;
		long		left;

		result = es_lock(tag, ExclusiveLock, true);
		INSTR_TIME_SET_CURRENT(now);
		INSTR_TIME_SUBTRACT(now, start);
		left = ES_QUEUE_MS - (long) INSTR_TIME_GET_MILLISEC(now);
		if (result != LOCKACQUIRE_NOT_AVAIL || left <= 0)
			break;
		(void) ConditionVariableTimedSleep(&queue->q.released, left,
										   PG_WAIT_LOCK | LOCKTAG_ADVISORY);
	}
	ConditionVariableCancelSleep();
	return result;
}

/*
 * Acquire the exclusive lock of a stream.
 */
LockAcquireResult
es_queue_lock(const LOCKTAG *tag)
{
	static bool exit_registered = false;
	EsQueue    *queue;
	LockAcquireResult result;

	if (es_queues == NULL || !es_early_lock_release ||
		(LockTimeout > 0 && LockTimeout <= ES_QUEUE_MS))
		return es_lock(tag, ExclusiveLock, false);

	result = es_lock(tag, ExclusiveLock, true);
	if (likely(result != LOCKACQUIRE_NOT_AVAIL))
		return result;
	if (!exit_registered)
	{
		before_shmem_exit(es_queue_exit, (Datum) 0);
		exit_registered = true;
	}
	queue = es_queue_of(tag);
	if (es_queue_enter(queue, tag))
	{
		PG_TRY();
		{
			result = es_queue_wait(queue, tag);
		}
		PG_CATCH();
		{
			es_queue_give_up();
			PG_RE_THROW();
		}
		PG_END_TRY();
		es_queue_leave();
	}
	if (result == LOCKACQUIRE_NOT_AVAIL)
		result = es_lock(tag, ExclusiveLock, false);
	return result;
}

/*
 * Does anybody wait here for a lock?
 */
bool
es_queue_has_waiters(const LOCKTAG *tag)
{
	EsQueue    *queue = es_queue_of(tag);

	return queue->q.nwaiting > 0 && es_queue_is_of(queue, tag);
}

/*
 * A lock may have been released: let one who waits for it try.
 */
void
es_queue_wake(const LOCKTAG *tag)
{
	if (es_queues == NULL)
		return;

	/* who has not counted himself yet will find the lock free */
	pg_memory_barrier();
	if (es_queue_has_waiters(tag))
		ConditionVariableSignal(&es_queue_of(tag)->q.released);
}

/*
 * Locks have been released of which nobody knows any more.
 */
void
es_queue_wake_all(void)
{
	pg_memory_barrier();
	for (int i = 0; i < ES_NUM_QUEUES; i++)
	{
		if (es_queues[i].q.nwaiting > 0)
			ConditionVariableBroadcast(&es_queues[i].q.released);
	}
}

/*
 * Called once per process, from _PG_init.
 */
void
es_queue_init(void)
{
	es_shmem_preload(sizeof(EsQueue) * ES_NUM_QUEUES, es_queue_startup);
}
