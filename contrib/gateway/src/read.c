/*-------------------------------------------------------------------------
 * read.c
 *	  Streams.Read: reading, and catch-up subscriptions.
 *
 * Events are read in pages, each a statement of its own that begins where the
 * last one ended: streams and the global order only grow, so pages make up
 * exactly what one statement would have read.  A page is asked for when the
 * client has taken most of the one before.  So a reader, however slow, holds no
 * connection, no transaction and no more memory than its buffer.  Pages grow
 * and shrink with the size of the events; what is beyond the buffer is thrown
 * away on its way in and asked for again.
 *
 * A subscription does the same until it has read everything, and then follows
 * the login's tail (tail.c).  It falls back to pages when it is too slow for
 * that, which its client is told.
 *-------------------------------------------------------------------------
 */
#include "read.h"

#include <time.h>

#include "filter.h"
#include "loop.h"
#include "settings.h"
#include "source.h"
#include "status.h"
#include "streams.pb-c.h"
#include "tail.h"
#include "uuid.h"

#define FIRST_PAGE		32
#define LARGEST_PAGE	2048
#define RETRY_MS		500
#define END				(-1)	/* as an argument of source_page() */

typedef struct Reader
{
	Follower	follower;		/* first */
	Timer		retry;
	Call	   *call;
	Source		source;
	EventFilter *filter;
	Link		link;
	bool		linked;
	bool		backward;
	bool		halves;
	bool		subscription;
	bool		from_start;		/* of a read: no event means no stream */
	bool		live;
	bool		was_live;
	bool		any;			/* an event was met */
	int64_t		from;			/* of the next page */
	uint64_t	remaining;
	Query	   *query;
	int64_t		limit;			/* of the page */
	int64_t		rows;
	int64_t		kept;
	size_t		bytes;
	size_t		last_bytes;		/* of the last one that was kept */
	bool		cut;			/* what else comes with this page is thrown away */
	int64_t		head;			/* settled before the page was asked for; -1: not known */
	int64_t		last_revision;	/* of the source; -1: none */
	int64_t		last_position;
	int			unreported;		/* events since the last checkpoint */
} Reader;

static void reader_fill(Reader *reader);

/* --- what is sent ---------------------------------------------------------- */

static void
send_note(Reader *reader, Gw__ReadNote *note)
{
	call_send_message(reader->call, &note->base);
}

static Gw__Instant
instant_now(void)
{
	Gw__Instant instant = GW__INSTANT__INIT;
	struct timespec t;

	clock_gettime(CLOCK_REALTIME, &t);
	instant.seconds = t.tv_sec;
	instant.nanos = t.tv_nsec;
	return instant;
}

static void
send_confirmation(Reader *reader)
{
	Gw__ReadNote note = GW__READ_NOTE__INIT;
	Gw__ReadNote__Confirmation confirmation = GW__READ_NOTE__CONFIRMATION__INIT;
	uint8_t		id[16];
	char		text[UUID_TEXT];

	uuid_random(id);
	uuid_format(id, text);
	confirmation.subscription = text;
	note.content_case = GW__READ_NOTE__CONTENT_CONFIRMATION;
	note.confirmation = &confirmation;
	send_note(reader, &note);
}

static void
send_checkpoint(Reader *reader, int64_t position)
{
	Gw__ReadNote note = GW__READ_NOTE__INIT;
	Gw__ReadNote__Checkpoint checkpoint = GW__READ_NOTE__CHECKPOINT__INIT;
	Gw__Instant now = instant_now();

	checkpoint.commit = checkpoint.prepare = position;
	checkpoint.time = &now;
	note.content_case = GW__READ_NOTE__CONTENT_CHECKPOINT;
	note.checkpoint = &checkpoint;
	send_note(reader, &note);
	reader->unreported = 0;
}

