/*-------------------------------------------------------------------------
 * settings.h
 *	  Settings of the event store (event_store.*).
 *
 * They stand below all wings: every file may ask one, and none asks a file.
 *-------------------------------------------------------------------------
 */
#ifndef ES_SETTINGS_H
#define ES_SETTINGS_H

/* event_store.notify */
typedef enum EsNotifyMode
{
	ES_NOTIFY_OFF,				/* nobody is told */
	ES_NOTIFY_WORKER,			/* the database's worker tells everybody */
	ES_NOTIFY_TRANSACTION		/* NOTIFY by the appending transaction */
} EsNotifyMode;

extern int	es_max_event_size_kb;	/* data and metadata of one event, kB */
extern int	es_max_batch_size;	/* events in one append */
extern bool es_force_sync_commit;	/* appends overrule synchronous_commit = off */
extern bool es_early_lock_release;	/* locks may go before the flush */

extern bool es_hash_chain;		/* appended events carry hashes */

extern bool es_protect_drop;	/* refuse DROP EXTENSION while there are events */

extern int	es_notify_mode;		/* EsNotifyMode */
extern int	es_worker_idle_timeout_ms;	/* an idle worker ends after it */

extern bool es_upcast_enabled;	/* events are shown in today's shape */
extern bool es_enable_eventscan;	/* the planner scans events row by row */

extern int	es_max_projection_workers;	/* in one database; 0 = none */
extern int	es_projection_timeout_ms;	/* for one slice; 0 = no limit */
extern int	es_projection_retry_delay_ms;	/* before the second attempt */

extern void es_guc_init(void);

#endif							/* ES_SETTINGS_H */
