/*-------------------------------------------------------------------------
 * main.c
 *	  event_store_top: what an event store in PostgreSQL is doing.
 *
 *	  store.c	the connection
 *	  page.c	what is looked up, and the lines that it becomes
 *	  screen.c	the terminal and the keys
 *-------------------------------------------------------------------------
 */
#include <getopt.h>
#include <locale.h>
#include <pwd.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "screen.h"

static const char usage[] =
"event_store_top shows what an event store in PostgreSQL is doing.\n\n"
"Usage:\n"
"  event_store_top [OPTION]... [DBNAME [USERNAME]]\n\n"
"Options:\n"
"  -b, --batch             print pages as text, without a terminal\n"
"  -n, --count=NUMBER      pages to print in batch mode, then end (default: no end)\n"
"  -1, --once              print one page and end: --batch --count=1\n"
"  -i, --interval=SECONDS  between two looks (default: 2)\n"
"  -g, --page=PAGE         begin with, or print: overview, parked, categories, follow\n"
"  -V, --version           print the version, then exit\n"
"  -?, --help              print this help, then exit\n\n"
"Connection options:\n"
"  -d, --dbname=DBNAME     database, or a connection string\n"
"  -h, --host=HOSTNAME     database server host or socket directory\n"
"  -p, --port=PORT         database server port\n"
"  -U, --username=USERNAME database user name\n"
"  -w, --no-password       never ask for a password\n"
"  -W, --password          ask for a password first\n\n"
"libpq's environment variables, service and password files work as with psql.\n"
"Looking needs the kind \"monitor\" of es_grant, events and failed events \"reader\", what changes\n"
"something \"admin\".  The key ? shows what there is to press.\n";

static const struct
{
	const char *name;
	PageKind	kind;
}			pages[] = {
	{"overview", PAGE_OVERVIEW}, {"parked", PAGE_PARKED}, {"categories", PAGE_CATEGORIES}, {"follow", PAGE_FOLLOW}
};

static void
fail(const char *text)
{
	fprintf(stderr, "event_store_top: %s\n", text);
	exit(1);
}

static void
misused(void)
{
	fprintf(stderr, "Try \"event_store_top --help\" for more information.\n");
	exit(2);
}

static double
number(const char *option, const char *text, double low, double high)
{
	char	   *end;
	double		value = strtod(text, &end);

	if (*text == '\0' || *end != '\0' || !(value >= low && value <= high))
	{
		fprintf(stderr, "event_store_top: --%s must be a number from %g to %g, not \"%s\"\n", option, low, high, text);
		exit(2);
	}
	return value;
}

static void
pause_for(double seconds)
{
	struct timespec time = {.tv_sec = (time_t) seconds, .tv_nsec = (long) ((seconds - (time_t) seconds) * 1e9)};

	if (!store_interrupted)
		nanosleep(&time, NULL);
}

/* Prints pages; returns the exit status. */
static int
batch(Store *store, PageKind kind, double interval, long count)
{
	Page		page = {0};

	/* figures a second need two looks */
	if (kind == PAGE_OVERVIEW)
	{
		page_make(&page, store, kind, NULL, 0);
		pause_for(interval);
	}
	for (long i = 0; (count == 0 || i < count) && !store_interrupted; i++)
	{
		if (i > 0)
		{
			pause_for(interval);
			if (store_interrupted)
				break;
			putchar('\n');
		}
		page_make(&page, store, kind, NULL, 0);
		for (int line = 0; line < page.count; line++)
			puts(page.lines[line].text);
		if (fflush(stdout) != 0)
			fail("cannot write");
	}
	page_clear(&page);
	free(page.lines);
	return store->lost != NULL || (store_interrupted && count > 0) ? 1 : 0;
}

int
main(int argc, char **argv)
{
	static const struct option options[] = {
		{"batch", no_argument, NULL, 'b'},
		{"count", required_argument, NULL, 'n'},
		{"once", no_argument, NULL, '1'},
		{"interval", required_argument, NULL, 'i'},
		{"page", required_argument, NULL, 'g'},
		{"dbname", required_argument, NULL, 'd'},
		{"host", required_argument, NULL, 'h'},
		{"port", required_argument, NULL, 'p'},
		{"username", required_argument, NULL, 'U'},
		{"no-password", no_argument, NULL, 'w'},
		{"password", no_argument, NULL, 'W'},
		{"version", no_argument, NULL, 'V'},
		{"help", no_argument, NULL, '?'},
		{NULL, 0, NULL, 0}
	};
	static const char *const keywords[] = {
		"host", "port", "user", "dbname", "fallback_application_name", "client_encoding", "password", NULL
	};
	const char *values[] = {NULL, NULL, NULL, NULL, "event_store_top", "auto", NULL, NULL};
	bool		in_batch = false;
	double		interval = 2;
	long		count = 0;
	int			password = 0;
	PageKind	page = PAGE_OVERVIEW;
	Store		store;
	char	   *error;
	int			status = 0;
	int			option;

	setlocale(LC_ALL, "");
	/* a number from the server has a point */
	setlocale(LC_NUMERIC, "C");
	opterr = 0;
	while ((option = getopt_long(argc, argv, "bn:1i:g:d:h:p:U:wWV?", options, NULL)) != -1)
		switch (option)
		{
			case 'b':
				in_batch = true;
				break;
			case 'n':
				count = (long) number("count", optarg, 1, 1e9);
				break;
			case '1':
				in_batch = true;
				count = 1;
				break;
			case 'i':
				interval = number("interval", optarg, 0.1, 3600);
				break;
			case 'g':
				{
					size_t		i = 0;

					while (i < sizeof(pages) / sizeof(pages[0]) && strcmp(pages[i].name, optarg) != 0)
						i++;
					if (i == sizeof(pages) / sizeof(pages[0]))
					{
						fprintf(stderr, "event_store_top: there is no page \"%s\"\n", optarg);
						misused();
					}
					page = pages[i].kind;
					break;
				}
			case 'd':
				values[3] = optarg;
				break;
			case 'h':
				values[0] = optarg;
				break;
			case 'p':
				values[1] = optarg;
				break;
			case 'U':
				values[2] = optarg;
				break;
			case 'w':
				password = -1;
				break;
			case 'W':
				password = 1;
				break;
			case 'V':
				puts("event_store_top " TOP_VERSION);
				return 0;
			default:
				/* an unknown option comes as "?", too */
				if (strcmp(argv[optind - 1], "--help") == 0 || strcmp(argv[optind - 1], "-?") == 0)
				{
					fputs(usage, stdout);
					return 0;
				}
				fprintf(stderr, "event_store_top: unknown option or missing argument: %s\n", argv[optind - 1]);
				misused();
		}
	for (int place = 3; optind < argc; optind++)
	{
		if (place < 2 || values[place] != NULL)
		{
			fprintf(stderr, "event_store_top: too many arguments, from \"%s\" on\n", argv[optind]);
			misused();
		}
		values[place--] = argv[optind];
	}
	if (count > 0 && !in_batch)
		fail("--count is for --batch");
	if (!in_batch && !(isatty(STDIN_FILENO) && isatty(STDOUT_FILENO)))
		fail("this is no terminal: use --batch or --once");

	if (!store_connect(&store, keywords, values, password, &error))
		fail(error);
	if (in_batch)
		status = batch(&store, page, interval, count);
	else
		screen_run(&store, page, interval);
	store_close(&store);
	return status;
}
