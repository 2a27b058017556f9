/*-------------------------------------------------------------------------
 * evolution/upcast.c
 *	  Old events in today's shape: apply upcasters when events are read.
 *
 * An upcaster takes the data of the events of one type and schema version to
 * the next schema version, or to another type, and may look at their metadata;
 * upcasters form chains.  The stored event never changes.
 *
 * Each backend keeps all definitions.  They are read like a catalog, with a
 * snapshot of the moment, and again when the relation cache says that table
 * event_store.upcaster has changed; a trigger on the table sees to that.  Who
 * passes over events because of their type looks whether it has after it has
 * taken its snapshot (es_store_listen): an event that was appended after a
 * change of definitions is then never taken for what it was before.  An
 * event costs one test when there is no upcaster at all, and one comparison
 * more when there are only upcasters for other types, because each cached
 * event type remembers its own.
 *
 * What a definition refers to may vanish while one of its functions runs, so
 * a replaced set stays until the end of the transaction.
 *
 * Nothing here asks the setting event_store.upcast.  It is about what a read
 * shows, so the reads ask it, and whoever does not gets today's shape: a
 * consumer whose checkpoint passes over what a filter does not want, and a
 * condition, must not depend on it.
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/genam.h"
#include "access/htup_details.h"
#include "access/table.h"
#include "catalog/namespace.h"
#include "catalog/pg_type.h"
#include "utils/builtins.h"
#include "utils/fmgroids.h"
#include "utils/inval.h"
#include "utils/jsonb.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/rel.h"

#include "base/compat.h"
#include "base/errors.h"
#include "base/fault.h"
#include "evolution/function.h"
#include "evolution/upcast.h"
#include "log/event.h"

/* columns of event_store.upcaster */
#define Anum_es_upcaster_event_type			1
#define Anum_es_upcaster_schema_version		2
#define Anum_es_upcaster_upcaster			3
#define Anum_es_upcaster_to_event_type		4
#define Anum_es_upcaster_to_schema_version	5
#define Natts_es_upcaster					5

static const EsAttribute es_upcaster_columns[Natts_es_upcaster] = {
	{"event_type", TEXTOID},
	{"schema_version", INT4OID},
	{"upcaster", TEXTOID},
	{"to_event_type", TEXTOID},
	{"to_schema_version", INT4OID}
};

struct EsUpcaster
{
	text	   *event_type;
	int32		schema_version;
	EsFunction *function;
	bool		sees_metadata;
	text	   *to_event_type;
	int32		to_schema_version;
	EsUpcaster *next;			/* what the result goes through; NULL = nothing */
	EsUpcaster *last;			/* of the chain; NULL = the chain is a loop */
};

struct EsTypeFilter
{
	Datum	   *names;
	int			nnames;
};

bool		es_upcast_possible = true;
uint64		es_upcast_current = 1;

static bool es_upcast_valid = false;
static Oid	es_upcast_relid = InvalidOid;
static MemoryContext es_upcast_context = NULL;
static EsUpcaster *es_upcasters = NULL; /* by event type and schema version */
static int	es_num_upcasters = 0;
static bool es_upcast_moves = false;	/* does any lead to another type? */

static void
es_upcast_callback(Datum arg, Oid relid)
{
	if (!OidIsValid(relid) || relid == es_upcast_relid)
	{
		es_upcast_valid = false;
		es_upcast_possible = true;
		es_upcast_current++;
	}
}

/*
 * Called once per process, from _PG_init.
 */
void
es_upcast_init(void)
{
	CacheRegisterRelcacheCallback(es_upcast_callback, (Datum) 0);
}

/*
 * A number that moves whenever definitions may have changed by now.
 */
uint64
es_upcast_generation(void)
{
	es_store_listen();
	return es_upcast_current;
}

static int
es_text_compare(const char *a, int a_len, const char *b, int b_len)
{
	int			result = memcmp(a, b, Min(a_len, b_len));

	return result != 0 ? result : a_len - b_len;
}

static bool
es_text_equal(const text *a, const text *b)
{
	return VARSIZE_ANY_EXHDR(a) == VARSIZE_ANY_EXHDR(b) &&
		memcmp(VARDATA_ANY(a), VARDATA_ANY(b), VARSIZE_ANY_EXHDR(a)) == 0;
}

static int
es_upcaster_compare(const void *a, const void *b)
{
	const EsUpcaster *left = a;
	const EsUpcaster *right = b;
	int			result = es_text_compare(VARDATA_ANY(left->event_type),
										 VARSIZE_ANY_EXHDR(left->event_type),
										 VARDATA_ANY(right->event_type),
										 VARSIZE_ANY_EXHDR(right->event_type));

	if (result != 0)
		return result;
	return (left->schema_version > right->schema_version) -
		(left->schema_version < right->schema_version);
}

