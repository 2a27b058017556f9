/*-------------------------------------------------------------------------
 * subscription/cursor.c
 *	  Cursors of subscriptions and of members of groups.
 *
 * A subscription without a group has one cursor, the row for slot 0 of
 * event_store.subscription_checkpoint.  In a group every member has one, its
 * row of event_store.subscription_member: while it owns a slot everything of
 * that slot up to the greater of its cursor and the slot's checkpoint is
 * done, so acknowledging writes one row however many slots there are.
 *
 * Both rows are updated in place of the page (HOT): no indexed column
 * changes.
 *
 * A cursor is read without a lock, so that nobody waits for a consumer which
 * fetches, works and acknowledges in one transaction.  Whoever is about to
 * hand events out then claims the row: locks it if nobody has written it since.
 * Whatever changes what is to be handed out writes it, es_nack too.  Equal
 * contents would not do: events from a queue can come and go in between and
 * leave the cursor where it was.
 *
 * A subscription may be dropped and made again, with another filter, between
 * the statements that read it and its cursor.  So the latter looks whether it
 * is still the same one.
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "utils/builtins.h"
#include "utils/datum.h"

#include "base/compat.h"
#include "subscription/subscription.h"

#define CHECKPOINT_ROW_AND(others) \
	" FROM event_store.subscription_checkpoint" others \
	" WHERE subscription OPERATOR(pg_catalog.=) $1" \
	" AND slot OPERATOR(pg_catalog.=) 0"
#define MEMBER_ROW \
	" FROM event_store.subscription_member c" \
	" WHERE subscription OPERATOR(pg_catalog.=) $1" \
	" AND member OPERATOR(pg_catalog.=) $2"
#define OWN_AND_SUBSCRIPTION_XMIN \
	" c.xmin, (SELECT s.xmin FROM event_store.subscription s" \
	" WHERE s.name OPERATOR(pg_catalog.=) $1), pid,"

/* d: in tables older than this library, not brought up yet, it is not kept */
#define CHECKPOINT_COLUMNS \
	"SELECT position, scanned, delivered, session, member, lease_until, lease_until," \
	OWN_AND_SUBSCRIPTION_XMIN \
	" (SELECT taken_at FROM (SELECT (c).*) r)" CHECKPOINT_ROW_AND(" c," \
	" (SELECT 'infinity'::pg_catalog.timestamptz AS taken_at) d")
#define MEMBER_COLUMNS \
	"SELECT position, scanned, delivered, NULL::pg_catalog.int8, member, lease_until," \
	" lease_until OPERATOR(pg_catalog.-)" \
	" (lease OPERATOR(pg_catalog.*) '0.66'::pg_catalog.float8)," \
	OWN_AND_SUBSCRIPTION_XMIN " joined_at" MEMBER_ROW
#define AS_EXPECTED \
	" AND xmin OPERATOR(pg_catalog.=) $3"

static EsSql es_sql_plain_load = ES_SQL(CHECKPOINT_COLUMNS, 1, TEXTOID);
static EsSql es_sql_plain_lock = ES_SQL(CHECKPOINT_COLUMNS " FOR UPDATE OF c", 1, TEXTOID);
static EsSql es_sql_plain_claim =
ES_SQL("SELECT 1" CHECKPOINT_ROW_AND("") AS_EXPECTED " FOR UPDATE SKIP LOCKED",
3, TEXTOID, TEXTOID, XIDOID);
static EsSql es_sql_plain_store =
ES_SQL("UPDATE event_store.subscription_checkpoint"
	" SET position = $2, scanned = $3, delivered = $4, session = $5, member = $6,"
	" lease_until = $7, pid = $8, updated_at = pg_catalog.clock_timestamp()"
	" WHERE subscription OPERATOR(pg_catalog.=) $1 AND slot OPERATOR(pg_catalog.=) 0",
	8, TEXTOID, INT8OID, INT8OID, INT8OID, INT8OID, TEXTOID, TIMESTAMPTZOID, INT4OID);
static EsSql es_sql_plain_take =
ES_SQL("UPDATE event_store.subscription_checkpoint SET taken_at = $2"
	" WHERE subscription OPERATOR(pg_catalog.=) $1 AND slot OPERATOR(pg_catalog.=) 0",
	2, TEXTOID, TIMESTAMPTZOID);

static EsSql es_sql_member_load = ES_SQL(MEMBER_COLUMNS, 2, TEXTOID, TEXTOID);
static EsSql es_sql_member_lock = ES_SQL(MEMBER_COLUMNS " FOR UPDATE", 2, TEXTOID, TEXTOID);
static EsSql es_sql_member_claim =
ES_SQL("SELECT 1" MEMBER_ROW AS_EXPECTED " FOR UPDATE SKIP LOCKED",
3, TEXTOID, TEXTOID, XIDOID);
static EsSql es_sql_member_store =
ES_SQL("UPDATE event_store.subscription_member"
	" SET position = $3, scanned = $4, delivered = $5, pid = $6,"
	" lease_until = pg_catalog.clock_timestamp() OPERATOR(pg_catalog.+) lease,"
	" updated_at = pg_catalog.clock_timestamp()"
	" WHERE subscription OPERATOR(pg_catalog.=) $1 AND member OPERATOR(pg_catalog.=) $2",
6, TEXTOID, TEXTOID, INT8OID, INT8OID, INT8OID, INT4OID);

