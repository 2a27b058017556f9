/*-------------------------------------------------------------------------
 * log/known.c
 *	  Numbers of streams, remembered in shared memory.
 *
 * Each session remembers the names that it has met (log/stream.c), but where
 * streams are many and sessions short nearly every append is a session's first
 * to its stream, and finds the number in the index by name and in the row that
 * this points to: a tenth of the CPU time of an append.  So what one session
 * has found is put where all find it, by the same rules as log/last.c: a slot
 * for each of many streams, of two with the same slot the one that was met
 * last has it, and what is not here is looked up.
 *
 * Only committed rows are put, which are never changed and stay where they are
 * as long as the table has its file; slots are of a file in a database.  Rows
 * can go away where the table's guard (log/guard.c) is not enabled: then
 * nothing is remembered, and ALTER TABLE makes all slots void.  It waits for
 * whoever has a lock as writers have it; so only those put, and what is read
 * from a row that an ALTER TABLE has let disappear is gone before its commit.
 * A name that is longer than a slot is not remembered.
 *
 * Preloaded libraries only.
 *
 * Lock: a spinlock in each slot; nothing else is taken under it.
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "miscadmin.h"
#include "storage/lwlock.h"
#include "storage/shmem.h"
#include "storage/spin.h"

#include "base/compat.h"
#include "base/shmem.h"
#include "log/known.h"
#include "log/last.h"

/* a power of two; few in the test build, so that streams have to share them */
#ifdef ES_FAULTS
#define ES_KNOWN_SLOTS		64
#else
#define ES_KNOWN_SLOTS		65536	/* 8 MB */
#endif

#define ES_KNOWN_SIZE		128

typedef struct EsKnownSlot
{
	int64		stream_no;		/* 0 = empty */
	Oid			database;
	Oid			file;			/* of the stream table */
	uint32		era;			/* es_last_era() when it was put */
	ItemPointerData tid;
	slock_t		lock;
	uint8		len;
	char		name[FLEXIBLE_ARRAY_MEMBER];
} EsKnownSlot;

#define ES_KNOWN_MAX_LEN	(ES_KNOWN_SIZE - offsetof(EsKnownSlot, name))

static char *es_known_slots = NULL;

static inline EsKnownSlot *
es_known_slot(uint64 hash)
{
	return (EsKnownSlot *) (es_known_slots + (hash & (ES_KNOWN_SLOTS - 1)) * ES_KNOWN_SIZE);
}

static void
es_known_startup(void)
{
	bool		found;

	LWLockAcquire(AddinShmemInitLock, LW_EXCLUSIVE);
	es_known_slots = ShmemInitStruct("event_store numbers of streams " ES_VERSION,
									 ES_KNOWN_SIZE * ES_KNOWN_SLOTS, &found);
	if (!found)
	{
		memset(es_known_slots, 0, ES_KNOWN_SIZE * ES_KNOWN_SLOTS);
		for (int i = 0; i < ES_KNOWN_SLOTS; i++)
			SpinLockInit(&es_known_slot(i)->lock);
	}
	LWLockRelease(AddinShmemInitLock);
}

static bool
es_known_is_usable(Relation rel, const EsStore *store, int len)
{
	return es_known_slots != NULL && len <= ES_KNOWN_MAX_LEN &&
		!es_relation_is_new(rel) && es_last_is_guarded(rel, store);
}

/*
 * Find the number of a stream.
 *
 * rel			the stream table, open
 * hash			of the name
 * tid			result: where its row is
 *
 * Result: false when it is not here.
 */
bool
es_known_get(Relation rel, const EsStore *store, uint64 hash, const char *name, int len,
			 int64 *stream_no, ItemPointer tid)
{
	EsKnownSlot *slot;
	bool		found;

	if (!es_known_is_usable(rel, store, len))
		return false;
	slot = es_known_slot(hash);
	SpinLockAcquire(&slot->lock);
	found = slot->stream_no != 0 && slot->len == len && memcmp(slot->name, name, len) == 0 &&
		slot->database == MyDatabaseId && slot->file == es_relation_file(rel) &&
		slot->era == es_last_era();
	*stream_no = slot->stream_no;
	*tid = slot->tid;
	SpinLockRelease(&slot->lock);
	return found;
}

/*
 * Remember the number of a stream whose row is committed.
 *
 * rel			locked as by a writer
 */
void
es_known_put(Relation rel, const EsStore *store, uint64 hash, const char *name, int len,
			 int64 stream_no, ItemPointer tid)
{
	EsKnownSlot *slot;

	if (!es_known_is_usable(rel, store, len))
		return;
	slot = es_known_slot(hash);
	SpinLockAcquire(&slot->lock);
	slot->database = MyDatabaseId;
	slot->file = es_relation_file(rel);
	slot->era = es_last_era();
	slot->stream_no = stream_no;
	slot->tid = *tid;
	slot->len = len;
	memcpy(slot->name, name, len);
	SpinLockRelease(&slot->lock);
}

/*
 * Called once per process, from _PG_init.
 */
void
es_known_init(void)
{
	es_shmem_preload(ES_KNOWN_SIZE * ES_KNOWN_SLOTS, es_known_startup);
}
