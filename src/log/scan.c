/*-------------------------------------------------------------------------
 * log/scan.c
 *	  Walk the global order: a settled prefix for one snapshot.
 *
 * Everything is judged by the one snapshot that the caller gives, never by
 * counters read "now", so the same code is right in READ COMMITTED,
 * REPEATABLE READ and SERIALIZABLE and on a standby.
 *
 * The caller first takes H, the highest position visible in its snapshot.
 * The barrier of log/order.c guarantees that every position below H has its
 * entries in the position index and in the type index, or will never exist.
 * The walk then visits every entry up to H, whoever inserted it:
 *	  visible						return it
 *	  inserter aborted, or no row	a dead gap, go on
 *	  inserter running				stop: unsettled for this snapshot
 * H comes first because B-tree scans read one leaf page at a time: without a
 * bound fixed beforehand a scan can meet 6 on the second page and have
 * missed 5 on the first.
 *
 * With a filter the walk merges the entries of the wanted type numbers, so
 * it costs in proportion to what it returns; it may then pass an unsettled
 * event that the filter does not want.
 *
 * Entries are read from the index in lots and their rows fetched later, when
 * the index page may no longer be pinned.  A row that was removed meanwhile
 * and its place taken by another one shows by its position.
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/genam.h"
#include "access/htup_details.h"
#include "access/tableam.h"
#include "access/transam.h"
#include "access/xact.h"
#include "lib/binaryheap.h"
#include "storage/predicate.h"
#include "utils/fmgroids.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"

#include "base/compat.h"
#include "base/fault.h"
#include "log/scan.h"
#include "log/table.h"

#define ES_SCAN_MIN_LOT		8
#define ES_SCAN_MAX_LOT		512

/* shorter runs of dead gaps, or of positions of one transaction, are not worth remembering */
#define ES_MIN_DEAD_RUN		1000
#define ES_MIN_TAIL			1000

/* a tail this many transactions old might name another transaction by now */
#define ES_TAIL_MAX_AGE		(UINT64CONST(1) << 30)

typedef struct EsScanEntry
{
	int64		position;
	ItemPointerData tid;
} EsScanEntry;

/* the entries of one type number, or of the whole order */
typedef struct EsScanSource
{
	int32		type_no;		/* unused without a filter */
	int64		last;			/* last position read from the index */
	ItemPointerData last_tid;	/* and its row; invalid before the first lot */
	bool		exhausted;		/* the index has no more */
	int			n;				/* entries in the lot */
	int			next;			/* first not yet used */
	EsScanEntry *lot;
} EsScanSource;

struct EsScan
{
	Relation	event;
	Relation	index;
	Snapshot	snapshot;
	EsScanMode	mode;
	ScanDirection direction;
	bool		filtered;
	int64		upto;			/* last position of interest */
	IndexScanDesc desc;
	IndexFetchTableData *fetch; /* keeps the heap page of the last row pinned */
	TupleTableSlot *slot;
	int			nsources;
	int			lot_size;
	EsScanSource *sources;
	binaryheap *heap;			/* sources by next position; NULL if one */
	int64		position;		/* of the event returned last */
	int64		dead_from;		/* start of the present run of dead gaps */
	EsBlocked	blocked;
};

typedef enum EsJudgement
{
	ES_LIVE,
	ES_DEAD,
	ES_UNSETTLED
} EsJudgement;

/*
 * A long run of positions that this backend has proven dead, so that a
 * million aborted appends do not cost every read.  Of one store only.
 */
static Oid	es_dead_event = InvalidOid;
static int64 es_dead_from = 0;
static int64 es_dead_to = 0;

/*
 * Positions without a gap, all of one transaction that had not ended: who
 * imports a million events in one transaction shall not make every read slow
 * until it ends.  Nothing else can ever appear among them.
 */
typedef struct EsTail
{
	Oid			event;			/* store */
	int64		from;
	int64		to;
	TransactionId xid;
	uint64		next_xid;		/* full id of the next transaction then */
} EsTail;

static EsTail es_tail;

/*
 * Forget what has been learnt about positions.
 */
