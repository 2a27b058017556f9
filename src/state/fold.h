/*-------------------------------------------------------------------------
 * state/fold.h
 *	  Fold events into a state.
 *-------------------------------------------------------------------------
 */
#ifndef ES_STATE_FOLD_H
#define ES_STATE_FOLD_H

#include "access/tupdesc.h"
#include "utils/jsonb.h"

#include "evolution/function.h"

/* events being folded */
typedef struct EsFold
{
	EsFunction *reducer;
	TupleDesc	desc;			/* of es_event */
	int64		upto;			/* last version that is wanted */
	int64		version;		/* of the last event that is in the state */
	int64		count;			/* events folded */
	Jsonb	   *state;
	MemoryContext context;		/* holds the state */
} EsFold;

extern Oid	es_event_type_oid(FunctionCallInfo fcinfo);
extern void es_fold_event(Datum *values, void *arg);

#endif							/* ES_STATE_FOLD_H */
