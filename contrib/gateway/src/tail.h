/*-------------------------------------------------------------------------
 * tail.h
 *	  The newest events of the store, read once for all live subscriptions of a
 *	  login.
 *
 * A tail waits in PostgreSQL until something was appended, reads it, and keeps
 * it for a while in a ring that is limited in bytes.  Its subscriptions read
 * the ring at their own pace, each with a cursor.  One that is so slow that the
 * ring has gone past it is told, and reads from PostgreSQL again: nobody waits
 * for it, and nothing is kept for it.
 *-------------------------------------------------------------------------
 */
#ifndef GW_TAIL_H
#define GW_TAIL_H

#include "event.h"
#include "pool.h"

typedef struct Tail Tail;

typedef struct Follower
{
	struct Follower *next;
	Tail	   *tail;			/* NULL: does not follow */
	int64_t		seen;			/* position up to which it has looked */
	uint64_t	next_entry;

	/* something may be new */
	void		(*wake) (struct Follower *follower);
	/* the tail cannot go on: the login has no right to read */
	void		(*failed) (struct Follower *follower, const DbError *error);
} Follower;

/* what the ring has for each event */
typedef struct TailEvent
{
	Event	   *event;
	size_t		size;
	/* the message for plain subscriptions, made when the first one wants it */
	grpc_slice	message[2];		/* UUIDs as text, as halves */
	bool		made[2];
} TailEvent;

/*
 * Begin to follow behind a position.  false: the tail is past it; read on from
 * PostgreSQL and try again.
 */
extern bool tail_follow(Pool *pool, Follower *follower, int64_t position);
/* The same from what is newest now, for a follower that only wants to be woken. */
extern void tail_follow_newest(Pool *pool, Follower *follower, int64_t head);
extern void tail_unfollow(Follower *follower);

/* the next event; NULL: none yet, or lapped */
extern TailEvent *tail_next(Follower *follower);
extern bool tail_lapped(const Follower *follower);
/* position up to which the tail has looked */
extern int64_t tail_position(const Follower *follower);
/* a message of the event, as call_send() takes it */
extern grpc_slice tail_message(TailEvent *event, bool halves);

#endif							/* GW_TAIL_H */
