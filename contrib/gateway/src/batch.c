/*-------------------------------------------------------------------------
 * batch.c
 *	  Streams.BatchAppend: any number of appends over one call.
 *
 * An append comes in one or more messages with its correlation id and is
 * answered when it is done, in whatever order.  A client that sends faster than
 * PostgreSQL writes is not read from.
 *-------------------------------------------------------------------------
 */
#include "append.h"

#include <grpc/status.h>
#include <stdio.h>
#include <time.h>

#include "loop.h"
#include "settings.h"
#include "status.h"
#include "uuid.h"

/* what may be under way in one call */
#define MAX_RUNNING			256
#define MAX_RUNNING_BYTES	(4 * 1024 * 1024)
/* appends whose last message has not come */
#define MAX_UNFINISHED		256
/* timers are for clients that wait; nobody waits for an hour */
#define LONGEST_DEADLINE_MS	3600000

typedef struct Batch Batch;

typedef struct Part
{
	Timer		deadline;		/* first */
	struct Part *next;
	Batch	   *batch;
	Append	   *append;
	size_t		size;
	size_t		memory;
	bool		running;
	uint8_t		correlation[16];
	bool		halves;			/* the client's form of UUIDs */
	bool		broken;			/* answered before its last message came */
} Part;

struct Batch
{
	Call	   *call;
	Part	   *parts;
	int			running;
	int			unfinished;
	size_t		bytes;			/* of all parts */
	size_t		memory;			/* that they take */
	bool		ended;			/* the client sends no more */
	bool		paused;
};

static void
part_free(Part *part)
{
	Batch	   *batch = part->batch;

	for (Part **p = &batch->parts; *p; p = &(*p)->next)
		if (*p == part)
		{
			*p = part->next;
			break;
		}
	timer_cancel(&part->deadline);
	batch->bytes -= part->size;
	batch->memory -= part->memory;
	call_holds(batch->call, batch->memory);
	free(part);
}

static void
part_measure(Part *part)
{
	size_t		memory = part->append ? append_memory(part->append) : 0;

	part->batch->memory += memory - part->memory;
	part->memory = memory;
}

/* --- answers --------------------------------------------------------------- */

/* Fills the answer's part that names stream and expectation. */
static void
answer(Part *part, Gw__BatchResp *resp, const char *stream, int64_t expected)
{
	Gw__Uuid	uuid = GW__UUID__INIT;
	Gw__Uuid__Halves halves = GW__UUID__HALVES__INIT;
	Gw__StreamName name = GW__STREAM_NAME__INIT;
	Gw__Nothing nothing = GW__NOTHING__INIT;
	char		text[UUID_TEXT];

	if (part->halves)
	{
		uuid.form_case = GW__UUID__FORM_HALVES;
		uuid.halves = &halves;
		halves.high = (int64_t) get_u64(part->correlation);
		halves.low = (int64_t) get_u64(part->correlation + 8);
	}
	else
	{
		uuid.form_case = GW__UUID__FORM_TEXT;
		uuid.text = text;
		uuid_format(part->correlation, text);
	}
	resp->correlation = &uuid;
	name.name.data = (uint8_t *) stream;
	name.name.len = strlen(stream);
	resp->stream = &name;
	switch (expected)
	{
		case EXPECT_NO_STREAM:
			resp->expected_case = GW__BATCH_RESP__EXPECTED_NO_STREAM;
			resp->no_stream = &nothing;
			break;
		case EXPECT_ANY:
			resp->expected_case = GW__BATCH_RESP__EXPECTED_ANY;
			resp->any = &nothing;
			break;
		case EXPECT_EXISTS:
			resp->expected_case = GW__BATCH_RESP__EXPECTED_EXISTS;
			resp->exists = &nothing;
			break;
		default:
			resp->expected_case = GW__BATCH_RESP__EXPECTED_REVISION;
			resp->revision = expected;
	}
	call_send_message(part->batch->call, &resp->base);
}

