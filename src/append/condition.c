/*-------------------------------------------------------------------------
 * append/condition.c
 *	  Append on a condition: unless an event that a decision must not overlook
 *	  has come in between (a dynamic consistency boundary).
 *
 * The condition is a query and a position.  It must hold in the global order:
 * no event above that position and below those of the append matches the
 * query.  Two things that the log does anyway make that exact, and nobody else
 * pays for it:
 *
 *	1. write: the append draws its positions and inserts its events;
 *	2. wait at the barrier (log/order.c): now whatever has a lower position, or
 *	   ever will have, stands in the indexes by position, type and tag;
 *	3. walk over what the query matches from the given position up to the
 *	   append's own last one, with the state of now (ES_SCAN_NOW), the append's
 *	   own events left out.  A match that is committed is a conflict; one whose
 *	   transaction is running is waited for, and is then a conflict, or was
 *	   never there.
 *
 * Of two appends whose events each other's conditions forbid the one with the
 * lower position does not see the other one and goes through; the other one
 * sees it, waits, and fails.  That holds as well if one of them has no
 * condition, so an append without condition takes no lock for it and never
 * waits.  What gets a higher position comes later in the global order, where
 * the condition does not reach, whichever transaction commits first.
 *
 * A walk of the same kind before anything is written, without upper bound,
 * spares an append whose decision is stale the writing.
 *
 * Locks, until the end of the transaction but for one:
 *	  event table			RowExclusiveLock, as for every append
 *	  items of the query	a lock of the lock manager on the hash of each item,
 *							with all its parts, in the order of the hashes:
 *							exclusive and until the end of the transaction if
 *							nobody has it, else shared and given back at once,
 *							so that all who wait for whoever has it go on
 *							together.  Only callers with an equal item meet
 *							there.  Nothing depends on these locks: of callers
 *							that decide on the same they make the later ones
 *							wait before they write what would have to be thrown
 *							away.  So a transaction takes
 *							ES_MAX_CONDITION_LOCKS at the most, and none for the
 *							rest.
 *	  streams of the events	as for every append
 *	  first event id		of events that belong to no stream, if it is given:
 *							exclusive until the append is through, so that whoever
 *							repeats it finds them, whatever either of them waits
 *							for meanwhile
 *	  transactions			waited for as above
 *
 * None of this deadlocks among such calls, each in a transaction of its own:
 * items are locked in one order, then streams in one order; then positions are
 * drawn, and whoever has one waits for lower ones only.  The exception are the
 * events of a call that go in several chunks (log/write.c), where those of others
 * may get positions in between: two such calls may each have an event that the
 * other one forbids before events of the other one.  One of the two has to fail,
 * and if neither of them saw the other's before it wrote, it does so by 40P01.
 *
 * In READ COMMITTED the state of now is all that counts.  In REPEATABLE READ
 * and SERIALIZABLE a match that the transaction's snapshot does not show cannot
 * be judged by whoever reads with it, and is 40001.
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/table.h"
#include "access/xact.h"
#include "storage/lmgr.h"
#include "storage/predicate.h"
#include "utils/builtins.h"
#include "utils/rel.h"
#include "utils/rls.h"
#include "utils/snapmgr.h"

#include "append/condition.h"
#include "base/compat.h"
#include "base/count.h"
#include "base/errors.h"
#include "base/fault.h"
#include "base/lock.h"
#include "log/durable.h"
#include "log/event.h"
#include "log/order.h"
#include "log/scan.h"
#include "log/tags.h"
#include "log/type.h"
#include "read/query.h"

/* fourth field of our advisory lock tags; see log/stream.c */
#define ES_LOCK_CLASS_CONDITION		9
#define ES_LOCK_CLASS_RETRY			10

/* locks of items that one transaction takes at the most */
#define ES_MAX_CONDITION_LOCKS		64

/* locks of items taken in this transaction */
static int	es_condition_nlocks = 0;

static void
es_condition_xact_callback(XactEvent event, void *arg)
{
	if (event == XACT_EVENT_COMMIT || event == XACT_EVENT_ABORT ||
		event == XACT_EVENT_PREPARE)
		es_condition_nlocks = 0;
}

/*
 * Called once per process, from _PG_init.
 */
void
es_condition_init(void)
{
	RegisterXactCallback(es_condition_xact_callback, NULL);
}

/*
 * A number for an item, all of whose parts are sorted.
 */
