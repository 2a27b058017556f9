/*-------------------------------------------------------------------------
 * subscription/group.c
 *	  Consumer groups: members share the virtual slots of a subscription.
 *
 * A stream belongs to a slot for ever, a slot to one member at a time, so a
 * stream's events are never with two members.  Nobody coordinates: whenever
 * a member fetches, it throws out members whose lease has ended, gives up
 * what it owns beyond its fair share, or takes free slots up to it.  It does
 * so only while it has no event in hand.
 *
 * A member's cursor stands for all its slots (subscription/cursor.c).  Before a
 * slot changes hands its checkpoint is brought up to the cursor, by whoever
 * takes it away; that one holds the lock of the member's row.  A member that is at
 * work in an open transaction holds that lock too and is left alone until
 * the transaction ends, whatever its lease says; a member that was thrown
 * out finds no row and cannot acknowledge.
 *
 * Whoever joins locks the subscription against a reset and a drop, which
 * would not see the new member (subscription/subscription.c).  A fetch does not
 * wait for that lock: its transaction may hold what those two wait for.
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/xact.h"
#include "catalog/pg_type.h"
#include "common/hashfn.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/datum.h"

#include "base/args.h"
#include "base/compat.h"
#include "base/lock.h"
#include "base/subxact.h"
#include "subscription/subscription.h"

PG_FUNCTION_INFO_V1(es_join);
PG_FUNCTION_INFO_V1(es_leave);

/* fourth field of the advisory lock tag that whoever joins holds: subscription, member */
#define ES_LOCK_CLASS_JOIN	8

static EsSql es_sql_join =
ES_SQL("INSERT INTO event_store.subscription_member AS m"
	" (subscription, member, position, scanned, delivered, pid, lease, lease_until,"
	" joined_at, updated_at)"
	" VALUES ($1, $2, 0, 0, 0, $4, $3,"
	" pg_catalog.clock_timestamp() OPERATOR(pg_catalog.+) $3,"
	" pg_catalog.clock_timestamp(), pg_catalog.clock_timestamp())"
	" ON CONFLICT (subscription, member) DO UPDATE"
	" SET lease = EXCLUDED.lease, lease_until = EXCLUDED.lease_until, pid = EXCLUDED.pid,"
	" updated_at = EXCLUDED.updated_at",
4, TEXTOID, TEXTOID, INTERVALOID, INT4OID);

/* neither a reset nor a drop until the end of the transaction */
#define KEEP \
	"SELECT 1 FROM event_store.subscription WHERE name OPERATOR(pg_catalog.=) $1" \
	" AND xmin OPERATOR(pg_catalog.=) $2 FOR SHARE"
static EsSql es_sql_keep = ES_SQL(KEEP, 2, TEXTOID, XIDOID);
static EsSql es_sql_keep_now = ES_SQL(KEEP " SKIP LOCKED", 2, TEXTOID, XIDOID);

/* members, this one's place among them, and how many others are overdue */
static EsSql es_sql_census =
ES_SQL("SELECT pg_catalog.count(*),"
	" pg_catalog.count(*) FILTER (WHERE member OPERATOR(pg_catalog.<) $2),"
	" pg_catalog.count(*) FILTER (WHERE member OPERATOR(pg_catalog.<>) $2"
	" AND lease_until OPERATOR(pg_catalog.<) pg_catalog.clock_timestamp())"
	" FROM event_store.subscription_member WHERE subscription OPERATOR(pg_catalog.=) $1",
2, TEXTOID, TEXTOID);
static EsSql es_sql_slot_census =
ES_SQL("SELECT pg_catalog.count(*) FILTER (WHERE member OPERATOR(pg_catalog.=) $2),"
	" pg_catalog.count(*) FILTER (WHERE member IS NULL)"
	" FROM event_store.subscription_checkpoint"
	" WHERE subscription OPERATOR(pg_catalog.=) $1",
2, TEXTOID, TEXTOID);

