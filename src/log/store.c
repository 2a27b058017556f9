/*-------------------------------------------------------------------------
 * log/store.c
 *	  Which tables, indexes and sequences make up the store.
 *
 * The store's objects are looked up once by name in schema event_store and
 * remembered until the relation cache says that one of them has changed.
 * The indexes of the event table are told apart by their columns, not their
 * names, because REINDEX CONCURRENTLY and administrators may rename them and
 * because during such a rebuild there are two of a kind.  Then it is seen to it
 * that the columns are there which everybody reads and writes by number.
 *
 * This is the lowest file of the log.  Those above that remember something of
 * a table's content register what forgets it (es_store_on_change).
 *
 * Nothing here depends on search_path.
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/relation.h"
#include "access/table.h"
#include "access/xlog.h"
#include "catalog/namespace.h"
#include "catalog/pg_am.h"
#include "catalog/pg_collation.h"
#include "catalog/pg_index.h"
#include "catalog/pg_type.h"
#include "commands/defrem.h"
#include "commands/extension.h"
#include "utils/inval.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/rel.h"
#include "utils/syscache.h"

#include "base/args.h"
#include "base/compat.h"
#include "base/fault.h"
#include "log/id.h"
#include "log/store.h"
#include "log/tags.h"

/* es_store_on_change so often at the most */
#define ES_MAX_FORGETS			16

/* the columns that are read and written by number, in order */
static const EsAttribute es_event_columns[Natts_es_event] = {
	{"global_position", INT8OID},
	{"stream_no", INT8OID},
	{"created_at", TIMESTAMPTZOID},
	{"event_id", UUIDOID},
	{"version", INT4OID},
	{"type_no", INT4OID},
	{"schema_version", INT4OID},
	{"data", JSONBOID},
	{"metadata", JSONBOID}
};
static const EsAttribute es_stream_columns[Natts_es_stream] = {
	{"stream_no", INT8OID},
	{"stream_id", TEXTOID}
};
static const EsAttribute es_type_columns[Natts_es_type] = {
	{"type_no", INT4OID},
	{"category", TEXTOID},
	{"event_type", TEXTOID}
};
static const EsAttribute es_mark_columns[Natts_es_mark] = {
	{"global_position", INT8OID}
};
static const EsAttribute es_snapshot_columns[Natts_es_snapshot] = {
	{"stream_no", INT8OID},
	{"schema_version", INT4OID},
	{"version", INT8OID},
	{"created_at", TIMESTAMPTZOID},
	{"data", JSONBOID}
};

static EsStore es_store;
static bool es_store_valid = false;
static MemoryContext es_store_context = NULL;

/* what is remembered of a table's content, and to be forgotten with it */
typedef struct EsForget
{
	size_t		table;			/* offset in EsStore */
	void		(*forget) (void);
} EsForget;

static EsForget es_forgets[ES_MAX_FORGETS];
static int	es_nforgets = 0;

/*
 * Called by _PG_init of whoever remembers something of a table: have it
 * forgotten when the table may have changed.
 *
 * That is when it was rewritten, which moves its rows, or emptied, from when
 * on numbers begin anew; and at times for nothing.
 *
 * table		offset of the table in EsStore
 */
void
es_store_on_change(size_t table, void (*forget) (void))
{
	if (es_nforgets == lengthof(es_forgets))
		elog(ERROR, "too many callbacks of the event store");
	es_forgets[es_nforgets].table = table;
	es_forgets[es_nforgets].forget = forget;
	es_nforgets++;
}

/*
 * Relation cache callback: forget what may have changed.
 */
static void
es_store_relcache_callback(Datum arg, Oid relid)
{
	for (int i = 0; i < es_nforgets; i++)
	{
		if (!OidIsValid(relid) ||
			relid == *(Oid *) ((char *) &es_store + es_forgets[i].table))
			es_forgets[i].forget();
	}
	if (!OidIsValid(relid) ||
		relid == es_store.event ||
		relid == es_store.stream ||
		relid == es_store.event_type ||
		relid == es_store.mark ||
		relid == es_store.snapshot)
		es_store_valid = false;
}

/*
 * Called once per process, from _PG_init.
 */
void
es_store_init(void)
{
	CacheRegisterRelcacheCallback(es_store_relcache_callback, (Datum) 0);
}

/*
 * The OID of one of the extension's tables or sequences.
 *
 * schema		event_store
 * Errors: 42P01 when it is not there.
 */
Oid
es_store_relation(Oid schema, const char *name)
{
	Oid			relid = get_relname_relid(name, schema);

	if (!OidIsValid(relid))
		ereport(ERROR,
				errcode(ERRCODE_UNDEFINED_TABLE),
				errmsg("relation \"event_store.%s\" does not exist", name),
				errhint("Run CREATE EXTENSION event_store in this database."));
	return relid;
}

