/*-------------------------------------------------------------------------
 * subscription/subscription.c
 *	  Make, drop and reset durable subscriptions; what their code has in common.
 *
 * The functions work on the tables with the rights of the extension's owner
 * (log/sql.c).  Events are read as the caller, so row-level security holds.
 *
 * Locks are taken in this order: the subscription, its members, their slots,
 * streams that are held up.  Only those who join (share), reset or drop lock
 * the subscription: nobody becomes a member that the latter two do not see.
 *
 * See subscription/fetch.c (deliver), subscription/ack.c (acknowledge),
 * subscription/cursor.c and subscription/lease.c (how far, and who),
 * subscription/group.c (many consumers), subscription/parked.c (events that
 * could not be handled), subscription/lag.c (how far behind).
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "access/table.h"
#include "catalog/namespace.h"
#include "catalog/pg_class.h"
#include "catalog/pg_type.h"
#include "miscadmin.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/datum.h"
#include "utils/lsyscache.h"
#include "utils/syscache.h"

#include "base/args.h"
#include "base/compat.h"
#include "log/event.h"
#include "log/head.h"
#include "log/replicated.h"
#include "log/stream.h"
#include "log/tags.h"
#include "subscription/subscription.h"

PG_FUNCTION_INFO_V1(es_create_subscription);
PG_FUNCTION_INFO_V1(es_drop_subscription);
PG_FUNCTION_INFO_V1(es_reset_subscription);

/* d: tables older than this library, not brought up yet, lack these columns */
static EsSql es_sql_load =
ES_SQL("SELECT categories, event_types, slots, lease, max_retries, retry_delay, s.xmin,"
	" (SELECT replicated FROM (SELECT (s).*) r), (SELECT query FROM (SELECT (s).*) r),"
	" (SELECT cardinal_ids FROM (SELECT (s).*) r)"
	" FROM event_store.subscription s, (SELECT false AS replicated, NULL::pg_catalog.jsonb AS query,"
	" false AS cardinal_ids) d"
	" WHERE name OPERATOR(pg_catalog.=) $1",
1, TEXTOID);
static EsSql es_sql_lock =
ES_SQL("SELECT 1 FROM event_store.subscription WHERE name OPERATOR(pg_catalog.=) $1"
	" FOR NO KEY UPDATE",
1, TEXTOID);
static EsSql es_sql_create =
ES_SQL("INSERT INTO event_store.subscription"
	" (name, categories, event_types, slots, lease, max_retries, retry_delay,"
	" created_by, created_at)"
	" VALUES ($1, $2, $3, $4, $5, $6, $7, $8, pg_catalog.clock_timestamp())"
	" ON CONFLICT (name) DO NOTHING",
	8, TEXTOID, TEXTARRAYOID, TEXTARRAYOID, INT4OID, INTERVALOID, INT4OID, INTERVALOID, TEXTOID);
static EsSql es_sql_create_query =
ES_SQL("UPDATE event_store.subscription SET query = $2 WHERE name OPERATOR(pg_catalog.=) $1",
	2, TEXTOID, JSONBOID);
static EsSql es_sql_create_cardinal =
ES_SQL("UPDATE event_store.subscription SET cardinal_ids = true"
	" WHERE name OPERATOR(pg_catalog.=) $1",
	1, TEXTOID);
static EsSql es_sql_create_slots =
ES_SQL("INSERT INTO event_store.subscription_checkpoint"
	" (subscription, slot, position, scanned, delivered, updated_at)"
	" SELECT $1, g, $3, $3, 0, pg_catalog.clock_timestamp()"
	" FROM pg_catalog.generate_series(0, $2) g",
3, TEXTOID, INT4OID, INT8OID);
static EsSql es_sql_drop =
ES_SQL("DELETE FROM event_store.subscription WHERE name OPERATOR(pg_catalog.=) $1",
1, TEXTOID);
static EsSql es_sql_drop_checkpoint =
ES_SQL("DELETE FROM event_store.subscription_checkpoint"
	" WHERE subscription OPERATOR(pg_catalog.=) $1",
1, TEXTOID);
static EsSql es_sql_drop_member =
ES_SQL("DELETE FROM event_store.subscription_member"
	" WHERE subscription OPERATOR(pg_catalog.=) $1",
1, TEXTOID);
static EsSql es_sql_drop_parked =
ES_SQL("DELETE FROM event_store.parked_stream WHERE subscription OPERATOR(pg_catalog.=) $1",
1, TEXTOID);

/* ----------
 * What the functions of subscriptions have in common
 * ----------
 */

/*
 * The argument "member": 0 = the session.  A group needs a name.
 */
Datum
es_arg_member(FunctionCallInfo fcinfo, int n, const EsSubscription *sub)
{
	if (!PG_ARGISNULL(n))
		return es_arg_name_datum(fcinfo, n, "member");
	if (sub->slots > 0)
		ereport(ERROR,
				errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
				errmsg("\"member\" must not be null for a consumer group"),
				errhint("Give each consumer of the group a name of its own."));
	return (Datum) 0;
}

