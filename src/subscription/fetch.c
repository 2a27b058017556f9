/*-------------------------------------------------------------------------
 * subscription/fetch.c
 *	  Deliver the events of a subscription.
 *
 * One round reads the cursor without a lock, walks the global order from
 * there, and if it has found something claims the cursor and writes down what
 * is handed out.  If the cursor has changed meanwhile the round is void.  A
 * round that finds nothing holds no lock while it waits for the next one.
 *
 * The cursor moves over what the filter, row-level security or the slots of
 * others leave out, but never over an unsettled event that it may want, nor
 * over one that was handed out and not acknowledged.
 *
 * Events of a stream that is held up (subscription/parked.c) are left out of
 * the walk; they come from the stream itself, when it is their turn.
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "access/table.h"
#include "access/xact.h"
#include "catalog/pg_type.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"

#include "base/args.h"
#include "base/compat.h"
#include "base/count.h"
#include "base/errors.h"
#include "base/fault.h"
#include "base/result.h"
#include "evolution/upcast.h"
#include "log/head.h"
#include "read/read.h"
#include "subscription/subscription.h"
#include "wakeup/wakeup.h"

PG_FUNCTION_INFO_V1(es_fetch);

/* a cursor that has fallen this many positions behind is moved by itself */
#define ES_LAZY_POSITIONS	1000

/* how often to look whether somebody else is done */
#define ES_BUSY_MS			20

/*
 * how often somebody who waits looks for what wakes nobody: slots that came
 * free, a reset, a retry that was ordered, an event that only one which is not
 * wanted keeps behind the settled head
 */
#define ES_LOOK_MS			1000

/* pause (us) after looks that met others' events only, times their number */
#define ES_GATHER_US		INT64CONST(500)
#define ES_GATHER_MAX		10

/* events of held-up streams in one fetch, at the most */
#define ES_MAX_QUEUE		1000

typedef enum EsRound
{
	ES_ROUND_NOTHING,			/* nothing to hand out */
	ES_ROUND_BUSY,				/* somebody else is at it */
	ES_ROUND_AGAIN,				/* void, or only the cursor was moved */
	ES_ROUND_DONE				/* events handed out */
} EsRound;

typedef struct EsFetch
{
	Datum		name;
	Datum		member;			/* 0 = the session */
	bool		member_given;
	int64		max_count;
	Tuplestorestate *rows;
	TupleDesc	desc;
	MemoryContext context;		/* of one round */

	/* the present round */
	EsSubscription sub;
	EsCursor	cursor;
	int64	   *slots;			/* see es_group_slots; NULL = no group */
	EsParked   *parked;
	int			nparked;
	uint64		upcasters;		/* generation of the definitions */
	int64		start;			/* everything up to here is done */
	int64		count;			/* events found */
	int64		last;			/* highest position among them */
	int64		scanned;		/* how far the walk got */
	bool		skipped;		/* met events of held-up streams */
	bool		must_move;		/* a stream that is due waits for the cursor */
	bool		must_write;		/* a stream is held up no longer */
	TimestampTz since;			/* of the cursor that was written */
	TimestampTz look_again;		/* when the next retry is due */

	bool		wrote;			/* this call has written something */
	bool		told;			/* ... has thought of telling why it gets nothing */

	/* what an earlier round of this call has walked over */
	int64		walked_from;
	int64		walked_to;
	TransactionId walked_xmin;	/* the cursor then */
	uint64		walked_upcasters;	/* their generation then */
} EsFetch;

/* events of one held-up stream on their way out */
typedef struct EsQueue
{
	EsFetch    *fetch;
	EsParked   *parked;
	int64		upto;			/* behind it the walk takes the stream's events */
	bool		due;			/* the failed event may go */
	bool		held;			/* met it, and it may not */
	bool		beyond;			/* all that may go has been met */
	int			first;			/* of the present stream */
	HeapTuple  *tuples;
	int64	   *positions;
	int			n;
	int			size;			/* of both arrays */
	MemoryContext context;
	MemoryContext row_context;	/* for one event */
} EsQueue;

/*
 * Read the cursor, and for a member see to its slots.
 *
 * Result: false when somebody else has the events in hand, or resets or drops
 * the subscription.
 */
