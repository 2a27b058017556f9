/*-------------------------------------------------------------------------
 * append/append.c
 *	  Append events to streams under expected versions, idempotently.
 *
 * One shape serves all forms of the call: events in the order in which they
 * are written, and the streams ("targets") that they go to or that are only
 * checked.
 *
 * The streams are locked first and stay locked to the end of the transaction,
 * so appends to one stream queue up while appends to different streams do
 * not meet.  What can be done before is done before, the indexes opened for
 * instance: others may be waiting.  Under the lock a stream's last version is looked up in shared
 * memory (log/last.c), or in the index with the state of now, not of the
 * statement's snapshot; a REPEATABLE READ or SERIALIZABLE transaction whose
 * snapshot does not show that version gets 40001.
 *
 * Idempotency is decided by the event ids alone, which are unique in the
 * store, and by nothing volatile.  Only when the first id of a stream's
 * events is in the store can they be a retry, so an ordinary append probes
 * one id before it writes; the uniqueness of the others shows on insertion.
 *
 * See append/events.c (the forms of an argument), append/streams.c
 * (several streams, es_append_streams), append/decide.c (es_append_if) and
 * append/condition.c (how its condition is held), append/import.c (es_import).
 *
 * Lock order: event table, items of a condition, streams by the hashes of their
 * names, an event id, (row or transaction waits), insertion lock.
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/genam.h"
#include "access/table.h"
#include "access/tableam.h"
#include "access/xact.h"
#include "catalog/pg_type.h"
#include "executor/tuptable.h"
#include "storage/lmgr.h"
#include "utils/builtins.h"
#include "utils/fmgroids.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"

#include "append/condition.h"
#include "base/args.h"
#include "base/compat.h"
#include "base/count.h"
#include "base/errors.h"
#include "base/fault.h"
#include "base/lock.h"
#include "base/result.h"
#include "log/durable.h"
#include "log/event.h"
#include "log/find.h"
#include "log/head.h"
#include "log/store.h"
#include "log/stream.h"
#include "log/type.h"
#include "log/write.h"
#include "settings.h"
#include "wakeup/wakeup.h"

/* the attributes of type es_appended */
#define Natts_es_appended		4

static const EsAttribute es_appended_attributes[Natts_es_appended] = {
	{"event_id", UUIDOID},
	{"version", INT8OID},
	{"global_position", INT8OID},
	{"is_duplicate", BOOLOID}
};

/* an event that is in the store already */
typedef struct EsKnownEvent
{
	int64		stream_no;
	int64		version;
	int64		position;
	int32		type_no;
	int32		schema_version;
	TransactionId xmin;			/* its inserter */
	Jsonb	   *data;
} EsKnownEvent;

PG_FUNCTION_INFO_V1(es_append);
PG_FUNCTION_INFO_V1(es_append_batch);
PG_FUNCTION_INFO_V1(es_append_json);

/*
 * A SERIALIZABLE transaction is told the versions of streams: that they are as it
 * expects, or, if it catches VE001, what they are instead.  For SSI that is a
 * read.  A stream that is written needs no note unless the write can be rolled back
 * and the transaction go on: whoever else writes it comes before and is seen, or
 * begins after our end.
 *
 * is_conflict		nothing is written
 */
static void
es_note_versions(EsAppend *append, bool is_conflict)
{
	if (!IsolationIsSerializable())
		return;
	for (int i = 0; i < append->ntargets; i++)
	{
		EsTarget   *target = &append->targets[i];
		int64		stream_no;

		if (target->stream == NULL ||
			(target->first >= 0 && !is_conflict && !IsSubTransaction()))
			continue;
		stream_no = es_stream_find(append->store, target->stream, target->stream_len);
		if (stream_no != 0)
			(void) es_event_version(append->event, append->store, GetActiveSnapshot(),
									stream_no, NULL);
	}
}

/*
 * Streams that are not where they should be: VE001 with one line for each.
 *
 * wrong		the targets, in the order given
 */
