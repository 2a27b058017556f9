/*-------------------------------------------------------------------------
 * append/append.c
 *	  Append events to one stream under an expected version, idempotently.
 *
 * The stream is locked first and stays locked to the end of the transaction,
 * so appends to one stream queue up while appends to different streams do
 * not meet.  Under the lock the stream's last version is looked up in the
 * index with the state of now, not of the statement's snapshot; a REPEATABLE
 * READ or SERIALIZABLE transaction whose snapshot does not show that version
 * gets 40001.
 *
 * Idempotency is decided by the event ids alone, which are unique in the
 * store, and by nothing volatile.  Only when the first id of a batch is in
 * the store can the whole batch be a retry, so an ordinary append probes one
 * id before it writes; the uniqueness of the others shows on insertion.
 *
 * Lock order: event table, stream, (row or transaction waits), insertion
 * lock.
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/genam.h"
#include "access/htup_details.h"
#include "access/table.h"
#include "access/tableam.h"
#include "access/xact.h"
#include "executor/tuptable.h"
#include "storage/lmgr.h"
#include "utils/builtins.h"
#include "utils/fmgroids.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"

#include "append/append.h"
#include "base/args.h"
#include "base/compat.h"
#include "base/errors.h"
#include "base/fault.h"
#include "base/result.h"
#include "log/event.h"
#include "log/head.h"
#include "log/store.h"
#include "log/stream.h"
#include "log/type.h"
#include "log/write.h"
#include "settings.h"
#include "wakeup/wakeup.h"

/* an append on its way */
typedef struct EsAppend
{
	Relation	event;
	const EsStore *store;
	const char *stream;			/* name, not zero-terminated */
	int			stream_len;
	int64		stream_no;		/* 0 = does not exist yet */
	int64		expected;
	int64		current;		/* last version, 0 = none */
	EsNewEvent *events;
	int			nevents;
} EsAppend;

/* an event that is in the store already */
typedef struct EsKnownEvent
{
	int64		stream_no;
	int64		version;
	int64		position;
	int32		type_no;
	int32		schema_version;
	Jsonb	   *data;
} EsKnownEvent;

PG_FUNCTION_INFO_V1(es_append);
PG_FUNCTION_INFO_V1(es_append_batch);
PG_FUNCTION_INFO_V1(es_append_json);

/*
 * known_from	version of the first event, if they are all stored already; or 0
 */
static void
es_version_conflict(EsAppend *append, int64 known_from)
{
	ereport(ERROR,
			errcode(ERRCODE_ES_VERSION_CONFLICT),
			errmsg("stream \"%.*s\" is not at the expected version",
				   append->stream_len, append->stream),
			errdetail("stream=%.*s expected=" INT64_FORMAT " actual=" INT64_FORMAT,
					  append->stream_len, append->stream,
					  append->expected, append->current),
			known_from > 0 ?
			errhint("The events are in the stream already, from version " INT64_FORMAT " on. A retry must give the expected version of the first attempt.",
					known_from) :
			errhint("Read the stream again and decide anew before appending."));
}

/*
 * Last version of a locked stream, uncommitted ones of our own included.
 *
 * Errors: 40001 when the transaction's snapshot does not show it.
 */
static int64
es_current_version(Relation event, const EsStore *store, int64 stream_no)
{
	TransactionId xmin = InvalidTransactionId;
	int64		version = es_event_version(event, store, SnapshotSelf, stream_no, &xmin);

	if (IsolationUsesXactSnapshot() && TransactionIdIsNormal(xmin) &&
		!TransactionIdIsCurrentTransactionId(xmin) &&
		XidInMVCCSnapshot(xmin, GetTransactionSnapshot()))
		ereport(ERROR,
				errcode(ERRCODE_T_R_SERIALIZATION_FAILURE),
				errmsg("could not serialize access due to concurrent append"),
				errhint("The transaction might succeed if retried."));
	return version;
}

