/*-------------------------------------------------------------------------
 * log/order.c
 *	  Insertion locks and the barrier before commit.
 *
 * Positions are drawn from a sequence, so they become visible in the order
 * of commits, not in their own.  Readers can only cope with that when they
 * see an uncommitted lower position physically: this file makes sure that
 * whenever a position is committed, every lower position is in the position
 * index (or never will be).  PostgreSQL orders its WAL the same way, see
 * WALInsertLocks and WaitXLogInsertionsToFinish in xlog.c.
 *
 * An appender takes one of ES_NUM_INSERT_LOCKS insertion locks, draws its
 * positions, publishes the lowest in the lock's variable, inserts, releases.
 * Before its transaction commits or is prepared it passes the barrier: for
 * each lock it waits until the lock is free or the variable is not below its
 * own highest position.  That is a wait of microseconds for an insertion in
 * progress, never for a commit.
 *
 * Lock rules: the insertion lock comes before any buffer lock and nothing
 * that can wait for another transaction happens under it.  The variable is
 * written by the holder only.  A holder that fails loses the lock through
 * LWLockReleaseAll, which leaves the variable behind; the next holder resets
 * it to 0 ("not known yet") before it draws.  The locks serve all databases
 * of the server; a variable of another database's order can only make the
 * barrier wait a little for nothing.
 *
 * The array needs about 1 kB.  With shared_preload_libraries it is requested
 * at start; otherwise the first append takes it from the slack that every
 * server keeps.  Nothing in it has to survive a crash.  Sessions that began
 * before an update of the extension go on with the old library and use the
 * same array: its name, layout and meaning are the same in all versions.
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/xact.h"
#include "storage/shmem.h"

#include "base/compat.h"
#include "base/fault.h"
#include "base/shmem.h"
#include "log/order.h"

#define ES_NUM_INSERT_LOCKS		8	/* as NUM_XLOGINSERT_LOCKS */

typedef union EsInsertLock
{
	struct
	{
		LWLock		lock;
		EsLockVar	inserting;	/* lowest position being inserted; 0 = not
								 * known yet */
	}			l;
	char		pad[PG_CACHE_LINE_SIZE];
} EsInsertLock;

typedef struct EsOrderShared
{
	EsInsertLock locks[ES_NUM_INSERT_LOCKS];
	int			tranche_id;
} EsOrderShared;

static EsOrderShared *es_order = NULL;

/* the lock that this backend holds, NULL when none */
static EsInsertLock *es_my_lock = NULL;

/* highest position drawn by this transaction, 0 = none */
static int64 es_xact_highest = 0;

/* subtransaction of the first append that has not been rolled back */
static SubTransactionId es_first_subid = InvalidSubTransactionId;

/*
 * Find or make the shared array.
 */
static void
es_order_create(void)
{
	EsOrderShared *shared;
	bool		found;

	LWLockAcquire(AddinShmemInitLock, LW_EXCLUSIVE);
	shared = ShmemInitStruct("event_store insertion locks",
							 sizeof(EsOrderShared), &found);
	if (!found)
	{
		shared->tranche_id = LWLockNewTrancheId();
		for (int i = 0; i < ES_NUM_INSERT_LOCKS; i++)
		{
			LWLockInitialize(&shared->locks[i].l.lock, shared->tranche_id);
			es_lock_var_init(&shared->locks[i].l.inserting);
		}
	}
	LWLockRelease(AddinShmemInitLock);

	LWLockRegisterTranche(shared->tranche_id, "event_store_insert");
	es_order = shared;
}

/*
 * Make sure that this backend can use the insertion locks.
 *
 * Errors: 53200 when the server has no room left for them.  That is the same
 * for every backend, so none can append without locks that another one holds.
 */
