/*-------------------------------------------------------------------------
 * pool.c
 *	  See pool.h.
 *
 * Who a client is, PostgreSQL decides: its user and password open connections
 * of their own.  A login that PostgreSQL lets in without asking for the
 * password (trust, peer, a password of the gateway's environment) is refused,
 * or a client could be anybody.
 *-------------------------------------------------------------------------
 */
#include "pool.h"

#include <stdio.h>
#include <sys/epoll.h>

#include "log.h"
#include "loop.h"
#include "settings.h"

/* queries in one pipeline, when all connections are busy */
#define PIPELINE_DEPTH		16
#define CONNECT_MS			10000
#define MAX_STATEMENTS		128
#define ORDER_BUCKETS		4096
/* after that time nothing more is put behind a query: it may wait for a lock */
#define STUCK_MS			20

struct Query
{
	Query	   *next;
	Statement  *statement;
	QueryDone	done;			/* NULL: forgotten */
	QueryRow	by_row;
	void	   *arg;
	bool		waits;
	bool		ordered;
	bool		preparing;		/* a Parse was sent before it */
	bool		prepare_alone;	/* only that was sent, the rest follows */
	bool		executing;
	uint16_t	bucket;
	int			nparams;
	int			offsets[MAX_PARAMS];	/* -1: NULL */
	int			lengths[MAX_PARAMS];
	Buf			params;
	PGresult   *result;
	DbError		error;
	char	   *texts[3];		/* of the error */
	bool		failed;
};

typedef enum ConnState
{
	CONN_CONNECTING,
	CONN_SETUP,
	CONN_READY,
	CONN_DEAD
} ConnState;

typedef struct Conn
{
	Watch		watch;			/* first */
	struct Conn *next;
	Pool	   *pool;
	PGconn	   *pg;
	ConnState	state;
	bool		waiter;
	bool		exclusive;		/* a query by row runs */
	int			depth;
	Query	   *head,
			  **tail;
	int64_t		since;			/* of the attempt to connect, of its first query, or unused since */
	uint64_t	prepared[MAX_STATEMENTS / 64];
} Conn;

typedef struct Order
{
	Conn	   *conn;
	int			count;			/* queries out */
	int			waiting;		/* queries not handed to a connection yet */
} Order;

typedef struct Queue
{
	Query	   *head,
			  **tail;
} Queue;

struct Pool
{
	Pool	   *next;
	char	   *user;			/* NULL: the gateway's own */
	char	   *password;
	int			refs;
	int			nconns;			/* without the waiter */
	int			max_event;
	Conn	   *conns;
	Queue		waiting;
	Queue		waiting_long;	/* for the waiter */
	bool		dispatching;
	bool		dispatch_again;
	Order		order[ORDER_BUCKETS];
	int64_t		complained;		/* when a lost connection was logged last ... */
	int			unsaid;			/* ... and how many were not since */
	void	   *slot;
};

static Pool *pools;
static int	npools;
static int	nstatements;
static Conn *graveyard;			/* freed when no event can name them any more */
static Timer reaper;
static bool shut;

static void pool_dispatch(Pool *pool);
static void conn_dispatch(Conn *conn);

/* --- queries --------------------------------------------------------------- */

Query *
query_new(Statement *statement, QueryDone done, void *arg)
{
	Query	   *q = xcalloc(sizeof(Query));

	if (statement->number == 0)
	{
		if (nstatements >= MAX_STATEMENTS - 1)
			abort();
		statement->number = ++nstatements;
	}
	q->statement = statement;
	q->done = done;
	q->arg = arg;
	return q;
}

void
query_bytes(Query *q, const void *data, size_t len)
{
	if (q->nparams >= MAX_PARAMS)
		abort();
	q->offsets[q->nparams] = q->params.len;
	q->lengths[q->nparams++] = len;
	buf_reserve(&q->params, len + 1);
	buf_add(&q->params, data, len);
}

void
query_null(Query *q)
{
	q->offsets[q->nparams++] = -1;
}

void
query_bool(Query *q, bool value)
{
	query_bytes(q, value ? "\1" : "\0", 1);
}

