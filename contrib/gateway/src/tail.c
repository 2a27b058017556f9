/*-------------------------------------------------------------------------
 * tail.c
 *	  See tail.h.
 *
 * The ring holds every event with a position in (start, position], which is
 * what makes a cursor in it as good as one in PostgreSQL.
 *-------------------------------------------------------------------------
 */
#include "tail.h"

#include "log.h"
#include "loop.h"
#include "settings.h"
#include "source.h"

#define PAGE			512
#define RETRY_MS		500
#define MAX_ENTRIES		65536	/* a power of 2 */

struct Tail
{
	Timer		retry;			/* first */
	Pool	   *pool;
	Follower   *followers;
	Follower   *waking;			/* the next one to be woken */
	int64_t		start;
	int64_t		position;
	int64_t		head;			/* known to PostgreSQL */
	uint64_t	first,			/* entries in the ring, counted for ever */
				end;
	size_t		bytes;
	size_t		page_bytes;
	int			page_rows;
	bool		page_cut;
	bool		running;		/* a query is under way */
	TailEvent  *ring;			/* MAX_ENTRIES, allocated in steps */
	uint64_t	size;
};

static Source all = {SOURCE_ALL, (char *) "$all", NULL};

static void tail_wait(Tail *tail);
static void tail_read(Tail *tail);

static TailEvent *
entry(Tail *tail, uint64_t n)
{
	return &tail->ring[n & (tail->size - 1)];
}

static void
drop_first(Tail *tail)
{
	TailEvent  *e = entry(tail, tail->first);

	tail->start = e->event->position;
	tail->bytes -= e->size;
	free(e->event);
	for (int i = 0; i < 2; i++)
		if (e->made[i])
			grpc_slice_unref(e->message[i]);
	tail->first++;
}

static void
tail_free(Tail *tail)
{
	timer_cancel(&tail->retry);
	while (tail->first < tail->end)
		drop_first(tail);
	*pool_slot(tail->pool) = NULL;
	pool_release(tail->pool);
	free(tail->ring);
	free(tail);
}

static void
add(Tail *tail, const Event *event)
{
	TailEvent  *e;

	if (tail->end - tail->first == tail->size)
	{
		if (tail->size < MAX_ENTRIES)
		{
			uint64_t	size = tail->size ? tail->size * 2 : 64;
			TailEvent  *ring = xmalloc(size * sizeof(TailEvent));

			for (uint64_t n = tail->first; n < tail->end; n++)
				ring[n & (size - 1)] = *entry(tail, n);
			free(tail->ring);
			tail->ring = ring;
			tail->size = size;
		}
		else
			drop_first(tail);
	}
	e = entry(tail, tail->end++);
	e->event = event_copy(event, &e->size);
	e->made[0] = e->made[1] = false;
	tail->bytes += e->size;
	while (tail->bytes > (size_t) settings.live_buffer && tail->end - tail->first > 1)
		drop_first(tail);
}

static void
wake_all(Tail *tail)
{
	for (Follower *f = tail->followers; f; f = tail->waking)
	{
		tail->waking = f->next;
		f->wake(f);
	}
	tail->waking = NULL;
}

static void
fail_all(Tail *tail, const DbError *error)
{
	while (tail->followers)
	{
		Follower   *f = tail->followers;

		tail->followers = f->next;
		f->tail = NULL;
		f->failed(f, error);
	}
}

/* What comes after a query: another one, a pause, or the end. */
static void
went_wrong(Tail *tail, const DbError *error)
{
	if (error->lost)
		timer_in(&tail->retry, RETRY_MS);
	else
	{
		log_event(LOG_WARN, "live subscriptions cannot go on", "user=%q sqlstate=%q error=%q",
				  pool_user(tail->pool), error->code, error->message);
		fail_all(tail, error);
		tail_free(tail);
	}
}

static void
page_row(void *arg, const PGresult *r, int row)
{
	Tail	   *tail = arg;
	Event		event;

	tail->page_rows++;
	if (tail->page_cut)
		return;
	event_from_row(&event, r, row);
	add(tail, &event);
	tail->position = event.position;
	tail->page_bytes += event.payload.data_len + event.payload.metadata_len;
	tail->page_cut = tail->page_bytes > (size_t) settings.live_buffer / 2;
	event_free(&event);
}

