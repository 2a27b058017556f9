/*-------------------------------------------------------------------------
 * main.c
 *	  event_store_feed: events of a store in PostgreSQL go to where others wait
 *	  for them.
 *
 *	  settings.c	flags and environment, one line each
 *	  source.c		PostgreSQL: es_fetch, es_ack, es_nack
 *	  hand.c		the events in between, and in which order they may go
 *	  cloudevent.c	what they look like outside
 *	  sink_*.c		where they go
 *	  metrics.c		what Prometheus sees
 *
 * All is done by this one loop.  It waits for the two sides at once and never
 * for one of them alone; back-pressure is that nothing is fetched while too much
 * is in hand.  log.c, json.c and util.c are the gateway's.
 *-------------------------------------------------------------------------
 */
#include <errno.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "hand.h"
#include "log.h"
#include "metrics.h"
#include "settings.h"
#include "sink.h"
#include "source.h"
#include "util.h"

/* how long a stop waits for what is in flight */
#define STOP_MS 10000

#define FIRST_PAUSE_MS 50
#define LONGEST_PAUSE_MS 10000

Buf			sink_error;
int			sink_pause_ms;

static Sink *const sinks[] = {
	&sink_lines,
#ifdef WITH_NATS
	&sink_nats,
#endif
#ifdef WITH_KAFKA
	&sink_kafka,
#endif
#ifdef WITH_REDIS
	&sink_redis,
#endif
#ifdef WITH_HTTP
	&sink_http,
#endif
};

static Sink *sink;
static bool sink_up;
static int64_t sink_retry_at;
static int	sink_pause;

static int	signal_fd;
static volatile sig_atomic_t stopping;

static void
signalled(int signo)
{
	uint64_t	one = 1;

	(void) signo;
	stopping = true;
	if (write(signal_fd, &one, sizeof(one)) < 0)
		return;					/* it is full: the loop will wake anyway */
}

bool
sink_failed(const char *format,...)
{
	va_list		args;
	char		text[1024];

	va_start(args, format);
	vsnprintf(text, sizeof(text), format, args);
	va_end(args);
	sink_error.len = 0;
	buf_add(&sink_error, text, strlen(text) + 1);
	return false;
}

static void
lose_sink(const char *message)
{
	if (sink_pause_ms > 0)
		sink_pause = sink_pause_ms;
	else
		sink_pause = sink_pause == 0 ? FIRST_PAUSE_MS : sink_pause * 2 > LONGEST_PAUSE_MS ? LONGEST_PAUSE_MS :
			sink_pause * 2;
	sink_pause_ms = 0;
	sink_retry_at = now_ms() + sink_pause;
	log_event(LOG_WARN, message, "sink=%q error=%q retry_ms=%d", sink->name,
			  sink_error.len > 0 ? sink_error.data : "", sink_pause);
	if (sink_up)
	{
		sink->close();
		hand_in_flight_lost();
		metrics.sink_losses++;
	}
	sink_up = false;
	metrics.sink_up = 0;
}

/* Answers of the sink; then all that may be put is put, and sent. */
static void
answers(void)
{
	int64_t		published = metrics.published;

	if (sink_up && !sink->poll())
		lose_sink("sink lost");
	/* it works, so the next loss is a new one */
	if (metrics.published > published)
		sink_pause = 0;
}

static void
put_events(void)
{
	Event	   *event;
	Put			put = PUT_TAKEN;

	if (!sink_up && !stopping && now_ms() >= sink_retry_at)
	{
		sink_up = sink->open();
		if (!sink_up)
			lose_sink("no connection to the sink");
		else
		{
			metrics.sink_up = 1;
			log_event(LOG_INFO, "sink connected", "sink=%q server=%q", sink->name, settings.server);
			hand_look_at_seen();
		}
	}
	while (sink_up && !stopping && (event = hand_next()) != NULL && put != PUT_FULL)
	{
		put = sink->put(event);
		if (put == PUT_TAKEN)
			hand_put();
		else if (put == PUT_LOST)
			lose_sink("sink lost");
	}
	answers();
}

static void
run(void)
{
	struct pollfd fds[3] = {{.fd = -1}, {.fd = signal_fd, .events = POLLIN}, {.events = POLLIN}};
	bool		stop_seen = false;
	int64_t		stop_at = INT64_MAX;

	for (;;)
	{
		int64_t		before,
					now,
					until;

		if (stopping && !stop_seen)
		{
			log_event(LOG_INFO, "shutting down", "in_flight=%d", hand_in_flight);
			source_stop();
			stop_seen = true;
			stop_at = now_ms() + STOP_MS;
		}
		answers();
		before = metrics.published + metrics.refused;
		until = source_step(&fds[0]);
		put_events();
		metrics.in_hand = hand_count;
		now = now_ms();
		if (stop_seen && ((hand_in_flight == 0 && source_idle()) || now >= stop_at))
			return;

		if (!sink_up && !stopping && sink_retry_at < until)
			until = sink_retry_at;
		if (stop_at < until)
			until = stop_at;
		/* what has been confirmed at once is acknowledged at once */
		if (metrics.published + metrics.refused != before || until < now)
			until = now;
		if (until - now > 1000)
			until = now + 1000;
		fds[0].revents = 0;
		fds[2].fd = sink_up ? sink->fd : -1;
		if (sink_up && sink->wait)
			sink->wait(fds, 2, until - now);
		else if (poll(fds, 3, until - now) < 0 && errno != EINTR)
		{
			log_event(LOG_ERROR, "cannot wait", "error=%q", strerror(errno));
			_exit(1);
		}
	}
}

int
main(int argc, char **argv)
{
	struct sigaction action = {.sa_handler = signalled};

	settings_read(argc, argv);
	for (size_t i = 0; i < sizeof(sinks) / sizeof(sinks[0]); i++)
		if (strcmp(settings.sink, sinks[i]->name) == 0)
			sink = sinks[i];
	if (sink == NULL)
		settings_wrong("sink", settings.sink);
	sink->init();

	signal(SIGPIPE, SIG_IGN);
	signal_fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
	sigaction(SIGTERM, &action, NULL);
	sigaction(SIGINT, &action, NULL);
	if (settings.metrics)
		metrics_listen(settings.metrics);
	source_init();
	log_event(LOG_INFO, "ready", "sink=%q subscription=%q version=%q pid=%d", sink->name, settings.subscription,
			  FEED_VERSION, (int) getpid());
	run();
	if (sink_up)
		sink->close();
	source_close();
	log_event(LOG_INFO, "stopped", "published=%ld acknowledged=%ld", (long) metrics.published,
			  (long) metrics.acknowledged);
	/* threads of libraries end with the process */
	_exit(0);
}
