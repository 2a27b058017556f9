/*-------------------------------------------------------------------------
 * sink_redis.c
 *	  Redis Streams.
 *
 * The id of an entry is the event's global position, "4711-0".  Redis takes only
 * ids above the last one of a stream, so it keeps out what it has already.  What
 * it refuses for that reason and does not have comes late: a retry of a parked
 * event, one of another member of a group, or one whose position another store's
 * event has, or had before a restore.  Such an entry goes to the end, with the next
 * id that is free.
 *
 * What is at hand goes in one MULTI ... EXEC: a server that has no memory left
 * takes all of it or nothing, so nothing can overtake.  What comes late would be
 * overtaken there by what does not: so it is asked first which id is the last,
 * and the transaction ends before an event that is late.  Other members may write
 * after that question; so a member has one event of a key at a time in it.  The loop
 * waits for the answer; PostgreSQL meanwhile works on the next batch.
 *-------------------------------------------------------------------------
 */
#include <hiredis/hiredis.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "cloudevent.h"
#include "log.h"
#include "settings.h"
#include "sink.h"

#define BURST 1000
#define TIMEOUT_S 5
#define MAX_WORDS (8 + 2 * MAX_ATTRIBUTES)

static redisContext *conn;
static const char *maxlen;
static Event *burst[BURST];
static int	nburst;

/* keys of the burst, found by a hash; and which of them an event of it has */
#define SLOTS (2 * BURST)

static struct
{
	char	   *name;
	int			events;			/* in the burst */
	int64_t		last;			/* first half of the last id; -1: none, or not asked for */
}			keys[BURST];
static int	nkeys;
static int	slots[SLOTS];		/* 0: free; or a key's index and 1 */
static int	places[BURST];

static void
init(void)
{
	if (settings.server == NULL)
		settings.server = "127.0.0.1:6379";
	if (settings.target == NULL)
		settings.target = "events";
	settings_option("user");
	settings_option("password");
	settings_option("db");
	maxlen = settings_option("maxlen");
	settings_options_used();
}

static void
close_connection(void)
{
	if (conn)
		redisFree(conn);
	conn = NULL;
	nburst = 0;
}

/* An answer that is no error; the reason of anything else is in sink_error. */
static redisReply *
good(void *answer)
{
	redisReply *reply = answer;

	if (reply && reply->type != REDIS_REPLY_ERROR)
		return reply;
	sink_failed("%s", reply ? reply->str : conn->err ? conn->errstr : "no answer");
	if (reply)
		freeReplyObject(reply);
	return NULL;
}

static bool
did(void *answer)
{
	redisReply *reply = good(answer);

	if (reply)
		freeReplyObject(reply);
	return reply != NULL;
}

/* Warns if what the server confirms may be gone after it was killed. */
static void
look_at_durability(void)
{
	redisReply *reply = redisCommand(conn, "CONFIG GET appendonly");

	if (reply && reply->type == REDIS_REPLY_ARRAY && reply->elements == 2 &&
		strcmp(reply->element[1]->str, "yes") != 0)
		log_event(LOG_WARN, "redis does not write what it confirms", "appendonly=%q", reply->element[1]->str);
	if (reply)
		freeReplyObject(reply);
}

static bool
open_connection(void)
{
	struct timeval limit = {.tv_sec = TIMEOUT_S};
	const char *colon = strrchr(settings.server, ':');
	const char *user = settings_option("user");
	const char *password = settings_option("password");
	const char *db = settings_option("db");
	bool		ok;

	if (*settings.server == '/')
		conn = redisConnectUnixWithTimeout(settings.server, limit);
	else
	{
		char	   *host = xstrndup(settings.server, colon ? (size_t) (colon - settings.server) : strlen(settings.server));

		conn = redisConnectWithTimeout(host, colon ? atoi(colon + 1) : 6379, limit);
		free(host);
	}
	ok = conn && conn->err == 0;
	if (!ok)
		sink_failed("%s", conn ? conn->errstr : "out of memory");
	if (ok)
		redisSetTimeout(conn, limit);
	if (ok && password && user)
		ok = did(redisCommand(conn, "AUTH %s %s", user, password));
	else if (ok && password)
		ok = did(redisCommand(conn, "AUTH %s", password));
	if (ok && db)
		ok = did(redisCommand(conn, "SELECT %s", db));
	ok = ok && did(redisCommand(conn, "PING"));
	if (ok)
		look_at_durability();
	else
		close_connection();
	hand_one_per_key = settings.member != NULL;
	return ok;
}