void
query_int4(Query *q, int32_t value)
{
	uint8_t		wire[4];

	put_u32(wire, (uint32_t) value);
	query_bytes(q, wire, 4);
}

void
query_int8(Query *q, int64_t value)
{
	uint8_t		wire[8];

	put_u64(wire, (uint64_t) value);
	query_bytes(q, wire, 8);
}

void
query_text(Query *q, const char *text)
{
	query_bytes(q, text, strlen(text));
}

void
query_json(Query *q, const char *text, size_t len)
{
	query_bytes(q, "\1", 1);	/* version of jsonb's wire format */
	buf_add(&q->params, text, len);
	q->lengths[q->nparams - 1] += len;
}

void
query_by_row(Query *q, QueryRow row)
{
	q->by_row = row;
}

void
query_in_order(Query *q, uint32_t number)
{
	q->ordered = true;
	q->bucket = (number ^ number >> 12 ^ number >> 24) % ORDER_BUCKETS;
}

void
query_waits(Query *q)
{
	q->waits = true;
}

void
query_forget(Query *q)
{
	q->done = NULL;
	q->by_row = NULL;
}

static void
query_fail(Query *q, const char *code, bool lost, const char *message, const char *detail, const char *hint)
{
	if (q->failed)
		return;
	q->failed = true;
	snprintf(q->error.code, sizeof(q->error.code), "%s", code);
	q->error.lost = lost;
	q->error.message = q->texts[0] = xstrdup(message);
	q->error.detail = q->texts[1] = detail ? xstrdup(detail) : NULL;
	q->error.hint = q->texts[2] = hint ? xstrdup(hint) : NULL;
}

static void
query_fail_result(Query *q, const PGresult *r)
{
	const char *code = PQresultErrorField(r, PG_DIAG_SQLSTATE);
	const char *message = PQresultErrorField(r, PG_DIAG_MESSAGE_PRIMARY);

	if (code == NULL)
		code = "08006";
	query_fail(q, code, strncmp(code, "08", 2) == 0 || strncmp(code, "57P0", 4) == 0,
			   message ? message : "connection to PostgreSQL lost",
			   PQresultErrorField(r, PG_DIAG_MESSAGE_DETAIL), PQresultErrorField(r, PG_DIAG_MESSAGE_HINT));
}

static void
query_end(Query *q)
{
	if (q->done)
		q->done(q->arg, q->failed ? NULL : q->result, q->failed ? &q->error : NULL);
	PQclear(q->result);
	for (int i = 0; i < 3; i++)
		free(q->texts[i]);
	buf_free(&q->params);
	free(q);
}

static void
queue_add(Queue *queue, Query *q)
{
	if (queue->head == NULL)
		queue->tail = &queue->head;
	q->next = NULL;
	*queue->tail = q;
	queue->tail = &q->next;
}

/* A waiting query ends without having run. */
static void
queue_fail(Pool *pool, Queue *queue, const char *code, bool lost, const char *message)
{
	Query	   *q = queue->head;

	queue->head = NULL;
	while (q)
	{
		Query	   *next = q->next;

		if (q->ordered)
			pool->order[q->bucket].waiting--;
		query_fail(q, code, lost, message, NULL, NULL);
		query_end(q);
		q = next;
	}
}

/* --- connections ----------------------------------------------------------- */

static void conn_ready(Watch *watch, uint32_t events);

static void
conn_close(Conn *conn, const char *code, bool lost, const char *message)
{
	Pool	   *pool = conn->pool;
	Query	   *q = conn->head;
	bool		was_ready = conn->state == CONN_READY;

	if (conn->state == CONN_DEAD)
		return;
	conn->state = CONN_DEAD;
	loop_unwatch(&conn->watch);
	PQfinish(conn->pg);
	conn->pg = NULL;
	for (Conn **p = &pool->conns; *p; p = &(*p)->next)
		if (*p == conn)
		{
			*p = conn->next;
			break;
		}
	conn->next = graveyard;
	graveyard = conn;
	if (!conn->waiter)
		pool->nconns--;

	pool_hold(pool);
	conn->head = NULL;
	while (q)
	{
		Query	   *next = q->next;

		if (q->ordered)
			pool->order[q->bucket].count--;
		query_fail(q, code, lost, message, NULL, NULL);
		query_end(q);
		q = next;
	}
	/* who waits is told when there is no way in, and served elsewhere otherwise */
	if (!was_ready && (conn->waiter || pool->nconns == 0))
		queue_fail(pool, conn->waiter ? &pool->waiting_long : &pool->waiting, code, lost, message);
	else if (!shut)
		pool_dispatch(pool);
	pool_release(pool);
}