static void
es_scan_forget(void)
{
	es_dead_event = InvalidOid;
	es_tail.event = InvalidOid;
}

/*
 * Called once per process, from _PG_init.
 */
void
es_scan_init(void)
{
	es_store_on_change(offsetof(EsStore, event), es_scan_forget);
}

/* who inserted the row in the slot */
static inline TransactionId
es_slot_xmin(TupleTableSlot *slot)
{
	return HeapTupleHeaderGetXmin(ExecFetchSlotHeapTuple(slot, false, NULL)->t_data);
}

/*
 * Does the snapshot hide the whole tail, as it hides this position in it?
 *
 * Of our own transaction it may show a part.  SERIALIZABLE has to look at
 * each row that it does not see.
 */
static bool
es_tail_hides(Relation event, Snapshot snapshot, int64 position)
{
	return es_tail.event == RelationGetRelid(event) &&
		position >= es_tail.from && position <= es_tail.to &&
		!IsolationIsSerializable() &&
		!TransactionIdIsCurrentTransactionId(es_tail.xid) &&
		U64FromFullTransactionId(ReadNextFullTransactionId()) - es_tail.next_xid < ES_TAIL_MAX_AGE &&
		XidInMVCCSnapshot(es_tail.xid, snapshot);
}

/*
 * Going backward, put positions that are not visible to a run, or begin a new
 * one.  The longest run is kept.
 */
static void
es_tail_extend(EsTail *run, EsTail *longest, int64 from, int64 to, TransactionId xid)
{
	if (run->from == to + 1 && run->xid == xid)
		run->from = from;
	else
	{
		run->from = from;
		run->to = to;
		run->xid = xid;
	}
	if (run->to - run->from >= longest->to - longest->from)
		*longest = *run;
}

/*
 * Highest position visible in the snapshot, at most "upto"; 0 if none.
 */
int64
es_scan_highest(Relation event, const EsStore *store, Snapshot snapshot, int64 upto)
{
	Relation	index = es_store_open_index(&store->read_index[ES_INDEX_POSITION]);
	TupleTableSlot *slot = table_slot_create(event, NULL);
	IndexScanDesc desc = es_index_beginscan(event, index, snapshot, 1);
	EsTail		run = {0};
	EsTail		longest = {0};
	ScanKeyData key;
	int64		result = 0;

	desc->xs_want_itup = true;
	ScanKeyInit(&key, 1, BTLessEqualStrategyNumber, F_INT8LE, Int64GetDatum(upto));
	index_rescan(desc, &key, 1, NULL, 0);
	while (index_getnext_tid(desc, BackwardScanDirection) != NULL)
	{
		bool		isnull;
		bool		call_again = false;
		int64		position = DatumGetInt64(index_getattr(desc->xs_itup, 1,
														   desc->xs_itupdesc, &isnull));

		if (index_fetch_heap(desc, slot))
		{
			result = position;
			break;
		}
		CHECK_FOR_INTERRUPTS();
		if (es_tail_hides(event, snapshot, position))
		{
			es_tail_extend(&run, &longest, es_tail.from, position, es_tail.xid);
			ScanKeyInit(&key, 1, BTLessStrategyNumber, F_INT8LT, Int64GetDatum(es_tail.from));
			index_rescan(desc, &key, 1, NULL, 0);
		}
		else if (table_index_fetch_tuple(desc->xs_heapfetch, &desc->xs_heaptid, SnapshotAny,
										 slot, &call_again, NULL))
			es_tail_extend(&run, &longest, position, position, es_slot_xmin(slot));
	}
	index_endscan(desc);
	ExecDropSingleTupleTableSlot(slot);
	index_close(index, AccessShareLock);

	if (unlikely(longest.to - longest.from >= ES_MIN_TAIL))
	{
		es_tail = longest;
		es_tail.event = RelationGetRelid(event);
		es_tail.next_xid = U64FromFullTransactionId(ReadNextFullTransactionId());
	}
	return result;
}

/*
 * Highest position in the index, whoever inserted it; 0 if none.
 */
int64
es_scan_highest_inserted(Relation event, const EsStore *store)
{
	return es_table_highest_key(event, &store->read_index[ES_INDEX_POSITION]);
}