/*
 * Read a cursor.
 *
 * member		the consumer; of a group: whose cursor
 * lock			until the end of the transaction
 *
 * Result: false if the subscription was dropped since it was read, and maybe
 * another one of its name made.
 */
bool
es_cursor_load(const EsSubscription *sub, Datum member,
			   bool lock, EsCursor *cursor)
{
	Datum		args[2];
	Datum		value;
	bool		isnull;

	memset(cursor, 0, sizeof(*cursor));
	args[0] = sub->name;
	args[1] = member;
	if (sub->slots == 0)
		cursor->exists = es_sql_run(lock ? &es_sql_plain_lock : &es_sql_plain_load,
									args, NULL) > 0;
	else
		cursor->exists = es_sql_run(lock ? &es_sql_member_lock : &es_sql_member_load,
									args, NULL) > 0;
	if (!cursor->exists)
		return true;

	cursor->position = es_sql_int64(0, 1, 0);
	cursor->scanned = es_sql_int64(0, 2, 0);
	cursor->delivered = es_sql_int64(0, 3, 0);
	cursor->session = es_sql_int64(0, 4, 0);
	cursor->xmin = DatumGetTransactionId(es_sql_datum(0, 8, &isnull));
	value = es_sql_datum(0, 5, &isnull);
	if (!isnull)
		cursor->member = datumCopy(value, false, -1);
	cursor->lease_until = DatumGetTimestampTz(es_sql_datum(0, 6, &isnull));
	cursor->renew_at = DatumGetTimestampTz(es_sql_datum(0, 7, &isnull));
	value = es_sql_datum(0, 10, &isnull);
	cursor->pid = isnull ? 0 : DatumGetInt32(value);
	cursor->since = es_sql_int64(0, 11, 0);
	value = es_sql_datum(0, 9, &isnull);
	return !isnull && DatumGetTransactionId(value) == sub->xmin;
}

/*
 * Lock a cursor if it is as it was read and nobody else has it locked.
 *
 * Errors: 40001 if a transaction with a snapshot of its own is too late.
 */
bool
es_cursor_claim(const EsSubscription *sub, Datum member, const EsCursor *expected)
{
	Datum		args[3];
	char		nulls[] = "   ";

	args[0] = sub->name;
	args[1] = member;
	args[2] = TransactionIdGetDatum(expected->xmin);
	if (member == (Datum) 0)
		nulls[1] = 'n';
	return es_sql_run(sub->slots == 0 ? &es_sql_plain_claim : &es_sql_member_claim,
					  args, nulls) > 0;
}

/*
 * A consumer other than the one before has taken a cursor, which this
 * transaction has locked.
 *
 * cursor		changed
 */
void
es_cursor_take(const EsSubscription *sub, EsCursor *cursor)
{
	Datum		args[2];

	if (cursor->since == DT_NOEND)
		return;

	/* never twice the same, whatever the clock says */
	cursor->since = Max(GetCurrentTimestamp(), cursor->since + 1);
	args[0] = sub->name;
	args[1] = TimestampTzGetDatum(cursor->since);
	es_sql_run(&es_sql_plain_take, args, NULL);
}

/*
 * Write a cursor that this transaction has locked.  A member's lease begins
 * anew.
 */
void
es_cursor_store(const EsSubscription *sub, Datum member, const EsCursor *cursor)
{
	Datum		args[8];
	char		nulls[] = "        ";

	args[0] = sub->name;
	if (sub->slots > 0)
	{
		args[1] = member;
		args[2] = Int64GetDatum(cursor->position);
		args[3] = Int64GetDatum(cursor->scanned);
		args[4] = Int64GetDatum(cursor->delivered);
		args[5] = Int32GetDatum(MyProcPid);
		es_sql_run(&es_sql_member_store, args, nulls);
		return;
	}
	args[1] = Int64GetDatum(cursor->position);
	args[2] = Int64GetDatum(cursor->scanned);
	args[3] = Int64GetDatum(cursor->delivered);
	args[4] = Int64GetDatum(cursor->session);
	args[5] = cursor->member;
	args[6] = TimestampTzGetDatum(cursor->lease_until);
	args[7] = Int32GetDatum(MyProcPid);
	if (cursor->session == 0)
		nulls[4] = 'n';
	if (cursor->member == (Datum) 0)
		nulls[5] = 'n';
	es_sql_run(&es_sql_plain_store, args, nulls);
}
