/*-------------------------------------------------------------------------
 * subscription/lag.c
 *	  How far consumers are behind; for the views.
 *
 * Counted is what a consumer would be given: settled events whose type, in
 * today's shape, its filter wants.  Row-level security is left out of account.
 * A consumer that can be given nothing, because it is ahead of the store or
 * the order is not available, is not shown as one that has done everything:
 * how far it is behind is not known then.
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/table.h"
#include "catalog/pg_type.h"
#include "executor/tuptable.h"
#include "utils/builtins.h"
#include "utils/snapmgr.h"

#include "base/args.h"
#include "base/compat.h"
#include "base/result.h"
#include "evolution/upcast.h"
#include "log/head.h"
#include "log/event.h"
#include "log/scan.h"
#include "log/sql.h"
#include "subscription/subscription.h"

PG_FUNCTION_INFO_V1(es_subscription_lag);
PG_FUNCTION_INFO_V1(es_projection_backlog);

/* what a consumer wants, and what is done of it */
typedef struct EsLag
{
	EsSelection wanted;
	int64		after;			/* all slots have done everything up to here */
	int64		furthest;		/* and one of them up to here */
	const int64 *done;			/* by slot, or NULL */
	int			slots;
	bool		cardinal_ids;
	int64		upto;
	int64		max_count;
} EsLag;

/*
 * Row of the number of events and the time of the oldest one; the number is
 * NULL if it cannot be known.
 */
static Datum
es_lag_count(FunctionCallInfo fcinfo, EsLag *lag)
{
	Snapshot	snapshot = GetActiveSnapshot();
	const EsStore *store;
	Relation	event = es_store_open_event(&store, AccessShareLock);
	int64		bound = 0;
	int64		upto;
	int64		count = 0;
	Datum		values[2] = {0};
	bool		isnull[2] = {false, true};

	if (es_head_is_available(store, snapshot))
		bound = es_head_bound(event, store, snapshot);
	else
		isnull[0] = true;
	if (lag->furthest > bound)
		isnull[0] = true;
	upto = isnull[0] ? 0 : Min(lag->upto, bound);

	if (lag->after < upto)
	{
		EsScan	   *scan = es_selection_scan(&lag->wanted, event, store, snapshot, lag->after,
											 upto, lag->max_count);

		while (count < lag->max_count && es_scan_next(scan))
		{
			TupleTableSlot *slot = es_scan_slot(scan);
			if (lag->done != NULL &&
				es_scan_position(scan) <=
				lag->done[es_event_slot(store, slot, lag->slots, lag->cardinal_ids)])
				continue;
			if (!es_selection_wants(&lag->wanted, store, slot))
				continue;
			if (count++ == 0)
				values[1] = slot_getattr(slot, Anum_es_event_created_at, &isnull[1]);
		}
		es_scan_end(scan);
	}
	table_close(event, NoLock);
	values[0] = Int64GetDatum(count);
	return es_result_row(fcinfo, NULL, 0, values, isnull);
}

/*
 * es_subscription_lag(name text, max_count bigint,
 *		OUT lag_events bigint, OUT oldest timestamptz)
 *
 * Settled events that the subscription wants and that are not done: how
 * many, counting to max_count, and when the first one was appended; NULL if
 * it is ahead of the store or the order is not available.  All as of
 * the snapshot of the query: the view must not fail when one is just dropped.
 * Errors: 42704.
 */
