/*-------------------------------------------------------------------------
 * conn.c
 *	  A connection to PostgreSQL, and the queries on it.
 *
 * Who a client is, PostgreSQL decides: its user and password open connections
 * of their own.  A login that PostgreSQL lets in without asking for the
 * password (trust, peer, a password of the gateway's environment) is refused,
 * or a client could be anybody.
 *-------------------------------------------------------------------------
 */
#include "conn.h"

#include <sys/epoll.h>

#include "log.h"
#include "settings.h"

/* so long others have to do after PostgreSQL refused one more */
#define REFUSED_MS	1000

Conn	   *graveyard;

static void conn_ready(Watch *watch, uint32_t events);

void
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
	if (!was_ready)
		pool->no_more_until = now_ms() + REFUSED_MS;
	/* who waits is told when there is no way in, and served elsewhere otherwise */
	if (!was_ready && (conn->waiter || pool->nconns == 0))
		queue_fail(pool, conn->waiter ? &pool->waiting_long : &pool->waiting, code, lost, message);
	else
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
void
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

/* A failure is told from the loop, never from within query_send(). */
static void
conn_break(Conn *conn)
{
	conn->broken = true;
	/* the number of a socket that libpq has closed may be another connection's by then */
	if (PQsocket(conn->pg) != conn->watch.fd)
		loop_unwatch(&conn->watch);
	pool_reap_now();
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

void
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
	if (PQstatus(conn->pg) == CONNECTION_BAD || PQsocket(conn->pg) < 0)
		conn_break(conn);
	else
	{
		PQsetnonblocking(conn->pg, 1);
		conn_watch(conn, true);
	}
}

static void
conn_dispatch(Conn *conn)
{
	Pool	   *pool = conn->pool;

	if (conn->waiter ? pool->waiting_long.head != NULL : pool->waiting.head != NULL)
		pool_dispatch(pool);
}

static void
conn_connected(Conn *conn)
{
	static const char format[] =
		"SELECT pg_catalog.set_config('search_path', 'pg_catalog, ' || pg_catalog.quote_ident(n.nspname) || ', pg_temp', false),"
		" pg_catalog.set_config('lock_timeout', '%d', false),"
		" pg_catalog.set_config('client_min_messages', 'error', false),"
		" pg_catalog.pg_size_bytes(pg_catalog.current_setting('event_store.max_event_size', true)),"
		/* clients follow what they read, and filter it by type */
		" pg_catalog.set_config('event_store.upcast', 'on', false)"
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
				conn->pool->no_more_until = 0;
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
void
conn_send(Conn *conn, Query *q)
{
	Statement  *st = q->statement;
	const char *values[MAX_PARAMS];
	int			formats[MAX_PARAMS];
	char		name[16];
	bool		ok = true;
	int			flushed = -1;

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
	if (ok)
		flushed = PQflush(conn->pg);
	if (flushed < 0)
		conn_break(conn);
	else
		conn_watch(conn, flushed > 0);
}

static void
conn_pop(Conn *conn)
{
	Query	   *q = conn->head;

	if (q->prepare_alone && !q->failed && q->done)
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
	/* the extension was changed under a prepared statement: begin anew, behind what is under way */
	if (q->failed && (strcmp(q->error.code, "0A000") == 0 || strcmp(q->error.code, "26000") == 0 ||
					  strcmp(q->error.code, "42883") == 0))
		conn->stale = true;
	pool_hold(conn->pool);
	query_end(q);
	if (conn->state == CONN_READY && conn->stale && conn->head == NULL)
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
		/*
		 * Where libpq goes on to another host it closes the socket, which takes
		 * it out of the epoll set, and the next one mostly has its number: it
		 * has to be added anew each time.  Before the call the number is still
		 * that of the socket that is watched.
		 */
		loop_unwatch(watch);
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
