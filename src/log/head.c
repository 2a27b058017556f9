/*-------------------------------------------------------------------------
 * log/head.c
 *	  The settled head of the global order, and the marks that make it cheap.
 *
 * The head for a snapshot is the highest visible position with nothing
 * unsettled before it.  To find it one has to walk from a position up to
 * which everything is known to be settled.  Such knowledge is kept in
 * event_store.mark: a row with position P says "everything up to P is
 * settled for whoever sees this row".
 *
 * Proof: the transaction that wrote the row found all inserters of positions
 * up to P finished in a snapshot that it took (or to be itself).  Whoever
 * else sees the row has a snapshot taken after that transaction committed,
 * thus after those inserters finished.  That transaction itself may look with
 * an older snapshot, of REPEATABLE READ or of a function, and does not count
 * the row.  That holds on a standby (their commit
 * records come first in the WAL), after a crash, and for a logical
 * subscriber, which applies the transactions of one subscription in commit order.
 *
 * Appenders write a mark each time the order passes a multiple of
 * ES_MARK_INTERVAL, so the walk is short and its cost spread.
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/genam.h"
#include "access/htup_details.h"
#include "access/table.h"
#include "access/tableam.h"
#include "access/xact.h"
#include "access/xlog.h"
#include "catalog/indexing.h"
#include "catalog/pg_subscription_rel.h"
#include "utils/fmgroids.h"
#include "utils/inval.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"
#include "utils/syscache.h"

#include "base/compat.h"
#include "base/errors.h"
#include "log/durable.h"
#include "log/head.h"
#include "log/order.h"
#include "log/table.h"

/*
 * An append that finds the marks far behind, because somebody held the order
 * up for long, walks this many events at the most.
 */
#define ES_MARK_MAX_WALK	(64 * ES_MARK_INTERVAL)

/*
 * The newest mark visible in the snapshot; 0 if there is none.
 *
 * own			count marks of our own transaction, too: only if the snapshot
 *				is not older than the one that they were made with
 */
static int64
es_mark_newest(const EsStore *store, Snapshot snapshot, bool own)
{
	Relation	rel = table_open(store->mark, AccessShareLock);
	Relation	index = es_store_open_index(&store->mark_by_position);
	TupleTableSlot *slot = table_slot_create(rel, NULL);
	IndexScanDesc desc = es_index_beginscan(rel, index, snapshot, 0);
	int64		result = 0;
	bool		isnull;

	index_rescan(desc, NULL, 0, NULL, 0);
	while (result == 0 && index_getnext_slot(desc, BackwardScanDirection, slot))
	{
		HeapTuple	tuple = ExecFetchSlotHeapTuple(slot, false, NULL);

		if (own || !TransactionIdIsCurrentTransactionId(HeapTupleHeaderGetXmin(tuple->t_data)))
			result = DatumGetInt64(slot_getattr(slot, Anum_es_mark_global_position, &isnull));
	}
	index_endscan(desc);
	ExecDropSingleTupleTableSlot(slot);
	index_close(index, AccessShareLock);
	table_close(rel, NoLock);
	return result;
}

/*
 * A position up to which everything is settled for the snapshot, found without a
 * walk; 0 = none is known.
 */
int64
es_head_marked(const EsStore *store, Snapshot snapshot)
{
	return es_mark_newest(store, snapshot, false);
}

/*
 * Does a subscription write a table?
 *
 * subscription	which one; one that is given is the only one that may.  Each has an
 *				apply worker of its own, and none of them waits for another's
 * ready		result: becomes false if another one does, too, or if the initial
 *				copy is not over, so that changes do not arrive in commit order
 */
bool
es_table_is_subscribed(Oid relid, Oid *subscription, bool *ready)
{
	Relation	rel = table_open(SubscriptionRelRelationId, AccessShareLock);
	ScanKeyData key;
	SysScanDesc scan;
	HeapTuple	tuple;
	bool		found = false;

	ScanKeyInit(&key, Anum_pg_subscription_rel_srrelid, BTEqualStrategyNumber,
				F_OIDEQ, ObjectIdGetDatum(relid));
	scan = systable_beginscan(rel, SubscriptionRelSrrelidSrsubidIndexId, true,
							  NULL, 1, &key);
	while (HeapTupleIsValid(tuple = systable_getnext(scan)))
	{
		Form_pg_subscription_rel row = (Form_pg_subscription_rel) GETSTRUCT(tuple);

		found = true;
		if (!OidIsValid(*subscription))
			*subscription = row->srsubid;
		if (row->srsubid != *subscription || row->srsubstate != SUBREL_STATE_READY)
			*ready = false;
	}
	systable_endscan(scan);
	table_close(rel, AccessShareLock);
	return found;
}

/* whether a subscription writes the store, and whether its copy is over */
static Oid	es_subscribed_event = InvalidOid;	/* store that was looked at */
static bool es_subscribed_looking = false;	/* and nothing has changed since */
static bool es_subscribed = false;
static bool es_subscribed_ready = false;

