/*-------------------------------------------------------------------------
 * log/store.h
 *	  Which tables, indexes and sequences make up the store.
 *-------------------------------------------------------------------------
 */
#ifndef ES_LOG_STORE_H
#define ES_LOG_STORE_H

#include "access/attnum.h"
#include "access/htup_details.h"
#include "executor/tuptable.h"
#include "storage/lockdefs.h"
#include "utils/relcache.h"

#include "base/result.h"

/* columns of event_store.event */
#define Anum_es_event_global_position	1
#define Anum_es_event_stream_no			2
#define Anum_es_event_created_at		3
#define Anum_es_event_event_id			4
#define Anum_es_event_version			5
#define Anum_es_event_type_no			6
#define Anum_es_event_schema_version	7
#define Anum_es_event_data				8
#define Anum_es_event_metadata			9
#define Natts_es_event					9	/* "tags" and "hash" follow, somewhere */

/* columns of event_store.stream */
#define Anum_es_stream_stream_no		1
#define Anum_es_stream_stream_id		2
#define Natts_es_stream					2

/* columns of event_store.event_type */
#define Anum_es_type_type_no			1
#define Anum_es_type_category			2
#define Anum_es_type_event_type			3
#define Natts_es_type					3

/* columns of event_store.mark */
#define Anum_es_mark_global_position	1
#define Natts_es_mark					1

/* columns of event_store.snapshot */
#define Anum_es_snapshot_stream_no		1
#define Anum_es_snapshot_schema_version 2
#define Anum_es_snapshot_version		3
#define Anum_es_snapshot_created_at		4
#define Anum_es_snapshot_data			5
#define Natts_es_snapshot				5

/* what an index of event_store.event is for */
typedef enum EsIndexRole
{
	ES_INDEX_POSITION,			/* (global_position) */
	ES_INDEX_TYPE,				/* (type_no, global_position) */
	ES_INDEX_STREAM,			/* (stream_no, version) */
	ES_INDEX_EVENT_ID,			/* (event_id) */
	ES_INDEX_TAG,				/* (each tag, global_position) */
	ES_INDEX_OTHER				/* made by the administrator */
} EsIndexRole;

#define ES_NUM_INDEX_ROLES		((int) ES_INDEX_OTHER)

typedef struct EsIndex
{
	Oid			oid;
	EsIndexRole role;
	bool		is_partial;		/* that of event ids, and the one of log/id.c */
} EsIndex;

/*
 * OIDs of the store's objects, good until a relcache invalidation of one of
 * them.  Fetch anew after every lock that was taken.
 */
typedef struct EsStore
{
	Oid			extension;
	Oid			owner;			/* of the event table, thus of all of them */
	Oid			guard;			/* the function of the tables' own triggers */
	Oid			id_has_position;	/* of the predicate of the index by event id;
									 * InvalidOid when the script is that of 0.1 */
	Oid			event;
	Oid			stream;
	Oid			event_type;
	Oid			mark;
	Oid			snapshot;
	Oid			position_seq;
	Oid			stream_seq;
	Oid			type_seq;
	Oid			stream_by_no;	/* indexes of the small tables */
	Oid			stream_by_name;
	Oid			type_by_no;
	Oid			type_by_category;	/* (category, event_type) */
	Oid			type_by_name;	/* (event_type) */
	Oid			mark_by_position;
	Oid			snapshot_by_stream;
	AttrNumber	tags;			/* column of the event table; 0 in a database
								 * whose script is still that of 0.1 */
	AttrNumber	hash;			/* the same */
	Oid			read_index[ES_NUM_INDEX_ROLES]; /* valid index for each role */
	bool		ids_are_partial;	/* the index of event ids is that of log/id.c */
	int			nindexes;		/* every index of the event table */
	EsIndex    *indexes;
} EsStore;

extern void es_store_init(void);
extern void es_store_on_change(size_t table, void (*forget) (void));
extern Oid	es_store_extension(void);
extern Oid	es_store_relation(Oid schema, const char *name);
extern void es_store_check_columns(Relation rel, const EsAttribute *columns, int ncolumns);
extern bool es_store_is_new(void);
extern void es_store_listen(void);
extern const EsStore *es_store_get(void);
extern Relation es_store_open_index(const Oid *index);
extern Relation es_store_open_event(const EsStore **store, LOCKMODE mode);

/* who has written the row in a slot */
static inline TransactionId
es_slot_xmin(TupleTableSlot *slot)
{
	return HeapTupleHeaderGetXmin(ExecFetchSlotHeapTuple(slot, false, NULL)->t_data);
}

#endif							/* ES_LOG_STORE_H */
