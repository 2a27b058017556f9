/*-------------------------------------------------------------------------
 * state/aggregate.c
 *	  Aggregates: the state of a stream by its category's reducer.
 *
 * The state is the newest snapshot of the aggregate's schema version and the
 * events after it, folded by the reducer.  When that were as many as the
 * aggregate's snapshot_every or more, the state is saved as a snapshot, on
 * terms that can never harm the reader: nothing is saved where writing is not
 * possible, no lock is waited for, and an error leaves only the snapshot out.
 *
 * Definitions are those of the moment, whatever the active snapshot shows; so
 * snapshots are looked up as of the moment too, or a state from before a change
 * would be used, and saved, as one of now.
 *
 * What the caller computes becomes what others start from, and a caller can
 * bend the computation (search_path, settings).  So only those may save who
 * could take any snapshot by themselves: who may execute es_snapshot.
 *
 * Definitions are cached like upcasters (evolution/upcast.c).
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/genam.h"
#include "access/htup_details.h"
#include "access/table.h"
#include "access/tableam.h"
#include "access/xact.h"
#include "access/xlog.h"
#include "catalog/namespace.h"
#include "catalog/pg_type.h"
#include "funcapi.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/fmgroids.h"
#include "utils/guc.h"
#include "utils/inval.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"
#include "utils/syscache.h"
#include "utils/timestamp.h"

#include "base/args.h"
#include "base/compat.h"
#include "base/fault.h"
#include "base/lock.h"
#include "base/result.h"
#include "base/subxact.h"
#include "evolution/function.h"
#include "evolution/upcast.h"
#include "log/event.h"
#include "log/sql.h"
#include "log/stream.h"
#include "read/read.h"
#include "settings.h"
#include "state/aggregate.h"
#include "state/fold.h"
#include "state/snapshot.h"

PG_FUNCTION_INFO_V1(es_define_aggregate);
PG_FUNCTION_INFO_V1(es_drop_aggregate);
PG_FUNCTION_INFO_V1(es_state);
PG_FUNCTION_INFO_V1(es_drop_snapshots);

/* columns of event_store.aggregate */
#define Anum_es_aggregate_category			1
#define Anum_es_aggregate_reducer			2
#define Anum_es_aggregate_initial_state		3
#define Anum_es_aggregate_snapshot_every	4
#define Anum_es_aggregate_schema_version	5
#define Natts_es_aggregate					5

static const EsAttribute es_aggregate_columns[Natts_es_aggregate] = {
	{"category", TEXTOID},
	{"reducer", TEXTOID},
	{"initial_state", JSONBOID},
	{"snapshot_every", INT4OID},
	{"schema_version", INT4OID}
};

/*
 * Snapshots that es_state saves in one transaction.  Each costs a
 * subtransaction, and up to so many are cheap for everybody else.
 */
#define ES_MAX_SAVES			32

typedef struct EsAggregate
{
	text	   *category;
	char	   *reducer;
	Jsonb	   *initial_state;
	int32		snapshot_every; /* 0 = never */
	int32		schema_version;
} EsAggregate;

static EsSql es_define_aggregate_sql =
ES_SQL("INSERT INTO event_store.aggregate"
	   " (category, reducer, initial_state, snapshot_every, schema_version)"
	   " VALUES ($1, $2, $3, $4, $5)",
	   5, TEXTOID, TEXTOID, JSONBOID, INT4OID, INT4OID);
static EsSql es_drop_aggregate_sql =
ES_SQL("DELETE FROM event_store.aggregate WHERE category OPERATOR(pg_catalog.=) $1",
	   1, TEXTOID);
static EsSql es_drop_snapshots_sql =
ES_SQL("DELETE FROM event_store.snapshot n USING event_store.stream s"
	   " WHERE n.stream_no OPERATOR(pg_catalog.=) s.stream_no"
	   " AND (s.stream_id OPERATOR(pg_catalog.=) $1"
	   " OR (s.stream_id OPERATOR(pg_catalog.>=) ($1 OPERATOR(pg_catalog.||) '-')"
	   " AND s.stream_id OPERATOR(pg_catalog.<) ($1 OPERATOR(pg_catalog.||) '.')))",
	   1, TEXTOID);
