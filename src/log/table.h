/*-------------------------------------------------------------------------
 * log/table.h
 *	  Insert rows and index entries without the executor.
 *-------------------------------------------------------------------------
 */
#ifndef ES_LOG_TABLE_H
#define ES_LOG_TABLE_H

#include "access/htup.h"
#include "log/store.h"
#include "utils/relcache.h"

extern void es_table_insert(const EsStore *store, Relation rel, int nvalues, const Datum *values,
							const bool *isnull);
extern void es_table_index_tuple(Relation rel, Relation index, HeapTuple tuple);
extern int64 es_table_highest_key(Relation rel, const Oid *by);

#endif							/* ES_LOG_TABLE_H */