/* While PostgreSQL is down every call finds that out: one line a second will do. */
static void
complain(Pool *pool, const char *what, const char *error)
{
	int64_t		now = now_ms();

	if (pool->complained && now - pool->complained < 1000)
	{
		pool->unsaid++;
		return;
	}
	log_event(LOG_WARN, what, "user=%q error=%q unsaid=%d", pool_user(pool), error, pool->unsaid);
	pool->complained = now;
	pool->unsaid = 0;
}

/* libpq gave up: close the connection with its reason, on one line. */
static void
conn_lost(Conn *conn)
{
	char	   *message = xstrdup(PQerrorMessage(conn->pg));
	size_t		len = strcspn(message, "\n");
	/* libpq has no SQLSTATE for a failed attempt to connect */
	bool		refused = conn->state == CONN_CONNECTING &&
		(strstr(message, "authentication failed") || strstr(message, "no password supplied") ||
		 strstr(message, "does not exist") || strstr(message, "not permitted to log in") ||
		 strstr(message, "pg_hba.conf"));

	message[len] = '\0';
	complain(conn->pool, refused ? "login refused" :
			 conn->state == CONN_CONNECTING ? "could not connect to PostgreSQL" : "connection to PostgreSQL lost",
			 message);
	conn_close(conn, refused ? "28000" : "08006", !refused, message);
	free(message);
}

static void
conn_watch(Conn *conn, bool write)
{
	loop_watch(&conn->watch, PQsocket(conn->pg), EPOLLIN | (write ? EPOLLOUT : 0));
}

static void
conn_flush(Conn *conn)
{
	int			status = PQflush(conn->pg);

	if (status < 0)
		conn_lost(conn);
	else
		conn_watch(conn, status > 0);
}

static void
conn_open(Pool *pool, bool waiter)
{
	Conn	   *conn = xcalloc(sizeof(Conn));
	const char *names[8];
	const char *values[8];
	int			n = 0;

	if (settings.dbname)
		names[n] = "dbname", values[n++] = settings.dbname;
	if (settings.host)
		names[n] = "host", values[n++] = settings.host;
	if (settings.port)
		names[n] = "port", values[n++] = settings.port;
	if (pool->user)
	{
		names[n] = "user", values[n++] = pool->user;
		names[n] = "password", values[n++] = pool->password;
	}
	else if (settings.user)
		names[n] = "user", values[n++] = settings.user;
	names[n] = "fallback_application_name", values[n++] = "event_store_gateway";
	names[n] = NULL, values[n] = NULL;

	conn->watch.fd = -1;
	conn->watch.ready = conn_ready;
	conn->pool = pool;
	conn->waiter = waiter;
	conn->state = CONN_CONNECTING;
	conn->since = now_ms();
	conn->pg = PQconnectStartParams(names, values, 1);
	if (conn->pg == NULL)
		abort();
	conn->next = pool->conns;
	pool->conns = conn;
	if (!waiter)
		pool->nconns++;
	/* a failure is told from the loop, never from within query_send() */
	if (PQstatus(conn->pg) == CONNECTION_BAD || PQsocket(conn->pg) < 0)
	{
		conn->since = 0;
		timer_in(&reaper, 0);
	}
	else
	{
		PQsetnonblocking(conn->pg, 1);
		conn_watch(conn, true);
	}
}

