/*-------------------------------------------------------------------------
 * wakeup/status.c
 *	  What the views of the wing show: workers, who blocks, statistics.
 *
 * The figures come from shared memory, so whoever may select from the views
 * sees them, also without pg_read_all_stats.
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "fmgr.h"
#include "miscadmin.h"
#include "storage/proc.h"
#include "storage/procarray.h"
#include "utils/builtins.h"
#include "utils/timestamp.h"

#include "base/compat.h"
#include "base/result.h"
#include "wakeup/shared.h"

PG_FUNCTION_INFO_V1(es_statistics);
PG_FUNCTION_INFO_V1(es_reset_statistics);
PG_FUNCTION_INFO_V1(es_worker_status);
PG_FUNCTION_INFO_V1(es_transaction_status);

/*
 * es_statistics(OUT ... bigint for each EsCounter, OUT reset_at timestamptz)
 *
 * NULLs where the server has no shared memory left for counters.
 */
Datum
es_statistics(PG_FUNCTION_ARGS)
{
	EsDatabaseCounters *counters = es_wakeup_counters();
	Datum		values[ES_NUM_COUNTERS + 1] = {0};
	bool		isnull[ES_NUM_COUNTERS + 1];

	memset(isnull, counters == NULL, sizeof(isnull));
	if (counters != NULL)
	{
		TimestampTz reset_at = (TimestampTz) pg_atomic_read_u64(&counters->c.reset_at);

		for (int i = 0; i < ES_NUM_COUNTERS; i++)
			values[i] = Int64GetDatum((int64) pg_atomic_read_u64(&counters->c.counters[i]));
		values[ES_NUM_COUNTERS] = TimestampTzGetDatum(reset_at != 0 ? reset_at : PgStartTime);
	}
	return es_result_row(fcinfo, NULL, 0, values, isnull);
}

/*
 * es_reset_statistics() RETURNS void
 */
Datum
es_reset_statistics(PG_FUNCTION_ARGS)
{
	EsDatabaseCounters *counters = es_wakeup_counters();

	if (counters != NULL)
	{
		pg_atomic_write_u64(&counters->c.reset_at, (uint64) GetCurrentTimestamp());
		for (int i = 0; i < ES_NUM_COUNTERS; i++)
			pg_atomic_write_u64(&counters->c.counters[i], 0);
	}
	PG_RETURN_VOID();
}

/*
 * es_worker_status(OUT pid int, OUT waiting_since timestamptz, OUT obstacle text)
 */
Datum
es_worker_status(PG_FUNCTION_ARGS)
{
	const char *obstacle = es_wakeup_obstacle();
	Datum		values[3] = {0};
	bool		isnull[3] = {true, true, true};

	if (obstacle != NULL)
	{
		values[2] = CStringGetTextDatum(obstacle);
		isnull[2] = false;
	}
	else
	{
		EsWakeupEntry *entry = es_wakeup_get();
		uint32		worker = pg_atomic_read_u32(&entry->worker);
		uint64		since = pg_atomic_read_u64(&entry->waiting_since);
		int			pid = worker != 0 ? GetPGProcByNumber(worker - 1)->pid : 0;

		values[0] = Int32GetDatum(pid);
		isnull[0] = pid == 0;
		values[1] = TimestampTzGetDatum((TimestampTz) since);
		isnull[1] = since == 0;
	}
	return es_result_row(fcinfo, NULL, 0, values, isnull);
}

/*
 * es_transaction_status(blocking_xid xid, OUT pid int, OUT started_at timestamptz)
 *
 * Of a top-level transaction of this server; NULLs when no process runs it.
 */
Datum
es_transaction_status(PG_FUNCTION_ARGS)
{
	Datum		values[2] = {0};
	bool		isnull[2] = {true, true};
	int			pid = 0;

	if (!PG_ARGISNULL(0) && TransactionIdIsNormal(DatumGetTransactionId(PG_GETARG_DATUM(0))))
		pid = BackendXidGetPid(DatumGetTransactionId(PG_GETARG_DATUM(0)));
	if (pid != 0)
	{
		TimestampTz started_at = es_backend_xact_start(pid);

		values[0] = Int32GetDatum(pid);
		values[1] = TimestampTzGetDatum(started_at);
		isnull[0] = false;
		isnull[1] = started_at == 0;
	}
	return es_result_row(fcinfo, NULL, 0, values, isnull);
}
