/*-------------------------------------------------------------------------
 * subscription/lease.c
 *	  Who has the events of a subscription in hand, and for how long.
 *
 * es_fetch hands events out under a lease, written to the cursor's row.
 * Until they are acknowledged nobody else gets them, unless the lease ends
 * by time or by the death of the session.  A session shows that it lives by
 * a lock of the lock manager on a number of its own, taken for the session:
 * it vanishes with it, whatever becomes of the process, and DISCARD ALL
 * (a pooler that gives the connection to another client) frees it too.
 * A consumer with a name (argument "member") is judged by time alone.
 *
 * A lease need not survive a crash, because the sessions do not: a
 * transaction that wrote nothing but leases commits asynchronously.
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/xact.h"
#include "access/xlog.h"
#include "catalog/pg_collation.h"
#include "storage/lock.h"
#include "utils/builtins.h"
#include "utils/guc.h"
#include "utils/hsearch.h"
#include "utils/memutils.h"

#include "base/args.h"
#include "base/compat.h"
#include "subscription/subscription.h"

/* fourth field of the advisory lock tag by which a session shows that it lives */
#define ES_LOCK_CLASS_SESSION	7

/* a subscription from which this session has fetched by itself */
typedef struct EsFetched
{
	char		name[ES_NAME_MAX + 1];	/* hash key */
	int64		delivered;		/* highest position that it got or passed over */
	int64		before;			/* the same before this transaction, 0 = none */
	bool		fresh;			/* delivered is of this transaction */
	int			acknowledged;	/* all of it, in this (sub)transaction: its
								 * nesting level, 0 = not */
} EsFetched;

/* number of this session; random, never used twice */
static int64 es_session = 0;

/* subscriptions of which this session knows that somebody else has the events */
static HTAB *es_told = NULL;
static HTAB *es_fetched = NULL;
static bool es_fetched_changed = false;

/* end of the WAL of this transaction if it wrote leases only; 0 = it did not */
static XLogRecPtr es_lease_end = 0;
static bool es_lease_alone = false;
static bool es_lease_registered = false;

static void
es_lease_key(Datum name, char *key)
{
	memset(key, 0, ES_NAME_MAX + 1);
	text_to_cstring_buffer(DatumGetTextPP(name), key, ES_NAME_MAX + 1);
}

/*
 * At the end of a transaction: forget what was acknowledged in it, or what
 * was fetched in vain.
 */
static void
es_lease_settle(bool committed)
{
	HASH_SEQ_STATUS status;
	EsFetched  *entry;

	es_fetched_changed = false;
	hash_seq_init(&status, es_fetched);
	while ((entry = hash_seq_search(&status)) != NULL)
	{
		if (!committed && entry->fresh)
			entry->delivered = entry->before;
		if (entry->delivered == 0 || (committed && entry->acknowledged > 0))
			hash_search(es_fetched, entry->name, HASH_REMOVE, NULL);
		else
		{
			entry->fresh = false;
			entry->acknowledged = 0;
		}
	}
}

/*
 * What was acknowledged in a subtransaction is so only if that does not abort.
 */
static void
es_lease_subxact_callback(SubXactEvent event, SubTransactionId subid,
						  SubTransactionId parent, void *arg)
{
	int			level = GetCurrentTransactionNestLevel();
	HASH_SEQ_STATUS status;
	EsFetched  *entry;

	if (!es_fetched_changed ||
		(event != SUBXACT_EVENT_COMMIT_SUB && event != SUBXACT_EVENT_ABORT_SUB))
		return;
	hash_seq_init(&status, es_fetched);
	while ((entry = hash_seq_search(&status)) != NULL)
	{
		if (entry->acknowledged >= level)
			entry->acknowledged = event == SUBXACT_EVENT_COMMIT_SUB ? level - 1 : 0;
	}
}

static void
es_lease_xact_callback(XactEvent event, void *arg)
{
	switch (event)
	{
		case XACT_EVENT_PRE_COMMIT:
			if (es_lease_end != 0 && XactLastRecEnd == es_lease_end)
				(void) set_config_option("synchronous_commit", "off", PGC_USERSET,
										 PGC_S_SESSION, GUC_ACTION_LOCAL, true, 0, false);
			break;
		case XACT_EVENT_COMMIT:
		case XACT_EVENT_ABORT:
		case XACT_EVENT_PREPARE:
			es_lease_end = 0;
			if (es_fetched_changed)
				es_lease_settle(event == XACT_EVENT_COMMIT);
			break;
		default:
			break;
	}
}

/*
 * Around whatever writes leases and nothing that must survive a crash.
 */
