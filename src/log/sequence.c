/*-------------------------------------------------------------------------
 * log/sequence.c
 *	  Keep the store's sequences ahead of its tables.
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

#include "access/table.h"
#include "miscadmin.h"
#include "storage/lock.h"
#include "utils/fmgrprotos.h"
#include "utils/lsyscache.h"
#include "utils/rel.h"

#include "base/compat.h"
#include "log/sequence.h"
#include "log/table.h"

/* fourth field of the advisory lock tag under which sequences are repaired */
#define ES_LOCK_CLASS_SEQUENCE	4

/* the store whose sequences this session has found in order */
static Oid	es_checked_event = InvalidOid;

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
