/*-------------------------------------------------------------------------
 * projections.c
 *	  Projections by name: the store's own, which are made with
 *	  es_create_projection().  What KurrentDB's are made of (JavaScript) is
 *	  refused, see refused.c.
 *-------------------------------------------------------------------------
 */
#include <stdio.h>

#include "node.h"
#include "node.pb-c.h"
#include "status.h"

#define SERVICE "event_store.client.projections.Projections"

static void
query_over(Call *call)
{
	Query	   *q = call_state(call);

	if (q)
		query_forget(q);
	call_set_state(call, NULL);
}

static void
run(Call *call, Query *q)
{
	call_set_state(call, q);
	query_send(call_pool(call), q);
}

/*
 * KurrentDB's own projections that make $ce- and $et-: they are indexes here,
 * so they always run.
 */
static bool
is_index(const char *name)
{
	return strcmp(name, "$by_category") == 0 || strcmp(name, "$by_event_type") == 0;
}

static void
unknown(Call *call)
{
	call_finish(call, GRPC_STATUS_NOT_FOUND, "there is no such projection");
}

/* --- statistics ------------------------------------------------------------ */

static void
statistics_done(void *arg, const PGresult *r, const DbError *error)
{
	Call	   *call = arg;

	call_set_state(call, NULL);
	if (call_failed(call, error))
		return;
	for (int i = 0; i < PQntuples(r); i++)
	{
		Gw__ProjectionStatistics answer = GW__PROJECTION_STATISTICS__INIT;
		Gw__ProjectionStatistics__Details d = GW__PROJECTION_STATISTICS__DETAILS__INIT;
		const char *state = PQgetvalue(r, i, 1);
		int64_t		position = row_int8(r, i, 2);
		int64_t		head = row_int8(r, i, 3);
		char	   *at = xprintf("C:%lld/P:%lld", (long long) position, (long long) position);

		d.name = d.effective_name = PQgetvalue(r, i, 0);
		/* the words that clients of KurrentDB know */
		d.status = strcmp(state, "paused") == 0 ? "Stopped" : strcmp(state, "stopped") == 0 ? "Faulted" : "Running";
		d.reason = PQgetvalue(r, i, 4);
		d.mode = "Continuous";
		d.position = d.checkpoint = at;
		d.progress = head > 0 ? 100.0f * position / head : 100.0f;
		if (d.progress > 100)
			d.progress = 100;
		d.checkpoint_status = "";
		d.processed = row_int8(r, i, 5);
		answer.details = &d;
		call_send_message(call, &answer.base);
		free(at);
	}
	call_finish(call, GRPC_STATUS_OK, NULL);
}

/* the same for one that was asked for by name */
static void
one_done(void *arg, const PGresult *r, const DbError *error)
{
	if (error == NULL && PQntuples(r) == 0)
	{
		call_set_state(arg, NULL);
		unknown(arg);
	}
	else
		statistics_done(arg, r, error);
}

static void
index_statistics(Call *call, const char *name)
{
	Gw__ProjectionStatistics answer = GW__PROJECTION_STATISTICS__INIT;
	Gw__ProjectionStatistics__Details d = GW__PROJECTION_STATISTICS__DETAILS__INIT;

	d.name = d.effective_name = (char *) name;
	d.status = "Running";
	d.reason = "an index of the store";
	d.mode = "Continuous";
	d.progress = 100;
	answer.details = &d;
	call_send_message(call, &answer.base);
	call_finish(call, GRPC_STATUS_OK, NULL);
}

#define PROJECTIONS \
	"SELECT p.name, p.state, p.position, es_head(), coalesce(p.error_message, ''), p.events_applied" \
	" FROM event_store.projections p WHERE NOT p.is_shadow"

static void
statistics_message(Call *call, const uint8_t *data, size_t len)
{
	static Statement one = {PROJECTIONS " AND p.name = $1", 1, {TEXTOID}};
	static Statement all = {PROJECTIONS " ORDER BY p.name", 0, {0}};
	Gw__ProjectionStatisticsReq *req = data ? call_unpack(&gw__projection_statistics_req__descriptor, data, len) : NULL;
	Query	   *q;

	if (req == NULL || req->options == NULL)
		call_malformed(call);
	else
		switch (req->options->which_case)
		{
			case GW__PROJECTION_STATISTICS_REQ__OPTIONS__WHICH_NAME:
				if (is_index(req->options->name))
				{
					index_statistics(call, req->options->name);
					break;
				}
				q = query_new(&one, one_done, call);
				query_text(q, req->options->name);
				run(call, q);
				break;
			case GW__PROJECTION_STATISTICS_REQ__OPTIONS__WHICH_ALL:
			case GW__PROJECTION_STATISTICS_REQ__OPTIONS__WHICH_CONTINUOUS:
				run(call, query_new(&all, statistics_done, call));
				break;
			case GW__PROJECTION_STATISTICS_REQ__OPTIONS__WHICH_TRANSIENT:
			case GW__PROJECTION_STATISTICS_REQ__OPTIONS__WHICH_ONE_TIME:
				/* there are none of these */
				call_finish(call, GRPC_STATUS_OK, NULL);
				break;
			default:
				call_malformed(call);
		}
	if (req)
		gw__projection_statistics_req__free_unpacked(req, NULL);
}

/* --- enable, disable, reset ------------------------------------------------ */

static void
command_done(void *arg, const PGresult *r, const DbError *error)
{
	Call	   *call = arg;

	(void) r;
	call_set_state(call, NULL);
	if (error && strcmp(error->code, "42704") == 0)
		unknown(call);
	else if (!call_failed(call, error))
	{
		call_send(call, grpc_empty_slice());
		call_finish(call, GRPC_STATUS_OK, NULL);
	}
}

static void
command(Call *call, const uint8_t *data, size_t len, Statement *statement, bool enable)
{
	Gw__ProjectionReq *req = data ? call_unpack(&gw__projection_req__descriptor, data, len) : NULL;
	Query	   *q;

	if (req == NULL || req->options == NULL)
		call_malformed(call);
	else if (is_index(req->options->name) && enable)
	{
		call_send(call, grpc_empty_slice());
		call_finish(call, GRPC_STATUS_OK, NULL);
	}
	else if (is_index(req->options->name))
		call_finish(call, GRPC_STATUS_UNIMPLEMENTED, "this is an index of the store, which is always up to date");
	else
	{
		q = query_new(statement, command_done, call);
		query_text(q, req->options->name);
		run(call, q);
	}
	if (req)
		gw__projection_req__free_unpacked(req, NULL);
}

static void
enable_message(Call *call, const uint8_t *data, size_t len)
{
	static Statement statement = {"SELECT es_resume_projection($1)", 1, {TEXTOID}};

	command(call, data, len, &statement, true);
}

static void
disable_message(Call *call, const uint8_t *data, size_t len)
{
	static Statement statement = {"SELECT es_pause_projection($1)", 1, {TEXTOID}};

	command(call, data, len, &statement, false);
}

static void
reset_message(Call *call, const uint8_t *data, size_t len)
{
	static Statement statement = {"SELECT es_rebuild_projection($1)", 1, {TEXTOID}};

	command(call, data, len, &statement, false);
}

#define METHOD(variable, name_, handler) \
	const Method variable = {.service = SERVICE, .name = name_, .message = handler, .over = query_over}

METHOD(projection_statistics_method, "Statistics", statistics_message);
METHOD(projection_enable_method, "Enable", enable_message);
METHOD(projection_disable_method, "Disable", disable_message);
METHOD(projection_reset_method, "Reset", reset_message);
