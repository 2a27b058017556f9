/*-------------------------------------------------------------------------
 * append/events.c
 *	  Turn the three argument forms of an append into events to be written:
 *	  scalars, arrays, and JSON objects.
 *
 * All checks that need no look into the store happen here, so that a bad
 * event is refused before anything is locked.
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/numeric.h"

#include "append/append.h"
#include "base/args.h"
#include "base/compat.h"
#include "base/json.h"
#include "base/uuid.h"
#include "log/tags.h"
#include "settings.h"

static Datum
es_empty_object(void)
{
	JsonbParseState *state = NULL;

	(void) pushJsonbValue(&state, WJB_BEGIN_OBJECT, NULL);
	return JsonbPGetDatum(JsonbValueToJsonb(pushJsonbValue(&state, WJB_END_OBJECT, NULL)));
}

/*
 * Give an event its tags.
 *
 * argument		name for errors: "tags", or what the tags are an element of
 * element		1-based, 0 = scalars
 * tags			texts without nulls; changed in place
 */
void
es_event_set_tags(EsNewEvent *event, const char *argument, int element, Datum *tags, int n)
{
	for (int i = 0; i < n; i++)
	{
		text	   *tag = DatumGetTextPP(tags[i]);

		es_check_name(argument, element, VARDATA_ANY(tag), VARSIZE_ANY_EXHDR(tag));
		tags[i] = PointerGetDatum(tag);
	}
	n = es_tags_sort(tags, n);
	if (n > ES_MAX_TAGS)
		es_arg_error(ERRCODE_INVALID_PARAMETER_VALUE, argument, element,
					 "An event has at most %d tags, this one has %d.", ES_MAX_TAGS, n);
	event->tags = es_tags_array(tags, n);
	event->ntags = n;
}

/*
 * The same from a JSON array of strings.
 */
static void
es_event_tags_from_json(EsNewEvent *event, const char *argument, int element,
						JsonbContainer *array)
{
	Datum	   *tags;
	EsJsonWalk	walk;
	int			n = 0;

	if (array == NULL || !JsonContainerIsArray(array) || JsonContainerIsScalar(array))
		es_arg_error(ERRCODE_INVALID_PARAMETER_VALUE, argument, element,
					 "Tags must be an array of strings.");
	tags = palloc(sizeof(Datum) * (JsonContainerSize(array) + 1));
	es_json_walk(&walk, array);
	while (es_json_next_element(&walk))
	{
		const JsonbValue *value = &walk.value;

		if (value->type == jbvNull)
			es_arg_error(ERRCODE_NULL_VALUE_NOT_ALLOWED, argument, element, "A tag is null.");
		if (value->type != jbvString)
			es_arg_error(ERRCODE_INVALID_PARAMETER_VALUE, argument, element,
						 "Tags must be an array of strings.");
		tags[n++] = PointerGetDatum(cstring_to_text_with_len(value->val.string.val,
															 value->val.string.len));
	}
	es_event_set_tags(event, argument, element, tags, n);
}

/*
 * Checks that every form shares; makes the id when none was given.
 *
 * element		1-based, 0 = scalars
 */
void
es_event_check(EsNewEvent *event, int element)
{
	Size		size;

	es_check_name("event_type", element, event->type, event->type_len);
	if (event->schema_version < 1)
		es_arg_error(ERRCODE_INVALID_PARAMETER_VALUE, "schema_version", element,
					 "It must be at least 1, not %d.", event->schema_version);
	if (DatumGetPointer(event->metadata) == NULL)
		event->metadata = es_empty_object();
	else if (!JB_ROOT_IS_OBJECT(DatumGetJsonbP(event->metadata)))
		es_arg_error(ERRCODE_INVALID_PARAMETER_VALUE, "metadata", element,
					 "It must be a JSON object.");

	size = VARSIZE(DatumGetPointer(event->data)) +
		VARSIZE(DatumGetPointer(event->metadata));
	if (size > (Size) es_max_event_size_kb * 1024)
		ereport(ERROR,
				errcode(ERRCODE_PROGRAM_LIMIT_EXCEEDED),
				errmsg("event is too large"),
				element > 0 ?
				errdetail("Element %d: data and metadata take %zu bytes, the limit is %d kB.",
						  element, size, es_max_event_size_kb) :
				errdetail("Data and metadata take %zu bytes, the limit is %d kB.",
						  size, es_max_event_size_kb),
				errhint("Store large objects elsewhere and put a reference into the event, or raise \"event_store.max_event_size\"."));

	if (!event->id_given)
		es_uuid_generate(&event->event_id);
}

