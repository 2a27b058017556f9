/*-------------------------------------------------------------------------
 * source.h
 *	  Where events come from: a stream, $all, or a stream that KurrentDB makes
 *	  of links and the store has as an index: $ce-CATEGORY, $et-TYPE.
 *-------------------------------------------------------------------------
 */
#ifndef GW_SOURCE_H
#define GW_SOURCE_H

#include "event.h"
#include "pool.h"

typedef enum SourceKind
{
	SOURCE_STREAM,
	SOURCE_ALL,
	SOURCE_CATEGORY,
	SOURCE_TYPE
} SourceKind;

typedef struct Source
{
	SourceKind	kind;
	char	   *name;			/* as the client says it */
	const char *key;			/* category, type or stream */
} Source;

/* name NULL: $all.  false: a stream's name must be 1 to 255 bytes without zero bytes */
extern bool source_set(Source *source, const void *name, size_t len);
extern void source_free(Source *source);
/* links have the name of their stream; false: the source has no links */
extern bool source_link(const Source *source, bool resolve, Link *link);
extern bool source_has(const Source *source, const Event *event);

/*
 * A page of events.  For a stream, from is the first version, else the position
 * before the first one; -1 is the start, or the end for a page backward.
 */
extern Query *source_page(const Source *source, int64_t from, bool backward, int64_t limit,
						  QueryRow row, QueryDone done, void *arg);

#endif							/* GW_SOURCE_H */
