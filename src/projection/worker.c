/*-------------------------------------------------------------------------
 * projection/worker.c
 *	  Background workers that keep projections up to date.
 *
 * A worker is connected as the role whose projections it serves and never has
 * any other rights, so a handler can do there what its owner can do anyway.
 * It ends when it has been idle for a while, when it has had its turn and
 * another role waits for one, when the library was replaced, or when the
 * extension is gone; projection/starter.c starts it again.
 *
 * Nothing here is needed for correctness: the row of a projection is locked
 * for each slice (projection/apply.c), so a second worker could do no harm.
 *
 * A slice that fails is rolled back as a whole and tried again up to the
 * event that failed, or with half as many when that is not known, until the
 * failing event is alone.  Then the failure is recorded by a transaction of
 * its own and the event tried again after a pause that doubles, and finally
 * the projection's policy decides.
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/genam.h"
#include "access/htup_details.h"
#include "access/table.h"
#include "access/xact.h"
#include "catalog/indexing.h"
#include "catalog/pg_extension.h"
#include "catalog/pg_type.h"
#include "pgstat.h"
#include "postmaster/bgworker.h"
#include "storage/ipc.h"
#include "storage/latch.h"
#include "storage/lock.h"
#include "utils/acl.h"
#include "utils/builtins.h"
#include "utils/fmgroids.h"
#include "utils/guc.h"
#include "utils/memutils.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"
#include "utils/syscache.h"
#include "utils/timeout.h"
#include "utils/timestamp.h"

#include "base/compat.h"
#include "base/errors.h"
#include "log/head.h"
#include "log/sql.h"
#include "log/store.h"
#include "projection/projection.h"
#include "settings.h"
#include "wakeup/slots.h"
#include "wakeup/start.h"
#include "wakeup/wakeup.h"
#include "wakeup/worker.h"

/* next look without being woken: normally, and while an event holds others up */
#define ES_FALLBACK_MS			1000
#define ES_BLOCKED_MS			50

/* pauses between looks that found nothing, and after an error in a look */
#define ES_EMPTY_MAX_MS			10
#define ES_RARE_MS				25	/* looks so rare need no pause */
#define ES_ERROR_MS				1000

/* a projection without matching events is worth a checkpoint now and then */
#define ES_LAZY_POSITIONS		100000

PGDLLEXPORT void es_projection_worker_main(Datum main_arg);

static Oid	es_worker_extension = InvalidOid;
static char es_worker_version[64];

static EsSql es_failure_query =
ES_SQL("UPDATE event_store.projection p"
		 " SET state = $3, attempts = $4, next_attempt_at = $5, error_sqlstate = $6,"
		 " error_message = $7, error_position = $8, error_at = pg_catalog.clock_timestamp(),"
		 " updated_at = pg_catalog.clock_timestamp()"
		 " WHERE p.name OPERATOR(pg_catalog.=) $1 AND p.is_shadow OPERATOR(pg_catalog.=) $2",
		 8, TEXTOID, BOOLOID, TEXTOID, INT4OID, TIMESTAMPTZOID, TEXTOID, TEXTOID, INT8OID);

/*
 * Is the extension still the one that this worker was started for?
 */
static bool
es_worker_extension_is_same(void)
{
	Oid			extension = es_store_extension();
	Relation	rel;
	ScanKeyData key;
	SysScanDesc scan;
	HeapTuple	tuple;
	char		version[64] = "";

	if (!OidIsValid(extension))
		return false;
	rel = table_open(ExtensionRelationId, AccessShareLock);
	ScanKeyInit(&key, Anum_pg_extension_oid, BTEqualStrategyNumber, F_OIDEQ,
				ObjectIdGetDatum(extension));
	scan = systable_beginscan(rel, ExtensionOidIndexId, true, NULL, 1, &key);
	if (HeapTupleIsValid(tuple = systable_getnext(scan)))
	{
		bool		isnull;
		Datum		value = heap_getattr(tuple, Anum_pg_extension_extversion,
										 RelationGetDescr(rel), &isnull);

		if (!isnull)
			strlcpy(version, TextDatumGetCString(value), sizeof(version));
	}
	systable_endscan(scan);
	table_close(rel, AccessShareLock);

	if (!OidIsValid(es_worker_extension))
	{
		es_worker_extension = extension;
		strlcpy(es_worker_version, version, sizeof(es_worker_version));
	}
	return extension == es_worker_extension && strcmp(version, es_worker_version) == 0;
}

