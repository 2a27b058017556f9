/*-------------------------------------------------------------------------
 * es_projection_table.c
 *	  Rows of event_store.projection and event_store.projection_parked.
 *
 * Only the extension's owner may write these tables.  The functions that do
 * are called by anybody, so each statement here runs with the rights of that
 * owner, and nothing but the statement: the switch ends before the rows are
 * looked at.  An error needs no care, because the end of the (sub)transaction
 * restores the user.  Every name in the statements is qualified.
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "catalog/namespace.h"
#include "catalog/pg_class.h"
#include "catalog/pg_type.h"
#include "miscadmin.h"
#include "utils/acl.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/guc.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/syscache.h"
#include "utils/timestamp.h"

#include "es_compat.h"
#include "es_projection.h"

/* the rate is the mean over at least so long */
#define ES_RATE_WINDOW_MS	1000

#define ES_PROJECTION_COLUMNS \
	"SELECT p.name, p.is_shadow, p.generation, p.owner, p.handler, p.reset_handler," \
	" p.categories, p.event_types, p.batch_size, p.max_attempts, p.policy, p.state," \
	" p.position, p.replay_until, p.attempts, p.next_attempt_at," \
	" p.rate, p.rate_since, p.rate_applied," \
	" (SELECT l.position FROM event_store.projection l" \
	"   WHERE p.is_shadow AND NOT l.is_shadow AND l.name OPERATOR(pg_catalog.=) p.name)" \
	" FROM event_store.projection p"
#define ES_PROJECTION_KEY \
	" WHERE p.name OPERATOR(pg_catalog.=) $1 AND p.is_shadow OPERATOR(pg_catalog.=) $2"

/* by EsProjectionLock */
static EsQuery es_load_queries[] = {
	ES_QUERY(ES_PROJECTION_COLUMNS ES_PROJECTION_KEY, 2, TEXTOID, BOOLOID),
	ES_QUERY(ES_PROJECTION_COLUMNS ES_PROJECTION_KEY " FOR UPDATE OF p", 2, TEXTOID, BOOLOID),
	ES_QUERY(ES_PROJECTION_COLUMNS ES_PROJECTION_KEY " FOR UPDATE OF p SKIP LOCKED", 2, TEXTOID, BOOLOID),
};

static EsQuery es_list_query =
ES_QUERY(ES_PROJECTION_COLUMNS
	" WHERE p.state OPERATOR(pg_catalog.=) 'running'"
	" AND ($1 IS NULL OR p.owner OPERATOR(pg_catalog.=) $1)"
	" ORDER BY p.owner, p.updated_at",
		 1, TEXTOID);

static EsQuery es_checkpoint_query =
ES_QUERY("UPDATE event_store.projection p"
	" SET position = $5, applied = p.applied OPERATOR(pg_catalog.+) $6, attempts = 0,"
	" next_attempt_at = NULL, updated_at = $7, rate = $8, rate_since = $9, rate_applied = $10"
	ES_PROJECTION_KEY
	" AND p.generation OPERATOR(pg_catalog.=) $3 AND p.position OPERATOR(pg_catalog.=) $4",
		 10, TEXTOID, BOOLOID, INT8OID, INT8OID, INT8OID, INT8OID, TIMESTAMPTZOID, FLOAT8OID, TIMESTAMPTZOID, INT8OID);

static EsQuery es_park_query =
ES_QUERY("INSERT INTO event_store.projection_parked (projection, is_shadow, global_position,"
	" stream_id, disposition, attempts, sqlstate, message, parked_at)"
	" VALUES ($1, $2, $3, $4, $5, $6, $7, $8, pg_catalog.clock_timestamp())",
		 8, TEXTOID, BOOLOID, INT8OID, TEXTOID, TEXTOID, INT4OID, TEXTOID, TEXTOID);

static EsQuery es_parked_streams_query =
ES_QUERY("SELECT DISTINCT p.stream_id FROM event_store.projection_parked p"
	" WHERE p.projection OPERATOR(pg_catalog.=) $1 AND p.is_shadow OPERATOR(pg_catalog.=) $2"
	" AND p.disposition OPERATOR(pg_catalog.<>) 'skipped'",
		 2, TEXTOID, BOOLOID);