static bool
es_fetch_begin(EsFetch *fetch)
{
	EsOwnerScope scope;
	bool		busy = false;

	es_owner_begin(&scope);
	do
	{
		es_subscription_load(fetch->name, &fetch->sub);
		if (fetch->sub.slots > 0 && !fetch->member_given)
			ereport(ERROR,
					errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
					errmsg("\"member\" must not be null for a consumer group"),
					errhint("Give each consumer of the group a name of its own."));
	} while (!es_cursor_load(&fetch->sub, fetch->member, false, &fetch->cursor));

	fetch->slots = NULL;
	if (fetch->sub.slots > 0)
	{
		es_lease_write_begin();
		if (!fetch->cursor.exists)
		{
			if (es_group_join(&fetch->sub, fetch->member, fetch->sub.lease, false))
			{
				fetch->wrote = true;
				es_cursor_load(&fetch->sub, fetch->member, false, &fetch->cursor);
			}
			else
				busy = true;
		}
		if (!busy && es_group_balance(&fetch->sub, fetch->member, &fetch->cursor))
		{
			fetch->wrote = true;
			busy = !es_cursor_load(&fetch->sub, fetch->member, false, &fetch->cursor);
		}
		es_lease_write_end();
		fetch->slots = es_group_slots(&fetch->sub, fetch->member,
									  &fetch->cursor);
		fetch->start = PG_INT64_MAX;
		for (int i = 0; i < fetch->sub.slots; i++)
		{
			if (fetch->slots[i] >= 0)
				fetch->start = Min(fetch->start, fetch->slots[i]);
		}
	}
	else
	{
		if (!fetch->cursor.exists)
		{
			/* maybe just dropped */
			es_subscription_load(fetch->name, &fetch->sub);
			ereport(ERROR,
					errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
					errmsg("subscription \"%s\" has no checkpoint",
						   TextDatumGetCString(fetch->name)),
					errhint("Set one with es_reset_subscription."));
		}
		busy = es_lease_is_busy(&fetch->cursor, fetch->member);
		fetch->start = fetch->cursor.position;
	}

	/* later than the cursor: what has been put there since voids the round */
	fetch->parked = NULL;
	fetch->nparked = 0;
	if (!busy)
		fetch->parked = es_parked_load(&fetch->sub, fetch->slots,
									   &fetch->nparked);
	es_owner_end(&scope);
	return !busy;
}

/*
 * Look at the next event of a held-up stream.
 */
static void
es_queue_event(EsQueue *queue, const EsStore *store, TupleTableSlot *row)
{
	EsParked   *parked = queue->parked;
	bool		isnull[Natts_es_out];
	Datum		values[Natts_es_out];
	int64		position;
	int64		version = 1;
	MemoryContext old_context;

	position = DatumGetInt64(slot_getattr(row, Anum_es_event_global_position, &isnull[0]));
	if (parked->stream_no > 0)
		version = DatumGetInt32(slot_getattr(row, Anum_es_event_version, &isnull[0]));
	if (position > queue->upto ||
		(parked->stream_no < 0 && position != -parked->stream_no))
	{
		queue->beyond = true;
		return;
	}
	for (int i = 0; i < parked->ndiscarded; i++)
	{
		if (DatumGetInt64(parked->discarded[i]) == position)
			return;
	}
	if (!es_selection_matches(&queue->fetch->sub.wanted, store, row))
		return;
	if (parked->failed_position != 0 && position >= parked->failed_position)
	{
		queue->beyond = true;
		if (!queue->due || queue->n > queue->first)
		{
			queue->held = true;
			return;
		}
	}

	old_context = MemoryContextSwitchTo(queue->row_context);
	es_event_values(store, row, values);
	es_event_nulls(values, isnull);
	MemoryContextSwitchTo(queue->context);
	queue->tuples[queue->n] = heap_form_tuple(queue->fetch->desc, values, isnull);
	MemoryContextSwitchTo(old_context);
	MemoryContextReset(queue->row_context);
	queue->positions[queue->n++] = position;
	parked->delivered_version = version;
}

/*
 * Next events of one held-up stream: those before the failed one that are not
 * done, the failed one by itself, or what queues behind it once that is
 * through.  An event that belongs to no stream is held up by itself.
 */
