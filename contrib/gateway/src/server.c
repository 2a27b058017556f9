/*-------------------------------------------------------------------------
 * server.c
 *	  The gRPC server and the life of a call.
 *
 * Operations of a call that are under way each hold the call, as does whoever
 * waits for PostgreSQL on its behalf.  gRPC says once, through
 * RECV_CLOSE_ON_SERVER, that a call is over: finished, cancelled, past its
 * deadline, or its connection gone.
 *-------------------------------------------------------------------------
 */
#include "call.h"

#include <grpc/byte_buffer.h>
#include <grpc/byte_buffer_reader.h>
#include <grpc/grpc_security.h>
#include <grpc/support/alloc.h>
#include <stdio.h>

#include "base64.h"
#include "log.h"
#include "loop.h"
#include "node.h"
#include "settings.h"

#define ACCEPTS			16		/* calls that can begin at the same time */
#define MAX_TRAILERS	8
/* what all calls may hold of what clients sent: as many of the largest appends */
#define HELD_APPENDS	32
/* what each may always hold */
#define HELD_ALWAYS		8192

typedef struct CallTag
{
	Tag			tag;			/* first */
	Call	   *call;
} CallTag;

struct Call
{
	Call	   *prev,			/* of those that have begun */
			   *next;
	grpc_call  *call;
	grpc_call_details details;
	grpc_metadata_array headers;
	const Method *method;
	Pool	   *pool;
	void	   *state;
	int			refs;
	bool		began;
	bool		headers_sent;
	bool		sending;		/* an operation that sends is under way */
	bool		receiving;
	bool		ending;			/* is the end that has come the client's, or did the stream break? */
	bool		finishing;		/* a status was given */
	bool		finished;		/* and handed to gRPC */
	bool		over;
	int			cancelled;		/* written by gRPC */

	CallTag		accept_tag,
				close_tag,
				receive_tag,
				send_tag;
	grpc_byte_buffer *received;
	grpc_byte_buffer *only;		/* the message of a client that sends one, until it says so */
	grpc_byte_buffer *sent;
	grpc_slice	status_text;
	grpc_status_code status;
	grpc_metadata trailers[MAX_TRAILERS];
	int			ntrailers;

	/* messages that wait, a ring */
	grpc_slice *queue;
	int			queue_first,
				queue_count,
				queue_size;
	size_t		queue_bytes;

	size_t		held;			/* what the client has sent, as far as it is kept */
};

static grpc_server *server;
static bool stopping;
static Call *calls;
static int	ncalls;
static size_t held;				/* by all of them */
static Tag	shutdown_tag;
static Tag	ignore_tag;

static void accept_next(void);

/* --- life ------------------------------------------------------------------ */

void
call_hold(Call *call)
{
	call->refs++;
}

void
call_release(Call *call)
{
	if (--call->refs > 0)
		return;
	for (; call->queue_count > 0; call->queue_count--)
	{
		grpc_slice_unref(call->queue[call->queue_first]);
		call->queue_first = (call->queue_first + 1) % call->queue_size;
	}
	free(call->queue);
	if (call->only)
		grpc_byte_buffer_destroy(call->only);
	held -= call->held;
	for (int i = 0; i < call->ntrailers; i++)
	{
		grpc_slice_unref(call->trailers[i].key);
		grpc_slice_unref(call->trailers[i].value);
	}
	grpc_slice_unref(call->status_text);
	if (call->pool)
		pool_release(call->pool);
	grpc_metadata_array_destroy(&call->headers);
	grpc_call_details_destroy(&call->details);
	if (call->call)
		grpc_call_unref(call->call);
	if (call->began)
	{
		*(call->prev ? &call->prev->next : &calls) = call->next;
		if (call->next)
			call->next->prev = call->prev;
		ncalls--;
	}
	free(call);
}

