/*-------------------------------------------------------------------------
 * log/last.c
 *	  Last versions of streams, remembered in shared memory.
 *
 * An append has to know how far its stream is.  The index tells, but for that
 * it is descended and a heap page is visited: a third of the instructions of
 * an append that waits for no disk.  So the last versions of many streams are
 * kept in an array in shared memory, a slot for each; of two streams with the
 * same slot the one that was used last has it.  What is not there is looked up
 * in the index as ever: nothing has to be here.
 *
 * What is here is exact for whoever holds the stream's lock (log/stream.c):
 *
 *	- Only the holder writes, whose uncommitted events are its last ones, too.
 *	  It claims the slot when it has locked the stream, and from then on
 *	  whatever inserts events (log/write.c) puts the new version.  If the slot
 *	  has gone to another stream meanwhile, nothing is put.
 *	- When a transaction or subtransaction rolls back, or is prepared, the
 *	  versions that it has put are not exact any longer.  That happens in the
 *	  transaction callbacks, before the locks go.  So a slot never speaks of
 *	  events that are not there, and nobody has to ask what has become of a
 *	  transaction.
 *	- A transaction with very many streams gives up a stream's lock and locks
 *	  its row instead.  It refuses the slot before it does so; a slot that is
 *	  exact says as well that nobody else has locked the row in this way.
 *	- Slots are of a file of the event table in a database, so TRUNCATE and
 *	  whatever else writes the table anew leaves none behind; a table that is
 *	  new in this transaction has none, because it may be emptied in place.
 *	- Rows that do not come from an append, of a restore or by logical
 *	  replication, pass the trigger log/guard.c; with the end of their
 *	  transaction all slots are void, and if that is prepared, by a subscriber
 *	  maybe, nothing is remembered until the next restart.  Where that trigger is not enabled,
 *	  nothing is remembered, and ALTER TABLE, which can disable or enable it,
 *	  makes all slots void (event_store.es_guard_ddl; with 0.1's script, which
 *	  has no such trigger, nothing is remembered).
 *	- Nothing survives a restart.  A standby appends nothing, so it begins with
 *	  an empty array when it is promoted.
 *
 * In REPEATABLE READ and SERIALIZABLE the index is asked all the same, because
 * there it matters who has appended the last event.
 *
 * Only a preloaded library uses the array: then every session has the same
 * one, while a session that has kept the library from before an update would
 * not keep the versions up.  Without it each session remembers for itself what it
 * has seen last, as a lower bound: the search in the index ends there, instead
 * of reading all entries of the stream on a page.
 *
 * Lock: a spinlock in each slot, held for a few instructions; nothing else is
 * taken under it.  The test build compares every exact version with the index
 * (append/append.c).
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/xact.h"
#include "catalog/pg_trigger.h"
#include "commands/trigger.h"
#include "miscadmin.h"
#include "port/atomics.h"
#include "storage/lwlock.h"
#include "storage/shmem.h"
#include "storage/spin.h"
#include "utils/memutils.h"
#include "utils/rel.h"
#include "utils/reltrigger.h"

#include "base/compat.h"
#include "base/fault.h"
#include "base/shmem.h"
#include "log/last.h"

/* slots, powers of two; few in the test build, so that streams have to share them */
#ifdef ES_FAULTS
#define ES_LAST_SHARED_SLOTS	64
#else
#define ES_LAST_SHARED_SLOTS	65536	/* 3 MB */
#endif
#define ES_LAST_LOCAL_SLOTS		4096	/* 200 kB */

/* versions that one transaction puts; the later ones are not exact */
#ifdef ES_FAULTS
#define ES_LAST_MAX_PUTS		128
#else
#define ES_LAST_MAX_PUTS		65536
#endif

typedef struct EsLastSlot
{
	Oid			database;
	Oid			file;			/* of the event table */
	int64		stream_no;
	int32		version;
	slock_t		lock;
	bool		is_exact;
	bool		is_chained;
	uint32		era;			/* es_last_shared->era when it was claimed */
	uint32		claimed_at;		/* transaction that has claimed it, counted by */
	uint32		claimed_by;		/* this process */
	SubTransactionId put_by;	/* the same one's last put; 0 = none */
} EsLastSlot;

