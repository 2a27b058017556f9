/*-------------------------------------------------------------------------
 * log/write.h
 *	  Physical insertion of events.
 *-------------------------------------------------------------------------
 */
#ifndef ES_LOG_WRITE_H
#define ES_LOG_WRITE_H

#include "datatype/timestamp.h"
#include "executor/tuptable.h"
#include "storage/itemptr.h"
#include "utils/uuid.h"

#include "log/chain.h"
#include "log/store.h"

/* an event on its way into the store */
typedef struct EsNewEvent
{
	const char *type;			/* event type, not zero-terminated */
	int			type_len;
	bool		id_given;		/* false: the store makes the id */
	pg_uuid_t	event_id;
	int32		schema_version;
	int			target;			/* for the append: which of its streams */
	int			next;			/* next event of that stream, -1 = last */
	int64		stream_no;		/* set before writing; 0 = belongs to none */
	int32		type_no;		/* set before writing */
	Datum		data;			/* jsonb, in line and uncompressed */
	Datum		metadata;		/* the same, an object */
	struct ArrayType *tags;		/* as stored; NULL = none */
	int			ntags;
	bool		is_dated;		/* false: the store sets created_at */
	TimestampTz created_at;
	EsChain    *chain;			/* set before writing; NULL = without hash */
	int64		version;		/* set before writing */
	int64		position;		/* result */
} EsNewEvent;

typedef struct EsWriter EsWriter;

extern void es_write_init(void);
extern void es_write_prepare(Relation event, const EsStore *store);
extern EsWriter *es_writer_begin_append(Relation event, const EsStore *store,
										const EsNewEvent *events, int nevents);
extern EsWriter *es_writer_begin(Relation event, const EsStore *store);
extern void es_writer_write(EsWriter *writer, const EsStore *store,
							EsNewEvent *events, int nevents);
extern const EsNewEvent *es_writer_current(const EsWriter *writer);
extern void es_writer_end(EsWriter *writer);
extern uint64 es_write_count(void);

#endif							/* ES_LOG_WRITE_H */
