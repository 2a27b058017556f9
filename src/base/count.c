/*-------------------------------------------------------------------------
 * base/count.c
 *	  Counters of what this database's store does.
 *
 * Where they lie is known further up (wakeup/wakeup.c), which registers itself.
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "base/count.h"
#include "base/errors.h"

pg_atomic_uint64 *es_counters = NULL;

static pg_atomic_uint64 *(*es_count_find) (void) = NULL;

/*
 * Called once per process: who knows the counters of this database.
 */
void
es_count_init(pg_atomic_uint64 *(*attach) (void))
{
	es_count_find = attach;
}

void
es_count_attach(void)
{
	if (es_count_find != NULL)
		es_counters = es_count_find();
}

/*
 * Count an error that is being raised, if its SQLSTATE has a counter.
 *
 * The counters have been looked for: to do so now may raise an error, and to
 * catch that would lose the one that is being put together.
 *
 * Result: the SQLSTATE.
 */
int
es_counted(int sqlstate)
{
	if (es_counters == NULL)
		return sqlstate;
	if (sqlstate == ERRCODE_ES_VERSION_CONFLICT)
		es_count(ES_COUNT_CONFLICTS, 1);
	else if (sqlstate == ERRCODE_ES_EVENT_ID_CONFLICT)
		es_count(ES_COUNT_ID_CONFLICTS, 1);
	else if (sqlstate == ERRCODE_ES_CONDITION_FAILED)
		es_count(ES_COUNT_CONDITION_FAILURES, 1);
	return sqlstate;
}
