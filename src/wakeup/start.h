/*-------------------------------------------------------------------------
 * wakeup/start.h
 *	  Start background workers, and remember them.
 *-------------------------------------------------------------------------
 */
#ifndef ES_WAKEUP_START_H
#define ES_WAKEUP_START_H

#include "catalog/pg_database.h"
#include "datatype/timestamp.h"
#include "nodes/pg_list.h"
#include "postmaster/bgworker.h"

/* longest pause before a worker is started again, ms */
#define ES_START_MAX_PAUSE_MS	(60 * 1000)

/* a background worker as the process knows it that starts it */
typedef struct EsStarted
{
	Oid			key;			/* whom it serves: a database, a role */
	BackgroundWorkerHandle *handle; /* NULL = none that this process started */
	TimestampTz started_at;		/* 0 = never */
	long		pause_ms;		/* between that and the next start */
} EsStarted;

extern void es_start_init(void);
extern bool es_start_is_outdated(void);
extern bool es_time_is_up(TimestampTz since, TimestampTz now, long ms);
extern void es_start_describe(BackgroundWorker *worker, const char *function,
							  const char *type, const char *name);
extern void es_start_take_signals(void);
extern bool es_start_can_connect(Form_pg_database database);
extern void es_start_connect(Oid database, Oid role, uint32 flags);
extern void es_start_heed_signals(void);
extern bool es_start_database_worker(Oid database, EsStarted *started);

extern void *es_started_get(List **all, Oid key, Size size);
extern bool es_started_lives(EsStarted *started, long healthy_ms, long first_pause_ms);
extern void es_started_back_off(EsStarted *started, long first_pause_ms);
extern bool es_started_is_due(const EsStarted *started, TimestampTz now);
extern bool es_started_register(EsStarted *started, BackgroundWorker *worker);

#endif							/* ES_WAKEUP_START_H */
