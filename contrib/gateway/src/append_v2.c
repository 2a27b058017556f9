/*-------------------------------------------------------------------------
 * append_v2.c
 *	  Version 2 of appending: several streams in one append, all or nothing.
 *
 * AppendSession names each stream once, with what is expected of it and its
 * events.  AppendRecords has events and expectations in two lists.  Both become
 * one es_append_streams(), which takes JSON.
 *-------------------------------------------------------------------------
 */
#include "append.h"

#include <math.h>
#include <stdio.h>

#include "json.h"
#include "payload.h"
#include "settings.h"
#include "status.h"
#include "uuid.h"

#define SERVICE			"kurrentdb.protocol.v2.streams.StreamsService"
#define ERRORS			"kurrentdb.protocol.v2.streams.errors."
#define FORMAT_JSON		1
#define MAX_DEPTH		32
#define MAX_STREAMS		1000

typedef struct Entry
{
	char	   *stream;
	int64_t		expected;
	int			check;			/* its number among the checks; -1: none */
	int			count;
	Buf			events;			/* JSON, without the brackets */
	int64_t		revision;		/* answer */
} Entry;

typedef struct Session
{
	Call	   *call;
	Query	   *query;
	Entry	   *entries;
	int			nentries;
	size_t		size;
	bool		records;		/* AppendRecords */
} Session;

static Session *
session_get(Call *call)
{
	Session    *session = call_state(call);

	if (session == NULL)
	{
		session = xcalloc(sizeof(Session));
		session->call = call;
		call_set_state(call, session);
	}
	return session;
}

static void
session_over(Call *call)
{
	Session    *session = call_state(call);

	if (session == NULL)
		return;
	if (session->query)
		query_forget(session->query);
	for (int i = 0; i < session->nentries; i++)
	{
		free(session->entries[i].stream);
		buf_free(&session->entries[i].events);
	}
	free(session->entries);
	free(session);
	call_set_state(call, NULL);
}

static Entry *
entry_find(Session *session, const char *stream)
{
	for (int i = 0; i < session->nentries; i++)
		if (strcmp(session->entries[i].stream, stream) == 0)
			return &session->entries[i];
	return NULL;
}

static Entry *
entry_new(Session *session, const char *stream)
{
	Entry	   *entry;

	session->entries = xrealloc(session->entries, (session->nentries + 1) * sizeof(Entry));
	entry = &session->entries[session->nentries++];
	memset(entry, 0, sizeof(*entry));
	entry->stream = xstrdup(stream);
	entry->expected = EXPECT_ANY;
	entry->check = -1;
	entry->revision = -1;
	return entry;
}

/* --- properties ------------------------------------------------------------ */

/* false: malformed, or too deep */
static bool
json_of(Buf *out, const ProtobufCBinaryData *wire, int depth)
{
	Gw__Json   *json = depth > 0 ? call_unpack(&gw__json__descriptor, wire->data, wire->len) : NULL;
	bool		good = json != NULL;

	if (!good)
		return false;
	switch (json->kind_case)
	{
		case GW__JSON__KIND_NUMBER:
			if (isfinite(json->number))
				buf_printf(out, "%.17g", json->number);
			else
				buf_str(out, "null");
			break;
		case GW__JSON__KIND_STRING:
			json_quote(out, json->string, strlen(json->string));
			break;
		case GW__JSON__KIND_BOOLEAN:
			buf_str(out, json->boolean ? "true" : "false");
			break;
		case GW__JSON__KIND_OBJECT:
			{
				Gw__JsonObject *object = call_unpack(&gw__json_object__descriptor, json->object.data, json->object.len);

				good = object != NULL;
				buf_char(out, '{');
				for (size_t i = 0; good && i < object->n_members; i++)
				{
					if (i > 0)
						buf_char(out, ',');
					json_quote(out, object->members[i]->key, strlen(object->members[i]->key));
					buf_char(out, ':');
					good = json_of(out, &object->members[i]->value, depth - 1);
				}
				buf_char(out, '}');
				if (object)
					gw__json_object__free_unpacked(object, NULL);
				break;
			}
		case GW__JSON__KIND_ARRAY:
			{
				Gw__JsonArray *array = call_unpack(&gw__json_array__descriptor, json->array.data, json->array.len);

				good = array != NULL;
				buf_char(out, '[');
				for (size_t i = 0; good && i < array->n_values; i++)
				{
					if (i > 0)
						buf_char(out, ',');
					good = json_of(out, &array->values[i], depth - 1);
				}
				buf_char(out, ']');
				if (array)
					gw__json_array__free_unpacked(array, NULL);
				break;
			}
		default:
			buf_str(out, "null");
	}
	gw__json__free_unpacked(json, NULL);
	return good;
}

