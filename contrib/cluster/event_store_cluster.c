/*-------------------------------------------------------------------------
 * event_store_cluster.c
 *	  What each call over the router costs most often, in C: where a stream is,
 *	  on the router and on the shard, and the call of PL/Proxy with what follows
 *	  an error.
 *
 * Both extensions have a table of slots.  A session keeps it in memory; a
 * trigger on the table (slots_changed) sends an invalidation of the relation
 * with each change, which other sessions get when that is committed, and always
 * before the locks of the transaction go.  So whoever holds the shard's lock of
 * slots and has accepted invalidations knows the slots as they are.
 *
 * Locks: event_store_shard.writing takes the advisory lock of the shard's slots
 * (event_store_shard.lock_key()) in share mode, to the end of the transaction.
 * -------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "access/table.h"
#include "access/tableam.h"
#include "access/xact.h"
#include "catalog/namespace.h"
#include "catalog/pg_collation.h"
#include "catalog/pg_proc.h"
#include "catalog/pg_type.h"
#include "commands/trigger.h"
#include "executor/tuptable.h"
#include "fmgr.h"
#include "funcapi.h"
#include "miscadmin.h"
#include "nodes/execnodes.h"
#include "parser/parse_func.h"
#include "storage/lock.h"
#include "utils/builtins.h"
#include "utils/guc.h"
#include "utils/inval.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/rel.h"
#include "utils/resowner.h"
#include "utils/snapmgr.h"
#include "utils/syscache.h"
#include "utils/timestamp.h"
#include "utils/tuplestore.h"

PG_MODULE_MAGIC;

#define SLOTS 1024

/* Table "slot" of one of the two extensions, as this session knows it. */
typedef struct SlotMap
{
	const char *schema;
	Oid			table;
	bool		is_valid;		/* nothing has changed since it was read ... */
	bool		is_read;		/* ... to its end */
	int32		shard[SLOTS];	/* number of the shard, or 1 for a shard's own
								 * slots; 0: none */
} SlotMap;

static SlotMap router = {.schema = "event_store_cluster"};
static SlotMap own = {.schema = "event_store_shard"};

/* The call of one of the router's functions, for as long as its FmgrInfo is there. */
typedef struct Routed
{
	FmgrInfo	remote;			/* PL/Proxy's function of the same name */
	Oid			failed;			/* event_store_cluster.failed */
	FmgrInfo	input;			/* of the result's type, where the remote one is text */
	Oid			input_param;
	bool		is_text;
	bool		is_set;
	TupleDesc	row;			/* of a set */
} Routed;

PG_FUNCTION_INFO_V1(event_store_cluster_routed);
PG_FUNCTION_INFO_V1(event_store_cluster_part_of);
PG_FUNCTION_INFO_V1(event_store_cluster_slots_changed);
PG_FUNCTION_INFO_V1(event_store_shard_writing);

void		_PG_init(void);

static void
forget_slots(Datum arg, Oid relid)
{
	if (relid == InvalidOid || relid == router.table)
		router.is_valid = false;
	if (relid == InvalidOid || relid == own.table)
		own.is_valid = false;
}

void
_PG_init(void)
{
	CacheRegisterRelcacheCallback(forget_slots, (Datum) 0);
}

/*
 * Reads a table of slots.  An invalidation that comes meanwhile makes it read
 * again, and so does an error, which leaves half of it: the next call reads.
 */
static void
read_slots(SlotMap *map)
{
	while (!map->is_valid || !map->is_read)
	{
		Relation	table;
		Snapshot	snapshot;
		TableScanDesc scan;
		TupleTableSlot *row;

		map->table = get_relname_relid("slot", get_namespace_oid(map->schema, false));
		table = table_open(map->table, AccessShareLock);
		map->is_valid = true;
		map->is_read = false;
		memset(map->shard, 0, sizeof(map->shard));
		snapshot = RegisterSnapshot(GetLatestSnapshot());
		scan = table_beginscan(table, snapshot, 0, NULL);
		row = table_slot_create(table, NULL);
		while (table_scan_getnextslot(scan, ForwardScanDirection, row))
		{
			bool		isnull;
			int			slot = DatumGetInt32(slot_getattr(row, 1, &isnull));

			if (!isnull && slot >= 0 && slot < SLOTS)
				map->shard[slot] = map == &own ? 1 : DatumGetInt32(slot_getattr(row, 2, &isnull));
		}
		ExecDropSingleTupleTableSlot(row);
		table_endscan(scan);
		UnregisterSnapshot(snapshot);
		table_close(table, AccessShareLock);
		map->is_read = true;
	}
}

