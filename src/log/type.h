/*-------------------------------------------------------------------------
 * log/type.h
 *	  Event types: one number for each (category, event type).
 *-------------------------------------------------------------------------
 */
#ifndef ES_LOG_TYPE_H
#define ES_LOG_TYPE_H

#include "log/store.h"

typedef struct EsType
{
	int32		type_no;		/* hash key */
	int			category_len;
	int			name_len;
	char	   *category;		/* NULL = of events that belong to no stream */
	char	   *name;			/* neither is zero-terminated */
	TransactionId xmin;			/* who entered it */
	uint64		upcast_generation;	/* evolution/upcast.c: what follows is of that */
	int			nupcasters;
	struct EsUpcaster *upcasters;	/* for events of this type */
} EsType;

extern void es_type_init(void);
extern int32 es_type_get(const EsStore *store, const char *category, int category_len,
						 const char *name, int name_len);
extern EsType *es_type_lookup(const EsStore *store, int32 type_no);
extern int	es_type_categories(const EsStore *store, const char *prefix, int len,
							   Datum **categories);
extern int	es_type_list(const EsStore *store, Datum *categories, int ncategories,
						 Datum *names, int nnames, int32 **type_nos);

#endif							/* ES_LOG_TYPE_H */
