/*-------------------------------------------------------------------------
 * log/stream.c
 *	  Streams: names, numbers, and the lock of a stream.
 *
 * A stream's name is stored once, in event_store.stream; events carry its
 * number.  Rows of that table are only ever inserted, so each backend may
 * remember committed ones for as long as the table exists.
 *
 * The lock of a stream makes appends to it queue up until the transaction
 * ends.  It is a lock of the lock manager, in the advisory class but outside
 * the key spaces of the SQL functions, so that nobody can take it by
 * pg_advisory_lock: fast, known to the deadlock detector and to PREPARE, and
 * without a write.  The lock table has a fixed size, therefore a transaction
 * that appends to very many streams goes over to row locks on the stream's
 * row after ES_MAX_STREAM_LOCKS; whoever has a stream's lock also waits for a
 * running locker of its row.  The row of a stream that is being created
 * serves as its lock until its creator is done.
 *
 * Lock order: stream locks, several of them in the order of
 * es_stream_lock_order; row or transaction waits; insertion lock
 * (log/order.c).
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/heapam.h"
#include "access/multixact.h"
#include "access/table.h"
#include "access/tableam.h"
#include "access/transam.h"
#include "access/xact.h"
#include "common/hashfn.h"
#include "storage/bufmgr.h"
#include "storage/lmgr.h"
#include "storage/procarray.h"
#include "utils/builtins.h"
#include "utils/fmgroids.h"
#include "utils/memutils.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"

#include "base/compat.h"
#include "base/fault.h"
#include "base/lock.h"
#include "log/durable.h"
#include "log/known.h"
#include "log/names.h"
#include "log/queue.h"
#include "log/sequence.h"
#include "log/stream.h"
#include "log/table.h"

/* stream locks of the lock manager that one transaction takes at the most */
#define ES_MAX_STREAM_LOCKS		256

/* names that are read beyond the wanted one */
#define ES_STREAM_READ_AHEAD	15

/* fourth field of our advisory lock tags; the SQL functions use 1 and 2 */
#define ES_LOCK_CLASS_STREAM	3

typedef struct EsStreamEntry
{
	int64		stream_no;		/* hash key */
	ItemPointerData tid;		/* its row */
	int			len;
	char	   *name;			/* not zero-terminated */
} EsStreamEntry;

typedef enum EsStreamState
{
	ES_STREAM_NONE,				/* no such stream */
	ES_STREAM_COMMITTED,
	ES_STREAM_OWN,				/* made by this transaction */
	ES_STREAM_PENDING			/* being made by another transaction */
} EsStreamState;

/* committed streams, all of them also by their names */
static EsNames es_streams = {
	.what = "streams",
	.number_size = sizeof(int64),
	.entry_size = sizeof(EsStreamEntry)
};

/*
 * The entry last looked up for a number, by the number's last bits: reads along
 * the global order need a name for each event, and every step through a hash
 * table of that size is a cache miss.
 */
static EsStreamEntry *es_stream_recent[ES_MAX_NAMES];

/* stream locks taken in this transaction */
static int	es_stream_nlocks = 0;

static void
es_stream_xact_callback(XactEvent event, void *arg)
{
	if (event == XACT_EVENT_COMMIT || event == XACT_EVENT_ABORT ||
		event == XACT_EVENT_PREPARE)
		es_stream_nlocks = 0;
}

/*
 * A subtransaction that aborts gives back the locks that it has taken.
 */
static void
es_stream_subxact_callback(SubXactEvent event, SubTransactionId subid,
						   SubTransactionId parent, void *arg)
{
	static int *nlocks_at = NULL;	/* by nesting level, at its start */
	static int	size = 0;
	int			level = GetCurrentTransactionNestLevel();

	if (event == SUBXACT_EVENT_START_SUB)
	{
		if (level >= size)
		{
			int			new_size = Max(2 * level, 16);
			int		   *grown;

			/*
			 * An error here would be one of somebody's subtransaction that has
			 * begun and cannot be rolled back.  A level that is not known
			 * leaves the count too high, which only means a row lock earlier.
			 */
			grown = MemoryContextAllocExtended(TopMemoryContext, new_size * sizeof(int),
											   MCXT_ALLOC_NO_OOM | MCXT_ALLOC_ZERO);
			if (grown == NULL)
				return;

			/* 0 for the levels that began before the module was loaded */
			if (nlocks_at != NULL)
			{
				memcpy(grown, nlocks_at, size * sizeof(int));
				pfree(nlocks_at);
			}
			nlocks_at = grown;
			size = new_size;
		}
		nlocks_at[level] = es_stream_nlocks;
	}
	else if (event == SUBXACT_EVENT_ABORT_SUB && level < size)
		es_stream_nlocks = nlocks_at[level];
}

