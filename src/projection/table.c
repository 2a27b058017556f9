/*-------------------------------------------------------------------------
 * projection/table.c
 *	  Rows of event_store.projection and event_store.projection_parked.
 *
 * The functions that write them are called by anybody, so each statement runs
 * with the rights of the extension's owner (log/sql.c).
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/table.h"
#include "access/tableam.h"
#include "catalog/namespace.h"
#include "catalog/pg_type.h"
#include "miscadmin.h"
#include "storage/lmgr.h"
#include "utils/acl.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"

#include "base/compat.h"
#include "log/sql.h"
#include "projection/projection.h"
#include "settings.h"

/* the rate is the mean over at least so long */
#define ES_RATE_WINDOW_MS	1000

/* d: in tables older than this library, not brought up yet, nothing is marked */
#define ES_PROJECTION_COLUMNS \
	"SELECT p.name, p.is_shadow, p.generation, p.owner, p.handler, p.reset_handler," \
	" p.categories, p.event_types, p.batch_size, p.max_attempts, p.policy, p.state," \
	" p.position, p.replay_until, p.attempts, p.next_attempt_at," \
	" p.rate, p.rate_since, p.rate_applied, p.error_sqlstate, p.error_message, p.error_position," \
	" (SELECT l.position FROM event_store.projection l" \
	"   WHERE p.is_shadow AND NOT l.is_shadow AND l.name OPERATOR(pg_catalog.=) p.name)," \
	" (SELECT replicated FROM (SELECT (p).*) r)" \
	" FROM event_store.projection p, (SELECT false AS replicated) d"
#define ES_PROJECTION_KEY \
	" WHERE p.name OPERATOR(pg_catalog.=) $1 AND p.is_shadow OPERATOR(pg_catalog.=) $2"

/* by EsProjectionLock */
static EsSql es_load_queries[] = {
	ES_SQL(ES_PROJECTION_COLUMNS ES_PROJECTION_KEY, 2, TEXTOID, BOOLOID),
	ES_SQL(ES_PROJECTION_COLUMNS ES_PROJECTION_KEY " FOR UPDATE OF p", 2, TEXTOID, BOOLOID),
	ES_SQL(ES_PROJECTION_COLUMNS ES_PROJECTION_KEY " FOR UPDATE OF p SKIP LOCKED", 2, TEXTOID, BOOLOID),
};

static EsSql es_list_query =
ES_SQL(ES_PROJECTION_COLUMNS
	" WHERE p.state OPERATOR(pg_catalog.=) 'running'"
	" AND ($1 IS NULL OR p.owner OPERATOR(pg_catalog.=) $1)"
	" ORDER BY p.owner, p.updated_at",
		 1, TEXTOID);

static EsSql es_checkpoint_query =
ES_SQL("UPDATE event_store.projection p"
	" SET position = $5, applied = p.applied OPERATOR(pg_catalog.+) $6, attempts = 0,"
	" next_attempt_at = NULL, updated_at = $7, rate = $8, rate_since = $9, rate_applied = $10"
	ES_PROJECTION_KEY
	" AND p.generation OPERATOR(pg_catalog.=) $3 AND p.position OPERATOR(pg_catalog.=) $4",
		 10, TEXTOID, BOOLOID, INT8OID, INT8OID, INT8OID, INT8OID, TIMESTAMPTZOID, FLOAT8OID, TIMESTAMPTZOID, INT8OID);

static EsSql es_park_query =
ES_SQL("INSERT INTO event_store.projection_parked (projection, is_shadow, global_position,"
	" stream_id, disposition, attempts, sqlstate, message, parked_at)"
	" VALUES ($1, $2, $3, $4, $5, $6, $7, $8, pg_catalog.clock_timestamp())",
		 8, TEXTOID, BOOLOID, INT8OID, TEXTOID, TEXTOID, INT4OID, TEXTOID, TEXTOID);

/* what is behind has a parked event of its stream before it */
static EsSql es_parked_streams_query =
ES_SQL("SELECT DISTINCT p.stream_id FROM event_store.projection_parked p"
	" WHERE p.projection OPERATOR(pg_catalog.=) $1 AND p.is_shadow OPERATOR(pg_catalog.=) $2"
	" AND p.disposition OPERATOR(pg_catalog.=) 'parked'",
		 2, TEXTOID, BOOLOID);

/*
 * Copy a row of ES_PROJECTION_COLUMNS to the current memory context.
 */
