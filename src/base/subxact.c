/*-------------------------------------------------------------------------
 * base/subxact.c
 *	  Run something in a subtransaction of its own.
 *
 * The only place of the extension that begins a subtransaction.  Whoever
 * begins one has to end it, whatever comes through: whoever catches the error
 * further up, and the main loop of the session, roll back one level only,
 * their own.  An error that left ours behind would leave the session in a
 * transaction block that nobody has begun.
 *
 * FATAL errors need no care: the process ends, and all levels with it.
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/xact.h"
#include "utils/memutils.h"
#include "utils/resowner.h"

#include "base/fault.h"
#include "base/subxact.h"

/*
 * Run a function in a subtransaction, which is over when this returns or
 * raises an error.
 *
 * body		called with arg in the current memory context; false = roll back
 * error	NULL: errors of the body are raised anew once it is rolled back.
 *			Else a result: the error, NULL if there was none, in the current
 *			memory context.  The caller raises anew what it does not handle,
 *			which always goes for a cancelled query
 *
 * Result: false when it has been rolled back.
 */
bool
es_subxact_run(EsSubxactBody body, void *arg, ErrorData **error)
{
	MemoryContext context = CurrentMemoryContext;
	ResourceOwner owner = CurrentResourceOwner;
	volatile bool keep = false;
	volatile bool failed = false;

	if (error != NULL)
		*error = NULL;
	BeginInternalSubTransaction(NULL);
	MemoryContextSwitchTo(context);
	PG_TRY();
	{
		ES_FAULT_POINT("subxact_begun");
		keep = body(arg);
		ES_FAULT_POINT("subxact_done");
		if (keep)
			ReleaseCurrentSubTransaction();
	}
	PG_CATCH();
	{
		/* first of all: even the copy of the error may fail */
		RollbackAndReleaseCurrentSubTransaction();
		MemoryContextSwitchTo(context);
		CurrentResourceOwner = owner;
		if (error == NULL)
			PG_RE_THROW();
		*error = CopyErrorData();
		FlushErrorState();
		failed = true;
		keep = false;
	}
	PG_END_TRY();

	if (!keep && !failed)
		RollbackAndReleaseCurrentSubTransaction();
	MemoryContextSwitchTo(context);
	CurrentResourceOwner = owner;
	return keep;
}
