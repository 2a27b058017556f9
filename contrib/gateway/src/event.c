/*-------------------------------------------------------------------------
 * event.c
 *	  See event.h.
 *
 * Events are the mass of what is sent, so their messages are written by hand,
 * into memory of exactly the right size.  The numbers of fields are those of
 * RecordedEvent, ReadEvent and ReadResp in KurrentDB's streams.proto, which are
 * the same in its persistent.proto.
 *-------------------------------------------------------------------------
 */
#include "event.h"

#include <stdio.h>

#include "pool.h"
#include "uuid.h"

#define UNIX_EPOCH_IN_PG_US	INT64_C(946684800000000)

/* events that belong to no stream (es_append_if) are shown in this one */
#define NO_STREAM_NAME	"$no-stream"

void
event_from_row(Event *event, const PGresult *r, int row)
{
	event->position = row_int8(r, row, 0);
	if (row_null(r, row, 1))
	{
		event->stream = NO_STREAM_NAME;
		event->stream_len = strlen(NO_STREAM_NAME);
		event->revision = event->position;
	}
	else
	{
		event->stream = PQgetvalue(r, row, 1);
		event->stream_len = PQgetlength(r, row, 1);
		event->revision = row_int8(r, row, 2) - 1;
	}
	memcpy(event->id, PQgetvalue(r, row, 3), 16);
	event->type = PQgetvalue(r, row, 4);
	event->type_len = PQgetlength(r, row, 4);
	event->created = (row_int8(r, row, 7) + UNIX_EPOCH_IN_PG_US) * 10;
	/* behind the version byte of jsonb's wire format */
	payload_load(&event->payload, PQgetvalue(r, row, 5) + 1, PQgetlength(r, row, 5) - 1,
				 PQgetvalue(r, row, 6) + 1, PQgetlength(r, row, 6) - 1);
}

void
event_free(Event *event)
{
	payload_free(&event->payload);
}

static const char *
put(char **at, const char *data, size_t len)
{
	char	   *p = *at;

	memcpy(p, data, len);
	*at += len;
	return p;
}

Event *
event_copy(const Event *event, size_t *size)
{
	Event	   *copy;
	char	   *at;

	*size = sizeof(Event) + event->stream_len + event->type_len + event->payload.content_type_len +
		event->payload.data_len + event->payload.metadata_len;
	copy = xmalloc(*size);
	at = (char *) (copy + 1);
	*copy = *event;
	copy->stream = put(&at, event->stream, event->stream_len);
	copy->type = put(&at, event->type, event->type_len);
	copy->payload.content_type = put(&at, event->payload.content_type, event->payload.content_type_len);
	copy->payload.data = put(&at, event->payload.data, event->payload.data_len);
	if (event->payload.metadata_len)
		copy->payload.metadata = put(&at, event->payload.metadata, event->payload.metadata_len);
	copy->payload.scratch[0] = copy->payload.scratch[1] = NULL;
	return copy;
}

/*
 * A link has an identity of its own: a UUID of version 8 made of the event's,
 * which no event has unless somebody wants it so.
 */
void
link_id(const Event *event, uint8_t id[16])
{
	for (int i = 0; i < 16; i++)
		id[i] = event->id[i] ^ (uint8_t) (0xa5 + i * 29);
	id[6] = (id[6] & 0x0f) | 0x80;
	id[8] = (id[8] & 0x3f) | 0x80;
}

/* --- protobuf -------------------------------------------------------------- */

static size_t
varint_size(uint64_t v)
{
	size_t		n = 1;

	while (v >= 0x80)
		v >>= 7, n++;
	return n;
}

static uint8_t *
varint(uint8_t *p, uint64_t v)
{
	while (v >= 0x80)
	{
		*p++ = v | 0x80;
		v >>= 7;
	}
	*p++ = v;
	return p;
}

/* field numbers are below 16: one byte */
static size_t
bytes_size(size_t len)
{
	return 1 + varint_size(len) + len;
}

static uint8_t *
bytes_head(uint8_t *p, int field, size_t len)
{
	*p++ = field << 3 | 2;
	return varint(p, len);
}

static uint8_t *
bytes(uint8_t *p, int field, const void *data, size_t len)
{
	p = bytes_head(p, field, len);
	if (len)
		memcpy(p, data, len);
	return p + len;
}

static uint8_t *
integer(uint8_t *p, int field, uint64_t v)
{
	*p++ = field << 3;
	return varint(p, v);
}

static size_t
pair_size(size_t key, size_t value)
{
	return bytes_size(bytes_size(key) + bytes_size(value));
}

static uint8_t *
pair(uint8_t *p, int field, const char *key, const char *value, size_t value_len)
{
	size_t		key_len = strlen(key);

	p = bytes_head(p, field, bytes_size(key_len) + bytes_size(value_len));
	p = bytes(p, 1, key, key_len);
	return bytes(p, 2, value, value_len);
}

