/*-------------------------------------------------------------------------
 * state/snapshot.c
 *	  Snapshots of streams: the newest of each, read it, load a stream with it.
 *
 * A snapshot is the state of a stream at a version, as computed by the
 * caller.  There is one for each stream and schema version of the state, the
 * newest; it is a cache and can be thrown away.  Because it may reveal events
 * that row-level security hides from a user, users to whom policies on the
 * event table apply get none.
 *
 * Writing is rare and goes through SPI, qualified throughout and with the
 * rights of the table's owner; reading goes straight to the index.
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/genam.h"
#include "access/htup_details.h"
#include "access/table.h"
#include "access/tableam.h"
#include "catalog/pg_type.h"
#include "miscadmin.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/fmgroids.h"
#include "utils/rel.h"
#include "utils/rls.h"
#include "utils/snapmgr.h"

#include "base/args.h"
#include "base/compat.h"
#include "base/result.h"
#include "log/head.h"
#include "log/sql.h"
#include "log/stream.h"
#include "read/read.h"
#include "settings.h"
#include "state/snapshot.h"

PG_FUNCTION_INFO_V1(es_read_snapshot);
PG_FUNCTION_INFO_V1(es_load);

static EsSql es_snapshot_sql =
ES_SQL("INSERT INTO event_store.snapshot AS s"
	   " (stream_no, schema_version, version, created_at, data)"
	   " VALUES ($1, $2, $3, pg_catalog.clock_timestamp(), $4)"
	   " ON CONFLICT (stream_no, schema_version) DO UPDATE"
	   " SET version = EXCLUDED.version, created_at = EXCLUDED.created_at, data = EXCLUDED.data"
	   " WHERE s.version OPERATOR(pg_catalog.<=) EXCLUDED.version",
	   4, INT8OID, INT4OID, INT8OID, JSONBOID);

/*
 * Keep a snapshot of a stream, unless a newer one is there.
 *
 * The caller has checked that the stream has reached the version.
 *
 * Result: whether it was kept.
 */
bool
es_snapshot_write(int64 stream_no, int32 schema_version, int64 version, Jsonb *data)
{
	Datum		args[4];

	args[0] = Int64GetDatum(stream_no);
	args[1] = Int32GetDatum(schema_version);
	args[2] = Int64GetDatum(version);
	args[3] = JsonbPGetDatum(data);
	return es_sql_once(&es_snapshot_sql, args, NULL) > 0;
}

/*
 * Find the newest snapshot of a stream that the active snapshot shows.
 *
 * schema_version	of the state; 0 = any
 * max_version		newest version that is of use
 * slot				of the snapshot table; holds the row on success
 */
bool
es_snapshot_find(Relation rel, const EsStore *store, int64 stream_no,
				 int32 schema_version, int64 max_version, TupleTableSlot *slot)
{
	Relation	index = es_store_open_index(&store->snapshot_by_stream);
	TupleTableSlot *candidate = table_slot_create(rel, NULL);
	IndexScanDesc scan;
	ScanKeyData keys[2];
	int			nkeys = 1;
	int64		best = 0;

	ScanKeyInit(&keys[0], 1, BTEqualStrategyNumber, F_INT8EQ, Int64GetDatum(stream_no));
	if (schema_version != 0)
		ScanKeyInit(&keys[nkeys++], 2, BTEqualStrategyNumber, F_INT4EQ,
					Int32GetDatum(schema_version));
	scan = es_index_beginscan(rel, index, GetActiveSnapshot(), nkeys);
	index_rescan(scan, keys, nkeys, NULL, 0);
	while (index_getnext_slot(scan, ForwardScanDirection, candidate))
	{
		bool		isnull;
		int64		version = DatumGetInt64(slot_getattr(candidate, Anum_es_snapshot_version,
														 &isnull));

		if (version > best && version <= max_version)
		{
			best = version;
			ExecCopySlot(slot, candidate);
		}
	}
	index_endscan(scan);
	ExecDropSingleTupleTableSlot(candidate);
	index_close(index, AccessShareLock);
	if (best > 0)
		slot_getallattrs(slot);
	return best > 0;
}

/*
 * Argument "schema_version" of the functions that read: NULL = 0 = any.
 */
static int32
es_arg_any_schema_version(FunctionCallInfo fcinfo, int n)
{
	if (PG_ARGISNULL(n))
		return 0;
	if (PG_GETARG_INT32(n) < 1)
		es_arg_error(ERRCODE_INVALID_PARAMETER_VALUE, "schema_version", 0,
					 "It must be at least 1, not %d.", PG_GETARG_INT32(n));
	return PG_GETARG_INT32(n);
}

/*
 * May the current user see snapshots at all?
 */
bool
es_snapshot_allowed(Relation event)
{
	return check_enable_rls(RelationGetRelid(event), InvalidOid, false) != RLS_ENABLED;
}

/*
 * Do snapshots come by logical replication?  One that is kept here would then
 * be in the way of the publisher's, and stop the apply worker.
 */