static uint64
es_item_hash(const EsQueryItem *item)
{
	StringInfoData buf;
	uint64		result;

	initStringInfo(&buf);
	for (int i = 0; i < item->ntypes; i++)
	{
		text	   *type = DatumGetTextPP(item->types[i]);

		appendBinaryStringInfo(&buf, VARDATA_ANY(type), VARSIZE_ANY_EXHDR(type));
		appendStringInfoChar(&buf, '\1');	/* no name contains one */
	}
	for (int i = 0; i < item->ntags; i++)
	{
		text	   *tag = DatumGetTextPP(item->tags[i]);

		appendStringInfoChar(&buf, '\2');
		appendBinaryStringInfo(&buf, VARDATA_ANY(tag), VARSIZE_ANY_EXHDR(tag));
	}
	for (int i = 0; i < item->nstreams; i++)
	{
		text	   *stream = DatumGetTextPP(item->streams[i]);

		appendStringInfoChar(&buf, '\3');
		appendBinaryStringInfo(&buf, VARDATA_ANY(stream), VARSIZE_ANY_EXHDR(stream));
	}
	for (int i = 0; i < item->nprefixes; i++)
	{
		text	   *prefix = DatumGetTextPP(item->prefixes[i]);

		appendStringInfoChar(&buf, '\4');
		appendBinaryStringInfo(&buf, VARDATA_ANY(prefix), VARSIZE_ANY_EXHDR(prefix));
	}
	result = es_tag_hash(buf.data, buf.len);
	pfree(buf.data);
	return result;
}

static int
es_hash_compare(const void *a, const void *b)
{
	uint64		left = *(const uint64 *) a;
	uint64		right = *(const uint64 *) b;

	return (left > right) - (left < right);
}

/*
 * Wait for those who decide on the same.
 *
 * A queue would hand the lock from one to the next, each of whom would find his
 * decision stale: so everybody waits for the first one only.
 */
void
es_condition_lock(const EsCondition *condition)
{
	int			n = condition->query->nitems;
	uint64	   *hashes = palloc(sizeof(uint64) * n);

	for (int i = 0; i < n; i++)
		hashes[i] = es_item_hash(&condition->query->items[i]);
	qsort(hashes, n, sizeof(uint64), es_hash_compare);
	for (int i = 0; i < n && es_condition_nlocks < ES_MAX_CONDITION_LOCKS; i++)
	{
		LOCKTAG		tag;

		if (i > 0 && hashes[i] == hashes[i - 1])
			continue;
		SET_LOCKTAG_ADVISORY(tag, MyDatabaseId, (uint32) (hashes[i] >> 32),
							 (uint32) hashes[i], ES_LOCK_CLASS_CONDITION);
		if (es_lock(&tag, ExclusiveLock, true) != LOCKACQUIRE_NOT_AVAIL)
		{
			es_condition_nlocks++;
			es_durable_hold(&tag);
			es_durable_keep(&tag);
		}
		else
		{
			(void) es_lock(&tag, ShareLock, false);
			es_unlock(&tag, ShareLock);
		}
	}
	pfree(hashes);
}

/*
 * Wait for another attempt of the same append to come to where it can be found,
 * unless both meet at the lock of a stream.
 *
 * tag			result: a lock to release when the events are written
 *
 * Result: false if there is none.
 */
bool
es_condition_lock_retry(const EsAppend *append, LOCKTAG *tag)
{
	const EsNewEvent *event = &append->events[0];
	uint64		hash;

	if (append->ntargets > 1 || append->targets[0].stream != NULL || !event->id_given)
		return false;
	hash = es_tag_hash((const char *) event->event_id.data, UUID_LEN);
	SET_LOCKTAG_ADVISORY(*tag, MyDatabaseId, (uint32) (hash >> 32), (uint32) hash,
						 ES_LOCK_CLASS_RETRY);
	(void) es_lock(tag, ExclusiveLock, false);
	return true;
}

/*
 * In REPEATABLE READ and SERIALIZABLE: refuse what the transaction's snapshot
 * cannot show, an event that was appended after it was taken.
 *
 * xmin			the event's inserter; invalid = there is no event
 *
 * Errors: 40001.
 */
void
es_check_snapshot_sees(TransactionId xmin)
{
	if (IsolationUsesXactSnapshot() && TransactionIdIsNormal(xmin) &&
		!TransactionIdIsCurrentTransactionId(xmin) &&
		XidInMVCCSnapshot(xmin, GetTransactionSnapshot()))
	{
		es_durable_wait();
		ereport(ERROR,
				errcode(ERRCODE_T_R_SERIALIZATION_FAILURE),
				errmsg("could not serialize access due to concurrent append"),
				errhint("The transaction might succeed if retried."));
	}
}