void
es_order_attach(void)
{
	if (likely(es_order != NULL))
		return;

	PG_TRY();
	{
		es_order_create();
	}
	PG_CATCH();
	{
		if (geterrcode() != ERRCODE_OUT_OF_MEMORY)
			PG_RE_THROW();
		FlushErrorState();
		ereport(ERROR,
				errcode(ERRCODE_OUT_OF_MEMORY),
				errmsg("no shared memory left for the event store's insertion locks"),
				errhint("Add event_store to shared_preload_libraries and restart the server."));
	}
	PG_END_TRY();
}

/*
 * Take this backend's insertion lock.
 *
 * From here to es_order_unlock interrupts are held off.  The caller draws
 * its positions after this call and publishes the lowest at once.
 */
void
es_order_lock(void)
{
	EsInsertLock *lock;

	lock = &es_order->locks[es_backend_number() % ES_NUM_INSERT_LOCKS];
	LWLockAcquire(&lock->l.lock, LW_EXCLUSIVE);

	/*
	 * A variable left behind by a failed holder, maybe of another database,
	 * must not let the barrier pass before ours is known.
	 */
	if (!es_lock_var_is_zero(&lock->l.inserting))
		LWLockUpdateVar(&lock->l.lock, &lock->l.inserting, 0);
	es_my_lock = lock;
}

/*
 * Tell the barriers that positions below "lowest" do not depend on us.
 */
void
es_order_publish(int64 lowest)
{
	LWLockUpdateVar(&es_my_lock->l.lock, &es_my_lock->l.inserting,
					(uint64) lowest);
}

/*
 * Release the insertion lock; everything up to "highest" of ours is inserted.
 */
void
es_order_unlock(int64 highest)
{
	LWLockReleaseClearVar(&es_my_lock->l.lock, &es_my_lock->l.inserting, 0);
	es_my_lock = NULL;
	es_xact_highest = Max(es_xact_highest, highest);
	if (es_first_subid == InvalidSubTransactionId)
		es_first_subid = GetCurrentSubTransactionId();
}

/*
 * Has this transaction appended something that it has not rolled back?
 */
bool
es_order_has_appended(void)
{
	return es_first_subid != InvalidSubTransactionId;
}

/*
 * Wait until no position below this transaction's highest is on its way into
 * the position index.
 *
 * Called before commit and PREPARE, and by readers that may see the
 * transaction's own uncommitted events.
 */
void
es_order_barrier_own(void)
{
	if (es_xact_highest == 0 || es_fault_no_barrier)
		return;

	for (int i = 0; i < ES_NUM_INSERT_LOCKS; i++)
	{
		EsInsertLock *lock = &es_order->locks[i];
		uint64		inserting = 0;

		do
		{
			/* true: the lock is free; else the variable's new value */
			if (LWLockWaitForVar(&lock->l.lock, &lock->l.inserting,
								 inserting, &inserting))
				break;
		} while (inserting < (uint64) es_xact_highest);
	}
}

static void
es_order_xact_callback(XactEvent event, void *arg)
{
	switch (event)
	{
		case XACT_EVENT_PRE_COMMIT:
		case XACT_EVENT_PRE_PREPARE:
			es_order_barrier_own();
			break;
		case XACT_EVENT_COMMIT:
		case XACT_EVENT_ABORT:
		case XACT_EVENT_PREPARE:
			es_xact_highest = 0;
			es_first_subid = InvalidSubTransactionId;
			es_my_lock = NULL;
			break;
		default:
			break;
	}
}

/*
 * Subtransactions are numbered in the order of their start, so what was first
 * appended in one with a number above the aborted one's is gone with it.
 */
static void
es_order_subxact_callback(SubXactEvent event, SubTransactionId subid,
						  SubTransactionId parent, void *arg)
{
	if (event == SUBXACT_EVENT_ABORT_SUB && es_first_subid >= subid)
		es_first_subid = InvalidSubTransactionId;
}

/*
 * Called once per process, from _PG_init.
 */
void
es_order_init(void)
{
	RegisterXactCallback(es_order_xact_callback, NULL);
	RegisterSubXactCallback(es_order_subxact_callback, NULL);

	es_shmem_preload(sizeof(EsOrderShared), es_order_create);
}