void
es_batch_check(int64 nevents)
{
	if (nevents == 0)
		ereport(ERROR,
				errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				errmsg("nothing to append"),
				errdetail("The batch contains no events."));
	if (nevents > es_max_batch_size)
		ereport(ERROR,
				errcode(ERRCODE_PROGRAM_LIMIT_EXCEEDED),
				errmsg("batch is too large"),
				errdetail("It has " INT64_FORMAT " events, the limit is %d.",
						  nevents, es_max_batch_size),
				errhint("Append in several batches, or raise \"event_store.max_batch_size\"."));
}

/*
 * es_append(stream_id, expected_version, event_type, data, metadata,
 *			 event_id, schema_version, tags)
 *
 * Without the last one in a database whose script is still that of 0.1.
 */
void
es_events_from_scalars(FunctionCallInfo fcinfo, EsNewEvent *event)
{
	memset(event, 0, sizeof(*event));
	event->type = es_arg_name(fcinfo, 2, "event_type", &event->type_len);
	event->data = JsonbPGetDatum(es_arg_jsonb(fcinfo, 3, "data"));
	if (!PG_ARGISNULL(4))
		event->metadata = JsonbPGetDatum(PG_GETARG_JSONB_P(4));
	if (!PG_ARGISNULL(5))
	{
		event->id_given = true;
		event->event_id = *PG_GETARG_UUID_P(5);
	}
	es_arg_required(fcinfo, 6, "schema_version");
	event->schema_version = PG_GETARG_INT32(6);
	if (PG_NARGS() > 7 && !PG_ARGISNULL(7))
	{
		Datum	   *tags;
		bool	   *isnull;
		int			n = es_arg_array(fcinfo, 7, "tags", TEXTOID, -1, TYPALIGN_INT,
									 &tags, &isnull);

		for (int i = 0; i < n; i++)
		{
			if (isnull[i])
				es_arg_error(ERRCODE_NULL_VALUE_NOT_ALLOWED, "tags", i + 1, "It is null.");
		}
		es_event_set_tags(event, "tags", 0, tags, n);
	}
	es_event_check(event, 0);
}

/*
 * One array argument of es_append_batch besides event_types.
 *
 * expected		elements that it must have
 *
 * Result: false for a NULL argument.
 */
static bool
es_batch_array(FunctionCallInfo fcinfo, int n, const char *argument, Oid type,
			   int typlen, char typalign, int expected, Datum **values, bool **isnull)
{
	int			count;

	if (PG_ARGISNULL(n))
		return false;
	count = es_arg_array(fcinfo, n, argument, type, typlen, typalign, values, isnull);
	if (count != expected)
		es_arg_error(ERRCODE_INVALID_PARAMETER_VALUE, argument, 0,
					 "It has %d elements, but \"event_types\" has %d.", count, expected);
	return true;
}

/*
 * es_append_batch(stream_id, expected_version, event_types, data, metadata,
 *				   event_ids, schema_versions, tags)
 */
