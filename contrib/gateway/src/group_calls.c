/*-------------------------------------------------------------------------
 * group_calls.c
 *	  Persistent subscriptions: create, update, delete, info, list, replay.
 *-------------------------------------------------------------------------
 */
#include "groups.h"

#include "group_store.h"
#include "status.h"

/* what a call is about, until it is answered */
typedef struct Request
{
	Call	   *call;
	Query	   *query;
	char	   *source;			/* NULL: all of them */
	char	   *group;			/* "" in a list */
} Request;

static Request *
request_new(Call *call, const Gw__StreamName *stream, const char *group)
{
	Request    *request = xcalloc(sizeof(Request));
	Source		source;

	request->call = call;
	if (stream == NULL)
		source_set(&source, NULL, 0);
	else if (!source_set(&source, stream->name.data ? (char *) stream->name.data : "", stream->name.len))
	{
		free(request);
		call_finish(call, GRPC_STATUS_INVALID_ARGUMENT, "a stream's name has 1 to 255 bytes");
		return NULL;
	}
	request->source = source.name;
	request->group = xstrdup(group);
	call_set_state(call, request);
	return request;
}

static void
request_send(Request *request, Query *query)
{
	request->query = query;
	query_send(call_pool(request->call), query);
}

static void
request_over(Call *call)
{
	Request    *request = call_state(call);

	if (request == NULL)
		return;
	if (request->query)
		query_forget(request->query);
	free(request->source);
	free(request->group);
	free(request);
	call_set_state(call, NULL);
}

/* All the answers that say nothing but "done" are the same: an empty message. */
static void
answer_empty(Call *call)
{
	call_send(call, grpc_empty_slice());
	call_finish(call, GRPC_STATUS_OK, NULL);
}

/* false: it was answered with an error; a row is expected if it must exist */
static bool
came_through(Request *request, const PGresult *r, const DbError *error)
{
	request->query = NULL;
	if (error)
	{
		group_failed(request->call, error, request->source ? request->source : "", request->group);
		return false;
	}
	if (PQntuples(r) == 0)
	{
		group_unknown(request->call, request->source ? request->source : "", request->group);
		return false;
	}
	return true;
}

static void
created(void *arg, const PGresult *r, const DbError *error)
{
	if (came_through(arg, r, error))
		answer_empty(((Request *) arg)->call);
}

/* Its consumers here are told; those of other gateways when they look again. */
static void
answer_and_tell(Request *request, const PGresult *r, const DbError *error, void (*tell) (const char *subscription))
{
	char	   *subscription;

	if (!came_through(request, r, error))
		return;
	subscription = group_subscription(request->source, request->group);
	tell(subscription);
	free(subscription);
	answer_empty(request->call);
}

static void
changed(void *arg, const PGresult *r, const DbError *error)
{
	answer_and_tell(arg, r, error, groups_changed);
}

static void
replayed(void *arg, const PGresult *r, const DbError *error)
{
	answer_and_tell(arg, r, error, groups_replay);
}

/* --- what is asked ----------------------------------------------------------- */

/*
 * Read the message of a call and ask the database.
 *
 * ask			false when the message says too little; else it has asked, or
 *				has answered the call
 */
static void
ask_by(Call *call, const uint8_t *data, size_t len, const ProtobufCMessageDescriptor *form,
	   bool (*ask) (Call *call, const void *message))
{
	ProtobufCMessage *message = data ? call_unpack(form, data, len) : NULL;

	if (message == NULL || !ask(call, message))
		call_malformed(call);
	if (message)
		protobuf_c_message_free_unpacked(message, NULL);
}

/* --- create, update, delete, replay ---------------------------------------- */