/*
 * Forget all names, and where their rows are.  They stay readable until the next look-up begins.
 */
static void
es_stream_forget(void)
{
	es_names_forget(&es_streams);
}

/*
 * Called once per process, from _PG_init.
 */
void
es_stream_init(void)
{
	es_store_on_change(offsetof(EsStore, stream), es_stream_forget);
	RegisterXactCallback(es_stream_xact_callback, NULL);
	RegisterSubXactCallback(es_stream_subxact_callback, NULL);
}

static uint64
es_stream_hash(const char *name, int len)
{
	return hash_bytes_extended((const unsigned char *) name, len, 0);
}

/*
 * Make the cache ready for a look-up.
 */
static void
es_stream_cache_begin(void)
{
	if (es_names_begin(&es_streams))
		memset(es_stream_recent, 0, sizeof(es_stream_recent));
}

/*
 * Remember a committed stream.
 */
static EsStreamEntry *
es_stream_remember(int64 stream_no, const char *name, int len, ItemPointer tid)
{
	char	   *copy = es_names_copy(&es_streams, name, len, NULL, 0);
	EsStreamEntry *stream = es_names_enter(&es_streams, &stream_no);

	stream->tid = *tid;
	stream->len = len;
	stream->name = copy;
	es_names_enter_hash(&es_streams, es_stream_hash(name, len), stream);
	return stream;
}

static EsStreamEntry *
es_stream_cached(const char *name, int len)
{
	EsStreamEntry *stream = es_names_by_hash(&es_streams, es_stream_hash(name, len));

	if (stream != NULL && stream->len == len && memcmp(stream->name, name, len) == 0)
		return stream;
	return NULL;
}

/*
 * Find a stream's row, committed or not.
 *
 * by			the store's index by name or by number
 * key			its scan key
 * stream		result; copied to the cache and pointing there if committed,
 *				else only stream_no and tid are set
 * pending		result for ES_STREAM_PENDING: the transaction that makes it
 */
static EsStreamState
es_stream_scan(Relation rel, const Oid *by, ScanKey key, EsStreamEntry *stream,
			   TransactionId *pending)
{
	Relation	index = es_store_open_index(by);
	TupleTableSlot *slot = table_slot_create(rel, NULL);
	EsStreamState state = ES_STREAM_NONE;
	SnapshotData dirty;
	IndexScanDesc scan;

	InitDirtySnapshot(dirty);
	scan = es_index_beginscan(rel, index, &dirty, 1);
	index_rescan(scan, key, 1, NULL, 0);
	if (index_getnext_slot(scan, ForwardScanDirection, slot))
	{
		bool		isnull;
		HeapTuple	tuple;
		TransactionId xmin;

		tuple = ExecFetchSlotHeapTuple(slot, false, NULL);
		xmin = HeapTupleHeaderGetXmin(tuple->t_data);
		stream->stream_no =
			DatumGetInt64(slot_getattr(slot, Anum_es_stream_stream_no, &isnull));
		stream->tid = slot->tts_tid;

		if (TransactionIdIsValid(dirty.xmin))
		{
			*pending = dirty.xmin;
			state = ES_STREAM_PENDING;
		}
		else if (TransactionIdIsCurrentTransactionId(xmin))
			state = ES_STREAM_OWN;
		else
		{
			text	   *name = DatumGetTextPP(slot_getattr(slot, Anum_es_stream_stream_id,
														   &isnull));

			*stream = *es_stream_remember(stream->stream_no, VARDATA_ANY(name),
										  VARSIZE_ANY_EXHDR(name), &stream->tid);
			state = ES_STREAM_COMMITTED;
		}
	}
	index_endscan(scan);
	ExecDropSingleTupleTableSlot(slot);
	index_close(index, AccessShareLock);
	return state;
}

static EsStreamState
es_stream_lookup(Relation rel, const EsStore *store, const char *name, int len,
				 EsStreamEntry *stream, TransactionId *pending)
{
	EsStreamState state;
	ScanKeyData key;

	es_names_key(&key, 1, name, len);
	state = es_stream_scan(rel, &store->stream_by_name, &key, stream, pending);
	pfree(DatumGetPointer(key.sk_argument));
	return state;
}

