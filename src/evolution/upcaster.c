/*-------------------------------------------------------------------------
 * evolution/upcaster.c
 *	  Define, drop and prove upcasters; upcast in plain SQL.
 *
 * Definitions change under a lock on event_store.upcaster that lets readers
 * pass, so two sessions cannot close a loop together, and under a lock on
 * event_store.snapshot that keeps es_state from saving: a change throws away
 * the snapshots of the aggregates whose events it touches, and es_state does
 * not save what it has computed from definitions that have changed since.
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/table.h"
#include "access/xact.h"
#include "catalog/namespace.h"
#include "catalog/pg_type.h"
#include "commands/trigger.h"
#include "miscadmin.h"
#include "nodes/supportnodes.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/inval.h"
#include "utils/jsonb.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"

#include "base/args.h"
#include "base/compat.h"
#include "base/errors.h"
#include "base/lock.h"
#include "base/result.h"
#include "base/subxact.h"
#include "evolution/function.h"
#include "evolution/upcast.h"
#include "log/event.h"
#include "log/head.h"
#include "log/sql.h"
#include "settings.h"

PG_FUNCTION_INFO_V1(es_define_upcaster);
PG_FUNCTION_INFO_V1(es_drop_upcaster);
PG_FUNCTION_INFO_V1(es_definition_changed);
PG_FUNCTION_INFO_V1(es_check_upcasters);
PG_FUNCTION_INFO_V1(es_upcast_type);
PG_FUNCTION_INFO_V1(es_consumed_type);
PG_FUNCTION_INFO_V1(es_upcast_schema_version);
PG_FUNCTION_INFO_V1(es_upcast_data);
PG_FUNCTION_INFO_V1(es_upcast_support);

static EsSql es_define_upcaster_sql =
ES_SQL("INSERT INTO event_store.upcaster"
	   " (event_type, schema_version, upcaster, to_event_type, to_schema_version)"
	   " VALUES ($1, $2, $3, $4, $5)",
	   5, TEXTOID, INT4OID, TEXTOID, TEXTOID, INT4OID);
static EsSql es_drop_upcaster_sql =
ES_SQL("DELETE FROM event_store.upcaster WHERE event_type OPERATOR(pg_catalog.=) $1"
	   " AND schema_version OPERATOR(pg_catalog.=) $2",
	   2, TEXTOID, INT4OID);
static EsSql es_drop_snapshots_sql =
ES_SQL("DELETE FROM event_store.snapshot n"
	   " USING event_store.stream s, event_store.aggregate a"
	   " WHERE n.stream_no OPERATOR(pg_catalog.=) s.stream_no"
	   " AND n.schema_version OPERATOR(pg_catalog.=) a.schema_version"
	   " AND (s.stream_id OPERATOR(pg_catalog.=) a.category"
	   " OR (s.stream_id OPERATOR(pg_catalog.>=) (a.category OPERATOR(pg_catalog.||) '-')"
	   " AND s.stream_id OPERATOR(pg_catalog.<) (a.category OPERATOR(pg_catalog.||) '.')))"
	   " AND EXISTS (SELECT 1 FROM event_store.event_type t"
	   " WHERE t.category OPERATOR(pg_catalog.=) a.category"
	   " AND t.event_type OPERATOR(pg_catalog.=) ANY ($1))",
	   1, TEXTARRAYOID);

/*
 * Lock the definitions against other changes, and snapshots against es_state.
 */
static void
es_upcaster_lock(void)
{
	const EsStore *store = es_store_get();
	Oid			relid = es_store_relation(get_namespace_oid("event_store", false), "upcaster");

	es_lock_table(relid, ShareRowExclusiveLock);
	es_lock_table(store->snapshot, ExclusiveLock);
}

/*
 * Throw away the snapshots of all aggregates with events that are read as of
 * this type.
 */
