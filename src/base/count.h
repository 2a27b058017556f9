/*-------------------------------------------------------------------------
 * base/count.h
 *	  Counters of what this database's store does; view event_store.statistics.
 *
 *	  es_count(ES_COUNT_READS, 1);
 *	  ereport(ERROR, errcode(es_counted(ERRCODE_ES_VERSION_CONFLICT)), ...);
 *
 *	  An addition to an atomic in shared memory, no lock.  Appends and events
 *	  are counted when they are written, also those that are rolled back later,
 *	  like pg_stat_database.tup_inserted.
 *-------------------------------------------------------------------------
 */
#ifndef ES_BASE_COUNT_H
#define ES_BASE_COUNT_H

#include "port/atomics.h"

/* in the order of the columns of event_store.es_statistics() */
typedef enum EsCounter
{
	ES_COUNT_APPENDS,			/* calls that have written */
	ES_COUNT_EVENTS,			/* events that they have written */
	ES_COUNT_CONFLICTS,			/* VE001 */
	ES_COUNT_CONDITION_FAILURES,	/* VE007 */
	ES_COUNT_ID_CONFLICTS,		/* VE002 */
	ES_COUNT_DUPLICATES,		/* retries that were answered */
	ES_COUNT_NOTIFICATIONS,		/* NOTIFY sent by the worker */
	ES_COUNT_WAKEUPS,			/* times that waiting sessions were woken */
	ES_COUNT_READS				/* calls of reading functions */
} EsCounter;

#define ES_NUM_COUNTERS		((int) ES_COUNT_READS + 1)

/* this database's counters; NULL = not looked for, or not to be had */
extern pg_atomic_uint64 *es_counters;

extern void es_count_init(pg_atomic_uint64 *(*attach) (void));
extern void es_count_attach(void);
extern int	es_counted(int sqlstate);

/*
 * Look for the counters, before anything that may raise an error with
 * es_counted, or count where no error may be caught.
 */
static inline void
es_count_prepare(void)
{
	if (unlikely(es_counters == NULL))
		es_count_attach();
}

static inline void
es_count(EsCounter counter, uint64 n)
{
	es_count_prepare();
	if (likely(es_counters != NULL))
		pg_atomic_fetch_add_u64(&es_counters[counter], n);
}

#endif							/* ES_BASE_COUNT_H */