/*
 * Test build: is the number that is remembered for all the one of the row?
 */
static void
es_check_known(Relation rel, const EsStore *store, const char *name, int len,
			   const EsStreamEntry *known)
{
#ifdef ES_FAULTS
	EsStreamEntry stream;
	TransactionId pending;

	LockRelationOid(store->stream, AccessShareLock);
	if (es_stream_lookup(rel, store, name, len, &stream, &pending) != ES_STREAM_COMMITTED ||
		stream.stream_no != known->stream_no ||
		ItemPointerCompare(&stream.tid, unconstify(ItemPointerData *, &known->tid)) != 0)
		ereport(ERROR,
				errcode(ERRCODE_DATA_CORRUPTED),
				errmsg("stream \"%.*s\" does not have the number " INT64_FORMAT, len, name,
					   known->stream_no));
#endif
}

/*
 * That a stream does not exist is something a SERIALIZABLE transaction has
 * read, like any row: look with its snapshot, which leaves a predicate lock
 * where the name would be.
 */
static void
es_stream_note_absence(Relation rel, const EsStore *store, const char *name, int len)
{
	Relation	index = es_store_open_index(&store->stream_by_name);
	TupleTableSlot *slot = table_slot_create(rel, NULL);
	IndexScanDesc scan = es_index_beginscan(rel, index, GetActiveSnapshot(), 1);
	ScanKeyData key;

	es_names_key(&key, 1, name, len);
	index_rescan(scan, &key, 1, NULL, 0);
	(void) index_getnext_slot(scan, ForwardScanDirection, slot);
	index_endscan(scan);
	pfree(DatumGetPointer(key.sk_argument));
	ExecDropSingleTupleTableSlot(slot);
	index_close(index, AccessShareLock);
}

/*
 * Find the number of a stream, for reading.
 *
 * Result: 0 when there is no such stream for this session.
 */
int64
es_stream_find(const EsStore *store, const char *name, int len)
{
	EsStreamEntry *cached;
	EsStreamEntry stream;
	EsStreamState state;
	TransactionId pending;
	Relation	rel;
	bool		found;

	es_stream_cache_begin();
	cached = es_stream_cached(name, len);
	if (cached != NULL)
		return cached->stream_no;

	rel = table_open(store->stream, AccessShareLock);
	state = es_stream_lookup(rel, store, name, len, &stream, &pending);
	found = state == ES_STREAM_COMMITTED || state == ES_STREAM_OWN;
	if (!found && IsolationIsSerializable())
		es_stream_note_absence(rel, store, name, len);
	table_close(rel, NoLock);
	return found ? stream.stream_no : 0;
}

/*
 * The name of the stream of a visible event.
 *
 * Streams that were created one after the other are often read together, so
 * a miss also brings the next ES_STREAM_READ_AHEAD names into the cache.
 *
 * Result: good until the next call of a function of this file; not
 * zero-terminated, its length in *len.
 */