static void
start_batch(Call *call, grpc_op *ops, size_t n, CallTag *tag)
{
	grpc_call_error error = grpc_call_start_batch(call->call, ops, n, &tag->tag, NULL);

	if (error != GRPC_CALL_OK)
	{
		log_event(LOG_ERROR, "gRPC refuses an operation", "error=%q", grpc_call_error_to_string(error));
		abort();
	}
	call_hold(call);
}

static void
call_end(Call *call)
{
	if (call->over)
		return;
	call->over = true;
	if (call->method && call->method->over)
		call->method->over(call);
}

static void
close_done(Tag *tag, bool ok)
{
	Call	   *call = ((CallTag *) tag)->call;

	(void) ok;
	if (call->cancelled && !call->finished)
		log_event(LOG_DEBUG, "call ended by the client", "method=%q", call->method ? call->method->name : "");
	call_end(call);
	call_release(call);
}

/* --- sending --------------------------------------------------------------- */

static void hand_over(Call *call, grpc_byte_buffer *buffer);

static void
send_next(Call *call)
{
	grpc_op		ops[3];
	int			n = 0;
	bool		last;

	if (call->sending || call->finished || call->over)
		return;
	last = call->finishing && call->queue_count <= 1;
	if (call->queue_count == 0 && !last && call->headers_sent)
		return;

	memset(ops, 0, sizeof(ops));
	if (!call->headers_sent)
	{
		ops[n++].op = GRPC_OP_SEND_INITIAL_METADATA;
		call->headers_sent = true;
	}
	if (call->queue_count > 0)
	{
		grpc_slice	slice = call->queue[call->queue_first];

		call->queue_first = (call->queue_first + 1) % call->queue_size;
		call->queue_count--;
		call->queue_bytes -= GRPC_SLICE_LENGTH(slice);
		call->sent = grpc_raw_byte_buffer_create(&slice, 1);
		grpc_slice_unref(slice);
		ops[n].op = GRPC_OP_SEND_MESSAGE;
		ops[n].data.send_message.send_message = call->sent;
		/* more follows at once: no write of its own */
		if (call->queue_count > 0 || last)
			ops[n].flags = GRPC_WRITE_BUFFER_HINT;
		n++;
	}
	if (last)
	{
		ops[n].op = GRPC_OP_SEND_STATUS_FROM_SERVER;
		ops[n].data.send_status_from_server.status = call->status;
		ops[n].data.send_status_from_server.status_details = &call->status_text;
		ops[n].data.send_status_from_server.trailing_metadata = call->trailers;
		ops[n].data.send_status_from_server.trailing_metadata_count = call->ntrailers;
		n++;
		call->finished = true;
	}
	call->sending = true;
	start_batch(call, ops, n, &call->send_tag);
}

static void
send_done(Tag *tag, bool ok)
{
	Call	   *call = ((CallTag *) tag)->call;

	/* a failure is followed by the close */
	call->sending = false;
	if (call->sent)
		grpc_byte_buffer_destroy(call->sent);
	call->sent = NULL;
	if (call->ending)
	{
		call->ending = false;
		if (ok && !call->over && !call->finishing)
			hand_over(call, NULL);
	}
	send_next(call);
	if (!call->over && !call->finishing && !call->sending && call->method->drained)
		call->method->drained(call);
	call_release(call);
}

void
call_send(Call *call, grpc_slice message)
{
	if (call->over || call->finishing)
	{
		grpc_slice_unref(message);
		return;
	}
	if (call->queue_count == call->queue_size)
	{
		int			size = call->queue_size ? call->queue_size * 2 : 4;
		grpc_slice *queue = xmalloc(size * sizeof(grpc_slice));

		for (int i = 0; i < call->queue_count; i++)
			queue[i] = call->queue[(call->queue_first + i) % call->queue_size];
		free(call->queue);
		call->queue = queue;
		call->queue_size = size;
		call->queue_first = 0;
	}
	call->queue[(call->queue_first + call->queue_count++) % call->queue_size] = message;
	call->queue_bytes += GRPC_SLICE_LENGTH(message);
	send_next(call);
}

