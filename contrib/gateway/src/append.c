/*-------------------------------------------------------------------------
 * append.c
 *	  See append.h.
 *
 * The events are put straight into PostgreSQL's wire format for arrays.  One
 * event goes through es_append(), which is cheaper than a batch of one.
 *
 * Appends to one stream are handed to PostgreSQL in the order in which clients
 * sent them.
 *-------------------------------------------------------------------------
 */
#include "append.h"

#include <stdio.h>

#include "payload.h"
#include "settings.h"
#include "status.h"
#include "uuid.h"

#define ARRAY_HEAD	20			/* of an array with one dimension */
#define MAX_EVENTS	1000000		/* the largest event_store.max_batch_size */

struct Append
{
	char	   *stream;
	int64_t		expected;
	int			count;
	size_t		size;			/* as the client sent it */
	Buf			types;			/* text[], jsonb[], jsonb[], uuid[] */
	Buf			data;
	Buf			metadata;
	Buf			ids;
	Pool	   *pool;
	Query	   *query;
	AppendDone	done;
	void	   *arg;
};

Append *
append_new(const void *stream, size_t len, int64_t expected)
{
	Append	   *append;

	if (len == 0 || len > 255 || memchr(stream, '\0', len))
		return NULL;
	append = xcalloc(sizeof(Append));
	append->stream = xstrndup(stream, len);
	append->expected = expected;
	return append;
}

static void
append_free(Append *append)
{
	if (append->pool)
		pool_release(append->pool);
	free(append->stream);
	buf_free(&append->types);
	buf_free(&append->data);
	buf_free(&append->metadata);
	buf_free(&append->ids);
	free(append);
}

/* Begin an element of an array: a place for its length, which element_end() fills. */
static size_t
element_begin(Buf *array)
{
	static const char zero[ARRAY_HEAD];

	if (array->len == 0)
		buf_add(array, zero, ARRAY_HEAD);
	buf_add(array, zero, 4);
	return array->len;
}

static void
element_end(Buf *array, size_t start)
{
	put_u32((uint8_t *) array->data + start - 4, array->len - start);
}

static void
array_finish(Buf *array, Oid type, int count)
{
	uint8_t    *p = (uint8_t *) array->data;

	put_u32(p, 1);				/* dimensions */
	put_u32(p + 4, 0);			/* no NULLs */
	put_u32(p + 8, type);
	put_u32(p + 12, count);
	put_u32(p + 16, 1);			/* lower bound */
}

bool
append_add(Append *append, const Gw__NewEvent *event, const char **error)
{
	const char *type = NULL,
			   *content_type = BYTES_TYPE;
	uint8_t		id[16];
	size_t		t,
				d,
				m,
				i;

	for (size_t n = 0; n < event->n_system; n++)
	{
		if (strcmp(event->system[n]->key, "type") == 0)
			type = event->system[n]->value;
		else if (strcmp(event->system[n]->key, "content-type") == 0)
			content_type = event->system[n]->value;
	}
	if (type == NULL || *type == '\0')
	{
		*error = "an event has no type";
		return false;
	}
	if (!uuid_read(event->id, id))
	{
		*error = "an event has no UUID";
		return false;
	}
	t = element_begin(&append->types);
	buf_str(&append->types, type);
	element_end(&append->types, t);
	d = element_begin(&append->data);
	m = element_begin(&append->metadata);
	buf_char(&append->data, 1);	/* version of jsonb's wire format */
	buf_char(&append->metadata, 1);
	payload_store(content_type, event->data.data ? (char *) event->data.data : "", event->data.len,
				  event->metadata.data ? (char *) event->metadata.data : "", event->metadata.len,
				  &append->data, &append->metadata);
	element_end(&append->data, d);
	element_end(&append->metadata, m);
	i = element_begin(&append->ids);
	buf_add(&append->ids, id, sizeof(id));
	element_end(&append->ids, i);
	append->count++;
	append->size += event->data.len + event->metadata.len + strlen(type);
	return true;
}

size_t
append_size(const Append *append)
{
	return append->size;
}

size_t
append_memory(const Append *append)
{
	return append->types.size + append->data.size + append->metadata.size + append->ids.size;
}

