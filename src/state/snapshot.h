/*-------------------------------------------------------------------------
 * state/snapshot.h
 *	  Snapshots of streams.
 *-------------------------------------------------------------------------
 */
#ifndef ES_STATE_SNAPSHOT_H
#define ES_STATE_SNAPSHOT_H

#include "executor/tuptable.h"
#include "utils/jsonb.h"

#include "log/store.h"

extern bool es_snapshot_write(int64 stream_no, int32 schema_version, int64 version,
							  Jsonb *data);
extern bool es_snapshot_find(Relation rel, const EsStore *store, int64 stream_no,
							 int32 schema_version, int64 max_version,
							 TupleTableSlot *slot);
extern bool es_snapshot_allowed(Relation event);
extern bool es_snapshot_is_replicated(const EsStore *store);

#endif							/* ES_STATE_SNAPSHOT_H */