static void
answer_error(Part *part, const char *stream, int64_t expected,
			 int code, const char *message, const char *type, const ProtobufCMessage *detail)
{
	Gw__BatchResp resp = GW__BATCH_RESP__INIT;
	Gw__Status	status = GW__STATUS__INIT;
	Gw__Typed	typed = GW__TYPED__INIT;
	uint8_t    *packed = xmalloc(protobuf_c_message_get_packed_size(detail));
	char		url[128];

	snprintf(url, sizeof(url), "type.googleapis.com/event_store.client.%s", type);
	typed.type_url = url;
	typed.value.data = packed;
	typed.value.len = protobuf_c_message_pack(detail, packed);
	status.code = code;
	status.message = (char *) message;
	status.detail = &typed;
	resp.result_case = GW__BATCH_RESP__RESULT_ERROR;
	resp.error = &status;
	answer(part, &resp, stream, expected);
	free(packed);
}

static void
answer_refused(Part *part, const char *stream, int64_t expected, int code, const char *message)
{
	Gw__Nothing nothing = GW__NOTHING__INIT;
	Gw__BadRequest bad = GW__BAD_REQUEST__INIT;

	switch (code)
	{
		case GRPC_STATUS_PERMISSION_DENIED:
		case GRPC_STATUS_UNAUTHENTICATED:
			answer_error(part, stream, expected, code, message, "AccessDenied", &nothing.base);
			break;
		case GRPC_STATUS_ABORTED:
		case GRPC_STATUS_DEADLINE_EXCEEDED:
			answer_error(part, stream, expected, code, message, "Timeout", &nothing.base);
			break;
		default:
			/* clients tell the message of what they do not know */
			bad.message = (char *) message;
			answer_error(part, stream, expected, code, message, "BadRequest", &bad.base);
	}
}

static void
answer_conflict(Part *part, const char *stream, int64_t expected, int64_t revision)
{
	Gw__VersionConflict conflict = GW__VERSION_CONFLICT__INIT;
	Gw__Nothing nothing = GW__NOTHING__INIT;

	if (revision < 0)
	{
		conflict.current_case = GW__VERSION_CONFLICT__CURRENT_CURRENT_NO_STREAM;
		conflict.current_no_stream = &nothing;
	}
	else
	{
		conflict.current_case = GW__VERSION_CONFLICT__CURRENT_CURRENT_REVISION;
		conflict.current_revision = revision;
	}
	switch (expected)
	{
		case EXPECT_NO_STREAM:
			conflict.expected_case = GW__VERSION_CONFLICT__EXPECTED_EXPECTED_NO_STREAM;
			conflict.expected_no_stream = &nothing;
			break;
		case EXPECT_ANY:
			conflict.expected_case = GW__VERSION_CONFLICT__EXPECTED_EXPECTED_ANY;
			conflict.expected_any = &nothing;
			break;
		case EXPECT_EXISTS:
			conflict.expected_case = GW__VERSION_CONFLICT__EXPECTED_EXPECTED_EXISTS;
			conflict.expected_exists = &nothing;
			break;
		default:
			conflict.expected_case = GW__VERSION_CONFLICT__EXPECTED_EXPECTED_REVISION;
			conflict.expected_revision = expected;
	}
	answer_error(part, stream, expected, 9, "the stream is not at the expected version", "WrongExpectedVersion",
				 &conflict.base);
}

static void
answer_too_large(Part *part, const char *stream, int64_t expected, int limit)
{
	Gw__AppendTooLarge large = GW__APPEND_TOO_LARGE__INIT;

	large.limit = limit;
	answer_error(part, stream, expected, 3, "the append is too large", "MaximumAppendSizeExceeded", &large.base);
}

static void
answer_done(Part *part, const char *stream, int64_t expected, const AppendResult *result)
{
	Gw__BatchResp resp = GW__BATCH_RESP__INIT;
	Gw__AppendResp__Done done = GW__APPEND_RESP__DONE__INIT;
	Gw__Place	place = GW__PLACE__INIT;
	Gw__Nothing nothing = GW__NOTHING__INIT;

	resp.result_case = GW__BATCH_RESP__RESULT_DONE;
	resp.done = &done;
	if (result->revision < 0)
	{
		done.current_case = GW__APPEND_RESP__DONE__CURRENT_NO_STREAM;
		done.no_stream = &nothing;
	}
	else
	{
		done.current_case = GW__APPEND_RESP__DONE__CURRENT_REVISION;
		done.revision = result->revision;
	}
	if (result->position < 0)
	{
		done.where_case = GW__APPEND_RESP__DONE__WHERE_NOWHERE;
		done.nowhere = &nothing;
	}
	else
	{
		place.commit = place.prepare = result->position;
		done.where_case = GW__APPEND_RESP__DONE__WHERE_PLACE;
		done.place = &place;
	}
	answer(part, &resp, stream, expected);
}

