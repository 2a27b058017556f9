/*-------------------------------------------------------------------------
 * projection/apply.c
 *	  The engine of projections: apply one slice of events in a transaction.
 *
 * Exactly once: the row of the projection is locked first and for the whole
 * slice, the read model and the checkpoint are written by one transaction,
 * and the checkpoint moves only from where it was found.  However often a
 * worker dies, and whoever else applies the same projection, an event is in
 * the read model if and only if the checkpoint has passed it.
 *
 * Never skipping: slices come from a walk of the global order (log/scan.c) and
 * obey its prefix rule.  A walk that reaches its bound without being blocked
 * has seen everything that the filters want, so the checkpoint becomes the
 * bound; otherwise it becomes the position before what blocked.
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/table.h"
#include "access/xact.h"
#include "catalog/pg_type.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/datum.h"
#include "utils/memutils.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"

#include "base/compat.h"
#include "base/fault.h"
#include "evolution/upcast.h"
#include "log/event.h"
#include "log/head.h"
#include "log/scan.h"
#include "log/sql.h"
#include "projection/projection.h"

/* bytes of events in one slice, about */
#define ES_SLICE_MAX_BYTES		(16 * 1024 * 1024)

/* events that are looked at for one slice, if only few of them get into it */
#define ES_SLICE_MAX_LOOKED		10000

/* a slice given event by event ends after so long, so that others get a turn */
#define ES_SLICE_MAX_MS			250

/* an empty walk of so many positions is worth a checkpoint */
#define ES_SLICE_LAZY_POSITIONS	100000

/* an event that waits behind a parked one of its stream */
typedef struct EsBehind
{
	int64		position;
	text	   *stream;
} EsBehind;

/* a slice on its way to the handler */
typedef struct EsSlice
{
	int			nevents;
	Datum	   *events;			/* es_event */
	int64	   *positions;
	List	   *behind;			/* EsBehind, ascending */
	bool		met_any;		/* something that the filters want */
} EsSlice;

typedef struct EsApplyContext
{
	EsProjection *projection;
	EsApplied  *result;
} EsApplyContext;

static void
es_apply_error_context(void *arg)
{
	EsApplyContext *context = arg;

	switch (context->result->phase)
	{
		case ES_APPLY_SETUP:
			errcontext("projection \"%s\"", context->projection->name);
			break;
		case ES_APPLY_EVENT:
			errcontext("projection \"%s\", event at position " INT64_FORMAT,
					   context->projection->name, context->result->fail_position);
			break;
		case ES_APPLY_SLICE:
			errcontext("projection \"%s\", %d events from position " INT64_FORMAT " on",
					   context->projection->name, context->result->events,
					   context->result->fail_position);
			break;
	}
}

static bool
es_text_in_list(List *list, text *name)
{
	ListCell   *lc;

	foreach(lc, list)
	{
		text	   *other = lfirst(lc);

		if (VARSIZE_ANY_EXHDR(other) == VARSIZE_ANY_EXHDR(name) &&
			memcmp(VARDATA_ANY(other), VARDATA_ANY(name), VARSIZE_ANY_EXHDR(name)) == 0)
			return true;
	}
	return false;
}

/*
 * Type numbers that the filters want; NULL = all.  Must be younger than the
 * bound of the walk: see log/type.c.
 */
static int
es_projection_types(const EsStore *store, EsProjection *projection, int32 **type_nos,
					EsTypeFilter **filter)
{
	*type_nos = NULL;
	*filter = NULL;
	if (projection->categories == NULL && projection->event_types == NULL)
		return 0;
	return es_upcast_type_list(store, projection->categories, projection->ncategories,
							   projection->event_types, projection->nevent_types, false,
							   type_nos, filter);
}

/*
 * Does the active snapshot show something that the filters want in
 * (after, upto]?
 *
 * upto			at most the bound of that snapshot
 * clear		result: up to here there is nothing
 * blocked		result: something unsettled ended the walk
 */