/*
 * The shard of a stream as the map has it, 0 if it has none.  The hash is that
 * of event_store_cluster.slot_of.  NULL goes somewhere, where the event store
 * says what is wrong with it.
 */
static int32
shard_of(SlotMap *map, text *stream)
{
	int64		slot = 0;

	AcceptInvalidationMessages();
	read_slots(map);
	if (stream != NULL)
		slot = DatumGetInt64(DirectFunctionCall2Coll(hashtextextended, C_COLLATION_OID,
													 PointerGetDatum(stream), Int64GetDatum(0)));
	return map->shard[slot & (SLOTS - 1)];
}

/*
 * event_store_cluster.slots_changed() and event_store_shard.slots_changed():
 * trigger for each row that changes in a table of slots.
 */
Datum
event_store_cluster_slots_changed(PG_FUNCTION_ARGS)
{
	if (!CALLED_AS_TRIGGER(fcinfo))
		ereport(ERROR,
				(errcode(ERRCODE_E_R_I_E_TRIGGER_PROTOCOL_VIOLATED),
				 errmsg("must be called as a trigger")));
	CacheInvalidateRelcache(((TriggerData *) fcinfo->context)->tg_relation);
	return PointerGetDatum(NULL);
}

/*
 * event_store_shard.writing(stream text) returns text
 *
 * The stream, if it belongs to this shard, where it stays to the end of the
 * transaction; 55ES1 otherwise, 0A000 in another isolation level than READ
 * COMMITTED.
 */
Datum
event_store_shard_writing(PG_FUNCTION_ARGS)
{
	text	   *stream = PG_ARGISNULL(0) ? NULL : PG_GETARG_TEXT_PP(0);
	ResourceOwner owner = CurrentResourceOwner;
	LOCKTAG		tag;

	if (IsolationUsesXactSnapshot())
		ereport(ERROR,
				(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
				 errmsg("a shard takes appends in transactions of isolation level READ COMMITTED only"),
				 errhint("Set default_transaction_isolation of the shard's database to \"read committed\".")));
	read_slots(&own);
	/* what pg_advisory_xact_lock_shared(event_store_shard.lock_key(), 0) takes */
	SET_LOCKTAG_ADVISORY(tag, MyDatabaseId, own.table, 0, 2);
	/* the transaction's, like what is written under it, not a cursor's that may fail */
	CurrentResourceOwner = CurTransactionResourceOwner;
	(void) LockAcquire(&tag, ShareLock, false, false);
	CurrentResourceOwner = owner;
	if (shard_of(&own, stream) == 0)
		ereport(ERROR,
				(errcode(MAKE_SQLSTATE('5', '5', 'E', 'S', '1')),
				 errmsg("stream \"%s\" does not belong to this shard", stream ? text_to_cstring(stream) : ""),
				 errhint("Use the functions of the router, which knows where it is.")));
	if (stream == NULL)
		PG_RETURN_NULL();
	PG_RETURN_TEXT_P(stream);
}

static int32
part_of(text *stream)
{
	int32		shard = shard_of(&router, stream);

	if (shard == 0)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("the cluster has no shard"),
				 errhint("Add one with es_add_shard.")));
	return shard - 1;
}

/* event_store_cluster.part_of(stream text) returns int: PL/Proxy's partition */
Datum
event_store_cluster_part_of(PG_FUNCTION_ARGS)
{
	PG_RETURN_INT32(part_of(PG_ARGISNULL(0) ? NULL : PG_GETARG_TEXT_PP(0)));
}

/*
 * The function of PL/Proxy behind a function of the router: that of the same
 * name and arguments, with the partition before them.
 */