/* --- life of a part -------------------------------------------------------- */

static void
go_on(Batch *batch)
{
	if (batch->ended && batch->running == 0)
		call_finish(batch->call, GRPC_STATUS_OK, NULL);
	else if (batch->paused && batch->running < MAX_RUNNING && batch->bytes < MAX_RUNNING_BYTES &&
			 call_backlog(batch->call) < MAX_RUNNING_BYTES)
	{
		batch->paused = false;
		call_receive(batch->call);
	}
}

static void
part_done(void *arg, const AppendResult *result)
{
	Part	   *part = arg;
	Batch	   *batch = part->batch;
	const char *stream = append_stream(part->append);
	int64_t		expected = append_expected(part->append);

	switch (result->outcome)
	{
		case APPEND_DONE:
			answer_done(part, stream, expected, result);
			break;
		case APPEND_CONFLICT:
			answer_conflict(part, stream, expected, result->revision);
			break;
		case APPEND_TOO_LARGE:
			answer_too_large(part, stream, expected, result->limit);
			break;
		case APPEND_REFUSED:
			if (result->error->lost)
			{
				/* nobody knows what was written: the client must connect again and retry */
				call_failed(batch->call, result->error);
			}
			else
			{
				char	   *message = xprintf("%s%s%s (SQLSTATE %s)", result->error->message,
											  result->error->detail ? ": " : "",
											  result->error->detail ? result->error->detail : "", result->error->code);

				answer_refused(part, stream, expected, status_of(result->error), message);
				free(message);
			}
			break;
	}
	batch->running--;
	part_free(part);
	go_on(batch);
}

/* It may still be written: the client cannot know, as with KurrentDB. */
static void
part_late(Timer *timer)
{
	Part	   *part = (Part *) timer;
	Batch	   *batch = part->batch;

	answer_refused(part, append_stream(part->append), append_expected(part->append), GRPC_STATUS_DEADLINE_EXCEEDED,
				   "the append took longer than the client wanted to wait");
	append_forget(part->append);
	part->append = NULL;
	if (part->running)
	{
		batch->running--;
		part_free(part);
		go_on(batch);
	}
	else
		part->broken = true;
}

/* how long the client wants to wait, from now on; -1: for ever */
static int64_t
time_left(const Gw__BatchReq__Options *options)
{
	struct timespec now;
	int64_t		ms;

	switch (options->limit_case)
	{
		case GW__BATCH_REQ__OPTIONS__LIMIT_DEADLINE:
			clock_gettime(CLOCK_REALTIME, &now);
			if (options->deadline->seconds > now.tv_sec + LONGEST_DEADLINE_MS / 1000)
				return -1;
			if (options->deadline->seconds < now.tv_sec)
				return 0;
			ms = (options->deadline->seconds - now.tv_sec) * 1000 + (options->deadline->nanos - now.tv_nsec) / 1000000;
			break;
		case GW__BATCH_REQ__OPTIONS__LIMIT_TIMEOUT:
			if (options->timeout->seconds > LONGEST_DEADLINE_MS / 1000)
				return -1;
			if (options->timeout->seconds < 0)
				return 0;
			ms = options->timeout->seconds * 1000 + options->timeout->nanos / 1000000;
			break;
		default:
			return -1;
	}
	return ms > 0 ? ms : 0;
}

static int64_t
expected_of(const Gw__BatchReq__Options *options)
{
	switch (options->expected_case)
	{
		case GW__BATCH_REQ__OPTIONS__EXPECTED_REVISION:
			return options->revision > INT64_MAX - 2 ? INT64_MAX - 2 : (int64_t) options->revision;
		case GW__BATCH_REQ__OPTIONS__EXPECTED_NO_STREAM:
			return EXPECT_NO_STREAM;
		case GW__BATCH_REQ__OPTIONS__EXPECTED_EXISTS:
			return EXPECT_EXISTS;
		default:
			return EXPECT_ANY;
	}
}

