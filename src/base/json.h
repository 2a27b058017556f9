/*-------------------------------------------------------------------------
 * base/json.h
 *	  Walk over the keys of a JSON object or the elements of an array.
 *
 *		EsJsonWalk	walk;
 *
 *		es_json_walk(&walk, container);
 *		while (es_json_next_key(&walk))
 *			if (es_json_key_is(&walk, "stream_id"))
 *				... walk.value ...
 *
 * A value that is an object or an array comes whole, as jbvBinary.
 *-------------------------------------------------------------------------
 */
#ifndef ES_BASE_JSON_H
#define ES_BASE_JSON_H

#include "utils/jsonb.h"

typedef struct EsJsonWalk
{
	JsonbIterator *it;
	JsonbValue	key;			/* of an object: a string, not zero-terminated */
	JsonbValue	value;
} EsJsonWalk;

static inline void
es_json_walk(EsJsonWalk *walk, JsonbContainer *container)
{
	walk->it = JsonbIteratorInit(container);
	(void) JsonbIteratorNext(&walk->it, &walk->value, false);	/* WJB_BEGIN_... */
}

/*
 * The next key and its value; false at the end.
 */
static inline bool
es_json_next_key(EsJsonWalk *walk)
{
	if (JsonbIteratorNext(&walk->it, &walk->key, true) != WJB_KEY)
		return false;
	(void) JsonbIteratorNext(&walk->it, &walk->value, true);	/* WJB_VALUE */
	return true;
}

/*
 * The next element; false at the end.
 */
static inline bool
es_json_next_element(EsJsonWalk *walk)
{
	return JsonbIteratorNext(&walk->it, &walk->value, true) == WJB_ELEM;
}

static inline bool
es_json_key_is(const EsJsonWalk *walk, const char *key)
{
	return walk->key.val.string.len == (int) strlen(key) &&
		memcmp(walk->key.val.string.val, key, strlen(key)) == 0;
}

#endif							/* ES_BASE_JSON_H */
