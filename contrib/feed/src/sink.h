/*-------------------------------------------------------------------------
 * sink.h
 *	  Where events go.  Each sink is a file of its own, sink_*.c; a build leaves
 *	  out those whose library is not there.
 *
 * A sink is used by the main thread alone.  It is given events in order, and
 * tells by event_done() and event_refused() what became of each.  If it cannot
 * go on, put() or poll() return false: it is closed, opened again, and all that
 * was in flight is put again, in order.  So a sink need not know how to try
 * again; but whatever it does, it must not keep an event and lose one of the
 * same key before it, unless it asks for one_per_key.
 *-------------------------------------------------------------------------
 */
#ifndef FEED_SINK_H
#define FEED_SINK_H

#include <poll.h>
#include <stdbool.h>

#include "hand.h"

#ifdef WITH_NATS
#define NATS_NAME ", nats"
#else
#define NATS_NAME ""
#endif
#ifdef WITH_KAFKA
#define KAFKA_NAME ", kafka"
#else
#define KAFKA_NAME ""
#endif
#ifdef WITH_REDIS
#define REDIS_NAME ", redis"
#else
#define REDIS_NAME ""
#endif
#ifdef WITH_HTTP
#define HTTP_NAME ", http"
#else
#define HTTP_NAME ""
#endif
#define SINK_NAMES "lines" NATS_NAME KAFKA_NAME REDIS_NAME HTTP_NAME

typedef enum Put
{
	PUT_TAKEN,					/* it is in flight */
	PUT_SETTLED,				/* event_done() or event_refused() was called */
	PUT_FULL,					/* later, when some are done */
	PUT_LOST					/* the sink is lost */
} Put;

typedef struct Sink
{
	const char *name;

	/* once, before anything else: settings and options; ends the program over mistakes */
	void		(*init) (void);

	/*
	 * Connects, within some seconds.  Tells by seen_add() which events it has
	 * already, as far as it knows and need be.  False: the reason is in
	 * sink_error.
	 */
	bool		(*open) (void);
	Put			(*put) (Event *event);

	/* Sends what put() has gathered, takes what there are of answers; never waits. */
	bool		(*poll) (void);
	void		(*close) (void);

	/*
	 * What to wait for: a socket or an eventfd, -1 for none.  Or a function that
	 * does as poll() does, for the sink's own sockets, too.
	 */
	int			fd;
	int			(*wait) (struct pollfd *others, int n, int timeout_ms);
} Sink;

extern Sink sink_lines;
extern Sink sink_nats;
extern Sink sink_kafka;
extern Sink sink_redis;
extern Sink sink_http;

/* why open(), put() or poll() failed; and milliseconds that the sink has asked for, or 0 */
extern Buf	sink_error;
extern int	sink_pause_ms;

extern bool sink_failed(const char *format,...) __attribute__((format(printf, 1, 2)));	/* always false */

#endif							/* FEED_SINK_H */
