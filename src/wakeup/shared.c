/*-------------------------------------------------------------------------
 * wakeup/shared.c
 *	  Shared memory of the wing: one entry for each database.
 *
 * An entry is taken at first use and kept until the database is gone and
 * another one needs it.  dboid is set under AddinShmemInitLock; the rest are
 * atomics, and shared.h says who writes them.  A latch that is set for a
 * process that took over a dead worker's slot wakes it for nothing, no more.
 * When there is no entry left, or no room for the table, waiters poll and no
 * worker runs: nothing here is needed to be correct.  The log says so once, the
 * view of projections in each such database; sessions look again every now and
 * then whether a database was dropped.
 *
 * Sessions that began before an update of the extension go on with the old
 * library.  It has a table of its own, because this one may have changed; the
 * database still has one worker, whose lock both know, and who uses the other
 * table polls until there is one library again.
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/xact.h"
#include "miscadmin.h"
#include "storage/ipc.h"
#include "storage/latch.h"
#include "storage/lwlock.h"
#include "storage/proc.h"
#include "utils/inval.h"
#include "utils/syscache.h"
#include "utils/timestamp.h"

#include "base/compat.h"
#include "base/shmem.h"
#include "wakeup/shared.h"
#include "wakeup/start.h"

/* pause between two looks for an entry when there was none, ms */
#ifdef ES_FAULTS
#define ES_WAKEUP_RETRY_MS		100
#else
#define ES_WAKEUP_RETRY_MS		(10 * 1000)
#endif

EsWakeupShared *es_wakeup_shared = NULL;

static EsWakeupEntry *es_wakeup_entry = NULL;
static TimestampTz es_wakeup_tried_at = 0;
static bool es_wakeup_no_memory = false;

/* how many entries there are; the same in all processes with this library */
static int	es_wakeup_capacity = ES_WAKEUP_SPARE;

static void
es_wakeup_reset(EsWakeupShared *shared, int n, Oid dboid)
{
	EsWakeupEntry *entry = &shared->entries[n];
	EsDatabaseCounters *counters = &shared->counters[n];

	entry->dboid = dboid;
	pg_atomic_init_u32(&entry->worker, 0);
	pg_atomic_init_u32(&entry->store, InvalidOid);
	pg_atomic_init_u64(&entry->head, 0);
	pg_atomic_init_u64(&entry->attempted_at, 0);
	pg_atomic_init_u32(&entry->waiters, 0);
	pg_atomic_init_u32(&entry->listeners, 0);
	pg_atomic_init_u32(&entry->followed, 1);
	pg_atomic_init_u32(&entry->resting, 0);
	pg_atomic_init_u32(&entry->called, 0);
	pg_atomic_init_u32(&entry->wanted, 0);
	pg_atomic_init_u64(&entry->waiting_since, 0);
	pg_atomic_init_u64(&entry->gave_way_at, 0);
	for (int i = 0; i < ES_NUM_COUNTERS; i++)
		pg_atomic_init_u64(&counters->c.counters[i], 0);
	pg_atomic_init_u64(&counters->c.reset_at, 0);
}

static Size
es_wakeup_size(void)
{
	return CACHELINEALIGN(sizeof(EsWakeupShared)) + PG_CACHE_LINE_SIZE +
		es_wakeup_capacity * (sizeof(EsDatabaseCounters) + sizeof(EsWakeupEntry));
}

static void
es_wakeup_init_shared(void *place)
{
	EsWakeupShared *shared = place;

	shared->capacity = es_wakeup_capacity;
	pg_atomic_init_u32(&shared->used, 0);
	shared->counters = (EsDatabaseCounters *) CACHELINEALIGN(shared + 1);
	shared->entries = (EsWakeupEntry *) (shared->counters + shared->capacity);
	pg_atomic_init_u32(&shared->launcher, 0);
	shared->told_full = false;
	pg_atomic_init_u64(&shared->launcher_waiting_since, 0);
	pg_atomic_init_u64(&shared->told_waiting_at, 0);
	pg_atomic_init_u64(&shared->gave_way_at, 0);
	pg_atomic_init_u64(&shared->helped_at, 0);
	shared->first = InvalidOid;
	shared->first_since = 0;
	shared->preloaded = process_shared_preload_libraries_in_progress || !IsUnderPostmaster;
	for (int i = 0; i < shared->capacity; i++)
	{
		es_wakeup_reset(shared, i, InvalidOid);
		ConditionVariableInit(&shared->entries[i].settled);
	}
}

static void
es_wakeup_attach(void)
{
	es_wakeup_shared = es_shmem_get(ES_WAKEUP_NAME, es_wakeup_size(), es_wakeup_init_shared);
	es_wakeup_no_memory = es_wakeup_shared == NULL;
}

/*
 * Take this database's entry, the one that had been given to another database,
 * or a new one.
 *
 * dboid		the other database; InvalidOid = none
 */
static EsWakeupEntry *
es_wakeup_take(Oid dboid)
{
	EsWakeupShared *shared = es_wakeup_shared;
	int			used;
	int			taken = -1;

	LWLockAcquire(AddinShmemInitLock, LW_EXCLUSIVE);
	used = es_wakeup_used();
	for (int i = 0; i < used; i++)
	{
		if (shared->entries[i].dboid == MyDatabaseId)
		{
			LWLockRelease(AddinShmemInitLock);
			return &shared->entries[i];
		}
		if (OidIsValid(dboid) && shared->entries[i].dboid == dboid)
			taken = i;
	}
	if (taken < 0 && used < shared->capacity)
		taken = used;
	if (taken >= 0)
		es_wakeup_reset(shared, taken, MyDatabaseId);
	if (taken == used)
	{
		pg_write_barrier();
		pg_atomic_write_u32(&shared->used, used + 1);
	}
	LWLockRelease(AddinShmemInitLock);
	return taken < 0 ? NULL : &shared->entries[taken];
}

