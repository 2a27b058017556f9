/*-------------------------------------------------------------------------
 * wakeup/wait.c
 *	  Sleep until there is something to read, and tell what holds it back.
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/subtrans.h"
#include "access/table.h"
#include "access/transam.h"
#include "storage/procarray.h"
#include "utils/fmgrprotos.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"

#include "base/args.h"
#include "base/compat.h"
#include "base/result.h"
#include "log/head.h"
#include "log/scan.h"
#include "wakeup/wakeup.h"

PG_FUNCTION_INFO_V1(es_wait);
PG_FUNCTION_INFO_V1(es_head_status);

/*
 * es_wait(after_position bigint, timeout interval) RETURNS bigint
 *
 * Sleeps until the settled head is beyond the position or the time is up.
 *
 * Result: the settled head, judged when the function returns.
 * Errors: VE004 for a position that this store has never reached.
 */
Datum
es_wait(PG_FUNCTION_ARGS)
{
	int64		after = es_arg_int64(fcinfo, 0, "after_position", 0, PG_INT64_MAX);
	TimestampTz deadline = es_arg_deadline(fcinfo, 1, "timeout");
	const EsStore *store;
	Relation	event;

	/* the usual cursor of a consumer that keeps up needs no look */
	if (after > es_wakeup_published())
	{
		event = es_store_open_event(&store, AccessShareLock);
		es_head_check_cursor(event, store, after);
		table_close(event, AccessShareLock);
	}

	PG_RETURN_INT64(es_wakeup_await(after, deadline));
}

/*
 * es_head_status(OUT settled_head bigint, OUT last_position bigint,
 *				  OUT blocking_position bigint, OUT blocking_xid xid)
 *
 * The last two are NULL when nothing holds the head back, the head is when the
 * order is not available.  last_position counts positions that are not visible
 * yet, or never will be.
 */
Datum
es_head_status(PG_FUNCTION_ARGS)
{
	const EsStore *store;
	Relation	event = es_store_open_event(&store, AccessShareLock);
	Snapshot	snapshot = GetActiveSnapshot();
	Datum		values[4];
	bool		isnull[4] = {false, false, true, true};
	EsBlocked	blocked = {0, InvalidTransactionId};

	if (es_head_is_available(store, snapshot))
	{
		int64		head = es_head_settled(event, store, snapshot, 0, &blocked);

		if (blocked.position == 0)
			(void) es_head_pending(event, store, snapshot, head, &blocked);
		values[0] = Int64GetDatum(head);
	}
	else
		isnull[0] = true;
	values[1] = Int64GetDatum(es_scan_highest_inserted(event, store));
	if (blocked.position != 0)
	{
		TransactionId xid = blocked.xid;

		/* pg_stat_activity and pg_prepared_xacts know top-level ids only */
		if (TransactionIdFollowsOrEquals(xid, TransactionXmin))
			xid = SubTransGetTopmostTransaction(xid);
		values[2] = Int64GetDatum(blocked.position);
		values[3] = TransactionIdGetDatum(xid);
		isnull[2] = isnull[3] = false;
	}
	table_close(event, NoLock);
	return es_result_row(fcinfo, NULL, 0, values, isnull);
}
