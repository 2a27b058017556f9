/*-------------------------------------------------------------------------
 * pool.h
 *	  Connections to PostgreSQL, a pool for each login, all asynchronous.
 *
 * Short statements share connections in pipeline mode, each with a transaction
 * of its own.  A statement that returns rows one by one has a connection for
 * itself while it runs, which is never longer than one page.  One connection
 * more for each login is kept for statements that wait (es_wait).
 *-------------------------------------------------------------------------
 */
#ifndef GW_POOL_H
#define GW_POOL_H

#include <libpq-fe.h>
#include <stdbool.h>
#include <stdint.h>

#include "util.h"

/* types of parameters, as in pg_type */
#define BOOLOID			16
#define BYTEAOID		17
#define INT8OID			20
#define INT4OID			23
#define TEXTOID			25
#define TEXTARRAYOID	1009
#define UUIDOID			2950
#define UUIDARRAYOID	2951
#define JSONBOID		3802
#define JSONBARRAYOID	3807

#define MAX_PARAMS		24

typedef struct Pool Pool;
typedef struct Query Query;

/* Made once for each text; prepared once in each connection. */
typedef struct Statement
{
	const char *sql;
	int			nparams;
	Oid			types[MAX_PARAMS];
	int			number;			/* set by the pool */
} Statement;

typedef struct DbError
{
	char		code[6];		/* SQLSTATE; 08006 when the connection is gone */
	bool		lost;			/* the server or the connection is gone: worth a retry */
	const char *message;
	const char *detail;			/* may be NULL, as the hint */
	const char *hint;
} DbError;

typedef void (*QueryDone) (void *arg, const PGresult *result, const DbError *error);
typedef void (*QueryRow) (void *arg, const PGresult *result, int row);

/* a login's pool; user NULL: the gateway's own.  NULL when there are too many. */
extern Pool *pool_get(const char *user, const char *password);
extern Pool *pool_hold(Pool *pool);
extern void pool_release(Pool *pool);
extern const char *pool_user(Pool *pool);
/* bytes that the server takes as one event, as far as known */
extern int	pool_max_event(Pool *pool);
/* ends everything, for the program's end */
extern void pool_shutdown(void);

/* a place for what other parts keep for each login */
extern void **pool_slot(Pool *pool);

/*
 * Exactly one call of done follows query_send(), never from within it, unless
 * the query is forgotten.  Results are binary.
 */
extern Query *query_new(Statement *statement, QueryDone done, void *arg);
extern void query_null(Query *query);
extern void query_bool(Query *query, bool value);
extern void query_int4(Query *query, int32_t value);
extern void query_int8(Query *query, int64_t value);
extern void query_bytes(Query *query, const void *data, size_t len);
extern void query_text(Query *query, const char *text);
extern void query_json(Query *query, const char *text, size_t len);
/* each row is handed out when it comes, and not kept; done gets no rows then */
extern void query_by_row(Query *query, QueryRow row);
/* not before the earlier queries with this number are done */
extern void query_in_order(Query *query, uint32_t number);
/* it may wait for long */
extern void query_waits(Query *query);
extern void query_send(Pool *pool, Query *query);
extern void query_forget(Query *query);

/* fields of a result */
static inline bool
row_null(const PGresult *r, int row, int column)
{
	return PQgetisnull(r, row, column);
}

static inline int64_t
row_int8(const PGresult *r, int row, int column)
{
	return (int64_t) get_u64(PQgetvalue(r, row, column));
}

static inline int32_t
row_int4(const PGresult *r, int row, int column)
{
	return (int32_t) get_u32(PQgetvalue(r, row, column));
}

#endif							/* GW_POOL_H */
