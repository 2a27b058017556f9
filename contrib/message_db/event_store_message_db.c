/*-------------------------------------------------------------------------
 * event_store_message_db.c
 *	  message-db's write_message on top of es_append, and messages as text.
 *
 * The other functions of message-db are SQL (see the install script).
 * write_message is C because a refusal has to be told in message-db's words, by
 * which its clients recognise it: in PL/pgSQL that takes a subtransaction for
 * each message, here the error is put into other words on its way out.
 *
 * message-db gives data and metadata as text.  To make it is most of the work
 * of a read, so it is done here: jsonb's own output function makes a tree walk
 * with a state, and a copy, of every key and value, and what is then cast to
 * varchar is measured and copied once more.  The text is the same.
 *
 * What our store cannot hold as message-db's table does is put into the
 * metadata under the key "$message_db" and taken out again when it is read:
 * metadata that is not an object, an empty object (NULL metadata is read as
 * NULL), and data that is NULL.
 *
 * Locks: those of es_append; message-db's lock on the category is not taken.
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "fmgr.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/jsonb.h"
#include "utils/memutils.h"
#include "utils/numeric.h"
#include "utils/typcache.h"
#include "utils/uuid.h"

PG_MODULE_MAGIC;

PG_FUNCTION_INFO_V1(message_db_write_message);
PG_FUNCTION_INFO_V1(message_db_event_metadata);
PG_FUNCTION_INFO_V1(message_db_data_text);
PG_FUNCTION_INFO_V1(message_db_metadata_text);

/* conditions of the event store */
#define VERSION_CONFLICT	MAKE_SQLSTATE('V', 'E', '0', '0', '1')
#define ID_CONFLICT			MAKE_SQLSTATE('V', 'E', '0', '0', '2')

/* the key in metadata for what metadata cannot say by itself */
#define MARK				"$message_db"

enum
{
	ARG_ID, ARG_STREAM, ARG_TYPE, ARG_DATA, ARG_METADATA, ARG_EXPECTED
};

/* the append, planned once per session */
static SPIPlanPtr append_plan = NULL;
static SPIPlanPtr version_plan = NULL;

/*
 * Plan a call of one of the event store's functions, for good.
 */
static SPIPlanPtr
prepare(const char *call, int nargs, Oid *types)
{
	char	   *sql;
	SPIPlanPtr	plan;

	if (SPI_execute("SELECT pg_catalog.quote_ident(n.nspname) FROM pg_catalog.pg_extension e"
					" JOIN pg_catalog.pg_namespace n ON n.oid OPERATOR(pg_catalog.=) e.extnamespace"
					" WHERE e.extname OPERATOR(pg_catalog.=) 'event_store'", true, 1) != SPI_OK_SELECT ||
		SPI_processed != 1)
		elog(ERROR, "extension \"event_store\" is not there");
	sql = psprintf("SELECT %s.%s",
				   SPI_getvalue(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, 1), call);
	plan = SPI_prepare(sql, nargs, types);
	if (plan == NULL || SPI_keepplan(plan) != 0)
		elog(ERROR, "could not prepare \"%s\"", sql);
	return plan;
}

/* a column of message-db's table that must not be NULL */
static void
check_not_null(FunctionCallInfo fcinfo, int arg, const char *column)
{
	if (PG_ARGISNULL(arg))
		ereport(ERROR,
				errcode(ERRCODE_NOT_NULL_VIOLATION),
				errmsg("null value in column \"%s\" of relation \"messages\" violates not-null constraint",
					   column));
}

static void
push_key(JsonbParseState **state, char *key)
{
	JsonbValue	value;

	value.type = jbvString;
	value.val.string.val = key;
	value.val.string.len = strlen(key);
	pushJsonbValue(state, WJB_KEY, &value);
}

