/*-------------------------------------------------------------------------
 * groups.c
 *	  Persistent subscriptions at work: events out, ack and nack in.
 *
 * A group has a subscription of the store as its cursor.  The gateway is its
 * one consumer there, under a lease; it hands the events to the group's
 * consumers, as many at a time as each has room for, and collects what they
 * say of each.  The store's checkpoint is a position up to which everything is
 * done, so it is moved when the oldest events are done (es_ack), whatever came
 * back before them.  After a crash what was not acknowledged there is delivered
 * again: at least once, as with KurrentDB.
 *
 * What is parked goes to a table (extension event_store_gateway), and the group
 * goes on without it; es_nack() is not used, because it holds up the rest of
 * the event's stream, which clients of KurrentDB do not expect.
 *
 * A group here belongs to one login.  Another one, or another gateway, that
 * reads the same group takes turns with it by the store's lease.
 *-------------------------------------------------------------------------
 */
#include "groups.h"

#include <grpc/support/alloc.h>
#include <unistd.h>

#include "group_store.h"
#include "json.h"
#include "log.h"
#include "loop.h"
#include "settings.h"
#include "status.h"
#include "tail.h"
#include "uuid.h"

#define TICK_MS			500
#define LOOK_MS			3000	/* a look into the store, which keeps the lease of 10 s too */
#define MAX_BYTES		(4 * 1024 * 1024)	/* of events that a group holds */
#define MAX_FETCH		5000
#define LINGER_MS		30000	/* what consumers said is remembered so long after the last one left */
#define REPLAY_PAGE		200
#define MEASURED		1000	/* events of which the time is kept for statistics */

typedef struct Group Group;
typedef struct Consumer Consumer;

typedef enum ItemState
{
	ITEM_READY,					/* to be handed out */
	ITEM_OUT,					/* a consumer has it */
	ITEM_PARKING,				/* on its way to the table */
	ITEM_DONE
} ItemState;

typedef struct Item
{
	struct Item *prev,			/* by position; replayed ones in a list of their own */
			   *next;
	Group	   *group;
	Event	   *event;			/* NULL: not wanted, done from the beginning */
	size_t		size;
	int64_t		position;
	uint8_t		id[16];			/* by which consumers name it */
	ItemState	state;
	bool		replayed;		/* was parked before */
	bool		orphan;			/* in no list; freed when its query is over */
	int			retries;
	int64_t		sent;			/* when it was handed out */
	int64_t		deadline;		/* 0: none */
	Consumer   *consumer;
} Item;

typedef struct ItemList
{
	Item	   *first,
			   *last;
	int			count;
} ItemList;

struct Consumer
{
	Consumer   *next;
	Group	   *group;
	Call	   *call;
	int			buffer;
	int			out;
	bool		halves;
	bool		admitted;
	int64_t		total;
	int32_t    *times;			/* ms until an event was acknowledged, a ring; NULL: not wanted */
	int			ntimes;			/* for ever */
	char		name[128];
};

struct Group
{
	Follower	follower;		/* first */
	Timer		tick;
	Group	   *next;
	Pool	   *pool;
	char	   *subscription;
	char	   *source_name;
	char	   *group_name;
	char	   *member;
	GroupRow	row;
	bool		loaded;
	bool		stale;			/* its settings have changed, or it is gone */
	int64_t		left;			/* when the last consumer left */
	Source		source;
	Link		link;
	bool		linked;
	Consumer   *consumers;
	int			nconsumers;
	Consumer   *turn;			/* who was served last */
	ItemList	items;
	ItemList	replays;
	int			ready;			/* items in both lists */
	size_t		bytes;
	int64_t		fetched;		/* highest position that was made an item */
	int64_t		done_position;	/* everything up to here is done ... */
	int			done_count;		/* ... as many of which are not acknowledged in the store */
	int64_t		done_since;
	int64_t		looked;			/* when the store was asked last */
	int64_t		total;
	int			queries;		/* under way */
	bool		fetching;
	bool		acking;
	bool		news;			/* the store may have more */
	bool		replaying;		/* a query for replays is under way */
	bool		more_replays;
	bool		fetch_cut;
	size_t		fetch_bytes;
};

