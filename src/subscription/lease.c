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
 * A consumer with a name (argument "member") is judged by time alone; the
 * session through which it fetched knows since when the name had the lease
 * (EsCursor.since), which tells what it got then from what another process of
 * that name has got since.
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

/* names that a session remembers, at the most; few are used up */
#define ES_MAX_FETCHED	1000

/* a subscription, and the name by which this session has fetched from it */
typedef struct EsFetchedKey
{
	char		name[ES_NAME_MAX + 1];
	char		member[ES_NAME_MAX + 1];	/* empty = by itself */
} EsFetchedKey;

/* what it got */
typedef struct EsFetched
{
	EsFetchedKey key;
	int64		delivered;		/* highest position that it got or passed over;
								 * 0 = all of it is acknowledged */
	TimestampTz since;			/* of the cursor then */
	int			level;			/* of the open (sub)transaction that has changed
								 * this last, 0 = none has */
	bool		refused;		/* the consumer knows that it has lost it */
} EsFetched;

/* what it was before a (sub)transaction changed it; the newest first */
typedef struct EsFetchedChange
{
	struct EsFetchedChange *next;
	EsFetched  *entry;
	int			level;
	int64		delivered;
	TimestampTz since;
	int			level_before;
} EsFetchedChange;

/* number of this session; random, never used twice */
static int64 es_session = 0;

/* subscriptions of which this session knows that somebody else has the events */
static HTAB *es_told = NULL;

/* EsFetched, and what this transaction has changed of it */
static HTAB *es_fetched = NULL;
static EsFetchedChange *es_fetched_changes = NULL;
static bool es_fetched_refused = false;

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

static EsFetched *
es_fetched_find(Datum name, Datum member)
{
	EsFetchedKey key;

	if (es_fetched == NULL)
		return NULL;
	memset(&key, 0, sizeof(key));
	es_lease_key(name, key.name);
	if (member != (Datum) 0)
		es_lease_key(member, key.member);
	return hash_search(es_fetched, &key, HASH_FIND, NULL);
}

/*
 * Before a change: should the (sub)transaction roll back, it is undone.
 */
static void
es_fetched_change(EsFetched *entry)
{
	int			level = GetCurrentTransactionNestLevel();
	EsFetchedChange *change;

	if (entry->level == level)
		return;
	change = MemoryContextAlloc(TopTransactionContext, sizeof(EsFetchedChange));
	change->next = es_fetched_changes;
	change->entry = entry;
	change->level = level;
	change->delivered = entry->delivered;
	change->since = entry->since;
	change->level_before = entry->level;
	es_fetched_changes = change;
	entry->level = level;
}

static void
es_fetched_undo(EsFetchedChange *change)
{
	change->entry->delivered = change->delivered;
	change->entry->since = change->since;
	change->entry->level = change->level_before;
}

/*
 * At the end of a transaction: forget what is acknowledged, what was fetched in
 * vain, and what the consumer knows that it has lost.
 */
static void
es_fetched_settle(bool committed)
{
	EsFetchedChange *change = es_fetched_changes;

	for (; change != NULL; change = change->next)
	{
		EsFetched  *entry = change->entry;

		if (!committed)
			es_fetched_undo(change);

		/* the only one that is left of the entry */
		if (change->level_before == 0)
		{
			entry->level = 0;
			if (entry->delivered == 0)
				hash_search(es_fetched, &entry->key, HASH_REMOVE, NULL);
		}
	}
	es_fetched_changes = NULL;

	if (es_fetched_refused)
	{
		HASH_SEQ_STATUS status;
		EsFetched  *entry;

		es_fetched_refused = false;
		hash_seq_init(&status, es_fetched);
		while ((entry = hash_seq_search(&status)) != NULL)
		{
			if (entry->refused)
				hash_search(es_fetched, &entry->key, HASH_REMOVE, NULL);
		}
	}
}

