/*-------------------------------------------------------------------------
 * sink_nats.c
 *	  NATS JetStream.
 *
 * Every message carries the event's id as Nats-Msg-Id: within the stream's
 * duplicate window the server keeps a second one out.  If the newest message is
 * older than that, the newest messages are read to see what is there.
 *
 * Order: messages are sent without waiting, and a server that is short of
 * something may refuse one and take the next.  So each says which message id it
 * wants to be the last one before it (Nats-Expected-Last-Msg-Id): what follows a
 * message that was not stored is not stored either.  That takes a stream in which
 * nobody else publishes.  For a member of a group, and when others turn out to
 * write there, one message of a key is in flight at a time instead.
 *
 * The library does not connect again by itself, for what it has kept would come
 * after what it has lost.
 *
 * Answers come in a thread of the library; it queues them and wakes the loop.
 *-------------------------------------------------------------------------
 */
#include <nats/nats.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "cloudevent.h"
#include "log.h"
#include "settings.h"
#include "sink.h"
#include "source.h"

/* error code of JetStream: the last message has another id than expected */
#define WRONG_LAST_MSG_ID 10070

/* times that must happen, none a minute after the one before, until others are taken to publish there */
#define FOREIGN_LIMIT 3
#define FOREIGN_MS 60000

#define MESSAGE_ID "Nats-Msg-Id"
#define TIMEOUT_MS 5000
#define ANSWER_MS 30000

/* bytes of a message beside payload and attributes, at the most */
#define HEADER_BYTES 300

typedef struct Answer
{
	char		id[37];
	bool		stored;
	bool		duplicate;
	int			code;
	char		text[128];
} Answer;

static const char *stream_name;
static natsConnection *conn;
static jsCtx *js;
static int64_t max_bytes;		/* of a message */
static bool chained;
static char last_id[64];		/* that the next message wants to see; or "" */
static int	foreign;
static int64_t foreign_at;

/* in flight, in the order in which they were put */
static Event **flight;
static size_t flight_size;
static size_t flight_first;
static size_t flight_end;
static int64_t oldest_at;		/* now_ms() when the flight's first was put, or the last answer came */

/* shared with the library's thread */
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static Answer *answers;
static int	nanswers;
static int	answers_size;
static intptr_t generation;
static bool closed;

static void
wake(void)
{
	uint64_t	one = 1;

	if (write(sink_nats.fd, &one, sizeof(one)) < 0)
		return;					/* full: it wakes anyway */
}

static void
answered(jsCtx *ctx, natsMsg *msg, jsPubAck *ack, jsPubAckErr *error, void *closure)
{
	const char *id;

	(void) ctx;
	pthread_mutex_lock(&lock);
	if ((intptr_t) closure == generation && natsMsgHeader_Get(msg, MESSAGE_ID, &id) == NATS_OK)
	{
		Answer	   *answer;

		if (nanswers == answers_size)
		{
			answers_size = answers_size ? answers_size * 2 : 256;
			answers = xrealloc(answers, answers_size * sizeof(Answer));
		}
		answer = &answers[nanswers++];
		snprintf(answer->id, sizeof(answer->id), "%s", id);
		answer->stored = ack != NULL;
		answer->duplicate = ack && ack->Duplicate;
		answer->code = error ? (int) error->ErrCode : 0;
		if (error)
			snprintf(answer->text, sizeof(answer->text), "%s", error->ErrText ? error->ErrText :
					 natsStatus_GetText(error->Err));
		if (nanswers == 1)
			wake();
	}
	pthread_mutex_unlock(&lock);
	natsMsg_Destroy(msg);
}

static void
connection_closed(natsConnection *nc, void *closure)
{
	(void) nc;
	pthread_mutex_lock(&lock);
	if ((intptr_t) closure == generation)
	{
		closed = true;
		wake();
	}
	pthread_mutex_unlock(&lock);
}

static void
init(void)
{
	if (settings.server == NULL)
		settings.server = NATS_DEFAULT_URL;
	if (settings.target == NULL)
		settings.target = "events.{category}.{stream}";
	stream_name = settings_option("stream");
	if (stream_name == NULL)
		stream_name = "events";
	settings_option("user");
	settings_option("password");
	settings_option("token");
	settings_option("credentials");
	settings_option("ca");
	settings_options_used();
	sink_nats.fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
}

static void
close_connection(void)
{
	pthread_mutex_lock(&lock);
	generation++;
	nanswers = 0;
	closed = false;
	pthread_mutex_unlock(&lock);
	flight_first = flight_end = 0;
	jsCtx_Destroy(js);
	js = NULL;
	natsConnection_Destroy(conn);
	conn = NULL;
}

