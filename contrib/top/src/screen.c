/*-------------------------------------------------------------------------
 * screen.c
 *	  The terminal: pages on it, and the keys.
 *
 *	  Views lie on a stack, the overview at the bottom; "back" takes the upper
 *	  one away.  The last line of the terminal says what the last key did.
 *	  A view is made anew at each interval, after a key that changed something,
 *	  and, where all events are followed, when the server tells of new ones.
 *	  What the cursor is on is remembered as an item, not as a line: it stays
 *	  there when lines come or go.
 *-------------------------------------------------------------------------
 */
#include <curses.h>
#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>
#include <wchar.h>

#include "screen.h"

/* counting the whole store is not for every two seconds */
#define CATEGORIES_INTERVAL 60.0
/* the shortest time between two looks that notifications ask for */
#define NOTIFIED_INTERVAL 0.1

#define MAX_VIEWS 32
#define MAX_INPUT 300

typedef struct View
{
	PageKind	kind;
	char	   *argument;
	int			top;			/* first line on the screen */
	int			row;			/* line with the cursor */
	Item		selected;		/* what it stands for */
} View;

static Store *store;
static View views[MAX_VIEWS];
static int	depth;				/* of the view on top */
static Page page;
static double interval;
static double looked_at;		/* when the view was made */
static double due;				/* when it is to be made anew */
static char *message;

static double
now(void)
{
	struct timespec time;

	clock_gettime(CLOCK_MONOTONIC, &time);
	return time.tv_sec + time.tv_nsec / 1e9;
}

static void
say(char *text)
{
	free(message);
	message = text;
}

/* --- painting --------------------------------------------------------------- */

static int
rows(void)
{
	return LINES > 1 ? LINES - 1 : 1;
}

static void
paint_bottom(const char *text)
{
	char	   *cell = text_cell(text, COLS > 1 ? COLS - 1 : 1);

	move(LINES - 1, 0);
	clrtoeol();
	addstr(cell);
	free(cell);
}

static void
paint(void)
{
	View	   *view = &views[depth];

	if (view->row >= view->top + rows())
		view->top = view->row - rows() + 1;
	if (view->row < view->top)
		view->top = view->row;
	if (view->top > page.count - rows())
		view->top = page.count - rows();
	if (view->top < 0)
		view->top = 0;

	erase();
	for (int i = view->top; i < page.count && i < view->top + rows(); i++)
	{
		const Line *line = &page.lines[i];
		attr_t		attributes = A_NORMAL;

		if (line->style == LINE_TITLE)
			attributes = A_BOLD;
		else if (line->style == LINE_HEADING)
			attributes = A_UNDERLINE;
		else if (line->style == LINE_ALERT)
			attributes = A_BOLD | (has_colors() ? COLOR_PAIR(1) : 0);
		if (i == view->row && line->item.kind != ITEM_NONE)
			attributes |= A_REVERSE;
		attrset(attributes);
		mvaddnstr(i - view->top, 0, line->text, -1);
	}
	attrset(A_NORMAL);
	paint_bottom(message ? message : "? keys   enter look   f follow   s stream   x failed events   q back");
	refresh();
}

/* --- views ------------------------------------------------------------------ */

/* The next line in that direction that stands for something, or -1. */
static int
selectable(int row, int direction)
{
	while (row >= 0 && row < page.count)
	{
		if (page.lines[row].item.kind != ITEM_NONE)
			return row;
		row += direction;
	}
	return -1;
}

static void
put_cursor(int row)
{
	View	   *view = &views[depth];

	view->row = row < 0 ? 0 : row;
	if (view->row < page.count)
		item_copy(&view->selected, &page.lines[view->row].item);
	else
		item_clear(&view->selected);
}

/* Makes the view on top anew, with the cursor on what it was on. */
static void
look(void)
{
	View	   *view = &views[depth];
	bool		at_end = view->kind == PAGE_FOLLOW && (page.count == 0 || view->row == page.count - 1);
	int			row = -1;

	page_make(&page, store, view->kind, view->argument, COLS);
	looked_at = now();
	due = looked_at + (view->kind == PAGE_CATEGORIES && interval < CATEGORIES_INTERVAL ? CATEGORIES_INTERVAL : interval);

	if (at_end)
		row = page.count - 1;
	else if (view->selected.kind != ITEM_NONE)
	{
		if (view->row < page.count && item_same(&view->selected, &page.lines[view->row].item))
			row = view->row;
		for (int i = 0; row < 0 && i < page.count; i++)
			if (item_same(&view->selected, &page.lines[i].item))
				row = i;
	}
	if (row < 0)
	{
		row = view->row < page.count ? view->row : page.count - 1;
		if (selectable(row, 1) >= 0)
			row = selectable(row, 1);
		else if (selectable(row, -1) >= 0)
			row = selectable(row, -1);
		else
			row = view->top;
	}
	put_cursor(row);
}

