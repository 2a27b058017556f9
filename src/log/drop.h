/*-------------------------------------------------------------------------
 * log/drop.h
 *	  Say how many events go when the store is dropped, or refuse it.
 *-------------------------------------------------------------------------
 */
#ifndef ES_LOG_DROP_H
#define ES_LOG_DROP_H

extern void es_drop_init(void);

#endif							/* ES_LOG_DROP_H */
