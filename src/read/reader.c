/*-------------------------------------------------------------------------
 * read/reader.c
 *	  Pull events, one by one, of a stream or of the global order.
 *
 * The one way in which the read functions, in whatever form they are called,
 * get at events.  A stream is read with the given snapshot straight from the
 * index on (stream_no, version).  Everything along the global order goes
 * through log/scan.c and obeys the prefix rule: the bound is taken once, with
 * the given snapshot, when the reader begins, and holds for it and for its
 * restarts, however slowly the rows are pulled.
 *
 * A row comes as it is stored.  What a reader sees is made of it column by
 * column, so that nobody pays for the columns that he does not ask for: a
 * payload is not taken out of its TOAST table, a name not looked up, an
 * upcaster not called.
 *
 * Locks: AccessShareLock on the tables, until the end of the transaction.
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/genam.h"
#include "access/table.h"
#include "access/tableam.h"
#include "catalog/pg_type.h"
#include "miscadmin.h"
#include "utils/fmgroids.h"
#include "utils/memutils.h"
#include "utils/rel.h"

#include "base/compat.h"
#include "base/count.h"
#include "evolution/upcast.h"
#include "log/durable.h"
#include "log/head.h"
#include "log/stream.h"
#include "read/reader.h"

struct EsReader
{
	MemoryContext context;		/* holds the reader and all that belongs to it */
	Relation	event;
	bool		opened;			/* by the reader, who closes it */
	const EsStore *store;
	Snapshot	snapshot;
	bool		descending;		/* the order of the result */
	bool		as_stored;		/* see EsRead */
	int64		first;			/* what is read: versions of a stream, or */
	int64		last;			/* positions, both inclusive */
	int64		max_count;
	EsRowFilter *filter;

	/* where it stands */
	bool		ahead;			/* it goes in the order of the result */
	bool		over;			/* and has come to the end of it */
	int64		place;			/* number of the present event, from 1; 0 = before
								 * the first one, one more at the end */
	int64		key;			/* its version or position; at the end that of the
								 * last one */
	EsBlocked	blocked;		/* what has stopped it before the end */
	int64		durable_below;	/* positions that are on disk if they are visible */

	/* of one stream */
	Relation	index;			/* NULL: along the global order, or nothing at all */
	IndexScanDesc desc;
	TupleTableSlot *slot;
	int64		stream_no;

	/* along the global order */
	EsScan	   *scan;
	int32	   *type_nos;
	int			ntypes;
	EsTypeFilter *types;
	EsQuery    *query;			/* instead of the types; NULL = none */
	MemoryContext lists;		/* holds what the present walk has listed for it, which
								 * a rescan does anew; NULL = none yet */
};

/* where the columns of es_event come from that an event's row has itself */
static const AttrNumber es_stored_columns[Natts_es_out] = {
	[Anum_es_out_global_position - 1] = Anum_es_event_global_position,
	[Anum_es_out_version - 1] = Anum_es_event_version,
	[Anum_es_out_event_id - 1] = Anum_es_event_event_id,
	[Anum_es_out_schema_version - 1] = Anum_es_event_schema_version,
	[Anum_es_out_data - 1] = Anum_es_event_data,
	[Anum_es_out_metadata - 1] = Anum_es_event_metadata,
	[Anum_es_out_created_at - 1] = Anum_es_event_created_at,
};

/* a name as a text that is good until the next row */
typedef struct EsNameText
{
	int64		number;			/* of the stream or type; 0 = none yet */
	int			size;
	text	   *value;
} EsNameText;

/* names that come again and again; a power of two */
#define ES_NAME_TEXTS	16

struct EsColumns
{
	MemoryContext context;
	int			last;			/* last column of the event table that is needed */
	bool		version;
	bool		stream;
	bool		type;
	bool		data;
	bool		schema_version;
	int			nstored;
	AttrNumber	stored[Natts_es_out];	/* columns of es_event that are copied */
	EsNameText	stream_id;
	EsNameText	event_types[ES_NAME_TEXTS]; /* by the last bits of their numbers */
};

