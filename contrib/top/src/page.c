/*-------------------------------------------------------------------------
 * page.c
 *	  Pages of text: what is looked up, and the lines that it becomes.
 *
 *	  A page is a list of panels, a panel one statement.  The statement names
 *	  its columns as they are to be headed; numbers stand to the right.  Columns
 *	  that begin with "_" are not shown: _name, _stream, _position and _event_id
 *	  say what a line stands for, _alert that it wants somebody's attention.
 *
 *	  The same lines go to the screen and, in batch mode, to a file.
 *
 *	  Whatever comes from the store may have been written by anybody: what is
 *	  not printable never reaches the terminal.
 *-------------------------------------------------------------------------
 */
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <wchar.h>
#include <wctype.h>

#include "page.h"

/* columns but the last are not wider than this */
#define MAX_CELL	40

typedef enum Shape
{
	SHAPE_TABLE,
	SHAPE_RECORD				/* a line for each column */
} Shape;

typedef struct Panel
{
	const char *title;
	const char *relation;		/* what one must be allowed to read, and … */
	const char *kind;			/* … the kind of es_grant that gives it */
	Shape		shape;
	ItemKind	item;
	int			nparams;		/* 1: the page's argument */
	const char *none;			/* shown where there are no rows; NULL: no panel then */
	const char *sql;
} Panel;

#define EVENT_COLUMNS \
	"SELECT global_position AS \"POSITION\", stream_id AS \"STREAM\", version AS \"VERSION\", event_type AS \"TYPE\"," \
	" to_char(created_at, 'YYYY-MM-DD HH24:MI:SS') AS \"APPENDED\", data AS \"DATA\"," \
	" stream_id AS _stream, global_position AS _position, event_id AS _event_id "

#define MEMBERS_SQL(condition) \
	"SELECT subscription AS \"NAME\", member AS \"MEMBER\", slots AS \"SLOTS\", checkpoint AS \"CHECKPOINT\"," \
	" CASE WHEN in_flight THEN 'yes' ELSE '' END AS \"IN HAND\", date_trunc('second', lease_age) AS \"SINCE CALL\"," \
	" CASE WHEN alive THEN '' ELSE 'its lease has run out' END AS \"NOTE\"," \
	" subscription AS _name, NOT alive AS _alert" \
	" FROM event_store.subscription_members " condition " ORDER BY subscription, member"

#define PARKED_SQL(condition) \
	"SELECT subscription AS \"NAME\", global_position AS \"POSITION\", stream_id AS \"STREAM\", event_type AS \"TYPE\"," \
	" state AS \"STATE\", attempts AS \"TRIED\", to_char(failed_at, 'YYYY-MM-DD HH24:MI:SS') AS \"FAILED\", reason AS \"REASON\"," \
	" subscription AS _name, stream_id AS _stream, global_position AS _position, event_id AS _event_id, state = 'parked' AS _alert" \
	" FROM event_store.parked_events " condition " ORDER BY subscription, stream_id, global_position LIMIT 500"

#define PROJECTION_PARKED_SQL(condition) \
	"SELECT projection AS \"NAME\", global_position AS \"POSITION\"," \
	" CASE WHEN starts_with(stream_id, chr(9)) THEN '(no stream) ' || substr(stream_id, 2) ELSE stream_id END AS \"STREAM\", disposition AS \"STATE\"," \
	" attempts AS \"TRIED\", to_char(parked_at, 'YYYY-MM-DD HH24:MI:SS') AS \"PARKED\", sqlstate AS \"CODE\", message AS \"MESSAGE\"," \
	" projection AS _name, stream_id AS _stream, global_position AS _position, disposition = 'parked' AS _alert" \
	" FROM event_store.projection_parked " condition " ORDER BY projection, stream_id, global_position LIMIT 500"

#define PROGRESS_SQL(condition) \
	"SELECT name AS \"NAME\", CASE WHEN is_shadow THEN 'new version' ELSE state END AS \"STATE\"," \
	" round(100.0 * events_done / nullif(events_done + events_to_do, 0)) AS \"%\"," \
	" events_done AS \"DONE\", events_to_do AS \"TO DO\", round(events_per_second::numeric) AS \"EVENTS/S\"," \
	" coalesce(date_trunc('second', time_left)::text, '') AS \"TIME LEFT\", name AS _name" \
	" FROM event_store.projection_progress " condition " ORDER BY name, is_shadow"