static void
es_upcaster_drop_snapshots(text *event_type)
{
	Datum		name = PointerGetDatum(event_type);
	Datum		args[1];
	Datum	   *sources;
	int			nsources;

	nsources = es_upcast_sources(&name, 1, &sources);
	args[0] = PointerGetDatum(construct_array(sources, nsources, TEXTOID, -1, false,
											  TYPALIGN_INT));
	es_sql_latest(&es_drop_snapshots_sql, args, NULL);
}

/*
 * es_define_upcaster(event_type text, schema_version int,
 *					  upcaster regprocedure, to_event_type text,
 *					  to_schema_version int, if_not_exists boolean) RETURNS void
 *
 * upcaster		f(data jsonb) or f(data jsonb, metadata jsonb); may be text, its name
 *
 * Errors: 42883, 42P13, 22023, 42501 for a function that will not do; 22023 for
 * a loop; 42710 when there is one already.
 */
Datum
es_define_upcaster(PG_FUNCTION_ARGS)
{
	static const Oid argtypes[2] = {JSONBOID, JSONBOID};
	Datum		args[5];
	int			len;
	const char *name = es_arg_name(fcinfo, 0, "event_type", &len);
	int32		schema_version = es_arg_int32(fcinfo, 1, "schema_version", 1, PG_INT32_MAX);
	const char *to_name = name;
	int			to_len = len;
	int32		to_schema_version = 0;
	bool		same_type;
	bool		loop;
	EsUpcaster *upcaster;
	bool		if_not_exists = false;
	int			nargs = 1;
	Oid			function;

	function = es_arg_function(fcinfo, 2, "upcaster");
	if (!PG_ARGISNULL(3))
		to_name = es_arg_name(fcinfo, 3, "to_event_type", &to_len);
	same_type = to_len == len && memcmp(name, to_name, len) == 0;
	if (!PG_ARGISNULL(4))
		to_schema_version = es_arg_int32(fcinfo, 4, "to_schema_version", 1, PG_INT32_MAX);
	else if (!same_type)
		to_schema_version = 1;
	else if (schema_version < PG_INT32_MAX)
		to_schema_version = schema_version + 1;
	else
		es_arg_error(ERRCODE_INVALID_PARAMETER_VALUE, "schema_version", 0,
					 "There is none after %d.", schema_version);

	/* one argument less, and no metadata, in a database whose script is still that of 0.1 */
	if (PG_NARGS() > 5)
	{
		if_not_exists = es_arg_bool(fcinfo, 5, "if_not_exists");
		nargs = es_function_nargs(function) == 2 ? 2 : 1;
	}
	es_function_check(function, "upcaster", nargs, argtypes, true);
	PreventCommandIfReadOnly("es_define_upcaster()");

	es_upcaster_lock();
	if (es_upcaster_find(name, len, schema_version) != NULL)
	{
		ereport(if_not_exists ? NOTICE : ERROR,
				errcode(ERRCODE_DUPLICATE_OBJECT),
				errmsg("there already is an upcaster for event type \"%.*s\", schema version %d%s",
					   len, name, schema_version, if_not_exists ? ", skipping" : ""),
				if_not_exists ? 0 : errhint("Remove it with es_drop_upcaster first."));
		PG_RETURN_VOID();
	}

	loop = same_type && to_schema_version == schema_version;
	upcaster = es_upcaster_find(to_name, to_len, to_schema_version);
	if (upcaster != NULL)
	{
		text	   *last;
		int32		last_version;

		/* what goes on from there has an end so far: is it here? */
		es_upcaster_target(upcaster, &last, &last_version);
		loop = last_version == schema_version && VARSIZE_ANY_EXHDR(last) == len &&
			memcmp(VARDATA_ANY(last), name, len) == 0;
	}
	if (loop)
		ereport(ERROR,
				errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				errmsg("an upcaster from event type \"%.*s\", schema version %d to \"%.*s\", schema version %d would form a loop",
					   len, name, schema_version, to_len, to_name, to_schema_version));

	args[0] = PG_GETARG_DATUM(0);
	args[1] = Int32GetDatum(schema_version);
	args[2] = CStringGetTextDatum(es_function_signature(function));
	args[3] = PointerGetDatum(cstring_to_text_with_len(to_name, to_len));
	args[4] = Int32GetDatum(to_schema_version);
	es_sql_once(&es_define_upcaster_sql, args, NULL);
	es_upcaster_drop_snapshots(PG_GETARG_TEXT_PP(0));
	PG_RETURN_VOID();
}

