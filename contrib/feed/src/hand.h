/*-------------------------------------------------------------------------
 * hand.h
 *	  The events in hand: fetched, and not acknowledged yet.
 *
 * An event waits, is in flight, and is finished.  Events are put into the sink
 * in the order in which they were fetched.  Where a sink may lose one and keep
 * the next (one_per_key), an event waits until all events of its key before it
 * are finished; other sinks keep what they are given in order, or lose all that
 * follows what they lost.
 *
 * The key is the stream, or the first tag of an event without a stream; the two
 * are never the same.  A stream of which an event was refused is held up: what
 * comes after that event is left out, because the server will deliver it again
 * behind the refused one.  An event without a stream the server holds up by itself,
 * so others with its tag go on.
 *-------------------------------------------------------------------------
 */
#ifndef FEED_HAND_H
#define FEED_HAND_H

#include <libpq-fe.h>
#include <stdbool.h>
#include <stdint.h>

#include "util.h"

typedef enum EventState
{
	EVENT_WAITING,
	EVENT_IN_FLIGHT,
	EVENT_REFUSED,				/* the server has to be told */
	EVENT_DONE,					/* in the sink */
	EVENT_LEFT_OUT				/* the server has been told, or will deliver it again */
} EventState;

#define EVENT_ID_LEN 36

typedef struct Event
{
	/* what es_event has; texts end with a zero byte */
	int64_t		position;
	int64_t		version;
	int64_t		created_at;		/* microseconds since 2000, INT64_MIN and INT64_MAX: infinite */
	int			schema_version;
	const char *stream;			/* NULL: none */
	const char *key;			/* NULL: none */
	const char *type;
	const char *data;			/* JSON */
	size_t		data_len;
	const char *metadata;		/* JSON object */
	size_t		metadata_len;
	char		id[EVENT_ID_LEN + 1];

	EventState	state;
	bool		retry;			/* refused, but may be tried again */
	char	   *reason;			/* refused, why; allocated */

	struct Batch *batch;
	struct Key *in_key;
	struct Event *next_of_key;
	struct Event *next_ready;
} Event;

extern bool hand_one_per_key;

extern int	hand_count;			/* events in hand */
extern int	hand_in_flight;
extern int	hand_refused;		/* of them, still to be told */

/* Rows of the source's query; the result is kept and cleared by the hand. */
extern void hand_add(PGresult *rows);

/* The event to be put next, or NULL; hand_put() takes it. */
extern Event *hand_next(void);
extern void hand_put(void);

/* What became of an event that is in flight, or is next. */
extern void event_done(Event *event, bool duplicate);
extern void event_refused(Event *event, bool retry, const char *reason);

/* The sink has lost what was in flight, or may have: it all waits again. */
extern void hand_in_flight_lost(void);

/* Events that are in the sink already, although they may be fetched again; by keys made of their ids. */
extern int64_t seen_key(const char *id);	/* never 0 */
extern void seen_add(int64_t key);	/* 0: none */
extern void seen_recent(void);	/* what was acknowledged last */
extern void hand_look_at_seen(void);

/* An event that was refused, or NULL; and what to do when the server knows it. */
extern Event *hand_first_refused(void);
extern void hand_told(Event *event);

/* The highest position up to which all is finished, 0: none; and its end. */
extern int64_t hand_acknowledgeable(void);
extern int	hand_count_above(int64_t position);
extern void hand_acknowledge(int64_t position);

/* Positions in hand above one, as the text of a bigint[]; without those that were left out. */
extern void hand_positions(Buf *out, int64_t above);

/*
 * The server no longer takes these events for ours.  Nothing may be in flight.
 * They come again; what is done is remembered as seen.
 */
extern void hand_forget(void);

#endif							/* FEED_HAND_H */