static EsReader *
es_reader_create(Relation event, const EsStore *store, Snapshot snapshot,
				 bool descending, int64 max_count)
{
	MemoryContext context = AllocSetContextCreate(CurrentMemoryContext,
												  "event_store reader",
												  ALLOCSET_DEFAULT_SIZES);
	EsReader   *reader = MemoryContextAllocZero(context, sizeof(EsReader));

	es_count(ES_COUNT_READS, 1);
	reader->context = context;
	reader->event = event;
	reader->store = store;
	reader->snapshot = snapshot;
	reader->descending = descending;
	reader->max_count = max_count;
	reader->ahead = true;
	reader->durable_below = es_durable_below();
	return reader;
}

/*
 * Walk from here, in the direction that is set.
 *
 * first, last		versions or positions, inclusive
 */
static void
es_reader_walk(EsReader *reader, int64 first, int64 last)
{
	bool		forward = reader->ahead != reader->descending;
	ScanKeyData keys[3];

	reader->over = false;
	if (reader->index != NULL)
	{
		ScanKeyInit(&keys[0], 1, BTEqualStrategyNumber, F_INT8EQ,
					Int64GetDatum(reader->stream_no));
		ScanKeyEntryInitialize(&keys[1], 0, 2, BTGreaterEqualStrategyNumber, INT8OID,
							   InvalidOid, F_INT48GE, Int64GetDatum(first));
		ScanKeyEntryInitialize(&keys[2], 0, 2, BTLessEqualStrategyNumber, INT8OID,
							   InvalidOid, F_INT48LE, Int64GetDatum(last));
		index_rescan(reader->desc, keys, 3, NULL, 0);
	}
	else
	{
		ScanDirection direction = forward ? ForwardScanDirection : BackwardScanDirection;
		int64		after = forward ? first - 1 : last + 1;
		int64		upto = forward ? last : first;

		if (reader->scan != NULL)
			es_scan_end(reader->scan);
		reader->scan = NULL;
		if (reader->query != NULL)
		{
			MemoryContext old_context;

			if (reader->lists == NULL)
				reader->lists = AllocSetContextCreate(reader->context, "event_store query",
													  ALLOCSET_SMALL_SIZES);
			else
				MemoryContextReset(reader->lists);
			old_context = MemoryContextSwitchTo(reader->lists);
			reader->scan = es_query_scan(reader->query, reader->event, reader->store,
										 reader->snapshot, ES_SCAN_VISIBLE, direction,
										 after, upto, reader->max_count);
			MemoryContextSwitchTo(old_context);
		}
		else
			reader->scan = es_scan_begin(reader->event, reader->store, reader->snapshot,
										 ES_SCAN_VISIBLE, direction, after, upto,
										 reader->type_nos, reader->ntypes, reader->max_count);
	}
}

/*
 * Begin to read a stream of a table that the caller has opened and keeps open.
 *
 * snapshot			registered or active until es_reader_end
 * from_version		inclusive
 * max_count		at most so many
 * as_stored		see EsRead
 */
EsReader *
es_reader_begin_stream(Relation event, const EsStore *store, Snapshot snapshot,
					   int64 stream_no, int64 from_version, int64 max_count,
					   ScanDirection direction, bool as_stored)
{
	EsReader   *reader = es_reader_create(event, store, snapshot,
										  ScanDirectionIsBackward(direction), max_count);
	MemoryContext old_context = MemoryContextSwitchTo(reader->context);

	reader->as_stored = as_stored;
	reader->stream_no = stream_no;
	reader->first = reader->descending ? 0 : from_version;
	reader->last = reader->descending ? from_version : PG_INT64_MAX;
	reader->filter = es_row_filter_begin(event);
	reader->index = es_store_open_index(&store->read_index[ES_INDEX_STREAM]);
	reader->slot = table_slot_create(event, NULL);
	reader->desc = es_index_beginscan(event, reader->index, snapshot, 3);
	es_reader_walk(reader, reader->first, reader->last);
	MemoryContextSwitchTo(old_context);
	return reader;
}

/*
 * Take the bound, and begin to read along the global order.
 */