/*
 * The role that may write the tables.
 */
static Oid
es_projection_table_owner(void)
{
	Oid			schema = get_namespace_oid("event_store", true);
	Oid			relid = OidIsValid(schema) ? get_relname_relid("projection", schema) : InvalidOid;
	HeapTuple	tuple = SearchSysCache1(RELOID, ObjectIdGetDatum(relid));
	Oid			owner;

	if (!HeapTupleIsValid(tuple))
		ereport(ERROR,
				errcode(ERRCODE_UNDEFINED_TABLE),
				errmsg("relation \"event_store.projection\" does not exist"),
				errhint("Run CREATE EXTENSION event_store in this database."));
	owner = ((Form_pg_class) GETSTRUCT(tuple))->relowner;
	ReleaseSysCache(tuple);
	return owner;
}

/*
 * Run a statement with the rights of the extension's owner.
 *
 * read_only	use the active snapshot, not one of its own
 * caller		result, may be NULL: the memory context of before
 *
 * Result: number of rows; they are in SPI_tuptable until es_query_end.
 */
uint64
es_query(EsQuery *query, Datum *values, const char *nulls, bool read_only,
		 MemoryContext *caller)
{
	Oid			user;
	int			context;
	int			guc_level;
	int			code;

	if (caller != NULL)
		*caller = CurrentMemoryContext;
	SPI_connect();
	GetUserIdAndSecContext(&user, &context);
	SetUserIdAndSecContext(es_projection_table_owner(),
						   context | SECURITY_LOCAL_USERID_CHANGE);

	/* should a name have been left unqualified, it shall do no harm */
	guc_level = NewGUCNestLevel();
	(void) set_config_option("search_path", "pg_catalog, pg_temp", PGC_USERSET, PGC_S_SESSION,
							 GUC_ACTION_SAVE, true, 0, false);
	if (query->plan == NULL)
	{
		SPIPlanPtr	plan = SPI_prepare(query->sql, query->nargs, query->argtypes);

		if (plan == NULL || SPI_keepplan(plan) != 0)
			elog(ERROR, "SPI_prepare failed: %s", SPI_result_code_string(SPI_result));
		query->plan = plan;
	}
	code = SPI_execute_plan(query->plan, values, nulls, read_only, 0);
	AtEOXact_GUC(true, guc_level);
	SetUserIdAndSecContext(user, context);
	if (code < 0)
		elog(ERROR, "SPI_execute_plan failed: %s", SPI_result_code_string(code));
	return SPI_processed;
}

void
es_query_end(void)
{
	SPI_finish();
}

/*
 * The same, for statements whose rows nobody wants.
 */
uint64
es_query_once(EsQuery *query, Datum *values, const char *nulls)
{
	uint64		count = es_query(query, values, nulls, false, NULL);

	es_query_end();
	return count;
}

static Datum
es_column(HeapTuple tuple, int column, bool *isnull)
{
	return SPI_getbinval(tuple, SPI_tuptable->tupdesc, column, isnull);
}

static char *
es_column_string(HeapTuple tuple, int column)
{
	bool		isnull;
	Datum		value = es_column(tuple, column, &isnull);

	return isnull ? NULL : TextDatumGetCString(value);
}

static int64
es_column_int64(HeapTuple tuple, int column, int64 null_value)
{
	bool		isnull;
	Datum		value = es_column(tuple, column, &isnull);

	return isnull ? null_value : DatumGetInt64(value);
}

static int
es_column_names(HeapTuple tuple, int column, Datum **names)
{
	bool		isnull;
	Datum		value = es_column(tuple, column, &isnull);
	int			count;

	*names = NULL;
	if (isnull)
		return 0;
	deconstruct_array(DatumGetArrayTypePCopy(value), TEXTOID, -1, false, TYPALIGN_INT,
					  names, NULL, &count);
	if (*names == NULL)
		*names = palloc0(sizeof(Datum));	/* an empty filter, not none */
	return count;
}