static const Panel overview[] = {
	{"Subscriptions", "subscriptions", "monitor", SHAPE_TABLE, ITEM_SUBSCRIPTION, 0, "none",
		"SELECT name AS \"NAME\", checkpoint AS \"CHECKPOINT\", lag_events AS \"BEHIND\", round(lag_seconds::numeric, 1) AS \"SECONDS\","
		" CASE WHEN slots IS NULL THEN '' ELSE format('%s of %s', members, slots) END AS \"MEMBERS\","
		" CASE WHEN in_flight THEN 'yes' ELSE '' END AS \"IN HAND\", retrying_streams AS \"RETRYING\", parked_streams AS \"PARKED\","
		" coalesce(reason, holder, '') AS \"NOTE\", name AS _name, reason IS NOT NULL OR parked_streams > 0 AS _alert"
	" FROM event_store.subscriptions ORDER BY name"},
	{"Projections", "projections", "monitor", SHAPE_TABLE, ITEM_PROJECTION, 0, "none",
		"SELECT name || CASE WHEN is_shadow THEN ' (new)' ELSE '' END AS \"NAME\", state AS \"STATE\", position AS \"CHECKPOINT\","
		" lag_events AS \"BEHIND\", round(lag_seconds::numeric, 1) AS \"SECONDS\", round(events_per_second::numeric) AS \"EVENTS/S\","
		" events_parked AS \"PARKED\", events_skipped AS \"SKIPPED\", worker_pid AS \"WORKER\","
		" coalesce(reason, error_sqlstate || coalesce(': ' || error_message, ''), '') AS \"NOTE\", name AS _name,"
		" state IN ('stopped', 'retrying') OR reason IS NOT NULL OR error_sqlstate IS NOT NULL OR events_parked > 0 AS _alert"
	" FROM event_store.projections ORDER BY name, is_shadow"},
	{"Rebuilds", "projection_progress", "monitor", SHAPE_TABLE, ITEM_PROJECTION, 0, NULL, PROGRESS_SQL("")},
	{"Imports", "import_progress", "monitor", SHAPE_TABLE, ITEM_NONE, 0, NULL,
		"SELECT pid AS \"PROCESS\", events AS \"EVENTS\", round(events_per_second::numeric) AS \"EVENTS/S\","
		" to_char(started_at, 'YYYY-MM-DD HH24:MI:SS') AS \"SINCE\""
	" FROM event_store.import_progress ORDER BY pid"},
	{"Members of groups", "subscription_members", "monitor", SHAPE_TABLE, ITEM_SUBSCRIPTION, 0, NULL, MEMBERS_SQL("")},
	{NULL}
};

static const Panel subscription[] = {
	{"Subscription", "subscriptions", "monitor", SHAPE_RECORD, ITEM_SUBSCRIPTION, 1, "there is none of this name",
	"SELECT s.*, name AS _name FROM event_store.subscriptions AS s WHERE name = $1"},
	{"Members", "subscription_members", "monitor", SHAPE_TABLE, ITEM_SUBSCRIPTION, 1, NULL, MEMBERS_SQL("WHERE subscription = $1")},
	{"Failed events", "parked_events", "reader", SHAPE_TABLE, ITEM_PARKED, 1, "none", PARKED_SQL("WHERE subscription = $1")},
	{NULL}
};

static const Panel projection[] = {
	{"Projection", "projections", "monitor", SHAPE_RECORD, ITEM_PROJECTION, 1, "there is none of this name",
	"SELECT p.*, name AS _name FROM event_store.projections AS p WHERE name = $1 ORDER BY is_shadow"},
	{"Rebuild", "projection_progress", "monitor", SHAPE_TABLE, ITEM_PROJECTION, 1, NULL, PROGRESS_SQL("WHERE name = $1")},
	{"Parked and skipped events", "projection_parked", "admin", SHAPE_TABLE, ITEM_PROJECTION_PARKED, 1, "none",
	PROJECTION_PARKED_SQL("WHERE projection = $1")},
	{NULL}
};

static const Panel parked[] = {
	{"Failed events of subscriptions", "parked_events", "reader", SHAPE_TABLE, ITEM_PARKED, 0, "none", PARKED_SQL("")},
	{"Parked and skipped events of projections", "projection_parked", "admin", SHAPE_TABLE, ITEM_PROJECTION_PARKED, 0, "none",
	PROJECTION_PARKED_SQL("")},
	{NULL}
};