void
call_send_message(Call *call, const ProtobufCMessage *message)
{
	grpc_slice	slice = grpc_slice_malloc(protobuf_c_message_get_packed_size(message));

	protobuf_c_message_pack(message, GRPC_SLICE_START_PTR(slice));
	call_send(call, slice);
}

size_t
call_backlog(Call *call)
{
	return call->queue_bytes;
}

void
call_open(Call *call)
{
	send_next(call);
}

void
call_trailer(Call *call, const char *name, const void *value, size_t len)
{
	if (call->finishing || call->ntrailers == MAX_TRAILERS)
		return;
	call->trailers[call->ntrailers].key = grpc_slice_from_copied_string(name);
	call->trailers[call->ntrailers].value = grpc_slice_from_copied_buffer(value, len);
	call->ntrailers++;
}

/* HTTP headers are ASCII: what is not is percent-encoded. */
void
call_trailer_text(Call *call, const char *name, const char *value)
{
	Buf			text = {0};

	for (const unsigned char *p = (const unsigned char *) value; *p; p++)
	{
		if (*p < 0x20 || *p > 0x7e)
			buf_printf(&text, "%%%02X", *p);
		else
			buf_char(&text, *p);
	}
	call_trailer(call, name, text.data, text.len);
	buf_free(&text);
}

void
call_finish(Call *call, grpc_status_code code, const char *message)
{
	if (call->finishing || call->over)
		return;
	call->finishing = true;
	call->status = code;
	call->status_text = grpc_slice_from_copied_string(message ? message : "");
	send_next(call);
}

/* --- receiving ------------------------------------------------------------- */

static void
hand_over(Call *call, grpc_byte_buffer *buffer)
{
	grpc_byte_buffer_reader reader;

	if (buffer == NULL)
		call->method->message(call, NULL, 0);
	else if (grpc_byte_buffer_reader_init(&reader, buffer))
	{
		grpc_slice	slice = grpc_byte_buffer_reader_readall(&reader);

		call->method->message(call, GRPC_SLICE_START_PTR(slice), GRPC_SLICE_LENGTH(slice));
		grpc_slice_unref(slice);
		grpc_byte_buffer_reader_destroy(&reader);
	}
	else
		call_finish(call, GRPC_STATUS_INVALID_ARGUMENT, "the message cannot be decompressed");
}

/*
 * The client sends no more.  gRPC says the same of a stream that was reset and of
 * a connection that broke, and what would then be written is a part of what the
 * client meant.  It does not send on a stream that is gone, though: so headers are
 * sent, and the end counts when that worked.
 */
static void
end_came(Call *call)
{
	if (!call->method->whole || call->headers_sent)
	{
		hand_over(call, NULL);
		return;
	}
	call->ending = true;
	send_next(call);
}

/*
 * Who sends one message is answered when its end of the stream has come too,
 * never before.  gRPC would reset the stream behind an answer that overtakes the
 * client's end, as HTTP/2 wants it (RST_STREAM with NO_ERROR), and there are
 * clients that take the reset for a failure although they have the whole answer
 * (those in Rust, h2 before 0.4.16).
 */
static void
receive_done(Tag *tag, bool ok)
{
	Call	   *call = ((CallTag *) tag)->call;
	grpc_byte_buffer *buffer = call->received;

	call->receiving = false;
	call->received = NULL;
	if (buffer && !ok)
	{
		grpc_byte_buffer_destroy(buffer);
		buffer = NULL;
	}
	if (!call->over && !call->finishing)
	{
		if (call->method->many && buffer)
			hand_over(call, buffer);
		else if (call->method->many)
			end_came(call);
		else if (buffer == NULL)
			hand_over(call, call->only);
		else if (call->only)
			call_finish(call, GRPC_STATUS_INVALID_ARGUMENT, "the method takes one message");
		else
		{
			call->only = buffer;
			buffer = NULL;
			if (call_holds(call, 0))
				call_receive(call);
		}
	}
	if (buffer)
		grpc_byte_buffer_destroy(buffer);
	call_release(call);
}

