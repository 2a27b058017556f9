/*-------------------------------------------------------------------------
 * uuid.c
 *	  See uuid.h.
 *-------------------------------------------------------------------------
 */
#include "uuid.h"

#include <string.h>
#include <sys/random.h>

#include "util.h"

static int
hex(char c)
{
	if (c >= '0' && c <= '9')
		return c - '0';
	if (c >= 'a' && c <= 'f')
		return c - 'a' + 10;
	if (c >= 'A' && c <= 'F')
		return c - 'A' + 10;
	return -1;
}

bool
uuid_parse(const char *text, uint8_t id[16])
{
	int			n = 0;

	if (strlen(text) != UUID_TEXT - 1)
		return false;
	for (int i = 0; i < UUID_TEXT - 1; i++)
	{
		if (i == 8 || i == 13 || i == 18 || i == 23)
		{
			if (text[i] != '-')
				return false;
			continue;
		}
		if (hex(text[i]) < 0 || hex(text[i + 1]) < 0)
			return false;
		id[n++] = hex(text[i]) << 4 | hex(text[i + 1]);
		i++;
	}
	return true;
}

bool
uuid_read(const Gw__Uuid *from, uint8_t id[16])
{
	if (from == NULL)
		return false;
	switch (from->form_case)
	{
		case GW__UUID__FORM_TEXT:
			return uuid_parse(from->text, id);
		case GW__UUID__FORM_HALVES:
			put_u64(id, (uint64_t) from->halves->high);
			put_u64(id + 8, (uint64_t) from->halves->low);
			return true;
		default:
			return false;
	}
}

void
uuid_format(const uint8_t id[16], char text[UUID_TEXT])
{
	static const char digits[] = "0123456789abcdef";
	char	   *p = text;

	for (int i = 0; i < 16; i++)
	{
		if (i == 4 || i == 6 || i == 8 || i == 10)
			*p++ = '-';
		*p++ = digits[id[i] >> 4];
		*p++ = digits[id[i] & 15];
	}
	*p = '\0';
}

/* Version 4. */
void
uuid_random(uint8_t id[16])
{
	if (getrandom(id, 16, 0) != 16)
		abort();
	id[6] = (id[6] & 0x0f) | 0x40;
	id[8] = (id[8] & 0x3f) | 0x80;
}
