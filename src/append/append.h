/*-------------------------------------------------------------------------
 * append/append.h
 *	  From SQL arguments to events on their way into the store.
 *-------------------------------------------------------------------------
 */
#ifndef ES_APPEND_APPEND_H
#define ES_APPEND_APPEND_H

#include "fmgr.h"
#include "utils/jsonb.h"

#include "log/write.h"

extern void es_events_from_scalars(FunctionCallInfo fcinfo, EsNewEvent *event);
extern EsNewEvent *es_events_from_arrays(FunctionCallInfo fcinfo, int *nevents);
extern EsNewEvent *es_events_from_json(Jsonb *events, int *nevents);

#endif							/* ES_APPEND_APPEND_H */
