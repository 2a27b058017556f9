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
#include "catalog/pg_type.h"
#include "funcapi.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/typcache.h"

#include "base/compat.h"
#include "base/result.h"

/*
 * Is an attribute what the extension's script has made it?
 *
 * The name matters as the number does: SQL knows it by that, handlers and
 * reducers, a dump, and the statements of the extension's own.
 *
 * n			0-based; there may be fewer
 */
bool
es_attribute_is(TupleDesc desc, int n, const EsAttribute *attribute)
{
	Form_pg_attribute attr;

	if (n >= desc->natts)
		return false;
	attr = TupleDescAttr(desc, n);
	return !attr->attisdropped && attr->atttypid == attribute->type && attr->atttypmod == -1 &&
		strcmp(NameStr(attr->attname), attribute->name) == 0;
}

/*
 * Refuse a row type of the extension's that its owner has altered (55000).
 *
 * attributes	in order
 */
void
es_result_check_type(TupleDesc desc, const EsAttribute *attributes, int natts)
{
	bool		same = desc->natts == natts;

	for (int i = 0; i < natts && same; i++)
		same = es_attribute_is(desc, i, &attributes[i]);
	if (!same)
		ereport(ERROR,
				errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				errmsg("type %s of the event store has been altered",
					   format_type_be(desc->tdtypeid)));
}

/*
 * Begin a set result.
 *
 * attributes	of the row type, if it is one that has been created; NULL for what
 *				stands in the function's own declaration
 *
 * Result: the tuplestore to put rows of *desc into; both live for the query.
 */
Tuplestorestate *
es_result_set(FunctionCallInfo fcinfo, const EsAttribute *attributes, int natts,
			  TupleDesc *desc)
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
	if (attributes != NULL)
		es_result_check_type(result_desc, attributes, natts);
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
 * Return one row.  In FROM the executor tells the row type, elsewhere it is looked
 * up once per call site.
 *
 * attributes	as for es_result_set
 */
Datum
es_result_row(FunctionCallInfo fcinfo, const EsAttribute *attributes, int natts,
			  Datum *values, bool *isnull)
{
	ReturnSetInfo *rsinfo = (ReturnSetInfo *) fcinfo->resultinfo;
	TupleDesc	desc = (TupleDesc) fcinfo->flinfo->fn_extra;

	if (desc == NULL && rsinfo != NULL && IsA(rsinfo, ReturnSetInfo))
	{
		desc = rsinfo->expectedDesc;
		if (desc != NULL && desc->tdtypeid == RECORDOID && desc->tdtypmod < 0)
			desc = NULL;		/* the value could not say what it is */
		if (desc != NULL && attributes != NULL)
			es_result_check_type(desc, attributes, natts);
	}
	if (desc == NULL)
	{
		MemoryContext old_context = MemoryContextSwitchTo(fcinfo->flinfo->fn_mcxt);

		if (get_call_result_type(fcinfo, NULL, &desc) != TYPEFUNC_COMPOSITE)
			elog(ERROR, "return type must be a row type");
		if (attributes != NULL)
			es_result_check_type(desc, attributes, natts);
		desc = BlessTupleDesc(desc);
		fcinfo->flinfo->fn_extra = desc;
		MemoryContextSwitchTo(old_context);
	}
	return HeapTupleGetDatum(heap_form_tuple(desc, values, isnull));
}

/*
 * A row type that has been created, with these attributes.
 */
TupleDesc
es_result_type_desc(Oid type, const EsAttribute *attributes, int natts)
{
	TupleDesc	desc = lookup_rowtype_tupdesc_copy(type, -1);

	es_result_check_type(desc, attributes, natts);
	return desc;
}

/*
 * Type of the elements of an array column of the result.
 *
 * column		0-based
 */
Oid
es_result_element(FunctionCallInfo fcinfo, int column)
{
	TupleDesc	desc;

	if (get_call_result_type(fcinfo, NULL, &desc) != TYPEFUNC_COMPOSITE)
		elog(ERROR, "return type must be a row type");
	return get_element_type(TupleDescAttr(desc, column)->atttypid);
}
