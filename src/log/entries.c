/*-------------------------------------------------------------------------
 * log/entries.c
 *	  Index entries of wanted events, merged into one order.
 *
 * Every entry is handed out, whoever inserted it and whether its row is still
 * there: that is judged by log/scan.c.
 *
 * With a filter this merges the entries of the wanted type numbers and tags,
 * so it costs in proportion to what it returns.  Where several tags are wanted
 * at once their entries are walked in step: each jumps to where the others
 * are, so the rarest tag sets the pace.
 *
 * The entries of a stream are made behind the insertion lock, and not known to
 * be there before their transaction has ended.  So up to a position that is
 * settled for the snapshot a stream is walked by its own index, and behind it
 * by the types of its category.  In a stream visible versions and positions
 * rise together.
 *
 * Entries are read from the index in lots, and used when the index page may no
 * longer be pinned.
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/genam.h"
#include "access/relscan.h"
#include "access/tableam.h"
#include "catalog/pg_collation.h"
#include "catalog/pg_type.h"
#include "lib/binaryheap.h"
#include "miscadmin.h"
#include "utils/fmgroids.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"

#include "base/compat.h"
#include "log/entries.h"
#include "log/gaps.h"

/* entries in a lot; the first one is small: a walk may be wanted for a few rows */
#define ES_MIN_LOT		8
#define ES_FIRST_LOT	32
#define ES_MAX_LOT		512

/*
 * Which of two entries comes first in the direction of the walk?
 */
static inline int
es_entry_compare(EsEntries *entries, const EsEntry *a, const EsEntry *b)
{
	int			cmp = (a->position > b->position) - (a->position < b->position);

	if (cmp == 0)
		cmp = ItemPointerCompare(unconstify(ItemPointerData *, &a->tid),
								 unconstify(ItemPointerData *, &b->tid));
	return es_entries_forward(entries) ? cmp : -cmp;
}

/*
 * Read a lot from where the scan of the index stands.
 *
 * again		the last entry of the lot before, and others of its position,
 *				may come once more
 */
