/*-------------------------------------------------------------------------
 * settings.h
 *	  What the program was started with.  Flags win over the environment.
 *-------------------------------------------------------------------------
 */
#ifndef FEED_SETTINGS_H
#define FEED_SETTINGS_H

#include <stdbool.h>

#define FEED_VERSION "0.2"

typedef struct Settings
{
	const char *sink;
	const char *server;			/* of the sink; NULL: the sink's default */
	const char *target;			/* NULL: the sink's default */
	const char *options;		/* "name=value;name=value"; NULL: none */
	bool		binary;			/* CloudEvents' content mode, not structured */
	const char *source;			/* CloudEvents' source; NULL: made of the database's name */
	const char *metrics;		/* host:port; NULL: no metrics */

	const char *subscription;
	const char *member;			/* NULL: the session */
	int			batch;			/* events of one fetch */

	/* as of psql; NULL: libpq's defaults and PG* variables */
	const char *dbname;
	const char *host;
	const char *port;
	const char *user;
} Settings;

extern Settings settings;

/* Fills settings; ends the program for --help, --version and mistakes. */
extern void settings_read(int argc, char **argv);

/* Ends the program over a setting that makes no sense. */
extern void settings_wrong(const char *name, const char *value) __attribute__((noreturn));

/*
 * An option of the sink, as given in --option, or NULL.  All that is given must
 * be asked for: settings_options_used() ends the program over what was not.
 */
extern const char *settings_option(const char *name);
extern void settings_options_used(void);

/* Calls set() for every option that nobody has asked for by name. */
extern void settings_options_rest(void (*set) (const char *name, const char *value));

#endif							/* FEED_SETTINGS_H */