static EsSql es_drop_older_sql =
ES_SQL("DELETE FROM event_store.snapshot WHERE stream_no OPERATOR(pg_catalog.=) $1"
	   " AND schema_version OPERATOR(pg_catalog.<) $2",
	   2, INT8OID, INT4OID);

static EsSql es_drop_all_snapshots_sql =
ES_SQL("DELETE FROM event_store.snapshot", 0);
static EsSql es_drop_stream_snapshots_sql =
ES_SQL("DELETE FROM event_store.snapshot n USING event_store.stream s"
	   " WHERE n.stream_no OPERATOR(pg_catalog.=) s.stream_no"
	   " AND s.stream_id OPERATOR(pg_catalog.=) $1",
	   1, TEXTOID);

static bool es_aggregates_valid = false;
static uint64 es_aggregates_generation = 1;
static Oid	es_aggregate_relid = InvalidOid;
static MemoryContext es_aggregate_context = NULL;
static EsAggregate *es_aggregates = NULL;
static int	es_num_aggregates = 0;
static bool es_aggregate_registered = false;

static void
es_aggregate_callback(Datum arg, Oid relid)
{
	if (!OidIsValid(relid) || relid == es_aggregate_relid)
	{
		es_aggregates_valid = false;
		es_aggregates_generation++;
	}
}

static Oid
es_aggregate_relation(void)
{
	return es_store_relation(get_namespace_oid("event_store", false), "aggregate");
}

/*
 * Read all definitions into the current memory context.
 */
static void
es_aggregate_read(Relation rel)
{
	TupleDesc	desc = RelationGetDescr(rel);
	SysScanDesc scan = systable_beginscan(rel, InvalidOid, false, NULL, 0, NULL);
	int			size = 16;
	HeapTuple	tuple;

	es_num_aggregates = 0;
	es_aggregates = palloc(size * sizeof(EsAggregate));
	while (HeapTupleIsValid(tuple = systable_getnext(scan)))
	{
		EsAggregate *aggregate;
		bool		isnull;

		if (es_num_aggregates == size)
		{
			size *= 2;
			es_aggregates = repalloc(es_aggregates, size * sizeof(EsAggregate));
		}
		aggregate = &es_aggregates[es_num_aggregates++];
		aggregate->category =
			DatumGetTextPCopy(heap_getattr(tuple, Anum_es_aggregate_category, desc, &isnull));
		aggregate->reducer =
			TextDatumGetCString(heap_getattr(tuple, Anum_es_aggregate_reducer, desc, &isnull));
		aggregate->initial_state =
			DatumGetJsonbPCopy(heap_getattr(tuple, Anum_es_aggregate_initial_state, desc,
											&isnull));
		aggregate->snapshot_every =
			DatumGetInt32(heap_getattr(tuple, Anum_es_aggregate_snapshot_every, desc, &isnull));
		aggregate->schema_version =
			DatumGetInt32(heap_getattr(tuple, Anum_es_aggregate_schema_version, desc, &isnull));
	}
	systable_endscan(scan);
}

/*
 * Make sure that the definitions are here and up to date.
 */
static void
es_aggregate_load(void)
{
	if (!es_aggregate_registered)
	{
		CacheRegisterRelcacheCallback(es_aggregate_callback, (Datum) 0);
		es_aggregate_registered = true;
	}

	es_store_listen();
	/* an invalidation that arrives during the look-up starts it again */
	while (!es_aggregates_valid)
	{
		Oid			relid = es_aggregate_relation();
		MemoryContext context;
		MemoryContext old_context;
		Relation	rel;

		es_aggregate_relid = relid;
		rel = table_open(relid, AccessShareLock);
		es_store_check_columns(rel, es_aggregate_columns, Natts_es_aggregate);
		/* callers may hold on to the old ones */
		if (es_aggregate_context != NULL)
			MemoryContextSetParent(es_aggregate_context, TopTransactionContext);
		es_aggregate_context = NULL;
		es_num_aggregates = 0;

		context = AllocSetContextCreate(CurrentMemoryContext, "event_store aggregates",
										ALLOCSET_SMALL_SIZES);
		es_aggregates_valid = true;
		PG_TRY();
		{
			old_context = MemoryContextSwitchTo(context);
			es_aggregate_read(rel);
			ES_FAULT_POINT("aggregate_loading");
			MemoryContextSwitchTo(old_context);
		}
		PG_CATCH();
		{
			es_aggregates_valid = false;
			es_num_aggregates = 0;
			PG_RE_THROW();
		}
		PG_END_TRY();
		MemoryContextSetParent(context, TopMemoryContext);
		es_aggregate_context = context;
		table_close(rel, AccessShareLock);
	}
}

