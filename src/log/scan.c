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
 * With a filter the walk merges the entries of the wanted type numbers and
 * tags, so it costs in proportion to what it returns; it may then pass an
 * unsettled event that the filter does not want.  Where several tags are
 * wanted at once their entries are walked in step: each jumps to where the
 * others are, so the rarest tag sets the pace.
 *
 * Entries are read from the index in lots and their rows fetched later, when
 * the index page may no longer be pinned.  A row that was removed meanwhile
 * and its place taken by another one shows by its position.
 *
 * Events that follow each other in the order mostly share a page, so those of
 * a lot that do are looked at together, with one lock on the page; what is
 * visible can then be used as long as the page is pinned.  Whatever is not
 * plainly visible is judged by itself.
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/genam.h"
#include "access/heapam.h"
#include "access/htup_details.h"
#include "access/tableam.h"
#include "access/transam.h"
#include "access/xact.h"
#include "catalog/pg_collation.h"
#include "lib/binaryheap.h"
#include "storage/bufmgr.h"
#include "storage/predicate.h"
#include "utils/fmgroids.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"

#include "base/compat.h"
#include "base/fault.h"
#include "log/scan.h"
#include "log/table.h"

/* entries in a lot; the first one is small: a walk may be wanted for a few rows */
#define ES_SCAN_MIN_LOT		8
#define ES_SCAN_FIRST_LOT	32
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

/* the entries of one type number, of one tag, or of the whole order */
typedef struct EsScanCursor
{
	EsIndexRole role;			/* index */
	int32		type_no;		/* for ES_INDEX_TYPE */
	Datum		tag;			/* for ES_INDEX_TAG */
	int64		last;			/* last position read from the index */
	ItemPointerData last_tid;	/* and its row; invalid before the first lot */
	bool		exhausted;		/* the index has no more */
	int			size;			/* of the next lot */
	int			n;				/* entries in the lot */
	int			next;			/* first not yet used */
	EsScanEntry *lot;
} EsScanCursor;

/* entries that all of some cursors have */
typedef struct EsScanSource
{
	int			ncursors;
	EsScanCursor *cursors;
	const EsScanItem *item;		/* whose types the rows must be of; NULL = any */
} EsScanSource;

struct EsScan
{
	Relation	event;
	Snapshot	snapshot;
	SnapshotData dirty;			/* for ES_SCAN_NOW */
	EsScanMode	mode;
	ScanDirection direction;
	bool		whole;			/* every entry of the order is looked at */
	int64		upto;			/* last position of interest */
	Relation	indexes[ES_NUM_INDEX_ROLES];	/* those in use */
	IndexScanDesc descs[ES_NUM_INDEX_ROLES];
	IndexFetchTableData *fetch; /* keeps the heap page of the last row pinned */
	TupleTableSlot *slot;
	int			nsources;
	int			lot_size;		/* of the largest lots */
	EsScanSource *sources;
	binaryheap *heap;			/* sources by next position; NULL if one */
	int64		position;		/* of the event returned last */
	ItemPointerData tid;		/* and its row */
	int64		dead_from;		/* start of the present run of dead gaps */
	EsBlocked	blocked;

	/* of a single cursor, the page that was looked at last */
	bool		single;			/* there is just one cursor */
	bool		by_page;		/* look at pages at all? */
	Buffer		buffer;			/* pinned */
	BlockNumber block;
	int			looked;			/* entries of the present lot that were looked at */
	HeapTupleData tuple;		/* the row in the slot */
	bool		visible[MaxHeapTuplesPerPage + 1];	/* by offset: is it plainly visible,
													 * or settled? */
};