/*
 * List what there is to do.
 *
 * context		of the result
 * pause_ms		result: when to look again without being woken
 * retrying		result: something waits for its next attempt
 *
 * Result: EsSeen, those not served for longest first.
 */
static List *
es_worker_look(MemoryContext context, long *pause_ms, bool *retrying)
{
	TimestampTz now;
	List	   *projections;
	List	   *result = NIL;
	ListCell   *lc;
	int64		bound;

	*pause_ms = ES_FALLBACK_MS;
	*retrying = false;
	SetCurrentStatementStartTimestamp();
	StartTransactionCommand();
	PushActiveSnapshot(GetTransactionSnapshot());
	if (es_max_projection_workers == 0 ||
		!es_worker_extension_is_same() || es_worker_in_the_way() ||
		!SearchSysCacheExists1(AUTHOID, ObjectIdGetDatum(GetUserId())))
		proc_exit(0);

	projections = es_projection_list(GetUserId());
	bound = es_head_bound_now();
	now = GetCurrentTimestamp();

	foreach(lc, projections)
	{
		EsProjection *projection = lfirst(lc);
		EsSeen	   *entry = es_seen_get(projection);
		bool		blocked;
		bool		due = false;

		if (!es_projection_is_due(projection, now))
		{
			long		wait = TimestampDifferenceMilliseconds(now, projection->next_attempt_at);

			*pause_ms = Min(*pause_ms, Max(wait, 1));
			*retrying = true;
			continue;
		}
		if (projection->attempts > 0)
			due = true;
		else if (es_seen_has_work(entry, projection, bound, &blocked))
			due = true;
		else
		{
			if (blocked)
				*pause_ms = Min(*pause_ms, ES_BLOCKED_MS);
			due = entry->clear - projection->position >= ES_LAZY_POSITIONS;
		}
		if (due)
		{
			MemoryContext old_context = MemoryContextSwitchTo(context);

			result = lappend(result, entry);
			MemoryContextSwitchTo(old_context);
		}
		else
			entry->is_cut = false;	/* somebody else got past it */
	}
	es_seen_forget();
	if (es_slot_others_wait())
		es_slot_help();
	PopActiveSnapshot();
	CommitTransactionCommand();
	return result;
}

/*
 * Is this an error that trying again is likely to cure, and that says nothing
 * about the event?
 */
static bool
es_error_is_transient(ErrorData *error)
{
	int			category = ERRCODE_TO_CATEGORY(error->sqlerrcode);

	return category == ERRCODE_TO_CATEGORY(ERRCODE_T_R_SERIALIZATION_FAILURE) ||
		category == ERRCODE_TO_CATEGORY(ERRCODE_INSUFFICIENT_RESOURCES) ||
		(category == ERRCODE_TO_CATEGORY(ERRCODE_OPERATOR_INTERVENTION) &&
		 error->sqlerrcode != ERRCODE_QUERY_CANCELED) ||
		error->sqlerrcode == ERRCODE_LOCK_NOT_AVAILABLE ||
		error->sqlerrcode == ERRCODE_ES_AHEAD_OF_HEAD ||
		error->sqlerrcode == ERRCODE_ES_ORDER_UNAVAILABLE;
}

/*
 * Pass an event that keeps failing, recording it.
 *
 * Result: false when events before it have to be applied first.
 */
static bool
es_worker_pass(EsProjection *projection, int64 position, const char *disposition,
			   ErrorData *error, int attempts)
{
	EsApplied	before;
	char	   *stream;

	/* events before it can only be such that wait behind parked ones */
	if (projection->position < position - 1)
		es_projection_apply(projection, projection->batch_size, position - 1,
							ES_CHECKPOINT_NOW, &before);
	if (projection->position < position - 1)
		return false;

	PushActiveSnapshot(GetTransactionSnapshot());
	stream = es_projection_stream_at(position);
	PopActiveSnapshot();
	if (stream != NULL)
		es_projection_park(projection, position, stream, strlen(stream), disposition,
						   error, attempts);
	es_projection_checkpoint(projection, position, 0);
	return true;
}

/*
 * Say in the server log what became of an event that kept failing.
 *
 * what		what was done: stopped, parked, skipped
 */
