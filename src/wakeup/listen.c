/*-------------------------------------------------------------------------
 * wakeup/listen.c
 *	  Which sessions listen on our channel.
 *
 * PostgreSQL does not tell one session whether others listen, so each counts
 * itself, when the library is in every session (shared_preload_libraries).
 * LISTEN counts at once, before its transaction commits: a session that is
 * counted in vain costs its database some wake-ups, one that is not counted
 * would wait.  UNLISTEN takes effect when it commits, and for the same reason
 * not in a transaction of which a part was rolled back.
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/xact.h"
#include "nodes/parsenodes.h"
#include "tcop/utility.h"

#include "base/compat.h"
#include "wakeup/listen.h"
#include "wakeup/wakeup.h"

static ProcessUtility_hook_type prev_process_utility = NULL;

/* this transaction has ended listening, and not begun again */
static bool es_unlisten_pending = false;

static bool
es_is_our_channel(const char *name)
{
	return strcmp(name, "event_store") == 0;
}

static void
es_listen_utility(ES_PROCESS_UTILITY_ARGS)
{
	Node	   *statement = pstmt->utilityStmt;

	if (prev_process_utility)
		prev_process_utility(ES_PROCESS_UTILITY_CALL);
	else
		standard_ProcessUtility(ES_PROCESS_UTILITY_CALL);

	if (IsA(statement, ListenStmt) &&
		es_is_our_channel(((ListenStmt *) statement)->conditionname))
	{
		es_unlisten_pending = false;
		es_wakeup_listen(true);
	}
	else if (IsA(statement, UnlistenStmt))
	{
		char	   *channel = ((UnlistenStmt *) statement)->conditionname;

		/* NULL = UNLISTEN * */
		es_unlisten_pending |= channel == NULL || es_is_our_channel(channel);
	}
	else if (IsA(statement, DiscardStmt) &&
			 ((DiscardStmt *) statement)->target == DISCARD_ALL)
		es_unlisten_pending = true;
}

static void
es_listen_xact_callback(XactEvent event, void *arg)
{
	if (event == XACT_EVENT_COMMIT && es_unlisten_pending)
		es_wakeup_listen(false);
	if (event == XACT_EVENT_COMMIT || event == XACT_EVENT_ABORT || event == XACT_EVENT_PREPARE)
		es_unlisten_pending = false;
}

static void
es_listen_subxact_callback(SubXactEvent event, SubTransactionId subid,
						   SubTransactionId parent, void *arg)
{
	if (event == SUBXACT_EVENT_ABORT_SUB)
		es_unlisten_pending = false;
}

/*
 * Called by the postmaster, from _PG_init.
 */
void
es_listen_init(void)
{
	prev_process_utility = ProcessUtility_hook;
	ProcessUtility_hook = es_listen_utility;
	RegisterXactCallback(es_listen_xact_callback, NULL);
	RegisterSubXactCallback(es_listen_subxact_callback, NULL);
}
