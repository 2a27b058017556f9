/*-------------------------------------------------------------------------
 * settings.h
 *	  Settings of the event store (event_store.*).
 *-------------------------------------------------------------------------
 */
#ifndef ES_GUC_H
#define ES_GUC_H

extern int	es_max_event_size_kb;	/* data and metadata of one event, kB */
extern int	es_max_batch_size;	/* events in one append */
extern bool es_force_sync_commit;	/* appends overrule synchronous_commit = off */

extern int	es_notify_mode;		/* EsNotifyMode */
extern int	es_worker_idle_timeout_ms;	/* an idle worker ends after it */

extern void es_guc_init(void);

#endif							/* ES_GUC_H */
