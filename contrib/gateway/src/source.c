/*-------------------------------------------------------------------------
 * source.c
 *	  See source.h.
 *-------------------------------------------------------------------------
 */
#include "source.h"

#define MAX_NAME	255

bool
source_set(Source *source, const void *name, size_t len)
{
	source->kind = SOURCE_ALL;
	source->name = NULL;
	source->key = NULL;
	if (name == NULL)
	{
		source->name = xstrdup("$all");
		return true;
	}
	if (len == 0 || len > MAX_NAME || memchr(name, '\0', len))
		return false;
	source->name = xstrndup(name, len);
	if (strcmp(source->name, "$all") == 0)
		return true;
	source->kind = SOURCE_STREAM;
	source->key = source->name;
	if (strncmp(source->name, "$ce-", 4) == 0)
		source->kind = SOURCE_CATEGORY;
	else if (strncmp(source->name, "$et-", 4) == 0 && source->name[4])
		source->kind = SOURCE_TYPE;
	if (source->kind != SOURCE_STREAM)
		source->key += 4;
	return true;
}

void
source_free(Source *source)
{
	free(source->name);
	source->name = NULL;
}

bool
source_link(const Source *source, bool resolve, Link *link)
{
	if (source->kind != SOURCE_CATEGORY && source->kind != SOURCE_TYPE)
		return false;
	link->stream = source->name;
	link->stream_len = strlen(source->name);
	link->resolve = resolve;
	return true;
}

bool
source_has(const Source *source, const Event *event)
{
	size_t		len;
	const char *dash;

	if (source->kind == SOURCE_ALL)
		return true;
	len = strlen(source->key);
	switch (source->kind)
	{
		case SOURCE_STREAM:
			return event->stream_len == len && memcmp(event->stream, source->key, len) == 0;
		case SOURCE_TYPE:
			return event->type_len == len && memcmp(event->type, source->key, len) == 0;
		default:
			/* the category is what comes before the first dash, or all of it */
			dash = memchr(event->stream, '-', event->stream_len);
			return (dash ? (size_t) (dash - event->stream) : event->stream_len) == len &&
				memcmp(event->stream, source->key, len) == 0;
	}
}

Query *
source_page(const Source *source, int64_t from, bool backward, int64_t limit,
			QueryRow row, QueryDone done, void *arg)
{
	static Statement statements[] = {
		[SOURCE_STREAM] = {"SELECT " EVENT_COLUMNS " FROM es_read_stream($1, $2, $3, $4)",
		4, {TEXTOID, INT8OID, INT8OID, BOOLOID}},
		[SOURCE_ALL] = {"SELECT " EVENT_COLUMNS " FROM es_read_all($1, $2, NULL, NULL, $3)",
		3, {INT8OID, INT8OID, BOOLOID}},
		[SOURCE_CATEGORY] = {"SELECT " EVENT_COLUMNS " FROM es_read_category($1, $2, $3, $4)",
		4, {TEXTOID, INT8OID, INT8OID, BOOLOID}},
		[SOURCE_TYPE] = {"SELECT " EVENT_COLUMNS " FROM es_read_all($2, $3, NULL, ARRAY[$1], $4)",
		4, {TEXTOID, INT8OID, INT8OID, BOOLOID}},
	};
	Query	   *q = query_new(&statements[source->kind], done, arg);

	if (source->kind != SOURCE_ALL)
		query_text(q, source->key);
	if (from < 0)
		query_null(q);
	else
		query_int8(q, from);
	query_int8(q, limit);
	query_bool(q, backward);
	query_by_row(q, row);
	return q;
}
