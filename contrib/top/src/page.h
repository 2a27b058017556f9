/*-------------------------------------------------------------------------
 * page.h
 *	  Pages of text: what is looked up, and the lines that it becomes.
 *-------------------------------------------------------------------------
 */
#ifndef PAGE_H
#define PAGE_H

#include "store.h"

typedef enum PageKind
{
	PAGE_OVERVIEW,
	PAGE_SUBSCRIPTION,			/* argument: its name */
	PAGE_PROJECTION,			/* argument: its name */
	PAGE_PARKED,
	PAGE_CATEGORIES,
	PAGE_STREAM,				/* argument: its name */
	PAGE_FOLLOW,
	PAGE_EVENT,					/* argument: its id */
	PAGE_HELP
} PageKind;

/* What a line stands for, and so what a key can do with it. */
typedef enum ItemKind
{
	ITEM_NONE,
	ITEM_SUBSCRIPTION,			/* name */
	ITEM_PROJECTION,			/* name */
	ITEM_PARKED,				/* name of the subscription, stream, position, id of the event */
	ITEM_PROJECTION_PARKED,		/* name of the projection, stream, position */
	ITEM_EVENT					/* stream, id of the event */
} ItemKind;

typedef struct Item
{
	ItemKind	kind;
	char	   *name;			/* each of these may be NULL */
	char	   *stream;
	char	   *position;
	char	   *event_id;
} Item;

typedef enum LineStyle
{
	LINE_PLAIN,
	LINE_TITLE,
	LINE_HEADING,
	LINE_ALERT
} LineStyle;

typedef struct Line
{
	char	   *text;
	LineStyle	style;
	Item		item;
} Line;

typedef struct Page
{
	Line	   *lines;
	int			count;
	int			size;
} Page;

extern void page_make(Page *page, Store *store, PageKind kind, const char *argument, int width);
extern void page_clear(Page *page);
extern bool item_same(const Item *a, const Item *b);
extern void item_copy(Item *to, const Item *from);
extern void item_clear(Item *item);
extern char *text_cell(const char *text, int width);

#endif