static void
open_view(PageKind kind, const char *argument)
{
	View	   *view = &views[depth];

	if (view->kind == kind && (argument == NULL || strcmp(argument, view->argument) == 0))
		return;
	if (depth == MAX_VIEWS - 1)
	{
		say(strdup("too many views: q takes one away"));
		return;
	}
	view = &views[++depth];
	memset(view, 0, sizeof(*view));
	view->kind = kind;
	view->argument = argument ? strdup(argument) : NULL;
	page_clear(&page);
	if (kind == PAGE_FOLLOW)
		store_listen(store, true);
	due = 0;
}

static void
close_view(void)
{
	View	   *view = &views[depth--];

	if (view->kind == PAGE_FOLLOW)
		store_listen(store, false);
	free(view->argument);
	item_clear(&view->selected);
	page_clear(&page);
	due = 0;
}

static void
move_cursor(int by)
{
	View	   *view = &views[depth];
	int			direction = by < 0 ? -1 : 1;
	int			row = view->row + by;

	if (row < 0)
		row = 0;
	if (row >= page.count)
		row = page.count - 1;
	if (selectable(row, direction) >= 0)
		put_cursor(selectable(row, direction));
	else if (selectable(row, -direction) >= 0)
	{
		/* past the last one: there may be lines to be seen */
		put_cursor(selectable(row, -direction));
		if (direction < 0)
			view->top = 0;
	}
	else
		view->row = row;
	/* headings above the first one */
	if (direction < 0 && selectable(view->row - 1, -1) < 0 && view->row < rows())
		view->top = 0;
}

/* --- the keyboard ------------------------------------------------------------- */

/* Waits for a key until the view is due; ERR when it is. */
static int
next_key(wint_t *key)
{
	for (;;)
	{
		struct pollfd wait[2] = {{.fd = STDIN_FILENO, .events = POLLIN}, {.fd = -1, .events = POLLIN}};
		double		left;
		int			kind = get_wch(key);

		if (kind != ERR)
			return kind;
		left = due - now();
		if (left <= 0 || store_interrupted)
			return ERR;
		if (store->lost == NULL && views[depth].kind == PAGE_FOLLOW)
			wait[1].fd = PQsocket(store->conn);
		if (poll(wait, 2, (int) (left * 1000) + 1) < 0 && errno != EINTR)
			return ERR;
		if (wait[0].revents & (POLLHUP | POLLERR | POLLNVAL))
		{
			store_interrupted = true;
			return ERR;
		}
		if (wait[1].revents != 0)
		{
			if (store_notified(store) && due > looked_at + NOTIFIED_INTERVAL)
				due = looked_at + NOTIFIED_INTERVAL;
			if (PQstatus(store->conn) != CONNECTION_OK)
				return ERR;
		}
	}
}

/* Waits for a key as long as it takes; ERR at the end of the program. */
static int
any_key(wint_t *key)
{
	int			kind;

	timeout(-1);
	do
		kind = get_wch(key);
	while (kind == ERR && !store_interrupted && errno == EINTR);
	timeout(0);
	return kind;
}

static bool
confirmed(const char *question)
{
	wint_t		key;
	bool		yes;

	paint_bottom(question);
	refresh();
	yes = any_key(&key) == OK && (key == 'y' || key == 'Y');
	if (!yes)
		say(strdup("nothing was changed"));
	return yes;
}