static Group *groups;

static void group_work(Group *group);
static void group_free_if_unused(Group *group);

/* --- items ----------------------------------------------------------------- */

static void
list_add(ItemList *list, Item *item)
{
	item->prev = list->last;
	item->next = NULL;
	if (list->last)
		list->last->next = item;
	else
		list->first = item;
	list->last = item;
	list->count++;
}

static void
item_set(Item *item, ItemState state)
{
	if (item->state == ITEM_READY)
		item->group->ready--;
	if (item->state == ITEM_OUT && item->consumer)
		item->consumer->out--;
	item->state = state;
	item->consumer = NULL;
	if (state == ITEM_READY)
		item->group->ready++;
}

static void
item_unlink(Item *item)
{
	Group	   *group = item->group;
	ItemList   *list = item->replayed ? &group->replays : &group->items;

	if (item->orphan)
		return;
	if (item->prev)
		item->prev->next = item->next;
	else
		list->first = item->next;
	if (item->next)
		item->next->prev = item->prev;
	else
		list->last = item->prev;
	list->count--;
	group->bytes -= item->size;
}

static void
item_free(Item *item)
{
	item_set(item, ITEM_DONE);
	item_unlink(item);
	free(item->event);
	free(item);
}

static Item *
item_new(Group *group, const Event *event, bool replayed)
{
	Item	   *item = xcalloc(sizeof(Item));

	item->group = group;
	item->replayed = replayed;
	item->position = event->position;
	item->state = ITEM_DONE;
	item->event = event_copy(event, &item->size);
	group->bytes += item->size;
	if (group->linked)
		link_id(event, item->id);
	else
		memcpy(item->id, event->id, 16);
	list_add(replayed ? &group->replays : &group->items, item);
	item_set(item, ITEM_READY);
	return item;
}

/* The lease is lost, or nobody is there: what is not done will come again. */
static void
forget_items(Group *group)
{
	for (Item *item = group->items.first, *next; item; item = next)
	{
		next = item->next;
		if (item->state == ITEM_PARKING)
		{
			item_unlink(item);
			item->orphan = true;
		}
		else
			item_free(item);
	}
	group->fetched = 0;
	group->done_count = 0;
}

/* --- the store ------------------------------------------------------------- */

/* every query holds the group */
static Query *
group_query(Group *group, Statement *statement, QueryDone done, void *arg)
{
	group->queries++;
	return query_new(statement, done, arg);
}

static void
fail_consumers(Group *group, const DbError *error)
{
	for (Consumer *c = group->consumers, *next; c; c = next)
	{
		next = c->next;
		if (strcmp(error->code, "42704") == 0)
			group_dropped(c->call, group->source_name, group->group_name);
		else
			group_failed(c->call, error, group->source_name, group->group_name);
	}
}

/* true: there was an error, and it was dealt with */
static bool
went_wrong(Group *group, const DbError *error)
{
	if (error == NULL)
		return false;
	if (error->lost)
		return true;			/* the next tick tries again */
	/* another gateway took over */
	if (strcmp(error->code, "55000") == 0 || strcmp(error->code, "55006") == 0)
	{
		log_event(LOG_INFO, "lease lost", "subscription=%q", group->subscription);
		forget_items(group);
		return true;
	}
	log_event(LOG_WARN, "persistent subscription cannot go on", "subscription=%q sqlstate=%q error=%q",
			  group->subscription, error->code, error->message);
	fail_consumers(group, error);
	return true;
}

static void
query_over(Group *group)
{
	group->queries--;
	group_work(group);
	group_free_if_unused(group);
}

static bool
group_wants(Group *group, const Event *event)
{
	if (!source_has(&group->source, event) || !filter_passes(group->row.filter, event))
		return false;
	return group->source.kind != SOURCE_STREAM || group->row.start < 0 || event->revision >= group->row.start;
}

