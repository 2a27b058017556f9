/*-------------------------------------------------------------------------
 * read/visible.c
 *	  Which streams a user may know of.
 *
 * Readers may select from event_store.stream, and the view of events needs
 * that.  Where policies on the event table hide all events of a stream from a
 * user, a policy on the table of streams (sql/install/read.sql) hides its name,
 * too, by this function.
 *
 * A policy on the event table may well look at the name of the stream.  Asked
 * from there the answer is yes: it is the administrator's policy that looks,
 * and it decides what of that the user gets to see.
 *
 * For everybody else the planner puts true in the place of the call, so that
 * conditions on names reach the index as if there were no policy.
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/genam.h"
#include "access/table.h"
#include "access/tableam.h"
#include "nodes/makefuncs.h"
#include "nodes/pathnodes.h"
#include "nodes/supportnodes.h"
#include "utils/fmgroids.h"
#include "utils/rel.h"
#include "utils/rls.h"
#include "utils/snapmgr.h"

#include "base/compat.h"
#include "log/event.h"
#include "log/store.h"
#include "read/read.h"

PG_FUNCTION_INFO_V1(es_stream_visible);
PG_FUNCTION_INFO_V1(es_stream_visible_support);

/* the policies of the event table are being asked by us */
static bool es_visible_asking = false;

/*
 * May the current user see an event of the stream?
 *
 * Errors: 42501 when the user has turned row_security off.
 */
bool
es_stream_is_visible(int64 stream_no)
{
	const EsStore *store;
	Relation	event;
	EsRowFilter *filter;
	bool		visible;

	if (es_visible_asking)
		return true;

	event = es_store_open_event(&store, AccessShareLock);
	filter = es_row_filter_begin(event);
	visible = filter == NULL;
	if (!visible)
	{
		Relation	index = es_store_open_index(&store->read_index[ES_INDEX_STREAM]);
		TupleTableSlot *slot = table_slot_create(event, NULL);
		IndexScanDesc scan = es_index_beginscan(event, index, GetActiveSnapshot(), 1);
		ScanKeyData key;

		ScanKeyInit(&key, 1, BTEqualStrategyNumber, F_INT8EQ, Int64GetDatum(stream_no));
		index_rescan(scan, &key, 1, NULL, 0);
		es_visible_asking = true;
		PG_TRY();
		{
			while (!visible && index_getnext_slot(scan, ForwardScanDirection, slot))
			{
				bool		isnull;

				CHECK_FOR_INTERRUPTS();
				visible = es_row_filter_passes(filter,
											   DatumGetInt64(slot_getattr(slot, Anum_es_event_global_position,
																		  &isnull)));
			}
		}
		PG_CATCH();
		{
			es_visible_asking = false;
			PG_RE_THROW();
		}
		PG_END_TRY();
		es_visible_asking = false;
		index_endscan(scan);
		ExecDropSingleTupleTableSlot(slot);
		index_close(index, AccessShareLock);
		es_row_filter_end(filter);
	}
	table_close(event, AccessShareLock);
	return visible;
}

/*
 * es_stream_visible(stream_no bigint) RETURNS boolean
 *
 * The same for policies.
 */
Datum
es_stream_visible(PG_FUNCTION_ARGS)
{
	PG_RETURN_BOOL(es_stream_is_visible(PG_GETARG_INT64(0)));
}

/*
 * Planner support: true for whom no policy on the event table applies to.
 *
 * The plan is made anew when that changes: for another role, or another
 * row_security, because the table of streams has policies; after a change of
 * the event table because the plan is noted as depending on it.
 */
Datum
es_stream_visible_support(PG_FUNCTION_ARGS)
{
	Node	   *request = (Node *) PG_GETARG_POINTER(0);
	SupportRequestSimplify *simplify = (SupportRequestSimplify *) request;
	Oid			event;

	if (!IsA(request, SupportRequestSimplify) || simplify->root == NULL)
		PG_RETURN_POINTER(NULL);
	event = es_store_get()->event;
	if (check_enable_rls(event, InvalidOid, true) == RLS_ENABLED)
		PG_RETURN_POINTER(NULL);
	simplify->root->glob->relationOids = lappend_oid(simplify->root->glob->relationOids, event);
	PG_RETURN_POINTER(makeBoolConst(true, false));
}
