/*-------------------------------------------------------------------------
 * log/write.c
 *	  Physical insertion of events.
 *
 * The caller holds the locks of the streams, has checked everything and assigned
 * the versions.  Tuples are formed and compressed first; then, under the
 * insertion lock, positions are drawn and put into the tuples, the tuples go
 * into the heap and their entries into the indexes by position, type and tag.  The
 * entries of all other indexes are made after the lock is released.  Under
 * the lock nothing waits for another transaction: a position that is taken,
 * because somebody has set the sequence back, is found without waiting and
 * refused, and the sequence's relation lock is ours already.  The positions of
 * a chunk are drawn at once.
 *
 * Events go in chunks, each under a lock period and with positions of its
 * own, so that the lock is held for about a millisecond at the most.  Who
 * writes very many events keeps one writer for all of them, so that relations
 * are opened once; an append has a writer of its own.  Each index that is opened
 * costs a lock, so an append whose ids the store makes, which need no index,
 * opens the one by event id only when it turns out that they do.
 *
 * Event ids are unique in the store (log/id.c).  An entry that meets an equal
 * id, maybe of a transaction in progress, is found by UNIQUE_CHECK_PARTIAL, which
 * does not wait; we then wait for that transaction after the release and decide
 * by its outcome.
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/heapam.h"
#include "access/heaptoast.h"
#include "access/htup_details.h"
#include "access/relation.h"
#include "access/table.h"
#include "access/tableam.h"
#include "access/xact.h"
#include "catalog/pg_index.h"
#include "storage/lmgr.h"
#include "utils/builtins.h"
#include "utils/fmgroids.h"
#include "utils/fmgrprotos.h"
#include "utils/memutils.h"
#include "utils/rel.h"
#include "utils/rls.h"
#include "utils/snapmgr.h"

#include "base/compat.h"
#include "base/count.h"
#include "base/errors.h"
#include "base/fault.h"
#include "base/lock.h"
#include "log/find.h"
#include "log/id.h"
#include "log/last.h"
#include "log/order.h"
#include "log/sequence.h"
#include "log/shape.h"
#include "log/stream.h"
#include "log/table.h"
#include "log/tags.h"
#include "log/write.h"
#include "settings.h"

/* events, payload bytes and entries of tags under one insertion lock period */
#define ES_CHUNK_EVENTS		64
#define ES_CHUNK_BYTES		(64 * 1024)
#define ES_CHUNK_TAGS		512

/* the same for very many events: fewer and longer periods, still a millisecond */
#define ES_BULK_CHUNK_EVENTS	256
#define ES_BULK_CHUNK_BYTES		(256 * 1024)

/* the position that this session has drawn last since es_sequence_check looked */
static int64 es_last_drawn = 0;

/* how often this session has written events */
static uint64 es_nwrites = 0;

/*
 * The first columns of the event table, of which the row of an event without
 * hash is formed: up to the tags, and up to metadata for one without tags
 * either; NULL = not to be used.
 */
static TupleDesc es_unhashed_desc = NULL;
static TupleDesc es_untagged_desc = NULL;
static bool es_short_descs_known = false;

/* an index that an append has opened; *store may be reloaded meanwhile */
typedef struct EsOpenIndex
{
	Relation	rel;			/* NULL = not opened, probably not needed */
	Oid			oid;
	EsIndexRole role;
} EsOpenIndex;

struct EsWriter
{
	Relation	event;
	Relation	position_seq;
	const EsStore *store;
	EsOpenIndex *indexes;
	int			nindexes;
	int			chunk_max;		/* events under one insertion lock period */
	HeapTuple  *tuples;			/* those of one chunk */
	TupleTableSlot **slots;		/* NULL = one event at a time */
	Datum	   *values;			/* columns of one row */
	bool	   *isnull;
	BulkInsertState bulk;		/* NULL = few events */
	MemoryContext chunk_context;	/* NULL = one event, which needs none */
	EsNewEvent *current;		/* for errors: the event at hand */
};

/*
 * Lock the event table's TOAST table and its indexes, so that writing to them
 * under the insertion lock waits for nobody.
 */