bool
append_too_large(const Append *append)
{
	return append->size > (size_t) settings.max_append || append->count > MAX_EVENTS;
}

int
append_count(const Append *append)
{
	return append->count;
}

const char *
append_stream(const Append *append)
{
	return append->stream;
}

int64_t
append_expected(const Append *append)
{
	return append->expected;
}

static void
append_end(Append *append, const AppendResult *result)
{
	append->query = NULL;
	append->done(append->arg, result);
	append_free(append);
}

/* Nothing to write, or nothing was: how is the stream? */
static void
version_done(void *arg, const PGresult *r, const DbError *error)
{
	Append	   *append = arg;
	AppendResult result = {APPEND_REFUSED, -1, -1, 0, error};

	if (error == NULL)
	{
		result.revision = row_int8(r, 0, 0) - 1;
		result.outcome = APPEND_CONFLICT;
		/* an empty append writes nothing, but its expectation is checked */
		if (append->count == 0 &&
			(append->expected == EXPECT_ANY ||
			 (append->expected == EXPECT_EXISTS ? result.revision >= 0 : result.revision == append->expected)))
			result.outcome = APPEND_DONE;
	}
	append_end(append, &result);
}

static void
ask_version(Append *append)
{
	static Statement statement = {"SELECT es_stream_version($1)", 1, {TEXTOID}};

	append->query = query_new(&statement, version_done, append);
	query_text(append->query, append->stream);
	query_send(append->pool, append->query);
}

static void
append_done(void *arg, const PGresult *r, const DbError *error)
{
	Append	   *append = arg;
	AppendResult result = {APPEND_DONE, -1, -1, 0, error};
	int64_t		actual;

	if (error == NULL)
	{
		result.revision = row_int8(r, 0, 0) - 1;
		result.position = row_int8(r, 0, 1);
	}
	else if (strcmp(error->code, "VE001") == 0 && (actual = detail_number(error->detail, "actual")) >= 0)
	{
		result.outcome = APPEND_CONFLICT;
		result.revision = actual - 1;
	}
	else if (strcmp(error->code, "VE002") == 0 && detail_is_stream(error->detail, append->stream))
	{
		/* a retry that does not match what is there: KurrentDB calls it a conflict */
		ask_version(append);
		return;
	}
	else if (strcmp(error->code, "54000") == 0)
	{
		result.outcome = APPEND_TOO_LARGE;
		result.limit = pool_max_event(append->pool);
	}
	else
		result.outcome = APPEND_REFUSED;
	append_end(append, &result);
}

static uint32_t
hash(const char *text)
{
	uint32_t	h = 2166136261u;

	for (; *text; text++)
		h = (h ^ (unsigned char) *text) * 16777619u;
	return h;
}

/* first element of an array */
static void
query_element(Query *q, const Buf *array)
{
	query_bytes(q, array->data + ARRAY_HEAD + 4, get_u32(array->data + ARRAY_HEAD));
}

