/*-------------------------------------------------------------------------
 * settings.h
 *	  What the program was started with.  Flags win over the environment.
 *-------------------------------------------------------------------------
 */
#ifndef GW_SETTINGS_H
#define GW_SETTINGS_H

#include <stdbool.h>

#define GATEWAY_VERSION "0.2"

/* the version of KurrentDB whose protocol this is, told to clients that ask */
#define PROTOCOL_VERSION "26.1.0"

typedef struct Settings
{
	const char *listen;			/* host:port, or several with commas */
	const char *advertise;		/* host:port told to clients that discover; NULL: listen */
	const char *tls_cert;		/* files, PEM */
	const char *tls_key;
	bool		anonymous;		/* calls without credentials use the gateway's own login */

	/* as of psql; NULL: libpq's defaults and PG* variables */
	const char *dbname;
	const char *host;
	const char *port;
	const char *user;

	int			connections;	/* to PostgreSQL, for each role, besides the one that waits */
	int			roles;			/* with connections at the same time */
	int			idle_s;			/* seconds after which an unused connection is closed */
	int			lock_timeout_ms;	/* of appends */
	int			max_append;		/* bytes of one append */
	int			read_buffer;	/* bytes that wait for one slow reader */
	int			live_buffer;	/* bytes kept for live subscriptions, for each role */
} Settings;

extern Settings settings;

/* Fills settings; ends the program for --help, --version and mistakes. */
extern void settings_read(int argc, char **argv);

#endif							/* GW_SETTINGS_H */
