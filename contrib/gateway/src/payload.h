/*-------------------------------------------------------------------------
 * payload.h
 *	  What a client calls data and metadata (any bytes), as what the store
 *	  keeps (two jsonb), and back.
 *
 * JSON stays JSON: data of content type application/json goes into the column
 * data, a JSON object as metadata into the column metadata.  Everything else
 * is kept byte for byte:
 *
 *	  data		{"$base64": "..."}, and in the metadata "$content-type": "..."
 *	  metadata	"$raw-metadata": "..." (base64), instead of the client's members
 *
 * JSON that jsonb cannot hold (see json_storable) goes that way too.  Metadata
 * with a member of one of these two names is kept as "$raw-metadata", so that
 * nothing is taken for what it is not.
 *-------------------------------------------------------------------------
 */
#ifndef GW_PAYLOAD_H
#define GW_PAYLOAD_H

#include "util.h"

#define JSON_TYPE	"application/json"
#define BYTES_TYPE	"application/octet-stream"

/* Appends the two JSON texts to the buffers. */
extern void payload_store(const char *content_type, const void *data, size_t data_len,
						  const void *metadata, size_t metadata_len, Buf *data_out, Buf *metadata_out);

typedef struct Payload
{
	const char *content_type;
	size_t		content_type_len;
	const char *data;
	size_t		data_len;
	const char *metadata;		/* nothing for {} */
	size_t		metadata_len;
	char	   *scratch[2];		/* what had to be decoded */
} Payload;

/* From the texts of two jsonb, which must last as long as the result. */
extern void payload_load(Payload *payload, const char *data, size_t data_len,
						 const char *metadata, size_t metadata_len);
extern void payload_free(Payload *payload);

#endif							/* GW_PAYLOAD_H */
