/*-------------------------------------------------------------------------
 * bench.c
 *	  What the gateway costs, measured beside the same work through libpq.
 *
 *	  bench HOST:PORT PID append SECONDS CONCURRENT
 *	  bench HOST:PORT PID read EVENTS
 *	  bench HOST:PORT PID latency APPENDS
 *	  bench HOST:PORT PID idle SUBSCRIPTIONS
 *
 * PID is the gateway's, of which processor time and memory are told; libpq's
 * own variables say where PostgreSQL is.  Each of a pair of measurements is
 * made three times by turns, and the medians are told.
 *-------------------------------------------------------------------------
 */
#include <grpc/byte_buffer.h>
#include <grpc/byte_buffer_reader.h>
#include <grpc/grpc.h>
#include <grpc/grpc_security.h>
#include <libpq-fe.h>
#include <poll.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <time.h>
#include <unistd.h>

#include "streams.pb-c.h"

#define DATA	"{\"orderId\": \"4711\", \"amount\": 12.5, \"currency\": \"EUR\"}"
#define ROUNDS	3
#define READ	"/event_store.client.streams.Streams/Read"
#define BATCH	"/event_store.client.streams.Streams/BatchAppend"

static grpc_completion_queue *queue;
static grpc_channel *channel;
static int	gateway_pid;

static double
now(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return t.tv_sec + t.tv_nsec / 1e9;
}

static void
die(const char *what)
{
	fprintf(stderr, "bench: %s\n", what);
	exit(1);
}

static long
gateway_memory(void)
{
	char		name[64],
				line[256];
	long		kb = 0;
	FILE	   *file;

	snprintf(name, sizeof(name), "/proc/%d/status", gateway_pid);
	file = fopen(name, "r");
	while (file && fgets(line, sizeof(line), file))
		sscanf(line, "VmRSS: %ld", &kb);
	if (file)
		fclose(file);
	return kb;
}

static double
gateway_cpu(void)
{
	char		name[64],
				line[1024];
	long		user = 0,
				sys = 0;
	FILE	   *file;

	snprintf(name, sizeof(name), "/proc/%d/stat", gateway_pid);
	file = fopen(name, "r");
	if (file && fgets(line, sizeof(line), file))
		sscanf(strrchr(line, ')') + 2, "%*c %*d %*d %*d %*d %*d %*u %*u %*u %*u %*u %ld %ld", &user, &sys);
	if (file)
		fclose(file);
	return (double) (user + sys) / sysconf(_SC_CLK_TCK);
}

/* --- a call that streams both ways ----------------------------------------- */

typedef struct Call
{
	grpc_call  *call;
	grpc_metadata_array headers,
				trailers;
	grpc_byte_buffer *received;
	grpc_byte_buffer *sent;
	grpc_status_code status;
	grpc_slice	details;
	double		started;
	/* tags: the call with one of these in its lowest bits */
} Call;

enum
{
	OPENED, SENT, RECEIVED, ENDED
};

#define TAG(call, kind)		((void *) ((uintptr_t) (call) | (kind)))
#define TAG_CALL(tag)		((Call *) ((uintptr_t) (tag) & ~(uintptr_t) 3))
#define TAG_KIND(tag)		((int) ((uintptr_t) (tag) & 3))

static void
batch(Call *call, grpc_op *ops, int n, int kind)
{
	if (grpc_call_start_batch(call->call, ops, n, TAG(call, kind), NULL) != GRPC_CALL_OK)
		die("gRPC refuses an operation");
}