static Routed *
get_remote(FunctionCallInfo fcinfo)
{
	FmgrInfo   *flinfo = fcinfo->flinfo;
	MemoryContext before;
	Routed	   *routed;
	HeapTuple	tuple;
	Form_pg_proc proc;
	Oid			types[FUNC_MAX_ARGS];
	Oid			remote;

	if (flinfo->fn_extra != NULL)
		return flinfo->fn_extra;
	before = MemoryContextSwitchTo(flinfo->fn_mcxt);
	routed = palloc0(sizeof(Routed));
	tuple = SearchSysCache1(PROCOID, ObjectIdGetDatum(flinfo->fn_oid));
	if (!HeapTupleIsValid(tuple))
		elog(ERROR, "cache lookup failed for function %u", flinfo->fn_oid);
	proc = (Form_pg_proc) GETSTRUCT(tuple);
	types[0] = INT4OID;
	memcpy(types + 1, proc->proargtypes.values, proc->pronargs * sizeof(Oid));
	remote = LookupFuncName(list_make2(makeString("event_store_cluster"), makeString(pstrdup(NameStr(proc->proname)))),
							proc->pronargs + 1, types, false);
	fmgr_info_cxt(remote, &routed->remote, flinfo->fn_mcxt);
	types[0] = types[1] = types[2] = types[3] = TEXTOID;
	types[4] = TIMESTAMPTZOID;
	routed->failed = LookupFuncName(list_make2(makeString("event_store_cluster"), makeString("failed")), 5, types, false);
	routed->is_set = proc->proretset;
	if (routed->is_set)
	{
		if (get_call_result_type(fcinfo, NULL, &routed->row) != TYPEFUNC_COMPOSITE)
			elog(ERROR, "return type must be a row type");
		routed->row = CreateTupleDescCopy(routed->row);
	}
	else if (get_func_rettype(remote) == TEXTOID && proc->prorettype != TEXTOID)
	{
		Oid			input;

		getTypeInputInfo(proc->prorettype, &input, &routed->input_param);
		fmgr_info_cxt(input, &routed->input, flinfo->fn_mcxt);
		routed->is_text = true;
	}
	ReleaseSysCache(tuple);
	MemoryContextSwitchTo(before);
	flinfo->fn_extra = routed;
	return routed;
}

/* All rows of the set that the call returns, into a tuplestore. */
static void
fetch_set(Routed *routed, FunctionCallInfo call, Tuplestorestate *rows)
{
	ReturnSetInfo *info = (ReturnSetInfo *) call->resultinfo;

	routed->remote.fn_extra = NULL;
	tuplestore_clear(rows);
	for (;;)
	{
		Datum		row;
		HeapTupleData tuple;

		CHECK_FOR_INTERRUPTS();
		call->isnull = false;
		info->isDone = ExprSingleResult;
		row = FunctionCallInvoke(call);
		if (info->isDone == ExprEndResult)
			break;
		tuple.t_data = DatumGetHeapTupleHeader(row);
		tuple.t_len = HeapTupleHeaderGetDatumLength(tuple.t_data);
		tuplestore_puttuple(rows, &tuple);
		if (info->isDone == ExprSingleResult)
			break;
	}
}

/*
 * Calls PL/Proxy's function in a subtransaction, which is over when this returns
 * or raises an error: one that an error left behind would leave the session in a
 * transaction block that nobody has begun.
 *
 * After an error PL/Proxy opens a new connection, and says so with a NOTICE,
 * which is for nobody.
 *
 * stream		whose shard is called; NULL = none
 * rows			where a set goes
 * result		where anything else goes
 *
 * Result: the error, in the current memory context; NULL = there was none.
 */
