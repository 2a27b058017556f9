/*-------------------------------------------------------------------------
 * group_handout.c
 *	  Which consumer gets what: by the group's strategy, as many events at a
 *	  time as each has room for.
 *-------------------------------------------------------------------------
 */
#include "group.h"

#include "json.h"
#include "settings.h"
#include "uuid.h"

static bool
has_room(const Consumer *c)
{
	return c->admitted && c->out < c->buffer && call_backlog(c->call) < (size_t) settings.read_buffer;
}

static uint32_t
hash(uint32_t h, const char *p, size_t len)
{
	for (; len > 0; p++, len--)
		h = (h ^ (unsigned char) *p) * 16777619u;
	return h;
}

/* by stream, or by what the event says it belongs to */
static uint32_t
pin(const Group *group, const Item *item)
{
	const Event *e = item->event;
	JsonMember	member;

	if (group->row.strategy == STRATEGY_PINNED_BY_CORRELATION &&
		json_find(e->payload.metadata, e->payload.metadata_len, "$correlationId", &member))
		return hash(2166136261u, member.value, member.value_len);
	return hash(2166136261u, e->stream, e->stream_len);
}

/* Who gets it; NULL: nobody has room, or not the one that it is pinned to. */
static Consumer *
choose(Group *group, const Item *item)
{
	Consumer   *c;
	int			n = 0;

	switch (group->row.strategy)
	{
		case STRATEGY_SINGLE:
			for (c = group->consumers; c && !has_room(c); c = c->next)
				;
			return c;
		case STRATEGY_PINNED:
		case STRATEGY_PINNED_BY_CORRELATION:
			for (c = group->consumers; c; c = c->next)
				n += c->admitted;
			if (n == 0)
				return NULL;
			n = pin(group, item) % n;
			for (c = group->consumers; c; c = c->next)
				if (c->admitted && n-- == 0)
					return has_room(c) ? c : NULL;
			return NULL;
		default:
			c = group->turn && group->turn->next ? group->turn->next : group->consumers;
			for (; n < group->nconsumers; n++, c = c->next ? c->next : group->consumers)
				if (has_room(c))
					return group->turn = c;
			return NULL;
	}
}

static bool
anyone_has_room(const Group *group)
{
	for (const Consumer *c = group->consumers; c; c = c->next)
		if (has_room(c))
			return true;
	return false;
}

void
group_hand_out(Group *group, ItemList *list)
{
	for (Item *item = list->first; item && group->ready > 0; item = item->next)
	{
		Consumer   *c;

		if (item->state != ITEM_READY)
			continue;
		c = choose(group, item);
		if (c == NULL)
		{
			if (!anyone_has_room(group))
				return;
			continue;
		}
		item_set(item, ITEM_OUT);
		item->consumer = c;
		item->sent = now_ms();
		item->deadline = group->row.timeout_ms > 0 ? item->sent + group->row.timeout_ms : 0;
		c->out++;
		c->total++;
		call_send(c->call, event_message(item->event, group->linked ? &group->link : NULL, c->halves, item->retries));
	}
}

static void
admit(Consumer *c)
{
	Group	   *group = c->group;
	uint8_t		message[2 + 2 + 2 + UUID_TEXT],
				id[16];
	char		text[UUID_TEXT];
	int			n = 0;

	for (Consumer *other = group->consumers; other; other = other->next)
		n += other->admitted;
	if (group->row.max_consumers > 0 && n >= group->row.max_consumers)
	{
		call_trailer_text(c->call, "exception", "maximum-subscribers-reached");
		call_trailer_text(c->call, "stream-name", group->source_name);
		call_trailer_text(c->call, "group-name", group->group_name);
		call_finish(c->call, GRPC_STATUS_FAILED_PRECONDITION, "the subscription group has all the consumers that it may have");
		return;
	}
	c->admitted = true;
	if (group->row.extra_statistics)
		c->times = xmalloc(MEASURED * sizeof(int32_t));
	/* ReadResp.subscription_confirmation.subscription_id */
	uuid_random(id);
	uuid_format(id, text);
	message[0] = 2 << 3 | 2;
	message[1] = 2 + UUID_TEXT - 1;
	message[2] = 1 << 3 | 2;
	message[3] = UUID_TEXT - 1;
	memcpy(message + 4, text, UUID_TEXT - 1);
	call_send(c->call, grpc_slice_from_copied_buffer((char *) message, 4 + UUID_TEXT - 1));
}

void
group_admit_all(Group *group)
{
	for (Consumer *c = group->consumers, *next; c; c = next)
	{
		next = c->next;
		if (!c->admitted && !call_is_over(c->call))
			admit(c);
	}
	group->news = group->more_replays = true;
}
