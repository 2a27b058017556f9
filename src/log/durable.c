/*-------------------------------------------------------------------------
 * log/durable.c
 *	  Locks that go before the flush, and readers who wait for it.
 *
 * A commit writes its record, flushes it, becomes visible, and releases its
 * locks.  So whoever waits for a stream waits for a flush, and the next one
 * for the next flush: of many who append to one stream each needs a flush of
 * his own.  Therefore a transaction for whose streams others are waiting
 * commits as with synchronous_commit = off: it writes its record, becomes
 * visible, releases its locks, and only then waits for the flush, still inside
 * the commit.  The next one goes on meanwhile, and one flush serves them all.
 *
 * Nobody is told anything that a crash may take back:
 *
 * - The appender gets his answer after the flush, like ever.  It comes from
 *	 CommitTransaction (RESOURCE_RELEASE_AFTER_LOCKS), whatever has called that.
 *	 What an append answers before that, in a transaction that goes on, follows
 *	 an event that may not be on disk yet.  It holds when the transaction is
 *	 committed, as anything does that it is told of its own writes; to wait there,
 *	 under the stream's lock, would be a flush for each of those who queue up.
 * - A crash takes back a suffix of the WAL.  Who decides on what he finds under
 *	 a stream's lock has a later commit record, so an answer of his that is
 *	 given after a commit stands on durable ground.  Answers that need no commit
 *	 record (errors, duplicates, streams that were only checked) wait, here.
 * - A reader has a snapshot that may show such a transaction.  What he is
 *	 given, events, versions, heads, he is given after it is on disk: the
 *	 transaction has put the position of its first event into a slot before it
 *	 wrote its commit record, so before any snapshot could show it, and empties
 *	 that after the flush.  es_durable_below and es_durable_wait look there,
 *	 after the snapshot was taken.  Below the lowest position in a slot there
 *	 is nothing to wait for.
 * - All wings read through log/scan.c, log/head.c, log/event.c and
 *	 read/reader.c, which see to it; so projections and subscriptions never get
 *	 hold of anything else, and the worker announces nothing else.
 * - Who reads the tables and views in queries of his own is stopped at the
 *	 start of the executor, and COPY of a table before it begins.  That takes
 *	 hooks in each session, so all of this is done with
 *	 shared_preload_libraries only.
 * - Standbys, logical decoding and archives get what is flushed anyway.
 *
 * - Who asks pg_xact_status() what became of a transaction, whose id he has got
 *	 from xmin, pg_locks or pg_stat_activity, waits when his statement begins.
 *
 * That is so only for events, so the transaction must have done nothing else
 * that others could see: it had no id before its first append, has written
 * nothing to the WAL beside its appends, has no NOTIFY pending, and has not
 * asked for its id.  It takes the
 * ordinary way also where it has to wait for synchronous standbys, if it is
 * prepared, if nobody waits for its streams, and if there is no free slot.
 * What is lost in between is the transaction of someone who was told nothing,
 * as if the crash had come before the commit.
 *
 * Who waits for a stream sleeps in log/queue.c, and is woken from here.  What is
 * left of a queue at one stream is a sleep and a wake-up for most
 * appends, some 20 us of CPU time.  They would go if one session wrote for all
 * who wait.  But then the events of many were of one transaction, of which the
 * others know nothing: they would stay when theirs, of which the append is one
 * statement, rolls back, and vanish when his does.  Tried and not kept: to give
 * up the CPU and try again instead of sleeping (196 us of CPU time an append
 * instead of 135, and 0.7 times the throughput; 16 clients, two CPUs); to let
 * others run before the flush (it served no more commits); to release the
 * streams in the callback of the commit, a little sooner (no faster).
 *
 * Beyond our reach are modules that read the tables below the executor
 * (pageinspect), who asks pg_xact_status() again in the same statement or sees
 * that an id has vanished from pg_locks, and what another module writes in a
 * callback of its own when ours has already decided: that is seen as early as the
 * events.
 *
 * PostgreSQL itself copes with commits that are visible and not flushed: pages
 * of pg_xact with them are not written before the WAL, hint bits neither.
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/xact.h"
#include "access/xlog.h"
#include "access/xlog_internal.h"
#include "catalog/namespace.h"
#include "catalog/objectaccess.h"
#include "commands/async.h"
#include "executor/executor.h"
#include "nodes/parsenodes.h"
#include "replication/syncrep.h"
#include "replication/walsender.h"
#include "storage/shmem.h"
#include "tcop/utility.h"
#include "utils/lsyscache.h"
#include "utils/resowner.h"

#include "base/compat.h"
#include "base/fault.h"
#include "base/shmem.h"
#include "log/durable.h"
#include "log/last.h"
#include "log/queue.h"
#include "settings.h"

/* transactions that are on this way at a time; more take the ordinary one */
#define ES_DURABLE_SLOTS	64

