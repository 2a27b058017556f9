/*-------------------------------------------------------------------------
 * group_read.c
 *	  PersistentSubscriptions.Read: the call of a consumer, which says of each
 *	  event what became of it.
 *-------------------------------------------------------------------------
 */
#include "group.h"

#include "status.h"
#include "uuid.h"

static void
consumer_over(Call *call)
{
	Consumer   *c = call_state(call);
	Group	   *group;

	if (c == NULL)
		return;
	group = c->group;
	call_set_state(call, NULL);
	for (Consumer **p = &group->consumers; *p; p = &(*p)->next)
		if (*p == c)
		{
			*p = c->next;
			break;
		}
	group->nconsumers--;
	group->left = now_ms();
	if (group->turn == c)
		group->turn = NULL;
	/* others get what it had */
	for (Item *item = group->replays.first; item; item = item->next)
		if (item->consumer == c)
			item_set(item, ITEM_READY);
	for (Item *item = group->items.first; item; item = item->next)
		if (item->consumer == c)
			item_set(item, ITEM_READY);
	free(c->times);
	free(c);
	group_work(group);
	group_free_if_unused(group);
}

static Item *
find_item(Consumer *c, const uint8_t id[16])
{
	ItemList   *lists[] = {&c->group->replays, &c->group->items};

	for (int i = 0; i < 2; i++)
		for (Item *item = lists[i]->first; item; item = item->next)
			if (item->consumer == c && memcmp(item->id, id, 16) == 0)
				return item;
	return NULL;
}

static void
verdict(Consumer *c, const Gw__ConsumeReq__Verdict *v, bool nack)
{
	const char *reason = v->reason && *v->reason ? v->reason : "the consumer said so";
	uint8_t		id[16];

	for (size_t i = 0; i < v->n_ids; i++)
	{
		Item	   *item = uuid_read(v->ids[i], id) ? find_item(c, id) : NULL;

		/* it took too long, and is somebody else's now */
		if (item == NULL)
			continue;
		if (c->times)
			c->times[c->ntimes++ % MEASURED] = now_ms() - item->sent;
		if (!nack || v->action == 3)
			item_done(item);
		else if (v->action == 1)
			item_park(item, reason);
		else
			item_retry(item, reason);
	}
	if (nack && v->action == 4)
		call_finish(c->call, GRPC_STATUS_OK, NULL);
}

static void
consume_message(Call *call, const uint8_t *data, size_t len)
{
	Consumer   *c = call_state(call);
	Gw__ConsumeReq *req;

	if (data == NULL)
	{
		/* the client says no more: it cannot acknowledge, so it is gone */
		call_finish(call, GRPC_STATUS_OK, NULL);
		return;
	}
	req = call_unpack(&gw__consume_req__descriptor, data, len);
	if (req && req->content_case == GW__CONSUME_REQ__CONTENT_OPTIONS && c == NULL &&
		req->options->source_case != GW__CONSUME_REQ__OPTIONS__SOURCE__NOT_SET)
	{
		Gw__ConsumeReq__Options *o = req->options;
		char	   *source = o->source_case == GW__CONSUME_REQ__OPTIONS__SOURCE_STREAM ?
			xstrndup((char *) o->stream->name.data, o->stream->name.len) : xstrdup("$all");
		Source		check;

		if (!source_set(&check, source, strlen(source)))
			call_finish(call, GRPC_STATUS_INVALID_ARGUMENT, "a stream's name has 1 to 255 bytes");
		else
		{
			source_free(&check);
			c = xcalloc(sizeof(Consumer));
			c->call = call;
			c->buffer = o->buffer > 0 ? o->buffer : 1;
			c->halves = o->uuid && o->uuid->form_case == GW__READ_REQ__UUID_FORM__FORM_HALVES;
			call_header(call, "connection-name", c->name, sizeof(c->name));
			call_set_state(call, c);
			c->group = group_get(call_pool(call), source, o->group);
			c->next = c->group->consumers;
			c->group->consumers = c;
			c->group->nconsumers++;
			c->group->linked = source_link(&c->group->source, true, &c->group->link);
			if (c->group->loaded)
			{
				group_admit_all(c->group);
				group_work(c->group);
			}
			call_receive(call);
		}
		free(source);
	}
	else if (req && c && req->content_case == GW__CONSUME_REQ__CONTENT_ACK)
	{
		verdict(c, req->ack, false);
		call_receive(call);
		group_work(c->group);
	}
	else if (req && c && req->content_case == GW__CONSUME_REQ__CONTENT_NACK)
	{
		verdict(c, req->nack, true);
		call_receive(call);
		group_work(c->group);
	}
	else
		call_malformed(call);
	if (req)
		gw__consume_req__free_unpacked(req, NULL);
}

static void
consume_drained(Call *call)
{
	Consumer   *c = call_state(call);

	if (c && c->group->ready > 0)
		group_work(c->group);
}

const Method group_read_method = {
	.service = GROUPS_SERVICE, .name = "Read", .features = "stream all", .many = true,
	.message = consume_message, .drained = consume_drained, .over = consumer_over
};