static void
es_lock_toast(Relation event)
{
	Relation	toast;
	List	   *indexes;
	ListCell   *lc;

	if (!OidIsValid(event->rd_rel->reltoastrelid))
		return;
	toast = table_open(event->rd_rel->reltoastrelid, RowExclusiveLock);
	indexes = RelationGetIndexList(toast);
	foreach(lc, indexes)
		index_close(index_open(lfirst_oid(lc), RowExclusiveLock), NoLock);
	list_free(indexes);
	table_close(toast, NoLock);
}

/*
 * Everything that could fail or wait before the first event is written.
 */
void
es_write_prepare(Relation event, const EsStore *store)
{
	es_order_attach();
	es_count_prepare();
	es_lock_table(RelationGetRelid(event), RowExclusiveLock);
	if (es_sequence_check(event, store))
		es_last_drawn = 0;
	es_shape_check(store, event);
}

static void
es_short_descs_forget(void)
{
	es_short_descs_known = false;
}

/*
 * Called once per process, from _PG_init.
 */
void
es_write_init(void)
{
	es_store_on_change(offsetof(EsStore, event), es_short_descs_forget);
}

/*
 * Copy of a row type's first columns, for the life of the process.
 */
static TupleDesc
es_first_columns(TupleDesc desc, int natts)
{
	MemoryContext old_context = MemoryContextSwitchTo(TopMemoryContext);
	TupleDesc	copy = CreateTemplateTupleDesc(natts);

	MemoryContextSwitchTo(old_context);
	for (int i = 1; i <= natts; i++)
		TupleDescCopyEntry(copy, i, desc, i);
	return copy;
}

/*
 * Row type of an event, as short as its content allows.
 *
 * A row may have fewer columns than its table: the others read as null, and no
 * bitmap has to say so, as after ALTER TABLE ADD COLUMN.  With columns of an
 * administrator behind the store's, which may have a default, all are written.
 */
static TupleDesc
es_event_desc(Relation event, const EsStore *store, const EsNewEvent *new_event)
{
	TupleDesc	desc = RelationGetDescr(event);

	if (!es_short_descs_known)
	{
		if (es_unhashed_desc != NULL)
			FreeTupleDesc(es_unhashed_desc);
		if (es_untagged_desc != NULL)
			FreeTupleDesc(es_untagged_desc);
		es_unhashed_desc = es_untagged_desc = NULL;
		if (store->tags == Natts_es_event + 1 && store->hash == store->tags + 1 &&
			desc->natts == store->hash)
		{
			es_unhashed_desc = es_first_columns(desc, store->tags);
			es_untagged_desc = es_first_columns(desc, Natts_es_event);
		}
		es_short_descs_known = true;
	}
	if (es_untagged_desc == NULL || new_event->chain != NULL)
		return desc;
	return new_event->tags != NULL ? es_unhashed_desc : es_untagged_desc;
}

/*
 * Hash of an event's content, in the place of its hash.
 */
static bytea *
es_content_hash(const EsNewEvent *new_event, TimestampTz created_at)
{
	bytea	   *result = palloc(VARHDRSZ + ES_HASH_LEN);
	EsChainEvent content = {
		.stream = new_event->chain->stream,
		.stream_len = new_event->chain->stream_len,
		.version = new_event->version,
		.event_id = &new_event->event_id,
		.type = new_event->type,
		.type_len = new_event->type_len,
		.schema_version = new_event->schema_version,
		.created_at = created_at,
		.data = DatumGetJsonbP(new_event->data),
		.metadata = DatumGetJsonbP(new_event->metadata),
		.tags = new_event->tags
	};

	SET_VARSIZE(result, VARHDRSZ + ES_HASH_LEN);
	es_chain_content(&content, (uint8 *) VARDATA(result));
	return result;
}

/*
 * Form one tuple, position and hash left open, and compress its payload if heapam
 * would have to do so under the lock.
 */
