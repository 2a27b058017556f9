/*-------------------------------------------------------------------------
 * append/import.c
 *	  Import events that another store has kept, in their order.
 *
 * The rows of a query, which runs with the caller's rights through a cursor,
 * become events as they come: what is in memory are ES_IMPORT_ROWS rows, about
 * ES_IMPORT_BYTES, and a bounded number of streams and types.  Everything is
 * one transaction, so that an import that fails or is killed leaves nothing.
 *
 * An imported event passes the same checks as an appended one and takes the
 * same way into the tables (log/write.c), with one writer for all of them: the
 * order, the marks, and what wakes consumers are those of an append.  Streams
 * are locked as they appear, so that two imports of the same streams in
 * different orders can deadlock, which one of them is told.
 *
 * The query may call functions that append.  What an import knows of streams is
 * looked up anew then; within a lot of rows, where only casts run, that is refused.
 *
 * Marks are written as the import goes on: whoever sees them sees the
 * transaction ended, thus its events settled (log/head.c).
 *
 * Lock order: event table, streams by their appearance, (row or transaction
 * waits), insertion lock.
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "access/table.h"
#include "access/xact.h"
#include "catalog/pg_type.h"
#include "common/hashfn.h"
#include "executor/executor.h"
#include "executor/spi.h"
#include "miscadmin.h"
#include "nodes/makefuncs.h"
#include "parser/parse_coerce.h"
#include "parser/parse_collate.h"
#include "storage/predicate.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/hsearch.h"
#include "utils/memutils.h"
#include "utils/plancache.h"
#include "utils/portal.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"
#include "utils/uuid.h"

#include "append/append.h"
#include "append/progress.h"
#include "base/args.h"
#include "base/compat.h"
#include "base/count.h"
#include "base/errors.h"
#include "log/durable.h"
#include "log/head.h"
#include "log/stream.h"
#include "log/type.h"
#include "settings.h"
#include "wakeup/wakeup.h"

/* rows and bytes that are fetched and written together, about */
#define ES_IMPORT_ROWS		256
#define ES_IMPORT_BYTES		(1024 * 1024)

/* streams and types whose numbers an import remembers (about 200 bytes each) */
#define ES_IMPORT_NAMES		65536

/* columns of the query */
typedef enum EsImportColumn
{
	ES_IMPORT_STREAM_ID,
	ES_IMPORT_EVENT_TYPE,
	ES_IMPORT_DATA,
	ES_IMPORT_VERSION,
	ES_IMPORT_EVENT_ID,
	ES_IMPORT_METADATA,
	ES_IMPORT_SCHEMA_VERSION,
	ES_IMPORT_CREATED_AT,
	ES_IMPORT_TAGS
} EsImportColumn;

#define ES_IMPORT_REQUIRED	(ES_IMPORT_DATA + 1)	/* the first ones */
#define ES_IMPORT_COLUMNS	(ES_IMPORT_TAGS + 1)

static const struct
{
	const char *name;
	Oid			type;
}			es_import_columns[ES_IMPORT_COLUMNS] = {
	{"stream_id", TEXTOID},
	{"event_type", TEXTOID},
	{"data", JSONBOID},
	{"version", INT8OID},
	{"event_id", UUIDOID},
	{"metadata", JSONBOID},
	{"schema_version", INT4OID},
	{"created_at", TIMESTAMPTZOID},
	{"tags", TEXTARRAYOID}
};

/* a stream's name, or a category and an event type */
typedef struct EsImportKey
{
	const char *first;			/* NULL = no category */
	const char *second;
	int			first_len;
	int			second_len;
} EsImportKey;

typedef struct EsImportStream
{
	EsImportKey key;			/* hash key */
	int64		stream_no;
	int64		version;		/* of its last event */
	EsChain		chain;			/* its hashes, up to what is written */
} EsImportStream;

typedef struct EsImportType
{
	EsImportKey key;			/* hash key */
	int32		type_no;
} EsImportType;

