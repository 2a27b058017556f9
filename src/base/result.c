/*-------------------------------------------------------------------------
 * base/result.c
 *	  Results of SQL functions: one row, or a set in a tuplestore.
 *
 * Sets are materialised: in FROM the executor would do so anyway, and a
 * tuplestore keeps to work_mem by spilling to disk, whatever the result's
 * size.
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "funcapi.h"
#include "miscadmin.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/typcache.h"

#include "base/compat.h"
#include "base/result.h"

/*
 * Begin a set result.
 *
 * Result: the tuplestore to put rows of *desc into; both live for the query.
 */
Tuplestorestate *
es_result_set(FunctionCallInfo fcinfo, TupleDesc *desc)
{
	ReturnSetInfo *rsinfo = (ReturnSetInfo *) fcinfo->resultinfo;
	MemoryContext old_context;
	Tuplestorestate *store;
	TupleDesc	result_desc;

	if (rsinfo == NULL || !IsA(rsinfo, ReturnSetInfo) ||
		(rsinfo->allowedModes & SFRM_Materialize) == 0)
		ereport(ERROR,
				errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
				errmsg("set-valued function called in context that cannot accept a set"));

	old_context = MemoryContextSwitchTo(rsinfo->econtext->ecxt_per_query_memory);
	if (get_call_result_type(fcinfo, NULL, &result_desc) != TYPEFUNC_COMPOSITE)
		elog(ERROR, "return type must be a row type");
	store = tuplestore_begin_heap((rsinfo->allowedModes & SFRM_Materialize_Random) != 0,
								  false, work_mem);
	rsinfo->returnMode = SFRM_Materialize;
	rsinfo->setResult = store;
	rsinfo->setDesc = result_desc;
	MemoryContextSwitchTo(old_context);

	*desc = result_desc;
	return store;
}

/*
 * Return one row.  The row type is looked up once per call site.
 */
Datum
es_result_row(FunctionCallInfo fcinfo, Datum *values, bool *isnull)
{
	TupleDesc	desc = (TupleDesc) fcinfo->flinfo->fn_extra;

	if (desc == NULL)
	{
		MemoryContext old_context = MemoryContextSwitchTo(fcinfo->flinfo->fn_mcxt);

		if (get_call_result_type(fcinfo, NULL, &desc) != TYPEFUNC_COMPOSITE)
			elog(ERROR, "return type must be a row type");
		desc = BlessTupleDesc(desc);
		fcinfo->flinfo->fn_extra = desc;
		MemoryContextSwitchTo(old_context);
	}
	return HeapTupleGetDatum(heap_form_tuple(desc, values, isnull));
}

/*
 * Row type of the elements of an array column of the result.
 *
 * column		0-based
 * element		result: OID of the element type
 */
TupleDesc
es_result_element_desc(FunctionCallInfo fcinfo, int column, Oid *element)
{
	TupleDesc	desc;

	if (get_call_result_type(fcinfo, NULL, &desc) != TYPEFUNC_COMPOSITE)
		elog(ERROR, "return type must be a row type");
	*element = get_element_type(TupleDescAttr(desc, column)->atttypid);
	return lookup_rowtype_tupdesc_copy(*element, -1);
}
