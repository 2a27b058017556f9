/*-------------------------------------------------------------------------
 * base/result.h
 *	  Results of SQL functions: one row, or a set in a tuplestore.
 *-------------------------------------------------------------------------
 */
#ifndef ES_BASE_RESULT_H
#define ES_BASE_RESULT_H

#include "access/tupdesc.h"
#include "fmgr.h"
#include "utils/tuplestore.h"

/*
 * An attribute of a row type of the extension's, or a column of a table of its
 * own, that is read and written by number.
 */
typedef struct EsAttribute
{
	const char *name;
	Oid			type;
} EsAttribute;

extern bool es_attribute_is(TupleDesc desc, int n, const EsAttribute *attribute);
extern void es_result_check_type(TupleDesc desc, const EsAttribute *attributes, int natts);
extern Tuplestorestate *es_result_set(FunctionCallInfo fcinfo, const EsAttribute *attributes,
									  int natts, TupleDesc *desc);
extern TupleDesc es_result_type_desc(Oid type, const EsAttribute *attributes, int natts);
extern Oid	es_result_element(FunctionCallInfo fcinfo, int column);
extern Datum es_result_row(FunctionCallInfo fcinfo, const EsAttribute *attributes, int natts,
						   Datum *values, bool *isnull);

#endif							/* ES_BASE_RESULT_H */
