/*-------------------------------------------------------------------------
 * wakeup/worker.h
 *	  The worker of a database, and the launcher that starts them.
 *-------------------------------------------------------------------------
 */
#ifndef ES_WORKER_H
#define ES_WORKER_H

#include "datatype/timestamp.h"
#include "postmaster/bgworker.h"

extern void es_worker_init(void);
extern bool es_worker_register(Oid database, BackgroundWorkerHandle **handle);
extern bool es_worker_in_the_way(void);
extern bool es_worker_time_is_up(TimestampTz since, TimestampTz now, int ms);

#endif							/* ES_WORKER_H */
