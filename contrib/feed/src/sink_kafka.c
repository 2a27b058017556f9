/*-------------------------------------------------------------------------
 * sink_kafka.c
 *	  Kafka, by an idempotent producer; the key of a message is the stream.
 *
 * The producer numbers the messages of a partition, and the broker takes none
 * twice and none behind a gap.  It is made to stop at the first message that it
 * cannot deliver, rather than go on with the next; then, and when the program
 * was killed, the newest messages of every partition are read to see what is
 * there.
 *
 * A broker that says "too large" says it of all messages that came together, so
 * they are sent one by one to find out which.
 *-------------------------------------------------------------------------
 */
#include <errno.h>
#include <librdkafka/rdkafka.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "cloudevent.h"
#include "log.h"
#include "settings.h"
#include "sink.h"
#include "source.h"

#define TIMEOUT_MS 10000

static rd_kafka_t *producer;
static bool closing;
static bool lost;
static bool one_by_one;

/* the last one said, while it sets up or tears down */
static rd_kafka_conf_t *conf;

static void
delivered(rd_kafka_t *rk, const rd_kafka_message_t *msg, void *arg)
{
	Event	   *event = msg->_private;

	(void) rk;
	(void) arg;
	if (closing || lost)
		return;
	if (msg->err == RD_KAFKA_RESP_ERR_NO_ERROR)
	{
		event_done(event, false);
		return;
	}
	lost = true;
	sink_failed("%s", rd_kafka_err2str(msg->err));
	if (msg->err == RD_KAFKA_RESP_ERR_MSG_SIZE_TOO_LARGE && one_by_one)
		event_refused(event, false, rd_kafka_err2str(msg->err));
	one_by_one = msg->err == RD_KAFKA_RESP_ERR_MSG_SIZE_TOO_LARGE && !one_by_one;
}

static void
failed(rd_kafka_t *rk, int error, const char *reason, void *arg)
{
	(void) arg;
	if (closing)
		return;
	if (error == RD_KAFKA_RESP_ERR__FATAL)
	{
		char		text[512];

		rd_kafka_fatal_error(rk, text, sizeof(text));
		if (!lost)
			sink_failed("%s", text);
		lost = true;
	}
	else
		log_event(LOG_WARN, "kafka", "error=%q", reason);
}

static void
logged(const rd_kafka_t *rk, int severity, const char *facility, const char *text)
{
	(void) rk;
	/* gapless is called experimental; it is what order depends on */
	log_event(severity <= 4 && strcmp(facility, "CONFWARN") != 0 ? LOG_WARN : LOG_DEBUG, "librdkafka", "facility=%q text=%q", facility, text);
}

static void
set(const char *name, const char *value)
{
	char		error[256];

	if (rd_kafka_conf_set(conf, name, value, error, sizeof(error)) == RD_KAFKA_CONF_OK)
		return;
	fprintf(stderr, "event_store_feed: %s\n", error);
	exit(1);
}

static void
make_conf(void)
{
	conf = rd_kafka_conf_new();
	set("bootstrap.servers", settings.server);
	set("client.id", "event_store_feed");
	set("topic.metadata.refresh.interval.ms", "60000");
	rd_kafka_conf_set_log_cb(conf, logged);
	rd_kafka_conf_set_error_cb(conf, failed);
}

static void
init(void)
{
	if (settings.server == NULL)
		settings.server = "127.0.0.1:9092";
	if (settings.target == NULL)
		settings.target = "events";
	if (target_varies(settings.target))
		settings_wrong("target", settings.target);
	sink_kafka.fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
	/* mistakes are told now */
	make_conf();
	settings_options_rest(set);
	rd_kafka_conf_destroy(conf);
}

static void
close_producer(void)
{
	closing = true;
	rd_kafka_purge(producer, RD_KAFKA_PURGE_F_QUEUE | RD_KAFKA_PURGE_F_INFLIGHT | RD_KAFKA_PURGE_F_NON_BLOCKING);
	rd_kafka_destroy(producer);
	producer = NULL;
	closing = lost = false;
}