static void
es_version_conflict(EsAppend *append, EsTarget **wrong, int nwrong)
{
	StringInfoData detail;

	es_note_versions(append, true);
	es_durable_wait();
	initStringInfo(&detail);
	for (int i = 0; i < nwrong; i++)
		appendStringInfo(&detail, "%sstream=%.*s expected=" INT64_FORMAT " actual=" INT64_FORMAT,
						 i > 0 ? "\n" : "", wrong[i]->stream_len, wrong[i]->stream,
						 wrong[i]->expected, wrong[i]->current);
	ereport(ERROR,
			errcode(es_counted(ERRCODE_ES_VERSION_CONFLICT)),
			nwrong == 1 ?
			errmsg("stream \"%.*s\" is not at the expected version",
				   wrong[0]->stream_len, wrong[0]->stream) :
			errmsg("%d streams are not at the expected version", nwrong),
			errdetail_internal("%s", detail.data),
			wrong[0]->is_known ?
			errhint("The events are in the stream already, from version " INT64_FORMAT " on. A retry must give the expected version of the first attempt.",
					wrong[0]->known_from) :
			errhint("Read the stream again and decide anew before appending."));
}

/*
 * Test build: is what is remembered of a stream what the index says?
 */
static void
es_check_last(Relation event, const EsStore *store, int64 stream_no, const EsLast *last)
{
#ifdef ES_FAULTS
	EsChain		chain = {0};
	int64		version = es_event_last(event, store, SnapshotSelf, stream_no, 0, NULL, &chain);

	if (version != last->version || chain.begun != last->is_chained)
		ereport(ERROR,
				errcode(ERRCODE_DATA_CORRUPTED),
				errmsg("stream number " INT64_FORMAT " is at version " INT64_FORMAT ", not " INT64_FORMAT,
					   stream_no, version, last->version));
#endif
}

/*
 * Last version of a locked stream, uncommitted ones of our own included.
 *
 * last			from es_stream_lock
 * chain		result: its hash
 *
 * Errors: 40001 when the transaction's snapshot does not show it.
 */
