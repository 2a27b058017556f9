/*-------------------------------------------------------------------------
 * log/tags.h
 *	  Tags of events, and the index that finds events by them.
 *-------------------------------------------------------------------------
 */
#ifndef ES_LOG_TAGS_H
#define ES_LOG_TAGS_H

#include "utils/array.h"
#include "utils/relcache.h"

/* tags of one event */
#define ES_MAX_TAGS			32

extern uint64 es_tag_hash(const char *tag, int len);
extern int	es_tags_sort(Datum *tags, int n);
extern ArrayType *es_tags_array(Datum *tags, int n);
extern int	es_tags_elements(ArrayType *array, Datum **tags);
extern bool es_tags_contain(ArrayType *array, const Datum *wanted, int nwanted);
extern bool es_tags_is_index(Relation index, AttrNumber tags);

#endif							/* ES_LOG_TAGS_H */
