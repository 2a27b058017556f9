/*-------------------------------------------------------------------------
 * base/shmem.c
 *	  What the store has in shared memory.
 *
 * A preloaded library asks for it before there is any, and makes it when the
 * server starts.
 *
 * A library that is not preloaded lives on the slack that every server keeps
 * in its shared memory, and that others may have used up.  Nothing of ours in
 * shared memory is needed to be correct, so to find none is no error.
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "miscadmin.h"
#include "storage/ipc.h"
#include "storage/lwlock.h"
#include "storage/shmem.h"

#include "base/compat.h"
#include "base/fault.h"
#include "base/shmem.h"

/* es_shmem_preload so often at the most */
#define ES_MAX_PARTS	8

/* what is asked for, and who makes it */
static Size es_part_sizes[ES_MAX_PARTS];
static void (*es_part_startups[ES_MAX_PARTS]) (void);
static int	es_num_parts = 0;

static shmem_startup_hook_type prev_shmem_startup_hook = NULL;
#ifdef ES_HAVE_SHMEM_REQUEST_HOOK
static shmem_request_hook_type prev_shmem_request_hook = NULL;

static void
es_shmem_request(void)
{
	if (prev_shmem_request_hook)
		prev_shmem_request_hook();
	for (int i = 0; i < es_num_parts; i++)
		RequestAddinShmemSpace(es_part_sizes[i]);
}
#endif

static void
es_shmem_startup(void)
{
	if (prev_shmem_startup_hook)
		prev_shmem_startup_hook();
	for (int i = 0; i < es_num_parts; i++)
		es_part_startups[i] ();
}

/*
 * Ask for shared memory; nothing where the library is not preloaded.
 *
 * startup		makes what is to be there, or finds it
 */
void
es_shmem_preload(Size size, void (*startup) (void))
{
	if (!process_shared_preload_libraries_in_progress)
		return;

	/* nobody else's may keep it from its alignment */
	size += PG_CACHE_LINE_SIZE;
	if (es_num_parts == 0)
	{
		prev_shmem_startup_hook = shmem_startup_hook;
		shmem_startup_hook = es_shmem_startup;
#ifdef ES_HAVE_SHMEM_REQUEST_HOOK
		prev_shmem_request_hook = shmem_request_hook;
		shmem_request_hook = es_shmem_request;
#endif
	}
#ifndef ES_HAVE_SHMEM_REQUEST_HOOK
	RequestAddinShmemSpace(size);
#endif
	Assert(es_num_parts < ES_MAX_PARTS);
	es_part_sizes[es_num_parts] = size;
	es_part_startups[es_num_parts++] = startup;
}

/*
 * Find or make what is known by a name.
 *
 * name			with the version, for sessions may still run another library
 * init			called on what has just been made, under AddinShmemInitLock
 *
 * Result: NULL when the server has no shared memory left.
 */
void *
es_shmem_get(const char *name, Size size, void (*init) (void *place))
{
	MemoryContext context = CurrentMemoryContext;
	uint32		holdoff = InterruptHoldoffCount;
	uint32		cancel_holdoff = QueryCancelHoldoffCount;
	void	   *volatile place = NULL;

	PG_TRY();
	{
		bool		found;

		LWLockAcquire(AddinShmemInitLock, LW_EXCLUSIVE);
		ES_FAULT_POINT("shmem_found");
		place = ShmemInitStruct(name, size, &found);
		if (!found)
			init(place);
		LWLockRelease(AddinShmemInitLock);
	}
	PG_CATCH();
	{
		if (geterrcode() != ERRCODE_OUT_OF_MEMORY)
			PG_RE_THROW();
		MemoryContextSwitchTo(context);
		FlushErrorState();

		/*
		 * The error has reset the hold-off that comes with the lock, and all
		 * that there was before: at commit others count on it.
		 */
		HOLD_INTERRUPTS();
		LWLockRelease(AddinShmemInitLock);
		InterruptHoldoffCount = holdoff;
		QueryCancelHoldoffCount = cancel_holdoff;
	}
	PG_END_TRY();
	return place;
}
