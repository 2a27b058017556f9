/*-------------------------------------------------------------------------
 * log/known.h
 *	  Numbers of streams, remembered in shared memory.
 *-------------------------------------------------------------------------
 */
#ifndef ES_LOG_KNOWN_H
#define ES_LOG_KNOWN_H

#include "storage/itemptr.h"
#include "utils/rel.h"

#include "log/store.h"

extern void es_known_init(void);
extern bool es_known_get(Relation rel, const EsStore *store, uint64 hash, const char *name, int len,
						 int64 *stream_no, ItemPointer tid);
extern void es_known_put(Relation rel, const EsStore *store, uint64 hash, const char *name, int len,
						 int64 stream_no, ItemPointer tid);

#endif							/* ES_LOG_KNOWN_H */
