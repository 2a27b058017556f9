/*-------------------------------------------------------------------------
 * wakeup/wakeup.h
 *	  Wake consumers after commit, outside the commit.
 *-------------------------------------------------------------------------
 */
#ifndef ES_WAKEUP_WAKEUP_H
#define ES_WAKEUP_WAKEUP_H

#include "datatype/timestamp.h"
#include "nodes/pg_list.h"

extern void es_wakeup_init(void);

/* for who gives the worker something to do */
extern void es_wakeup_set_follower(bool (*follows) (void));

/* for appenders */
extern void es_wakeup_after_commit(int64 position);

/* for those who wait, and those who listen */
extern void es_wakeup_listen(bool listens);
extern void es_wakeup_prepare(void);
extern bool es_wakeup_sleep(long max_ms);
extern void es_wakeup_cancel(void);
extern int64 es_wakeup_await(int64 after, TimestampTz deadline);
extern int64 es_wakeup_published(void);

/* for the database's worker */
extern bool es_wakeup_claim(void);
extern int	es_wakeup_waiters(void);
extern uint32 es_wakeup_begin_look(void);
extern void es_wakeup_end_look(uint32 before, bool followed);
extern bool es_wakeup_keep_looking(void);
extern bool es_wakeup_called(void);
extern bool es_wakeup_retire(void);
extern void es_wakeup_resign(void);
extern void es_wakeup_publish(Oid store, int64 head, bool resting);
extern void es_wakeup_broadcast(void);

/* for the launcher */
extern void es_wakeup_launcher_begin(void);
extern bool es_wakeup_has_worker(Oid database);
extern bool es_wakeup_is_starting(Oid database);
extern List *es_wakeup_orphans(void);

/* start the database's worker unless it runs; never fails, never waits */
extern void es_worker_ensure(void);

#endif							/* ES_WAKEUP_WAKEUP_H */