/*
 * Open an index of which the list of its table tells.
 *
 * Result: NULL when it is gone and the look-up has to start again.  That is
 * so on a standby only: REINDEX CONCURRENTLY on the primary waits for who
 * holds the table there, not here.
 */
static Relation
es_store_try_index(Oid indexoid)
{
	Relation	index;

	if (!RecoveryInProgress())
		return index_open(indexoid, AccessShareLock);
	index = try_relation_open(indexoid, AccessShareLock);
	if (index == NULL)
		es_store_valid = false;
	return index;
}

/*
 * Is this a plain btree index over exactly these columns, in the order of
 * their types, ascending?  It may be partial.
 *
 * An administrator may have added another one over the same columns.
 */
static bool
es_index_matches(Relation index, int nkeys, const AttrNumber *keys)
{
	if (index->rd_rel->relam != BTREE_AM_OID ||
		index->rd_index->indnkeyatts != nkeys ||
		index->rd_index->indnatts != nkeys)
		return false;
	for (int i = 0; i < nkeys; i++)
	{
		Oid			type = index->rd_opcintype[i];

		if (index->rd_index->indkey.values[i] != keys[i] ||
			index->rd_indoption[i] != 0 ||
			index->rd_opfamily[i] != get_opclass_family(GetDefaultOpClass(type, BTREE_AM_OID)) ||
			(type == TEXTOID && index->rd_indcollation[i] != C_COLLATION_OID))
			return false;
	}
	return true;
}

/*
 * Refuse a table whose columns are not those that are read by number: its owner
 * can alter them as those of any other table.
 *
 * columns		the first ones, in order
 * Errors: 55000.
 */
void
es_store_check_columns(Relation rel, const EsAttribute *columns, int ncolumns)
{
	TupleDesc	desc = RelationGetDescr(rel);

	for (int i = 0; i < ncolumns; i++)
	{
		if (!es_attribute_is(desc, i, &columns[i]))
			ereport(ERROR,
					errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
					errmsg("table \"%s\" of the event store has been altered",
						   RelationGetRelationName(rel)),
					errdetail("Column number %d, \"%s\", is missing or of another type.",
							  i + 1, columns[i].name));
	}
}

/*
 * Look up one of the tables and see to its columns.
 *
 * relid		result; there before anything is looked at, for the callback
 */
static void
es_store_load_table(Oid *relid, Oid schema, const char *name, const EsAttribute *columns,
					int ncolumns)
{
	Relation	rel;

	*relid = es_store_relation(schema, name);
	rel = table_open(*relid, AccessShareLock);
	es_store_check_columns(rel, columns, ncolumns);
	table_close(rel, AccessShareLock);
}

/*
 * The number of a column that tables made by 0.1 have behind those that
 * somebody had added, so that it is known by its name.
 *
 * Errors: 55000 when it is not there.
 */
static AttrNumber
es_store_column(Oid relid, const char *name, Oid type)
{
	AttrNumber	column = get_attnum(relid, name);

	if (column == InvalidAttrNumber || get_atttype(relid, column) != type)
		ereport(ERROR,
				errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				errmsg("table \"%s\" of the event store has been altered", get_rel_name(relid)),
				errdetail("Column \"%s\" is missing or of another type.", name));
	return column;
}

/*
 * is_invalid	it is there
 */
pg_attribute_noreturn() static void
es_store_index_error(const char *table, bool is_invalid)
{
	ereport(ERROR,
			errcode(ERRCODE_UNDEFINED_OBJECT),
			errmsg("an index of table \"event_store.%s\" is %s", table,
				   is_invalid ? "invalid" : "missing"),
			is_invalid ? errhint("Run REINDEX TABLE event_store.%s.", table) :
			errhint("Create it again, as the script of the extension has it."));
}

/*
 * Find the valid index of a table over the given columns.
 */
static Oid
es_store_index(Oid relid, int nkeys, AttrNumber key1, AttrNumber key2)
{
	AttrNumber	keys[2] = {key1, key2};
	Relation	rel = table_open(relid, AccessShareLock);
	List	   *list = RelationGetIndexList(rel);
	Oid			result = InvalidOid;
	bool		is_invalid = false;
	ListCell   *lc;

	foreach(lc, list)
	{
		Relation	index = es_store_try_index(lfirst_oid(lc));

		if (index == NULL)
			continue;
		if (es_index_matches(index, nkeys, keys) && RelationGetIndexPredicate(index) == NIL)
		{
			if (index->rd_index->indisvalid)
				result = RelationGetRelid(index);
			else
				is_invalid = true;
		}
		index_close(index, AccessShareLock);
		if (OidIsValid(result))
			break;
	}
	if (!OidIsValid(result) && es_store_valid)
		es_store_index_error(RelationGetRelationName(rel), is_invalid);
	list_free(list);
	table_close(rel, AccessShareLock);
	return result;
}

