/*-------------------------------------------------------------------------
 * log/verify.c
 *	  Find what somebody has done to the log behind its back.
 *
 * The walk goes along the index by stream and version, beside it one along
 * the streams by number, so that it needs the memory of one event and of the
 * event types, whatever the size of the store.  All tables are read with one
 * snapshot, and nothing that the session remembers of them is used.
 *
 * What is sound without hashes: streams and types exist and fit together,
 * versions have no holes, positions ascend along a stream.  With hashes
 * (log/chain.c) also: what an event says, where it stands, and what stood
 * before it.  An event whose predecessor is gone cannot be checked itself, for
 * its hash hangs on it.  After a hash that does not match the check goes on
 * with the stored one, so that one change is one row.
 *
 * Locks: AccessShareLock on the tables.
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/genam.h"
#include "access/table.h"
#include "access/tableam.h"
#include "catalog/namespace.h"
#include "catalog/pg_trigger.h"
#include "catalog/pg_type.h"
#include "commands/trigger.h"
#include "executor/tuptable.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/fmgroids.h"
#include "utils/hsearch.h"
#include "utils/memutils.h"
#include "utils/rel.h"
#include "utils/reltrigger.h"
#include "utils/rls.h"
#include "utils/snapmgr.h"
#include "utils/tuplestore.h"

#include "base/args.h"
#include "base/compat.h"
#include "base/result.h"
#include "log/chain.h"
#include "log/durable.h"
#include "log/names.h"
#include "log/store.h"
#include "log/stream.h"

/* columns of the result */
#define Anum_es_verify_stream_id		1
#define Anum_es_verify_version			2
#define Anum_es_verify_global_position	3
#define Anum_es_verify_problem			4
#define Natts_es_verify					4

typedef struct EsVerifyType
{
	int32		type_no;		/* hash key */
	text	   *category;		/* NULL = of events that belong to no stream */
	text	   *name;
} EsVerifyType;

typedef struct EsVerify
{
	const EsStore *store;
	Relation	event;
	Tuplestorestate *result;
	TupleDesc	desc;
	HTAB	   *types;

	/* where the walk along the streams stands */
	IndexScanDesc streams;
	TupleTableSlot *stream_slot;
	int64		next_no;		/* 0 = at the end */

	/* the stream whose events come */
	int64		stream_no;		/* 0 = none yet, or events that belong to none */
	char	   *name;			/* NULL = none */
	int			name_len;
	int64		version;		/* of its last event */
	int64		position;
	int64		begun;			/* version at which its hashes begin; 0 = not yet */
	bool		last_known;
	uint8		last[ES_HASH_LEN];
} EsVerify;

/* the triggers of the store's tables */
typedef struct EsOwnTriggers
{
	const char *table;
	const char *function;
	int			count;
} EsOwnTriggers;

static const EsOwnTriggers es_own_triggers[] = {
	{"event", "es_guard", 2},
	{"stream", "es_guard", 2},
	{"event_type", "es_guard", 2},
	{"mark", "es_guard", 2},
	{"projection", "es_mark_replicated", 1},
	{"subscription", "es_mark_replicated", 1},
	{"upcaster", "es_definition_changed", 2},
	{"aggregate", "es_definition_changed", 2},
};

PG_FUNCTION_INFO_V1(es_verify);

/*
 * One row of the result.
 *
 * version, position	0 = NULL
 */
static void
es_report(EsVerify *verify, int64 version, int64 position, const char *problem)
{
	Datum		values[Natts_es_verify] = {0};
	bool		isnull[Natts_es_verify] = {false};

	if (verify->name == NULL)
		isnull[Anum_es_verify_stream_id - 1] = true;
	else
		values[Anum_es_verify_stream_id - 1] =
			PointerGetDatum(cstring_to_text_with_len(verify->name, verify->name_len));
	values[Anum_es_verify_version - 1] = Int64GetDatum(version);
	isnull[Anum_es_verify_version - 1] = version == 0;
	values[Anum_es_verify_global_position - 1] = Int64GetDatum(position);
	isnull[Anum_es_verify_global_position - 1] = position == 0;
	values[Anum_es_verify_problem - 1] = CStringGetTextDatum(problem);
	tuplestore_putvalues(verify->result, verify->desc, values, isnull);
	if (verify->name != NULL)
		pfree(DatumGetPointer(values[Anum_es_verify_stream_id - 1]));
	pfree(DatumGetPointer(values[Anum_es_verify_problem - 1]));
}

