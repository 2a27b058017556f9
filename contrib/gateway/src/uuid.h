/*-------------------------------------------------------------------------
 * uuid.h
 *	  UUIDs in the two forms of the protocol: text, and two 64-bit halves.
 *-------------------------------------------------------------------------
 */
#ifndef GW_UUID_H
#define GW_UUID_H

#include <stdbool.h>
#include <stdint.h>

#include "common.pb-c.h"

#define UUID_TEXT	37			/* with the zero byte */

/* false: none, or not one */
extern bool uuid_read(const Gw__Uuid *from, uint8_t id[16]);
extern bool uuid_parse(const char *text, uint8_t id[16]);
extern void uuid_format(const uint8_t id[16], char text[UUID_TEXT]);
extern void uuid_random(uint8_t id[16]);

#endif							/* GW_UUID_H */
