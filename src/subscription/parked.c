/*-------------------------------------------------------------------------
 * subscription/parked.c
 *	  Events that a consumer could not handle: retry, park, in sequence.
 *
 * A failed event holds up its stream and nothing else.  The stream gets a row
 * in event_store.parked_stream, a cursor of its own: its events from
 * next_version on come from the stream (subscription/fetch.c), the failed one
 * by itself until it is through, then those that queued up behind it, in
 * order.  The queue is the stream itself, so it costs nothing and no event can be parked
 * twice.  When everything up to the subscription's checkpoint is done the
 * row goes, and the stream is delivered with all others again.
 *
 * What precedes the failed event in its batch is not done before it is
 * acknowledged, so next_version stays there; should the consumer go away
 * meanwhile that comes again, whatever has become of the failed event.
 *
 * After max_retries failed retries, or at once if the consumer says so, the
 * failed event is parked: nothing of the stream is delivered until somebody
 * calls es_retry_parked or es_discard_parked.
 *
 * To whom row-level security applies an event that he may not see is one that
 * is not there: he cannot fail, retry or discard it.
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/table.h"
#include "catalog/pg_type.h"
#include "miscadmin.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/snapmgr.h"

#include "base/args.h"
#include "base/compat.h"
#include "log/event.h"
#include "log/stream.h"
#include "read/read.h"
#include "subscription/subscription.h"

PG_FUNCTION_INFO_V1(es_nack);
PG_FUNCTION_INFO_V1(es_retry_parked);
PG_FUNCTION_INFO_V1(es_discard_parked);
PG_FUNCTION_INFO_V1(es_discard_parked_stream);

/* longest pause between two retries: an hour */
#define ES_MAX_RETRY_DELAY	(INT64CONST(3600) * USECS_PER_SEC)

static EsSql es_sql_load =
ES_SQL("SELECT stream_no, slot, next_version, done_position, failed_position,"
	" state OPERATOR(pg_catalog.=) 'parked', next_attempt_at, delivered_version,"
	" failed_version, discarded"
	" FROM event_store.parked_stream WHERE subscription OPERATOR(pg_catalog.=) $1"
	" ORDER BY stream_no",
1, TEXTOID);
static EsSql es_sql_handed_out =
ES_SQL("UPDATE event_store.parked_stream"
	" SET delivered_version = $4"
	" WHERE subscription OPERATOR(pg_catalog.=) $1"
	" AND stream_no OPERATOR(pg_catalog.=) $2"
	" AND next_version OPERATOR(pg_catalog.=) $3",
4, TEXTOID, INT8OID, INT8OID, INT8OID);

/* discarded meanwhile is no reason to stay: the walk has taken the stream along */
static EsSql es_sql_finish =
ES_SQL("DELETE FROM event_store.parked_stream"
	" WHERE subscription OPERATOR(pg_catalog.=) $1"
	" AND stream_no OPERATOR(pg_catalog.=) $2"
	" AND next_version OPERATOR(pg_catalog.>=) $3",
3, TEXTOID, INT8OID, INT8OID);

