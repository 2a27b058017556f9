/*-------------------------------------------------------------------------
 * group.h
 *	  A persistent subscription at work, for the files that make it up:
 *
 *	groups.c			what it does with the store, and its life
 *	group_items.c		the events that it holds
 *	group_handout.c		which consumer gets what
 *	group_read.c		the call of a consumer
 *	group_figures.c		what is shown of it
 *-------------------------------------------------------------------------
 */
#ifndef GW_GROUP_H
#define GW_GROUP_H

#include "group_store.h"
#include "groups.h"
#include "loop.h"
#include "tail.h"

#define MEASURED		1000	/* events of which a consumer's time is kept for statistics */

typedef struct Group Group;
typedef struct Consumer Consumer;

typedef enum ItemState
{
	ITEM_READY,					/* to be handed out */
	ITEM_OUT,					/* a consumer has it */
	ITEM_PARKING,				/* on its way to the table */
	ITEM_DONE
} ItemState;

typedef struct Item
{
	struct Item *prev,			/* by position; replayed ones in a list of their own */
			   *next;
	Group	   *group;
	Event	   *event;			/* NULL: not wanted, done from the beginning */
	size_t		size;
	int64_t		position;
	uint8_t		id[16];			/* by which consumers name it */
	ItemState	state;
	bool		replayed;		/* was parked before */
	bool		orphan;			/* in no list; freed when its query is over */
	int			retries;
	int64_t		sent;			/* when it was handed out */
	int64_t		deadline;		/* 0: none */
	Consumer   *consumer;
} Item;

typedef struct ItemList
{
	Item	   *first,
			   *last;
	int			count;
} ItemList;

struct Consumer
{
	Consumer   *next;
	Group	   *group;
	Call	   *call;
	int			buffer;
	int			out;
	bool		halves;
	bool		admitted;
	int64_t		total;
	int32_t    *times;			/* ms until an event was acknowledged, a ring; NULL: not wanted */
	int64_t		ntimes;			/* for ever */
	char		name[128];
};

struct Group
{
	Follower	follower;		/* first */
	Timer		tick;
	Group	   *next;
	Pool	   *pool;
	char	   *subscription;
	char	   *source_name;
	char	   *group_name;
	char	   *member;
	GroupRow	row;
	bool		loaded;
	bool		stale;			/* its settings have changed, or it is gone */
	int64_t		left;			/* when the last consumer left */
	Source		source;
	Link		link;
	bool		linked;
	Consumer   *consumers;
	int			nconsumers;
	Consumer   *turn;			/* who was served last */
	ItemList	items;
	ItemList	replays;
	int			ready;			/* items in both lists */
	size_t		bytes;
	int64_t		fetched;		/* highest position that was made an item */
	int64_t		done_position;	/* everything up to here is done ... */
	int			done_count;		/* ... as many of which are not acknowledged in the store */
	int64_t		done_since;
	int64_t		acking_position;	/* what the ack that is under way says */
	int64_t		acked;			/* the last one that the store has taken */
	int64_t		looked;			/* when the store was asked last */
	int64_t		pause_until;	/* PostgreSQL is away */
	int64_t		total;
	int			queries;		/* under way */
	bool		fetching;
	bool		acking;
	bool		news;			/* the store may have more */
	bool		replaying;		/* a query for replays is under way */
	bool		more_replays;
	bool		fetch_cut;
	size_t		fetch_bytes;
};

/* all of them */
extern Group *groups;

/* groups.c */
extern Group *group_get(Pool *pool, const char *source, const char *name);
extern void group_work(Group *group);
extern void group_free_if_unused(Group *group);
extern void item_done(Item *item);
extern void item_park(Item *item, const char *reason);
extern void item_retry(Item *item, const char *reason);

/* group_items.c */
extern Item *item_new(Group *group, const Event *event, bool replayed);
extern void item_new_unwanted(Group *group, int64_t position);
extern void item_set(Item *item, ItemState state);
extern void item_free(Item *item);
extern void group_forget_items(Group *group);

/* group_handout.c */
extern void group_hand_out(Group *group, ItemList *list);
extern void group_admit_all(Group *group);

#endif							/* GW_GROUP_H */