typedef struct EsLastShared
{
	pg_atomic_uint32 era;		/* slots of earlier ones are void */
	pg_atomic_uint32 off;		/* nothing is remembered until a restart */
	pg_atomic_uint32 processes; /* that have claimed a slot since the start */
	EsLastSlot	slots[ES_LAST_SHARED_SLOTS];
} EsLastShared;

/* a version that this transaction has put */
typedef struct EsLastPut
{
	EsLastSlot *slot;
	int64		stream_no;
	SubTransactionId subid;
} EsLastPut;

static EsLastShared *es_last_shared = NULL;
static EsLastSlot *es_last_local = NULL;

static EsLastPut *es_last_puts = NULL;
static int	es_last_nputs = 0;
static int	es_last_size = 0;

/* this process among those that have claimed a slot, 0 = not yet; pids come again */
static uint32 es_last_me = 0;

/* transactions of this process, 0 = none yet */
static uint32 es_last_xact = 1;

/* this transaction has put rows into the store that are no appends */
static bool es_last_foreign = false;

static void
es_last_startup(void)
{
	bool		found;

	LWLockAcquire(AddinShmemInitLock, LW_EXCLUSIVE);
	es_last_shared = ShmemInitStruct("event_store last versions " ES_VERSION,
									 sizeof(EsLastShared), &found);
	if (!found)
	{
		memset(es_last_shared, 0, sizeof(EsLastShared));
		pg_atomic_init_u32(&es_last_shared->era, 0);
		pg_atomic_init_u32(&es_last_shared->off, 0);
		pg_atomic_init_u32(&es_last_shared->processes, 0);
		for (int i = 0; i < ES_LAST_SHARED_SLOTS; i++)
			SpinLockInit(&es_last_shared->slots[i].lock);
	}
	LWLockRelease(AddinShmemInitLock);
}

/*
 * All slots are void from now on.
 */
void
es_last_forget_all(void)
{
	if (es_last_shared != NULL)
		pg_atomic_fetch_add_u32(&es_last_shared->era, 1);
}

/*
 * This transaction puts rows into the store that are no appends.
 */
void
es_last_forget_at_commit(void)
{
	es_last_foreign = true;
}

/*
 * The number of the present era: what was remembered in an earlier one is void.
 */
uint32
es_last_era(void)
{
	return pg_atomic_read_u32(&es_last_shared->era);
}

/*
 * Does a table of the store have the guard that keeps rows in it and others out?
 */
bool
es_last_is_guarded(Relation table, const EsStore *store)
{
	TriggerDesc *triggers = table->trigdesc;

	for (int i = 0; triggers != NULL && i < triggers->numtriggers; i++)
	{
		Trigger    *trigger = &triggers->triggers[i];

		if (trigger->tgfoid == store->guard && TRIGGER_FOR_ROW(trigger->tgtype) &&
			TRIGGER_FOR_INSERT(trigger->tgtype) && TRIGGER_FOR_DELETE(trigger->tgtype))
			return trigger->tgenabled == TRIGGER_FIRES_ALWAYS;
	}
	return false;
}

/*
 * May the last versions of this table's streams be remembered for all?
 */
static bool
es_last_is_shared(Relation event, const EsStore *store)
{
	return es_last_shared != NULL && store->hash != 0 && !es_relation_is_new(event) &&
		pg_atomic_read_u32(&es_last_shared->off) == 0 && es_last_is_guarded(event, store);
}

/*
 * The slot of a stream, whoever has it; NULL = there is none.
 */
static EsLastSlot *
es_last_slot(Relation event, const EsStore *store, int64 stream_no, bool *is_shared)
{
	uint32		other = MyDatabaseId * 31 + es_relation_file(event);

	*is_shared = es_last_is_shared(event, store);
	if (likely(*is_shared))
		return &es_last_shared->slots[(stream_no + other) & (ES_LAST_SHARED_SLOTS - 1)];
	if (unlikely(es_last_local == NULL))
		es_last_local = MemoryContextAllocZero(TopMemoryContext,
											   sizeof(EsLastSlot) * ES_LAST_LOCAL_SLOTS);
	return &es_last_local[stream_no & (ES_LAST_LOCAL_SLOTS - 1)];
}

