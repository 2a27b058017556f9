/*-------------------------------------------------------------------------
 * log/gaps.h
 *	  What a backend has learnt about positions that nobody can see.
 *-------------------------------------------------------------------------
 */
#ifndef ES_LOG_GAPS_H
#define ES_LOG_GAPS_H

#include "utils/snapshot.h"

#include "log/store.h"

/* positions without a gap, all of one transaction that had not ended */
typedef struct EsTail
{
	Oid			event;			/* store */
	int64		from;
	int64		to;
	TransactionId xid;
	uint64		next_xid;		/* full id of the next transaction then */
} EsTail;

extern void es_gaps_init(void);
extern int64 es_dead_end(Relation event, int64 after);
extern void es_dead_remember(Relation event, int64 from, int64 to);
extern const EsTail *es_tail_hiding(Relation event, Snapshot snapshot, int64 position);
extern void es_tail_extend(EsTail *run, EsTail *longest, int64 from, int64 to,
						   TransactionId xid);
extern void es_tail_remember(Relation event, const EsTail *longest);

#endif							/* ES_LOG_GAPS_H */