static Put
put(Event *event)
{
	if (nburst == BURST)
		return PUT_FULL;
	burst[nburst++] = event;
	return PUT_TAKEN;
}

/* Appends XADD to what is sent. */
static void
append_xadd(const Event *event, const char *key, const char *id)
{
	static Buf	body;
	Attribute	attributes[MAX_ATTRIBUTES];
	char		names[MAX_ATTRIBUTES][32];
	const char *words[MAX_WORDS];
	size_t		lengths[MAX_WORDS];
	int			n = 0;

#define WORD(text, len) (words[n] = (text), lengths[n++] = (len))
	WORD("XADD", 4);
	WORD(key, strlen(key));
	if (maxlen)
	{
		WORD("MAXLEN", 6);
		WORD("~", 1);
		WORD(maxlen, strlen(maxlen));
	}
	WORD(id, strlen(id));
	if (settings.binary)
	{
		int			count = cloudevent_attributes(event, attributes);

		for (int i = 0; i < count; i++)
		{
			snprintf(names[i], sizeof(names[i]), "ce_%s", attributes[i].name);
			WORD(names[i], strlen(names[i]));
			WORD(attributes[i].value, strlen(attributes[i].value));
		}
		WORD("content-type", 12);
		WORD(CLOUDEVENT_DATA, strlen(CLOUDEVENT_DATA));
		WORD("data", 4);
		WORD(event->data, event->data_len);
	}
	else
	{
		body.len = 0;
		cloudevent_json(&body, event);
		WORD("event", 5);
		WORD(body.data, body.len);
	}
#undef WORD
	redisAppendCommandArgv(conn, n, words, lengths);
}

static const char *
key_of(const Event *event)
{
	static Buf	key;

	key.len = 0;
	target_expand(&key, settings.target, event, "");
	buf_char(&key, '\0');
	return key.data;
}

/* Is it this event that an answer of XRANGE shows?  What else has the id says nothing of it. */
static bool
shows(const redisReply *reply, const Event *event)
{
	const redisReply *fields;

	if (reply->type != REDIS_REPLY_ARRAY || reply->elements == 0 || reply->element[0]->elements != 2)
		return false;
	fields = reply->element[0]->element[1];
	for (size_t i = 0; i + 1 < fields->elements; i += 2)
	{
		const char *name = fields->element[i]->str;
		const char *value = fields->element[i + 1]->str;

		if (strcmp(name, "ce_id") == 0 ? strcmp(value, event->id) == 0 :
			strcmp(name, "event") == 0 && cloudevent_is(value, event))
			return true;
	}
	return false;
}

/*
 * The last id of a key by what XINFO says, or NULL.  The last entry need not have it:
 * that may have been deleted.
 */
static const char *
last_id(const redisReply *reply)
{
	if (reply->type == REDIS_REPLY_ARRAY)
		for (size_t i = 0; i + 1 < reply->elements; i += 2)
			if (strcmp(reply->element[i]->str, "last-generated-id") == 0)
				return reply->element[i + 1]->str;
	return NULL;
}

/* Redis has an id above this one.  Is the event there?  If not, to the end with it. */
static bool
late(Event *event)
{
	const char *key = key_of(event);

	for (;;)
	{
		redisReply *reply = good(redisCommand(conn, "XRANGE %s %lld-0 %lld-0", key, (long long) event->position,
											  (long long) event->position));
		char		id[64];
		char	   *dash;
		void	   *answer = NULL;

		if (reply == NULL)
			return false;
		if (shows(reply, event))
		{
			freeReplyObject(reply);
			event_done(event, true);
			return true;
		}
		freeReplyObject(reply);
		/* an error if the key has been deleted */
		reply = redisCommand(conn, "XINFO STREAM %s", key);
		if (reply == NULL || (reply->type == REDIS_REPLY_ERROR && strstr(reply->str, "no such key") == NULL))
			return good(reply) != NULL;
		snprintf(id, sizeof(id), "%s", last_id(reply) ? last_id(reply) : "0-0");
		freeReplyObject(reply);
		dash = strchr(id, '-');
		snprintf(dash + 1, sizeof(id) - (dash + 1 - id), "%" PRIu64, (uint64_t) strtoull(dash + 1, NULL, 10) + 1);
		append_xadd(event, key, id);
		if (redisGetReply(conn, &answer) != REDIS_OK)
			return sink_failed("%s", conn->errstr);
		reply = answer;
		if (reply->type != REDIS_REPLY_ERROR)
		{
			freeReplyObject(reply);
			event_done(event, false);
			return true;
		}
		/* somebody else was faster */
		if (strstr(reply->str, "equal or smaller") == NULL)
			return good(reply) != NULL;
		freeReplyObject(reply);
	}
}