/* what was acknowledged precedes the failed event */
#define FAILED_STAYS "p.failed_version OPERATOR(pg_catalog.>=) n.version"
static EsSql es_sql_acknowledge =
ES_SQL("UPDATE event_store.parked_stream p SET next_version = n.version,"
	" delivered_version = CASE WHEN n.version OPERATOR(pg_catalog.>) p.delivered_version"
	" THEN 0 ELSE p.delivered_version END,"
	" failed_version = CASE WHEN " FAILED_STAYS " THEN p.failed_version END,"
	" failed_position = CASE WHEN " FAILED_STAYS " THEN p.failed_position END,"
	" attempts = CASE WHEN " FAILED_STAYS " THEN p.attempts ELSE 0 END,"
	" state = CASE WHEN " FAILED_STAYS " THEN p.state ELSE 'retry' END,"
	" next_attempt_at = CASE WHEN " FAILED_STAYS " THEN p.next_attempt_at"
	" ELSE pg_catalog.clock_timestamp() END"
	" FROM (SELECT q.stream_no, LEAST(q.delivered_version OPERATOR(pg_catalog.+) 1,"
	/* an event that belongs to no stream is at the negative of that number */
	"   CASE WHEN (OPERATOR(pg_catalog.-) q.stream_no) OPERATOR(pg_catalog.>) $2"
	"   THEN q.next_version END,"
	"   (SELECT e.version FROM event_store.event e"
	"   WHERE e.stream_no OPERATOR(pg_catalog.=) q.stream_no"
	"   AND e.version OPERATOR(pg_catalog.>=) q.next_version"
	"   AND e.global_position OPERATOR(pg_catalog.>) $2"
	"   ORDER BY e.version LIMIT 1)) AS version"
	"  FROM event_store.parked_stream q"
	"  WHERE q.subscription OPERATOR(pg_catalog.=) $1"
	"  AND q.delivered_version OPERATOR(pg_catalog.>) 0"
	"  AND ($3 IS NULL OR q.slot OPERATOR(pg_catalog.=) ANY"
	"  (SELECT slot FROM event_store.subscription_checkpoint"
	"  WHERE subscription OPERATOR(pg_catalog.=) $1"
	"  AND member OPERATOR(pg_catalog.=) $3))) n"
	" WHERE p.subscription OPERATOR(pg_catalog.=) $1"
	" AND p.stream_no OPERATOR(pg_catalog.=) n.stream_no"
	" AND n.version OPERATOR(pg_catalog.>) p.next_version",
3, TEXTOID, INT8OID, TEXTOID);

static EsSql es_sql_any_delivered =
ES_SQL("SELECT 1 FROM event_store.parked_stream"
	" WHERE subscription OPERATOR(pg_catalog.=) $1"
	" AND delivered_version OPERATOR(pg_catalog.>) 0 LIMIT 1",
1, TEXTOID);

/*
 * An event.  One that belongs to no stream is held up by itself, as version 1 of
 * a stream of its own, whose number is its negative position.
 *
 * d: tables older than this library, not brought up yet, lack this column
 */
static EsSql es_sql_event =
ES_SQL("SELECT COALESCE(e.stream_no, OPERATOR(pg_catalog.-) e.global_position),"
	" COALESCE(e.version, 1)::pg_catalog.int8, (SELECT tags[1] FROM (SELECT (e).*) r),"
	" (SELECT n.stream_id FROM event_store.stream n"
	" WHERE n.stream_no OPERATOR(pg_catalog.=) e.stream_no)"
	" FROM (SELECT NULL::pg_catalog.text[] AS tags) d, event_store.event e"
	" WHERE e.global_position OPERATOR(pg_catalog.=) $1",
1, INT8OID);
static EsSql es_sql_own_slot =
ES_SQL("SELECT position FROM event_store.subscription_checkpoint"
	" WHERE subscription OPERATOR(pg_catalog.=) $1"
	" AND slot OPERATOR(pg_catalog.=) $2 AND member OPERATOR(pg_catalog.=) $3",
3, TEXTOID, INT4OID, TEXTOID);
static EsSql es_sql_lock_stream =
ES_SQL("SELECT next_version, delivered_version, failed_position, attempts, state,"
	" failed_version, $3 OPERATOR(pg_catalog.=) ANY (discarded)"
	" FROM event_store.parked_stream WHERE subscription OPERATOR(pg_catalog.=) $1"
	" AND stream_no OPERATOR(pg_catalog.=) $2 FOR UPDATE",
3, TEXTOID, INT8OID, INT8OID);
static EsSql es_sql_fail =
ES_SQL("INSERT INTO event_store.parked_stream AS p"
	" (subscription, stream_no, slot, failed_version, failed_position, attempts, state,"
	" next_attempt_at, reason, next_version, delivered_version, done_position,"
	" first_failed_at, failed_at)"
	" VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, CASE WHEN $4 OPERATOR(pg_catalog.>) $10"
	" THEN $4 OPERATOR(pg_catalog.-) 1 ELSE 0 END, 0,"
	" pg_catalog.clock_timestamp(), pg_catalog.clock_timestamp())"
	" ON CONFLICT (subscription, stream_no) DO UPDATE"
	" SET next_version = EXCLUDED.next_version,"
	" delivered_version = EXCLUDED.delivered_version,"
	" failed_version = EXCLUDED.failed_version,"
	" failed_position = EXCLUDED.failed_position, attempts = EXCLUDED.attempts,"
	" state = EXCLUDED.state, next_attempt_at = EXCLUDED.next_attempt_at,"
	" reason = EXCLUDED.reason, failed_at = EXCLUDED.failed_at,"
	" first_failed_at = CASE WHEN EXCLUDED.failed_position"
	" OPERATOR(pg_catalog.=) p.failed_position"
	" THEN p.first_failed_at ELSE EXCLUDED.failed_at END",
	10, TEXTOID, INT8OID, INT4OID, INT8OID, INT8OID, INT4OID, TEXTOID, TIMESTAMPTZOID, TEXTOID,
	INT8OID);

