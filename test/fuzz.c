/*-------------------------------------------------------------------------
 * test/fuzz.c
 *	  libFuzzer inside of a backend: what the functions make of their arguments.
 *
 * Almost nothing of the extension reads bytes without a server around it:
 * arguments come as jsonb, text, uuid and arrays, whose bytes PostgreSQL's own
 * input functions have seen before.  So the fuzzer comes to the server.  This
 * module is libFuzzer with a procedure that runs it; event_store is compiled
 * with what tells it where a call has been (-fsanitize=fuzzer-no-link), and it
 * changes its input, bytes that are read as a call with arguments, until calls
 * have been everywhere.
 *
 *		CALL es_fuzz('-runs=100000 -seed=1')
 *
 * does not come back: libFuzzer ends the process.  Each call is rolled back, so
 * an input does the same whenever it is run.
 *
 * What must not happen, and ends it as a crash does: an internal error, or one
 * without a message.  es_fuzz.planted is a part of a message or detail that
 * counts as a fault, too: the control, whether anything would be found.
 *
 * To be preloaded: event_store.so refers to it.
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/xact.h"
#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "fmgr.h"
#include "mb/pg_wchar.h"
#include "miscadmin.h"
#include "storage/ipc.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/fmgrprotos.h"
#include "utils/guc.h"
#include "utils/json.h"
#include "utils/jsonb.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"
#include "utils/uuid.h"

PG_MODULE_MAGIC;
PG_FUNCTION_INFO_V1(es_fuzz);

extern int	LLVMFuzzerRunDriver(int *argc, char ***argv,
								int (*call) (const uint8 *data, size_t size));

#define FUZZ_MAX_ARGS		8
#define FUZZ_MAX_DEPTH		6

/* a transaction ends after so many calls */
#define FUZZ_CALLS			500

/* what is left of the input; at its end everything is 0 */
typedef struct Input
{
	const uint8 *at;
	size_t		left;
} Input;

typedef Datum (*MakeArg) (Input *input, bool *isnull);

static Datum make_name(Input *input, bool *isnull);
static Datum make_number(Input *input, bool *isnull);
static Datum make_int(Input *input, bool *isnull);
static Datum make_json(Input *input, bool *isnull);
static Datum make_events(Input *input, bool *isnull);
static Datum make_appends(Input *input, bool *isnull);
static Datum make_query(Input *input, bool *isnull);
static Datum make_uuid(Input *input, bool *isnull);
static Datum make_bool(Input *input, bool *isnull);
static Datum make_names(Input *input, bool *isnull);
static Datum make_jsons(Input *input, bool *isnull);
static Datum make_uuids(Input *input, bool *isnull);
static Datum make_ints(Input *input, bool *isnull);

typedef struct Call
{
	const char *sql;
	MakeArg		args[FUZZ_MAX_ARGS];
	SPIPlanPtr	plan;
} Call;

static Call calls[] = {
	{"SELECT * FROM es_append($1, $2, $3)", {make_name, make_number, make_events}},
	{"SELECT * FROM es_append($1, $2, $3, $4, $5, $6, $7, $8)",
	{make_name, make_number, make_name, make_json, make_json, make_uuid, make_int, make_names}},
	{"SELECT * FROM es_append_batch($1, $2, $3, $4, $5, $6, $7, $8)",
	{make_name, make_number, make_names, make_jsons, make_jsons, make_uuids, make_ints, make_jsons}},
	{"SELECT * FROM es_append_streams($1)", {make_appends}},
	{"SELECT * FROM es_append_if($1, $2, $3)", {make_events, make_query, make_number}},
	{"SELECT * FROM es_read_query($1, $2, $3, $4)", {make_query, make_number, make_number, make_bool}},
	{"SELECT * FROM es_read_stream($1, $2, $3, $4)", {make_name, make_number, make_number, make_bool}},
	{"SELECT * FROM es_read_all($1, $2, $3, $4, $5)",
	{make_number, make_number, make_names, make_names, make_bool}},
	{"SELECT * FROM es_read_category($1, $2, $3, $4)", {make_name, make_number, make_number, make_bool}},
	{"SELECT es_read_event($1)", {make_uuid}},
	{"SELECT es_snapshot($1, $2, $3, $4)", {make_name, make_number, make_json, make_int}},
	{"SELECT es_load($1, $2)", {make_name, make_int}},
	{"SELECT es_create_subscription($1, $2, $3, $4, query => $5)",
	{make_name, make_names, make_names, make_number, make_query}},
	{"SELECT es_stream_version($1)", {make_name}},
};