static void
es_subscription_callback(Datum arg, int cacheid, uint32 hashvalue)
{
	es_subscribed_event = InvalidOid;
	es_subscribed_looking = false;
}

/*
 * Called once per process, from _PG_init.
 */
void
es_head_init(void)
{
	CacheRegisterSyscacheCallback(SUBSCRIPTIONRELMAP, es_subscription_callback, (Datum) 0);
}

/*
 * Is this store written by a subscription?  Then es_subscribed_ready tells
 * whether all that the order needs arrives in the order of commits.
 */
static bool
es_head_is_subscriber(const EsStore *store)
{
	Oid			subscription = InvalidOid;

	if (likely(es_subscribed_event == store->event))
		return es_subscribed;

	es_subscribed_event = InvalidOid;
	es_subscribed_looking = true;
	es_subscribed_ready = true;
	es_subscribed = es_table_is_subscribed(store->event, &subscription, &es_subscribed_ready);
	if (es_subscribed)
		es_subscribed_ready =
			es_table_is_subscribed(store->mark, &subscription, &es_subscribed_ready) &&
			es_table_is_subscribed(store->stream, &subscription, &es_subscribed_ready) &&
			es_table_is_subscribed(store->event_type, &subscription, &es_subscribed_ready) &&
			es_subscribed_ready;

	/* last: the look may fail, or what it saw may change meanwhile */
	if (es_subscribed_looking)
		es_subscribed_event = store->event;
	return es_subscribed;
}

/*
 * Refuse to append where a subscription does (VE005): the publisher will send
 * the same positions.
 */
void
es_head_refuse_subscriber(const EsStore *store)
{
	if (unlikely(es_head_is_subscriber(store)))
		ereport(ERROR,
				errcode(ERRCODE_ES_ORDER_UNAVAILABLE),
				errmsg("cannot append to the store of a logical subscriber"),
				errhint("Append on the publisher, or drop the subscription first."));
}

/*
 * Is the global order available, or has a subscriber no mark yet?
 */
bool
es_head_is_available(const EsStore *store, Snapshot snapshot)
{
	return !es_head_is_subscriber(store) ||
		(es_subscribed_ready && es_mark_newest(store, snapshot, false) > 0);
}

/*
 * The position up to which the given snapshot may walk: every lower position
 * has been inserted physically, or never will be.  0 for an empty store.
 *
 * On a logical subscriber rows arrive in commit order and unsettled events
 * cannot be seen, so the newest mark is the bound there, if it comes with them.
 * Errors: VE005 when a subscriber has no mark (yet).
 */
int64
es_head_bound(Relation event, const EsStore *store, Snapshot snapshot)
{
	int64		mark = 0;

	/* our own uncommitted events have not passed the barrier yet */
	es_order_barrier_own();

	if (likely(!es_head_is_subscriber(store)))
		return es_scan_highest(event, store, snapshot, PG_INT64_MAX);

	if (es_subscribed_ready)
		mark = es_mark_newest(store, snapshot, false);
	if (mark == 0)
		ereport(ERROR,
				errcode(ERRCODE_ES_ORDER_UNAVAILABLE),
				errmsg("the global order is not available on this logical subscriber"),
				es_subscribed_ready ?
				errdetail("Events arrive here in the order of commits, and no mark has arrived yet.") :
				errdetail("Events arrive here in the order of commits, and the other tables of the store are not all ready in the same subscription."),
				errhint("Publish event, stream, event_type and mark of schema event_store together, to one subscription, and wait for the initial copy and the next mark."));
	return mark;
}

/*
 * The same for the active snapshot, for whoever has no store open.
 */
int64
es_head_bound_now(void)
{
	const EsStore *store;
	Relation	event = es_store_open_event(&store, AccessShareLock);
	int64		bound = es_head_bound(event, store, GetActiveSnapshot());

	table_close(event, AccessShareLock);
	return bound;
}

/*
 * The settled head for a snapshot, on disk.
 *
 * proven		everything up to here is known to be settled for the snapshot,
 *				0 = use the newest mark
 * blocked		result, may be NULL: what holds the head back
 *
 * Result: a visible position, 0 when there is none.
 */
int64
es_head_settled(Relation event, const EsStore *store, Snapshot snapshot,
				int64 proven, EsBlocked *blocked)
{
	int64		bound = es_head_bound(event, store, snapshot);
	int64		head = 0;
	EsBlocked	stop = {0, InvalidTransactionId};

	if (bound > 0)
	{
		EsScan	   *scan;

		if (proven == 0)
			proven = es_mark_newest(store, snapshot, false);
		scan = es_scan_begin(event, store, snapshot, ES_SCAN_VISIBLE,
							 ForwardScanDirection, proven, bound, NULL, 0,
							 ES_MARK_INTERVAL);
		while (es_scan_next(scan))
			head = es_scan_position(scan);
		stop = es_scan_blocked(scan);
		es_scan_end(scan);

		/* nothing since: the last visible event before that */
		if (head == 0)
			head = es_scan_highest(event, store, snapshot, Min(proven, bound));
	}
	if (blocked != NULL)
		*blocked = stop;
	if (head >= es_durable_below())
		es_durable_wait();
	return head;
}