static void
fetch_row(void *arg, const PGresult *r, int row)
{
	Group	   *group = arg;
	Event		event;

	if (group->fetch_cut)
		return;
	event_from_row(&event, r, row);
	/* what is not acknowledged comes again each time */
	if (event.position > group->fetched)
	{
		group->fetched = event.position;
		group->news = true;
		if (group_wants(group, &event))
			group->fetch_bytes += item_new(group, &event, false)->size;
		else
		{
			Item	   *item = xcalloc(sizeof(Item));

			item->group = group;
			item->position = event.position;
			item->state = ITEM_DONE;
			list_add(&group->items, item);
		}
		group->fetch_cut = group->bytes > MAX_BYTES;
	}
	event_free(&event);
}

static void advance(Group *group);

static void
fetch_done(void *arg, const PGresult *r, const DbError *error)
{
	Group	   *group = arg;

	(void) r;
	group->fetching = false;
	went_wrong(group, error);
	advance(group);
	query_over(group);
}

static void
fetch(Group *group)
{
	static Statement statement = {
		"SELECT " EVENT_COLUMNS " FROM es_fetch($1, $2, '0', $3)", 3, {TEXTOID, INT4OID, TEXTOID}
	};
	int			count = group->items.count + group->done_count + 5 * group->row.read_batch;
	Query	   *q = group_query(group, &statement, fetch_done, group);

	query_text(q, group->subscription);
	query_int4(q, count < MAX_FETCH ? count : MAX_FETCH);
	query_text(q, group->member);
	query_by_row(q, fetch_row);
	group->fetching = true;
	group->news = false;
	group->fetch_cut = false;
	group->fetch_bytes = 0;
	group->looked = now_ms();
	query_send(group->pool, q);
}

static void
ack_done(void *arg, const PGresult *r, const DbError *error)
{
	Group	   *group = arg;

	(void) r;
	group->acking = false;
	if (error && error->lost)
		group->done_count++;	/* once more */
	else
		went_wrong(group, error);
	query_over(group);
}

static void
ack(Group *group)
{
	static Statement statement = {"SELECT es_ack($1, $2, $3)", 3, {TEXTOID, INT8OID, TEXTOID}};
	Query	   *q = group_query(group, &statement, ack_done, group);

	query_text(q, group->subscription);
	query_int8(q, group->done_position);
	query_text(q, group->member);
	group->acking = true;
	group->done_count = 0;
	query_send(group->pool, q);
}

static void
replay_row(void *arg, const PGresult *r, int row)
{
	Group	   *group = arg;
	Event		event;

	event_from_row(&event, r, row);
	for (Item *i = group->replays.first; i; i = i->next)
		if (i->position == event.position)
			goto known;
	item_new(group, &event, true);
known:
	event_free(&event);
}

static void
replay_done(void *arg, const PGresult *r, const DbError *error)
{
	Group	   *group = arg;

	(void) r;
	group->replaying = false;
	went_wrong(group, error);
	query_over(group);
}

static void
fetch_replays(Group *group)
{
	static Statement statement = {
		"SELECT e.* FROM (SELECT k.global_position AS at, k.parked_at FROM event_store_gateway.parked k"
		"  WHERE k.subscription = $1 AND k.replay ORDER BY k.parked_at, k.global_position LIMIT $2) k"
		" CROSS JOIN LATERAL (SELECT " EVENT_COLUMNS " FROM es_read_all(k.at - 1, 1)) e"
		" WHERE e.global_position = k.at ORDER BY k.parked_at, k.at",
		2, {TEXTOID, INT8OID}
	};
	Query	   *q = group_query(group, &statement, replay_done, group);

	query_text(q, group->subscription);
	query_int8(q, REPLAY_PAGE);
	query_by_row(q, replay_row);
	group->replaying = true;
	group->more_replays = false;
	query_send(group->pool, q);
}

/* --- the end of an item ---------------------------------------------------- */

/* Take what is done from the front of the list. */
static void
advance(Group *group)
{
	while (group->items.first && group->items.first->state == ITEM_DONE)
	{
		if (group->done_count++ == 0)
			group->done_since = now_ms();
		group->done_position = group->items.first->position;
		item_free(group->items.first);
	}
}

static void
unparked_done(void *arg, const PGresult *r, const DbError *error)
{
	Item	   *item = arg;
	Group	   *group = item->group;

	(void) r;
	went_wrong(group, error);
	if (error && !item->orphan)
		item_set(item, ITEM_READY);
	else
		item_free(item);
	query_over(group);
}

