/*-------------------------------------------------------------------------
 * wakeup/start.c
 *	  Start background workers, and remember them.
 *
 * There are three kinds: the launcher (wakeup/launcher.c), the worker of a
 * database (wakeup/worker.c), which the launcher or an append starts, and the
 * workers of roles that own projections (projection/worker.c), which the
 * database's worker starts.  None is restarted by the postmaster: who starts
 * one keeps a record of it, and starts it again after a pause, which doubles
 * while they die young.
 *
 * When the file of the library is replaced, by an update of the package, the
 * workers that loaded the old one end and are started again with the new one.
 * With shared_preload_libraries every process inherits the library from the
 * postmaster; then it takes a restart of the server.
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <dlfcn.h>
#include <sys/stat.h>

#include "miscadmin.h"
#include "postmaster/bgworker.h"
#include "postmaster/interrupt.h"
#include "tcop/tcopprot.h"
#include "utils/guc.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"

#include "base/compat.h"
#include "wakeup/start.h"

/* pause between two looks at the library's file */
#define ES_START_LOOK_MS	1000

/* the library's file as this worker loaded it, and as it was seen last */
static struct stat es_library_loaded;
static struct stat es_library_seen;
static const char *es_library_file = NULL;	/* NULL = not to be looked at */

static bool
es_same_file(const struct stat *a, const struct stat *b)
{
	return a->st_dev == b->st_dev && a->st_ino == b->st_ino &&
		a->st_size == b->st_size && a->st_mtime == b->st_mtime;
}

/*
 * Called once per process, from _PG_init: remember, in a worker, which file
 * the library is.
 */
void
es_start_init(void)
{
	Dl_info		info;

	if (process_shared_preload_libraries_in_progress || MyBgworkerEntry == NULL ||
		dladdr(&es_library_loaded, &info) == 0 ||
		stat(info.dli_fname, &es_library_loaded) != 0)
		return;
	es_library_file = info.dli_fname;
	es_library_seen = es_library_loaded;
}

/*
 * Is another file in the place of the one that this worker has loaded?  Not
 * before it has stayed the same for a while: it may be half written.
 */
bool
es_start_is_outdated(void)
{
	static TimestampTz looked_at = 0;
	TimestampTz now = GetCurrentTimestamp();
	struct stat found;
	bool		stays;

	if (es_library_file == NULL || !es_time_is_up(looked_at, now, ES_START_LOOK_MS))
		return false;
	looked_at = now;
	if (stat(es_library_file, &found) != 0)
		return false;
	stays = es_same_file(&found, &es_library_seen);
	es_library_seen = found;
	return stays && !es_same_file(&found, &es_library_loaded);
}

/*
 * Has so much time passed?  Also when the clock was set back, or nothing would
 * happen until it has caught up.
 */
bool
es_time_is_up(TimestampTz since, TimestampTz now, long ms)
{
	return now < since || now - since >= ms * INT64CONST(1000);
}

/*
 * What the background workers have in common; the rest is the caller's.
 *
 * function		their main function
 * type, name	for pg_stat_activity and the log
 */
void
es_start_describe(BackgroundWorker *worker, const char *function,
				  const char *type, const char *name)
{
	Dl_info		info;

	memset(worker, 0, sizeof(*worker));
	worker->bgw_flags = BGWORKER_SHMEM_ACCESS | BGWORKER_BACKEND_DATABASE_CONNECTION;
	worker->bgw_start_time = BgWorkerStart_RecoveryFinished;
	worker->bgw_restart_time = BGW_NEVER_RESTART;

	/*
	 * From where this process has it, not from the first folder of
	 * dynamic_library_path: the functions that SQL knows come from here, and
	 * a process cannot have the library twice.
	 */
	if (dladdr(&es_library_loaded, &info) == 0 ||
		strlcpy(worker->bgw_library_name, info.dli_fname,
				sizeof(worker->bgw_library_name)) >= sizeof(worker->bgw_library_name))
		strlcpy(worker->bgw_library_name, "event_store", sizeof(worker->bgw_library_name));
	strlcpy(worker->bgw_function_name, function, BGW_MAXLEN);
	strlcpy(worker->bgw_type, type, BGW_MAXLEN);
	strlcpy(worker->bgw_name, name, BGW_MAXLEN);
}

/*
 * Can a worker connect to a database?
 */
bool
es_start_can_connect(Form_pg_database database)
{
	return database->datallowconn && database->datconnlimit != DATCONNLIMIT_INVALID_DB;
}

/*
 * Connect a worker to its database.
 *
 * Defaults of the server, database and role hold in it as in a session of that
 * role, but for those with which it could not do its work, or would be in the
 * way of others.
 *
 * role			InvalidOid = the bootstrap superuser
 * flags		as for BackgroundWorkerInitializeConnectionByOid
 */