/*
 * A transaction that catches VE001 goes on with what that has told it about
 * the stream.  For SSI that is a read, which no write of ours stands for.
 */
static void
es_note_version(EsAppend *append)
{
	int64		stream_no = es_stream_find(append->store, append->stream, append->stream_len);

	if (stream_no != 0)
		(void) es_event_version(append->event, append->store, GetActiveSnapshot(),
								stream_no, NULL);
}

/*
 * Find an event by its id.  Waits for a transaction that is about to add it.
 */
static bool
es_known_event(EsAppend *append, const pg_uuid_t *event_id, EsKnownEvent *known)
{
	TupleTableSlot *slot = table_slot_create(append->event, NULL);
	TransactionId pending = InvalidTransactionId;
	bool		found;

	while ((found = es_find_event_id(append->event, append->store, event_id, NULL,
									 slot, &pending)) &&
		   TransactionIdIsValid(pending))
	{
		XactLockTableWait(pending, append->event, &slot->tts_tid, XLTW_InsertIndex);
		ExecClearTuple(slot);
	}

	if (found)
	{
		slot_getallattrs(slot);
		known->stream_no = DatumGetInt64(slot->tts_values[Anum_es_event_stream_no - 1]);
		known->version = DatumGetInt32(slot->tts_values[Anum_es_event_version - 1]);
		known->position = DatumGetInt64(slot->tts_values[Anum_es_event_global_position - 1]);
		known->type_no = DatumGetInt32(slot->tts_values[Anum_es_event_type_no - 1]);
		known->schema_version = DatumGetInt32(slot->tts_values[Anum_es_event_schema_version - 1]);
		known->data = DatumGetJsonbPCopy(slot->tts_values[Anum_es_event_data - 1]);
	}
	ExecDropSingleTupleTableSlot(slot);
	return found;
}

static bool
es_same_event(EsAppend *append, EsNewEvent *new_event, EsKnownEvent *known)
{
	const EsType *type = es_type_lookup(append->store, known->type_no);

	return type->name_len == new_event->type_len &&
		memcmp(type->name, new_event->type, type->name_len) == 0 &&
		known->schema_version == new_event->schema_version &&
		compareJsonbContainers(&known->data->root,
							   &DatumGetJsonbP(new_event->data)->root) == 0;
}

/*
 * Is the whole batch a retry?
 *
 * Fills in the original versions and positions if so.
 * Errors: VE002 and VE001 by the decision table of the contract.
 */
static bool
es_is_retry(EsAppend *append)
{
	EsKnownEvent first;
	EsKnownEvent known;

	for (int i = 0; i < append->nevents; i++)
	{
		if (!append->events[i].id_given)
			return false;		/* an id of our own making is in no store */
	}
	if (!es_known_event(append, &append->events[0].event_id, &first))
		return false;

	known = first;
	for (int i = 0; i < append->nevents; i++)
	{
		EsNewEvent *new_event = &append->events[i];

		if (i > 0 && !es_known_event(append, &new_event->event_id, &known))
			es_event_id_conflict(append->event, append->store,
								 &append->events[0].event_id, NULL);
		if (known.stream_no != append->stream_no ||
			known.version != first.version + i ||
			!es_same_event(append, new_event, &known))
			es_event_id_conflict(append->event, append->store, &new_event->event_id,
								 NULL);
		new_event->version = known.version;
		new_event->position = known.position;
		pfree(known.data);
	}
	if (append->expected >= 0 && first.version != append->expected + 1)
		es_version_conflict(append, first.version);
	return true;
}

static int
es_compare_ids(const void *a, const void *b)
{
	return memcmp(*(pg_uuid_t *const *) a, *(pg_uuid_t *const *) b, UUID_LEN);
}

/*
 * An id twice in one batch is VE002.
 */