static inline bool
es_scan_forward(EsScan *scan)
{
	return ScanDirectionIsForward(scan->direction);
}

/*
 * Read the next lot of a source from the index.
 */
static void
es_scan_fill(EsScan *scan, EsScanSource *source)
{
	ScanKeyData keys[3];
	int			nkeys = 0;
	AttrNumber	column = scan->filtered ? 2 : 1;
	bool		again;

	source->n = source->next = 0;
	if (source->exhausted)
		return;

	if (es_dead_event == RelationGetRelid(scan->event) && es_scan_forward(scan) &&
		source->last >= es_dead_from - 1 && source->last < es_dead_to)
	{
		source->last = es_dead_to;
		ItemPointerSetInvalid(&source->last_tid);
	}

	/*
	 * A dead row and a live one may share a position, if rows were put back
	 * twice; so go on behind the last row, not behind its position.
	 */
	again = ItemPointerIsValid(&source->last_tid);

	if (scan->filtered)
		ScanKeyInit(&keys[nkeys++], 1, BTEqualStrategyNumber, F_INT4EQ,
					Int32GetDatum(source->type_no));
	if (es_scan_forward(scan))
	{
		if (again)
			ScanKeyInit(&keys[nkeys++], column, BTGreaterEqualStrategyNumber,
						F_INT8GE, Int64GetDatum(source->last));
		else
			ScanKeyInit(&keys[nkeys++], column, BTGreaterStrategyNumber,
						F_INT8GT, Int64GetDatum(source->last));
		ScanKeyInit(&keys[nkeys++], column, BTLessEqualStrategyNumber, F_INT8LE,
					Int64GetDatum(scan->upto));
	}
	else
	{
		if (again)
			ScanKeyInit(&keys[nkeys++], column, BTLessEqualStrategyNumber,
						F_INT8LE, Int64GetDatum(source->last));
		else
			ScanKeyInit(&keys[nkeys++], column, BTLessStrategyNumber,
						F_INT8LT, Int64GetDatum(source->last));
		ScanKeyInit(&keys[nkeys++], column, BTGreaterEqualStrategyNumber, F_INT8GE,
					Int64GetDatum(scan->upto));
	}

	index_rescan(scan->desc, keys, nkeys, NULL, 0);
	while (source->n < scan->lot_size)
	{
		ItemPointer tid = index_getnext_tid(scan->desc, scan->direction);
		int64		position;
		bool		isnull;

		if (tid == NULL)
		{
			source->exhausted = true;
			break;
		}
		position = DatumGetInt64(index_getattr(scan->desc->xs_itup, column,
											   scan->desc->xs_itupdesc, &isnull));
		if (again && position == source->last)
		{
			int			cmp = ItemPointerCompare(tid, &source->last_tid);

			if (es_scan_forward(scan) ? cmp <= 0 : cmp >= 0)
				continue;		/* had it in the last lot */
		}
		source->lot[source->n].tid = *tid;
		source->lot[source->n].position = position;
		source->n++;
	}
	if (source->n > 0)
	{
		source->last = source->lot[source->n - 1].position;
		source->last_tid = source->lot[source->n - 1].tid;
	}
}

static int
es_scan_compare(Datum a, Datum b, void *arg)
{
	EsScan	   *scan = arg;
	EsScanSource *left = &scan->sources[DatumGetInt32(a)];
	EsScanSource *right = &scan->sources[DatumGetInt32(b)];
	int64		l = left->lot[left->next].position;
	int64		r = right->lot[right->next].position;
	int			cmp = (l > r) - (l < r);

	/* binaryheap puts the largest first */
	return es_scan_forward(scan) ? -cmp : cmp;
}

/*
 * Begin a walk.
 *
 * snapshot		an MVCC snapshot, registered or active until es_scan_end
 * after		exclusive: positions above it, or below it when backward
 * upto			inclusive: forward, at most the highest position visible in
 *				the snapshot; backward, the lowest position of interest, and
 *				everything below "after" must be settled for the snapshot
 * type_nos		numbers from es_type_list, taken after "upto"; NULL = all
 * expected_rows	a guess, to size the lots
 */
