/*-------------------------------------------------------------------------
 * read/read.c
 *	  Read events: of a stream, of a category, of the whole global order.
 *
 * A stream is read with the active snapshot straight from the index on
 * (stream_no, version).  Everything along the global order goes through
 * log/scan.c and obeys the prefix rule.  Names are put in and row-level
 * security is seen to by log/event.c.
 *
 * Locks: AccessShareLock on the tables, until the end of the transaction.
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/genam.h"
#include "access/table.h"
#include "access/tableam.h"
#include "catalog/pg_type.h"
#include "funcapi.h"
#include "miscadmin.h"
#include "utils/fmgroids.h"
#include "utils/memutils.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"

#include "base/args.h"
#include "base/compat.h"
#include "base/result.h"
#include "evolution/upcast.h"
#include "log/head.h"
#include "log/scan.h"
#include "log/stream.h"
#include "read/read.h"

PG_FUNCTION_INFO_V1(es_read_stream);
PG_FUNCTION_INFO_V1(es_read_all);
PG_FUNCTION_INFO_V1(es_read_category);
PG_FUNCTION_INFO_V1(es_read_event);
PG_FUNCTION_INFO_V1(es_stream_version);
PG_FUNCTION_INFO_V1(es_head);

/* where the rows of a set go */
typedef struct EsRowSink
{
	Tuplestorestate *rows;
	TupleDesc	desc;
} EsRowSink;

static void
es_put_row(Datum *values, void *arg)
{
	EsRowSink  *sink = arg;
	bool		isnull[Natts_es_out] = {false};

	tuplestore_putvalues(sink->rows, sink->desc, values, isnull);
}

/*
 * Call back for the events of one stream.
 *
 * from_version		inclusive
 * max_count		at most so many
 *
 * Result: number of events.
 */
int64
es_read_stream_events(Relation event, const EsStore *store, int64 stream_no,
					  int64 from_version, int64 max_count, ScanDirection direction,
					  EsEventCallback callback, void *arg)
{
	Relation	index = es_store_open_index(&store->read_index[ES_INDEX_STREAM]);
	TupleTableSlot *slot = table_slot_create(event, NULL);
	EsRowFilter *filter = es_row_filter_begin(event);
	MemoryContext row_context = AllocSetContextCreate(CurrentMemoryContext,
													  "event_store row",
													  ALLOCSET_DEFAULT_SIZES);
	IndexScanDesc scan;
	ScanKeyData keys[2];
	int64		count = 0;

	ScanKeyInit(&keys[0], 1, BTEqualStrategyNumber, F_INT8EQ, Int64GetDatum(stream_no));
	if (ScanDirectionIsForward(direction))
		ScanKeyEntryInitialize(&keys[1], 0, 2, BTGreaterEqualStrategyNumber, INT8OID,
							   InvalidOid, F_INT48GE, Int64GetDatum(from_version));
	else
		ScanKeyEntryInitialize(&keys[1], 0, 2, BTLessEqualStrategyNumber, INT8OID,
							   InvalidOid, F_INT48LE, Int64GetDatum(from_version));
	scan = es_index_beginscan(event, index, GetActiveSnapshot(), 2);
	index_rescan(scan, keys, 2, NULL, 0);
	while (count < max_count && index_getnext_slot(scan, direction, slot))
	{
		Datum		values[Natts_es_out];
		MemoryContext old_context;
		bool		isnull;

		CHECK_FOR_INTERRUPTS();
		if (!es_row_filter_passes(filter,
								  DatumGetInt64(slot_getattr(slot, Anum_es_event_global_position,
															 &isnull))))
			continue;
		old_context = MemoryContextSwitchTo(row_context);
		es_event_values(store, slot, values);
		callback(values, arg);
		MemoryContextSwitchTo(old_context);
		MemoryContextReset(row_context);
		count++;
	}
	index_endscan(scan);
	es_row_filter_end(filter);
	MemoryContextDelete(row_context);
	ExecDropSingleTupleTableSlot(slot);
	index_close(index, AccessShareLock);
	return count;
}

/*
 * es_read_stream(stream_id text, from_version bigint, max_count bigint,
 *				  backward boolean) RETURNS SETOF es_event
 *
 * from_version is inclusive; NULL = from the respective end.
 */
