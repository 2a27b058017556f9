/*-------------------------------------------------------------------------
 * log/shape.c
 *	  What the tables that are written below the executor may look like.
 *
 * Appends fire no trigger, apply no rule, compute no default and ask no
 * constraint but the uniqueness of indexes.  An administrator, or a tool that
 * captures changes by a trigger, must not believe otherwise: a table that has
 * any of these is not written, error 55000.  What may be added is indexes,
 * and columns that are null.
 *
 * The writer looks after it has locked the table with RowExclusiveLock, and
 * all of these come with a lock that conflicts with that; so none appears
 * while a transaction that has written is open.  Everything is at hand in the
 * relation cache: an append costs a few comparisons.
 *
 * An event trigger asks the same question at the end of the command that adds
 * such a thing (event_store.es_guard_ddl), so that it is the command that
 * fails and not the appends after it.  It is a courtesy: extensions that go
 * below SQL, event_triggers = off and 0.1 get past it.
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/relation.h"
#include "access/table.h"
#include "access/transam.h"
#include "catalog/objectaddress.h"
#include "catalog/pg_am.h"
#include "catalog/pg_attribute.h"
#include "catalog/pg_rewrite.h"
#include "catalog/pg_trigger.h"
#include "catalog/pg_type.h"
#include "commands/trigger.h"
#include "rewrite/prs2lock.h"
#include "storage/lmgr.h"
#include "utils/lsyscache.h"
#include "utils/rel.h"
#include "utils/reltrigger.h"
#include "utils/typcache.h"

#include "base/compat.h"
#include "log/last.h"
#include "log/shape.h"

PG_FUNCTION_INFO_V1(es_check_table);

/*
 * subject		what is in the way, described with its table
 * why			a full sentence
 */
pg_attribute_noreturn() static void
es_shape_error(const char *subject, const char *why)
{
	ereport(ERROR,
			errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
			errmsg("the event store does not work with %s", subject),
			errdetail_internal("%s", why),
			errhint("Remove it. To follow events use a subscription, a projection or logical decoding; indexes, on expressions too, may be added."));
}

static char *
es_shape_subject(Relation rel, const char *kind, const char *name)
{
	return psprintf("%s \"%s\" of table \"%s\"", kind, name, RelationGetRelationName(rel));
}

/*
 * Does something with this tgenabled or ev_enabled fire in this session?
 */
static bool
es_shape_fires(char enabled)
{
	if (enabled == TRIGGER_DISABLED)
		return false;
	return enabled != (SessionReplicationRole == SESSION_REPLICATION_ROLE_REPLICA ?
					   TRIGGER_FIRES_ON_ORIGIN : TRIGGER_FIRES_ON_REPLICA);
}

/*
 * Appends write null into some of the columns that the store knows.
 *
 * column		0 where the store does not have it yet
 */
static void
es_shape_check_nullable(Relation rel, AttrNumber column)
{
	Form_pg_attribute attr;

	if (column == 0)
		return;
	attr = TupleDescAttr(RelationGetDescr(rel), column - 1);
	if (attr->attnotnull)
		es_shape_error(es_shape_subject(rel, "NOT NULL of column", NameStr(attr->attname)),
					   "Appends write null there, for an event that belongs to no stream or has no tags or hash.");
}

/*
 * ncolumns		that the store writes; log/store.c has looked at them
 */
static void
es_shape_check_columns(Relation rel, int ncolumns)
{
	TupleDesc	desc = RelationGetDescr(rel);

	for (int i = ncolumns; i < desc->natts; i++)
	{
		Form_pg_attribute column = TupleDescAttr(desc, i);
		bool		is_own;

		if (column->attisdropped)
			continue;
		if (column->attnotnull)
			es_shape_error(es_shape_subject(rel, "column", NameStr(column->attname)),
						   "Appends write null into columns that the store does not know, and this one is NOT NULL.");

		/* types of PostgreSQL's own catalog have neither defaults nor constraints */
		is_own = column->atttypid < FirstGenbkiObjectId;
		if (column->attidentity != '\0' ||
			(column->atthasdef && !es_attribute_is_virtual(column)) ||
			(!is_own && get_typdefault(column->atttypid) != NULL))
			es_shape_error(es_shape_subject(rel, "column", NameStr(column->attname)),
						   "Appends compute no defaults and no generated values.");
		if (!is_own && DomainHasConstraints(column->atttypid))
			es_shape_error(es_shape_subject(rel, "column", NameStr(column->attname)),
						   "Appends do not ask the constraints of its domain.");
	}
}