/*
 * The aggregate of a category.
 *
 * Result: NULL if there is none; good until the end of the transaction.
 */
static const EsAggregate *
es_aggregate_find(const char *category, int len)
{
	es_aggregate_load();
	for (int i = 0; i < es_num_aggregates; i++)
	{
		text	   *candidate = es_aggregates[i].category;

		if (VARSIZE_ANY_EXHDR(candidate) == len &&
			memcmp(VARDATA_ANY(candidate), category, len) == 0)
			return &es_aggregates[i];
	}
	return NULL;
}

/*
 * Is there an aggregate for a category?
 */
bool
es_aggregate_exists(const char *category, int len)
{
	return es_aggregate_find(category, len) != NULL;
}

/*
 * Throw away the snapshots of a category's streams: whose they are cannot be
 * told any more.
 *
 * Result: how many.
 */
static uint64
es_aggregate_drop_snapshots(Datum category)
{
	return es_sql_latest(&es_drop_snapshots_sql, &category, NULL);
}

/*
 * es_define_aggregate(category text, reducer regprocedure,
 *					   initial_state jsonb, snapshot_every int,
 *					   schema_version int) RETURNS void
 *
 * Errors: 42883, 42P13, 42501 for a function that will not do; 42710 when the
 * category has an aggregate already.
 */
Datum
es_define_aggregate(PG_FUNCTION_ARGS)
{
	Oid			argtypes[2];
	Datum		args[5];
	int			len;
	const char *category = es_arg_category(fcinfo, 0, "category", &len);
	int32		schema_version = es_arg_int32(fcinfo, 4, "schema_version", 1, PG_INT32_MAX);
	Oid			relid = es_aggregate_relation();
	Oid			reducer;
	uint64		dropped;

	/* one argument less in a database whose script is still that of 0.1 */
	bool		if_not_exists = PG_NARGS() > 5 && es_arg_bool(fcinfo, 5, "if_not_exists");

	reducer = es_arg_function(fcinfo, 1, "reducer");
	args[2] = JsonbPGetDatum(es_arg_jsonb(fcinfo, 2, "initial_state"));
	args[3] = Int32GetDatum(es_arg_int32(fcinfo, 3, "snapshot_every", 0, PG_INT32_MAX));
	argtypes[0] = JSONBOID;
	argtypes[1] = es_event_type_oid(fcinfo);
	es_function_check(reducer, "reducer", 2, argtypes, false);
	PreventCommandIfReadOnly("es_define_aggregate()");

	es_lock_table(relid, ShareRowExclusiveLock);
	es_lock_table(es_store_get()->snapshot, ExclusiveLock);
	if (es_aggregate_find(category, len) != NULL)
	{
		ereport(if_not_exists ? NOTICE : ERROR,
				errcode(ERRCODE_DUPLICATE_OBJECT),
				errmsg("there already is an aggregate for category \"%.*s\"%s", len, category,
					   if_not_exists ? ", skipping" : ""),
				if_not_exists ? 0 : errhint("Remove it with es_drop_aggregate first."));
		PG_RETURN_VOID();
	}

	args[0] = PG_GETARG_DATUM(0);
	args[1] = CStringGetTextDatum(es_function_signature(reducer));
	args[4] = Int32GetDatum(schema_version);
	es_sql_once(&es_define_aggregate_sql, args, NULL);
	dropped = es_aggregate_drop_snapshots(args[0]);
	if (dropped > 0)
		ereport(NOTICE,
				errmsg("snapshots of category \"%.*s\" that were taken before are thrown away: " UINT64_FORMAT,
					   len, category, dropped));
	PG_RETURN_VOID();
}

