/*-------------------------------------------------------------------------
 * source.h
 *	  The store: a connection to PostgreSQL that fetches, acknowledges and gives
 *	  back what cannot be published.
 *-------------------------------------------------------------------------
 */
#ifndef FEED_SOURCE_H
#define FEED_SOURCE_H

#include <poll.h>
#include <stdbool.h>
#include <stdint.h>

#include "settings.h"

/* no more than these are in hand at any time */
#define SOURCE_WINDOW (3 * settings.batch)

extern void source_init(void);

/*
 * Does what there is to do; never waits.  What to wait for is put into fd, and
 * the time until which at the latest is the result, as now_ms().
 */
extern int64_t source_step(struct pollfd *fd);

/* No more fetches, the one that waits is cancelled. */
extern void source_stop(void);

/* All that is done has been acknowledged, and nothing is under way. */
extern bool source_idle(void);

extern void source_close(void);

#endif							/* FEED_SOURCE_H */