static void
es_worker_warn(EsProjection *projection, const char *what, EsApplied *failed, ErrorData *error)
{
	bool		stopped = strcmp(what, "stopped") == 0;
	char	   *at = failed->phase != ES_APPLY_EVENT ? "" :
		psprintf(" position=" INT64_FORMAT, failed->fail_position);

	ereport(WARNING,
			errcode(error->sqlerrcode),
			stopped ?
			errmsg("projection \"%s\"%s has stopped after %d attempts", projection->name,
				   projection->is_shadow ? " (new version)" : "", projection->attempts + 1) :
			errmsg("projection \"%s\"%s has %s an event after %d attempts", projection->name,
				   projection->is_shadow ? " (new version)" : "", what, projection->attempts + 1),
			errdetail("sqlstate=%s%s: %s", unpack_sql_state(error->sqlerrcode), at,
					  error->message ? error->message : ""),
			stopped ?
			errhint("Mend the cause and call es_resume_projection.") :
			strcmp(what, "parked") == 0 ?
			errhint("Later events of its stream wait behind it. Mend the cause and call es_retry_projection_parked.") :
			errhint("It is recorded in event_store.projection_parked."));
}

/*
 * Record a failure in a transaction of its own, and let the policy decide.
 */
static void
es_worker_record(EsSeen *entry, EsApplied *failed, ErrorData *error)
{
	EsProjection *projection;
	const char *state = "running";
	const char *verdict = NULL;
	Datum		values[8];
	char		nulls[9] = "        ";
	int			attempts;
	long		delay;

	SetCurrentStatementStartTimestamp();
	StartTransactionCommand();
	PushActiveSnapshot(GetTransactionSnapshot());
	if (es_worker_in_the_way())
		proc_exit(0);

	projection = es_projection_load(entry->name, entry->is_shadow, ES_PROJECTION_TRY_LOCK);
	if (projection == NULL || projection->generation != entry->generation ||
		projection->position != entry->position || strcmp(projection->state, "running") != 0 ||
		projection->replicated)
	{
		PopActiveSnapshot();
		CommitTransactionCommand();
		return;
	}

	attempts = projection->attempts + 1;
	delay = Min((int64) es_projection_retry_delay_ms << Min(attempts - 1, 16), ES_START_MAX_PAUSE_MS);
	if (attempts >= projection->max_attempts && !es_error_is_transient(error))
	{
		bool		stop = strcmp(projection->policy, "stop") == 0 ||
			failed->phase != ES_APPLY_EVENT;

		verdict = strcmp(projection->policy, "park") == 0 ? "parked" : "skipped";
		if (stop)
			state = verdict = "stopped";
		else if (es_worker_pass(projection, failed->fail_position, verdict, error, attempts))
			attempts = 0;
		else
			verdict = NULL;
	}

	values[0] = CStringGetTextDatum(projection->name);
	values[1] = BoolGetDatum(projection->is_shadow);
	values[2] = CStringGetTextDatum(state);
	values[3] = Int32GetDatum(attempts);
	if (attempts > 0 && strcmp(state, "running") == 0)
		values[4] = TimestampTzGetDatum(TimestampTzPlusMilliseconds(GetCurrentTimestamp(), delay));
	else
		nulls[4] = 'n';
	values[5] = CStringGetTextDatum(unpack_sql_state(error->sqlerrcode));
	values[6] = CStringGetTextDatum(error->message ? error->message : "");
	if (failed->phase == ES_APPLY_EVENT)
		values[7] = Int64GetDatum(failed->fail_position);
	else
		nulls[7] = 'n';
	(void) es_sql_once(&es_failure_query, values, nulls);
	if (verdict != NULL)
		es_worker_warn(projection, verdict, failed, error);
	PopActiveSnapshot();
	CommitTransactionCommand();
	es_wakeup_broadcast();
}

/*
 * After an error, in PG_CATCH: clean up as the main loop of a session does.
 *
 * Result: the error, in the given context.
 */
static ErrorData *
es_worker_catch(MemoryContext context)
{
	ErrorData  *error;

	disable_all_timeouts(false);
	QueryCancelPending = false;
	MemoryContextSwitchTo(context);
	error = CopyErrorData();
	return error;
}

/*
 * Apply one slice in a transaction.
 *
 * Result: NULL, or the error that rolled it back.
 */
