/*-------------------------------------------------------------------------
 * cloudevent.c
 *	  See cloudevent.h; README.md has the table of what becomes what.
 *-------------------------------------------------------------------------
 */
#include "cloudevent.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

#include "json.h"
#include "settings.h"

/* seconds from 1970 to 2000, where PostgreSQL's time begins */
#define EPOCH_2000 INT64_C(946684800)

char	   *cloudevent_source;

/* A time that RFC 3339 cannot say is none. */
static bool
format_time(int64_t microseconds, char *out, size_t size)
{
	int64_t		seconds = microseconds / 1000000;
	int64_t		rest = microseconds % 1000000;
	struct tm	tm;
	time_t		t;
	size_t		len;

	if (microseconds == INT64_MIN || microseconds == INT64_MAX)
		return false;
	if (rest < 0)
	{
		rest += 1000000;
		seconds--;
	}
	t = seconds + EPOCH_2000;
	if (gmtime_r(&t, &tm) == NULL || tm.tm_year + 1900 < 1 || tm.tm_year + 1900 > 9999)
		return false;
	len = snprintf(out, size, "%04d-", tm.tm_year + 1900);
	len += strftime(out + len, size - len, "%m-%dT%H:%M:%S", &tm);
	snprintf(out + len, size - len, ".%06" PRId64 "Z", rest);
	return true;
}

int
cloudevent_attributes(const Event *event, Attribute *attributes)
{
	static char sequence[24];
	static char version[24];
	static char schema[12];
	static char time[48];
	static char *trace[2];
	static const char *const trace_names[2] = {"traceparent", "tracestate"};
	int			n = 0;

#define ADD(...) attributes[n++] = (Attribute) {__VA_ARGS__}
	ADD("specversion", "1.0");
	ADD("id", event->id);
	ADD("source", settings.source ? settings.source : cloudevent_source);
	ADD("type", event->type);
	if (event->stream)
		ADD("subject", event->stream);
	if (format_time(event->created_at, time, sizeof(time)))
		ADD("time", time);
	if (event->key)
		ADD("partitionkey", event->key);
	/* texts of this order as the numbers */
	snprintf(sequence, sizeof(sequence), "%019" PRId64, event->position);
	ADD("sequence", sequence);
	if (event->stream)
	{
		snprintf(version, sizeof(version), "%" PRId64, event->version);
		ADD("streamversion", version);
	}
	snprintf(schema, sizeof(schema), "%d", event->schema_version);
	ADD("schemaversion", schema, true);
	if (event->metadata_len > 2)
		ADD("metadata", event->metadata);
	for (int i = 0; event->metadata_len > 2 && i < 2; i++)
	{
		JsonMember	member;

		free(trace[i]);
		trace[i] = NULL;
		/* as the standard wants it, or not at all */
		if (json_find(event->metadata, event->metadata_len, trace_names[i], &member) &&
			member.value_len > 2 && member.value[0] == '"' &&
			memchr(member.value, '\\', member.value_len) == NULL)
		{
			trace[i] = xstrndup(member.value + 1, member.value_len - 2);
			ADD(trace_names[i], trace[i]);
		}
	}
#undef ADD
	return n;
}

void
cloudevent_json(Buf *out, const Event *event)
{
	Attribute	attributes[MAX_ATTRIBUTES];
	int			n = cloudevent_attributes(event, attributes);

	buf_char(out, '{');
	for (int i = 0; i < n; i++)
	{
		buf_char(out, '"');
		buf_str(out, attributes[i].name);
		buf_str(out, "\":");
		if (attributes[i].number)
			buf_str(out, attributes[i].value);
		else
			json_quote(out, attributes[i].value, strlen(attributes[i].value));
		buf_char(out, ',');
	}
	buf_str(out, "\"datacontenttype\":\"" CLOUDEVENT_DATA "\",\"data\":");
	buf_add(out, event->data, event->data_len);
	buf_char(out, '}');
}

/* what cloudevent_json() begins with */
static const char *
id_in(const char *line)
{
	static const char head[] = "{\"specversion\":\"1.0\",\"id\":\"";
	const char *id = line + strlen(head);

	return strncmp(line, head, strlen(head)) == 0 && strcspn(id, "\"\\") == EVENT_ID_LEN && id[EVENT_ID_LEN] == '"' ?
		id : NULL;
}

bool
cloudevent_is(const char *line, const Event *event)
{
	const char *id = id_in(line);

	return id && strncmp(id, event->id, EVENT_ID_LEN) == 0;
}

int64_t
cloudevent_seen(const char *line)
{
	const char *found = id_in(line);
	char		id[EVENT_ID_LEN + 1];

	if (found == NULL)
		return 0;
	memcpy(id, found, EVENT_ID_LEN);
	id[EVENT_ID_LEN] = '\0';
	return seen_key(id);
}

void
cloudevent_header(Buf *out, const char *value)
{
	for (const unsigned char *p = (const unsigned char *) value; *p; p++)
	{
		if (*p <= ' ' || *p >= 0x7f || *p == '"' || *p == '%')
			buf_printf(out, "%%%02X", *p);
		else
			buf_char(out, *p);
	}
}

static void
expand(Buf *out, const char *value, size_t len, const char *special)
{
	/* nowhere may a part of a name be empty */
	if (len == 0)
		buf_char(out, '_');
	for (size_t i = 0; i < len; i++)
	{
		unsigned char c = value[i];

		if (c < ' ' || c == 0x7f || strchr(special, c))
			buf_printf(out, "%%%02X", c);
		else
			buf_char(out, c);
	}
}

void
target_expand(Buf *out, const char *target, const Event *event, const char *special)
{
	const char *stream = event->stream ? event->stream : "";

	for (const char *p = target; *p; p++)
	{
		if (strncmp(p, "{category}", 10) == 0)
		{
			expand(out, stream, strcspn(stream, "-"), special);
			p += 9;
		}
		else if (strncmp(p, "{stream}", 8) == 0)
		{
			expand(out, stream, strlen(stream), special);
			p += 7;
		}
		else if (strncmp(p, "{type}", 6) == 0)
		{
			expand(out, event->type, strlen(event->type), special);
			p += 5;
		}
		else
			buf_char(out, *p);
	}
}

bool
target_varies(const char *target)
{
	return strstr(target, "{category}") || strstr(target, "{stream}") || strstr(target, "{type}");
}