/* Which of the keys of the burst this is; it is one from now on. */
static int
place_of(const char *key)
{
	size_t		slot = seen_key(key) % SLOTS;

	while (slots[slot] > 0 && strcmp(keys[slots[slot] - 1].name, key) != 0)
		slot = (slot + 1) % SLOTS;
	if (slots[slot] == 0)
	{
		keys[nkeys].name = xstrdup(key);
		keys[nkeys].events = 0;
		keys[nkeys].last = -1;
		slots[slot] = ++nkeys;
	}
	return slots[slot] - 1;
}

static void
forget_keys(void)
{
	while (nkeys > 0)
		free(keys[--nkeys].name);
	memset(slots, 0, sizeof(slots));
}

/* Asks for the last id of every key that has several events in the burst. */
static bool
ask_last(void)
{
	for (int i = 0; i < nburst; i++)
		keys[places[i] = place_of(key_of(burst[i]))].events++;
	for (int i = 0; i < nkeys; i++)
		if (keys[i].events > 1)
			redisAppendCommand(conn, "XINFO STREAM %s", keys[i].name);
	for (int i = 0; i < nkeys; i++)
	{
		void	   *answer = NULL;
		const char *id;

		if (keys[i].events <= 1)
			continue;
		if (redisGetReply(conn, &answer) != REDIS_OK)
			return sink_failed("%s", conn->errstr);
		/* if anything is wrong with this key, the events will be told */
		if ((id = last_id(answer)) != NULL)
			keys[i].last = strtoll(id, NULL, 10);
		freeReplyObject(answer);
	}
	return true;
}

/* Sends some events and takes the answers. */
static bool
transact(Event **events, int n)
{
	redisReply *exec = NULL;
	bool		ok = true;

	redisAppendCommand(conn, "MULTI");
	for (int i = 0; i < n; i++)
	{
		char		id[32];

		snprintf(id, sizeof(id), "%" PRId64 "-0", events[i]->position);
		append_xadd(events[i], key_of(events[i]), id);
	}
	redisAppendCommand(conn, "EXEC");

	/* the first error is the reason, EXEC's only its consequence */
	for (int i = 0; i <= n + 1; i++)
	{
		void	   *answer = NULL;
		redisReply *reply;

		if (redisGetReply(conn, &answer) != REDIS_OK)
			return sink_failed("%s", conn->errstr);
		reply = answer;
		if (i == n + 1)
			exec = reply;
		else
		{
			if (ok && reply->type == REDIS_REPLY_ERROR)
				ok = sink_failed("%s", reply->str);
			freeReplyObject(reply);
		}
	}
	if (ok && (exec->type != REDIS_REPLY_ARRAY || exec->elements != (size_t) n))
		ok = sink_failed("%s", exec->type == REDIS_REPLY_ERROR ? exec->str : "EXEC: unexpected answer");
	for (int i = 0; i < n && ok; i++)
	{
		redisReply *reply = exec->element[i];

		if (reply->type != REDIS_REPLY_ERROR)
			event_done(events[i], false);
		else if (strstr(reply->str, "equal or smaller"))
			ok = late(events[i]);
		else
			event_refused(events[i], false, reply->str);
	}
	freeReplyObject(exec);
	return ok;
}

/* Is this event of the burst above its key's last id?  Then that is its own from now on. */
static bool
in_time(int i)
{
	int64_t    *last = &keys[places[i]].last;

	if (burst[i]->position <= *last)
		return false;
	*last = burst[i]->position;
	return true;
}

/* Sends the burst. */
static bool
send_burst(void)
{
	/* where no key is there twice, none can get out of order */
	bool		ask = nburst > 1 && !hand_one_per_key;
	bool		ok = !ask || ask_last();

	for (int from = 0, to = 0; ok && from < nburst; from = to)
	{
		while (to < nburst && (!ask || in_time(to)))
			to++;
		if (to > from)
			ok = transact(&burst[from], to - from);
		if (ok && to < nburst)
			ok = late(burst[to++]);
	}
	forget_keys();
	nburst = 0;
	return ok;
}

Sink		sink_redis = {
	.name = "redis", .init = init, .open = open_connection, .put = put, .poll = send_burst, .close = close_connection,
	.fd = -1,
};