static EsIndexRole
es_index_role(Relation index)
{
	static const struct
	{
		EsIndexRole role;
		int			nkeys;
		AttrNumber	keys[2];
	}			roles[] =
	{
		{ES_INDEX_POSITION, 1, {Anum_es_event_global_position}},
		{ES_INDEX_TYPE, 2, {Anum_es_event_type_no, Anum_es_event_global_position}},
		{ES_INDEX_STREAM, 2, {Anum_es_event_stream_no, Anum_es_event_version}},
		{ES_INDEX_EVENT_ID, 1, {Anum_es_event_event_id}},
	};

	for (int i = 0; i < lengthof(roles); i++)
	{
		if (es_index_matches(index, roles[i].nkeys, roles[i].keys) &&
			(RelationGetIndexPredicate(index) == NIL ||
			 (roles[i].role == ES_INDEX_EVENT_ID &&
			  es_id_index_is_partial(index, es_store.id_has_position))))
			return roles[i].role;
	}
	if (es_store.tags != 0 && es_tags_is_index(index, es_store.tags))
		return ES_INDEX_TAG;
	return ES_INDEX_OTHER;
}

/*
 * The owner of the event table, and every index of it with its role.
 */
static void
es_store_load_indexes(Oid event)
{
	Relation	rel = table_open(event, AccessShareLock);
	List	   *list = RelationGetIndexList(rel);
	ListCell   *lc;
	int			n = 0;
	bool		is_there[ES_NUM_INDEX_ROLES] = {false};

	if (es_store_context == NULL)
		es_store_context = AllocSetContextCreate(TopMemoryContext,
												 "event_store relations",
												 ALLOCSET_SMALL_SIZES);
	es_store.owner = rel->rd_rel->relowner;
	es_store.tags = es_store.hash = 0;
	if (OidIsValid(es_store.id_has_position))
	{
		es_store.tags = es_store_column(event, "tags", TEXTARRAYOID);
		es_store.hash = es_store_column(event, "hash", BYTEAOID);
	}
	es_store.indexes = NULL;
	MemoryContextReset(es_store_context);
	es_store.indexes = MemoryContextAlloc(es_store_context,
										  sizeof(EsIndex) * Max(list_length(list), 1));
	memset(es_store.read_index, 0, sizeof(es_store.read_index));

	foreach(lc, list)
	{
		Relation	index = es_store_try_index(lfirst_oid(lc));
		EsIndexRole role;

		if (index == NULL)
			continue;
		role = es_index_role(index);
		es_store.indexes[n].oid = RelationGetRelid(index);
		es_store.indexes[n].role = role;
		es_store.indexes[n].is_partial = role == ES_INDEX_EVENT_ID &&
			RelationGetIndexPredicate(index) != NIL;
		if (role != ES_INDEX_OTHER)
			is_there[role] = true;
		if (role != ES_INDEX_OTHER && index->rd_index->indisvalid)
			es_store.read_index[role] = RelationGetRelid(index);
		if (role == ES_INDEX_EVENT_ID && index->rd_index->indisvalid)
			es_store.ids_are_partial = es_store.indexes[n].is_partial;
		n++;
		index_close(index, AccessShareLock);
	}
	es_store.nindexes = n;
	list_free(list);

	for (int role = 0; role < ES_NUM_INDEX_ROLES; role++)
	{
		if (!OidIsValid(es_store.read_index[role]) && es_store_valid &&
			(role != ES_INDEX_TAG || es_store.tags != 0))
			es_store_index_error(RelationGetRelationName(rel), is_there[role]);
	}
	table_close(rel, AccessShareLock);
}

/*
 * OID of the extension; InvalidOid when it is not in this database.
 *
 * It is remembered with the tables, which go when it goes.
 */
Oid
es_store_extension(void)
{
	return es_store_valid ? es_store.extension : get_extension_oid("event_store", true);
}

/*
 * Has the current transaction created the extension?  Then others do not see
 * it yet.  False when no table has been looked up yet.
 */
bool
es_store_is_new(void)
{
	Relation	event;
	bool		result;

	if (!es_store_valid)
		return false;
	event = RelationIdGetRelation(es_store.event);
	if (!RelationIsValid(event))
		return false;
	result = event->rd_createSubid != InvalidSubTransactionId;
	RelationClose(event);
	return result;
}