static bool
es_last_is_of(const EsLastSlot *slot, Relation event, int64 stream_no)
{
	return slot->stream_no == stream_no && slot->file == es_relation_file(event) &&
		slot->database == MyDatabaseId;
}

/*
 * Is the last version of a stream remembered for all?  It may not be any more
 * when its lock is there.
 */
bool
es_last_is_known(Relation event, const EsStore *store, int64 stream_no)
{
	bool		is_shared;
	EsLastSlot *slot = es_last_slot(event, store, stream_no, &is_shared);

	return is_shared && es_last_is_of(slot, event, stream_no) && slot->is_exact &&
		slot->era == es_last_era();
}

/*
 * Take the slot of a stream that this transaction has locked, or made.
 *
 * last			result: what is known of the stream
 */
void
es_last_claim(Relation event, const EsStore *store, int64 stream_no, EsLast *last)
{
	bool		is_shared;
	EsLastSlot *slot = es_last_slot(event, store, stream_no, &is_shared);
	uint32		era;

	if (!is_shared)
	{
		last->version = es_last_is_of(slot, event, stream_no) ? slot->version : 0;
		last->is_exact = last->is_chained = false;
		return;
	}

	if (unlikely(es_last_me == 0))
		es_last_me = pg_atomic_fetch_add_u32(&es_last_shared->processes, 1) + 1;
	era = pg_atomic_read_u32(&es_last_shared->era);
	SpinLockAcquire(&slot->lock);
	if (!es_last_is_of(slot, event, stream_no) || slot->era != era)
	{
		slot->database = MyDatabaseId;
		slot->file = es_relation_file(event);
		slot->stream_no = stream_no;
		slot->version = 0;
		slot->is_exact = slot->is_chained = false;
		slot->era = era;
		slot->claimed_at = 0;
	}
	if (slot->claimed_at != es_last_xact || slot->claimed_by != es_last_me)
	{
		slot->claimed_at = es_last_xact;
		slot->claimed_by = es_last_me;
		slot->put_by = InvalidSubTransactionId;
	}
	last->version = slot->version;
	last->is_exact = slot->is_exact;
	last->is_chained = slot->is_chained;
	SpinLockRelease(&slot->lock);

	/* what this transaction has put itself, by other ways, is not in there */
	if (es_last_foreign)
		last->is_exact = false;
}

/*
 * Have nothing remembered of a stream whose lock this transaction is about to
 * give up for a lock of its row.
 */
void
es_last_refuse(Relation event, const EsStore *store, int64 stream_no)
{
	bool		is_shared;
	EsLastSlot *slot = es_last_slot(event, store, stream_no, &is_shared);

	if (!is_shared)
		return;
	SpinLockAcquire(&slot->lock);
	if (es_last_is_of(slot, event, stream_no))
		slot->stream_no = 0;
	SpinLockRelease(&slot->lock);
}

/*
 * Note that this transaction has put a version.
 *
 * Result: false when there is no room for that.
 */
static bool
es_last_note(EsLastSlot *slot, int64 stream_no)
{
	EsLastPut  *put;

	if (es_last_nputs == es_last_size)
	{
		int			size = Max(2 * es_last_size, 64);
		EsLastPut  *grown;

		if (size > ES_LAST_MAX_PUTS)
			return false;
		grown = MemoryContextAllocExtended(TopMemoryContext, size * sizeof(EsLastPut),
										   MCXT_ALLOC_NO_OOM);
		if (grown == NULL)
			return false;
		if (es_last_puts != NULL)
		{
			memcpy(grown, es_last_puts, es_last_nputs * sizeof(EsLastPut));
			pfree(es_last_puts);
		}
		es_last_puts = grown;
		es_last_size = size;
	}
	put = &es_last_puts[es_last_nputs++];
	put->slot = slot;
	put->stream_no = stream_no;
	put->subid = GetCurrentSubTransactionId();
	return true;
}

