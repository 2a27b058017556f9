/*-------------------------------------------------------------------------
 * query.c
 *	  A query and its parameters, and how it ends.
 *-------------------------------------------------------------------------
 */
#include "conn.h"

#include <stdio.h>

static int	nstatements;

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
	/* it will not begin any more */
	if (!q->executing)
		buf_free(&q->params);
}

void
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

void
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

void
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

void
queue_add(Queue *queue, Query *q)
{
	if (queue->head == NULL)
		queue->tail = &queue->head;
	q->next = NULL;
	*queue->tail = q;
	queue->tail = &q->next;
}

/* A waiting query ends without having run. */
void
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
