/*-------------------------------------------------------------------------
 * loop.c
 *	  See loop.h.
 *-------------------------------------------------------------------------
 */
#include "loop.h"

#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <semaphore.h>
#include <signal.h>
#include <stdio.h>
#include <sys/epoll.h>
#include <sys/signalfd.h>
#include <unistd.h>

#include "util.h"

grpc_completion_queue *loop_queue;

static int	epoll_fd;
static bool stopping;
static Timer *timers,			/* sorted */
		   *last_timer;
static void (*signal_handler) (int signo);
static Watch signals;

/*
 * The second thread wakes the main one by an empty batch on this call, which
 * goes nowhere: what the core surface of gRPC has for the purpose.
 */
static grpc_channel *wake_channel;
static grpc_call *wake_call;
static Tag	wake_tag;
static sem_t handled;

static void *
wait_for_sockets(void *unused)
{
	struct pollfd pfd = {.fd = epoll_fd, .events = POLLIN};

	(void) unused;
	for (;;)
	{
		if (poll(&pfd, 1, -1) <= 0)
			continue;
		if (grpc_call_start_batch(wake_call, NULL, 0, &wake_tag, NULL) != GRPC_CALL_OK)
			return NULL;
		while (sem_wait(&handled) != 0 && errno == EINTR)
			;
	}
	return NULL;
}

static void
sockets_ready(Tag *tag, bool ok)
{
	struct epoll_event events[64];
	int			n = epoll_wait(epoll_fd, events, 64, 0);

	(void) tag;
	(void) ok;
	for (int i = 0; i < n; i++)
	{
		Watch	   *watch = events[i].data.ptr;

		/* an earlier one may have closed this one; memory of watches lasts */
		if (watch->fd >= 0)
			watch->ready(watch, events[i].events);
	}
	sem_post(&handled);
}

static void
signal_came(Watch *watch, uint32_t events)
{
	struct signalfd_siginfo info;

	(void) events;
	while (read(watch->fd, &info, sizeof(info)) == sizeof(info))
		signal_handler(info.ssi_signo);
}

void
loop_init(void)
{
	pthread_t	thread;
	grpc_slice	host = grpc_slice_from_static_string("none");

	loop_queue = grpc_completion_queue_create_for_next(NULL);
	epoll_fd = epoll_create1(EPOLL_CLOEXEC);
	sem_init(&handled, 0, 0);
	wake_tag.done = sockets_ready;
	wake_channel = grpc_lame_client_channel_create("none", GRPC_STATUS_UNAVAILABLE, "only wakes");
	wake_call = grpc_channel_create_call(wake_channel, NULL, GRPC_PROPAGATE_DEFAULTS, loop_queue,
										 grpc_slice_from_static_string("/wake"), &host,
										 gpr_inf_future(GPR_CLOCK_REALTIME), NULL);
	if (pthread_create(&thread, NULL, wait_for_sockets, NULL) != 0)
	{
		perror("event_store_gateway: could not start a thread");
		exit(1);
	}
	pthread_detach(thread);
}

/* SIGINT, SIGTERM and SIGHUP; to be called before other threads exist. */
void
loop_on_signal(void (*handler) (int signo))
{
	static sigset_t set;

	if (signal_handler == NULL && handler != NULL)
	{
		sigemptyset(&set);
		sigaddset(&set, SIGINT);
		sigaddset(&set, SIGTERM);
		sigaddset(&set, SIGHUP);
		pthread_sigmask(SIG_BLOCK, &set, NULL);
		signal_handler = handler;
		return;
	}
	signals.ready = signal_came;
	loop_watch(&signals, signalfd(-1, &set, SFD_NONBLOCK | SFD_CLOEXEC), EPOLLIN);
}

void
loop_stop(void)
{
	stopping = true;
}

static gpr_timespec
next_deadline(void)
{
	int64_t		ms;

	if (timers == NULL)
		return gpr_inf_future(GPR_CLOCK_REALTIME);
	ms = timers->at - now_ms();
	return gpr_time_add(gpr_now(GPR_CLOCK_REALTIME), gpr_time_from_millis(ms > 0 ? ms : 0, GPR_TIMESPAN));
}

static void
run_timers(void)
{
	int64_t		now;

	if (timers == NULL)
		return;
	now = now_ms();
	while (timers && timers->at <= now)
	{
		Timer	   *timer = timers;

		timer_cancel(timer);
		timer->due(timer);
	}
}

/* One event; false at the end of the queue. */
static bool
step(gpr_timespec deadline)
{
	grpc_event	event = grpc_completion_queue_next(loop_queue, deadline, NULL);

	if (event.type == GRPC_QUEUE_SHUTDOWN)
		return false;
	if (event.type == GRPC_OP_COMPLETE)
	{
		Tag		   *tag = event.tag;

		tag->done(tag, event.success);
	}
	return true;
}

void
loop_run(void)
{
	while (!stopping && step(next_deadline()))
		run_timers();
}

void
loop_drain(void)
{
	while (step(gpr_inf_future(GPR_CLOCK_REALTIME)))
		;
}

void
loop_watch(Watch *watch, int fd, uint32_t events)
{
	struct epoll_event event = {.events = events, .data.ptr = watch};

	if (watch->fd == fd && watch->events == events)
		return;
	if (watch->fd != fd)
	{
		loop_unwatch(watch);
		epoll_ctl(epoll_fd, EPOLL_CTL_ADD, fd, &event);
	}
	else
		epoll_ctl(epoll_fd, EPOLL_CTL_MOD, fd, &event);
	watch->fd = fd;
	watch->events = events;
}

void
loop_unwatch(Watch *watch)
{
	/* fails when libpq has closed the socket, which had the same effect */
	if (watch->fd > 0)
		epoll_ctl(epoll_fd, EPOLL_CTL_DEL, watch->fd, NULL);
	watch->fd = -1;
	watch->events = 0;
}

/* Most are of a few kinds, each of which is set for later than the ones before. */
void
timer_in(Timer *timer, int64_t ms)
{
	timer_cancel(timer);
	timer->at = now_ms() + ms;
	timer->set = true;
	timer->prev = last_timer;
	while (timer->prev && timer->prev->at > timer->at)
		timer->prev = timer->prev->prev;
	timer->next = timer->prev ? timer->prev->next : timers;
	*(timer->prev ? &timer->prev->next : &timers) = timer;
	*(timer->next ? &timer->next->prev : &last_timer) = timer;
}

void
timer_cancel(Timer *timer)
{
	if (!timer->set)
		return;
	*(timer->prev ? &timer->prev->next : &timers) = timer->next;
	*(timer->next ? &timer->next->prev : &last_timer) = timer->prev;
	timer->set = false;
}
