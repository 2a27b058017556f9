/*-------------------------------------------------------------------------
 * log/head.h
 *	  The settled head of the global order, and the marks that make it cheap.
 *-------------------------------------------------------------------------
 */
#ifndef ES_LOG_HEAD_H
#define ES_LOG_HEAD_H

#include "log/scan.h"

/* positions between two marks, about */
#define ES_MARK_INTERVAL	1024

extern void es_head_init(void);
extern int64 es_head_marked(const EsStore *store, Snapshot snapshot);
extern bool es_table_is_subscribed(Oid relid, Oid *subscription, bool *ready);
extern void es_head_refuse_subscriber(const EsStore *store);
extern bool es_head_is_available(const EsStore *store, Snapshot snapshot);
extern int64 es_head_bound(Relation event, const EsStore *store, Snapshot snapshot);
extern int64 es_head_bound_now(void);
extern int64 es_head_settled(Relation event, const EsStore *store, Snapshot snapshot,
							 int64 proven, EsBlocked *blocked);
extern bool es_head_pending(Relation event, const EsStore *store, Snapshot snapshot,
							int64 head, EsBlocked *blocked);
extern void es_head_check_cursor(Relation event, const EsStore *store, int64 cursor);
extern void es_head_check_start(Relation event, const EsStore *store, int64 after);
extern void es_head_mark(Relation event, const EsStore *store, int64 own);

#endif							/* ES_LOG_HEAD_H */