static HeapTuple
es_form_tuple(EsWriter *writer, EsNewEvent *new_event, TimestampTz now)
{
	Relation	event = writer->event;
	const EsStore *store = writer->store;
	Datum	   *values = writer->values;
	bool	   *isnull = writer->isnull;
	TupleDesc	desc = es_event_desc(event, store, new_event);
	HeapTuple	tuple;
	AttrNumber	payload[] = {Anum_es_event_data, Anum_es_event_metadata};
	bool		in_stream = new_event->stream_no != 0;

	values[Anum_es_event_global_position - 1] = Int64GetDatum(0);
	values[Anum_es_event_stream_no - 1] = Int64GetDatum(new_event->stream_no);
	isnull[Anum_es_event_stream_no - 1] = !in_stream;
	values[Anum_es_event_version - 1] = Int32GetDatum((int32) new_event->version);
	isnull[Anum_es_event_version - 1] = !in_stream;
	values[Anum_es_event_created_at - 1] = TimestampTzGetDatum(new_event->is_dated ? new_event->created_at : now);
	values[Anum_es_event_event_id - 1] = UUIDPGetDatum(&new_event->event_id);
	values[Anum_es_event_type_no - 1] = Int32GetDatum(new_event->type_no);
	values[Anum_es_event_schema_version - 1] = Int32GetDatum(new_event->schema_version);
	values[Anum_es_event_data - 1] = new_event->data;
	values[Anum_es_event_metadata - 1] = new_event->metadata;
	if (store->tags != 0)
	{
		values[store->tags - 1] = PointerGetDatum(new_event->tags);
		isnull[store->tags - 1] = new_event->tags == NULL;
	}
	if (store->hash != 0)
	{
		isnull[store->hash - 1] = new_event->chain == NULL;
		if (new_event->chain != NULL)
			values[store->hash - 1] =
				PointerGetDatum(es_content_hash(new_event,
												DatumGetTimestampTz(values[Anum_es_event_created_at - 1])));
	}
	tuple = heap_form_tuple(desc, values, isnull);

	for (int i = 0; i < lengthof(payload) && tuple->t_len > TOAST_TUPLE_THRESHOLD; i++)
	{
		AttrNumber	column = payload[i];
		Datum		compressed = es_toast_compress(values[column - 1],
												   TupleDescAttr(desc, column - 1));

		if (DatumGetPointer(compressed) != NULL)
		{
			values[column - 1] = compressed;
			heap_freetuple(tuple);
			tuple = heap_form_tuple(desc, values, isnull);
		}
	}
	return tuple;
}

/*
 * Link an event to the one before it, now that its position is known.  The
 * tuple has the hash of its content in the place of its hash, which is short
 * and stays in line.
 */
static void
es_link_event(Relation event, const EsStore *store, EsNewEvent *new_event, HeapTuple tuple)
{
	EsChain    *chain = new_event->chain;
	bool		isnull;
	Datum		place = heap_getattr(tuple, store->hash, RelationGetDescr(event), &isnull);
	uint8	   *hash = (uint8 *) VARDATA_ANY(DatumGetPointer(place));

	es_chain_link(chain->last, new_event->position, hash, hash);

	/* what belongs to no stream has no predecessor */
	if (new_event->stream_no != 0)
		memcpy(chain->last, hash, ES_HASH_LEN);
}

/*
 * Have the id that the store has made end with the position, now that this is
 * known; but for an event with a hash, which is made of the id, too.  The id has
 * a fixed place after columns of fixed width, of which one may be null.
 */
static void
es_position_id(HeapTuple tuple, EsNewEvent *new_event)
{
	int			place = new_event->stream_no == 0 ? 2 * sizeof(int64) : 3 * sizeof(int64);

	if (new_event->id_given || new_event->chain != NULL ||
		!es_id_take_position(&new_event->event_id, new_event->position))
		return;
	memcpy((char *) tuple->t_data + tuple->t_data->t_hoff + place,
		   &new_event->event_id, UUID_LEN);
}

/*
 * Somebody has set the sequence back.  Called under the insertion lock, which
 * the error releases.
 */
static void
es_position_taken(int64 position)
{
	es_sequence_recheck();
	ereport(ERROR,
			errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
			errmsg("position " INT64_FORMAT " is already taken", position),
			errdetail("Sequence \"event_global_position_seq\" has been set back."),
			errhint("Try again: the next append moves the sequence forward."));
}

/*
 * Make the entry of one tuple in the index by event id, if it needs one, and see
 * that no other event has the id; see log/id.c.
 *
 * Who makes an entry looks at the position that the id names, too, if that has
 * been drawn by then; whoever draws it later finds the entry.
 */