typedef struct EsImport
{
	const EsStore *store;
	Relation	event;
	EsWriter   *writer;

	/* from row to event */
	AttrNumber	attno[ES_IMPORT_COLUMNS];	/* 0 = not in the query */
	ExprState  *cast[ES_IMPORT_COLUMNS];	/* NULL = of the right type */
	EState	   *estate;
	TupleTableSlot *slot;

	/* numbers that are known, and the names that they are known by */
	MemoryContext names_context;
	HTAB	   *streams;
	HTAB	   *types;

	uint64		writes;			/* es_write_count up to which they hold */

	/* rows at hand */
	EsNewEvent	events[ES_IMPORT_ROWS];
	EsImportStream *targets[ES_IMPORT_ROWS];	/* NULL = no stream */
	EsChain		no_stream;		/* of events that belong to none */
	int64		done;			/* rows before them */
	int			row;			/* the one at hand, 0-based; -1 = none */
	const char *stream;			/* its stream, NULL = not known */
	int			stream_len;

	int64		last_position;
	int64		marked;			/* last_position / ES_MARK_INTERVAL at the last
								 * mark */
} EsImport;

PG_FUNCTION_INFO_V1(es_import);

static uint32
es_import_hash(const void *key, Size keysize)
{
	const EsImportKey *k = key;
	uint32		hash = hash_bytes((const unsigned char *) k->second, k->second_len);

	if (k->first != NULL)
		hash = hash_combine(hash, hash_bytes((const unsigned char *) k->first, k->first_len));
	return hash;
}

static int
es_import_match(const void *a, const void *b, Size keysize)
{
	const EsImportKey *left = a;
	const EsImportKey *right = b;

	return !((left->first == NULL) == (right->first == NULL) &&
			 left->first_len == right->first_len &&
			 left->second_len == right->second_len &&
			 (left->first == NULL || memcmp(left->first, right->first, left->first_len) == 0) &&
			 memcmp(left->second, right->second, left->second_len) == 0);
}

/*
 * Forget the numbers when there are too many, and the versions of streams when
 * the query itself has appended; between two lots of rows.
 */
static void
es_import_names_begin(EsImport *import)
{
	HASHCTL		ctl;

	if (import->streams != NULL && import->writes == es_write_count() &&
		hash_get_num_entries(import->streams) < ES_IMPORT_NAMES &&
		hash_get_num_entries(import->types) < ES_IMPORT_NAMES)
		return;

	import->writes = es_write_count();
	MemoryContextReset(import->names_context);
	memset(&ctl, 0, sizeof(ctl));
	ctl.keysize = sizeof(EsImportKey);
	ctl.entrysize = sizeof(EsImportStream);
	ctl.hash = es_import_hash;
	ctl.match = es_import_match;
	ctl.hcxt = import->names_context;
	import->streams = hash_create("event_store import streams", 256, &ctl,
								  HASH_ELEM | HASH_FUNCTION | HASH_COMPARE | HASH_CONTEXT);
	ctl.entrysize = sizeof(EsImportType);
	import->types = hash_create("event_store import types", 64, &ctl,
								HASH_ELEM | HASH_FUNCTION | HASH_COMPARE | HASH_CONTEXT);
}

/*
 * Give a new entry's key names of its own.
 */
static void
es_import_key_keep(EsImport *import, EsImportKey *key)
{
	char	   *copy = MemoryContextAlloc(import->names_context,
										  key->first_len + key->second_len);

	memcpy(copy, key->second, key->second_len);
	key->second = copy;
	if (key->first != NULL)
	{
		memcpy(copy + key->second_len, key->first, key->first_len);
		key->first = copy + key->second_len;
	}
}

/*
 * The stream of the row at hand, locked, and made if it is new.
 */
static EsImportStream *
es_import_stream(EsImport *import)
{
	EsImportKey key = {NULL, import->stream, 0, import->stream_len};
	EsImportStream *stream;
	EsLast		last;
	bool		found;

	stream = hash_search(import->streams, &key, HASH_ENTER, &found);
	if (found)
		return stream;

	es_import_key_keep(import, &stream->key);
	stream->version = 0;
	memset(&stream->chain, 0, sizeof(stream->chain));
	stream->chain.stream = stream->key.second;
	stream->chain.stream_len = stream->key.second_len;
	stream->stream_no = es_stream_lock(import->store, import->event, import->stream,
									   import->stream_len, &last);
	if (stream->stream_no == 0)
		stream->stream_no = es_stream_create(import->store, import->event,
											 import->stream, import->stream_len);
	else
		stream->version = es_current_version(import->event, import->store,
											 stream->stream_no, &last, &stream->chain);
	return stream;
}