int64
es_current_version(Relation event, const EsStore *store, int64 stream_no, const EsLast *last,
				   EsChain *chain)
{
	TransactionId xmin = InvalidTransactionId;
	int64		version;

	if (last->is_exact)
		es_check_last(event, store, stream_no, last);
	if (last->is_exact && !last->is_chained && !es_hash_chain && !IsolationUsesXactSnapshot())
		return last->version;

	version = es_event_last(event, store, SnapshotSelf, stream_no, last->version, &xmin, chain);
	es_check_snapshot_sees(xmin);
	if (!last->is_exact)
		es_last_put(event, store, stream_no, version, chain->begun);
	return version;
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
		if (slot->tts_isnull[Anum_es_event_stream_no - 1])
			known->stream_no = known->version = 0;	/* belongs to no stream */
		known->position = DatumGetInt64(slot->tts_values[Anum_es_event_global_position - 1]);
		known->type_no = DatumGetInt32(slot->tts_values[Anum_es_event_type_no - 1]);
		known->schema_version = DatumGetInt32(slot->tts_values[Anum_es_event_schema_version - 1]);
		known->xmin = es_slot_xmin(slot);
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
 * Are all events of a stream stored there already?  If only some are, or
 * elsewhere, that is VE002.
 *
 * Sets known_from, is_known and, of known events, versions and positions.
 */
static void
es_target_find(EsAppend *append, EsTarget *target)
{
	EsKnownEvent first;
	EsKnownEvent known;
	int64		offset = 0;
	int64		last = 0;

	for (int i = target->first; i >= 0; i = append->events[i].next)
	{
		if (!append->events[i].id_given)
			return;				/* an id of our own making is in no store */
	}
	if (target->first < 0 ||
		!es_known_event(append, &append->events[target->first].event_id, &first))
		return;

	known = first;
	for (int i = target->first; i >= 0; i = append->events[i].next)
	{
		EsNewEvent *new_event = &append->events[i];

		if (offset > 0 && !es_known_event(append, &new_event->event_id, &known))
			es_event_id_conflict(append->event, append->store,
								 &append->events[target->first].event_id, NULL);
		if (known.stream_no != target->stream_no ||
			(target->stream == NULL ? offset > 0 && known.position <= last :
			 known.version != first.version + offset) ||
			(known.stream_no == 0 && target->stream != NULL) ||
			!es_same_event(append, new_event, &known))
			es_event_id_conflict(append->event, append->store, &new_event->event_id,
								 NULL);
		new_event->stream_no = known.stream_no;
		new_event->version = known.version;
		new_event->position = last = known.position;
		pfree(known.data);
		offset++;
	}

	/* that of a stream's last event has been looked at, but these may have none */
	es_check_snapshot_sees(known.xmin);
	target->known_from = first.version;
	target->is_known = true;
}

static int
es_compare_ids(const void *a, const void *b)
{
	return memcmp(*(pg_uuid_t *const *) a, *(pg_uuid_t *const *) b, UUID_LEN);
}

/*
 * An id twice in one append is VE002.
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
			EsTarget   *target;
			int64		version;

			/* the version that the first of the two would have got */
			first = (EsNewEvent *) ((char *) Min(ids[i - 1], ids[i]) -
									offsetof(EsNewEvent, event_id));
			target = &append->targets[first->target];
			version = target->current;
			for (int k = target->first; k >= 0; k = append->events[k].next)
			{
				version++;
				if (&append->events[k] == first)
					break;
			}
			es_durable_wait();
			ereport(ERROR,
					errcode(es_counted(ERRCODE_ES_EVENT_ID_CONFLICT)),
					errmsg("event id is used twice in one batch"),
					target->stream == NULL ?
					errdetail("event_id=%s",
							  DatumGetCString(DirectFunctionCall1(uuid_out, UUIDPGetDatum(ids[i])))) :
					errdetail("event_id=%s stream=%.*s version=" INT64_FORMAT,
							  DatumGetCString(DirectFunctionCall1(uuid_out, UUIDPGetDatum(ids[i]))),
							  target->stream_len, target->stream, version));
		}
	}
	pfree(ids);
}

/*
 * The events of some streams are stored, those of others are not: VE002 with
 * one line for each stream that was there.
 */
static void
es_partly_known(EsAppend *append)
{
	StringInfoData detail;

	es_durable_wait();
	initStringInfo(&detail);
	for (int i = 0; i < append->ntargets; i++)
	{
		EsTarget   *target = &append->targets[i];

		if (!target->is_known)
			continue;
		appendStringInfo(&detail, "%sevent_id=%s", detail.len > 0 ? "\n" : "",
						 DatumGetCString(DirectFunctionCall1(uuid_out,
															 UUIDPGetDatum(&append->events[target->first].event_id))));
		if (target->stream != NULL)
			appendStringInfo(&detail, " stream=%.*s version=" INT64_FORMAT,
							 target->stream_len, target->stream, target->known_from);
	}
	ereport(ERROR,
			errcode(es_counted(ERRCODE_ES_EVENT_ID_CONFLICT)),
			errmsg("a part of the events is already stored"),
			errdetail_internal("%s", detail.data),
			errhint("A retry must repeat the whole append; a new event needs a new id."));
}

/*
 * Is the append a retry of one that was carried out?
 *
 * What is only checked does not matter then: it was right at the time.
 *
 * Errors: VE002 and VE001 by the decision table of the contract.
 */
static bool
es_is_retry(EsAppend *append)
{
	EsTarget  **wrong;
	int			nwrong = 0;
	int			nknown = 0;
	int			nwritten = 0;

	for (int i = 0; i < append->ntargets; i++)
	{
		EsTarget   *target = &append->targets[i];

		es_target_find(append, target);
		nwritten += target->first >= 0;
		nknown += target->is_known;
	}
	if (nknown == 0)
		return false;
	if (nknown < nwritten)
		es_partly_known(append);

	wrong = palloc(sizeof(EsTarget *) * append->ntargets);
	for (int i = 0; i < append->ntargets; i++)
	{
		EsTarget   *target = &append->targets[i];

		if (target->is_known && target->expected >= 0 &&
			target->known_from != target->expected + 1)
			wrong[nwrong++] = target;
	}
	if (nwrong > 0)
		es_version_conflict(append, wrong, nwrong);
	return true;
}

