/*-------------------------------------------------------------------------
 * subscription/subscription.h
 *	  Durable subscriptions, consumer groups, events that could not be handled.
 *-------------------------------------------------------------------------
 */
#ifndef ES_SUBSCRIPTION_SUBSCRIPTION_H
#define ES_SUBSCRIPTION_SUBSCRIPTION_H

#include "utils/timestamp.h"

#include "log/scan.h"
#include "log/sql.h"
#include "read/query.h"

/* virtual slots of a group */
#define ES_MAX_SLOTS			1024

/* a row of event_store.subscription */
typedef struct EsSubscription
{
	Datum		name;			/* text */
	EsSelection wanted;			/* its filters */
	int			slots;			/* 0 = one cursor, no group */
	bool		cardinal_ids;	/* streams are put into slots by these */
	int64		lease;			/* microseconds */
	int			max_retries;
	int64		retry_delay;	/* microseconds */
	TransactionId xmin;			/* who made it: tells it from others of its name */
} EsSubscription;

/*
 * How far a subscription, or a member of a group, has come.  A row of
 * event_store.subscription_checkpoint or event_store.subscription_member.
 */
typedef struct EsCursor
{
	bool		exists;
	int64		position;		/* everything up to here is done */
	int64		scanned;		/* what becomes of it when all is acknowledged */
	int64		delivered;		/* last position handed out; 0 = nothing is out */
	int64		session;		/* who fetched: a session, 0 = none ... */
	Datum		member;			/* ... or a name (text), 0 = none */
	TimestampTz lease_until;	/* -infinity = none */
	TimestampTz renew_at;		/* of a member: when to renew its lease */
	TransactionId xmin;			/* who wrote the row: tells its versions apart */
	int			pid;			/* server process that did; 0 = not known */

	/*
	 * since when that consumer has had it, without another one in between: of a
	 * member when it joined; 0 = not known, infinity = not kept, in tables that
	 * are older than this library
	 */
	TimestampTz since;
} EsCursor;

/* a row of event_store.parked_stream */
typedef struct EsParked
{
	int64		stream_no;		/* or the negative position of an event that
								 * belongs to none */
	int			slot;
	int64		next_version;	/* first version that is not done */
	int64		failed_version; /* one that has failed, 0 = none */
	int64		failed_position;	/* of that */
	int64		done_position;	/* held up at least until the cursor is here */
	bool		is_parked;		/* waits for es_retry_parked */
	TimestampTz next_attempt_at;
	bool		was_delivered;	/* marked as handed out */
	Datum	   *discarded;		/* positions to leave out */
	int			ndiscarded;
	/* what a fetch does to it */
	int64		delivered_version;
	bool		finished;
} EsParked;

/* subscription/subscription.c */
extern void es_subscription_unknown(Datum name);
extern void es_subscription_load(Datum name, EsSubscription *sub);
extern Datum es_arg_member(FunctionCallInfo fcinfo, int n, const EsSubscription *sub);
extern int	es_order_slot(int64 order, int slots);
extern int64 es_cardinal_order(const char *name, int len);
extern int	es_event_slot(const EsStore *store, TupleTableSlot *row, int slots,
						  bool cardinal_ids);

/* subscription/cursor.c */
extern bool es_cursor_load(const EsSubscription *sub, Datum member,
						   bool lock, EsCursor *cursor);
extern bool es_cursor_claim(const EsSubscription *sub, Datum member,
							const EsCursor *expected);
extern void es_cursor_take(const EsSubscription *sub, EsCursor *cursor);
extern void es_cursor_store(const EsSubscription *sub, Datum member,
							const EsCursor *cursor);

/* subscription/lease.c */
extern int64 es_lease_session(void);
extern bool es_lease_session_lives(int64 session);
extern void es_lease_write_begin(void);
extern void es_lease_write_end(void);
extern void es_lease_remember(Datum name, Datum member, int64 delivered,
							  TimestampTz since);
extern bool es_lease_remembered(Datum name, int64 position);
extern void es_lease_forget(Datum name, Datum member);
extern bool es_lease_first_told(Datum name);
extern void es_lease_forget_told(Datum name);
extern bool es_lease_is_foreign(const EsCursor *cursor, Datum member);
extern bool es_lease_is_busy(const EsCursor *cursor, Datum member);
extern void es_lease_check(const EsSubscription *sub, Datum member,
						   int64 position, EsCursor *cursor);

/* subscription/group.c */
extern bool es_group_join(const EsSubscription *sub, Datum member, int64 lease,
						  bool wait);
extern bool es_group_balance(const EsSubscription *sub,
							 Datum member, const EsCursor *cursor);
extern int64 *es_group_slots(const EsSubscription *sub,
							 Datum member, const EsCursor *cursor);

/* subscription/parked.c */
extern EsParked *es_parked_load(const EsSubscription *sub,
								const int64 *slots, int *nparked);
extern EsParked *es_parked_find(EsParked *parked, int nparked, int64 stream_no);
extern void es_parked_handed_out(const EsSubscription *sub, EsParked *parked, int nparked);
extern void es_parked_acknowledge(const EsSubscription *sub, Datum member,
								  int64 position);

#endif							/* ES_SUBSCRIPTION_SUBSCRIPTION_H */
