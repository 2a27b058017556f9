/*-------------------------------------------------------------------------
 * sink_http.c
 *	  Webhooks: every event is a POST of its own.
 *
 * Requests run side by side, of one stream one at a time.  2xx is a
 * confirmation.  What says that the receiver is not there or has too much to do
 * (no connection, no answer in time, 408, 425, 429, 502, 503, 504) makes
 * everything wait; other answers of the kind 5xx are about this event, which is
 * given back to be tried again, and what remains refuses it for good.
 *-------------------------------------------------------------------------
 */
#include <curl/curl.h>
#include <stdlib.h>
#include <string.h>

#include "cloudevent.h"
#include "settings.h"
#include "sink.h"

#define MAX_CONNECTIONS 256

typedef struct Request
{
	CURL	   *easy;
	struct curl_slist *headers;
	Buf			body;
	Event	   *event;			/* NULL: free */
} Request;

static CURLM *multi;
static Request requests[MAX_CONNECTIONS];
static int	connections = 16;
static long timeout_s = 30;
static const char *own_header;
static const char *ca;

static void
init(void)
{
	const char *value;

	if (settings.target == NULL)
		settings_wrong("target", "");
	if (settings.server)
		settings_wrong("server", settings.server);
	if ((value = settings_option("connections")) != NULL)
		connections = atoi(value);
	if (connections < 1 || connections > MAX_CONNECTIONS)
		settings_wrong("option", "connections");
	if ((value = settings_option("timeout")) != NULL)
		timeout_s = atol(value);
	if (timeout_s < 1)
		settings_wrong("option", "timeout");
	own_header = settings_option("header");
	ca = settings_option("ca");
	settings_options_used();
	curl_global_init(CURL_GLOBAL_DEFAULT);
}

static size_t
swallow(char *data, size_t size, size_t n, void *arg)
{
	(void) data;
	(void) arg;
	return size * n;
}

static bool
open_multi(void)
{
	multi = curl_multi_init();
	if (multi == NULL)
		return sink_failed("out of memory");
	curl_multi_setopt(multi, CURLMOPT_MAXCONNECTS, (long) connections);
	hand_one_per_key = true;
	return true;
}

static void
release(Request *request)
{
	curl_multi_remove_handle(multi, request->easy);
	curl_slist_free_all(request->headers);
	request->headers = NULL;
	request->event = NULL;
}

static void
close_multi(void)
{
	for (int i = 0; i < connections; i++)
	{
		if (requests[i].event)
			release(&requests[i]);
		if (requests[i].easy)
			curl_easy_cleanup(requests[i].easy);
		requests[i].easy = NULL;
	}
	curl_multi_cleanup(multi);
	multi = NULL;
}