/*
 * Learn of everything that other sessions have committed so far.
 *
 * What a session remembers, of tables, roles, functions and definitions, goes
 * stale when it hears of a change.  PostgreSQL listens when a transaction
 * begins and when it takes a lock that it did not have; a transaction that has
 * all its locks would keep what it remembers to its end.  So every call
 * listens by itself: here, in es_store_open_event and in es_owner_begin.
 *
 * What depends on definitions has to listen after it has taken the snapshot
 * that shows it the events; then no event is newer than the definitions.
 */
void
es_store_listen(void)
{
	AcceptInvalidationMessages();
}

/*
 * Look up the store's objects.
 *
 * Result: good until the next relation is opened or lock is taken.
 * Errors: 3F000, 42P01, 42704 or 55000 when the extension is not there or
 * damaged.
 */
const EsStore *
es_store_get(void)
{
	static const Oid id_types[] = {UUIDOID, INT8OID};
	Oid			schema;

	/* an invalidation that arrives during the look-up starts it again */
	while (!es_store_valid)
	{
		es_store_valid = true;
		PG_TRY();
		{
			es_store.extension = get_extension_oid("event_store", true);
			schema = get_namespace_oid("event_store", false);
			es_store.guard = es_function_oid(schema, "es_guard", 0, NULL);
			es_store.id_has_position = es_function_oid(schema, "es_id_has_position", 2,
													   id_types);
			es_store_load_table(&es_store.event, schema, "event",
								es_event_columns, Natts_es_event);
			es_store_load_table(&es_store.stream, schema, "stream",
								es_stream_columns, Natts_es_stream);
			es_store_load_table(&es_store.event_type, schema, "event_type",
								es_type_columns, Natts_es_type);
			es_store_load_table(&es_store.mark, schema, "mark",
								es_mark_columns, Natts_es_mark);
			es_store_load_table(&es_store.snapshot, schema, "snapshot",
								es_snapshot_columns, Natts_es_snapshot);
			es_store.position_seq = es_store_relation(schema, "event_global_position_seq");
			es_store.stream_seq = es_store_relation(schema, "stream_stream_no_seq");
			es_store.type_seq = es_store_relation(schema, "event_type_type_no_seq");

			es_store.stream_by_no =
				es_store_index(es_store.stream, 1, Anum_es_stream_stream_no, 0);
			es_store.stream_by_name =
				es_store_index(es_store.stream, 1, Anum_es_stream_stream_id, 0);
			es_store.type_by_no =
				es_store_index(es_store.event_type, 1, Anum_es_type_type_no, 0);
			es_store.type_by_category =
				es_store_index(es_store.event_type, 2,
							   Anum_es_type_category, Anum_es_type_event_type);
			es_store.type_by_name =
				es_store_index(es_store.event_type, 1, Anum_es_type_event_type, 0);
			ES_FAULT_POINT("store_loading");
			es_store.mark_by_position =
				es_store_index(es_store.mark, 1, Anum_es_mark_global_position, 0);
			es_store.snapshot_by_stream =
				es_store_index(es_store.snapshot, 2,
							   Anum_es_snapshot_stream_no, Anum_es_snapshot_schema_version);
			es_store_load_indexes(es_store.event);
		}
		PG_CATCH();
		{
			es_store_valid = false;
			PG_RE_THROW();
		}
		PG_END_TRY();
	}
	return &es_store;
}

/*
 * Open one of the store's indexes for reading.  The caller has locked its
 * table.
 *
 * index		its place in the store, which is brought up to date
 */
Relation
es_store_open_index(const Oid *index)
{
	Relation	rel;

	/* REINDEX CONCURRENTLY may have come before the lock on the table */
	(void) es_store_get();
	while ((rel = es_store_try_index(*index)) == NULL)
	{
		CHECK_FOR_INTERRUPTS();
		(void) es_store_get();
	}
	return rel;
}

/*
 * Open and lock the event table, and return the store as it is under that
 * lock: on a primary no index can vanish until the lock is released.
 */
Relation
es_store_open_event(const EsStore **store, LOCKMODE mode)
{
	Relation	rel;

	es_store_listen();
	for (;;)
	{
		*store = es_store_get();
		rel = try_relation_open((*store)->event, mode);
		if (rel != NULL)
		{
			*store = es_store_get();
			if (RelationGetRelid(rel) == (*store)->event)
				return rel;
			relation_close(rel, mode);
		}

		/* another session has dropped the extension, maybe made it again */
		es_store_valid = false;
		CHECK_FOR_INTERRUPTS();
	}
}
