/*-------------------------------------------------------------------------
 * log/entries.h
 *	  Index entries of wanted events, merged into one order.
 *-------------------------------------------------------------------------
 */
#ifndef ES_LOG_ENTRIES_H
#define ES_LOG_ENTRIES_H

#include "access/genam.h"
#include "access/sdir.h"
#include "executor/tuptable.h"
#include "storage/itemptr.h"
#include "utils/snapshot.h"

#include "log/store.h"

/*
 * One kind of events to walk over: of one of these types, with all of these
 * tags, of one of these streams.
 */
typedef struct EsScanItem
{
	const int32 *type_nos;		/* ascending; NULL = any */
	int			ntypes;
	const Datum *tags;			/* texts */
	int			ntags;
	const int64 *stream_nos;	/* NULL = any, or not all are known */
	int			nstreams;
	int64		settled;		/* up to this position, settled for the snapshot, the
								 * streams may be walked instead of the types; 0 =
								 * they may not */
} EsScanItem;

typedef struct EsEntry
{
	int64		position;
	ItemPointerData tid;
} EsEntry;

/* the entries of one type number, tag or stream, or of the whole order */
typedef struct EsEntryCursor
{
	EsIndexRole role;			/* index */
	int32		type_no;		/* for ES_INDEX_TYPE */
	Datum		tag;			/* for ES_INDEX_TAG */
	int64		stream_no;		/* for ES_INDEX_STREAM */
	int64		version;		/* the same: where to go on; -1 = not known yet */
	int64		upto;			/* last position of interest */
	int64		last;			/* last position read from the index */
	ItemPointerData last_tid;	/* and its row; invalid before the first lot */
	bool		exhausted;		/* the index has no more */
	int			size;			/* of the next lot */
	int			n;				/* entries in the lot */
	int			next;			/* first not yet used */
	EsEntry *lot;
} EsEntryCursor;

/* entries that all of some cursors have */
typedef struct EsEntrySource
{
	int			ncursors;
	EsEntryCursor *cursors;
	const EsScanItem *item;		/* whose types and streams the rows must be of;
								 * NULL = any */
} EsEntrySource;

typedef struct EsEntries
{
	Relation	event;
	ScanDirection direction;
	bool		whole;			/* every entry of the order is wanted */
	bool		single;			/* there is just one cursor */
	Relation	indexes[ES_NUM_INDEX_ROLES];	/* those in use */
	IndexScanDesc descs[ES_NUM_INDEX_ROLES];
	TupleTableSlot *slot;		/* for the rows of streams; or NULL */
	ItemPointerData tid;		/* where the entry of the row in it points to */
	int			lot_size;		/* of the largest lots */
	int			nsources;
	EsEntrySource *sources;
	struct binaryheap *heap;	/* sources by next position; NULL if one */
	int			looked;			/* of a single cursor: entries of the present lot that
								 * the scan has looked at; 0 in a new lot */
} EsEntries;

extern void es_entries_begin(EsEntries *entries, Relation event, const EsStore *store,
							 Snapshot snapshot, ScanDirection direction,
							 int64 after, int64 upto, const EsScanItem *items, int nitems, int64 expected_rows);
extern bool es_entries_next(EsEntries *entries, EsEntry *entry, EsEntrySource **source);
extern void es_entries_end(EsEntries *entries);

static inline bool
es_entries_forward(const EsEntries *entries)
{
	return ScanDirectionIsForward(entries->direction);
}

#endif							/* ES_LOG_ENTRIES_H */