/*
 * A client shows that it may log in when its call is begun, which it is when all
 * of it has come: until then anybody could fill the memory, call by call.  A call
 * that holds little costs as much by itself, and is never refused.
 */
bool
call_holds(Call *call, size_t bytes)
{
	size_t		before = call->held;

	if (call->only)
		bytes += grpc_byte_buffer_length(call->only);
	held += bytes - before;
	call->held = bytes;
	if (bytes <= before || bytes <= HELD_ALWAYS || held <= (size_t) settings.max_append * HELD_APPENDS)
		return true;
	call_finish(call, GRPC_STATUS_RESOURCE_EXHAUSTED, "too many appends at the same time");
	return false;
}

void
call_receive(Call *call)
{
	grpc_op		op;

	if (call->receiving || call->over || call->finishing)
		return;
	memset(&op, 0, sizeof(op));
	op.op = GRPC_OP_RECV_MESSAGE;
	op.data.recv_message.recv_message = &call->received;
	call->receiving = true;
	start_batch(call, &op, 1, &call->receive_tag);
}

/* --- what methods ask ------------------------------------------------------ */

void *
call_state(Call *call)
{
	return call->state;
}

void
call_set_state(Call *call, void *state)
{
	call->state = state;
}

const Method *
call_method(Call *call)
{
	return call->method;
}

Pool *
call_pool(Call *call)
{
	return call->pool;
}

const char *
call_user(Call *call)
{
	return call->pool ? pool_user(call->pool) : "";
}

bool
call_is_over(Call *call)
{
	return call->over || call->finishing;
}

const char *
call_peer(Call *call)
{
	return grpc_call_get_peer(call->call);
}

static const grpc_metadata *
find_header(Call *call, const char *name)
{
	for (size_t i = 0; i < call->headers.count; i++)
		if (grpc_slice_str_cmp(call->headers.metadata[i].key, name) == 0)
			return &call->headers.metadata[i];
	return NULL;
}

/* false: it is not there, or too long */
bool
call_header(Call *call, const char *name, char *value, size_t size)
{
	const grpc_metadata *header = find_header(call, name);
	size_t		len = header ? GRPC_SLICE_LENGTH(header->value) : size;

	if (len >= size)
		return false;
	memcpy(value, GRPC_SLICE_START_PTR(header->value), len);
	value[len] = '\0';
	return true;
}

int
server_calls(void)
{
	return ncalls;
}

/* --- the beginning of a call ----------------------------------------------- */

static bool
is_method(const Method *method, grpc_slice path)
{
	const char *p = (const char *) GRPC_SLICE_START_PTR(path);
	size_t		len = GRPC_SLICE_LENGTH(path);
	size_t		service = strlen(method->service);
	size_t		name = strlen(method->name);

	return len == service + name + 2 && p[0] == '/' && p[service + 1] == '/' &&
		memcmp(p + 1, method->service, service) == 0 && memcmp(p + service + 2, method->name, name) == 0;
}

static const Method *
find_method(grpc_slice path)
{
	for (const Method *const *each = methods; *each; each++)
		if (is_method(*each, path))
			return *each;
	for (const Method *method = refused_methods; method->service; method++)
		if (is_method(method, path))
			return method;
	return NULL;
}