/*
 * es_drop_aggregate(category text) RETURNS void
 *
 * Errors: 42704 when there is none.
 */
Datum
es_drop_aggregate(PG_FUNCTION_ARGS)
{
	Datum		args[1];
	int			len;
	const char *category = es_arg_category(fcinfo, 0, "category", &len);
	const EsAggregate *aggregate;
	Oid			relid = es_aggregate_relation();

	PreventCommandIfReadOnly("es_drop_aggregate()");
	es_lock_table(relid, ShareRowExclusiveLock);
	es_lock_table(es_store_get()->snapshot, ExclusiveLock);
	aggregate = es_aggregate_find(category, len);
	if (aggregate == NULL)
		ereport(ERROR,
				errcode(ERRCODE_UNDEFINED_OBJECT),
				errmsg("there is no aggregate for category \"%.*s\"", len, category));

	args[0] = PG_GETARG_DATUM(0);
	(void) es_aggregate_drop_snapshots(args[0]);
	es_sql_latest(&es_drop_aggregate_sql, args, NULL);
	PG_RETURN_VOID();
}

/*
 * es_drop_snapshots(stream_id text) RETURNS bigint
 *
 * Throws away the snapshots of a stream, or all when it is NULL.  For whoever
 * has replaced a reducer: an es_state that began before does not save either.
 */
Datum
es_drop_snapshots(PG_FUNCTION_ARGS)
{
	Datum		args[1] = {PG_GETARG_DATUM(0)};
	Oid			relid = es_aggregate_relation();
	uint64		count;

	PreventCommandIfReadOnly("es_drop_snapshots()");
	es_lock_table(es_store_get()->snapshot, ExclusiveLock);
	if (PG_ARGISNULL(0))
		count = es_sql_latest(&es_drop_all_snapshots_sql, NULL, NULL);
	else
		count = es_sql_latest(&es_drop_stream_snapshots_sql, args, NULL);
	CacheInvalidateRelcacheByRelid(relid);
	PG_RETURN_INT64((int64) count);
}

/*
 * The last event of a stream that had been appended at a moment, by its
 * created_at; 0 if there is none.
 */
static int64
es_state_version_at(Relation event, const EsStore *store, int64 stream_no, TimestampTz moment)
{
	Relation	index = es_store_open_index(&store->read_index[ES_INDEX_STREAM]);
	TupleTableSlot *slot = table_slot_create(event, NULL);
	IndexScanDesc scan = es_index_beginscan(event, index, GetActiveSnapshot(), 1);
	ScanKeyData key;
	int64		version = 0;

	ScanKeyInit(&key, 1, BTEqualStrategyNumber, F_INT8EQ, Int64GetDatum(stream_no));
	index_rescan(scan, &key, 1, NULL, 0);
	while (version == 0 && index_getnext_slot(scan, BackwardScanDirection, slot))
	{
		bool		isnull;

		CHECK_FOR_INTERRUPTS();
		if (DatumGetTimestampTz(slot_getattr(slot, Anum_es_event_created_at, &isnull)) <= moment)
			version = DatumGetInt32(slot_getattr(slot, Anum_es_event_version, &isnull));
	}
	index_endscan(scan);
	ExecDropSingleTupleTableSlot(slot);
	index_close(index, AccessShareLock);
	return version;
}

/*
 * May the current user take snapshots?
 */
static bool
es_state_may_save(FunctionCallInfo fcinfo)
{
	Oid			argtypes[4] = {TEXTOID, INT8OID, JSONBOID, INT4OID};
	Oid			funcid = GetSysCacheOid3(PROCNAMEARGSNSP, Anum_pg_proc_oid,
										 CStringGetDatum("es_snapshot"),
										 PointerGetDatum(buildoidvector(argtypes, 4)),
										 ObjectIdGetDatum(get_func_namespace(fcinfo->flinfo->fn_oid)));

	return OidIsValid(funcid) && es_may_execute(funcid, GetUserId());
}

/*
 * Is another transaction writing that snapshot at the moment?
 */
