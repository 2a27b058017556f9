/*-------------------------------------------------------------------------
 * log/last.h
 *	  Last versions of streams, remembered in shared memory.
 *-------------------------------------------------------------------------
 */
#ifndef ES_LOG_LAST_H
#define ES_LOG_LAST_H

#include "log/store.h"

/* what is known of a stream's last version */
typedef struct EsLast
{
	int64		version;		/* it is not below this; 0 = nothing is known */
	bool		is_exact;		/* it is this one */
	bool		is_chained;		/* that event has a hash; only if exact */
} EsLast;

extern void es_last_init(void);
extern bool es_last_is_known(Relation event, const EsStore *store, int64 stream_no);
extern void es_last_claim(Relation event, const EsStore *store, int64 stream_no, EsLast *last);
extern void es_last_refuse(Relation event, const EsStore *store, int64 stream_no);
extern void es_last_put(Relation event, const EsStore *store, int64 stream_no,
						int64 version, bool is_chained);
extern void es_last_forget_all(void);
extern void es_last_forget_at_commit(void);
extern uint32 es_last_era(void);
extern bool es_last_is_guarded(Relation table, const EsStore *store);

#endif							/* ES_LOG_LAST_H */
