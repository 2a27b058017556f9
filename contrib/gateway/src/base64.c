/*-------------------------------------------------------------------------
 * base64.c
 *	  See base64.h.
 *-------------------------------------------------------------------------
 */
#include "base64.h"

static const char alphabet[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

void
base64_encode(Buf *out, const void *data, size_t len)
{
	const uint8_t *p = data;

	buf_reserve(out, (len + 2) / 3 * 4);
	for (; len > 0; p += 3, len = len > 3 ? len - 3 : 0)
	{
		uint32_t	bits = p[0] << 16 | (len > 1 ? p[1] << 8 : 0) | (len > 2 ? p[2] : 0);
		char		four[4];

		four[0] = alphabet[bits >> 18];
		four[1] = alphabet[bits >> 12 & 63];
		four[2] = len > 1 ? alphabet[bits >> 6 & 63] : '=';
		four[3] = len > 2 ? alphabet[bits & 63] : '=';
		buf_add(out, four, 4);
	}
}

char *
base64_decode(const char *text, size_t len, size_t *out_len)
{
	static signed char values[256];
	static bool filled;
	char	   *out;
	size_t		n = 0;

	if (!filled)
	{
		memset(values, -1, sizeof(values));
		for (int i = 0; i < 64; i++)
			values[(unsigned char) alphabet[i]] = i;
		filled = true;
	}
	if (len % 4 != 0)
		return NULL;
	out = xmalloc(len / 4 * 3 + 1);
	for (size_t i = 0; i < len; i += 4)
	{
		int			pad = i + 4 == len ? (text[i + 3] == '=') + (text[i + 3] == '=' && text[i + 2] == '=') : 0;
		uint32_t	bits = 0;

		for (int k = 0; k < 4; k++)
		{
			int			v = k >= 4 - pad ? 0 : values[(unsigned char) text[i + k]];

			if (v < 0)
			{
				free(out);
				return NULL;
			}
			bits = bits << 6 | v;
		}
		out[n++] = bits >> 16;
		if (pad < 2)
			out[n++] = bits >> 8;
		if (pad < 1)
			out[n++] = bits;
	}
	out[n] = '\0';
	*out_len = n;
	return out;
}