static void
item_done(Item *item)
{
	static Statement statement = {
		"DELETE FROM event_store_gateway.parked WHERE subscription = $1 AND global_position = $2 AND replay",
		2, {TEXTOID, INT8OID}
	};
	Group	   *group = item->group;
	Query	   *q;

	group->total++;
	if (!item->replayed)
	{
		item_set(item, ITEM_DONE);
		advance(group);
		return;
	}
	item_set(item, ITEM_PARKING);
	q = group_query(group, &statement, unparked_done, item);
	query_text(q, group->subscription);
	query_int8(q, item->position);
	query_send(group->pool, q);
}

static void
parked_done(void *arg, const PGresult *r, const DbError *error)
{
	Item	   *item = arg;
	Group	   *group = item->group;

	(void) r;
	went_wrong(group, error);
	if (item->orphan || (item->replayed && !error))
		item_free(item);
	else if (error)
		item_set(item, ITEM_READY);
	else
	{
		item_set(item, ITEM_DONE);
		advance(group);
	}
	query_over(group);
}

static void
item_park(Item *item, const char *reason)
{
	static Statement statement = {
		"INSERT INTO event_store_gateway.parked AS k (subscription, global_position, reason, retries) VALUES ($1, $2, $3, $4)"
		" ON CONFLICT (subscription, global_position) DO UPDATE"
		" SET reason = excluded.reason, retries = k.retries + excluded.retries, parked_at = excluded.parked_at, replay = false",
		4, {TEXTOID, INT8OID, TEXTOID, INT4OID}
	};
	Group	   *group = item->group;
	Query	   *q = group_query(group, &statement, parked_done, item);

	group->total++;
	item_set(item, ITEM_PARKING);
	query_text(q, group->subscription);
	query_int8(q, item->position);
	query_text(q, reason);
	query_int4(q, item->retries);
	/* in the order in which consumers say so: replay gives them back in that */
	query_in_order(q, (uint32_t) (uintptr_t) group);
	query_send(group->pool, q);
}

static void
item_retry(Item *item, const char *reason)
{
	if (item->retries >= item->group->row.max_retries)
		item_park(item, reason);
	else
	{
		item->retries++;
		item_set(item, ITEM_READY);
	}
}

/* --- handing out ----------------------------------------------------------- */

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

static void
hand_out(Group *group, ItemList *list)
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

/* What there is to do, after whatever happened. */
static void
group_work(Group *group)
{
	bool		idle;

	if (!group->loaded)
		return;
	hand_out(group, &group->replays);
	hand_out(group, &group->items);

	idle = group->items.count == 0;
	if (!group->acking && !group->fetching && group->done_count > 0 &&
		(idle || group->nconsumers == 0 || group->done_count >= group->row.min_checkpoint ||
		 now_ms() - group->done_since >= group->row.checkpoint_ms))
		ack(group);
	if (group->nconsumers == 0 || group->acking || group->fetching)
		return;
	if (group->news && group->ready < group->row.history_buffer / 2 + 1 && group->bytes < MAX_BYTES / 2 &&
		group->items.count + group->done_count < MAX_FETCH - 10)
		fetch(group);
	if (group->more_replays && !group->replaying && group->replays.count < REPLAY_PAGE / 2)
		fetch_replays(group);
}

static void
tick(Timer *timer)
{
	Group	   *group = (Group *) ((char *) timer - offsetof(Group, tick));
	int64_t		now = now_ms();
	ItemList   *lists[] = {&group->replays, &group->items};

	for (int i = 0; i < 2; i++)
		for (Item *item = lists[i]->first; item; item = item->next)
			if (item->state == ITEM_OUT && item->deadline && item->deadline <= now)
				item_retry(item, "the consumer took too long");
	if (now - group->looked >= LOOK_MS)
		group->news = group->more_replays = true;
	timer_in(timer, TICK_MS);
	group_work(group);
	group_free_if_unused(group);
}

static void
wake(Follower *follower)
{
	Group	   *group = (Group *) follower;

	while (tail_next(follower))
		;
	group->news = true;
	group_work(group);
}