bool
es_projection_has_work(EsProjection *projection, int64 after, int64 upto,
					   int64 *clear, bool *blocked)
{
	const EsStore *store;
	Relation	event;
	EsScan	   *scan;
	EsTypeFilter *types;
	int32	   *type_nos;
	int			ntypes;
	bool		found;
	EsBlocked	stop;

	*clear = after;
	*blocked = false;
	upto = Min(upto, projection->limit_position);
	if (upto <= after)
		return false;

	event = es_store_open_event(&store, AccessShareLock);
	ntypes = es_projection_types(store, projection, &type_nos, &types);
	scan = es_scan_begin(event, store, GetActiveSnapshot(), ES_SCAN_VISIBLE,
						 ForwardScanDirection, after, upto, type_nos, ntypes, 1);
	do
	{
		found = es_scan_next(scan);
	} while (found && !es_upcast_wanted(store, types, es_scan_slot(scan)));
	stop = es_scan_blocked(scan);
	es_scan_end(scan);
	table_close(event, AccessShareLock);

	*blocked = stop.position != 0;
	if (!found)
		*clear = Max(after, *blocked ? stop.position - 1 : upto);
	return found;
}

/*
 * Read the next slice, as the user that is current.
 *
 * The slice lives in the current memory context.
 */
static void
es_slice_read(EsProjection *projection, EsHandler *handler, int limit, int64 upto,
			  EsSlice *slice, EsApplied *result)
{
	Snapshot	snapshot = GetActiveSnapshot();
	MemoryContext slice_context = CurrentMemoryContext;
	MemoryContext row_context = AllocSetContextCreate(CurrentMemoryContext,
													  "event_store row",
													  ALLOCSET_DEFAULT_SIZES);
	const EsStore *store;
	Relation	event = es_store_open_event(&store, AccessShareLock);
	EsRowFilter *filter;
	EsScan	   *scan;
	EsTypeFilter *types;
	List	   *parked = NIL;
	int32	   *type_nos;
	int			ntypes;
	int64		bound = es_head_bound(event, store, snapshot);
	int64		last = projection->position;
	Size		bytes = 0;
	int			looked = 0;
	int			max_looked = Max(limit, ES_SLICE_MAX_LOOKED);
	int			capacity = Min(limit, 64);

	if (bound < projection->position)
		es_head_check_cursor(event, store, projection->position);
	upto = Min(upto, projection->limit_position);

	/* a slice is either replayed or not */
	if (projection->position < projection->replay_until)
		upto = Min(upto, projection->replay_until);
	result->more = upto < bound && upto < projection->limit_position;
	bound = Min(bound, upto);

	ntypes = es_projection_types(store, projection, &type_nos, &types);
	if (strcmp(projection->policy, "park") == 0)
		parked = es_projection_parked_streams(projection);
	filter = es_row_filter_begin(event);
	slice->events = palloc(capacity * sizeof(Datum));
	slice->positions = palloc(capacity * sizeof(int64));

	scan = es_scan_begin(event, store, snapshot, ES_SCAN_VISIBLE, ForwardScanDirection,
						 projection->position, bound, type_nos, ntypes, limit);
	while (slice->nevents < limit && bytes < ES_SLICE_MAX_BYTES && looked < max_looked &&
		   es_scan_next(scan))
	{
		Datum		values[Natts_es_out];
		text	   *stream = NULL;

		last = es_scan_position(scan);
		if (!es_upcast_wanted(store, types, es_scan_slot(scan)))
			continue;
		slice->met_any = true;
		looked++;
		result->phase = ES_APPLY_EVENT;
		result->fail_position = last;
		result->before = slice->nevents;
		if (!es_row_filter_passes(filter, last))
			continue;

		MemoryContextSwitchTo(row_context);
		es_event_values(store, es_scan_slot(scan), values);
		MemoryContextSwitchTo(slice_context);
		if (parked != NIL)
			stream = es_event_order_key(store, es_scan_slot(scan));
		if (stream != NULL && es_text_in_list(parked, stream))
		{
			EsBehind   *behind = palloc(sizeof(EsBehind));

			behind->position = last;
			behind->stream = cstring_to_text_with_len(VARDATA_ANY(stream),
													  VARSIZE_ANY_EXHDR(stream));
			slice->behind = lappend(slice->behind, behind);
		}
		else
		{
			if (slice->nevents == capacity)
			{
				capacity = Min(capacity * 2, limit);
				slice->events = repalloc(slice->events, capacity * sizeof(Datum));
				slice->positions = repalloc(slice->positions, capacity * sizeof(int64));
			}
			slice->events[slice->nevents] = es_handler_event(handler, values);
			slice->positions[slice->nevents] = last;
			bytes += VARSIZE_ANY(DatumGetPointer(slice->events[slice->nevents]));
			slice->nevents++;
		}
		MemoryContextReset(row_context);
	}
	result->phase = ES_APPLY_SETUP;
	result->events = slice->nevents;

	if (slice->nevents == limit || bytes >= ES_SLICE_MAX_BYTES || looked == max_looked)
	{
		result->position = last;
		result->more = true;
	}
	else if (es_scan_blocked(scan).position != 0)
	{
		result->position = Max(last, es_scan_blocked(scan).position - 1);
		result->blocked = true;
		result->more = false;
	}
	else
		result->position = Max(last, bound);

	es_scan_end(scan);
	es_row_filter_end(filter);
	table_close(event, NoLock);
	MemoryContextDelete(row_context);
}

