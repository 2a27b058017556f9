/*-------------------------------------------------------------------------
 * evolution/function.h
 *	  Users' functions over events: upcasters and reducers.
 *-------------------------------------------------------------------------
 */
#ifndef ES_EVOLUTION_FUNCTION_H
#define ES_EVOLUTION_FUNCTION_H

#include "fmgr.h"
#include "lib/stringinfo.h"

/* arguments that such a function has at the most */
#define ES_FUNCTION_MAX_ARGS	2

typedef struct EsFunction EsFunction;

/* SQLSTATE below the last VE006 */
extern int	es_function_cause;

extern void es_function_init(void);
extern int	es_function_nargs(Oid funcid);
extern void es_function_check(Oid funcid, const char *argument, int nargs,
							  const Oid *argtypes, bool immutable);
extern char *es_function_signature(Oid funcid);
extern EsFunction *es_function_get(const char *what, const char *signature,
								   int nargs, const Oid *argtypes);
extern Datum es_function_call(EsFunction *function, const Datum *args,
							  const Datum *event);
extern void es_function_detail(StringInfo detail, const Datum *event);

#endif							/* ES_EVOLUTION_FUNCTION_H */
