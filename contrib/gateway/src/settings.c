/*-------------------------------------------------------------------------
 * settings.c
 *	  See settings.h.
 *-------------------------------------------------------------------------
 */
#include "settings.h"

#include <getopt.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "log.h"

Settings	settings = {
	.listen = "127.0.0.1:2113",
	.connections = 16,
	.roles = 64,
	.idle_s = 60,
	.lock_timeout_ms = 10000,
	.max_append = 16 * 1024 * 1024,
	.read_buffer = 256 * 1024,
	.live_buffer = 8 * 1024 * 1024,
};

static void
help(void)
{
	puts("event_store_gateway lets clients of KurrentDB and EventStoreDB work with a store in PostgreSQL.\n"
		 "\n"
		 "Usage:\n"
		 "  event_store_gateway [OPTION]...\n"
		 "\n"
		 "Options for clients:\n"
		 "  -l, --listen=HOST:PORT      where to listen, several with commas (default: 127.0.0.1:2113)\n"
		 "      --advertise=HOST:PORT   address for clients that discover (default: the first of --listen)\n"
		 "      --tls-cert=FILE         certificate chain, PEM; turns TLS on\n"
		 "      --tls-key=FILE          its private key, PEM\n"
		 "      --anonymous=on|off      do calls without user and password use the gateway's own login?\n"
		 "                              (default: on without TLS, off with TLS)\n"
		 "      --max-append=BYTES      largest append (default: 16777216)\n"
		 "      --read-buffer=BYTES     what waits for one slow reader at the most (default: 262144)\n"
		 "      --live-buffer=BYTES     newest events kept for live subscriptions (default: 8388608)\n"
		 "\n"
		 "Options for PostgreSQL:\n"
		 "  -d, --dbname=DBNAME         database, or a connection string\n"
		 "  -h, --host=HOSTNAME         server host or socket directory\n"
		 "  -p, --port=PORT             server port\n"
		 "  -U, --username=USERNAME     login for calls without user and password\n"
		 "      --connections=N         connections of each role (default: 16)\n"
		 "      --roles=N               roles with connections at the same time (default: 64)\n"
		 "      --idle=SECONDS          unused connections are closed after this (default: 60)\n"
		 "      --lock-timeout=MS       how long an append waits for another one (default: 10000)\n"
		 "\n"
		 "Other options:\n"
		 "      --log-level=LEVEL       debug, log, warning or error (default: log)\n"
		 "  -V, --version               output version information, then exit\n"
		 "  -?, --help                  show this help, then exit\n"
		 "\n"
		 "Each long option can be given in the environment: EVENT_STORE_GATEWAY_TLS_CERT for --tls-cert.\n"
		 "The PG* variables of libpq, service and password files work as with psql.");
}

static void __attribute__((noreturn))
wrong(const char *what, const char *value)
{
	fprintf(stderr, "event_store_gateway: invalid value for %s: \"%s\"\n"
			"Try \"event_store_gateway --help\" for more information.\n", what, value);
	exit(1);
}

static int
number(const char *what, const char *value, long least)
{
	char	   *end;
	long		n = strtol(value, &end, 10);

	if (*value == '\0' || *end || n < least || n > INT_MAX)
		wrong(what, value);
	return n;
}

static bool
on_off(const char *what, const char *value)
{
	if (strcmp(value, "on") != 0 && strcmp(value, "off") != 0)
		wrong(what, value);
	return value[1] == 'n';
}

static bool anonymous_given;