static EsProjection *
es_projection_from_row(uint64 row)
{
	EsProjection *projection = palloc0(sizeof(EsProjection));
	bool		isnull;
	Datum		value;

	projection->name = es_sql_string(row, 1);
	projection->is_shadow = DatumGetBool(es_sql_datum(row, 2, &isnull));
	projection->generation = es_sql_int64(row, 3, 0);
	projection->owner = es_sql_string(row, 4);
	projection->owner_oid = get_role_oid(projection->owner, true);
	projection->handler = es_sql_string(row, 5);
	projection->reset_handler = es_sql_string(row, 6);
	projection->ncategories = es_sql_names(row, 7, &projection->categories);
	projection->nevent_types = es_sql_names(row, 8, &projection->event_types);
	projection->batch_size = DatumGetInt32(es_sql_datum(row, 9, &isnull));
	projection->max_attempts = DatumGetInt32(es_sql_datum(row, 10, &isnull));
	projection->policy = es_sql_string(row, 11);
	projection->state = es_sql_string(row, 12);
	projection->position = es_sql_int64(row, 13, 0);
	projection->replay_until = es_sql_int64(row, 14, 0);
	projection->attempts = DatumGetInt32(es_sql_datum(row, 15, &isnull));
	projection->next_attempt_at = es_sql_int64(row, 16, 0);
	value = es_sql_datum(row, 17, &isnull);
	projection->rate = isnull ? 0 : DatumGetFloat8(value);
	projection->rate_since = es_sql_int64(row, 18, 0);
	projection->rate_applied = es_sql_int64(row, 19, 0);
	projection->error_sqlstate = es_sql_string(row, 20);
	projection->error_message = es_sql_string(row, 21);
	projection->error_position = es_sql_int64(row, 22, 0);
	projection->limit_position = es_sql_int64(row, 23, PG_INT64_MAX);
	projection->replicated = DatumGetBool(es_sql_datum(row, 24, &isnull));
	return projection;
}

/*
 * Read a projection.
 *
 * A lock lasts until the end of the transaction, and the row is then the
 * newest one, whatever the snapshot (40001 where isolation forbids that).
 * Without a lock the row is read with the active snapshot.
 *
 * Result: in the current memory context; NULL when there is none, or when it
 * is locked and lock is ES_PROJECTION_TRY_LOCK.
 */
EsProjection *
es_projection_load(const char *name, bool is_shadow, EsProjectionLock lock)
{
	Datum		values[2] = {CStringGetTextDatum(name), BoolGetDatum(is_shadow)};
	EsProjection *projection = NULL;
	EsOwnerScope scope;
	uint64		count;

	es_owner_begin(&scope);
	if (lock == ES_PROJECTION_READ)
		count = es_sql_read(&es_load_queries[lock], values, NULL);
	else
		count = es_sql_run(&es_load_queries[lock], values, NULL);
	if (count > 0)
		projection = es_projection_from_row(0);
	es_owner_end(&scope);
	return projection;
}

/*
 * The running projections of a role, or of all, as the active snapshot sees
 * them; those not served for longest first.  Without those that came by
 * replication.
 */
List *
es_projection_list(Oid owner)
{
	Datum		values[1] = {(Datum) 0};
	char		nulls[1] = {' '};
	EsOwnerScope scope;
	List	   *result = NIL;
	uint64		count;

	if (OidIsValid(owner))
		values[0] = CStringGetTextDatum(GetUserNameFromId(owner, false));
	else
		nulls[0] = 'n';
	es_owner_begin(&scope);
	count = es_sql_read(&es_list_query, values, nulls);
	for (uint64 i = 0; i < count; i++)
	{
		EsProjection *projection = es_projection_from_row(i);

		if (!projection->replicated)
			result = lappend(result, projection);
	}
	es_owner_end(&scope);
	return result;
}

/*
 * Are there projections for a worker to run, as of now?
 *
 * For appends: it waits for no lock, never fails, and says yes when it cannot
 * tell.  Rows are looked at one by one, whatever they are, so that a
 * SERIALIZABLE transaction reads nothing that workers write all the time; the
 * snapshot keeps those that it shows from going.
 */