static void
push_jsonb(JsonbParseState **state, Jsonb *jsonb)
{
	JsonbValue	value;

	if (JB_ROOT_IS_SCALAR(jsonb))
		(void) JsonbExtractScalar(&jsonb->root, &value);
	else
	{
		value.type = jbvBinary;
		value.val.binary.data = &jsonb->root;
		value.val.binary.len = VARSIZE(jsonb) - VARHDRSZ;
	}
	pushJsonbValue(state, WJB_VALUE, &value);
}

/* Value of a key of an object, NULL = it has none. */
static JsonbValue *
member_of(JsonbContainer *object, char *name)
{
	JsonbValue	key;

	key.type = jbvString;
	key.val.string.val = name;
	key.val.string.len = strlen(name);
	return findJsonbValueFromContainer(object, JB_FOBJECT, &key);
}

/*
 * What is stored as metadata.
 *
 * metadata		as message-db was given it; NULL = none
 * has_data		false: data is NULL
 */
static Datum
stored_metadata(Jsonb *metadata, bool has_data)
{
	JsonbParseState *state = NULL;
	JsonbValue	yes;
	bool		as_it_is;

	as_it_is = metadata == NULL ||
		(JB_ROOT_IS_OBJECT(metadata) && JB_ROOT_COUNT(metadata) > 0 &&
		 member_of(&metadata->root, MARK) == NULL);
	if (as_it_is && has_data)
		return metadata != NULL ? JsonbPGetDatum(metadata) :
			DirectFunctionCall1(jsonb_in, CStringGetDatum("{}"));

	pushJsonbValue(&state, WJB_BEGIN_OBJECT, NULL);
	push_key(&state, MARK);
	pushJsonbValue(&state, WJB_BEGIN_OBJECT, NULL);
	if (metadata != NULL)
	{
		push_key(&state, "metadata");
		push_jsonb(&state, metadata);
	}
	if (!has_data)
	{
		yes.type = jbvBool;
		yes.val.boolean = true;
		push_key(&state, "no_data");
		pushJsonbValue(&state, WJB_VALUE, &yes);
	}
	pushJsonbValue(&state, WJB_END_OBJECT, NULL);
	return JsonbPGetDatum(JsonbValueToJsonb(pushJsonbValue(&state, WJB_END_OBJECT, NULL)));
}

/*
 * event_metadata(metadata jsonb, data jsonb)
 *
 * What write_message stores as an event's metadata, for imports.
 */
Datum
message_db_event_metadata(PG_FUNCTION_ARGS)
{
	PG_RETURN_DATUM(stored_metadata(PG_ARGISNULL(0) ? NULL : PG_GETARG_JSONB_P(0), !PG_ARGISNULL(1)));
}

/* As escape_json() writes it, from text that is not terminated. */
static void
put_string(StringInfo out, const char *text, int len)
{
	const char *end = text + len;

	appendStringInfoCharMacro(out, '"');
	while (text < end)
	{
		const char *plain = text;

		while (text < end && (unsigned char) *text >= ' ' && *text != '"' && *text != '\\')
			text++;
		appendBinaryStringInfo(out, plain, text - plain);
		if (text == end)
			break;
		switch (*text)
		{
			case '"':
			case '\\':
				appendStringInfoCharMacro(out, '\\');
				appendStringInfoCharMacro(out, *text);
				break;
			case '\b':
				appendBinaryStringInfo(out, "\\b", 2);
				break;
			case '\f':
				appendBinaryStringInfo(out, "\\f", 2);
				break;
			case '\n':
				appendBinaryStringInfo(out, "\\n", 2);
				break;
			case '\r':
				appendBinaryStringInfo(out, "\\r", 2);
				break;
			case '\t':
				appendBinaryStringInfo(out, "\\t", 2);
				break;
			default:
				appendStringInfo(out, "\\u%04x", (int) *text);
		}
		text++;
	}
	appendStringInfoCharMacro(out, '"');
}

