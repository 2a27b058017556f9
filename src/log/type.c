/*-------------------------------------------------------------------------
 * log/type.c
 *	  Event types: one number for each (category, event type).
 *
 * Events carry the number of their type within their category, so a single
 * index, (type_no, global_position), serves reads by category, by event type
 * and by both: a reader merges the positions of the numbers that it wants.
 *
 * Events that belong to no stream are in no category: the category of their
 * types is NULL.
 *
 * A new type is entered by the first append that uses it, without waiting
 * for anybody: two transactions that introduce the same type at once make a
 * number each, and every reader follows both.  Readers list the numbers with
 * SnapshotAny, because the row of a type that is still being introduced is
 * what leads them to an unsettled event.
 *
 * A transaction whose snapshot is older than a type makes a number of its own,
 * too: it could not see the row, nor, through a join, the events that it has
 * appended itself.
 *
 * Rows are only ever inserted; each backend remembers the committed ones.
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/genam.h"
#include "access/table.h"
#include "access/tableam.h"
#include "access/xact.h"
#include "catalog/pg_collation.h"
#include "catalog/pg_type.h"
#include "common/hashfn.h"
#include "executor/tuptable.h"
#include "utils/builtins.h"
#include "utils/fmgroids.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"

#include "base/compat.h"
#include "log/names.h"
#include "log/sequence.h"
#include "log/table.h"
#include "log/type.h"

/* types of committed rows and of our own; the committed ones also by their names */
static EsNames es_types = {
	.what = "event types",
	.number_size = sizeof(int32),
	.entry_size = sizeof(EsType)
};

/*
 * Forget all types.  They stay readable until the next look-up begins.
 */
static void
es_type_forget(void)
{
	es_names_forget(&es_types);
}

/*
 * Called once per process, from _PG_init.
 */
void
es_type_init(void)
{
	es_store_on_change(offsetof(EsStore, event_type), es_type_forget);
}

static uint64
es_type_hash(const char *category, int category_len, const char *name, int name_len)
{
	uint64		seed = category == NULL ? 0 :
		hash_bytes_extended((const unsigned char *) category, category_len, 0);

	return hash_bytes_extended((const unsigned char *) name, name_len, seed);
}

/*
 * Remember the type of a committed or own row of event_store.event_type.
 *
 * A number is never used again, so an entry by number does no harm when its
 * transaction aborts; an entry by name would lead appends to a number
 * without a row, and is made for committed rows only.
 */
static EsType *
es_type_remember(TupleTableSlot *slot)
{
	bool		isnull;
	int32		type_no = DatumGetInt32(slot_getattr(slot, Anum_es_type_type_no, &isnull));
	text	   *name = DatumGetTextPP(slot_getattr(slot, Anum_es_type_event_type, &isnull));
	Datum		category = slot_getattr(slot, Anum_es_type_category, &isnull);
	TransactionId xmin;
	EsType	   *type;

	xmin = es_slot_xmin(slot);
	type = es_names_by_number(&es_types, &type_no);
	if (type == NULL)
	{
		int			category_len = isnull ? 0 : VARSIZE_ANY_EXHDR(DatumGetPointer(category));
		int			name_len = VARSIZE_ANY_EXHDR(name);
		char	   *copy = es_names_copy(&es_types,
										 isnull ? NULL : VARDATA_ANY(DatumGetPointer(category)),
										 category_len, VARDATA_ANY(name), name_len);

		type = es_names_enter(&es_types, &type_no);
		type->category = isnull ? NULL : copy;
		type->category_len = category_len;
		type->name = copy + category_len;
		type->name_len = name_len;
		type->upcast_generation = 0;
		type->nupcasters = 0;
	}
	type->xmin = xmin;
	if (!TransactionIdIsCurrentTransactionId(xmin))
		es_names_enter_hash(&es_types,
							es_type_hash(type->category, type->category_len,
										 type->name, type->name_len),
							type);
	return type;
}

/*
 * Is a type that is committed, or of this transaction, also known to the
 * snapshot that the transaction keeps?
 */
static bool
es_type_is_usable(const EsType *type)
{
	return !IsolationUsesXactSnapshot() ||
		TransactionIdIsCurrentTransactionId(type->xmin) ||
		!XidInMVCCSnapshot(type->xmin, GetTransactionSnapshot());
}

/*
 * The number of an event type in a category, for an append; made when it
 * is new.
 *
 * category		NULL for events that belong to no stream
 */