static EsReader *
es_reader_begin_order(Relation event, const EsStore *store, Snapshot snapshot,
					  const EsRead *read)
{
	EsReader   *reader = es_reader_create(event, store, snapshot, read->backward,
										  read->max_count);
	MemoryContext old_context = MemoryContextSwitchTo(reader->context);

	if (read->backward)
	{
		reader->first = 1;
		reader->last = es_head_settled(event, store, snapshot, 0, NULL);
		if (read->from >= 0)
			reader->last = Min(reader->last, read->from - 1);
	}
	else
	{
		int64		after = Max(read->from, 0);

		reader->last = es_head_bound(event, store, snapshot);
		if (unlikely(after > reader->last))
			es_head_check_cursor(event, store, after);
		reader->first = after < PG_INT64_MAX ? after + 1 : after;
	}

	reader->as_stored = read->as_stored;

	/* the list must be younger than the bound: see log/type.c */
	if (read->categories != NULL || read->names != NULL)
		reader->ntypes = es_upcast_type_list(store, read->categories, read->ncategories,
											 read->names, read->nnames, read->as_stored,
											 &reader->type_nos, &reader->types);

	reader->query = read->query;
	if (reader->query != NULL)
		reader->query->as_stored = read->as_stored;
	reader->filter = es_row_filter_begin(event);
	es_reader_walk(reader, reader->first, reader->last);
	MemoryContextSwitchTo(old_context);
	return reader;
}

/*
 * Begin to read.
 *
 * read			what it points to must stay until es_reader_end
 * snapshot		registered or active until es_reader_end
 *
 * The reader is allocated in the current memory context.
 * Errors: VE004 when the cursor is ahead of the store, VE005 on a logical
 * subscriber without a mark.
 */
EsReader *
es_reader_begin(const EsRead *read, Snapshot snapshot)
{
	const EsStore *store;
	Relation	event = es_store_open_event(&store, AccessShareLock);
	EsReader   *reader;
	int64		stream_no;

	if (read->stream == NULL)
		reader = es_reader_begin_order(event, store, snapshot, read);
	else if ((stream_no = es_stream_find(store, read->stream, read->stream_len)) != 0)
		reader = es_reader_begin_stream(event, store, snapshot, stream_no,
										read->from >= 0 ? read->from :
										read->backward ? PG_INT64_MAX : 0,
										read->max_count,
										read->backward ? BackwardScanDirection :
										ForwardScanDirection, read->as_stored);
	else						/* nothing left to return */
		reader = es_reader_create(event, store, snapshot, false, 0);
	reader->opened = true;
	return reader;
}

/*
 * Turn round.
 */
static pg_noinline void
es_reader_turn(EsReader *reader)
{
	MemoryContext old_context = MemoryContextSwitchTo(reader->context);
	/* at the end the last event is the next one backward */
	int64		step = reader->ahead && reader->over ? 0 : 1;

	reader->ahead = !reader->ahead;
	if (reader->place == 0)
		es_reader_walk(reader, reader->first, reader->last);
	else if (reader->ahead != reader->descending)
		es_reader_walk(reader, reader->key + step, reader->last);
	else
		es_reader_walk(reader, reader->first, reader->key - step);
	MemoryContextSwitchTo(old_context);
}

/*
 * What is visible at this position is to be on disk before anybody is told.
 */
static void
es_reader_be_durable(EsReader *reader, int64 position)
{
	if (position >= reader->durable_below)
	{
		es_durable_wait();
		reader->durable_below = PG_INT64_MAX;
	}
}

/*
 * The next event in the present direction, if it has one.
 */
static TupleTableSlot *
es_reader_pull(EsReader *reader)
{
	bool		forward = reader->ahead != reader->descending;

	for (;;)
	{
		TupleTableSlot *row;
		bool		isnull;

		if (reader->scan != NULL)
		{
			if (!es_scan_next(reader->scan))
				break;
			row = es_scan_slot(reader->scan);
		}
		else
		{
			CHECK_FOR_INTERRUPTS();
			row = reader->slot;
			if (!index_getnext_slot(reader->desc, forward ? ForwardScanDirection :
									BackwardScanDirection, row))
				break;
			if (unlikely(reader->durable_below != PG_INT64_MAX))
				es_reader_be_durable(reader,
									 DatumGetInt64(slot_getattr(row, Anum_es_event_global_position,
																&isnull)));
		}
		if (unlikely(reader->filter != NULL) &&
			!es_row_filter_passes(reader->filter,
								  DatumGetInt64(slot_getattr(row, Anum_es_event_global_position,
															 &isnull))))
			continue;
		if (reader->query != NULL ? !es_query_wants(reader->query, reader->store, row) :
			!es_upcast_wanted(reader->store, reader->types, row))
			continue;
		reader->key = reader->scan != NULL ? es_scan_position(reader->scan) :
			DatumGetInt32(slot_getattr(row, Anum_es_event_version, &isnull));
		return row;
	}
	if (reader->scan != NULL && es_scan_blocked(reader->scan).position != 0)
	{
		/* even if that is aborted meanwhile: a query sees the same all the time */
		reader->blocked = es_scan_blocked(reader->scan);
		reader->last = reader->blocked.position - 1;
	}
	return NULL;
}