static void
put_number(StringInfo out, char *numeric)
{
	appendStringInfoString(out, DatumGetCString(DirectFunctionCall1(numeric_out, PointerGetDatum(numeric))));
}

static void put_container(StringInfo out, JsonbContainer *container);

/*
 * A value of an array or an object.
 *
 * base, offset		where the container's values are, and this one among them
 */
static void
put_entry(StringInfo out, JEntry entry, char *base, uint32 offset, uint32 len)
{
	if (JBE_ISSTRING(entry))
		put_string(out, base + offset, len);
	else if (JBE_ISNUMERIC(entry))
		put_number(out, base + INTALIGN(offset));
	else if (JBE_ISCONTAINER(entry))
		put_container(out, (JsonbContainer *) (base + INTALIGN(offset)));
	else if (JBE_ISBOOL_TRUE(entry))
		appendBinaryStringInfo(out, "true", 4);
	else if (JBE_ISBOOL_FALSE(entry))
		appendBinaryStringInfo(out, "false", 5);
	else
		appendBinaryStringInfo(out, "null", 4);
}

/* An array, an object, or a scalar, which is stored as an array. */
static void
put_container(StringInfo out, JsonbContainer *container)
{
	int			n = JsonContainerSize(container);
	JEntry	   *entries = container->children;
	uint32		offset = 0;

	check_stack_depth();
	if (JsonContainerIsObject(container))
	{
		char	   *base = (char *) &entries[2 * n];
		uint32		value_offset = getJsonbOffset(container, n);

		appendStringInfoCharMacro(out, '{');
		for (int i = 0; i < n; i++)
		{
			uint32		start = offset;
			uint32		value_start = value_offset;

			if (i > 0)
				appendBinaryStringInfo(out, ", ", 2);
			JBE_ADVANCE_OFFSET(offset, entries[i]);
			put_string(out, base + start, offset - start);
			appendBinaryStringInfo(out, ": ", 2);
			JBE_ADVANCE_OFFSET(value_offset, entries[n + i]);
			put_entry(out, entries[n + i], base, value_start, value_offset - value_start);
		}
		appendStringInfoCharMacro(out, '}');
	}
	else
	{
		char	   *base = (char *) &entries[n];

		if (!JsonContainerIsScalar(container))
			appendStringInfoCharMacro(out, '[');
		for (int i = 0; i < n; i++)
		{
			uint32		start = offset;

			if (i > 0)
				appendBinaryStringInfo(out, ", ", 2);
			JBE_ADVANCE_OFFSET(offset, entries[i]);
			put_entry(out, entries[i], base, start, offset - start);
		}
		if (!JsonContainerIsScalar(container))
			appendStringInfoCharMacro(out, ']');
	}
}

/*
 * A jsonb as text, as its output function writes it.
 *
 * size		its bytes, for a guess of the text's
 */
static Datum
text_of(JsonbContainer *container, Size size)
{
	StringInfoData out;

	initStringInfo(&out);
	enlargeStringInfo(&out, VARHDRSZ + size + size / 4);
	out.len = VARHDRSZ;
	put_container(&out, container);
	SET_VARSIZE(out.data, out.len);
	return PointerGetDatum(out.data);
}

/*
 * data_text(data jsonb, metadata jsonb) RETURNS varchar
 *
 * An event's data as write_message was given it.
 */
Datum
message_db_data_text(PG_FUNCTION_ARGS)
{
	Jsonb	   *data = PG_GETARG_JSONB_P(0);
	Jsonb	   *metadata = PG_GETARG_JSONB_P(1);
	JsonbValue *mark = JB_ROOT_IS_OBJECT(metadata) ? member_of(&metadata->root, MARK) : NULL;

	if (mark != NULL && mark->type == jbvBinary && JsonContainerIsObject(mark->val.binary.data) &&
		member_of(mark->val.binary.data, "no_data") != NULL)
		PG_RETURN_NULL();
	return text_of(&data->root, VARSIZE(data));
}

