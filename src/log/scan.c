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
 * With a filter the walk visits the entries that the filter wants
 * (log/entries.c), and may pass an unsettled event that it does not want.
 *
 * Rows are fetched when the index page may no longer be pinned.  A row that
 * was removed meanwhile and its place taken by another one shows by its
 * position.
 *
 * Events that follow each other in the order mostly share a page, so those of
 * a lot that do are looked at together, with one lock on the page; what is
 * visible can then be used as long as the page is pinned.  Whatever is not
 * plainly visible is judged by itself.
 *
 * A visible event is returned when it is on disk, see log/durable.c.
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/genam.h"
#include "access/heapam.h"
#include "access/htup_details.h"
#include "access/tableam.h"
#include "access/transam.h"
#include "access/xact.h"
#include "storage/bufmgr.h"
#include "storage/predicate.h"
#include "utils/fmgroids.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"

#include "base/compat.h"
#include "base/fault.h"
#include "log/durable.h"
#include "log/entries.h"
#include "log/gaps.h"
#include "log/scan.h"
#include "log/table.h"

struct EsScan
{
	Relation	event;
	Snapshot	snapshot;
	SnapshotData dirty;			/* for ES_SCAN_NOW */
	EsScanMode	mode;
	EsEntries	entries;
	int64		durable_below;	/* what is visible from here on may not be on
								 * disk yet */
	IndexFetchTableData *fetch; /* keeps the heap page of the last row pinned */
	TupleTableSlot *slot;
	int64		position;		/* of the event returned last */
	ItemPointerData tid;		/* and its row */
	int64		dead_from;		/* start of the present run of dead gaps */
	EsBlocked	blocked;

	/* of a single cursor, the page that was looked at last */
	bool		by_page;		/* look at pages at all? */
	Buffer		buffer;			/* pinned */
	BlockNumber block;
	HeapTupleData tuple;		/* the row in the slot */
	bool		visible[MaxHeapTuplesPerPage + 1];	/* by offset: is it plainly visible,
													 * or settled? */
};