int32
es_type_get(const EsStore *store, const char *category, int category_len,
			const char *name, int name_len)
{
	EsType	   *cached;
	Relation	rel;
	Relation	index;
	TupleTableSlot *slot;
	IndexScanDesc scan;
	ScanKeyData keys[2];
	int32		type_no = 0;

	(void) es_names_begin(&es_types);
	cached = es_names_by_hash(&es_types, es_type_hash(category, category_len, name, name_len));
	if (cached != NULL &&
		(cached->category == NULL) == (category == NULL) &&
		cached->category_len == category_len &&
		cached->name_len == name_len &&
		(category == NULL || memcmp(cached->category, category, category_len) == 0) &&
		memcmp(cached->name, name, name_len) == 0 &&
		es_type_is_usable(cached))
		return cached->type_no;

	rel = table_open(store->event_type, RowExclusiveLock);
	index = es_store_open_index(&store->type_by_category);
	slot = table_slot_create(rel, NULL);
	if (category != NULL)
		es_names_key(&keys[0], 1, category, category_len);
	else
		ScanKeyEntryInitialize(&keys[0], SK_ISNULL | SK_SEARCHNULL, 1, InvalidStrategy,
							   InvalidOid, InvalidOid, InvalidOid, (Datum) 0);
	es_names_key(&keys[1], 2, name, name_len);
	scan = es_index_beginscan(rel, index, SnapshotSelf, 2);
	index_rescan(scan, keys, 2, NULL, 0);
	while (type_no == 0 && index_getnext_slot(scan, ForwardScanDirection, slot))
	{
		EsType	   *type = es_type_remember(slot);

		if (es_type_is_usable(type))
			type_no = type->type_no;
	}
	index_endscan(scan);
	ExecDropSingleTupleTableSlot(slot);
	index_close(index, AccessShareLock);

	if (type_no == 0)
	{
		Datum		values[Natts_es_type] = {0};
		bool		isnull[Natts_es_type] = {false};

		type_no = (int32) es_sequence_next(store->type_seq, PG_INT32_MAX);
		values[Anum_es_type_type_no - 1] = Int32GetDatum(type_no);
		isnull[Anum_es_type_category - 1] = category == NULL;
		if (category != NULL)
			values[Anum_es_type_category - 1] =
				PointerGetDatum(cstring_to_text_with_len(category, category_len));
		values[Anum_es_type_event_type - 1] =
			PointerGetDatum(cstring_to_text_with_len(name, name_len));
		es_table_insert(store, rel, Natts_es_type, values, isnull);
	}
	table_close(rel, NoLock);
	return type_no;
}

/*
 * The type of a visible event.
 *
 * Result: good until the next call of a function of this file.
 */
EsType *
es_type_lookup(const EsStore *store, int32 type_no)
{
	EsType	   *type;
	Relation	rel;
	Relation	index;
	TupleTableSlot *slot;
	IndexScanDesc scan;
	ScanKeyData key;

	(void) es_names_begin(&es_types);
	type = es_names_by_number(&es_types, &type_no);
	if (type != NULL)
		return type;

	rel = table_open(store->event_type, AccessShareLock);
	index = es_store_open_index(&store->type_by_no);
	slot = table_slot_create(rel, NULL);
	ScanKeyInit(&key, 1, BTEqualStrategyNumber, F_INT4EQ, Int32GetDatum(type_no));
	scan = es_index_beginscan(rel, index, SnapshotSelf, 1);
	index_rescan(scan, &key, 1, NULL, 0);
	if (!index_getnext_slot(scan, ForwardScanDirection, slot))
		ereport(ERROR,
				errcode(ERRCODE_DATA_CORRUPTED),
				errmsg("an event is of type number %d, which does not exist", type_no));
	type = es_type_remember(slot);
	index_endscan(scan);
	ExecDropSingleTupleTableSlot(slot);
	index_close(index, AccessShareLock);
	table_close(rel, NoLock);
	return type;
}

static bool
es_type_wanted(TupleTableSlot *slot, AttrNumber column, Datum *values, int nvalues)
{
	bool		isnull;
	text	   *value;

	if (values == NULL)
		return true;
	value = DatumGetTextPP(slot_getattr(slot, column, &isnull));
	for (int i = 0; i < nvalues; i++)
	{
		text	   *wanted = DatumGetTextPP(values[i]);

		if (VARSIZE_ANY_EXHDR(value) == VARSIZE_ANY_EXHDR(wanted) &&
			memcmp(VARDATA_ANY(value), VARDATA_ANY(wanted),
				   VARSIZE_ANY_EXHDR(value)) == 0)
			return true;
	}
	return false;
}