/* locks of one transaction at which is looked whether somebody waits */
#define ES_DURABLE_LOCKS	8

/* functions by which a transaction learns its id; the same OIDs in all releases */
#define ES_TXID_CURRENT						2943
#define ES_TXID_CURRENT_IF_ASSIGNED			3348
#define ES_PG_CURRENT_XACT_ID				5059
#define ES_PG_CURRENT_XACT_ID_IF_ASSIGNED	5060

/* functions by which others learn what became of it */
#define ES_TXID_STATUS						3360
#define ES_PG_XACT_STATUS					5066

/* a transaction that is visible before it is on disk, or about to become so */
typedef struct EsDurableSlot
{
	pg_atomic_uint32 database;	/* 0 = the slot is free */
	pg_atomic_uint64 position;	/* of its first event */
	pg_atomic_uint64 commit;	/* end of its commit record, 0 = not known yet */
} EsDurableSlot;

typedef struct EsDurableShared
{
	pg_atomic_uint32 used;		/* slots that are not free, or soon will be */
	EsDurableSlot slots[ES_DURABLE_SLOTS];
} EsDurableShared;

/* NULL without shared_preload_libraries */
static EsDurableShared *es_durable = NULL;

/* the slot of this transaction, NULL = it goes the ordinary way */
static EsDurableSlot *es_my_slot = NULL;

/* synchronous_commit, while it is off for a commit of ours */
static int	es_saved_commit = 0;

/* the end of its commit record, while it has not been flushed; 0 = none */
static XLogRecPtr es_commit_end = InvalidXLogRecPtr;

/* this transaction: of its appends the lowest position, 0 = none */
static int64 es_append_position = 0;

/* end of the WAL of the last one */
static XLogRecPtr es_append_end = InvalidXLogRecPtr;

/* whether it does anything else, and whether it must not commit asynchronously */
static bool es_append_mixed = false;
static bool es_append_forced = false;

/* a lock that others may wait for */
typedef struct EsHeldLock
{
	LOCKTAG		tag;
	bool		is_kept;		/* to the end of the transaction, for sure */
} EsHeldLock;

static EsHeldLock es_held[ES_DURABLE_LOCKS];
static int	es_nheld = 0;
static bool es_held_more = false;	/* there are more */
static bool es_held_unsure = false; /* some may have been given back */

static ExecutorStart_hook_type prev_executor_start = NULL;
static ProcessUtility_hook_type prev_process_utility = NULL;
static object_access_hook_type prev_object_access = NULL;

static void
es_durable_startup(void)
{
	bool		found;

	LWLockAcquire(AddinShmemInitLock, LW_EXCLUSIVE);
	es_durable = ShmemInitStruct("event_store commits", sizeof(EsDurableShared), &found);
	if (!found)
	{
		pg_atomic_init_u32(&es_durable->used, 0);
		for (int i = 0; i < ES_DURABLE_SLOTS; i++)
		{
			pg_atomic_init_u32(&es_durable->slots[i].database, 0);
			pg_atomic_init_u64(&es_durable->slots[i].position, 0);
			pg_atomic_init_u64(&es_durable->slots[i].commit, 0);
		}
	}
	LWLockRelease(AddinShmemInitLock);
}

/*
 * Before an append writes anything.
 */
void
es_durable_begin_append(void)
{
	if (es_append_position == 0 ? TransactionIdIsValid(GetTopTransactionIdIfAny()) :
		XactLastRecEnd != es_append_end)
		es_append_mixed = true;
}

/*
 * After it has.
 *
 * position		of its first event
 */
void
es_durable_end_append(int64 position)
{
	if (es_append_position == 0)
		es_append_position = position;
	es_append_end = XactLastRecEnd;
	es_append_forced |= es_force_sync_commit;
}

/*
 * This transaction has got an exclusive lock.  If it ends with it, whoever waits
 * is woken.
 */
