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

extern Tuplestorestate *es_result_set(FunctionCallInfo fcinfo, TupleDesc *desc);
extern TupleDesc es_result_element_desc(FunctionCallInfo fcinfo, int column, Oid *element);
extern Datum es_result_row(FunctionCallInfo fcinfo, Datum *values, bool *isnull);

#endif							/* ES_BASE_RESULT_H */