/*
 * The event types, read afresh.
 */
static void
es_verify_load_types(EsVerify *verify)
{
	Relation	rel = table_open(verify->store->event_type, AccessShareLock);
	TupleTableSlot *slot = table_slot_create(rel, NULL);
	TableScanDesc scan;
	HASHCTL		ctl;

	memset(&ctl, 0, sizeof(ctl));
	ctl.keysize = sizeof(int32);
	ctl.entrysize = sizeof(EsVerifyType);
	ctl.hcxt = CurrentMemoryContext;
	verify->types = hash_create("event_store types to verify", 256, &ctl,
								HASH_ELEM | HASH_BLOBS | HASH_CONTEXT);
	scan = table_beginscan(rel, GetActiveSnapshot(), 0, NULL);
	while (table_scan_getnextslot(scan, ForwardScanDirection, slot))
	{
		int32		type_no;
		EsVerifyType *type;

		CHECK_FOR_INTERRUPTS();
		slot_getallattrs(slot);
		type_no = DatumGetInt32(slot->tts_values[Anum_es_type_type_no - 1]);
		type = hash_search(verify->types, &type_no, HASH_ENTER, NULL);
		type->category = slot->tts_isnull[Anum_es_type_category - 1] ? NULL :
			DatumGetTextPCopy(slot->tts_values[Anum_es_type_category - 1]);
		type->name = DatumGetTextPCopy(slot->tts_values[Anum_es_type_event_type - 1]);
	}
	table_endscan(scan);
	ExecDropSingleTupleTableSlot(slot);
	table_close(rel, NoLock);
}

/*
 * The guards of the tables are in force, and so are the other triggers of the
 * store.
 */
static void
es_verify_guards(EsVerify *verify)
{
	Oid			schema = get_namespace_oid("event_store", false);

	for (int i = 0; i < lengthof(es_own_triggers); i++)
	{
		const EsOwnTriggers *own = &es_own_triggers[i];
		Oid			function = es_function_oid(schema, own->function, 0, NULL);
		Relation	rel = table_open(es_store_relation(schema, own->table), AccessShareLock);
		int			missing = own->count;

		for (int k = 0; rel->trigdesc != NULL && k < rel->trigdesc->numtriggers; k++)
		{
			Trigger    *trigger = &rel->trigdesc->triggers[k];

			if (trigger->tgfoid != function)
				continue;
			missing--;
			if (trigger->tgenabled != TRIGGER_FIRES_ALWAYS)
				es_report(verify, 0, 0,
						  psprintf("trigger \"%s\" of table \"%s\" is not ENABLE ALWAYS",
								   trigger->tgname, own->table));
		}
		if (missing > 0)
			es_report(verify, 0, 0,
					  function == verify->store->guard ?
					  psprintf("a guard of table \"%s\" is missing", own->table) :
					  psprintf("a trigger with function \"%s\" of table \"%s\" is missing",
							   own->function, own->table));
		table_close(rel, NoLock);
	}
}

/*
 * Go on to the next stream.
 */
static void
es_verify_next_stream(EsVerify *verify)
{
	bool		isnull;

	if (index_getnext_slot(verify->streams, ForwardScanDirection, verify->stream_slot))
		verify->next_no = DatumGetInt64(slot_getattr(verify->stream_slot,
													 Anum_es_stream_stream_no, &isnull));
	else
		verify->next_no = 0;
}

/*
 * Whose events come now.
 *
 * name			NULL = nobody's
 */
