/*-------------------------------------------------------------------------
 * source.c
 *	  See source.h.
 *
 * One connection, in pipeline mode.  When nothing is in hand a fetch waits on
 * the server.  While there is more to come the next batch is fetched as soon as
 * no more than one is on its way into the sink, together with the acknowledgement
 * of what is done; so neither side waits for the other.  es_fetch() hands out
 * again what is in hand; the query leaves it out.
 *
 * Acknowledgements are commits that need not survive a crash of the server: what
 * they say is lost, not what they are about.  Those events come again, and are
 * known here.
 *
 * If the server takes events away (a lease that ended, a reset, another server)
 * the hand is forgotten as soon as nothing is in flight, and fetched anew.
 *-------------------------------------------------------------------------
 */
#include "source.h"

#include <inttypes.h>
#include <libpq-fe.h>
#include <stdio.h>
#include <string.h>

#include "cloudevent.h"
#include "hand.h"
#include "log.h"
#include "metrics.h"
#include "util.h"

/* how long a fetch waits on the server, and how long to wait for any answer, in ms */
#define FETCH_WAIT "5 s"
#define ANSWER_MS 60000
#define CONNECT_MS 10000

/* what is in hand is renewed, and what is done acknowledged, at least so often */
#define RENEW_MS 3000
#define ACKNOWLEDGE_MS 500

/* bytes of one batch to aim at */
#define BATCH_BYTES (64 * 1024 * 1024)

typedef enum What
{
	SETUP,
	FETCH,
	ACK,
	NACK
} What;

static PGconn *conn;
static bool connecting;
static bool stopped;
static int64_t retry_at;		/* when to do anything again after an error */
static int	pause_ms;
static int64_t answer_until;
static char *schema;			/* of the extension's functions, quoted */

static What pending[2];			/* sent, in this order */
static int	npending;
static bool cancelled;

static bool lost;				/* the hand is no longer ours */
static bool last_full;			/* the last fetch brought all that was asked for */
static int	asked;
static int	limit;				/* events of the next fetch */
static int64_t acknowledging;	/* by the ACK under way */
static int64_t acknowledged_at; /* now_ms() */
static Event *nacking;

static void
notice(void *arg, const PGresult *res)
{
	(void) arg;
	log_event(LOG_INFO, "notice of the store", "text=%q", PQresultErrorField(res, PG_DIAG_MESSAGE_PRIMARY));
}

static void
pause_more(void)
{
	pause_ms = pause_ms == 0 ? 50 : pause_ms * 2 > 5000 ? 5000 : pause_ms * 2;
	retry_at = now_ms() + pause_ms;
}

/* The connection is gone, and with it whatever the server has handed out to it. */
static void
disconnected(const char *reason)
{
	if (!stopped)
		log_event(LOG_WARN, "store lost", "error=%q", reason);
	if (metrics.store_up)
		metrics.store_losses++;
	metrics.store_up = 0;
	PQfinish(conn);
	conn = NULL;
	npending = 0;
	nacking = NULL;
	lost = hand_count > 0;
	last_full = false;
	seen_recent();
	pause_more();
}

static void
sent(What what, int ok)
{
	/* a connection that is broken shows when its answer is waited for */
	if (ok)
		PQpipelineSync(conn);
	pending[npending++] = what;
	answer_until = now_ms() + ANSWER_MS;
}

static void
setup(void)
{
	sent(SETUP, PQsendQueryParams(conn,
		"SELECT pg_catalog.quote_ident(n.nspname), pg_catalog.current_database(),"
		" (SELECT pg_catalog.count(pg_catalog.set_config(s.name, v.value, false))"
		"  FROM (VALUES ('synchronous_commit', 'off'), ('client_connection_check_interval', '1s'),"
		"               ('statement_timeout', '0')) AS v (name, value)"
		"  JOIN pg_catalog.pg_settings s USING (name))"
		" FROM pg_catalog.pg_extension e JOIN pg_catalog.pg_namespace n ON n.oid = e.extnamespace"
		" WHERE e.extname = 'event_store'", 0, NULL, NULL, NULL, NULL, 0));
}

static void
fetch(int in_hand, int64_t above)
{
	Buf			sql = {0};
	Buf			positions = {0};
	char		count[16];
	const char *values[5] = {settings.subscription, count, in_hand > 0 ? "0" : FETCH_WAIT, settings.member};

	/* a queue behind a refused event takes up to half of what is asked for */
	asked = in_hand > 0 ? 2 * in_hand + limit : limit;
	snprintf(count, sizeof(count), "%d", asked);
	hand_positions(&positions, above);
	buf_char(&positions, '\0');
	values[4] = positions.data;
	buf_printf(&sql, "SELECT e.global_position, e.stream_id, e.version, e.event_id, e.event_type, e.schema_version,"
			   " e.data, e.metadata, e.created_at, CASE WHEN e.stream_id IS NULL THEN (%s.es_tags(e))[1] END"
			   " FROM %s.es_fetch($1, $2::pg_catalog.int4, $3::pg_catalog.interval, $4) AS e"
			   " WHERE e.global_position OPERATOR(pg_catalog.<>) ALL ($5::pg_catalog.int8[])", schema, schema);
	asked -= in_hand;
	sent(FETCH, PQsendQueryParams(conn, sql.data, 5, NULL, values, NULL, NULL, 1));
	buf_free(&sql);
	buf_free(&positions);
}