static Put
put(Event *event)
{
	static Buf	url;
	static Buf	line;
	Request    *request = NULL;

	for (int i = 0; i < connections && request == NULL; i++)
		if (requests[i].event == NULL)
			request = &requests[i];
	if (request == NULL)
		return PUT_FULL;
	if (request->easy == NULL && (request->easy = curl_easy_init()) == NULL)
	{
		sink_failed("out of memory");
		return PUT_LOST;
	}
	curl_easy_reset(request->easy);
	url.len = request->body.len = 0;
	target_expand(&url, settings.target, event, " \"#%/:<>?@[\\]^`{|}&=+;,'");
	buf_char(&url, '\0');
	if (settings.binary)
	{
		Attribute	attributes[MAX_ATTRIBUTES];
		int			n = cloudevent_attributes(event, attributes);

		buf_add(&request->body, event->data, event->data_len);
		for (int i = 0; i < n; i++)
		{
			line.len = 0;
			buf_printf(&line, "ce-%s: ", attributes[i].name);
			cloudevent_header(&line, attributes[i].value);
			buf_char(&line, '\0');
			request->headers = curl_slist_append(request->headers, line.data);
		}
	}
	else
		cloudevent_json(&request->body, event);
	request->headers = curl_slist_append(request->headers, settings.binary ? "Content-Type: " CLOUDEVENT_DATA :
										 "Content-Type: " CLOUDEVENT_JSON);
	request->headers = curl_slist_append(request->headers, "Expect:");
	if (own_header)
		request->headers = curl_slist_append(request->headers, own_header);
	curl_easy_setopt(request->easy, CURLOPT_URL, url.data);
	/* a stream may be called ".." */
	curl_easy_setopt(request->easy, CURLOPT_PATH_AS_IS, 1L);
	curl_easy_setopt(request->easy, CURLOPT_POST, 1L);
	curl_easy_setopt(request->easy, CURLOPT_POSTFIELDS, request->body.data);
	curl_easy_setopt(request->easy, CURLOPT_POSTFIELDSIZE_LARGE, (curl_off_t) request->body.len);
	curl_easy_setopt(request->easy, CURLOPT_HTTPHEADER, request->headers);
	curl_easy_setopt(request->easy, CURLOPT_WRITEFUNCTION, swallow);
	curl_easy_setopt(request->easy, CURLOPT_TIMEOUT, timeout_s);
	curl_easy_setopt(request->easy, CURLOPT_NOSIGNAL, 1L);
	curl_easy_setopt(request->easy, CURLOPT_USERAGENT, "event_store_feed/" FEED_VERSION);
	curl_easy_setopt(request->easy, CURLOPT_PROTOCOLS_STR, "http,https");
	curl_easy_setopt(request->easy, CURLOPT_PRIVATE, request);
	if (ca)
		curl_easy_setopt(request->easy, CURLOPT_CAINFO, ca);
	request->event = event;
	curl_multi_add_handle(multi, request->easy);
	return PUT_TAKEN;
}

/* What an answer means; false if everything has to wait. */
static bool
judge(Event *event, CURL *easy, CURLcode result)
{
	long		status = 0;
	curl_off_t	pause = 0;
	char		reason[64];

	if (result != CURLE_OK)
		return sink_failed("%s", curl_easy_strerror(result));
	curl_easy_getinfo(easy, CURLINFO_RESPONSE_CODE, &status);
	snprintf(reason, sizeof(reason), "HTTP status %ld", status);
	if (status >= 200 && status < 300)
		event_done(event, false);
	else if (status == 408 || status == 425 || status == 429 || (status >= 502 && status <= 504))
	{
		curl_easy_getinfo(easy, CURLINFO_RETRY_AFTER, &pause);
		sink_pause_ms = pause > 3600 ? 3600000 : pause * 1000;
		return sink_failed("%s", reason);
	}
	else
		event_refused(event, status >= 500, reason);
	return true;
}

static bool
perform(void)
{
	CURLMsg    *msg;
	int			n;
	bool		ok = true;

	if (curl_multi_perform(multi, &n) != CURLM_OK)
		return sink_failed("curl_multi_perform");
	/* all answers that are there, lest they be asked for again */
	while ((msg = curl_multi_info_read(multi, &n)) != NULL)
	{
		Request    *request;
		Event	   *event;
		CURLcode	result = msg->data.result;

		if (msg->msg != CURLMSG_DONE)
			continue;
		curl_easy_getinfo(msg->easy_handle, CURLINFO_PRIVATE, (char **) &request);
		event = request->event;
		ok &= judge(event, request->easy, result);
		release(request);
	}
	return ok;
}

static int
wait_for(struct pollfd *others, int n, int timeout_ms)
{
	struct curl_waitfd fds[4];
	int			nfds = 0;
	int			found = 0;

	for (int i = 0; i < n; i++)
	{
		others[i].revents = 0;
		if (others[i].fd >= 0)
			fds[nfds++] = (struct curl_waitfd) {
				.fd = others[i].fd,
				.events = (others[i].events & POLLIN ? CURL_WAIT_POLLIN : 0) |
					(others[i].events & POLLOUT ? CURL_WAIT_POLLOUT : 0)
			};
	}
	curl_multi_poll(multi, fds, nfds, timeout_ms, &found);
	nfds = 0;
	for (int i = 0; i < n; i++)
		if (others[i].fd >= 0 && fds[nfds++].revents)
			others[i].revents = others[i].events;
	return found;
}

Sink		sink_http = {
	.name = "http", .init = init, .open = open_multi, .put = put, .poll = perform, .close = close_multi, .fd = -1,
	.wait = wait_for,
};
