/*-------------------------------------------------------------------------
 * subscription.c
 *	  Measure how soon consumers have an event, and what they cost.
 *
 *	subscription latency {wait|fetch|listen} EVENTS GAP_US CONNINFO
 *		one producer appends an event every GAP_US microseconds, one consumer
 *		follows the global order; the time from the answer to the append
 *		until the consumer has the row.  Prints p50, p99, max in ms, events
 *		that the consumer got, events that it missed.
 *	subscription waiters N SECONDS CONNINFO
 *		N consumers that follow the head with es_wait; prints wake-ups/s
 *	subscription group MEMBERS EVENTS CONNINFO
 *		MEMBERS consumers of one group, a handler of 1 ms, until EVENTS are
 *		acknowledged; prints events/s
 *
 * Producer and consumers are processes; they share their clocks' readings in
 * memory.
 *-------------------------------------------------------------------------
 */
#include <libpq-fe.h>
#include <poll.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

typedef struct Shared
{
	volatile int64_t start;		/* position before the first event */
	volatile int64_t end;		/* position of the last one, 0 = not yet */
	volatile int64_t got;		/* events that the consumer got */
	volatile int64_t wakeups;
	volatile int ready;
	volatile int stop;
	volatile int64_t answered[1 << 20];	/* by number of the event, ns */
	volatile int64_t seen[1 << 20];
} Shared;

static Shared *shared;

static int64_t
now_ns(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (int64_t) t.tv_sec * 1000000000 + t.tv_nsec;
}

static void
sleep_until(int64_t at)
{
	struct timespec t = {at / 1000000000, at % 1000000000};

	while (clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &t, NULL) != 0)
		;
}

static PGconn *
start(const char *conninfo)
{
	PGconn	   *conn = PQconnectdb(conninfo);

	if (PQstatus(conn) != CONNECTION_OK)
	{
		fprintf(stderr, "%s", PQerrorMessage(conn));
		_exit(1);
	}
	return conn;
}

static PGresult *
query(PGconn *conn, const char *sql, int n, const char *const *args)
{
	PGresult   *res = PQexecParams(conn, sql, n, NULL, args, NULL, NULL, 0);

	if (PQresultStatus(res) != PGRES_TUPLES_OK && PQresultStatus(res) != PGRES_COMMAND_OK)
	{
		fprintf(stderr, "%s: %s", sql, PQerrorMessage(conn));
		_exit(1);
	}
	return res;
}

static PGresult *
run(PGconn *conn, const char *name, int n, const char *const *args)
{
	PGresult   *res = PQexecPrepared(conn, name, n, args, NULL, NULL, 0);

	if (PQresultStatus(res) != PGRES_TUPLES_OK)
	{
		fprintf(stderr, "%s: %s", name, PQerrorMessage(conn));
		_exit(1);
	}
	return res;
}

static int64_t
number(PGconn *conn, const char *sql)
{
	PGresult   *res = query(conn, sql, 0, NULL);
	int64_t		value = strtoll(PQgetvalue(res, 0, 0), NULL, 10);

	PQclear(res);
	return value;
}

/* The columns are position, stream, data. */
static int64_t
consume(PGresult *res, int64_t after)
{
	int64_t		now = now_ns();

	for (int i = 0; i < PQntuples(res); i++)
	{
		after = strtoll(PQgetvalue(res, i, 0), NULL, 10);
		if (strncmp(PQgetvalue(res, i, 1), "Latency-", 8) == 0)
		{
			long		n = strtol(PQgetvalue(res, i, 2), NULL, 10);

			if (n < (1 << 20) && shared->seen[n] == 0)
				shared->seen[n] = now;
		}
		shared->got++;
	}
	return after;
}