static void
es_lease_subxact_callback(SubXactEvent event, SubTransactionId subid,
						  SubTransactionId parent, void *arg)
{
	int			level = GetCurrentTransactionNestLevel();
	EsFetchedChange **link = &es_fetched_changes;

	if (event != SUBXACT_EVENT_COMMIT_SUB && event != SUBXACT_EVENT_ABORT_SUB)
		return;
	while (*link != NULL && (*link)->level >= level)
	{
		EsFetchedChange *change = *link;

		if (event == SUBXACT_EVENT_ABORT_SUB)
		{
			es_fetched_undo(change);
			*link = change->next;
			continue;
		}

		/* now it is the parent's, which knows what was before its own */
		change->entry->level = level - 1;
		if (change->level_before == level - 1)
			*link = change->next;
		else
		{
			change->level = level - 1;
			link = &change->next;
		}
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
			if (es_fetched_changes != NULL || es_fetched_refused)
				es_fetched_settle(event == XACT_EVENT_COMMIT);
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
 * Make room for one more name.
 */
static void
es_fetched_evict(void)
{
	HASH_SEQ_STATUS status;
	EsFetched  *entry;

	hash_seq_init(&status, es_fetched);
	while ((entry = hash_seq_search(&status)) != NULL)
	{
		if (entry->level == 0 && entry->key.member[0] != '\0')
		{
			hash_search(es_fetched, &entry->key, HASH_REMOVE, NULL);
			hash_seq_term(&status);
			return;
		}
	}
}

/*
 * Remember that this session has fetched from a subscription, by itself or as
 * a consumer with a name: until all that is acknowledged it can lose the lease,
 * and must not get away with an acknowledgement then.
 *
 * since		of the cursor
 */
void
es_lease_remember(Datum name, Datum member, int64 delivered, TimestampTz since)
{
	EsFetched  *entry;

	if (es_fetched == NULL)
	{
		HASHCTL		ctl;

		memset(&ctl, 0, sizeof(ctl));
		ctl.keysize = sizeof(EsFetchedKey);
		ctl.entrysize = sizeof(EsFetched);
		ctl.hcxt = TopMemoryContext;
		es_fetched = hash_create("event_store subscriptions fetched", 16, &ctl,
								 HASH_ELEM | HASH_BLOBS | HASH_CONTEXT);
	}
	entry = es_fetched_find(name, member);
	if (entry == NULL)
	{
		EsFetchedKey key;

		if (hash_get_num_entries(es_fetched) >= ES_MAX_FETCHED)
			es_fetched_evict();
		memset(&key, 0, sizeof(key));
		es_lease_key(name, key.name);
		if (member != (Datum) 0)
			es_lease_key(member, key.member);
		entry = hash_search(es_fetched, &key, HASH_ENTER, NULL);
		entry->delivered = 0;
		entry->since = 0;
		entry->level = 0;
		entry->refused = false;
	}
	es_fetched_change(entry);
	entry->delivered = delivered;
	entry->since = since;
	entry->refused = false;
}

/*
 * Has this session fetched the event at this position by itself, or passed it
 * over, without having acknowledged all it got?
 */
bool
es_lease_remembered(Datum name, int64 position)
{
	EsFetched  *entry = es_fetched_find(name, (Datum) 0);

	return entry != NULL && position <= entry->delivered;
}

/*
 * Has this session fetched the event at this position as a consumer with a name
 * that has lost the lease since, whoever has fetched under that name again?
 *
 * The clients of a pooler share sessions: the one that fetched again may be the
 * one that acknowledges here.  So this is said once; who has been told begins
 * anew, with a fetch.
 */
static bool
es_lease_is_lost(Datum name, Datum member, int64 position, TimestampTz since)
{
	EsFetched  *entry = es_fetched_find(name, member);

	if (entry == NULL || position > entry->delivered || entry->since == since ||
		entry->since == DT_NOEND || since == DT_NOEND)
		return false;
	entry->refused = es_fetched_refused = true;
	return true;
}

/*
 * Everything is acknowledged, if this transaction commits.
 */
void
es_lease_forget(Datum name, Datum member)
{
	EsFetched  *entry = es_fetched_find(name, member);

	if (entry != NULL)
	{
		es_fetched_change(entry);
		entry->delivered = 0;
	}
}

static void
es_lease_ended(const EsSubscription *sub, const char *detail)
{
	ereport(ERROR,
			errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
			errmsg("the lease on subscription \"%s\" has ended",
				   TextDatumGetCString(sub->name)),
			errdetail("%s", detail),
			errhint("Roll back, and fetch again."));
}

/*
 * Lock the cursor of a consumer that reports back.
 *
 * Errors: 55006 if another consumer has events in hand, 55000 if the lease
 * ended and the events went, or may have gone, to another one, or if the
 * subscription was dropped and made again.  A group does
 * not know its members' sessions, so there a member with nothing in hand may
 * repeat only what it has just acknowledged.  That a consumer with a name has
 * lost the lease and had it again since is known to the session that fetched.
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
		if (es_lease_is_lost(sub->name, member, position, cursor->since))
			es_lease_ended(sub, "The member has left or was thrown out, and has joined again since: what this session had fetched went to others.");
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
		es_lease_ended(sub, "The subscription was reset or made again.");
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
	if ((member != (Datum) 0 &&
		 (foreign || cursor->member == (Datum) 0 ||
		  es_lease_is_lost(sub->name, member, position, cursor->since))) ||
		(own && (foreign || cursor->delivered == 0)))
		es_lease_ended(sub, "The events were handed out to another consumer or acknowledged by one, or the subscription was reset.");
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
