/*-------------------------------------------------------------------------
 * group_store.c
 *	  See group_store.h.
 *-------------------------------------------------------------------------
 */
#include "group_store.h"

#include "status.h"

/* how long a gateway that died keeps others from going on */
#define LEASE	"'10 s'"

static const char *const strategies[] = {
	[STRATEGY_ROUND_ROBIN] = "RoundRobin",
	[STRATEGY_SINGLE] = "DispatchToSingle",
	[STRATEGY_PINNED] = "Pinned",
	[STRATEGY_PINNED_BY_CORRELATION] = "PinnedByCorrelation",
};

const char *
strategy_name(Strategy strategy)
{
	return strategies[strategy];
}

char *
group_subscription(const char *source, const char *group)
{
	return xprintf("%s::%s", source, group);
}

/* --- rows ------------------------------------------------------------------ */

#define SETTINGS \
	"resolve_links, extra_statistics, max_retries, min_checkpoint, max_checkpoint, max_consumers," \
	" live_buffer, read_batch, history_buffer, timeout_ms, checkpoint_ms, strategy"

Query *
group_select(const char *source, const char *group, QueryDone done, void *arg)
{
	/*
	 * The checkpoint is a position; for a stream its revision is looked for
	 * among the last thousand.
	 */
	static Statement statement = {
		"SELECT p.subscription, p.source, p.group_name, p.start_from, p.filter_on, p.filter_regex, p.filter_prefixes, "
		SETTINGS ", s.checkpoint,"
		" (SELECT count(*) FROM event_store_gateway.parked k WHERE k.subscription = p.subscription AND NOT k.replay),"
		" CASE WHEN p.source = '$all' OR p.source LIKE '$ce-%' OR p.source LIKE '$et-_%' THEN es_head()"
		"  ELSE es_stream_version(p.source) - 1 END,"
		" CASE WHEN p.source = '$all' OR p.source LIKE '$ce-%' OR p.source LIKE '$et-_%' THEN nullif(s.checkpoint, 0)"
		"  ELSE (SELECT max(r.version) - 1 FROM es_read_stream(p.source, NULL, 1000, true) r WHERE r.global_position <= s.checkpoint) END"
		" FROM event_store_gateway.persistent_subscription p"
		" LEFT JOIN LATERAL (SELECT v.checkpoint FROM event_store.subscriptions v WHERE v.name = p.subscription) s ON true"
		" WHERE ($1 IS NULL OR p.source = $1) AND ($2 IS NULL OR p.group_name = $2)"
		" ORDER BY p.subscription",
		2, {TEXTOID, TEXTOID}
	};
	Query	   *q = query_new(&statement, done, arg);

	if (source)
		query_text(q, source);
	else
		query_null(q);
	if (group)
		query_text(q, group);
	else
		query_null(q);
	return q;
}

/* A text[] in wire format, as the prefixes of a filter. */
static void
read_prefixes(Gw__Filter__Pattern *pattern, const char *wire, int len)
{
	const char *p = wire + 20,
			   *end = wire + len;
	uint32_t	n;

	if (len < 20 || get_u32(wire) != 1)
		return;
	n = get_u32(wire + 12);
	pattern->prefix = xcalloc(n * sizeof(char *));
	for (uint32_t i = 0; i < n && end - p >= 4; i++)
	{
		uint32_t	size = get_u32(p);

		p += 4;
		if (size > (uint32_t) (end - p))
			break;
		pattern->prefix[pattern->n_prefix++] = xstrndup(p, size);
		p += size;
	}
}