/* "Basic base64(user:password)"; false: there is something, but not that. */
static bool
login(Call *call, char **user, char **password)
{
	char		header[2048];
	size_t		len;
	char	   *text,
			   *colon;

	*user = *password = NULL;
	if (find_header(call, "authorization") == NULL)
		return true;
	if (!call_header(call, "authorization", header, sizeof(header)))
		return false;
	if (strncasecmp(header, "basic ", 6) != 0)
		return false;
	text = base64_decode(header + 6, strlen(header + 6), &len);
	if (text == NULL)
		return false;
	colon = memchr(text, ':', len);
	/* libpq takes an empty one for none, and would look for another */
	if (colon == NULL || colon == text || colon + 1 == text + len || memchr(text, '\0', len))
	{
		free(text);
		return false;
	}
	*colon = '\0';
	*user = xstrdup(text);
	*password = xstrdup(colon + 1);
	explicit_bzero(text, len);
	free(text);
	return true;
}

static void
refuse_login(Call *call, const char *message)
{
	call_trailer_text(call, "exception", "access-denied");
	call_finish(call, GRPC_STATUS_UNAUTHENTICATED, message);
}

static void
call_begin(Call *call)
{
	char	   *user,
			   *password;

	if (call->method == NULL)
	{
		call_finish(call, GRPC_STATUS_UNIMPLEMENTED, "the gateway has no such method; its README lists all of them");
		return;
	}
	if (!call->method->open)
	{
		if (!login(call, &user, &password))
		{
			refuse_login(call, "authorization must be Basic, with user and password");
			return;
		}
		if (user == NULL && !settings.anonymous)
		{
			refuse_login(call, "user and password are required");
			return;
		}
		call->pool = pool_get(user, password);
		free(user);
		if (password)
			explicit_bzero(password, strlen(password));
		free(password);
		if (call->pool == NULL)
		{
			call_finish(call, GRPC_STATUS_RESOURCE_EXHAUSTED, "too many users at the same time");
			return;
		}
	}
	call_receive(call);
}

static void
accept_done(Tag *tag, bool ok)
{
	Call	   *call = ((CallTag *) tag)->call;
	grpc_op		op;

	if (!ok)
	{
		call_release(call);
		return;
	}
	if (!stopping)
		accept_next();
	call->began = true;
	call->next = calls;
	if (calls)
		calls->prev = call;
	calls = call;
	ncalls++;
	call->method = find_method(call->details.method);

	memset(&op, 0, sizeof(op));
	op.op = GRPC_OP_RECV_CLOSE_ON_SERVER;
	op.data.recv_close_on_server.cancelled = &call->cancelled;
	start_batch(call, &op, 1, &call->close_tag);
	call_begin(call);
	call_release(call);
}

static void
accept_next(void)
{
	Call	   *call = xcalloc(sizeof(Call));

	call->refs = 1;
	call->status_text = grpc_empty_slice();
	grpc_call_details_init(&call->details);
	grpc_metadata_array_init(&call->headers);
	call->accept_tag = (CallTag) {{accept_done}, call};
	call->close_tag = (CallTag) {{close_done}, call};
	call->receive_tag = (CallTag) {{receive_done}, call};
	call->send_tag = (CallTag) {{send_done}, call};
	if (grpc_server_request_call(server, &call->call, &call->details, &call->headers, loop_queue, loop_queue,
								 &call->accept_tag.tag) != GRPC_CALL_OK)
		call_release(call);
}

/* --- the server ------------------------------------------------------------ */

static char *
read_file(const char *name)
{
	FILE	   *file = fopen(name, "r");
	Buf			text = {0};
	char		block[4096];
	size_t		n;

	if (file == NULL)
	{
		fprintf(stderr, "event_store_gateway: could not open file \"%s\": %m\n", name);
		exit(1);
	}
	while ((n = fread(block, 1, sizeof(block), file)) > 0)
		buf_add(&text, block, n);
	fclose(file);
	buf_char(&text, '\0');
	return text.data;
}