EsNewEvent *
es_events_from_arrays(FunctionCallInfo fcinfo, int *nevents)
{
	Datum	   *types;
	Datum	   *data;
	Datum	   *metadata = NULL;
	Datum	   *ids = NULL;
	Datum	   *versions = NULL;
	Datum	   *tags = NULL;
	bool	   *types_null;
	bool	   *data_null;
	bool	   *metadata_null = NULL;
	bool	   *ids_null = NULL;
	bool	   *versions_null = NULL;
	bool	   *tags_null = NULL;
	EsNewEvent *events;
	int			n;

	n = es_arg_array(fcinfo, 2, "event_types", TEXTOID, -1, TYPALIGN_INT,
					 &types, &types_null);
	es_arg_required(fcinfo, 3, "data");
	es_batch_array(fcinfo, 3, "data", JSONBOID, -1, TYPALIGN_INT, n, &data, &data_null);
	es_batch_array(fcinfo, 4, "metadata", JSONBOID, -1, TYPALIGN_INT, n,
				   &metadata, &metadata_null);
	es_batch_array(fcinfo, 5, "event_ids", UUIDOID, UUID_LEN, TYPALIGN_CHAR, n,
				   &ids, &ids_null);
	es_batch_array(fcinfo, 6, "schema_versions", INT4OID, sizeof(int32), TYPALIGN_INT, n,
				   &versions, &versions_null);
	if (PG_NARGS() > 7)
		es_batch_array(fcinfo, 7, "tags", JSONBOID, -1, TYPALIGN_INT, n, &tags, &tags_null);
	es_batch_check(n);

	events = palloc0(sizeof(EsNewEvent) * n);
	for (int i = 0; i < n; i++)
	{
		EsNewEvent *event = &events[i];
		text	   *type;

		if (types_null[i])
			es_arg_error(ERRCODE_NULL_VALUE_NOT_ALLOWED, "event_types", i + 1, "It is null.");
		if (data_null[i])
			es_arg_error(ERRCODE_NULL_VALUE_NOT_ALLOWED, "data", i + 1, "It is null.");
		if (versions != NULL && versions_null[i])
			es_arg_error(ERRCODE_NULL_VALUE_NOT_ALLOWED, "schema_versions", i + 1, "It is null.");

		type = DatumGetTextPP(types[i]);
		event->type = VARDATA_ANY(type);
		event->type_len = VARSIZE_ANY_EXHDR(type);
		event->data = JsonbPGetDatum(DatumGetJsonbP(data[i]));
		if (metadata != NULL && !metadata_null[i])
			event->metadata = JsonbPGetDatum(DatumGetJsonbP(metadata[i]));
		if (ids != NULL && !ids_null[i])
		{
			event->id_given = true;
			event->event_id = *DatumGetUUIDP(ids[i]);
		}
		event->schema_version = versions != NULL ? DatumGetInt32(versions[i]) : 1;
		if (tags != NULL && !tags_null[i])
			es_event_tags_from_json(event, "tags", i + 1, &DatumGetJsonbP(tags[i])->root);
		es_event_check(event, i + 1);
	}
	*nevents = n;
	return events;
}

/*
 * Read a UUID: 32 hexadecimal digits, hyphens allowed after every pair of
 * them, the whole in braces or not.
 */
static bool
es_parse_uuid(const char *s, int len, pg_uuid_t *uuid)
{
	int			digits = 0;

	if (len > 2 && s[0] == '{' && s[len - 1] == '}')
	{
		s++;
		len -= 2;
	}
	memset(uuid, 0, sizeof(*uuid));
	for (int i = 0; i < len; i++)
	{
		char		c = s[i];
		int			value;

		if (c == '-' && digits > 0 && digits < 32 && digits % 2 == 0 && s[i - 1] != '-')
			continue;
		if (c >= '0' && c <= '9')
			value = c - '0';
		else if (c >= 'a' && c <= 'f')
			value = c - 'a' + 10;
		else if (c >= 'A' && c <= 'F')
			value = c - 'A' + 10;
		else
			return false;
		if (digits == 32)
			return false;
		uuid->data[digits / 2] |= value << (digits % 2 == 0 ? 4 : 0);
		digits++;
	}
	return digits == 32;
}

/*
 * Read a JSON number as a schema version; fractions and overflow are errors.
 */
static int32
es_json_schema_version(JsonbValue *value, int element)
{
	char	   *digits;
	char	   *end;
	long		number;

	if (value->type != jbvNumeric)
		es_arg_error(ERRCODE_INVALID_PARAMETER_VALUE, "events", element,
					 "\"schema_version\" must be a number.");
	digits = DatumGetCString(DirectFunctionCall1(numeric_out,
												 NumericGetDatum(value->val.numeric)));
	errno = 0;
	number = strtol(digits, &end, 10);
	if (*end == '.')
		end += strspn(end + 1, "0") + 1;	/* 2.0 is whole */
	if (errno != 0 || *end != '\0' || number < 1 || number > PG_INT32_MAX)
		es_arg_error(ERRCODE_INVALID_PARAMETER_VALUE, "events", element,
					 "\"schema_version\" must be a whole number from 1 to %d, not %s.",
					 PG_INT32_MAX, digits);
	return (int32) number;
}

/*
 * One event object.  A JSON null for an optional key means "not given".
 *
 * stream		result, where an event may name its stream; else NULL
 */
