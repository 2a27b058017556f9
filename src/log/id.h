/*-------------------------------------------------------------------------
 * log/id.h
 *	  Event ids, and which of them have an entry in their index.
 *-------------------------------------------------------------------------
 */
#ifndef ES_LOG_ID_H
#define ES_LOG_ID_H

#include "utils/relcache.h"
#include "utils/uuid.h"

extern int64 es_id_position(const pg_uuid_t *id);
extern bool es_id_take_position(pg_uuid_t *id, int64 position);
extern bool es_id_index_is_partial(Relation index, Oid predicate);

#endif							/* ES_LOG_ID_H */
