/*-------------------------------------------------------------------------
 * metrics.h
 *	  What there is to count, and a port where Prometheus reads it.
 *-------------------------------------------------------------------------
 */
#ifndef FEED_METRICS_H
#define FEED_METRICS_H

#include <stdatomic.h>
#include <stdint.h>

typedef struct Metrics
{
	_Atomic int64_t fetched;	/* events that came from the store */
	_Atomic int64_t published;	/* confirmed by the sink */
	_Atomic int64_t suppressed; /* that the sink had already */
	_Atomic int64_t refused;	/* told to the server by es_nack */
	_Atomic int64_t in_hand;	/* fetched and not acknowledged */
	_Atomic int64_t acknowledged;	/* position */
	_Atomic int64_t sink_up;	/* 0, 1 */
	_Atomic int64_t store_up;
	_Atomic int64_t sink_losses;	/* connections and the like */
	_Atomic int64_t store_losses;
} Metrics;

extern Metrics metrics;

/* Listens on host:port in a thread of its own; ends the program if it cannot. */
extern void metrics_listen(const char *address);

#endif							/* FEED_METRICS_H */