static void
es_fetch_queue(EsFetch *fetch, Relation event, const EsStore *store,
			   EsParked *parked, EsQueue *queue)
{
	EsRead		single = {0};
	EsReader   *reader = NULL;
	TupleTableSlot *row;

	queue->parked = parked;
	queue->first = queue->n;
	queue->held = queue->beyond = false;
	if (parked->stream_no > 0)
		reader = es_reader_begin_stream(event, store, GetActiveSnapshot(), parked->stream_no,
										parked->next_version, PG_INT64_MAX,
										ForwardScanDirection, false);
	else if (parked->next_version <= 1)
	{
		single.from = -parked->stream_no - 1;
		single.max_count = 1;
		reader = es_reader_begin(&single, GetActiveSnapshot());
	}
	if (reader != NULL)
	{
		while (!queue->beyond && queue->n < queue->size &&
			   (row = es_reader_next(reader, true)) != NULL)
			es_queue_event(queue, store, row);
		es_reader_end(reader);
	}

	/* caught up: from here on the walk takes the stream along */
	if (queue->n == queue->first && queue->due && !queue->held &&
		parked->done_position <= queue->upto && parked->failed_position <= queue->upto)
		parked->finished = true;
}

static int
es_queue_compare(const void *a, const void *b, void *arg)
{
	int64	   *positions = arg;
	int64		l = positions[*(const int *) a];
	int64		r = positions[*(const int *) b];

	return (l > r) - (l < r);
}

/*
 * Hand out the events of held-up streams whose time has come, in order; if
 * there may be others, which must not wait for a long queue, half of what is
 * asked for.
 */
static void
es_fetch_parked(EsFetch *fetch, Relation event, const EsStore *store, int64 bound)
{
	TimestampTz now = GetCurrentTimestamp();
	EsQueue		queue = {0};
	int		   *order;

	queue.fetch = fetch;
	queue.context = CurrentMemoryContext;
	queue.row_context = AllocSetContextCreate(CurrentMemoryContext, "event_store row",
											  ALLOCSET_DEFAULT_SIZES);
	if (fetch->nparked > 0)
		es_selection_list(&fetch->sub.wanted, store);
	queue.size = (int) Min(fetch->max_count, ES_MAX_QUEUE);
	if (fetch->start < bound && queue.size > 1)
		queue.size /= 2;
	queue.tuples = palloc(queue.size * sizeof(HeapTuple));
	queue.positions = palloc(queue.size * sizeof(int64));
	for (int i = 0; i < fetch->nparked && queue.n < queue.size; i++)
	{
		EsParked   *parked = &fetch->parked[i];

		queue.due = !parked->is_parked && parked->next_attempt_at <= now;
		if (!queue.due && !parked->is_parked)
			fetch->look_again = Min(fetch->look_again, parked->next_attempt_at);
		if (!queue.due && parked->failed_version <= parked->next_version)
			continue;
		/* the walk leaves out what a slot has passed that others have not */
		queue.upto = fetch->slots != NULL ? fetch->slots[parked->slot] : fetch->start;
		es_fetch_queue(fetch, event, store, parked, &queue);
		fetch->must_write |= parked->finished;
	}

	order = palloc(Max(queue.n, 1) * sizeof(int));
	for (int i = 0; i < queue.n; i++)
		order[i] = i;
	qsort_arg(order, queue.n, sizeof(int), es_queue_compare, queue.positions);
	for (int i = 0; i < queue.n; i++)
		tuplestore_puttuple(fetch->rows, queue.tuples[order[i]]);
	fetch->count = queue.n;
	if (queue.n > 0)
		fetch->last = queue.positions[order[queue.n - 1]];
}

/*
 * Walk the global order.
 */
