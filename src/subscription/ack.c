/*-------------------------------------------------------------------------
 * subscription/ack.c
 *	  Acknowledge events of a subscription.
 *
 * The checkpoint moves in the caller's transaction: a consumer that writes
 * its results to the same database before it commits handles every event
 * exactly once.  For that a consumer which has lost its lease must not get
 * away with an acknowledgement, even if there is nothing left to do: the
 * events went to another one.
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/table.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/snapmgr.h"

#include "base/args.h"
#include "base/compat.h"
#include "base/errors.h"
#include "log/head.h"
#include "subscription/subscription.h"

PG_FUNCTION_INFO_V1(es_ack);

/*
 * Refuse to acknowledge what was not handed out: nothing moves.
 *
 * What a fetch has looked at and left out, up to cursor->scanned, counts as
 * handed out; without one the consumer has nothing to acknowledge.
 * Errors: VE004 ahead of the settled head, 55000 with nothing in hand, 22023.
 */
static void
es_ack_refuse(const EsSubscription *sub, int64 position, const EsCursor *cursor)
{
	const EsStore *store;
	Relation	event = es_store_open_event(&store, AccessShareLock);
	int64		head;

	PushActiveSnapshot(GetTransactionSnapshot());
	head = es_head_settled(event, store, GetActiveSnapshot(), 0, NULL);
	PopActiveSnapshot();
	table_close(event, NoLock);
	if (position > head)
		ereport(ERROR,
				errcode(ERRCODE_ES_AHEAD_OF_HEAD),
				errmsg("position " INT64_FORMAT " is ahead of the head", position),
				errdetail("The settled head is at position " INT64_FORMAT ".", head),
				errhint("Acknowledge only what was fetched."));
	if (cursor->delivered == 0)
		ereport(ERROR,
				errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				errmsg("no events of subscription \"%s\" are in hand",
					   TextDatumGetCString(sub->name)),
				errdetail("The checkpoint is at position " INT64_FORMAT ", and nothing was fetched since.",
						  cursor->position),
				errhint("Acknowledge only what was fetched; es_reset_subscription(name, position) moves a checkpoint by hand."));
	ereport(ERROR,
			errcode(ERRCODE_INVALID_PARAMETER_VALUE),
			errmsg("position " INT64_FORMAT " of subscription \"%s\" was not handed out",
				   position, TextDatumGetCString(sub->name)),
			errdetail("The last event that was handed out is at position " INT64_FORMAT "; es_fetch has looked as far as position " INT64_FORMAT ".",
					  cursor->delivered, Max(cursor->delivered, cursor->scanned)),
			errhint("Acknowledge only what was fetched; es_reset_subscription(name, position) moves a checkpoint by hand."));
}

/*
 * es_ack(name text, global_position bigint, member text) RETURNS void
 *
 * Everything up to the position is done.  Never moves backwards, nor beyond
 * what was handed out.
 * Errors: 42704, 55000, 55006; 22023 if the position was not handed out,
 * VE004 if it is ahead of the head.
 */
Datum
es_ack(PG_FUNCTION_ARGS)
{
	Datum		name = es_arg_name_datum(fcinfo, 0, "name");
	int64		position = es_arg_int64(fcinfo, 1, "global_position", 0, PG_INT64_MAX);
	Datum		member;
	EsSubscription sub;
	EsCursor	cursor;
	EsOwnerScope scope;

	PreventCommandIfReadOnly("es_ack()");
	es_owner_begin(&scope);
	es_subscription_load(name, &sub);
	member = es_arg_member(fcinfo, 2, &sub);
	es_lease_check(&sub, member, position, &cursor);
	es_owner_end(&scope);

	/* what is known of it stands in the row: any session may acknowledge */
	if (position > Max(cursor.position, cursor.delivered > 0 ?
					   Max(cursor.delivered, cursor.scanned) : 0))
		es_ack_refuse(&sub, position, &cursor);

	/* a repetition */
	if (cursor.delivered == 0)
		PG_RETURN_VOID();

	if (position >= cursor.delivered)
	{
		/* only the walk knows how far it is done: a queue's events may lie beyond */
		cursor.position = Max(cursor.position, cursor.scanned);
		cursor.delivered = 0;
		cursor.lease_until = DT_NOBEGIN;
		es_lease_forget(name, member);
	}
	else
	{
		cursor.position = Max(cursor.position, Min(position, cursor.scanned));
		cursor.lease_until = GetCurrentTimestamp() + sub.lease;
	}
	es_owner_begin(&scope);
	es_cursor_store(&sub, member, &cursor);
	es_parked_acknowledge(&sub, member, position);
	es_owner_end(&scope);
	PG_RETURN_VOID();
}
