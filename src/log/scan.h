/*-------------------------------------------------------------------------
 * log/scan.h
 *	  Walk the global order: a settled prefix for one snapshot.
 *-------------------------------------------------------------------------
 */
#ifndef ES_LOG_SCAN_H
#define ES_LOG_SCAN_H

#include "access/sdir.h"
#include "executor/tuptable.h"
#include "utils/snapshot.h"

#include "log/entries.h"
#include "log/store.h"

/* what to make of events of transactions that the snapshot sees running */
typedef enum EsScanMode
{
	ES_SCAN_VISIBLE,			/* return visible events, stop at unsettled */
	ES_SCAN_PROBE,				/* the same beyond what is proven to be inserted */
	ES_SCAN_SETTLED,			/* return whatever is settled once this
								 * transaction has ended, dead gaps included;
								 * no slot */
	ES_SCAN_NOW					/* return events committed by now and our own,
								 * stop at those of running transactions; no
								 * snapshot */
} EsScanMode;

typedef struct EsScan EsScan;

/* where and why a walk stopped before its end */
typedef struct EsBlocked
{
	int64		position;		/* 0 = it did not */
	TransactionId xid;			/* inserter of that position */
} EsBlocked;

extern int64 es_scan_highest(Relation event, const EsStore *store,
							 Snapshot snapshot, int64 upto);
extern int64 es_scan_highest_inserted(Relation event, const EsStore *store);
extern EsScan *es_scan_begin(Relation event, const EsStore *store,
							 Snapshot snapshot, EsScanMode mode,
							 ScanDirection direction, int64 after, int64 upto,
							 const int32 *type_nos, int ntypes,
							 int64 expected_rows);
extern EsScan *es_scan_begin_items(Relation event, const EsStore *store,
								   Snapshot snapshot, EsScanMode mode,
								   ScanDirection direction, int64 after, int64 upto,
								   const EsScanItem *items, int nitems,
								   int64 expected_rows);
extern bool es_scan_next(EsScan *scan);
extern TupleTableSlot *es_scan_slot(EsScan *scan);
extern int64 es_scan_position(EsScan *scan);
extern EsBlocked es_scan_blocked(EsScan *scan);
extern void es_scan_end(EsScan *scan);

#endif							/* ES_LOG_SCAN_H */
