/*-------------------------------------------------------------------------
 * json.h
 *	  As much of JSON as is needed to tell what PostgreSQL will take as jsonb,
 *	  and to look at the members of an object.
 *-------------------------------------------------------------------------
 */
#ifndef GW_JSON_H
#define GW_JSON_H

#include <stdbool.h>
#include <stddef.h>

#include "util.h"

/* Is it JSON that jsonb can hold without loss of meaning? */
extern bool json_storable(const char *text, size_t len);

typedef struct JsonMember
{
	const char *key;			/* without quotes, escapes as they are */
	size_t		key_len;
	const char *value;
	size_t		value_len;
} JsonMember;

/*
 * Walk over the members of an object: start with *at = 0.  The text must have
 * passed json_storable() or come from jsonb; anything else ends the walk.
 */
extern bool json_next_member(const char *text, size_t len, size_t *at, JsonMember *member);
extern bool json_find(const char *text, size_t len, const char *key, JsonMember *member);

/* quotes and escapes */
extern void json_quote(Buf *out, const char *text, size_t len);

#endif							/* GW_JSON_H */
