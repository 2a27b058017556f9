/*-------------------------------------------------------------------------
 * state/aggregate.h
 *	  Aggregates: the state of a stream by its category's reducer.
 *-------------------------------------------------------------------------
 */
#ifndef ES_STATE_AGGREGATE_H
#define ES_STATE_AGGREGATE_H

extern bool es_aggregate_exists(const char *category, int len);

#endif							/* ES_STATE_AGGREGATE_H */