/*
 * Give the slice to the handler; it may end early, see ES_SLICE_MAX_MS.
 */
static void
es_slice_apply(EsProjection *projection, EsHandler *handler, EsSlice *slice,
			   EsApplied *result)
{
	bool		replaying = projection->is_shadow ||
		projection->position < projection->replay_until;
	MemoryContext event_context;
	TimestampTz start;

	if (slice->nevents == 0)
		return;

	result->fail_position = slice->positions[0];
	result->before = 0;
	event_context = AllocSetContextCreate(CurrentMemoryContext, "event_store event",
										  ALLOCSET_DEFAULT_SIZES);
	if (es_handler_takes_array(handler))
	{
		Datum		array = es_handler_array(handler, slice->events, slice->nevents);

		result->phase = slice->nevents == 1 ? ES_APPLY_EVENT : ES_APPLY_SLICE;
		MemoryContextSwitchTo(event_context);
		es_handler_call(handler, array, replaying);
		result->applied = slice->nevents;
	}
	else
	{
		result->phase = ES_APPLY_EVENT;
		start = GetCurrentTimestamp();
		MemoryContextSwitchTo(event_context);
		for (int i = 0; i < slice->nevents; i++)
		{
			CHECK_FOR_INTERRUPTS();
			result->fail_position = slice->positions[i];
			result->before = i;
			es_handler_call(handler, slice->events[i], replaying);
			MemoryContextReset(event_context);
			result->applied++;
			if (i + 1 < slice->nevents &&
				TimestampDifferenceExceeds(start, GetCurrentTimestamp(), ES_SLICE_MAX_MS))
			{
				result->position = slice->positions[i];
				result->more = true;
				result->blocked = false;
				break;
			}
		}
	}
}

/*
 * Apply the next slice of a locked projection in the present transaction, and
 * move the checkpoint.
 *
 * limit		at most so many events
 * upto			no further than this position
 * result		filled as the work goes on, so it tells about an error, too;
 *				after success its phase says what an error at commit is about
 */
