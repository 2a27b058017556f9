/*-------------------------------------------------------------------------
 * base/shmem.c
 *	  Something small in shared memory.
 *
 * A library that is not preloaded lives on the slack that every server keeps
 * in its shared memory, and that others may have used up.  Nothing of ours in
 * shared memory is needed to be correct, so to find none is no error.
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "miscadmin.h"
#include "storage/lwlock.h"
#include "storage/shmem.h"

#include "base/compat.h"
#include "base/shmem.h"

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
	void	   *volatile place = NULL;

	PG_TRY();
	{
		bool		found;

		LWLockAcquire(AddinShmemInitLock, LW_EXCLUSIVE);
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

		/* the error has reset the hold-off that comes with the lock */
		HOLD_INTERRUPTS();
		LWLockRelease(AddinShmemInitLock);
	}
	PG_END_TRY();
	return place;
}
