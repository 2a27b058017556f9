/*-------------------------------------------------------------------------
 * read/read.c
 *	  Read events: of a stream, of a category, of the whole global order.
 *
 * A read function is its arguments and what they choose; the events are
 * pulled by read/reader.c.  In FROM they go straight into the query
 * (read/eventscan.c); only where that does not fit is the function called,
 * and collects them into a set.
 *
 * Locks: AccessShareLock on the tables, until the end of the transaction.
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/genam.h"
#include "access/table.h"
#include "access/tableam.h"
#include "catalog/pg_type.h"
#include "executor/executor.h"
#include "utils/fmgroids.h"
#include "utils/memutils.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"
#include "utils/typcache.h"
#include "utils/uuid.h"

#include "base/args.h"
#include "base/count.h"
#include "base/compat.h"
#include "base/result.h"
#include "evolution/upcast.h"
#include "log/durable.h"
#include "log/find.h"
#include "log/head.h"
#include "log/stream.h"
#include "read/read.h"
#include "settings.h"

PG_FUNCTION_INFO_V1(es_read_stream);
PG_FUNCTION_INFO_V1(es_read_all);
PG_FUNCTION_INFO_V1(es_read_category);
PG_FUNCTION_INFO_V1(es_read_query);
PG_FUNCTION_INFO_V1(es_read_event);
PG_FUNCTION_INFO_V1(es_tags);
PG_FUNCTION_INFO_V1(es_stream_version);
PG_FUNCTION_INFO_V1(es_check_category_name);
PG_FUNCTION_INFO_V1(es_head);

/*
 * Call back for the events of one stream.
 *
 * from_version		inclusive
 * max_count		at most so many
 * as_stored		see EsRead
 *
 * Result: number of events.
 */
int64
es_read_stream_events(Relation event, const EsStore *store, int64 stream_no,
					  int64 from_version, int64 max_count, ScanDirection direction,
					  bool as_stored, EsEventCallback callback, void *arg)
{
	EsReader   *reader = es_reader_begin_stream(event, store, GetActiveSnapshot(), stream_no,
												from_version, max_count, direction,
												as_stored);
	MemoryContext row_context = AllocSetContextCreate(CurrentMemoryContext,
													  "event_store row",
													  ALLOCSET_DEFAULT_SIZES);
	TupleTableSlot *row;
	int64		count = 0;

	while ((row = es_reader_next(reader, true)) != NULL)
	{
		Datum		values[Natts_es_out];
		MemoryContext old_context = MemoryContextSwitchTo(row_context);

		es_reader_values(reader, row, values);
		callback(values, arg);
		MemoryContextSwitchTo(old_context);
		MemoryContextReset(row_context);
		count++;
	}
	MemoryContextDelete(row_context);
	es_reader_end(reader);
	return count;
}

/*
 * es_read_stream(stream_id text, from_version bigint, max_count bigint,
 *				  backward boolean) RETURNS SETOF es_event
 *
 * from_version is inclusive; NULL = from the respective end.
 */
static void
es_read_stream_arguments(FunctionCallInfo fcinfo, EsRead *read)
{
	read->backward = es_arg_bool(fcinfo, 3, "backward");
	read->stream = es_arg_name(fcinfo, 0, "stream_id", &read->stream_len);
	read->from = es_arg_int64_default(fcinfo, 1, "from_version", 0, PG_INT64_MAX, -1);
	read->max_count = es_arg_int64_default(fcinfo, 2, "max_count", 0, PG_INT64_MAX, PG_INT64_MAX);
}

/*
 * es_read_all(after_position bigint, max_count bigint, categories text[],
 *			   event_types text[], backward boolean) RETURNS SETOF es_event
 *
 * after_position is exclusive; NULL = from the respective end.  An empty
 * array matches nothing.
 */
static void
es_read_all_arguments(FunctionCallInfo fcinfo, EsRead *read)
{
	read->from = es_arg_int64_default(fcinfo, 0, "after_position", 0, PG_INT64_MAX, -1);
	read->max_count = es_arg_int64_default(fcinfo, 1, "max_count", 0, PG_INT64_MAX, PG_INT64_MAX);
	read->ncategories = es_arg_categories(fcinfo, 2, "categories", &read->categories);
	read->nnames = es_arg_names(fcinfo, 3, "event_types", &read->names);
	read->backward = es_arg_bool(fcinfo, 4, "backward");
}

/*
 * es_read_category(category text, after_position bigint, max_count bigint,
 *					backward boolean) RETURNS SETOF es_event
 */
static void
es_read_category_arguments(FunctionCallInfo fcinfo, EsRead *read)
{
	int			len;

	(void) es_arg_category(fcinfo, 0, "category", &len);
	read->from = es_arg_int64_default(fcinfo, 1, "after_position", 0, PG_INT64_MAX, -1);
	read->max_count = es_arg_int64_default(fcinfo, 2, "max_count", 0, PG_INT64_MAX, PG_INT64_MAX);
	read->backward = es_arg_bool(fcinfo, 3, "backward");
	read->categories = palloc(sizeof(Datum));
	read->categories[0] = PG_GETARG_DATUM(0);
	read->ncategories = 1;
}