static void
tail_failed(Follower *follower, const DbError *error)
{
	fail_consumers((Group *) follower, error);
}

/* --- life of a group ------------------------------------------------------- */

static void
group_free_if_unused(Group *group)
{
	if (group->nconsumers > 0 || group->queries > 0)
		return;
	if (group->loaded && !group->stale && now_ms() - group->left < LINGER_MS)
		return;
	for (Group **p = &groups; *p; p = &(*p)->next)
		if (*p == group)
		{
			*p = group->next;
			break;
		}
	tail_unfollow(&group->follower);
	timer_cancel(&group->tick);
	forget_items(group);
	while (group->replays.first)
		item_free(group->replays.first);
	if (group->loaded)
		group_row_free(&group->row);
	source_free(&group->source);
	pool_release(group->pool);
	free(group->subscription);
	free(group->source_name);
	free(group->group_name);
	free(group->member);
	free(group);
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

static void
admit_all(Group *group)
{
	for (Consumer *c = group->consumers, *next; c; c = next)
	{
		next = c->next;
		if (!c->admitted && !call_is_over(c->call))
			admit(c);
	}
	group->news = group->more_replays = true;
}

static void
head_done(void *arg, const PGresult *r, const DbError *error)
{
	Group	   *group = arg;

	if (error)
		fail_consumers(group, error);
	else
	{
		group->loaded = true;
		tail_follow_newest(group->pool, &group->follower, row_int8(r, 0, 0));
		timer_in(&group->tick, TICK_MS);
		admit_all(group);
	}
	query_over(group);
}

static void
load_done(void *arg, const PGresult *r, const DbError *error)
{
	static Statement head = {"SELECT es_head()", 0, {0}};
	Group	   *group = arg;

	if (error)
		fail_consumers(group, error);
	else if (PQntuples(r) == 0)
	{
		for (Consumer *c = group->consumers; c; c = c->next)
			group_unknown(c->call, group->source_name, group->group_name);
	}
	else
	{
		group_row_read(&group->row, r, 0);
		query_send(group->pool, group_query(group, &head, head_done, group));
	}
	query_over(group);
}

static Group *
group_get(Pool *pool, const char *source, const char *name)
{
	char	   *subscription = group_subscription(source, name);
	char		host[64];
	Group	   *group;

	for (group = groups; group; group = group->next)
		if (group->pool == pool && !group->stale && strcmp(group->subscription, subscription) == 0)
		{
			free(subscription);
			return group;
		}
	group = xcalloc(sizeof(Group));
	group->follower.wake = wake;
	group->follower.failed = tail_failed;
	group->tick.due = tick;
	group->pool = pool_hold(pool);
	group->subscription = subscription;
	group->source_name = xstrdup(source);
	group->group_name = xstrdup(name);
	/* the same after a restart, so that it can go on at once */
	if (gethostname(host, sizeof(host)) != 0)
		strcpy(host, "?");
	host[sizeof(host) - 1] = '\0';
	group->member = xprintf("event_store_gateway %s %.64s %.64s", host, settings.listen, pool_user(pool));
	source_set(&group->source, source, strlen(source));
	group->next = groups;
	groups = group;
	group->queries++;
	query_send(pool, group_select(source, name, load_done, group));
	return group;
}

/* --- PersistentSubscriptions.Read ------------------------------------------ */

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
	req = gw__consume_req__unpack(NULL, len, data);
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
				admit_all(c->group);
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
	.service = GROUPS_SERVICE, .name = "Read", .features = "stream all",
	.message = consume_message, .drained = consume_drained, .over = consumer_over
};

/* --- what group_calls.c wants ---------------------------------------------- */

void
groups_changed(const char *subscription)
{
	for (Group *group = groups, *next; group; group = next)
	{
		next = group->next;
		if (strcmp(group->subscription, subscription) != 0)
			continue;
		group->stale = true;
		for (Consumer *c = group->consumers; c; c = c->next)
			group_dropped(c->call, group->source_name, group->group_name);
		group_free_if_unused(group);
	}
}