static void
set(const char *name, const char *value)
{
	if (strcmp(name, "listen") == 0)
		settings.listen = value;
	else if (strcmp(name, "advertise") == 0)
		settings.advertise = value;
	else if (strcmp(name, "tls-cert") == 0)
		settings.tls_cert = value;
	else if (strcmp(name, "tls-key") == 0)
		settings.tls_key = value;
	else if (strcmp(name, "anonymous") == 0)
	{
		settings.anonymous = on_off("--anonymous", value);
		anonymous_given = true;
	}
	else if (strcmp(name, "max-append") == 0)
		settings.max_append = number("--max-append", value, 1024);
	else if (strcmp(name, "read-buffer") == 0)
		settings.read_buffer = number("--read-buffer", value, 1024);
	else if (strcmp(name, "live-buffer") == 0)
		settings.live_buffer = number("--live-buffer", value, 1024);
	else if (strcmp(name, "dbname") == 0)
		settings.dbname = value;
	else if (strcmp(name, "host") == 0)
		settings.host = value;
	else if (strcmp(name, "port") == 0)
		settings.port = value;
	else if (strcmp(name, "username") == 0)
		settings.user = value;
	else if (strcmp(name, "connections") == 0)
		settings.connections = number("--connections", value, 1);
	else if (strcmp(name, "roles") == 0)
		settings.roles = number("--roles", value, 1);
	else if (strcmp(name, "idle") == 0)
		settings.idle_s = number("--idle", value, 1);
	else if (strcmp(name, "lock-timeout") == 0)
		settings.lock_timeout_ms = number("--lock-timeout", value, 1);
	else if (strcmp(name, "log-level") == 0)
	{
		if (strcmp(value, "debug") == 0)
			log_level = LOG_DEBUG;
		else if (strcmp(value, "log") == 0)
			log_level = LOG_INFO;
		else if (strcmp(value, "warning") == 0)
			log_level = LOG_WARN;
		else if (strcmp(value, "error") == 0)
			log_level = LOG_ERROR;
		else
			wrong("--log-level", value);
	}
}

void
settings_read(int argc, char **argv)
{
	static const struct option options[] = {
		{"listen", required_argument, NULL, 'l'},
		{"advertise", required_argument, NULL, 1},
		{"tls-cert", required_argument, NULL, 1},
		{"tls-key", required_argument, NULL, 1},
		{"anonymous", required_argument, NULL, 1},
		{"max-append", required_argument, NULL, 1},
		{"read-buffer", required_argument, NULL, 1},
		{"live-buffer", required_argument, NULL, 1},
		{"dbname", required_argument, NULL, 'd'},
		{"host", required_argument, NULL, 'h'},
		{"port", required_argument, NULL, 'p'},
		{"username", required_argument, NULL, 'U'},
		{"connections", required_argument, NULL, 1},
		{"roles", required_argument, NULL, 1},
		{"idle", required_argument, NULL, 1},
		{"lock-timeout", required_argument, NULL, 1},
		{"log-level", required_argument, NULL, 1},
		{"version", no_argument, NULL, 'V'},
		{"help", no_argument, NULL, '?'},
		{0}
	};
	int			c,
				which;

	if (argc > 1 && (strcmp(argv[1], "-?") == 0 || strcmp(argv[1], "--help") == 0))
	{
		help();
		exit(0);
	}

	for (const struct option *o = options; o->name; o++)
	{
		char		variable[64] = "EVENT_STORE_GATEWAY_";
		size_t		len = strlen(variable);

		for (const char *p = o->name; *p; p++)
			variable[len++] = *p == '-' ? '_' : *p - ('a' - 'A');
		variable[len] = '\0';
		if (o->has_arg && getenv(variable))
			set(o->name, getenv(variable));
	}

	while ((which = -1, c = getopt_long(argc, argv, "l:d:h:p:U:V", options, &which)) != -1)
	{
		if (c == 'V')
		{
			puts("event_store_gateway (event_store) " GATEWAY_VERSION);
			exit(0);
		}
		if (c == '?' && which >= 0)
		{
			help();
			exit(0);
		}
		if (c == '?')
		{
			fputs("Try \"event_store_gateway --help\" for more information.\n", stderr);
			exit(1);
		}
		for (const struct option *o = options; which < 0 && o->name; o++)
			if (o->val == c)
				which = o - options;
		set(options[which].name, optarg);
	}
	if (optind < argc)
	{
		fprintf(stderr, "event_store_gateway: too many arguments (first is \"%s\")\n"
				"Try \"event_store_gateway --help\" for more information.\n", argv[optind]);
		exit(1);
	}
	if ((settings.tls_cert == NULL) != (settings.tls_key == NULL))
	{
		fputs("event_store_gateway: --tls-cert and --tls-key belong together\n", stderr);
		exit(1);
	}
	if (!anonymous_given)
		settings.anonymous = settings.tls_cert == NULL;
}
