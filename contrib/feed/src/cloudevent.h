/*-------------------------------------------------------------------------
 * cloudevent.h
 *	  Events as CloudEvents 1.0.
 *-------------------------------------------------------------------------
 */
#ifndef FEED_CLOUDEVENT_H
#define FEED_CLOUDEVENT_H

#include "hand.h"
#include "util.h"

typedef struct Attribute
{
	const char *name;
	const char *value;
	bool		number;			/* a number in JSON, not a string */
} Attribute;

#define MAX_ATTRIBUTES 16

/*
 * All attributes but data and its content type, in an order that never changes;
 * the values live until the next call.  Returns how many.
 */
extern int	cloudevent_attributes(const Event *event, Attribute *attributes);

/* Structured mode: the whole event as JSON, in one line. */
extern void cloudevent_json(Buf *out, const Event *event);

/*
 * What such a line, ended by a zero byte, says: is it this event's?  And the
 * seen_key() of its event; 0 if it is nothing that cloudevent_json() has made.
 */
extern bool cloudevent_is(const char *line, const Event *event);
extern int64_t cloudevent_seen(const char *line);

/* For headers: everything but printable ASCII, and space, " and %, as %XX. */
extern void cloudevent_header(Buf *out, const char *value);

#define CLOUDEVENT_JSON "application/cloudevents+json; charset=UTF-8"
#define CLOUDEVENT_DATA "application/json"

/* set by the source when it has connected: the default of --source */
extern char *cloudevent_source;

/*
 * --target for an event: {category}, {stream} and {type} are replaced; all bytes
 * of them that are in "special", and control characters, as %XX.
 */
extern void target_expand(Buf *out, const char *target, const Event *event, const char *special);
extern bool target_varies(const char *target);

#endif							/* FEED_CLOUDEVENT_H */
