/*-------------------------------------------------------------------------
 * group_figures.c
 *	  What is known here of a group: buffers, consumers, how long they take.
 *-------------------------------------------------------------------------
 */
#include "group.h"

#include <grpc/support/alloc.h>

static int
compare(const void *a, const void *b)
{
	int32_t		x = *(const int32_t *) a,
				y = *(const int32_t *) b;

	return (x > y) - (x < y);
}

static void
add_figure(Gw__GroupInfo__Consumer *consumer, const char *key, int64_t value)
{
	Gw__GroupInfo__Figure *figure = xmalloc(sizeof(*figure));

	gw__group_info__figure__init(figure);
	figure->key = (char *) key;
	figure->value = value;
	consumer->figures = xrealloc(consumer->figures, (consumer->n_figures + 1) * sizeof(figure));
	consumer->figures[consumer->n_figures++] = figure;
}

/* how long a consumer takes, in ms */
static void
describe_times(const Consumer *c, Gw__GroupInfo__Consumer *consumer)
{
	static const struct
	{
		const char *key;
		int			permille;
	}			shares[] = {
		{"Median", 500}, {"Fastest", 0}, {"Quintile 1", 0}, {"Quintile 2", 200}, {"Quintile 3", 400},
		{"Quintile 4", 600}, {"Quintile 5", 800}, {"90%", 900}, {"95%", 950}, {"99%", 990}, {"99.5%", 995},
		{"99.9%", 999}, {"Highest", 1000}
	};
	int			n = c->ntimes < MEASURED ? (int) c->ntimes : MEASURED;
	int32_t    *sorted;
	int64_t		sum = 0;

	if (c->times == NULL || n == 0)
		return;
	sorted = xmalloc(n * sizeof(int32_t));
	memcpy(sorted, c->times, n * sizeof(int32_t));
	qsort(sorted, n, sizeof(int32_t), compare);
	for (int i = 0; i < n; i++)
		sum += sorted[i];
	add_figure(consumer, "Mean", sum / n);
	for (size_t i = 0; i < sizeof(shares) / sizeof(shares[0]); i++)
	{
		int			at = (int64_t) shares[i].permille * n / 1000;

		add_figure(consumer, shares[i].key, sorted[at < n ? at : n - 1]);
	}
	free(sorted);
}

void
groups_describe(const char *subscription, Gw__GroupInfo *info)
{
	for (Group *group = groups; group; group = group->next)
	{
		if (group->stale || strcmp(group->subscription, subscription) != 0)
			continue;
		info->total += group->total;
		for (Item *item = group->items.first; item; item = item->next)
		{
			info->read_buffered += item->state == ITEM_READY;
			info->retry_buffered += item->state == ITEM_READY && item->retries > 0;
			info->in_flight += item->state == ITEM_OUT;
			info->outstanding += item->state == ITEM_OUT;
		}
		for (Consumer *c = group->consumers; c; c = c->next)
		{
			Gw__GroupInfo__Consumer *consumer;
			char	   *peer;

			if (!c->admitted || call_is_over(c->call))
				continue;
			info->consumers = xrealloc(info->consumers, (info->n_consumers + 1) * sizeof(consumer));
			consumer = info->consumers[info->n_consumers++] = xmalloc(sizeof(*consumer));
			gw__group_info__consumer__init(consumer);
			peer = (char *) call_peer(c->call);
			consumer->address = xstrdup(peer);
			gpr_free(peer);
			consumer->username = xstrdup(call_user(c->call));
			consumer->name = xstrdup(c->name);
			consumer->total = c->total;
			consumer->in_flight = c->out;
			consumer->free_slots = c->buffer - c->out;
			describe_times(c, consumer);
		}
	}
	if (info->n_consumers > 0)
		info->status = "Live";
}

void
groups_describe_free(Gw__GroupInfo *info)
{
	for (size_t i = 0; i < info->n_consumers; i++)
	{
		free(info->consumers[i]->address);
		free(info->consumers[i]->username);
		free(info->consumers[i]->name);
		for (size_t k = 0; k < info->consumers[i]->n_figures; k++)
			free(info->consumers[i]->figures[k]);
		free(info->consumers[i]->figures);
		free(info->consumers[i]);
	}
	free(info->consumers);
}
