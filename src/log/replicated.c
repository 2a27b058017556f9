/*-------------------------------------------------------------------------
 * log/replicated.c
 *	  Tell what a consumer has come to here from what has come by replication.
 *
 * Where logical replication brings the rows of projections and subscriptions,
 * it brings what they have written, too: to run them here as well would do
 * everything twice.  So a row that an apply worker writes, or a table's
 * initial copy, gets its column "replicated" set, by a trigger that is always
 * enabled.  Such a consumer stays where it is until es_take_over (see
 * projection/takeover.c).  The publisher's own rows are not marked, nor are
 * those of a physical standby, of a dump or after pg_upgrade: all these go on
 * by themselves.
 *
 * Each change that arrives sets the mark anew, since it carries the
 * publisher's value of the column.
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "commands/trigger.h"
#include "executor/spi.h"
#include "replication/logicalworker.h"
#include "replication/origin.h"
#include "utils/builtins.h"
#include "utils/rel.h"

#include "base/compat.h"
#include "log/replicated.h"

PG_FUNCTION_INFO_V1(es_mark_replicated);

/*
 * Trigger function, before a row is inserted or updated.
 *
 * The built-in apply workers are known as such, those of extensions by the
 * origin that they set for the session.
 */
Datum
es_mark_replicated(PG_FUNCTION_ARGS)
{
	TriggerData *trigger = (TriggerData *) fcinfo->context;
	TupleDesc	desc;
	HeapTuple	tuple;
	int			column;
	Datum		value = BoolGetDatum(true);
	bool		isnull = false;

	if (!CALLED_AS_TRIGGER(fcinfo) || !TRIGGER_FIRED_BEFORE(trigger->tg_event) ||
		!TRIGGER_FIRED_FOR_ROW(trigger->tg_event) ||
		TRIGGER_FIRED_BY_DELETE(trigger->tg_event))
		ereport(ERROR,
				errcode(ERRCODE_E_R_I_E_TRIGGER_PROTOCOL_VIOLATED),
				errmsg("function \"es_mark_replicated\" was not called before a row is written"));

	tuple = TRIGGER_FIRED_BY_UPDATE(trigger->tg_event) ? trigger->tg_newtuple :
		trigger->tg_trigtuple;
	if (!IsLogicalWorker() && replorigin_session_origin == InvalidRepOriginId)
		return PointerGetDatum(tuple);

	desc = RelationGetDescr(trigger->tg_relation);
	column = SPI_fnumber(desc, "replicated");
	if (column <= 0)
		ereport(ERROR,
				errcode(ERRCODE_UNDEFINED_COLUMN),
				errmsg("table \"%s\" has no column \"replicated\"",
					   RelationGetRelationName(trigger->tg_relation)));
	return PointerGetDatum(heap_modify_tuple_by_cols(tuple, desc, 1, &column, &value, &isnull));
}

/*
 * Refuse to run or change what has come by replication (55000).
 *
 * kind			"projection" or "subscription"
 */
void
es_replicated_refuse(const char *kind, const char *name)
{
	ereport(ERROR,
			errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
			errmsg("%s \"%s\" came by logical replication and is not run here", kind, name),
			errdetail("It runs on the publisher, and what it writes may arrive here, too."),
			errhint("Use it on the publisher.  If this server takes its place, drop the subscription and call es_take_over()."));
}