static MemoryContext call_context = NULL;
static uint64 ncalls = 0;
static const char *planted;

/* --- input ---------------------------------------------------------------- */

static uint8
take(Input *input)
{
	if (input->left == 0)
		return 0;
	input->left--;
	return *input->at++;
}

static int64
take_int64(Input *input)
{
	uint64		result = 0;

	for (int i = 0; i < 8; i++)
		result = result << 8 | take(input);
	return (int64) result;
}

/* names that occur in the store, and keys of the arguments' JSON */
static const char *const words[] = {
	"Fuzz-1", "Fuzz-2", "Fuzz", "A", "B", "red", "blue", "-", "$ce-Fuzz", "",
	"stream_id", "expected_version", "events", "event_type", "data", "metadata",
	"tags", "event_id", "schema_version", "items", "event_types", "streams",
	"stream_prefixes", "version", "created_at",
	"00000000-0000-4000-8000-000000000001", "00000000-0000-4000-8000-000000000002"
};

/* versions and positions, among them es_any() and es_exists() */
static const int64 numbers[] = {
	0, 1, 2, 3, 10, 11, 20, 21, 1000, -1, -2, -100, -101, PG_INT32_MAX, PG_INT32_MIN, PG_INT64_MAX, PG_INT64_MIN
};

/*
 * A string that PostgreSQL would let through as text in UTF-8.
 */
static void
take_string(Input *input, StringInfo out)
{
	uint8		kind = take(input);
	int			start = out->len;
	int			len;

	if (kind < 200)
	{
		appendStringInfoString(out, words[kind % lengthof(words)]);
		return;
	}
	/* few are long, some of them too long */
	len = kind < 250 ? kind - 200 : 40 * (kind - 249) + 800;
	if (kind >= 250)
	{
		appendStringInfoSpaces(out, len);
		memset(out->data + start, 'x', len);
		return;
	}
	for (int i = 0; i < len && input->left > 0; i++)
	{
		char		c = (char) take(input);

		appendStringInfoChar(out, c == '\0' ? '\1' : c);
	}
	if (!pg_verifymbstr(out->data + start, out->len - start, true))
	{
		for (int i = start; i < out->len; i++)
			out->data[i] &= 0x7f;
		for (int i = start; i < out->len; i++)
			out->data[i] = out->data[i] == '\0' ? '\1' : out->data[i];
	}
}

/* --- JSON ----------------------------------------------------------------- */

static void
put_string(Input *input, StringInfo json)
{
	StringInfoData string;

	initStringInfo(&string);
	take_string(input, &string);
	escape_json(json, string.data);
}

static void
put_number(Input *input, StringInfo json)
{
	uint8		kind = take(input);

	if (kind < 200)
		appendStringInfo(json, INT64_FORMAT, numbers[kind % lengthof(numbers)]);
	else if (kind < 220)
		appendStringInfo(json, INT64_FORMAT, take_int64(input));
	else if (kind < 240)
		appendStringInfo(json, "%d.%d", kind - 230, take(input));
	else
		appendStringInfo(json, "%de%d", kind - 245, take(input) * 8);
}

static void
put_value(Input *input, StringInfo json, int depth)
{
	uint8		kind = take(input);
	int			n = depth >= FUZZ_MAX_DEPTH ? 0 : take(input) % 5;

	switch (kind % 8)
	{
		case 0:
			appendStringInfoString(json, "null");
			break;
		case 1:
			appendStringInfoString(json, kind & 16 ? "true" : "false");
			break;
		case 2:
			put_number(input, json);
			break;
		case 3:
		case 4:
			put_string(input, json);
			break;
		case 5:
			appendStringInfoChar(json, '[');
			for (int i = 0; i < n; i++)
			{
				if (i > 0)
					appendStringInfoChar(json, ',');
				put_value(input, json, depth + 1);
			}
			appendStringInfoChar(json, ']');
			break;
		default:
			appendStringInfoChar(json, '{');
			for (int i = 0; i < n; i++)
			{
				if (i > 0)
					appendStringInfoChar(json, ',');
				put_string(input, json);
				appendStringInfoChar(json, ':');
				put_value(input, json, depth + 1);
			}
			appendStringInfoChar(json, '}');
			break;
	}
}

