/*-------------------------------------------------------------------------
 * base/lock.h
 *	  Locks that guard what a transaction writes.
 *-------------------------------------------------------------------------
 */
#ifndef ES_BASE_LOCK_H
#define ES_BASE_LOCK_H

#include "storage/lock.h"

extern LockAcquireResult es_lock(const LOCKTAG *tag, LOCKMODE mode, bool nowait);
extern void es_unlock(const LOCKTAG *tag, LOCKMODE mode);
extern void es_lock_table(Oid relid, LOCKMODE mode);
extern bool es_lock_table_nowait(Oid relid, LOCKMODE mode);

#endif							/* ES_BASE_LOCK_H */
