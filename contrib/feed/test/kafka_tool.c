/*-------------------------------------------------------------------------
 * kafka_tool.c
 *	  What the tests need of Kafka.
 *
 *	  kafka_tool mock BROKERS		librdkafka's mock cluster; prints its bootstrap
 *									servers, takes "down" and "up" as commands, and
 *									ends with its standard input
 *	  kafka_tool write SERVERS TOPIC VALUE [NAME[=VALUE]]...
 *									a message of somebody else, with these headers
 *	  kafka_tool read SERVERS TOPIC	prints every message, and ends at the end
 *
 * Messages are printed as lines: partition, offset, key, number of headers, then
 * for each its name and value, then the value; all in hexadecimal but numbers.
 *-------------------------------------------------------------------------
 */
#include <librdkafka/rdkafka.h>
#include <librdkafka/rdkafka_mock.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define PARTITIONS 4

static void
hex(const void *data, size_t len)
{
	const unsigned char *p = data;

	putchar(' ');
	putchar('x');
	for (size_t i = 0; i < len; i++)
		printf("%02x", p[i]);
}

static rd_kafka_t *
client(rd_kafka_type_t type, const char *servers)
{
	char		error[256];
	rd_kafka_conf_t *conf = rd_kafka_conf_new();
	rd_kafka_t *rk;

	if (servers)
	{
		rd_kafka_conf_set(conf, "bootstrap.servers", servers, error, sizeof(error));
		rd_kafka_conf_set(conf, "group.id", "kafka_tool", error, sizeof(error));
		rd_kafka_conf_set(conf, "enable.partition.eof", "true", error, sizeof(error));
		rd_kafka_conf_set(conf, "fetch.wait.max.ms", "10", error, sizeof(error));
	}
	rk = rd_kafka_new(type, conf, error, sizeof(error));
	if (rk == NULL)
	{
		fprintf(stderr, "%s\n", error);
		exit(1);
	}
	return rk;
}

static void
mock(int brokers)
{
	rd_kafka_t *rk = client(RD_KAFKA_PRODUCER, NULL);
	rd_kafka_mock_cluster_t *cluster = rd_kafka_mock_cluster_new(rk, brokers);
	char		line[64];

	rd_kafka_mock_topic_create(cluster, "events", PARTITIONS, 1);
	printf("%s\n", rd_kafka_mock_cluster_bootstraps(cluster));
	fflush(stdout);
	while (fgets(line, sizeof(line), stdin))
	{
		for (int i = 1; i <= brokers; i++)
		{
			if (strcmp(line, "down\n") == 0)
				rd_kafka_mock_broker_set_down(cluster, i);
			else
				rd_kafka_mock_broker_set_up(cluster, i);
		}
		printf("done\n");
		fflush(stdout);
	}
	rd_kafka_mock_cluster_destroy(cluster);
	rd_kafka_destroy(rk);
}

static void
print(rd_kafka_message_t *msg)
{
	rd_kafka_headers_t *headers;
	const char *name;
	const void *value;
	size_t		len,
				n = 0;

	printf("%d %ld", msg->partition, (long) msg->offset);
	hex(msg->key, msg->key_len);
	if (rd_kafka_message_headers(msg, &headers) == RD_KAFKA_RESP_ERR_NO_ERROR)
		n = rd_kafka_header_cnt(headers);
	printf(" %zu", n);
	for (size_t i = 0; i < n && rd_kafka_header_get_all(headers, i, &name, &value, &len) == 0; i++)
	{
		hex(name, strlen(name));
		hex(value, len);
	}
	hex(msg->payload, msg->len);
	putchar('\n');
}

static int
read_all(const char *servers, const char *topic)
{
	rd_kafka_t *rk = client(RD_KAFKA_CONSUMER, servers);
	rd_kafka_topic_partition_list_t *list = rd_kafka_topic_partition_list_new(PARTITIONS);
	int			ended = 0;
	int			partitions;
	const struct rd_kafka_metadata *metadata;
	rd_kafka_topic_t *handle = rd_kafka_topic_new(rk, topic, NULL);

	if (rd_kafka_metadata(rk, 0, handle, &metadata, 10000) != RD_KAFKA_RESP_ERR_NO_ERROR)
		return 1;
	partitions = metadata->topics[0].partition_cnt;
	for (int i = 0; i < partitions; i++)
		rd_kafka_topic_partition_list_add(list, topic, i)->offset = RD_KAFKA_OFFSET_BEGINNING;
	rd_kafka_assign(rk, list);
	while (ended < partitions)
	{
		rd_kafka_message_t *msg = rd_kafka_consumer_poll(rk, 1000);

		if (msg == NULL)
			continue;
		if (msg->err == RD_KAFKA_RESP_ERR__PARTITION_EOF)
			ended++;
		else if (msg->err)
		{
			fprintf(stderr, "%s\n", rd_kafka_message_errstr(msg));
			return 1;
		}
		else
			print(msg);
		rd_kafka_message_destroy(msg);
	}
	fflush(stdout);
	_Exit(0);
}

static int
write_one(const char *servers, const char *topic, const char *value, char **headers, int n)
{
	rd_kafka_t *rk = client(RD_KAFKA_PRODUCER, servers);
	rd_kafka_headers_t *list = rd_kafka_headers_new(n);

	for (int i = 0; i < n; i++)
	{
		char	   *equals = strchr(headers[i], '=');

		/* without a value it is null, which is not the same as empty */
		rd_kafka_header_add(list, headers[i], equals ? equals - headers[i] : -1, equals ? equals + 1 : NULL,
							equals ? -1 : 0);
	}
	if (rd_kafka_producev(rk, RD_KAFKA_V_TOPIC(topic), RD_KAFKA_V_MSGFLAGS(RD_KAFKA_MSG_F_COPY),
						  RD_KAFKA_V_VALUE((void *) value, strlen(value)), RD_KAFKA_V_HEADERS(list), RD_KAFKA_V_END))
		return 1;
	return rd_kafka_flush(rk, 60000) != RD_KAFKA_RESP_ERR_NO_ERROR;
}

int
main(int argc, char **argv)
{
	if (argc == 3 && strcmp(argv[1], "mock") == 0)
		mock(atoi(argv[2]));
	else if (argc == 4 && strcmp(argv[1], "read") == 0)
		return read_all(argv[2], argv[3]);
	else if (argc >= 5 && strcmp(argv[1], "write") == 0)
		return write_one(argv[2], argv[3], argv[4], argv + 5, argc - 5);
	else
		return 2;
	return 0;
}