static void
send_reached(Reader *reader, bool caught_up)
{
	Gw__ReadNote note = GW__READ_NOTE__INIT;
	Gw__ReadNote__Reached reached = GW__READ_NOTE__REACHED__INIT;
	Gw__Instant now = instant_now();
	Gw__Place	place = GW__PLACE__INIT;

	reached.time = &now;
	if (reader->source.kind == SOURCE_ALL)
	{
		place.commit = place.prepare = reader->last_position;
		reached.where_case = GW__READ_NOTE__REACHED__WHERE_PLACE;
		reached.place = &place;
	}
	else if (reader->last_revision >= 0)
	{
		reached.where_case = GW__READ_NOTE__REACHED__WHERE_REVISION;
		reached.revision = reader->last_revision;
	}
	note.content_case = caught_up ? GW__READ_NOTE__CONTENT_CAUGHT_UP : GW__READ_NOTE__CONTENT_FELL_BEHIND;
	if (caught_up)
		note.caught_up = &reached;
	else
		note.fell_behind = &reached;
	send_note(reader, &note);
}

static void
send_not_found(Reader *reader)
{
	Gw__ReadNote note = GW__READ_NOTE__INIT;
	Gw__ReadNote__NotFound not_found = GW__READ_NOTE__NOT_FOUND__INIT;
	Gw__StreamName name = GW__STREAM_NAME__INIT;

	name.name.data = (uint8_t *) reader->source.name;
	name.name.len = strlen(reader->source.name);
	not_found.stream = &name;
	note.content_case = GW__READ_NOTE__CONTENT_NOT_FOUND;
	note.not_found = &not_found;
	send_note(reader, &note);
}

/* The reader has come to an event of its source: note where it is, filter. */
static bool
reader_meets(Reader *reader, const Event *event)
{
	reader->any = true;
	reader->last_position = event->position;
	reader->last_revision = reader->source.kind == SOURCE_STREAM ? event->revision : event->position;
	if (filter_passes(reader->filter, event))
	{
		reader->unreported++;
		return true;
	}
	return false;
}

static void
reader_checkpoint(Reader *reader, bool passed)
{
	if (!reader->filter || !reader->subscription)
		return;
	if (!passed)
		reader->unreported++;
	if (reader->unreported >= filter_interval(reader->filter))
		send_checkpoint(reader, reader->last_position);
}

/* --- pages ----------------------------------------------------------------- */

static void
page_row(void *arg, const PGresult *r, int row)
{
	Reader	   *reader = arg;
	Event		event;
	bool		passed;

	reader->rows++;
	if (reader->cut)
		return;
	reader->kept++;
	event_from_row(&event, r, row);
	if (reader->source.kind == SOURCE_STREAM)
		reader->from = reader->backward ? event.revision : event.revision + 2;
	else
		reader->from = event.position;
	passed = reader_meets(reader, &event);
	reader->last_bytes = event.payload.data_len + event.payload.metadata_len + 100;
	reader->bytes += reader->last_bytes;
	if (passed)
	{
		call_send(reader->call, event_message(&event, reader->linked ? &reader->link : NULL, reader->halves, -1));
		if (!reader->subscription)
			reader->remaining--;
	}
	reader_checkpoint(reader, passed);
	reader->cut = reader->bytes >= (size_t) settings.read_buffer || (!reader->subscription && reader->remaining == 0);
	event_free(&event);
}

static void
go_live(Reader *reader)
{
	int64_t		seen = reader->head;

	/* a stream may be read beyond what is settled; what comes twice is known by its revision */
	if (reader->source.kind != SOURCE_STREAM && reader->last_position > seen)
		seen = reader->last_position;
	/* the tail may be ahead already: then another page is needed */
	if (!tail_follow(call_pool(reader->call), &reader->follower, seen))
	{
		reader->head = -1;
		reader_fill(reader);
		return;
	}
	reader->live = reader->was_live = true;
	if (seen > reader->last_position)
		reader->last_position = seen;
	if (reader->filter)
		send_checkpoint(reader, seen);
	send_reached(reader, true);
	reader->follower.wake(&reader->follower);
}

static void
exists_done(void *arg, const PGresult *r, const DbError *error)
{
	Reader	   *reader = arg;

	reader->query = NULL;
	if (call_failed(reader->call, error))
		return;
	if (row_int8(r, 0, 0) == 0)
		send_not_found(reader);
	call_finish(reader->call, GRPC_STATUS_OK, NULL);
}