/* last version of a stream before one, and not beyond a position */
static EsSql es_sql_last_done =
ES_SQL("SELECT version::pg_catalog.int8 FROM event_store.event"
	" WHERE stream_no OPERATOR(pg_catalog.=) $1"
	" AND version OPERATOR(pg_catalog.<) $2"
	" AND global_position OPERATOR(pg_catalog.<=) $3 ORDER BY version DESC LIMIT 1",
3, INT8OID, INT8OID, INT8OID);

static EsSql es_sql_retry =
ES_SQL("UPDATE event_store.parked_stream p SET state = 'retry', attempts = 0,"
	" next_attempt_at = pg_catalog.clock_timestamp()"
	" WHERE subscription OPERATOR(pg_catalog.=) $1 AND failed_position IS NOT NULL"
	" AND stream_no OPERATOR(pg_catalog.=)"
	" (SELECT s.stream_no FROM event_store.stream s"
	" WHERE s.stream_id OPERATOR(pg_catalog.=) $2)",
2, TEXTOID, TEXTOID);

/*
 * All at once: what a consumer has in hand at the moment is passed over, since
 * waiting for it with other rows locked could end in a deadlock.
 */
static EsSql es_sql_retry_all =
ES_SQL("WITH q AS MATERIALIZED (SELECT stream_no FROM event_store.parked_stream"
	"  WHERE subscription OPERATOR(pg_catalog.=) $1 AND failed_position IS NOT NULL"
	"  FOR UPDATE SKIP LOCKED)"
	" UPDATE event_store.parked_stream p SET state = 'retry', attempts = 0,"
	" next_attempt_at = pg_catalog.clock_timestamp() FROM q"
	" WHERE p.subscription OPERATOR(pg_catalog.=) $1"
	" AND p.stream_no OPERATOR(pg_catalog.=) q.stream_no",
1, TEXTOID);

/* is something before the failed event not done? */
#define PENDING "p.failed_version OPERATOR(pg_catalog.>) p.next_version"
#define GIVE_UP \
	" delivered_version = CASE WHEN " PENDING " THEN p.delivered_version ELSE 0 END," \
	" failed_version = NULL, failed_position = NULL, state = 'retry', attempts = 0," \
	" next_attempt_at = pg_catalog.clock_timestamp()"