static const Panel categories[] = {
	{"Categories", "categories", "monitor", SHAPE_TABLE, ITEM_NONE, 0, "no events, or row-level security hides them",
		"SELECT coalesce(category, '(no stream)') AS \"CATEGORY\", streams AS \"STREAMS\", events AS \"EVENTS\", event_types AS \"TYPES\","
		" last_position AS \"LAST POSITION\", to_char(last_created_at, 'YYYY-MM-DD HH24:MI:SS') AS \"LAST APPENDED\""
	" FROM event_store.categories ORDER BY events DESC, category"},
	{NULL}
};

static const Panel stream[] = {
	{"Stream, the newest first", "events", "reader", SHAPE_TABLE, ITEM_EVENT, 1, "there is no such stream",
	EVENT_COLUMNS "FROM @schema@.es_read_stream($1, max_count => 200, backward => true)"},
	{NULL}
};

static const Panel follow[] = {
	{"All events, live", "events", "reader", SHAPE_TABLE, ITEM_EVENT, 0, "none yet",
	EVENT_COLUMNS "FROM @schema@.es_read_all(max_count => 200, backward => true) ORDER BY global_position"},
	{NULL}
};

static const Panel event[] = {
	{"Event", "events", "reader", SHAPE_RECORD, ITEM_EVENT, 1, "not to be seen",
		"SELECT e.global_position, e.stream_id, e.version, e.event_id, e.event_type, e.schema_version, e.created_at,"
		" @schema@.es_tags(e) AS tags, jsonb_pretty(e.metadata) AS metadata, jsonb_pretty(e.data) AS data,"
		" e.stream_id AS _stream, e.global_position AS _position, e.event_id AS _event_id"
	" FROM @schema@.es_read_event($1::uuid) AS e WHERE e.event_id IS NOT NULL"},
	{NULL}
};

static const char *const help[] = {
	"up, down, page up, page down, home, end     move",
	"/         find: to the next line with a text",
	"enter     look at the subscription, projection or event; of a failed event at its stream",
	"s         look at a stream, the selected one or by name",
	"f         follow all events, live",
	"x         failed, parked and skipped events",
	"c         categories: counts the whole store",
	"p         pause the projection",
	"r         resume the projection",
	"t         try the failed events of the selected stream again",
	"T         try all failed events of the subscription or projection again",
	"d         discard: of a subscription the failed event, of a projection what is parked of the stream",
	"i         seconds between two looks",
	"space     look now",
	"q, esc    back; q on the overview ends the program",
	"",
	"Looking needs the kind monitor, events and failed events the kind reader, what changes something the kind admin.",
	NULL
};

/* --- lines ---------------------------------------------------------------- */

static Line *
add_line(Page *page, LineStyle style, char *text)
{
	Line	   *line;

	if (page->count == page->size)
	{
		page->size = page->size == 0 ? 64 : page->size * 2;
		page->lines = realloc(page->lines, page->size * sizeof(Line));
		if (page->lines == NULL)
			abort();
	}
	line = &page->lines[page->count++];
	memset(line, 0, sizeof(*line));
	line->style = style;
	line->text = text;
	return line;
}

static Line *
add_format(Page *page, LineStyle style, const char *format, ...) __attribute__((format(printf, 3, 4)));

static Line *
add_format(Page *page, LineStyle style, const char *format, ...)
{
	va_list		args;
	char	   *text;

	va_start(args, format);
	if (vasprintf(&text, format, args) < 0)
		abort();
	va_end(args);
	return add_line(page, style, text);
}

void
item_clear(Item *item)
{
	free(item->name);
	free(item->stream);
	free(item->position);
	free(item->event_id);
	memset(item, 0, sizeof(*item));
}

static char *
copy(const char *text)
{
	return text == NULL ? NULL : strdup(text);
}

void
item_copy(Item *to, const Item *from)
{
	Item		old = *to;

	to->kind = from->kind;
	to->name = copy(from->name);
	to->stream = copy(from->stream);
	to->position = copy(from->position);
	to->event_id = copy(from->event_id);
	item_clear(&old);
}

static bool
same(const char *a, const char *b)
{
	return a == NULL || b == NULL ? a == b : strcmp(a, b) == 0;
}

bool
item_same(const Item *a, const Item *b)
{
	return a->kind == b->kind && same(a->name, b->name) && same(a->stream, b->stream) && same(a->position, b->position);
}

void
page_clear(Page *page)
{
	for (int i = 0; i < page->count; i++)
	{
		free(page->lines[i].text);
		item_clear(&page->lines[i].item);
	}
	page->count = 0;
}

/* --- text ----------------------------------------------------------------- */

