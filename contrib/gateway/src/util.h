/*-------------------------------------------------------------------------
 * util.h
 *	  Memory that is never NULL, and a buffer of bytes that grows.
 *
 * The gateway ends when the machine has no memory left: systemd starts it
 * again, clients connect again, and all state worth keeping is in PostgreSQL.
 *-------------------------------------------------------------------------
 */
#ifndef GW_UTIL_H
#define GW_UTIL_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

typedef struct Buf
{
	char	   *data;
	size_t		len;
	size_t		size;
} Buf;

extern void *xmalloc(size_t size);
extern void *xcalloc(size_t size);
extern void *xrealloc(void *p, size_t size);
extern char *xstrdup(const char *s);
extern char *xstrndup(const char *s, size_t len);
extern char *xprintf(const char *format,...) __attribute__((format(printf, 1, 2)));

extern void buf_reserve(Buf *buf, size_t more);
extern void buf_add(Buf *buf, const void *data, size_t len);
extern void buf_str(Buf *buf, const char *s);
extern void buf_char(Buf *buf, char c);
extern void buf_printf(Buf *buf, const char *format,...) __attribute__((format(printf, 2, 3)));
extern void buf_free(Buf *buf);

/* milliseconds of a clock that only goes forward */
extern int64_t now_ms(void);

static inline void
put_u32(uint8_t *p, uint32_t v)
{
	p[0] = v >> 24;
	p[1] = v >> 16;
	p[2] = v >> 8;
	p[3] = v;
}

static inline void
put_u64(uint8_t *p, uint64_t v)
{
	put_u32(p, v >> 32);
	put_u32(p + 4, (uint32_t) v);
}

static inline uint32_t
get_u32(const void *data)
{
	const uint8_t *p = data;

	return (uint32_t) p[0] << 24 | (uint32_t) p[1] << 16 | (uint32_t) p[2] << 8 | p[3];
}

static inline uint64_t
get_u64(const void *data)
{
	return (uint64_t) get_u32(data) << 32 | get_u32((const uint8_t *) data + 4);
}

#endif							/* GW_UTIL_H */
