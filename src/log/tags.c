/*-------------------------------------------------------------------------
 * log/tags.c
 *	  Tags of events, and the index that finds events by them.
 *
 * The tags of an event are a set of short texts, in column "tags" of
 * event_store.event: sorted bytewise, without repetition; NULL for an event
 * without tags.  That column is the last one, and the row of an event without
 * tags is formed without it (log/write.c), so such an event costs nothing.
 *
 * Readers want the events of a tag in the order of their positions, as they
 * want those of a type from the index on (type_no, global_position).  An
 * ordinary btree has one entry for each row, GIN has no order, and a table of
 * its own would have to be kept in step by whatever writes rows: the append,
 * COPY of a restore, the apply worker of a subscriber, VACUUM FULL, REINDEX.
 * So there is an index access method, event_store_tags.  It is nbtree, but for
 * what goes in: of (tags, global_position) one entry (tag, global_position)
 * for each element of the array, and none for NULL.  Everything else, the
 * pages, the WAL, the scan, VACUUM, is nbtree's own.
 *
 * The planner never chooses such an index: it has no operators, returns no
 * columns and needs a condition on the first one.
 *
 * An access method asks for no privilege, so anybody may make such an index on a
 * table of his own, over whatever has an operator class.  What it is made for is
 * all that it takes: two plain columns, text[] and bigint, every row.
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/amapi.h"
#include "access/nbtree.h"
#include "access/tableam.h"
#include "access/xloginsert.h"
#include "catalog/index.h"
#include "catalog/pg_am.h"
#include "catalog/pg_type.h"
#include "miscadmin.h"
#include "nodes/execnodes.h"
#include "storage/bufmgr.h"
#include "utils/builtins.h"
#include "utils/fmgrprotos.h"
#include "utils/memutils.h"
#include "utils/rel.h"

#include "base/compat.h"
#include "log/store.h"
#include "log/tags.h"

PG_FUNCTION_INFO_V1(es_tag_index_handler);

/* while an index is built */
typedef struct EsTagBuild
{
	Relation	heap;
	MemoryContext context;		/* reset for each row */
	double		entries;
} EsTagBuild;

/*
 * A number for a tag, the same on every machine and for ever (FNV-1a, mixed):
 * slots of consumer groups depend on it.
 */
uint64
es_tag_hash(const char *tag, int len)
{
	uint64		hash = UINT64CONST(0xcbf29ce484222325);

	for (int i = 0; i < len; i++)
		hash = (hash ^ (unsigned char) tag[i]) * UINT64CONST(0x100000001b3);
	hash ^= hash >> 33;
	hash *= UINT64CONST(0xff51afd7ed558ccd);
	return hash ^ (hash >> 33);
}

static int
es_tag_compare(const void *a, const void *b)
{
	text	   *left = DatumGetTextPP(*(const Datum *) a);
	text	   *right = DatumGetTextPP(*(const Datum *) b);
	int			left_len = VARSIZE_ANY_EXHDR(left);
	int			right_len = VARSIZE_ANY_EXHDR(right);
	int			result = memcmp(VARDATA_ANY(left), VARDATA_ANY(right),
								Min(left_len, right_len));

	return result != 0 ? result : left_len - right_len;
}

/*
 * Make a set of tags: sorted, without repetition.
 *
 * tags			texts, not toasted; changed in place
 *
 * Result: how many are left.
 */
int
es_tags_sort(Datum *tags, int n)
{
	int			distinct = 0;

	qsort(tags, n, sizeof(Datum), es_tag_compare);
	for (int i = 0; i < n; i++)
	{
		if (distinct == 0 || es_tag_compare(&tags[i], &tags[distinct - 1]) != 0)
			tags[distinct++] = tags[i];
	}
	return distinct;
}

/*
 * The set as it is stored; NULL for an empty one.
 */
ArrayType *
es_tags_array(Datum *tags, int n)
{
	return n == 0 ? NULL : construct_array(tags, n, TEXTOID, -1, false, TYPALIGN_INT);
}

/*
 * The elements of a stored set.
 */
int
es_tags_elements(ArrayType *array, Datum **tags)
{
	bool	   *isnull;
	int			n;
	int			found = 0;

	deconstruct_array(array, TEXTOID, -1, false, TYPALIGN_INT, tags, &isnull, &n);
	/* rows that somebody has put back may hold anything */
	for (int i = 0; i < n; i++)
	{
		if (!isnull[i])
			(*tags)[found++] = (*tags)[i];
	}
	pfree(isnull);
	return found;
}

/*
 * Does a stored set contain all of these?
 */
bool
es_tags_contain(ArrayType *array, const Datum *wanted, int nwanted)
{
	Datum	   *tags;
	int			n = es_tags_elements(array, &tags);
	bool		missing = false;

	for (int i = 0; i < nwanted && !missing; i++)
	{
		bool		found = false;

		for (int k = 0; k < n && !found; k++)
			found = es_tag_compare(&wanted[i], &tags[k]) == 0;
		missing |= !found;
	}
	pfree(tags);
	return !missing;
}

/*
 * Enter one tag.
 *
 * Builds with assertions look whether it is really nbtree that calls nbtree;
 * nothing that is called here lets anybody else see the difference.
 */
