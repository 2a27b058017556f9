/*-------------------------------------------------------------------------
 * state/fold.c
 *	  Fold events into a state: of a stream by its category's reducer
 *	  (state/aggregate.c), of what a query matches by any reducer (es_decide).
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "catalog/pg_type.h"
#include "funcapi.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"
#include "utils/syscache.h"

#include "base/args.h"
#include "base/result.h"
#include "evolution/upcast.h"
#include "log/event.h"
#include "read/read.h"
#include "state/fold.h"

PG_FUNCTION_INFO_V1(es_decide);

/*
 * Type es_event, which lies in the schema of the function that was called.
 */
Oid
es_event_type_oid(FunctionCallInfo fcinfo)
{
	Oid			result = GetSysCacheOid2(TYPENAMENSP, Anum_pg_type_oid,
										 CStringGetDatum("es_event"),
										 ObjectIdGetDatum(get_func_namespace(fcinfo->flinfo->fn_oid)));

	if (!OidIsValid(result))
		ereport(ERROR,
				errcode(ERRCODE_UNDEFINED_OBJECT),
				errmsg("type \"es_event\" does not exist"));
	return result;
}

/*
 * An EsEventCallback: fold one event.
 *
 * Errors: VE006.
 */
void
es_fold_event(Datum *values, void *arg)
{
	EsFold	   *fold = arg;
	bool		isnull[Natts_es_out];
	int64		version = DatumGetInt64(values[Anum_es_out_version - 1]);
	Datum		args[2];
	Datum		result;

	if (version > fold->upto)
		return;
	es_event_nulls(values, isnull);
	args[0] = JsonbPGetDatum(fold->state);
	args[1] = HeapTupleGetDatum(heap_form_tuple(fold->desc, values, isnull));
	result = es_function_call(fold->reducer, args, values);
	if (result != args[0])
	{
		MemoryContext old_context = MemoryContextSwitchTo(fold->context);
		Jsonb	   *state = DatumGetJsonbPCopy(result);

		pfree(fold->state);
		fold->state = state;
		MemoryContextSwitchTo(old_context);
	}
	fold->version = version;
	fold->count++;
}

/*
 * es_decide(query jsonb, reducer regprocedure, initial jsonb)
 *		RETURNS (state jsonb, after_position bigint)
 *
 * Fold what the query matches, all in the snapshot of the statement.
 *
 * Result: the state, and the position up to which it is complete: nothing that
 * the query matches can appear at or below it any more, so that an append may
 * decide with it (es_append_if).
 * Errors: 42883, 42P13, 42501 for a reducer that will not do; VE006.
 */
Datum
es_decide(PG_FUNCTION_ARGS)
{
	EsRead		read = {0};
	EsReader   *reader;
	EsFold		fold = {0};
	Oid			argtypes[2];
	Oid			reducer;
	TupleTableSlot *row;
	MemoryContext row_context;
	Datum		result[2];
	bool		isnull[2] = {false};

	/* in today's shape, whatever is set: a condition is to follow from it */
	read.query = es_query_parse("query", es_arg_jsonb(fcinfo, 0, "query"));
	read.max_count = PG_INT64_MAX;
	read.from = -1;
	reducer = es_arg_function(fcinfo, 1, "reducer");
	fold.state = DatumGetJsonbPCopy(JsonbPGetDatum(es_arg_jsonb(fcinfo, 2, "initial")));

	argtypes[0] = JSONBOID;
	argtypes[1] = es_event_type_oid(fcinfo);
	es_function_check(reducer, "reducer", 2, argtypes, false);
	fold.reducer = es_function_get("reducer", es_function_signature(reducer), 2, argtypes);
	fold.desc = es_result_type_desc(argtypes[1], es_out_attributes, Natts_es_out);
	fold.upto = PG_INT64_MAX;
	fold.context = CurrentMemoryContext;

	row_context = AllocSetContextCreate(CurrentMemoryContext, "event_store row",
										ALLOCSET_DEFAULT_SIZES);
	reader = es_reader_begin(&read, GetActiveSnapshot());
	while ((row = es_reader_next(reader, true)) != NULL)
	{
		Datum		values[Natts_es_out];
		MemoryContext old_context = MemoryContextSwitchTo(row_context);

		es_reader_values(reader, row, values);
		es_fold_event(values, &fold);
		MemoryContextSwitchTo(old_context);
		MemoryContextReset(row_context);
	}
	result[0] = JsonbPGetDatum(fold.state);
	result[1] = Int64GetDatum(es_reader_last(reader));
	es_reader_end(reader);
	MemoryContextDelete(row_context);
	return es_result_row(fcinfo, NULL, 0, result, isnull);
}