static void
es_index_event_id(EsWriter *writer, Relation index, HeapTuple tuple, EsNewEvent *new_event)
{
	Relation	event = writer->event;
	Datum		values[1] = {UUIDPGetDatum(&new_event->event_id)};
	bool		isnull[1] = {false};
	bool		is_partial = index->rd_indextuple != NULL &&
		!heap_attisnull(index->rd_indextuple, Anum_pg_index_indpred, NULL);
	int64		named = is_partial ? es_id_position(&new_event->event_id) : 0;
	bool		look;

	if (is_partial && named == new_event->position)
		look = new_event->id_given;
	else
		look = !es_index_insert(index, values, isnull, &tuple->t_self, event,
								UNIQUE_CHECK_PARTIAL, NULL) ||
			(new_event->id_given && named > 0 && !es_fault_no_id_look &&
			 (named < new_event->position || named <= es_sequence_drawn(writer->position_seq)));
	if (look)
		es_resolve_event_id(event, writer->store, &new_event->event_id, &tuple->t_self);
}

/*
 * Make the entry of one tuple in one index.
 */
static void
es_index_event(EsWriter *writer, Relation index, EsIndexRole role, HeapTuple tuple,
			   EsNewEvent *new_event)
{
	Relation	event = writer->event;
	Datum		values[2];
	bool		isnull[2] = {false, false};

	switch (role)
	{
		case ES_INDEX_POSITION:
			values[0] = Int64GetDatum(new_event->position);
			if (!es_index_insert(index, values, isnull, &tuple->t_self, event,
								 index->rd_index->indisunique ?
								 UNIQUE_CHECK_PARTIAL : UNIQUE_CHECK_NO, NULL))
				es_position_taken(new_event->position);
			break;
		case ES_INDEX_TYPE:
			values[0] = Int32GetDatum(new_event->type_no);
			values[1] = Int64GetDatum(new_event->position);
			es_index_insert(index, values, isnull, &tuple->t_self, event,
							UNIQUE_CHECK_NO, NULL);
			break;
		case ES_INDEX_TAG:
			if (new_event->tags == NULL)
				break;
			values[0] = PointerGetDatum(new_event->tags);
			values[1] = Int64GetDatum(new_event->position);
			es_index_insert(index, values, isnull, &tuple->t_self, event,
							UNIQUE_CHECK_NO, NULL);
			break;
		case ES_INDEX_STREAM:
			/* cannot fail under the stream's lock; checked all the same */
			isnull[0] = isnull[1] = new_event->stream_no == 0;
			values[0] = Int64GetDatum(new_event->stream_no);
			values[1] = Int32GetDatum((int32) new_event->version);
			es_index_insert(index, values, isnull, &tuple->t_self, event,
							UNIQUE_CHECK_YES, NULL);
			break;
		case ES_INDEX_EVENT_ID:
			es_index_event_id(writer, index, tuple, new_event);
			break;
		case ES_INDEX_OTHER:
			es_table_index_tuple(event, index, tuple);
			break;
	}
}

static inline bool
es_index_under_lock(EsIndexRole role)
{
	return role == ES_INDEX_POSITION || role == ES_INDEX_TYPE || role == ES_INDEX_TAG;
}

/*
 * Has an event of this chunk an id that ends with no position?
 */
static bool
es_chunk_has_other_id(const EsNewEvent *events, int n)
{
	for (int i = 0; i < n; i++)
	{
		if (es_id_position(&events[i].event_id) != events[i].position)
			return true;
	}
	return false;
}

/*
 * Make the entries of one chunk in the indexes that are filled under the
 * insertion lock, or in those that are not.
 */
static void
es_index_chunk(EsWriter *writer, EsNewEvent *events, int n, bool under_lock)
{
	for (int k = 0; k < writer->nindexes; k++)
	{
		EsOpenIndex *index = &writer->indexes[k];

		if (es_index_under_lock(index->role) != under_lock)
			continue;
		if (index->rel == NULL && es_chunk_has_other_id(events, n))
			index->rel = index_open(index->oid, RowExclusiveLock);
		if (index->rel == NULL || !index->rel->rd_index->indisready)
			continue;
		for (int i = 0; i < n; i++)
		{
			writer->current = &events[i];
			es_index_event(writer, index->rel, index->role, writer->tuples[i], &events[i]);
		}
	}
}