void
es_projection_apply(EsProjection *projection, int limit, int64 upto,
					EsCheckpointWhen when, EsApplied *result)
{
	MemoryContext caller = CurrentMemoryContext;
	MemoryContext context = AllocSetContextCreate(CurrentMemoryContext, "event_store slice",
												  ALLOCSET_DEFAULT_SIZES);
	ErrorContextCallback callback;
	EsApplyContext error_context = {projection, result};
	EsHandler  *handler;
	EsSlice		slice = {0};
	ListCell   *lc;

	memset(result, 0, sizeof(EsApplied));
	result->phase = ES_APPLY_SETUP;
	callback.callback = es_apply_error_context;
	callback.arg = &error_context;
	callback.previous = error_context_stack;
	error_context_stack = &callback;

	MemoryContextSwitchTo(context);
	handler = es_handler_begin(projection);
	CommandCounterIncrement();
	PushActiveSnapshot(GetTransactionSnapshot());
	es_slice_read(projection, handler, limit, upto, &slice, result);
	es_slice_apply(projection, handler, &slice, result);
	MemoryContextSwitchTo(context);
	PopActiveSnapshot();
	es_handler_end(handler);

	ES_FAULT_POINT("projection_applied");

	foreach(lc, slice.behind)
	{
		EsBehind   *behind = lfirst(lc);

		if (behind->position > result->position)
			break;
		es_projection_park(projection, behind->position, VARDATA_ANY(behind->stream),
						   VARSIZE_ANY_EXHDR(behind->stream), "behind", NULL, 0);
		result->parked++;
	}

	/*
	 * What was not the whole way has to be left behind, empty or not, and so
	 * have failed attempts at what is not wanted any more.
	 */
	if (when == ES_CHECKPOINT_LATER)
		projection->position = Max(projection->position, result->position);
	else if (result->position > projection->position &&
			 (when == ES_CHECKPOINT_NOW || slice.met_any || result->more ||
			  projection->attempts > 0 ||
			  result->position - projection->position >= ES_SLICE_LAZY_POSITIONS))
	{
		es_projection_checkpoint(projection, result->position, result->applied);
		result->moved = true;
	}

	/* what is left to fail are deferred checks at commit */
	if (result->applied == 0)
		result->phase = ES_APPLY_SETUP;
	else
	{
		result->phase = result->applied == 1 ? ES_APPLY_EVENT : ES_APPLY_SLICE;
		result->fail_position = slice.positions[0];
		result->before = 0;
	}
	error_context_stack = callback.previous;
	MemoryContextSwitchTo(caller);
	MemoryContextDelete(context);
}

/*
 * Fetch the event at a position with the active snapshot.
 *
 * projection	whose handler is to have it: in today's shape, only if the filters
 *				want that and the current user may see it, each of which may
 *				fail; NULL = any event as it is stored
 * values		Natts_es_out results in the current memory context
 *
 * Result: false when there is none.
 */
static bool
es_projection_event_at(int64 position, EsProjection *projection, Datum *values)
{
	const EsStore *store;
	Relation	event = es_store_open_event(&store, AccessShareLock);
	EsRowFilter *filter = projection ? es_row_filter_begin(event) : NULL;
	EsTypeFilter *types = NULL;
	int32	   *type_nos = NULL;
	int			ntypes = projection ? es_projection_types(store, projection, &type_nos, &types) : 0;
	EsScan	   *scan = es_scan_begin(event, store, GetActiveSnapshot(), ES_SCAN_VISIBLE,
									 ForwardScanDirection, position - 1, position,
									 type_nos, ntypes, 1);
	bool		found = es_scan_next(scan) &&
		es_upcast_wanted(store, types, es_scan_slot(scan)) &&
		(filter == NULL || es_row_filter_passes(filter, position));

	if (found)
	{
		if (projection)
			es_event_values(store, es_scan_slot(scan), values);
		else
		{
			(void) es_event_stored_values(store, es_scan_slot(scan), values);
			/* what it shares with the events that have to wait for it */
			values[Anum_es_out_stream_id - 1] =
				PointerGetDatum(es_event_order_key(store, es_scan_slot(scan)));
		}

		/* by-reference columns may point into the slot */
		values[Anum_es_out_event_id - 1] =
			datumCopy(values[Anum_es_out_event_id - 1], false, 16);
		values[Anum_es_out_data - 1] =
			datumCopy(values[Anum_es_out_data - 1], false, -1);
		values[Anum_es_out_metadata - 1] =
			datumCopy(values[Anum_es_out_metadata - 1], false, -1);
	}
	es_scan_end(scan);
	if (filter != NULL)
		es_row_filter_end(filter);
	table_close(event, NoLock);
	return found;
}

