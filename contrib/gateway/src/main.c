/*-------------------------------------------------------------------------
 * main.c
 *	  event_store_gateway: clients of KurrentDB and EventStoreDB work with an
 *	  event store in PostgreSQL.
 *
 *	  settings.c	flags and environment
 *	  loop.c		the one loop; server.c gRPC, pool.c PostgreSQL
 *	  methods.c		the table of calls, each in a file of its own:
 *					append.c, batch.c, append_v2.c; read.c (with tail.c for what
 *					is new); groups*.c for persistent subscriptions;
 *					projections.c; node.c; refused.c
 *	  unpack.c		messages on their way in; event.c events on their way out;
 *					payload.c data and metadata both ways
 *-------------------------------------------------------------------------
 */
#include <signal.h>
#include <stdlib.h>
#include <unistd.h>

#include "call.h"
#include "log.h"
#include "loop.h"
#include "settings.h"

static void
signalled(int signo)
{
	if (signo == SIGHUP)
		return;					/* nothing to read again; libpq reads its files by itself */
	log_event(LOG_INFO, "shutting down", "calls=%d", server_calls());
	server_stop();
}

int
main(int argc, char **argv)
{
	settings_read(argc, argv);

	signal(SIGPIPE, SIG_IGN);
	/* gRPC's own lines would break ours; it has nothing to say that we do not */
	setenv("GRPC_VERBOSITY", "NONE", 0);
	loop_on_signal(signalled);
	grpc_init();
	loop_init();
	loop_on_signal(NULL);
	server_start();
	log_event(LOG_INFO, "ready", "listen=%q tls=%q version=%q pid=%d", settings.listen,
			  settings.tls_cert ? "on" : "off", GATEWAY_VERSION, (int) getpid());
	loop_run();
	pool_shutdown();
	log_event(LOG_INFO, "stopped", NULL);
	/* threads of gRPC and what they hold end with the process */
	_exit(0);
}