void
es_durable_hold(const LOCKTAG *tag)
{
	if (es_durable == NULL)
		return;
	if (es_nheld < ES_DURABLE_LOCKS)
	{
		es_held[es_nheld].tag = *tag;
		es_held[es_nheld++].is_kept = false;
	}
	else
		es_held_more = true;
}

static EsHeldLock *
es_durable_last_held(const LOCKTAG *tag)
{
	if (es_nheld > 0 && memcmp(&es_held[es_nheld - 1].tag, tag, sizeof(LOCKTAG)) == 0)
		return &es_held[es_nheld - 1];
	return NULL;
}

/*
 * The lock that it has got last is kept to the end.
 */
void
es_durable_keep(const LOCKTAG *tag)
{
	EsHeldLock *held = es_durable_last_held(tag);

	if (held != NULL)
		held->is_kept = true;
}

/*
 * It has been released.
 */
void
es_durable_give_back(const LOCKTAG *tag)
{
	EsHeldLock *held = es_durable_last_held(tag);

	if (held != NULL && !held->is_kept)
		es_nheld--;
}

/*
 * Locks have been released, or maybe so.
 */
static void
es_durable_wake(void)
{
	for (int i = 0; i < es_nheld; i++)
		es_queue_wake(&es_held[i].tag);
	if (es_held_more)
		es_queue_wake_all();
}

static void
es_durable_hold_none(void)
{
	es_nheld = 0;
	es_held_more = es_held_unsure = false;
}

/*
 * Does anybody wait for this transaction?
 */
static bool
es_durable_has_waiters(void)
{
	LOCKTAG		tag;

	for (int i = 0; i < es_nheld; i++)
	{
		if (es_queue_has_waiters(&es_held[i].tag) ||
			(es_held[i].is_kept && !es_held_unsure &&
			 LockHasWaiters(&es_held[i].tag, ExclusiveLock, false)))
			return true;
	}

	/* for a stream that it creates, or what its events mean for a condition */
	SET_LOCKTAG_TRANSACTION(tag, GetTopTransactionId());
	return LockHasWaiters(&tag, ExclusiveLock, false);
}

/*
 * Has this transaction a NOTIFY for others?  Nothing but this call tells.
 */
static bool
es_durable_notifies(void)
{
	MemoryContext old_context = CurrentMemoryContext;
	volatile bool notifies = false;

	PG_TRY();
	{
		AtPrepare_Notify();
	}
	PG_CATCH();
	{
		MemoryContextSwitchTo(old_context);
		FlushErrorState();
		notifies = true;
	}
	PG_END_TRY();
	return notifies;
}

/*
 * Take a free slot, for a transaction that will soon be visible.
 *
 * Result: NULL when there is none.
 */
static EsDurableSlot *
es_durable_slot_take(int64 position)
{
	uint32		first = es_proc_number();

	/* before the slot, whose user must not be overlooked */
	pg_atomic_fetch_add_u32(&es_durable->used, 1);
	for (int i = 0; i < ES_DURABLE_SLOTS; i++)
	{
		EsDurableSlot *slot = &es_durable->slots[(first + i) % ES_DURABLE_SLOTS];
		uint32		none = 0;

		if (pg_atomic_compare_exchange_u32(&slot->database, &none, MyDatabaseId))
		{
			/* whoever reads the old values cannot see this transaction yet */
			pg_atomic_write_u64(&slot->commit, InvalidXLogRecPtr);
			pg_atomic_write_u64(&slot->position, position);
			return slot;
		}
	}
	pg_atomic_fetch_sub_u32(&es_durable->used, 1);
	return NULL;
}

static void
es_durable_slot_free(EsDurableSlot *slot)
{
	pg_memory_barrier();
	pg_atomic_write_u32(&slot->database, 0);
	pg_atomic_fetch_sub_u32(&es_durable->used, 1);
}

/*
 * Will this commit have to wait for a synchronous standby?
 *
 * That is decided by what is in shared memory, as PostgreSQL does: a session
 * reads the setting anew between its statements only, and one that has waited
 * for a stream since before a standby was named does not know of it.
 */
static bool
es_durable_waits_for_standby(void)
{
	return SyncRepRequested() && !es_fault_no_standby &&
		((SyncRepStandbyNames != NULL && SyncRepStandbyNames[0] != '\0') ||
		 es_sync_standbys_defined());
}

/*
 * Can this transaction become visible before it is on disk?
 */
