/*-------------------------------------------------------------------------
 * log/event.h
 *	  From a stored row to an es_event.
 *-------------------------------------------------------------------------
 */
#ifndef ES_LOG_EVENT_H
#define ES_LOG_EVENT_H

#include "executor/tuptable.h"
#include "utils/snapshot.h"

#include "log/chain.h"
#include "log/tags.h"
#include "log/type.h"

/* columns of type es_event */
#define Anum_es_out_global_position		1
#define Anum_es_out_stream_id			2
#define Anum_es_out_version				3
#define Anum_es_out_event_id			4
#define Anum_es_out_event_type			5
#define Anum_es_out_schema_version		6
#define Anum_es_out_data				7
#define Anum_es_out_metadata			8
#define Anum_es_out_created_at			9
#define Natts_es_out					9

extern const EsAttribute es_out_attributes[Natts_es_out];

/* the row-level security policies of the event table for this user */
typedef struct EsRowFilter EsRowFilter;

extern EsRowFilter *es_row_filter_begin(Relation event);
extern bool es_row_filter_passes(EsRowFilter *filter, int64 position);
extern void es_row_filter_end(EsRowFilter *filter);

/*
 * Which of the columns are null: those two of an event that belongs to no
 * stream, whose values are then 0.
 */
static inline void
es_event_nulls(const Datum *values, bool *isnull)
{
	memset(isnull, false, Natts_es_out * sizeof(bool));
	isnull[Anum_es_out_stream_id - 1] = values[Anum_es_out_stream_id - 1] == (Datum) 0;
	isnull[Anum_es_out_version - 1] = values[Anum_es_out_version - 1] == (Datum) 0;
}

extern EsType *es_event_stored_values(const EsStore *store, TupleTableSlot *slot,
									  Datum *values);
extern ArrayType *es_event_tags(const EsStore *store, TupleTableSlot *slot);
extern int64 es_event_tag_order(const text *tag);
extern int64 es_event_order_number(const EsStore *store, TupleTableSlot *slot);
extern text *es_event_order_key(const EsStore *store, TupleTableSlot *slot);
extern int64 es_event_last(Relation event, const EsStore *store, Snapshot snapshot,
						   int64 stream_no, int64 known, TransactionId *xmin,
						   EsChain *chain);
extern int64 es_event_version(Relation event, const EsStore *store, Snapshot snapshot,
							  int64 stream_no, TransactionId *xmin);

#endif							/* ES_LOG_EVENT_H */