static void
page_done(void *arg, const PGresult *r, const DbError *error)
{
	Tail	   *tail = arg;

	(void) r;
	tail->running = false;
	if (error)
	{
		went_wrong(tail, error);
		return;
	}
	if (tail->page_rows < PAGE && !tail->page_cut && tail->head > tail->position)
		tail->position = tail->head;
	/* the next query is sent before the followers' work, so that it overlaps */
	if (tail->followers == NULL)
	{
		tail_free(tail);
		return;
	}
	if (tail->page_rows >= PAGE || tail->page_cut)
		tail_read(tail);
	else
		tail_wait(tail);
	wake_all(tail);
}

static void
tail_read(Tail *tail)
{
	Query	   *q = source_page(&all, tail->position, false, PAGE, page_row, page_done, tail);

	tail->page_rows = 0;
	tail->page_bytes = 0;
	tail->page_cut = false;
	tail->running = true;
	query_waits(q);
	query_send(tail->pool, q);
}

static void
wait_done(void *arg, const PGresult *r, const DbError *error)
{
	Tail	   *tail = arg;

	tail->running = false;
	if (tail->followers == NULL)
	{
		tail_free(tail);
		return;
	}
	if (error)
	{
		went_wrong(tail, error);
		return;
	}
	tail->head = row_int8(r, 0, 0);
	if (tail->head > tail->position)
		tail_read(tail);
	else
		tail_wait(tail);
}

static void
tail_wait(Tail *tail)
{
	/* not for ever: a gateway that was killed leaves a backend that waits */
	static Statement statement = {"SELECT es_wait($1, '10 s')", 1, {INT8OID}};
	Query	   *q = query_new(&statement, wait_done, tail);

	query_int8(q, tail->position);
	query_waits(q);
	tail->running = true;
	query_send(tail->pool, q);
}

static void
retry_due(Timer *timer)
{
	Tail	   *tail = (Tail *) timer;

	if (tail->followers == NULL)
		tail_free(tail);
	else
		tail_wait(tail);
}

bool
tail_follow(Pool *pool, Follower *follower, int64_t position)
{
	Tail	   *tail = *pool_slot(pool);
	uint64_t	low,
				high;

	if (tail == NULL)
	{
		tail = xcalloc(sizeof(Tail));
		tail->retry.due = retry_due;
		tail->pool = pool_hold(pool);
		tail->start = tail->position = position;
		*pool_slot(pool) = tail;
		tail_wait(tail);
	}
	if (position < tail->start)
		return false;
	low = tail->first;
	high = tail->end;
	while (low < high)
	{
		uint64_t	middle = low + (high - low) / 2;

		if (entry(tail, middle)->event->position <= position)
			low = middle + 1;
		else
			high = middle;
	}
	follower->next_entry = low;
	follower->seen = position;
	follower->tail = tail;
	follower->next = tail->followers;
	tail->followers = follower;
	return true;
}

void
tail_follow_newest(Pool *pool, Follower *follower, int64_t head)
{
	Tail	   *tail = *pool_slot(pool);

	tail_follow(pool, follower, tail && tail->position > head ? tail->position : head);
}

void
tail_unfollow(Follower *follower)
{
	Tail	   *tail = follower->tail;

	if (tail == NULL)
		return;
	if (tail->waking == follower)
		tail->waking = follower->next;
	for (Follower **p = &tail->followers; *p; p = &(*p)->next)
		if (*p == follower)
		{
			*p = follower->next;
			break;
		}
	follower->tail = NULL;
	/* without followers it ends when its query does, at the latest in 10 s */
}

bool
tail_lapped(const Follower *follower)
{
	return follower->tail && follower->seen < follower->tail->start;
}

TailEvent *
tail_next(Follower *follower)
{
	Tail	   *tail = follower->tail;
	TailEvent  *e;

	if (tail_lapped(follower))
		return NULL;
	if (follower->next_entry < tail->first)
		follower->next_entry = tail->first;
	while (follower->next_entry < tail->end)
	{
		e = entry(tail, follower->next_entry++);
		/* it may have followed from beyond */
		if (e->event->position <= follower->seen)
			continue;
		follower->seen = e->event->position;
		return e;
	}
	if (tail->position > follower->seen)
		follower->seen = tail->position;
	return NULL;
}

int64_t
tail_position(const Follower *follower)
{
	return follower->tail->position;
}

grpc_slice
tail_message(TailEvent *e, bool halves)
{
	if (!e->made[halves])
	{
		e->message[halves] = event_message(e->event, NULL, halves, -1);
		e->made[halves] = true;
	}
	return grpc_slice_ref(e->message[halves]);
}