/* one of many values is something else than it should be */
static bool
goes_astray(Input *input, StringInfo json)
{
	if (take(input) < 240)
		return false;
	put_value(input, json, 1);
	return true;
}

static void
put_strings(Input *input, StringInfo json)
{
	int			n = take(input) % 4;

	if (goes_astray(input, json))
		return;
	appendStringInfoChar(json, '[');
	for (int i = 0; i < n; i++)
	{
		if (i > 0)
			appendStringInfoChar(json, ',');
		if (!goes_astray(input, json))
			put_string(input, json);
	}
	appendStringInfoChar(json, ']');
}

/*
 * An object of known keys, each there or not, and maybe one that nobody knows.
 *
 * put			writes the value of a key
 */
static void
put_object(Input *input, StringInfo json, const char *const *keys, int nkeys,
		   void (*put) (Input *input, StringInfo json, const char *key))
{
	uint8		chosen = take(input);
	const char *separator = "";

	if (goes_astray(input, json))
		return;
	appendStringInfoChar(json, '{');
	for (int i = 0; i < nkeys; i++)
	{
		if (chosen & 1 << i)
			continue;
		appendStringInfo(json, "%s\"%s\":", separator, keys[i]);
		if (!goes_astray(input, json))
			put(input, json, keys[i]);
		separator = ",";
	}
	if (take(input) > 250)
	{
		appendStringInfoString(json, separator);
		put_string(input, json);
		appendStringInfoChar(json, ':');
		put_value(input, json, 1);
	}
	appendStringInfoChar(json, '}');
}

static void
put_list(Input *input, StringInfo json, void (*put) (Input *input, StringInfo json))
{
	int			n = take(input) % 5;

	if (goes_astray(input, json))
		return;
	if (n == 4)
	{
		put(input, json);
		return;
	}
	appendStringInfoChar(json, '[');
	for (int i = 0; i < n; i++)
	{
		if (i > 0)
			appendStringInfoChar(json, ',');
		put(input, json);
	}
	appendStringInfoChar(json, ']');
}

static void
put_event_value(Input *input, StringInfo json, const char *key)
{
	if (strcmp(key, "tags") == 0)
		put_strings(input, json);
	else if (strcmp(key, "schema_version") == 0)
		put_number(input, json);
	else if (strcmp(key, "event_type") == 0)
		put_string(input, json);
	else if (strcmp(key, "event_id") == 0)
		appendStringInfo(json, "\"00000000-0000-4000-8000-%012d\"", take(input));
	else
		put_value(input, json, 1);
}

static void
put_event(Input *input, StringInfo json)
{
	static const char *const keys[] = {"event_type", "data", "tags", "event_id", "metadata", "schema_version"};

	put_object(input, json, keys, lengthof(keys), put_event_value);
}

static void
put_append_value(Input *input, StringInfo json, const char *key)
{
	if (strcmp(key, "events") == 0)
		put_list(input, json, put_event);
	else if (strcmp(key, "stream_id") == 0)
		put_string(input, json);
	else
		put_number(input, json);
}

static void
put_append(Input *input, StringInfo json)
{
	static const char *const keys[] = {"stream_id", "expected_version", "events"};

	put_object(input, json, keys, lengthof(keys), put_append_value);
}

static void
put_item_value(Input *input, StringInfo json, const char *key)
{
	put_strings(input, json);
}

static void
put_item(Input *input, StringInfo json)
{
	static const char *const keys[] = {"event_types", "tags", "streams", "stream_prefixes"};

	put_object(input, json, keys, lengthof(keys), put_item_value);
}

static void
put_items(Input *input, StringInfo json, const char *key)
{
	put_list(input, json, put_item);
}

/* --- arguments ------------------------------------------------------------ */

static bool
make_null(Input *input, bool *isnull)
{
	*isnull = take(input) == 255;
	return *isnull;
}

static Datum
make_name(Input *input, bool *isnull)
{
	StringInfoData string;

	if (make_null(input, isnull))
		return (Datum) 0;
	initStringInfo(&string);
	take_string(input, &string);
	return PointerGetDatum(cstring_to_text_with_len(string.data, string.len));
}