const char *
es_stream_name(const EsStore *store, int64 stream_no, int *len)
{
	static char own_name[256];
	const char *result = NULL;
	EsStreamEntry **recent;
	EsStreamEntry *cached;
	Relation	rel;
	Relation	index;
	TupleTableSlot *slot;
	IndexScanDesc scan;
	ScanKeyData key;

	es_stream_cache_begin();
	recent = &es_stream_recent[stream_no & (ES_MAX_NAMES - 1)];
	cached = *recent;
	if (cached == NULL || cached->stream_no != stream_no)
		cached = es_names_by_number(&es_streams, &stream_no);
	if (cached != NULL)
	{
		*recent = cached;
		*len = cached->len;
		return cached->name;
	}

	rel = table_open(store->stream, AccessShareLock);
	index = es_store_open_index(&store->stream_by_no);
	slot = table_slot_create(rel, NULL);
	ScanKeyInit(&key, 1, BTGreaterEqualStrategyNumber, F_INT8GE, Int64GetDatum(stream_no));
	scan = es_index_beginscan(rel, index, SnapshotSelf, 1);
	index_rescan(scan, &key, 1, NULL, 0);
	for (int i = 0; i <= ES_STREAM_READ_AHEAD; i++)
	{
		HeapTuple	tuple;
		text	   *name;
		int64		found;
		bool		isnull;

		if (!index_getnext_slot(scan, ForwardScanDirection, slot))
			break;
		found = DatumGetInt64(slot_getattr(slot, Anum_es_stream_stream_no, &isnull));
		if (i == 0 && found != stream_no)
			break;
		tuple = ExecFetchSlotHeapTuple(slot, false, NULL);
		name = DatumGetTextPP(slot_getattr(slot, Anum_es_stream_stream_id, &isnull));
		if (!TransactionIdIsCurrentTransactionId(HeapTupleHeaderGetXmin(tuple->t_data)))
		{
			if (es_names_by_number(&es_streams, &found) == NULL)
				cached = es_stream_remember(found, VARDATA_ANY(name),
											VARSIZE_ANY_EXHDR(name), &slot->tts_tid);
			if (i == 0)
			{
				*len = cached->len;
				result = cached->name;
			}
		}
		else if (i == 0)
		{
			*len = Min(VARSIZE_ANY_EXHDR(name), sizeof(own_name));
			memcpy(own_name, VARDATA_ANY(name), *len);
			result = own_name;
		}
	}
	index_endscan(scan);
	ExecDropSingleTupleTableSlot(slot);
	index_close(index, AccessShareLock);
	table_close(rel, NoLock);

	if (result == NULL)
		ereport(ERROR,
				errcode(ERRCODE_DATA_CORRUPTED),
				errmsg("an event belongs to stream number " INT64_FORMAT ", which does not exist",
					   stream_no));
	return result;
}

/*
 * Which transaction, running or not, has locked a stream's row?
 *
 * is_multi		result: it is a number for several
 *
 * Result: invalid if there is none.
 */
static TransactionId
es_stream_row_locker(Relation rel, const EsStreamEntry *stream, bool *is_multi)
{
	Buffer		buffer = ReadBuffer(rel, ItemPointerGetBlockNumber(&stream->tid));
	Page		page = BufferGetPage(buffer);
	TransactionId xmax = InvalidTransactionId;
	HeapTupleHeader header;

	LockBuffer(buffer, BUFFER_LOCK_SHARE);
	header = (HeapTupleHeader)
		PageGetItem(page, PageGetItemId(page, ItemPointerGetOffsetNumber(&stream->tid)));
	*is_multi = (header->t_infomask & HEAP_XMAX_IS_MULTI) != 0;
	/* somebody's foreign key may share the row, which concerns nobody */
	if (!(header->t_infomask & HEAP_XMAX_INVALID) &&
		HEAP_XMAX_IS_EXCL_LOCKED(header->t_infomask))
		xmax = HeapTupleHeaderGetRawXmax(header);
	UnlockReleaseBuffer(buffer);
	return xmax;
}

/*
 * Has this transaction locked a stream's row?
 */
static bool
es_stream_row_is_ours(Relation rel, const EsStreamEntry *stream)
{
	bool		is_multi;
	TransactionId xmax = es_stream_row_locker(rel, stream, &is_multi);
	MultiXactMember *members;
	int			nmembers;
	bool		ours = false;

	if (!TransactionIdIsValid(xmax) || !is_multi)
		return TransactionIdIsCurrentTransactionId(xmax);

	/* with foreign keys that share it */
	nmembers = GetMultiXactIdMembers(xmax, &members, false, true);
	for (int i = 0; i < nmembers; i++)
		ours |= members[i].status >= MultiXactStatusForNoKeyUpdate &&
			TransactionIdIsCurrentTransactionId(members[i].xid);
	if (nmembers > 0)
		pfree(members);
	return ours;
}

/*
 * Wait until no other running transaction has locked a stream's row.
 */
static void
es_stream_wait_for_row(Relation rel, EsStreamEntry *stream)
{
	for (;;)
	{
		bool		is_multi;
		TransactionId xmax = es_stream_row_locker(rel, stream, &is_multi);
		TM_FailureData tmfd;
		TupleTableSlot *slot;

		if (!TransactionIdIsValid(xmax))
			return;

		if (is_multi)
		{
			/* several lockers: let heapam sort them out, and be one of them */
			slot = table_slot_create(rel, NULL);
			(void) table_tuple_lock(rel, &stream->tid, SnapshotSelf, slot,
									GetCurrentCommandId(true), LockTupleNoKeyExclusive,
									LockWaitBlock, 0, &tmfd);
			ExecDropSingleTupleTableSlot(slot);
			return;
		}
		if (TransactionIdIsCurrentTransactionId(xmax) ||
			!TransactionIdIsInProgress(xmax))
			return;
		XactLockTableWait(xmax, rel, &stream->tid, XLTW_Lock);
	}
}