static void
es_shape_check_triggers(Relation rel, Oid guard)
{
	for (int i = 0; i < rel->trigdesc->numtriggers; i++)
	{
		Trigger    *trigger = &rel->trigdesc->triggers[i];

		if (!TRIGGER_FOR_INSERT(trigger->tgtype) || trigger->tgfoid == guard ||
			!es_shape_fires(trigger->tgenabled))
			continue;
		if (trigger->tgisinternal && OidIsValid(trigger->tgconstraint))
			es_shape_error(es_shape_subject(rel, "foreign key", get_constraint_name(trigger->tgconstraint)),
						   "Appends do not ask foreign keys.");
		es_shape_error(es_shape_subject(rel, "trigger", trigger->tgname),
					   "Appends fire no triggers, so it would miss every event.");
	}
}

/*
 * Refuse to write a table that demands what appends do not do (55000).
 *
 * rel			one of event, stream, event_type and mark, open with
 *				RowExclusiveLock; others pass
 */
void
es_shape_check(const EsStore *store, Relation rel)
{
	Oid			relid = RelationGetRelid(rel);
	TupleConstr *constr = RelationGetDescr(rel)->constr;

	/* the table may have been altered before it was locked */
	(void) es_store_get();
	if (relid == store->event)
	{
		/* in the tables of 0.1 every event belongs to a stream */
		if (OidIsValid(store->id_has_position))
		{
			es_shape_check_nullable(rel, Anum_es_event_stream_no);
			es_shape_check_nullable(rel, Anum_es_event_version);
		}
		es_shape_check_nullable(rel, store->tags);
		es_shape_check_nullable(rel, store->hash);
		es_shape_check_columns(rel, Natts_es_event);
	}
	else if (relid == store->stream)
		es_shape_check_columns(rel, Natts_es_stream);
	else if (relid == store->event_type)
	{
		if (OidIsValid(store->id_has_position))
			es_shape_check_nullable(rel, Anum_es_type_category);
		es_shape_check_columns(rel, Natts_es_type);
	}
	else if (relid == store->mark)
		es_shape_check_columns(rel, Natts_es_mark);
	else
		return;

	for (int i = 0; constr != NULL && i < constr->num_check; i++)
	{
		if (es_check_is_enforced(&constr->check[i]))
			es_shape_error(es_shape_subject(rel, "check constraint", constr->check[i].ccname),
						   "Appends do not ask check constraints.");
	}
	if (rel->trigdesc != NULL)
		es_shape_check_triggers(rel, store->guard);
	for (int i = 0; rel->rd_rules != NULL && i < rel->rd_rules->numLocks; i++)
	{
		RewriteRule *rule = rel->rd_rules->rules[i];

		if (rule->event == CMD_INSERT && es_shape_fires(rule->enabled))
			es_shape_error(getObjectDescriptionOids(RewriteRelationId, rule->ruleId),
						   "Appends do not apply rules.");
	}
	if (rel->rd_rel->relispartition || rel->rd_rel->relam != HEAP_TABLE_AM_OID)
		ereport(ERROR,
				errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				errmsg("table \"%s\" of the event store has been altered",
					   RelationGetRelationName(rel)),
				errdetail("It must be a table of its own and of access method heap."));
}

/*
 * The same for one of its indexes.
 */
void
es_shape_check_index(Relation rel, Relation index)
{
	if (index->rd_index->indisexclusion)
		es_shape_error(es_shape_subject(rel, "exclusion constraint", RelationGetRelationName(index)),
					   "Appends do not ask exclusion constraints.");
}

/*
 * es_check_table(name regclass) RETURNS void
 *
 * For the event trigger: what a writer would ask.  The command may have
 * enabled or disabled the guard.
 *
 * Errors: 42P01 for what is no relation, a number that is no OID of one.
 */
Datum
es_check_table(PG_FUNCTION_ARGS)
{
	Oid			relid = PG_GETARG_OID(0);
	Relation	rel = try_relation_open(relid, AccessShareLock);
	List	   *indexes;
	ListCell   *lc;

	if (rel == NULL)
		ereport(ERROR,
				errcode(ERRCODE_UNDEFINED_TABLE),
				errmsg("relation with OID %u does not exist", relid));
	indexes = RelationGetIndexList(rel);
	es_last_forget_all();
	es_shape_check(es_store_get(), rel);
	foreach(lc, indexes)
	{
		Relation	index = index_open(lfirst_oid(lc), AccessShareLock);

		es_shape_check_index(rel, index);
		index_close(index, AccessShareLock);
	}
	relation_close(rel, AccessShareLock);
	PG_RETURN_VOID();
}