void
group_row_read(GroupRow *row, const PGresult *r, int n)
{
	int			c = 7;
	const char *strategy;

	memset(row, 0, sizeof(*row));
	row->subscription = xstrdup(PQgetvalue(r, n, 0));
	row->source = xstrdup(PQgetvalue(r, n, 1));
	row->group = xstrdup(PQgetvalue(r, n, 2));
	row->start = row_int8(r, n, 3);
	if (!row_null(r, n, 4))
	{
		Gw__Filter	filter = GW__FILTER__INIT;
		Gw__Filter__Pattern pattern = GW__FILTER__PATTERN__INIT;
		char	   *error;

		pattern.regex = PQgetvalue(r, n, 5);
		if (!row_null(r, n, 6))
			read_prefixes(&pattern, PQgetvalue(r, n, 6), PQgetlength(r, n, 6));
		filter.on_case = PQgetvalue(r, n, 4)[0] == 's' ? GW__FILTER__ON_STREAM : GW__FILTER__ON_EVENT_TYPE;
		filter.stream = &pattern;	/* the same place as event_type */
		row->filter = filter_make(&filter, &error);
		free(error);
		for (size_t i = 0; i < pattern.n_prefix; i++)
			free(pattern.prefix[i]);
		if (pattern.n_prefix)
			free(pattern.prefix);
	}
	row->resolve_links = PQgetvalue(r, n, c++)[0];
	row->extra_statistics = PQgetvalue(r, n, c++)[0];
	row->max_retries = row_int4(r, n, c++);
	row->min_checkpoint = row_int4(r, n, c++);
	row->max_checkpoint = row_int4(r, n, c++);
	row->max_consumers = row_int4(r, n, c++);
	row->live_buffer = row_int4(r, n, c++);
	row->read_batch = row_int4(r, n, c++);
	row->history_buffer = row_int4(r, n, c++);
	row->timeout_ms = row_int4(r, n, c++);
	row->checkpoint_ms = row_int4(r, n, c++);
	strategy = PQgetvalue(r, n, c++);
	for (int i = STRATEGY_ROUND_ROBIN; i <= STRATEGY_PINNED_BY_CORRELATION; i++)
		if (strcmp(strategies[i], strategy) == 0)
			row->strategy = i;
	row->checkpoint = row_null(r, n, c) ? -1 : row_int8(r, n, c);
	row->parked = row_int8(r, n, c + 1);
	row->last_known = row_null(r, n, c + 2) ? -1 : row_int8(r, n, c + 2);
	row->checkpoint_shown = row_null(r, n, c + 3) ? -1 : row_int8(r, n, c + 3);
}

void
group_row_free(GroupRow *row)
{
	free(row->subscription);
	free(row->source);
	free(row->group);
	filter_free(row->filter);
	memset(row, 0, sizeof(*row));
}

/* --- changes --------------------------------------------------------------- */

static int64_t
start_of(const Gw__GroupReq__Options *options)
{
	uint64_t	number = 0;

	switch (options->source_case)
	{
		case GW__GROUP_REQ__OPTIONS__SOURCE_STREAM:
			if (options->stream->start_case == GW__READ_REQ__FROM_STREAM__START_LAST)
				return START_END;
			if (options->stream->start_case == GW__READ_REQ__FROM_STREAM__START_REVISION)
				number = options->stream->revision;
			break;
		case GW__GROUP_REQ__OPTIONS__SOURCE_ALL:
			if (options->all->start_case == GW__GROUP_REQ__FROM_ALL__START_LAST)
				return START_END;
			if (options->all->start_case == GW__GROUP_REQ__FROM_ALL__START_PLACE && options->all->place)
				number = options->all->place->commit;
			break;
		default:
			number = options->settings->revision;
	}
	return number > INT64_MAX - 2 ? START_END : (int64_t) number;
}

static const char *
strategy_of(const Gw__GroupSettings *settings)
{
	for (int i = STRATEGY_ROUND_ROBIN; settings->strategy_name && i <= STRATEGY_PINNED_BY_CORRELATION; i++)
		if (strcmp(strategies[i], settings->strategy_name) == 0)
			return strategies[i];
	return strategies[settings->strategy == 0 ? STRATEGY_SINGLE :
					  settings->strategy == 2 ? STRATEGY_PINNED : STRATEGY_ROUND_ROBIN];
}

static int
at_least(int value, int least)
{
	return value > least ? value : least;
}