static EsSql es_sql_discard =
ES_SQL("UPDATE event_store.parked_stream p SET done_position = GREATEST(p.done_position, $2),"
	" next_version = CASE WHEN " PENDING " THEN p.next_version"
	" ELSE p.next_version OPERATOR(pg_catalog.+) 1 END,"
	" discarded = CASE WHEN " PENDING " THEN p.discarded OPERATOR(pg_catalog.||) $2"
	" ELSE p.discarded END," GIVE_UP
	" WHERE subscription OPERATOR(pg_catalog.=) $1"
	" AND failed_position OPERATOR(pg_catalog.=) $2",
2, TEXTOID, INT8OID);

/*
 * Up to where the view of parked events shows them, and not up to what was
 * discarded before: what lies between may be in hand, or come again.  Where it
 * shows none nothing is given up, and what is in hand stays so.
 *
 * The failed event is that of the row when it is locked: a consumer that has
 * failed another one may have been waited for.
 */
#define SHOWN_UPTO "GREATEST(d.position, p.failed_position)"
static EsSql es_sql_discard_stream =
ES_SQL("UPDATE event_store.parked_stream p"
	" SET done_position = GREATEST(p.done_position, " SHOWN_UPTO "),"
	" next_version = CASE WHEN " PENDING " THEN p.next_version"
	" ELSE (SELECT COALESCE(pg_catalog.min(e.version) FILTER"
	" (WHERE e.global_position OPERATOR(pg_catalog.>) " SHOWN_UPTO "),"
	" pg_catalog.max(e.version) OPERATOR(pg_catalog.+) 1, p.next_version)"
	" FROM event_store.event e WHERE e.stream_no OPERATOR(pg_catalog.=) p.stream_no"
	" AND e.version OPERATOR(pg_catalog.>=) p.next_version) END,"
	" discarded = CASE WHEN " PENDING " THEN p.discarded OPERATOR(pg_catalog.||)"
	" (SELECT pg_catalog.array_agg(e.global_position) FROM event_store.event e"
	" WHERE e.stream_no OPERATOR(pg_catalog.=) p.stream_no"
	" AND e.version OPERATOR(pg_catalog.>=) p.failed_version"
	" AND e.global_position OPERATOR(pg_catalog.<=) " SHOWN_UPTO ")"
	" ELSE p.discarded END," GIVE_UP
	" FROM (SELECT q.stream_no, GREATEST(c.position, m.position) AS position"
	" FROM event_store.stream s"
	" JOIN event_store.parked_stream q ON q.stream_no OPERATOR(pg_catalog.=) s.stream_no"
	" JOIN event_store.subscription_checkpoint c"
	" ON c.subscription OPERATOR(pg_catalog.=) q.subscription"
	" AND c.slot OPERATOR(pg_catalog.=) q.slot"
	" LEFT JOIN event_store.subscription_member m"
	" ON m.subscription OPERATOR(pg_catalog.=) c.subscription"
	" AND m.member OPERATOR(pg_catalog.=) c.member"
	" WHERE q.subscription OPERATOR(pg_catalog.=) $1"
	" AND s.stream_id OPERATOR(pg_catalog.=) $2) d"
	" WHERE p.subscription OPERATOR(pg_catalog.=) $1"
	" AND p.stream_no OPERATOR(pg_catalog.=) d.stream_no"
	" AND (p.failed_position IS NOT NULL OR EXISTS (SELECT 1 FROM event_store.event e"
	" WHERE e.stream_no OPERATOR(pg_catalog.=) p.stream_no"
	" AND e.version OPERATOR(pg_catalog.>=) p.next_version"
	" AND e.global_position OPERATOR(pg_catalog.<=) d.position))",
2, TEXTOID, TEXTOID);

/* ----------
 * For es_fetch and es_ack
 * ----------
 */

/*
 * The streams that are held up, by number.
 *
 * slots		of a member, see es_group_slots: leave out those of others
 */