static void
es_fetch_walk(EsFetch *fetch, Relation event, const EsStore *store, int64 bound)
{
	EsSubscription *sub = &fetch->sub;
	TimestampTz now = GetCurrentTimestamp();
	MemoryContext row_context;
	EsRowFilter *filter;
	EsScan	   *scan;
	EsBlocked	blocked;
	int64		after = fetch->start;

	/* what was walked over before, unless anything has changed since */
	if (!fetch->wrote && fetch->walked_from == fetch->start &&
		fetch->walked_xmin == fetch->cursor.xmin &&
		fetch->walked_upcasters == fetch->upcasters)
		after = Max(after, fetch->walked_to);
	fetch->walked_upcasters = fetch->upcasters;

	row_context = AllocSetContextCreate(CurrentMemoryContext, "event_store row",
										ALLOCSET_DEFAULT_SIZES);
	filter = es_row_filter_begin(event);
	scan = es_selection_scan(&sub->wanted, event, store, GetActiveSnapshot(), after, bound,
							 fetch->max_count);
	while (fetch->count < fetch->max_count && es_scan_next(scan))
	{
		int64		position = es_scan_position(scan);
		bool		isnull[Natts_es_out];
		Datum		values[Natts_es_out];
		MemoryContext old_context;

		if (fetch->slots != NULL || fetch->nparked > 0)
		{
			int64		order = es_event_order_number(store, es_scan_slot(scan));
			EsParked   *parked;

			if (fetch->slots != NULL)
			{
				int64		done = fetch->slots[es_event_slot(store, es_scan_slot(scan),
															  sub->slots, sub->cardinal_ids)];

				if (done < 0 || position <= done)
					continue;
			}
			parked = es_parked_find(fetch->parked, fetch->nparked,
									order > 0 ? order : -position);
			if (parked != NULL && !parked->finished)
			{
				fetch->skipped = true;
				if (parked->failed_version > parked->next_version ||
					(!parked->is_parked && parked->next_attempt_at <= now))
					fetch->must_move = true;
				continue;
			}
		}
		if (!es_row_filter_passes(filter, position) ||
			!es_selection_wants(&sub->wanted, store, es_scan_slot(scan)))
			continue;

		old_context = MemoryContextSwitchTo(row_context);
		es_event_values(store, es_scan_slot(scan), values);
		es_event_nulls(values, isnull);
		tuplestore_putvalues(fetch->rows, fetch->desc, values, isnull);
		MemoryContextSwitchTo(old_context);
		MemoryContextReset(row_context);
		fetch->count++;
		fetch->last = position;
	}
	blocked = es_scan_blocked(scan);
	if (fetch->count >= fetch->max_count)
		fetch->scanned = es_scan_position(scan);
	else
		fetch->scanned = blocked.position != 0 ? blocked.position - 1 : bound;
	fetch->scanned = Max(fetch->scanned, after);
	es_scan_end(scan);
	es_row_filter_end(filter);
	MemoryContextDelete(row_context);
}

/*
 * Find out what to hand out.
 *
 * Errors: VE004 if the checkpoint is ahead of the head.
 */
static void
es_fetch_read(EsFetch *fetch)
{
	const EsStore *store;
	Relation	event = es_store_open_event(&store, AccessShareLock);
	int64		checkpoint = fetch->cursor.position;
	int64		bound;

	fetch->count = 0;
	fetch->last = 0;
	fetch->skipped = fetch->must_move = fetch->must_write = false;
	fetch->look_again = DT_NOEND;

	PushActiveSnapshot(GetTransactionSnapshot());
	bound = es_head_bound(event, store, GetActiveSnapshot());

	/* after the snapshot: what it shows is not to be passed over in an old shape */
	fetch->upcasters = es_upcast_generation();
	for (int i = 0; fetch->slots != NULL && i < fetch->sub.slots; i++)
		checkpoint = Max(checkpoint, fetch->slots[i]);
	if (checkpoint > bound)
		ereport(ERROR,
				errcode(ERRCODE_ES_AHEAD_OF_HEAD),
				errmsg("the checkpoint of subscription \"%s\" is ahead of the head",
					   TextDatumGetCString(fetch->name)),
				errdetail("The checkpoint is at position " INT64_FORMAT ", the last event at " INT64_FORMAT ": the store was restored from a backup or lost events in a failover.",
						  checkpoint, bound),
				errhint("Set a new checkpoint with es_reset_subscription(name, position), es_head() for \"from now on\"."));

	fetch->scanned = bound;
	if (fetch->nparked > 0)
		es_fetch_parked(fetch, event, store, bound);

	/* the walk would begin before the end of the queue: next time */
	if (fetch->count >= fetch->max_count || fetch->last > fetch->start)
		fetch->scanned = Min(fetch->start, bound);
	else if (fetch->start < bound)
		es_fetch_walk(fetch, event, store, bound);
	PopActiveSnapshot();
	table_close(event, NoLock);
}