static bool
change(Call *call, const Gw__GroupReq__Options *o, bool create)
{
	const Gw__StreamName *stream = NULL;
	Request    *request;
	char	   *error = NULL;

	if (o == NULL || o->settings == NULL || *o->group == '\0')
		return false;
	if (o->source_case == GW__GROUP_REQ__OPTIONS__SOURCE_STREAM)
		stream = o->stream->stream;
	else if (o->source_case == GW__GROUP_REQ__OPTIONS__SOURCE__NOT_SET)
		stream = o->old_stream;
	if (o->source_case != GW__GROUP_REQ__OPTIONS__SOURCE_ALL && stream == NULL)
		return false;
	if (o->source_case == GW__GROUP_REQ__OPTIONS__SOURCE_ALL &&
		o->all->filtering_case == GW__GROUP_REQ__FROM_ALL__FILTERING_FILTER)
	{
		/* a regular expression that is none is refused now, not when somebody reads */
		filter_free(filter_make(o->all->filter, &error));
		if (error)
		{
			call_finish(call, GRPC_STATUS_INVALID_ARGUMENT, error);
			free(error);
			return true;
		}
	}
	request = request_new(call, stream, o->group);
	if (request)
		request_send(request, create ? group_insert(o, request->source, created, request) :
					 group_update(o, request->source, changed, request));
	return true;
}

static bool
ask_create(Call *call, const void *message)
{
	return change(call, ((const Gw__GroupReq *) message)->options, true);
}

static bool
ask_update(Call *call, const void *message)
{
	return change(call, ((const Gw__GroupReq *) message)->options, false);
}

static bool
ask_delete(Call *call, const void *message)
{
	const Gw__DropGroupReq__Options *o = ((const Gw__DropGroupReq *) message)->options;
	Request    *request;

	if (o == NULL || o->source_case == GW__DROP_GROUP_REQ__OPTIONS__SOURCE__NOT_SET)
		return false;
	request = request_new(call, o->source_case == GW__DROP_GROUP_REQ__OPTIONS__SOURCE_STREAM ? o->stream : NULL,
						  o->group);
	if (request)
		request_send(request, group_delete(request->source, request->group, changed, request));
	return true;
}

static bool
ask_replay(Call *call, const void *message)
{
	const Gw__ReplayReq__Options *o = ((const Gw__ReplayReq *) message)->options;
	Request    *request;

	if (o == NULL || o->source_case == GW__REPLAY_REQ__OPTIONS__SOURCE__NOT_SET)
		return false;
	request = request_new(call, o->source_case == GW__REPLAY_REQ__OPTIONS__SOURCE_STREAM ? o->stream : NULL, o->group);
	if (request)
		request_send(request, group_replay(request->source, request->group,
										   o->limit_case == GW__REPLAY_REQ__OPTIONS__LIMIT_STOP_AT ? o->stop_at : -1,
										   replayed, request));
	return true;
}

/* --- info, list ------------------------------------------------------------ */

/* revisions are numbers, positions of $all C:commit/P:prepare */
static char *
show(const GroupRow *row, int64_t value)
{
	if (strcmp(row->source, "$all") == 0)
		return xprintf("C:%lld/P:%lld", (long long) value, (long long) value);
	return xprintf("%lld", (long long) value);
}

static Gw__GroupInfo *
info_of(const GroupRow *row)
{
	Gw__GroupInfo *info = xmalloc(sizeof(Gw__GroupInfo));

	gw__group_info__init(info);
	info->source = xstrdup(row->source);
	info->group = xstrdup(row->group);
	info->status = "NotReady";
	info->checkpoint = row->checkpoint_shown < 0 ? xstrdup("") : show(row, row->checkpoint_shown);
	info->last_known = row->last_known < 0 ? xstrdup("") : show(row, row->last_known);
	info->start = show(row, row->start);
	info->resolve_links = row->resolve_links;
	info->extra_statistics = row->extra_statistics;
	info->timeout_ms = row->timeout_ms;
	info->max_retries = row->max_retries;
	info->live_buffer = row->live_buffer;
	info->history_buffer = row->history_buffer;
	info->read_batch = row->read_batch;
	info->checkpoint_ms = row->checkpoint_ms;
	info->min_checkpoint = row->min_checkpoint;
	info->max_checkpoint = row->max_checkpoint;
	info->max_consumers = row->max_consumers;
	info->strategy = (char *) strategy_name(row->strategy);
	info->parked = row->parked;
	groups_describe(row->subscription, info);
	return info;
}

static void
info_free(Gw__GroupInfo *info)
{
	groups_describe_free(info);
	free(info->source);
	free(info->group);
	free(info->checkpoint);
	free(info->last_known);
	free(info->start);
	free(info);
}