void
append_run(Append *append, Pool *pool, AppendDone done, void *arg)
{
#define ONE(expected) \
	"SELECT version, global_position FROM es_append($1, " expected ", $3, $4, $5, $6)"
#define MANY(expected) \
	"SELECT max(version), max(global_position) FROM es_append_batch($1, " expected ", $3, $4, $5, $6)"
#define NUMBER "$2"
	/* $2 is there in all of them, so that they can be told apart by their text alone */
#define OR_NOT(function) "CASE WHEN $2 IS NULL THEN " function " END"
	static Statement statements[2][3] = {
		{
			{ONE(NUMBER), 6, {TEXTOID, INT8OID, TEXTOID, JSONBOID, JSONBOID, UUIDOID}},
			{ONE(OR_NOT("es_any()")), 6, {TEXTOID, INT8OID, TEXTOID, JSONBOID, JSONBOID, UUIDOID}},
			{ONE(OR_NOT("es_exists()")), 6, {TEXTOID, INT8OID, TEXTOID, JSONBOID, JSONBOID, UUIDOID}},
		},
		{
			{MANY(NUMBER), 6, {TEXTOID, INT8OID, TEXTARRAYOID, JSONBARRAYOID, JSONBARRAYOID, UUIDARRAYOID}},
			{MANY(OR_NOT("es_any()")), 6, {TEXTOID, INT8OID, TEXTARRAYOID, JSONBARRAYOID, JSONBARRAYOID, UUIDARRAYOID}},
			{MANY(OR_NOT("es_exists()")), 6, {TEXTOID, INT8OID, TEXTARRAYOID, JSONBARRAYOID, JSONBARRAYOID, UUIDARRAYOID}},
		},
	};
	bool		many = append->count > 1;
	int			kind = append->expected == EXPECT_ANY ? 1 : append->expected == EXPECT_EXISTS ? 2 : 0;
	Query	   *q;

	append->pool = pool_hold(pool);
	append->done = done;
	append->arg = arg;
	if (append_too_large(append))
	{
		AppendResult result = {APPEND_TOO_LARGE, -1, -1, settings.max_append, NULL};

		append_end(append, &result);
		return;
	}
	if (append->count == 0)
	{
		ask_version(append);
		return;
	}
	q = append->query = query_new(&statements[many][kind], append_done, append);
	query_text(q, append->stream);
	if (kind == 0)
		query_int8(q, append->expected + 1);
	else
		query_null(q);
	if (many)
	{
		array_finish(&append->types, TEXTOID, append->count);
		array_finish(&append->data, JSONBOID, append->count);
		array_finish(&append->metadata, JSONBOID, append->count);
		array_finish(&append->ids, UUIDOID, append->count);
		query_bytes(q, append->types.data, append->types.len);
		query_bytes(q, append->data.data, append->data.len);
		query_bytes(q, append->metadata.data, append->metadata.len);
		query_bytes(q, append->ids.data, append->ids.len);
	}
	else
	{
		query_element(q, &append->types);
		query_element(q, &append->data);
		query_element(q, &append->metadata);
		query_element(q, &append->ids);
	}
	buf_free(&append->data);
	buf_free(&append->metadata);
	query_in_order(q, hash(append->stream));
	query_send(pool, q);
}

void
append_forget(Append *append)
{
	if (append->query)
		query_forget(append->query);
	append_free(append);
}

/* --- Streams.Append -------------------------------------------------------- */

static int64_t
expected_of(const Gw__Target *target)
{
	switch (target->expected_case)
	{
		case GW__TARGET__EXPECTED_REVISION:
			return target->revision > INT64_MAX - 2 ? INT64_MAX - 2 : (int64_t) target->revision;
		case GW__TARGET__EXPECTED_NO_STREAM:
			return EXPECT_NO_STREAM;
		case GW__TARGET__EXPECTED_EXISTS:
			return EXPECT_EXISTS;
		default:
			return EXPECT_ANY;
	}
}