/*
 * metadata_text(metadata jsonb) RETURNS varchar
 *
 * An event's metadata as write_message was given it.
 */
Datum
message_db_metadata_text(PG_FUNCTION_ARGS)
{
	Jsonb	   *metadata = PG_GETARG_JSONB_P(0);
	JsonbValue *value;

	if (!JB_ROOT_IS_OBJECT(metadata))
		return text_of(&metadata->root, VARSIZE(metadata));
	if (JB_ROOT_COUNT(metadata) == 0)
		PG_RETURN_NULL();
	value = member_of(&metadata->root, MARK);
	if (value != NULL)
	{
		value = value->type == jbvBinary && JsonContainerIsObject(value->val.binary.data) ?
			member_of(value->val.binary.data, "metadata") : NULL;
		if (value == NULL)
			PG_RETURN_NULL();
		metadata = JsonbValueToJsonb(value);
	}
	return text_of(&metadata->root, VARSIZE(metadata));
}

static void
wrong_expected_version(int64 expected, const char *stream, int64 actual)
{
	ereport(ERROR,
			errcode(ERRCODE_RAISE_EXCEPTION),
			errmsg("Wrong expected version: " INT64_FORMAT " (Stream: %s, Stream Version: " INT64_FORMAT ")",
				   expected, stream, actual));
}

static void
repeated_id(Datum id)
{
	ereport(ERROR,
			errcode(ERRCODE_UNIQUE_VIOLATION),
			errmsg("duplicate key value violates unique constraint \"messages_id\""),
			errdetail("Key (id)=(%s) already exists.",
					  DatumGetCString(DirectFunctionCall1(uuid_out, id))),
			err_generic_string(PG_DIAG_SCHEMA_NAME, "message_store"),
			err_generic_string(PG_DIAG_TABLE_NAME, "messages"),
			err_generic_string(PG_DIAG_CONSTRAINT_NAME, "messages_id"));
}

/* Position of the last message of a stream, -1 = there is none. */
static int64
stream_position(Datum stream)
{
	bool		isnull;

	if (version_plan == NULL)
		version_plan = prepare("es_stream_version($1)", 1, (Oid[]) {TEXTOID});
	if (SPI_execute_plan(version_plan, &stream, NULL, false, 1) != SPI_OK_SELECT || SPI_processed != 1)
		elog(ERROR, "could not read the version of a stream");
	return DatumGetInt64(SPI_getbinval(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, 1, &isnull)) - 1;
}

/*
 * write_message(id varchar, stream_name varchar, type varchar, data jsonb,
 *				 metadata jsonb, expected_version bigint)
 *
 * expected_version		position of the last message of the stream, -1 = there is
 *						none yet; NULL = no check
 *
 * Result: the message's position, from 0 on.
 * Errors: in message-db's words P0001 when the stream is elsewhere, 23505 for
 * an id that is there, 23502 for NULL; otherwise those of es_append.
 */
