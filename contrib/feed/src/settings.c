/*-------------------------------------------------------------------------
 * settings.c
 *	  See settings.h.  A setting is one line of the table below: its flag, its
 *	  variable in the environment and its line of --help all come from there.
 *-------------------------------------------------------------------------
 */
#include "settings.h"

#include <getopt.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "log.h"
#include "sink.h"
#include "util.h"

Settings	settings = {
	.sink = "lines",
	.subscription = "feed",
	.batch = 2000,
};

static const char *mode = "structured";
static const char *level = "log";
static const char *batch = "2000";

static const struct Setting
{
	const char *name;
	char		flag;			/* one letter, or 0 */
	const char *value;			/* what the value is called in --help */
	const char **where;
	const char *help;
}			table[] = {
	{"sink", 's', "NAME", &settings.sink, "where events go: " SINK_NAMES " (default: lines)"},
	{"server", 'S', "ADDRESS", &settings.server, "URL or host:port of the sink, several with commas"},
	{"target", 't', "NAME", &settings.target, "file, subject, topic, key or URL; {category}, {stream} and {type} stand for an event's"},
	{"option", 'o', "NAME=VALUE", &settings.options, "something else of the sink, see README; several with semicolons"},
	{"mode", 'm', "MODE", &mode, "CloudEvents content mode, structured or binary (default: structured)"},
	{"source", 0, "URI", &settings.source, "CloudEvents source (default: /event_store/DBNAME)"},
	{"subscription", 'n', "NAME", &settings.subscription, "durable subscription or group to follow (default: feed)"},
	{"member", 'M', "NAME", &settings.member, "this one's name in a group, or behind a pool of connections"},
	{"batch", 'b', "EVENTS", &batch, "events fetched at once (default: 2000)"},
	{"dbname", 'd', "DBNAME", &settings.dbname, "database, or a connection string"},
	{"host", 'h', "HOSTNAME", &settings.host, "database server host or socket directory"},
	{"port", 'p', "PORT", &settings.port, "database server port"},
	{"username", 'U', "USERNAME", &settings.user, "database user name"},
	{"metrics", 0, "HOST:PORT", &settings.metrics, "where Prometheus reads metrics (default: nowhere)"},
	{"log-level", 0, "LEVEL", &level, "debug, log, warning or error (default: log)"},
};

#define SETTINGS ((int) (sizeof(table) / sizeof(table[0])))

static void
help(void)
{
	puts("event_store_feed publishes the events of a store in PostgreSQL as CloudEvents.\n"
		 "\n"
		 "Usage:\n"
		 "  event_store_feed [OPTION]...\n"
		 "\n"
		 "Options:");
	for (int i = 0; i < SETTINGS; i++)
	{
		char		names[64];

		snprintf(names, sizeof(names), "%c%c%c --%s=%s", table[i].flag ? '-' : ' ',
				 table[i].flag ? table[i].flag : ' ', table[i].flag ? ',' : ' ', table[i].name, table[i].value);
		printf("  %-26s  %s\n", names, table[i].help);
	}
	printf("  %-26s  %s\n", "-V, --version", "output version information, then exit");
	printf("  %-26s  %s\n", "-?, --help", "show this help, then exit");
	puts("\n"
		 "Each long option can be given in the environment: EVENT_STORE_FEED_SINK for --sink.\n"
		 "The PG* variables of libpq, service and password files work as with psql.");
}

void
settings_wrong(const char *name, const char *value)
{
	fprintf(stderr, "event_store_feed: invalid value for --%s: \"%s\"\n"
			"Try \"event_store_feed --help\" for more information.\n", name, value);
	exit(1);
}

static void
check(void)
{
	static const char *const levels[] = {"debug", "log", "warning", "error"};
	char	   *end;
	long		n = strtol(batch, &end, 10);
	size_t		l = 0;

	if (*batch == '\0' || *end || n < 1 || n > 100000)
		settings_wrong("batch", batch);
	settings.batch = n;

	settings.binary = strcmp(mode, "binary") == 0;
	if (!settings.binary && strcmp(mode, "structured") != 0)
		settings_wrong("mode", mode);

	while (l < 4 && strcmp(level, levels[l]) != 0)
		l++;
	if (l == 4)
		settings_wrong("log-level", level);
	log_level = (LogLevel) l;

	for (const char *o = settings.options; o && *o; o = strchr(o, ';') ? strchr(o, ';') + 1 : "")
	{
		size_t		len = strcspn(o, ";");

		if (len > 0 && (*o == '=' || memchr(o, '=', len) == NULL))
			settings_wrong("option", xstrndup(o, len));
	}
}

