/*-------------------------------------------------------------------------
 * wakeup/shared.h
 *	  Shared memory of the wing: one entry for each database.
 *
 *	  See wakeup/shared.c for how an entry is had, and for how long.
 *-------------------------------------------------------------------------
 */
#ifndef ES_WAKEUP_SHARED_H
#define ES_WAKEUP_SHARED_H

#include "port/atomics.h"
#include "storage/condition_variable.h"

#include "base/count.h"

/*
 * How many databases with event stores have workers: as many as there are, or
 * few where the library is not preloaded and lives on what shared memory the
 * server has to spare.  Few in the test build, so that a test can use them up;
 * its table is another one, for both builds may run in one server.
 */
#ifdef ES_FAULTS
#define ES_WAKEUP_PRELOADED		8
#define ES_WAKEUP_SPARE			4
#define ES_WAKEUP_NAME			"event_store wake-ups " ES_VERSION " test"
#else
#define ES_WAKEUP_PRELOADED		4096
#define ES_WAKEUP_SPARE			64
#define ES_WAKEUP_NAME			"event_store wake-ups " ES_VERSION
#endif

typedef struct EsWakeupEntry
{
	Oid			dboid;			/* InvalidOid = free; AddinShmemInitLock */

	/* written by the database's worker */
	pg_atomic_uint32 worker;	/* its PGPROC number + 1; 0 = none */
	pg_atomic_uint32 store;		/* event table that head is of; 0 = none */
	pg_atomic_uint64 head;		/* settled head that it saw last */
	pg_atomic_uint32 resting;	/* it rests and then looks unasked */

	/* by whoever waits or listens */
	pg_atomic_uint32 waiters;	/* processes that wait for settled, or look */
	pg_atomic_uint32 listeners; /* sessions that LISTEN */

	/* by those who call the worker, and by it when it has heard them */
	pg_atomic_uint32 called;	/* somebody has called since it last looked */
	pg_atomic_uint32 wanted;	/* there is to be a worker: none has retired */
	pg_atomic_uint32 followed;	/* lowest bit: the worker's tasks want events;
								 * the rest counts who has said so */

	/* by whoever tries to start it, or gives it a slot: wakeup/slots.c */
	pg_atomic_uint64 attempted_at;	/* last attempt */
	pg_atomic_uint64 waiting_since; /* for a slot; 0 = not waiting */
	pg_atomic_uint64 gave_way_at;	/* when a worker of it last gave way */

	ConditionVariable settled;	/* broadcast when head has moved */
} EsWakeupEntry;

/* written by every session, so away from what every session reads */
typedef union EsDatabaseCounters
{
	struct
	{
		pg_atomic_uint64 counters[ES_NUM_COUNTERS];
		pg_atomic_uint64 reset_at;	/* TimestampTz; 0 = start of the server */
	}			c;
	char		pad[PG_CACHE_LINE_SIZE];
} EsDatabaseCounters;

typedef struct EsWakeupShared
{
	pg_atomic_uint32 launcher;	/* PGPROC number of the launcher + 1; 0 = none */
	bool		told_full;		/* the log says that there is no entry left */
	bool		preloaded;		/* every session has the library, and so counts
								 * its LISTEN */

	/* wakeup/slots.c */
	pg_atomic_uint64 launcher_waiting_since;	/* for a database without entry */
	pg_atomic_uint64 told_waiting_at;	/* last message in the log */
	pg_atomic_uint64 gave_way_at;	/* when any worker last gave way */
	pg_atomic_uint64 helped_at; /* last attempt to start another's worker */
	Oid			first;			/* first in the queue, as seen last, */
	TimestampTz first_since;	/* and since when it is; AddinShmemInitLock */

	int			capacity;		/* of both arrays, which follow */
	pg_atomic_uint32 used;		/* entries that have been taken, the first ones;
								 * AddinShmemInitLock to take another */
	EsDatabaseCounters *counters;
	EsWakeupEntry *entries;
} EsWakeupShared;

extern EsWakeupShared *es_wakeup_shared;

/*
 * The number of entries to look at, wherever all are.
 */
static inline int
es_wakeup_used(void)
{
	int			used = (int) pg_atomic_read_u32(&es_wakeup_shared->used);

	/* pairs with the one of es_wakeup_take */
	pg_read_barrier();
	return used;
}

extern EsWakeupEntry *es_wakeup_find(Oid database);
extern EsWakeupEntry *es_wakeup_get(void);
extern const char *es_wakeup_obstacle(void);
extern EsDatabaseCounters *es_wakeup_counters(void);
extern void es_wakeup_launcher_call(void);
extern void es_wakeup_shared_init(void);

#endif							/* ES_WAKEUP_SHARED_H */
