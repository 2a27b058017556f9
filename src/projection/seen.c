/*-------------------------------------------------------------------------
 * projection/seen.c
 *	  What a worker remembers of projections between its looks at them.
 *
 * Only a saving: a worker that has just started knows nothing, and finds out.
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "utils/memutils.h"

#include "evolution/upcast.h"
#include "projection/projection.h"

static List *es_seen = NIL;

/*
 * The memory of a projection, made when there is none.
 */
EsSeen *
es_seen_get(EsProjection *projection)
{
	EsSeen	   *seen = NULL;
	ListCell   *lc;

	foreach(lc, es_seen)
	{
		seen = lfirst(lc);
		if (seen->is_shadow == projection->is_shadow &&
			strcmp(seen->name, projection->name) == 0)
			break;
		seen = NULL;
	}
	if (seen == NULL)
	{
		MemoryContext old_context = MemoryContextSwitchTo(TopMemoryContext);

		seen = palloc0(sizeof(EsSeen));
		seen->name = pstrdup(projection->name);
		seen->is_shadow = projection->is_shadow;
		es_seen = lappend(es_seen, seen);
		MemoryContextSwitchTo(old_context);
	}
	if (seen->generation != projection->generation)
	{
		seen->generation = projection->generation;
		seen->clear = 0;
		seen->limit = 0;
		seen->is_cut = false;
	}

	/* an earlier worker knew where it fails */
	if (projection->attempts > 0 && seen->limit == 0)
		seen->limit = 1;
	seen->is_listed = true;
	return seen;
}

/*
 * es_projection_has_work, but not twice over what was found empty before.
 */
bool
es_seen_has_work(EsSeen *seen, EsProjection *projection, int64 bound, bool *blocked)
{
	int64		clear;

	/* in another shape an event may be wanted after all */
	if (seen->upcasters != es_upcast_generation())
		seen->clear = 0;
	seen->upcasters = es_upcast_generation();
	if (es_projection_has_work(projection, Max(projection->position, seen->clear), bound,
							   &clear, blocked))
		return true;
	seen->clear = clear;
	return false;
}

/*
 * Is the cause of a failure being looked for?  Another worker would have to
 * begin anew.
 */
bool
es_seen_any_cut(void)
{
	ListCell   *lc;

	foreach(lc, es_seen)
	{
		if (((EsSeen *) lfirst(lc))->is_cut)
			return true;
	}
	return false;
}

/*
 * Forget projections that were dropped, or do not run, since the last call.
 */
void
es_seen_forget(void)
{
	ListCell   *lc;

	foreach(lc, es_seen)
	{
		EsSeen	   *seen = lfirst(lc);

		if (!seen->is_listed)
		{
			es_seen = foreach_delete_current(es_seen, lc);
			pfree(seen->name);
			pfree(seen);
			continue;
		}
		seen->is_listed = false;
	}
}
