/*-------------------------------------------------------------------------
 * append/condition.h
 *	  Append on a condition, and what a snapshot must show of other appends.
 *-------------------------------------------------------------------------
 */
#ifndef ES_APPEND_CONDITION_H
#define ES_APPEND_CONDITION_H

#include "storage/lock.h"

#include "append/append.h"
#include "read/query.h"

struct EsCondition
{
	EsQuery    *query;
	int64		after;			/* positions up to here do not matter */
};

extern void es_check_snapshot_sees(TransactionId xmin);
extern void es_condition_init(void);
extern void es_condition_lock(const EsCondition *condition);
extern bool es_condition_lock_retry(const EsAppend *append, LOCKTAG *tag);
extern void es_condition_check(EsAppend *append);
extern void es_condition_confirm(EsAppend *append);

#endif							/* ES_APPEND_CONDITION_H */