void
es_lease_write_begin(void)
{
	if (!es_lease_registered)
	{
		RegisterXactCallback(es_lease_xact_callback, NULL);
		RegisterSubXactCallback(es_lease_subxact_callback, NULL);
		es_lease_registered = true;
	}
	es_lease_alone = XactLastRecEnd == es_lease_end;
}

void
es_lease_write_end(void)
{
	es_lease_end = es_lease_alone ? XactLastRecEnd : 0;
}

static void
es_lease_tag(LOCKTAG *tag, int64 session)
{
	SET_LOCKTAG_ADVISORY(*tag, MyDatabaseId, (uint32) ((uint64) session >> 32),
						 (uint32) session, ES_LOCK_CLASS_SESSION);
}

/*
 * The number of this session, with its sign of life up.
 */
int64
es_lease_session(void)
{
	LOCKTAG		tag;

	while (es_session == 0)
	{
		if (!pg_strong_random(&es_session, sizeof(es_session)))
			ereport(ERROR,
					errcode(ERRCODE_INTERNAL_ERROR),
					errmsg("could not generate random values"));
	}
	es_lease_tag(&tag, es_session);
	/* held already: the lock manager has counted up */
	if (LockAcquire(&tag, ExclusiveLock, true, false) != LOCKACQUIRE_OK)
		LockRelease(&tag, ExclusiveLock, true);
	return es_session;
}

/*
 * Does a session show that it lives?  Its own lock keeps nobody out, so for
 * this one ask whether it is held already.
 */
bool
es_lease_session_lives(int64 session)
{
	LOCKMODE	mode = session == es_session ? ExclusiveLock : ShareLock;
	LockAcquireResult result;
	LOCKTAG		tag;

	es_lease_tag(&tag, session);
	result = LockAcquire(&tag, mode, true, true);
	if (result == LOCKACQUIRE_NOT_AVAIL)
		return true;
	LockRelease(&tag, mode, true);
	return result != LOCKACQUIRE_OK;
}

/*
 * Does the cursor show somebody else as the one who fetched last?
 */
bool
es_lease_is_foreign(const EsCursor *cursor, Datum member)
{
	if (member != (Datum) 0)
		return cursor->session != 0 ||
			(cursor->member != (Datum) 0 &&
			 !DatumGetBool(DirectFunctionCall2Coll(texteq, C_COLLATION_OID,
												   cursor->member, member)));
	return cursor->member != (Datum) 0 ||
		(cursor->session != 0 && cursor->session != es_session);
}

/*
 * Does somebody else have unacknowledged events in hand?
 */
bool
es_lease_is_busy(const EsCursor *cursor, Datum member)
{
	return cursor->delivered > 0 &&
		es_lease_is_foreign(cursor, member) &&
		cursor->lease_until > GetCurrentTimestamp() &&
		(cursor->session == 0 || es_lease_session_lives(cursor->session));
}

/*
 * Remember that this session has fetched from a subscription by itself: until
 * all that is acknowledged it can lose the lease, and must not get away with
 * an acknowledgement then.
 */
void
es_lease_remember(Datum name, int64 delivered)
{
	EsFetched  *entry;
	char		key[ES_NAME_MAX + 1];
	bool		found;

	if (es_fetched == NULL)
	{
		HASHCTL		ctl;

		memset(&ctl, 0, sizeof(ctl));
		ctl.keysize = sizeof(key);
		ctl.entrysize = sizeof(EsFetched);
		ctl.hcxt = TopMemoryContext;
		es_fetched = hash_create("event_store subscriptions fetched", 16, &ctl,
								 HASH_ELEM | HASH_BLOBS | HASH_CONTEXT);
	}
	es_lease_key(name, key);
	entry = hash_search(es_fetched, key, HASH_ENTER, &found);
	if (!found)
		entry->before = 0;
	else if (!entry->fresh)
		entry->before = entry->delivered;
	entry->delivered = delivered;
	entry->fresh = es_fetched_changed = true;
	entry->acknowledged = 0;
}

/*
 * Has this session fetched the event at this position by itself, or passed it
 * over, without having acknowledged all it got?
 */
bool
es_lease_remembered(Datum name, int64 position)
{
	EsFetched  *entry;
	char		key[ES_NAME_MAX + 1];

	if (es_fetched == NULL)
		return false;
	es_lease_key(name, key);
	entry = hash_search(es_fetched, key, HASH_FIND, NULL);
	return entry != NULL && entry->acknowledged == 0 && position <= entry->delivered;
}

/*
 * Everything is acknowledged, if this transaction commits.
 */