static bool
es_version_expected(const EsTarget *target)
{
	switch (target->expected)
	{
		case ES_ANY_VERSION:
			return true;
		case ES_STREAM_EXISTS:
			return target->current > 0;
		default:
			return target->current == target->expected;
	}
}

/*
 * Errors: VE001 unless all streams are where they should be.
 */
static void
es_check_versions(EsAppend *append)
{
	EsTarget  **wrong = palloc(sizeof(EsTarget *) * append->ntargets);
	int			nwrong = 0;

	for (int i = 0; i < append->ntargets; i++)
	{
		if (!es_version_expected(&append->targets[i]))
			wrong[nwrong++] = &append->targets[i];
	}
	if (nwrong > 0)
	{
		EsKnownEvent known;

		/* an append that is partly known is the graver error */
		for (int i = 0; i < append->nevents; i++)
		{
			if (append->events[i].id_given &&
				es_known_event(append, &append->events[i].event_id, &known))
				es_event_id_conflict(append->event, append->store,
									 &append->events[i].event_id, NULL);
		}
		es_version_conflict(append, wrong, nwrong);
	}
	es_note_versions(append, false);
	pfree(wrong);
}

static int
es_target_compare(const void *a, const void *b)
{
	const EsTarget *left = *(EsTarget *const *) a;
	const EsTarget *right = *(EsTarget *const *) b;

	return es_stream_lock_order(left->stream, left->stream_len,
								right->stream, right->stream_len);
}

/*
 * Lock all streams, in an order that is the same for everybody, and see how
 * far they are.
 *
 * Those that are to be created are created later, when it is known that this is
 * no retry and the versions are as expected; but beyond the limit of stream
 * locks at once, because their rows are their locks then.
 */
static void
es_lock_targets(EsAppend *append)
{
	EsTarget  **order = palloc(sizeof(EsTarget *) * append->ntargets);
	EsLast		last;
	int			n = 0;

	for (int i = 0; i < append->ntargets; i++)
	{
		if (append->targets[i].stream != NULL)
			order[n++] = &append->targets[i];
	}
	if (n > 1)
		qsort(order, n, sizeof(EsTarget *), es_target_compare);
	for (int i = 0; i < n; i++)
	{
		EsTarget   *target = order[i];

		target->stream_no = es_stream_lock(append->store, append->event, target->stream,
										   target->stream_len, &last);
		target->current = target->stream_no == 0 ? 0 :
			es_current_version(append->event, append->store, target->stream_no, &last,
							   &target->chain);
		if (target->stream_no == 0 && target->first >= 0 && es_stream_locks_full() &&
			(target->expected == 0 || target->expected == ES_ANY_VERSION))
			target->stream_no = es_stream_create(append->store, append->event,
												 target->stream, target->stream_len);
	}
	pfree(order);
}

/*
 * Give the events their stream and type numbers and their versions.
 */
static void
es_number_events(EsAppend *append)
{
	for (int i = 0; i < append->ntargets; i++)
	{
		EsTarget   *target = &append->targets[i];
		EsNewEvent *last = NULL;
		int64		version = target->current;
		bool		is_chained = es_hash_chain || target->chain.begun;

		target->chain.stream = target->stream;
		target->chain.stream_len = target->stream_len;
		if (target->first >= 0 && target->stream_no == 0 && target->stream != NULL)
			target->stream_no = es_stream_create(append->store, append->event,
												 target->stream, target->stream_len);
		for (int k = target->first; k >= 0; k = append->events[k].next)
		{
			EsNewEvent *event = &append->events[k];

			if (version == PG_INT32_MAX)
			{
				es_durable_wait();
				ereport(ERROR,
							errcode(ERRCODE_PROGRAM_LIMIT_EXCEEDED),
							errmsg("stream \"%.*s\" has reached the highest version",
								   target->stream_len, target->stream));
			}
			/* runs of one type are common */
			if (last != NULL && event->type_len == last->type_len &&
				memcmp(event->type, last->type, event->type_len) == 0)
				event->type_no = last->type_no;
			else
				event->type_no = es_type_get(append->store, target->stream, target->stream == NULL ? 0 :
											 es_category_length(target->stream, target->stream_len),
											 event->type, event->type_len);
			event->stream_no = target->stream_no;
			event->chain = is_chained ? &target->chain : NULL;
			event->version = target->stream == NULL ? 0 : ++version;
			last = event;
		}
	}
}