/*
 * Claim the cursor and write down what is handed out, or that the cursor has
 * moved over what nobody wants.
 */
static bool
es_fetch_write(EsFetch *fetch)
{
	EsOwnerScope scope;
	EsCursor	cursor = fetch->cursor;
	bool		claimed;

	es_owner_begin(&scope);
	es_lease_write_begin();
	claimed = es_cursor_claim(&fetch->sub, fetch->member, &fetch->cursor);
	if (claimed)
	{
		cursor.scanned = Max(cursor.position, fetch->scanned);
		cursor.delivered = fetch->last;
		if (fetch->count > 0)
		{
			if (fetch->sub.slots == 0 &&
				(es_lease_is_foreign(&cursor, fetch->member) ||
				 (cursor.member == (Datum) 0 && cursor.session == 0)))
				es_cursor_take(&fetch->sub, &cursor);
			cursor.member = fetch->member;
			cursor.session = fetch->member_given ? 0 : es_lease_session();
			cursor.lease_until = GetCurrentTimestamp() + fetch->sub.lease;
		}
		else
		{
			cursor.position = cursor.scanned;
			cursor.lease_until = DT_NOBEGIN;
		}
		fetch->since = cursor.since;
		ES_FAULT_POINT("fetch_claimed");
		es_cursor_store(&fetch->sub, fetch->member, &cursor);
		if (fetch->nparked > 0)
			es_parked_handed_out(&fetch->sub, fetch->parked, fetch->nparked);
		fetch->wrote = true;
	}
	es_lease_write_end();
	es_owner_end(&scope);
	return claimed;
}

/*
 * Tell who waits for another consumer's events why there are none, at once and
 * once: not again before this session has had events itself, so that neither a
 * poller nor a consumer that stands by fills a log.  In a group everybody has
 * streams of his own.
 *
 * round		why there was nothing
 */
static void
es_fetch_tell_busy(EsFetch *fetch, EsRound round)
{
	const EsCursor *cursor = &fetch->cursor;
	bool		leased = es_lease_is_busy(cursor, fetch->member);

	if (fetch->sub.slots > 0 || fetch->told || round == ES_ROUND_NOTHING)
		return;
	fetch->told = true;
	if (!es_lease_first_told(fetch->name))
		return;
	ereport(NOTICE,
			errmsg("the events of subscription \"%s\" are with another consumer",
				   TextDatumGetCString(fetch->name)),
			!leased ? errdetail("It is at work in an open transaction.") :
			cursor->member != (Datum) 0 ?
			errdetail("Consumer \"%s\" has them in hand until %s, or until it has acknowledged them.",
					  TextDatumGetCString(cursor->member),
					  timestamptz_to_str(cursor->lease_until)) :
			errdetail("The session of process %d has them in hand until %s, or until it has acknowledged them or is gone.",
					  cursor->pid, timestamptz_to_str(cursor->lease_until)),
			errhint("Others wait for their turn; to share the work use a consumer group (es_create_subscription with \"slots\"). See event_store.subscriptions."));
}

/*
 * One attempt.
 *
 * last			no other follows if it finds nothing; nor does one if it writes
 */