static void
es_check_batch_ids(EsAppend *append)
{
	pg_uuid_t **ids = palloc(sizeof(pg_uuid_t *) * append->nevents);
	int			n = 0;

	for (int i = 0; i < append->nevents; i++)
	{
		if (append->events[i].id_given)
			ids[n++] = &append->events[i].event_id;
	}
	qsort(ids, n, sizeof(pg_uuid_t *), es_compare_ids);
	for (int i = 1; i < n; i++)
	{
		if (memcmp(ids[i - 1], ids[i], UUID_LEN) == 0)
		{
			EsNewEvent *first;

			/* the version that the first of the two would have got */
			first = (EsNewEvent *) ((char *) Min(ids[i - 1], ids[i]) -
									offsetof(EsNewEvent, event_id));
			ereport(ERROR,
					errcode(ERRCODE_ES_EVENT_ID_CONFLICT),
					errmsg("event id is used twice in one batch"),
					errdetail("event_id=%s stream=%.*s version=" INT64_FORMAT,
							  DatumGetCString(DirectFunctionCall1(uuid_out, UUIDPGetDatum(ids[i]))),
							  append->stream_len, append->stream,
							  append->current + 1 + (int64) (first - append->events)));
		}
	}
	pfree(ids);
}

static bool
es_version_expected(EsAppend *append)
{
	switch (append->expected)
	{
		case ES_ANY_VERSION:
			return true;
		case ES_STREAM_EXISTS:
			return append->current > 0;
		default:
			return append->current == append->expected;
	}
}

/*
 * Append events, or find that they have been appended before.
 *
 * function		name for the error in a read-only transaction
 *
 * Result: true if they were a retry.  Versions and positions are filled in.
 */
static bool
es_append_events(const char *function, const char *stream, int stream_len,
				 int64 expected, EsNewEvent *events, int nevents)
{
	EsAppend	append;
	int64		next;
	int64		last_position;

	PreventCommandIfReadOnly(function);
	PreventCommandIfParallelMode(function);

	append.stream = stream;
	append.stream_len = stream_len;
	append.expected = expected;
	append.events = events;
	append.nevents = nevents;
	append.event = es_store_open_event(&append.store, RowExclusiveLock);
	es_head_refuse_subscriber(append.store);
	es_write_prepare(append.event, append.store);

	append.stream_no = es_stream_lock(append.store, stream, stream_len);
	append.current = append.stream_no == 0 ? 0 :
		es_current_version(append.event, append.store, append.stream_no);

	if (nevents > 1)
		es_check_batch_ids(&append);
	if (es_is_retry(&append))
	{
		table_close(append.event, NoLock);
		return true;
	}

	if (!es_version_expected(&append))
	{
		EsKnownEvent known;

		/* a batch that is partly known is the graver error */
		for (int i = 0; i < nevents; i++)
		{
			if (events[i].id_given &&
				es_known_event(&append, &events[i].event_id, &known))
				es_event_id_conflict(append.event, append.store, &events[i].event_id, NULL);
		}
		if (IsolationIsSerializable())
			es_note_version(&append);
		es_version_conflict(&append, 0);
	}
	if (append.current > PG_INT32_MAX - nevents)
		ereport(ERROR,
				errcode(ERRCODE_PROGRAM_LIMIT_EXCEEDED),
				errmsg("stream \"%.*s\" has reached the highest version", stream_len, stream));

	if (append.stream_no == 0)
		append.stream_no = es_stream_create(append.store, stream, stream_len);
	next = append.current;
	for (int i = 0; i < nevents; i++)
	{
		/* runs of one type are common */
		if (i > 0 && events[i].type_len == events[i - 1].type_len &&
			memcmp(events[i].type, events[i - 1].type, events[i].type_len) == 0)
			events[i].type_no = events[i - 1].type_no;
		else
			events[i].type_no = es_type_get(append.store, stream,
											es_category_length(stream, stream_len),
											events[i].type, events[i].type_len);
		events[i].version = ++next;
	}

	if (es_force_sync_commit)
		ForceSyncCommit();
	es_write_events(append.event, append.store, append.stream_no, events, nevents);

	last_position = events[nevents - 1].position;
	if (last_position / ES_MARK_INTERVAL !=
		(events[0].position - 1) / ES_MARK_INTERVAL)
		es_head_mark(append.event, append.store);

	es_wakeup_after_commit(last_position);
	table_close(append.event, NoLock);
	return false;
}