/*
 * Copy a row of ES_PROJECTION_COLUMNS to the current memory context.
 */
static EsProjection *
es_projection_from_row(HeapTuple tuple)
{
	EsProjection *projection = palloc0(sizeof(EsProjection));
	bool		isnull;
	Datum		value;

	projection->name = es_column_string(tuple, 1);
	projection->is_shadow = DatumGetBool(es_column(tuple, 2, &isnull));
	projection->generation = es_column_int64(tuple, 3, 0);
	projection->owner = es_column_string(tuple, 4);
	projection->owner_oid = get_role_oid(projection->owner, true);
	projection->handler = es_column_string(tuple, 5);
	projection->reset_handler = es_column_string(tuple, 6);
	projection->ncategories = es_column_names(tuple, 7, &projection->categories);
	projection->nevent_types = es_column_names(tuple, 8, &projection->event_types);
	projection->batch_size = DatumGetInt32(es_column(tuple, 9, &isnull));
	projection->max_attempts = DatumGetInt32(es_column(tuple, 10, &isnull));
	projection->policy = es_column_string(tuple, 11);
	projection->state = es_column_string(tuple, 12);
	projection->position = es_column_int64(tuple, 13, 0);
	projection->replay_until = es_column_int64(tuple, 14, 0);
	projection->attempts = DatumGetInt32(es_column(tuple, 15, &isnull));
	projection->next_attempt_at = es_column_int64(tuple, 16, 0);
	value = es_column(tuple, 17, &isnull);
	projection->rate = isnull ? 0 : DatumGetFloat8(value);
	projection->rate_since = es_column_int64(tuple, 18, 0);
	projection->rate_applied = es_column_int64(tuple, 19, 0);
	projection->limit_position = es_column_int64(tuple, 20, PG_INT64_MAX);
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
	MemoryContext caller;

	if (es_query(&es_load_queries[lock], values, NULL, lock == ES_PROJECTION_READ,
				 &caller) > 0)
	{
		HeapTuple	tuple = SPI_tuptable->vals[0];
		MemoryContext old_context = MemoryContextSwitchTo(caller);

		projection = es_projection_from_row(tuple);
		MemoryContextSwitchTo(old_context);
	}
	es_query_end();
	return projection;
}

/*
 * The running projections of a role, or of all, as the active snapshot sees
 * them; those not served for longest first.
 */
List *
es_projection_list(Oid owner)
{
	Datum		values[1] = {(Datum) 0};
	char		nulls[1] = {' '};
	MemoryContext caller;
	List	   *result = NIL;
	uint64		count;

	if (OidIsValid(owner))
		values[0] = CStringGetTextDatum(GetUserNameFromId(owner, false));
	else
		nulls[0] = 'n';
	count = es_query(&es_list_query, values, nulls, true, &caller);
	for (uint64 i = 0; i < count; i++)
	{
		HeapTuple	tuple = SPI_tuptable->vals[i];
		MemoryContext old_context = MemoryContextSwitchTo(caller);

		result = lappend(result, es_projection_from_row(tuple));
		MemoryContextSwitchTo(old_context);
	}
	es_query_end();
	return result;
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
	if (es_query_once(&es_checkpoint_query, values, NULL) != 1)
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
	(void) es_query_once(&es_park_query, values, nulls);
}

/*
 * Streams with parked events: text datums in the current memory context.
 */
List *
es_projection_parked_streams(EsProjection *projection)
{
	Datum		values[2] = {CStringGetTextDatum(projection->name),
	BoolGetDatum(projection->is_shadow)};
	MemoryContext caller;
	List	   *result = NIL;
	uint64		count = es_query(&es_parked_streams_query, values, NULL, false, &caller);

	for (uint64 i = 0; i < count; i++)
	{
		char	   *name = SPI_getvalue(SPI_tuptable->vals[i], SPI_tuptable->tupdesc, 1);
		MemoryContext old_context = MemoryContextSwitchTo(caller);

		result = lappend(result, cstring_to_text(name));
		MemoryContextSwitchTo(old_context);
	}
	es_query_end();
	return result;
}