static EsRound
es_fetch_round(EsFetch *fetch, bool last)
{
	MemoryContext old_context;
	EsRound		result = ES_ROUND_NOTHING;

	MemoryContextReset(fetch->context);
	old_context = MemoryContextSwitchTo(fetch->context);
	tuplestore_clear(fetch->rows);
	fetch->look_again = DT_NOEND;

	if (!es_fetch_begin(fetch))
		result = ES_ROUND_BUSY;
	else if (fetch->start == PG_INT64_MAX)
		fetch->scanned = PG_INT64_MAX;	/* a member without slots */
	else
	{
		bool		lazy;

		es_fetch_read(fetch);
		lazy = fetch->skipped || fetch->scanned - fetch->start >= ES_LAZY_POSITIONS;
		if (fetch->count > 0)
		{
			if (es_fetch_write(fetch))
			{
				result = ES_ROUND_DONE;
				es_lease_forget_told(fetch->name);
				es_lease_remember(fetch->name, fetch->member,
								  Max(fetch->last, fetch->scanned), fetch->since);
			}
			else
			{
				tuplestore_clear(fetch->rows);
				result = ES_ROUND_AGAIN;
			}
		}
		else if (fetch->must_write || (fetch->must_move && fetch->scanned > fetch->start))
			result = es_fetch_write(fetch) ? ES_ROUND_AGAIN : ES_ROUND_BUSY;
		else if (lazy && (last || fetch->wrote))
			(void) es_fetch_write(fetch);

		/* a void round's events are still to be handed out */
		fetch->walked_from = fetch->start;
		fetch->walked_xmin = fetch->cursor.xmin;
		fetch->walked_to = fetch->count == 0 && fetch->nparked == 0 && !fetch->wrote ?
			fetch->scanned : 0;
	}
	MemoryContextSwitchTo(old_context);
	return result;
}

/*
 * es_fetch(name text, max_count int, wait interval, member text)
 *		RETURNS SETOF es_event
 *
 * Nothing while another consumer has events in hand; nothing before "wait" is
 * over if this call had to write (a member joined, slots moved), so that
 * others get to see it.  A transaction with a snapshot of its own does not
 * wait: it would not see what it waits for.
 * Errors: 42704; 22004 without a member's name in a group; VE004; VE005.
 */
Datum
es_fetch(PG_FUNCTION_ARGS)
{
	EsFetch		fetch = {0};
	TimestampTz deadline;
	int			immediate = 0;
	int			fruitless = 0;

	fetch.name = es_arg_name_datum(fcinfo, 0, "name");
	fetch.max_count = es_arg_int32(fcinfo, 1, "max_count", 1, PG_INT32_MAX);
	deadline = es_arg_deadline(fcinfo, 2, "wait");
	fetch.member_given = !PG_ARGISNULL(3);
	if (fetch.member_given)
		fetch.member = es_arg_name_datum(fcinfo, 3, "member");
	PreventCommandIfReadOnly("es_fetch()");

	es_count(ES_COUNT_READS, 1);
	fetch.rows = es_result_set(fcinfo, es_out_attributes, Natts_es_out, &fetch.desc);
	fetch.context = AllocSetContextCreate(CurrentMemoryContext, "event_store fetch",
										  ALLOCSET_DEFAULT_SIZES);
	fetch.walked_from = -1;

	for (;;)
	{
		TimestampTz now = GetCurrentTimestamp();
		TimestampTz until = deadline;
		bool		last = now >= deadline || IsolationUsesXactSnapshot();
		EsRound		round;

		CHECK_FOR_INTERRUPTS();
		round = es_fetch_round(&fetch, last);
		if (round == ES_ROUND_DONE)
			break;

		/* somebody was quicker, or a stream has been set free: look at once */
		if (round == ES_ROUND_AGAIN && immediate++ < 3)
			continue;
		if (!fetch.wrote)
			es_fetch_tell_busy(&fetch, round);
		if (last || (fetch.wrote && round != ES_ROUND_BUSY))
			break;
		immediate = 0;
		if (round == ES_ROUND_NOTHING)
		{
			until = Min(until, fetch.look_again);
			until = Min(until, now + ES_LOOK_MS * INT64CONST(1000));
			if (fetch.sub.slots > 0)
				until = Min(until, Max(fetch.cursor.renew_at,
									   now + ES_BUSY_MS * INT64CONST(1000)));

			/* others' events only: let some more come together */
			if (es_wakeup_await(fetch.scanned, until) <= fetch.scanned)
				fruitless = 0;
			else if (++fruitless > 2)
				es_wakeup_await(PG_INT64_MAX,
								Min(until, GetCurrentTimestamp() +
									Min(fruitless, ES_GATHER_MAX) * ES_GATHER_US));
		}
		else
			es_wakeup_await(PG_INT64_MAX,
							Min(until, now + ES_BUSY_MS * INT64CONST(1000)));
	}
	MemoryContextDelete(fetch.context);
	return (Datum) 0;
}