EsParked *
es_parked_load(const EsSubscription *sub, const int64 *slots,
			   int *nparked)
{
	Datum		args[1] = {sub->name};
	uint64		n = es_sql_run(&es_sql_load, args, NULL);
	EsParked   *result = MemoryContextAllocHuge(CurrentMemoryContext,
												Max(n, 1) * sizeof(EsParked));
	int			count = 0;

	for (uint64 i = 0; i < n; i++)
	{
		EsParked   *parked = &result[count];
		bool		isnull;

		memset(parked, 0, sizeof(EsParked));
		parked->stream_no = es_sql_int64(i, 1, 0);
		parked->slot = DatumGetInt32(es_sql_datum(i, 2, &isnull));
		/* beyond: of another subscription, if this one was just made again */
		if (slots != NULL && (parked->slot >= sub->slots || slots[parked->slot] < 0))
			continue;
		parked->next_version = es_sql_int64(i, 3, 0);
		parked->done_position = es_sql_int64(i, 4, 0);
		parked->failed_position = es_sql_int64(i, 5, 0);
		parked->is_parked = DatumGetBool(es_sql_datum(i, 6, &isnull));
		parked->next_attempt_at = DatumGetTimestampTz(es_sql_datum(i, 7, &isnull));
		parked->was_delivered = es_sql_int64(i, 8, 0) > 0;
		parked->failed_version = es_sql_int64(i, 9, 0);
		deconstruct_array(DatumGetArrayTypePCopy(es_sql_datum(i, 10, &isnull)), INT8OID,
						  sizeof(int64), FLOAT8PASSBYVAL, TYPALIGN_DOUBLE,
						  &parked->discarded, NULL, &parked->ndiscarded);
		count++;
	}
	*nparked = count;
	return result;
}

EsParked *
es_parked_find(EsParked *parked, int nparked, int64 stream_no)
{
	int			low = 0;
	int			high = nparked - 1;

	while (low <= high)
	{
		int			middle = low + (high - low) / 2;

		if (parked[middle].stream_no == stream_no)
			return &parked[middle];
		if (parked[middle].stream_no < stream_no)
			low = middle + 1;
		else
			high = middle - 1;
	}
	return NULL;
}

/*
 * Write down what a fetch, which has claimed the cursor, hands out.
 */
void
es_parked_handed_out(const EsSubscription *sub, EsParked *parked, int nparked)
{
	for (int i = 0; i < nparked; i++)
	{
		Datum		args[4];

		args[0] = sub->name;
		args[1] = Int64GetDatum(parked[i].stream_no);
		args[2] = Int64GetDatum(parked[i].next_version);
		if (parked[i].finished)
			es_sql_run(&es_sql_finish, args, NULL);
		else if (parked[i].delivered_version > 0 || parked[i].was_delivered)
		{
			args[3] = Int64GetDatum(parked[i].delivered_version);
			es_sql_run(&es_sql_handed_out, args, NULL);
		}
	}
}

/*
 * Events of held-up streams up to the position are done.
 */
void
es_parked_acknowledge(const EsSubscription *sub, Datum member, int64 position)
{
	Datum		args[3];
	char		nulls[] = "   ";

	args[0] = sub->name;
	if (es_sql_run(&es_sql_any_delivered, args, NULL) == 0)
		return;
	args[1] = Int64GetDatum(position);
	args[2] = member;
	if (sub->slots == 0)
		nulls[2] = 'n';
	es_sql_run(&es_sql_acknowledge, args, nulls);
}

/* ----------
 * SQL functions
 * ----------
 */

/*
 * May the caller see the event at a position?  True, too, where there is none
 * and no policy applies to him.
 *
 * Asked with a snapshot as new as that of the fetch, which may have been made
 * by the same statement.
 */
static bool
es_parked_event_visible(int64 position)
{
	const EsStore *store;
	Relation	event = es_store_open_event(&store, AccessShareLock);
	EsRowFilter *filter = es_row_filter_begin(event);
	bool		visible = true;

	if (filter != NULL)
	{
		PushActiveSnapshot(GetTransactionSnapshot());
		visible = es_row_filter_passes(filter, position);
		PopActiveSnapshot();
		es_row_filter_end(filter);
	}
	table_close(event, NoLock);
	return visible;
}