static Call *
call_new(const char *method)
{
	Call	   *call = aligned_alloc(16, (sizeof(Call) + 15) / 16 * 16);
	grpc_op		ops[2];

	memset(call, 0, sizeof(*call));
	grpc_metadata_array_init(&call->headers);
	grpc_metadata_array_init(&call->trailers);
	call->call = grpc_channel_create_call(channel, NULL, GRPC_PROPAGATE_DEFAULTS, queue,
										  grpc_slice_from_static_string(method), NULL,
										  gpr_inf_future(GPR_CLOCK_REALTIME), NULL);
	memset(ops, 0, sizeof(ops));
	ops[0].op = GRPC_OP_SEND_INITIAL_METADATA;
	ops[1].op = GRPC_OP_RECV_INITIAL_METADATA;
	ops[1].data.recv_initial_metadata.recv_initial_metadata = &call->headers;
	batch(call, ops, 2, OPENED);
	memset(ops, 0, sizeof(ops));
	ops[0].op = GRPC_OP_RECV_STATUS_ON_CLIENT;
	ops[0].data.recv_status_on_client.trailing_metadata = &call->trailers;
	ops[0].data.recv_status_on_client.status = &call->status;
	ops[0].data.recv_status_on_client.status_details = &call->details;
	batch(call, ops, 1, ENDED);
	return call;
}

static void
call_send(Call *call, const ProtobufCMessage *message, bool last)
{
	grpc_slice	slice = grpc_slice_malloc(protobuf_c_message_get_packed_size(message));
	grpc_op		ops[2];

	protobuf_c_message_pack(message, GRPC_SLICE_START_PTR(slice));
	call->sent = grpc_raw_byte_buffer_create(&slice, 1);
	grpc_slice_unref(slice);
	memset(ops, 0, sizeof(ops));
	ops[0].op = GRPC_OP_SEND_MESSAGE;
	ops[0].data.send_message.send_message = call->sent;
	ops[1].op = GRPC_OP_SEND_CLOSE_FROM_CLIENT;
	batch(call, ops, last ? 2 : 1, SENT);
}

static void
call_receive(Call *call)
{
	grpc_op		op;

	memset(&op, 0, sizeof(op));
	op.op = GRPC_OP_RECV_MESSAGE;
	op.data.recv_message.recv_message = &call->received;
	batch(call, &op, 1, RECEIVED);
}

/* first field's number of what was received, which is thrown away; 0 at the end */
static int
call_take(Call *call)
{
	grpc_byte_buffer_reader reader;
	grpc_slice	slice;
	int			field = 0;

	if (call->received == NULL)
		return 0;
	grpc_byte_buffer_reader_init(&reader, call->received);
	if (grpc_byte_buffer_reader_next(&reader, &slice))
	{
		field = GRPC_SLICE_START_PTR(slice)[0] >> 3;
		grpc_slice_unref(slice);
	}
	grpc_byte_buffer_reader_destroy(&reader);
	grpc_byte_buffer_destroy(call->received);
	call->received = NULL;
	return field;
}

static grpc_event
next(void)
{
	grpc_event	event = grpc_completion_queue_next(queue, gpr_inf_future(GPR_CLOCK_REALTIME), NULL);
	Call	   *call = TAG_CALL(event.tag);

	if (TAG_KIND(event.tag) == SENT && call->sent)
	{
		grpc_byte_buffer_destroy(call->sent);
		call->sent = NULL;
	}
	if (TAG_KIND(event.tag) == ENDED && call->status != GRPC_STATUS_OK && call->status != GRPC_STATUS_CANCELLED)
	{
		fprintf(stderr, "status %d: %.*s\n", call->status, (int) GRPC_SLICE_LENGTH(call->details),
				(char *) GRPC_SLICE_START_PTR(call->details));
		exit(1);
	}
	return event;
}