Datum
es_read_stream(PG_FUNCTION_ARGS)
{
	const EsStore *store;
	Relation	event;
	EsRowSink	sink;
	const char *stream;
	int			len;
	bool		backward = es_arg_bool(fcinfo, 3, "backward");
	int64		from_version;
	int64		max_count;
	int64		stream_no;

	stream = es_arg_name(fcinfo, 0, "stream_id", &len);
	from_version = es_arg_int64_default(fcinfo, 1, "from_version", 0, PG_INT64_MAX,
										backward ? PG_INT64_MAX : 0);
	max_count = es_arg_int64_default(fcinfo, 2, "max_count", 0, PG_INT64_MAX, PG_INT64_MAX);

	sink.rows = es_result_set(fcinfo, &sink.desc);
	event = es_store_open_event(&store, AccessShareLock);
	stream_no = es_stream_find(store, stream, len);
	if (stream_no != 0)
		es_read_stream_events(event, store, stream_no, from_version, max_count,
							  backward ? BackwardScanDirection : ForwardScanDirection,
							  es_put_row, &sink);
	table_close(event, NoLock);
	return (Datum) 0;
}

/*
 * Read along the global order into a set.
 *
 * after		exclusive cursor; -1 = from the respective end
 * categories, names	filters, NULL = none
 */
static void
es_read_order(FunctionCallInfo fcinfo, int64 after, int64 max_count, bool backward,
			  Datum *categories, int ncategories, Datum *names, int nnames)
{
	Snapshot	snapshot = GetActiveSnapshot();
	const EsStore *store;
	Relation	event;
	EsRowSink	sink;
	EsRowFilter *filter;
	EsTypeFilter *types = NULL;
	EsScan	   *scan;
	MemoryContext row_context;
	int32	   *type_nos = NULL;
	int			ntypes = 0;
	int64		upto;
	int64		count = 0;

	sink.rows = es_result_set(fcinfo, &sink.desc);
	event = es_store_open_event(&store, AccessShareLock);

	if (backward)
	{
		int64		head = es_head_settled(event, store, snapshot, 0, NULL);

		after = after < 0 ? head + 1 : Min(after, head + 1);
		upto = 1;
	}
	else
	{
		after = Max(after, 0);
		upto = es_head_bound(event, store, snapshot);
		if (unlikely(after > upto))
			es_head_check_cursor(event, store, after);
	}

	/* the list must be younger than the bound: see log/type.c */
	if (categories != NULL || names != NULL)
		ntypes = es_upcast_type_list(store, categories, ncategories, names, nnames,
									 &type_nos, &types);

	filter = es_row_filter_begin(event);
	row_context = AllocSetContextCreate(CurrentMemoryContext, "event_store row",
										ALLOCSET_DEFAULT_SIZES);
	scan = es_scan_begin(event, store, snapshot, ES_SCAN_VISIBLE,
						 backward ? BackwardScanDirection : ForwardScanDirection,
						 after, upto, type_nos, ntypes, max_count);
	while (count < max_count && es_scan_next(scan))
	{
		Datum		values[Natts_es_out];
		MemoryContext old_context;

		if (!es_row_filter_passes(filter, es_scan_position(scan)) ||
			!es_upcast_wanted(store, types, es_scan_slot(scan)))
			continue;
		old_context = MemoryContextSwitchTo(row_context);
		es_event_values(store, es_scan_slot(scan), values);
		es_put_row(values, &sink);
		MemoryContextSwitchTo(old_context);
		MemoryContextReset(row_context);
		count++;
	}
	es_scan_end(scan);
	es_row_filter_end(filter);
	MemoryContextDelete(row_context);
	table_close(event, NoLock);
}

/*
 * es_read_all(after_position bigint, max_count bigint, categories text[],
 *			   event_types text[], backward boolean) RETURNS SETOF es_event
 *
 * after_position is exclusive; NULL = from the respective end.  An empty
 * array matches nothing.
 * Errors: VE005 on a logical subscriber without a mark.
 */