void
es_subscription_unknown(Datum name)
{
	ereport(ERROR,
			errcode(ERRCODE_UNDEFINED_OBJECT),
			errmsg("subscription \"%s\" does not exist", TextDatumGetCString(name)));
}

/*
 * Look up a subscription that is to be used or changed here.
 *
 * Errors: 42704 if there is none of that name, 55000 if it came by replication.
 */
void
es_subscription_load(Datum name, EsSubscription *sub)
{
	Datum		query;
	bool		isnull;

	if (es_sql_run(&es_sql_load, &name, NULL) == 0)
		es_subscription_unknown(name);
	if (DatumGetBool(es_sql_datum(0, 8, &isnull)))
		es_replicated_refuse("subscription", TextDatumGetCString(name));
	sub->name = name;
	memset(&sub->wanted, 0, sizeof(sub->wanted));
	sub->wanted.ncategories = es_sql_names(0, 1, &sub->wanted.categories);
	sub->wanted.nevent_types = es_sql_names(0, 2, &sub->wanted.event_types);
	query = es_sql_datum(0, 9, &isnull);
	if (!isnull)
		sub->wanted.query = es_query_parse("query", DatumGetJsonbPCopy(query));
	sub->slots = DatumGetInt32(es_sql_datum(0, 3, &isnull));
	sub->lease = es_interval_us(DatumGetIntervalP(es_sql_datum(0, 4, &isnull)));
	sub->max_retries = DatumGetInt32(es_sql_datum(0, 5, &isnull));
	sub->retry_delay = es_interval_us(DatumGetIntervalP(es_sql_datum(0, 6, &isnull)));
	sub->cardinal_ids = DatumGetBool(es_sql_datum(0, 10, &isnull));
	sub->xmin = DatumGetTransactionId(es_sql_datum(0, 7, &isnull));
}

/*
 * The virtual slot of a stream: the same for ever, on every machine.
 *
 * order		from es_event_order_number, or from es_cardinal_order
 */
int
es_order_slot(int64 order, int slots)
{
	uint64		h = (uint64) order;

	if (slots <= 1)
		return 0;
	/* finish of MurmurHash3 */
	h ^= h >> 33;
	h *= UINT64CONST(0xff51afd7ed558ccd);
	h ^= h >> 33;
	h *= UINT64CONST(0xc4ceb9fe1a85ec53);
	h ^= h >> 33;
	return (int) (h % (uint64) slots);
}

/*
 * A number that streams share whose names are the same up to the first '+' of
 * the id, which is what comes after the category.
 */
int64
es_cardinal_order(const char *name, int len)
{
	int			category_len = es_category_length(name, len);
	const char *plus = memchr(name + category_len, '+', len - category_len);

	return (int64) es_tag_hash(name, plus == NULL ? len : (int) (plus - name));
}

/*
 * The virtual slot of an event's stream.
 *
 * row			a visible event
 */
int
es_event_slot(const EsStore *store, TupleTableSlot *row, int slots, bool cardinal_ids)
{
	int64		order = es_event_order_number(store, row);

	if (cardinal_ids && order > 0)
	{
		int			len;
		const char *name = es_stream_name(store, order, &len);

		order = es_cardinal_order(name, len);
	}
	return es_order_slot(order, slots);
}

/*
 * The argument "after_position".
 *
 * Errors: VE004 if it is ahead of the store.
 */
static int64
es_arg_after_position(FunctionCallInfo fcinfo, int n)
{
	int64		after = es_arg_int64(fcinfo, n, "after_position", 0, PG_INT64_MAX);
	const EsStore *store;
	Relation	event = es_store_open_event(&store, AccessShareLock);

	es_head_check_start(event, store, after);
	table_close(event, NoLock);
	return after;
}

/* ----------
 * SQL functions
 * ----------
 */

/*
 * es_create_subscription(name text, categories text[], event_types text[],
 *		after_position bigint, slots int, lease interval, max_retries int,
 *		retry_delay interval, query jsonb, if_not_exists boolean,
 *		cardinal_ids boolean) RETURNS void
 *
 * slots NULL = no group.  All filters must hold.
 * Errors: 42710 if there is one of that name, VE004.
 */
