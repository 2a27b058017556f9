/*
 * Let a chosen allocation of a server fail: preloaded by test/t/011_cancel.pl
 * and 054_cluster.pl (LD_PRELOAD), armed by event_store.fault_malloc of the test
 * build.  Allocations of fewer bytes than ES_MALLOC_MIN of the environment do
 * not count.
 */
#include <errno.h>
#include <stddef.h>
#include <stdlib.h>

/* the allocation that fails, counted from now; 0 = none */
int			es_malloc_left = 0;

extern void *__libc_malloc(size_t size);
extern void *__libc_realloc(void *old, size_t size);

static size_t es_malloc_min = 0;

__attribute__((constructor)) static void
begin(void)
{
	const char *min = getenv("ES_MALLOC_MIN");

	if (min != NULL)
		es_malloc_min = strtoul(min, NULL, 10);
}

static int
fails(size_t size)
{
	if (es_malloc_left == 0 || size < es_malloc_min || --es_malloc_left > 0)
		return 0;
	errno = ENOMEM;
	return 1;
}

void *
malloc(size_t size)
{
	return fails(size) ? NULL : __libc_malloc(size);
}

void *
realloc(void *old, size_t size)
{
	return fails(size) ? NULL : __libc_realloc(old, size);
}
