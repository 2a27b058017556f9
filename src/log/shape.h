/*-------------------------------------------------------------------------
 * log/shape.h
 *	  What the tables that are written below the executor may look like.
 *-------------------------------------------------------------------------
 */
#ifndef ES_LOG_SHAPE_H
#define ES_LOG_SHAPE_H

#include "log/store.h"
#include "utils/relcache.h"

extern void es_shape_check(const EsStore *store, Relation rel);
extern void es_shape_check_index(Relation rel, Relation index);

#endif							/* ES_LOG_SHAPE_H */