typedef enum EsJudgement
{
	ES_LIVE,
	ES_DEAD,
	ES_UNWANTED,				/* of another type or stream */
	ES_UNSETTLED
} EsJudgement;

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
		const EsTail *tail;
		int64		position = DatumGetInt64(index_getattr(desc->xs_itup, 1,
														   desc->xs_itupdesc, &isnull));

		if (index_fetch_heap(desc, slot))
		{
			result = position;
			break;
		}
		CHECK_FOR_INTERRUPTS();
		tail = es_tail_hiding(event, snapshot, position);
		if (tail != NULL)
		{
			es_tail_extend(&run, &longest, tail->from, position, tail->xid);
			if (nkeys == 0)
			{
				index_endscan(desc);
				nkeys = 1;
				desc = es_index_beginscan(event, index, snapshot, nkeys);
				desc->xs_want_itup = true;
			}
			ScanKeyInit(&key, 1, BTLessStrategyNumber, F_INT8LT, Int64GetDatum(tail->from));
			index_rescan(desc, &key, 1, NULL, 0);
		}
		else if (table_index_fetch_tuple(desc->xs_heapfetch, &desc->xs_heaptid, SnapshotAny,
										 slot, &call_again, NULL))
			es_tail_extend(&run, &longest, position, position, es_slot_xmin(slot));
	}
	index_endscan(desc);
	ExecDropSingleTupleTableSlot(slot);
	index_close(index, AccessShareLock);
	es_tail_remember(event, &longest);
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

	scan->event = event;
	scan->snapshot = snapshot;
	scan->mode = mode;
	scan->durable_below = mode == ES_SCAN_VISIBLE ? es_durable_below() : PG_INT64_MAX;
	scan->slot = table_slot_create(event, NULL);
	scan->fetch = table_index_fetch_begin(event);
	InitDirtySnapshot(scan->dirty);

	es_entries_begin(&scan->entries, event, store, snapshot, direction, after, upto, items,
					 nitems, expected_rows);

	/* SSI has to hear of every row by itself */
	scan->by_page = scan->entries.single &&
		(mode == ES_SCAN_VISIBLE || mode == ES_SCAN_SETTLED) && !IsolationIsSerializable();
	scan->buffer = InvalidBuffer;
	scan->block = InvalidBlockNumber;

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
	EsScanItem	item = {.type_nos = type_nos,.ntypes = ntypes};

	return es_scan_begin_items(event, store, snapshot, mode, direction, after, upto,
							   &item, 1, expected_rows);
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
	const EsEntryCursor *cursor = &scan->entries.sources[0].cursors[0];
	const EsEntry *entry = &cursor->lot[cursor->next - 1];
	BlockNumber block = ItemPointerGetBlockNumber(&entry->tid);
	HeapTupleData tuple;
	Page		page;
	bool		all_visible;

	if (block != scan->block)
		scan->buffer = ReleaseAndReadBuffer(scan->buffer, scan->event, block);
	scan->block = block;
	scan->entries.looked = cursor->next - 1;
	memset(scan->visible, false, sizeof(scan->visible));
	tuple.t_tableOid = RelationGetRelid(scan->event);

	LockBuffer(scan->buffer, BUFFER_LOCK_SHARE);
	page = BufferGetPage(scan->buffer);
	all_visible = PageIsAllVisible(page) && !scan->snapshot->takenDuringRecovery;
	for (; scan->entries.looked < cursor->n &&
		 ItemPointerGetBlockNumber(&entry->tid) == block; scan->entries.looked++, entry++)
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
es_scan_on_page(EsScan *scan, const EsEntry *entry)
{
	OffsetNumber offset = ItemPointerGetOffsetNumber(&entry->tid);
	Page		page;
	ItemId		item;
	bool		isnull;

	if (scan->entries.sources[0].cursors[0].next > scan->entries.looked)
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
es_scan_fetch(EsScan *scan, EsEntry *entry, Snapshot snapshot)
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
 * Is the row in the slot of a type and stream that its source wants?
 */
static bool
es_scan_wants(EsScan *scan, EsEntrySource *source)
{
	bool		isnull;
	int32		type_no;

	if (likely(source->item == NULL))
		return true;
	if (source->item->stream_nos != NULL)
	{
		int64		stream_no = DatumGetInt64(slot_getattr(scan->slot, Anum_es_event_stream_no,
														   &isnull));
		bool		found = false;

		for (int i = 0; i < source->item->nstreams && !isnull && !found; i++)
			found = source->item->stream_nos[i] == stream_no;
		if (!found)
			return false;
	}
	if (source->item->type_nos == NULL)
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
es_scan_judge_now(EsScan *scan, EsEntry *entry, EsEntrySource *source,
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
es_scan_judge(EsScan *scan, EsEntry *entry, EsEntrySource *source,
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
		scan->mode != ES_SCAN_NOW && scan->entries.whole && es_entries_forward(&scan->entries))
		es_dead_remember(scan->event, scan->dead_from, upto);
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
	EsEntry entry;
	EsEntrySource *source = NULL;
	TransactionId inserter = InvalidTransactionId;
	int64		dead_upto = 0;

	if (scan->blocked.position != 0)
		return false;

	while (es_entries_next(&scan->entries, &entry, &source))
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
				if (unlikely(entry.position >= scan->durable_below))
				{
					es_durable_wait();
					scan->durable_below = PG_INT64_MAX;
				}
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
					while (es_entries_next(&scan->entries, &entry, &source))
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
	es_entries_end(&scan->entries);
	table_index_fetch_end(scan->fetch);
	if (BufferIsValid(scan->buffer))
		ReleaseBuffer(scan->buffer);
	ExecDropSingleTupleTableSlot(scan->slot);
	pfree(scan);
}
