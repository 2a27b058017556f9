/*-------------------------------------------------------------------------
 * base/compat.h
 *	  The only place that looks at PG_VERSION_NUM.
 *
 * Each entry names the release that changed the interface and when the entry
 * can go.  Supported: 13, 15, 17, 18; 14 and 16 build from the same entries.
 *-------------------------------------------------------------------------
 */
#ifndef ES_BASE_COMPAT_H
#define ES_BASE_COMPAT_H

#include "access/amapi.h"
#include "access/genam.h"
#include "access/nbtree.h"
#include "access/toast_internals.h"
#include "catalog/namespace.h"
#include "catalog/pg_database.h"
#include "catalog/pg_proc.h"
#include "fmgr.h"
#include "miscadmin.h"
#include "pgstat.h"
#include "port/atomics.h"
#include "postmaster/bgworker.h"
#include "replication/walsender_private.h"
#include "storage/ipc.h"
#include "storage/lwlock.h"
#include "storage/proc.h"
#include "utils/acl.h"
#include "utils/guc.h"
#include "utils/snapshot.h"

#if PG_VERSION_NUM < 130000
#error "event_store needs PostgreSQL 13 or newer"
#endif

/* PG 15 moved the recovery functions to a header of their own.  Drop with 14. */
#if PG_VERSION_NUM >= 150000
#include "access/xlogrecovery.h"
#else
#include "access/xlog.h"
#endif

#if PG_VERSION_NUM >= 140000
#include "utils/backend_status.h"
#endif

/* PG 18 moved the classes of waits to a header of their own.  Drop with 17. */
#if PG_VERSION_NUM >= 180000
#include "utils/wait_classes.h"
#endif

/* PG 16 moved the varlena macros to a header of their own.  Drop with 15. */
#if PG_VERSION_NUM >= 160000
#include "varatt.h"
#endif

/* PG 14 moved the OIDs of indexes to the headers of their tables.  Drop with 13. */
#if PG_VERSION_NUM < 140000
#include "catalog/indexing.h"
#endif

/* PG 18 replaced pg_attribute_noreturn() by pg_noreturn.  Drop with 17. */
#if PG_VERSION_NUM >= 180000
#define pg_attribute_noreturn() pg_noreturn
#endif

/* PG 18 lets a module tell its name and version.  Drop with 17. */
#if PG_VERSION_NUM >= 180000
#define ES_MODULE_MAGIC \
	PG_MODULE_MAGIC_EXT(.name = "event_store", .version = ES_VERSION)
#else
#define ES_MODULE_MAGIC PG_MODULE_MAGIC
#endif

/* PG 17 replaced the 1-based BackendId by the 0-based ProcNumber.  Drop with 16. */
#if PG_VERSION_NUM >= 170000
#define es_backend_number()		((uint32) MyProcNumber)
#else
#define es_backend_number()		((uint32) MyBackendId)
#endif

/* PG 17 made the variable of an LWLock an atomic.  Drop with 16. */
#if PG_VERSION_NUM >= 170000
typedef pg_atomic_uint64 EsLockVar;
#define es_lock_var_init(var)	pg_atomic_init_u64((var), 0)
#define es_lock_var_is_zero(var) (pg_atomic_read_u64(var) == 0)
#else
typedef uint64 EsLockVar;
#define es_lock_var_init(var)	(*(var) = 0)
#define es_lock_var_is_zero(var) (*(var) == 0)
#endif

/* PG 14 added indexUnchanged, a hint for updates; ours are inserts.  Drop with 13. */
static inline bool
es_index_insert(Relation index, Datum *values, bool *isnull, ItemPointer tid,
				Relation heap, IndexUniqueCheck check, struct IndexInfo *info)
{
#if PG_VERSION_NUM >= 140000
	return index_insert(index, values, isnull, tid, heap, check, false, info);
#else
	return index_insert(index, values, isnull, tid, heap, check, info);
#endif
}

/*
 * PG 17 lets an index keep what it needs from one entry to the next, as brin does
 * with a page.  Drop with 16.
 */
static inline void
es_index_insert_done(Relation index, struct IndexInfo *info)
{
#if PG_VERSION_NUM >= 170000
	index_insert_cleanup(index, info);
#endif
}

#if PG_VERSION_NUM >= 140000
#define ES_HAVE_INDEX_UNCHANGED 1
#endif

/* The same for an entry of nbtree that is not unique. */
static inline void
es_btinsert(Relation index, Datum *values, bool *isnull, ItemPointer tid, Relation heap,
			struct IndexInfo *info)
{
#if PG_VERSION_NUM >= 140000
	(void) btinsert(index, values, isnull, tid, heap, UNIQUE_CHECK_NO, false, info);
#else
	(void) btinsert(index, values, isnull, tid, heap, UNIQUE_CHECK_NO, info);
#endif
}

/*
 * PG 14, 17 and 18 added what nbtree claims and an access method that is
 * nbtree inside must not.  Drop with 13, 16, 17.
 */
