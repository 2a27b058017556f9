/*-------------------------------------------------------------------------
 * log/chain.c
 *	  The hashes that make tampering with a stream show.
 *
 * With event_store.hash_chain on each event carries, in column "hash",
 *
 *	hash	= SHA-256(hash of the event before it in the stream, position, content)
 *	content	= SHA-256(stream, version, event id, type, schema version, created_at,
 *			  SHA-256(data), SHA-256(metadata), number of tags, tags)
 *
 * Numbers are in network byte order, as their send functions make them; names
 * and tags are preceded by their length in bytes, 4 bytes; text is UTF-8, data
 * and metadata are their text form.  So the hash survives dump and restore,
 * pg_upgrade and logical replication between unlike machines, and whoever does
 * not trust this code can recompute it in SQL.
 *
 * A stream's lock makes the chain a chain: under it the last event is known.
 * The position is known only under the insertion lock (log/order.c), so there
 * the short outer hash is made, and everything else before it.
 *
 * The chain of a stream begins with the first event that has a hash, whose
 * predecessor counts as 32 zero bytes.  Once begun it goes on whatever the
 * setting says: an event without hash behind one with a hash is no sound
 * state, so nobody can strip hashes and say that the setting was off.
 * An event that belongs to no stream has no predecessor: no lock orders these,
 * and the insertion lock, which does, must not wait for who rolls back.  It
 * carries a hash of itself.
 *
 * The column is left out of the row of an event without hash, as "tags" is
 * (log/write.c).  A table of its own would cost an index and a heap row for
 * each event and would have to be kept in step by replication and restore.
 *
 * There is no secret in it.  Who may write the tables may also recompute the
 * hashes from the change to the end of the stream, or cut off the end; that
 * shows when the last hashes are kept where he cannot write (doc/operations.md).
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "fmgr.h"
#include "lib/stringinfo.h"
#include "libpq/pqformat.h"
#include "mb/pg_wchar.h"
#include "utils/builtins.h"
#include "utils/fmgrprotos.h"

#include "log/chain.h"
#include "log/tags.h"

/*
 * The server's own SHA-256.
 *
 * buf			made by es_hash_begin
 */
static void
es_hash_end(StringInfo buf, uint8 *result)
{
	bytea	   *hash;

	SET_VARSIZE(buf->data, buf->len);
	hash = DatumGetByteaPP(DirectFunctionCall1(sha256_bytea, PointerGetDatum(buf->data)));
	memcpy(result, VARDATA_ANY(hash), ES_HASH_LEN);
	pfree(hash);
	pfree(buf->data);
}

static void
es_hash_begin(StringInfo buf)
{
	initStringInfo(buf);
	appendStringInfoSpaces(buf, VARHDRSZ);
}

static void
es_hash_text(StringInfo buf, const char *text, int len)
{
	char	   *utf8 = len == 0 ? NULL : pg_server_to_any(text, len, PG_UTF8);

	if (utf8 != NULL && utf8 != text)
		len = strlen(utf8);
	pq_sendint32(buf, len);
	if (len > 0)
		appendBinaryStringInfo(buf, utf8, len);
}

static void
es_hash_jsonb(StringInfo buf, Jsonb *value)
{
	StringInfoData inner;
	uint8		hash[ES_HASH_LEN];
	StringInfoData text;
	char	   *utf8;

	initStringInfo(&text);
	(void) JsonbToCString(&text, &value->root, VARSIZE(value));
	utf8 = pg_server_to_any(text.data, text.len, PG_UTF8);
	es_hash_begin(&inner);
	appendBinaryStringInfo(&inner, utf8, utf8 == text.data ? text.len : (int) strlen(utf8));
	es_hash_end(&inner, hash);
	pfree(text.data);
	appendBinaryStringInfo(buf, (char *) hash, ES_HASH_LEN);
}

/*
 * Hash of everything in an event but its position.
 *
 * result		ES_HASH_LEN bytes
 */
void
es_chain_content(const EsChainEvent *event, uint8 *result)
{
	StringInfoData buf;
	Datum	   *tags = NULL;
	int			ntags = event->tags == NULL ? 0 : es_tags_elements(event->tags, &tags);

	es_hash_begin(&buf);
	es_hash_text(&buf, event->stream, event->stream == NULL ? 0 : event->stream_len);
	pq_sendint64(&buf, event->version);
	appendBinaryStringInfo(&buf, (const char *) event->event_id->data, UUID_LEN);
	es_hash_text(&buf, event->type, event->type_len);
	pq_sendint32(&buf, event->schema_version);
	pq_sendint64(&buf, event->created_at);
	es_hash_jsonb(&buf, event->data);
	es_hash_jsonb(&buf, event->metadata);
	pq_sendint32(&buf, ntags);
	for (int i = 0; i < ntags; i++)
	{
		text	   *tag = DatumGetTextPP(tags[i]);

		es_hash_text(&buf, VARDATA_ANY(tag), VARSIZE_ANY_EXHDR(tag));
	}
	es_hash_end(&buf, result);
}

/*
 * The hash of an event.
 *
 * previous		hash of the event before it in the stream; zeros = none
 * content		from es_chain_content
 * result		ES_HASH_LEN bytes; may be one of the others
 */
void
es_chain_link(const uint8 *previous, int64 position, const uint8 *content, uint8 *result)
{
	StringInfoData buf;

	es_hash_begin(&buf);
	appendBinaryStringInfo(&buf, (const char *) previous, ES_HASH_LEN);
	pq_sendint64(&buf, position);
	appendBinaryStringInfo(&buf, (const char *) content, ES_HASH_LEN);
	es_hash_end(&buf, result);
}