static void
es_event_from_object(JsonbContainer *object, int element, EsNewEvent *event,
					 EsStreamName *stream)
{
	EsJsonWalk	walk;

	event->schema_version = 1;
	es_json_walk(&walk, object);
	while (es_json_next_key(&walk))
	{
		JsonbValue *value = &walk.value;

		if (es_json_key_is(&walk, "event_type"))
		{
			if (value->type != jbvString)
				es_arg_error(ERRCODE_INVALID_PARAMETER_VALUE, "events", element,
							 "\"event_type\" must be a string.");
			event->type = value->val.string.val;
			event->type_len = value->val.string.len;
		}
		else if (es_json_key_is(&walk, "data"))
			event->data = JsonbPGetDatum(JsonbValueToJsonb(value));
		else if (es_json_key_is(&walk, "metadata"))
		{
			if (value->type != jbvNull)
				event->metadata = JsonbPGetDatum(JsonbValueToJsonb(value));
		}
		else if (es_json_key_is(&walk, "event_id"))
		{
			if (value->type == jbvNull)
				continue;
			if (value->type != jbvString ||
				!es_parse_uuid(value->val.string.val, value->val.string.len, &event->event_id))
				es_arg_error(ERRCODE_INVALID_PARAMETER_VALUE, "events", element,
							 "\"event_id\" must be a string with a UUID.");
			event->id_given = true;
		}
		else if (es_json_key_is(&walk, "schema_version"))
		{
			if (value->type != jbvNull)
				event->schema_version = es_json_schema_version(value, element);
		}
		else if (es_json_key_is(&walk, "tags"))
		{
			if (value->type != jbvNull)
				es_event_tags_from_json(event, "events", element,
										value->type == jbvBinary ? value->val.binary.data : NULL);
		}
		else if (stream != NULL && es_json_key_is(&walk, "stream_id"))
		{
			if (value->type == jbvNull)
				continue;
			if (value->type != jbvString)
				es_arg_error(ERRCODE_INVALID_PARAMETER_VALUE, "events", element,
							 "\"stream_id\" must be a string.");
			es_check_name("stream_id", element, value->val.string.val, value->val.string.len);
			stream->name = value->val.string.val;
			stream->len = value->val.string.len;
		}
		else
			es_arg_error(ERRCODE_INVALID_PARAMETER_VALUE, "events", element,
						 "Key \"%.*s\" is not known; an event has \"event_type\", \"data\", \"metadata\", \"event_id\", \"schema_version\" and \"tags\"%s.",
						 walk.key.val.string.len, walk.key.val.string.val,
						 stream != NULL ? ", and here \"stream_id\"" : "");
	}

	if (event->type == NULL)
		es_arg_error(ERRCODE_INVALID_PARAMETER_VALUE, "events", element,
					 "Key \"event_type\" is missing.");
	if (DatumGetPointer(event->data) == NULL)
		es_arg_error(ERRCODE_INVALID_PARAMETER_VALUE, "events", element,
					 "Key \"data\" is missing.");
	es_event_check(event, element);
}

/*
 * Events as JSON: an object, or an array of objects.
 *
 * streams		result, palloc'd: the stream that each event names; NULL = they
 *				must not name any
 */
EsNewEvent *
es_events_from_json(JsonbContainer *events, int *nevents, EsStreamName **streams)
{
	EsNewEvent *result;
	EsJsonWalk	walk;
	int			n = 0;

	if (JsonContainerIsScalar(events))
		es_arg_error(ERRCODE_INVALID_PARAMETER_VALUE, "events", 0,
					 "It must be a JSON object or an array of objects.");
	if (JsonContainerIsObject(events))
	{
		result = palloc0(sizeof(EsNewEvent));
		if (streams != NULL)
			*streams = palloc0(sizeof(EsStreamName));
		es_event_from_object(events, 1, result, streams == NULL ? NULL : *streams);
		*nevents = 1;
		return result;
	}

	es_batch_check(JsonContainerSize(events));
	result = palloc0(sizeof(EsNewEvent) * JsonContainerSize(events));
	if (streams != NULL)
		*streams = palloc0(sizeof(EsStreamName) * JsonContainerSize(events));
	es_json_walk(&walk, events);
	while (es_json_next_element(&walk))
	{
		const JsonbValue *value = &walk.value;

		if (value->type != jbvBinary || !JsonContainerIsObject(value->val.binary.data))
			es_arg_error(ERRCODE_INVALID_PARAMETER_VALUE, "events", n + 1,
						 "It must be a JSON object.");
		es_event_from_object(value->val.binary.data, n + 1, &result[n],
							 streams == NULL ? NULL : &(*streams)[n]);
		n++;
	}
	*nevents = n;
	return result;
}