/*
 * es_read_query(query jsonb, after_position bigint, max_count bigint,
 *				 backward boolean) RETURNS SETOF es_event
 */
static void
es_read_query_arguments(FunctionCallInfo fcinfo, EsRead *read)
{
	read->query = es_query_parse("query", es_arg_jsonb(fcinfo, 0, "query"));
	read->from = es_arg_int64_default(fcinfo, 1, "after_position", 0, PG_INT64_MAX, -1);
	read->max_count = es_arg_int64_default(fcinfo, 2, "max_count", 0, PG_INT64_MAX, PG_INT64_MAX);
	read->backward = es_arg_bool(fcinfo, 3, "backward");
}

/*
 * The functions that can be scanned row by row; a new one needs a line here.
 */
static const EsReadFunction es_read_functions[] = {
	{
		.scan_name = "Event Scan on es_read_stream",
		.function = es_read_stream,
		.arguments = es_read_stream_arguments,
		.nargs = 4,
		.labels = {"Stream", "From Version", "Max Count", "Backward"},
		.max_count = 2,
		.backward = 3,
		.order = Anum_es_out_version,
		.rows = 50
	},
	{
		.scan_name = "Event Scan on es_read_all",
		.function = es_read_all,
		.arguments = es_read_all_arguments,
		.nargs = 5,
		.labels = {"After Position", "Max Count", "Categories", "Event Types", "Backward"},
		.max_count = 1,
		.backward = 4,
		.order = Anum_es_out_global_position,
	},
	{
		.scan_name = "Event Scan on es_read_category",
		.function = es_read_category,
		.arguments = es_read_category_arguments,
		.nargs = 4,
		.labels = {"Category", "After Position", "Max Count", "Backward"},
		.max_count = 2,
		.backward = 3,
		.order = Anum_es_out_global_position,
	},
	{
		.scan_name = "Event Scan on es_read_query",
		.function = es_read_query,
		.arguments = es_read_query_arguments,
		.nargs = 4,
		.labels = {"Query", "After Position", "Max Count", "Backward"},
		.max_count = 2,
		.backward = 3,
		.order = Anum_es_out_global_position,
		.rows = 50
	},
};

/*
 * The functions by number.
 *
 * Result: NULL behind the last one.
 */
const EsReadFunction *
es_read_function_get(int n)
{
	return n < lengthof(es_read_functions) ? &es_read_functions[n] : NULL;
}

/*
 * Call one of them: all events as a set.
 *
 * Errors: VE004 when the cursor is ahead of the store, VE005 on a logical
 * subscriber without a mark.
 */
static void
es_read_set(FunctionCallInfo fcinfo, void (*arguments) (FunctionCallInfo, EsRead *))
{
	EsRead		read = {0};
	EsReader   *reader;
	TupleTableSlot *row;
	MemoryContext row_context;
	Tuplestorestate *rows;
	TupleDesc	desc;

	arguments(fcinfo, &read);
	read.as_stored = !es_upcast_enabled;
	rows = es_result_set(fcinfo, es_out_attributes, Natts_es_out, &desc);
	reader = es_reader_begin(&read, GetActiveSnapshot());
	row_context = AllocSetContextCreate(CurrentMemoryContext, "event_store row",
										ALLOCSET_DEFAULT_SIZES);
	while ((row = es_reader_next(reader, true)) != NULL)
	{
		Datum		values[Natts_es_out];
		bool		isnull[Natts_es_out];
		MemoryContext old_context = MemoryContextSwitchTo(row_context);

		es_reader_values(reader, row, values);
		es_event_nulls(values, isnull);
		tuplestore_putvalues(rows, desc, values, isnull);
		MemoryContextSwitchTo(old_context);
		MemoryContextReset(row_context);
	}
	MemoryContextDelete(row_context);
	es_reader_end(reader);
}

Datum
es_read_stream(PG_FUNCTION_ARGS)
{
	es_read_set(fcinfo, es_read_stream_arguments);
	return (Datum) 0;
}

Datum
es_read_all(PG_FUNCTION_ARGS)
{
	es_read_set(fcinfo, es_read_all_arguments);
	return (Datum) 0;
}

Datum
es_read_category(PG_FUNCTION_ARGS)
{
	es_read_set(fcinfo, es_read_category_arguments);
	return (Datum) 0;
}

