/*-------------------------------------------------------------------------
 * log/replicated.h
 *	  Tell what a consumer has come to here from what has come by replication.
 *-------------------------------------------------------------------------
 */
#ifndef ES_LOG_REPLICATED_H
#define ES_LOG_REPLICATED_H

pg_attribute_noreturn() extern void es_replicated_refuse(const char *kind, const char *name);

#endif							/* ES_LOG_REPLICATED_H */
