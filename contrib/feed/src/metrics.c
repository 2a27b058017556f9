/*-------------------------------------------------------------------------
 * metrics.c
 *	  See metrics.h.  One request at a time: whoever is slow makes only other
 *	  readers of metrics wait, and for a second at the most.
 *-------------------------------------------------------------------------
 */
#include "metrics.h"

#include <errno.h>
#include <netdb.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <unistd.h>

#include "json.h"
#include "log.h"
#include "settings.h"
#include "util.h"

Metrics		metrics;

static const struct
{
	const char *name;
	const char *type;
	_Atomic int64_t *value;
	const char *help;
}			table[] = {
	{"fetched_events_total", "counter", &metrics.fetched, "Events that came from the store."},
	{"published_events_total", "counter", &metrics.published, "Events confirmed by the sink."},
	{"suppressed_events_total", "counter", &metrics.suppressed, "Deliveries of events that the sink had already."},
	{"refused_events_total", "counter", &metrics.refused, "Events given back with es_nack."},
	{"in_hand_events", "gauge", &metrics.in_hand, "Events fetched and not acknowledged."},
	{"acknowledged_position", "gauge", &metrics.acknowledged, "Global position up to which all is acknowledged."},
	{"sink_up", "gauge", &metrics.sink_up, "Is the sink connected?"},
	{"store_up", "gauge", &metrics.store_up, "Is the store connected?"},
	{"sink_losses_total", "counter", &metrics.sink_losses, "How often the sink was lost."},
	{"store_losses_total", "counter", &metrics.store_losses, "How often the store was lost."},
};

static void
answer(int client)
{
	struct timeval limit = {.tv_sec = 1};
	char		request[4096];
	Buf			labels = {0};
	Buf			body = {0};
	Buf			out = {0};

	setsockopt(client, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof(limit));
	setsockopt(client, SOL_SOCKET, SO_SNDTIMEO, &limit, sizeof(limit));
	/* whatever is asked for, this is the answer */
	if (recv(client, request, sizeof(request), 0) <= 0)
		return;
	buf_str(&labels, "subscription=");
	json_quote(&labels, settings.subscription, strlen(settings.subscription));
	buf_printf(&labels, ",sink=\"%s\"", settings.sink);
	for (size_t i = 0; i < sizeof(table) / sizeof(table[0]); i++)
		buf_printf(&body, "# HELP event_store_feed_%s %s\n# TYPE event_store_feed_%s %s\n"
				   "event_store_feed_%s{%s} %ld\n",
				   table[i].name, table[i].help, table[i].name, table[i].type,
				   table[i].name, labels.data, (long) *table[i].value);
	buf_printf(&out, "HTTP/1.1 200 OK\r\nContent-Type: text/plain; version=0.0.4\r\n"
			   "Content-Length: %zu\r\nConnection: close\r\n\r\n%s", body.len, body.data);
	for (size_t done = 0; done < out.len;)
	{
		ssize_t		n = send(client, out.data + done, out.len - done, MSG_NOSIGNAL);

		if (n <= 0)
			break;
		done += n;
	}
	buf_free(&labels);
	buf_free(&body);
	buf_free(&out);
}

static void *
serve(void *arg)
{
	int			server = (int) (intptr_t) arg;

	for (;;)
	{
		int			client = accept(server, NULL, NULL);

		if (client >= 0)
		{
			answer(client);
			close(client);
		}
		else if (errno != EINTR)
			usleep(100000);
	}
	return NULL;
}

void
metrics_listen(const char *address)
{
	const char *colon = strrchr(address, ':');
	struct addrinfo hints = {.ai_socktype = SOCK_STREAM, .ai_flags = AI_PASSIVE};
	struct addrinfo *found;
	pthread_t	thread;
	sigset_t	all,
				before;
	char	   *host;
	int			fd,
				on = 1;

	if (colon == NULL)
		settings_wrong("metrics", address);
	host = xstrndup(address, colon - address);
	if (getaddrinfo(*host ? host : NULL, colon + 1, &hints, &found) != 0)
		settings_wrong("metrics", address);
	fd = socket(found->ai_family, found->ai_socktype | SOCK_CLOEXEC, 0);
	if (fd < 0 || setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on)) != 0 ||
		bind(fd, found->ai_addr, found->ai_addrlen) != 0 || listen(fd, 16) != 0)
	{
		log_event(LOG_ERROR, "cannot listen for metrics", "address=%q error=%q", address, strerror(errno));
		exit(1);
	}
	freeaddrinfo(found);
	free(host);

	/* signals are for the main thread */
	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &before);
	if (pthread_create(&thread, NULL, serve, (void *) (intptr_t) fd) != 0)
	{
		log_event(LOG_ERROR, "cannot listen for metrics", "address=%q error=%q", address, strerror(errno));
		exit(1);
	}
	pthread_sigmask(SIG_SETMASK, &before, NULL);
}
