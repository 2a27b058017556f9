/*-------------------------------------------------------------------------
 * state/keep.c
 *	  Snapshots that the application takes.
 *
 * They and the states that es_state saves are rows of one table, by stream and
 * schema version.  So that neither is taken for the other, a category has
 * snapshots of one origin: where there is an aggregate none is taken by hand,
 * and defining an aggregate throws away what is there.  Who defines one locks
 * the table against writers first, so under the lock of a writer the answer
 * holds.
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/table.h"
#include "miscadmin.h"
#include "utils/snapmgr.h"

#include "base/args.h"
#include "base/compat.h"
#include "base/lock.h"
#include "log/event.h"
#include "log/stream.h"
#include "state/aggregate.h"
#include "state/snapshot.h"

PG_FUNCTION_INFO_V1(es_snapshot);

/*
 * es_snapshot(stream_id text, version bigint, data jsonb, schema_version int)
 *		RETURNS boolean
 *
 * Result: false when a newer snapshot is there already.
 * Errors: 22023 for a version that the stream has not reached, and where the
 * category has an aggregate, whose states are kept in the same place; 42501 for a
 * user to whom row-level security applies, who may not know the whole state;
 * 55000 where a subscription writes snapshots.
 */
Datum
es_snapshot(PG_FUNCTION_ARGS)
{
	const EsStore *store;
	Relation	event;
	int			len;
	const char *stream = es_arg_name(fcinfo, 0, "stream_id", &len);
	int64		version = es_arg_int64(fcinfo, 1, "version", 1, PG_INT64_MAX);
	Jsonb	   *data = es_arg_jsonb(fcinfo, 2, "data");
	int32		schema_version = es_arg_int32(fcinfo, 3, "schema_version", 1, PG_INT32_MAX);
	int64		stream_no;
	int64		current = 0;

	PreventCommandIfReadOnly("es_snapshot()");

	event = es_store_open_event(&store, AccessShareLock);
	if (es_snapshot_is_replicated(store))
		ereport(ERROR,
				errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				errmsg("cannot keep a snapshot where a subscription does"),
				errdetail("Snapshots arrive from the publisher, and one for the same stream would stop the replication."),
				errhint("Keep it on the publisher."));
	if (!es_snapshot_allowed(event))
		ereport(ERROR,
				errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
				errmsg("cannot keep a snapshot while row-level security applies"));
	stream_no = es_stream_find(store, stream, len);
	if (stream_no != 0)
		current = es_event_version(event, store, GetActiveSnapshot(), stream_no, NULL);
	table_close(event, NoLock);
	es_lock_table(store->snapshot, RowExclusiveLock);
	if (es_aggregate_exists(stream, es_category_length(stream, len)))
		ereport(ERROR,
				errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				errmsg("snapshots of stream \"%.*s\" are its aggregate's", len, stream),
				errdetail("Category \"%.*s\" has an aggregate, which would take this snapshot for a state of its own.",
						  es_category_length(stream, len), stream),
				errhint("es_state keeps snapshots by itself; to keep your own, remove the aggregate with es_drop_aggregate."));
	if (version > current)
		es_arg_error(ERRCODE_INVALID_PARAMETER_VALUE, "version", 0,
					 "Stream \"%.*s\" is at version " INT64_FORMAT ", a snapshot cannot be of version " INT64_FORMAT ".",
					 len, stream, current, version);

	PG_RETURN_BOOL(es_snapshot_write(stream_no, schema_version, version, data));
}
