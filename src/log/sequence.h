/*-------------------------------------------------------------------------
 * log/sequence.h
 *	  Numbers from the store's sequences, which are kept ahead of its tables.
 *-------------------------------------------------------------------------
 */
#ifndef ES_LOG_SEQUENCE_H
#define ES_LOG_SEQUENCE_H

#include "log/store.h"

extern Relation es_sequence_open(Oid seq);
extern int64 es_sequence_drawn(Relation seq);
extern int64 es_sequence_draw(Relation seq, int n, int64 max);
extern int64 es_sequence_next(Oid seq, int64 max);
extern bool es_sequence_check(Relation event, const EsStore *store);
extern void es_sequence_init(void);
extern void es_sequence_recheck(void);

#endif							/* ES_LOG_SEQUENCE_H */
