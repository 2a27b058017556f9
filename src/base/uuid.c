/*-------------------------------------------------------------------------
 * base/uuid.c
 *	  Time-ordered event ids (UUID version 7, RFC 9562 section 5.7).
 *
 * New ids land at the right end of the index on event_id instead of on random
 * pages.  Within one backend they ascend: the 12 bits after the milliseconds
 * hold the fraction of the millisecond (method 3 of section 6.2), and a clock
 * that stands still or goes back does not take the ids with it.  The last 40 of
 * the random bits give way to the position of the event (log/id.c).
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <time.h>

#include "base/compat.h"
#include "base/uuid.h"

/* random bytes fetched at a time; one id uses 8 */
#define ES_RANDOM_POOL	512

/* steps of 1/4096 ms since the Unix epoch */
static uint64 es_uuid_last_step = 0;

static uint8 es_random_pool[ES_RANDOM_POOL];
static int	es_random_used = ES_RANDOM_POOL;

void
es_uuid_generate(pg_uuid_t *uuid)
{
	struct timespec now;
	uint64		step;
	uint64		ms;

	clock_gettime(CLOCK_REALTIME, &now);
	step = ((uint64) now.tv_sec * 1000 + now.tv_nsec / 1000000) * 4096 +
		(uint64) (now.tv_nsec % 1000000) * 4096 / 1000000;
	if (step <= es_uuid_last_step)
		step = es_uuid_last_step + 1;
	es_uuid_last_step = step;
	ms = step / 4096;

	if (es_random_used + 8 > ES_RANDOM_POOL)
	{
		if (!pg_strong_random(es_random_pool, ES_RANDOM_POOL))
			ereport(ERROR,
					errcode(ERRCODE_INTERNAL_ERROR),
					errmsg("could not generate random values"));
		es_random_used = 0;
	}
	memcpy(uuid->data + 8, es_random_pool + es_random_used, 8);
	es_random_used += 8;

	for (int i = 0; i < 6; i++)
		uuid->data[i] = (uint8) (ms >> (40 - 8 * i));
	uuid->data[6] = 0x70 | (uint8) ((step % 4096) >> 8);
	uuid->data[7] = (uint8) step;
	uuid->data[8] = (uuid->data[8] & 0x3f) | 0x80;	/* variant of RFC 9562 */
}