/*
 * The next event as it is stored, already passed by row-level security.
 *
 * ahead		in the order of the result, or the way back
 *
 * Result: good until the next call; NULL at the end, or before the first one.
 */
TupleTableSlot *
es_reader_next(EsReader *reader, bool ahead)
{
	TupleTableSlot *row = NULL;

	if (reader->scan == NULL && reader->index == NULL)
		return NULL;			/* there is no such stream */
	if (unlikely(ahead != reader->ahead))
		es_reader_turn(reader);
	if (reader->over)
		return NULL;
	if (ahead ? reader->place < reader->max_count : reader->place > 1)
		row = es_reader_pull(reader);
	reader->over = row == NULL;
	reader->place += ahead ? 1 : -1;
	return row;
}

const EsStore *
es_reader_store(EsReader *reader)
{
	return reader->store;
}

/*
 * The columns of es_event, in the shape in which the read shows them.  This may
 * run users' functions.
 *
 * values		Natts_es_out elements, see es_event_stored_values
 */
void
es_reader_values(EsReader *reader, TupleTableSlot *row, Datum *values)
{
	if (reader->as_stored)
		(void) es_event_stored_values(reader->store, row, values);
	else
		es_event_values(reader->store, row, values);
}

/*
 * The unsettled event at which the reader has stopped, if it has.
 */
EsBlocked
es_reader_blocked(EsReader *reader)
{
	return reader->blocked;
}

/*
 * The last position up to which the reader reads, or, at its end, has read
 * everything that it is to read.
 */
int64
es_reader_last(EsReader *reader)
{
	es_reader_be_durable(reader, reader->last);
	return reader->last;
}

/*
 * Go back to before the first event.
 */
void
es_reader_restart(EsReader *reader)
{
	MemoryContext old_context = MemoryContextSwitchTo(reader->context);

	reader->ahead = true;
	reader->place = 0;
	if (reader->index != NULL || reader->scan != NULL)
		es_reader_walk(reader, reader->first, reader->last);
	MemoryContextSwitchTo(old_context);
}

void
es_reader_end(EsReader *reader)
{
	if (reader->scan != NULL)
		es_scan_end(reader->scan);
	if (reader->index != NULL)
	{
		index_endscan(reader->desc);
		ExecDropSingleTupleTableSlot(reader->slot);
		index_close(reader->index, AccessShareLock);
	}
	es_row_filter_end(reader->filter);
	if (reader->opened)
		table_close(reader->event, NoLock);
	MemoryContextDelete(reader->context);
}

/*
 * Choose columns of es_event.
 *
 * wanted		attribute numbers
 *
 * Result: in the current memory context.
 */
EsColumns *
es_columns_create(const Bitmapset *wanted)
{
	EsColumns  *columns = palloc0(sizeof(EsColumns));

	columns->context = CurrentMemoryContext;
	columns->version = bms_is_member(Anum_es_out_version, wanted);
	columns->stream = bms_is_member(Anum_es_out_stream_id, wanted);
	columns->type = bms_is_member(Anum_es_out_event_type, wanted);
	columns->data = bms_is_member(Anum_es_out_data, wanted);
	columns->schema_version = bms_is_member(Anum_es_out_schema_version, wanted);

	for (int column = 1; column <= Natts_es_out; column++)
	{
		AttrNumber	stored = es_stored_columns[column - 1];

		if (stored != 0 && bms_is_member(column, wanted))
		{
			columns->stored[columns->nstored++] = column;
			columns->last = Max(columns->last, stored);
		}
	}
	if (columns->stream)
		columns->last = Max(columns->last, Anum_es_event_stream_no);
	if (columns->type || columns->data || columns->schema_version)
		columns->last = Max(columns->last, Anum_es_event_schema_version);
	return columns;
}

static Datum
es_name_text(EsColumns *columns, EsNameText *text, int64 number, const char *name, int len)
{
	if (len + VARHDRSZ > text->size)
	{
		text->size = Max(len + VARHDRSZ, 64);
		text->value = MemoryContextAlloc(columns->context, text->size);
	}
	text->number = number;
	SET_VARSIZE(text->value, len + VARHDRSZ);
	memcpy(VARDATA(text->value), name, len);
	return PointerGetDatum(text->value);
}