/*
 * Place of the first upcaster at or after (name, schema_version).
 */
static int
es_upcaster_search(const char *name, int name_len, int32 schema_version)
{
	int			low = 0;
	int			high = es_num_upcasters;

	while (low < high)
	{
		int			middle = low + (high - low) / 2;
		EsUpcaster *upcaster = &es_upcasters[middle];
		int			order = es_text_compare(VARDATA_ANY(upcaster->event_type),
											VARSIZE_ANY_EXHDR(upcaster->event_type),
											name, name_len);

		if (order == 0)
			order = (upcaster->schema_version > schema_version) -
				(upcaster->schema_version < schema_version);
		if (order < 0)
			low = middle + 1;
		else
			high = middle;
	}
	return low;
}

static EsUpcaster *
es_upcaster_lookup(const char *name, int name_len, int32 schema_version)
{
	int			place = es_upcaster_search(name, name_len, schema_version);
	EsUpcaster *upcaster = &es_upcasters[place];

	if (place < es_num_upcasters && upcaster->schema_version == schema_version &&
		VARSIZE_ANY_EXHDR(upcaster->event_type) == name_len &&
		memcmp(VARDATA_ANY(upcaster->event_type), name, name_len) == 0)
		return upcaster;
	return NULL;
}

/*
 * How many arguments an upcaster has that is remembered so: one, or two if it
 * sees the metadata.
 */
static int
es_upcaster_nargs(const char *signature)
{
	const char *two = "(jsonb, jsonb)";
	size_t		len = strlen(signature);

	return len > strlen(two) && strcmp(signature + len - strlen(two), two) == 0 ? 2 : 1;
}

/*
 * Read all definitions into the current memory context, unsorted.
 */
static void
es_upcast_read(Relation rel)
{
	static const Oid argtypes[2] = {JSONBOID, JSONBOID};
	TupleDesc	desc = RelationGetDescr(rel);
	SysScanDesc scan = systable_beginscan(rel, InvalidOid, false, NULL, 0, NULL);
	int			size = 16;
	HeapTuple	tuple;

	es_num_upcasters = 0;
	es_upcasters = palloc(size * sizeof(EsUpcaster));
	while (HeapTupleIsValid(tuple = systable_getnext(scan)))
	{
		EsUpcaster *upcaster;
		char	   *signature;
		int			nargs;
		bool		isnull;

		if (es_num_upcasters == size)
		{
			size *= 2;
			es_upcasters = repalloc(es_upcasters, size * sizeof(EsUpcaster));
		}
		upcaster = &es_upcasters[es_num_upcasters++];
		memset(upcaster, 0, sizeof(EsUpcaster));
		upcaster->event_type =
			DatumGetTextPCopy(heap_getattr(tuple, Anum_es_upcaster_event_type, desc, &isnull));
		upcaster->schema_version =
			DatumGetInt32(heap_getattr(tuple, Anum_es_upcaster_schema_version, desc, &isnull));
		signature = TextDatumGetCString(heap_getattr(tuple, Anum_es_upcaster_upcaster,
													 desc, &isnull));
		nargs = es_upcaster_nargs(signature);
		upcaster->function = es_function_get("upcaster", signature, nargs, argtypes);
		upcaster->sees_metadata = nargs == 2;
		upcaster->to_event_type =
			DatumGetTextPCopy(heap_getattr(tuple, Anum_es_upcaster_to_event_type, desc, &isnull));
		upcaster->to_schema_version =
			DatumGetInt32(heap_getattr(tuple, Anum_es_upcaster_to_schema_version, desc, &isnull));
	}
	systable_endscan(scan);
}

/*
 * Put the definitions in order and follow each chain to its end.
 */
static void
es_upcast_link(void)
{
	es_upcast_moves = false;
	qsort(es_upcasters, es_num_upcasters, sizeof(EsUpcaster), es_upcaster_compare);
	for (int i = 0; i < es_num_upcasters; i++)
	{
		EsUpcaster *upcaster = &es_upcasters[i];

		upcaster->next = es_upcaster_lookup(VARDATA_ANY(upcaster->to_event_type),
											VARSIZE_ANY_EXHDR(upcaster->to_event_type),
											upcaster->to_schema_version);
		if (!es_text_equal(upcaster->event_type, upcaster->to_event_type))
			es_upcast_moves = true;
	}
	for (int i = 0; i < es_num_upcasters; i++)
	{
		EsUpcaster *last = &es_upcasters[i];

		/* es_define_upcaster refuses loops, a restore does not */
		for (int steps = 0; last != NULL && last->next != NULL; steps++)
			last = steps < es_num_upcasters ? last->next : NULL;
		es_upcasters[i].last = last;
	}
}

/*
 * Make sure that the definitions are here and up to date.
 */