void
es_start_connect(Oid database, Oid role, uint32 flags)
{
	static const char *const settings[][2] = {

		/*
		 * A crash takes a read model together with its checkpoint, and a lost
		 * notification does no harm; to wait for the disk would.
		 */
		{"synchronous_commit", "off"},

		/* it looks at all events: in SERIALIZABLE that would make appends fail */
		{"default_transaction_isolation", "read committed"},

		/* to write is its work */
		{"default_transaction_read_only", "off"},

		/* it catches errors, and tells of them */
		{"exit_on_error", "off"},

		/* it is whom it is connected as */
		{"role", "none"}
	};

	BackgroundWorkerInitializeConnectionByOid(database, role, flags);
	for (int i = 0; i < lengthof(settings); i++)
		SetConfigOption(settings[i][0], settings[i][1], PGC_USERSET, PGC_S_OVERRIDE);
	es_no_transaction_timeout();
}

/*
 * The first thing that a worker does: take its signals.
 *
 * Until here it ignored SIGHUP, so a change of the settings since the
 * postmaster's fork is lost: they are read once in any case.
 */
void
es_start_take_signals(void)
{
	pqsignal(SIGHUP, SignalHandlerForConfigReload);
	pqsignal(SIGTERM, die);
	ConfigReloadPending = true;
	BackgroundWorkerUnblockSignals();
}

/*
 * Called by a worker in each round: end if that is asked for, and heed changed
 * settings.
 */
void
es_start_heed_signals(void)
{
	CHECK_FOR_INTERRUPTS();
	if (ConfigReloadPending)
	{
		ConfigReloadPending = false;
		ProcessConfigFile(PGC_SIGHUP);
	}
}

/*
 * Have the postmaster start the worker of a database.
 *
 * started		the caller's record of it; NULL = he keeps none
 *
 * Result: false when there is no free slot.
 */
bool
es_start_database_worker(Oid database, EsStarted *started)
{
	BackgroundWorker worker;
	char		name[BGW_MAXLEN];

	snprintf(name, sizeof(name), "event_store worker for database %u", database);
	es_start_describe(&worker, "es_worker_main", "event_store worker", name);
	worker.bgw_main_arg = ObjectIdGetDatum(database);
	return started != NULL ? es_started_register(started, &worker) :
		RegisterDynamicBackgroundWorker(&worker, NULL);
}

/*
 * The record with this key; made when there is none.
 *
 * all			records of one kind, kept in TopMemoryContext
 * size			of a record of this kind, which begins with an EsStarted; the
 *				rest is zero at first
 */
void *
es_started_get(List **all, Oid key, Size size)
{
	MemoryContext old_context;
	EsStarted  *started;
	ListCell   *lc;

	foreach(lc, *all)
	{
		started = lfirst(lc);
		if (started->key == key)
			return started;
	}
	old_context = MemoryContextSwitchTo(TopMemoryContext);
	started = palloc0(size);
	started->key = key;
	*all = lappend(*all, started);
	MemoryContextSwitchTo(old_context);
	return started;
}

/*
 * Is the worker that this process has started running, or about to?
 *
 * When it has ended, the next one may be started at once if it lived for
 * healthy_ms, else after a pause.
 */
bool
es_started_lives(EsStarted *started, long healthy_ms, long first_pause_ms)
{
	pid_t		pid;

	if (started->handle == NULL)
		return false;
	if (GetBackgroundWorkerPid(started->handle, &pid) != BGWH_STOPPED)
		return true;
	pfree(started->handle);
	started->handle = NULL;
	if (es_time_is_up(started->started_at, GetCurrentTimestamp(), healthy_ms))
		started->pause_ms = 0;
	else
		es_started_back_off(started, first_pause_ms);
	return false;
}

/*
 * Make the pause longer.
 */
void
es_started_back_off(EsStarted *started, long first_pause_ms)
{
	started->pause_ms = Min(Max(started->pause_ms * 2, first_pause_ms),
							ES_START_MAX_PAUSE_MS);
}

/*
 * Is the pause over?
 */
bool
es_started_is_due(const EsStarted *started, TimestampTz now)
{
	return es_time_is_up(started->started_at, now, started->pause_ms);
}

/*
 * Have the postmaster start a worker, and wake this process when it starts
 * and ends.
 *
 * Result: false when there is no free slot.
 */
bool
es_started_register(EsStarted *started, BackgroundWorker *worker)
{
	MemoryContext old_context = MemoryContextSwitchTo(TopMemoryContext);
	bool		registered;

	worker->bgw_notify_pid = MyProcPid;
	registered = RegisterDynamicBackgroundWorker(worker, &started->handle);
	MemoryContextSwitchTo(old_context);
	if (registered)
		started->started_at = GetCurrentTimestamp();
	else
		started->handle = NULL;
	return registered;
}
