/*-------------------------------------------------------------------------
 * wakeup/slots.c
 *	  Slots for background workers, when there are too few.
 *
 * A database needs one slot of max_worker_processes for its worker and one for
 * each role whose projections have something to do.  When one is not to be had
 * the database queues up: its entry in shared memory says since when it waits.
 * Who has waited longest is first, and until it has everything it wants (or has
 * been first for ES_FIRST_MS, so that nobody waits for one that cannot be
 * helped) nobody else takes a slot.  While somebody waits, workers of other
 * databases give way: an idle one soon, a busy one after ES_TURN_MS, one after
 * the other; its database queues up again.
 *
 * The first in the queue needs somebody to start its worker: its own sessions
 * do when they append or wait, the launcher does where there is one, and
 * otherwise the workers of other databases, of which the last one stays, unless
 * its own slot is the only one: then the next session comes.  Where there can
 * be no worker (the database or the extension is gone, nobody may connect) or
 * those that start die, whoever finds that out takes it out of the queue.
 *
 * Two databases may see a different first for a moment.  Then one takes a slot
 * out of turn, no more.
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "catalog/pg_database.h"
#include "miscadmin.h"
#include "storage/lwlock.h"
#include "utils/syscache.h"
#include "utils/timestamp.h"

#include "base/compat.h"
#include "wakeup/shared.h"
#include "wakeup/slots.h"
#include "wakeup/start.h"

/* how long one may be first, ms */
#define ES_FIRST_MS				5000

/* at least so long between two workers that give way in the middle of work, ms */
#define ES_GIVE_WAY_MS			50

/* the last attempt of this process to start another's worker found no slot */
static bool es_slot_help_failed = false;

/* at least so long between two messages in the log, ms */
#define ES_TELL_MS				(60 * 1000)

/*
 * Move a time forward to now, unless somebody has within the last ms.
 *
 * Result: whether it was us.
 */
static bool
es_slot_tick(pg_atomic_uint64 *last, int ms)
{
	uint64		now = (uint64) GetCurrentTimestamp();
	uint64		before = pg_atomic_read_u64(last);

	return now - before >= ms * UINT64CONST(1000) &&
		pg_atomic_compare_exchange_u64(last, &before, now);
}

static void
es_slot_tell(void)
{
	if (es_slot_tick(&es_wakeup_shared->told_waiting_at, ES_TELL_MS))
		ereport(LOG_SERVER_ONLY,
				errcode(ERRCODE_CONFIGURATION_LIMIT_EXCEEDED),
				errmsg("no free background worker for an event store, so databases take turns"),
				errhint("Raise \"max_worker_processes\"."));
}

/*
 * This database waits for a slot, unless it does already.
 */
void
es_slot_wait(void)
{
	EsWakeupEntry *entry = es_wakeup_get();
	uint64		none = 0;

	if (entry == NULL)
		return;
	if (pg_atomic_compare_exchange_u64(&entry->waiting_since, &none,
									   (uint64) GetCurrentTimestamp()))
		es_slot_tell();
	es_wakeup_launcher_call();
}

/*
 * The same at the end of the queue: it has had its turn.
 */
void
es_slot_wait_again(void)
{
	EsWakeupEntry *entry = es_wakeup_get();

	if (entry != NULL)
		pg_atomic_write_u64(&entry->waiting_since, (uint64) GetCurrentTimestamp());
}

/*
 * This database has all the slots that it wants.
 */
void
es_slot_served(void)
{
	EsWakeupEntry *entry = es_wakeup_get();

	if (entry != NULL && pg_atomic_read_u64(&entry->waiting_since) != 0)
		pg_atomic_write_u64(&entry->waiting_since, 0);
}

/*
 * A database does not wait any longer although it has no worker that could say
 * that it is served: none can be had there for now, or those that start die.
 * A launcher tries again when there can be one.
 */
void
es_slot_forget(Oid database)
{
	EsWakeupEntry *entry = es_wakeup_find(database);

	if (entry != NULL && pg_atomic_exchange_u64(&entry->waiting_since, 0) != 0)
		pg_atomic_write_u32(&entry->wanted, 1);
}

/*
 * For the launcher: another database waits for a slot.  One that has no entry
 * yet has no place of its own in the queue, but waits with the launcher.
 */
void
es_slot_wait_for(Oid database)
{
	EsWakeupEntry *entry = es_wakeup_find(database);
	uint64		none = 0;

	if (pg_atomic_compare_exchange_u64(entry != NULL ? &entry->waiting_since :
									   &es_wakeup_shared->launcher_waiting_since, &none,
									   (uint64) GetCurrentTimestamp()))
		es_slot_tell();
}

/*
 * The launcher has had its turn.
 *
 * waits		it waits for another one
 */
void
es_slot_launcher_served(bool waits)
{
	pg_atomic_write_u64(&es_wakeup_shared->launcher_waiting_since,
						waits ? (uint64) GetCurrentTimestamp() : 0);
}

/*
 * The first in the queue.
 *
 * is_empty		result
 *
 * Result: a database; InvalidOid = one of the launcher's, or nobody waits.
 */
