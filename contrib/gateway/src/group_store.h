/*-------------------------------------------------------------------------
 * group_store.h
 *	  What is kept of persistent subscriptions: rows of the extension
 *	  event_store_gateway, beside a subscription of the store each.
 *-------------------------------------------------------------------------
 */
#ifndef GW_GROUP_STORE_H
#define GW_GROUP_STORE_H

#include "call.h"
#include "filter.h"
#include "persistent.pb-c.h"
#include "source.h"

#define START_END	INT64_C(-1)	/* from what was new when it was made */

typedef enum Strategy
{
	STRATEGY_ROUND_ROBIN,
	STRATEGY_SINGLE,
	STRATEGY_PINNED,
	STRATEGY_PINNED_BY_CORRELATION
} Strategy;

typedef struct GroupRow
{
	char	   *subscription;
	char	   *source;
	char	   *group;
	int64_t		start;
	bool		resolve_links;
	bool		extra_statistics;
	int			max_retries;
	int			min_checkpoint;
	int			max_checkpoint;
	int			max_consumers;	/* 0: any number */
	int			live_buffer;
	int			read_batch;
	int			history_buffer;
	int			timeout_ms;
	int			checkpoint_ms;
	Strategy	strategy;
	EventFilter *filter;
	/* what the store knows */
	int64_t		checkpoint;		/* position; -1: nothing yet */
	int64_t		parked;
	int64_t		last_known;		/* revision, or position for all but streams; -1: none */
	int64_t		checkpoint_shown;	/* as last_known */
} GroupRow;

/* names of a subscription's parts; false: too long */
extern char *group_subscription(const char *source, const char *group);
extern const char *strategy_name(Strategy strategy);

/* all rows, those of a source, or one of them; the rest NULL */
extern Query *group_select(const char *source, const char *group, QueryDone done, void *arg);
extern void group_row_read(GroupRow *row, const PGresult *result, int n);
extern void group_row_free(GroupRow *row);

/* done gets as many rows as groups were made, changed or dropped */
extern Query *group_insert(const Gw__GroupReq__Options *options, const char *source, QueryDone done, void *arg);
extern Query *group_update(const Gw__GroupReq__Options *options, const char *source, QueryDone done, void *arg);
extern Query *group_delete(const char *source, const char *group, QueryDone done, void *arg);
/* limit < 0: all */
extern Query *group_replay(const char *source, const char *group, int64_t limit, QueryDone done, void *arg);

/* end the call with the errors of the protocol */
extern void group_unknown(Call *call, const char *source, const char *group);
extern void group_failed(Call *call, const DbError *error, const char *source, const char *group);
extern void group_dropped(Call *call, const char *source, const char *group);

#endif							/* GW_GROUP_STORE_H */