typedef enum EsJudgement
{
	ES_LIVE,
	ES_DEAD,
	ES_UNWANTED,				/* of another type */
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
	int			nkeys = upto < PG_INT64_MAX ? 1 : 0;	/* a key costs something */
	IndexScanDesc desc = es_index_beginscan(event, index, snapshot, nkeys);
	EsTail		run = {0};
	EsTail		longest = {0};
	ScanKeyData key;
	int64		result = 0;

	desc->xs_want_itup = true;
	ScanKeyInit(&key, 1, BTLessEqualStrategyNumber, F_INT8LE, Int64GetDatum(upto));
	index_rescan(desc, &key, nkeys, NULL, 0);
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
			if (nkeys == 0)
			{
				index_endscan(desc);
				nkeys = 1;
				desc = es_index_beginscan(event, index, snapshot, nkeys);
				desc->xs_want_itup = true;
			}
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
 * Which of two entries comes first in the direction of the walk?
 */
static inline int
es_entry_compare(EsScan *scan, const EsScanEntry *a, const EsScanEntry *b)
{
	int			cmp = (a->position > b->position) - (a->position < b->position);

	if (cmp == 0)
		cmp = ItemPointerCompare(unconstify(ItemPointerData *, &a->tid),
								 unconstify(ItemPointerData *, &b->tid));
	return es_scan_forward(scan) ? cmp : -cmp;
}

/*
 * Read a lot from where the scan of the index stands.
 *
 * again		the last entry of the lot before, and others of its position,
 *				may come once more
 */
static void
es_cursor_read(EsScan *scan, EsScanCursor *cursor, bool again)
{
	IndexScanDesc desc = scan->descs[cursor->role];
	AttrNumber	column = cursor->role == ES_INDEX_POSITION ? 1 : 2;

	while (cursor->n < cursor->size)
	{
		ItemPointer tid = index_getnext_tid(desc, scan->direction);
		int64		position;
		bool		isnull;

		if (tid == NULL)
		{
			cursor->exhausted = true;
			break;
		}
		position = DatumGetInt64(index_getattr(desc->xs_itup, column,
											   desc->xs_itupdesc, &isnull));
		if (es_scan_forward(scan) ? position > scan->upto : position < scan->upto)
		{
			cursor->exhausted = true;
			break;
		}
		if (again && position == cursor->last)
		{
			int			cmp = ItemPointerCompare(tid, &cursor->last_tid);

			if (es_scan_forward(scan) ? cmp <= 0 : cmp >= 0)
				continue;		/* had it in the last lot */
		}
		cursor->lot[cursor->n].tid = *tid;
		cursor->lot[cursor->n].position = position;
		cursor->n++;
	}
	if (cursor->n > 0)
	{
		cursor->last = cursor->lot[cursor->n - 1].position;
		cursor->last_tid = cursor->lot[cursor->n - 1].tid;
	}
	cursor->size = Min(cursor->size * 4, scan->lot_size);
}

/*
 * Read the next lot of a cursor from the index.
 */
static void
es_cursor_fill(EsScan *scan, EsScanCursor *cursor)
{
	IndexScanDesc desc = scan->descs[cursor->role];
	ScanKeyData keys[2];
	int			nkeys = 0;
	AttrNumber	column = cursor->role == ES_INDEX_POSITION ? 1 : 2;
	bool		again;

	cursor->n = cursor->next = 0;
	scan->looked = 0;
	if (cursor->exhausted)
		return;

	if (es_dead_event == RelationGetRelid(scan->event) && es_scan_forward(scan) &&
		cursor->last >= es_dead_from - 1 && cursor->last < es_dead_to)
	{
		cursor->last = es_dead_to;
		ItemPointerSetInvalid(&cursor->last_tid);
	}

	if (scan->single && ItemPointerIsValid(&cursor->last_tid))
	{
		es_cursor_read(scan, cursor, false);
		return;
	}

	/*
	 * A dead row and a live one may share a position, if rows were put back
	 * twice; so go on behind the last row, not behind its position.
	 */
	again = ItemPointerIsValid(&cursor->last_tid);

	/*
	 * The end is looked for by es_cursor_read: a key is compared with all
	 * entries of each index page, also with those that nobody wants.
	 */
	if (cursor->role == ES_INDEX_TYPE)
		ScanKeyInit(&keys[nkeys++], 1, BTEqualStrategyNumber, F_INT4EQ,
					Int32GetDatum(cursor->type_no));
	else if (cursor->role == ES_INDEX_TAG)
		ScanKeyEntryInitialize(&keys[nkeys++], 0, 1, BTEqualStrategyNumber, InvalidOid,
							   C_COLLATION_OID, F_TEXTEQ, cursor->tag);
	if (es_scan_forward(scan))
	{
		if (again)
			ScanKeyInit(&keys[nkeys++], column, BTGreaterEqualStrategyNumber,
						F_INT8GE, Int64GetDatum(cursor->last));
		else
			ScanKeyInit(&keys[nkeys++], column, BTGreaterStrategyNumber,
						F_INT8GT, Int64GetDatum(cursor->last));
	}
	else
	{
		if (again)
			ScanKeyInit(&keys[nkeys++], column, BTLessEqualStrategyNumber,
						F_INT8LE, Int64GetDatum(cursor->last));
		else
			ScanKeyInit(&keys[nkeys++], column, BTLessStrategyNumber,
						F_INT8LT, Int64GetDatum(cursor->last));
	}

	index_rescan(desc, keys, nkeys, NULL, 0);
	es_cursor_read(scan, cursor, again);
}

/*
 * The next entry of a cursor; NULL at the end.
 */
static inline EsScanEntry *
es_cursor_peek(EsScan *scan, EsScanCursor *cursor)
{
	if (cursor->next == cursor->n)
		es_cursor_fill(scan, cursor);
	return cursor->next < cursor->n ? &cursor->lot[cursor->next] : NULL;
}

/*
 * The first entry of a cursor that does not come before "entry"; NULL at the
 * end.  What lies between is passed in the index, not read.
 */
static EsScanEntry *
es_cursor_seek(EsScan *scan, EsScanCursor *cursor, const EsScanEntry *entry)
{
	if (!cursor->exhausted &&
		(cursor->n == 0 || es_entry_compare(scan, &cursor->lot[cursor->n - 1], entry) < 0))
	{
		cursor->last = es_scan_forward(scan) ? entry->position - 1 : entry->position + 1;
		ItemPointerSetInvalid(&cursor->last_tid);
		cursor->next = cursor->n;
	}
	for (;;)
	{
		EsScanEntry *next = es_cursor_peek(scan, cursor);

		if (next == NULL || es_entry_compare(scan, next, entry) >= 0)
			return next;
		cursor->next++;
	}
}

/*
 * The next entry of a source: the first one that all its cursors have; NULL
 * at the end.
 */
static EsScanEntry *
es_source_peek(EsScan *scan, EsScanSource *source)
{
	EsScanEntry *entry = es_cursor_peek(scan, &source->cursors[0]);

	for (int agreed = 1, i = 1; entry != NULL && agreed < source->ncursors;
		 i = (i + 1) % source->ncursors)
	{
		EsScanEntry *next = es_cursor_seek(scan, &source->cursors[i], entry);

		CHECK_FOR_INTERRUPTS();
		agreed = next != NULL && es_entry_compare(scan, next, entry) == 0 ? agreed + 1 : 1;
		entry = next;
	}
	return entry;
}

/*
 * Take that entry.
 */
static inline void
es_source_take(EsScanSource *source)
{
	for (int i = 0; i < source->ncursors; i++)
		source->cursors[i].next++;
}

static int
es_scan_compare(Datum a, Datum b, void *arg)
{
	EsScan	   *scan = arg;
	EsScanCursor *left = &scan->sources[DatumGetInt32(a)].cursors[0];
	EsScanCursor *right = &scan->sources[DatumGetInt32(b)].cursors[0];

	/* binaryheap puts the largest first */
	return -es_entry_compare(scan, &left->lot[left->next], &right->lot[right->next]);
}

/*
 * Begin a walk over the events of any of some kinds.
 *
 * snapshot		an MVCC snapshot, registered or active until es_scan_end
 * after		exclusive: positions above it, or below it when backward
 * upto			inclusive: forward, at most the highest position visible in
 *				the snapshot; backward, the lowest position of interest, and
 *				everything below "after" must be settled for the snapshot
 * items		type numbers as from es_type_list, taken after "upto"; good until
 *				es_scan_end
 * expected_rows	a guess, to size the lots
 */
EsScan *
es_scan_begin_items(Relation event, const EsStore *store, Snapshot snapshot,
					EsScanMode mode, ScanDirection direction, int64 after, int64 upto,
					const EsScanItem *items, int nitems, int64 expected_rows)
{
	EsScan	   *scan = palloc0(sizeof(EsScan));
	int			nsources = 0;

	scan->event = event;
	scan->snapshot = snapshot;
	scan->mode = mode;
	scan->direction = direction;
	scan->upto = upto;
	scan->slot = table_slot_create(event, NULL);
	scan->fetch = table_index_fetch_begin(event);
	InitDirtySnapshot(scan->dirty);

	for (int i = 0; i < nitems; i++)
	{
		nsources += items[i].ntags > 0 || items[i].type_nos == NULL ? 1 : items[i].ntypes;
		scan->whole |= items[i].ntags == 0 && items[i].type_nos == NULL;
	}
	if (scan->whole)
		nsources = 1;			/* and nothing else matters */
	scan->sources = palloc0(sizeof(EsScanSource) * Max(nsources, 1));
	for (int i = 0; i < nitems && scan->nsources < nsources; i++)
	{
		const EsScanItem *item = &items[i];
		int			first = scan->nsources;
		bool		by_tag = item->ntags > 0;

		if (scan->whole && (by_tag || item->type_nos != NULL))
			continue;
		scan->nsources += by_tag || scan->whole ? 1 : item->ntypes;
		for (int k = first; k < scan->nsources; k++)
		{
			EsScanSource *source = &scan->sources[k];

			source->ncursors = by_tag ? item->ntags : 1;
			source->item = by_tag && item->type_nos != NULL ? item : NULL;
			source->cursors = palloc0(sizeof(EsScanCursor) * source->ncursors);
			for (int c = 0; c < source->ncursors; c++)
			{
				EsScanCursor *cursor = &source->cursors[c];

				cursor->role = by_tag ? ES_INDEX_TAG :
					scan->whole ? ES_INDEX_POSITION : ES_INDEX_TYPE;
				cursor->type_no = by_tag || scan->whole ? 0 : item->type_nos[k - first];
				cursor->tag = by_tag ? item->tags[c] : (Datum) 0;
				cursor->last = after;
				ItemPointerSetInvalid(&cursor->last_tid);
				if (scan->descs[cursor->role] == NULL)
				{
					scan->indexes[cursor->role] =
						es_store_open_index(&store->read_index[cursor->role]);
					scan->descs[cursor->role] =
						es_index_beginscan(event, scan->indexes[cursor->role], SnapshotAny,
										   scan->whole ? 1 : 2);
					scan->descs[cursor->role]->xs_want_itup = true;
				}
			}
		}
	}

	scan->lot_size = (int) Min(expected_rows, ES_SCAN_MAX_LOT) / Max(scan->nsources, 1);
	scan->lot_size = Max(scan->lot_size + 1, ES_SCAN_MIN_LOT);
	scan->single = scan->nsources == 1 && scan->sources[0].ncursors == 1;
	/* SSI has to hear of every row by itself */
	scan->by_page = scan->single && (mode == ES_SCAN_VISIBLE || mode == ES_SCAN_SETTLED) &&
		!IsolationIsSerializable();
	scan->buffer = InvalidBuffer;
	scan->block = InvalidBlockNumber;
	if (scan->nsources > 1)
		scan->heap = binaryheap_allocate(scan->nsources, es_scan_compare, scan);
	for (int i = 0; i < scan->nsources; i++)
	{
		EsScanSource *source = &scan->sources[i];

		for (int c = 0; c < source->ncursors; c++)
		{
			source->cursors[c].size = Min(scan->lot_size, ES_SCAN_FIRST_LOT);
			source->cursors[c].lot = palloc(sizeof(EsScanEntry) * scan->lot_size);
		}
		if (scan->heap != NULL && es_source_peek(scan, source) != NULL)
			binaryheap_add_unordered(scan->heap, Int32GetDatum(i));
	}
	if (scan->heap != NULL)
		binaryheap_build(scan->heap);

	/*
	 * A walk steps over what it does not see, so for SSI it has read the
	 * whole table.
	 */
	if (IsolationIsSerializable() && mode != ES_SCAN_SETTLED && mode != ES_SCAN_NOW)
		PredicateLockRelation(event, snapshot);
	return scan;
}

/*
 * The same for events of some types.
 *
 * type_nos		numbers from es_type_list, taken after "upto"; NULL = all
 */
EsScan *
es_scan_begin(Relation event, const EsStore *store, Snapshot snapshot,
			  EsScanMode mode, ScanDirection direction, int64 after, int64 upto,
			  const int32 *type_nos, int ntypes, int64 expected_rows)
{
	EsScanItem	item = {type_nos, ntypes, NULL, 0};

	return es_scan_begin_items(event, store, snapshot, mode, direction, after, upto,
							   &item, 1, expected_rows);
}

/*
 * Take the next entry in order.
 *
 * source		result: where it comes from
 */
static bool
es_scan_entry(EsScan *scan, EsScanEntry *entry, EsScanSource **source)
{
	if (scan->heap != NULL)
	{
		int			i;

		if (binaryheap_empty(scan->heap))
			return false;
		i = DatumGetInt32(binaryheap_first(scan->heap));
		*source = &scan->sources[i];
		*entry = (*source)->cursors[0].lot[(*source)->cursors[0].next];
		es_source_take(*source);
		if (es_source_peek(scan, *source) != NULL)
			binaryheap_replace_first(scan->heap, Int32GetDatum(i));
		else
			(void) binaryheap_remove_first(scan->heap);
		return true;
	}
	else
	{
		EsScanEntry *next;

		if (scan->nsources == 0)
			return false;
		*source = &scan->sources[0];
		next = es_source_peek(scan, *source);
		if (next == NULL)
			return false;
		*entry = *next;
		es_source_take(*source);
		return true;
	}
}

/*
 * Look at the page of the entry that was taken last: which rows of it, and of
 * the entries that follow it in the lot and on the page, are visible?
 *
 * A row that is visible stays so, and stays where it is, while the page is
 * pinned.
 */
static void
es_scan_look(EsScan *scan)
{
	const EsScanCursor *cursor = &scan->sources[0].cursors[0];
	const EsScanEntry *entry = &cursor->lot[cursor->next - 1];
	BlockNumber block = ItemPointerGetBlockNumber(&entry->tid);
	HeapTupleData tuple;
	Page		page;
	bool		all_visible;

	if (block != scan->block)
		scan->buffer = ReleaseAndReadBuffer(scan->buffer, scan->event, block);
	scan->block = block;
	scan->looked = cursor->next - 1;
	memset(scan->visible, false, sizeof(scan->visible));
	tuple.t_tableOid = RelationGetRelid(scan->event);

	LockBuffer(scan->buffer, BUFFER_LOCK_SHARE);
	page = BufferGetPage(scan->buffer);
	all_visible = PageIsAllVisible(page) && !scan->snapshot->takenDuringRecovery;
	for (; scan->looked < cursor->n &&
		 ItemPointerGetBlockNumber(&entry->tid) == block; scan->looked++, entry++)
	{
		OffsetNumber offset = ItemPointerGetOffsetNumber(&entry->tid);
		ItemId		item;

		if (offset > PageGetMaxOffsetNumber(page) || offset > MaxHeapTuplesPerPage)
			continue;
		item = PageGetItemId(page, offset);
		if (!ItemIdIsNormal(item))
			continue;
		tuple.t_data = (HeapTupleHeader) PageGetItem(page, item);
		tuple.t_len = ItemIdGetLength(item);
		tuple.t_self = entry->tid;
		scan->visible[offset] = all_visible ||
			(scan->mode == ES_SCAN_SETTLED ?
			 HeapTupleHeaderXminCommitted(tuple.t_data) &&
			 !XidInMVCCSnapshot(HeapTupleHeaderGetXmin(tuple.t_data), scan->snapshot) :
			 HeapTupleSatisfiesVisibility(&tuple, scan->snapshot, scan->buffer));
	}
	LockBuffer(scan->buffer, BUFFER_LOCK_UNLOCK);
}

/*
 * Fetch the row of the entry that was taken last, if a look at its page is
 * enough to see that it is visible.  Otherwise it has to be judged.
 */
static bool
es_scan_on_page(EsScan *scan, const EsScanEntry *entry)
{
	OffsetNumber offset = ItemPointerGetOffsetNumber(&entry->tid);
	Page		page;
	ItemId		item;
	bool		isnull;

	if (scan->sources[0].cursors[0].next > scan->looked)
		es_scan_look(scan);
	if (offset > MaxHeapTuplesPerPage || !scan->visible[offset])
		return false;

	page = BufferGetPage(scan->buffer);
	item = PageGetItemId(page, offset);
	scan->tuple.t_data = (HeapTupleHeader) PageGetItem(page, item);
	scan->tuple.t_len = ItemIdGetLength(item);
	scan->tuple.t_self = entry->tid;
	scan->tuple.t_tableOid = RelationGetRelid(scan->event);
	ExecStoreBufferHeapTuple(&scan->tuple, scan->slot, scan->buffer);
	return DatumGetInt64(slot_getattr(scan->slot, Anum_es_event_global_position,
									  &isnull)) == entry->position;
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
 * Is the row in the slot of a type that its source wants?
 */
static bool
es_scan_wants(EsScan *scan, EsScanSource *source)
{
	bool		isnull;
	int32		type_no;

	if (likely(source->item == NULL))
		return true;
	type_no = DatumGetInt32(slot_getattr(scan->slot, Anum_es_event_type_no, &isnull));
	for (int i = 0; i < source->item->ntypes; i++)
	{
		if (source->item->type_nos[i] == type_no)
			return true;
	}
	return false;
}

/*
 * Judge one entry by the state of now.
 */
static EsJudgement
es_scan_judge_now(EsScan *scan, EsScanEntry *entry, EsScanSource *source,
				  TransactionId *inserter)
{
	if (!es_scan_fetch(scan, entry, &scan->dirty))
		return ES_DEAD;
	if (!es_scan_wants(scan, source))
		return ES_UNWANTED;
	*inserter = scan->dirty.xmin;
	return TransactionIdIsValid(*inserter) ? ES_UNSETTLED : ES_LIVE;
}

/*
 * Judge one entry by the snapshot; see the head of this file.
 */
static EsJudgement
es_scan_judge(EsScan *scan, EsScanEntry *entry, EsScanSource *source,
			  TransactionId *inserter)
{
	TransactionId xmin;

	if (scan->by_page && es_scan_on_page(scan, entry))
		return es_scan_wants(scan, source) ? ES_LIVE : ES_UNWANTED;
	if (scan->mode == ES_SCAN_NOW)
		return es_scan_judge_now(scan, entry, source, inserter);
	if (scan->mode != ES_SCAN_SETTLED && es_scan_fetch(scan, entry, scan->snapshot))
		return es_scan_wants(scan, source) ? ES_LIVE : ES_UNWANTED;
	if (!es_scan_fetch(scan, entry, SnapshotAny))
		return ES_DEAD;
	if (!es_scan_wants(scan, source))
		return ES_UNWANTED;

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
	if (scan->dead_from > 0 && scan->mode != ES_SCAN_PROBE &&
		scan->mode != ES_SCAN_NOW && scan->whole && es_scan_forward(scan) &&
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
	EsScanSource *source = NULL;
	TransactionId inserter = InvalidTransactionId;
	int64		dead_upto = 0;

	if (scan->blocked.position != 0)
		return false;

	while (es_scan_entry(scan, &entry, &source))
	{
		CHECK_FOR_INTERRUPTS();
		/* several sources may have the same event */
		if (entry.position == scan->position && ItemPointerEquals(&entry.tid, &scan->tid))
			continue;
		switch (es_scan_judge(scan, &entry, source, &inserter))
		{
			case ES_LIVE:
				es_scan_remember_dead(scan, dead_upto);
				scan->position = entry.position;
				scan->tid = entry.tid;
				return true;
			case ES_UNWANTED:
				es_scan_remember_dead(scan, dead_upto);
				break;
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
					while (es_scan_entry(scan, &entry, &source))
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
	for (int role = 0; role < ES_NUM_INDEX_ROLES; role++)
	{
		if (scan->descs[role] != NULL)
		{
			index_endscan(scan->descs[role]);
			index_close(scan->indexes[role], AccessShareLock);
		}
	}
	table_index_fetch_end(scan->fetch);
	if (BufferIsValid(scan->buffer))
		ReleaseBuffer(scan->buffer);
	ExecDropSingleTupleTableSlot(scan->slot);
	for (int i = 0; i < scan->nsources; i++)
	{
		for (int c = 0; c < scan->sources[i].ncursors; c++)
			pfree(scan->sources[i].cursors[c].lot);
		pfree(scan->sources[i].cursors);
	}
	pfree(scan->sources);
	if (scan->heap != NULL)
		binaryheap_free(scan->heap);
	pfree(scan);
}
