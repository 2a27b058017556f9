/*-------------------------------------------------------------------------
 * append/streams.c
 *	  Append to several streams in one call, or only check some of them.
 *
 * The call is one append with several targets (append.c): all streams are
 * locked, in the order of their names' hashes, before the first is looked at,
 * so that two such calls never deadlock and the answer tells of every stream
 * that is not where it should be.  A stream that is only checked is locked
 * like the others, and so stays as it was seen until the transaction ends.
 *
 * The events get their positions in the order in which they are given.
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "utils/builtins.h"
#include "utils/numeric.h"

#include "append/append.h"
#include "base/args.h"
#include "base/json.h"
#include "base/result.h"
#include "settings.h"

PG_FUNCTION_INFO_V1(es_append_streams);

/* one entry of the argument, and what it asks for */
typedef struct EsStreamsEntry
{
	EsNewEvent *events;
	int			nevents;
} EsStreamsEntry;

static void
es_streams_context(void *arg)
{
	errcontext("element %d of \"appends\"", *(int *) arg);
}

/*
 * The expected version of an entry.
 */
static int64
es_entry_expected(const JsonbValue *value, int element)
{
	char	   *digits;
	char	   *end;
	int64		expected;

	if (value->type == jbvNull)
		es_expected_error(ERRCODE_NULL_VALUE_NOT_ALLOWED, "expected_version", element,
						  "It is null.");
	if (value->type != jbvNumeric)
		es_expected_error(ERRCODE_INVALID_PARAMETER_VALUE, "expected_version", element,
						  "It must be a number.");
	digits = DatumGetCString(DirectFunctionCall1(numeric_out,
												 NumericGetDatum(value->val.numeric)));
	errno = 0;
	expected = strtoll(digits, &end, 10);
	if (*end == '.')
		end += strspn(end + 1, "0") + 1;	/* 2.0 is whole */
	if (errno != 0 || *end != '\0')
		es_expected_error(ERRCODE_INVALID_PARAMETER_VALUE, "expected_version", element,
						  psprintf("It must be a whole number, not %s.", digits));
	es_check_expected("expected_version", element, expected);
	return expected;
}

/*
 * Read one entry.
 */
static void
es_entry_from_object(JsonbContainer *object, int element, EsTarget *target,
					 EsStreamsEntry *entry)
{
	EsJsonWalk	walk;
	bool		has_expected = false;

	es_json_walk(&walk, object);
	while (es_json_next_key(&walk))
	{
		const JsonbValue *value = &walk.value;

		if (es_json_key_is(&walk, "stream_id"))
		{
			if (value->type == jbvNull)
				es_arg_error(ERRCODE_NULL_VALUE_NOT_ALLOWED, "stream_id", element, "It is null.");
			if (value->type != jbvString)
				es_arg_error(ERRCODE_INVALID_PARAMETER_VALUE, "stream_id", element,
							 "It must be a string.");
			target->stream = value->val.string.val;
			target->stream_len = value->val.string.len;
			es_check_name("stream_id", element, target->stream, target->stream_len);
		}
		else if (es_json_key_is(&walk, "expected_version"))
		{
			target->expected = es_entry_expected(value, element);
			has_expected = true;
		}
		else if (es_json_key_is(&walk, "events"))
		{
			if (value->type == jbvNull ||
				(value->type == jbvBinary && JsonContainerIsArray(value->val.binary.data) &&
				 JsonContainerSize(value->val.binary.data) == 0))
				continue;		/* only a check */
			if (value->type != jbvBinary)
				es_arg_error(ERRCODE_INVALID_PARAMETER_VALUE, "events", 0,
							 "It must be a JSON object or an array of objects.");
			entry->events = es_events_from_json(value->val.binary.data, &entry->nevents,
												NULL);
		}
		else
			es_arg_error(ERRCODE_INVALID_PARAMETER_VALUE, "appends", element,
						 "Key \"%.*s\" is not known; an append has \"stream_id\", \"expected_version\" and \"events\".",
						 walk.key.val.string.len, walk.key.val.string.val);
	}

	if (target->stream == NULL)
		es_arg_error(ERRCODE_INVALID_PARAMETER_VALUE, "appends", element,
					 "Key \"stream_id\" is missing.");
	if (!has_expected)
		es_expected_error(ERRCODE_NULL_VALUE_NOT_ALLOWED, "expected_version", element,
						  "It is missing.");
	if (entry->nevents == 0 && target->expected == ES_ANY_VERSION)
		es_arg_error(ERRCODE_INVALID_PARAMETER_VALUE, "appends", element,
					 "With es_any() and without events there is nothing to check.");
}

