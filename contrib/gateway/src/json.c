/*-------------------------------------------------------------------------
 * json.c
 *	  See json.h.
 *
 * json_storable() is stricter than RFC 8259 where jsonb is: no \u0000, no lone
 * surrogates, no numbers that numeric cannot hold, and a depth that leaves
 * PostgreSQL's stack alone.
 *-------------------------------------------------------------------------
 */
#include "json.h"

#define MAX_DEPTH		500
#define MAX_DIGITS		1000
#define MAX_EXPONENT	1000

typedef struct Scan
{
	const unsigned char *p;
	const unsigned char *end;
} Scan;

static void
skip_space(Scan *s)
{
	while (s->p < s->end && (*s->p == ' ' || *s->p == '\t' || *s->p == '\n' || *s->p == '\r'))
		s->p++;
}

static int
hex4(const unsigned char *p)
{
	int			v = 0;

	for (int i = 0; i < 4; i++)
	{
		int			d = p[i] >= '0' && p[i] <= '9' ? p[i] - '0' :
			(p[i] | 32) >= 'a' && (p[i] | 32) <= 'f' ? (p[i] | 32) - 'a' + 10 : -1;

		if (d < 0)
			return -1;
		v = v << 4 | d;
	}
	return v;
}

/* One character of UTF-8, as PostgreSQL understands it. */
static bool
utf8(Scan *s)
{
	const unsigned char *p = s->p;
	int			n;

	if (p[0] < 0x80)
		n = 1;
	else if (p[0] >= 0xc2 && p[0] <= 0xdf)
		n = 2;
	else if ((p[0] & 0xf0) == 0xe0)
		n = 3;
	else if (p[0] >= 0xf0 && p[0] <= 0xf4)
		n = 4;
	else
		return false;
	if (s->end - p < n)
		return false;
	for (int i = 1; i < n; i++)
		if ((p[i] & 0xc0) != 0x80)
			return false;
	if ((p[0] == 0xe0 && p[1] < 0xa0) || (p[0] == 0xed && p[1] > 0x9f) ||
		(p[0] == 0xf0 && p[1] < 0x90) || (p[0] == 0xf4 && p[1] > 0x8f))
		return false;
	s->p += n;
	return true;
}

static bool
string(Scan *s)
{
	if (s->p >= s->end || *s->p != '"')
		return false;
	s->p++;
	while (s->p < s->end)
	{
		if (*s->p == '"')
		{
			s->p++;
			return true;
		}
		if (*s->p < 0x20)
			return false;
		if (*s->p != '\\')
		{
			if (!utf8(s))
				return false;
			continue;
		}
		if (s->end - s->p < 2)
			return false;
		if (s->p[1] == 'u')
		{
			int			unit,
						low;

			if (s->end - s->p < 6)
				return false;
			unit = hex4(s->p + 2);
			if (unit <= 0 || (unit >= 0xdc00 && unit <= 0xdfff))
				return false;
			s->p += 6;
			if (unit >= 0xd800 && unit <= 0xdbff)
			{
				if (s->end - s->p < 6 || s->p[0] != '\\' || s->p[1] != 'u')
					return false;
				low = hex4(s->p + 2);
				if (low < 0xdc00 || low > 0xdfff)
					return false;
				s->p += 6;
			}
			continue;
		}
		if (s->p[1] == '\0' || strchr("\"\\/bfnrt", s->p[1]) == NULL)
			return false;
		s->p += 2;
	}
	return false;
}

static int
digits(Scan *s)
{
	const unsigned char *start = s->p;

	while (s->p < s->end && *s->p >= '0' && *s->p <= '9')
		s->p++;
	return s->p - start > MAX_DIGITS ? -1 : s->p - start;
}

static bool
number(Scan *s)
{
	if (s->p < s->end && *s->p == '-')
		s->p++;
	if (s->p < s->end && *s->p == '0')
		s->p++;
	else if (digits(s) <= 0)
		return false;
	if (s->p < s->end && *s->p == '.')
	{
		s->p++;
		if (digits(s) <= 0)
			return false;
	}
	if (s->p < s->end && (*s->p | 32) == 'e')
	{
		int			value = 0;
		const unsigned char *start;

		s->p++;
		if (s->p < s->end && (*s->p == '+' || *s->p == '-'))
			s->p++;
		start = s->p;
		if (digits(s) <= 0)
			return false;
		for (; start < s->p; start++)
			if ((value = value * 10 + *start - '0') > MAX_EXPONENT)
				return false;
	}
	return true;
}

static bool
word(Scan *s, const char *expected)
{
	size_t		len = strlen(expected);

	if ((size_t) (s->end - s->p) < len || memcmp(s->p, expected, len) != 0)
		return false;
	s->p += len;
	return true;
}

static bool
value(Scan *s, int depth)
{
	skip_space(s);
	if (s->p >= s->end)
		return false;
	switch (*s->p)
	{
		case '"':
			return string(s);
		case 't':
			return word(s, "true");
		case 'f':
			return word(s, "false");
		case 'n':
			return word(s, "null");
		case '{':
		case '[':
			{
				bool		object = *s->p == '{';
				unsigned char close = object ? '}' : ']';

				if (depth >= MAX_DEPTH)
					return false;
				s->p++;
				skip_space(s);
				if (s->p < s->end && *s->p == close)
				{
					s->p++;
					return true;
				}
				for (;;)
				{
					if (object)
					{
						skip_space(s);
						if (!string(s))
							return false;
						skip_space(s);
						if (s->p >= s->end || *s->p++ != ':')
							return false;
					}
					if (!value(s, depth + 1))
						return false;
					skip_space(s);
					if (s->p >= s->end)
						return false;
					if (*s->p == close)
					{
						s->p++;
						return true;
					}
					if (*s->p++ != ',')
						return false;
				}
			}
		default:
			return number(s);
	}
}

bool
json_storable(const char *text, size_t len)
{
	Scan		s = {(const unsigned char *) text, (const unsigned char *) text + len};

	if (!value(&s, 0))
		return false;
	skip_space(&s);
	return s.p == s.end;
}

bool
json_next_member(const char *text, size_t len, size_t *at, JsonMember *member)
{
	Scan		s = {(const unsigned char *) text + *at, (const unsigned char *) text + len};

	skip_space(&s);
	if (s.p >= s.end || *s.p != (*at == 0 ? '{' : ','))
		return false;
	s.p++;
	skip_space(&s);
	member->key = (const char *) s.p + 1;
	if (!string(&s))
		return false;
	member->key_len = (const char *) s.p - member->key - 1;
	skip_space(&s);
	if (s.p >= s.end || *s.p++ != ':')
		return false;
	skip_space(&s);
	member->value = (const char *) s.p;
	if (!value(&s, 0))
		return false;
	member->value_len = (const char *) s.p - member->value;
	*at = (const char *) s.p - text;
	return true;
}

bool
json_find(const char *text, size_t len, const char *key, JsonMember *member)
{
	size_t		at = 0;

	while (json_next_member(text, len, &at, member))
		if (member->key_len == strlen(key) && memcmp(member->key, key, member->key_len) == 0)
			return true;
	return false;
}

void
json_quote(Buf *out, const char *text, size_t len)
{
	buf_char(out, '"');
	for (size_t i = 0; i < len; i++)
	{
		unsigned char c = text[i];

		if (c == '"' || c == '\\')
		{
			buf_char(out, '\\');
			buf_char(out, c);
		}
		else if (c < 0x20)
			buf_printf(out, "\\u%04x", c);
		else
			buf_char(out, c);
	}
	buf_char(out, '"');
}