static void
es_tag_insert_one(Relation index, Datum *values, bool *isnull, ItemPointer tid,
				  Relation heap, IndexInfo *info)
{
#ifdef USE_ASSERT_CHECKING
	Oid			am = index->rd_rel->relam;

	PG_TRY();
	{
		index->rd_rel->relam = BTREE_AM_OID;
		es_btinsert(index, values, isnull, tid, heap, info);
	}
	PG_FINALLY();
	{
		index->rd_rel->relam = am;
	}
	PG_END_TRY();
#else
	es_btinsert(index, values, isnull, tid, heap, info);
#endif
}

/*
 * Refuse an index over anything but a text[] and a bigint (0A000): what is entered
 * is taken for these.
 */
static inline void
es_tag_check_columns(Relation index, bool is_plain)
{
	if (unlikely(!is_plain || index->rd_index->indnatts != 2 ||
				 index->rd_opcintype[0] != TEXTARRAYOID || index->rd_opcintype[1] != INT8OID))
		ereport(ERROR,
				errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
				errmsg("access method \"event_store_tags\" does not support such an index"),
				errdetail("It takes one column of type text[] and one of type bigint, in this order, without expressions and conditions."));
}

/*
 * Enter each tag of a row.
 *
 * values		tags and position
 *
 * Result: how many.
 */
static int
es_tag_insert_all(Relation index, Datum *values, bool *isnull, ItemPointer tid,
				  Relation heap, IndexInfo *info)
{
	Datum	   *tags;
	int			n;

	if (isnull[0])
		return 0;
	n = es_tags_elements(DatumGetArrayTypeP(values[0]), &tags);
	n = es_tags_sort(tags, n);
	for (int i = 0; i < n; i++)
	{
		Datum		entry[2] = {tags[i], values[1]};
		bool		entry_null[2] = {false, isnull[1]};

		es_tag_insert_one(index, entry, entry_null, tid, heap, info);
	}
	return n;
}

static bool
es_tag_insert(Relation index, Datum *values, bool *isnull, ItemPointer tid, Relation heap,
			  IndexUniqueCheck check,
#ifdef ES_HAVE_INDEX_UNCHANGED
			  bool unchanged,
#endif
			  IndexInfo *info)
{
	/* it may have been made by a library that took others */
	es_tag_check_columns(index, true);
	(void) es_tag_insert_all(index, values, isnull, tid, heap, info);
	return false;
}

static void
es_tag_build_row(Relation index, ItemPointer tid, Datum *values, bool *isnull,
				 bool is_alive, void *arg)
{
	EsTagBuild *build = arg;
	MemoryContext old_context = MemoryContextSwitchTo(build->context);

	build->entries += es_tag_insert_all(index, values, isnull, tid, build->heap, NULL);
	MemoryContextSwitchTo(old_context);
	MemoryContextReset(build->context);
}

/*
 * Build an index: an empty btree, then row by row.
 */
static IndexBuildResult *
es_tag_build(Relation heap, Relation index, IndexInfo *info)
{
	IndexBuildResult *result = palloc0(sizeof(IndexBuildResult));
	EsTagBuild	build = {0};
	Buffer		meta;

	es_tag_check_columns(index, info->ii_Expressions == NIL && info->ii_Predicate == NIL);
	meta = ReadBuffer(index, P_NEW);
	LockBuffer(meta, BUFFER_LOCK_EXCLUSIVE);
	START_CRIT_SECTION();
	_bt_initmetapage(BufferGetPage(meta), P_NONE, 0, false);
	MarkBufferDirty(meta);
	if (RelationNeedsWAL(index))
		log_newpage_buffer(meta, true);
	END_CRIT_SECTION();
	UnlockReleaseBuffer(meta);

	build.heap = heap;
	build.context = AllocSetContextCreate(CurrentMemoryContext, "event_store tags of a row",
										  ALLOCSET_DEFAULT_SIZES);
	result->heap_tuples = table_index_build_scan(heap, index, info, true, true,
												 es_tag_build_row, &build, NULL);
	result->index_tuples = build.entries;
	MemoryContextDelete(build.context);
	return result;
}

static bool
es_tag_validate(Oid opclass)
{
	return true;
}

/*
 * es_tag_index_handler(internal) RETURNS index_am_handler
 */
Datum
es_tag_index_handler(PG_FUNCTION_ARGS)
{
	IndexAmRoutine *am;

	am = (IndexAmRoutine *) DatumGetPointer(DirectFunctionCall1(bthandler,
																PointerGetDatum(NULL)));
	am->ambuild = es_tag_build;
	am->aminsert = es_tag_insert;
	am->amvalidate = es_tag_validate;
	am->amstorage = true;		/* texts of a text[] */

	/* nothing for the planner */
	am->amcanorder = false;
	am->amcanunique = false;
	am->amoptionalkey = false;
	am->amsearcharray = false;
	am->amsearchnulls = false;
	am->amclusterable = false;
	am->amcanparallel = false;
	am->amcaninclude = false;
	am->amcanreturn = NULL;
	am->amgetbitmap = NULL;
	am->amproperty = NULL;
	am->ambuildphasename = NULL;
	es_am_not_a_btree(am);
	PG_RETURN_POINTER(am);
}

/*
 * Is this an index of that kind over tags and position?
 *
 * tags			column of the event table
 */
bool
es_tags_is_index(Relation index, AttrNumber tags)
{
	return index->rd_indam->aminsert == es_tag_insert &&
		index->rd_index->indnatts == 2 &&
		index->rd_index->indkey.values[0] == tags &&
		index->rd_index->indkey.values[1] == Anum_es_event_global_position &&
		RelationGetIndexPredicate(index) == NIL;
}
