/*-------------------------------------------------------------------------
 * log/gaps.c
 *	  What a backend has learnt about positions that nobody can see.
 *
 * Two things cost every read again and again unless they are remembered: a
 * million aborted appends, and a transaction that imports a million events and
 * has not ended yet.  Either is one run of positions, the longest of its kind,
 * of one store only.  Nothing here is needed to be correct.
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/transam.h"
#include "access/xact.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"

#include "base/compat.h"
#include "log/gaps.h"

/* shorter runs of dead gaps, or of positions of one transaction, are not worth remembering */
#define ES_MIN_DEAD_RUN		1000
#define ES_MIN_TAIL			1000

/* a tail this many transactions old might name another transaction by now */
#define ES_TAIL_MAX_AGE		(UINT64CONST(1) << 30)

/* positions that this backend has proven dead: they will never be seen */
static Oid	es_dead_event = InvalidOid;
static int64 es_dead_from = 0;
static int64 es_dead_to = 0;

/* positions that can be seen once their transaction has ended; nothing else can appear among them */
static EsTail es_tail;

static void
es_gaps_forget(void)
{
	es_dead_event = InvalidOid;
	es_tail.event = InvalidOid;
}

/*
 * Called once per process, from _PG_init.
 */
void
es_gaps_init(void)
{
	es_store_on_change(offsetof(EsStore, event), es_gaps_forget);
}

/*
 * The last of the dead positions that follow on "after"; "after" itself when
 * none are known.
 */
int64
es_dead_end(Relation event, int64 after)
{
	return es_dead_event == RelationGetRelid(event) &&
		after >= es_dead_from - 1 && after < es_dead_to ? es_dead_to : after;
}

/*
 * Positions are dead, none between them lives.
 */
void
es_dead_remember(Relation event, int64 from, int64 to)
{
	if (to - from < ES_MIN_DEAD_RUN)
		return;
	if (es_dead_event != RelationGetRelid(event) || from != es_dead_to + 1)
	{
		es_dead_event = RelationGetRelid(event);
		es_dead_from = from;
	}
	es_dead_to = to;
}

/*
 * The tail that hides a position, and the whole of which the snapshot does not
 * show either; NULL if there is none.
 *
 * Of our own transaction it may show a part.  SERIALIZABLE has to look at
 * each row that it does not see.
 */
const EsTail *
es_tail_hiding(Relation event, Snapshot snapshot, int64 position)
{
	if (es_tail.event == RelationGetRelid(event) &&
		position >= es_tail.from && position <= es_tail.to &&
		!IsolationIsSerializable() &&
		!TransactionIdIsCurrentTransactionId(es_tail.xid) &&
		U64FromFullTransactionId(ReadNextFullTransactionId()) - es_tail.next_xid < ES_TAIL_MAX_AGE &&
		XidInMVCCSnapshot(es_tail.xid, snapshot))
		return &es_tail;
	return NULL;
}

/*
 * Going backward, put positions that are not visible to a run, or begin a new
 * one.  The longest run is kept.
 */
void
es_tail_extend(EsTail *run, EsTail *longest, int64 from, int64 to, TransactionId xid)
{
	if (run->from == to + 1 && run->xid == xid)
		run->from = from;
	else
	{
		run->from = from;
		run->to = to;
		run->xid = xid;
	}
	if (run->to - run->from >= longest->to - longest->from)
		*longest = *run;
}

/*
 * Remember the longest run, if it is worth it.
 */
void
es_tail_remember(Relation event, const EsTail *longest)
{
	if (likely(longest->to - longest->from < ES_MIN_TAIL))
		return;
	es_tail = *longest;
	es_tail.event = RelationGetRelid(event);
	es_tail.next_xid = U64FromFullTransactionId(ReadNextFullTransactionId());
}