static natsStatus
connect_server(void)
{
	natsOptions *options = NULL;
	natsStatus	status = natsOptions_Create(&options);
	const char *user = settings_option("user");
	const char *ca = settings_option("ca");
	const char *servers[16];
	int			n = 0;
	char	   *list = xstrdup(settings.server);

	for (char *next, *s = strtok_r(list, ",", &next); s && n < 16; s = strtok_r(NULL, ",", &next))
		servers[n++] = s;
	if (status == NATS_OK)
		status = natsOptions_SetServers(options, servers, n);
	if (status == NATS_OK)
		status = natsOptions_SetAllowReconnect(options, false);
	if (status == NATS_OK)
		status = natsOptions_SetTimeout(options, TIMEOUT_MS);
	if (status == NATS_OK)
		status = natsOptions_SetPingInterval(options, 10000);
	if (status == NATS_OK)
		status = natsOptions_SetSendAsap(options, true);
	if (status == NATS_OK)
		status = natsOptions_SetName(options, "event_store_feed");
	if (status == NATS_OK)
		status = natsOptions_SetClosedCB(options, connection_closed, (void *) generation);
	if (status == NATS_OK && user)
		status = natsOptions_SetUserInfo(options, user, settings_option("password"));
	if (status == NATS_OK && settings_option("token"))
		status = natsOptions_SetToken(options, settings_option("token"));
	if (status == NATS_OK && settings_option("credentials"))
		status = natsOptions_SetUserCredentialsFromFiles(options, settings_option("credentials"), NULL);
	if (status == NATS_OK && ca)
		status = natsOptions_LoadCATrustedCertificates(options, ca);
	if (status == NATS_OK)
		status = natsConnection_Connect(&conn, options);
	natsOptions_Destroy(options);
	free(list);
	return status;
}

/* What is the stream's last message, and does the server still know its id? */
static bool
read_end(void)
{
	jsStreamInfo *info = NULL;
	jsErrCode	code = 0;
	natsStatus	status = js_GetStreamInfo(&info, js, stream_name, NULL, &code);
	int64_t		known_after;
	uint64_t	seq;

	last_id[0] = '\0';
	if (status != NATS_OK)
		return sink_failed("stream \"%s\": %s", stream_name,
						   status == NATS_NOT_FOUND ? "not found" : natsStatus_GetText(status));
	max_bytes = natsConnection_GetMaxPayload(conn);
	if (info->Config->MaxMsgSize > 0 && info->Config->MaxMsgSize < max_bytes)
		max_bytes = info->Config->MaxMsgSize;
	known_after = nats_NowInNanoSeconds() - info->Config->Duplicates / 2;
	seq = info->State.LastSeq;
	for (int i = 0; i < SOURCE_WINDOW && seq > 0 && seq >= info->State.FirstSeq; i++, seq--)
	{
		natsMsg    *msg = NULL;
		const char *id;

		status = js_GetMsg(&msg, js, stream_name, seq, NULL, &code);
		if (status == NATS_NOT_FOUND)
			continue;
		if (status != NATS_OK)
			break;
		if (i == 0 && natsMsgHeader_Get(msg, MESSAGE_ID, &id) == NATS_OK)
			snprintf(last_id, sizeof(last_id), "%s", id);
		if (i == 0 && natsMsg_GetTime(msg) > known_after)
		{
			natsMsg_Destroy(msg);
			break;
		}
		if (natsMsgHeader_Get(msg, MESSAGE_ID, &id) == NATS_OK)
			seen_add(seen_key(id));
		natsMsg_Destroy(msg);
	}
	jsStreamInfo_Destroy(info);
	if (status != NATS_OK && status != NATS_NOT_FOUND)
		return sink_failed("stream \"%s\": %s", stream_name, natsStatus_GetText(status));
	return true;
}

static bool
open_connection(void)
{
	jsOptions	options;
	natsStatus	status;

	generation++;
	status = connect_server();
	if (status == NATS_OK)
		status = jsOptions_Init(&options);
	if (status == NATS_OK)
	{
		options.Wait = TIMEOUT_MS;
		options.PublishAsync.AckHandler = answered;
		options.PublishAsync.AckHandlerClosure = (void *) generation;
		status = natsConnection_JetStream(&js, conn, &options);
	}
	if (status != NATS_OK)
		sink_failed("%s", natsStatus_GetText(status));
	if (status != NATS_OK || !read_end())
	{
		close_connection();
		return false;
	}
	chained = settings.member == NULL && foreign < FOREIGN_LIMIT;
	hand_one_per_key = !chained;
	return true;
}

static natsStatus
set_headers(natsMsg *msg, const Attribute *attributes, int n)
{
	natsStatus	status;
	Buf			name = {0};
	Buf			value = {0};

	if (!settings.binary)
		return natsMsgHeader_Set(msg, "Content-Type", CLOUDEVENT_JSON);
	status = natsMsgHeader_Set(msg, "Content-Type", CLOUDEVENT_DATA);
	for (int i = 0; i < n && status == NATS_OK; i++)
	{
		name.len = value.len = 0;
		buf_str(&name, "ce-");
		buf_add(&name, attributes[i].name, strlen(attributes[i].name) + 1);
		cloudevent_header(&value, attributes[i].value);
		buf_char(&value, '\0');
		status = natsMsgHeader_Set(msg, name.data, value.data);
	}
	buf_free(&name);
	buf_free(&value);
	return status;
}

