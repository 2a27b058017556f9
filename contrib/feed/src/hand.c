/*-------------------------------------------------------------------------
 * hand.c
 *	  See hand.h.
 *
 * The rows of a fetch stay where libpq has put them, and go when the last event
 * of the batch has been acknowledged.
 *-------------------------------------------------------------------------
 */
#include "hand.h"

#include <stdio.h>
#include <string.h>

#include "metrics.h"
#include "settings.h"
#include "source.h"

typedef struct Batch
{
	PGresult   *rows;
	int			n;
	int			left;			/* events in hand */
	Event	   *events;
	struct Batch *next;
} Batch;

typedef struct Key
{
	char	   *name;
	bool		stream;			/* of a stream; else it is a tag */
	int			events;			/* in hand */
	Event	   *head;			/* one_per_key: first that is not finished, and last */
	Event	   *tail;
	int64_t		held_at;		/* stream: position that was refused, leave out what comes after; or 0 */
	struct Key *next;
} Key;

#define BUCKETS 4096

bool		hand_one_per_key;
int			hand_count;
int			hand_in_flight;
int			hand_refused;

static Batch *batches;			/* in the order in which they were fetched */
static Key *keys[BUCKETS];
static Event *ready;			/* events that may be put; they all wait */
static Event **ready_end = &ready;

/* --- seen ----------------------------------------------------------------- */

/*
 * An open hash of keys made of event ids, for a position may be another store's, or
 * have been given a second time after a restore.  It is asked about what is
 * delivered again after a loss, and forgotten when twice as much has come as could
 * have been in hand.
 */
static int64_t *seen;
static size_t seen_size;
static size_t nseen;
static int	seen_left;

/*
 * What was acknowledged last: a server that crashes, or one that takes over, may
 * not know of it.
 */
#define RECENT 65536

static int64_t recent[RECENT];
static size_t nrecent;

/* FNV-1a */
static uint64_t
hash_text(const char *text)
{
	uint64_t	hash = UINT64_C(14695981039346656037);

	for (const unsigned char *p = (const unsigned char *) text; *p; p++)
		hash = (hash ^ *p) * UINT64_C(1099511628211);
	return hash;
}

int64_t
seen_key(const char *id)
{
	int64_t		key = hash_text(id) & INT64_MAX;

	return key ? key : 1;
}

static size_t
seen_slot(int64_t key)
{
	size_t		slot = (uint64_t) key * UINT64_C(0x9E3779B97F4A7C15) % seen_size;

	while (seen[slot] != 0 && seen[slot] != key)
		slot = (slot + 1) % seen_size;
	return slot;
}

void
seen_add(int64_t key)
{
	if (key <= 0)
		return;
	if (nseen * 2 >= seen_size)
	{
		int64_t    *old = seen;
		size_t		old_size = seen_size;

		seen_size = old_size ? old_size * 2 : 1024;
		seen = xcalloc(seen_size * sizeof(int64_t));
		for (size_t i = 0; i < old_size; i++)
			if (old[i] != 0)
				seen[seen_slot(old[i])] = old[i];
		free(old);
	}
	if (seen[seen_slot(key)] == 0)
		nseen++;
	seen[seen_slot(key)] = key;
	seen_left = 4 * SOURCE_WINDOW + 2 * nseen;
}

void
seen_recent(void)
{
	for (size_t i = nrecent > RECENT ? nrecent - RECENT : 0; i < nrecent; i++)
		seen_add(recent[i % RECENT]);
}

static bool
is_seen(const Event *event)
{
	if (nseen == 0)
		return false;
	if (seen_left-- > 0)
		return seen[seen_slot(seen_key(event->id))] != 0;
	memset(seen, 0, seen_size * sizeof(int64_t));
	nseen = 0;
	return false;
}

/* --- keys ----------------------------------------------------------------- */

static Key **
key_place(const char *name, bool stream)
{
	Key		  **place = &keys[hash_text(name) % BUCKETS];

	while (*place && ((*place)->stream != stream || strcmp((*place)->name, name) != 0))
		place = &(*place)->next;
	return place;
}

static Key *
key_get(const char *name, bool stream)
{
	Key		  **place = key_place(name, stream);

	if (*place == NULL)
	{
		*place = xcalloc(sizeof(Key));
		(*place)->name = xstrdup(name);
		(*place)->stream = stream;
	}
	return *place;
}

static void
key_leave(Key *key)
{
	Key		  **place;

	if (--key->events > 0)
		return;
	place = key_place(key->name, key->stream);
	*place = key->next;
	free(key->name);
	free(key);
}

/* --- what is ready ---------------------------------------------------------- */

static void
make_ready(Event *event)
{
	event->next_ready = NULL;
	*ready_end = event;
	ready_end = &event->next_ready;
}