/*
 * In which order to lock two streams, for whoever locks several: as qsort
 * wants it.
 */
int
es_stream_lock_order(const char *a, int a_len, const char *b, int b_len)
{
	uint64		a_hash = es_stream_hash(a, a_len);
	uint64		b_hash = es_stream_hash(b, b_len);
	int			result;

	if (a_hash != b_hash)
		return a_hash < b_hash ? -1 : 1;
	result = memcmp(a, b, Min(a_len, b_len));
	return result != 0 ? result : a_len - b_len;
}

/*
 * Release a stream's lock that has been acquired before its transaction ends, if
 * only once too often.
 */
static void
es_stream_unlock(const LOCKTAG *tag)
{
	es_unlock(tag, ExclusiveLock);
	es_durable_give_back(tag);
	es_queue_wake(tag);
}

/*
 * Is the stream remembered, here or for all?
 */
static bool
es_stream_remembered(const EsStore *store, const char *name, int len, uint64 hash,
					 EsStreamEntry *stream)
{
	EsStreamEntry *cached;
	Relation	rel;
	bool		known;

	es_stream_cache_begin();
	cached = es_stream_cached(name, len);
	if (cached != NULL)
	{
		*stream = *cached;
		return true;
	}
	rel = RelationIdGetRelation(store->stream);
	if (!RelationIsValid(rel))
		return false;
	known = es_known_get(rel, store, hash, name, len, &stream->stream_no, &stream->tid);
	if (known)
		es_check_known(rel, store, name, len, stream);
	RelationClose(rel);
	return known;
}

/*
 * Lock a stream of which everything is remembered.  Nothing is read then, and the
 * table of streams not even locked: what may move or empty that finds no
 * more than what a session remembers, which goes with it.
 *
 * tag			of the lock
 * last			result: what is known of the stream's last version
 *
 * Result: its number; 0 if one has to look, and then the lock is not held.
 */
static int64
es_stream_lock_remembered(const EsStore *store, Relation event, const char *name, int len,
						  uint64 hash, const LOCKTAG *tag, EsLast *last)
{
	EsStreamEntry stream;
	bool		held_before;

	if (es_stream_nlocks >= ES_MAX_STREAM_LOCKS ||
		!es_stream_remembered(store, name, len, hash, &stream) ||
		!es_last_is_known(event, store, stream.stream_no))
		return 0;

	held_before = es_queue_lock(tag) != LOCKACQUIRE_OK;
	if (!held_before)
		es_durable_hold(tag);
	ES_FAULT_POINT("stream_locked");
	es_last_claim(event, store, stream.stream_no, last);
	if (last->is_exact && !held_before)
	{
		es_stream_nlocks++;
		es_durable_keep(tag);
		return stream.stream_no;
	}
	es_stream_unlock(tag);
	return last->is_exact ? stream.stream_no : 0;
}

/*
 * Lock a stream until the end of the transaction.
 *
 * event		the event table, open
 * last			result: what is known of the stream's last version
 *
 * Result: its number; 0 if it does not exist, and then it cannot be created
 * by anyone else before es_stream_create or the end of the transaction.
 */