void
es_lease_forget(Datum name)
{
	EsFetched  *entry;
	char		key[ES_NAME_MAX + 1];

	if (es_fetched == NULL)
		return;
	es_lease_key(name, key);
	entry = hash_search(es_fetched, key, HASH_FIND, NULL);
	if (entry != NULL)
	{
		es_fetched_changed = true;
		entry->acknowledged = GetCurrentTransactionNestLevel();
	}
}

/*
 * Lock the cursor of a consumer that reports back.
 *
 * Errors: 55006 if another consumer has events in hand, 55000 if the lease
 * ended and the events went, or may have gone, to another one, or if the
 * subscription was dropped and made again.  A group does
 * not know its members' sessions, so there a member with nothing in hand may
 * repeat only what it has just acknowledged.
 */
void
es_lease_check(const EsSubscription *sub, Datum member,
			   int64 position, EsCursor *cursor)
{
	bool		foreign;
	bool		own;

	if (!es_cursor_load(sub, member, true, cursor))
		ereport(ERROR,
				errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				errmsg("subscription \"%s\" was dropped and made again",
					   TextDatumGetCString(sub->name)),
				errhint("Roll back, and fetch again."));
	if (sub->slots > 0)
	{
		if (!cursor->exists)
			ereport(ERROR,
					errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
					errmsg("\"%s\" is not a member of subscription \"%s\"",
						   TextDatumGetCString(member), TextDatumGetCString(sub->name)),
					errdetail("It never joined, has left, or its lease ended and its events went to others."),
					errhint("Roll back, and fetch again."));

		/* thrown out, it may have joined again: that does not bring them back */
		if (cursor->delivered == 0 && position > cursor->position)
			ereport(ERROR,
					errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
					errmsg("\"%s\" has no events of subscription \"%s\" in hand",
						   TextDatumGetCString(member), TextDatumGetCString(sub->name)),
					errdetail("They were acknowledged, or its lease ended and they went to others."),
					errhint("Roll back, and fetch again."));
		return;
	}

	if (!cursor->exists)
	{
		EsSubscription now;

		/* maybe just dropped */
		es_subscription_load(sub->name, &now);
		ereport(ERROR,
				errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				errmsg("the lease on subscription \"%s\" has ended",
					   TextDatumGetCString(sub->name)),
				errdetail("The subscription was reset or made again."),
				errhint("Roll back, and fetch again."));
	}

	/*
	 * Without a name, fetching and acknowledging may come from different
	 * sessions of the client's connection pool.  Not so a session that got
	 * the event itself: then it is either still in its hands or lost.
	 */
	foreign = es_lease_is_foreign(cursor, member);
	own = member == (Datum) 0 && es_lease_remembered(sub->name, position);
	if (es_lease_is_busy(cursor, member) &&
		(own || member != (Datum) 0 || cursor->member != (Datum) 0 ||
		 position > Max(cursor->delivered, cursor->scanned)))
		ereport(ERROR,
				errcode(ERRCODE_OBJECT_IN_USE),
				errmsg("the events of subscription \"%s\" are with another consumer",
					   TextDatumGetCString(sub->name)),
				errhint("Roll back, and fetch again."));
	if ((member != (Datum) 0 && (foreign || cursor->member == (Datum) 0)) ||
		(own && (foreign || cursor->delivered == 0)))
		ereport(ERROR,
				errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				errmsg("the lease on subscription \"%s\" has ended",
					   TextDatumGetCString(sub->name)),
				errdetail("The events were handed out to another consumer or acknowledged by one, or the subscription was reset."),
				errhint("Roll back, and fetch again."));
}

/*
 * Has this session not been told yet that a subscription's events are with
 * somebody else?  It has now.
 */
bool
es_lease_first_told(Datum name)
{
	char		key[ES_NAME_MAX + 1];
	bool		found;

	if (es_told == NULL)
	{
		HASHCTL		ctl;

		memset(&ctl, 0, sizeof(ctl));
		ctl.keysize = ctl.entrysize = sizeof(key);
		ctl.hcxt = TopMemoryContext;
		es_told = hash_create("event_store subscriptions told of", 16, &ctl,
							  HASH_ELEM | HASH_BLOBS | HASH_CONTEXT);
	}
	es_lease_key(name, key);
	(void) hash_search(es_told, key, HASH_ENTER, &found);
	return !found;
}

/*
 * It has had events itself: should it get none later, that is news.
 */
void
es_lease_forget_told(Datum name)
{
	char		key[ES_NAME_MAX + 1];

	if (es_told == NULL)
		return;
	es_lease_key(name, key);
	(void) hash_search(es_told, key, HASH_REMOVE, NULL);
}
