/*-------------------------------------------------------------------------
 * log/find.h
 *	  Find events by their ids.
 *-------------------------------------------------------------------------
 */
#ifndef ES_LOG_FIND_H
#define ES_LOG_FIND_H

#include "executor/tuptable.h"
#include "storage/itemptr.h"
#include "utils/uuid.h"

#include "log/store.h"

extern bool es_find_event_id(Relation event, const EsStore *store,
							 const pg_uuid_t *event_id, ItemPointer self,
							 TupleTableSlot *slot, TransactionId *pending);
extern bool es_read_event_id(Relation event, const EsStore *store, Snapshot snapshot,
							 const pg_uuid_t *event_id, TupleTableSlot *slot);
extern void es_event_id_conflict(Relation event, const EsStore *store,
								 const pg_uuid_t *event_id, ItemPointer self);
extern void es_resolve_event_id(Relation event, const EsStore *store,
								const pg_uuid_t *event_id, ItemPointer self);

#endif							/* ES_LOG_FIND_H */