/* A read is at its end. */
static void
read_ends(Reader *reader)
{
	static Statement statement = {"SELECT es_stream_version($1)", 1, {TEXTOID}};

	if (reader->any || reader->source.kind == SOURCE_ALL)
		call_finish(reader->call, GRPC_STATUS_OK, NULL);
	else if (reader->source.kind == SOURCE_STREAM)
	{
		reader->query = query_new(&statement, exists_done, reader);
		query_text(reader->query, reader->source.key);
		query_send(call_pool(reader->call), reader->query);
	}
	else
	{
		if (reader->from_start)
			send_not_found(reader);
		call_finish(reader->call, GRPC_STATUS_OK, NULL);
	}
}

static void
retry_due(Timer *timer)
{
	reader_fill((Reader *) ((char *) timer - offsetof(Reader, retry)));
}

static bool
lost_for_now(Reader *reader, const DbError *error)
{
	if (error == NULL || !error->lost || !reader->subscription)
		return false;
	reader->head = -1;
	timer_in(&reader->retry, RETRY_MS);
	return true;
}

static void
head_done(void *arg, const PGresult *r, const DbError *error)
{
	Reader	   *reader = arg;

	reader->query = NULL;
	if (lost_for_now(reader, error) || call_failed(reader->call, error))
		return;
	reader->head = row_int8(r, 0, 0);
	reader_fill(reader);
}

static void
page_done(void *arg, const PGresult *r, const DbError *error)
{
	static Statement head = {"SELECT es_head()", 0, {0}};
	Reader	   *reader = arg;
	bool		end;
	int64_t		size;

	(void) r;
	reader->query = NULL;
	if (lost_for_now(reader, error) || call_failed(reader->call, error))
		return;
	end = reader->rows < reader->limit && !reader->cut;
	if (reader->kept > 0)
	{
		/* half a buffer of such events, but no sudden growth; a large one may be the first of many */
		size = settings.read_buffer / 2 /
			((int64_t) (reader->cut ? reader->last_bytes : reader->bytes / reader->kept) + 1);
		if (size > reader->kept * 4)
			size = reader->kept * 4;
		reader->limit = size < 1 ? 1 : size > LARGEST_PAGE ? LARGEST_PAGE : size;
	}
	if (!reader->subscription)
	{
		if (end || reader->remaining == 0 ||
			(reader->backward && reader->source.kind == SOURCE_STREAM && reader->any && reader->from == 0))
			read_ends(reader);
		else
			reader_fill(reader);
	}
	else if (end && reader->head >= 0)
		go_live(reader);
	else if (end)
	{
		/* everything up to here will be in the next page, if that is not full either */
		reader->query = query_new(&head, head_done, reader);
		query_send(call_pool(reader->call), reader->query);
	}
	else
	{
		reader->head = -1;
		reader_fill(reader);
	}
}

/* Ask for the next page if there is room for it. */
static void
reader_fill(Reader *reader)
{
	int64_t		limit = reader->limit;

	if (reader->query || reader->live || reader->retry.set || call_is_over(reader->call) ||
		call_backlog(reader->call) > (size_t) settings.read_buffer / 2)
		return;
	if (!reader->subscription && !reader->filter && (uint64_t) limit > reader->remaining)
		limit = reader->remaining;
	reader->limit = limit;
	reader->rows = reader->kept = 0;
	reader->bytes = 0;
	reader->cut = false;
	reader->query = source_page(&reader->source, reader->from, reader->backward, limit, page_row, page_done, reader);
	query_send(call_pool(reader->call), reader->query);
}

/* --- live ------------------------------------------------------------------ */