static Part *
part_new(Batch *batch, const uint8_t correlation[16], const Gw__BatchReq *req)
{
	Part	   *part = xcalloc(sizeof(Part));
	int64_t		left = time_left(req->options);

	part->batch = batch;
	part->halves = req->correlation->form_case == GW__UUID__FORM_HALVES;
	memcpy(part->correlation, correlation, 16);
	part->next = batch->parts;
	batch->parts = part;
	batch->unfinished++;
	part->deadline.due = part_late;
	if (req->options->stream)
		part->append = append_new(req->options->stream->name.data, req->options->stream->name.len,
								  expected_of(req->options));
	if (part->append == NULL)
	{
		answer_refused(part, "", EXPECT_ANY, GRPC_STATUS_INVALID_ARGUMENT, "a stream's name has 1 to 255 bytes");
		part->broken = true;
	}
	else if (left == 0)
		part_late(&part->deadline);
	else if (left > 0)
		timer_in(&part->deadline, left);
	return part;
}

static void
batch_message(Call *call, const uint8_t *data, size_t len)
{
	Batch	   *batch = call_state(call);
	Gw__BatchReq *req;
	Part	   *part;
	uint8_t		correlation[16];
	const char *error = NULL;

	if (batch == NULL)
	{
		batch = xcalloc(sizeof(Batch));
		batch->call = call;
		call_set_state(call, batch);
		call_open(call);
	}
	if (data == NULL)
	{
		batch->ended = true;
		go_on(batch);
		return;
	}
	req = call_unpack(&gw__batch_req__descriptor, data, len);
	if (req == NULL || !uuid_read(req->correlation, correlation))
	{
		call_malformed(call);
		goto done;
	}
	for (part = batch->parts; part; part = part->next)
		if (!part->running && memcmp(part->correlation, correlation, 16) == 0)
			break;
	if (part == NULL)
	{
		if (req->options == NULL)
		{
			call_malformed(call);
			goto done;
		}
		part = part_new(batch, correlation, req);
		if (batch->unfinished > MAX_UNFINISHED)
		{
			call_finish(call, GRPC_STATUS_RESOURCE_EXHAUSTED, "too many appends without an end");
			goto done;
		}
	}
	for (size_t i = 0; i < req->n_events && !part->broken; i++)
	{
		size_t		before = append_size(part->append);

		if (!append_add(part->append, req->events[i], &error))
		{
			answer_refused(part, append_stream(part->append), append_expected(part->append),
						   GRPC_STATUS_INVALID_ARGUMENT, error);
			part->broken = true;
		}
		part->size += append_size(part->append) - before;
		batch->bytes += append_size(part->append) - before;
		if (!part->broken && append_too_large(part->append))
		{
			answer_too_large(part, append_stream(part->append), append_expected(part->append), settings.max_append);
			part->broken = true;
		}
		if (part->broken)
		{
			append_forget(part->append);
			part->append = NULL;
			timer_cancel(&part->deadline);
		}
	}
	part_measure(part);
	if (!call_holds(call, batch->memory))
		goto done;
	if (req->is_last)
	{
		batch->unfinished--;
		if (part->broken)
			part_free(part);
		else
		{
			part->running = true;
			batch->running++;
			append_run(part->append, call_pool(call), part_done, part);
		}
	}
	if (batch->unfinished > 1 && batch->bytes > (size_t) settings.max_append + MAX_RUNNING_BYTES)
	{
		call_finish(call, GRPC_STATUS_RESOURCE_EXHAUSTED, "too many appends without an end");
		goto done;
	}
	/* an unfinished part must be able to end, whatever its size */
	if (batch->running > 0)
	{
		batch->paused = true;
		go_on(batch);
	}
	else
		call_receive(call);
done:
	if (req)
		gw__batch_req__free_unpacked(req, NULL);
}

static void
batch_drained(Call *call)
{
	Batch	   *batch = call_state(call);

	if (batch)
		go_on(batch);
}

static void
batch_over(Call *call)
{
	Batch	   *batch = call_state(call);

	if (batch == NULL)
		return;
	while (batch->parts)
	{
		if (batch->parts->append)
			append_forget(batch->parts->append);
		part_free(batch->parts);
	}
	free(batch);
	call_set_state(call, NULL);
}

const Method batch_append_method = {
	.service = "event_store.client.streams.Streams", .name = "BatchAppend", .features = "deadline_duration", .many = true,
	.message = batch_message, .drained = batch_drained, .over = batch_over
};
