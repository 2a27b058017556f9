/*-------------------------------------------------------------------------
 * log/durable.h
 *	  Locks that go before the flush, and readers who wait for it.
 *-------------------------------------------------------------------------
 */
#ifndef ES_LOG_DURABLE_H
#define ES_LOG_DURABLE_H

#include "storage/lock.h"

extern void es_durable_init(void);

/* who appends */
extern void es_durable_begin_append(void);
extern void es_durable_end_append(int64 position);
extern void es_durable_hold(const LOCKTAG *tag);
extern void es_durable_keep(const LOCKTAG *tag);
extern void es_durable_give_back(const LOCKTAG *tag);

/* who reads */
extern int64 es_durable_below(void);
extern void es_durable_wait(void);

#endif							/* ES_LOG_DURABLE_H */