static void
live_wake(Follower *follower)
{
	Reader	   *reader = (Reader *) follower;
	TailEvent  *e;

	while (!call_is_over(reader->call) && call_backlog(reader->call) <= (size_t) settings.read_buffer &&
		   (e = tail_next(follower)) != NULL)
	{
		bool		passed;

		if (!source_has(&reader->source, e->event) ||
			(reader->source.kind == SOURCE_STREAM && e->event->revision <= reader->last_revision))
			continue;
		passed = reader_meets(reader, e->event);
		if (passed && reader->linked)
			call_send(reader->call, event_message(e->event, &reader->link, reader->halves, -1));
		else if (passed)
			call_send(reader->call, tail_message(e, reader->halves));
		reader_checkpoint(reader, passed);
	}
	if (!tail_lapped(follower))
		return;

	/* too slow: what is missing is read from PostgreSQL */
	tail_unfollow(follower);
	reader->live = false;
	reader->head = -1;
	if (reader->source.kind == SOURCE_STREAM)
		reader->from = reader->last_revision + 2;
	else
		reader->from = follower->seen;
	send_reached(reader, false);
	reader_fill(reader);
}

static void
live_failed(Follower *follower, const DbError *error)
{
	call_failed(((Reader *) follower)->call, error);
}

static void
read_drained(Call *call)
{
	Reader	   *reader = call_state(call);

	if (reader == NULL)
		return;
	if (reader->live)
		live_wake(&reader->follower);
	else if (reader->from != END || !reader->subscription)
		reader_fill(reader);
}

static void
read_over(Call *call)
{
	Reader	   *reader = call_state(call);

	if (reader == NULL)
		return;
	if (reader->query)
		query_forget(reader->query);
	tail_unfollow(&reader->follower);
	timer_cancel(&reader->retry);
	source_free(&reader->source);
	filter_free(reader->filter);
	free(reader);
	call_set_state(call, NULL);
}

/* --- the beginning --------------------------------------------------------- */

static void
begin_subscription(Reader *reader)
{
	send_confirmation(reader);
	reader_fill(reader);
}

/* A subscription from the end: where is that? */
static void
end_done(void *arg, const PGresult *r, const DbError *error)
{
	Reader	   *reader = arg;

	reader->query = NULL;
	if (call_failed(reader->call, error))
		return;
	reader->head = row_int8(r, 0, 0);
	if (reader->source.kind == SOURCE_STREAM)
	{
		reader->from = row_int8(r, 0, 1) + 1;
		reader->last_revision = row_int8(r, 0, 1) - 1;
	}
	else
		reader->from = reader->last_position = reader->head;
	begin_subscription(reader);
}

static void
begin_at_end(Reader *reader)
{
	static Statement statement = {"SELECT es_head(), es_stream_version($1)", 1, {TEXTOID}};

	reader->query = query_new(&statement, end_done, reader);
	query_text(reader->query, reader->source.name);
	query_send(call_pool(reader->call), reader->query);
}

/* Set reader->from; false: nothing to read. */
static bool
set_start(Reader *reader, const Gw__ReadReq__Options *options)
{
	const int64_t most = INT64_MAX - 2;
	bool		first,
				last;
	uint64_t	number = 0;
	int64_t		at;

	if (options->source_case == GW__READ_REQ__OPTIONS__SOURCE_STREAM)
	{
		first = options->stream->start_case != GW__READ_REQ__FROM_STREAM__START_REVISION &&
			options->stream->start_case != GW__READ_REQ__FROM_STREAM__START_LAST;
		last = options->stream->start_case == GW__READ_REQ__FROM_STREAM__START_LAST;
		if (!first && !last)
			number = options->stream->revision;
	}
	else
	{
		first = options->all->start_case != GW__READ_REQ__FROM_ALL__START_PLACE &&
			options->all->start_case != GW__READ_REQ__FROM_ALL__START_LAST;
		last = options->all->start_case == GW__READ_REQ__FROM_ALL__START_LAST;
		if (!first && !last)
		{
			if (options->all->place == NULL)
				return false;
			number = options->all->place->commit;
		}
	}
	/* what KurrentDB means by the largest number */
	if (!first && !last && number > (uint64_t) most)
	{
		if (reader->subscription || reader->backward)
			last = true;
		number = most;
	}
	at = (int64_t) number;
	reader->from_start = reader->backward ? last : first;

	if (reader->subscription)
	{
		/* behind that event */
		if (reader->source.kind == SOURCE_STREAM)
		{
			reader->from = last ? END : first ? 1 : at + 2;
			reader->last_revision = first || last ? -1 : at;
		}
		else
			reader->from = last ? END : first ? 0 : at;
		reader->last_position = first || last || reader->source.kind == SOURCE_STREAM ? 0 : at;
		return true;
	}
	if (reader->backward)
	{
		if (first)
		{
			/* the very first event, or in $all what is before it */
			if (reader->source.kind != SOURCE_STREAM)
				return false;
			reader->from = 1;
		}
		else if (last)
			reader->from = END;
		else if (reader->source.kind == SOURCE_ALL)
			reader->from = at;
		else
			reader->from = at + 1;
		return true;
	}
	if (last)
	{
		if (reader->source.kind != SOURCE_STREAM)
			return false;
		reader->from = most;
	}
	else if (reader->source.kind == SOURCE_STREAM)
		reader->from = first ? 1 : at + 1;
	else
		reader->from = first || at == 0 ? 0 : at - 1;
	return true;
}

