/*-------------------------------------------------------------------------
 * base/subxact.h
 *	  Run something in a subtransaction of its own.
 *-------------------------------------------------------------------------
 */
#ifndef ES_BASE_SUBXACT_H
#define ES_BASE_SUBXACT_H

/* what runs in the subtransaction; false = undo it */
typedef bool (*EsSubxactBody) (void *arg);

extern bool es_subxact_run(EsSubxactBody body, void *arg, ErrorData **error);

#endif							/* ES_BASE_SUBXACT_H */