static int
es_type_compare(const void *a, const void *b)
{
	int32		left = *(const int32 *) a;
	int32		right = *(const int32 *) b;

	return (left > right) - (left < right);
}

/*
 * List the categories whose names begin so, those of transactions in progress
 * included.
 *
 * categories	result, palloc'd texts, without duplicates
 *
 * Result: how many.
 */
int
es_type_categories(const EsStore *store, const char *prefix, int len, Datum **categories)
{
	Relation	rel = table_open(store->event_type, AccessShareLock);
	Relation	index = es_store_open_index(&store->type_by_category);
	TupleTableSlot *slot = table_slot_create(rel, NULL);
	IndexScanDesc scan = es_index_beginscan(rel, index, SnapshotAny, 1);
	ScanKeyData key;
	int			size = 16;
	int			n = 0;

	*categories = palloc(size * sizeof(Datum));
	ScanKeyEntryInitialize(&key, 0, 1, BTGreaterEqualStrategyNumber, TEXTOID,
						   C_COLLATION_OID, F_TEXT_GE,
						   PointerGetDatum(cstring_to_text_with_len(prefix, len)));
	index_rescan(scan, &key, 1, NULL, 0);
	while (index_getnext_slot(scan, ForwardScanDirection, slot))
	{
		bool		isnull;
		text	   *category = DatumGetTextPP(slot_getattr(slot, Anum_es_type_category, &isnull));

		if (VARSIZE_ANY_EXHDR(category) < len || memcmp(VARDATA_ANY(category), prefix, len) != 0)
			break;
		if (n > 0 && es_type_wanted(slot, Anum_es_type_category, &(*categories)[n - 1], 1))
			continue;
		if (n == size)
		{
			size *= 2;
			*categories = repalloc(*categories, size * sizeof(Datum));
		}
		(*categories)[n++] = PointerGetDatum(DatumGetTextPCopy(PointerGetDatum(category)));
	}
	index_endscan(scan);
	ExecDropSingleTupleTableSlot(slot);
	index_close(index, AccessShareLock);
	table_close(rel, NoLock);
	return n;
}

/*
 * List the numbers of all types in the given categories and of the given
 * names, those of transactions in progress included.
 *
 * categories	text datums; NULL = every category
 * names		event types; NULL = every type.  At least one is not NULL
 * type_nos		result, palloc'd, ascending, without duplicates
 *
 * Result: how many.
 */
int
es_type_list(const EsStore *store, Datum *categories, int ncategories,
			 Datum *names, int nnames, int32 **type_nos)
{
	bool		by_category = categories != NULL;
	Datum	   *values = by_category ? categories : names;
	int			nvalues = by_category ? ncategories : nnames;
	Relation	rel = table_open(store->event_type, AccessShareLock);
	Relation	index = es_store_open_index(by_category ? &store->type_by_category :
											&store->type_by_name);
	TupleTableSlot *slot = table_slot_create(rel, NULL);
	IndexScanDesc scan = es_index_beginscan(rel, index, SnapshotAny, 1);
	int			size = 64;
	int			n = 0;
	int			distinct = 0;
	int32	   *result = palloc(size * sizeof(int32));

	for (int i = 0; i < nvalues; i++)
	{
		text	   *value = DatumGetTextPP(values[i]);
		ScanKeyData key;

		es_names_key(&key, 1, VARDATA_ANY(value), VARSIZE_ANY_EXHDR(value));
		index_rescan(scan, &key, 1, NULL, 0);
		while (index_getnext_slot(scan, ForwardScanDirection, slot))
		{
			bool		isnull;

			if (by_category &&
				!es_type_wanted(slot, Anum_es_type_event_type, names, nnames))
				continue;
			if (n == size)
			{
				size *= 2;
				result = repalloc(result, size * sizeof(int32));
			}
			result[n++] = DatumGetInt32(slot_getattr(slot, Anum_es_type_type_no, &isnull));
		}
	}
	index_endscan(scan);
	ExecDropSingleTupleTableSlot(slot);
	index_close(index, AccessShareLock);
	table_close(rel, NoLock);

	/* the caller may have named a category twice */
	qsort(result, n, sizeof(int32), es_type_compare);
	for (int i = 0; i < n; i++)
	{
		if (i == 0 || result[i] != result[distinct - 1])
			result[distinct++] = result[i];
	}
	*type_nos = result;
	return distinct;
}
