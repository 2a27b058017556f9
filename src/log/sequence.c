/*-------------------------------------------------------------------------
 * log/sequence.c
 *	  Numbers from the store's sequences, which are kept ahead of its tables.
 *
 * Positions are drawn under an insertion lock, for a whole chunk of events at
 * once.  nextval() gives one at a time, and looks the sequence up for each; so
 * this file advances the sequence itself, with the changes and the WAL record
 * of nextval_internal in sequence.c: whatever reads sequences sees no
 * difference.  currval() and lastval() of the session stay as they were.
 *
 * A restore, a promoted logical subscriber (sequences are not replicated
 * before PostgreSQL 19) or setval() can leave a sequence behind the numbers in
 * use.  Each session looks once, before its first append, and moves such a
 * sequence forward with a warning.  A sequence that is set back later shows as
 * a position that is taken (log/write.c); the session then looks again, and
 * also after the event table has changed as a relation.  Set back to a dead
 * gap, which only the owner can do, it goes unnoticed by sessions that have
 * drawn nothing higher: an event there comes too late for readers.
 *
 * Lock: an advisory lock of a private class, so that two sessions do not
 * repair at once and set back what the first one's successors have drawn.
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "access/relation.h"
#include "access/table.h"
#include "access/xact.h"
#include "access/xlog.h"
#include "access/xloginsert.h"
#include "catalog/pg_sequence.h"
#include "catalog/pg_type.h"
#include "commands/sequence.h"
#include "miscadmin.h"
#include "storage/bufmgr.h"
#include "storage/lock.h"
#include "utils/fmgrprotos.h"
#include "utils/lsyscache.h"
#include "utils/rel.h"
#include "utils/syscache.h"

#include "base/compat.h"
#include "log/sequence.h"
#include "log/table.h"

/* fourth field of the advisory lock tag under which sequences are repaired */
#define ES_LOCK_CLASS_SEQUENCE	4

/* numbers that a WAL record of a sequence covers beyond those that are drawn */
#define ES_SEQUENCE_AHEAD		32	/* SEQ_LOG_VALS of sequence.c */

/* what the special space of a sequence's page begins with */
#define ES_SEQUENCE_MAGIC		0x1717	/* SEQ_MAGIC of sequence.c */

/* the store whose sequences this session has found in order */
static Oid	es_checked_event = InvalidOid;

/*
 * Lock a sequence for es_sequence_draw, to the end of the transaction.
 *
 * Errors: 55000 when its numbers would not be drawn one by one.
 */
Relation
es_sequence_open(Oid seq)
{
	Relation	rel = relation_open(seq, RowExclusiveLock);
	HeapTuple	tuple = SearchSysCache1(SEQRELID, ObjectIdGetDatum(seq));
	Form_pg_sequence form;

	if (!HeapTupleIsValid(tuple))
		elog(ERROR, "cache lookup failed for sequence %u", seq);
	form = (Form_pg_sequence) GETSTRUCT(tuple);
	if (form->seqcache != 1 || form->seqincrement != 1 || form->seqcycle ||
		form->seqmax != (form->seqtypid == INT4OID ? PG_INT32_MAX : PG_INT64_MAX))
		ereport(ERROR,
				errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				errmsg("sequence \"%s\" has been altered", RelationGetRelationName(rel)),
				errdetail("Its numbers must be drawn one by one."),
				errhint("Run ALTER SEQUENCE event_store.%s INCREMENT 1 CACHE 1 NO CYCLE NO MAXVALUE.",
						RelationGetRelationName(rel)));
	ReleaseSysCache(tuple);
	return rel;
}

/*
 * Lock the page of a sequence and find its only tuple.
 *
 * mode			of the lock
 * buffer		result: the page, pinned and locked
 * item			result, may be NULL: the tuple's line pointer
 */
static HeapTupleHeader
es_sequence_lock(Relation seq, int mode, Buffer *buffer, ItemId *item)
{
	Page		page;
	ItemId		found;

	*buffer = ReadBuffer(seq, 0);
	LockBuffer(*buffer, mode);
	page = BufferGetPage(*buffer);
	if (*(uint32 *) PageGetSpecialPointer(page) != ES_SEQUENCE_MAGIC)
		elog(ERROR, "bad magic number in sequence \"%s\"", RelationGetRelationName(seq));
	found = PageGetItemId(page, FirstOffsetNumber);
	if (item != NULL)
		*item = found;
	return (HeapTupleHeader) PageGetItem(page, found);
}

/*
 * Draw numbers.  Waits for nobody but whoever else is just drawing.
 *
 * seq			from es_sequence_open, in a transaction that has an id
 * n			how many, from 1
 * max			highest number of the sequence's type
 *
 * Result: the first of them, the others follow.
 * Errors: 55000 when the sequence is at its end.
 */
