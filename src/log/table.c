/*-------------------------------------------------------------------------
 * log/table.c
 *	  Rows and index entries without the executor.
 *
 * The store's tables refuse INSERT (log/guard.c), so the store itself goes
 * below the executor, as PostgreSQL does for its catalogs (CatalogTupleInsert
 * in indexing.c).  No trigger or check constraint runs (log/shape.c).  Indexes
 * that an administrator has added, with expressions or predicates, are kept up
 * too.
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/genam.h"
#include "access/heapam.h"
#include "access/relscan.h"
#include "access/xact.h"
#include "catalog/index.h"
#include "executor/executor.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"

#include "base/compat.h"
#include "base/lock.h"
#include "log/shape.h"
#include "log/store.h"
#include "log/table.h"

/*
 * Enter a stored tuple into one index, whatever its definition.
 *
 * Errors: 23505 from a unique index of the administrator's.
 */
void
es_table_index_tuple(Relation rel, Relation index, HeapTuple tuple)
{
	IndexInfo  *info;
	EState	   *estate;
	TupleTableSlot *slot;
	Datum		values[INDEX_MAX_KEYS];
	bool		isnull[INDEX_MAX_KEYS];
	bool		wanted = true;

	if (!index->rd_index->indisready)
		return;					/* CREATE INDEX CONCURRENTLY, first phase */
	es_shape_check_index(rel, index);

	info = BuildIndexInfo(index);
	estate = CreateExecutorState();
	slot = MakeSingleTupleTableSlot(RelationGetDescr(rel), &TTSOpsHeapTuple);
	ExecStoreHeapTuple(tuple, slot, false);
	GetPerTupleExprContext(estate)->ecxt_scantuple = slot;

	if (info->ii_Predicate != NIL)
		wanted = ExecQual(ExecPrepareQual(info->ii_Predicate, estate),
						  GetPerTupleExprContext(estate));
	if (wanted)
	{
		FormIndexDatum(info, slot, estate, values, isnull);
		es_index_insert(index, values, isnull, &tuple->t_self, rel,
						index->rd_index->indisunique ?
						UNIQUE_CHECK_YES : UNIQUE_CHECK_NO, info);
		es_index_insert_done(index, info);
	}
	ExecDropSingleTupleTableSlot(slot);
	FreeExecutorState(estate);
}

/*
 * Insert one row and all its index entries.
 *
 * rel			open with RowExclusiveLock
 * values		of the first columns; what an administrator has added behind
 *				them is set to NULL
 */
void
es_table_insert(const EsStore *store, Relation rel, int nvalues, const Datum *values,
				const bool *isnull)
{
	int			natts = RelationGetDescr(rel)->natts;
	Datum	   *row = palloc0(natts * sizeof(Datum));
	bool	   *row_isnull = palloc(natts * sizeof(bool));
	HeapTuple	tuple;
	List	   *list;
	ListCell   *lc;

	es_lock_table(RelationGetRelid(rel), RowExclusiveLock);
	es_shape_check(store, rel);
	memset(row_isnull, true, natts * sizeof(bool));
	memcpy(row, values, nvalues * sizeof(Datum));
	memcpy(row_isnull, isnull, nvalues * sizeof(bool));
	tuple = heap_form_tuple(RelationGetDescr(rel), row, row_isnull);
	heap_insert(rel, tuple, GetCurrentCommandId(true), 0, NULL);

	list = RelationGetIndexList(rel);
	foreach(lc, list)
	{
		Relation	index = index_open(lfirst_oid(lc), RowExclusiveLock);

		es_table_index_tuple(rel, index, tuple);
		index_close(index, NoLock);
	}
	list_free(list);
	heap_freetuple(tuple);
	pfree(row);
	pfree(row_isnull);
}

/*
 * The highest number in the first column of one of the store's indexes,
 * whoever inserted it; 0 if the index is empty.
 */
int64
es_table_highest_key(Relation rel, const Oid *by)
{
	Relation	index = es_store_open_index(by);
	IndexScanDesc scan = es_index_beginscan(rel, index, SnapshotAny, 0);
	int64		result = 0;

	scan->xs_want_itup = true;
	index_rescan(scan, NULL, 0, NULL, 0);
	if (index_getnext_tid(scan, BackwardScanDirection) != NULL)
	{
		bool		isnull;
		Datum		value = index_getattr(scan->xs_itup, 1, scan->xs_itupdesc, &isnull);

		result = TupleDescAttr(scan->xs_itupdesc, 0)->attlen == sizeof(int32) ?
			DatumGetInt32(value) : DatumGetInt64(value);
	}
	index_endscan(scan);
	index_close(index, AccessShareLock);
	return result;
}