static void
es_upcast_load(void)
{
	/* an invalidation that arrives during the look-up starts it again */
	while (!es_upcast_valid)
	{
		Oid			schema = get_namespace_oid("event_store", false);
		MemoryContext context;
		MemoryContext old_context;
		Relation	rel;

		es_upcast_relid = es_store_relation(schema, "upcaster");
		rel = table_open(es_upcast_relid, AccessShareLock);
		es_store_check_columns(rel, es_upcaster_columns, Natts_es_upcaster);
		if (es_upcast_context != NULL)
			MemoryContextSetParent(es_upcast_context, TopTransactionContext);
		es_upcast_context = NULL;
		es_upcasters = NULL;
		es_num_upcasters = 0;

		context = AllocSetContextCreate(CurrentMemoryContext, "event_store upcasters",
										ALLOCSET_SMALL_SIZES);
		es_upcast_valid = true;
		es_upcast_possible = true;
		PG_TRY();
		{
			old_context = MemoryContextSwitchTo(context);
			es_upcast_read(rel);
			ES_FAULT_POINT("upcast_loading");
			es_upcast_link();
			MemoryContextSwitchTo(old_context);
		}
		PG_CATCH();
		{
			es_upcast_valid = false;
			es_num_upcasters = 0;
			PG_RE_THROW();
		}
		PG_END_TRY();
		MemoryContextSetParent(context, TopMemoryContext);
		es_upcast_context = context;
		if (es_upcast_valid)
			es_upcast_possible = es_num_upcasters > 0;
		table_close(rel, AccessShareLock);
	}
}

/*
 * The upcaster for events of that type and schema version.
 *
 * Result: NULL if there is none; good until the end of the transaction.
 */
EsUpcaster *
es_upcaster_find(const char *name, int name_len, int32 schema_version)
{
	es_upcast_load();
	return es_upcaster_lookup(name, name_len, schema_version);
}

/*
 * The same for a cached event type, faster.
 */
EsUpcaster *
es_upcaster_for_type(EsType *type, int32 schema_version)
{
	es_upcast_load();
	if (type->upcast_generation != es_upcast_current)
	{
		int			first = es_upcaster_search(type->name, type->name_len, PG_INT32_MIN);
		int			n = 0;

		while (first + n < es_num_upcasters &&
			   VARSIZE_ANY_EXHDR(es_upcasters[first + n].event_type) == type->name_len &&
			   memcmp(VARDATA_ANY(es_upcasters[first + n].event_type),
					  type->name, type->name_len) == 0)
			n++;
		type->upcasters = n > 0 ? &es_upcasters[first] : NULL;
		type->nupcasters = n;
		type->upcast_generation = es_upcast_current;
	}
	for (int i = 0; i < type->nupcasters; i++)
	{
		if (type->upcasters[i].schema_version == schema_version)
			return &type->upcasters[i];
	}
	return NULL;
}

static pg_noinline void
es_upcaster_loop(const EsUpcaster *upcaster)
{
	ereport(ERROR,
			errcode(ERRCODE_ES_USER_FUNCTION),
			errmsg("the upcasters of event type \"%s\" form a loop",
				   text_to_cstring(upcaster->event_type)),
			errhint("Remove one of them with es_drop_upcaster."));
}

/*
 * Type and schema version that an event has when it has gone through the
 * chain.
 */
void
es_upcaster_target(const EsUpcaster *upcaster, text **event_type, int32 *schema_version)
{
	if (upcaster->last == NULL)
		es_upcaster_loop(upcaster);
	es_upcaster_next(upcaster->last, event_type, schema_version);
}

/*
 * Type and schema version that this one step leads to.
 */
void
es_upcaster_next(const EsUpcaster *upcaster, text **event_type, int32 *schema_version)
{
	*event_type = upcaster->to_event_type;
	*schema_version = upcaster->to_schema_version;
}

/*
 * Does any upcaster of the chain that begins here look at the metadata?
 */
bool
es_upcaster_sees_metadata(const EsUpcaster *upcaster)
{
	if (upcaster->last == NULL)
		return false;			/* a loop, which es_upcaster_apply refuses */
	while (upcaster != NULL && !upcaster->sees_metadata)
		upcaster = upcaster->next;
	return upcaster != NULL;
}

/*
 * Take an event through the chain that begins here.
 *
 * values	as from es_event_values; changed.  An error finds the event as it is
 *			stored
 *
 * Errors: VE006.
 */
