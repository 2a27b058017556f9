/*-------------------------------------------------------------------------
 * projection/takeover.c
 *	  A former logical subscriber takes over the consumers of its publisher.
 *
 * See log/replicated.c for why it does not by itself.
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "miscadmin.h"

#include "base/compat.h"
#include "log/sql.h"
#include "projection/projection.h"

PG_FUNCTION_INFO_V1(es_take_over);

/* a table of consumers that a subscription of this database writes */
static EsSql es_subscribed_query =
ES_SQL("SELECT c.relname::pg_catalog.text FROM pg_catalog.pg_subscription_rel r"
	   " JOIN pg_catalog.pg_class c ON c.oid OPERATOR(pg_catalog.=) r.srrelid"
	   " JOIN pg_catalog.pg_namespace n ON n.oid OPERATOR(pg_catalog.=) c.relnamespace"
	   " WHERE n.nspname OPERATOR(pg_catalog.=) 'event_store'"
	   " AND c.relname OPERATOR(pg_catalog.=) ANY ('{projection,projection_parked,subscription,"
	   "subscription_checkpoint,subscription_member,parked_stream}'::pg_catalog.name[])"
	   " ORDER BY 1 LIMIT 1", 0);
static EsSql es_projections_query =
ES_SQL("UPDATE event_store.projection SET replicated = false WHERE replicated", 0);
static EsSql es_subscriptions_query =
ES_SQL("UPDATE event_store.subscription SET replicated = false WHERE replicated", 0);

/*
 * es_take_over() RETURNS bigint
 *
 * From now on the projections and subscriptions that came by replication are
 * run here, each from its checkpoint.
 *
 * Result: how many there were.
 * Errors: 55000 while a subscription still writes them.
 */
Datum
es_take_over(PG_FUNCTION_ARGS)
{
	EsOwnerScope scope;
	int64		count;

	PreventCommandIfReadOnly("es_take_over()");
	es_owner_begin(&scope);
	if (es_sql_run(&es_subscribed_query, NULL, NULL) > 0)
		ereport(ERROR,
				errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				errmsg("table \"event_store.%s\" is still written by a subscription",
					   es_sql_string(0, 1)),
				errhint("Drop the subscription first, or take the table out of its publications and refresh it."));
	count = (int64) es_sql_run(&es_projections_query, NULL, NULL);
	count += (int64) es_sql_run(&es_subscriptions_query, NULL, NULL);
	es_owner_end(&scope);
	es_projection_wake();
	PG_RETURN_INT64(count);
}
