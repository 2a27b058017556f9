/*-------------------------------------------------------------------------
 * log/find.c
 *	  Find events by their ids.
 *
 * An id is at home in one of two places, see log/id.c.
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/genam.h"
#include "access/tableam.h"
#include "access/xact.h"
#include "storage/lmgr.h"
#include "utils/builtins.h"
#include "utils/fmgroids.h"
#include "utils/fmgrprotos.h"
#include "utils/rel.h"
#include "utils/rls.h"
#include "utils/snapmgr.h"

#include "base/compat.h"
#include "base/count.h"
#include "base/errors.h"
#include "log/durable.h"
#include "log/find.h"
#include "log/id.h"
#include "log/stream.h"

/*
 * Find an event with this id by one index.
 *
 * key			of the index: of the id, or of a position that may be that of
 *				an event with another id
 * self			a tuple to leave out, or NULL
 * pending		result, for a dirty snapshot only: its transaction, if it is
 *				still running
 */
static bool
es_find_by(Relation event, const Oid *by, ScanKey key, Snapshot snapshot,
		   const pg_uuid_t *event_id, ItemPointer self, TupleTableSlot *slot,
		   TransactionId *pending)
{
	Relation	index = es_store_open_index(by);
	IndexScanDesc scan = es_index_beginscan(event, index, snapshot, 1);
	bool		found = false;

	index_rescan(scan, key, 1, NULL, 0);
	while (!found && index_getnext_slot(scan, ForwardScanDirection, slot))
	{
		bool		isnull;
		Datum		id = slot_getattr(slot, Anum_es_event_event_id, &isnull);

		if (pending != NULL)
			*pending = snapshot->xmin;
		found = memcmp(DatumGetUUIDP(id), event_id, UUID_LEN) == 0 &&
			(self == NULL || !ItemPointerEquals(self, &slot->tts_tid));
	}
	index_endscan(scan);
	index_close(index, AccessShareLock);
	if (!found)
		ExecClearTuple(slot);
	return found;
}

/*
 * Find an event by its id, at the position that the id ends with.
 */
static bool
es_find_by_position(Relation event, const EsStore *store, Snapshot snapshot,
					const pg_uuid_t *event_id, ItemPointer self, TupleTableSlot *slot,
					TransactionId *pending)
{
	ScanKeyData key;

	if (!store->ids_are_partial)
		return false;
	ScanKeyInit(&key, 1, BTEqualStrategyNumber, F_INT8EQ,
				Int64GetDatum(es_id_position(event_id)));
	return es_find_by(event, &store->read_index[ES_INDEX_POSITION], &key, snapshot, event_id,
					  self, slot, pending);
}

/*
 * The same, in the index by event id.
 */
static bool
es_find_by_entry(Relation event, const EsStore *store, Snapshot snapshot,
				 const pg_uuid_t *event_id, ItemPointer self, TupleTableSlot *slot,
				 TransactionId *pending)
{
	ScanKeyData key;

	ScanKeyInit(&key, 1, BTEqualStrategyNumber, F_UUID_EQ, UUIDPGetDatum(event_id));
	return es_find_by(event, &store->read_index[ES_INDEX_EVENT_ID], &key, snapshot, event_id,
					  self, slot, pending);
}

/*
 * Find another event with this id, committed or not.
 *
 * self			a tuple to leave out, or NULL
 * pending		result: its transaction, if it is still running
 */
bool
es_find_event_id(Relation event, const EsStore *store, const pg_uuid_t *event_id,
				 ItemPointer self, TupleTableSlot *slot, TransactionId *pending)
{
	SnapshotData dirty;

	InitDirtySnapshot(dirty);
	return es_find_by_position(event, store, &dirty, event_id, self, slot, pending) ||
		es_find_by_entry(event, store, &dirty, event_id, self, slot, pending);
}

/*
 * Find the event with this id that a snapshot shows.
 *
 * To look at a position with the snapshot of a SERIALIZABLE transaction is a
 * read with which appends would conflict; an id that ends with a position at
 * random must not cause that.
 */
bool
es_read_event_id(Relation event, const EsStore *store, Snapshot snapshot,
				 const pg_uuid_t *event_id, TupleTableSlot *slot)
{
	SnapshotData dirty;
	bool		look = true;

	if (IsolationIsSerializable())
	{
		InitDirtySnapshot(dirty);
		look = es_find_by_position(event, store, &dirty, event_id, NULL, slot, NULL);
	}
	return (look && es_find_by_position(event, store, snapshot, event_id, NULL, slot, NULL)) ||
		es_find_by_entry(event, store, snapshot, event_id, NULL, slot, NULL);
}

/*
 * Report that an event id is taken (VE002).
 *
 * self			our own tuple with that id, or NULL
 */
void
es_event_id_conflict(Relation event, const EsStore *store, const pg_uuid_t *event_id,
					 ItemPointer self)
{
	TupleTableSlot *slot = table_slot_create(event, NULL);
	TransactionId pending;
	StringInfoData detail;

	es_durable_wait();
	initStringInfo(&detail);
	appendStringInfo(&detail, "event_id=%s",
					 DatumGetCString(DirectFunctionCall1(uuid_out, UUIDPGetDatum(event_id))));

	/* where it is used is nobody's business to whom policies apply */
	if (check_enable_rls(RelationGetRelid(event), InvalidOid, true) != RLS_ENABLED &&
		es_find_event_id(event, store, event_id, self, slot, &pending))
	{
		bool		isnull;
		int64		stream_no = DatumGetInt64(slot_getattr(slot, Anum_es_event_stream_no, &isnull));
		int			len;

		if (isnull)
			appendStringInfo(&detail, " global_position=" INT64_FORMAT,
							 DatumGetInt64(slot_getattr(slot, Anum_es_event_global_position,
														&isnull)));
		else
		{
			const char *name = es_stream_name(store, stream_no, &len);

			appendStringInfo(&detail, " stream=%.*s version=%d", len, name,
							 DatumGetInt32(slot_getattr(slot, Anum_es_event_version, &isnull)));
		}
	}
	ExecDropSingleTupleTableSlot(slot);
	ereport(ERROR,
			errcode(es_counted(ERRCODE_ES_EVENT_ID_CONFLICT)),
			errmsg("event id is already used for something else"),
			errdetail_internal("%s", detail.data),
			errhint("A retry must repeat the same events in the same order; a new event needs a new id."));
}

/*
 * An event has been inserted with an id that another one may bear: wait for that
 * one's transaction and raise VE002 unless it was rolled back.
 */
void
es_resolve_event_id(Relation event, const EsStore *store, const pg_uuid_t *event_id,
					ItemPointer self)
{
	TupleTableSlot *slot = table_slot_create(event, NULL);
	TransactionId pending = InvalidTransactionId;

	while (es_find_event_id(event, store, event_id, self, slot, &pending))
	{
		if (!TransactionIdIsValid(pending))
			es_event_id_conflict(event, store, event_id, self);
		XactLockTableWait(pending, event, &slot->tts_tid, XLTW_InsertIndex);
	}
	ExecDropSingleTupleTableSlot(slot);
}