/*
 * es_drop_upcaster(event_type text, schema_version int) RETURNS void
 *
 * Errors: 42704 when there is none.
 */
Datum
es_drop_upcaster(PG_FUNCTION_ARGS)
{
	Datum		args[2];
	int			len;
	const char *name = es_arg_name(fcinfo, 0, "event_type", &len);
	int32		schema_version = es_arg_int32(fcinfo, 1, "schema_version", 1, PG_INT32_MAX);

	PreventCommandIfReadOnly("es_drop_upcaster()");

	es_upcaster_lock();
	if (es_upcaster_find(name, len, schema_version) == NULL)
		ereport(ERROR,
				errcode(ERRCODE_UNDEFINED_OBJECT),
				errmsg("there is no upcaster for event type \"%.*s\", schema version %d",
					   len, name, schema_version));

	args[0] = PG_GETARG_DATUM(0);
	args[1] = Int32GetDatum(schema_version);
	es_upcaster_drop_snapshots(PG_GETARG_TEXT_PP(0));
	es_sql_latest(&es_drop_upcaster_sql, args, NULL);
	PG_RETURN_VOID();
}

/*
 * es_definition_changed() RETURNS trigger
 *
 * Makes every backend read the definitions anew, once this transaction has
 * committed.  Plans over view events depend on whether there are upcasters,
 * and are known to the plan cache by the tables of the view.
 */
Datum
es_definition_changed(PG_FUNCTION_ARGS)
{
	TriggerData *trigger = (TriggerData *) fcinfo->context;

	if (!CALLED_AS_TRIGGER(fcinfo))
		ereport(ERROR,
				errcode(ERRCODE_E_R_I_E_TRIGGER_PROTOCOL_VIOLATED),
				errmsg("es_definition_changed() was not called by a trigger"));
	CacheInvalidateRelcache(trigger->tg_relation);
	CacheInvalidateRelcacheByRelid(es_store_get()->event_type);
	PG_RETURN_POINTER(NULL);
}

typedef struct EsUpcasterTry
{
	const EsUpcaster *upcaster;
	Datum	   *values;
} EsUpcasterTry;

static bool
es_upcaster_try_body(void *arg)
{
	EsUpcasterTry *try = arg;

	es_upcaster_apply(try->upcaster, try->values);
	return true;
}

/*
 * Try the chain on one event, in a subtransaction of its own.
 *
 * Result: the error, or NULL.
 */
static ErrorData *
es_upcaster_try(const EsUpcaster *upcaster, Datum *values)
{
	EsUpcasterTry try = {upcaster, values};
	ErrorData  *error;

	es_function_cause = 0;
	(void) es_subxact_run(es_upcaster_try_body, &try, &error);
	if (error != NULL && error->sqlerrcode != ERRCODE_ES_USER_FUNCTION &&
		error->sqlerrcode != ERRCODE_INSUFFICIENT_PRIVILEGE)
		ReThrowError(error);
	return error;
}

/*
 * es_check_upcasters(event_type text, max_count bigint)
 *		RETURNS TABLE (event_id uuid, stream_id text, version bigint,
 *					   schema_version int, sqlstate text, message text)
 *
 * Takes every settled event of the type, or of all types when it is NULL,
 * through its chain.
 *
 * Result: the first failures in the global order, max_count at the most.
 */