static inline void
es_am_not_a_btree(IndexAmRoutine *am)
{
#if PG_VERSION_NUM >= 140000
	am->amadjustmembers = NULL;
#endif
#if PG_VERSION_NUM >= 170000
	am->amcanbuildparallel = false;
#endif
#if PG_VERSION_NUM >= 180000
	am->amconsistentequality = false;
	am->amconsistentordering = false;
	am->amtranslatestrategy = NULL;
	am->amtranslatecmptype = NULL;
#endif
}

/* PG 14 added the search among output arguments.  Drop with 13. */
static inline FuncCandidateList
es_function_candidates(List *names)
{
#if PG_VERSION_NUM >= 140000
	return FuncnameGetCandidates(names, -1, NIL, false, false, false, true);
#else
	return FuncnameGetCandidates(names, -1, NIL, false, false, true);
#endif
}

/* PG 18 added an instrumentation argument.  Drop with 17. */
static inline IndexScanDesc
es_index_beginscan(Relation heap, Relation index, Snapshot snapshot, int nkeys)
{
#if PG_VERSION_NUM >= 180000
	return index_beginscan(heap, index, snapshot, NULL, nkeys, 0);
#else
	return index_beginscan(heap, index, snapshot, nkeys, 0);
#endif
}

/* PG 16 dropped the outer joins below which the expression stands.  Drop with 15. */
#if PG_VERSION_NUM >= 160000
#define es_build_expression_pathkey(root, expr, opno, rel) \
	build_expression_pathkey((root), (expr), (opno), (rel), false)
#else
#define es_build_expression_pathkey(root, expr, opno, rel) \
	build_expression_pathkey((root), (expr), NULL, (opno), (rel), false)
#endif

/* PG 15 asks custom paths whether they can project; they all could before.  Drop with 14. */
#if PG_VERSION_NUM >= 150000
#define ES_CUSTOMPATH_PROJECTION CUSTOMPATH_SUPPORT_PROJECTION
#else
#define ES_CUSTOMPATH_PROJECTION 0
#endif

/* PG 18 split the header of EXPLAIN.  Drop with 17. */
#if PG_VERSION_NUM >= 180000
#include "commands/explain_format.h"
#include "commands/explain_state.h"
#else
#include "commands/explain.h"
#endif

/* PG 18 brought generated columns that are computed when read.  Drop with 17. */
#if PG_VERSION_NUM >= 180000
#define es_attribute_is_virtual(attr) \
	((attr)->attgenerated == ATTRIBUTE_GENERATED_VIRTUAL)
#else
#define es_attribute_is_virtual(attr) false
#endif

/* PG 18 brought check constraints that are not enforced.  Drop with 17. */
#if PG_VERSION_NUM >= 180000
#define es_check_is_enforced(check) ((check)->ccenforced)
#else
#define es_check_is_enforced(check) true
#endif

/* PG 14 made the compression method a property of the column.  Drop with 13. */
#if PG_VERSION_NUM >= 140000
#define es_toast_compress(value, attr) \
	toast_compress_datum((value), (attr)->attcompression)
#else
#define es_toast_compress(value, attr) toast_compress_datum(value)
#endif

/* PG 16 replaced the checks for each kind of object by one.  Drop with 15. */
static inline bool
es_may_execute(Oid funcid, Oid role)
{
#if PG_VERSION_NUM >= 160000
	return object_aclcheck(ProcedureRelationId, funcid, role, ACL_EXECUTE) == ACLCHECK_OK;
#else
	return pg_proc_aclcheck(funcid, role, ACL_EXECUTE) == ACLCHECK_OK;
#endif
}

/* PG 17 gave the remembered search_path a name of its own.  Drop with 16. */
#if PG_VERSION_NUM >= 170000
typedef SearchPathMatcher EsSearchPath;
#define es_search_path_get(context) GetSearchPathMatcher(context)
#define es_search_path_matches(path) SearchPathMatchesCurrentEnvironment(path)
#else
typedef OverrideSearchPath EsSearchPath;
#define es_search_path_get(context) GetOverrideSearchPath(context)
#define es_search_path_matches(path) OverrideSearchPathMatchesCurrent(path)
#endif

/* PG 16 renamed the name of a relation's file, RelFileNode.  Drop with 15. */
#if PG_VERSION_NUM >= 160000
#define es_seq_rec_set(record, rel) ((record)->locator = (rel)->rd_locator)
#else
#define es_seq_rec_set(record, rel) ((record)->node = (rel)->rd_node)
#endif

/*
 * The same for the file that a table has, and whether it has got a new one in
 * this transaction.
 */
#if PG_VERSION_NUM >= 160000
#define es_relation_file(rel)	((rel)->rd_locator.relNumber)
#define es_relation_is_new(rel) \
	((rel)->rd_createSubid != InvalidSubTransactionId || \
	 (rel)->rd_firstRelfilelocatorSubid != InvalidSubTransactionId)
#else
#define es_relation_file(rel)	((rel)->rd_node.relNode)
#define es_relation_is_new(rel) \
	((rel)->rd_createSubid != InvalidSubTransactionId || \
	 (rel)->rd_firstRelfilenodeSubid != InvalidSubTransactionId)