/*
 * Properties are the event's metadata; KurrentDB puts the schema there too.
 * Returns what is wrong, or NULL.
 */
static const char *
entry_add(Session *session, Entry *entry, const Gw__Record *record)
{
	static const char *const formats[] = {"Undefined", "Json", "Protobuf", "Avro", "Bytes"};
	Buf			metadata = {0};
	Buf			data_json = {0};
	Buf			metadata_json = {0};
	uint8_t		id[16];
	char		text[UUID_TEXT];
	const char *problem = NULL;
	int			format = record->schema ? record->schema->format : 0;

	if (record->schema == NULL || *record->schema->name == '\0')
		return "a record has no schema name";
	if (*record->id == '\0')
		uuid_random(id);
	else if (!uuid_parse(record->id, id))
		return "a record's id is no UUID";
	uuid_format(id, text);

	buf_str(&metadata, "{\"$schema.name\":");
	json_quote(&metadata, record->schema->name, strlen(record->schema->name));
	buf_printf(&metadata, ",\"$schema.format\":\"%s\"", formats[format >= 0 && format <= 4 ? format : 0]);
	if (*record->schema->id)
	{
		buf_str(&metadata, ",\"$schema.id\":");
		json_quote(&metadata, record->schema->id, strlen(record->schema->id));
	}
	for (size_t i = 0; i < record->n_properties && problem == NULL; i++)
	{
		buf_char(&metadata, ',');
		json_quote(&metadata, record->properties[i]->key, strlen(record->properties[i]->key));
		buf_char(&metadata, ':');
		if (!json_of(&metadata, &record->properties[i]->value, MAX_DEPTH))
			problem = "a record's properties are malformed or too deep";
	}
	buf_char(&metadata, '}');

	if (problem == NULL)
	{
		payload_store(format == FORMAT_JSON ? JSON_TYPE : BYTES_TYPE,
					  record->data.data ? (char *) record->data.data : "", record->data.len,
					  metadata.data, metadata.len, &data_json, &metadata_json);
		if (entry->count++ > 0)
			buf_char(&entry->events, ',');
		buf_printf(&entry->events, "{\"event_id\":\"%s\",\"event_type\":", text);
		json_quote(&entry->events, record->schema->name, strlen(record->schema->name));
		buf_str(&entry->events, ",\"data\":");
		buf_add(&entry->events, data_json.data, data_json.len);
		buf_str(&entry->events, ",\"metadata\":");
		buf_add(&entry->events, metadata_json.data, metadata_json.len);
		buf_char(&entry->events, '}');
		session->size += record->data.len + metadata.len;
	}
	buf_free(&metadata);
	buf_free(&data_json);
	buf_free(&metadata_json);
	return problem;
}

/* --- the answer ------------------------------------------------------------ */

static void
answer(Session *session, int64_t position)
{
	if (session->records)
	{
		Gw__RecordsResp resp = GW__RECORDS_RESP__INIT;
		Gw__RecordsResp__Revision *revisions = xcalloc(session->nentries * sizeof(*revisions));

		resp.revisions = xcalloc(session->nentries * sizeof(void *));
		for (int i = 0; i < session->nentries; i++)
		{
			if (session->entries[i].count == 0)
				continue;
			gw__records_resp__revision__init(&revisions[i]);
			revisions[i].stream = session->entries[i].stream;
			revisions[i].revision = session->entries[i].revision;
			resp.revisions[resp.n_revisions++] = &revisions[i];
		}
		resp.position = position;
		call_send_message(session->call, &resp.base);
		free(resp.revisions);
		free(revisions);
	}
	else
	{
		Gw__SessionResp resp = GW__SESSION_RESP__INIT;
		Gw__SessionResp__Output *outputs = xcalloc(session->nentries * sizeof(*outputs));

		resp.output = xcalloc(session->nentries * sizeof(void *));
		for (int i = 0; i < session->nentries; i++)
		{
			gw__session_resp__output__init(&outputs[i]);
			outputs[i].stream = session->entries[i].stream;
			outputs[i].revision = session->entries[i].revision;
			outputs[i].position = position;
			resp.output[resp.n_output++] = &outputs[i];
		}
		resp.position = position;
		call_send_message(session->call, &resp.base);
		free(resp.output);
		free(outputs);
	}
	call_finish(session->call, GRPC_STATUS_OK, NULL);
}

/*
 * DETAIL has a line for each stream: "stream=... expected=... actual=...".  A
 * name may contain anything of that, so the whole line must be this stream's.
 *
 * Result: the stream's version, -1 = it has no line.
 */