static void
es_verify_set_stream(EsVerify *verify, int64 stream_no, text *name)
{
	if (verify->name != NULL)
		pfree(verify->name);
	verify->name = NULL;
	verify->name_len = 0;
	if (name != NULL)
	{
		verify->name = text_to_cstring(name);
		verify->name_len = strlen(verify->name);
	}
	verify->stream_no = stream_no;
	verify->version = verify->position = verify->begun = 0;
	verify->last_known = false;
	memset(verify->last, 0, ES_HASH_LEN);
}

/*
 * Begin with the events of a stream; every stream on the way has none.
 *
 * stream_no	PG_INT64_MAX = no stream any more
 * Result: does the stream exist?
 */
static bool
es_verify_begin_stream(EsVerify *verify, int64 stream_no)
{
	bool		isnull;

	while (verify->next_no != 0 && verify->next_no <= stream_no)
	{
		text	   *name = DatumGetTextPP(slot_getattr(verify->stream_slot,
													   Anum_es_stream_stream_id, &isnull));
		bool		found = verify->next_no == stream_no;

		CHECK_FOR_INTERRUPTS();
		es_verify_set_stream(verify, verify->next_no, name);
		es_verify_next_stream(verify);
		if (found)
			return true;
		es_report(verify, 0, 0, "stream has no event: all of them are missing");
	}
	es_verify_set_stream(verify, stream_no == PG_INT64_MAX ? 0 : stream_no, NULL);
	return false;
}

/*
 * Where an event stands in its stream.
 *
 * Result: does it follow the last one?
 */
static bool
es_verify_place(EsVerify *verify, int64 version, int64 position)
{
	bool		follows = version == verify->version + 1;

	if (version > verify->version + 1)
	{
		const char *unknown = verify->begun == 0 ? "" :
			"; its own hash cannot be checked without what is missing";

		if (version == verify->version + 2)
			es_report(verify, version, position,
					  psprintf("version " INT64_FORMAT " before it is missing%s",
							   version - 1, unknown));
		else
			es_report(verify, version, position,
					  psprintf("versions " INT64_FORMAT " to " INT64_FORMAT " before it are missing%s",
							   verify->version + 1, version - 1, unknown));
	}
	else if (!follows)
		es_report(verify, version, position, "version is below 1 or used twice");
	if (position <= verify->position)
		es_report(verify, version, position,
				  psprintf("position is not above " INT64_FORMAT ", that of the version before it",
						   verify->position));
	verify->version = version;
	verify->position = position;
	return follows;
}

/*
 * An event's hash.
 *
 * hash			NULL = it has none
 * type			NULL = unknown, and so is what the hash should be
 * follows		the event before it is there
 */
static void
es_verify_hash(EsVerify *verify, TupleTableSlot *slot, bytea *hash, EsVerifyType *type,
			   bool follows, int64 version, int64 position)
{
	Datum	   *values = slot->tts_values;
	bool		can_check = type != NULL && (verify->begun == 0 ||
											 (follows && verify->last_known));
	uint8		expected[ES_HASH_LEN];

	if (hash == NULL && verify->begun == 0)
		return;
	if (can_check)
	{
		AttrNumber	tags = verify->store->tags;
		EsChainEvent content = {
			.stream = verify->name,
			.stream_len = verify->name_len,
			.version = version,
			.event_id = DatumGetUUIDP(values[Anum_es_event_event_id - 1]),
			.type = VARDATA_ANY(type->name),
			.type_len = VARSIZE_ANY_EXHDR(type->name),
			.schema_version = DatumGetInt32(values[Anum_es_event_schema_version - 1]),
			.created_at = DatumGetTimestampTz(values[Anum_es_event_created_at - 1]),
			.data = DatumGetJsonbP(values[Anum_es_event_data - 1]),
			.metadata = DatumGetJsonbP(values[Anum_es_event_metadata - 1]),
			.tags = tags == 0 || slot->tts_isnull[tags - 1] ? NULL :
				DatumGetArrayTypeP(values[tags - 1])
		};

		es_chain_content(&content, expected);
		es_chain_link(verify->last, position, expected, expected);
	}

	if (hash == NULL)
	{
		es_report(verify, version, position,
				  psprintf("hash is missing: those of the stream begin with version " INT64_FORMAT,
						   verify->begun));
		verify->last_known = can_check;
		memcpy(verify->last, expected, can_check ? ES_HASH_LEN : 0);
		return;
	}
	if (VARSIZE_ANY_EXHDR(hash) != ES_HASH_LEN ||
		(can_check && memcmp(VARDATA_ANY(hash), expected, ES_HASH_LEN) != 0))
		es_report(verify, version, position, verify->stream_no == 0 ?
				  "hash does not match: the event was changed" :
				  "hash does not match: the event or what was before it was changed, moved or put in");
	if (verify->stream_no == 0)
		return;					/* a hash of itself only */
	if (verify->begun == 0)
		verify->begun = version;
	verify->last_known = VARSIZE_ANY_EXHDR(hash) == ES_HASH_LEN;
	if (verify->last_known)
		memcpy(verify->last, VARDATA_ANY(hash), ES_HASH_LEN);
}