/* A waiting event gets its place behind those of its key. */
static void
line_up(Event *event)
{
	Key		   *key = event->in_key;

	if (key && key->held_at > 0 && event->position > key->held_at)
	{
		event->state = EVENT_LEFT_OUT;
		return;
	}
	if (key && hand_one_per_key)
	{
		event->next_of_key = NULL;
		if (key->head)
		{
			key->tail->next_of_key = event;
			key->tail = event;
			return;
		}
		key->head = key->tail = event;
	}
	make_ready(event);
}

/* The first event of its key is finished: the next one may go. */
static void
next_in_line(Event *event)
{
	Key		   *key = event->in_key;

	if (key == NULL || !hand_one_per_key || key->head != event)
		return;
	key->head = event->next_of_key;
	if (key->head)
		make_ready(key->head);
}

/* Takes out what no longer waits. */
static void
clean_ready(void)
{
	for (ready_end = &ready; *ready_end;)
	{
		if ((*ready_end)->state == EVENT_WAITING)
			ready_end = &(*ready_end)->next_ready;
		else
			*ready_end = (*ready_end)->next_ready;
	}
}

Event *
hand_next(void)
{
	return ready;
}

static Event *
take_ready(void)
{
	Event	   *event = ready;

	ready = event->next_ready;
	if (ready == NULL)
		ready_end = &ready;
	return event;
}

void
hand_put(void)
{
	take_ready()->state = EVENT_IN_FLIGHT;
	hand_in_flight++;
}

/* --- events ----------------------------------------------------------------- */

static int64_t
get_int(const char *value, int len)
{
	return len == 8 ? (int64_t) get_u64(value) : (int32_t) get_u32(value);
}

static void
event_read(Event *event, PGresult *rows, int row)
{
	const unsigned char *id = (const unsigned char *) PQgetvalue(rows, row, 3);
	char	   *p = event->id;

#define NUMBER(column) get_int(PQgetvalue(rows, row, column), PQgetlength(rows, row, column))
#define TEXT(column) (PQgetisnull(rows, row, column) ? NULL : PQgetvalue(rows, row, column))
	event->position = NUMBER(0);
	event->stream = TEXT(1);
	event->version = PQgetisnull(rows, row, 2) ? 0 : NUMBER(2);
	for (int i = 0; i < 16; i++)
		p += sprintf(p, "%s%02x", i == 4 || i == 6 || i == 8 || i == 10 ? "-" : "", id[i]);
	event->type = TEXT(4);
	event->schema_version = NUMBER(5);
	/* jsonb in binary: a version, and the text */
	event->data = PQgetvalue(rows, row, 6) + 1;
	event->data_len = PQgetlength(rows, row, 6) - 1;
	event->metadata = PQgetvalue(rows, row, 7) + 1;
	event->metadata_len = PQgetlength(rows, row, 7) - 1;
	event->created_at = NUMBER(8);
	event->key = event->stream ? event->stream : TEXT(9);
#undef NUMBER
#undef TEXT
}

void
hand_add(PGresult *rows)
{
	Batch	   *batch = xcalloc(sizeof(Batch));
	Batch	  **last = &batches;

	batch->rows = rows;
	batch->n = batch->left = PQntuples(rows);
	batch->events = xcalloc(batch->n * sizeof(Event));
	while (*last)
		last = &(*last)->next;
	*last = batch;
	hand_count += batch->n;
	for (int i = 0; i < batch->n; i++)
	{
		Event	   *event = &batch->events[i];

		event_read(event, rows, i);
		event->batch = batch;
		if (event->key)
		{
			event->in_key = key_get(event->key, event->stream != NULL);
			event->in_key->events++;
		}
		if (is_seen(event))
		{
			event->state = EVENT_DONE;
			metrics.suppressed++;
		}
		else
			line_up(event);
	}
}

void
hand_look_at_seen(void)
{
	for (Batch *batch = batches; nseen > 0 && batch; batch = batch->next)
		for (int i = 0; i < batch->n; i++)
			if (batch->events[i].batch && batch->events[i].state == EVENT_WAITING &&
				seen[seen_slot(seen_key(batch->events[i].id))] != 0)
			{
				batch->events[i].state = EVENT_DONE;
				metrics.suppressed++;
			}
	hand_in_flight_lost();
}

/* It is no longer in flight, or was the next to be put. */
static void
turn(Event *event, EventState state)
{
	if (event->state == EVENT_IN_FLIGHT)
		hand_in_flight--;
	else
		take_ready();
	event->state = state;
}

void
event_done(Event *event, bool duplicate)
{
	turn(event, EVENT_DONE);
	metrics.published++;
	if (duplicate)
		metrics.suppressed++;
	next_in_line(event);
}

