/*-------------------------------------------------------------------------
 * filter.h
 *	  Filters of $all: prefixes or a regular expression, on the stream's name
 *	  or on the event's type.
 *-------------------------------------------------------------------------
 */
#ifndef GW_FILTER_H
#define GW_FILTER_H

#include "common.pb-c.h"
#include "event.h"

typedef struct EventFilter EventFilter;

/*
 * NULL for a filter that lets everything through.  *error is set, to be freed,
 * for a regular expression that is none.
 */
extern EventFilter *filter_make(const Gw__Filter *wire, char **error);
extern bool filter_passes(const EventFilter *filter, const Event *event);
/* events between two checkpoints */
extern int	filter_interval(const EventFilter *filter);
extern void filter_free(EventFilter *filter);

#endif							/* GW_FILTER_H */