static void
info_done(void *arg, const PGresult *r, const DbError *error)
{
	Request    *request = arg;
	Gw__GroupInfoResp resp = GW__GROUP_INFO_RESP__INIT;
	GroupRow	row;

	if (!came_through(request, r, error))
		return;
	group_row_read(&row, r, 0);
	resp.info = info_of(&row);
	call_send_message(request->call, &resp.base);
	call_finish(request->call, GRPC_STATUS_OK, NULL);
	info_free(resp.info);
	group_row_free(&row);
}

static void
list_done(void *arg, const PGresult *r, const DbError *error)
{
	Request    *request = arg;
	Gw__ListResp resp = GW__LIST_RESP__INIT;
	GroupRow	row;

	/* a list of everything may be empty, that of a stream that nobody consumes is an error */
	if ((error || request->source) && !came_through(request, r, error))
		return;
	request->query = NULL;
	resp.n_infos = PQntuples(r);
	resp.infos = xmalloc(resp.n_infos * sizeof(Gw__GroupInfo *));
	for (size_t i = 0; i < resp.n_infos; i++)
	{
		group_row_read(&row, r, i);
		resp.infos[i] = info_of(&row);
		group_row_free(&row);
	}
	call_send_message(request->call, &resp.base);
	call_finish(request->call, GRPC_STATUS_OK, NULL);
	for (size_t i = 0; i < resp.n_infos; i++)
		info_free(resp.infos[i]);
	free(resp.infos);
}

static bool
ask_info(Call *call, const void *message)
{
	const Gw__GroupInfoReq__Options *o = ((const Gw__GroupInfoReq *) message)->options;
	Request    *request;

	if (o == NULL || o->source_case == GW__GROUP_INFO_REQ__OPTIONS__SOURCE__NOT_SET)
		return false;
	request = request_new(call, o->source_case == GW__GROUP_INFO_REQ__OPTIONS__SOURCE_STREAM ? o->stream : NULL,
						  o->group);
	if (request)
		request_send(request, group_select(request->source, request->group, info_done, request));
	return true;
}

static bool
ask_list(Call *call, const void *message)
{
	const Gw__ListReq__Options *o = ((const Gw__ListReq *) message)->options;
	Request    *request;

	if (o == NULL || o->which_case == GW__LIST_REQ__OPTIONS__WHICH__NOT_SET)
		return false;
	request = request_new(call, o->which_case == GW__LIST_REQ__OPTIONS__WHICH_OF &&
						  o->of->source_case == GW__LIST_REQ__OF_SOURCE__SOURCE_STREAM ? o->of->stream : NULL, "");
	if (request && o->which_case == GW__LIST_REQ__OPTIONS__WHICH_EVERYTHING)
	{
		free(request->source);
		request->source = NULL;
	}
	if (request)
		request_send(request, group_select(request->source, NULL, list_done, request));
	return true;
}

/* There is no subsystem to restart: a group begins anew when its consumers do. */
static void
restart_message(Call *call, const uint8_t *data, size_t len)
{
	(void) data;
	(void) len;
	answer_empty(call);
}

#define METHOD(variable, name_, words, handler) \
	const Method variable = { \
		.service = GROUPS_SERVICE, .name = name_, .features = words, .message = handler, .over = request_over \
	}

#define ASKING_METHOD(variable, name_, form, ask) \
	static void variable##_message(Call *call, const uint8_t *data, size_t len) \
	{ \
		ask_by(call, data, len, &form, ask); \
	} \
	METHOD(variable, name_, "stream all", variable##_message)

ASKING_METHOD(group_create_method, "Create", gw__group_req__descriptor, ask_create);
ASKING_METHOD(group_update_method, "Update", gw__group_req__descriptor, ask_update);
ASKING_METHOD(group_delete_method, "Delete", gw__drop_group_req__descriptor, ask_delete);
ASKING_METHOD(group_info_method, "GetInfo", gw__group_info_req__descriptor, ask_info);
ASKING_METHOD(group_list_method, "List", gw__list_req__descriptor, ask_list);
ASKING_METHOD(group_replay_method, "ReplayParked", gw__replay_req__descriptor, ask_replay);
METHOD(group_restart_method, "RestartSubsystem", NULL, restart_message);