static void
conn_connected(Conn *conn)
{
	static const char format[] =
		"SELECT pg_catalog.set_config('search_path', 'pg_catalog, ' || pg_catalog.quote_ident(n.nspname) || ', pg_temp', false),"
		" pg_catalog.set_config('lock_timeout', '%d', false),"
		" pg_catalog.set_config('client_min_messages', 'error', false),"
		" pg_catalog.pg_size_bytes(pg_catalog.current_setting('event_store.max_event_size', true))"
		" FROM pg_catalog.pg_extension e JOIN pg_catalog.pg_namespace n ON n.oid = e.extnamespace"
		" WHERE e.extname = 'event_store'";
	char		sql[sizeof(format) + 16];

	if (conn->pool->user && !PQconnectionUsedPassword(conn->pg))
	{
		complain(conn->pool, "login refused",
				 "PostgreSQL did not ask for the password; let pg_hba.conf ask for scram-sha-256");
		conn_close(conn, "28000", false, "PostgreSQL did not ask for the password");
		return;
	}
	snprintf(sql, sizeof(sql), format, settings.lock_timeout_ms);
	conn->state = CONN_SETUP;
	if (!PQsendQuery(conn->pg, sql))
	{
		conn_lost(conn);
		return;
	}
	conn_flush(conn);
}

static void
conn_setup_result(Conn *conn)
{
	PGresult   *r;

	while (!PQisBusy(conn->pg))
	{
		r = PQgetResult(conn->pg);
		if (r == NULL)
		{
			if (conn->state == CONN_SETUP)
			{
				PQenterPipelineMode(conn->pg);
				conn->state = CONN_READY;
				conn->since = now_ms();
				log_event(LOG_DEBUG, "connected to PostgreSQL", "user=%q backend=%d", pool_user(conn->pool),
						  PQbackendPID(conn->pg));
				conn_dispatch(conn);
			}
			return;
		}
		if (PQresultStatus(r) != PGRES_TUPLES_OK || PQntuples(r) != 1)
		{
			const char *code = PQresultErrorField(r, PG_DIAG_SQLSTATE);
			char	   *message = xstrdup(PQresultStatus(r) == PGRES_TUPLES_OK ?
										  "extension event_store is not installed in the database" :
										  PQresultErrorMessage(r));

			message[strcspn(message, "\n")] = '\0';
			complain(conn->pool, "database cannot be used", message);
			conn_close(conn, code ? code : "55000", code && strncmp(code, "57P", 3) == 0, message);
			free(message);
			PQclear(r);
			return;
		}
		if (!PQgetisnull(r, 0, 3))
			conn->pool->max_event = atoi(PQgetvalue(r, 0, 3));
		PQclear(r);
	}
}

/* Was a Parse of that statement sent, and has not failed? */
static bool
conn_has(Conn *conn, int number)
{
	return conn->prepared[number / 64] >> number % 64 & 1;
}

static void
conn_set(Conn *conn, int number, bool has)
{
	uint64_t	bit = UINT64_C(1) << number % 64;

	conn->prepared[number / 64] = has ? conn->prepared[number / 64] | bit : conn->prepared[number / 64] & ~bit;
}

/* Hand a query to a connection that has room. */
static void
conn_send(Conn *conn, Query *q)
{
	Statement  *st = q->statement;
	const char *values[MAX_PARAMS];
	int			formats[MAX_PARAMS];
	char		name[16];
	bool		ok = true;

	snprintf(name, sizeof(name), "gw%d", st->number);
	if (!q->executing)
	{
		/* first time */
		if (conn->head == NULL)
		{
			conn->tail = &conn->head;
			conn->since = now_ms();
		}
		q->next = NULL;
		*conn->tail = q;
		conn->tail = &q->next;
		conn->depth++;
		conn->exclusive = q->by_row != NULL || conn->waiter;
		if (q->ordered)
		{
			Order	   *order = &conn->pool->order[q->bucket];

			order->waiting--;
			order->count++;
			order->conn = conn;
		}
		if (!conn_has(conn, st->number))
		{
			q->preparing = true;
			conn_set(conn, st->number, true);
			ok = PQsendPrepare(conn->pg, name, st->sql, st->nparams, st->types);
			/* row by row can only be asked of the first in the pipeline */
			if (q->by_row)
			{
				q->prepare_alone = true;
				ok = ok && PQpipelineSync(conn->pg);
				goto sent;
			}
		}
	}
	if (q->nparams != st->nparams)
		abort();
	for (int i = 0; i < q->nparams; i++)
	{
		values[i] = q->offsets[i] < 0 ? NULL : (q->params.data ? q->params.data + q->offsets[i] : "");
		formats[i] = 1;
	}
	q->executing = true;
	ok = ok && PQsendQueryPrepared(conn->pg, name, q->nparams, values, q->lengths, formats, 1);
	if (q->by_row && ok)
		PQsetSingleRowMode(conn->pg);
	ok = ok && PQpipelineSync(conn->pg);
	buf_free(&q->params);
sent:
	if (!ok)
		conn_lost(conn);
	else
		conn_flush(conn);
}

