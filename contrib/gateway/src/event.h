/*-------------------------------------------------------------------------
 * event.h
 *	  An event of the store, and how it is told to clients.
 *-------------------------------------------------------------------------
 */
#ifndef GW_EVENT_H
#define GW_EVENT_H

#include <grpc/grpc.h>
#include <libpq-fe.h>

#include "payload.h"

/* what event_from_row() takes, as a list of columns */
#define EVENT_COLUMNS \
	"global_position, stream_id, version, event_id, event_type, data, metadata, created_at"

typedef struct Event
{
	int64_t		position;
	int64_t		revision;		/* version - 1 */
	int64_t		created;		/* 100 ns since 1970 */
	uint8_t		id[16];
	const char *stream;
	size_t		stream_len;
	const char *type;
	size_t		type_len;
	Payload		payload;
} Event;

/* A link of a stream that is made up ($ce-..., $et-...); NULL: no link. */
typedef struct Link
{
	const char *stream;
	size_t		stream_len;
	bool		resolve;		/* send the event with it, or the link alone? */
} Link;

/* Points into the result, which must last as long. */
extern void event_from_row(Event *event, const PGresult *result, int row);
/* One block of memory, which free() frees. */
extern Event *event_copy(const Event *event, size_t *size);
extern void event_free(Event *event);

extern void link_id(const Event *event, uint8_t id[16]);

/*
 * A ReadResp with the event.  halves: UUIDs as two numbers.  retries: for
 * persistent subscriptions how often it was retried, -1 elsewhere.
 */
extern grpc_slice event_message(const Event *event, const Link *link, bool halves, int retries);

#endif							/* GW_EVENT_H */
