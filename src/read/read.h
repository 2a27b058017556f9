/*-------------------------------------------------------------------------
 * read/read.h
 *	  Read events of a stream or of the global order.
 *-------------------------------------------------------------------------
 */
#ifndef ES_READ_READ_H
#define ES_READ_READ_H

#include "access/sdir.h"

#include "log/event.h"

/*
 * Called for each event in order; values as from es_event_values, gone after
 * the call.
 */
typedef void (*EsEventCallback) (Datum *values, void *arg);

extern int64 es_read_stream_events(Relation event, const EsStore *store, int64 stream_no,
								   int64 from_version, int64 max_count,
								   ScanDirection direction,
								   EsEventCallback callback, void *arg);

#endif							/* ES_READ_READ_H */
