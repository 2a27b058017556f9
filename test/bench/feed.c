/*-------------------------------------------------------------------------
 * feed.c
 *	  What feed.sh measures beside the feed: the sinks' libraries alone, and how
 *	  soon somebody who waits at the sink has an event.
 *
 *	  feed nats SERVER STREAM COUNT BYTES		messages/s into the stream
 *	  feed kafka SERVERS TOPIC COUNT BYTES		messages/s into the topic
 *	  feed latency nats|kafka SERVER COUNT		p50 p99 max in ms: the append is
 *												answered -> the message is here
 *-------------------------------------------------------------------------
 */
#include <libpq-fe.h>
#include <librdkafka/rdkafka.h>
#include <nats/nats.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

static double
now(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return t.tv_sec + t.tv_nsec / 1e9;
}

static void
check(int ok, const char *what)
{
	if (ok)
		return;
	fprintf(stderr, "feed: %s failed\n", what);
	exit(1);
}

/* A new id for each message; both libraries are used as the feed uses them. */
static void
nats_alone(const char *server, const char *stream, int count, int bytes)
{
	natsConnection *nc;
	jsCtx	   *js;
	jsOptions	options;
	char	   *body = calloc(1, bytes + 1);
	char		subject[128];
	char		id[40],
				last[40] = "";
	double		start;

	memset(body, 'x', bytes);
	jsOptions_Init(&options);
	check(natsConnection_ConnectTo(&nc, server) == NATS_OK, "connect");
	check(natsConnection_JetStream(&js, nc, &options) == NATS_OK, "JetStream");
	start = now();
	for (int i = 0; i < count; i++)
	{
		natsMsg    *msg;
		jsPubOptions pub;

		jsPubOptions_Init(&pub);
		snprintf(subject, sizeof(subject), "%s.Order.Order-%d", stream, i % 10000);
		snprintf(id, sizeof(id), "01a22000-0000-7000-8000-%012d", i);
		check(natsMsg_Create(&msg, subject, NULL, body, bytes) == NATS_OK, "message");
		natsMsgHeader_Set(msg, "Content-Type", "application/cloudevents+json; charset=UTF-8");
		pub.MsgId = id;
		pub.ExpectStream = stream;
		if (last[0])
			pub.ExpectLastMsgId = last;
		check(js_PublishMsgAsync(js, &msg, &pub) == NATS_OK, "publish");
		strcpy(last, id);
	}
	check(js_PublishAsyncComplete(js, NULL) == NATS_OK, "complete");
	printf("%.0f\n", count / (now() - start));
}

static void
kafka_alone(const char *servers, const char *topic, int count, int bytes)
{
	rd_kafka_conf_t *conf = rd_kafka_conf_new();
	char		error[256];
	char	   *body = calloc(1, bytes + 1);
	rd_kafka_t *rk;
	double		start;

	memset(body, 'x', bytes);
	rd_kafka_conf_set(conf, "bootstrap.servers", servers, error, sizeof(error));
	rd_kafka_conf_set(conf, "enable.idempotence", "true", error, sizeof(error));
	rd_kafka_conf_set(conf, "linger.ms", "0.5", error, sizeof(error));
	rd_kafka_conf_set(conf, "compression.codec", "lz4", error, sizeof(error));
	rk = rd_kafka_new(RD_KAFKA_PRODUCER, conf, error, sizeof(error));
	check(rk != NULL, "producer");
	start = now();
	for (int i = 0; i < count; i++)
	{
		char		key[32];
		rd_kafka_resp_err_t err;

		snprintf(key, sizeof(key), "Order-%d", i % 10000);
		while ((err = rd_kafka_producev(rk, RD_KAFKA_V_TOPIC(topic), RD_KAFKA_V_MSGFLAGS(RD_KAFKA_MSG_F_COPY),
										RD_KAFKA_V_KEY(key, strlen(key)), RD_KAFKA_V_VALUE(body, bytes),
										RD_KAFKA_V_END)) == RD_KAFKA_RESP_ERR__QUEUE_FULL)
			rd_kafka_poll(rk, 10);
		check(err == 0, "produce");
		rd_kafka_poll(rk, 0);
	}
	check(rd_kafka_flush(rk, 60000) == 0, "flush");
	printf("%.0f\n", count / (now() - start));
	fflush(stdout);
	_exit(0);
}

