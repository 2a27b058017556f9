/*-------------------------------------------------------------------------
 * log/sequence.h
 *	  Keep the store's sequences ahead of its tables.
 *-------------------------------------------------------------------------
 */
#ifndef ES_LOG_SEQUENCE_H
#define ES_LOG_SEQUENCE_H

#include "log/store.h"

extern bool es_sequence_check(Relation event, const EsStore *store);
extern void es_sequence_init(void);
extern void es_sequence_recheck(void);

#endif							/* ES_LOG_SEQUENCE_H */