/*
 * A stream's last version, as this transaction has just made or found it.
 * Does nothing unless the transaction has the stream's slot.
 *
 * is_chained	has that event a hash?
 */
void
es_last_put(Relation event, const EsStore *store, int64 stream_no, int64 version,
			bool is_chained)
{
	bool		is_shared;
	EsLastSlot *slot = es_last_slot(event, store, stream_no, &is_shared);
	SubTransactionId subid = GetCurrentSubTransactionId();
	bool		noted;

	if (!is_shared)
	{
		slot->database = MyDatabaseId;
		slot->file = es_relation_file(event);
		slot->stream_no = stream_no;
		slot->version = (int32) version;
		return;
	}

	/*
	 * Nobody can make a slot ours but this process, and nobody else changes
	 * put_by of a slot that is, so both may be read before: if the slot goes
	 * meanwhile, a note too many does no harm.
	 */
	if (slot->stream_no != stream_no || slot->claimed_at != es_last_xact ||
		slot->claimed_by != es_last_me)
		return;
	noted = slot->put_by == subid || es_last_note(slot, stream_no);

	SpinLockAcquire(&slot->lock);
	if (es_last_is_of(slot, event, stream_no) &&
		slot->claimed_at == es_last_xact && slot->claimed_by == es_last_me)
	{
		slot->version = (int32) version;
		slot->is_chained = is_chained;
		slot->is_exact = noted && slot->era == pg_atomic_read_u32(&es_last_shared->era);
		/* what has found no room for a note has not been put */
		slot->put_by = noted ? subid : InvalidSubTransactionId;
	}
	SpinLockRelease(&slot->lock);
}

/*
 * What this transaction has put since a subtransaction began is not exact any
 * longer.
 *
 * from			the subtransaction: the ones that it has begun have higher
 *				numbers, and so have those after it, of which none is left
 */
static void
es_last_undo(SubTransactionId from)
{
	/* all that was noted since it began, and nothing from before */
	while (es_last_nputs > 0 && es_last_puts[es_last_nputs - 1].subid >= from)
	{
		EsLastPut  *put = &es_last_puts[--es_last_nputs];

		if (es_fault_no_undo)
			continue;

		/* of another table's stream with that number this only makes a miss */
		SpinLockAcquire(&put->slot->lock);
		if (put->slot->stream_no == put->stream_no)
		{
			put->slot->version = 0;
			put->slot->is_exact = false;
			put->slot->put_by = InvalidSubTransactionId;
		}
		SpinLockRelease(&put->slot->lock);
	}
}

static void
es_last_xact_callback(XactEvent event, void *arg)
{
	switch (event)
	{
		case XACT_EVENT_PREPARE:
			/* who commits it does not know what is in it */
			if (es_last_foreign && es_last_shared != NULL)
				pg_atomic_write_u32(&es_last_shared->off, 1);
			es_last_undo(InvalidSubTransactionId);
			es_last_foreign = false;
			es_last_xact++;
			break;
		case XACT_EVENT_ABORT:
			es_last_undo(InvalidSubTransactionId);
			es_last_foreign = false;
			es_last_xact++;
			break;
		case XACT_EVENT_COMMIT:
			if (es_last_foreign)
				es_last_forget_all();
			es_last_nputs = 0;
			es_last_foreign = false;
			es_last_xact++;
			break;
		default:
			break;
	}
}

static void
es_last_subxact_callback(SubXactEvent event, SubTransactionId subid,
						 SubTransactionId parent, void *arg)
{
	if (event == SUBXACT_EVENT_ABORT_SUB)
		es_last_undo(subid);
}

/*
 * Called once per process, from _PG_init.
 */
void
es_last_init(void)
{
	RegisterXactCallback(es_last_xact_callback, NULL);
	RegisterSubXactCallback(es_last_subxact_callback, NULL);

	es_shmem_preload(sizeof(EsLastShared), es_last_startup);
}
