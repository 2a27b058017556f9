/*-------------------------------------------------------------------------
 * log/queue.h
 *	  Who waits for a stream that many append to.
 *-------------------------------------------------------------------------
 */
#ifndef ES_LOG_QUEUE_H
#define ES_LOG_QUEUE_H

#include "storage/lock.h"

extern void es_queue_init(void);
extern LockAcquireResult es_queue_lock(const LOCKTAG *tag);
extern bool es_queue_has_waiters(const LOCKTAG *tag);
extern void es_queue_wake(const LOCKTAG *tag);
extern void es_queue_wake_all(void);

#endif							/* ES_LOG_QUEUE_H */