static void
consumer(const char *mode, const char *conninfo)
{
	PGconn	   *conn = start(conninfo);
	int64_t		after = shared->start;
	char		position[32];
	const char *args[1] = {position};

	PQclear(PQprepare(conn, "wait", "SELECT es_wait($1, '1 s')", 0, NULL));
	PQclear(PQprepare(conn, "read", "SELECT global_position, stream_id, data FROM es_read_all($1)", 0, NULL));
	PQclear(PQprepare(conn, "fetch", "SELECT global_position, stream_id, data FROM es_fetch('latency', 1000, '1 s')", 0, NULL));
	PQclear(PQprepare(conn, "ack", "SELECT es_ack('latency', $1)", 0, NULL));
	if (strcmp(mode, "listen") == 0)
		PQclear(query(conn, "LISTEN event_store", 0, NULL));
	shared->ready = 1;
	while (shared->end == 0 || after < shared->end)
	{
		PGresult   *res;

		snprintf(position, sizeof(position), "%lld", (long long) after);
		if (strcmp(mode, "fetch") == 0)
		{
			res = run(conn, "fetch", 0, NULL);
			after = consume(res, after);
			if (PQntuples(res) > 0)
			{
				snprintf(position, sizeof(position), "%lld", (long long) after);
				PQclear(run(conn, "ack", 1, args));
			}
			PQclear(res);
			continue;
		}
		if (strcmp(mode, "wait") == 0)
			PQclear(run(conn, "wait", 1, args));
		else
		{
			PGnotify   *notify = NULL;

			while (shared->end == 0 || after < shared->end)
			{
				struct pollfd fd = {PQsocket(conn), POLLIN, 0};
				int			found = 0;

				PQconsumeInput(conn);
				while ((notify = PQnotifies(conn)) != NULL)
				{
					found = 1;
					PQfreemem(notify);
				}
				/* the last look is not for a notification */
				if (found || poll(&fd, 1, 1000) == 0)
					break;
			}
		}
		for (;;)
		{
			int			n;

			snprintf(position, sizeof(position), "%lld", (long long) after);
			res = run(conn, "read", 1, args);
			n = PQntuples(res);
			after = consume(res, after);
			PQclear(res);
			if (n < 1000)
				break;
		}
	}
	PQfinish(conn);
}

static int
compare(const void *a, const void *b)
{
	int64_t		x = *(const int64_t *) a;
	int64_t		y = *(const int64_t *) b;

	return (x > y) - (x < y);
}

static void
latency(const char *mode, int events, int gap_us, const char *conninfo)
{
	PGconn	   *conn = start(conninfo);
	int64_t    *took = malloc(events * sizeof(int64_t));
	const char *times = getenv("BENCH_TIMES");
	int64_t		next;
	int64_t		total;
	char		sql[200];
	pid_t		pid;

	PQclear(PQprepare(conn, "append", "SELECT global_position FROM es_append('Latency-' || ($1::int % 50), es_any(), 'Happened', to_jsonb($1::int))", 0, NULL));
	if (strcmp(mode, "fetch") == 0)
	{
		PQclear(query(conn, "SELECT es_drop_subscription(name) FROM event_store.subscription WHERE name = 'latency'", 0, NULL));
		PQclear(query(conn, "SELECT es_create_subscription('latency', after_position => es_head())", 0, NULL));
		shared->start = number(conn, "SELECT checkpoint FROM event_store.subscriptions WHERE name = 'latency'");
	}
	else
		shared->start = number(conn, "SELECT es_head()");
	pid = fork();
	if (pid == 0)
	{
		consumer(mode, conninfo);
		_exit(0);
	}
	while (!shared->ready)
		sleep_until(now_ns() + 1000000);
	next = now_ns() + 20000000;
	for (int i = 0; i < events; i++)
	{
		char		n[16];
		const char *args[1] = {n};
		PGresult   *res;

		snprintf(n, sizeof(n), "%d", i);
		sleep_until(next);
		res = run(conn, "append", 1, args);
		shared->answered[i] = now_ns();
		if (i == events - 1)
			shared->end = strtoll(PQgetvalue(res, 0, 0), NULL, 10);
		PQclear(res);
		next = shared->answered[i] + (int64_t) gap_us * 1000;
	}
	waitpid(pid, NULL, 0);

	for (int i = 0; i < events; i++)
		took[i] = shared->seen[i] == 0 ? INT64_MAX :
			shared->seen[i] > shared->answered[i] ? shared->seen[i] - shared->answered[i] : 0;
	qsort(took, events, sizeof(int64_t), compare);
	if (times != NULL)
	{
		FILE	   *file = fopen(times, "a");

		if (file == NULL)
		{
			perror(times);
			exit(1);
		}
		for (int i = 0; i < events && took[i] != INT64_MAX; i++)
			fprintf(file, "%.3f\n", took[i] / 1e6);
		fclose(file);
	}
	snprintf(sql, sizeof(sql), "SELECT count(*) FROM event_store.event WHERE global_position > %lld AND global_position <= %lld",
			 (long long) shared->start, (long long) shared->end);
	/* what the consumer has got behind the last event does not count */
	total = number(conn, sql);
	printf("%.3f %.3f %.3f %lld %lld\n", took[events / 2] / 1e6,
		   took[(int) (events * 0.99)] / 1e6, took[events - 1] / 1e6,
		   (long long) total, (long long) (total > shared->got ? total - shared->got : 0));
	PQfinish(conn);
}