/*
 * Writes the text to out (NULL: nowhere), at most width columns of it (0: all),
 * and returns how many columns it takes.  White space becomes a blank, what is not printable or
 * no character of the locale a question mark; what is cut off ends with "~".
 */
static int
put_text(FILE *out, const char *text, int width)
{
	mbstate_t	state = {0};
	size_t		left = strlen(text);
	int			used = 0;
	char	   *shown = NULL;	/* what has been written, without the last column */
	size_t		shown_size;
	FILE	   *buffer = open_memstream(&shown, &shown_size);
	size_t		fits = 0;		/* bytes of shown that leave room for the "~" */
	int			fits_used = 0;

	while (left > 0)
	{
		wchar_t		c;
		size_t		length = mbrtowc(&c, text, left, &state);
		int			columns;

		if (length == (size_t) -1 || length == (size_t) -2)
		{
			memset(&state, 0, sizeof(state));
			length = 1;
			c = L'\0';
		}
		columns = c == L'\0' || !iswprint(c) ? -1 : wcwidth(c);
		if (width > 0 && used + (columns < 0 ? 1 : columns) > width)
		{
			fflush(buffer);
			if (out != NULL)
				fprintf(out, "%.*s~", (int) fits, shown);
			fclose(buffer);
			free(shown);
			return fits_used + 1;
		}
		if (columns < 0)
		{
			fputc(strchr("\n\t\r", *text) != NULL ? ' ' : '?', buffer);
			columns = 1;
		}
		else
			fwrite(text, 1, length, buffer);
		used += columns;
		if (width == 0 || used <= width - 1)
		{
			fits = ftell(buffer);
			fits_used = used;
		}
		text += length;
		left -= length;
	}
	fclose(buffer);
	if (out != NULL)
		fwrite(shown, 1, shown_size, out);
	free(shown);
	return used;
}

/* The text as the terminal may have it, malloc'd; width as in put_text(). */
char *
text_cell(const char *text, int width)
{
	char	   *cell = NULL;
	size_t		size;
	FILE	   *out = open_memstream(&cell, &size);

	put_text(out, text, width);
	fclose(out);
	return cell;
}

/* --- panels --------------------------------------------------------------- */

static bool
hidden(const PGresult *result, int column)
{
	return PQfname(result, column)[0] == '_';
}

static bool
right(const PGresult *result, int column)
{
	switch (PQftype(result, column))
	{
		case 20:				/* int8 */
		case 23:				/* int4 */
		case 1700:				/* numeric */
		case 1186:				/* interval */
			return true;
		default:
			return false;
	}
}

static const char *
value(const PGresult *result, int row, const char *column)
{
	int			number = PQfnumber(result, column);

	return number < 0 || PQgetisnull(result, row, number) ? NULL : PQgetvalue(result, row, number);
}

static LineStyle
describe(const PGresult *result, int row, ItemKind kind, Item *item)
{
	const char *alert = value(result, row, "_alert");

	item->kind = kind;
	item->name = copy(value(result, row, "_name"));
	item->stream = copy(value(result, row, "_stream"));
	item->position = copy(value(result, row, "_position"));
	item->event_id = copy(value(result, row, "_event_id"));
	return alert != NULL && *alert == 't' ? LINE_ALERT : LINE_PLAIN;
}

/* A line of a table: the heading (row -1) or a row. */
static char *
table_line(const PGresult *result, int row, const int *widths, int last, int width)
{
	char	   *line = NULL;
	size_t		size;
	FILE	   *out = open_memstream(&line, &size);
	int			used = 0;

	for (int column = 0; column <= last; column++)
	{
		char	   *cell;
		int			limit = column < last ? widths[column] : width == 0 ? 0 : width - used > 1 ? width - used : 1;
		int			columns;

		if (hidden(result, column))
			continue;
		cell = text_cell(row < 0 ? PQfname(result, column) : PQgetvalue(result, row, column), limit);
		columns = put_text(NULL, cell, 0);
		if (right(result, column))
			fprintf(out, "%*s%s", widths[column] > columns ? widths[column] - columns : 0, "", cell);
		else
			fprintf(out, "%s%*s", cell, column < last && widths[column] > columns ? widths[column] - columns : 0, "");
		if (column < last)
			fputs("  ", out);
		used += widths[column] + 2;
		free(cell);
	}
	fclose(out);
	return line;
}

