/*-------------------------------------------------------------------------
 * base/lock.c
 *	  Locks that guard what a transaction writes.
 *
 * A lock belongs to the resource owner that is current when it is taken, which
 * is that of the portal whose query runs.  If a cursor fails, it is the
 * subtransaction of that moment that gets the portal, with all that it has locked,
 * and rolled back it gives that up.  But what the cursor's query wrote before, in
 * a subtransaction further out, stays.  So a lock that is to last as long as what
 * is written under it belongs to the subtransaction in which it is taken.
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "storage/lmgr.h"
#include "utils/resowner.h"

#include "base/lock.h"

/*
 * Take a lock of the lock manager.
 *
 * Whoever catches an error in a subtransaction sets the current owner anew, so
 * nothing has to do so here.
 */
LockAcquireResult
es_lock(const LOCKTAG *tag, LOCKMODE mode, bool nowait)
{
	ResourceOwner owner = CurrentResourceOwner;
	LockAcquireResult result;

	CurrentResourceOwner = CurTransactionResourceOwner;
	result = LockAcquire(tag, mode, false, nowait);
	CurrentResourceOwner = owner;
	return result;
}

/*
 * Give it back, in the subtransaction in which it was taken.
 */
void
es_unlock(const LOCKTAG *tag, LOCKMODE mode)
{
	ResourceOwner owner = CurrentResourceOwner;

	CurrentResourceOwner = CurTransactionResourceOwner;
	(void) LockRelease(tag, mode, false);
	CurrentResourceOwner = owner;
}

/*
 * Lock a table, whether it is locked already or not.
 */
void
es_lock_table(Oid relid, LOCKMODE mode)
{
	ResourceOwner owner = CurrentResourceOwner;

	CurrentResourceOwner = CurTransactionResourceOwner;
	LockRelationOid(relid, mode);
	CurrentResourceOwner = owner;
}

/*
 * The same without waiting.
 *
 * Result: false when somebody else is in the way.
 */
bool
es_lock_table_nowait(Oid relid, LOCKMODE mode)
{
	ResourceOwner owner = CurrentResourceOwner;
	bool		result;

	CurrentResourceOwner = CurTransactionResourceOwner;
	result = ConditionalLockRelationOid(relid, mode);
	CurrentResourceOwner = owner;
	return result;
}