/* --option may be given several times, all others once: the last one wins */
static void
set(const struct Setting *setting, const char *value)
{
	if (setting->where == &settings.options && settings.options)
		value = xprintf("%s;%s", settings.options, value);
	*setting->where = value;
}

void
settings_read(int argc, char **argv)
{
	struct option options[SETTINGS + 3] = {0};
	char		flags[2 * SETTINGS + 4] = "";
	size_t		nflags = 0;
	int			c,
				which;

	for (int i = 0; i < SETTINGS; i++)
	{
		char		variable[64] = "EVENT_STORE_FEED_";
		size_t		len = strlen(variable);

		for (const char *p = table[i].name; *p; p++)
			variable[len++] = *p == '-' ? '_' : *p - ('a' - 'A');
		variable[len] = '\0';
		if (getenv(variable))
			set(&table[i], getenv(variable));
		options[i] = (struct option) {table[i].name, required_argument, NULL, table[i].flag};
		if (table[i].flag)
		{
			flags[nflags++] = table[i].flag;
			flags[nflags++] = ':';
		}
	}
	flags[nflags++] = 'V';
	flags[nflags++] = '?';
	options[SETTINGS] = (struct option) {"version", no_argument, NULL, 'V'};
	options[SETTINGS + 1] = (struct option) {"help", no_argument, NULL, '?'};

	while (which = -1, optopt = 0, (c = getopt_long(argc, argv, flags, options, &which)) != -1)
	{
		if (c == 'V')
		{
			puts("event_store_feed (event_store) " FEED_VERSION);
			exit(0);
		}
		/* the flag -? or --help, not a mistake that getopt_long() tells as '?' */
		if (c == '?' && (which == SETTINGS + 1 || optopt == 0 || optopt == '?') &&
			(which >= 0 || strcmp(argv[optind - 1], "-?") == 0))
		{
			help();
			exit(0);
		}
		if (c == '?')
		{
			fputs("Try \"event_store_feed --help\" for more information.\n", stderr);
			exit(1);
		}
		for (int i = 0; which < 0 && i < SETTINGS; i++)
			if (table[i].flag == c)
				which = i;
		set(&table[which], optarg);
	}
	if (optind < argc)
	{
		fprintf(stderr, "event_store_feed: too many arguments (first is \"%s\")\n"
				"Try \"event_store_feed --help\" for more information.\n", argv[optind]);
		exit(1);
	}
	check();
}

/* --- options of the sink ----------------------------------------------------- */

static const char *asked[32];
static int	nasked;

const char *
settings_option(const char *name)
{
	size_t		len = strlen(name);
	const char *found = NULL;

	for (int i = 0;; i++)
	{
		if (i == nasked)
			asked[nasked++] = name;
		if (strcmp(asked[i], name) == 0)
			break;
	}
	for (const char *o = settings.options; o && *o; o = strchr(o, ';') ? strchr(o, ';') + 1 : "")
		if (strncmp(o, name, len) == 0 && o[len] == '=')
			found = o + len + 1;
	return found ? xstrndup(found, strcspn(found, ";")) : NULL;
}

void
settings_options_rest(void (*use) (const char *name, const char *value))
{
	for (const char *o = settings.options; o && *o; o = strchr(o, ';') ? strchr(o, ';') + 1 : "")
	{
		char	   *name = xstrndup(o, strcspn(o, "=;"));
		const char *value = o + strlen(name);
		bool		known = *name == '\0';

		for (int i = 0; i < nasked; i++)
			known |= strcmp(asked[i], name) == 0;
		if (!known)
			use(name, xstrndup(value + 1, strcspn(value + 1, ";")));
	}
}

static void
unknown(const char *name, const char *value)
{
	(void) value;
	fprintf(stderr, "event_store_feed: sink \"%s\" has no option \"%s\"\n", settings.sink, name);
	exit(1);
}

void
settings_options_used(void)
{
	settings_options_rest(unknown);
}