static bool
es_durable_may_go_first(void)
{
	return es_durable != NULL && es_early_lock_release &&
		!es_append_mixed && XactLastRecEnd == es_append_end &&
		!es_durable_waits_for_standby() &&
		es_durable_has_waiters() &&
		!es_durable_notifies();
}

/*
 * The transaction is about to commit: which way?
 */
static void
es_durable_pre_commit(void)
{
	if (es_append_position == 0 ||
		(synchronous_commit == SYNCHRONOUS_COMMIT_OFF && !es_append_forced))
		return;

	if (es_durable_may_go_first())
		es_my_slot = es_durable_slot_take(es_append_position);
	if (es_my_slot == NULL)
	{
		if (es_append_forced)
			ForceSyncCommit();
		return;
	}
	es_saved_commit = synchronous_commit;
	synchronous_commit = SYNCHRONOUS_COMMIT_OFF;
}

static void
es_durable_xact_callback(XactEvent event, void *arg)
{
	switch (event)
	{
		case XACT_EVENT_PRE_COMMIT:
			es_durable_pre_commit();
			return;
		case XACT_EVENT_COMMIT:
		case XACT_EVENT_ABORT:
		case XACT_EVENT_PREPARE:
			break;
		default:
			return;
	}

	if (es_my_slot != NULL)
	{
		synchronous_commit = es_saved_commit;
		if (event == XACT_EVENT_COMMIT)
		{
			ES_FAULT_POINT("commit_ended");
			es_commit_end = XactLastCommitEnd;
			pg_atomic_write_u64(&es_my_slot->commit, es_commit_end);
		}
		else
		{
			es_durable_slot_free(es_my_slot);
			es_my_slot = NULL;
		}
	}
	es_append_position = 0;
	es_append_mixed = es_append_forced = false;
	if (event == XACT_EVENT_PREPARE)
		es_durable_hold_none();
}

/*
 * A subtransaction that aborts may give back locks.
 */
static void
es_durable_subxact_callback(SubXactEvent event, SubTransactionId subid,
							SubTransactionId parent, void *arg)
{
	if (event == SUBXACT_EVENT_ABORT_SUB && es_nheld > 0)
		es_held_unsure = true;
}

/*
 * The end of a transaction or subtransaction has released its locks: the rest of
 * it.  Interrupts are held off, as they are for the flush of an ordinary commit.
 */
static void
es_durable_release(ResourceReleasePhase phase, bool is_commit, bool is_top, void *arg)
{
	if (phase != RESOURCE_RELEASE_AFTER_LOCKS)
		return;
	if (es_nheld > 0 && (is_top || !is_commit))
		es_durable_wake();
	if (!is_top)
		return;
	es_durable_hold_none();
	if (likely(es_commit_end == InvalidXLogRecPtr))
		return;

	ES_FAULT_POINT("commit_visible");
	XLogFlush(es_commit_end);
	es_durable_slot_free(es_my_slot);
	es_my_slot = NULL;

	/* in case that synchronous standbys have been named in this moment */
	SyncRepWaitForLSN(es_commit_end, true);
	es_commit_end = InvalidXLogRecPtr;
}

/*
 * Position below which every event that a snapshot taken before shows is on
 * disk.
 *
 * Result: PG_INT64_MAX if all are.
 */
int64
es_durable_below(void)
{
	int64		result = PG_INT64_MAX;

	if (es_durable == NULL)
		return result;

	/* after the snapshot */
	pg_memory_barrier();
	if (likely(pg_atomic_read_u32(&es_durable->used) == 0))
		return result;
	for (int i = 0; i < ES_DURABLE_SLOTS; i++)
	{
		EsDurableSlot *slot = &es_durable->slots[i];

		if (pg_atomic_read_u32(&slot->database) == MyDatabaseId)
			result = Min(result, (int64) pg_atomic_read_u64(&slot->position));
	}
	return result;
}

/*
 * End of what has been inserted into the WAL by now, as the end of a record.
 */
static XLogRecPtr
es_wal_end(void)
{
	XLogRecPtr	next = GetXLogInsertRecPtr();
	uint64		offset = next % XLOG_BLCKSZ;
	uint64		header = XLogSegmentOffset(next, wal_segment_size) < XLOG_BLCKSZ ?
		SizeOfXLogLongPHD : SizeOfXLogShortPHD;

	/* that is where the next record begins: maybe behind a header that is not there yet */
	return offset == header ? next - offset : next;
}

