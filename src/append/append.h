/*-------------------------------------------------------------------------
 * append/append.h
 *	  Append events to streams: what all forms of the call share.
 *-------------------------------------------------------------------------
 */
#ifndef ES_APPEND_APPEND_H
#define ES_APPEND_APPEND_H

#include "fmgr.h"
#include "utils/jsonb.h"

#include "log/last.h"
#include "log/write.h"

/* the stream that an event names; NULL = none */
typedef struct EsStreamName
{
	const char *name;			/* not zero-terminated */
	int			len;
} EsStreamName;

/*
 * A stream that an append writes to, or only checks; or the events that belong
 * to none.
 */
typedef struct EsTarget
{
	const char *stream;			/* name, not zero-terminated; NULL = none */
	int			stream_len;
	int64		expected;		/* version that it should have */
	int64		stream_no;		/* 0 = does not exist yet */
	int64		current;		/* last version, 0 = none */
	int			first;			/* its first event, -1 = only a check */
	int64		known_from;		/* version of that event if it is stored
								 * already, 0 = it is not */
	bool		is_known;		/* all its events are stored already */
	EsChain		chain;			/* its hashes, up to "current" */
} EsTarget;

/* see append/condition.h */
typedef struct EsCondition EsCondition;

/* an append on its way */
typedef struct EsAppend
{
	const char *function;		/* name for errors */
	Relation	event;
	const EsStore *store;
	EsTarget   *targets;		/* each stream once */
	int			ntargets;
	EsNewEvent *events;			/* in the order in which they are written */
	int			nevents;
	const EsCondition *condition;	/* NULL = none */
} EsAppend;

/* append.c */
extern int64 es_current_version(Relation event, const EsStore *store, int64 stream_no,
								const EsLast *last, EsChain *chain);
extern bool es_append_run(EsAppend *append);
extern Datum es_append_set(FunctionCallInfo fcinfo, EsNewEvent *events, int nevents,
						   bool is_duplicate);
extern void es_append_answer(const EsNewEvent *event, bool is_duplicate,
							 Datum *values, bool *isnull);

/* events.c */
extern void es_batch_check(int64 nevents);
extern void es_event_set_tags(EsNewEvent *event, const char *argument, int element,
							  Datum *tags, int n);
extern void es_event_check(EsNewEvent *event, int element);
extern void es_events_from_scalars(FunctionCallInfo fcinfo, EsNewEvent *event);
extern EsNewEvent *es_events_from_arrays(FunctionCallInfo fcinfo, int *nevents);
extern EsNewEvent *es_events_from_json(JsonbContainer *events, int *nevents,
									   EsStreamName **streams);

#endif							/* ES_APPEND_APPEND_H */