static void
acknowledge(int64_t position)
{
	char	   *sql = xprintf("SELECT %s.es_ack($1, $2::pg_catalog.int8, $3)", schema);
	char	   *text = xprintf("%" PRId64, position);
	const char *values[3] = {settings.subscription, text, settings.member};

	acknowledging = position;
	acknowledged_at = now_ms();
	sent(ACK, PQsendQueryParams(conn, sql, 3, NULL, values, NULL, NULL, 0));
	free(sql);
	free(text);
}

static void
give_back(Event *event)
{
	char	   *sql = xprintf("SELECT %s.es_nack($1, $2::pg_catalog.int8, $3, $4::pg_catalog.bool, $5)", schema);
	char	   *text = xprintf("%" PRId64, event->position);
	const char *values[5] = {settings.subscription, text, event->reason, event->retry ? "true" : "false",
	settings.member};

	nacking = event;
	sent(NACK, PQsendQueryParams(conn, sql, 5, NULL, values, NULL, NULL, 0));
	free(sql);
	free(text);
}

/* --- answers ------------------------------------------------------------------ */

static void
fetched(PGresult *rows)
{
	int			n = PQntuples(rows);
	int64_t		bytes = 0;

	last_full = n >= asked;
	if (n == 0 || lost)
	{
		PQclear(rows);
		return;
	}
	for (int i = 0; i < n; i++)
		bytes += PQgetlength(rows, i, 6) + PQgetlength(rows, i, 7);
	if (bytes / n > BATCH_BYTES / settings.batch)
		limit = BATCH_BYTES / (bytes / n) > 0 ? BATCH_BYTES / (bytes / n) : 1;
	else
		limit = settings.batch;
	metrics.fetched += n;
	hand_add(rows);
}

static void
failed(What what, const PGresult *res)
{
	const char *state = PQresultErrorField(res, PG_DIAG_SQLSTATE);
	const char *const names[] = {"set-up", "es_fetch", "es_ack", "es_nack"};

	if (cancelled && state && strcmp(state, "57014") == 0)
		return;
	log_event(what == FETCH ? LOG_ERROR : LOG_WARN, "statement failed",
			  "statement=%q sqlstate=%q error=%q detail=%q", names[what], state,
			  PQresultErrorField(res, PG_DIAG_MESSAGE_PRIMARY), PQresultErrorField(res, PG_DIAG_MESSAGE_DETAIL));
	/* whatever it is, the server says anew what is ours */
	lost = hand_count > 0;
	pause_more();
}

static void
answered(What what, PGresult *res)
{
	ExecStatusType status = PQresultStatus(res);

	if (status != PGRES_TUPLES_OK)
		failed(what, res);
	else if (what == SETUP && PQntuples(res) == 0)
	{
		log_event(LOG_ERROR, "the database has no extension event_store", "database=%q", PQdb(conn));
		pause_more();
	}
	else if (what == SETUP)
	{
		free(schema);
		schema = xstrdup(PQgetvalue(res, 0, 0));
		free(cloudevent_source);
		cloudevent_source = xprintf("/event_store/%s", PQgetvalue(res, 0, 1));
		metrics.store_up = 1;
		log_event(LOG_INFO, "store connected", "database=%q subscription=%q", PQgetvalue(res, 0, 1),
				  settings.subscription);
	}
	else if (what == ACK && !lost)
	{
		hand_acknowledge(acknowledging);
		if (acknowledging > metrics.acknowledged)
			metrics.acknowledged = acknowledging;
	}
	else if (what == NACK && !lost)
	{
		log_event(LOG_WARN, "event given back", "position=%ld stream=%q event_type=%q state=%q reason=%q",
				  (long) nacking->position, nacking->stream, nacking->type, PQgetvalue(res, 0, 0), nacking->reason);
		hand_told(nacking);
	}
	else if (what == FETCH)
	{
		pause_ms = 0;
		fetched(res);
		return;
	}
	if (what == NACK)
		nacking = NULL;
	PQclear(res);
}

