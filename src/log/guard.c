/*-------------------------------------------------------------------------
 * log/guard.c
 *	  Refuse every change of the store's tables that is not an append.
 *
 * The append functions insert below the executor and fire no triggers, so
 * these triggers see only what others do.  They are ENABLE ALWAYS: neither
 * session_replication_role nor the apply worker of logical replication gets
 * past them.  An event trigger (event_store.es_guard_ddl) makes plain ones
 * ENABLE ALWAYS again, as pg_restore --disable-triggers leaves them.  UPDATE,
 * DELETE and TRUNCATE are refused to everybody; somebody who may alter the
 * table can disable the triggers on purpose.
 *
 * INSERT and COPY are let through where they put back what was stored: in the
 * apply worker of a logical subscriber, and for a superuser whose session is
 * set up as pg_dump's scripts set it up (check_function_bodies and
 * row_security off), so that a plain restore works without further options.
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "commands/trigger.h"
#include "miscadmin.h"
#include "replication/logicalworker.h"
#include "utils/guc.h"
#include "utils/rel.h"
#include "utils/rls.h"

#include "base/compat.h"
#include "base/errors.h"
#include "log/last.h"

PG_FUNCTION_INFO_V1(es_guard);

static bool
es_is_restore(void)
{
	return superuser() && !check_function_bodies && !row_security;
}

/*
 * Trigger function of the store's tables.
 */
Datum
es_guard(PG_FUNCTION_ARGS)
{
	TriggerData *trigger = (TriggerData *) fcinfo->context;
	const char *table;

	if (!CALLED_AS_TRIGGER(fcinfo))
		ereport(ERROR,
				errcode(ERRCODE_E_R_I_E_TRIGGER_PROTOCOL_VIOLATED),
				errmsg("function \"es_guard\" was not called by trigger manager"));

	table = RelationGetRelationName(trigger->tg_relation);
	if (TRIGGER_FIRED_BY_INSERT(trigger->tg_event))
	{
		if (IsLogicalWorker() || es_is_restore())
		{
			es_last_forget_at_commit();
			return PointerGetDatum(trigger->tg_trigtuple);
		}
		ereport(ERROR,
				errcode(ERRCODE_ES_APPEND_ONLY),
				errmsg("cannot insert into table \"%s\" directly", table),
				errhint("Use es_append()."));
	}
	ereport(ERROR,
			errcode(ERRCODE_ES_APPEND_ONLY),
			errmsg("cannot change or remove rows of table \"%s\"", table),
			errdetail("The event store is append-only."),
			errhint("Put a mistake right by appending a compensating event."));
	return (Datum) 0;
}