static void
append(Call *call, const char *stream)
{
	static Gw__BatchReq req = GW__BATCH_REQ__INIT;
	Gw__BatchReq__Options options = GW__BATCH_REQ__OPTIONS__INIT;
	Gw__StreamName name = GW__STREAM_NAME__INIT;
	Gw__Uuid	id = GW__UUID__INIT;
	Gw__Uuid__Halves halves = GW__UUID__HALVES__INIT;
	Gw__NewEvent event = GW__NEW_EVENT__INIT,
			   *events = &event;
	Gw__Pair	type = GW__PAIR__INIT,
				content = GW__PAIR__INIT,
			   *system[] = {&type, &content};
	Gw__Nothing any = GW__NOTHING__INIT;

	if (getrandom(&halves.high, 8, 0) != 8 || getrandom(&halves.low, 8, 0) != 8)
		die("no random numbers");
	id.form_case = GW__UUID__FORM_HALVES;
	id.halves = &halves;
	name.name.data = (uint8_t *) stream;
	name.name.len = strlen(stream);
	options.stream = &name;
	options.expected_case = GW__BATCH_REQ__OPTIONS__EXPECTED_ANY;
	options.any = &any;
	type.key = "type";
	type.value = "Happened";
	content.key = "content-type";
	content.value = "application/json";
	event.id = &id;
	event.system = system;
	event.n_system = 2;
	event.data.data = (uint8_t *) DATA;
	event.data.len = strlen(DATA);
	req.correlation = &id;
	req.options = &options;
	req.events = &events;
	req.n_events = 1;
	req.is_last = true;
	call_send(call, &req.base, false);
}

static Call *
read_call(const char *stream, bool subscription)
{
	Gw__ReadReq req = GW__READ_REQ__INIT;
	Gw__ReadReq__Options options = GW__READ_REQ__OPTIONS__INIT;
	Gw__ReadReq__FromStream from = GW__READ_REQ__FROM_STREAM__INIT;
	Gw__StreamName name = GW__STREAM_NAME__INIT;
	Gw__Nothing nothing = GW__NOTHING__INIT;
	Call	   *call = call_new(READ);

	name.name.data = (uint8_t *) stream;
	name.name.len = strlen(stream);
	from.stream = &name;
	from.start_case = subscription ? GW__READ_REQ__FROM_STREAM__START_LAST : GW__READ_REQ__FROM_STREAM__START_FIRST;
	from.first = &nothing;
	options.source_case = GW__READ_REQ__OPTIONS__SOURCE_STREAM;
	options.stream = &from;
	options.amount_case = subscription ? GW__READ_REQ__OPTIONS__AMOUNT_SUBSCRIPTION : GW__READ_REQ__OPTIONS__AMOUNT_COUNT;
	if (subscription)
		options.subscription = &nothing;
	else
		options.count = INT64_MAX;
	req.options = &options;
	call_send(call, &req.base, true);
	call_receive(call);
	return call;
}

/* --- libpq ----------------------------------------------------------------- */

static PGconn *
pg_connect(void)
{
	PGconn	   *conn = PQconnectdb("");

	if (PQstatus(conn) != CONNECTION_OK)
		die(PQerrorMessage(conn));
	PQclear(PQprepare(conn, "append", "SELECT version, global_position FROM es_append($1, es_any(), 'Happened', $2)", 2, NULL));
	return conn;
}

static double
pg_appends(double seconds, int concurrent)
{
	PGconn	  **conns = calloc(concurrent, sizeof(PGconn *));
	struct pollfd *fds = calloc(concurrent, sizeof(struct pollfd));
	char	  (*streams)[32] = calloc(concurrent, 32);
	double		start,
				end;
	long		done = 0;

	for (int i = 0; i < concurrent; i++)
	{
		conns[i] = pg_connect();
		snprintf(streams[i], 32, "Bench-%d", i);
		fds[i].fd = PQsocket(conns[i]);
		fds[i].events = POLLIN;
	}
	start = now();
	for (int i = 0; i < concurrent; i++)
	{
		const char *values[] = {streams[i], DATA};

		PQsendQueryPrepared(conns[i], "append", 2, values, NULL, NULL, 1);
	}
	while ((end = now()) - start < seconds)
	{
		poll(fds, concurrent, 1000);
		for (int i = 0; i < concurrent; i++)
		{
			const char *values[] = {streams[i], DATA};
			PGresult   *r;

			if (!fds[i].revents)
				continue;
			PQconsumeInput(conns[i]);
			if (PQisBusy(conns[i]))
				continue;
			while ((r = PQgetResult(conns[i])) != NULL)
			{
				if (PQresultStatus(r) != PGRES_TUPLES_OK)
					die(PQerrorMessage(conns[i]));
				PQclear(r);
			}
			done++;
			PQsendQueryPrepared(conns[i], "append", 2, values, NULL, NULL, 1);
		}
	}
	for (int i = 0; i < concurrent; i++)
		PQfinish(conns[i]);
	free(conns);
	free(fds);
	free(streams);
	return done / (end - start);
}

