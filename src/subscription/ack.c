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
 * Lock the cursor of a consumer that reports back.
 *
 * Errors: 55006 if another consumer has events in hand, 55000 if the lease
 * ended and the events went, or may have gone, to another one, or if the
 * subscription was dropped and made again.  A group does
 * not know its members' sessions, so there a member with nothing in hand may
 * repeat only what it has just acknowledged.
 */
void
es_ack_begin(const EsSubscription *sub, Datum member,
			 int64 position, EsCursor *cursor)
{
	bool		foreign;
	bool		own;

	if (!es_cursor_load(sub, member, true, cursor))
		ereport(ERROR,
				errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				errmsg("subscription \"%s\" was dropped and made again",
					   TextDatumGetCString(sub->name)),
				errhint("Roll back, and fetch again."));
	if (sub->slots > 0)
	{
		if (!cursor->exists)
			ereport(ERROR,
					errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
					errmsg("\"%s\" is not a member of subscription \"%s\"",
						   TextDatumGetCString(member), TextDatumGetCString(sub->name)),
					errdetail("It never joined, has left, or its lease ended and its events went to others."),
					errhint("Roll back, and fetch again."));

		/* thrown out, it may have joined again: that does not bring them back */
		if (cursor->delivered == 0 && position > cursor->position)
			ereport(ERROR,
					errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
					errmsg("\"%s\" has no events of subscription \"%s\" in hand",
						   TextDatumGetCString(member), TextDatumGetCString(sub->name)),
					errdetail("They were acknowledged, or its lease ended and they went to others."),
					errhint("Roll back, and fetch again."));
		return;
	}

	if (!cursor->exists)
	{
		EsSubscription now;

		/* maybe just dropped */
		es_subscription_load(sub->name, &now);
		ereport(ERROR,
				errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				errmsg("the lease on subscription \"%s\" has ended",
					   TextDatumGetCString(sub->name)),
				errdetail("The subscription was reset or made again."),
				errhint("Roll back, and fetch again."));
	}

	/*
	 * Without a name, fetching and acknowledging may come from different
	 * sessions of the client's connection pool.  Not so a session that got
	 * the event itself: then it is either still in its hands or lost.
	 */
	foreign = es_lease_is_foreign(cursor, member);
	own = member == (Datum) 0 && es_lease_remembered(sub->name, position);
	if (es_lease_is_busy(cursor, member) &&
		(own || member != (Datum) 0 || cursor->member != (Datum) 0 ||
		 position > cursor->delivered))
		ereport(ERROR,
				errcode(ERRCODE_OBJECT_IN_USE),
				errmsg("the events of subscription \"%s\" are with another consumer",
					   TextDatumGetCString(sub->name)),
				errhint("Roll back, and fetch again."));
	if ((member != (Datum) 0 && (foreign || cursor->member == (Datum) 0)) ||
		(own && (foreign || cursor->delivered == 0)))
		ereport(ERROR,
				errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				errmsg("the lease on subscription \"%s\" has ended",
					   TextDatumGetCString(sub->name)),
				errdetail("The events were handed out to another consumer or acknowledged by one, or the subscription was reset."),
				errhint("Roll back, and fetch again."));
}

/*
 * es_ack(name text, global_position bigint, member text) RETURNS void
 *
 * Everything up to the position is done.  Never moves backwards.
 * Errors: 42704, 55000, 55006; VE004 if the position is ahead of the head.
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
	bool		whole;

	PreventCommandIfReadOnly("es_ack()");
	es_owner_begin(&scope);
	es_subscription_load(name, &sub);
	member = es_arg_member(fcinfo, 2, &sub);
	es_ack_begin(&sub, member, position, &cursor);
	es_owner_end(&scope);

	/* not from a fetch: never beyond what is settled */
	if (position > Max(cursor.position, cursor.delivered))
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
	}

	/*
	 * A member's cursor stands for all its slots, and only a fetch knows how
	 * far it has seen them.
	 */
	whole = cursor.delivered > 0 && position >= cursor.delivered;
	if (cursor.delivered > 0 || (sub.slots == 0 && position > cursor.position))
	{
		if (whole)
		{
			cursor.position = Max(cursor.position, cursor.scanned);
			cursor.delivered = 0;
			cursor.lease_until = DT_NOBEGIN;
			if (member == (Datum) 0)
				es_lease_forget(name);
		}
		else if (cursor.delivered > 0)
			cursor.lease_until = GetCurrentTimestamp() + sub.lease;
		if (!whole || sub.slots == 0)
			cursor.position = Max(cursor.position, cursor.delivered > 0 ?
								  Min(position, cursor.scanned) : position);
		cursor.scanned = Max(cursor.scanned, cursor.position);
		es_owner_begin(&scope);
		es_cursor_store(&sub, member, &cursor);
		es_parked_acknowledge(&sub, member, position);
		es_owner_end(&scope);
	}
	PG_RETURN_VOID();
}