Datum
es_subscription_lag(PG_FUNCTION_ARGS)
{
	static EsSql sql =
	ES_SQL("SELECT s.categories, s.event_types, s.slots, c.slot,"
		" GREATEST(c.position, m.position), (SELECT query FROM (SELECT (s).*) r),"
		" (SELECT cardinal_ids FROM (SELECT (s).*) r)"
		" FROM (SELECT NULL::pg_catalog.jsonb AS query, false AS cardinal_ids) d, event_store.subscription s"
		" LEFT JOIN event_store.subscription_checkpoint c"
		" ON c.subscription OPERATOR(pg_catalog.=) s.name"
		" LEFT JOIN event_store.subscription_member m"
		" ON m.subscription OPERATOR(pg_catalog.=) c.subscription"
		" AND m.member OPERATOR(pg_catalog.=) c.member"
		" WHERE s.name OPERATOR(pg_catalog.=) $1",
	1, TEXTOID);
	Datum		name = es_arg_name_datum(fcinfo, 0, "name");
	EsLag		lag = {.upto = PG_INT64_MAX};
	EsOwnerScope scope;
	Datum		query;
	int64	   *done;
	uint64		n;
	bool		is_null;

	lag.max_count = es_arg_int64(fcinfo, 1, "max_count", 1, PG_INT64_MAX);
	es_owner_begin(&scope);
	n = es_sql_read(&sql, &name, NULL);
	if (n == 0)
		es_subscription_unknown(name);
	lag.wanted.ncategories = es_sql_names(0, 1, &lag.wanted.categories);
	lag.wanted.nevent_types = es_sql_names(0, 2, &lag.wanted.event_types);
	query = es_sql_datum(0, 6, &is_null);
	if (!is_null)
		lag.wanted.query = es_query_parse("query", DatumGetJsonbPCopy(query));
	lag.slots = DatumGetInt32(es_sql_datum(0, 3, &is_null));
	lag.cardinal_ids = DatumGetBool(es_sql_datum(0, 7, &is_null));
	done = palloc0(Max(lag.slots, 1) * sizeof(int64));
	for (uint64 i = 0; i < n; i++)
	{
		int			slot = DatumGetInt32(es_sql_datum(i, 4, &is_null));

		if (!is_null && slot >= 0 && slot < Max(lag.slots, 1))
			done[slot] = es_sql_int64(i, 5, 0);
	}
	es_owner_end(&scope);

	lag.done = done;
	lag.after = PG_INT64_MAX;
	for (int i = 0; i < Max(lag.slots, 1); i++)
	{
		lag.after = Min(lag.after, done[i]);
		lag.furthest = Max(lag.furthest, done[i]);
	}
	PG_RETURN_DATUM(es_lag_count(fcinfo, &lag));
}

/*
 * What a projection of 0.1's script has still to do, whose view passes position
 * and filters by itself.
 */
static Datum
es_projection_backlog_given(FunctionCallInfo fcinfo)
{
	EsLag		lag = {.max_count = PG_INT64_MAX};

	lag.after = es_arg_int64(fcinfo, 0, "after_position", 0, PG_INT64_MAX);
	lag.furthest = lag.after;
	lag.upto = es_arg_int64_default(fcinfo, 1, "upto", 0, PG_INT64_MAX, 0);
	lag.wanted.ncategories = es_arg_names(fcinfo, 2, "categories", &lag.wanted.categories);
	lag.wanted.nevent_types = es_arg_names(fcinfo, 3, "event_types", &lag.wanted.event_types);
	return es_lag_count(fcinfo, &lag);
}

/*
 * es_projection_backlog(name text, is_shadow boolean, to_target boolean,
 *		OUT events bigint, OUT oldest timestamptz)
 *
 * Settled events that the projection wants and has not applied: how many, and
 * when the first one was appended; NULL if it is ahead of the store or the
 * order is not available.  All as of the snapshot of the query.
 *
 * to_target	only those up to where a rebuild has caught up
 *
 * Position and filters are the projection's, never the caller's: what
 * row-level security hides from him is counted, too.
 * Errors: 42704.
 */
Datum
es_projection_backlog(PG_FUNCTION_ARGS)
{
	static EsSql sql =
	ES_SQL("SELECT p.position, CASE WHEN p.is_shadow THEN o.position ELSE p.replay_until END,"
		" p.categories, p.event_types"
		" FROM event_store.projection p"
		" LEFT JOIN event_store.projection o ON p.is_shadow AND NOT o.is_shadow"
		" AND o.name OPERATOR(pg_catalog.=) p.name"
		" WHERE p.name OPERATOR(pg_catalog.=) $1 AND p.is_shadow OPERATOR(pg_catalog.=) $2",
	2, TEXTOID, BOOLOID);
	EsLag		lag = {.max_count = PG_INT64_MAX};
	EsOwnerScope scope;
	Datum		args[2];
	bool		to_target;

	if (PG_NARGS() > 3)
		return es_projection_backlog_given(fcinfo);

	args[0] = es_arg_name_datum(fcinfo, 0, "name");
	args[1] = BoolGetDatum(es_arg_bool(fcinfo, 1, "is_shadow"));
	to_target = es_arg_bool(fcinfo, 2, "to_target");
	es_owner_begin(&scope);
	if (es_sql_read(&sql, args, NULL) == 0)
		ereport(ERROR,
				errcode(ERRCODE_UNDEFINED_OBJECT),
				errmsg("projection \"%s\" does not exist", TextDatumGetCString(args[0])));
	lag.after = es_sql_int64(0, 1, 0);
	lag.furthest = lag.after;
	lag.upto = to_target ? es_sql_int64(0, 2, 0) : PG_INT64_MAX;
	lag.wanted.ncategories = es_sql_names(0, 3, &lag.wanted.categories);
	lag.wanted.nevent_types = es_sql_names(0, 4, &lag.wanted.event_types);
	es_owner_end(&scope);
	PG_RETURN_DATUM(es_lag_count(fcinfo, &lag));
}