static grpc_server_credentials *
server_credentials(void)
{
	grpc_server_credentials *credentials;
	grpc_ssl_pem_key_cert_pair pair;

	if (settings.tls_cert == NULL)
		return grpc_insecure_server_credentials_create();
	pair.cert_chain = read_file(settings.tls_cert);
	pair.private_key = read_file(settings.tls_key);
	credentials = grpc_ssl_server_credentials_create_ex(NULL, &pair, 1, GRPC_SSL_DONT_REQUEST_CLIENT_CERTIFICATE, NULL);
	explicit_bzero((char *) pair.private_key, strlen(pair.private_key));
	free((char *) pair.cert_chain);
	free((char *) pair.private_key);
	return credentials;
}

static void
ignore(Tag *tag, bool ok)
{
	(void) tag;
	(void) ok;
}

void
server_start(void)
{
	grpc_arg	args[] = {
		{GRPC_ARG_INTEGER, GRPC_ARG_MAX_RECEIVE_MESSAGE_LENGTH, {.integer = settings.max_append + 64 * 1024}},
		{GRPC_ARG_INTEGER, GRPC_ARG_MAX_CONCURRENT_STREAMS, {.integer = 2000}},
		/* clients ping every 10 s, some more often; a ping costs less than a broken connection */
		{GRPC_ARG_INTEGER, GRPC_ARG_HTTP2_MIN_RECV_PING_INTERVAL_WITHOUT_DATA_MS, {.integer = 1000}},
		{GRPC_ARG_INTEGER, GRPC_ARG_HTTP2_MAX_PING_STRIKES, {.integer = 0}},
		{GRPC_ARG_INTEGER, GRPC_ARG_KEEPALIVE_PERMIT_WITHOUT_CALLS, {.integer = 1}},
		{GRPC_ARG_INTEGER, GRPC_ARG_KEEPALIVE_TIME_MS, {.integer = 30000}},
		{GRPC_ARG_INTEGER, GRPC_ARG_KEEPALIVE_TIMEOUT_MS, {.integer = 20000}},
		{GRPC_ARG_INTEGER, GRPC_ARG_ALLOW_REUSEPORT, {.integer = 0}},
	};
	grpc_channel_args channel_args = {sizeof(args) / sizeof(args[0]), args};
	char	   *addresses = xstrdup(settings.listen);
	char	   *rest = addresses,
			   *address;
	grpc_server_credentials *credentials = server_credentials();

	ignore_tag.done = ignore;
	server = grpc_server_create(&channel_args, NULL);
	grpc_server_register_completion_queue(server, loop_queue, NULL);
	while ((address = strsep(&rest, ",")) != NULL)
	{
		if (grpc_server_add_http2_port(server, address, credentials) == 0)
		{
			fprintf(stderr, "event_store_gateway: could not listen on \"%s\"\n", address);
			exit(1);
		}
	}
	grpc_server_credentials_release(credentials);
	free(addresses);
	grpc_server_start(server);
	for (int i = 0; i < ACCEPTS; i++)
		accept_next();
}

static Timer patience;

static void
break_off(Timer *timer)
{
	(void) timer;
	grpc_server_cancel_all_calls(server);
}

/* Who is cut short is told why.  What comes from now on gRPC's core answers, with CANCELLED. */
static void
no_more_patience(Timer *timer)
{
	for (Call *call = calls; call; call = call->next)
		call_finish(call, GRPC_STATUS_UNAVAILABLE, "the gateway is shutting down");
	timer->due = break_off;
	timer_in(timer, 1000);
}

static void
shutdown_done(Tag *tag, bool ok)
{
	(void) tag;
	(void) ok;
	timer_cancel(&patience);
	grpc_server_destroy(server);
	server = NULL;
	loop_stop();
}

/* No new calls; those that run may end, for a while. */
void
server_stop(void)
{
	if (stopping)
	{
		grpc_server_cancel_all_calls(server);
		return;
	}
	stopping = true;
	shutdown_tag.done = shutdown_done;
	patience.due = no_more_patience;
	timer_in(&patience, 1000);
	grpc_server_shutdown_and_notify(server, loop_queue, &shutdown_tag);
}