static bool
es_snapshot_contended(const EsStore *store, int64 stream_no, int32 schema_version)
{
	Relation	rel = table_open(store->snapshot, AccessShareLock);
	Relation	index = es_store_open_index(&store->snapshot_by_stream);
	TupleTableSlot *slot = table_slot_create(rel, NULL);
	SnapshotData dirty;
	IndexScanDesc scan;
	ScanKeyData keys[2];
	bool		contended = false;

	InitDirtySnapshot(dirty);
	ScanKeyInit(&keys[0], 1, BTEqualStrategyNumber, F_INT8EQ, Int64GetDatum(stream_no));
	ScanKeyInit(&keys[1], 2, BTEqualStrategyNumber, F_INT4EQ, Int32GetDatum(schema_version));
	scan = es_index_beginscan(rel, index, &dirty, 2);
	index_rescan(scan, keys, 2, NULL, 0);
	while (!contended && index_getnext_slot(scan, ForwardScanDirection, slot))
		contended = TransactionIdIsValid(dirty.xmin) || TransactionIdIsValid(dirty.xmax);
	index_endscan(scan);
	ExecDropSingleTupleTableSlot(slot);
	index_close(index, AccessShareLock);
	table_close(rel, NoLock);
	return contended;
}

/*
 * Write a snapshot, and remove those of older schema versions of the state.
 */
static void
es_state_write(int64 stream_no, int32 schema_version, int64 version, Jsonb *state)
{
	Datum		args[2];
	int			nest_level = NewGUCNestLevel();

	/* should somebody be faster after all */
	(void) set_config_option("lock_timeout", "1", PGC_USERSET, PGC_S_SESSION,
							 GUC_ACTION_SAVE, true, 0, false);
	(void) es_snapshot_write(stream_no, schema_version, version, state);

	args[0] = Int64GetDatum(stream_no);
	args[1] = Int32GetDatum(schema_version);
	(void) es_sql_once(&es_drop_older_sql, args, NULL);
	AtEOXact_GUC(true, nest_level);
}

typedef struct EsStateSave
{
	int64		stream_no;
	int32		schema_version;
	int64		version;
	Jsonb	   *state;
} EsStateSave;

static bool
es_state_save_body(void *arg)
{
	EsStateSave *save = arg;

	es_state_write(save->stream_no, save->schema_version, save->version, save->state);
	return true;
}

/*
 * Save a state as a snapshot, if that harms nobody.
 *
 * upcast_generation, aggregates_generation		as when the state was computed
 */
static void
es_state_save(const EsStore *store, int64 stream_no, int32 schema_version,
			  int64 version, Jsonb *state,
			  uint64 upcast_generation, uint64 aggregates_generation)
{
	static TransactionId saving_xid = InvalidTransactionId;
	static int	saves = 0;
	EsStateSave save = {stream_no, schema_version, version, state};
	ErrorData  *error;

	/* in SERIALIZABLE a write could make the reader fail at its commit */
	if (RecoveryInProgress() || XactReadOnly || IsInParallelMode() ||
		IsolationIsSerializable())
		return;
	if (!TransactionIdIsValid(saving_xid) || GetTopTransactionIdIfAny() != saving_xid)
		saves = 0;
	if (saves >= ES_MAX_SAVES)
		return;
	if (!es_lock_table_nowait(store->snapshot, RowExclusiveLock))
		return;
	/* under that lock no definition can change */
	if (es_upcast_generation() != upcast_generation ||
		es_aggregates_generation != aggregates_generation)
		return;
	if (es_snapshot_is_replicated(es_store_get()) ||
		es_snapshot_contended(es_store_get(), stream_no, schema_version))
		return;

	(void) es_subxact_run(es_state_save_body, &save, &error);
	if (error != NULL)
	{
		/* the reader is to stop, whatever he is doing */
		if (ERRCODE_TO_CATEGORY(error->sqlerrcode) == ERRCODE_OPERATOR_INTERVENTION)
			ReThrowError(error);
		FreeErrorData(error);
	}
	saving_xid = GetTopTransactionIdIfAny();
	saves++;
}

/*
 * es_state(stream_id text, at_version bigint, at_time timestamptz)
 *		RETURNS (version bigint, state jsonb)
 *
 * at_version	not beyond that version
 * at_time		after the last event that had been appended by then
 *
 * Result: version 0 and the initial state for an unknown stream.
 * Errors: 42704 when the category has no aggregate; VE006.
 */
