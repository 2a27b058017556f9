/*-------------------------------------------------------------------------
 * conn.h
 *	  What a pool is made of, for the files that make it up:
 *
 *	query.c		a query and its parameters, and how it ends
 *	conn.c		a connection to PostgreSQL, and the queries on it
 *	pool.c		which query goes to which connection
 *-------------------------------------------------------------------------
 */
#ifndef GW_CONN_H
#define GW_CONN_H

#include "loop.h"
#include "pool.h"

/* queries in one pipeline, when all connections are busy */
#define PIPELINE_DEPTH		16
#define MAX_STATEMENTS		128
#define ORDER_BUCKETS		4096

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
	bool		broken;			/* found out while sending; told from the loop */
	bool		stale;			/* gets no more queries, and is closed behind those that it has */
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
	int64_t		no_more_until;	/* PostgreSQL did not let in the last one */
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

/* freed when no event can name them any more */
extern Conn *graveyard;

/* query.c */
extern void query_fail(Query *q, const char *code, bool lost, const char *message, const char *detail,
					   const char *hint);
extern void query_fail_result(Query *q, const PGresult *r);
extern void query_end(Query *q);
extern void queue_add(Queue *queue, Query *q);
extern void queue_fail(Pool *pool, Queue *queue, const char *code, bool lost, const char *message);

/* conn.c */
extern void conn_open(Pool *pool, bool waiter);
extern void conn_send(Conn *conn, Query *q);
extern void conn_close(Conn *conn, const char *code, bool lost, const char *message);
extern void conn_lost(Conn *conn);

/* pool.c */
extern void pool_dispatch(Pool *pool);
extern void pool_reap_now(void);

#endif							/* GW_CONN_H */