int64
es_sequence_draw(Relation seq, int n, int64 max)
{
	Buffer		buffer;
	ItemId		item;
	HeapTupleHeader header = es_sequence_lock(seq, BUFFER_LOCK_EXCLUSIVE, &buffer, &item);
	Form_pg_sequence_data data = (Form_pg_sequence_data) ((char *) header + header->t_hoff);
	Page		page = BufferGetPage(buffer);
	int64		first;
	int64		last;

	first = data->is_called ? data->last_value + 1 : data->last_value;
	if (first < 1 || first > max - ES_SEQUENCE_AHEAD - n)
		ereport(ERROR,
				errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				errmsg("sequence \"%s\" is at its end", RelationGetRelationName(seq)),
				errdetail("It stands at " INT64_FORMAT ".", data->last_value));
	last = first + n - 1;

	START_CRIT_SECTION();
	MarkBufferDirty(buffer);
	if (!data->is_called || data->log_cnt < n || PageGetLSN(page) <= GetRedoRecPtr())
	{
		/* logged is the state after ES_SEQUENCE_AHEAD more */
		data->last_value = last + ES_SEQUENCE_AHEAD;
		data->is_called = true;
		data->log_cnt = 0;
		if (RelationNeedsWAL(seq))
		{
			xl_seq_rec	record;
			XLogRecPtr	end;

			es_seq_rec_set(&record, seq);
			XLogBeginInsert();
			XLogRegisterBuffer(0, buffer, REGBUF_WILL_INIT);
			XLogRegisterData((char *) &record, sizeof(record));
			XLogRegisterData((char *) header, ItemIdGetLength(item));
			end = XLogInsert(RM_SEQ_ID, XLOG_SEQ_LOG);
			PageSetLSN(page, end);
		}
		data->log_cnt = ES_SEQUENCE_AHEAD;
	}
	else
		data->log_cnt -= n;
	data->last_value = last;
	END_CRIT_SECTION();

	UnlockReleaseBuffer(buffer);
	return first;
}

/*
 * The last number that anybody has drawn.
 *
 * seq			from es_sequence_open
 */
int64
es_sequence_drawn(Relation seq)
{
	Buffer		buffer;
	HeapTupleHeader header = es_sequence_lock(seq, BUFFER_LOCK_SHARE, &buffer, NULL);
	Form_pg_sequence_data data = (Form_pg_sequence_data) ((char *) header + header->t_hoff);
	int64		result;

	result = data->is_called ? data->last_value : data->last_value - 1;
	UnlockReleaseBuffer(buffer);
	return result;
}

/*
 * The next number of a sequence, for a row that will be written.
 */
int64
es_sequence_next(Oid seq, int64 max)
{
	Relation	rel = es_sequence_open(seq);
	int64		result;

	(void) GetTopTransactionId();
	result = es_sequence_draw(rel, 1, max);
	relation_close(rel, NoLock);
	return result;
}

static int64
es_sequence_last(Oid seq)
{
	LOCAL_FCINFO(fcinfo, 1);
	Datum		last;

	InitFunctionCallInfoData(*fcinfo, NULL, 1, InvalidOid, NULL, NULL);
	fcinfo->args[0].value = ObjectIdGetDatum(seq);
	fcinfo->args[0].isnull = false;
	last = pg_sequence_last_value(fcinfo);
	return fcinfo->isnull ? 0 : DatumGetInt64(last);
}

static void
es_sequence_repair(Oid seq, Oid table, const Oid *index)
{
	Relation	rel = table_open(table, AccessShareLock);
	int64		in_use = es_table_highest_key(rel, index);
	int64		last;
	LOCKTAG		tag;

	if (es_sequence_last(seq) >= in_use)
	{
		table_close(rel, NoLock);
		return;
	}

	SET_LOCKTAG_ADVISORY(tag, MyDatabaseId, seq, 0, ES_LOCK_CLASS_SEQUENCE);
	(void) LockAcquire(&tag, ExclusiveLock, false, false);
	in_use = es_table_highest_key(rel, index);
	last = es_sequence_last(seq);
	if (last < in_use)
	{
		DirectFunctionCall2(setval_oid, ObjectIdGetDatum(seq), Int64GetDatum(in_use));
		ereport(WARNING,
				errmsg("sequence \"%s\" was behind the event store and has been moved forward",
					   get_rel_name(seq)),
				errdetail("It stood at " INT64_FORMAT ", the highest number in use is " INT64_FORMAT ".",
						  last, in_use));
	}
	(void) LockRelease(&tag, ExclusiveLock, false);
	table_close(rel, NoLock);
}

/*
 * Called by each append before it draws a number.
 *
 * Result: whether this was the first time, or the first after a recheck.
 */
bool
es_sequence_check(Relation event, const EsStore *store)
{
	Oid			user;
	int			context;

	if (likely(es_checked_event == RelationGetRelid(event)))
		return false;

	/* appenders may use the sequences through us only */
	GetUserIdAndSecContext(&user, &context);
	SetUserIdAndSecContext(event->rd_rel->relowner,
						   context | SECURITY_LOCAL_USERID_CHANGE);
	es_sequence_repair(store->position_seq, store->event,
					   &store->read_index[ES_INDEX_POSITION]);
	es_sequence_repair(store->stream_seq, store->stream, &store->stream_by_no);
	es_sequence_repair(store->type_seq, store->event_type, &store->type_by_no);
	SetUserIdAndSecContext(user, context);
	es_checked_event = RelationGetRelid(event);
	return true;
}

/*
 * Look again at the next append.
 */
void
es_sequence_recheck(void)
{
	es_checked_event = InvalidOid;
}

/*
 * Called once per process, from _PG_init.
 */
void
es_sequence_init(void)
{
	es_store_on_change(offsetof(EsStore, event), es_sequence_recheck);
}