#endif

/* PG 15 moved requests for shared memory to a hook.  Drop with 14. */
#if PG_VERSION_NUM >= 150000
#define ES_HAVE_SHMEM_REQUEST_HOOK 1
#endif

/* PG 15 renamed the call that reserves a prefix of settings.  Drop with 14. */
static inline void
es_reserve_guc_prefix(const char *prefix)
{
#if PG_VERSION_NUM >= 150000
	MarkGUCPrefixReserved(prefix);
#else
	EmitWarningsOnPlaceholders(prefix);
#endif
}

/* PG 17 gave every process one number, from 0.  Drop with 16. */
#if PG_VERSION_NUM >= 170000
#define es_proc_number()		((uint32) MyProcNumber)
#else
#define es_proc_number()		((uint32) MyProc->pgprocno)
#endif

/*
 * Are synchronous standbys named?  The minor releases of May 2025 made several
 * bits of the flag in shared memory.  Drop when none before them is supported.
 */
#ifdef SYNC_STANDBY_DEFINED
#define es_sync_standbys_defined() \
	((((volatile WalSndCtlData *) WalSndCtl)->sync_standbys_status & SYNC_STANDBY_DEFINED) != 0)
#else
#define es_sync_standbys_defined() \
	(((volatile WalSndCtlData *) WalSndCtl)->sync_standbys_defined)
#endif

/* what our processes wait for, in pg_stat_activity */
typedef enum EsWaitFor
{
	ES_WAIT_LAUNCHER,			/* the launcher, for a worker to end */
	ES_WAIT_WORKER,				/* a database's worker, to be called */
	ES_WAIT_PROJECTION,			/* a worker of projections, for events */
	ES_WAIT_EVENTS				/* a session, for the head or a projection */
} EsWaitFor;

/* PG 17 lets an extension name its wait events.  Drop with 16. */
static inline uint32
es_wait_event(EsWaitFor what)
{
#if PG_VERSION_NUM >= 170000
	static const char *const names[] = {
		"EventStoreLauncher", "EventStoreWorker", "EventStoreProjection", "EventStoreEvents"
	};
	static uint32 events[lengthof(names)];

	if (events[what] == 0)
		events[what] = WaitEventExtensionNew(names[what]);
	return events[what];
#else
	return PG_WAIT_EXTENSION;
#endif
}

/*
 * PG 14 moved what backends tell about themselves to a header of its own, PG 16
 * renamed the call.  Drop with 15.
 *
 * Result: when a process began its transaction, 0 = it is in none.
 */
static inline TimestampTz
es_backend_xact_start(int pid)
{
	for (int i = 1; i <= pgstat_fetch_stat_numbackends(); i++)
	{
#if PG_VERSION_NUM >= 160000
		LocalPgBackendStatus *local = pgstat_get_local_beentry_by_index(i);
#else
		LocalPgBackendStatus *local = pgstat_fetch_stat_local_beentry(i);
#endif

		if (local != NULL && local->backendStatus.st_procpid == pid)
			return local->backendStatus.st_xact_start_timestamp;
	}
	return 0;
}

/* PG 17 lets a worker connect as a role that may not log in.  Drop with 16. */
#if PG_VERSION_NUM >= 170000
#define ES_BYPASS_ROLE_LOGIN	BGWORKER_BYPASS_ROLELOGINCHECK
#else
#define ES_BYPASS_ROLE_LOGIN	0
#endif

/* PG 17 brought a time limit that would end a worker of ours.  Drop with 16. */
static inline void
es_no_transaction_timeout(void)
{
#if PG_VERSION_NUM >= 170000
	SetConfigOption("transaction_timeout", "0", PGC_USERSET, PGC_S_OVERRIDE);
#endif
}

/*
 * Minor releases of 2023 brought a mark for a database whose DROP was
 * interrupted.  Drop with those before.
 */
#ifndef DATCONNLIMIT_INVALID_DB
#define DATCONNLIMIT_INVALID_DB	(-2)
#endif

/*
 * The arguments of a ProcessUtility hook: PG 14 added read_only_tree.  Drop
 * with 13.
 */
#if PG_VERSION_NUM >= 140000
#define ES_PROCESS_UTILITY_ARGS \
	PlannedStmt *pstmt, const char *query_string, bool read_only_tree, \
	ProcessUtilityContext context, ParamListInfo params, \
	QueryEnvironment *query_env, DestReceiver *dest, QueryCompletion *qc
#define ES_PROCESS_UTILITY_CALL \
	pstmt, query_string, read_only_tree, context, params, query_env, dest, qc
#else
#define ES_PROCESS_UTILITY_ARGS \
	PlannedStmt *pstmt, const char *query_string, \
	ProcessUtilityContext context, ParamListInfo params, \
	QueryEnvironment *query_env, DestReceiver *dest, QueryCompletion *qc
#define ES_PROCESS_UTILITY_CALL \
	pstmt, query_string, context, params, query_env, dest, qc
#endif

#endif							/* ES_BASE_COMPAT_H */
