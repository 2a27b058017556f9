/*-------------------------------------------------------------------------
 * base64.h
 *	  RFC 4648, with padding, without line breaks.
 *-------------------------------------------------------------------------
 */
#ifndef GW_BASE64_H
#define GW_BASE64_H

#include <stddef.h>

#include "util.h"

extern void base64_encode(Buf *out, const void *data, size_t len);
/* to be freed; one zero byte is put behind it.  NULL: that is no base64 */
extern char *base64_decode(const char *text, size_t len, size_t *out_len);

#endif							/* GW_BASE64_H */