void
groups_replay(const char *subscription)
{
	for (Group *group = groups, *next; group; group = next)
	{
		next = group->next;
		if (strcmp(group->subscription, subscription) == 0 && !group->stale)
		{
			group->more_replays = true;
			group_work(group);
		}
	}
}

static int
compare(const void *a, const void *b)
{
	int32_t		x = *(const int32_t *) a,
				y = *(const int32_t *) b;

	return (x > y) - (x < y);
}

static void
add_figure(Gw__GroupInfo__Consumer *consumer, const char *key, int64_t value)
{
	Gw__GroupInfo__Figure *figure = xmalloc(sizeof(*figure));

	gw__group_info__figure__init(figure);
	figure->key = (char *) key;
	figure->value = value;
	consumer->figures = xrealloc(consumer->figures, (consumer->n_figures + 1) * sizeof(figure));
	consumer->figures[consumer->n_figures++] = figure;
}

/* how long a consumer takes, in ms */
static void
describe_times(const Consumer *c, Gw__GroupInfo__Consumer *consumer)
{
	static const struct
	{
		const char *key;
		int			permille;
	}			shares[] = {
		{"Median", 500}, {"Fastest", 0}, {"Quintile 1", 0}, {"Quintile 2", 200}, {"Quintile 3", 400},
		{"Quintile 4", 600}, {"Quintile 5", 800}, {"90%", 900}, {"95%", 950}, {"99%", 990}, {"99.5%", 995},
		{"99.9%", 999}, {"Highest", 1000}
	};
	int			n = c->ntimes < MEASURED ? c->ntimes : MEASURED;
	int32_t    *sorted;
	int64_t		sum = 0;

	if (c->times == NULL || n == 0)
		return;
	sorted = xmalloc(n * sizeof(int32_t));
	memcpy(sorted, c->times, n * sizeof(int32_t));
	qsort(sorted, n, sizeof(int32_t), compare);
	for (int i = 0; i < n; i++)
		sum += sorted[i];
	add_figure(consumer, "Mean", sum / n);
	for (size_t i = 0; i < sizeof(shares) / sizeof(shares[0]); i++)
	{
		int			at = (int64_t) shares[i].permille * n / 1000;

		add_figure(consumer, shares[i].key, sorted[at < n ? at : n - 1]);
	}
	free(sorted);
}

void
groups_describe(const char *subscription, Gw__GroupInfo *info)
{
	for (Group *group = groups; group; group = group->next)
	{
		if (group->stale || strcmp(group->subscription, subscription) != 0)
			continue;
		info->total += group->total;
		for (Item *item = group->items.first; item; item = item->next)
		{
			info->read_buffered += item->state == ITEM_READY;
			info->retry_buffered += item->state == ITEM_READY && item->retries > 0;
			info->in_flight += item->state == ITEM_OUT;
			info->outstanding += item->state == ITEM_OUT;
		}
		for (Consumer *c = group->consumers; c; c = c->next)
		{
			Gw__GroupInfo__Consumer *consumer;
			char	   *peer;

			if (!c->admitted || call_is_over(c->call))
				continue;
			info->consumers = xrealloc(info->consumers, (info->n_consumers + 1) * sizeof(consumer));
			consumer = info->consumers[info->n_consumers++] = xmalloc(sizeof(*consumer));
			gw__group_info__consumer__init(consumer);
			peer = (char *) call_peer(c->call);
			consumer->address = xstrdup(peer);
			gpr_free(peer);
			consumer->username = xstrdup(call_user(c->call));
			consumer->name = xstrdup(c->name);
			consumer->total = c->total;
			consumer->in_flight = c->out;
			consumer->free_slots = c->buffer - c->out;
			describe_times(c, consumer);
		}
	}
	if (info->n_consumers > 0)
		info->status = "Live";
}

void
groups_describe_free(Gw__GroupInfo *info)
{
	for (size_t i = 0; i < info->n_consumers; i++)
	{
		free(info->consumers[i]->address);
		free(info->consumers[i]->username);
		free(info->consumers[i]->name);
		for (size_t k = 0; k < info->consumers[i]->n_figures; k++)
			free(info->consumers[i]->figures[k]);
		free(info->consumers[i]->figures);
		free(info->consumers[i]);
	}
	free(info->consumers);
}
