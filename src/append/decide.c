/*-------------------------------------------------------------------------
 * append/decide.c
 *	  es_append_if: append what was decided, unless the decision is stale.
 *
 * The events go to the streams that they name, with any version, or to none.
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "append/append.h"
#include "append/condition.h"
#include "base/args.h"

PG_FUNCTION_INFO_V1(es_append_if);

/* an event and the stream that it names, while they are sorted */
typedef struct EsEventStream
{
	const EsStreamName *stream;
	int			event;
} EsEventStream;

static int
es_event_stream_compare(const void *a, const void *b)
{
	const EsEventStream *left = a;
	const EsEventStream *right = b;
	int			result;

	result = memcmp(left->stream->name ? left->stream->name : "",
					right->stream->name ? right->stream->name : "",
					Min(left->stream->len, right->stream->len));
	if (result == 0)
		result = left->stream->len - right->stream->len;
	return result != 0 ? result : left->event - right->event;
}

/*
 * Find the targets of events that each name a stream or none.
 */
static void
es_targets_from_names(EsAppend *append, const EsStreamName *streams)
{
	EsEventStream *order = palloc(sizeof(EsEventStream) * append->nevents);

	append->targets = palloc0(sizeof(EsTarget) * append->nevents);
	for (int i = 0; i < append->nevents; i++)
	{
		order[i].stream = &streams[i];
		order[i].event = i;
	}
	qsort(order, append->nevents, sizeof(EsEventStream), es_event_stream_compare);
	for (int i = 0; i < append->nevents; i++)
	{
		const EsStreamName *stream = order[i].stream;
		EsNewEvent *event = &append->events[order[i].event];

		if (i > 0 && stream->len == order[i - 1].stream->len &&
			(stream->len == 0 ||
			 memcmp(stream->name, order[i - 1].stream->name, stream->len) == 0))
			append->events[order[i - 1].event].next = order[i].event;
		else
		{
			EsTarget   *target = &append->targets[append->ntargets++];

			target->stream = stream->name;
			target->stream_len = stream->len;
			target->expected = ES_ANY_VERSION;
			target->first = order[i].event;
		}
		event->target = append->ntargets - 1;
		event->next = -1;
	}
	pfree(order);
}

/*
 * es_append_if(events jsonb, fail_if jsonb, after_position bigint)
 *		RETURNS SETOF (event_id uuid, version bigint, global_position bigint,
 *					   is_duplicate boolean)
 *
 * Append unless an event above after_position matches fail_if.
 */
Datum
es_append_if(PG_FUNCTION_ARGS)
{
	EsAppend	append = {0};
	EsCondition condition;
	EsStreamName *streams;

	append.function = "es_append_if()";
	append.events = es_events_from_json(&es_arg_jsonb(fcinfo, 0, "events")->root,
										&append.nevents, &streams);
	condition.query = es_query_parse("fail_if", es_arg_jsonb(fcinfo, 1, "fail_if"));
	condition.after = es_arg_int64_default(fcinfo, 2, "after_position", 0, PG_INT64_MAX, 0);
	append.condition = &condition;
	es_targets_from_names(&append, streams);
	return es_append_set(fcinfo, append.events, append.nevents, es_append_run(&append));
}