static int
es_target_name_compare(const void *a, const void *b)
{
	const EsTarget *left = *(EsTarget *const *) a;
	const EsTarget *right = *(EsTarget *const *) b;
	int			result = memcmp(left->stream, right->stream,
								Min(left->stream_len, right->stream_len));

	if (result == 0)
		result = left->stream_len - right->stream_len;
	/* of two equal ones the later entry is the one to blame */
	return result != 0 ? result : (left > right) - (left < right);
}

/*
 * Each stream may appear only once.
 */
static void
es_check_distinct(EsTarget *targets, int ntargets)
{
	EsTarget  **order = palloc(sizeof(EsTarget *) * ntargets);

	for (int i = 0; i < ntargets; i++)
		order[i] = &targets[i];
	qsort(order, ntargets, sizeof(EsTarget *), es_target_name_compare);
	for (int i = 1; i < ntargets; i++)
	{
		EsTarget   *target = order[i];

		if (target->stream_len == order[i - 1]->stream_len &&
			memcmp(target->stream, order[i - 1]->stream, target->stream_len) == 0)
			es_arg_error(ERRCODE_INVALID_PARAMETER_VALUE, "appends",
						 (int) (target - targets) + 1,
						 "Stream \"%.*s\" appears more than once.",
						 target->stream_len, target->stream);
	}
	pfree(order);
}

/*
 * Read the argument.
 */
static void
es_streams_from_json(Jsonb *appends, EsAppend *append)
{
	EsStreamsEntry *entries;
	EsJsonWalk	walk;
	ErrorContextCallback context;
	int			element = 0;
	int64		nevents = 0;
	int			n = 0;

	if (!JB_ROOT_IS_ARRAY(appends) || JB_ROOT_IS_SCALAR(appends))
		es_arg_error(ERRCODE_INVALID_PARAMETER_VALUE, "appends", 0,
					 "It must be a JSON array of objects.");
	es_batch_check(JB_ROOT_COUNT(appends));
	append->ntargets = JB_ROOT_COUNT(appends);
	append->targets = palloc0(sizeof(EsTarget) * append->ntargets);
	entries = palloc0(sizeof(EsStreamsEntry) * append->ntargets);

	context.callback = es_streams_context;
	context.arg = &element;
	context.previous = error_context_stack;
	error_context_stack = &context;
	es_json_walk(&walk, &appends->root);
	while (es_json_next_element(&walk))
	{
		JsonbValue *value = &walk.value;

		element++;
		if (value->type != jbvBinary || !JsonContainerIsObject(value->val.binary.data))
			es_arg_error(ERRCODE_INVALID_PARAMETER_VALUE, "appends", element,
						 "It must be a JSON object.");
		es_entry_from_object(value->val.binary.data, element, &append->targets[element - 1],
							 &entries[element - 1]);
		nevents += entries[element - 1].nevents;
	}
	error_context_stack = context.previous;

	es_check_distinct(append->targets, append->ntargets);
	if (nevents > 0)
		es_batch_check(nevents);
	append->nevents = (int) nevents;
	append->events = palloc(sizeof(EsNewEvent) * Max(nevents, 1));
	for (int i = 0; i < append->ntargets; i++)
	{
		append->targets[i].first = entries[i].nevents > 0 ? n : -1;
		for (int k = 0; k < entries[i].nevents; k++, n++)
		{
			append->events[n] = entries[i].events[k];
			append->events[n].target = i;
			append->events[n].next = k + 1 < entries[i].nevents ? n + 1 : -1;
		}
	}
}

/*
 * es_append_streams(appends jsonb)
 *		RETURNS SETOF (stream_id text, event_id uuid, version bigint,
 *					   global_position bigint, is_duplicate boolean)
 *
 * All or nothing, in the order given.
 * Errors: VE001 with a line for each stream that is not where it should be;
 * VE002.
 */
Datum
es_append_streams(PG_FUNCTION_ARGS)
{
	EsAppend	append = {0};
	TupleDesc	desc;
	Tuplestorestate *result;
	bool		is_duplicate;

	append.function = "es_append_streams()";
	es_streams_from_json(es_arg_jsonb(fcinfo, 0, "appends"), &append);
	is_duplicate = es_append_run(&append);

	result = es_result_set(fcinfo, NULL, 0, &desc);
	for (int i = 0; i < append.nevents; i++)
	{
		EsTarget   *target = &append.targets[append.events[i].target];
		Datum		values[5];
		bool		isnull[5] = {false};

		values[0] = PointerGetDatum(cstring_to_text_with_len(target->stream,
															 target->stream_len));
		es_append_answer(&append.events[i], is_duplicate, &values[1], &isnull[1]);
		tuplestore_putvalues(result, desc, values, isnull);
		pfree(DatumGetPointer(values[0]));
	}
	return (Datum) 0;
}