static void
add_settings(Query *q, const Gw__GroupSettings *s)
{
	int			timeout = 30000,
				checkpoint = 2000;

	if (s->message_timeout_case == GW__GROUP_SETTINGS__MESSAGE_TIMEOUT_TIMEOUT_MS)
		timeout = s->timeout_ms;
	else if (s->message_timeout_case == GW__GROUP_SETTINGS__MESSAGE_TIMEOUT_TIMEOUT_TICKS)
		timeout = s->timeout_ticks / 10000;
	if (s->checkpoint_after_case == GW__GROUP_SETTINGS__CHECKPOINT_AFTER_CHECKPOINT_MS)
		checkpoint = s->checkpoint_ms;
	else if (s->checkpoint_after_case == GW__GROUP_SETTINGS__CHECKPOINT_AFTER_CHECKPOINT_TICKS)
		checkpoint = s->checkpoint_ticks / 10000;
	query_bool(q, s->resolve_links);
	query_bool(q, s->extra_statistics);
	query_int4(q, at_least(s->max_retries, 0));
	query_int4(q, at_least(s->min_checkpoint, 0));
	query_int4(q, at_least(s->max_checkpoint, 0));
	query_int4(q, at_least(s->max_consumers, 0));
	query_int4(q, at_least(s->live_buffer, 1));
	query_int4(q, at_least(s->read_batch, 1));
	query_int4(q, at_least(s->history_buffer, 1));
	query_int4(q, at_least(timeout, 0));
	query_int4(q, at_least(checkpoint, 0));
	query_text(q, strategy_of(s));
}

#define SETTING_TYPES \
	BOOLOID, BOOLOID, INT4OID, INT4OID, INT4OID, INT4OID, INT4OID, INT4OID, INT4OID, INT4OID, INT4OID, TEXTOID

Query *
group_insert(const Gw__GroupReq__Options *options, const char *source, QueryDone done, void *arg)
{
	/* the store's subscription is made by the same statement, or not at all */
	static Statement statement = {
		"INSERT INTO event_store_gateway.persistent_subscription AS p"
		" (subscription, source, group_name, start_from, " SETTINGS ", filter_on, filter_regex, filter_prefixes)"
		" VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, $18, $19)"
		" RETURNING es_create_subscription($1,"
		"  CASE WHEN $2 LIKE '$ce-%' THEN ARRAY[substr($2, 5)]"
		"   WHEN $2 <> '$all' AND $2 NOT LIKE '$et-_%' THEN ARRAY[split_part($2, '-', 1)] END,"
		"  CASE WHEN $2 LIKE '$et-_%' THEN ARRAY[substr($2, 5)] END,"
		"  CASE WHEN $4 < 0 THEN es_head()"
		"   WHEN $4 = 0 THEN 0"
		"   WHEN $2 = '$all' OR $2 LIKE '$ce-%' OR $2 LIKE '$et-_%' THEN $4 - 1"
		"   ELSE coalesce((SELECT r.global_position - 1 FROM es_read_stream($2, $4 + 1, 1) r), es_head()) END,"
		"  lease => " LEASE ")",
		19, {TEXTOID, TEXTOID, TEXTOID, INT8OID, SETTING_TYPES, TEXTOID, TEXTOID, TEXTARRAYOID}
	};
	Query	   *q = query_new(&statement, done, arg);
	char	   *subscription = group_subscription(source, options->group);
	const Gw__Filter *filter = NULL;
	const Gw__Filter__Pattern *pattern;

	query_text(q, subscription);
	free(subscription);
	query_text(q, source);
	query_text(q, options->group);
	query_int8(q, start_of(options));
	add_settings(q, options->settings);
	if (options->source_case == GW__GROUP_REQ__OPTIONS__SOURCE_ALL &&
		options->all->filtering_case == GW__GROUP_REQ__FROM_ALL__FILTERING_FILTER)
		filter = options->all->filter;
	if (filter == NULL || filter->on_case == GW__FILTER__ON__NOT_SET)
	{
		query_null(q);
		query_null(q);
		query_null(q);
		return q;
	}
	pattern = filter->on_case == GW__FILTER__ON_STREAM ? filter->stream : filter->event_type;
	query_text(q, filter->on_case == GW__FILTER__ON_STREAM ? "stream" : "type");
	if (pattern->n_prefix == 0)
	{
		query_text(q, pattern->regex);
		query_null(q);
	}
	else
	{
		Buf			array = {0};
		uint8_t		head[20],
					len[4];

		put_u32(head, 1);
		put_u32(head + 4, 0);
		put_u32(head + 8, TEXTOID);
		put_u32(head + 12, pattern->n_prefix);
		put_u32(head + 16, 1);
		buf_add(&array, head, sizeof(head));
		for (size_t i = 0; i < pattern->n_prefix; i++)
		{
			put_u32(len, strlen(pattern->prefix[i]));
			buf_add(&array, len, 4);
			buf_str(&array, pattern->prefix[i]);
		}
		query_null(q);
		query_bytes(q, array.data, array.len);
		buf_free(&array);
	}
	return q;
}