/*
 * Bring the wanted columns into today's shape.
 */
static pg_noinline void
es_columns_upcast(EsColumns *columns, const EsStore *store, EsUpcaster *upcaster,
				  TupleTableSlot *row, Datum *values)
{
	Datum		shape[Natts_es_out];

	if (columns->data)
	{
		(void) es_event_stored_values(store, row, shape);
		es_upcaster_apply(upcaster, shape);
		values[Anum_es_out_data - 1] = shape[Anum_es_out_data - 1];
	}
	else
	{
		text	   *event_type;
		int32		schema_version;

		es_upcaster_target(upcaster, &event_type, &schema_version);
		shape[Anum_es_out_event_type - 1] = PointerGetDatum(event_type);
		shape[Anum_es_out_schema_version - 1] = Int32GetDatum(schema_version);
	}
	if (columns->type)
		values[Anum_es_out_event_type - 1] = shape[Anum_es_out_event_type - 1];
	if (columns->schema_version)
		values[Anum_es_out_schema_version - 1] = shape[Anum_es_out_schema_version - 1];
}

/*
 * The chosen columns of an event, in the shape in which the read shows them.
 * Runs users' functions if data is among them.
 *
 * row			from es_reader_next
 * values		Natts_es_out elements, of which the chosen ones are set.
 *				By-reference ones point into the row, into the columns, or into
 *				the current memory context, and are good until the next event or
 *				the next reset of that
 * isnull		the same, set of the only two that may be null: those of an event
 *				without stream, whose values are then 0
 */
void
es_columns_get(EsColumns *columns, EsReader *reader, TupleTableSlot *row,
			   Datum *values, bool *isnull)
{
	const EsStore *store = reader->store;
	Datum	   *stored;

	slot_getsomeattrs(row, columns->last);
	stored = row->tts_values;
	for (int i = 0; i < columns->nstored; i++)
	{
		AttrNumber	column = columns->stored[i];

		values[column - 1] = stored[es_stored_columns[column - 1] - 1];
	}
	if (columns->version)		/* stored as integer */
	{
		isnull[Anum_es_out_version - 1] = row->tts_isnull[Anum_es_event_version - 1];
		values[Anum_es_out_version - 1] = isnull[Anum_es_out_version - 1] ? (Datum) 0 :
			Int64GetDatum(DatumGetInt32(stored[Anum_es_event_version - 1]));
	}

	if (columns->stream)
	{
		int64		stream_no = DatumGetInt64(stored[Anum_es_event_stream_no - 1]);

		isnull[Anum_es_out_stream_id - 1] = row->tts_isnull[Anum_es_event_stream_no - 1];
		if (isnull[Anum_es_out_stream_id - 1])
			values[Anum_es_out_stream_id - 1] = (Datum) 0;
		else if (columns->stream_id.number == stream_no)
			values[Anum_es_out_stream_id - 1] = PointerGetDatum(columns->stream_id.value);
		else
		{
			int			len;
			const char *name = es_stream_name(store, stream_no, &len);

			values[Anum_es_out_stream_id - 1] =
				es_name_text(columns, &columns->stream_id, stream_no, name, len);
		}
	}
	if (columns->type || columns->data || columns->schema_version)
	{
		int32		type_no = DatumGetInt32(stored[Anum_es_event_type_no - 1]);
		bool		upcast = unlikely(es_upcast_possible) && !reader->as_stored;
		EsNameText *text = &columns->event_types[type_no & (ES_NAME_TEXTS - 1)];

		if (text->number == type_no && !upcast)
			values[Anum_es_out_event_type - 1] = PointerGetDatum(text->value);
		else if (columns->type || upcast)
		{
			EsType	   *type = es_type_lookup(store, type_no);

			values[Anum_es_out_event_type - 1] =
				es_name_text(columns, text, type_no, type->name, type->name_len);
			if (upcast && es_upcast_needed(type))
			{
				EsUpcaster *upcaster =
					es_upcaster_for_type(type,
										 DatumGetInt32(stored[Anum_es_event_schema_version - 1]));

				if (upcaster != NULL)
					es_columns_upcast(columns, store, upcaster, row, values);
			}
		}
	}
}