Datum
es_read_query(PG_FUNCTION_ARGS)
{
	es_read_set(fcinfo, es_read_query_arguments);
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
	TupleTableSlot *slot;
	EsRowFilter *filter;
	Datum		values[Natts_es_out];
	bool		isnull[Natts_es_out] = {false};
	Datum		result = (Datum) 0;

	es_arg_required(fcinfo, 0, "event_id");
	es_count(ES_COUNT_READS, 1);

	event = es_store_open_event(&store, AccessShareLock);
	slot = table_slot_create(event, NULL);
	filter = es_row_filter_begin(event);
	if (es_read_event_id(event, store, GetActiveSnapshot(), PG_GETARG_UUID_P(0), slot))
	{
		int64		position = DatumGetInt64(slot_getattr(slot, Anum_es_event_global_position,
														  &isnull[0]));

		if (es_row_filter_passes(filter, position))
		{
			if (position >= es_durable_below())
				es_durable_wait();
			if (es_upcast_enabled)
				es_event_values(store, slot, values);
			else
				(void) es_event_stored_values(store, slot, values);
			es_event_nulls(values, isnull);
			result = es_result_row(fcinfo, es_out_attributes, Natts_es_out, values, isnull);
		}
	}
	es_row_filter_end(filter);
	ExecDropSingleTupleTableSlot(slot);
	table_close(event, NoLock);

	if (result == (Datum) 0)
		PG_RETURN_NULL();
	return result;
}

/*
 * See to it that a row is an es_event, once for each shape of the type at a call
 * site.
 */
static void
es_tags_check_type(FunctionCallInfo fcinfo, HeapTupleHeader record)
{
	Oid			type = HeapTupleHeaderGetTypeId(record);
	int32		typmod = HeapTupleHeaderGetTypMod(record);
	uint64		shape = assign_record_type_identifier(type, typmod);
	uint64	   *checked = (uint64 *) fcinfo->flinfo->fn_extra;
	TupleDesc	desc;

	if (checked != NULL && *checked == shape)
		return;
	desc = lookup_rowtype_tupdesc(type, typmod);
	es_result_check_type(desc, es_out_attributes, Natts_es_out);
	ReleaseTupleDesc(desc);
	if (checked == NULL)
		checked = MemoryContextAlloc(fcinfo->flinfo->fn_mcxt, sizeof(uint64));
	*checked = shape;
	fcinfo->flinfo->fn_extra = checked;
}

/*
 * es_tags(event es_event) RETURNS text[]
 *
 * The tags of a stored event, looked up by its position; an empty array when
 * it has none, or is not a stored event that the caller may see.
 *
 * Errors: 55000 when type es_event has been altered.
 */
Datum
es_tags(PG_FUNCTION_ARGS)
{
	HeapTupleHeader record = PG_GETARG_HEAPTUPLEHEADER(0);
	ArrayType  *tags = NULL;
	bool		position_null;
	bool		id_null;
	Datum		position;
	Datum		id;
	const EsStore *store;
	Relation	event;
	Relation	index;
	TupleTableSlot *slot;
	IndexScanDesc scan;
	ScanKeyData key;
	EsRowFilter *filter;
	bool		isnull;

	es_tags_check_type(fcinfo, record);
	position = GetAttributeByNum(record, Anum_es_out_global_position, &position_null);
	id = GetAttributeByNum(record, Anum_es_out_event_id, &id_null);
	if (!position_null && !id_null)
	{
		event = es_store_open_event(&store, AccessShareLock);
		index = es_store_open_index(&store->read_index[ES_INDEX_POSITION]);
		slot = table_slot_create(event, NULL);
		filter = es_row_filter_begin(event);
		ScanKeyInit(&key, 1, BTEqualStrategyNumber, F_INT8EQ, position);
		scan = es_index_beginscan(event, index, GetActiveSnapshot(), 1);
		index_rescan(scan, &key, 1, NULL, 0);
		if (index_getnext_slot(scan, ForwardScanDirection, slot) &&
			memcmp(DatumGetPointer(slot_getattr(slot, Anum_es_event_event_id, &isnull)),
				   DatumGetPointer(id), UUID_LEN) == 0 &&
			es_row_filter_passes(filter, DatumGetInt64(position)))
		{
			tags = es_event_tags(store, slot);
			if (tags != NULL)
				tags = DatumGetArrayTypePCopy(PointerGetDatum(tags));
			if (DatumGetInt64(position) >= es_durable_below())
				es_durable_wait();
		}
		index_endscan(scan);
		es_row_filter_end(filter);
		ExecDropSingleTupleTableSlot(slot);
		index_close(index, AccessShareLock);
		table_close(event, NoLock);
	}
	if (tags == NULL)
		tags = construct_empty_array(TEXTOID);
	PG_RETURN_ARRAYTYPE_P(tags);
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
 * es_check_category(category text) RETURNS void
 *
 * For what is written in SQL: what es_read_category would say.
 */
Datum
es_check_category_name(PG_FUNCTION_ARGS)
{
	int			len;

	(void) es_arg_category(fcinfo, 0, "category", &len);
	PG_RETURN_VOID();
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