static void
es_append_row(EsNewEvent *event, bool is_duplicate, Datum *values)
{
	values[0] = UUIDPGetDatum(&event->event_id);
	values[1] = Int64GetDatum(event->version);
	values[2] = Int64GetDatum(event->position);
	values[3] = BoolGetDatum(is_duplicate);
}

static Datum
es_append_set(FunctionCallInfo fcinfo, EsNewEvent *events, int nevents, bool is_duplicate)
{
	TupleDesc	desc;
	Tuplestorestate *result = es_result_set(fcinfo, &desc);

	for (int i = 0; i < nevents; i++)
	{
		Datum		values[4];
		bool		isnull[4] = {false};

		es_append_row(&events[i], is_duplicate, values);
		tuplestore_putvalues(result, desc, values, isnull);
	}
	return (Datum) 0;
}

/*
 * es_append(stream_id text, expected_version bigint, event_type text,
 *			 data jsonb, metadata jsonb, event_id uuid, schema_version int)
 *		RETURNS (event_id uuid, version bigint, global_position bigint,
 *				 is_duplicate boolean)
 *
 * Append one event.  See the contract, section Append.
 */
Datum
es_append(PG_FUNCTION_ARGS)
{
	EsNewEvent	event;
	Datum		values[4];
	bool		isnull[4] = {false};
	const char *stream;
	int			stream_len;
	int64		expected;
	bool		is_duplicate;

	stream = es_arg_name(fcinfo, 0, "stream_id", &stream_len);
	expected = es_arg_expected(fcinfo, 1, "expected_version");
	es_events_from_scalars(fcinfo, &event);

	is_duplicate = es_append_events("es_append()", stream, stream_len, expected,
									&event, 1);
	es_append_row(&event, is_duplicate, values);
	return es_result_row(fcinfo, values, isnull);
}

/*
 * es_append_batch(stream_id text, expected_version bigint, event_types text[],
 *				   data jsonb[], metadata jsonb[], event_ids uuid[],
 *				   schema_versions int[])
 *		RETURNS SETOF (event_id, version, global_position, is_duplicate)
 *
 * Append many events atomically.
 */
Datum
es_append_batch(PG_FUNCTION_ARGS)
{
	EsNewEvent *events;
	int			nevents;
	const char *stream;
	int			stream_len;
	int64		expected;
	bool		is_duplicate;

	stream = es_arg_name(fcinfo, 0, "stream_id", &stream_len);
	expected = es_arg_expected(fcinfo, 1, "expected_version");
	events = es_events_from_arrays(fcinfo, &nevents);

	is_duplicate = es_append_events("es_append_batch()", stream, stream_len, expected,
									events, nevents);
	return es_append_set(fcinfo, events, nevents, is_duplicate);
}

/*
 * es_append(stream_id text, expected_version bigint, events jsonb)
 *		RETURNS SETOF (event_id, version, global_position, is_duplicate)
 *
 * The same for events as JSON objects.
 */
Datum
es_append_json(PG_FUNCTION_ARGS)
{
	EsNewEvent *events;
	int			nevents;
	const char *stream;
	int			stream_len;
	int64		expected;
	bool		is_duplicate;

	stream = es_arg_name(fcinfo, 0, "stream_id", &stream_len);
	expected = es_arg_expected(fcinfo, 1, "expected_version");
	events = es_events_from_json(es_arg_jsonb(fcinfo, 2, "events"), &nevents);

	is_duplicate = es_append_events("es_append()", stream, stream_len, expected,
									events, nevents);
	return es_append_set(fcinfo, events, nevents, is_duplicate);
}