/*
 * Is there a position above the settled head that is not settled yet?
 *
 * Such a position may become visible, or free the way, without anybody being
 * told: by an abort or by the end of a prepared transaction.
 *
 * blocked		result, may be NULL: that position
 */
bool
es_head_pending(Relation event, const EsStore *store, Snapshot snapshot, int64 head,
				EsBlocked *blocked)
{
	int64		inserted = es_scan_highest_inserted(event, store);
	bool		pending;
	EsScan	   *scan;

	if (inserted <= head)
		return false;
	scan = es_scan_begin(event, store, snapshot, ES_SCAN_PROBE,
						 ForwardScanDirection, head, inserted, NULL, 0,
						 ES_MARK_INTERVAL);
	while (es_scan_next(scan))
		;
	pending = es_scan_blocked(scan).position != 0;
	if (blocked != NULL)
		*blocked = es_scan_blocked(scan);
	es_scan_end(scan);
	return pending;
}

/*
 * Refuse a cursor that this store has never reached (VE004): the store was
 * restored to an earlier state or failed over to a standby that was behind,
 * and an empty result would hide that events are being missed.
 *
 * A standby may just be late, so it does not judge.
 */
void
es_head_check_cursor(Relation event, const EsStore *store, int64 cursor)
{
	int64		last;

	if (cursor <= 0 || RecoveryInProgress())
		return;
	last = es_scan_highest_inserted(event, store);
	if (cursor > last)
		ereport(ERROR,
				errcode(ERRCODE_ES_AHEAD_OF_HEAD),
				errmsg("the cursor is ahead of the head"),
				errdetail("The cursor is at position " INT64_FORMAT ", the last position of this store is " INT64_FORMAT ".",
						  cursor, last),
				errhint("The store may have been restored from a backup or failed over. Set the consumer back to a position that it shares with this store."));
}

/*
 * Refuse to let a consumer begin where this store has not come to (VE004):
 * what is still to come up to there would be left out without a word.
 *
 * Judged by what is committed now, however old the caller's snapshot: the
 * position may come from another session.  In SERIALIZABLE, looking at the end
 * of the order with a snapshot would count as a read that everybody conflicts
 * with.
 */
void
es_head_check_start(Relation event, const EsStore *store, int64 after)
{
	Snapshot	snapshot;
	int64		last;

	if (after <= 0)
		return;
	snapshot = RegisterSnapshot(GetLatestSnapshot());
	if (es_head_is_subscriber(store))
		last = es_head_bound(event, store, snapshot);
	else
	{
		es_order_barrier_own();
		last = es_scan_highest(event, store,
							   IsolationIsSerializable() ? SnapshotSelf : snapshot,
							   PG_INT64_MAX);
	}
	UnregisterSnapshot(snapshot);
	es_durable_wait();
	if (after > last)
		ereport(ERROR,
				errcode(ERRCODE_ES_AHEAD_OF_HEAD),
				errmsg("position " INT64_FORMAT " is ahead of the head", after),
				errdetail("The last event is at position " INT64_FORMAT ".", last),
				errhint("Use es_head() to begin with what is appended from now on."));
}

/*
 * Write a mark if enough has been settled since the last one.
 *
 * own			last position that this transaction has inserted
 *
 * Called by an append, outside the insertion lock.  Waits for insertions in
 * progress, never for a transaction.
 *
 * The last mark is looked for among what is committed by now and what this
 * transaction has written so far, in this command, too: a load in one
 * statement makes its marks as it goes.  A mark tells of transactions that
 * have ended, so it holds whatever the age of a snapshot.  In SERIALIZABLE,
 * looking for it with a snapshot would also count as a read that everybody
 * conflicts with.
 */
void
es_head_mark(Relation event, const EsStore *store, int64 own)
{
	int64		last = es_mark_newest(store, SnapshotSelf, true);
	int64		mark = last;

	if (own >= last + ES_MARK_INTERVAL)
	{
		Snapshot	snapshot = RegisterSnapshot(GetLatestSnapshot());
		EsScan	   *scan;
		int			n;

		/* every position below our own has been inserted then, or never will be */
		es_order_barrier_own();
		scan = es_scan_begin(event, store, snapshot, ES_SCAN_SETTLED,
							 ForwardScanDirection, last, own, NULL, 0,
							 ES_MARK_INTERVAL);
		for (n = 0; n < ES_MARK_MAX_WALK && es_scan_next(scan); n++)
			mark = es_scan_position(scan);
		if (n < ES_MARK_MAX_WALK && es_scan_blocked(scan).position == 0)
			mark = own;
		es_scan_end(scan);
		UnregisterSnapshot(snapshot);
	}

	if (mark >= last + ES_MARK_INTERVAL)
	{
		Relation	rel = table_open(store->mark, RowExclusiveLock);
		Datum		values[Natts_es_mark] = {Int64GetDatum(mark)};
		bool		isnull[Natts_es_mark] = {false};

		es_table_insert(store, rel, Natts_es_mark, values, isnull);
		table_close(rel, NoLock);
	}
}