static int32
es_import_type(EsImport *import, const char *name, int len)
{
	EsImportKey key = {import->stream, name, 0, len};
	EsImportType *type;
	bool		found;

	if (import->stream != NULL)
		key.first_len = es_category_length(import->stream, import->stream_len);
	type = hash_search(import->types, &key, HASH_ENTER, &found);
	if (!found)
	{
		es_import_key_keep(import, &type->key);
		type->type_no = es_type_get(import->store, key.first, key.first_len, name, len);
	}
	return type->type_no;
}

/*
 * The value of a column in the row at hand.
 *
 * Result: false for NULL, and where the query has no such column.
 */
static bool
es_import_value(EsImport *import, EsImportColumn column, Datum *value)
{
	bool		isnull;

	if (import->attno[column] == 0)
		return false;
	if (import->cast[column] != NULL)
		*value = ExecEvalExpr(import->cast[column],
							  GetPerTupleExprContext(import->estate), &isnull);
	else
		*value = slot_getattr(import->slot, import->attno[column], &isnull);
	return !isnull;
}

static Datum
es_import_required(EsImport *import, EsImportColumn column)
{
	Datum		value;

	if (!es_import_value(import, column, &value))
		es_arg_error(ERRCODE_NULL_VALUE_NOT_ALLOWED, es_import_columns[column].name, 0,
					 "It is null.");
	return value;
}

static void
es_import_tags(EsNewEvent *event, ArrayType *array)
{
	Datum	   *tags;
	bool	   *isnull;
	int			n;

	deconstruct_array(array, TEXTOID, -1, false, TYPALIGN_INT, &tags, &isnull, &n);
	for (int i = 0; i < n; i++)
	{
		if (isnull[i])
			es_arg_error(ERRCODE_NULL_VALUE_NOT_ALLOWED, "tags", i + 1, "It is null.");
	}
	es_event_set_tags(event, "tags", 0, tags, n);
}

/*
 * Errors: VE001 unless this is the version that comes next.
 */
static void
es_import_check_version(EsImport *import, int64 version, int64 current)
{
	if (version == current + 1)
		return;
	es_durable_wait();
	ereport(ERROR,
			errcode(es_counted(ERRCODE_ES_VERSION_CONFLICT)),
			errmsg("version " INT64_FORMAT " does not continue stream \"%.*s\"",
				   version, import->stream_len, import->stream),
			errdetail_internal("stream=%.*s expected=" INT64_FORMAT " actual=" INT64_FORMAT,
							   import->stream_len, import->stream,
							   version > PG_INT64_MIN ? version - 1 : version, current),
			errhint("The next version of the stream is " INT64_FORMAT ". The rows of a stream must come in the order of its versions, which begin at 1 and have no holes; without column \"version\" they are counted.",
					current + 1));
}

/*
 * Make an event of the row at hand.
 */
