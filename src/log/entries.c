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
 * Entries are read from the index in lots, and used when the index page may no
 * longer be pinned.
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/genam.h"
#include "access/relscan.h"
#include "catalog/pg_collation.h"
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
		if (es_entries_forward(entries) ? position > entries->upto : position < entries->upto)
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
 * Begin to read the entries of events of any of some kinds.
 *
 * entries		of no particular content; to be used up by es_entries_end
 * after		exclusive: positions above it, or below it when backward
 * upto			inclusive
 * items		good until es_entries_end
 * expected_rows	a guess, to size the lots
 */
void
es_entries_begin(EsEntries *entries, Relation event, const EsStore *store,
				 ScanDirection direction, int64 after, int64 upto,
				 const EsScanItem *items, int nitems, int64 expected_rows)
{
	int			nsources = 0;

	memset(entries, 0, sizeof(EsEntries));
	entries->event = event;
	entries->direction = direction;
	entries->upto = upto;
	for (int i = 0; i < nitems; i++)
	{
		nsources += items[i].ntags > 0 || items[i].type_nos == NULL ? 1 : items[i].ntypes;
		entries->whole |= items[i].ntags == 0 && items[i].type_nos == NULL;
	}
	if (entries->whole)
		nsources = 1;			/* and nothing else matters */
	entries->sources = palloc0(sizeof(EsEntrySource) * Max(nsources, 1));
	for (int i = 0; i < nitems && entries->nsources < nsources; i++)
	{
		const EsScanItem *item = &items[i];
		int			first = entries->nsources;
		bool		by_tag = item->ntags > 0;

		if (entries->whole && (by_tag || item->type_nos != NULL))
			continue;
		entries->nsources += by_tag || entries->whole ? 1 : item->ntypes;
		for (int k = first; k < entries->nsources; k++)
		{
			EsEntrySource *source = &entries->sources[k];

			source->ncursors = by_tag ? item->ntags : 1;
			source->item = by_tag && item->type_nos != NULL ? item : NULL;
			source->cursors = palloc0(sizeof(EsEntryCursor) * source->ncursors);
			for (int c = 0; c < source->ncursors; c++)
			{
				EsEntryCursor *cursor = &source->cursors[c];

				cursor->role = by_tag ? ES_INDEX_TAG :
					entries->whole ? ES_INDEX_POSITION : ES_INDEX_TYPE;
				cursor->type_no = by_tag || entries->whole ? 0 : item->type_nos[k - first];
				cursor->tag = by_tag ? item->tags[c] : (Datum) 0;
				cursor->last = after;
				ItemPointerSetInvalid(&cursor->last_tid);
				if (entries->descs[cursor->role] == NULL)
				{
					entries->indexes[cursor->role] =
						es_store_open_index(&store->read_index[cursor->role]);
					entries->descs[cursor->role] =
						es_index_beginscan(event, entries->indexes[cursor->role], SnapshotAny,
										   entries->whole ? 1 : 2);
					entries->descs[cursor->role]->xs_want_itup = true;
				}
			}
		}
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
	if (entries->heap != NULL)
		binaryheap_free(entries->heap);
}