/* Others may write into the topic whatever they like: headers and messages of no value, too. */
static int64_t
key_of(rd_kafka_message_t *msg)
{
	rd_kafka_headers_t *headers;
	const void *value;
	size_t		len;
	int64_t		key = 0;
	char	   *text = NULL;

	if (rd_kafka_message_headers(msg, &headers) == RD_KAFKA_RESP_ERR_NO_ERROR &&
		rd_kafka_header_get_last(headers, "ce_id", &value, &len) == RD_KAFKA_RESP_ERR_NO_ERROR)
	{
		if (value)
			key = seen_key(text = xstrndup(value, len));
	}
	else if (msg->payload)
		key = cloudevent_seen(text = xstrndup(msg->payload, msg->len));
	free(text);
	return key;
}

/* Reads the newest messages of a partition: as many as may have been in hand. */
static bool
read_partition(rd_kafka_t *consumer, int partition)
{
	rd_kafka_topic_partition_list_t *list;
	int64_t		low,
				high;
	int64_t		until = now_ms() + 3 * TIMEOUT_MS;
	bool		done = false;
	rd_kafka_resp_err_t err = rd_kafka_query_watermark_offsets(consumer, settings.target, partition, &low, &high,
															   TIMEOUT_MS);

	if (err != RD_KAFKA_RESP_ERR_NO_ERROR)
		return sink_failed("partition %d: %s", partition, rd_kafka_err2str(err));
	if (high <= low)
		return true;
	list = rd_kafka_topic_partition_list_new(1);
	rd_kafka_topic_partition_list_add(list, settings.target, partition)->offset =
		high - SOURCE_WINDOW > low ? high - SOURCE_WINDOW : low;
	rd_kafka_assign(consumer, list);
	rd_kafka_topic_partition_list_destroy(list);
	while (!done && now_ms() < until)
	{
		rd_kafka_message_t *msg = rd_kafka_consumer_poll(consumer, 100);

		if (msg == NULL)
			continue;
		if (msg->err == RD_KAFKA_RESP_ERR_NO_ERROR)
			seen_add(key_of(msg));
		done = msg->err == RD_KAFKA_RESP_ERR__PARTITION_EOF || (!msg->err && msg->offset >= high - 1);
		rd_kafka_message_destroy(msg);
	}
	return done ? true : sink_failed("partition %d: its end cannot be read", partition);
}

static bool
read_end(void)
{
	char		error[256];
	rd_kafka_t *consumer;
	const struct rd_kafka_metadata *metadata;
	rd_kafka_topic_t *topic;
	rd_kafka_resp_err_t err;
	bool		ok = true;

	make_conf();
	settings_options_rest(set);
	set("group.id", "event_store_feed");
	set("enable.auto.commit", "false");
	set("enable.partition.eof", "true");
	set("fetch.wait.max.ms", "10");
	consumer = rd_kafka_new(RD_KAFKA_CONSUMER, conf, error, sizeof(error));
	if (consumer == NULL)
	{
		rd_kafka_conf_destroy(conf);
		return sink_failed("%s", error);
	}
	topic = rd_kafka_topic_new(consumer, settings.target, NULL);
	err = rd_kafka_metadata(consumer, 0, topic, &metadata, TIMEOUT_MS);
	if (err != RD_KAFKA_RESP_ERR_NO_ERROR)
		ok = sink_failed("%s", rd_kafka_err2str(err));
	else
	{
		/* a topic that is not there yet has no partitions */
		for (int i = 0; ok && metadata->topic_cnt == 1 && i < metadata->topics[0].partition_cnt; i++)
			ok = read_partition(consumer, metadata->topics[0].partitions[i].id);
		rd_kafka_metadata_destroy(metadata);
	}
	closing = true;
	rd_kafka_topic_destroy(topic);
	rd_kafka_destroy_flags(consumer, RD_KAFKA_DESTROY_F_NO_CONSUMER_CLOSE);
	closing = false;
	return ok;
}