static EsSql es_sql_overdue =
ES_SQL("SELECT member, position FROM event_store.subscription_member"
	" WHERE subscription OPERATOR(pg_catalog.=) $1 AND member OPERATOR(pg_catalog.<>) $2"
	" AND lease_until OPERATOR(pg_catalog.<) pg_catalog.clock_timestamp()"
	" FOR UPDATE SKIP LOCKED",
2, TEXTOID, TEXTOID);

static EsSql es_sql_release =
ES_SQL("UPDATE event_store.subscription_checkpoint c"
	" SET position = GREATEST(position, $3), member = NULL,"
	" updated_at = pg_catalog.clock_timestamp()"
	" WHERE subscription OPERATOR(pg_catalog.=) $1 AND slot OPERATOR(pg_catalog.=) ANY"
	" (SELECT slot FROM event_store.subscription_checkpoint"
	" WHERE subscription OPERATOR(pg_catalog.=) $1"
	" AND member OPERATOR(pg_catalog.=) $2 ORDER BY slot DESC LIMIT $4)",
4, TEXTOID, TEXTOID, INT8OID, INT8OID);
static EsSql es_sql_bring_up =
ES_SQL("UPDATE event_store.subscription_checkpoint"
	" SET position = $3, updated_at = pg_catalog.clock_timestamp()"
	" WHERE subscription OPERATOR(pg_catalog.=) $1"
	" AND member OPERATOR(pg_catalog.=) $2 AND position OPERATOR(pg_catalog.<) $3",
3, TEXTOID, TEXTOID, INT8OID);

/* a subquery as the inner side of a join would be run again and take more */
static EsSql es_sql_take =
ES_SQL("WITH free AS MATERIALIZED (SELECT slot FROM event_store.subscription_checkpoint"
	" WHERE subscription OPERATOR(pg_catalog.=) $1 AND member IS NULL"
	" ORDER BY slot LIMIT $3 FOR UPDATE SKIP LOCKED)"
	" UPDATE event_store.subscription_checkpoint c"
	" SET member = $2, updated_at = pg_catalog.clock_timestamp() FROM free"
	" WHERE c.subscription OPERATOR(pg_catalog.=) $1"
	" AND c.slot OPERATOR(pg_catalog.=) free.slot",
3, TEXTOID, TEXTOID, INT8OID);
static EsSql es_sql_slots =
ES_SQL("SELECT slot, GREATEST(position, $3) FROM event_store.subscription_checkpoint"
	" WHERE subscription OPERATOR(pg_catalog.=) $1 AND member OPERATOR(pg_catalog.=) $2",
3, TEXTOID, TEXTOID, INT8OID);
static EsSql es_sql_leave =
ES_SQL("DELETE FROM event_store.subscription_member"
	" WHERE subscription OPERATOR(pg_catalog.=) $1 AND member OPERATOR(pg_catalog.=) $2",
2, TEXTOID, TEXTOID);

static uint32
es_group_hash(Datum name)
{
	text	   *value = DatumGetTextPP(name);

	return hash_bytes((unsigned char *) VARDATA_ANY(value), VARSIZE_ANY_EXHDR(value));
}

/*
 * Become a member, or renew the membership.
 *
 * lease		microseconds
 * wait			for a reset or drop that is going on, or for another session that
 *				is about to join under the same name
 *
 * Result: false, and not joined, if there is one and "wait" is false, or if
 * the subscription is not the one that was read any more.
 */
bool
es_group_join(const EsSubscription *sub, Datum member, int64 lease, bool wait)
{
	Interval	interval = {0};
	LOCKTAG		tag;
	Datum		args[4];

	interval.time = lease;

	/* the unique index knows no NOWAIT */
	SET_LOCKTAG_ADVISORY(tag, MyDatabaseId, es_group_hash(sub->name),
						 es_group_hash(member), ES_LOCK_CLASS_JOIN);
	if (es_lock(&tag, ExclusiveLock, !wait) == LOCKACQUIRE_NOT_AVAIL)
		return false;
	args[0] = sub->name;
	args[1] = TransactionIdGetDatum(sub->xmin);
	if (es_sql_run(wait ? &es_sql_keep : &es_sql_keep_now, args, NULL) == 0)
	{
		es_unlock(&tag, ExclusiveLock);
		return false;
	}
	args[1] = member;
	args[2] = IntervalPGetDatum(&interval);
	args[3] = Int32GetDatum(MyProcPid);
	es_sql_run(&es_sql_join, args, NULL);
	return true;
}