static void
es_import_row(EsImport *import)
{
	EsNewEvent *event = &import->events[import->row];
	EsImportStream *stream = NULL;
	bool		has_tags;
	Datum		value;
	text	   *name;

	memset(event, 0, sizeof(*event));
	if (es_import_value(import, ES_IMPORT_STREAM_ID, &value))
	{
		name = DatumGetTextPP(value);
		import->stream = VARDATA_ANY(name);
		import->stream_len = VARSIZE_ANY_EXHDR(name);
		es_check_name("stream_id", 0, import->stream, import->stream_len);
	}
	name = DatumGetTextPP(es_import_required(import, ES_IMPORT_EVENT_TYPE));
	event->type = VARDATA_ANY(name);
	event->type_len = VARSIZE_ANY_EXHDR(name);
	event->data = JsonbPGetDatum(DatumGetJsonbP(es_import_required(import, ES_IMPORT_DATA)));
	if (es_import_value(import, ES_IMPORT_METADATA, &value))
		event->metadata = JsonbPGetDatum(DatumGetJsonbP(value));
	if (es_import_value(import, ES_IMPORT_EVENT_ID, &value))
	{
		event->id_given = true;
		event->event_id = *DatumGetUUIDP(value);
	}
	event->schema_version = es_import_value(import, ES_IMPORT_SCHEMA_VERSION, &value) ?
		DatumGetInt32(value) : 1;
	if (es_import_value(import, ES_IMPORT_CREATED_AT, &value))
	{
		event->is_dated = true;
		event->created_at = DatumGetTimestampTz(value);
		if (TIMESTAMP_NOT_FINITE(event->created_at))
			es_arg_error(ERRCODE_INVALID_PARAMETER_VALUE, "created_at", 0,
						 "It must not be infinite.");
	}
	has_tags = es_import_value(import, ES_IMPORT_TAGS, &value);
	if (has_tags)
		es_import_tags(event, DatumGetArrayTypeP(value));
	es_event_check(event, 0);

	if (import->stream != NULL)
	{
		stream = es_import_stream(import);
		if (es_import_value(import, ES_IMPORT_VERSION, &value))
			es_import_check_version(import, DatumGetInt64(value), stream->version);
		if (stream->version == PG_INT32_MAX)
		{
			es_durable_wait();
			ereport(ERROR,
						errcode(ERRCODE_PROGRAM_LIMIT_EXCEEDED),
						errmsg("stream \"%.*s\" has reached the highest version",
							   import->stream_len, import->stream));
		}
		event->stream_no = stream->stream_no;
		event->version = ++stream->version;
		/* the query may change the setting; a chain that has begun goes on */
		stream->chain.begun |= es_hash_chain;
		if (stream->chain.begun)
			event->chain = &stream->chain;
	}
	/* a name that was forgotten is no event of no stream: that one has tags */
	else if (!has_tags)
		es_arg_error(ERRCODE_NULL_VALUE_NOT_ALLOWED, "stream_id", 0,
					 "It is null, and so are the tags; those of an event that belongs to no stream are an array, {} for none.");
	else if (es_import_value(import, ES_IMPORT_VERSION, &value))
		es_arg_error(ERRCODE_INVALID_PARAMETER_VALUE, "version", 0,
					 "An event that belongs to no stream has none.");
	else if (es_hash_chain)
		event->chain = &import->no_stream;
	event->type_no = es_import_type(import, event->type, event->type_len);
	import->targets[import->row] = stream;
}

/*
 * An error that belongs to a row: name the row and its stream in the detail.
 */
static void
es_import_row_error(EsImport *import)
{
	ErrorData  *error;
	StringInfoData detail;

	if (import->row < 0 ||
		ERRCODE_TO_CATEGORY(geterrcode()) == ERRCODE_OPERATOR_INTERVENTION)
		PG_RE_THROW();
	MemoryContextSwitchTo(import->names_context);
	error = CopyErrorData();
	FlushErrorState();
	initStringInfo(&detail);
	appendStringInfo(&detail, "row=" INT64_FORMAT, import->done + import->row + 1);
	if (import->stream != NULL)
		appendStringInfo(&detail, " stream=%.*s", import->stream_len, import->stream);
	if (error->detail != NULL)
		appendStringInfo(&detail, "\n%s", error->detail);
	error->detail = detail.data;
	ReThrowError(error);
}

/*
 * Write the events of the rows at hand.
 */
static void
es_import_write(EsImport *import, int n)
{
	import->row = -1;
	if (import->writes != es_write_count())
		ereport(ERROR,
				errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				errmsg("events have been appended while rows of an import were converted"),
				errhint("Have the query give columns of the types that es_import takes."));
	PG_TRY();
	{
		es_writer_write(import->writer, import->store, import->events, n);
	}
	PG_CATCH();
	{
		const EsNewEvent *event = es_writer_current(import->writer);

		/* before the first event, where the transaction gets its id, there is none */
		if (event != NULL)
		{
			EsImportStream *stream;

			import->row = (int) (event - import->events);
			stream = import->targets[import->row];
			import->stream = stream == NULL ? NULL : stream->key.second;
			import->stream_len = stream == NULL ? 0 : stream->key.second_len;
		}
		PG_RE_THROW();
	}
	PG_END_TRY();
	import->writes = es_write_count();
	import->done += n;
	import->last_position = import->events[n - 1].position;
}

