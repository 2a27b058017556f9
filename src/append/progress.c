/*-------------------------------------------------------------------------
 * append/progress.c
 *	  How far running imports are, for event_store.import_progress.
 *
 * PostgreSQL's own progress reports are made for a fixed list of commands,
 * and hide their figures from whoever is not the same role.  So an import
 * takes one of ES_MAX_IMPORTS places in shared memory, less than 1 kB from
 * the slack that every server keeps; nothing in it has to survive a crash.
 *
 * A place belongs to the process whose pid it bears.  That process alone
 * writes it and gives it back when the import or its transaction ends; a
 * place whose process is gone is free.  There are no locks: a reader may see
 * the figures of two moments, which does not matter.
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/xact.h"
#include "fmgr.h"
#include "miscadmin.h"
#include "port/atomics.h"
#include "storage/procarray.h"
#include "utils/timestamp.h"

#include "append/progress.h"
#include "base/compat.h"
#include "base/result.h"
#include "base/shmem.h"

/* imports that are shown at once, of all databases */
#define ES_MAX_IMPORTS	16

struct EsImportSlot
{
	pg_atomic_uint32 pid;		/* 0 = free */
	pg_atomic_uint32 database;
	pg_atomic_uint64 started_at;
	pg_atomic_uint64 events;	/* written so far */
};

static EsImportSlot *es_imports = NULL;

/* does this process have places? */
static bool es_progress_shown = false;

PG_FUNCTION_INFO_V1(es_import_progress);

static void
es_progress_reset(void *place)
{
	EsImportSlot *slots = place;

	for (int i = 0; i < ES_MAX_IMPORTS; i++)
	{
		pg_atomic_init_u32(&slots[i].pid, 0);
		pg_atomic_init_u32(&slots[i].database, InvalidOid);
		pg_atomic_init_u64(&slots[i].started_at, 0);
		pg_atomic_init_u64(&slots[i].events, 0);
	}
}

/*
 * Find or make the places.
 *
 * Result: false when the server has no shared memory left.
 */
static bool
es_progress_attach(void)
{
	if (es_imports == NULL)
		es_imports = es_shmem_get("event_store imports " ES_VERSION,
								  sizeof(EsImportSlot) * ES_MAX_IMPORTS, es_progress_reset);
	return es_imports != NULL;
}

/*
 * Take a place.
 *
 * Result: NULL when there is none, and then a NOTICE says so.
 */
EsImportSlot *
es_progress_begin(void)
{
	if (es_progress_attach())
	{
		for (int i = 0; i < ES_MAX_IMPORTS; i++)
		{
			EsImportSlot *slot = &es_imports[i];
			uint32		pid = pg_atomic_read_u32(&slot->pid);

			if (pid != 0 && BackendPidGetProc((int) pid) != NULL)
				continue;
			if (!pg_atomic_compare_exchange_u32(&slot->pid, &pid, (uint32) MyProcPid))
				continue;
			pg_atomic_write_u64(&slot->events, 0);
			pg_atomic_write_u64(&slot->started_at, (uint64) GetCurrentTimestamp());
			pg_atomic_write_u32(&slot->database, MyDatabaseId);
			es_progress_shown = true;
			return slot;
		}
	}
	ereport(NOTICE,
			errmsg("the progress of this import is not shown"),
			errdetail("There is no place left for it in shared memory."));
	return NULL;
}

/*
 * events		written so far
 */
void
es_progress_update(EsImportSlot *slot, int64 events)
{
	if (slot != NULL)
		pg_atomic_write_u64(&slot->events, (uint64) events);
}

/*
 * Give the place back.
 */
void
es_progress_end(EsImportSlot *slot)
{
	if (slot == NULL)
		return;
	pg_atomic_write_u32(&slot->database, InvalidOid);
	pg_atomic_write_u32(&slot->pid, 0);
}

/*
 * A session that is ended in the middle gives back its places, too.
 */
static void
es_progress_xact_callback(XactEvent event, void *arg)
{
	if (!es_progress_shown || event != XACT_EVENT_ABORT)
		return;
	for (int i = 0; i < ES_MAX_IMPORTS; i++)
	{
		if (pg_atomic_read_u32(&es_imports[i].pid) == (uint32) MyProcPid)
			es_progress_end(&es_imports[i]);
	}
	es_progress_shown = false;
}

/*
 * Called once per process, from _PG_init.
 */
void
es_progress_init(void)
{
	RegisterXactCallback(es_progress_xact_callback, NULL);
}

/*
 * es_import_progress(OUT pid int, OUT events bigint, OUT started_at timestamptz)
 *		RETURNS SETOF record
 *
 * The running imports of this database.
 */
Datum
es_import_progress(PG_FUNCTION_ARGS)
{
	TupleDesc	desc;
	Tuplestorestate *result = es_result_set(fcinfo, NULL, 0, &desc);

	if (!es_progress_attach())
		return (Datum) 0;
	for (int i = 0; i < ES_MAX_IMPORTS; i++)
	{
		EsImportSlot *slot = &es_imports[i];
		uint32		pid = pg_atomic_read_u32(&slot->pid);
		Datum		values[3];
		bool		isnull[3] = {false};

		if (pid == 0 || pg_atomic_read_u32(&slot->database) != MyDatabaseId ||
			BackendPidGetProc((int) pid) == NULL)
			continue;
		values[0] = Int32GetDatum((int32) pid);
		values[1] = Int64GetDatum((int64) pg_atomic_read_u64(&slot->events));
		values[2] = TimestampTzGetDatum((TimestampTz) pg_atomic_read_u64(&slot->started_at));
		tuplestore_putvalues(result, desc, values, isnull);
	}
	return (Datum) 0;
}