typedef struct EsGroupTake
{
	const EsSubscription *sub;
	Datum		member;
	const EsCursor *cursor;
	int64		count;
} EsGroupTake;

static bool
es_group_take_body(void *arg)
{
	EsGroupTake *take = arg;
	EsCursor	taken = *take->cursor;
	Datum		args[3];

	if (!es_cursor_claim(take->sub, take->member, take->cursor))
		return false;
	args[0] = take->sub->name;
	args[1] = take->member;
	args[2] = Int64GetDatum(take->cursor->position);
	es_sql_run(&es_sql_bring_up, args, NULL);
	args[2] = Int64GetDatum(take->count);
	if (es_sql_run(&es_sql_take, args, NULL) == 0)
		return false;
	taken.position = taken.scanned = 0;
	es_cursor_store(take->sub, take->member, &taken);
	return true;
}

/*
 * Take free slots.
 *
 * In a subtransaction: if others are about to take them, or the cursor is not
 * as it was read, then no lock stays, and the caller may wait.
 */
static bool
es_group_take(const EsSubscription *sub, Datum member, const EsCursor *cursor, int64 count)
{
	EsGroupTake take = {sub, member, cursor, count};

	return es_subxact_run(es_group_take_body, &take, NULL);
}

/*
 * A member, whose row is locked, leaves its slots to others.  In statements
 * that begin after that: earlier ones do not see slots that it has just taken.
 */
static void
es_group_remove(const EsSubscription *sub, Datum member, int64 position)
{
	Datum		args[4];

	args[0] = sub->name;
	args[1] = member;
	args[2] = Int64GetDatum(position);
	args[3] = Int64GetDatum(ES_MAX_SLOTS);
	es_sql_run(&es_sql_release, args, NULL);
	es_sql_run(&es_sql_leave, args, NULL);
}

/*
 * Throw out members whose lease has ended.
 */
static bool
es_group_expel(const EsSubscription *sub, Datum member)
{
	Datum		args[2];
	Datum	   *dead;
	int64	   *positions;
	int			n;

	args[0] = sub->name;
	args[1] = member;
	n = (int) es_sql_run(&es_sql_overdue, args, NULL);
	dead = palloc(Max(n, 1) * sizeof(Datum));
	positions = palloc(Max(n, 1) * sizeof(int64));
	for (int i = 0; i < n; i++)
	{
		bool		isnull;

		dead[i] = datumCopy(es_sql_datum(i, 1, &isnull), false, -1);
		positions[i] = es_sql_int64(i, 2, 0);
	}
	for (int i = 0; i < n; i++)
		es_group_remove(sub, dead[i], positions[i]);
	return n > 0;
}

/*
 * Do one's part for a fair distribution of the slots, and renew the lease
 * when a third of it is over.
 *
 * cursor		as read; events in hand keep all slots where they are
 *
 * Result: whether something was written; the cursor is then to be read anew.
 */
bool
es_group_balance(const EsSubscription *sub, Datum member,
				 const EsCursor *cursor)
{
	Datum		args[4];
	int64		members;
	int64		place;
	int64		share;
	int64		own;
	int64		unowned;
	bool		release;
	bool		wrote = false;

	args[0] = sub->name;
	args[1] = member;
	es_sql_run(&es_sql_census, args, NULL);
	if (es_sql_int64(0, 3, 0) > 0)
	{
		wrote = es_group_expel(sub, member);
		es_sql_run(&es_sql_census, args, NULL);
	}
	members = Max(es_sql_int64(0, 1, 0), 1);
	place = es_sql_int64(0, 2, 0);
	share = sub->slots / members + (place < sub->slots % members ? 1 : 0);

	es_sql_run(&es_sql_slot_census, args, NULL);
	own = es_sql_int64(0, 1, 0);
	unowned = es_sql_int64(0, 2, 0);

	if (cursor->delivered == 0 && own < share && unowned > 0 &&
		es_group_take(sub, member, cursor, share - own))
		return true;

	release = cursor->delivered == 0 && own > share;
	if ((release || cursor->renew_at < GetCurrentTimestamp()) &&
		es_cursor_claim(sub, member, cursor))
	{
		if (release)
		{
			args[2] = Int64GetDatum(cursor->position);
			args[3] = Int64GetDatum(own - share);
			es_sql_run(&es_sql_release, args, NULL);
		}
		es_cursor_store(sub, member, cursor);
		wrote = true;
	}
	return wrote;
}