static void
conn_pop(Conn *conn)
{
	Query	   *q = conn->head;
	bool		stale;

	if (q->prepare_alone && !q->failed)
	{
		q->prepare_alone = false;
		q->executing = true;
		conn_send(conn, q);
		return;
	}
	/* its Parse failed */
	if (q->preparing)
		conn_set(conn, q->statement->number, false);
	conn->head = q->next;
	conn->depth--;
	conn->exclusive = false;
	conn->since = now_ms();
	if (q->ordered)
		conn->pool->order[q->bucket].count--;
	/* the extension was changed under a prepared statement: begin anew */
	stale = q->failed && (strcmp(q->error.code, "0A000") == 0 || strcmp(q->error.code, "26000") == 0 ||
						  strcmp(q->error.code, "42883") == 0);
	pool_hold(conn->pool);
	query_end(q);
	if (conn->state == CONN_READY && stale && conn->head == NULL)
		conn_close(conn, "08006", true, "connection is begun anew");
	else if (conn->state == CONN_READY)
		conn_dispatch(conn);
	pool_release(conn->pool);
}

static void
conn_results(Conn *conn)
{
	bool		was_null = false;

	while (conn->state == CONN_READY && conn->head && !PQisBusy(conn->pg))
	{
		Query	   *q = conn->head;
		PGresult   *r = PQgetResult(conn->pg);

		if (r == NULL)
		{
			if (was_null)
				return;
			was_null = true;
			continue;
		}
		was_null = false;
		switch (PQresultStatus(r))
		{
			case PGRES_PIPELINE_SYNC:
				PQclear(r);
				conn_pop(conn);
				continue;
			case PGRES_SINGLE_TUPLE:
				if (q->by_row)
					q->by_row(q->arg, r, 0);
				break;
			case PGRES_TUPLES_OK:
				for (int i = 0; q->by_row && i < PQntuples(r); i++)
					q->by_row(q->arg, r, i);
				if (q->result == NULL && !q->by_row)
				{
					q->result = r;
					continue;
				}
				break;
			case PGRES_FATAL_ERROR:
				query_fail_result(q, r);
				break;
			case PGRES_COMMAND_OK:
				q->preparing = false;
				break;
			default:
				/* PGRES_PIPELINE_ABORTED, behind an error */
				break;
		}
		PQclear(r);
	}
}

static void
conn_ready(Watch *watch, uint32_t events)
{
	Conn	   *conn = (Conn *) watch;

	if (conn->state == CONN_CONNECTING)
	{
		switch (PQconnectPoll(conn->pg))
		{
			case PGRES_POLLING_READING:
				loop_watch(watch, PQsocket(conn->pg), EPOLLIN);
				return;
			case PGRES_POLLING_WRITING:
				loop_watch(watch, PQsocket(conn->pg), EPOLLOUT);
				return;
			case PGRES_POLLING_OK:
				conn_connected(conn);
				return;
			default:
				conn_lost(conn);
				return;
		}
	}
	if ((events & EPOLLOUT) && conn->state != CONN_DEAD)
		conn_flush(conn);
	if (conn->state == CONN_DEAD)
		return;
	if (!PQconsumeInput(conn->pg))
	{
		/* results that came before the end still count */
		if (conn->state == CONN_READY)
			conn_results(conn);
		if (conn->state != CONN_DEAD)
			conn_lost(conn);
		return;
	}
	if (conn->state == CONN_SETUP)
		conn_setup_result(conn);
	else
	{
		conn_results(conn);
		if (conn->state == CONN_READY && PQstatus(conn->pg) == CONNECTION_BAD)
			conn_lost(conn);
	}
}