Datum
es_check_upcasters(PG_FUNCTION_ARGS)
{
	Snapshot	snapshot = GetActiveSnapshot();
	const EsStore *store;
	Relation	event;
	TupleDesc	desc;
	Tuplestorestate *rows;
	EsRowFilter *filter;
	EsScan	   *scan;
	MemoryContext row_context;
	int64		max_count = es_arg_int64_default(fcinfo, 1, "max_count", 0, PG_INT64_MAX,
												 PG_INT64_MAX);
	Datum		name = (Datum) 0;
	int32	   *type_nos = NULL;
	int			ntypes = 0;
	int			len;
	int64		upto;
	int64		count = 0;

	if (!PG_ARGISNULL(0))
	{
		(void) es_arg_name(fcinfo, 0, "event_type", &len);
		name = PG_GETARG_DATUM(0);
	}

	rows = es_result_set(fcinfo, NULL, 0, &desc);
	event = es_store_open_event(&store, AccessShareLock);
	upto = es_head_bound(event, store, snapshot);
	if (name != (Datum) 0)
		ntypes = es_type_list(store, NULL, 0, &name, 1, &type_nos);
	filter = es_row_filter_begin(event);
	row_context = AllocSetContextCreate(CurrentMemoryContext, "event_store row",
										ALLOCSET_DEFAULT_SIZES);
	scan = es_scan_begin(event, store, snapshot, ES_SCAN_VISIBLE, ForwardScanDirection,
						 0, upto, type_nos, ntypes, PG_INT64_MAX);
	while (count < max_count && es_scan_next(scan))
	{
		MemoryContext old_context;
		Datum		values[Natts_es_out];
		EsType	   *type;
		EsUpcaster *upcaster;
		ErrorData  *error = NULL;
		int32		schema_version;

		if (!es_row_filter_passes(filter, es_scan_position(scan)))
			continue;
		old_context = MemoryContextSwitchTo(row_context);
		type = es_event_stored_values(store, es_scan_slot(scan), values);
		schema_version = DatumGetInt32(values[Anum_es_out_schema_version - 1]);
		upcaster = es_upcaster_for_type(type, schema_version);
		if (upcaster != NULL)
			error = es_upcaster_try(upcaster, values);
		if (error != NULL)
		{
			bool		isnull[6] = {false};
			bool		event_null[Natts_es_out];
			Datum		row[6];

			es_event_nulls(values, event_null);
			isnull[1] = event_null[Anum_es_out_stream_id - 1];
			isnull[2] = event_null[Anum_es_out_version - 1];
			row[0] = values[Anum_es_out_event_id - 1];
			row[1] = values[Anum_es_out_stream_id - 1];
			row[2] = values[Anum_es_out_version - 1];
			row[3] = Int32GetDatum(schema_version);
			row[4] = CStringGetTextDatum(unpack_sql_state(es_function_cause != 0 ?
														   es_function_cause :
														   error->sqlerrcode));
			row[5] = CStringGetTextDatum(error->message);
			tuplestore_putvalues(rows, desc, row, isnull);
			count++;
		}
		MemoryContextSwitchTo(old_context);
		MemoryContextReset(row_context);
	}
	es_scan_end(scan);
	es_row_filter_end(filter);
	MemoryContextDelete(row_context);
	table_close(event, NoLock);
	return (Datum) 0;
}

/*
 * The upcaster for an event that plain SQL looks at; NULL if there is none, or
 * if it is to be shown as it is stored.
 */
static EsUpcaster *
es_upcaster_arg(FunctionCallInfo fcinfo, bool as_stored)
{
	text	   *name;

	/* once in each query: a row is not to change its shape from column to column */
	if (fcinfo->flinfo->fn_extra == NULL)
	{
		es_store_listen();
		fcinfo->flinfo->fn_extra = &es_upcast_possible;
	}
	if (as_stored || !es_upcast_possible)
		return NULL;
	name = PG_GETARG_TEXT_PP(0);
	return es_upcaster_find(VARDATA_ANY(name), VARSIZE_ANY_EXHDR(name), PG_GETARG_INT32(1));
}

static Datum
es_type_read_as(FunctionCallInfo fcinfo, bool as_stored)
{
	EsUpcaster *upcaster = es_upcaster_arg(fcinfo, as_stored);
	text	   *event_type;
	int32		schema_version;

	if (upcaster == NULL)
		return PG_GETARG_DATUM(0);
	es_upcaster_target(upcaster, &event_type, &schema_version);
	PG_RETURN_TEXT_P(event_type);
}