Datum
message_db_write_message(PG_FUNCTION_ARGS)
{
	Datum		values[6];
	char		nulls[] = "      ";
	bool		checks = !PG_ARGISNULL(ARG_EXPECTED);
	int64		expected = checks ? PG_GETARG_INT64(ARG_EXPECTED) : 0;
	MemoryContext context = CurrentMemoryContext;
	char	   *stream;
	HeapTupleHeader row;
	HeapTupleData tuple;
	TupleDesc	desc;
	Datum		columns[4];
	bool		isnull[4];
	int64		position;

	check_not_null(fcinfo, ARG_STREAM, "stream_name");
	check_not_null(fcinfo, ARG_TYPE, "type");
	check_not_null(fcinfo, ARG_ID, "id");
	stream = TextDatumGetCString(PG_GETARG_DATUM(ARG_STREAM));

	SPI_connect();
	if (append_plan == NULL)
		append_plan = prepare("es_append($1, $2, $3, $4, $5, $6)", 6,
							  (Oid[]) {TEXTOID, INT8OID, TEXTOID, JSONBOID, JSONBOID, UUIDOID});

	if (checks && expected < -1)
		wrong_expected_version(expected, stream, stream_position(PG_GETARG_DATUM(ARG_STREAM)));
	values[0] = PG_GETARG_DATUM(ARG_STREAM);
	if (checks)
		values[1] = Int64GetDatum(expected + 1);
	else
	{
		static int64 any = 0;

		/* the constant is the store's, not ours */
		if (any == 0)
		{
			if (SPI_execute_plan(prepare("es_any()", 0, NULL), NULL, NULL, true, 1) != SPI_OK_SELECT)
				elog(ERROR, "es_any() failed");
			any = DatumGetInt64(SPI_getbinval(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, 1, &isnull[0]));
		}
		values[1] = Int64GetDatum(any);
	}
	values[2] = PG_GETARG_DATUM(ARG_TYPE);
	values[3] = PG_ARGISNULL(ARG_DATA) ?
		DirectFunctionCall1(jsonb_in, CStringGetDatum("null")) : PG_GETARG_DATUM(ARG_DATA);
	values[4] = stored_metadata(PG_ARGISNULL(ARG_METADATA) ? NULL : PG_GETARG_JSONB_P(ARG_METADATA),
								!PG_ARGISNULL(ARG_DATA));
	values[5] = DirectFunctionCall1(uuid_in,
									CStringGetDatum(TextDatumGetCString(PG_GETARG_DATUM(ARG_ID))));

	PG_TRY();
	{
		if (SPI_execute_plan(append_plan, values, nulls, false, 1) != SPI_OK_SELECT || SPI_processed != 1)
			elog(ERROR, "es_append failed");
	}
	PG_CATCH();
	{
		ErrorData  *error;
		const char *actual = NULL;

		MemoryContextSwitchTo(context);
		error = CopyErrorData();
		/* the stream's name comes first and may contain anything: the last one counts */
		for (const char *p = error->detail; p != NULL && (p = strstr(p, " actual=")) != NULL; p++)
			actual = p;

		/* only other words: the error goes on, and ends the transaction */
		if (error->sqlerrcode == VERSION_CONFLICT && actual != NULL)
		{
			int64		last = strtol(actual + strlen(" actual="), NULL, 10) - 1;

			FlushErrorState();

			/* at the version, and yet no: an id that is in the stream already */
			if (last == expected)
				repeated_id(values[5]);
			wrong_expected_version(expected, stream, last);
		}
		if (error->sqlerrcode == ID_CONFLICT)
		{
			FlushErrorState();
			repeated_id(values[5]);
		}
		PG_RE_THROW();
	}
	PG_END_TRY();

	row = DatumGetHeapTupleHeader(SPI_getbinval(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, 1, &isnull[0]));
	desc = lookup_rowtype_tupdesc(HeapTupleHeaderGetTypeId(row), HeapTupleHeaderGetTypMod(row));
	tuple.t_len = HeapTupleHeaderGetDatumLength(row);
	tuple.t_data = row;
	ItemPointerSetInvalid(&tuple.t_self);
	tuple.t_tableOid = InvalidOid;
	if (desc->natts != lengthof(columns))
		elog(ERROR, "es_append has another result than expected");
	heap_deform_tuple(&tuple, desc, columns, isnull);
	ReleaseTupleDesc(desc);
	position = DatumGetInt64(columns[1]) - 1;

	/* what is a retry for the event store, message-db refuses */
	if (DatumGetBool(columns[3]))
	{
		int64		last = stream_position(PG_GETARG_DATUM(ARG_STREAM));

		if (checks && expected != last)
			wrong_expected_version(expected, stream, last);
		repeated_id(values[5]);
	}
	SPI_finish();
	PG_RETURN_INT64(position);
}