/*
 * The same for a stream: may he see any event of it?
 */
static bool
es_parked_stream_visible(Datum name)
{
	const EsStore *store;
	Relation	event = es_store_open_event(&store, AccessShareLock);
	text	   *stream = DatumGetTextPP(name);
	int64		stream_no = es_stream_find(store, VARDATA_ANY(stream), VARSIZE_ANY_EXHDR(stream));

	table_close(event, NoLock);
	return stream_no == 0 || es_stream_is_visible(stream_no);
}

static void
es_nack_not_handed_out(const EsSubscription *sub, int64 position)
{
	es_arg_error(ERRCODE_INVALID_PARAMETER_VALUE, "global_position", 0,
				 "No event at position " INT64_FORMAT " was handed out to this consumer of subscription \"%s\", or it is acknowledged or discarded.",
				 position, TextDatumGetCString(sub->name));
}

/*
 * Does a subscription want the event at a position?  Others are not handed out.
 */
static bool
es_nack_wanted(EsSubscription *sub, int64 position)
{
	EsRead		single = {.from = position - 1,.max_count = 1};
	EsReader   *reader;
	TupleTableSlot *row;
	bool		result = false;

	/* a fetch in the same statement may have waited for it */
	PushActiveSnapshot(GetTransactionSnapshot());
	reader = es_reader_begin(&single, GetActiveSnapshot());
	row = es_reader_next(reader, true);
	if (row != NULL)
	{
		es_selection_list(&sub->wanted, es_reader_store(reader));
		result = es_selection_matches(&sub->wanted, es_reader_store(reader), row);
	}
	es_reader_end(reader);
	PopActiveSnapshot();
	return result;
}

/*
 * es_nack(name text, global_position bigint, reason text, retry boolean,
 *		   member text) RETURNS text
 *
 * The consumer must leave alone what else it has fetched of that stream: it
 * comes again, after this event.  The checkpoint does not move.
 *
 * Result: "retry" or "parked"; "queued" if an earlier event of the stream has
 * failed.
 * Errors: those of es_ack; 22023 if the event is not in the consumer's hands.
 */