/* what is told of an event or of a link to one */
typedef struct Recorded
{
	const uint8_t *id;
	const char *stream;
	size_t		stream_len;
	uint64_t	revision;
	uint64_t	position;
	const char *type;
	size_t		type_len;
	const char *content_type;
	size_t		content_type_len;
	const char *metadata;
	size_t		metadata_len;
	const char *data;
	size_t		data_len;
	char		created[24];
	size_t		created_len;
	size_t		id_size;
	size_t		size;
} Recorded;

static void
recorded_measure(Recorded *r, int64_t created, bool halves)
{
	r->created_len = snprintf(r->created, sizeof(r->created), "%lld", (long long) created);
	if (halves)
		r->id_size = bytes_size(2 + varint_size(get_u64(r->id)) + varint_size(get_u64(r->id + 8)));
	else
		r->id_size = bytes_size(UUID_TEXT - 1);
	r->size = bytes_size(r->id_size) + bytes_size(bytes_size(r->stream_len)) +
		1 + varint_size(r->revision) + 2 * (1 + varint_size(r->position)) +
		pair_size(strlen("type"), r->type_len) +
		pair_size(strlen("content-type"), r->content_type_len) +
		pair_size(strlen("created"), r->created_len) +
		bytes_size(r->metadata_len) + bytes_size(r->data_len);
}

static uint8_t *
recorded_write(uint8_t *p, int field, const Recorded *r, bool halves)
{
	p = bytes_head(p, field, r->size);
	p = bytes_head(p, 1, r->id_size);
	if (halves)
	{
		uint64_t	high = get_u64(r->id),
					low = get_u64(r->id + 8);

		p = bytes_head(p, 1, 2 + varint_size(high) + varint_size(low));
		p = integer(p, 1, high);
		p = integer(p, 2, low);
	}
	else
	{
		char		text[UUID_TEXT];

		uuid_format(r->id, text);
		p = bytes(p, 2, text, UUID_TEXT - 1);
	}
	p = bytes_head(p, 2, bytes_size(r->stream_len));
	p = bytes(p, 3, r->stream, r->stream_len);
	p = integer(p, 3, r->revision);
	p = integer(p, 4, r->position);
	p = integer(p, 5, r->position);
	p = pair(p, 6, "type", r->type, r->type_len);
	p = pair(p, 6, "content-type", r->content_type, r->content_type_len);
	p = pair(p, 6, "created", r->created, r->created_len);
	p = bytes(p, 7, r->metadata, r->metadata_len);
	return bytes(p, 8, r->data, r->data_len);
}

grpc_slice
event_message(const Event *event, const Link *link, bool halves, int retries)
{
	Recorded	e,
				l;
	uint8_t		lid[16];
	char		target[512];
	bool		with_event = link == NULL || link->resolve;
	size_t		size;
	grpc_slice	slice;
	uint8_t    *p;

	if (with_event)
	{
		e.id = event->id;
		e.stream = event->stream;
		e.stream_len = event->stream_len;
		e.revision = event->revision;
		e.position = event->position;
		e.type = event->type;
		e.type_len = event->type_len;
		e.content_type = event->payload.content_type;
		e.content_type_len = event->payload.content_type_len;
		e.metadata = event->payload.metadata;
		e.metadata_len = event->payload.metadata_len;
		e.data = event->payload.data;
		e.data_len = event->payload.data_len;
		recorded_measure(&e, event->created, halves);
	}
	if (link)
	{
		link_id(event, lid);
		l.id = lid;
		l.stream = link->stream;
		l.stream_len = link->stream_len;
		l.revision = event->position;
		l.position = event->position;
		l.type = "$>";
		l.type_len = 2;
		l.content_type = BYTES_TYPE;
		l.content_type_len = strlen(BYTES_TYPE);
		l.metadata = NULL;
		l.metadata_len = 0;
		l.data = target;
		l.data_len = snprintf(target, sizeof(target), "%lld@%.*s", (long long) event->revision,
							  (int) event->stream_len, event->stream);
		recorded_measure(&l, event->created, halves);
	}

	/* an unresolved link is the event, as far as the client is concerned */
	size = (with_event ? bytes_size(e.size) : 0) + (link ? bytes_size(l.size) : 0) +
		1 + varint_size(event->position) + (retries >= 0 ? 1 + varint_size(retries) : 0);
	slice = grpc_slice_malloc(bytes_size(size));
	p = bytes_head(GRPC_SLICE_START_PTR(slice), 1, size);
	if (with_event)
		p = recorded_write(p, 1, &e, halves);
	if (link)
		p = recorded_write(p, with_event ? 2 : 1, &l, halves);
	p = integer(p, 3, event->position);
	if (retries >= 0)
		p = integer(p, 5, retries);
	if (p != GRPC_SLICE_END_PTR(slice))
		abort();
	return slice;
}