static void
add_table(Page *page, const Panel *panel, const PGresult *result, int width)
{
	int			columns = PQnfields(result);
	int			widths[columns];
	int			last = 0;

	for (int column = 0; column < columns; column++)
	{
		if (hidden(result, column))
			continue;
		last = column;
		widths[column] = strlen(PQfname(result, column));
		for (int row = 0; row < PQntuples(result); row++)
		{
			int			needed = put_text(NULL, PQgetvalue(result, row, column), MAX_CELL);

			if (needed > widths[column])
				widths[column] = needed;
		}
	}
	add_line(page, LINE_HEADING, table_line(result, -1, widths, last, width));
	for (int row = 0; row < PQntuples(result); row++)
	{
		Line	   *line = add_line(page, LINE_PLAIN, table_line(result, row, widths, last, width));

		line->style = describe(result, row, panel->item, &line->item);
	}
}

static void
add_record(Page *page, const Panel *panel, const PGresult *result, int width)
{
	int			label = 0;

	for (int column = 0; column < PQnfields(result); column++)
		if (!hidden(result, column) && (int) strlen(PQfname(result, column)) > label)
			label = strlen(PQfname(result, column));

	for (int row = 0; row < PQntuples(result); row++)
	{
		if (row > 0)
			add_line(page, LINE_PLAIN, strdup(""));
		for (int column = 0; column < PQnfields(result); column++)
		{
			char	   *all,
					   *rest,
					   *part;

			if (hidden(result, column) || PQgetisnull(result, row, column))
				continue;
			/* a line for each line, jsonb_pretty()'s for example */
			all = rest = strdup(PQgetvalue(result, row, column));
			for (const char *name = PQfname(result, column); (part = strsep(&rest, "\n")) != NULL; name = "")
			{
				char	   *cell = text_cell(part, width == 0 ? 0 : width - label - 2 > 1 ? width - label - 2 : 1);
				Line	   *line = add_format(page, LINE_PLAIN, "%-*s  %s", label, name, cell);

				describe(result, row, panel->item, &line->item);
				free(cell);
			}
			free(all);
		}
	}
}

static void
add_panel(Page *page, Store *store, const Panel *panel, const char *argument, int width)
{
	PGresult   *result;
	char	   *shown = panel->nparams > 0 ? text_cell(argument, MAX_CELL) : strdup("");
	bool		allowed = store_may_read(store, panel->relation);

	if (!allowed && panel->none == NULL)
	{
		free(shown);
		return;
	}
	result = allowed ? store_look(store, panel->sql, panel->nparams, &argument) : NULL;
	if (!allowed || PQresultStatus(result) != PGRES_TUPLES_OK || PQntuples(result) > 0 || panel->none != NULL)
	{
		if (page->count > 0)
			add_line(page, LINE_PLAIN, strdup(""));
		add_format(page, LINE_TITLE, "%s%s%s", panel->title, *shown != '\0' ? ": " : "", shown);
		if (!allowed)
			add_format(page, LINE_PLAIN, "needs the kind %s, see es_grant", panel->kind);
		else if (PQresultStatus(result) != PGRES_TUPLES_OK)
		{
			char	   *error = store_error(store, result);

			add_line(page, LINE_ALERT, text_cell(error, width));
			free(error);
		}
		else if (PQntuples(result) == 0)
			add_line(page, LINE_PLAIN, strdup(panel->none));
		else if (panel->shape == SHAPE_TABLE)
			add_table(page, panel, result, width);
		else
			add_record(page, panel, result, width);
	}
	PQclear(result);
	free(shown);
}

/* --- the head of the overview ----------------------------------------------- */

/* Counters of event_store.statistics, and what they were at the last look. */
static const char *const counters[] = {"appends", "events", "reads", "conflicts", "duplicates", "wakeups"};

#define COUNTERS	((int) (sizeof(counters) / sizeof(counters[0])))

static struct
{
	double		at;				/* seconds, by the server's clock; 0: not yet */
	double		value[COUNTERS];
	char	   *reset_at;
}			last_look;