static double
pg_reads(const char *stream, long expected)
{
	PGconn	   *conn = pg_connect();
	const char *values[] = {stream};
	PGresult   *r;
	long		n = 0;
	double		start = now();

	PQsendQueryParams(conn, "SELECT global_position, stream_id, version, event_id, event_type, data, metadata, created_at"
					  " FROM es_read_stream($1)", 1, NULL, values, NULL, NULL, 1);
	PQsetSingleRowMode(conn);
	while ((r = PQgetResult(conn)) != NULL)
	{
		n += PQntuples(r);
		PQclear(r);
	}
	start = now() - start;
	PQfinish(conn);
	if (n != expected)
		die("libpq has read another number of events");
	return n / start;
}

/* --- the measurements ------------------------------------------------------ */

static double
gateway_appends(double seconds, int concurrent, double *cpu)
{
	Call	  **calls = calloc(concurrent, sizeof(Call *));
	char		stream[32];
	double		start = now(),
				end;
	long		done = 0;
	double		cpu_start = gateway_cpu();

	for (int i = 0; i < concurrent; i++)
	{
		calls[i] = call_new(BATCH);
		snprintf(stream, sizeof(stream), "Bench-%d", i);
		append(calls[i], stream);
		call_receive(calls[i]);
	}
	while ((end = now()) - start < seconds)
	{
		grpc_event	event = next();
		Call	   *call = TAG_CALL(event.tag);

		if (TAG_KIND(event.tag) != RECEIVED)
			continue;
		if (call_take(call) == 0)
			die("the gateway has ended an append");
		done++;
		for (int i = 0; i < concurrent; i++)
			if (calls[i] == call)
				snprintf(stream, sizeof(stream), "Bench-%d", i);
		append(call, stream);
		call_receive(call);
	}
	*cpu = (gateway_cpu() - cpu_start) / done * 1e6;
	/* what is under way ends with the process */
	for (int i = 0; i < concurrent; i++)
		grpc_call_cancel(calls[i]->call, NULL);
	for (int ended = 0; ended < concurrent;)
		ended += TAG_KIND(next().tag) == ENDED;
	return done / (end - start);
}

static double
gateway_reads(const char *stream, long expected, double *cpu)
{
	double		start = now(),
				cpu_start = gateway_cpu();
	Call	   *call = read_call(stream, false);
	long		n = 0;

	for (;;)
	{
		grpc_event	event = next();

		if (TAG_KIND(event.tag) != RECEIVED)
			continue;
		if (call_take(call) == 0)
			break;
		n++;
		call_receive(call);
	}
	start = now() - start;
	*cpu = (gateway_cpu() - cpu_start) / n * 1e6;
	if (n != expected)
		die("the gateway has read another number of events");
	return n / start;
}

static int
compare(const void *a, const void *b)
{
	double		x = *(const double *) a,
				y = *(const double *) b;

	return (x > y) - (x < y);
}

static double
median(double *values, int n)
{
	qsort(values, n, sizeof(double), compare);
	return values[n / 2];
}

