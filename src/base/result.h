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

extern void es_result_check_type(TupleDesc desc, const Oid *types, int natts);
extern Tuplestorestate *es_result_set(FunctionCallInfo fcinfo, const Oid *types, int natts,
									  TupleDesc *desc);
extern TupleDesc es_result_type_desc(Oid type, const Oid *types, int natts);
extern Oid	es_result_element(FunctionCallInfo fcinfo, int column);
extern Datum es_result_row(FunctionCallInfo fcinfo, const Oid *types, int natts, Datum *values,
						   bool *isnull);

#endif							/* ES_BASE_RESULT_H */