/*
 * Wait until every event that is visible by now is on disk.
 */
void
es_durable_wait(void)
{
	XLogRecPtr	upto = InvalidXLogRecPtr;

	if (es_durable == NULL || es_fault_no_flush)
		return;
	pg_memory_barrier();
	if (likely(pg_atomic_read_u32(&es_durable->used) == 0))
		return;
	for (int i = 0; i < ES_DURABLE_SLOTS; i++)
	{
		EsDurableSlot *slot = &es_durable->slots[i];

		if (slot != es_my_slot && pg_atomic_read_u32(&slot->database) == MyDatabaseId)
		{
			XLogRecPtr	commit = pg_atomic_read_u64(&slot->commit);

			/* it may be visible already, and not have said where its record ends */
			upto = Max(upto, commit != InvalidXLogRecPtr ? commit : es_wal_end());
		}
	}
	if (upto != InvalidXLogRecPtr)
		XLogFlush(upto);
}

/*
 * A query is about to begin, with a snapshot: does it read our tables?
 */
static pg_noinline void
es_durable_check_query(List *rtable)
{
	Oid			schema = get_namespace_oid("event_store", true);
	ListCell   *lc;

	if (!OidIsValid(schema))
		return;
	foreach(lc, rtable)
	{
		RangeTblEntry *rte = lfirst_node(RangeTblEntry, lc);

		if (rte->rtekind == RTE_RELATION && get_rel_namespace(rte->relid) == schema)
		{
			es_durable_wait();
			return;
		}
	}
}

static void
es_durable_executor_start(QueryDesc *query, int eflags)
{
	/* it may write into an unlogged table, of which the WAL says nothing */
	if (query->operation != CMD_SELECT || query->plannedstmt->hasModifyingCTE)
		es_append_mixed = true;
	if (unlikely(es_durable_below() != PG_INT64_MAX))
		es_durable_check_query(query->plannedstmt->rtable);
	if (prev_executor_start)
		prev_executor_start(query, eflags);
	else
		standard_ExecutorStart(query, eflags);
}

/*
 * COPY of a table does not go through the executor.  What ALTER TABLE and DROP
 * DATABASE may change, log/last.c cannot see.
 */
static void
es_durable_utility(ES_PROCESS_UTILITY_ARGS)
{
	Node	   *statement = pstmt->utilityStmt;

	if (IsA(statement, CopyStmt))
	{
		if (((CopyStmt *) statement)->is_from)
			es_append_mixed = true;
		else
			es_durable_wait();
	}
	if (prev_process_utility)
		prev_process_utility(ES_PROCESS_UTILITY_CALL);
	else
		standard_ProcessUtility(ES_PROCESS_UTILITY_CALL);

	/* the guard may have been off; or its OID is another database's next */
	if (IsA(statement, AlterTableStmt) || IsA(statement, DropdbStmt))
		es_last_forget_all();
}

/*
 * Whoever knows the id of a transaction can ask what became of it.
 */
static void
es_durable_object_access(ObjectAccessType access, Oid class, Oid object, int subid, void *arg)
{
	if (prev_object_access)
		prev_object_access(access, class, object, subid, arg);
	if (access == OAT_FUNCTION_EXECUTE &&
		(object == ES_TXID_CURRENT || object == ES_TXID_CURRENT_IF_ASSIGNED ||
		 object == ES_PG_CURRENT_XACT_ID || object == ES_PG_CURRENT_XACT_ID_IF_ASSIGNED))
		es_append_mixed = true;
	else if (access == OAT_FUNCTION_EXECUTE &&
			 (object == ES_TXID_STATUS || object == ES_PG_XACT_STATUS))
		es_durable_wait();
}

/*
 * Called once per process, from _PG_init.
 */
void
es_durable_init(void)
{
	RegisterXactCallback(es_durable_xact_callback, NULL);
	RegisterSubXactCallback(es_durable_subxact_callback, NULL);
	RegisterResourceReleaseCallback(es_durable_release, NULL);

	es_shmem_preload(sizeof(EsDurableShared), es_durable_startup);
	if (!process_shared_preload_libraries_in_progress)
		return;

	prev_executor_start = ExecutorStart_hook;
	ExecutorStart_hook = es_durable_executor_start;
	prev_process_utility = ProcessUtility_hook;
	ProcessUtility_hook = es_durable_utility;
	prev_object_access = object_access_hook;
	object_access_hook = es_durable_object_access;
}