EsScan *
es_scan_begin(Relation event, const EsStore *store, Snapshot snapshot,
			  EsScanMode mode, ScanDirection direction, int64 after, int64 upto,
			  const int32 *type_nos, int ntypes, int64 expected_rows)
{
	EsScan	   *scan = palloc0(sizeof(EsScan));
	EsIndexRole role = type_nos != NULL ? ES_INDEX_TYPE : ES_INDEX_POSITION;

	scan->event = event;
	scan->index = es_store_open_index(&store->read_index[role]);
	scan->snapshot = snapshot;
	scan->mode = mode;
	scan->direction = direction;
	scan->filtered = type_nos != NULL;
	scan->upto = upto;
	scan->slot = table_slot_create(event, NULL);
	scan->desc = es_index_beginscan(event, scan->index, SnapshotAny,
									scan->filtered ? 3 : 2);
	scan->desc->xs_want_itup = true;
	scan->fetch = table_index_fetch_begin(event);
	scan->nsources = scan->filtered ? ntypes : 1;
	scan->lot_size = (int) Min(expected_rows, ES_SCAN_MAX_LOT) / Max(scan->nsources, 1);
	scan->lot_size = Max(scan->lot_size + 1, ES_SCAN_MIN_LOT);
	scan->sources = palloc0(sizeof(EsScanSource) * Max(scan->nsources, 1));

	if (scan->nsources > 1)
		scan->heap = binaryheap_allocate(scan->nsources, es_scan_compare, scan);
	for (int i = 0; i < scan->nsources; i++)
	{
		EsScanSource *source = &scan->sources[i];

		source->type_no = scan->filtered ? type_nos[i] : 0;
		source->last = after;
		ItemPointerSetInvalid(&source->last_tid);
		source->lot = palloc(sizeof(EsScanEntry) * scan->lot_size);
		es_scan_fill(scan, source);
		if (scan->heap != NULL && source->n > 0)
			binaryheap_add_unordered(scan->heap, Int32GetDatum(i));
	}
	if (scan->heap != NULL)
		binaryheap_build(scan->heap);

	/*
	 * A walk steps over what it does not see, so for SSI it has read the
	 * whole table.
	 */
	if (IsolationIsSerializable() && mode != ES_SCAN_SETTLED)
		PredicateLockRelation(event, snapshot);
	return scan;
}

/*
 * Take the next entry in order.
 */
static bool
es_scan_entry(EsScan *scan, EsScanEntry *entry)
{
	EsScanSource *source;

	if (scan->heap != NULL)
	{
		int			i;

		if (binaryheap_empty(scan->heap))
			return false;
		i = DatumGetInt32(binaryheap_first(scan->heap));
		source = &scan->sources[i];
		*entry = source->lot[source->next++];
		if (source->next == source->n)
			es_scan_fill(scan, source);
		if (source->next < source->n)
			binaryheap_replace_first(scan->heap, Int32GetDatum(i));
		else
			(void) binaryheap_remove_first(scan->heap);
		return true;
	}

	if (scan->nsources == 0)
		return false;
	source = &scan->sources[0];
	if (source->next == source->n)
		es_scan_fill(scan, source);
	if (source->next == source->n)
		return false;
	*entry = source->lot[source->next++];
	return true;
}

/*
 * Fetch the row of an index entry, if the snapshot shows it and it is still
 * the one that the entry was made for.
 */
static bool
es_scan_fetch(EsScan *scan, EsScanEntry *entry, Snapshot snapshot)
{
	ItemPointerData tid = entry->tid;	/* modified by the call */
	bool		call_again = false;
	bool		isnull;

	return table_index_fetch_tuple(scan->fetch, &tid, snapshot, scan->slot,
								   &call_again, NULL) &&
		DatumGetInt64(slot_getattr(scan->slot, Anum_es_event_global_position,
								   &isnull)) == entry->position;
}

/*
 * Judge one entry by the snapshot; see the head of this file.
 */