static Datum
make_number(Input *input, bool *isnull)
{
	uint8		kind;

	if (make_null(input, isnull))
		return (Datum) 0;
	kind = take(input);
	return Int64GetDatum(kind < 240 ? numbers[kind % lengthof(numbers)] : take_int64(input));
}

static Datum
make_int(Input *input, bool *isnull)
{
	return Int32GetDatum((int32) DatumGetInt64(make_number(input, isnull)));
}

static Datum
make_bool(Input *input, bool *isnull)
{
	return make_null(input, isnull) ? (Datum) 0 : BoolGetDatum(take(input) & 1);
}

static Datum
json_datum(StringInfo json)
{
	return DirectFunctionCall1(jsonb_in, CStringGetDatum(json->data));
}

static Datum
make_json(Input *input, bool *isnull)
{
	StringInfoData json;

	if (make_null(input, isnull))
		return (Datum) 0;
	initStringInfo(&json);
	put_value(input, &json, 0);
	return json_datum(&json);
}

static Datum
make_events(Input *input, bool *isnull)
{
	StringInfoData json;

	if (make_null(input, isnull))
		return (Datum) 0;
	initStringInfo(&json);
	put_list(input, &json, put_event);
	return json_datum(&json);
}

static Datum
make_appends(Input *input, bool *isnull)
{
	StringInfoData json;

	if (make_null(input, isnull))
		return (Datum) 0;
	initStringInfo(&json);
	put_list(input, &json, put_append);
	return json_datum(&json);
}

static Datum
make_query(Input *input, bool *isnull)
{
	static const char *const keys[] = {"items"};
	StringInfoData json;

	if (make_null(input, isnull))
		return (Datum) 0;
	initStringInfo(&json);
	put_object(input, &json, keys, lengthof(keys), put_items);
	return json_datum(&json);
}

static Datum
make_uuid(Input *input, bool *isnull)
{
	pg_uuid_t  *id;

	if (make_null(input, isnull))
		return (Datum) 0;
	id = palloc0(sizeof(pg_uuid_t));
	if (take(input) < 128)
	{
		id->data[6] = 0x40;
		id->data[8] = 0x80;
		id->data[15] = take(input);
	}
	else
	{
		for (int i = 0; i < UUID_LEN; i++)
			id->data[i] = take(input);
	}
	return UUIDPGetDatum(id);
}

/*
 * An array, rarely of more dimensions than one.
 */
static Datum
make_array(Input *input, bool *isnull, MakeArg make, Oid type, int typlen, bool byval, char align)
{
	Datum		values[8];
	bool		nulls[8];
	int			n;
	int			dims[2];
	int			lbs[2] = {1, 1};

	if (make_null(input, isnull))
		return (Datum) 0;
	n = take(input);
	lbs[0] = n > 250 ? 0 : 1;
	dims[0] = n % 8;
	dims[1] = 1;
	for (int i = 0; i < dims[0]; i++)
		values[i] = make(input, &nulls[i]);
	return PointerGetDatum(dims[0] == 0 ? construct_empty_array(type) :
						   construct_md_array(values, nulls, n > 245 ? 2 : 1, dims, lbs,
											  type, typlen, byval, align));
}

static Datum
make_names(Input *input, bool *isnull)
{
	return make_array(input, isnull, make_name, TEXTOID, -1, false, TYPALIGN_INT);
}

static Datum
make_jsons(Input *input, bool *isnull)
{
	return make_array(input, isnull, make_json, JSONBOID, -1, false, TYPALIGN_INT);
}

static Datum
make_uuids(Input *input, bool *isnull)
{
	return make_array(input, isnull, make_uuid, UUIDOID, UUID_LEN, false, TYPALIGN_CHAR);
}

static Datum
make_ints(Input *input, bool *isnull)
{
	return make_array(input, isnull, make_int, INT4OID, sizeof(int32), true, TYPALIGN_INT);
}

static Oid
arg_type(MakeArg make)
{
	return make == make_name ? TEXTOID :
		make == make_number ? INT8OID :
		make == make_int ? INT4OID :
		make == make_bool ? BOOLOID :
		make == make_uuid ? UUIDOID :
		make == make_names ? TEXTARRAYOID :
		make == make_jsons ? JSONBARRAYOID :
		make == make_uuids ? UUIDARRAYOID :
		make == make_ints ? INT4ARRAYOID : JSONBOID;
}