Datum
es_create_subscription(PG_FUNCTION_ARGS)
{
	Datum		name = es_arg_name_datum(fcinfo, 0, "name");
	Datum	   *names;
	int64		after;
	int32		slots = 0;
	bool		has_query;
	bool		if_not_exists;
	bool		cardinal_ids;
	Datum		args[8];
	char		nulls[] = "        ";
	EsOwnerScope scope;

	(void) es_arg_categories(fcinfo, 1, "categories", &names);
	(void) es_arg_names(fcinfo, 2, "event_types", &names);
	after = es_arg_after_position(fcinfo, 3);
	if (!PG_ARGISNULL(4))
		slots = es_arg_int32(fcinfo, 4, "slots", 1, ES_MAX_SLOTS);
	(void) es_arg_interval(fcinfo, 5, "lease", 1);
	args[5] = Int32GetDatum(es_arg_int32(fcinfo, 6, "max_retries", 0, PG_INT32_MAX));
	(void) es_arg_interval(fcinfo, 7, "retry_delay", 0);
	/* three arguments less in a database whose script is still that of 0.1 */
	if_not_exists = PG_NARGS() > 9 && es_arg_bool(fcinfo, 9, "if_not_exists");
	cardinal_ids = PG_NARGS() > 10 && es_arg_bool(fcinfo, 10, "cardinal_ids");
	if (cardinal_ids && slots == 0)
		es_arg_error(ERRCODE_INVALID_PARAMETER_VALUE, "cardinal_ids", 0,
					 "Only a consumer group, with \"slots\", has members to choose from.");
	has_query = PG_NARGS() > 8 && !PG_ARGISNULL(8);
	if (has_query)
		(void) es_query_parse("query", PG_GETARG_JSONB_P(8));
	PreventCommandIfReadOnly("es_create_subscription()");

	args[0] = name;
	for (int i = 1; i <= 2; i++)
	{
		args[i] = PG_ARGISNULL(i) ? (Datum) 0 : PG_GETARG_DATUM(i);
		nulls[i] = PG_ARGISNULL(i) ? 'n' : ' ';
	}
	args[3] = Int32GetDatum(slots);
	args[4] = PG_GETARG_DATUM(5);
	args[6] = PG_GETARG_DATUM(7);
	args[7] = PointerGetDatum(cstring_to_text(GetUserNameFromId(GetUserId(), false)));

	es_owner_begin(&scope);
	if (es_sql_run(&es_sql_create, args, nulls) == 0)
	{
		ereport(if_not_exists ? NOTICE : ERROR,
				errcode(ERRCODE_DUPLICATE_OBJECT),
				errmsg("subscription \"%s\" already exists%s", TextDatumGetCString(name),
					   if_not_exists ? ", skipping" : ""));
		es_owner_end(&scope);
		PG_RETURN_VOID();
	}
	if (has_query)
	{
		args[1] = PG_GETARG_DATUM(8);
		es_sql_run(&es_sql_create_query, args, NULL);
	}
	if (cardinal_ids)
		es_sql_run(&es_sql_create_cardinal, args, NULL);
	args[1] = Int32GetDatum(Max(slots, 1) - 1);
	args[2] = Int64GetDatum(after);
	es_sql_run(&es_sql_create_slots, args, NULL);

	/* a drop with an old snapshot did not see who joined last */
	es_sql_run(&es_sql_drop_member, args, NULL);
	es_owner_end(&scope);
	PG_RETURN_VOID();
}

/*
 * es_drop_subscription(name text) RETURNS void
 *
 * Waits for transactions that have joined, fetched or acknowledged.
 * Errors: 42704.
 */
Datum
es_drop_subscription(PG_FUNCTION_ARGS)
{
	Datum		name = es_arg_name_datum(fcinfo, 0, "name");
	EsOwnerScope scope;

	PreventCommandIfReadOnly("es_drop_subscription()");
	es_owner_begin(&scope);
	if (es_sql_run(&es_sql_drop, &name, NULL) == 0)
		es_subscription_unknown(name);
	es_sql_run(&es_sql_drop_member, &name, NULL);
	es_sql_run(&es_sql_drop_checkpoint, &name, NULL);
	es_sql_run(&es_sql_drop_parked, &name, NULL);
	es_owner_end(&scope);
	PG_RETURN_VOID();
}

/*
 * es_reset_subscription(name text, after_position bigint) RETURNS void
 *
 * Starts again after a position, backward or forward: leases end, members
 * leave (the next fetch joins again), nothing stays parked.
 * Errors: 42704, VE004.
 */
Datum
es_reset_subscription(PG_FUNCTION_ARGS)
{
	Datum		name = es_arg_name_datum(fcinfo, 0, "name");
	int64		after = es_arg_after_position(fcinfo, 1);
	EsSubscription sub;
	EsOwnerScope scope;
	Datum		args[3];

	PreventCommandIfReadOnly("es_reset_subscription()");
	es_owner_begin(&scope);
	es_sql_run(&es_sql_lock, &name, NULL);	/* one at a time, and no drop */
	es_subscription_load(name, &sub);
	args[0] = name;
	args[1] = Int32GetDatum(Max(sub.slots, 1) - 1);
	args[2] = Int64GetDatum(after);
	es_sql_run(&es_sql_drop_member, args, NULL);
	es_sql_run(&es_sql_drop_checkpoint, args, NULL);
	es_sql_run(&es_sql_drop_parked, args, NULL);
	es_sql_run(&es_sql_create_slots, args, NULL);
	es_owner_end(&scope);
	PG_RETURN_VOID();
}