static EsJudgement
es_scan_judge(EsScan *scan, EsScanEntry *entry, TransactionId *inserter)
{
	TransactionId xmin;

	if (scan->mode != ES_SCAN_SETTLED && es_scan_fetch(scan, entry, scan->snapshot))
		return ES_LIVE;
	if (!es_scan_fetch(scan, entry, SnapshotAny))
		return ES_DEAD;

	xmin = es_slot_xmin(scan->slot);
	*inserter = xmin;
	if (TransactionIdIsCurrentTransactionId(xmin))
	{
		/* ours: settled when we end, but later than this snapshot */
		return scan->mode == ES_SCAN_SETTLED ? ES_LIVE : ES_UNSETTLED;
	}
	if (!TransactionIdIsNormal(xmin))
		return scan->mode == ES_SCAN_SETTLED ? ES_LIVE : ES_DEAD;

	/* an aborted subtransaction of an overflowed snapshot looks running */
	if (XidInMVCCSnapshot(xmin, scan->snapshot) && !TransactionIdDidAbort(xmin))
		return es_fault_no_stop ? ES_DEAD : ES_UNSETTLED;

	if (scan->mode == ES_SCAN_SETTLED)
		return ES_LIVE;
	return ES_DEAD;
}

/*
 * A run of dead gaps has ended.  Beyond the highest visible position nothing
 * may be remembered: there a missing position can still be on its way.
 */
static void
es_scan_remember_dead(EsScan *scan, int64 upto)
{
	if (scan->dead_from > 0 && scan->mode != ES_SCAN_PROBE && !scan->filtered && es_scan_forward(scan) &&
		upto - scan->dead_from >= ES_MIN_DEAD_RUN)
	{
		if (es_dead_event == RelationGetRelid(scan->event) &&
			scan->dead_from == es_dead_to + 1)
			es_dead_to = upto;
		else
		{
			es_dead_event = RelationGetRelid(scan->event);
			es_dead_from = scan->dead_from;
			es_dead_to = upto;
		}
	}
	scan->dead_from = 0;
}

/*
 * Go to the next event.
 *
 * Result: false at the end, or where an unsettled position blocks the way
 * (es_scan_blocked tells); the walk is over then.
 */
bool
es_scan_next(EsScan *scan)
{
	EsScanEntry entry;
	TransactionId inserter = InvalidTransactionId;
	int64		dead_upto = 0;

	if (scan->blocked.position != 0)
		return false;

	while (es_scan_entry(scan, &entry))
	{
		CHECK_FOR_INTERRUPTS();
		switch (es_scan_judge(scan, &entry, &inserter))
		{
			case ES_LIVE:
				es_scan_remember_dead(scan, dead_upto);
				scan->position = entry.position;
				return true;
			case ES_UNSETTLED:
				es_scan_remember_dead(scan, dead_upto);
				scan->blocked.position = entry.position;
				scan->blocked.xid = inserter;

				/*
				 * What lies behind has not been seen either, and for SSI that
				 * is a read of it.
				 */
				if (IsolationIsSerializable() && scan->mode == ES_SCAN_VISIBLE)
				{
					while (es_scan_entry(scan, &entry))
						(void) es_scan_fetch(scan, &entry, scan->snapshot);
				}
				return false;
			case ES_DEAD:
				if (scan->dead_from == 0)
					scan->dead_from = entry.position;
				dead_upto = entry.position;
				break;
		}
	}
	es_scan_remember_dead(scan, dead_upto);
	return false;
}

/*
 * The event at which the walk stands.  Valid until the next call.
 */
TupleTableSlot *
es_scan_slot(EsScan *scan)
{
	return scan->slot;
}

int64
es_scan_position(EsScan *scan)
{
	return scan->position;
}

EsBlocked
es_scan_blocked(EsScan *scan)
{
	return scan->blocked;
}

void
es_scan_end(EsScan *scan)
{
	index_endscan(scan->desc);
	table_index_fetch_end(scan->fetch);
	ExecDropSingleTupleTableSlot(scan->slot);
	index_close(scan->index, AccessShareLock);
	for (int i = 0; i < scan->nsources; i++)
		pfree(scan->sources[i].lot);
	pfree(scan->sources);
	if (scan->heap != NULL)
		binaryheap_free(scan->heap);
	pfree(scan);
}