/* Takes what has come; false if the connection is lost. */
static bool
receive(void)
{
	if (PQflush(conn) < 0 || !PQconsumeInput(conn))
		return false;
	while (npending > 0 && !PQisBusy(conn))
	{
		PGresult   *res = PQgetResult(conn);
		ExecStatusType status = PQresultStatus(res);

		if (PQstatus(conn) == CONNECTION_BAD)
		{
			PQclear(res);
			return false;
		}
		if (res == NULL)
			continue;			/* the end of a statement; its sync follows */
		if (status == PGRES_PIPELINE_SYNC)
		{
			PQclear(res);
			pending[0] = pending[1];
			npending--;
			cancelled &= npending > 0;
		}
		else
			answered(pending[0], res);
	}
	return true;
}

/* --- what to do next ------------------------------------------------------------- */

/* The connection has nothing to do. */
static void
next(void)
{
	int64_t		now = now_ms();
	int64_t		done;
	int			left;
	Event	   *refused;

	if (lost)
	{
		if (hand_in_flight > 0)
			return;
		hand_forget();
		lost = false;
	}
	if (schema == NULL || !metrics.store_up)
	{
		setup();
		return;
	}
	if ((refused = hand_first_refused()) != NULL)
	{
		give_back(refused);
		return;
	}

	done = hand_acknowledgeable();
	left = hand_count_above(done);
	if (!stopped && (left == 0 || (last_full && left <= limit)))
	{
		if (done > 0)
			acknowledge(done);
		fetch(left, done);
	}
	else if (done > 0 && (left == 0 || now - acknowledged_at >= ACKNOWLEDGE_MS))
		acknowledge(done);
	else if (left > 0 && now - acknowledged_at >= RENEW_MS)
		acknowledge(0);
}

void
source_init(void)
{
	limit = settings.batch;
}

static void
start(void)
{
	const char *names[] = {"fallback_application_name", "host", "port", "user", "dbname", NULL};
	const char *values[] = {"event_store_feed", settings.host, settings.port, settings.user, settings.dbname, NULL};

	conn = PQconnectStartParams(names, values, 1);
	if (conn == NULL)
	{
		log_event(LOG_ERROR, "out of memory", NULL);
		exit(1);
	}
	PQsetNoticeReceiver(conn, notice, NULL);
	connecting = true;
	answer_until = now_ms() + CONNECT_MS;
}

int64_t
source_step(struct pollfd *fd)
{
	int64_t		now = now_ms();

	fd->fd = -1;
	if (conn == NULL)
	{
		if (stopped || now < retry_at)
			return stopped ? INT64_MAX : retry_at;
		start();
		fd->events = POLLOUT;
	}
	else if (connecting && fd->revents)
	{
		PostgresPollingStatusType status = PQconnectPoll(conn);

		fd->events = status == PGRES_POLLING_READING ? POLLIN : POLLOUT;
		if (status == PGRES_POLLING_OK)
		{
			connecting = false;
			PQsetnonblocking(conn, 1);
			PQenterPipelineMode(conn);
		}
	}
	if (PQstatus(conn) == CONNECTION_BAD || (connecting && now >= answer_until))
	{
		disconnected(PQstatus(conn) == CONNECTION_BAD ? PQerrorMessage(conn) : "timeout");
		return retry_at;
	}
	if (!connecting)
	{
		if (!receive() || (npending > 0 && now >= answer_until))
		{
			disconnected(npending > 0 && now >= answer_until ? "timeout" : PQerrorMessage(conn));
			return retry_at;
		}
		if (npending == 0 && now >= retry_at)
		{
			next();
			if (npending > 0 && PQflush(conn) < 0)
			{
				disconnected(PQerrorMessage(conn));
				return retry_at;
			}
		}
		fd->events = POLLIN | (PQflush(conn) == 1 ? POLLOUT : 0);
	}
	fd->fd = PQsocket(conn);
	if (connecting || npending > 0)
		return answer_until;
	return now < retry_at ? retry_at : now + ACKNOWLEDGE_MS;
}

void
source_stop(void)
{
	char		error[256];
	PGcancel   *cancel;

	stopped = true;
	if (conn == NULL || npending == 0 || pending[npending - 1] != FETCH || (cancel = PQgetCancel(conn)) == NULL)
		return;
	cancelled = true;
	PQcancel(cancel, error, sizeof(error));
	PQfreeCancel(cancel);
}

bool
source_idle(void)
{
	return conn == NULL || connecting || lost || (npending == 0 && hand_refused == 0 && hand_acknowledgeable() == 0);
}

void
source_close(void)
{
	/* the slots of a member go to the others at once; of what is no group there is nothing to leave */
	if (settings.member && metrics.store_up && npending == 0 && PQexitPipelineMode(conn) == 1)
	{
		char	   *sql = xprintf("SELECT %s.es_leave($1, $2)", schema);
		const char *values[2] = {settings.subscription, settings.member};

		PQsetnonblocking(conn, 0);
		PQclear(PQexecParams(conn, sql, 2, NULL, values, NULL, NULL, 0));
		free(sql);
	}
	PQfinish(conn);
	conn = NULL;
}