static void
es_verify_event(EsVerify *verify, TupleTableSlot *slot)
{
	AttrNumber	hash_column = verify->store->hash;
	Datum	   *values = slot->tts_values;
	bool	   *isnull = slot->tts_isnull;
	int64		position;
	int64		stream_no;
	int64		version;
	bool		follows = true;
	EsVerifyType *type;
	int32		type_no;

	slot_getallattrs(slot);
	position = DatumGetInt64(values[Anum_es_event_global_position - 1]);
	stream_no = isnull[Anum_es_event_stream_no - 1] ? 0 :
		DatumGetInt64(values[Anum_es_event_stream_no - 1]);
	version = isnull[Anum_es_event_version - 1] ? 0 :
		DatumGetInt32(values[Anum_es_event_version - 1]);

	/* those that belong to none come last */
	if (stream_no != verify->stream_no)
	{
		MemoryContext old_context = MemoryContextSwitchTo(GetMemoryChunkContext(verify));
		bool		exists = es_verify_begin_stream(verify, stream_no == 0 ? PG_INT64_MAX : stream_no);

		MemoryContextSwitchTo(old_context);
		if (!exists && stream_no != 0)
			es_report(verify, version, position,
					  psprintf("its stream, number " INT64_FORMAT ", does not exist", stream_no));
	}

	if (isnull[Anum_es_event_stream_no - 1] != isnull[Anum_es_event_version - 1])
		es_report(verify, version, position, "it has a stream or a version and not the other");
	else if (stream_no != 0)
		follows = es_verify_place(verify, version, position);

	type_no = DatumGetInt32(values[Anum_es_event_type_no - 1]);
	type = hash_search(verify->types, &type_no, HASH_FIND, NULL);
	if (type == NULL)
		es_report(verify, version, position,
				  psprintf("its event type, number %d, does not exist", type_no));
	else if (stream_no == 0 ? type->category != NULL :
			 verify->name != NULL &&
			 (type->category == NULL ||
			  VARSIZE_ANY_EXHDR(type->category) != es_category_length(verify->name, verify->name_len) ||
			  memcmp(VARDATA_ANY(type->category), verify->name, VARSIZE_ANY_EXHDR(type->category)) != 0))
		es_report(verify, version, position, "its event type is one of another category");

	if (hash_column != 0)
		es_verify_hash(verify, slot, isnull[hash_column - 1] ? NULL :
					   DatumGetByteaPP(values[hash_column - 1]),
					   stream_no != 0 && verify->name == NULL ? NULL : type,
					   follows, version, position);
}

/*
 * es_verify(stream_id text DEFAULT NULL)
 *		RETURNS SETOF (stream_id text, version bigint, global_position bigint,
 *					   problem text)
 *
 * What is not sound in one stream, or in the whole store.
 *
 * Errors: 42501 under row-level security, which must not be gone round and
 * without which nothing can be said; 55000 before ALTER EXTENSION ... UPDATE.
 */
