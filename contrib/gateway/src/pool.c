/*-------------------------------------------------------------------------
 * pool.c
 *	  See pool.h.
 *-------------------------------------------------------------------------
 */
#include "conn.h"

#include "settings.h"

#define CONNECT_MS			10000
/* after that time nothing more is put behind a query: it may wait for a lock */
#define STUCK_MS			20

static Pool *pools;
static int	npools;
static Timer reaper;
static bool shut;

/* May this connection take that query now? */
static bool
conn_takes(Conn *conn, Query *q, int depth)
{
	if (conn->state != CONN_READY || conn->broken || conn->stale || conn->exclusive || conn->waiter != q->waits)
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
	if (q->waits ? opening == 0 && best == NULL : pool->nconns < settings.connections && opening < 4 &&
		(pool->nconns == 0 || pool->no_more_until <= now_ms()))
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
		Conn	   *conn;

		if (q->done == NULL)
		{
			/* nobody waits for it any more */
			*p = q->next;
			if (*p == NULL)
				queue->tail = p;
			if (q->ordered)
				pool->order[q->bucket].waiting--;
			query_end(q);
			continue;
		}
		conn = q->ordered && blocked[q->bucket] ? NULL : pool_find(pool, q);
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

void
pool_dispatch(Pool *pool)
{
	if (shut)
		return;
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
			if (conn->broken)
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

void
pool_reap_now(void)
{
	timer_in(&reaper, 0);
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