static int
compare(const void *a, const void *b)
{
	double		d = *(const double *) a - *(const double *) b;

	return (d > 0) - (d < 0);
}

static void
latency(const char *kind, const char *server, int count)
{
	PGconn	   *conn = PQconnectdb("");
	natsConnection *nc = NULL;
	natsSubscription *sub = NULL;
	rd_kafka_t *rk = NULL;
	double	   *times = malloc(count * sizeof(double));

	check(PQstatus(conn) == CONNECTION_OK, "database");
	if (strcmp(kind, "nats") == 0)
	{
		check(natsConnection_ConnectTo(&nc, server) == NATS_OK, "connect");
		check(natsConnection_SubscribeSync(&sub, nc, "events.>") == NATS_OK, "subscribe");
		natsConnection_Flush(nc);
	}
	else
	{
		rd_kafka_conf_t *conf = rd_kafka_conf_new();
		rd_kafka_topic_partition_list_t *list = rd_kafka_topic_partition_list_new(4);
		char		error[256];

		rd_kafka_conf_set(conf, "bootstrap.servers", server, error, sizeof(error));
		rd_kafka_conf_set(conf, "group.id", "bench", error, sizeof(error));
		rd_kafka_conf_set(conf, "fetch.wait.max.ms", "1", error, sizeof(error));
		rk = rd_kafka_new(RD_KAFKA_CONSUMER, conf, error, sizeof(error));
		for (int i = 0; i < 4; i++)
			rd_kafka_topic_partition_list_add(list, "events", i)->offset = RD_KAFKA_OFFSET_END;
		rd_kafka_assign(rk, list);
		for (double end = now() + 2; now() < end;)
			rd_kafka_consumer_poll(rk, 100);
	}
	for (int i = -20; i < count; i++)
	{
		char		sql[256];
		double		start;
		PGresult   *res;

		snprintf(sql, sizeof(sql), "SELECT * FROM es_append('Late-%d', es_any(), 'OrderPlaced', "
				 "'{\"order\": 1, \"items\": [\"a\", \"b\"], \"total\": 99.5}')", i);
		usleep(2000 + rand() % 3000);
		res = PQexec(conn, sql);
		start = now();
		check(PQresultStatus(res) == PGRES_TUPLES_OK, "append");
		PQclear(res);
		if (rk)
		{
			rd_kafka_message_t *msg = NULL;

			while (msg == NULL || msg->err)
				msg = rd_kafka_consumer_poll(rk, 10000);
			rd_kafka_message_destroy(msg);
		}
		else
		{
			natsMsg    *msg;

			check(natsSubscription_NextMsg(&msg, sub, 10000) == NATS_OK, "message");
			natsMsg_Destroy(msg);
		}
		if (i >= 0)
			times[i] = (now() - start) * 1000;
	}
	qsort(times, count, sizeof(double), compare);
	printf("%.2f %.2f %.2f\n", times[count / 2], times[count * 99 / 100], times[count - 1]);
	fflush(stdout);
	_exit(0);
}

int
main(int argc, char **argv)
{
	if (argc == 6 && strcmp(argv[1], "nats") == 0)
		nats_alone(argv[2], argv[3], atoi(argv[4]), atoi(argv[5]));
	else if (argc == 6 && strcmp(argv[1], "kafka") == 0)
		kafka_alone(argv[2], argv[3], atoi(argv[4]), atoi(argv[5]));
	else if (argc == 5 && strcmp(argv[1], "latency") == 0)
		latency(argv[2], argv[3], atoi(argv[4]));
	else
		return 2;
	return 0;
}