static ErrorData *
call_remote(Routed *routed, text *stream, FunctionCallInfo call, Tuplestorestate *rows, Datum *result)
{
	MemoryContext context = CurrentMemoryContext;
	ResourceOwner owner = CurrentResourceOwner;
	int			messages = client_min_messages;
	ErrorData  *volatile error = NULL;

	BeginInternalSubTransaction(NULL);
	MemoryContextSwitchTo(context);
	PG_TRY();
	{
		call->args[0].value = Int32GetDatum(part_of(stream));
		client_min_messages = Max(messages, WARNING);
		if (routed->is_set)
			fetch_set(routed, call, rows);
		else
		{
			call->isnull = false;
			*result = FunctionCallInvoke(call);
		}
		client_min_messages = messages;
		ReleaseCurrentSubTransaction();
	}
	PG_CATCH();
	{
		client_min_messages = messages;

		/* first of all: even the copy of the error may fail */
		RollbackAndReleaseCurrentSubTransaction();
		MemoryContextSwitchTo(context);
		CurrentResourceOwner = owner;
		error = CopyErrorData();
		FlushErrorState();
	}
	PG_END_TRY();
	MemoryContextSwitchTo(context);
	CurrentResourceOwner = owner;
	return error;
}

/*
 * A function of one stream on the router: its first argument is the stream.
 * Calls the function of PL/Proxy on the stream's shard; after an error
 * event_store_cluster.failed either raises it in the shard's words or returns,
 * then it is tried again.
 */
Datum
event_store_cluster_routed(PG_FUNCTION_ARGS)
{
	Routed	   *routed = get_remote(fcinfo);
	ReturnSetInfo *info = (ReturnSetInfo *) fcinfo->resultinfo;
	MemoryContext context = CurrentMemoryContext;
	TimestampTz since = GetCurrentTimestamp();
	Tuplestorestate *rows = NULL;
	ReturnSetInfo remote_info;
	Datum		result = (Datum) 0;
	ErrorData  *error;

	LOCAL_FCINFO(call, FUNC_MAX_ARGS);

	if (routed->is_set)
	{
		if (info == NULL || !IsA(info, ReturnSetInfo) || !(info->allowedModes & SFRM_Materialize))
			ereport(ERROR,
					(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
					 errmsg("set-valued function called in context that cannot accept a set")));
		remote_info = *info;
		remote_info.allowedModes = SFRM_ValuePerCall;
		remote_info.returnMode = SFRM_ValuePerCall;
		remote_info.expectedDesc = routed->row;
		remote_info.setResult = NULL;
		remote_info.setDesc = NULL;
		/* its files must not be the subtransaction's, which takes them along when it ends */
		MemoryContextSwitchTo(info->econtext->ecxt_per_query_memory);
		rows = tuplestore_begin_heap((info->allowedModes & SFRM_Materialize_Random) != 0, false, work_mem);
		info->setDesc = CreateTupleDescCopy(routed->row);
		MemoryContextSwitchTo(context);
	}
	InitFunctionCallInfoData(*call, &routed->remote, fcinfo->nargs + 1, PG_GET_COLLATION(), NULL,
							 routed->is_set ? (Node *) &remote_info : NULL);
	memcpy(call->args + 1, fcinfo->args, fcinfo->nargs * sizeof(NullableDatum));
	call->args[0].isnull = false;

	while ((error = call_remote(routed, PG_ARGISNULL(0) ? NULL : PG_GETARG_TEXT_PP(0), call, rows, &result)) != NULL)
	{
		/* a cancel, and what the server itself ends for, are not the shard's */
		if (error->sqlerrcode == ERRCODE_QUERY_CANCELED || error->sqlerrcode == ERRCODE_ASSERT_FAILURE)
			ReThrowError(error);
		OidFunctionCall5(routed->failed, CStringGetTextDatum(unpack_sql_state(error->sqlerrcode)),
						 CStringGetTextDatum(error->message ? error->message : ""),
						 CStringGetTextDatum(error->detail ? error->detail : ""),
						 CStringGetTextDatum(error->hint ? error->hint : ""), TimestampTzGetDatum(since));
		FreeErrorData(error);
	}

	if (routed->is_set)
	{
		info->returnMode = SFRM_Materialize;
		info->setResult = rows;
		return (Datum) 0;
	}
	fcinfo->isnull = call->isnull;
	if (routed->is_text && !call->isnull)
		result = InputFunctionCall(&routed->input, TextDatumGetCString(result), routed->input_param, -1);
	return result;
}
