/*-------------------------------------------------------------------------
 * read/read.h
 *	  Read events of a stream or of the global order.
 *-------------------------------------------------------------------------
 */
#ifndef ES_READ_READ_H
#define ES_READ_READ_H

#include "access/sdir.h"
#include "fmgr.h"

#include "log/event.h"
#include "read/reader.h"

#define ES_READ_MAX_ARGS		8
#define ES_READ_MAX_FUNCTIONS	8

/* a function that reads events, and what the planner has to know of it */
typedef struct EsReadFunction
{
	const char *scan_name;		/* of the plan node */
	PGFunction	function;
	void		(*arguments) (FunctionCallInfo fcinfo, EsRead *read);
	int			nargs;
	const char *labels[ES_READ_MAX_ARGS];	/* of the arguments, for EXPLAIN */
	int			max_count;		/* which argument it is, 0-based */
	int			backward;		/* the same */
	AttrNumber	order;			/* column of es_event by which rows are ordered */
	double		rows;			/* expected without max_count; 0 = all events */
} EsReadFunction;

/*
 * Called for each event in order; values as from es_reader_values, gone after
 * the call.
 */
typedef void (*EsEventCallback) (Datum *values, void *arg);

extern const EsReadFunction *es_read_function_get(int n);
extern int64 es_read_stream_events(Relation event, const EsStore *store, int64 stream_no,
								   int64 from_version, int64 max_count,
								   ScanDirection direction, bool as_stored,
								   EsEventCallback callback, void *arg);

/* read/visible.c */
extern bool es_stream_is_visible(int64 stream_no);

#endif							/* ES_READ_READ_H */
