/*-------------------------------------------------------------------------
 * read/reader.h
 *	  Pull events, one by one, of a stream or of the global order.
 *-------------------------------------------------------------------------
 */
#ifndef ES_READ_READER_H
#define ES_READ_READER_H

#include "executor/tuptable.h"
#include "nodes/bitmapset.h"
#include "utils/snapshot.h"

#include "log/event.h"
#include "log/scan.h"
#include "read/query.h"

/* what to read: the arguments of a read function, checked */
typedef struct EsRead
{
	const char *stream;			/* not zero-terminated; NULL = the global order */
	int			stream_len;
	int64		from;			/* version, inclusive, or position, exclusive; -1 =
								 * from the respective end */
	int64		max_count;
	bool		backward;
	Datum	   *categories;		/* filters of the global order, NULL = none */
	int			ncategories;
	Datum	   *names;
	int			nnames;
	EsQuery    *query;			/* instead of these, NULL = none */
	bool		as_stored;		/* not in today's shape: only for a read whose
								 * result is shown, and goes nowhere else */
} EsRead;

typedef struct EsReader EsReader;

extern EsReader *es_reader_begin(const EsRead *read, Snapshot snapshot);
extern EsReader *es_reader_begin_stream(Relation event, const EsStore *store,
										Snapshot snapshot, int64 stream_no,
										int64 from_version, int64 max_count,
										ScanDirection direction, bool as_stored);
extern TupleTableSlot *es_reader_next(EsReader *reader, bool ahead);
extern const EsStore *es_reader_store(EsReader *reader);
extern void es_reader_values(EsReader *reader, TupleTableSlot *row, Datum *values);
extern EsBlocked es_reader_blocked(EsReader *reader);
extern int64 es_reader_last(EsReader *reader);
extern void es_reader_restart(EsReader *reader);
extern void es_reader_end(EsReader *reader);

/* some of the columns of es_event */
typedef struct EsColumns EsColumns;

extern EsColumns *es_columns_create(const Bitmapset *wanted);
extern void es_columns_get(EsColumns *columns, EsReader *reader,
						   TupleTableSlot *row, Datum *values, bool *isnull);

#endif							/* ES_READ_READER_H */
