/*-------------------------------------------------------------------------
 * unpack.c
 *	  The parts of a message that a client sent, after a look whether they can
 *	  be what somebody means.
 *
 * protobuf-c takes whatever the wire has: two bytes can be a part that takes a
 * hundred, and a text ends at its first zero byte.
 *-------------------------------------------------------------------------
 */
#include "call.h"

#include <string.h>

#define MAX_PARTS		1000000
#define MAX_NESTING		100

/* A number of the wire; false: there is none. */
static bool
read_varint(const uint8_t **p, const uint8_t *end, uint64_t *value)
{
	*value = 0;
	for (int shift = 0; shift < 64 && *p < end; shift += 7)
	{
		uint8_t		byte = *(*p)++;

		*value |= (uint64_t) (byte & 0x7f) << shift;
		if (byte < 0x80)
			return true;
	}
	return false;
}

static bool
look_over(const ProtobufCMessageDescriptor *form, const uint8_t *p, size_t len, int depth, int *parts)
{
	const uint8_t *end = p + len;

	if (depth > MAX_NESTING)
		return false;
	while (p < end)
	{
		const ProtobufCFieldDescriptor *field;
		uint64_t	tag,
					size = 0;

		if (++*parts > MAX_PARTS || !read_varint(&p, end, &tag))
			return false;
		switch (tag & 7)
		{
			case 0:
				if (!read_varint(&p, end, &tag))
					return false;
				continue;
			case 1:
				size = 8;
				break;
			case 2:
				if (!read_varint(&p, end, &size))
					return false;
				break;
			case 5:
				size = 4;
				break;
			default:
				return false;
		}
		if (size > (uint64_t) (end - p))
			return false;
		field = (tag & 7) == 2 && tag >> 3 <= UINT32_MAX ?
			protobuf_c_message_descriptor_get_field(form, (unsigned) (tag >> 3)) : NULL;
		if (field && field->type == PROTOBUF_C_TYPE_STRING && memchr(p, '\0', size))
			return false;
		if (field && field->type == PROTOBUF_C_TYPE_MESSAGE && !look_over(field->descriptor, p, size, depth + 1, parts))
			return false;
		p += size;
	}
	return true;
}

void *
call_unpack(const ProtobufCMessageDescriptor *form, const uint8_t *data, size_t len)
{
	int			parts = 0;

	return look_over(form, data, len, 0, &parts) ? protobuf_c_message_unpack(form, NULL, len, data) : NULL;
}