/*
 * The slots of a member.
 *
 * Result: for each slot of the group the position up to which it is done,
 * -1 for those of others.
 */
int64 *
es_group_slots(const EsSubscription *sub, Datum member,
			   const EsCursor *cursor)
{
	int64	   *slots = palloc(sub->slots * sizeof(int64));
	Datum		args[3];
	uint64		n;

	for (int i = 0; i < sub->slots; i++)
		slots[i] = -1;
	args[0] = sub->name;
	args[1] = member;
	args[2] = Int64GetDatum(cursor->position);
	n = es_sql_run(&es_sql_slots, args, NULL);
	for (uint64 i = 0; i < n; i++)
	{
		bool		isnull;
		int			slot = DatumGetInt32(es_sql_datum(i, 1, &isnull));

		if (slot >= 0 && slot < sub->slots)
			slots[slot] = es_sql_int64(i, 2, 0);
	}
	return slots;
}

static void
es_group_check(const EsSubscription *sub)
{
	if (sub->slots == 0)
		ereport(ERROR,
				errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				errmsg("subscription \"%s\" is not a consumer group",
					   TextDatumGetCString(sub->name)),
				errhint("A group is made by es_create_subscription with \"slots\"."));
}

/*
 * es_join(name text, member text, lease interval) RETURNS int
 *
 * lease NULL = that of the subscription.
 * Result: slots that the member owns now; more come with its fetches.
 * Errors: 42704; 55000 if it is not a group.
 */
Datum
es_join(PG_FUNCTION_ARGS)
{
	Datum		name = es_arg_name_datum(fcinfo, 0, "name");
	int64		lease = PG_ARGISNULL(2) ? 0 : es_arg_interval(fcinfo, 2, "lease", 1);
	Datum		member;
	EsSubscription sub;
	EsCursor	cursor;
	EsOwnerScope scope;
	Datum		args[2];
	int32		own;

	PreventCommandIfReadOnly("es_join()");
	es_owner_begin(&scope);
	do
	{
		es_subscription_load(name, &sub);
		es_group_check(&sub);
		member = es_arg_member(fcinfo, 1, &sub);
	} while (!es_group_join(&sub, member, lease > 0 ? lease : sub.lease, true));
	es_cursor_load(&sub, member, true, &cursor);
	es_group_balance(&sub, member, &cursor);
	args[0] = name;
	args[1] = member;
	es_sql_run(&es_sql_slot_census, args, NULL);
	own = (int32) es_sql_int64(0, 1, 0);
	es_owner_end(&scope);
	PG_RETURN_INT32(own);
}

/*
 * es_leave(name text, member text) RETURNS boolean
 *
 * What the member has fetched and not acknowledged goes to the others.
 * Result: whether it was a member.
 * Errors: 42704; 55000 if it is not a group.
 */
Datum
es_leave(PG_FUNCTION_ARGS)
{
	Datum		name = es_arg_name_datum(fcinfo, 0, "name");
	Datum		member;
	EsSubscription sub;
	EsCursor	cursor;
	EsOwnerScope scope;

	PreventCommandIfReadOnly("es_leave()");
	es_owner_begin(&scope);
	es_subscription_load(name, &sub);
	es_group_check(&sub);
	member = es_arg_member(fcinfo, 1, &sub);
	es_cursor_load(&sub, member, true, &cursor);
	if (cursor.exists)
		es_group_remove(&sub, member, cursor.position);
	es_owner_end(&scope);
	PG_RETURN_BOOL(cursor.exists);
}