/*
 * Insert one chunk; see the head of this file.
 */
static void
es_write_chunk(EsWriter *writer, EsNewEvent *events, int n)
{
	Relation	event = writer->event;
	const EsStore *store = writer->store;
	HeapTuple  *tuples = writer->tuples;
	CommandId	cid = GetCurrentCommandId(true);
	int64		first;

	for (int i = 0; i < n; i++)
	{
		if (tuples[i]->t_len > TOAST_TUPLE_THRESHOLD)
		{
			es_lock_toast(event);
			break;
		}
	}

	es_order_lock();
	first = es_sequence_draw(writer->position_seq, n, PG_INT64_MAX);
	if (first <= es_last_drawn)
		es_position_taken(first);
	es_last_drawn = first + n - 1;
	es_order_publish(first);
	ES_FAULT_POINT("append_drawn");
	for (int i = 0; i < n; i++)
	{
		events[i].position = first + i;

		/* the first column, never null, thus at a fixed place */
		memcpy((char *) tuples[i]->t_data + tuples[i]->t_data->t_hoff,
			   &events[i].position, sizeof(int64));
		es_position_id(tuples[i], &events[i]);
		if (events[i].chain != NULL)
			es_link_event(event, store, &events[i], tuples[i]);
	}

	if (n == 1)
		heap_insert(event, tuples[0], cid, 0, writer->bulk);
	else
	{
		/* the slots free the tuples, else heapam would make copies of its own */
		for (int i = 0; i < n; i++)
			ExecStoreHeapTuple(tuples[i], writer->slots[i], true);
		heap_multi_insert(event, writer->slots, n, cid, 0, writer->bulk);
		for (int i = 0; i < n; i++)
			tuples[i]->t_self = writer->slots[i]->tts_tid;
	}
	ES_FAULT_POINT("append_inserted");

	es_index_chunk(writer, events, n, true);
	es_order_unlock(events[n - 1].position);
	ES_FAULT_POINT("append_before_indexes");
	es_index_chunk(writer, events, n, false);

	for (int i = 0; i < n; i++)
	{
		if (events[i].stream_no != 0 &&
			(i + 1 == n || events[i + 1].stream_no != events[i].stream_no))
			es_last_put(event, store, events[i].stream_no, events[i].version,
						events[i].chain != NULL);
	}
}

/*
 * Begin to write events.
 *
 * event		open with RowExclusiveLock, and es_write_prepare has been called
 * chunk_max	events under one insertion lock period at the most
 * tags			may events have tags?
 * ids			may they have ids that the store does not make?
 * bulk			are they very many?
 *
 * Result: in the current memory context.
 */
static EsWriter *
es_writer_make(Relation event, const EsStore *store, int chunk_max, bool tags, bool ids,
			   bool bulk)
{
	EsWriter   *writer = palloc0(sizeof(EsWriter));
	int			natts = RelationGetDescr(event)->natts;

	writer->event = event;
	writer->position_seq = es_sequence_open(store->position_seq);
	writer->store = store;
	writer->chunk_max = chunk_max;
	writer->values = palloc0(natts * sizeof(Datum));
	writer->isnull = palloc(natts * sizeof(bool));
	writer->tuples = palloc(sizeof(HeapTuple) * chunk_max);

	/* columns that an administrator has added stay null */
	memset(writer->isnull, true, natts);
	memset(writer->isnull, false, Natts_es_event);

	writer->indexes = palloc(sizeof(EsOpenIndex) * store->nindexes);
	for (int k = 0; k < store->nindexes; k++)
	{
		EsOpenIndex *index = &writer->indexes[writer->nindexes];

		if (store->indexes[k].role == ES_INDEX_TAG && !tags)
			continue;
		index->oid = store->indexes[k].oid;
		index->role = store->indexes[k].role;
		if (!store->indexes[k].is_partial || ids)
			index->rel = index_open(index->oid, RowExclusiveLock);
		else
			index->rel = NULL;
		writer->nindexes++;
	}
	if (chunk_max > 1)
	{
		writer->slots = palloc(sizeof(TupleTableSlot *) * chunk_max);
		for (int i = 0; i < chunk_max; i++)
			writer->slots[i] = MakeSingleTupleTableSlot(RelationGetDescr(event),
														&TTSOpsHeapTuple);
	}
	if (bulk)
		writer->bulk = GetBulkInsertState();
	if (chunk_max > 1)
		writer->chunk_context = AllocSetContextCreate(CurrentMemoryContext, "event_store chunk",
													  ALLOCSET_DEFAULT_SIZES);
	return writer;
}

