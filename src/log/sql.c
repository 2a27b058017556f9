/*-------------------------------------------------------------------------
 * log/sql.c
 *	  Statements on the tables of the extension, with the rights of its owner.
 *
 * Nobody but the owner may write the tables of subscriptions, projections,
 * aggregates, upcasters and snapshots.  Functions that anybody may call work
 * on them by SPI, in a stretch of code between es_owner_begin and
 * es_owner_end that runs no function of a user.  Every name and operator in
 * the statements is qualified, and what the caller gives is passed as
 * parameters; should a name have been left unqualified after all, the fixed
 * search_path makes it harmless.  One statement runs outside of such a stretch:
 * the one that asks a user's policies (log/event.c).
 *
 * The current memory context stays the caller's, not SPI's: what is made in
 * such a stretch outlives it.
 *
 * An error needs no care: the abort of the (sub)transaction restores user,
 * settings and SPI.
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "miscadmin.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/guc.h"
#include "utils/snapmgr.h"

#include "base/compat.h"
#include "log/sql.h"
#include "log/store.h"

/*
 * Become the owner of the extension's tables and connect to SPI.
 */
void
es_owner_begin(EsOwnerScope *scope)
{
	MemoryContext context = CurrentMemoryContext;

	es_store_listen();
	SPI_connect();
	MemoryContextSwitchTo(context);
	GetUserIdAndSecContext(&scope->user, &scope->sec_context);
	SetUserIdAndSecContext(es_store_get()->owner,
						   scope->sec_context | SECURITY_LOCAL_USERID_CHANGE);
	scope->guc_level = NewGUCNestLevel();
	(void) set_config_option("search_path", "pg_catalog, pg_temp", PGC_USERSET, PGC_S_SESSION,
							 GUC_ACTION_SAVE, true, 0, false);
}

void
es_owner_end(EsOwnerScope *scope)
{
	AtEOXact_GUC(true, scope->guc_level);
	SetUserIdAndSecContext(scope->user, scope->sec_context);
	SPI_finish();
}

/*
 * snapshot		the only one, or InvalidSnapshot: as read_only says
 */
static uint64
es_sql_execute(EsSql *sql, Datum *args, const char *nulls, Snapshot snapshot, bool read_only)
{
	MemoryContext context = CurrentMemoryContext;
	int			code;

	if (sql->plan == NULL)
	{
		SPIPlanPtr	plan = SPI_prepare(sql->text, sql->nargs, sql->types);

		if (plan == NULL)
			elog(ERROR, "SPI_prepare failed: %s", SPI_result_code_string(SPI_result));
		if (SPI_keepplan(plan) != 0)
			elog(ERROR, "SPI_keepplan failed");
		sql->plan = plan;
	}
	code = SPI_execute_snapshot(sql->plan, args, nulls, snapshot, InvalidSnapshot,
								read_only, true, 0);
	MemoryContextSwitchTo(context);
	if (code < 0)
		elog(ERROR, "SPI_execute_snapshot failed: %s", SPI_result_code_string(code));
	return SPI_processed;
}

/*
 * Run a statement with a snapshot of its own.
 *
 * nulls		as for SPI, NULL = no parameter is null
 *
 * Result: number of rows; they are in SPI_tuptable.
 */
uint64
es_sql_run(EsSql *sql, Datum *args, const char *nulls)
{
	return es_sql_execute(sql, args, nulls, InvalidSnapshot, false);
}

/*
 * The same with the active snapshot; the statement must not write.
 */
uint64
es_sql_read(EsSql *sql, Datum *args, const char *nulls)
{
	return es_sql_execute(sql, args, nulls, InvalidSnapshot, true);
}

/*
 * The only statement of its stretch, whose rows nobody wants.
 */
uint64
es_sql_once(EsSql *sql, Datum *args, const char *nulls)
{
	EsOwnerScope scope;
	uint64		count;

	es_owner_begin(&scope);
	count = es_sql_run(sql, args, nulls);
	es_owner_end(&scope);
	return count;
}

/*
 * The same on what has been committed by now, also in REPEATABLE READ.  A lock
 * keeps others from changing it.
 */
uint64
es_sql_latest(EsSql *sql, Datum *args, const char *nulls)
{
	EsOwnerScope scope;
	uint64		count;

	es_owner_begin(&scope);
	count = es_sql_execute(sql, args, nulls, GetLatestSnapshot(), false);
	es_owner_end(&scope);
	return count;
}

/*
 * A value of the rows that the last statement left; columns count from 1.
 */
Datum
es_sql_datum(uint64 row, int column, bool *isnull)
{
	return SPI_getbinval(SPI_tuptable->vals[row], SPI_tuptable->tupdesc, column, isnull);
}

int64
es_sql_int64(uint64 row, int column, int64 null_value)
{
	bool		isnull;
	Datum		value = es_sql_datum(row, column, &isnull);

	return isnull ? null_value : DatumGetInt64(value);
}

/*
 * A text, copied to the current memory context; NULL for null.
 */
char *
es_sql_string(uint64 row, int column)
{
	bool		isnull;
	Datum		value = es_sql_datum(row, column, &isnull);

	return isnull ? NULL : TextDatumGetCString(value);
}

/*
 * The elements of a text array, copied to the current memory context.
 *
 * names		result; NULL for null, not NULL for an empty array
 */
int
es_sql_names(uint64 row, int column, Datum **names)
{
	bool		isnull;
	Datum		value = es_sql_datum(row, column, &isnull);
	int			count;

	*names = NULL;
	if (isnull)
		return 0;
	deconstruct_array(DatumGetArrayTypePCopy(value), TEXTOID, -1, false, TYPALIGN_INT,
					  names, NULL, &count);
	if (*names == NULL)
		*names = palloc0(sizeof(Datum));
	return count;
}
