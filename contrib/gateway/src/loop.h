/*-------------------------------------------------------------------------
 * loop.h
 *	  The one loop in which everything happens: gRPC's completion queue,
 *	  sockets of libpq, timers and signals.
 *
 * gRPC does its own input and output and lets nobody wait for its sockets, so
 * the main thread waits in grpc_completion_queue_next().  A second thread does
 * nothing but wait for the other sockets and wake the first.  All work is done
 * by the main thread: nothing else here needs a lock.
 *-------------------------------------------------------------------------
 */
#ifndef GW_LOOP_H
#define GW_LOOP_H

#include <grpc/grpc.h>
#include <stdbool.h>
#include <stdint.h>

/* what is given to gRPC as the tag of an operation */
typedef struct Tag
{
	void		(*done) (struct Tag *tag, bool ok);
} Tag;

/* a socket that is waited for */
typedef struct Watch
{
	int			fd;				/* -1: none */
	uint32_t	events;			/* EPOLLIN, EPOLLOUT */
	void		(*ready) (struct Watch *watch, uint32_t events);
} Watch;

typedef struct Timer
{
	int64_t		at;				/* as now_ms() */
	void		(*due) (struct Timer *timer);
	struct Timer *prev,
			   *next;
	bool		set;
} Timer;

extern grpc_completion_queue *loop_queue;

extern void loop_init(void);
extern void loop_run(void);		/* until loop_stop() */
extern void loop_drain(void);	/* until the completion queue has been shut down and is empty */
extern void loop_stop(void);
extern void loop_on_signal(void (*handler) (int signo));

extern void loop_watch(Watch *watch, int fd, uint32_t events);
extern void loop_unwatch(Watch *watch);

/* the timer is set to go off once, in so many ms; or anew */
extern void timer_in(Timer *timer, int64_t ms);
extern void timer_cancel(Timer *timer);

#endif							/* GW_LOOP_H */