void
event_refused(Event *event, bool retry, const char *reason)
{
	turn(event, EVENT_REFUSED);
	event->retry = retry;
	event->reason = xstrdup(reason);
	hand_refused++;
	metrics.refused++;
	if (event->in_key == NULL)
		return;
	/* the server holds up a stream, an event without one by itself: what comes after it may go */
	if (event->stream == NULL)
	{
		next_in_line(event);
		return;
	}
	event->in_key->held_at = event->position;
	event->in_key->head = NULL;
	for (Batch *batch = event->batch; batch; batch = batch->next)
		for (int i = 0; i < batch->n; i++)
			if (batch->events[i].in_key == event->in_key && batch->events[i].state == EVENT_WAITING &&
				batch->events[i].position > event->position)
				batch->events[i].state = EVENT_LEFT_OUT;
	clean_ready();
}

void
hand_in_flight_lost(void)
{
	ready = NULL;
	ready_end = &ready;
	hand_in_flight = 0;
	for (int i = 0; i < BUCKETS; i++)
		for (Key *key = keys[i]; key; key = key->next)
			key->head = NULL;
	for (Batch *batch = batches; batch; batch = batch->next)
		for (int i = 0; i < batch->n; i++)
		{
			Event	   *event = &batch->events[i];

			if (event->state == EVENT_IN_FLIGHT)
				event->state = EVENT_WAITING;
			if (event->state == EVENT_WAITING)
				line_up(event);
		}
}

/* --- back to the server ------------------------------------------------------- */

Event *
hand_first_refused(void)
{
	for (Batch *batch = batches; hand_refused > 0 && batch; batch = batch->next)
		for (int i = 0; i < batch->n; i++)
			if (batch->events[i].state == EVENT_REFUSED)
				return &batch->events[i];
	return NULL;
}

void
hand_told(Event *event)
{
	event->state = EVENT_LEFT_OUT;
	hand_refused--;
	if (event->in_key && event->stream)
		event->in_key->held_at = 0;
}

int64_t
hand_acknowledgeable(void)
{
	int64_t		unfinished = INT64_MAX;
	int64_t		highest = 0;

	for (Batch *batch = batches; batch; batch = batch->next)
		for (int i = 0; i < batch->n; i++)
			if (batch->events[i].state < EVENT_DONE && batch->events[i].position < unfinished)
				unfinished = batch->events[i].position;
	for (Batch *batch = batches; batch; batch = batch->next)
		for (int i = 0; i < batch->n; i++)
			if (batch->events[i].batch && batch->events[i].position < unfinished &&
				batch->events[i].position > highest)
				highest = batch->events[i].position;
	return highest;
}

int
hand_count_above(int64_t position)
{
	int			n = 0;

	for (Batch *batch = batches; batch; batch = batch->next)
		for (int i = 0; i < batch->n; i++)
			n += batch->events[i].batch && batch->events[i].position > position;
	return n;
}

/* The event is no longer in hand; its memory goes with its batch. */
static void
event_leave(Event *event)
{
	if (event->in_key)
		key_leave(event->in_key);
	free(event->reason);
	event->reason = NULL;
	event->in_key = NULL;
	if (event->state < EVENT_DONE)
		event->state = EVENT_LEFT_OUT;
	event->batch->left--;
	event->batch = NULL;
	hand_count--;
}

static void
remove_empty(void)
{
	for (Batch **place = &batches; *place;)
	{
		Batch	   *batch = *place;

		if (batch->left > 0)
		{
			place = &batch->next;
			continue;
		}
		*place = batch->next;
		PQclear(batch->rows);
		free(batch->events);
		free(batch);
	}
}

void
hand_acknowledge(int64_t position)
{
	for (Batch *batch = batches; batch; batch = batch->next)
		for (int i = 0; i < batch->n; i++)
			if (batch->events[i].batch && batch->events[i].position <= position)
			{
				if (batch->events[i].state == EVENT_DONE)
					recent[nrecent++ % RECENT] = seen_key(batch->events[i].id);
				event_leave(&batch->events[i]);
			}
	remove_empty();
}

void
hand_positions(Buf *out, int64_t above)
{
	const char *comma = "";

	/* what was left out and is handed out again is not what is in hand */
	buf_char(out, '{');
	for (Batch *batch = batches; batch; batch = batch->next)
		for (int i = 0; i < batch->n; i++)
			if (batch->events[i].batch && batch->events[i].state != EVENT_LEFT_OUT &&
				batch->events[i].position > above)
			{
				buf_printf(out, "%s%ld", comma, (long) batch->events[i].position);
				comma = ",";
			}
	buf_char(out, '}');
}

void
hand_forget(void)
{
	for (Batch *batch = batches; batch; batch = batch->next)
		for (int i = 0; i < batch->n; i++)
			if (batch->events[i].batch)
			{
				if (batch->events[i].state == EVENT_REFUSED)
					hand_refused--;
				if (batch->events[i].state == EVENT_DONE)
					seen_add(seen_key(batch->events[i].id));
				event_leave(&batch->events[i]);
			}
	ready = NULL;
	ready_end = &ready;
	remove_empty();
}