static Put
put(Event *event)
{
	static Buf	subject;
	static Buf	body;
	Attribute	attributes[MAX_ATTRIBUTES];
	int			n = 0;
	int64_t		bytes = HEADER_BYTES;
	natsMsg    *msg = NULL;
	natsStatus	status;
	jsPubOptions options;

	subject.len = body.len = 0;
	target_expand(&subject, settings.target, event, " .*>%");
	buf_char(&subject, '\0');
	if (settings.binary)
	{
		buf_add(&body, event->data, event->data_len);
		n = cloudevent_attributes(event, attributes);
		/* a byte may become three */
		for (int i = 0; i < n; i++)
			bytes += 3 * strlen(attributes[i].value) + 32;
	}
	else
		cloudevent_json(&body, event);
	if (bytes + (int64_t) body.len > max_bytes)
	{
		char		reason[128];

		snprintf(reason, sizeof(reason), "the message has up to %ld bytes, NATS takes %ld",
				 (long) (bytes + body.len), (long) max_bytes);
		event_refused(event, false, reason);
		return PUT_SETTLED;
	}

	status = natsMsg_Create(&msg, subject.data, NULL, body.data, body.len);
	if (status == NATS_OK)
		status = set_headers(msg, attributes, n);
	/* the library puts it in, too, but for the answer it is to be found there */
	if (status == NATS_OK)
		status = natsMsgHeader_Set(msg, MESSAGE_ID, event->id);
	jsPubOptions_Init(&options);
	options.MsgId = event->id;
	options.ExpectStream = stream_name;
	if (chained && last_id[0])
		options.ExpectLastMsgId = last_id;
	if (status == NATS_OK)
		status = js_PublishMsgAsync(js, &msg, &options);
	natsMsg_Destroy(msg);
	if (status != NATS_OK)
	{
		sink_failed("%s", natsStatus_GetText(status));
		return PUT_LOST;
	}
	strcpy(last_id, event->id);

	if (flight_first == flight_end)
	{
		flight_first = flight_end = 0;
		oldest_at = now_ms();
	}
	if (flight_end == flight_size)
	{
		flight_size = flight_size ? flight_size * 2 : 1024;
		flight = xrealloc(flight, flight_size * sizeof(Event *));
	}
	flight[flight_end++] = event;
	return PUT_TAKEN;
}

/* Answers come in the order of the messages, or nearly so. */
static Event *
take_from_flight(const char *id)
{
	for (size_t i = flight_first; i < flight_end; i++)
	{
		Event	   *event = flight[i];

		if (event == NULL || strcmp(event->id, id) != 0)
			continue;
		flight[i] = NULL;
		while (flight_first < flight_end && flight[flight_first] == NULL)
			flight_first++;
		return event;
	}
	return NULL;
}

static bool
take_answers(void)
{
	uint64_t	count;
	Answer	   *mine;
	int			n;
	bool		gone;
	static Answer *spare;
	static int	spare_size;

	if (read(sink_nats.fd, &count, sizeof(count)) < 0 && nanswers == 0 && !closed)
	{
		/* an answer that does not come is a message that may not have come either */
		if (flight_first < flight_end && now_ms() - oldest_at > ANSWER_MS)
			return sink_failed("no answer for %d s", ANSWER_MS / 1000);
		return true;
	}
	pthread_mutex_lock(&lock);
	mine = answers;
	n = nanswers;
	gone = closed;
	answers = spare;
	nanswers = 0;
	spare = mine;
	count = spare_size;
	spare_size = answers_size;
	answers_size = count;
	pthread_mutex_unlock(&lock);

	oldest_at = now_ms();
	for (int i = 0; i < n; i++)
	{
		Event	   *event = take_from_flight(mine[i].id);

		if (event == NULL)
			continue;
		if (mine[i].stored)
		{
			event_done(event, mine[i].duplicate);
			continue;
		}
		if (mine[i].code == WRONG_LAST_MSG_ID && chained)
		{
			if (now_ms() - foreign_at > FOREIGN_MS)
				foreign = 0;
			foreign_at = now_ms();
			if (++foreign == FOREIGN_LIMIT)
				log_event(LOG_WARN, "others publish in the stream: one message of a key at a time", "stream=%q",
						  stream_name);
		}
		return sink_failed("%s", mine[i].text);
	}
	if (gone)
		return sink_failed("connection closed");
	return true;
}

Sink		sink_nats = {
	.name = "nats", .init = init, .open = open_connection, .put = put, .poll = take_answers,
	.close = close_connection,
};