static void
stream_append_done(void *arg, const AppendResult *result)
{
	Call	   *call = arg;
	Append	   *append = call_state(call);
	Gw__AppendResp resp = GW__APPEND_RESP__INIT;
	Gw__AppendResp__Done done = GW__APPEND_RESP__DONE__INIT;
	Gw__AppendResp__Conflict conflict = GW__APPEND_RESP__CONFLICT__INIT;
	Gw__Place	place = GW__PLACE__INIT;
	Gw__Nothing nothing = GW__NOTHING__INIT;
	char		text[32];

	call_set_state(call, NULL);
	switch (result->outcome)
	{
		case APPEND_DONE:
			resp.result_case = GW__APPEND_RESP__RESULT_DONE;
			resp.done = &done;
			done.current_case = result->revision < 0 ? GW__APPEND_RESP__DONE__CURRENT_NO_STREAM :
				GW__APPEND_RESP__DONE__CURRENT_REVISION;
			if (result->revision < 0)
				done.no_stream = &nothing;
			else
				done.revision = result->revision;
			done.where_case = result->position < 0 ? GW__APPEND_RESP__DONE__WHERE_NOWHERE :
				GW__APPEND_RESP__DONE__WHERE_PLACE;
			place.commit = place.prepare = result->position;
			if (result->position < 0)
				done.nowhere = &nothing;
			else
				done.place = &place;
			break;
		case APPEND_CONFLICT:
			resp.result_case = GW__APPEND_RESP__RESULT_CONFLICT;
			resp.conflict = &conflict;
			if (result->revision < 0)
			{
				conflict.current_case = GW__APPEND_RESP__CONFLICT__CURRENT_CURRENT_NO_STREAM;
				conflict.current_no_stream = &nothing;
				conflict.current_old_case = GW__APPEND_RESP__CONFLICT__CURRENT_OLD_CURRENT_OLD_NO_STREAM;
				conflict.current_old_no_stream = &nothing;
			}
			else
			{
				conflict.current_case = GW__APPEND_RESP__CONFLICT__CURRENT_CURRENT_REVISION;
				conflict.current_revision = result->revision;
				conflict.current_old_case = GW__APPEND_RESP__CONFLICT__CURRENT_OLD_CURRENT_OLD_REVISION;
				conflict.current_old_revision = result->revision;
			}
			switch (append_expected(append))
			{
				case EXPECT_NO_STREAM:
					conflict.expected_case = GW__APPEND_RESP__CONFLICT__EXPECTED_EXPECTED_NO_STREAM;
					conflict.expected_no_stream = &nothing;
					break;
				case EXPECT_ANY:
					conflict.expected_case = GW__APPEND_RESP__CONFLICT__EXPECTED_EXPECTED_ANY;
					conflict.expected_any = &nothing;
					break;
				case EXPECT_EXISTS:
					conflict.expected_case = GW__APPEND_RESP__CONFLICT__EXPECTED_EXPECTED_EXISTS;
					conflict.expected_exists = &nothing;
					break;
				default:
					conflict.expected_case = GW__APPEND_RESP__CONFLICT__EXPECTED_EXPECTED_REVISION;
					conflict.expected_revision = append_expected(append);
					conflict.expected_old_case = GW__APPEND_RESP__CONFLICT__EXPECTED_OLD_EXPECTED_OLD_REVISION;
					conflict.expected_old_revision = append_expected(append);
			}
			break;
		case APPEND_TOO_LARGE:
			snprintf(text, sizeof(text), "%d", result->limit);
			call_trailer_text(call, "exception", "maximum-append-size-exceeded");
			call_trailer_text(call, "maximum-append-size", text);
			call_finish(call, GRPC_STATUS_INVALID_ARGUMENT, "the append is too large");
			return;
		case APPEND_REFUSED:
			call_failed(call, result->error);
			return;
	}
	call_send_message(call, &resp.base);
	call_finish(call, GRPC_STATUS_OK, NULL);
}

static void
append_message(Call *call, const uint8_t *data, size_t len)
{
	Append	   *append = call_state(call);
	Gw__AppendReq *req;
	const char *error = NULL;

	if (data == NULL)
	{
		if (append == NULL)
			call_malformed(call);
		else
			append_run(append, call_pool(call), stream_append_done, call);
		return;
	}
	req = call_unpack(&gw__append_req__descriptor, data, len);
	if (req && req->content_case == GW__APPEND_REQ__CONTENT_TARGET && append == NULL && req->target->stream)
	{
		append = append_new(req->target->stream->name.data, req->target->stream->name.len, expected_of(req->target));
		call_set_state(call, append);
		if (append == NULL)
			error = "a stream's name has 1 to 255 bytes";
	}
	else if (req && req->content_case == GW__APPEND_REQ__CONTENT_EVENT && append != NULL)
		append_add(append, req->event, &error);
	else
		error = "the message does not follow the protocol";

	if (error)
		call_finish(call, GRPC_STATUS_INVALID_ARGUMENT, error);
	else if (append_too_large(append))
	{
		AppendResult result = {APPEND_TOO_LARGE, -1, -1, settings.max_append, NULL};

		stream_append_done(call, &result);
		append_forget(append);
	}
	else if (call_holds(call, append_memory(append)))
		call_receive(call);
	if (req)
		gw__append_req__free_unpacked(req, NULL);
}

static void
append_over(Call *call)
{
	Append	   *append = call_state(call);

	if (append)
		append_forget(append);
	call_set_state(call, NULL);
}

const Method append_method = {
	.service = "event_store.client.streams.Streams", .name = "Append", .many = true, .whole = true,
	.message = append_message, .over = append_over
};