static void
es_cursor_read(EsEntries *entries, EsEntryCursor *cursor, bool again)
{
	IndexScanDesc desc = entries->descs[cursor->role];
	AttrNumber	column = cursor->role == ES_INDEX_POSITION ? 1 : 2;

	while (cursor->n < cursor->size)
	{
		ItemPointer tid = index_getnext_tid(desc, entries->direction);
		int64		position;
		bool		isnull;

		if (tid == NULL)
		{
			cursor->exhausted = true;
			break;
		}
		position = DatumGetInt64(index_getattr(desc->xs_itup, column,
											   desc->xs_itupdesc, &isnull));
		if (es_entries_forward(entries) ? position > cursor->upto : position < cursor->upto)
		{
			cursor->exhausted = true;
			break;
		}
		if (again && position == cursor->last)
		{
			int			cmp = ItemPointerCompare(tid, &cursor->last_tid);

			if (es_entries_forward(entries) ? cmp <= 0 : cmp >= 0)
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
	cursor->size = Min(cursor->size * 4, entries->lot_size);
}

/*
 * The next visible event of a stream, from where the scan of the index stands.
 *
 * A row that somebody has changed all the same may have a newer version on its
 * page: the slot then has that one's place, which is nothing to begin a search
 * with.  So the entry's is kept.
 *
 * version		result: its version
 *
 * Result: its position, 0 if there is none.
 */
static int64
es_stream_next(EsEntries *entries, ScanDirection direction, int64 *version)
{
	IndexScanDesc desc = entries->descs[ES_INDEX_STREAM];
	ItemPointer tid;
	bool		isnull;

	while ((tid = index_getnext_tid(desc, direction)) != NULL)
	{
		entries->tid = *tid;
		if (!index_fetch_heap(desc, entries->slot))
			continue;
		*version = DatumGetInt32(slot_getattr(entries->slot, Anum_es_event_version, &isnull));
		return DatumGetInt64(slot_getattr(entries->slot, Anum_es_event_global_position,
										  &isnull));
	}
	return 0;
}

/*
 * The first visible event of a stream from a version on, in one direction.
 *
 * Arguments and result as above.
 */
static int64
es_stream_probe(EsEntries *entries, int64 stream_no, int64 from_version,
				ScanDirection direction, int64 *version)
{
	IndexScanDesc desc = entries->descs[ES_INDEX_STREAM];
	ScanKeyData keys[2];

	ScanKeyInit(&keys[0], 1, BTEqualStrategyNumber, F_INT8EQ, Int64GetDatum(stream_no));
	if (ScanDirectionIsForward(direction))
		ScanKeyEntryInitialize(&keys[1], 0, 2, BTGreaterEqualStrategyNumber, INT8OID,
							   InvalidOid, F_INT48GE, Int64GetDatum(from_version));
	else
		ScanKeyEntryInitialize(&keys[1], 0, 2, BTLessEqualStrategyNumber, INT8OID,
							   InvalidOid, F_INT48LE, Int64GetDatum(from_version));
	index_rescan(desc, keys, 2, NULL, 0);
	return es_stream_next(entries, direction, version);
}

/*
 * Find the version of a stream at which a walk begins: the first one behind
 * cursor->last.
 *
 * Result: false if there is none.
 */
static bool
es_stream_seek(EsEntries *entries, EsEntryCursor *cursor)
{
	bool		forward = es_entries_forward(entries);
	ScanDirection back = forward ? BackwardScanDirection : ForwardScanDirection;
	int64		near_version;	/* at or before cursor->last */
	int64		far_version;	/* behind it */
	int64		step = 1;
	int64		position;

	/* most consumers are not far from the end: look there first, then halve */
	position = es_stream_probe(entries, cursor->stream_no, forward ? PG_INT64_MAX : 0, back,
							   &far_version);
	if (position == 0 || (forward ? position <= cursor->last : position >= cursor->last))
		return false;
	for (;; step *= 2)
	{
		int64		version;

		CHECK_FOR_INTERRUPTS();
		near_version = forward ? Max(far_version - step, 0) : far_version + step;
		position = es_stream_probe(entries, cursor->stream_no, near_version, back, &version);
		if (position == 0 || (forward ? position <= cursor->last : position >= cursor->last))
			break;
		far_version = version;
	}
	while (forward ? far_version - near_version > 1 : near_version - far_version > 1)
	{
		int64		middle = near_version + (far_version - near_version) / 2;
		int64		version;

		position = es_stream_probe(entries, cursor->stream_no, middle, back, &version);
		if (position == 0 || (forward ? position <= cursor->last : position >= cursor->last))
			near_version = middle;
		else
			far_version = version;
	}
	cursor->version = far_version;
	return true;
}

/*
 * Read the next lot of a stream.
 */
static void
es_stream_fill(EsEntries *entries, EsEntryCursor *cursor)
{
	bool		forward = es_entries_forward(entries);
	int64		version;
	int64		position = 0;

	if (cursor->version >= 0 || es_stream_seek(entries, cursor))
		position = es_stream_probe(entries, cursor->stream_no, cursor->version,
								   entries->direction, &version);
	while (position != 0 && (forward ? position <= cursor->upto : position >= cursor->upto))
	{
		cursor->lot[cursor->n].tid = entries->tid;
		cursor->lot[cursor->n].position = position;
		cursor->n++;
		cursor->version = forward ? version + 1 : version - 1;
		if (cursor->n == cursor->size)
		{
			cursor->size = Min(cursor->size * 4, entries->lot_size);
			ExecClearTuple(entries->slot);
			return;
		}
		position = es_stream_next(entries, entries->direction, &version);
	}
	cursor->exhausted = true;
	ExecClearTuple(entries->slot);
}

/*
 * Read the next lot of a cursor from the index.
 */
static void
es_cursor_fill(EsEntries *entries, EsEntryCursor *cursor)
{
	IndexScanDesc desc = entries->descs[cursor->role];
	ScanKeyData keys[2];
	int			nkeys = 0;
	AttrNumber	column = cursor->role == ES_INDEX_POSITION ? 1 : 2;
	bool		again;

	cursor->n = cursor->next = 0;
	entries->looked = 0;
	if (cursor->exhausted)
		return;
	if (cursor->role == ES_INDEX_STREAM)
	{
		es_stream_fill(entries, cursor);
		return;
	}

	if (es_entries_forward(entries))
	{
		int64		dead_to = es_dead_end(entries->event, cursor->last);

		if (dead_to > cursor->last)
		{
			cursor->last = dead_to;
			ItemPointerSetInvalid(&cursor->last_tid);
		}
	}

	if (entries->single && ItemPointerIsValid(&cursor->last_tid))
	{
		es_cursor_read(entries, cursor, false);
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
	if (es_entries_forward(entries))
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
	es_cursor_read(entries, cursor, again);
}

/*
 * The next entry of a cursor; NULL at the end.
 */
static inline EsEntry *
es_cursor_peek(EsEntries *entries, EsEntryCursor *cursor)
{
	if (cursor->next == cursor->n)
		es_cursor_fill(entries, cursor);
	return cursor->next < cursor->n ? &cursor->lot[cursor->next] : NULL;
}

/*
 * The first entry of a cursor that does not come before "entry"; NULL at the
 * end.  What lies between is passed in the index, not read.
 */
static EsEntry *
es_cursor_seek(EsEntries *entries, EsEntryCursor *cursor, const EsEntry *entry)
{
	if (!cursor->exhausted &&
		(cursor->n == 0 || es_entry_compare(entries, &cursor->lot[cursor->n - 1], entry) < 0))
	{
		cursor->last = es_entries_forward(entries) ? entry->position - 1 : entry->position + 1;
		ItemPointerSetInvalid(&cursor->last_tid);
		cursor->next = cursor->n;
	}
	for (;;)
	{
		EsEntry    *next = es_cursor_peek(entries, cursor);

		if (next == NULL || es_entry_compare(entries, next, entry) >= 0)
			return next;
		cursor->next++;
	}
}

/*
 * The next entry of a source: the first one that all its cursors have; NULL
 * at the end.
 */
static EsEntry *
es_source_peek(EsEntries *entries, EsEntrySource *source)
{
	EsEntry    *entry = es_cursor_peek(entries, &source->cursors[0]);

	for (int agreed = 1, i = 1; entry != NULL && agreed < source->ncursors;
		 i = (i + 1) % source->ncursors)
	{
		EsEntry    *next = es_cursor_seek(entries, &source->cursors[i], entry);

		CHECK_FOR_INTERRUPTS();
		agreed = next != NULL && es_entry_compare(entries, next, entry) == 0 ? agreed + 1 : 1;
		entry = next;
	}
	return entry;
}

/*
 * Take that entry.
 */
static inline void
es_source_take(EsEntrySource *source)
{
	for (int i = 0; i < source->ncursors; i++)
		source->cursors[i].next++;
}

static int
es_entries_compare(Datum a, Datum b, void *arg)
{
	EsEntries  *entries = arg;
	EsEntryCursor *left = &entries->sources[DatumGetInt32(a)].cursors[0];
	EsEntryCursor *right = &entries->sources[DatumGetInt32(b)].cursors[0];

	/* binaryheap puts the largest first */
	return -es_entry_compare(entries, &left->lot[left->next], &right->lot[right->next]);
}

/*
 * The index by which an item is walked.
 */
static EsIndexRole
es_item_role(const EsScanItem *item)
{
	return item->ntags > 0 ? ES_INDEX_TAG :
		item->type_nos == NULL ? ES_INDEX_POSITION : ES_INDEX_TYPE;
}

/*
 * Add a source, with its cursors.
 *
 * after		exclusive
 * upto			inclusive
 * k			number of the type or stream among the item's
 */
static void
es_entries_add(EsEntries *entries, const EsStore *store, Snapshot snapshot,
			   const EsScanItem *item, EsIndexRole role, int k, int64 after, int64 upto)
{
	EsEntrySource *source = &entries->sources[entries->nsources++];

	/* what is not wanted is beyond what the index says */
	if (item->stream_nos != NULL || (role == ES_INDEX_TAG && item->type_nos != NULL))
		source->item = item;
	if (entries->descs[role] == NULL)
	{
		entries->indexes[role] = es_store_open_index(&store->read_index[role]);
		entries->descs[role] =
			es_index_beginscan(entries->event, entries->indexes[role],
							   role == ES_INDEX_STREAM ? snapshot : SnapshotAny,
							   role == ES_INDEX_POSITION ? 1 : 2);
		entries->descs[role]->xs_want_itup = role != ES_INDEX_STREAM;
		if (role == ES_INDEX_STREAM)
			entries->slot = table_slot_create(entries->event, NULL);
	}
	source->ncursors = role == ES_INDEX_TAG ? item->ntags : 1;
	source->cursors = palloc0(sizeof(EsEntryCursor) * source->ncursors);
	for (int c = 0; c < source->ncursors; c++)
	{
		EsEntryCursor *cursor = &source->cursors[c];

		cursor->role = role;
		if (role == ES_INDEX_TYPE)
			cursor->type_no = item->type_nos[k];
		else if (role == ES_INDEX_TAG)
			cursor->tag = item->tags[c];
		else if (role == ES_INDEX_STREAM)
			cursor->stream_no = item->stream_nos[k];
		cursor->version = -1;
		cursor->last = after;
		cursor->upto = upto;
		ItemPointerSetInvalid(&cursor->last_tid);
	}
}

/*
 * Begin to read the entries of events of any of some kinds.
 *
 * entries		of no particular content; to be used up by es_entries_end
 * snapshot		for the items that say up to where it is settled
 * after		exclusive: positions above it, or below it when backward
 * upto			inclusive
 * items		good until es_entries_end
 * expected_rows	a guess, to size the lots
 */
void
es_entries_begin(EsEntries *entries, Relation event, const EsStore *store,
				 Snapshot snapshot, ScanDirection direction, int64 after, int64 upto,
				 const EsScanItem *items, int nitems, int64 expected_rows)
{
	bool		forward = ScanDirectionIsForward(direction);
	int			nsources = 1;

	memset(entries, 0, sizeof(EsEntries));
	entries->event = event;
	entries->direction = direction;
	for (int i = 0; i < nitems; i++)
	{
		nsources += 1 + items[i].ntypes + items[i].nstreams;
		entries->whole |= es_item_role(&items[i]) == ES_INDEX_POSITION;
	}
	entries->sources = palloc0(sizeof(EsEntrySource) * nsources);
	for (int i = 0; i < nitems; i++)
	{
		const EsScanItem *item = &items[i];
		EsIndexRole role = es_item_role(item);
		int64		type_after = after;
		int64		type_upto = upto;

		/* one that wants everything, and nothing else matters */
		if (entries->whole && role != ES_INDEX_POSITION)
			continue;
		if (role == ES_INDEX_TYPE && item->stream_nos != NULL && item->settled > 0)
		{
			for (int k = 0; k < item->nstreams && item->ntypes > 0; k++)
			{
				if (forward ? after < item->settled : upto <= item->settled)
					es_entries_add(entries, store, snapshot, item, ES_INDEX_STREAM, k,
								   forward ? after : Min(after, item->settled + 1),
								   forward ? Min(upto, item->settled) : upto);
			}
			if (forward)
				type_after = Max(after, item->settled);
			else
				type_upto = Max(upto, item->settled + 1);
			if (forward ? type_after >= upto : type_upto >= after)
				continue;
		}
		for (int k = 0; k < (role == ES_INDEX_TYPE ? item->ntypes : 1); k++)
			es_entries_add(entries, store, snapshot, item, role, k, type_after, type_upto);
		if (entries->whole)
			break;
	}

	entries->lot_size = (int) Min(expected_rows, ES_MAX_LOT) / Max(entries->nsources, 1);
	entries->lot_size = Max(entries->lot_size + 1, ES_MIN_LOT);
	entries->single = entries->nsources == 1 && entries->sources[0].ncursors == 1;
	if (entries->nsources > 1)
		entries->heap = binaryheap_allocate(entries->nsources, es_entries_compare, entries);
	for (int i = 0; i < entries->nsources; i++)
	{
		EsEntrySource *source = &entries->sources[i];

		for (int c = 0; c < source->ncursors; c++)
		{
			source->cursors[c].size = Min(entries->lot_size, ES_FIRST_LOT);
			source->cursors[c].lot = palloc(sizeof(EsEntry) * entries->lot_size);
		}
		if (entries->heap != NULL && es_source_peek(entries, source) != NULL)
			binaryheap_add_unordered(entries->heap, Int32GetDatum(i));
	}
	if (entries->heap != NULL)
		binaryheap_build(entries->heap);
}

/*
 * Take the next entry in order.
 *
 * source		result: where it comes from
 *
 * Result: false at the end.
 */
bool
es_entries_next(EsEntries *entries, EsEntry *entry, EsEntrySource **source)
{
	if (entries->heap != NULL)
	{
		int			i;

		if (binaryheap_empty(entries->heap))
			return false;
		i = DatumGetInt32(binaryheap_first(entries->heap));
		*source = &entries->sources[i];
		*entry = (*source)->cursors[0].lot[(*source)->cursors[0].next];
		es_source_take(*source);
		if (es_source_peek(entries, *source) != NULL)
			binaryheap_replace_first(entries->heap, Int32GetDatum(i));
		else
			(void) binaryheap_remove_first(entries->heap);
		return true;
	}
	else
	{
		EsEntry    *next;

		if (entries->nsources == 0)
			return false;
		*source = &entries->sources[0];
		next = es_source_peek(entries, *source);
		if (next == NULL)
			return false;
		*entry = *next;
		es_source_take(*source);
		return true;
	}
}

void
es_entries_end(EsEntries *entries)
{
	for (int role = 0; role < ES_NUM_INDEX_ROLES; role++)
	{
		if (entries->descs[role] != NULL)
		{
			index_endscan(entries->descs[role]);
			index_close(entries->indexes[role], AccessShareLock);
		}
	}
	for (int i = 0; i < entries->nsources; i++)
	{
		for (int c = 0; c < entries->sources[i].ncursors; c++)
			pfree(entries->sources[i].cursors[c].lot);
		pfree(entries->sources[i].cursors);
	}
	pfree(entries->sources);
	if (entries->slot != NULL)
		ExecDropSingleTupleTableSlot(entries->slot);
	if (entries->heap != NULL)
		binaryheap_free(entries->heap);
}
