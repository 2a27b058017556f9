/*-------------------------------------------------------------------------
 * group_items.c
 *	  The events that a group holds, from the store until they are done.
 *-------------------------------------------------------------------------
 */
#include "group.h"

static void
list_add(ItemList *list, Item *item)
{
	item->prev = list->last;
	item->next = NULL;
	if (list->last)
		list->last->next = item;
	else
		list->first = item;
	list->last = item;
	list->count++;
}

void
item_set(Item *item, ItemState state)
{
	if (item->state == ITEM_READY)
		item->group->ready--;
	if (item->state == ITEM_OUT && item->consumer)
		item->consumer->out--;
	item->state = state;
	item->consumer = NULL;
	if (state == ITEM_READY)
		item->group->ready++;
}

static void
item_unlink(Item *item)
{
	Group	   *group = item->group;
	ItemList   *list = item->replayed ? &group->replays : &group->items;

	if (item->orphan)
		return;
	if (item->prev)
		item->prev->next = item->next;
	else
		list->first = item->next;
	if (item->next)
		item->next->prev = item->prev;
	else
		list->last = item->prev;
	list->count--;
	group->bytes -= item->size;
}

void
item_free(Item *item)
{
	item_set(item, ITEM_DONE);
	item_unlink(item);
	free(item->event);
	free(item);
}

Item *
item_new(Group *group, const Event *event, bool replayed)
{
	Item	   *item = xcalloc(sizeof(Item));

	item->group = group;
	item->replayed = replayed;
	item->position = event->position;
	item->state = ITEM_DONE;
	item->event = event_copy(event, &item->size);
	group->bytes += item->size;
	if (group->linked)
		link_id(event, item->id);
	else
		memcpy(item->id, event->id, 16);
	list_add(replayed ? &group->replays : &group->items, item);
	item_set(item, ITEM_READY);
	return item;
}

/* An event that the group does not want: done from the beginning. */
void
item_new_unwanted(Group *group, int64_t position)
{
	Item	   *item = xcalloc(sizeof(Item));

	item->group = group;
	item->position = position;
	item->state = ITEM_DONE;
	list_add(&group->items, item);
}

/* The lease is lost, the cursor was set back, or nobody is there: what is not done will come again. */
void
group_forget_items(Group *group)
{
	for (Item *item = group->items.first, *next; item; item = next)
	{
		next = item->next;
		if (item->state == ITEM_PARKING)
		{
			item_unlink(item);
			item->orphan = true;
		}
		else
			item_free(item);
	}
	group->fetched = 0;
	group->acked = 0;
	group->done_count = 0;
}
