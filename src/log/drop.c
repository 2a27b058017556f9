/*-------------------------------------------------------------------------
 * log/drop.c
 *	  Say how many events go when the store is dropped, or refuse it.
 *
 * DROP EXTENSION, DROP SCHEMA ... CASCADE, DROP OWNED and whatever else takes
 * the event table away call the object access hook for it while its rows are
 * still there.  The hook exists where the library is loaded; an event trigger
 * at the start of these commands (event_store.es_guard_drop) sees to that, so
 * nothing has to be preloaded.  DROP DATABASE looks into no database and is
 * not noticed.
 *
 * Counting ends at ES_DROP_COUNT_MAX, beyond that the planner's number is
 * told, so that a large store is dropped as fast as ever.
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/table.h"
#include "access/tableam.h"
#include "catalog/objectaccess.h"
#include "catalog/pg_class.h"
#include "fmgr.h"
#include "miscadmin.h"
#include "utils/lsyscache.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"

#include "log/drop.h"
#include "settings.h"

#define ES_DROP_COUNT_MAX	100000

static object_access_hook_type es_next_object_access_hook = NULL;

PG_FUNCTION_INFO_V1(es_watch_drop);

/*
 * How many events are in the table?
 *
 * exact		result: false if it is an estimate
 */
static double
es_drop_count(Oid relid, bool *exact)
{
	Relation	rel = table_open(relid, NoLock);	/* the command has locked it */
	Snapshot	snapshot = RegisterSnapshot(GetLatestSnapshot());
	TupleTableSlot *slot = table_slot_create(rel, NULL);
	TableScanDesc scan = table_beginscan(rel, snapshot, 0, NULL);
	double		n = 0;

	while (n <= ES_DROP_COUNT_MAX && table_scan_getnextslot(scan, ForwardScanDirection, slot))
	{
		CHECK_FOR_INTERRUPTS();
		n++;
	}
	table_endscan(scan);
	ExecDropSingleTupleTableSlot(slot);
	UnregisterSnapshot(snapshot);

	*exact = n <= ES_DROP_COUNT_MAX;
	if (!*exact)
		n = Max(n, (double) rel->rd_rel->reltuples);
	table_close(rel, NoLock);
	return n;
}

/*
 * The table's own name, not its membership: who takes it out of the extension
 * first loses no fewer events.
 */
static bool
es_drop_is_event_table(Oid relid)
{
	char	   *name = get_rel_name(relid);
	char	   *schema;

	if (name == NULL || strcmp(name, "event") != 0 || get_rel_relkind(relid) != RELKIND_RELATION)
		return false;
	schema = get_namespace_name(get_rel_namespace(relid));
	return schema != NULL && strcmp(schema, "event_store") == 0;
}

static void
es_object_access(ObjectAccessType access, Oid classid, Oid objectid, int subid, void *arg)
{
	if (es_next_object_access_hook)
		es_next_object_access_hook(access, classid, objectid, subid, arg);

	if (access == OAT_DROP && classid == RelationRelationId && subid == 0 &&
		es_drop_is_event_table(objectid))
	{
		bool		exact;
		double		n = es_drop_count(objectid, &exact);
		const char *about = exact ? "" : "about ";

		if (n == 0)
			return;
		if (es_protect_drop)
			ereport(ERROR,
					errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
					errmsg_plural("cannot drop the event store, it has %s%.0f event",
								  "cannot drop the event store, it has %s%.0f events",
								  (unsigned long) n, about, n),
					errdetail("Setting \"event_store.protect_drop\" is on."),
					errhint("To drop it all the same, a superuser can SET event_store.protect_drop = off."));
		ereport(WARNING,
				errmsg_plural("the event store is dropped, and %s%.0f event with it",
							  "the event store is dropped, and %s%.0f events with it",
							  (unsigned long) n, about, n),
				errhint("Roll back if this was not meant. With event_store.protect_drop = on it is refused."));
	}
}

/*
 * Called once per process, from _PG_init.
 */
void
es_drop_init(void)
{
	es_next_object_access_hook = object_access_hook;
	object_access_hook = es_object_access;
}

/*
 * es_watch_drop() RETURNS void
 *
 * Being called is all that it is for: now the library is loaded.
 */
Datum
es_watch_drop(PG_FUNCTION_ARGS)
{
	PG_RETURN_VOID();
}