Datum
es_nack(PG_FUNCTION_ARGS)
{
	Datum		name = es_arg_name_datum(fcinfo, 0, "name");
	int64		position = es_arg_int64(fcinfo, 1, "global_position", 1, PG_INT64_MAX);
	bool		retry = es_arg_bool(fcinfo, 3, "retry");
	EsSubscription sub;
	EsCursor	cursor;
	EsOwnerScope scope;
	Datum		member;
	Datum		tag;
	Datum		args[10];
	char		nulls[] = "          ";
	int64		stream_no;
	int64		version;
	int64		next_version;
	int64		done;
	int64		order;
	int32		attempts = 0;
	int			slot;
	int64		delay;
	bool		isnull;
	bool		visible;

	PreventCommandIfReadOnly("es_nack()");
	visible = es_parked_event_visible(position);
	es_owner_begin(&scope);
	es_subscription_load(name, &sub);
	member = es_arg_member(fcinfo, 4, &sub);
	es_lease_check(&sub, member, position, &cursor);
	if (!visible)
		es_nack_not_handed_out(&sub, position);

	args[0] = Int64GetDatum(position);
	if (es_sql_run(&es_sql_event, args, NULL) == 0)
		es_nack_not_handed_out(&sub, position);
	stream_no = es_sql_int64(0, 1, 0);
	version = es_sql_int64(0, 2, 0);
	tag = es_sql_datum(0, 3, &isnull);
	order = stream_no > 0 ? stream_no : es_event_tag_order(isnull ? NULL : DatumGetTextPP(tag));
	if (sub.cardinal_ids && stream_no > 0)
	{
		text	   *stream = DatumGetTextPP(es_sql_datum(0, 4, &isnull));

		order = es_cardinal_order(VARDATA_ANY(stream), VARSIZE_ANY_EXHDR(stream));
	}
	slot = es_order_slot(order, sub.slots);
	if ((sub.wanted.categories != NULL || sub.wanted.event_types != NULL ||
		 sub.wanted.query != NULL) && !es_nack_wanted(&sub, position))
		es_nack_not_handed_out(&sub, position);

	done = cursor.position;
	if (sub.slots > 0)
	{
		args[0] = name;
		args[1] = Int32GetDatum(slot);
		args[2] = member;
		if (es_sql_run(&es_sql_own_slot, args, NULL) == 0)
			es_nack_not_handed_out(&sub, position);
		done = Max(done, es_sql_int64(0, 1, 0));
	}

	args[0] = name;
	args[1] = Int64GetDatum(stream_no);
	args[2] = Int64GetDatum(position);
	if (es_sql_run(&es_sql_lock_stream, args, NULL) > 0)
	{
		int64		delivered_version = es_sql_int64(0, 2, 0);
		int64		failed_version;
		bool		same = es_sql_int64(0, 3, 0) == position;

		next_version = es_sql_int64(0, 1, 0);
		if (delivered_version < version)
		{
			/* told already */
			if (same)
			{
				char	   *state = es_sql_string(0, 5);

				es_owner_end(&scope);
				PG_RETURN_TEXT_P(cstring_to_text(state));
			}

			/* of the same batch, behind one that has failed, or was discarded since */
			failed_version = es_sql_int64(0, 6, 0);
			if (position <= cursor.delivered &&
				(failed_version != 0 ? version > failed_version :
				 version >= next_version && position > done &&
				 !DatumGetBool(es_sql_datum(0, 7, &isnull))))
			{
				es_owner_end(&scope);
				PG_RETURN_TEXT_P(cstring_to_text("queued"));
			}
		}
		if (version < next_version || version > delivered_version ||
			position > cursor.delivered ||
			DatumGetBool(es_sql_datum(0, 7, &isnull)))
			es_nack_not_handed_out(&sub, position);
		if (same)
			attempts = DatumGetInt32(es_sql_datum(0, 4, &isnull));
	}
	else
	{
		if (position <= done || position > cursor.delivered)
			es_nack_not_handed_out(&sub, position);
		args[0] = Int64GetDatum(stream_no);
		args[1] = Int64GetDatum(version);
		args[2] = Int64GetDatum(done);
		next_version = es_sql_run(&es_sql_last_done, args, NULL) > 0 ?
			es_sql_int64(0, 1, 0) + 1 : 1;
	}

	attempts++;
	if (attempts > sub.max_retries)
		retry = false;
	delay = sub.retry_delay;
	for (int i = 1; i < attempts && delay < ES_MAX_RETRY_DELAY; i++)
		delay = Min(delay * 2, ES_MAX_RETRY_DELAY);

	args[0] = name;
	args[1] = Int64GetDatum(stream_no);
	args[2] = Int32GetDatum(slot);
	args[3] = Int64GetDatum(version);
	args[4] = Int64GetDatum(position);
	args[5] = Int32GetDatum(attempts);
	args[6] = PointerGetDatum(cstring_to_text(retry ? "retry" : "parked"));
	args[7] = TimestampTzGetDatum(GetCurrentTimestamp() + delay);
	args[8] = PG_ARGISNULL(2) ? (Datum) 0 : PG_GETARG_DATUM(2);
	if (PG_ARGISNULL(2))
		nulls[8] = 'n';
	args[9] = Int64GetDatum(next_version);
	es_sql_run(&es_sql_fail, args, nulls);

	/* whoever has read the cursor before does not know of this yet */
	cursor.lease_until = GetCurrentTimestamp() + sub.lease;
	es_cursor_store(&sub, member, &cursor);
	es_owner_end(&scope);

	/* the consumer is told by the result, the administrator by the log */
	if (!retry)
		ereport(LOG_SERVER_ONLY,
				errmsg("subscription \"%s\" has parked the event at position " INT64_FORMAT " after %d attempts",
					   TextDatumGetCString(name), position, attempts),
				errhint("Later events of its stream wait behind it. Mend the cause and call es_retry_parked."));
	PG_RETURN_TEXT_P(cstring_to_text(retry ? "retry" : "parked"));
}