Datum
es_verify(PG_FUNCTION_ARGS)
{
	EsVerify   *verify = palloc0(sizeof(EsVerify));
	MemoryContext row_context;	/* emptied after each event */
	MemoryContext old_context;
	Relation	stream;
	Relation	by_stream;
	Relation	events_index;
	TupleTableSlot *slot;
	IndexScanDesc scan;
	ScanKeyData key;
	bool		is_whole = PG_ARGISNULL(0);
	bool		exists;
	text	   *name = NULL;
	int			name_len;

	if (!is_whole)
	{
		(void) es_arg_name(fcinfo, 0, "stream_id", &name_len);
		name = PG_GETARG_TEXT_PP(0);
	}
	verify->result = es_result_set(fcinfo, NULL, 0, &verify->desc);
	verify->event = es_store_open_event(&verify->store, AccessShareLock);
	es_durable_wait();
	stream = table_open(verify->store->stream, AccessShareLock);
	/* whoever sees all events sees all streams and types */
	if (check_enable_rls(verify->store->event, InvalidOid, true) == RLS_ENABLED)
		ereport(ERROR,
				errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
				errmsg("es_verify() needs to see every event"),
				errdetail("Row-level security applies to role \"%s\".",
						  GetUserNameFromId(GetUserId(), false)),
				errhint("Call it as the owner of the store or as a role with BYPASSRLS."));
	/* the script that has this function has them, too */
	Assert(verify->store->hash != 0);

	es_verify_load_types(verify);
	if (is_whole)
		es_verify_guards(verify);

	/* the streams, in the order of their numbers; or the one */
	by_stream = es_store_open_index(is_whole ? &verify->store->stream_by_no :
									&verify->store->stream_by_name);
	verify->stream_slot = table_slot_create(stream, NULL);
	verify->streams = es_index_beginscan(stream, by_stream, GetActiveSnapshot(), is_whole ? 0 : 1);
	if (!is_whole)
		es_names_key(&key, 1, VARDATA_ANY(name), VARSIZE_ANY_EXHDR(name));
	index_rescan(verify->streams, is_whole ? NULL : &key, is_whole ? 0 : 1, NULL, 0);
	es_verify_next_stream(verify);
	exists = is_whole || verify->next_no != 0;
	if (!exists)
	{
		es_verify_set_stream(verify, 0, name);
		es_report(verify, 0, 0, "there is no such stream");
	}

	/* and their events, which come in the same order */
	events_index = es_store_open_index(&verify->store->read_index[ES_INDEX_STREAM]);
	slot = table_slot_create(verify->event, NULL);
	scan = es_index_beginscan(verify->event, events_index, GetActiveSnapshot(), is_whole ? 0 : 1);
	if (!is_whole)
		ScanKeyInit(&key, 1, BTEqualStrategyNumber, F_INT8EQ, Int64GetDatum(verify->next_no));
	index_rescan(scan, is_whole ? NULL : &key, is_whole ? 0 : 1, NULL, 0);
	row_context = AllocSetContextCreate(CurrentMemoryContext, "event_store verify",
										ALLOCSET_DEFAULT_SIZES);
	while (exists && index_getnext_slot(scan, ForwardScanDirection, slot))
	{
		CHECK_FOR_INTERRUPTS();

		/* not around the scan, which keeps something where it is called */
		old_context = MemoryContextSwitchTo(row_context);
		es_verify_event(verify, slot);
		MemoryContextSwitchTo(old_context);
		MemoryContextReset(row_context);
	}
	MemoryContextDelete(row_context);
	(void) es_verify_begin_stream(verify, PG_INT64_MAX);

	index_endscan(scan);
	ExecDropSingleTupleTableSlot(slot);
	index_close(events_index, AccessShareLock);
	index_endscan(verify->streams);
	ExecDropSingleTupleTableSlot(verify->stream_slot);
	index_close(by_stream, AccessShareLock);
	table_close(stream, NoLock);
	table_close(verify->event, NoLock);
	return (Datum) 0;
}
