/*-------------------------------------------------------------------------
 * settings.c
 *	  Define the settings event_store.* and hold their variables.
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "base/compat.h"
#include "base/fault.h"
#include "settings.h"

int			es_max_event_size_kb = 1024;
int			es_max_batch_size = 10000;
bool		es_force_sync_commit = true;
bool		es_early_lock_release = true;
bool		es_hash_chain = false;
bool		es_protect_drop = false;
int			es_notify_mode = ES_NOTIFY_WORKER;
int			es_worker_idle_timeout_ms = 60 * 1000;
bool		es_upcast_enabled = true;
bool		es_enable_eventscan = true;
int			es_max_projection_workers = 4;
int			es_projection_timeout_ms = 60 * 1000;
int			es_projection_retry_delay_ms = 500;

static const struct config_enum_entry es_notify_modes[] = {
	{"off", ES_NOTIFY_OFF, false},
	{"worker", ES_NOTIFY_WORKER, false},
	{"transaction", ES_NOTIFY_TRANSACTION, false},
	{NULL, 0, false}
};

/*
 * Called once per process, from _PG_init.
 */
void
es_guc_init(void)
{
	DefineCustomIntVariable("event_store.max_event_size",
							"Largest size of one event, data and metadata together.",
							"Measured on the stored jsonb. Store large objects elsewhere and refer to them.",
							&es_max_event_size_kb,
							1024,	/* 1 MB */
							1, 256 * 1024,	/* jsonb itself ends at 256 MB */
							PGC_SUSET, GUC_UNIT_KB,
							NULL, NULL, NULL);

	DefineCustomIntVariable("event_store.max_batch_size",
							"Most events that one append may contain.",
							NULL,
							&es_max_batch_size,
							10000,
							1, 1000000,
							PGC_SUSET, 0,
							NULL, NULL, NULL);

	DefineCustomBoolVariable("event_store.force_sync_commit",
							 "Makes every append durable before it is acknowledged.",
							 "Overrules synchronous_commit = off: otherwise a consumer can act on "
							 "an event that a crash then removes.",
							 &es_force_sync_commit,
							 true,
							 PGC_USERSET, 0,
							 NULL, NULL, NULL);

	DefineCustomBoolVariable("event_store.early_lock_release",
							 "Lets those who wait for a stream go on before the commit that they wait for is on disk.",
							 "Its answer, and everybody who reads, waits for the disk all the same. "
							 "Takes shared_preload_libraries.",
							 &es_early_lock_release,
							 true,
							 PGC_USERSET, 0,
							 NULL, NULL, NULL);

	DefineCustomBoolVariable("event_store.hash_chain",
							 "Makes every appended event carry a hash, by which es_verify() finds what was tampered with.",
							 "A stream whose events have hashes goes on with them when it is off.",
							 &es_hash_chain,
							 false,
							 PGC_SUSET, 0,
							 NULL, NULL, NULL);

	DefineCustomBoolVariable("event_store.protect_drop",
							 "Refuses to drop the extension while there are events.",
							 "Off drops them with a warning, as pg_restore --clean needs it.",
							 &es_protect_drop,
							 false,
							 PGC_SUSET, 0,
							 NULL, NULL, NULL);

	DefineCustomEnumVariable("event_store.notify",
							 "How consumers are told of new events.",
							 "worker: by a background worker after commit. transaction: by NOTIFY in the "
							 "appending transaction, which makes commits queue up. off: not at all, consumers poll. "
							 "Projections are kept up to date in every mode.",
							 &es_notify_mode,
							 ES_NOTIFY_WORKER,
							 es_notify_modes,
							 PGC_SUSET, 0,
							 NULL, NULL, NULL);

	DefineCustomIntVariable("event_store.worker_idle_timeout",
							"Time without new events after which a database's worker ends.",
							"The next append starts it again.",
							&es_worker_idle_timeout_ms,
							60 * 1000,
							1000, INT_MAX,
							PGC_SIGHUP, GUC_UNIT_MS,
							NULL, NULL, NULL);

	DefineCustomBoolVariable("event_store.upcast",
							 "Shows events in today's shape.",
							 "Off shows them as they are stored. Only reads heed it, not consumers and conditions.",
							 &es_upcast_enabled,
							 true,
							 PGC_USERSET, 0,
							 NULL, NULL, NULL);

	DefineCustomIntVariable("event_store.max_projection_workers",
							"Most background workers for projections in one database.",
							"There is one for each role that owns projections. 0 turns them off.",
							&es_max_projection_workers,
							4,
							0, 1000,
							PGC_SIGHUP, 0,
							NULL, NULL, NULL);

	DefineCustomIntVariable("event_store.projection_timeout",
							"Longest time that a worker spends on one slice of a projection.",
							"0 turns the limit off.",
							&es_projection_timeout_ms,
							60 * 1000,
							0, INT_MAX,
							PGC_SIGHUP, GUC_UNIT_MS,
							NULL, NULL, NULL);

	DefineCustomIntVariable("event_store.projection_retry_delay",
							"Pause before a failed event is tried again.",
							"It doubles with every attempt, up to a minute.",
							&es_projection_retry_delay_ms,
							500,
							1, 60 * 1000,
							PGC_SIGHUP, GUC_UNIT_MS,
							NULL, NULL, NULL);
	DefineCustomBoolVariable("event_store.enable_eventscan",
							 "Enables the planner's use of event scans.",
							 "Off collects the result of each read function before it is used.",
							 &es_enable_eventscan,
							 true,
							 PGC_USERSET, GUC_EXPLAIN,
							 NULL, NULL, NULL);

	es_fault_init();
	es_reserve_guc_prefix("event_store");
}
