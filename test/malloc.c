/*
 * Let a chosen allocation of a server fail: preloaded by test/t/011_cancel.pl
 * (LD_PRELOAD), armed by event_store.fault_malloc of the test build.
 */
#include <errno.h>
#include <stddef.h>

/* the allocation that fails, counted from now; 0 = none */
int			es_malloc_left = 0;

extern void *__libc_malloc(size_t size);
extern void *__libc_realloc(void *old, size_t size);

static int
fails(void)
{
	if (es_malloc_left == 0 || --es_malloc_left > 0)
		return 0;
	errno = ENOMEM;
	return 1;
}

void *
malloc(size_t size)
{
	return fails() ? NULL : __libc_malloc(size);
}

void *
realloc(void *old, size_t size)
{
	return fails() ? NULL : __libc_realloc(old, size);
}
