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
	es_lease_check(&sub, member, position, &cursor);
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