static void
waiters(int n, int seconds, const char *conninfo)
{
	int64_t		end = now_ns() + (int64_t) seconds * 1000000000;

	for (int i = 0; i < n; i++)
	{
		if (fork() == 0)
		{
			PGconn	   *conn = start(conninfo);
			int64_t		after = number(conn, "SELECT es_head()");
			char		position[32];
			const char *args[1] = {position};

			PQclear(PQprepare(conn, "wait", "SELECT es_wait($1, '1 s')", 0, NULL));
			while (now_ns() < end)
			{
				PGresult   *res;

				snprintf(position, sizeof(position), "%lld", (long long) after);
				res = run(conn, "wait", 1, args);
				after = strtoll(PQgetvalue(res, 0, 0), NULL, 10);
				PQclear(res);
				__sync_fetch_and_add(&shared->wakeups, 1);
			}
			PQfinish(conn);
			_exit(0);
		}
	}
	while (wait(NULL) > 0)
		;
	printf("%.0f\n", (double) shared->wakeups / seconds);
}

static void
group(int members, int events, const char *conninfo)
{
	int64_t		begin = now_ns();

	for (int i = 0; i < members; i++)
	{
		if (fork() == 0)
		{
			PGconn	   *conn = start(conninfo);
			char		member[16];
			char		position[32];
			const char *fetch[1] = {member};
			const char *ack[2] = {position, member};

			snprintf(member, sizeof(member), "m%d", i);
			PQclear(PQprepare(conn, "fetch", "SELECT global_position FROM es_fetch('group', 20, '100 ms', $1)", 0, NULL));
			PQclear(PQprepare(conn, "ack", "SELECT es_ack('group', $1, $2)", 0, NULL));
			while (shared->got < events)
			{
				PGresult   *res = run(conn, "fetch", 1, fetch);
				int			n = PQntuples(res);

				for (int k = 0; k < n; k++)
					sleep_until(now_ns() + 1000000);
				if (n > 0)
				{
					snprintf(position, sizeof(position), "%s", PQgetvalue(res, n - 1, 0));
					PQclear(run(conn, "ack", 2, ack));
					__sync_fetch_and_add(&shared->got, n);
				}
				PQclear(res);
			}
			PQclear(query(conn, "SELECT es_leave('group', $1)", 1, fetch));
			PQfinish(conn);
			_exit(0);
		}
	}
	while (wait(NULL) > 0)
		;
	printf("%.0f\n", shared->got / ((now_ns() - begin) / 1e9));
}

int
main(int argc, char **argv)
{
	shared = mmap(NULL, sizeof(Shared), PROT_READ | PROT_WRITE,
				  MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	if (argc == 6 && strcmp(argv[1], "latency") == 0)
		latency(argv[2], atoi(argv[3]), atoi(argv[4]), argv[5]);
	else if (argc == 5 && strcmp(argv[1], "waiters") == 0)
		waiters(atoi(argv[2]), atoi(argv[3]), argv[4]);
	else if (argc == 5 && strcmp(argv[1], "group") == 0)
		group(atoi(argv[2]), atoi(argv[3]), argv[4]);
	else
		return 2;
	return 0;
}