static int64_t
actual_of(const char *detail, const char *stream)
{
	char	   *line = xprintf("stream=%s expected=", stream);
	int64_t		actual = -1;

	for (const char *p = detail; p && (p = strstr(p, line)) != NULL; p++)
	{
		char	   *end;
		int64_t		version;

		if (p != detail && p[-1] != '\n')
			continue;
		strtoll(p + strlen(line), &end, 10);
		if (strncmp(end, " actual=", strlen(" actual=")) != 0)
			continue;
		version = strtoll(end + strlen(" actual="), &end, 10);
		if (*end == '\0' || *end == '\n')
			actual = version;
	}
	free(line);
	return actual;
}

static void
conflict(Session *session, const DbError *error)
{
	Gw__ConsistencyViolation violation = GW__CONSISTENCY_VIOLATION__INIT;
	Gw__ConsistencyViolation__Violation *list = xcalloc(session->nentries * sizeof(*list));
	Gw__ConsistencyViolation__Violation__State *states = xcalloc(session->nentries * sizeof(*states));

	violation.violations = xcalloc(session->nentries * sizeof(void *));
	for (int i = 0; i < session->nentries; i++)
	{
		Entry	   *entry = &session->entries[i];
		int64_t		actual = actual_of(error->detail, entry->stream);

		if (actual < 0)
			continue;
		if (!session->records)
		{
			Gw__RevisionConflict one = GW__REVISION_CONFLICT__INIT;

			one.stream = entry->stream;
			one.expected = entry->expected;
			one.actual = actual - 1;
			call_finish_typed(session->call, GRPC_STATUS_FAILED_PRECONDITION, error->message,
							  ERRORS "StreamRevisionConflictErrorDetails", &one.base);
			break;
		}
		gw__consistency_violation__violation__init(&list[i]);
		gw__consistency_violation__violation__state__init(&states[i]);
		list[i].check = entry->check;
		list[i].state = &states[i];
		states[i].stream = entry->stream;
		states[i].expected = entry->expected;
		states[i].actual = actual - 1;
		violation.violations[violation.n_violations++] = &list[i];
	}
	if (violation.n_violations > 0)
		call_finish_typed(session->call, GRPC_STATUS_FAILED_PRECONDITION, error->message,
						  ERRORS "AppendConsistencyViolationErrorDetails", &violation.base);
	call_failed(session->call, error);	/* if nothing else was said */
	free(violation.violations);
	free(list);
	free(states);
}

static void
session_done(void *arg, const PGresult *r, const DbError *error)
{
	Session    *session = arg;
	int64_t		position = -1;

	session->query = NULL;
	if (error && strcmp(error->code, "VE001") == 0)
	{
		conflict(session, error);
		return;
	}
	if (error && strcmp(error->code, "54000") == 0)
	{
		Gw__SessionTooLarge large = GW__SESSION_TOO_LARGE__INIT;

		large.size = session->size;
		large.limit = pool_max_event(call_pool(session->call));
		call_finish_typed(session->call, GRPC_STATUS_ABORTED, error->message,
						  ERRORS "AppendTransactionSizeExceededErrorDetails", &large.base);
		return;
	}
	if (call_failed(session->call, error))
		return;
	for (int i = 0; i < PQntuples(r); i++)
	{
		Entry	   *entry = entry_find(session, PQgetvalue(r, i, 0));

		if (entry)
			entry->revision = row_int8(r, i, 1) - 1;
		if (row_int8(r, i, 2) > position)
			position = row_int8(r, i, 2);
	}
	answer(session, position);
}

static void
session_run(Session *session)
{
	static Statement statement = {
		"SELECT stream_id, max(version), max(global_position)"
		" FROM es_append_streams((SELECT jsonb_agg(CASE a.entry->>'expected_version'"
		"   WHEN 'any' THEN jsonb_set(a.entry, '{expected_version}', to_jsonb(es_any()))"
		"   WHEN 'exists' THEN jsonb_set(a.entry, '{expected_version}', to_jsonb(es_exists()))"
		"   ELSE a.entry END ORDER BY a.n) FROM jsonb_array_elements($1) WITH ORDINALITY AS a(entry, n)))"
		" GROUP BY stream_id",
		1, {JSONBOID}
	};
	Buf			json = {0};
	int			n = 0;

	buf_char(&json, '[');
	for (int i = 0; i < session->nentries; i++)
	{
		Entry	   *entry = &session->entries[i];

		/* a check of nothing */
		if (entry->count == 0 && entry->expected == EXPECT_ANY)
			continue;
		if (n++ > 0)
			buf_char(&json, ',');
		buf_str(&json, "{\"stream_id\":");
		json_quote(&json, entry->stream, strlen(entry->stream));
		if (entry->expected == EXPECT_ANY)
			buf_str(&json, ",\"expected_version\":\"any\"");
		else if (entry->expected == EXPECT_EXISTS)
			buf_str(&json, ",\"expected_version\":\"exists\"");
		else
			buf_printf(&json, ",\"expected_version\":%lld", (long long) entry->expected + 1);
		buf_str(&json, ",\"events\":[");
		buf_add(&json, entry->events.data, entry->events.len);
		buf_str(&json, "]}");
		buf_free(&entry->events);
	}
	buf_char(&json, ']');
	session->query = query_new(&statement, session_done, session);
	query_json(session->query, json.data, json.len);
	query_send(call_pool(session->call), session->query);
	buf_free(&json);
}

