/*-------------------------------------------------------------------------
 * payload.c
 *	  See payload.h.
 *-------------------------------------------------------------------------
 */
#include "payload.h"

#include "base64.h"
#include "json.h"

#define KEY_BYTES		"$base64"
#define KEY_TYPE		"$content-type"
#define KEY_METADATA	"$raw-metadata"

/* Is that an object with members of its own only? */
static bool
plain_object(const char *text, size_t len)
{
	JsonMember	member;
	size_t		at = 0;

	while (at < len && strchr(" \t\r\n", text[at]) != NULL && text[at])
		at++;
	if (at == len || text[at] != '{' || !json_storable(text, len))
		return false;
	at = 0;
	while (json_next_member(text, len, &at, &member))
	{
		/* an escape could spell one of the names */
		if (memchr(member.key, '\\', member.key_len))
			return false;
		if ((member.key_len == strlen(KEY_TYPE) && memcmp(member.key, KEY_TYPE, member.key_len) == 0) ||
			(member.key_len == strlen(KEY_METADATA) && memcmp(member.key, KEY_METADATA, member.key_len) == 0))
			return false;
	}
	return true;
}

void
payload_store(const char *content_type, const void *data, size_t data_len,
			  const void *metadata, size_t metadata_len, Buf *data_out, Buf *metadata_out)
{
	bool		json = strcmp(content_type, JSON_TYPE) == 0 && json_storable(data, data_len);
	bool		plain = metadata_len == 0 || plain_object(metadata, metadata_len);
	const char *rest = metadata;
	size_t		rest_len = metadata_len;

	if (json)
		buf_add(data_out, data, data_len);
	else
	{
		buf_str(data_out, "{\"" KEY_BYTES "\":\"");
		base64_encode(data_out, data, data_len);
		buf_str(data_out, "\"}");
	}
	if (json && plain && metadata_len > 0)
	{
		buf_add(metadata_out, metadata, metadata_len);
		return;
	}
	buf_char(metadata_out, '{');
	if (!json)
	{
		buf_str(metadata_out, "\"" KEY_TYPE "\":");
		json_quote(metadata_out, content_type, strlen(content_type));
	}
	if (!plain)
	{
		if (!json)
			buf_char(metadata_out, ',');
		buf_str(metadata_out, "\"" KEY_METADATA "\":\"");
		base64_encode(metadata_out, metadata, metadata_len);
		buf_char(metadata_out, '"');
	}
	else if (metadata_len > 0)
	{
		JsonMember	member;
		size_t		at = 0;

		/* the client's members behind ours */
		while (*rest != '{')
			rest++, rest_len--;
		if (json_next_member(rest, rest_len, &at, &member))
		{
			buf_char(metadata_out, ',');
			buf_add(metadata_out, rest + 1, rest_len - 1);
			return;
		}
	}
	buf_char(metadata_out, '}');
}

static char *
decode_member(const JsonMember *member, size_t *len)
{
	if (member->value_len < 2 || member->value[0] != '"')
		return NULL;
	return base64_decode(member->value + 1, member->value_len - 2, len);
}

void
payload_load(Payload *payload, const char *data, size_t data_len, const char *metadata, size_t metadata_len)
{
	JsonMember	type,
				member;
	bool		typed = false;

	payload->content_type = JSON_TYPE;
	payload->content_type_len = strlen(JSON_TYPE);
	payload->data = data;
	payload->data_len = data_len;
	payload->metadata = metadata;
	payload->metadata_len = metadata_len;
	payload->scratch[0] = payload->scratch[1] = NULL;

	if (metadata_len <= 2)
	{
		payload->metadata_len = 0;
		return;
	}
	/* nearly all events have none of this */
	if (memmem(metadata, metadata_len, "\"$", 2) == NULL)
		return;

	if (json_find(metadata, metadata_len, KEY_TYPE, &type) && type.value_len >= 2 && type.value[0] == '"')
	{
		size_t		at = 0;

		typed = true;
		payload->content_type = type.value + 1;
		payload->content_type_len = type.value_len - 2;
		if (json_next_member(data, data_len, &at, &member) &&
			member.key_len == strlen(KEY_BYTES) && memcmp(member.key, KEY_BYTES, member.key_len) == 0)
		{
			payload->scratch[0] = decode_member(&member, &payload->data_len);
			if (payload->scratch[0])
				payload->data = payload->scratch[0];
			else
				payload->data_len = data_len;
		}
	}
	if (json_find(metadata, metadata_len, KEY_METADATA, &member))
	{
		payload->scratch[1] = decode_member(&member, &payload->metadata_len);
		if (payload->scratch[1])
			payload->metadata = payload->scratch[1];
		else
			payload->metadata_len = metadata_len;
	}
	else if (typed)
	{
		Buf			rest = {0};
		size_t		at = 0;

		while (json_next_member(metadata, metadata_len, &at, &member))
		{
			if (member.value == type.value)
				continue;
			buf_char(&rest, rest.len ? ',' : '{');
			buf_char(&rest, '"');
			buf_add(&rest, member.key, member.key_len);
			buf_str(&rest, "\":");
			buf_add(&rest, member.value, member.value_len);
		}
		if (rest.len)
			buf_char(&rest, '}');
		payload->scratch[1] = rest.data;
		payload->metadata = rest.data;
		payload->metadata_len = rest.len;
	}
}

void
payload_free(Payload *payload)
{
	free(payload->scratch[0]);
	free(payload->scratch[1]);
}
