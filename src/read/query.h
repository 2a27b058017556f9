/*-------------------------------------------------------------------------
 * read/query.h
 *	  Queries: which events a decision depends on.
 *-------------------------------------------------------------------------
 */
#ifndef ES_READ_QUERY_H
#define ES_READ_QUERY_H

#include "utils/jsonb.h"

#include "evolution/upcast.h"
#include "log/event.h"
#include "log/scan.h"

/*
 * events of one of these types, as they are read, with all of these tags, of one
 * of these streams, of a stream whose name begins with one of these prefixes
 */
typedef struct EsQueryItem
{
	Datum	   *types;			/* texts; NULL = any */
	int			ntypes;
	Datum	   *tags;			/* texts, sorted */
	int			ntags;
	Datum	   *streams;		/* the same */
	int			nstreams;
	Datum	   *prefixes;
	int			nprefixes;
	EsTypeFilter *filter;		/* more than their numbers can say; or NULL */
} EsQueryItem;

typedef struct EsQuery
{
	int			nitems;			/* an event has to match one */
	EsQueryItem *items;
	EsScanItem *scan_items;
	bool		as_stored;		/* types are meant as they are stored: see EsRead */
} EsQuery;

/* what a consumer wants: all that is given must hold, NULL = no filter */
typedef struct EsSelection
{
	Datum	   *categories;
	int			ncategories;
	Datum	   *event_types;
	int			nevent_types;
	EsQuery    *query;

	/* of the walk */
	int32	   *type_nos;
	int			ntypes;
	EsTypeFilter *types;
} EsSelection;

extern EsQuery *es_query_parse(const char *argument, Jsonb *json);
extern EsScan *es_query_scan(EsQuery *query, Relation event, const EsStore *store,
							 Snapshot snapshot, EsScanMode mode,
							 ScanDirection direction, int64 after, int64 upto,
							 int64 expected_rows);
extern bool es_query_wants(const EsQuery *query, const EsStore *store, TupleTableSlot *slot);
extern EsScan *es_selection_scan(EsSelection *selection, Relation event,
								 const EsStore *store, Snapshot snapshot, int64 after,
								 int64 upto, int64 expected_rows);
extern void es_selection_list(EsSelection *selection, const EsStore *store);
extern bool es_selection_wants(const EsSelection *selection, const EsStore *store,
							   TupleTableSlot *slot);
extern bool es_selection_matches(const EsSelection *selection, const EsStore *store,
								 TupleTableSlot *slot);

#endif							/* ES_READ_QUERY_H */