/*
 * Name of the stream of the event at a position, even if the policy that says
 * who may see it fails: the event is to be parked for that.
 */
char *
es_projection_stream_at(int64 position)
{
	Datum		values[Natts_es_out];

	if (!es_projection_event_at(position, NULL, values))
		return NULL;
	return TextDatumGetCString(values[Anum_es_out_stream_id - 1]);
}

static EsSql es_parked_positions_query =
ES_SQL("SELECT p.global_position FROM event_store.projection_parked p"
	" WHERE p.projection OPERATOR(pg_catalog.=) $1 AND p.is_shadow OPERATOR(pg_catalog.=) $2"
	" AND ($3 IS NULL OR p.stream_id OPERATOR(pg_catalog.=) $3)"
	" AND p.disposition OPERATOR(pg_catalog.<>) 'skipped'"
	" ORDER BY p.global_position FOR UPDATE",
		 3, TEXTOID, BOOLOID, TEXTOID);

/*
 * Give the parked events of a locked projection to its handler once more.
 *
 * stream		of this stream only; NULL = all
 * result		as for es_projection_apply
 *
 * Result: their number.  The rows are left to the caller.
 */
int64
es_projection_retry(EsProjection *projection, const char *stream, EsApplied *result)
{
	Datum		args[3] = {CStringGetTextDatum(projection->name),
		BoolGetDatum(projection->is_shadow),
	stream ? CStringGetTextDatum(stream) : (Datum) 0};
	MemoryContext caller = CurrentMemoryContext;
	MemoryContext context;
	EsOwnerScope scope;
	EsHandler  *handler;
	ErrorContextCallback callback;
	EsApplyContext error_context = {projection, result};
	int64	   *positions;
	uint64		count;

	memset(result, 0, sizeof(EsApplied));
	es_owner_begin(&scope);
	count = es_sql_run(&es_parked_positions_query, args, stream ? NULL : "  n");
	positions = MemoryContextAlloc(caller, Max(count, 1) * sizeof(int64));
	for (uint64 i = 0; i < count; i++)
		positions[i] = es_sql_int64(i, 1, 0);
	es_owner_end(&scope);

	callback.callback = es_apply_error_context;
	callback.arg = &error_context;
	callback.previous = error_context_stack;
	error_context_stack = &callback;
	handler = es_handler_begin(projection);
	PushActiveSnapshot(GetTransactionSnapshot());
	context = AllocSetContextCreate(caller, "event_store event", ALLOCSET_DEFAULT_SIZES);
	result->phase = ES_APPLY_EVENT;
	for (uint64 i = 0; i < count; i++)
	{
		Datum		values[Natts_es_out];

		MemoryContextSwitchTo(context);
		result->fail_position = positions[i];
		if (es_projection_event_at(positions[i], projection, values))
		{
			Datum		event = es_handler_event(handler, values);

			if (es_handler_takes_array(handler))
				event = es_handler_array(handler, &event, 1);
			es_handler_call(handler, event, positions[i] <= projection->replay_until);
			result->applied++;
		}
		MemoryContextSwitchTo(caller);
		MemoryContextReset(context);
	}
	PopActiveSnapshot();
	es_handler_end(handler);
	error_context_stack = callback.previous;
	MemoryContextDelete(context);
	return result->applied;
}