/* --- pools ----------------------------------------------------------------- */

/* May this connection take that query now? */
static bool
conn_takes(Conn *conn, Query *q, int depth)
{
	if (conn->state != CONN_READY || conn->exclusive || conn->waiter != q->waits)
		return false;
	if (q->by_row || q->waits)
		return conn->depth == 0;
	if (q->ordered && conn->pool->order[q->bucket].count > 0)
		return conn->pool->order[q->bucket].conn == conn && conn->depth < PIPELINE_DEPTH;
	return conn->depth == 0 || (conn->depth <= depth && now_ms() - conn->since < STUCK_MS);
}

/* A connection for the query; if there is none, one may be opened. */
static Conn *
pool_find(Pool *pool, Query *q)
{
	Conn	   *best = NULL;
	int			opening = 0;

	for (Conn *conn = pool->conns; conn; conn = conn->next)
	{
		if (conn->waiter == q->waits && conn->state < CONN_READY)
			opening++;
		if (conn_takes(conn, q, PIPELINE_DEPTH - 1) && (best == NULL || conn->depth < best->depth))
			best = conn;
	}
	if (best && (best->depth == 0 || (q->ordered && pool->order[q->bucket].count > 0)))
		return best;
	/* better a connection more than a queue, up to the limit */
	if (q->waits ? opening == 0 && best == NULL : pool->nconns < settings.connections && opening < 4)
	{
		bool		have_waiter = false;

		for (Conn *conn = pool->conns; conn; conn = conn->next)
			have_waiter |= conn->waiter;
		if (!q->waits || !have_waiter)
			conn_open(pool, q->waits);
	}
	return best;
}

static void
queue_dispatch(Pool *pool, Queue *queue)
{
	Query	  **p = &queue->head;
	bool		blocked[ORDER_BUCKETS] = {false};

	while (*p)
	{
		Query	   *q = *p;
		Conn	   *conn = q->ordered && blocked[q->bucket] ? NULL : pool_find(pool, q);

		if (conn == NULL)
		{
			if (q->ordered)
				blocked[q->bucket] = true;
			p = &q->next;
			continue;
		}
		*p = q->next;
		if (*p == NULL)
			queue->tail = p;
		conn_send(conn, q);
	}
}

static void
pool_dispatch(Pool *pool)
{
	/* a connection that breaks while it is used leads here again */
	if (pool->dispatching)
	{
		pool->dispatch_again = true;
		return;
	}
	pool_hold(pool);
	pool->dispatching = true;
	do
	{
		pool->dispatch_again = false;
		if (pool->waiting.head)
			queue_dispatch(pool, &pool->waiting);
		if (pool->waiting_long.head)
			queue_dispatch(pool, &pool->waiting_long);
	} while (pool->dispatch_again);
	pool->dispatching = false;
	pool_release(pool);
}

static void
conn_dispatch(Conn *conn)
{
	Pool	   *pool = conn->pool;

	if (conn->waiter ? pool->waiting_long.head != NULL : pool->waiting.head != NULL)
		pool_dispatch(pool);
}

void
query_send(Pool *pool, Query *q)
{
	Conn	   *conn = NULL;

	if (q->ordered)
		pool->order[q->bucket].waiting++;
	if (!(q->ordered && pool->order[q->bucket].waiting > 1))
		conn = pool_find(pool, q);
	/* no overtaking of those that wait; who could use an idle connection has it */
	if (conn && conn->depth > 0 && (q->waits ? pool->waiting_long.head : pool->waiting.head) != NULL)
		conn = NULL;
	if (conn)
		conn_send(conn, q);
	else
		queue_add(q->waits ? &pool->waiting_long : &pool->waiting, q);
	if (!reaper.set)
		timer_in(&reaper, 1000);
}