/*
 * The condition fails for this event (VE007), or cannot be judged (40001).
 */
static void
es_condition_failed(EsAppend *append, EsScan *scan)
{
	TupleTableSlot *slot = es_scan_slot(scan);
	TransactionId xmin = es_slot_xmin(slot);
	bool		isnull;
	EsType	   *type;
	EsUpcaster *upcaster;
	const char *name;
	int			len;
	int32		schema_version;

	es_check_snapshot_sees(xmin);
	es_durable_wait();

	/* which type it is read as */
	type = es_type_lookup(append->store,
						  DatumGetInt32(slot_getattr(slot, Anum_es_event_type_no, &isnull)));
	name = type->name;
	len = type->name_len;
	schema_version = DatumGetInt32(slot_getattr(slot, Anum_es_event_schema_version, &isnull));
	upcaster = es_upcast_needed(type) ? es_upcaster_for_type(type, schema_version) : NULL;
	if (upcaster != NULL)
	{
		text	   *target;

		es_upcaster_target(upcaster, &target, &schema_version);
		name = VARDATA_ANY(target);
		len = VARSIZE_ANY_EXHDR(target);
	}
	ereport(ERROR,
			errcode(es_counted(ERRCODE_ES_CONDITION_FAILED)),
			errmsg("an event that the decision must not overlook has come in between"),
	/* what it is is nobody's business to whom policies apply */
			check_enable_rls(RelationGetRelid(append->event), InvalidOid, true) == RLS_ENABLED ? 0 :
			errdetail("position=" INT64_FORMAT " event_type=%.*s",
					  es_scan_position(scan), len, name),
			errhint("Read again what the decision depends on, and decide anew before appending."));
}

/*
 * Is the event at which a walk stands one of the append's own?
 *
 * first		their first position
 */
static bool
es_condition_is_own(EsScan *scan, int64 first)
{
	return es_scan_position(scan) >= first &&
		TransactionIdIsCurrentTransactionId(es_slot_xmin(es_scan_slot(scan)));
}

/*
 * Look for an event that the condition forbids.
 *
 * upto			last position that matters
 * first		the append's own first position, PG_INT64_MAX = none yet
 *
 * Errors: VE007, 40001; 40P01 when waiting to know would never end.
 */
static void
es_condition_walk(EsAppend *append, int64 upto, int64 first)
{
	const EsCondition *condition = append->condition;
	int64		after = condition->after;

	/* for SSI the condition reads what it might meet */
	if (IsolationIsSerializable())
		PredicateLockRelation(append->event, GetActiveSnapshot());

	while (after < upto)
	{
		EsScan	   *scan = es_query_scan(condition->query, append->event, append->store, NULL,
										 ES_SCAN_NOW, ForwardScanDirection, after, upto, 1);
		EsBlocked	blocked;

		while (es_scan_next(scan))
		{
			if (es_query_wants(condition->query, append->store, es_scan_slot(scan)) &&
				!es_condition_is_own(scan, first))
				es_condition_failed(append, scan);
		}
		blocked = es_scan_blocked(scan);
		es_scan_end(scan);
		if (blocked.position == 0)
			break;
		after = blocked.position - 1;
		XactLockTableWait(blocked.xid, append->event, NULL, XLTW_None);
	}
}

/*
 * Before anything is written.
 */
void
es_condition_check(EsAppend *append)
{
	es_condition_walk(append, PG_INT64_MAX, PG_INT64_MAX);
}

/*
 * The same for what has got a position before the events of this append, which
 * are written: before the last one, unless all positions are their own from
 * the first one on.
 *
 * Errors: VE004 when the condition's position has not been there yet.
 */
void
es_condition_confirm(EsAppend *append)
{
	int64		first = append->events[0].position;
	int64		last = append->events[append->nevents - 1].position;

	if (append->condition->after >= first)
		ereport(ERROR,
				errcode(ERRCODE_ES_AHEAD_OF_HEAD),
				errmsg("\"after_position\" is ahead of the head"),
				errdetail("It is " INT64_FORMAT ", the last position of this store was " INT64_FORMAT ".",
						  append->condition->after, first - 1),
				errhint("The store may have been restored from a backup or failed over. Read again what the decision depends on."));
	if (es_fault_no_confirm)
		return;
	es_order_barrier_own();
	es_condition_walk(append, last - first == append->nevents - 1 ? first - 1 : last - 1, first);
}