bool
es_snapshot_is_replicated(const EsStore *store)
{
	Oid			subscription = InvalidOid;
	bool		ready = true;

	return es_table_is_subscribed(store->snapshot, &subscription, &ready);
}

/*
 * es_read_snapshot(stream_id text, schema_version int)
 *		RETURNS (stream_id text, version bigint, data jsonb,
 *				 schema_version int, created_at timestamptz)
 *
 * schema_version NULL = the newest of any.
 * Result: NULL when there is none.
 */
Datum
es_read_snapshot(PG_FUNCTION_ARGS)
{
	const EsStore *store;
	Relation	event;
	Relation	rel;
	TupleTableSlot *slot;
	int			len;
	const char *stream = es_arg_name(fcinfo, 0, "stream_id", &len);
	int32		schema_version = es_arg_any_schema_version(fcinfo, 1);
	int64		stream_no;
	Datum		result = (Datum) 0;

	event = es_store_open_event(&store, AccessShareLock);
	rel = table_open(store->snapshot, AccessShareLock);
	slot = table_slot_create(rel, NULL);
	stream_no = es_stream_find(store, stream, len);
	if (stream_no != 0 && es_snapshot_allowed(event) &&
		es_snapshot_find(rel, store, stream_no, schema_version, PG_INT64_MAX, slot))
	{
		Datum		values[5];
		bool		isnull[5] = {false};

		values[0] = PG_GETARG_DATUM(0);
		values[1] = slot->tts_values[Anum_es_snapshot_version - 1];
		values[2] = slot->tts_values[Anum_es_snapshot_data - 1];
		values[3] = slot->tts_values[Anum_es_snapshot_schema_version - 1];
		values[4] = slot->tts_values[Anum_es_snapshot_created_at - 1];
		result = es_result_row(fcinfo, NULL, 0, values, isnull);
	}
	ExecDropSingleTupleTableSlot(slot);
	table_close(rel, NoLock);
	table_close(event, NoLock);
	if (result == (Datum) 0)
		PG_RETURN_NULL();
	return result;
}

/* events of a stream on their way into an array */
typedef struct EsEventArray
{
	TupleDesc	desc;			/* of es_event */
	ArrayBuildState *state;
	MemoryContext context;
	int64		last_version;
} EsEventArray;

static void
es_collect_event(Datum *values, void *arg)
{
	EsEventArray *array = arg;
	bool		isnull[Natts_es_out] = {false};
	HeapTuple	tuple = heap_form_tuple(array->desc, values, isnull);

	array->last_version = DatumGetInt64(values[Anum_es_out_version - 1]);
	array->state = accumArrayResult(array->state,
									heap_copy_tuple_as_datum(tuple, array->desc),
									false, array->desc->tdtypeid, array->context);
}

/*
 * es_load(stream_id text, schema_version int)
 *		RETURNS (version bigint, snapshot_version bigint, snapshot jsonb,
 *				 events es_event[])
 *
 * The newest snapshot and the events after it.  Without a snapshot all
 * events; for an unknown stream version 0 and an empty array.
 */
Datum
es_load(PG_FUNCTION_ARGS)
{
	const EsStore *store;
	Relation	event;
	Relation	rel;
	TupleTableSlot *slot;
	EsEventArray array;
	int			len;
	const char *stream = es_arg_name(fcinfo, 0, "stream_id", &len);
	int32		schema_version = es_arg_any_schema_version(fcinfo, 1);
	int64		stream_no;
	Oid			element;
	Datum		values[4];
	bool		isnull[4] = {false, true, true, false};
	Datum		result;

	element = es_result_element(fcinfo, 3);
	array.desc = es_result_type_desc(element, es_out_attributes, Natts_es_out);
	array.state = initArrayResult(element, CurrentMemoryContext, false);
	array.context = CurrentMemoryContext;
	array.last_version = 0;

	event = es_store_open_event(&store, AccessShareLock);
	rel = table_open(store->snapshot, AccessShareLock);
	slot = table_slot_create(rel, NULL);
	stream_no = es_stream_find(store, stream, len);
	if (stream_no != 0)
	{
		if (es_snapshot_allowed(event) &&
			es_snapshot_find(rel, store, stream_no, schema_version, PG_INT64_MAX, slot))
		{
			values[1] = slot->tts_values[Anum_es_snapshot_version - 1];
			values[2] = slot->tts_values[Anum_es_snapshot_data - 1];
			isnull[1] = isnull[2] = false;
			array.last_version = DatumGetInt64(values[1]);
		}
		es_read_stream_events(event, store, stream_no, array.last_version + 1,
							  PG_INT64_MAX, ForwardScanDirection, !es_upcast_enabled,
							  es_collect_event, &array);
	}
	values[0] = Int64GetDatum(array.last_version);
	values[3] = makeArrayResult(array.state, CurrentMemoryContext);
	result = es_result_row(fcinfo, NULL, 0, values, isnull);

	ExecDropSingleTupleTableSlot(slot);
	table_close(rel, NoLock);
	table_close(event, NoLock);
	return result;
}