static bool
too_large(Session *session)
{
	Gw__SessionTooLarge large = GW__SESSION_TOO_LARGE__INIT;

	if (session->size <= (size_t) settings.max_append)
		return false;
	large.size = session->size;
	large.limit = settings.max_append;
	call_finish_typed(session->call, GRPC_STATUS_ABORTED, "the append is too large",
					  ERRORS "AppendTransactionSizeExceededErrorDetails", &large.base);
	return true;
}

static bool
may_hold(Session *session)
{
	size_t		size = 0;

	for (int i = 0; i < session->nentries; i++)
		size += session->entries[i].events.size;
	return call_holds(session->call, size);
}

/* --- the methods ----------------------------------------------------------- */

static void
session_message(Call *call, const uint8_t *data, size_t len)
{
	Session    *session = session_get(call);
	Gw__SessionReq *req;
	const char *problem = NULL;
	Entry	   *entry;

	if (data == NULL)
	{
		if (session->nentries == 0)
			call_finish(call, GRPC_STATUS_FAILED_PRECONDITION, "the session has no requests");
		else
			session_run(session);
		return;
	}
	req = call_unpack(&gw__session_req__descriptor, data, len);
	if (req == NULL || session->nentries >= MAX_STREAMS || *req->stream == '\0')
		call_malformed(call);
	else if (entry_find(session, req->stream))
	{
		Gw__StreamTwice twice = GW__STREAM_TWICE__INIT;

		twice.stream = req->stream;
		call_finish_typed(call, GRPC_STATUS_ABORTED, "a stream may be named only once in a session",
						  ERRORS "StreamAlreadyInAppendSessionErrorDetails", &twice.base);
	}
	else
	{
		entry = entry_new(session, req->stream);
		entry->expected = req->expected;
		for (size_t i = 0; i < req->n_records && problem == NULL; i++)
			problem = entry_add(session, entry, req->records[i]);
		if (problem == NULL && req->n_records == 0)
			problem = "a request has no records";
		if (problem)
			call_finish(call, GRPC_STATUS_INVALID_ARGUMENT, problem);
		else if (!too_large(session) && may_hold(session))
			call_receive(call);
	}
	if (req)
		gw__session_req__free_unpacked(req, NULL);
}

static void
records_message(Call *call, const uint8_t *data, size_t len)
{
	Session    *session = session_get(call);
	Gw__RecordsReq *req = data ? call_unpack(&gw__records_req__descriptor, data, len) : NULL;
	const char *problem = NULL;

	session->records = true;
	if (req == NULL || req->n_records == 0)
		problem = "the request has no records";
	for (size_t i = 0; problem == NULL && i < req->n_records; i++)
	{
		Entry	   *entry = entry_find(session, req->records[i]->stream);

		if (entry == NULL && session->nentries < MAX_STREAMS)
			entry = entry_new(session, req->records[i]->stream);
		problem = entry ? entry_add(session, entry, req->records[i]) : "too many streams";
	}
	for (size_t i = 0; problem == NULL && i < req->n_checks; i++)
	{
		Gw__RecordsReq__Check__State *state = req->checks[i]->state;
		Entry	   *entry = state ? entry_find(session, state->stream) : NULL;

		if (state == NULL)
			problem = "a check is of no known kind";
		else if (entry == NULL && session->nentries < MAX_STREAMS)
			entry = entry_new(session, state->stream);
		if (problem == NULL && entry == NULL)
			problem = "too many streams";
		if (problem == NULL && entry->check >= 0)
			problem = "a stream is checked twice";
		if (problem == NULL)
		{
			entry->expected = state->expected;
			entry->check = i;
		}
	}
	if (problem)
		call_finish(call, GRPC_STATUS_INVALID_ARGUMENT, problem);
	else if (!too_large(session) && may_hold(session))
		session_run(session);
	if (req)
		gw__records_req__free_unpacked(req, NULL);
}

const Method append_session_method = {
	.service = SERVICE, .name = "AppendSession", .many = true, .whole = true, .message = session_message, .over = session_over
};

const Method append_records_method = {
	.service = SERVICE, .name = "AppendRecords", .message = records_message, .over = session_over
};