static Oid
es_slot_first(bool *is_empty)
{
	EsWakeupShared *shared = es_wakeup_shared;
	TimestampTz now = GetCurrentTimestamp();
	int			used = es_wakeup_used();
	pg_atomic_uint64 *longest;
	Oid			first;

	for (int pass = 0; pass < 2; pass++)
	{
		uint64		since = pg_atomic_read_u64(&shared->launcher_waiting_since);
		bool		too_long;

		first = InvalidOid;
		longest = &shared->launcher_waiting_since;
		for (int i = 0; i < used; i++)
		{
			EsWakeupEntry *entry = &shared->entries[i];
			uint64		waiting = pg_atomic_read_u64(&entry->waiting_since);

			if (waiting == 0 || !OidIsValid(entry->dboid) || (since != 0 && waiting >= since))
				continue;
			since = waiting;
			longest = &entry->waiting_since;
			first = entry->dboid;
		}
		*is_empty = since == 0;
		if (*is_empty)
			return InvalidOid;

		LWLockAcquire(AddinShmemInitLock, LW_EXCLUSIVE);
		if (shared->first != first)
		{
			shared->first = first;
			shared->first_since = now;
		}
		too_long = es_time_is_up(shared->first_since, now, ES_FIRST_MS);
		if (too_long)
			shared->first_since = now;
		LWLockRelease(AddinShmemInitLock);
		if (!too_long)
			break;
		(void) pg_atomic_compare_exchange_u64(longest, &since, (uint64) now);
	}
	return first;
}

/*
 * May a free slot be taken for a database now?
 */
bool
es_slot_is_free_for(Oid database)
{
	bool		is_empty;
	Oid			first;

	if (es_wakeup_shared == NULL)
		return true;
	first = es_slot_first(&is_empty);
	if (is_empty || first == database)
		return true;

	/* the launcher may serve those that have no entry to queue up with */
	return !OidIsValid(first) && es_wakeup_find(database) == NULL;
}

/*
 * Does another database wait for a slot?
 */
bool
es_slot_others_wait(void)
{
	EsWakeupShared *shared = es_wakeup_shared;
	int			used;

	if (shared == NULL)
		return false;
	if (pg_atomic_read_u64(&shared->launcher_waiting_since) != 0)
		return true;
	used = es_wakeup_used();
	for (int i = 0; i < used; i++)
	{
		EsWakeupEntry *entry = &shared->entries[i];

		if (pg_atomic_read_u64(&entry->waiting_since) != 0 &&
			OidIsValid(entry->dboid) && entry->dboid != MyDatabaseId)
			return true;
	}
	return false;
}

/*
 * Does nobody but the worker of this database see to it that others get a slot?
 */
static bool
es_slot_is_last_helper(EsWakeupEntry *own)
{
	int			used = es_wakeup_used();

	if (pg_atomic_read_u32(&es_wakeup_shared->launcher) != 0)
		return false;
	for (int i = 0; i < used; i++)
	{
		EsWakeupEntry *entry = &es_wakeup_shared->entries[i];

		if (entry != own && pg_atomic_read_u32(&entry->worker) != 0)
			return false;
	}
	return true;
}

/*
 * A worker of this database that has had its turn wants to make way for
 * another database.
 *
 * Result: false if it shall wait a little, because another one has just done
 * so, because its own database is first and needs it, or because nobody else
 * could start the others' workers.
 */
bool
es_slot_give_way(void)
{
	EsWakeupEntry *entry = es_wakeup_get();
	bool		is_empty;

	if (entry == NULL || es_slot_first(&is_empty) == MyDatabaseId || is_empty ||
		(!es_slot_help_failed && es_slot_is_last_helper(entry)) ||
		!es_slot_tick(&es_wakeup_shared->gave_way_at, ES_GIVE_WAY_MS))
		return false;
	pg_atomic_write_u64(&entry->gave_way_at, (uint64) GetCurrentTimestamp());

	/* whoever appends now shall not take it for one that is about to begin */
	pg_atomic_write_u64(&entry->attempted_at, 0);
	return true;
}

/*
 * Has a worker of a database ended to make way for another one?
 */
bool
es_slot_gave_way_since(Oid database, TimestampTz since)
{
	EsWakeupEntry *entry = es_wakeup_find(database);

	return entry != NULL && (TimestampTz) pg_atomic_read_u64(&entry->gave_way_at) >= since;
}

/*
 * Can anybody connect to a database?
 */
static bool
es_slot_is_open(Oid database)
{
	HeapTuple	tuple = SearchSysCache1(DATABASEOID, ObjectIdGetDatum(database));
	bool		result;

	if (!HeapTupleIsValid(tuple))
		return false;
	result = es_start_can_connect((Form_pg_database) GETSTRUCT(tuple));
	ReleaseSysCache(tuple);
	return result;
}

/*
 * Start the worker of the first in the queue, where no launcher does.
 *
 * Called by workers, in a transaction.
 */
void
es_slot_help(void)
{
	EsWakeupShared *shared = es_wakeup_shared;
	EsWakeupEntry *entry;
	bool		is_empty;
	Oid			first;

	if (shared == NULL || pg_atomic_read_u32(&shared->launcher) != 0 ||
		!es_slot_tick(&shared->helped_at, ES_CROWDED_MS))
		return;
	first = es_slot_first(&is_empty);
	if (is_empty || !OidIsValid(first) || (entry = es_wakeup_find(first)) == NULL)
		return;
	if (!es_slot_is_open(first))
		es_slot_forget(first);
	else if (pg_atomic_read_u32(&entry->worker) == 0 &&
			 es_slot_tick(&entry->attempted_at, ES_CROWDED_MS * 5))
		es_slot_help_failed = !es_start_database_worker(first, NULL);
}
