/*-------------------------------------------------------------------------
 * util.c
 *	  See util.h.
 *-------------------------------------------------------------------------
 */
#include "util.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <time.h>

static void *
checked(void *p)
{
	if (p == NULL)
	{
		fprintf(stderr, "%s: out of memory\n", program_invocation_short_name);
		abort();
	}
	return p;
}

void *
xmalloc(size_t size)
{
	return checked(malloc(size ? size : 1));
}

void *
xcalloc(size_t size)
{
	return checked(calloc(1, size ? size : 1));
}

void *
xrealloc(void *p, size_t size)
{
	return checked(realloc(p, size ? size : 1));
}

char *
xstrdup(const char *s)
{
	return checked(strdup(s));
}

/* The text may contain zero bytes; one more is put behind it. */
char *
xstrndup(const char *s, size_t len)
{
	char	   *copy = xmalloc(len + 1);

	memcpy(copy, s, len);
	copy[len] = '\0';
	return copy;
}

static void
buf_vprintf(Buf *buf, const char *format, va_list args)
{
	va_list		again;
	int			len;

	va_copy(again, args);
	len = vsnprintf(NULL, 0, format, again);
	va_end(again);
	if (len < 0)
		return;
	buf_reserve(buf, len + 1);
	vsnprintf(buf->data + buf->len, len + 1, format, args);
	buf->len += len;
}

char *
xprintf(const char *format,...)
{
	Buf			buf = {0};
	va_list		args;

	va_start(args, format);
	buf_vprintf(&buf, format, args);
	va_end(args);
	return buf.data ? buf.data : xstrdup("");
}

void
buf_reserve(Buf *buf, size_t more)
{
	if (buf->size - buf->len >= more)
		return;
	buf->size = buf->size * 2 > buf->len + more ? buf->size * 2 : buf->len + more;
	if (buf->size < 64)
		buf->size = 64;
	buf->data = xrealloc(buf->data, buf->size);
}

void
buf_add(Buf *buf, const void *data, size_t len)
{
	if (len == 0)
		return;
	buf_reserve(buf, len);
	memcpy(buf->data + buf->len, data, len);
	buf->len += len;
}

void
buf_str(Buf *buf, const char *s)
{
	buf_add(buf, s, strlen(s));
}

void
buf_char(Buf *buf, char c)
{
	buf_add(buf, &c, 1);
}

void
buf_printf(Buf *buf, const char *format,...)
{
	va_list		args;

	va_start(args, format);
	buf_vprintf(buf, format, args);
	va_end(args);
}

void
buf_free(Buf *buf)
{
	free(buf->data);
	memset(buf, 0, sizeof(*buf));
}

int64_t
now_ms(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (int64_t) t.tv_sec * 1000 + t.tv_nsec / 1000000;
}