static void
read_message(Call *call, const uint8_t *data, size_t len)
{
	Gw__ReadReq *req = data ? call_unpack(&gw__read_req__descriptor, data, len) : NULL;
	Gw__ReadReq__Options *options = req ? req->options : NULL;
	Reader	   *reader;
	char	   *error = NULL;
	bool		all;

	if (options == NULL || options->source_case == GW__READ_REQ__OPTIONS__SOURCE__NOT_SET ||
		options->amount_case == GW__READ_REQ__OPTIONS__AMOUNT__NOT_SET)
	{
		call_malformed(call);
		goto done;
	}
	all = options->source_case == GW__READ_REQ__OPTIONS__SOURCE_ALL;
	if (!all && (options->stream->stream == NULL || options->stream->stream->name.data == NULL))
	{
		call_finish(call, GRPC_STATUS_INVALID_ARGUMENT, "the stream has no name");
		goto done;
	}

	reader = xcalloc(sizeof(Reader));
	reader->call = call;
	reader->follower.wake = live_wake;
	reader->follower.failed = live_failed;
	reader->retry.due = retry_due;
	reader->limit = FIRST_PAGE;
	reader->head = -1;
	reader->last_revision = -1;
	reader->backward = options->backwards != 0;
	reader->subscription = options->amount_case == GW__READ_REQ__OPTIONS__AMOUNT_SUBSCRIPTION;
	reader->remaining = reader->subscription ? 0 : options->count;
	reader->halves = options->uuid && options->uuid->form_case == GW__READ_REQ__UUID_FORM__FORM_HALVES;
	call_set_state(call, reader);
	if (!source_set(&reader->source, all ? NULL : options->stream->stream->name.data,
					all ? 0 : options->stream->stream->name.len))
	{
		call_finish(call, GRPC_STATUS_INVALID_ARGUMENT, "a stream's name has 1 to 255 bytes");
		goto done;
	}
	reader->linked = source_link(&reader->source, options->resolve_links, &reader->link);
	if (options->filtering_case == GW__READ_REQ__OPTIONS__FILTERING_FILTER)
	{
		if (reader->source.kind != SOURCE_ALL)
		{
			call_finish(call, GRPC_STATUS_INVALID_ARGUMENT, "only $all takes a filter");
			goto done;
		}
		reader->filter = filter_make(options->filter, &error);
		if (error)
		{
			call_finish(call, GRPC_STATUS_INVALID_ARGUMENT, error);
			free(error);
			goto done;
		}
	}
	if (reader->subscription && reader->backward)
		call_finish(call, GRPC_STATUS_INVALID_ARGUMENT, "a subscription goes forward");
	else if (!set_start(reader, options) || (!reader->subscription && reader->remaining == 0))
		call_finish(call, GRPC_STATUS_OK, NULL);
	else if (!reader->subscription)
		reader_fill(reader);
	else if (reader->from == END)
		begin_at_end(reader);
	else
		begin_subscription(reader);
done:
	if (req)
		gw__read_req__free_unpacked(req, NULL);
}

const Method read_method = {
	.service = STREAMS_SERVICE, .name = "Read", .features = "position events",
	.message = read_message, .drained = read_drained, .over = read_over
};
