/*-------------------------------------------------------------------------
 * filter.c
 *	  See filter.h.
 *
 * Regular expressions are PCRE2's, of what is in Debian the nearest to those
 * of .NET that KurrentDB takes.  A limit keeps one that backtracks for ever
 * from holding up everybody: an event for which it is reached does not pass.
 *-------------------------------------------------------------------------
 */
#define PCRE2_CODE_UNIT_WIDTH 8
#include "filter.h"

#include <pcre2.h>

#define MATCH_LIMIT		100000
#define MAX_PREFIXES	1000

struct EventFilter
{
	bool		on_type;
	pcre2_code *regex;
	pcre2_match_data *match;
	int			nprefixes;
	char	  **prefixes;
	int			interval;
};

static pcre2_match_context *limits;

EventFilter *
filter_make(const Gw__Filter *wire, char **error)
{
	const Gw__Filter__Pattern *pattern;
	EventFilter *filter;
	uint64_t	window;

	*error = NULL;
	if (wire == NULL || wire->on_case == GW__FILTER__ON__NOT_SET)
		return NULL;
	pattern = wire->on_case == GW__FILTER__ON_STREAM ? wire->stream : wire->event_type;
	if (pattern->n_prefix > MAX_PREFIXES)
	{
		*error = xstrdup("too many prefixes");
		return NULL;
	}
	filter = xcalloc(sizeof(EventFilter));
	filter->on_type = wire->on_case == GW__FILTER__ON_EVENT_TYPE;
	window = wire->window_case == GW__FILTER__WINDOW_MAX && wire->max > 0 ? wire->max : 32;
	window *= wire->checkpoint_every > 0 ? wire->checkpoint_every : 1;
	filter->interval = window < 1000000 ? (int) window : 1000000;

	if (pattern->n_prefix > 0)
	{
		filter->prefixes = xmalloc(pattern->n_prefix * sizeof(char *));
		for (; filter->nprefixes < (int) pattern->n_prefix; filter->nprefixes++)
			filter->prefixes[filter->nprefixes] = xstrdup(pattern->prefix[filter->nprefixes]);
	}
	else
	{
		int			code;
		PCRE2_SIZE	at;

		if (limits == NULL)
		{
			limits = pcre2_match_context_create(NULL);
			pcre2_set_match_limit(limits, MATCH_LIMIT);
			pcre2_set_depth_limit(limits, MATCH_LIMIT);
		}
		filter->regex = pcre2_compile((PCRE2_SPTR) pattern->regex, PCRE2_ZERO_TERMINATED,
									  PCRE2_UTF | PCRE2_MATCH_INVALID_UTF, &code, &at, NULL);
		if (filter->regex == NULL)
		{
			PCRE2_UCHAR text[256];

			pcre2_get_error_message(code, text, sizeof(text));
			*error = xprintf("invalid regular expression: %s at offset %zu", (char *) text, (size_t) at);
			filter_free(filter);
			return NULL;
		}
		filter->match = pcre2_match_data_create(1, NULL);
	}
	return filter;
}

bool
filter_passes(const EventFilter *filter, const Event *event)
{
	const char *text;
	size_t		len;

	if (filter == NULL)
		return true;
	text = filter->on_type ? event->type : event->stream;
	len = filter->on_type ? event->type_len : event->stream_len;
	if (filter->regex)
		return pcre2_match(filter->regex, (PCRE2_SPTR) text, len, 0, 0, filter->match, limits) >= 0;
	for (int i = 0; i < filter->nprefixes; i++)
	{
		size_t		prefix = strlen(filter->prefixes[i]);

		if (len >= prefix && memcmp(text, filter->prefixes[i], prefix) == 0)
			return true;
	}
	return false;
}

int
filter_interval(const EventFilter *filter)
{
	return filter->interval;
}

void
filter_free(EventFilter *filter)
{
	if (filter == NULL)
		return;
	for (int i = 0; i < filter->nprefixes; i++)
		free(filter->prefixes[i]);
	free(filter->prefixes);
	pcre2_match_data_free(filter->match);
	pcre2_code_free(filter->regex);
	free(filter);
}