/*
 * What the query's columns are, and how to make of them what an event needs.
 */
static void
es_import_map(EsImport *import, TupleDesc desc)
{
	for (int i = 0; i < desc->natts; i++)
	{
		Form_pg_attribute attr = TupleDescAttr(desc, i);
		const char *name = NameStr(attr->attname);
		EsImportColumn column = 0;
		Oid			type;
		Node	   *expr;

		while (column < ES_IMPORT_COLUMNS && strcmp(es_import_columns[column].name, name) != 0)
			column++;
		if (column == ES_IMPORT_COLUMNS)
			es_arg_error(ERRCODE_INVALID_PARAMETER_VALUE, "query", 0,
						 "Column \"%s\" is not known; an event has stream_id, event_type, data, version, event_id, metadata, schema_version, created_at and tags.",
						 name);
		if (import->attno[column] != 0)
			es_arg_error(ERRCODE_INVALID_PARAMETER_VALUE, "query", 0,
						 "Column \"%s\" appears more than once.", name);
		import->attno[column] = attr->attnum;

		/* the casts of an INSERT */
		type = es_import_columns[column].type;
		expr = (Node *) makeVar(1, attr->attnum, attr->atttypid, attr->atttypmod,
								attr->attcollation, 0);
		expr = coerce_to_target_type(NULL, expr, attr->atttypid, type, -1,
									 COERCION_ASSIGNMENT, COERCE_IMPLICIT_CAST, -1);
		if (expr == NULL)
			ereport(ERROR,
					errcode(ERRCODE_DATATYPE_MISMATCH),
					errmsg("column \"%s\" is of type %s but the query gives %s",
						   name, format_type_be(type), format_type_be(attr->atttypid)),
					errhint("You will need to rewrite or cast the expression."));
		if (IsA(expr, Var))
			continue;
		assign_expr_collations(NULL, expr);
		import->cast[column] = ExecPrepareExpr((Expr *) expr, import->estate);
	}
	for (int column = 0; column < ES_IMPORT_REQUIRED; column++)
	{
		if (import->attno[column] == 0)
			es_arg_error(ERRCODE_INVALID_PARAMETER_VALUE, "query", 0,
						 "Column \"%s\" is missing.", es_import_columns[column].name);
	}
}

/*
 * Open a cursor for the query, which must change nothing.
 */
static Portal
es_import_open(const char *query)
{
	SPIPlanPtr	plan = SPI_prepare_cursor(query, 0, NULL, CURSOR_OPT_NO_SCROLL);
	List	   *sources;
	Query	   *parsed;

	if (plan == NULL)
		elog(ERROR, "SPI_prepare_cursor failed: %s", SPI_result_code_string(SPI_result));
	sources = SPI_plan_get_plan_sources(plan);
	parsed = list_length(sources) == 1 &&
		list_length(((CachedPlanSource *) linitial(sources))->query_list) == 1 ?
		linitial_node(Query, ((CachedPlanSource *) linitial(sources))->query_list) : NULL;
	if (parsed == NULL || parsed->commandType != CMD_SELECT || parsed->hasModifyingCTE ||
		parsed->rowMarks != NIL)
		es_arg_error(ERRCODE_INVALID_PARAMETER_VALUE, "query", 0,
					 "It must be one SELECT, TABLE or VALUES command that changes and locks nothing.");
	return SPI_cursor_open(NULL, plan, NULL, NULL, true);
}

/*
 * Rows to fetch next, when the last ones have taken so many bytes.
 */
static int
es_import_next_rows(int n, Size bytes)
{
	Size		rows = bytes == 0 ? ES_IMPORT_ROWS : (Size) n * ES_IMPORT_BYTES / bytes;

	return Min(Max(rows, 1), ES_IMPORT_ROWS);
}