static void
report(const char *what, double *gateway, double *pg, double *cpu)
{
	double		g = median(gateway, ROUNDS),
				p = median(pg, ROUNDS);

	printf("%s: gateway %.0f/s, libpq %.0f/s, ratio %.2f; processor time of the gateway %.1f us each\n",
		   what, g, p, g / p, median(cpu, ROUNDS));
}

static void
latency(int n)
{
	Call	   *subscription = read_call("Latency-1", true);
	Call	   *appends = call_new(BATCH);
	double	   *times = calloc(n, sizeof(double)),
			   *acknowledged = calloc(n, sizeof(double));
	int			i = 0,
				k = 0;
	bool		live = false;

	call_receive(appends);
	while (i < n)
	{
		grpc_event	event = next();
		Call	   *call = TAG_CALL(event.tag);
		int			field;

		if (TAG_KIND(event.tag) != RECEIVED)
			continue;
		field = call_take(call);
		call_receive(call);
		if (call != subscription)
		{
			if (k < n)
				acknowledged[k++] = now() - appends->started;
			continue;
		}
		if (field == 8)
			live = true;		/* caught up */
		else if (field == 1)
			times[i++] = now() - appends->started;
		else
			continue;
		if (live && i < n)
		{
			usleep(2000);
			appends->started = now();
			append(appends, "Latency-1");
		}
	}
	qsort(times, n, sizeof(double), compare);
	printf("append to live subscriber: p50 %.2f ms, p99 %.2f ms; to its own answer: p50 %.2f ms (%d one after the other)\n",
		   times[n / 2] * 1000, times[n * 99 / 100] * 1000, median(acknowledged, k) * 1000, n);
}

static void
idle(int n)
{
	long		before = gateway_memory(),
				after;
	double		cpu;
	int			live = 0;

	for (int i = 0; i < n; i++)
	{
		char		stream[32];

		snprintf(stream, sizeof(stream), "Idle-%d", i);
		read_call(stream, true);
	}
	while (live < n)
	{
		grpc_event	event = next();
		Call	   *call = TAG_CALL(event.tag);

		if (TAG_KIND(event.tag) != RECEIVED)
			continue;
		if (call_take(call) == 8)
			live++;
		call_receive(call);
	}
	after = gateway_memory();
	cpu = gateway_cpu();
	sleep(5);
	printf("%d idle subscriptions: %ld kB, %.1f kB each; %.1f ms of processor time a second\n", n, after,
		   (double) (after - before) / n, (gateway_cpu() - cpu) * 1000 / 5);
}

int
main(int argc, char **argv)
{
	double		gateway[ROUNDS],
				pg[ROUNDS],
				cpu[ROUNDS];

	if (argc < 5)
		die("see the beginning of bench.c for the arguments");
	gateway_pid = atoi(argv[2]);
	grpc_init();
	queue = grpc_completion_queue_create_for_next(NULL);
	channel = grpc_channel_create(argv[1], grpc_insecure_credentials_create(), NULL);
	if (strcmp(argv[3], "append") == 0)
	{
		int			concurrent = argc > 5 ? atoi(argv[5]) : 16;

		for (int i = 0; i < ROUNDS; i++)
		{
			gateway[i] = gateway_appends(atof(argv[4]), concurrent, &cpu[i]);
			pg[i] = pg_appends(atof(argv[4]), concurrent);
		}
		printf("%d at a time, ", concurrent);
		report("appends of one event", gateway, pg, cpu);
	}
	else if (strcmp(argv[3], "read") == 0)
	{
		for (int i = 0; i < ROUNDS; i++)
		{
			gateway[i] = gateway_reads("Stream-1", atol(argv[4]), &cpu[i]);
			pg[i] = pg_reads("Stream-1", atol(argv[4]));
		}
		report("events read from one stream", gateway, pg, cpu);
	}
	else if (strcmp(argv[3], "latency") == 0)
		latency(atoi(argv[4]));
	else if (strcmp(argv[3], "idle") == 0)
		idle(atoi(argv[4]));
	fflush(stdout);
	_exit(0);
}