bool
es_projection_any_follows(void)
{
	Oid			relid = get_relname_relid("projection", get_namespace_oid("event_store", true));
	Relation	rel;
	AttrNumber	state;
	AttrNumber	replicated;
	Snapshot	snapshot;
	TableScanDesc scan;
	TupleTableSlot *slot;
	bool		found = false;

	if (!OidIsValid(relid) || es_max_projection_workers == 0)
		return false;
	if (!ConditionalLockRelationOid(relid, AccessShareLock))
		return true;
	rel = table_open(relid, NoLock);
	state = get_attnum(relid, "state");
	replicated = get_attnum(relid, "replicated");	/* not in a table of 0.1 */
	if (state == InvalidAttrNumber || get_atttype(relid, state) != TEXTOID)
	{
		table_close(rel, AccessShareLock);
		return true;
	}
	snapshot = RegisterSnapshot(GetLatestSnapshot());
	scan = table_beginscan(rel, SnapshotAny, 0, NULL);
	slot = table_slot_create(rel, NULL);
	while (!found && table_scan_getnextslot(scan, ForwardScanDirection, slot))
	{
		bool		isnull;

		if (!table_tuple_satisfies_snapshot(rel, slot, snapshot))
			continue;
		found = strcmp(TextDatumGetCString(slot_getattr(slot, state, &isnull)), "running") == 0;
		if (found && replicated != InvalidAttrNumber)
			found = !DatumGetBool(slot_getattr(slot, replicated, &isnull));
	}
	ExecDropSingleTupleTableSlot(slot);
	table_endscan(scan);
	UnregisterSnapshot(snapshot);
	table_close(rel, AccessShareLock);
	return found;
}

/*
 * Move the checkpoint of a locked projection.
 *
 * Errors: 40001 if it is not where it was, which the lock makes impossible.
 */
void
es_projection_checkpoint(EsProjection *projection, int64 position, int64 applied)
{
	TimestampTz now = GetCurrentTimestamp();
	double		elapsed = (double) (now - projection->rate_since);
	Datum		values[10];

	projection->rate_applied += applied;
	if (elapsed >= ES_RATE_WINDOW_MS * 1000.0)
	{
		projection->rate = projection->rate_applied * 1000000.0 / elapsed;
		projection->rate_since = now;
		projection->rate_applied = 0;
	}

	values[0] = CStringGetTextDatum(projection->name);
	values[1] = BoolGetDatum(projection->is_shadow);
	values[2] = Int64GetDatum(projection->generation);
	values[3] = Int64GetDatum(projection->position);
	values[4] = Int64GetDatum(position);
	values[5] = Int64GetDatum(applied);
	values[6] = TimestampTzGetDatum(now);
	values[7] = Float8GetDatum(projection->rate);
	values[8] = TimestampTzGetDatum(projection->rate_since);
	values[9] = Int64GetDatum(projection->rate_applied);
	if (es_sql_once(&es_checkpoint_query, values, NULL) != 1)
		ereport(ERROR,
				errcode(ERRCODE_T_R_SERIALIZATION_FAILURE),
				errmsg("the checkpoint of projection \"%s\" was moved by somebody else",
					   projection->name));
	projection->position = position;
}

/*
 * Record an event that is not applied: parked, behind a parked one, skipped.
 */
void
es_projection_park(EsProjection *projection, int64 position, const char *stream,
				   int len, const char *disposition, ErrorData *error, int attempts)
{
	Datum		values[8];
	char		nulls[9] = "        ";

	values[0] = CStringGetTextDatum(projection->name);
	values[1] = BoolGetDatum(projection->is_shadow);
	values[2] = Int64GetDatum(position);
	values[3] = PointerGetDatum(cstring_to_text_with_len(stream, len));
	values[4] = CStringGetTextDatum(disposition);
	values[5] = Int32GetDatum(attempts);
	if (error != NULL)
	{
		values[6] = CStringGetTextDatum(unpack_sql_state(error->sqlerrcode));
		values[7] = CStringGetTextDatum(error->message ? error->message : "");
	}
	else
		nulls[6] = nulls[7] = 'n';
	(void) es_sql_once(&es_park_query, values, nulls);
}

/*
 * Streams with parked events: text datums in the current memory context.
 */
List *
es_projection_parked_streams(EsProjection *projection)
{
	Datum		values[2] = {CStringGetTextDatum(projection->name),
	BoolGetDatum(projection->is_shadow)};
	EsOwnerScope scope;
	List	   *result = NIL;
	uint64		count;

	es_owner_begin(&scope);
	count = es_sql_run(&es_parked_streams_query, values, NULL);
	for (uint64 i = 0; i < count; i++)
		result = lappend(result, cstring_to_text(es_sql_string(i, 1)));
	es_owner_end(&scope);
	return result;
}