/*
 * A writer for very many events.
 */
EsWriter *
es_writer_begin(Relation event, const EsStore *store)
{
	return es_writer_make(event, store, ES_BULK_CHUNK_EVENTS, true, true, true);
}

/*
 * A writer for the events of one append.  The caller gets it before the locks of
 * the streams: while he opens the indexes nobody should have to wait for him.
 */
EsWriter *
es_writer_begin_append(Relation event, const EsStore *store, const EsNewEvent *events,
					   int nevents)
{
	bool		any_tags = false;
	bool		any_id = es_hash_chain;

	for (int i = 0; i < nevents; i++)
	{
		any_tags |= events[i].tags != NULL;
		any_id |= events[i].id_given;
	}
	return es_writer_make(event, store, Min(nevents, ES_CHUNK_EVENTS), any_tags, any_id, false);
}

/*
 * Insert events in this order and set their positions.
 *
 * store		as it is now
 * events		of streams that this transaction has locked
 *
 * Errors: VE002 when an event id is taken; 40P01 when waiting to know would
 * never end.
 */
void
es_writer_write(EsWriter *writer, const EsStore *store, EsNewEvent *events, int nevents)
{
	TimestampTz now = GetCurrentTimestamp();
	int			chunk_bytes = writer->bulk != NULL ? ES_BULK_CHUNK_BYTES : ES_CHUNK_BYTES;
	MemoryContext old_context = CurrentMemoryContext;
	int			done = 0;

	/* assigned outside the insertion lock; an error here is no event's */
	writer->current = NULL;
	es_nwrites++;
	ES_FAULT_POINT("append_begun");
	(void) GetCurrentTransactionId();

	writer->store = store;
	if (writer->chunk_context != NULL)
		MemoryContextSwitchTo(writer->chunk_context);
	while (done < nevents)
	{
		Size		bytes = 0;
		int			ntags = 0;
		int			n = 0;

		while (n < writer->chunk_max && done + n < nevents && bytes < chunk_bytes &&
			   ntags < ES_CHUNK_TAGS)
		{
			writer->current = &events[done + n];
			writer->tuples[n] = es_form_tuple(writer, &events[done + n], now);
			bytes += writer->tuples[n]->t_len;
			ntags += events[done + n].ntags;
			n++;
		}
		es_write_chunk(writer, events + done, n);
		done += n;
		CHECK_FOR_INTERRUPTS();
		if (writer->slots != NULL)
		{
			for (int i = 0; i < n; i++)
				ExecClearTuple(writer->slots[i]);
		}
		if (writer->chunk_context != NULL)
			MemoryContextReset(writer->chunk_context);
	}
	MemoryContextSwitchTo(old_context);
}

/*
 * How often has this session written events?  For who keeps in mind what they
 * have come to, while others' functions run.
 */
uint64
es_write_count(void)
{
	return es_nwrites;
}

/*
 * After an error of es_writer_write: which event was it?  NULL = none.
 */
const EsNewEvent *
es_writer_current(const EsWriter *writer)
{
	return writer->current;
}

void
es_writer_end(EsWriter *writer)
{
	if (writer->chunk_context != NULL)
		MemoryContextDelete(writer->chunk_context);
	if (writer->bulk != NULL)
		FreeBulkInsertState(writer->bulk);
	if (writer->slots != NULL)
	{
		for (int i = 0; i < writer->chunk_max; i++)
			ExecDropSingleTupleTableSlot(writer->slots[i]);
	}
	for (int k = 0; k < writer->nindexes; k++)
	{
		if (writer->indexes[k].rel != NULL)
			index_close(writer->indexes[k].rel, NoLock);
	}
	relation_close(writer->position_seq, NoLock);
}