static void
add_rates(Page *page, Store *store)
{
	PGresult   *result;
	char	   *line = NULL;
	size_t		size;
	FILE	   *out;
	double		now;
	const char *reset_at;
	bool		comparable;

	if (!store_may_read(store, "statistics"))
	{
		add_format(page, LINE_PLAIN, "a second   not seen by readers: needs the kind monitor, see es_grant");
		return;
	}
	result = store_look(store, "SELECT extract(epoch FROM clock_timestamp()) AS now, s.* FROM event_store.statistics AS s", 0, NULL);
	if (PQresultStatus(result) != PGRES_TUPLES_OK)
	{
		add_line(page, LINE_ALERT, store_error(store, result));
		PQclear(result);
		return;
	}
	reset_at = value(result, 0, "reset_at");
	if (reset_at == NULL)
	{
		add_format(page, LINE_PLAIN, "a second   not counted: no shared memory left; preload the library");
		PQclear(result);
		return;
	}

	now = strtod(value(result, 0, "now"), NULL);
	comparable = last_look.at > 0 && now > last_look.at && same(last_look.reset_at, reset_at);
	out = open_memstream(&line, &size);
	fputs("a second ", out);
	for (int i = 0; i < COUNTERS; i++)
	{
		double		count = strtod(value(result, 0, counters[i]), NULL);

		if (comparable)
			fprintf(out, "  %s %.1f", counters[i], (count - last_look.value[i]) / (now - last_look.at));
		else
			fprintf(out, "  %s -", counters[i]);
		last_look.value[i] = count;
	}
	fclose(out);
	add_line(page, LINE_PLAIN, line);
	last_look.at = now;
	free(last_look.reset_at);
	last_look.reset_at = strdup(reset_at);
	PQclear(result);
}

static void
add_head(Page *page, Store *store)
{
	PGresult   *result = store_look(store, "SELECT s.*, date_trunc('second', blocking_age) AS age FROM event_store.status AS s", 0, NULL);

	if (PQresultStatus(result) != PGRES_TUPLES_OK)
		add_line(page, LINE_ALERT, store_error(store, result));
	else
	{
		const char *head = value(result, 0, "settled_head");
		const char *used = value(result, 0, "last_position");
		const char *worker = value(result, 0, "worker_pid");
		const char *position = value(result, 0, "blocking_position");

		if (head == NULL)
			add_format(page, LINE_ALERT, "head       the global order is not available here");
		else
			add_format(page, LINE_PLAIN, "head       %s   last position %s   worker %s", head, used ? used : "-",
					   worker ? worker : "not running");
		if (position != NULL)
		{
			const char *gid = value(result, 0, "blocking_gid");
			const char *pid = value(result, 0, "blocking_pid");
			const char *xid = value(result, 0, "blocking_xid");
			const char *age = value(result, 0, "age");
			char	   *who = NULL;

			if (gid != NULL)
				who = text_cell(gid, MAX_CELL);
			add_format(page, LINE_ALERT, "blocked    at %s by %s %s, transaction %s, open for %s", position,
					   gid ? "prepared transaction" : "process", gid ? who : pid ? pid : "-", xid ? xid : "-", age ? age : "-");
			free(who);
		}
	}
	PQclear(result);
}

/* --- pages ------------------------------------------------------------------ */

/*
 * Looks, and makes the page anew.  width: columns of the terminal, 0 = lines
 * are as long as they are.  A look that fails is told on the page.
 */
void
page_make(Page *page, Store *store, PageKind kind, const char *argument, int width)
{
	static const Panel *const panels[] = {
		[PAGE_OVERVIEW] = overview,
		[PAGE_SUBSCRIPTION] = subscription,
		[PAGE_PROJECTION] = projection,
		[PAGE_PARKED] = parked,
		[PAGE_CATEGORIES] = categories,
		[PAGE_STREAM] = stream,
		[PAGE_FOLLOW] = follow,
		[PAGE_EVENT] = event,
		[PAGE_HELP] = NULL
	};

	page_clear(page);
	if (kind == PAGE_HELP)
	{
		add_line(page, LINE_TITLE, strdup("Keys"));
		for (int i = 0; help[i] != NULL; i++)
			add_line(page, LINE_PLAIN, text_cell(help[i], width));
		return;
	}
	if (!store_reconnect(store))
	{
		add_line(page, LINE_ALERT, text_cell(store->lost, width));
		return;
	}
	if (kind == PAGE_OVERVIEW)
	{
		char		now[32];
		time_t		seconds = time(NULL);
		char	   *database = text_cell(PQdb(store->conn), MAX_CELL);

		strftime(now, sizeof(now), "%Y-%m-%d %H:%M:%S", localtime(&seconds));
		add_format(page, LINE_TITLE, "event store %s in %s, PostgreSQL %s, %s", store->version, database,
				   PQparameterStatus(store->conn, "server_version"), now);
		free(database);
		add_rates(page, store);
		add_head(page, store);
	}
	for (const Panel *panel = panels[kind]; panel->title != NULL; panel++)
		add_panel(page, store, panel, argument, width);
}
