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
#include "group.h"

#include <unistd.h>

#include "log.h"
#include "settings.h"
#include "status.h"

#define TICK_MS			500
#define LOOK_MS			3000	/* a look into the store, which keeps the lease of 10 s too */
#define MAX_BYTES		(4 * 1024 * 1024)	/* of events that a group holds */
#define MAX_FETCH		5000
#define LINGER_MS		30000	/* what consumers said is remembered so long after the last one left */
#define REPLAY_PAGE		200

Group	   *groups;

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
	/* who comes while they are leaving begins anew */
	group->stale = true;
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
	{
		/* a tick tries again */
		group->pause_until = now_ms() + TICK_MS;
		return true;
	}
	/* another gateway took over */
	if (strcmp(error->code, "55000") == 0 || strcmp(error->code, "55006") == 0)
	{
		log_event(LOG_INFO, "lease lost", "subscription=%q", group->subscription);
		group_forget_items(group);
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

	/*
	 * What is not acknowledged comes again each time, which retries, kept here,
	 * are too.  What the store has taken an ack of does not, unless somebody has
	 * set the cursor back: then everything from there on is to come once more.
	 */
	if (event.position <= group->acked)
	{
		log_event(LOG_INFO, "cursor was set back", "subscription=%q", group->subscription);
		group_forget_items(group);
	}
	if (event.position > group->fetched)
	{
		group->fetched = event.position;
		group->news = true;
		if (group_wants(group, &event))
			group->fetch_bytes += item_new(group, &event, false)->size;
		else
			item_new_unwanted(group, event.position);
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
	int64_t		count = (int64_t) group->items.count + group->done_count + INT64_C(5) * group->row.read_batch;
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
	if (went_wrong(group, error) && error->lost)
		group->done_count++;	/* once more */
	if (error == NULL)
		group->acked = group->acking_position;
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
	group->acking_position = group->done_position;
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

void
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

void
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

void
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

/* What there is to do, after whatever happened. */
void
group_work(Group *group)
{
	bool		idle;

	if (!group->loaded)
		return;
	group_hand_out(group, &group->replays);
	group_hand_out(group, &group->items);

	if (group->pause_until > now_ms())
		return;
	idle = group->items.count == 0;
	if (!group->acking && !group->fetching && group->done_count > 0 &&
		(idle || group->nconsumers == 0 || group->done_count >= group->row.min_checkpoint ||
		 now_ms() - group->done_since >= group->row.checkpoint_ms))
		ack(group);
	if (group->nconsumers == 0 || group->stale || group->acking || group->fetching)
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

void
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
	group_forget_items(group);
	while (group->replays.first)
		item_free(group->replays.first);
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
		group_admit_all(group);
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
		group->stale = true;
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

Group *
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