/*
 * es_upcast_type(event_type text, schema_version int) RETURNS text
 *
 * Type of a stored event in today's shape.
 */
Datum
es_upcast_type(PG_FUNCTION_ARGS)
{
	return es_type_read_as(fcinfo, !es_upcast_enabled);
}

/*
 * es_consumed_type(event_type text, schema_version int) RETURNS text
 *
 * The same as consumers get it, whatever is set.
 */
Datum
es_consumed_type(PG_FUNCTION_ARGS)
{
	return es_type_read_as(fcinfo, false);
}

/*
 * es_upcast_schema_version(event_type text, schema_version int) RETURNS int
 */
Datum
es_upcast_schema_version(PG_FUNCTION_ARGS)
{
	EsUpcaster *upcaster = es_upcaster_arg(fcinfo, !es_upcast_enabled);
	text	   *event_type;
	int32		schema_version;

	if (upcaster == NULL)
		return PG_GETARG_DATUM(1);
	es_upcaster_target(upcaster, &event_type, &schema_version);
	PG_RETURN_INT32(schema_version);
}

/*
 * es_upcast_data(event_type text, schema_version int, data jsonb,
 *				  event_id uuid, stream_id text, version bigint,
 *				  metadata jsonb) RETURNS jsonb
 *
 * Data of a stored event in today's shape.
 *
 * Errors: VE006; 55000 when it is called without the metadata that it needs.
 */
Datum
es_upcast_data(PG_FUNCTION_ARGS)
{
	EsUpcaster *upcaster = es_upcaster_arg(fcinfo, !es_upcast_enabled);
	Datum		values[Natts_es_out] = {0};

	if (upcaster == NULL)
		return PG_GETARG_DATUM(2);
	values[Anum_es_out_data - 1] = PG_GETARG_DATUM(2);
	values[Anum_es_out_event_id - 1] = PG_GETARG_DATUM(3);

	/* calls that were written before it was an argument have the default, which is no metadata */
	if (es_upcaster_sees_metadata(upcaster) &&
		(PG_NARGS() <= 6 || !JB_ROOT_IS_OBJECT(PG_GETARG_JSONB_P(6))))
		ereport(ERROR,
				errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				errmsg("function es_upcast_data() needs the metadata of the event"),
				errdetail("An upcaster of event type \"%s\" looks at it.",
						  text_to_cstring(PG_GETARG_TEXT_PP(0))),
				errhint("Create the view or function that calls it again, with the metadata as the last argument."));
	if (PG_NARGS() > 6)
		values[Anum_es_out_metadata - 1] = PG_GETARG_DATUM(6);
	if (PG_GETARG_INT64(5) > 0)
	{
		values[Anum_es_out_stream_id - 1] = PG_GETARG_DATUM(4);
		values[Anum_es_out_version - 1] = PG_GETARG_DATUM(5);
	}
	es_upcaster_apply(upcaster, values);
	return values[Anum_es_out_data - 1];
}

/*
 * es_upcast_support(internal) RETURNS internal
 *
 * Planner support of those above: while there is no upcaster at all, a
 * plan has their argument in their place.  So view events is as fast as its
 * tables, with their indexes.
 */
Datum
es_upcast_support(PG_FUNCTION_ARGS)
{
	Node	   *request = (Node *) PG_GETARG_POINTER(0);
	FuncExpr   *call;

	if (!IsA(request, SupportRequestSimplify))
		PG_RETURN_POINTER(NULL);
	es_store_listen();
	(void) es_upcaster_find("", 0, 1);	/* have them loaded */
	if (es_upcast_possible)
		PG_RETURN_POINTER(NULL);

	call = ((SupportRequestSimplify *) request)->fcall;
	switch (call->funcresulttype)
	{
		case TEXTOID:
			PG_RETURN_POINTER(linitial(call->args));
		case INT4OID:
			PG_RETURN_POINTER(lsecond(call->args));
		case JSONBOID:
			PG_RETURN_POINTER(lthird(call->args));
		default:
			PG_RETURN_POINTER(NULL);
	}
}