/*
 * Take an entry of a database that has been dropped.  Nobody uses it any
 * longer: a database is dropped only when nobody is connected to it.
 */
static EsWakeupEntry *
es_wakeup_take_over(void)
{
	int			used = es_wakeup_used();
	Oid		   *databases = palloc(used * sizeof(Oid));
	bool		tell;

	LWLockAcquire(AddinShmemInitLock, LW_SHARED);
	for (int i = 0; i < used; i++)
		databases[i] = es_wakeup_shared->entries[i].dboid;
	LWLockRelease(AddinShmemInitLock);

	/* so that none of them is taken for gone because it is new */
	AcceptInvalidationMessages();

	for (int i = 0; i < used; i++)
	{
		EsWakeupEntry *entry;

		if (SearchSysCacheExists1(DATABASEOID, ObjectIdGetDatum(databases[i])))
			continue;
		entry = es_wakeup_take(databases[i]);
		if (entry != NULL)
			return entry;
	}
	pfree(databases);

	LWLockAcquire(AddinShmemInitLock, LW_EXCLUSIVE);
	tell = !es_wakeup_shared->told_full;
	es_wakeup_shared->told_full = true;
	LWLockRelease(AddinShmemInitLock);
	if (tell)
		ereport(LOG,
				errmsg("more than %d databases with event stores, some will have no background workers",
					   es_wakeup_shared->capacity),
				errdetail("Consumers poll there, and projections are not kept up to date."),
				es_wakeup_shared->preloaded ? 0 :
				errhint("Add \"event_store\" to \"shared_preload_libraries\", then there is room for %d.",
						ES_WAKEUP_PRELOADED));
	return NULL;
}

/*
 * The entry that a database has already; NULL = none.
 */
EsWakeupEntry *
es_wakeup_find(Oid database)
{
	int			used;

	if (es_wakeup_shared == NULL && !es_wakeup_no_memory)
		es_wakeup_attach();
	used = es_wakeup_shared != NULL ? es_wakeup_used() : 0;
	for (int i = 0; i < used; i++)
	{
		if (es_wakeup_shared->entries[i].dboid == database)
			return &es_wakeup_shared->entries[i];
	}
	return NULL;
}

/*
 * This database's entry; NULL when there is none to be had.
 */
EsWakeupEntry *
es_wakeup_get(void)
{
	if (likely(es_wakeup_entry != NULL) || es_wakeup_no_memory ||
		(es_wakeup_tried_at != 0 &&
		 !es_time_is_up(es_wakeup_tried_at, GetCurrentTimestamp(), ES_WAKEUP_RETRY_MS)))
		return es_wakeup_entry;

	if (es_wakeup_shared == NULL)
		es_wakeup_attach();
	if (es_wakeup_shared == NULL)
		return NULL;

	es_wakeup_entry = es_wakeup_take(InvalidOid);
	if (es_wakeup_entry == NULL && IsTransactionState())
	{
		es_wakeup_entry = es_wakeup_take_over();

		/* not before: an error says nothing */
		es_wakeup_tried_at = GetCurrentTimestamp();
	}
	return es_wakeup_entry;
}

/*
 * Why this database can have no worker, as of now.
 *
 * Result: NULL = it can.
 */
const char *
es_wakeup_obstacle(void)
{
	es_wakeup_tried_at = 0;
	if (es_wakeup_get() != NULL)
		return NULL;
	if (es_wakeup_no_memory)
		return "no room for the database's background worker: no shared memory is left (shared_preload_libraries)";
	if (!es_wakeup_shared->preloaded)
		return psprintf("no room for the database's background worker: more than %d databases with event stores (shared_preload_libraries makes room for %d)",
						es_wakeup_shared->capacity, ES_WAKEUP_PRELOADED);
	return psprintf("no room for the database's background worker: more than %d databases with event stores",
					es_wakeup_shared->capacity);
}

/*
 * Have the launcher look, if there is one.
 */
void
es_wakeup_launcher_call(void)
{
	uint32		launcher = pg_atomic_read_u32(&es_wakeup_shared->launcher);

	if (launcher != 0)
		SetLatch(&GetPGProcByNumber(launcher - 1)->procLatch);
}

/*
 * This database's counters, NULL when there are none to be had.
 */
EsDatabaseCounters *
es_wakeup_counters(void)
{
	EsWakeupEntry *entry = es_wakeup_get();

	return entry == NULL ? NULL :
		&es_wakeup_shared->counters[entry - es_wakeup_shared->entries];
}

static pg_atomic_uint64 *
es_wakeup_attach_counters(void)
{
	EsDatabaseCounters *counters = es_wakeup_counters();

	return counters == NULL ? NULL : counters->c.counters;
}

/*
 * Called once per process, from es_wakeup_init.
 */
void
es_wakeup_shared_init(void)
{
	if (process_shared_preload_libraries_in_progress)
		es_wakeup_capacity = ES_WAKEUP_PRELOADED;
	es_count_init(es_wakeup_attach_counters);
	es_shmem_preload(es_wakeup_size(), es_wakeup_attach);
}