/*
 * Between the installation of this library and ALTER EXTENSION ... UPDATE the
 * tables of 0.1 have no room for tags and hashes.
 */
static void
es_check_columns(EsAppend *append)
{
	if (es_hash_chain && append->store->hash == 0)
		ereport(ERROR,
				errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				errmsg("the tables of this database have no hashes yet"),
				errhint("Run ALTER EXTENSION event_store UPDATE, or set event_store.hash_chain to off."));
	if (likely(append->store->tags != 0))
		return;
	for (int i = 0; i < append->nevents; i++)
	{
		/* the script that appends events of no stream has tags */
		Assert(append->targets[append->events[i].target].stream != NULL);
		if (append->events[i].tags != NULL)
			ereport(ERROR,
					errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
					errmsg("the tables of this database have no tags yet"),
					errhint("Run ALTER EXTENSION event_store UPDATE."));
	}
}

/*
 * Write the events of an append that may be carried out.
 */
static void
es_append_write(EsAppend *append, EsWriter *writer)
{
	int64		last_position;

	if (append->condition != NULL)
		es_condition_check(append);
	es_number_events(append);

	es_writer_write(writer, append->store, append->events, append->nevents);
	ES_FAULT_POINT("append_done");
	if (append->condition != NULL)
		es_condition_confirm(append);

	last_position = append->events[append->nevents - 1].position;
	if (last_position / ES_MARK_INTERVAL !=
		(append->events[0].position - 1) / ES_MARK_INTERVAL)
		es_head_mark(append->event, append->store, last_position);

	es_durable_end_append(append->events[0].position);
	es_count(ES_COUNT_APPENDS, 1);
	es_count(ES_COUNT_EVENTS, append->nevents);
	es_wakeup_after_commit(last_position);
}

/*
 * Append events, or find that they have been appended before.
 *
 * append		function, targets and events are set; so are the events'
 *				"target" and "next"
 *
 * Result: true if they were a retry.  Versions and positions are filled in.
 */
bool
es_append_run(EsAppend *append)
{
	EsWriter   *writer = NULL;
	LOCKTAG		retry_lock;
	bool		has_retry_lock = false;
	bool		is_retry;

	PreventCommandIfReadOnly(append->function);
	PreventCommandIfParallelMode(append->function);

	append->event = es_store_open_event(&append->store, RowExclusiveLock);
	es_head_refuse_subscriber(append->store);
	es_write_prepare(append->event, append->store);
	es_check_columns(append);
	es_durable_begin_append();
	if (append->nevents > 0)
		writer = es_writer_begin_append(append->event, append->store, append->events,
										append->nevents);

	if (append->condition != NULL)
		es_condition_lock(append->condition);
	es_lock_targets(append);
	if (append->condition != NULL)
		has_retry_lock = es_condition_lock_retry(append, &retry_lock);
	if (append->nevents > 1)
		es_check_batch_ids(append);
	is_retry = es_is_retry(append);
	if (is_retry)
		es_count(ES_COUNT_DUPLICATES, 1);
	else
		es_check_versions(append);

	if (is_retry || writer == NULL)
		es_durable_wait();
	else
		es_append_write(append, writer);
	if (has_retry_lock)
		es_unlock(&retry_lock, ExclusiveLock);
	if (writer != NULL)
		es_writer_end(writer);
	table_close(append->event, NoLock);
	return is_retry;
}