Datum
es_state(PG_FUNCTION_ARGS)
{
	const EsStore *store;
	const EsAggregate *aggregate;
	Relation	event;
	EsFold		fold;
	Oid			argtypes[2];
	int			len;
	int			category_len;
	const char *stream = es_arg_name(fcinfo, 0, "stream_id", &len);
	bool		as_of = !PG_ARGISNULL(1) || !PG_ARGISNULL(2);
	bool		as_stored = !es_upcast_enabled;	/* a reducer might change it */
	bool		use_snapshots;
	uint64		upcast_generation;
	uint64		aggregates_generation;
	int64		stream_no;
	Datum		values[2];
	bool		isnull[2] = {false};

	fold.upto = es_arg_int64_default(fcinfo, 1, "at_version", 0, PG_INT64_MAX, PG_INT64_MAX);
	category_len = es_category_length(stream, len);
	aggregate = es_aggregate_find(stream, category_len);
	if (aggregate == NULL)
		ereport(ERROR,
				errcode(ERRCODE_UNDEFINED_OBJECT),
				errmsg("there is no aggregate for category \"%.*s\"", category_len, stream),
				errhint("Define it with es_define_aggregate."));
	upcast_generation = es_upcast_generation();
	aggregates_generation = es_aggregates_generation;

	argtypes[0] = JSONBOID;
	argtypes[1] = es_event_type_oid(fcinfo);
	fold.reducer = es_function_get("reducer", aggregate->reducer, 2, argtypes);
	fold.desc = es_result_type_desc(argtypes[1], es_out_attributes, Natts_es_out);
	fold.context = CurrentMemoryContext;
	fold.version = 0;
	fold.count = 0;
	fold.state = DatumGetJsonbPCopy(JsonbPGetDatum(aggregate->initial_state));

	event = es_store_open_event(&store, AccessShareLock);
	/* snapshots are made of upcast events */
	use_snapshots = !as_stored && es_snapshot_allowed(event);
	stream_no = es_stream_find(store, stream, len);
	if (stream_no != 0)
	{
		if (!PG_ARGISNULL(2))
			fold.upto = Min(fold.upto,
							es_state_version_at(event, store, stream_no,
												PG_GETARG_TIMESTAMPTZ(2)));
		if (use_snapshots)
		{
			Relation	rel = table_open(store->snapshot, AccessShareLock);
			TupleTableSlot *slot = table_slot_create(rel, NULL);
			int64		current = es_event_version(event, store, GetActiveSnapshot(),
												   stream_no, NULL);
			bool		found;

			PushActiveSnapshot(GetCatalogSnapshot(RelationGetRelid(rel)));
			found = es_snapshot_find(rel, store, stream_no, aggregate->schema_version,
									 Min(fold.upto, current), slot);
			/* of definitions that are newer than ours? */
			es_store_listen();
			if (found && es_upcast_generation() == upcast_generation &&
				es_aggregates_generation == aggregates_generation)
			{
				fold.version = DatumGetInt64(slot->tts_values[Anum_es_snapshot_version - 1]);
				fold.state = DatumGetJsonbPCopy(slot->tts_values[Anum_es_snapshot_data - 1]);
			}
			PopActiveSnapshot();
			ExecDropSingleTupleTableSlot(slot);
			table_close(rel, NoLock);
		}
		es_read_stream_events(event, store, stream_no, fold.version + 1,
							  fold.upto == PG_INT64_MAX ? PG_INT64_MAX : fold.upto - fold.version,
							  ForwardScanDirection, as_stored, es_fold_event, &fold);
		if (use_snapshots && !as_of && aggregate->snapshot_every > 0 &&
			fold.count >= aggregate->snapshot_every && es_state_may_save(fcinfo))
			es_state_save(store, stream_no, aggregate->schema_version, fold.version,
						  fold.state, upcast_generation, aggregates_generation);
	}
	table_close(event, NoLock);

	values[0] = Int64GetDatum(fold.version);
	values[1] = JsonbPGetDatum(fold.state);
	return es_result_row(fcinfo, NULL, 0, values, isnull);
}
