/*-------------------------------------------------------------------------
 * wakeup/shared.c
 *	  Shared memory of the wing: one entry for each database.
 *
 * An entry is taken at first use and kept until the database is gone and
 * another one needs it.  dboid is set under AddinShmemInitLock; the rest are
 * atomics, and shared.h says who writes them.  A latch that is set for a
 * process that took over a dead worker's slot wakes it for nothing, no more.
 * When there is no entry left, or no room for the table, waiters poll and no
 * worker runs: nothing here is needed to be correct.
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

#include "base/compat.h"
#include "base/shmem.h"
#include "wakeup/shared.h"

EsWakeupShared *es_wakeup_shared = NULL;

static EsWakeupEntry *es_wakeup_entry = NULL;
static bool es_wakeup_tried = false;

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

static void
es_wakeup_init_shared(void *place)
{
	EsWakeupShared *shared = place;

	pg_atomic_init_u32(&shared->launcher, 0);
	shared->told_full = false;
	pg_atomic_init_u64(&shared->launcher_waiting_since, 0);
	pg_atomic_init_u64(&shared->told_waiting_at, 0);
	pg_atomic_init_u64(&shared->gave_way_at, 0);
	pg_atomic_init_u64(&shared->helped_at, 0);
	shared->first = InvalidOid;
	shared->first_since = 0;
	shared->preloaded = process_shared_preload_libraries_in_progress || !IsUnderPostmaster;
	for (int i = 0; i < ES_WAKEUP_DATABASES; i++)
	{
		es_wakeup_reset(shared, i, InvalidOid);
		ConditionVariableInit(&shared->entries[i].settled);
	}
}

static void
es_wakeup_attach(void)
{
	es_wakeup_shared = es_shmem_get("event_store wake-ups " ES_VERSION,
									sizeof(EsWakeupShared), es_wakeup_init_shared);
}

/*
 * Take this database's entry, a free one, or the one that had been given to
 * another database.
 */
static EsWakeupEntry *
es_wakeup_take(Oid dboid)
{
	EsWakeupEntry *result = NULL;

	LWLockAcquire(AddinShmemInitLock, LW_EXCLUSIVE);
	for (int i = 0; i < ES_WAKEUP_USED && result == NULL; i++)
	{
		if (es_wakeup_shared->entries[i].dboid == MyDatabaseId)
			result = &es_wakeup_shared->entries[i];
	}
	for (int i = 0; i < ES_WAKEUP_USED && result == NULL; i++)
	{
		if (es_wakeup_shared->entries[i].dboid != dboid)
			continue;
		result = &es_wakeup_shared->entries[i];
		es_wakeup_reset(es_wakeup_shared, i, MyDatabaseId);
	}
	LWLockRelease(AddinShmemInitLock);
	return result;
}

/*
 * Take an entry of a database that has been dropped.  Nobody uses it any
 * longer: a database is dropped only when nobody is connected to it.
 */
static EsWakeupEntry *
es_wakeup_take_over(void)
{
	Oid			databases[ES_WAKEUP_USED];
	bool		tell;

	LWLockAcquire(AddinShmemInitLock, LW_SHARED);
	for (int i = 0; i < ES_WAKEUP_USED; i++)
		databases[i] = es_wakeup_shared->entries[i].dboid;
	LWLockRelease(AddinShmemInitLock);

	/* so that none of them is taken for gone because it is new */
	AcceptInvalidationMessages();

	for (int i = 0; i < ES_WAKEUP_USED; i++)
	{
		EsWakeupEntry *entry;

		if (SearchSysCacheExists1(DATABASEOID, ObjectIdGetDatum(databases[i])))
			continue;
		entry = es_wakeup_take(databases[i]);
		if (entry != NULL)
			return entry;
	}

	LWLockAcquire(AddinShmemInitLock, LW_EXCLUSIVE);
	tell = !es_wakeup_shared->told_full;
	es_wakeup_shared->told_full = true;
	LWLockRelease(AddinShmemInitLock);
	if (tell)
		ereport(LOG,
				errmsg("more than %d databases with event stores, some will have no background workers",
					   ES_WAKEUP_USED),
				errdetail("Consumers poll there, and projections are not kept up to date."));
	return NULL;
}

/*
 * This database's entry; NULL when there is none to be had.
 */
EsWakeupEntry *
es_wakeup_get(void)
{
	if (likely(es_wakeup_entry != NULL) || es_wakeup_tried)
		return es_wakeup_entry;

	if (es_wakeup_shared == NULL)
		es_wakeup_attach();
	if (es_wakeup_shared == NULL)
	{
		es_wakeup_tried = true;
		return NULL;
	}

	es_wakeup_entry = es_wakeup_take(InvalidOid);
	if (es_wakeup_entry == NULL && IsTransactionState())
	{
		es_wakeup_entry = es_wakeup_take_over();
		es_wakeup_tried = true; /* not before: an error says nothing */
	}
	return es_wakeup_entry;
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
	es_count_init(es_wakeup_attach_counters);
	es_shmem_preload(sizeof(EsWakeupShared), es_wakeup_attach);
}