static ErrorData *
es_worker_slice(EsSeen *entry, MemoryContext context, EsApplied *result)
{
	ErrorData  *volatile error = NULL;

	memset(result, 0, sizeof(EsApplied));
	entry->position = -1;
	PG_TRY();
	{
		EsProjection *projection;

		SetCurrentStatementStartTimestamp();
		StartTransactionCommand();
		if (es_projection_timeout_ms > 0)
			enable_timeout_after(STATEMENT_TIMEOUT, es_projection_timeout_ms);
		PushActiveSnapshot(GetTransactionSnapshot());
		if (es_worker_in_the_way())
			proc_exit(0);

		/* a session that runs it at the moment does our work */
		projection = es_projection_load(entry->name, entry->is_shadow, ES_PROJECTION_TRY_LOCK);
		if (projection != NULL && projection->generation == entry->generation &&
			strcmp(projection->state, "running") == 0 && !projection->replicated)
		{
			int			limit = projection->batch_size;

			if (entry->limit > 0)
				limit = Min(limit, entry->limit);
			entry->position = projection->position;
			pgstat_report_activity(STATE_RUNNING, projection->handler);
			es_projection_apply(projection, limit, PG_INT64_MAX, ES_CHECKPOINT_LAZY, result);
		}
		PopActiveSnapshot();
		CommitTransactionCommand();
		disable_timeout(STATEMENT_TIMEOUT, false);
	}
	PG_CATCH();
	{
		error = es_worker_catch(context);

		/* of a slice that will be cut smaller nobody needs to know */
		if (entry->position >= 0 && result->phase != ES_APPLY_SLICE && result->before == 0)
			EmitErrorReport();
		FlushErrorState();
		AbortCurrentTransaction();
	}
	PG_END_TRY();
	return error;
}

/*
 * Do one slice of a projection and deal with its failure.
 *
 * Result: true when something was done.
 */
static bool
es_worker_serve(EsSeen *entry, MemoryContext context)
{
	EsApplied	result;
	ErrorData  *error = es_worker_slice(entry, context, &result);

	entry->is_cut = false;
	if (error == NULL)
	{
		if (entry->position < 0)
			return false;
		if (result.moved)
			es_wakeup_broadcast();
		if (!result.moved)
			entry->clear = Max(entry->clear, result.position);

		/* past the trouble: grow again */
		if (entry->limit > 0 && result.applied >= entry->limit)
			entry->limit = entry->limit > 50000 ? 0 : entry->limit * 2;
		return result.moved;
	}

	if (entry->position < 0)
		ReThrowError(error);	/* we did not even get at it */
	if (result.phase != ES_APPLY_SETUP && result.before > 0)
		entry->limit = result.before;
	else if (result.phase == ES_APPLY_SLICE)
		entry->limit = Max(result.events / 2, 1);
	else
	{
		entry->limit = 1;
		es_worker_record(entry, &result, error);
		return true;
	}
	entry->is_cut = true;
	return true;
}

/*
 * Serve one projection, or without one see what there is to do.  Errors here
 * are not the handlers'.
 *
 * Result: false after an error.
 */
static bool
es_worker_try(EsSeen *entry, MemoryContext context, long *pause_ms,
			  bool *retrying, List **due, bool *busy)
{
	volatile bool ok = true;

	PG_TRY();
	{
		if (entry == NULL)
			*due = es_worker_look(context, pause_ms, retrying);
		else if (es_worker_serve(entry, context))
			*busy = true;
	}
	PG_CATCH();
	{
		(void) es_worker_catch(context);
		EmitErrorReport();
		FlushErrorState();
		AbortCurrentTransaction();
		ok = false;
	}
	PG_END_TRY();
	MemoryContextSwitchTo(context);
	return ok;
}

/*
 * Look and serve once.
 *
 * failed		result: there were errors that are not the handlers'
 *
 * Result: true when something was done.
 */
static bool
es_worker_round(MemoryContext context, long *pause_ms, bool *retrying, bool *failed)
{
	List	   *due = NIL;
	bool		busy = false;
	ListCell   *lc;

	*failed = !es_worker_try(NULL, context, pause_ms, retrying, &due, &busy);

	foreach(lc, due)
	{
		CHECK_FOR_INTERRUPTS();
		if (!es_worker_try(lfirst(lc), context, pause_ms, retrying, &due, &busy))
			*failed = true;
	}
	return busy && !*failed;
}