void
es_upcaster_apply(const EsUpcaster *upcaster, Datum *values)
{
	const EsUpcaster *last = upcaster->last;
	Datum		args[2];

	if (unlikely(last == NULL))
		es_upcaster_loop(upcaster);

	/* once, and not each time that the function looks at it */
	args[0] = PointerGetDatum(PG_DETOAST_DATUM(values[Anum_es_out_data - 1]));
	args[1] = values[Anum_es_out_metadata - 1];
	for (; upcaster != NULL; upcaster = upcaster->next)
		args[0] = es_function_call(upcaster->function, args, values);
	values[Anum_es_out_data - 1] = args[0];
	values[Anum_es_out_event_type - 1] = PointerGetDatum(last->to_event_type);
	values[Anum_es_out_schema_version - 1] = Int32GetDatum(last->to_schema_version);
}

/*
 * The columns of es_event for a row of the event table, in today's shape,
 * whatever is set.  This runs users' functions.
 *
 * values		as from es_event_stored_values
 */
void
es_event_values(const EsStore *store, TupleTableSlot *slot, Datum *values)
{
	EsType	   *type = es_event_stored_values(store, slot, values);
	EsUpcaster *upcaster;

	if (!es_upcast_needed(type))
		return;
	upcaster = es_upcaster_for_type(type, DatumGetInt32(values[Anum_es_out_schema_version - 1]));
	if (upcaster != NULL)
		es_upcaster_apply(upcaster, values);
}

static bool
es_name_among(const text *name, Datum *names, int nnames)
{
	for (int i = 0; i < nnames; i++)
	{
		if (es_text_equal(name, DatumGetTextPP(names[i])))
			return true;
	}
	return false;
}

/*
 * The types under which events that are read as one of these may be stored:
 * the types themselves and all from which chains lead to them.
 *
 * sources	result, may be names itself
 *
 * Result: how many.
 */
int
es_upcast_sources(Datum *names, int nnames, Datum **sources)
{
	Datum	   *result;
	int			n = nnames;
	bool		grown;

	es_upcast_load();
	*sources = names;
	if (!es_upcast_moves)
		return nnames;

	result = palloc((nnames + es_num_upcasters) * sizeof(Datum));
	memcpy(result, names, nnames * sizeof(Datum));
	do
	{
		grown = false;
		for (int i = 0; i < es_num_upcasters; i++)
		{
			EsUpcaster *upcaster = &es_upcasters[i];

			if (!es_text_equal(upcaster->event_type, upcaster->to_event_type) &&
				es_name_among(upcaster->to_event_type, result, n) &&
				!es_name_among(upcaster->event_type, result, n))
			{
				result[n++] = PointerGetDatum(upcaster->event_type);
				grown = true;
			}
		}
	} while (grown);
	*sources = result;
	return n;
}

/*
 * List the type numbers of events that will be read as one of the wanted
 * types: es_type_list, but by the types that the reader sees.
 *
 * as_stored	for a read that shows events as they are stored
 * filter		result: for es_upcast_wanted; NULL when the numbers say it all
 */
int
es_upcast_type_list(const EsStore *store, Datum *categories, int ncategories,
					Datum *names, int nnames, bool as_stored,
					int32 **type_nos, EsTypeFilter **filter)
{
	Datum	   *sources = names;
	int			nsources = nnames;

	es_store_listen();
	*filter = NULL;
	if (names != NULL && !as_stored && es_upcast_possible)
	{
		nsources = es_upcast_sources(names, nnames, &sources);
		for (int i = 0; i < es_num_upcasters && *filter == NULL; i++)
		{
			EsUpcaster *upcaster = &es_upcasters[i];

			if (!es_text_equal(upcaster->event_type, upcaster->to_event_type) &&
				es_name_among(upcaster->event_type, sources, nsources))
			{
				*filter = palloc(sizeof(EsTypeFilter));
				(*filter)->names = names;
				(*filter)->nnames = nnames;
			}
		}
	}
	return es_type_list(store, categories, ncategories, sources, nsources, type_nos);
}

/*
 * Does the filter want this event, in the shape in which it will be read?
 *
 * If its upcasters form a loop it has none, and whoever reads it is told so;
 * who only looks whether something is there has to go on.
 */
bool
es_upcast_passes(const EsStore *store, const EsTypeFilter *filter, TupleTableSlot *slot)
{
	bool		isnull;
	int32		type_no = DatumGetInt32(slot_getattr(slot, Anum_es_event_type_no, &isnull));
	int32		schema_version = DatumGetInt32(slot_getattr(slot, Anum_es_event_schema_version,
															&isnull));
	EsType	   *type = es_type_lookup(store, type_no);
	EsUpcaster *upcaster = es_upcaster_for_type(type, schema_version);
	text	   *name;
	bool		result;

	if (upcaster != NULL)
	{
		if (unlikely(upcaster->last == NULL))
			return true;
		es_upcaster_target(upcaster, &name, &schema_version);
		return es_name_among(name, filter->names, filter->nnames);
	}
	name = cstring_to_text_with_len(type->name, type->name_len);
	result = es_name_among(name, filter->names, filter->nnames);
	pfree(name);				/* of many events, maybe */
	return result;
}
