/*-------------------------------------------------------------------------
 * log/chain.h
 *	  The hashes that make tampering with a stream show.
 *-------------------------------------------------------------------------
 */
#ifndef ES_LOG_CHAIN_H
#define ES_LOG_CHAIN_H

#include "datatype/timestamp.h"
#include "utils/array.h"
#include "utils/jsonb.h"
#include "utils/uuid.h"

#define ES_HASH_LEN		32		/* SHA-256 */

/* what the hash of an event is made of, but for its position */
typedef struct EsChainEvent
{
	const char *stream;			/* not zero-terminated; NULL = none */
	int			stream_len;
	int64		version;		/* 0 = belongs to no stream */
	const pg_uuid_t *event_id;
	const char *type;			/* not zero-terminated */
	int			type_len;
	int32		schema_version;
	TimestampTz created_at;
	Jsonb	   *data;
	Jsonb	   *metadata;
	ArrayType  *tags;			/* as stored; NULL = none */
} EsChainEvent;

/* the chain of one stream, as far as it goes */
typedef struct EsChain
{
	const char *stream;			/* not zero-terminated; NULL = none */
	int			stream_len;
	bool		begun;			/* the last event has a hash */
	uint8		last[ES_HASH_LEN];	/* that hash; zeros at the beginning */
} EsChain;

extern void es_chain_content(const EsChainEvent *event, uint8 *result);
extern void es_chain_link(const uint8 *previous, int64 position, const uint8 *content,
						  uint8 *result);

#endif							/* ES_LOG_CHAIN_H */