/* Once a second: attempts that take too long, connections that nobody uses. */
static void
reap(Timer *timer)
{
	int64_t		now = now_ms();
	bool		again = false;

	while (graveyard)
	{
		Conn	   *conn = graveyard;

		graveyard = conn->next;
		free(conn);
	}
	for (Pool *pool = pools, *next_pool; pool; pool = next_pool)
	{
		next_pool = pool->next;
		pool_hold(pool);
		for (Conn *conn = pool->conns, *next; conn; conn = next)
		{
			next = conn->next;
			if (conn->state < CONN_READY && conn->since == 0)
				conn_lost(conn);
			else if (conn->state < CONN_READY && now - conn->since > CONNECT_MS)
				conn_close(conn, "08006", true, "no connection to PostgreSQL in time");
			else if (conn->state == CONN_READY && conn->head == NULL && now - conn->since > settings.idle_s * 1000)
				conn_close(conn, "08006", true, "unused");
			else
				continue;
			/* who was told may have changed the list */
			next = pool->conns;
		}
		again |= pool->conns != NULL;
		next_pool = pool->next;
		pool_release(pool);
	}
	if (again || graveyard)
		timer_in(timer, 1000);
}

Pool *
pool_get(const char *user, const char *password)
{
	Pool	   *pool;

	reaper.due = reap;
	for (pool = pools; pool; pool = pool->next)
		if (user == NULL ? pool->user == NULL :
			pool->user && strcmp(pool->user, user) == 0 && strcmp(pool->password, password) == 0)
			return pool_hold(pool);
	if (npools >= settings.roles && user)
		return NULL;
	pool = xcalloc(sizeof(Pool));
	pool->user = user ? xstrdup(user) : NULL;
	pool->password = user ? xstrdup(password) : NULL;
	pool->refs = 1;
	pool->next = pools;
	pools = pool;
	npools++;
	return pool;
}

Pool *
pool_hold(Pool *pool)
{
	pool->refs++;
	return pool;
}

/* A pool without users lives as long as its connections. */
void
pool_release(Pool *pool)
{
	if (--pool->refs > 0 || pool->conns || pool->waiting.head || pool->waiting_long.head)
		return;
	for (Pool **p = &pools; *p; p = &(*p)->next)
		if (*p == pool)
		{
			*p = pool->next;
			break;
		}
	npools--;
	free(pool->user);
	if (pool->password)
		explicit_bzero(pool->password, strlen(pool->password));
	free(pool->password);
	free(pool);
}

const char *
pool_user(Pool *pool)
{
	if (pool->user)
		return pool->user;
	return settings.user ? settings.user : "";
}

int
pool_max_event(Pool *pool)
{
	return pool->max_event > 0 ? pool->max_event : 1024 * 1024;
}

void **
pool_slot(Pool *pool)
{
	return &pool->slot;
}

void
pool_shutdown(void)
{
	shut = true;
	while (pools)
	{
		Pool	   *pool = pools;

		pool_hold(pool);
		while (pool->conns)
		{
			Conn	   *conn = pool->conns;

			/* who waits in the server does not see that we are gone */
			if (conn->waiter && conn->head)
			{
				PGcancel   *cancel = PQgetCancel(conn->pg);
				char		text[256];

				if (cancel)
					PQcancel(cancel, text, sizeof(text));
				PQfreeCancel(cancel);
			}
			conn_close(conn, "57P01", true, "the gateway is shutting down");
		}
		queue_fail(pool, &pool->waiting, "57P01", true, "the gateway is shutting down");
		queue_fail(pool, &pool->waiting_long, "57P01", true, "the gateway is shutting down");
		pool->refs = 1;
		pool_release(pool);
	}
	timer_cancel(&reaper);
	while (graveyard)
	{
		Conn	   *conn = graveyard;

		graveyard = conn->next;
		free(conn);
	}
}