/* Asks for a line of text, with a first proposal; NULL: none was given. */
static char *
asked(const char *question, const char *proposal)
{
	wchar_t		input[MAX_INPUT + 1] = L"";
	size_t		length = 0;
	char		text[MAX_INPUT * MB_CUR_MAX + 1];

	if (proposal != NULL)
	{
		length = mbstowcs(input, proposal, MAX_INPUT);
		if (length == (size_t) -1)
			length = 0;
		input[length] = L'\0';
	}
	for (;;)
	{
		wint_t		key;
		int			kind;
		char	   *line;

		if (wcstombs(text, input, sizeof(text)) == (size_t) -1)
			return NULL;
		if (asprintf(&line, "%s: %s", question, text) < 0)
			abort();
		curs_set(1);
		paint_bottom(line);
		refresh();
		free(line);
		kind = any_key(&key);
		curs_set(0);
		if (kind == ERR || (kind == OK && key == 27))
			return NULL;
		if (kind == KEY_CODE_YES && key == KEY_RESIZE)
			paint();
		else if ((kind == OK && (key == '\n' || key == '\r')) || (kind == KEY_CODE_YES && key == KEY_ENTER))
			return *text == '\0' ? NULL : strdup(text);
		else if ((kind == OK && (key == 127 || key == 8)) || (kind == KEY_CODE_YES && key == KEY_BACKSPACE))
			input[length > 0 ? --length : 0] = L'\0';
		else if (kind == OK && key == 21)	/* ^U */
			input[length = 0] = L'\0';
		else if (kind == OK && key >= ' ' && length < MAX_INPUT)
		{
			input[length++] = key;
			input[length] = L'\0';
		}
	}
}

/* --- what keys do --------------------------------------------------------------- */

/* Asks, calls, and says what came of it.  A second argument may be NULL. */
static void
act(const char *verb, const char *sql, const char *first, const char *second)
{
	const char *const params[] = {first, second};
	PGresult   *result;
	char	   *question;
	char	   *text;

	/* events that belong to no stream go by a tab and their first tag */
	if (asprintf(&question, "%s%s%s of %s? (y/n)", verb, second == NULL ? "" : *second == '\t' ? " (no stream) " : " ",
				 second == NULL ? "" : *second == '\t' ? second + 1 : second, first) < 0)
		abort();
	if (confirmed(question))
	{
		paint_bottom("...");
		refresh();
		result = store_act(store, sql, second ? 2 : 1, params);
		if (PQresultStatus(result) != PGRES_TUPLES_OK)
			text = store_error(store, result);
		else if (asprintf(&text, "%s: %s", verb, PQgetvalue(result, 0, 0)[0] ? PQgetvalue(result, 0, 0) : "done") < 0)
			abort();
		say(text);
		PQclear(result);
		due = 0;
	}
	free(question);
}

static void
change_projection(const Item *item, const char *verb, const char *sql)
{
	if (item->kind == ITEM_PROJECTION)
		act(verb, sql, item->name, NULL);
	else
		say(strdup("put the cursor on a projection first"));
}

static void
retry(const Item *item, bool all)
{
	if (item->kind == ITEM_PARKED && (all || item->stream != NULL))
		act("try again", all ? "SELECT @schema@.es_retry_parked($1)" : "SELECT @schema@.es_retry_parked($1, $2)",
			item->name, all ? NULL : item->stream);
	else if (item->kind == ITEM_PROJECTION_PARKED)
		act("try again", all ? "SELECT @schema@.es_retry_projection_parked($1)" : "SELECT @schema@.es_retry_projection_parked($1, $2)",
			item->name, all ? NULL : item->stream);
	else if (all && item->kind == ITEM_SUBSCRIPTION)
		act("try again all", "SELECT @schema@.es_retry_parked($1)", item->name, NULL);
	else if (all && item->kind == ITEM_PROJECTION)
		act("try again all", "SELECT @schema@.es_retry_projection_parked($1)", item->name, NULL);
	else if (item->kind == ITEM_PARKED)
		say(strdup("this event belongs to no stream: T tries all again"));
	else
		say(strdup("put the cursor on a failed event first: enter on what has some, or x"));
}

static void
discard(const Item *item)
{
	if (item->kind == ITEM_PARKED)
		act("discard", "SELECT @schema@.es_discard_parked($1, $2::bigint)", item->name, item->position);
	else if (item->kind == ITEM_PROJECTION_PARKED)
		act("discard", "SELECT @schema@.es_discard_projection_parked($1, $2)", item->name, item->stream);
	else
		say(strdup("put the cursor on a failed event first: enter on what has some, or x"));
}

/* The stream that can be looked at; NULL where the event belongs to none. */
static const char *
stream_of(const Item *item)
{
	return item->stream == NULL || *item->stream == '\0' || *item->stream == '\t' ? NULL : item->stream;
}

