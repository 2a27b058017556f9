/*-------------------------------------------------------------------------
 * call.h
 *	  One call of a client, and what a method has to do with it.
 *
 * A method gets the client's messages one by one, each when it has asked for
 * it, and sends any number of messages and one status.  What is sent waits in
 * the call until gRPC takes it, which it does as fast as the client reads: who
 * sends much looks at call_backlog() and goes on when drained() says so.
 *-------------------------------------------------------------------------
 */
#ifndef GW_CALL_H
#define GW_CALL_H

#include <grpc/grpc.h>
#include <protobuf-c/protobuf-c.h>
#include <stdbool.h>
#include <stdint.h>

#include "pool.h"

typedef struct Call Call;

typedef struct Method
{
	const char *service;
	const char *name;
	const char *features;		/* words for ServerFeatures, NULL: none */
	bool		open;			/* needs no login */
	bool		many;			/* the client sends any number of messages; otherwise one */
	bool		whole;			/* of many: what came is worth nothing without the client's end */

	/*
	 * A message of the client; NULL: it sends no more.  Where it sends one, that
	 * comes when the client has said that it was all, and NULL if there was none.
	 */
	void		(*message) (Call *call, const uint8_t *data, size_t len);
	/* everything sent has been taken; NULL: does not matter */
	void		(*drained) (Call *call);
	/* the call is over, for whatever reason; nothing may be sent any more */
	void		(*over) (Call *call);
} Method;

extern const Method *const methods[];	/* ends with NULL */

/* what the method keeps */
extern void *call_state(Call *call);
extern void call_set_state(Call *call, void *state);
extern const Method *call_method(Call *call);
extern Pool *call_pool(Call *call);
extern const char *call_user(Call *call);	/* "" for the gateway's own login */
extern const char *call_peer(Call *call);	/* address of the client; to be freed with gpr_free */
extern bool call_header(Call *call, const char *name, char *value, size_t size);

/* the call's memory lasts until as many releases */
extern void call_hold(Call *call);
extern void call_release(Call *call);
extern bool call_is_over(Call *call);

/*
 * The parts of a message; NULL: it does not follow the protocol, a text in it has
 * a zero byte, or it has more parts than anybody means.  To be freed with
 * protobuf_c_message_free_unpacked().
 */
extern void *call_unpack(const ProtobufCMessageDescriptor *form, const uint8_t *data, size_t len);
/*
 * So many bytes of what the client has sent the method keeps now.  false: with
 * what other calls keep it is too much, and the call is finished.
 */
extern bool call_holds(Call *call, size_t bytes);
/* ask for the next message */
extern void call_receive(Call *call);

/* takes over the reference to the slice */
extern void call_send(Call *call, grpc_slice message);
extern void call_send_message(Call *call, const ProtobufCMessage *message);
extern size_t call_backlog(Call *call);	/* bytes that wait */
/* headers at once, not with the first message */
extern void call_open(Call *call);

/* one more header behind the status; before call_finish() */
extern void call_trailer(Call *call, const char *name, const void *value, size_t len);
extern void call_trailer_text(Call *call, const char *name, const char *value);
/* after what waits; the first one counts */
extern void call_finish(Call *call, grpc_status_code code, const char *message);

extern void server_start(void);
extern void server_stop(void);
/* number of calls that are open */
extern int	server_calls(void);

#endif							/* GW_CALL_H */