int64
es_stream_lock(const EsStore *store, Relation event, const char *name, int len,
			   EsLast *last)
{
	Relation	rel;
	uint64		hash = es_stream_hash(name, len);
	int64		stream_no;
	EsStreamEntry stream;
	EsStreamState state;
	TransactionId pending;
	bool		locked = false;
	bool		held_before = false;
	LOCKTAG		tag;

	SET_LOCKTAG_ADVISORY(tag, MyDatabaseId, (uint32) (hash >> 32), (uint32) hash,
						 ES_LOCK_CLASS_STREAM);
	stream_no = es_stream_lock_remembered(store, event, name, len, hash, &tag, last);
	if (stream_no != 0)
		return stream_no;

	rel = table_open(store->stream, RowExclusiveLock);
	for (;;)
	{
		if (es_stream_remembered(store, name, len, hash, &stream))
			state = ES_STREAM_COMMITTED;
		else
		{
			state = es_stream_lookup(rel, store, name, len, &stream, &pending);
			if (state == ES_STREAM_COMMITTED)
				es_known_put(rel, store, hash, name, len, stream.stream_no, &stream.tid);
		}

		if (state == ES_STREAM_OWN)
			break;
		if (state == ES_STREAM_PENDING)
		{
			/* its creator never takes the lock again, so do not sit on it */
			if (locked)
			{
				es_stream_unlock(&tag);
				es_stream_nlocks--;
			}
			locked = false;
			XactLockTableWait(pending, rel, &stream.tid, XLTW_InsertIndex);
			continue;
		}
		if (locked)
			break;				/* still the same under the lock */

		/* who has its row must not queue up behind those who wait for that */
		if (state == ES_STREAM_COMMITTED && es_stream_nlocks >= ES_MAX_STREAM_LOCKS &&
			es_stream_row_is_ours(rel, &stream))
			break;

		held_before = es_queue_lock(&tag) != LOCKACQUIRE_OK;
		if (!held_before)
			es_durable_hold(&tag);
		es_stream_nlocks++;
		locked = true;
		ES_FAULT_POINT("stream_locked");
		if (state == ES_STREAM_COMMITTED)
			break;				/* committed streams do not vanish */
	}

	memset(last, 0, sizeof(*last));
	if (state == ES_STREAM_OWN)
		es_last_claim(event, store, stream.stream_no, last);
	else if (state == ES_STREAM_COMMITTED && !locked)
		es_last_refuse(event, store, stream.stream_no);
	else if (state == ES_STREAM_COMMITTED && held_before)
	{
		/* locked by an earlier append of this transaction */
		es_stream_unlock(&tag);
		es_stream_nlocks--;
		es_last_claim(event, store, stream.stream_no, last);
	}
	else if (state == ES_STREAM_COMMITTED)
	{
		if (es_stream_nlocks <= ES_MAX_STREAM_LOCKS)
		{
			es_durable_keep(&tag);
			es_last_claim(event, store, stream.stream_no, last);
			if (!last->is_exact)
				es_stream_wait_for_row(rel, &stream);
		}
		else
		{
			TM_FailureData tmfd;
			TupleTableSlot *slot = table_slot_create(rel, NULL);

			es_lock_table(store->stream, RowExclusiveLock);
			(void) table_tuple_lock(rel, &stream.tid, SnapshotSelf, slot,
									GetCurrentCommandId(true), LockTupleNoKeyExclusive,
									LockWaitBlock, 0, &tmfd);
			ExecDropSingleTupleTableSlot(slot);
			es_last_refuse(event, store, stream.stream_no);
			es_stream_unlock(&tag);
			es_stream_nlocks--;
		}
	}
	table_close(rel, NoLock);
	return state == ES_STREAM_NONE ? 0 : stream.stream_no;
}

/*
 * Has this transaction as many stream locks as it may take?  Then a stream that
 * it has locked to create it is to be created before the next one is locked.
 */
bool
es_stream_locks_full(void)
{
	return es_stream_nlocks >= ES_MAX_STREAM_LOCKS;
}

/*
 * Create a stream for which es_stream_lock has returned 0.
 *
 * From now on its row is its lock, so that a transaction may create any
 * number of streams.
 */
int64
es_stream_create(const EsStore *store, Relation event, const char *name, int len)
{
	Relation	rel = table_open(store->stream, RowExclusiveLock);
	uint64		hash = es_stream_hash(name, len);
	Datum		values[Natts_es_stream];
	bool		isnull[Natts_es_stream] = {false};
	int64		stream_no;
	EsLast		last;
	LOCKTAG		tag;

	stream_no = es_sequence_next(store->stream_seq, PG_INT64_MAX);
	values[Anum_es_stream_stream_no - 1] = Int64GetDatum(stream_no);
	values[Anum_es_stream_stream_id - 1] =
		PointerGetDatum(cstring_to_text_with_len(name, len));
	es_table_insert(store, rel, Natts_es_stream, values, isnull);
	table_close(rel, NoLock);
	es_last_claim(event, store, stream_no, &last);

	SET_LOCKTAG_ADVISORY(tag, MyDatabaseId, (uint32) (hash >> 32), (uint32) hash,
						 ES_LOCK_CLASS_STREAM);
	es_stream_unlock(&tag);
	es_stream_nlocks--;
	return stream_no;
}

/*
 * Length of the category within a stream's name: the part before the first
 * '-', or the whole name when there is none.
 */
int
es_category_length(const char *name, int len)
{
	const char *dash = memchr(name, '-', len);

	return dash == NULL ? len : (int) (dash - name);
}