/*
 * Run a statement on held-up streams of a subscription that must exist.
 *
 * visible		may the caller know of what it is about?  Nothing happens if not
 *
 * Result: number of streams.
 */
static int64
es_parked_change(Datum name, EsSql *sql, Datum argument, bool isnull, bool visible)
{
	EsSubscription sub;
	EsOwnerScope scope;
	Datum		args[2];
	char		nulls[] = "  ";
	int64		n = 0;

	args[0] = name;
	args[1] = argument;
	if (isnull)
		nulls[1] = 'n';
	es_owner_begin(&scope);
	es_subscription_load(name, &sub);
	if (visible)
		n = (int64) es_sql_run(sql, args, nulls);
	es_owner_end(&scope);
	return n;
}

/*
 * es_retry_parked(name text, stream_id text) RETURNS bigint
 *
 * Failed events are due now and get their full number of retries again;
 * stream_id NULL = of every stream.
 * Result: number of streams.
 * Errors: 42704 if there is no such subscription.
 */
Datum
es_retry_parked(PG_FUNCTION_ARGS)
{
	Datum		name = es_arg_name_datum(fcinfo, 0, "name");
	Datum		stream = PG_ARGISNULL(1) ? (Datum) 0 :
		es_arg_name_datum(fcinfo, 1, "stream_id");

	PreventCommandIfReadOnly("es_retry_parked()");
	PG_RETURN_INT64(es_parked_change(name,
									 PG_ARGISNULL(1) ? &es_sql_retry_all : &es_sql_retry,
									 stream, PG_ARGISNULL(1),
									 PG_ARGISNULL(1) || es_parked_stream_visible(stream)));
}

/*
 * es_discard_parked(name text, global_position bigint) RETURNS boolean
 *
 * Gives up a failed event; the stream goes on with the next one.
 * Result: false if no event at that position has failed that the caller may see.
 * Errors: 42704 if there is no such subscription.
 */
Datum
es_discard_parked(PG_FUNCTION_ARGS)
{
	Datum		name = es_arg_name_datum(fcinfo, 0, "name");
	int64		position = es_arg_int64(fcinfo, 1, "global_position", 1, PG_INT64_MAX);

	PreventCommandIfReadOnly("es_discard_parked()");
	PG_RETURN_BOOL(es_parked_change(name, &es_sql_discard,
									Int64GetDatum(position), false,
									es_parked_event_visible(position)) > 0);
}

/*
 * es_discard_parked_stream(name text, stream_id text) RETURNS boolean
 *
 * Gives up a failed event and all that has queued up behind it, that is, up
 * to the checkpoint.
 * Result: false if nothing of the stream is held up, or the caller may see no
 * event of it.
 * Errors: 42704 if there is no such subscription.
 */
Datum
es_discard_parked_stream(PG_FUNCTION_ARGS)
{
	Datum		name = es_arg_name_datum(fcinfo, 0, "name");
	Datum		stream = es_arg_name_datum(fcinfo, 1, "stream_id");

	PreventCommandIfReadOnly("es_discard_parked_stream()");
	PG_RETURN_BOOL(es_parked_change(name, &es_sql_discard_stream, stream, false,
									es_parked_stream_visible(stream)) > 0);
}