Datum
es_read_all(PG_FUNCTION_ARGS)
{
	int64		after = es_arg_int64_default(fcinfo, 0, "after_position", 0, PG_INT64_MAX, -1);
	int64		max_count = es_arg_int64_default(fcinfo, 1, "max_count", 0, PG_INT64_MAX,
												 PG_INT64_MAX);
	Datum	   *categories;
	Datum	   *names;
	int			ncategories = es_arg_categories(fcinfo, 2, "categories", &categories);
	int			nnames = es_arg_names(fcinfo, 3, "event_types", &names);
	bool		backward = es_arg_bool(fcinfo, 4, "backward");

	es_read_order(fcinfo, after, max_count, backward, categories, ncategories,
				  names, nnames);
	return (Datum) 0;
}

/*
 * es_read_category(category text, after_position bigint, max_count bigint,
 *					backward boolean) RETURNS SETOF es_event
 */
Datum
es_read_category(PG_FUNCTION_ARGS)
{
	int			len;
	const char *category = es_arg_name(fcinfo, 0, "category", &len);
	int64		after = es_arg_int64_default(fcinfo, 1, "after_position", 0, PG_INT64_MAX, -1);
	int64		max_count = es_arg_int64_default(fcinfo, 2, "max_count", 0, PG_INT64_MAX,
												 PG_INT64_MAX);
	bool		backward = es_arg_bool(fcinfo, 3, "backward");
	Datum		categories[1] = {PG_GETARG_DATUM(0)};

	es_check_category("category", 0, category, len);
	es_read_order(fcinfo, after, max_count, backward, categories, 1, NULL, 0);
	return (Datum) 0;
}

/*
 * es_read_event(event_id uuid) RETURNS es_event
 *
 * Result: NULL when no visible event has that id.
 */
Datum
es_read_event(PG_FUNCTION_ARGS)
{
	const EsStore *store;
	Relation	event;
	Relation	index;
	TupleTableSlot *slot;
	IndexScanDesc scan;
	ScanKeyData key;
	EsRowFilter *filter;
	Datum		values[Natts_es_out];
	bool		isnull[Natts_es_out] = {false};
	Datum		result = (Datum) 0;

	es_arg_required(fcinfo, 0, "event_id");

	event = es_store_open_event(&store, AccessShareLock);
	index = es_store_open_index(&store->read_index[ES_INDEX_EVENT_ID]);
	slot = table_slot_create(event, NULL);
	filter = es_row_filter_begin(event);
	ScanKeyInit(&key, 1, BTEqualStrategyNumber, F_UUID_EQ, PG_GETARG_DATUM(0));
	scan = es_index_beginscan(event, index, GetActiveSnapshot(), 1);
	index_rescan(scan, &key, 1, NULL, 0);
	if (index_getnext_slot(scan, ForwardScanDirection, slot))
	{
		int64		position = DatumGetInt64(slot_getattr(slot, Anum_es_event_global_position,
														  &isnull[0]));

		if (es_row_filter_passes(filter, position))
		{
			es_event_values(store, slot, values);
			result = es_result_row(fcinfo, values, isnull);
		}
	}
	index_endscan(scan);
	es_row_filter_end(filter);
	ExecDropSingleTupleTableSlot(slot);
	index_close(index, AccessShareLock);
	table_close(event, NoLock);

	if (result == (Datum) 0)
		PG_RETURN_NULL();
	return result;
}

/*
 * es_stream_version(stream_id text) RETURNS bigint
 *
 * Result: 0 when there is no such stream.
 */
Datum
es_stream_version(PG_FUNCTION_ARGS)
{
	const EsStore *store;
	Relation	event;
	int			len;
	const char *stream = es_arg_name(fcinfo, 0, "stream_id", &len);
	int64		stream_no;
	int64		version = 0;

	event = es_store_open_event(&store, AccessShareLock);
	stream_no = es_stream_find(store, stream, len);
	if (stream_no != 0)
		version = es_event_version(event, store, GetActiveSnapshot(), stream_no, NULL);
	table_close(event, NoLock);
	PG_RETURN_INT64(version);
}

/*
 * es_head() RETURNS bigint
 *
 * Result: highest settled position for this snapshot, 0 when empty.
 */
Datum
es_head(PG_FUNCTION_ARGS)
{
	const EsStore *store;
	Relation	event = es_store_open_event(&store, AccessShareLock);
	int64		head = es_head_settled(event, store, GetActiveSnapshot(), 0, NULL);

	table_close(event, NoLock);
	PG_RETURN_INT64(head);
}