/* The cursor stays where it is; KurrentDB's does too, once there is a checkpoint. */
Query *
group_update(const Gw__GroupReq__Options *options, const char *source, QueryDone done, void *arg)
{
	static Statement statement = {
		"UPDATE event_store_gateway.persistent_subscription"
		" SET (start_from, " SETTINGS ") = ($3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15)"
		" WHERE source = $1 AND group_name = $2 RETURNING subscription",
		15, {TEXTOID, TEXTOID, INT8OID, SETTING_TYPES}
	};
	Query	   *q = query_new(&statement, done, arg);

	query_text(q, source);
	query_text(q, options->group);
	query_int8(q, start_of(options));
	add_settings(q, options->settings);
	return q;
}

Query *
group_delete(const char *source, const char *group, QueryDone done, void *arg)
{
	static Statement statement = {
		"DELETE FROM event_store_gateway.persistent_subscription"
		" WHERE source = $1 AND group_name = $2 RETURNING es_drop_subscription(subscription)",
		2, {TEXTOID, TEXTOID}
	};
	Query	   *q = query_new(&statement, done, arg);

	query_text(q, source);
	query_text(q, group);
	return q;
}

Query *
group_replay(const char *source, const char *group, int64_t limit, QueryDone done, void *arg)
{
	static Statement statement = {
		"WITH marked AS (UPDATE event_store_gateway.parked SET replay = true"
		"  WHERE (subscription, global_position) IN (SELECT k.subscription, k.global_position FROM event_store_gateway.parked k"
		"   JOIN event_store_gateway.persistent_subscription p USING (subscription)"
		"   WHERE p.source = $1 AND p.group_name = $2 AND NOT k.replay ORDER BY k.parked_at, k.global_position LIMIT $3))"
		" SELECT subscription FROM event_store_gateway.persistent_subscription WHERE source = $1 AND group_name = $2",
		3, {TEXTOID, TEXTOID, INT8OID}
	};
	Query	   *q = query_new(&statement, done, arg);

	query_text(q, source);
	query_text(q, group);
	if (limit < 0)
		query_null(q);
	else
		query_int8(q, limit);
	return q;
}

/* --- errors ---------------------------------------------------------------- */

static void
finish(Call *call, grpc_status_code code, const char *exception, const char *format,
	   const char *source, const char *group)
{
	char	   *message = xprintf("Subscription group %s on stream %s %s", group, source, format);

	call_trailer_text(call, "exception", exception);
	call_trailer_text(call, "stream-name", source);
	call_trailer_text(call, "group-name", group);
	call_finish(call, code, message);
	free(message);
}

void
group_unknown(Call *call, const char *source, const char *group)
{
	finish(call, GRPC_STATUS_NOT_FOUND, "persistent-subscription-does-not-exist", "does not exist.", source, group);
}

void
group_dropped(Call *call, const char *source, const char *group)
{
	finish(call, GRPC_STATUS_CANCELLED, "persistent-subscription-dropped", "was dropped.", source, group);
}

void
group_failed(Call *call, const DbError *error, const char *source, const char *group)
{
	if (strcmp(error->code, "23505") == 0 || strcmp(error->code, "42710") == 0)
		finish(call, GRPC_STATUS_ALREADY_EXISTS, "persistent-subscription-exists", "exists.", source, group);
	else if (strcmp(error->code, "42P01") == 0 || strcmp(error->code, "3F000") == 0)
		call_finish(call, GRPC_STATUS_UNIMPLEMENTED,
					"persistent subscriptions need CREATE EXTENSION event_store_gateway in the database");
	else
		call_failed(call, error);
}