static bool
open_producer(void)
{
	char		error[256];
	uint64_t	one = 1;
	rd_kafka_queue_t *queue;

	if (!read_end())
		return false;
	make_conf();
	set("linger.ms", "0.5");
	set("partitioner", "murmur2_random");
	set("compression.codec", "lz4");
	settings_options_rest(set);
	set("enable.idempotence", "true");
	set("enable.gapless.guarantee", "true");
	if (one_by_one)
		set("batch.num.messages", "1");
	rd_kafka_conf_set_dr_msg_cb(conf, delivered);
	producer = rd_kafka_new(RD_KAFKA_PRODUCER, conf, error, sizeof(error));
	if (producer == NULL)
	{
		rd_kafka_conf_destroy(conf);
		return sink_failed("%s", error);
	}
	queue = rd_kafka_queue_get_main(producer);
	rd_kafka_queue_io_event_enable(queue, sink_kafka.fd, &one, sizeof(one));
	rd_kafka_queue_destroy(queue);
	return true;
}

static rd_kafka_headers_t *
make_headers(const Event *event)
{
	rd_kafka_headers_t *headers = rd_kafka_headers_new(MAX_ATTRIBUTES);
	Attribute	attributes[MAX_ATTRIBUTES];
	char		name[32];
	int			n;

	if (!settings.binary)
	{
		rd_kafka_header_add(headers, "content-type", -1, CLOUDEVENT_JSON, -1);
		return headers;
	}
	rd_kafka_header_add(headers, "content-type", -1, CLOUDEVENT_DATA, -1);
	n = cloudevent_attributes(event, attributes);
	for (int i = 0; i < n; i++)
	{
		snprintf(name, sizeof(name), "ce_%s", attributes[i].name);
		rd_kafka_header_add(headers, name, -1, attributes[i].value, -1);
	}
	return headers;
}

static Put
put(Event *event)
{
	static Buf	body;
	rd_kafka_headers_t *headers = make_headers(event);
	rd_kafka_resp_err_t err;

	body.len = 0;
	if (settings.binary)
		buf_add(&body, event->data, event->data_len);
	else
		cloudevent_json(&body, event);
	err = rd_kafka_producev(producer, RD_KAFKA_V_TOPIC(settings.target), RD_KAFKA_V_MSGFLAGS(RD_KAFKA_MSG_F_COPY),
							RD_KAFKA_V_KEY(event->key, event->key ? strlen(event->key) : 0),
							RD_KAFKA_V_VALUE(body.data, body.len), RD_KAFKA_V_HEADERS(headers),
							RD_KAFKA_V_OPAQUE(event), RD_KAFKA_V_END);
	if (err == RD_KAFKA_RESP_ERR_NO_ERROR)
		return PUT_TAKEN;
	rd_kafka_headers_destroy(headers);
	if (err == RD_KAFKA_RESP_ERR__QUEUE_FULL)
		return PUT_FULL;
	if (err == RD_KAFKA_RESP_ERR_MSG_SIZE_TOO_LARGE)
	{
		event_refused(event, false, rd_kafka_err2str(err));
		return PUT_SETTLED;
	}
	sink_failed("%s", rd_kafka_err2str(err));
	return PUT_LOST;
}

static bool
serve(void)
{
	uint64_t	count;

	if (read(sink_kafka.fd, &count, sizeof(count)) < 0 && errno != EAGAIN)
		return sink_failed("%s", strerror(errno));
	rd_kafka_poll(producer, 0);
	return !lost;
}

Sink		sink_kafka = {
	.name = "kafka", .init = init, .open = open_producer, .put = put, .poll = serve, .close = close_producer,
};