/*
 * Pause, whatever is appended meanwhile.
 */
static void
es_worker_pause(long ms)
{
	es_wakeup_cancel();
	ResetLatch(MyLatch);
	CHECK_FOR_INTERRUPTS();
	(void) WaitLatch(MyLatch, WL_LATCH_SET | WL_TIMEOUT | WL_EXIT_ON_PM_DEATH, ms,
					 es_wait_event(ES_WAIT_PROJECTION));
	ResetLatch(MyLatch);
	CHECK_FOR_INTERRUPTS();
}

/*
 * Be the only worker of this role in this database.
 */
static bool
es_worker_claim(void)
{
	LOCKTAG		tag;
	bool		got;

	StartTransactionCommand();
	if (es_worker_in_the_way())
		proc_exit(0);

	es_projection_owner_tag(&tag, GetUserId());
	got = LockAcquire(&tag, ExclusiveLock, true, true) != LOCKACQUIRE_NOT_AVAIL;
	if (got)
	{
		PushActiveSnapshot(GetTransactionSnapshot());
		es_projection_note_worker(GetUserId(), NULL, NULL);
		PopActiveSnapshot();
	}
	CommitTransactionCommand();
	return got;
}

/*
 * Main function of a projection worker.
 */
void
es_projection_worker_main(Datum main_arg)
{
	EsProjectionWorkerArgs args;
	MemoryContext context;
	TimestampTz started_at;
	TimestampTz busy_at;
	TimestampTz looked_at = 0;
	int			empty = 0;

	es_start_take_signals();
	memcpy(&args, MyBgworkerEntry->bgw_extra, sizeof(args));
	es_start_connect(args.database, args.owner, ES_BYPASS_ROLE_LOGIN);
	if (!es_worker_claim())
		proc_exit(0);

	context = AllocSetContextCreate(TopMemoryContext, "event_store projections",
									ALLOCSET_DEFAULT_SIZES);
	MemoryContextSwitchTo(context);
	started_at = busy_at = GetCurrentTimestamp();
	for (;;)
	{
		long		pause_ms;
		bool		retrying;
		bool		failed;

		es_start_heed_signals();

		if (es_time_is_up(started_at, GetCurrentTimestamp(), ES_TURN_MS) &&
			!es_seen_any_cut())
		{
			if (es_projection_others_wait())
				proc_exit(0);
			if (es_slot_others_wait() && es_slot_give_way())
			{
				es_slot_wait();
				proc_exit(0);
			}
		}

		/* the library was replaced: the database's worker starts the next one */
		if (es_start_is_outdated())
		{
			es_worker_ensure();
			proc_exit(0);
		}

		/*
		 * Where events come that nobody here wants, a look at each of them
		 * would be a waste.
		 */
		if (empty > 2)
			es_worker_pause(Min(empty - 2, ES_EMPTY_MAX_MS));

		es_wakeup_prepare();
		if (es_worker_round(context, &pause_ms, &retrying, &failed))
		{
			/* autovacuum lives on what a busy worker reports */
			pgstat_report_stat(false);
			busy_at = GetCurrentTimestamp();
			empty = 0;
		}
		else
		{
			TimestampTz now = GetCurrentTimestamp();

			empty = TimestampDifferenceExceeds(looked_at, now, ES_RARE_MS) ? 1 : empty + 1;
			looked_at = now;
			pgstat_report_activity(STATE_IDLE, NULL);
			if (!retrying && !failed &&
				(TimestampDifferenceExceeds(busy_at, now, es_worker_idle_timeout_ms) ||
				 (es_slot_others_wait() &&
				  TimestampDifferenceExceeds(busy_at, now, ES_CROWDED_MS) && es_slot_give_way())))
				proc_exit(0);
			if (es_slot_others_wait())
				pause_ms = Min(pause_ms, ES_CROWDED_MS);
			pgstat_report_stat(false);
			if (failed)
				es_worker_pause(ES_ERROR_MS);
			else
				(void) es_wakeup_sleep(pause_ms);
		}

		/* while there is something to do, somebody has to see that it is done */
		if (empty == 0 || retrying || failed)
			es_worker_ensure();
		MemoryContextReset(context);
	}
}
