/*-------------------------------------------------------------------------
 * evolution/upcast.h
 *	  Old events in today's shape.
 *-------------------------------------------------------------------------
 */
#ifndef ES_EVOLUTION_UPCAST_H
#define ES_EVOLUTION_UPCAST_H

#include "executor/tuptable.h"

#include "log/type.h"

/* one step: the events of one type and schema version */
typedef struct EsUpcaster EsUpcaster;

/* event types that a reader wants, as he will see them */
typedef struct EsTypeFilter EsTypeFilter;

/* false: surely no upcaster is defined */
extern bool es_upcast_possible;

/* moves with every change of definitions */
extern uint64 es_upcast_current;

extern void es_upcast_init(void);
extern void es_event_values(const EsStore *store, TupleTableSlot *slot, Datum *values);
extern uint64 es_upcast_generation(void);

extern EsUpcaster *es_upcaster_find(const char *name, int name_len, int32 schema_version);
extern EsUpcaster *es_upcaster_for_type(EsType *type, int32 schema_version);
extern void es_upcaster_target(const EsUpcaster *upcaster, text **event_type,
							   int32 *schema_version);
extern void es_upcaster_next(const EsUpcaster *upcaster, text **event_type,
							 int32 *schema_version);
extern bool es_upcaster_sees_metadata(const EsUpcaster *upcaster);
extern void es_upcaster_apply(const EsUpcaster *upcaster, Datum *values);

extern int es_upcast_sources(Datum *names, int nnames, Datum **sources);
extern int es_upcast_type_list(const EsStore *store, Datum *categories, int ncategories,
							   Datum *names, int nnames, bool as_stored,
							   int32 **type_nos, EsTypeFilter **filter);
extern bool es_upcast_passes(const EsStore *store, const EsTypeFilter *filter,
							 TupleTableSlot *slot);

/*
 * May events of this type have to be upcast?
 */
static inline bool
es_upcast_needed(const EsType *type)
{
	return unlikely(es_upcast_possible) &&
		(type->nupcasters > 0 || type->upcast_generation != es_upcast_current);
}

/*
 * Will the event in the slot be of a type that is wanted?
 */
static inline bool
es_upcast_wanted(const EsStore *store, const EsTypeFilter *filter, TupleTableSlot *slot)
{
	return likely(filter == NULL) || es_upcast_passes(store, filter, slot);
}

#endif							/* ES_EVOLUTION_UPCAST_H */