/* --- calls ---------------------------------------------------------------- */

pg_attribute_noreturn() static void
fault(const char *what)
{
	fprintf(stderr, "fault: %s\n", what);
	fflush(stderr);
	/* what libFuzzer takes for a crash, with the input that made it */
	abort();
}

static void
look_at_error(const ErrorData *error)
{
	if (ERRCODE_TO_CATEGORY(error->sqlerrcode) == ERRCODE_INTERNAL_ERROR ||
		error->message == NULL || error->message[0] == '\0')
		fault(error->message != NULL ? error->message : "no message");
	if (planted != NULL &&
		(strstr(error->message, planted) != NULL ||
		 (error->detail != NULL && strstr(error->detail, planted) != NULL)))
		fault(planted);
}

static void
make_call(Input *input)
{
	Call	   *call = &calls[take(input) % lengthof(calls)];
	Datum		args[FUZZ_MAX_ARGS];
	Oid			types[FUZZ_MAX_ARGS];
	char		nulls[FUZZ_MAX_ARGS];
	int			nargs;

	for (nargs = 0; nargs < FUZZ_MAX_ARGS && call->args[nargs] != NULL; nargs++)
	{
		bool		isnull;

		types[nargs] = arg_type(call->args[nargs]);
		args[nargs] = call->args[nargs] (input, &isnull);
		nulls[nargs] = isnull ? 'n' : ' ';
	}
	if (call->plan == NULL)
	{
		call->plan = SPI_prepare(call->sql, nargs, types);
		if (call->plan == NULL || SPI_keepplan(call->plan) != 0)
			elog(ERROR, "SPI_prepare failed: %s", SPI_result_code_string(SPI_result));
	}
	SPI_execute_plan(call->plan, args, nulls, false, 100);
}

static int
run_input(const uint8 *data, size_t size)
{
	Input		input = {data, size};
	MemoryContext context = CurrentMemoryContext;
	ResourceOwner owner = CurrentResourceOwner;

	if (ncalls++ % FUZZ_CALLS == 0)
	{
		SPI_commit();
		SPI_start_transaction();	/* done already from 15 on */
		context = CurrentMemoryContext;
		owner = CurrentResourceOwner;
	}
	BeginInternalSubTransaction(NULL);
	MemoryContextSwitchTo(call_context);
	PG_TRY();
	{
		make_call(&input);
	}
	PG_CATCH();
	{
		ErrorData  *error;

		MemoryContextSwitchTo(call_context);
		error = CopyErrorData();
		FlushErrorState();
		if (error->sqlerrcode == ERRCODE_QUERY_CANCELED || error->sqlerrcode == ERRCODE_ADMIN_SHUTDOWN)
			proc_exit(1);
		look_at_error(error);
	}
	PG_END_TRY();
	RollbackAndReleaseCurrentSubTransaction();
	MemoryContextSwitchTo(context);
	CurrentResourceOwner = owner;
	MemoryContextReset(call_context);
	CHECK_FOR_INTERRUPTS();
	return 0;
}

/*
 * es_fuzz(options text), a procedure
 */
Datum
es_fuzz(PG_FUNCTION_ARGS)
{
	char	   *options = MemoryContextStrdup(TopMemoryContext,
											  text_to_cstring(PG_GETARG_TEXT_PP(0)));
	char	   *argv_space[32] = {"es_fuzz"};
	char	  **argv = argv_space;
	int			argc = 1;

	for (char *option = strtok(options, " "); option != NULL && argc < 31; option = strtok(NULL, " "))
		argv[argc++] = option;
	planted = GetConfigOption("es_fuzz.planted", true, false);
	call_context = AllocSetContextCreate(TopMemoryContext, "es_fuzz call", ALLOCSET_DEFAULT_SIZES);
	if (SPI_connect_ext(SPI_OPT_NONATOMIC) != SPI_OK_CONNECT)
		elog(ERROR, "SPI_connect_ext failed");
	LLVMFuzzerRunDriver(&argc, &argv, run_input);
	SPI_finish();
	PG_RETURN_VOID();
}