/*
 * The columns of es_appended for one event.
 */
void
es_append_answer(const EsNewEvent *event, bool is_duplicate, Datum *values, bool *isnull)
{
	memset(isnull, false, 4 * sizeof(bool));
	isnull[1] = event->stream_no == 0;
	values[0] = UUIDPGetDatum(&event->event_id);
	values[1] = Int64GetDatum(event->version);
	values[2] = Int64GetDatum(event->position);
	values[3] = BoolGetDatum(is_duplicate);
}

/*
 * Begin an append to the one stream that the first two arguments name.
 */
static void
es_append_begin(FunctionCallInfo fcinfo, const char *function, EsAppend *append,
				EsTarget *target)
{
	memset(target, 0, sizeof(*target));
	target->stream = es_arg_name(fcinfo, 0, "stream_id", &target->stream_len);
	target->expected = es_arg_expected(fcinfo, 1, "expected_version");
	memset(append, 0, sizeof(*append));
	append->function = function;
	append->targets = target;
	append->ntargets = 1;
}

/*
 * Carry it out for these events.
 */
static bool
es_append_finish(EsAppend *append, EsNewEvent *events, int nevents)
{
	append->events = events;
	append->nevents = nevents;
	for (int i = 0; i < nevents; i++)
		events[i].next = i + 1 < nevents ? i + 1 : -1;
	return es_append_run(append);
}

/*
 * The rows of es_appended, in the order given.
 */
Datum
es_append_set(FunctionCallInfo fcinfo, EsNewEvent *events, int nevents, bool is_duplicate)
{
	TupleDesc	desc;
	Tuplestorestate *result = es_result_set(fcinfo, es_appended_attributes, Natts_es_appended,
											&desc);

	for (int i = 0; i < nevents; i++)
	{
		Datum		values[4];
		bool		isnull[4];

		es_append_answer(&events[i], is_duplicate, values, isnull);
		tuplestore_putvalues(result, desc, values, isnull);
	}
	return (Datum) 0;
}

/*
 * es_append(stream_id text, expected_version bigint, event_type text,
 *			 data jsonb, metadata jsonb, event_id uuid, schema_version int,
 *			 tags text[])
 *		RETURNS (event_id uuid, version bigint, global_position bigint,
 *				 is_duplicate boolean)
 *
 * Append one event.  See the contract, section Append.
 */
Datum
es_append(PG_FUNCTION_ARGS)
{
	EsAppend	append;
	EsTarget	target;
	EsNewEvent	event;
	Datum		values[4];
	bool		isnull[4];
	bool		is_duplicate;

	es_append_begin(fcinfo, "es_append()", &append, &target);
	es_events_from_scalars(fcinfo, &event);
	is_duplicate = es_append_finish(&append, &event, 1);
	es_append_answer(&event, is_duplicate, values, isnull);
	return es_result_row(fcinfo, es_appended_attributes, Natts_es_appended, values, isnull);
}

/*
 * es_append_batch(stream_id text, expected_version bigint, event_types text[],
 *				   data jsonb[], metadata jsonb[], event_ids uuid[],
 *				   schema_versions int[], tags jsonb[])
 *		RETURNS SETOF (event_id, version, global_position, is_duplicate)
 *
 * Append many events atomically.
 */
Datum
es_append_batch(PG_FUNCTION_ARGS)
{
	EsAppend	append;
	EsTarget	target;
	EsNewEvent *events;
	int			nevents;

	es_append_begin(fcinfo, "es_append_batch()", &append, &target);
	events = es_events_from_arrays(fcinfo, &nevents);
	return es_append_set(fcinfo, events, nevents,
						 es_append_finish(&append, events, nevents));
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
	EsAppend	append;
	EsTarget	target;
	EsNewEvent *events;
	int			nevents;

	es_append_begin(fcinfo, "es_append()", &append, &target);
	events = es_events_from_json(&es_arg_jsonb(fcinfo, 2, "events")->root, &nevents, NULL);
	return es_append_set(fcinfo, events, nevents,
						 es_append_finish(&append, events, nevents));
}