static void
enter(const Item *item)
{
	switch (item->kind)
	{
		case ITEM_SUBSCRIPTION:
			open_view(PAGE_SUBSCRIPTION, item->name);
			break;
		case ITEM_PROJECTION:
			open_view(PAGE_PROJECTION, item->name);
			break;
		case ITEM_PARKED:
		case ITEM_PROJECTION_PARKED:
			if (stream_of(item) != NULL)
				open_view(PAGE_STREAM, item->stream);
			break;
		case ITEM_EVENT:
			open_view(PAGE_EVENT, item->event_id);
			break;
		case ITEM_NONE:
			break;
	}
}

/* Puts the cursor on the next line with that text. */
static void
find(const char *text)
{
	for (int i = 1; i <= page.count; i++)
	{
		int			row = (views[depth].row + i) % page.count;

		if (strcasestr(page.lines[row].text, text) != NULL && page.lines[row].item.kind != ITEM_NONE)
		{
			put_cursor(row);
			return;
		}
	}
	say(strdup("nothing found"));
}

/* Returns false when the program is to end. */
static bool
press(int kind, wint_t key)
{
	const Item *item = &views[depth].selected;
	char	   *text;

	if (kind == KEY_CODE_YES)
		switch (key)
		{
			case KEY_UP:
				move_cursor(-1);
				break;
			case KEY_DOWN:
				move_cursor(1);
				break;
			case KEY_PPAGE:
				move_cursor(-rows());
				break;
			case KEY_NPAGE:
				move_cursor(rows());
				break;
			case KEY_HOME:
				move_cursor(-page.count);
				break;
			case KEY_END:
				move_cursor(page.count);
				break;
			case KEY_ENTER:
				enter(item);
				break;
			case KEY_RESIZE:
				due = 0;
				break;
			default:
				break;
		}
	else
		switch (key)
		{
			case 'q':
			case 'Q':
				if (depth == 0)
					return false;
				close_view();
				break;
			case 27:			/* escape */
				if (depth > 0)
					close_view();
				break;
			case '\n':
			case '\r':
				enter(item);
				break;
			case 'k':
				move_cursor(-1);
				break;
			case 'j':
				move_cursor(1);
				break;
			case ' ':
			case 12:			/* ^L */
				clearok(curscr, TRUE);
				due = 0;
				break;
			case '?':
			case 'h':
				open_view(PAGE_HELP, NULL);
				break;
			case 'f':
				open_view(PAGE_FOLLOW, NULL);
				break;
			case 'x':
				open_view(PAGE_PARKED, NULL);
				break;
			case 'c':
				open_view(PAGE_CATEGORIES, NULL);
				break;
			case 's':
				text = asked("stream", stream_of(item));
				if (text != NULL)
					open_view(PAGE_STREAM, text);
				free(text);
				break;
			case '/':
				text = asked("find", NULL);
				if (text != NULL)
					find(text);
				free(text);
				break;
			case 'i':
				text = asked("seconds between two looks", NULL);
				if (text != NULL && strtod(text, NULL) >= 0.1 && strtod(text, NULL) <= 3600)
					interval = strtod(text, NULL);
				else if (text != NULL)
					say(strdup("it must be 0.1 to 3600"));
				due = 0;
				free(text);
				break;
			case 'p':
				change_projection(item, "pause", "SELECT @schema@.es_pause_projection($1)");
				break;
			case 'r':
				change_projection(item, "resume", "SELECT @schema@.es_resume_projection($1)");
				break;
			case 't':
			case 'T':
				retry(item, key == 'T');
				break;
			case 'd':
				discard(item);
				break;
			default:
				break;
		}
	return true;
}

/* Runs until the user or a signal ends it. */
void
screen_run(Store *with, PageKind first, double seconds)
{
	bool		going = true;

	store = with;
	interval = seconds;
	views[0].kind = PAGE_OVERVIEW;
	if (first != PAGE_OVERVIEW)
		open_view(first, NULL);

	set_escdelay(25);
	initscr();
	cbreak();
	noecho();
	nonl();
	keypad(stdscr, TRUE);
	timeout(0);
	curs_set(0);
	if (has_colors())
	{
		start_color();
		use_default_colors();
		init_pair(1, COLOR_RED, -1);
	}

	while (going && !store_interrupted)
	{
		wint_t		key;
		int			kind;

		if (now() >= due)
			look();
		paint();
		kind = next_key(&key);
		if (kind != ERR)
		{
			say(NULL);
			going = press(kind, key);
		}
		else if (store->lost == NULL && PQstatus(store->conn) != CONNECTION_OK)
			due = 0;
	}
	endwin();
}