/*
 * All rows of the cursor.
 */
static void
es_import_rows(EsImport *import, Portal portal, EsImportSlot *progress)
{
	MemoryContext rows_context = AllocSetContextCreate(CurrentMemoryContext,
													   "event_store import rows",
													   ALLOCSET_DEFAULT_SIZES);
	int			wanted = ES_IMPORT_ROWS;

	for (;;)
	{
		MemoryContext old_context;
		Size		bytes = 0;
		int			n;

		SPI_cursor_fetch(portal, true, wanted);
		n = (int) SPI_processed;
		if (n == 0)
			break;
		old_context = MemoryContextSwitchTo(rows_context);

		import->store = es_store_get();
		es_import_names_begin(import);
		PG_TRY();
		{
			for (import->row = 0; import->row < n; import->row++)
			{
				HeapTuple	tuple = SPI_tuptable->vals[import->row];

				import->stream = NULL;
				bytes += tuple->t_len;
				ExecStoreHeapTuple(tuple, import->slot, false);
				es_import_row(import);
			}
			es_import_write(import, n);
		}
		PG_CATCH();
		{
			es_import_row_error(import);
		}
		PG_END_TRY();
		import->row = -1;
		ExecClearTuple(import->slot);

		if (import->last_position / ES_MARK_INTERVAL != import->marked)
		{
			es_head_mark(import->event, import->store, import->last_position);
			import->marked = import->last_position / ES_MARK_INTERVAL;
		}
		es_progress_update(progress, import->done);

		MemoryContextSwitchTo(old_context);
		MemoryContextReset(rows_context);
		SPI_freetuptable(SPI_tuptable);
		wanted = es_import_next_rows(n, bytes);
	}
	MemoryContextDelete(rows_context);
}

/*
 * es_import(query text) RETURNS bigint
 *
 * See the contract, section Moving in.
 *
 * Result: events imported.
 */
Datum
es_import(PG_FUNCTION_ARGS)
{
	EsImport   *import = palloc0(sizeof(EsImport));
	EsImportSlot *progress;
	char	   *query;
	Portal		portal;

	es_arg_required(fcinfo, 0, "query");
	query = text_to_cstring(PG_GETARG_TEXT_PP(0));
	PreventCommandIfReadOnly("es_import()");
	PreventCommandIfParallelMode("es_import()");

	SPI_connect();
	portal = es_import_open(query);
	import->estate = CreateExecutorState();
	import->slot = MakeSingleTupleTableSlot(portal->tupDesc, &TTSOpsHeapTuple);
	GetPerTupleExprContext(import->estate)->ecxt_scantuple = import->slot;
	es_import_map(import, portal->tupDesc);
	import->names_context = AllocSetContextCreate(CurrentMemoryContext,
												  "event_store import names",
												  ALLOCSET_DEFAULT_SIZES);

	import->event = es_store_open_event(&import->store, RowExclusiveLock);
	es_head_refuse_subscriber(import->store);
	es_write_prepare(import->event, import->store);

	/* for SSI it reads the streams that it continues */
	if (IsolationIsSerializable())
		PredicateLockRelation(import->event, GetActiveSnapshot());
	if (es_force_sync_commit)
		ForceSyncCommit();
	import->writer = es_writer_begin(import->event, import->store);

	progress = es_progress_begin();
	PG_TRY();
	{
		es_import_rows(import, portal, progress);
	}
	PG_FINALLY();
	{
		es_progress_end(progress);
	}
	PG_END_TRY();

	es_writer_end(import->writer);
	if (import->done > 0)
	{
		es_count(ES_COUNT_APPENDS, 1);
		es_count(ES_COUNT_EVENTS, import->done);
		es_wakeup_after_commit(import->last_position);
	}
	table_close(import->event, NoLock);
	SPI_cursor_close(portal);
	ExecDropSingleTupleTableSlot(import->slot);
	FreeExecutorState(import->estate);
	SPI_finish();
	PG_RETURN_INT64(import->done);
}
