/*-------------------------------------------------------------------------
 * log/stream.h
 *	  Streams: names, numbers, and the lock of a stream.
 *-------------------------------------------------------------------------
 */
#ifndef ES_LOG_STREAM_H
#define ES_LOG_STREAM_H

#include "log/last.h"
#include "log/store.h"

extern void es_stream_init(void);
extern int64 es_stream_find(const EsStore *store, const char *name, int len);
extern const char *es_stream_name(const EsStore *store, int64 stream_no, int *len);
extern int	es_stream_lock_order(const char *a, int a_len, const char *b, int b_len);
extern int64 es_stream_lock(const EsStore *store, Relation event, const char *name, int len,
							EsLast *last);
extern bool es_stream_locks_full(void);
extern int64 es_stream_create(const EsStore *store, Relation event, const char *name, int len);
extern int	es_category_length(const char *name, int len);

#endif							/* ES_LOG_STREAM_H */
