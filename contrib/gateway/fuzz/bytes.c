/*-------------------------------------------------------------------------
 * bytes.c
 *	  libFuzzer: everything that parses bytes by hand.
 *
 * What a client sends as data and metadata must come back the same, whatever
 * it is, and what is sent to PostgreSQL must be JSON.
 *-------------------------------------------------------------------------
 */
#include "base64.h"
#include "json.h"
#include "payload.h"
#include "uuid.h"

extern int	LLVMFuzzerTestOneInput(const uint8_t *input, size_t size);

static void
check(bool so)
{
	if (!so)
		abort();
}

static void
round_trip(const char *type, const char *data, size_t data_len, const char *metadata, size_t metadata_len)
{
	Buf			d = {0},
				m = {0};
	Payload		back;

	payload_store(type, data, data_len, metadata, metadata_len, &d, &m);
	check(json_storable(d.data, d.len));
	check(json_storable(m.data, m.len));
	payload_load(&back, d.data, d.len, m.data, m.len);
	check(back.content_type_len == strlen(type) && memcmp(back.content_type, type, back.content_type_len) == 0);
	check(back.data_len == data_len && memcmp(back.data, data, data_len) == 0);
	if (!json_storable(metadata, metadata_len) || metadata[strspn(metadata, " \t\r\n")] != '{')
		check(back.metadata_len == metadata_len && (metadata_len == 0 || memcmp(back.metadata, metadata, metadata_len) == 0));
	else
		/* an object: the same members, perhaps without the space between them */
		check(back.metadata_len == 0 || json_storable(back.metadata, back.metadata_len));
	payload_free(&back);
	buf_free(&d);
	buf_free(&m);
}

int
LLVMFuzzerTestOneInput(const uint8_t *input, size_t size)
{
	/* with a zero byte behind it, as gRPC's slices do not have */
	char	   *text = xstrndup((const char *) input, size);
	size_t		cut = size ? input[0] * (size - 1) / 255 : 0;
	size_t		at = 0,
				len;
	JsonMember	member;
	Buf			out = {0};
	char	   *decoded;
	uint8_t		id[16];
	char		formatted[UUID_TEXT];

	while (json_next_member(text, size, &at, &member))
		check(member.value + member.value_len <= text + size);

	decoded = base64_decode(text, size, &len);
	if (decoded)
	{
		base64_encode(&out, decoded, len);
		check(out.len == size);
		free(decoded);
		buf_free(&out);
	}
	base64_encode(&out, text, size);
	decoded = base64_decode(out.data ? out.data : "", out.len, &len);
	check(decoded && len == size && memcmp(decoded, text, size) == 0);
	free(decoded);
	buf_free(&out);

	if (uuid_parse(text, id))
	{
		uuid_format(id, formatted);
		check(strcasecmp(formatted, text) == 0);
	}
	if (size > 0)
	{
		char	   *a = xstrndup(text + 1, cut);
		char	   *b = xstrndup(text + 1 + cut, size - 1 - cut);

		round_trip(JSON_TYPE, a, cut, b, size - 1 - cut);
		round_trip(BYTES_TYPE, a, cut, b, size - 1 - cut);
		free(a);
		free(b);
	}
	free(text);
	return 0;
}
