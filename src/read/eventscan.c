/*-------------------------------------------------------------------------
 * read/eventscan.c
 *	  The read functions in FROM, row by row.
 *
 * PostgreSQL collects the result of a function in FROM before it uses the
 * first row.  Here such a call becomes a plan node of its own that pulls the
 * events from read/reader.c while the query asks for them: LIMIT ends the
 * walk, nothing is written to a temporary file, only the columns that the
 * query uses are formed, and ORDER BY the order in which events come anyway
 * needs no sort.
 *
 * Planner.  The read functions name es_read_support as their support
 * function.  The planner calls it before it makes paths, which also loads
 * this module, so the hook that exchanges the path is in place for the first
 * query of a session, too.  The call stays in the plan as an expression: its
 * arguments are evaluated by the node, plans are invalidated when the function
 * changes, and EXPLAIN can show it.
 *
 * The function itself is called, as before, where a call does not fit: WITH
 * ORDINALITY, ROWS FROM with several functions, arguments that are volatile
 * or contain a subquery that depends on other tables, and queries that lock
 * or change rows (FOR UPDATE, UPDATE ... FROM): those may have to look at a row
 * again, and a function's result keeps it for that.  That goes for the calls
 * that such a query joins.  One in a part of a UNION ALL, or in a subquery, is
 * evaluated anew when a row is looked at again, as a function would be.
 *
 * Executor.  Snapshot and bound are those of the query, taken at the first
 * row: what comes is what the function would have returned, however long a
 * cursor takes to fetch it, and in whichever direction.  A rescan starts the
 * walk again with the same bound, unless arguments have changed, as they do in
 * a LATERAL join.  As the functions the node stays out of parallel workers.
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "catalog/namespace.h"
#include "catalog/objectaccess.h"
#include "catalog/pg_class.h"
#include "catalog/pg_type.h"
#include "executor/executor.h"
#include "funcapi.h"
#include "miscadmin.h"
#include "nodes/extensible.h"
#include "nodes/makefuncs.h"
#include "nodes/nodeFuncs.h"
#include "nodes/supportnodes.h"
#include "optimizer/clauses.h"
#include "optimizer/cost.h"
#include "optimizer/optimizer.h"
#include "optimizer/pathnode.h"
#include "optimizer/paths.h"
#include "optimizer/restrictinfo.h"
#include "parser/parsetree.h"
#include "utils/datum.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/ruleutils.h"
#include "utils/syscache.h"
#include "utils/typcache.h"

#include "base/compat.h"
#include "base/result.h"
#include "read/eventscan.h"
#include "read/read.h"
#include "read/reader.h"
#include "settings.h"

PG_FUNCTION_INFO_V1(es_read_support);

/* the column of the scan's rows that holds an event as one value */
#define ES_WHOLE_ROW		(Natts_es_out + 1)

/* events on a page, roughly */
#define ES_EVENTS_PER_PAGE	10

typedef struct EsEventScanState
{
	CustomScanState css;		/* must be first */
	const EsReadFunction *function;
	List	   *args;			/* ExprStates */
	Bitmapset  *params;			/* executor parameters in them */
	MemoryContext context;		/* arguments and reader, until arguments change */
	EsRead		read;
	EsReader   *reader;			/* NULL before the first row */
	bool		restart;		/* from the first event, before the next one */
	bool		used;			/* is any column? */
	EsColumns  *columns;
	TupleDesc	row_type;		/* NULL unless events are used as a whole */
} EsEventScanState;

static set_rel_pathlist_hook_type es_prev_set_rel_pathlist = NULL;

static Plan *es_eventscan_plan(PlannerInfo *root, RelOptInfo *rel, CustomPath *path,
							   List *tlist, List *clauses, List *custom_plans);
static Node *es_eventscan_create_state(CustomScan *scan);
static void es_eventscan_begin(CustomScanState *node, EState *estate, int eflags);
static TupleTableSlot *es_eventscan_exec(CustomScanState *node);
static void es_eventscan_end(CustomScanState *node);
static void es_eventscan_rescan(CustomScanState *node);
static void es_eventscan_explain(CustomScanState *node, List *ancestors, ExplainState *es);

static const CustomPathMethods es_eventscan_path_methods = {
	.CustomName = "Event Scan",
	.PlanCustomPath = es_eventscan_plan
};

/* one for each read function: EXPLAIN shows nothing but the name in the first line */
static CustomScanMethods es_eventscan_scan_methods[ES_READ_MAX_FUNCTIONS];

static const CustomExecMethods es_eventscan_exec_methods = {
	.CustomName = "Event Scan",
	.BeginCustomScan = es_eventscan_begin,
	.ExecCustomScan = es_eventscan_exec,
	.EndCustomScan = es_eventscan_end,
	.ReScanCustomScan = es_eventscan_rescan,
	.ExplainCustomScan = es_eventscan_explain
};

/*
 * Which of the read functions is it?
 *
 * Told by the C function that a call ends up in, not by name: the schema may
 * have another one.  A function that was given a setting or its owner's rights
 * is called through PostgreSQL's handler of such and is not recognised, and
 * those of version 0.1 have no support function.
 *
 * Result: its number, -1 if it is none.
 */
static int
es_eventscan_function(Oid funcid)
{
	const EsReadFunction *function;
	FmgrInfo	flinfo;

	if (!OidIsValid(get_func_support(funcid)))
		return -1;
	fmgr_info(funcid, &flinfo);
	for (int i = 0; (function = es_read_function_get(i)) != NULL; i++)
	{
		if (flinfo.fn_addr == function->function)
			return i;
	}
	return -1;
}

/*
 * How many events are there?  0 if nobody has counted yet.
 */
static double
es_eventscan_all_rows(void)
{
	Oid			schema = get_namespace_oid("event_store", true);
	Oid			relid = OidIsValid(schema) ? get_relname_relid("event", schema) : InvalidOid;
	HeapTuple	tuple = SearchSysCache1(RELOID, ObjectIdGetDatum(relid));
	double		rows = 0;

	if (HeapTupleIsValid(tuple))
	{
		rows = Max(((Form_pg_class) GETSTRUCT(tuple))->reltuples, 0);
		ReleaseSysCache(tuple);
	}
	return rows;
}

/*
 * es_read_support(internal) RETURNS internal
 *
 * Planner support: how many rows a call of a read function returns.
 */
Datum
es_read_support(PG_FUNCTION_ARGS)
{
	Node	   *request = (Node *) PG_GETARG_POINTER(0);
	SupportRequestRows *rows;
	const EsReadFunction *function;
	List	   *args;
	Node	   *max_count;
	int			n;

	if (!IsA(request, SupportRequestRows))
		PG_RETURN_POINTER(NULL);
	rows = (SupportRequestRows *) request;
	n = es_eventscan_function(rows->funcid);
	if (n < 0 || !is_funcclause(rows->node))
		PG_RETURN_POINTER(NULL);
	function = es_read_function_get(n);
	args = ((FuncExpr *) rows->node)->args;
	if (list_length(args) != function->nargs)
		PG_RETURN_POINTER(NULL);

	rows->rows = function->rows > 0 ? function->rows : es_eventscan_all_rows();
	max_count = list_nth(args, function->max_count);
	if (IsA(max_count, Const))
	{
		if (!((Const *) max_count)->constisnull)
		{
			double		limit = (double) DatumGetInt64(((Const *) max_count)->constvalue);

			rows->rows = rows->rows > 0 ? Min(rows->rows, limit) : limit;
		}
	}
	else if (rows->rows > 0)
		rows->rows = Min(rows->rows, 1000); /* the default of max_count */
	if (rows->rows <= 0)
		rows->rows = 1000;
	PG_RETURN_POINTER(rows);
}

/*
 * The call in FROM that a scan node can stand for.
 *
 * n			result: number of the read function
 *
 * Result: NULL when there is none.
 */
static FuncExpr *
es_eventscan_call(PlannerInfo *root, Index rti, RangeTblEntry *rte, int *n)
{
	RangeTblFunction *item;
	FuncExpr   *call;
	ListCell   *lc;

	if (rte->rtekind != RTE_FUNCTION || rte->funcordinality ||
		list_length(rte->functions) != 1)
		return NULL;
	item = linitial_node(RangeTblFunction, rte->functions);
	if (!IsA(item->funcexpr, FuncExpr))
		return NULL;
	call = (FuncExpr *) item->funcexpr;
	*n = es_eventscan_function(call->funcid);
	if (*n < 0 ||
		item->funccolcount != Natts_es_out ||
		list_length(call->args) != es_read_function_get(*n)->nargs ||
		contain_volatile_functions((Node *) call->args) ||
		contain_subplans((Node *) call->args))
		return NULL;

	/* a row may have to be found again */
	foreach(lc, root->rowMarks)
	{
		if (lfirst_node(PlanRowMark, lc)->rti == rti)
			return NULL;
	}
	return call;
}

/*
 * In which order do the rows come, if anybody cares?
 */
static List *
es_eventscan_pathkeys(PlannerInfo *root, RelOptInfo *rel, const EsReadFunction *function,
					  FuncExpr *call)
{
	Node	   *backward = list_nth(call->args, function->backward);
	ListCell   *lc;

	if (!IsA(backward, Const) || ((Const *) backward)->constisnull)
		return NIL;
	foreach(lc, rel->reltarget->exprs)
	{
		Var		   *var = lfirst(lc);

		if (IsA(var, Var) && var->varattno == function->order &&
			var->varno == rel->relid && var->varlevelsup == 0)
		{
			TypeCacheEntry *type = lookup_type_cache(INT8OID,
													 TYPECACHE_LT_OPR | TYPECACHE_GT_OPR);

			return es_build_expression_pathkey(root, (Expr *) var,
											   DatumGetBool(((Const *) backward)->constvalue) ?
											   type->gt_opr : type->lt_opr,
											   rel->relids);
		}
	}
	return NIL;
}

/*
 * Hook of the planner: exchange the path of a call.
 */
static void
es_eventscan_set_rel_pathlist(PlannerInfo *root, RelOptInfo *rel, Index rti,
							  RangeTblEntry *rte)
{
	const EsReadFunction *function;
	FuncExpr   *call;
	CustomPath *path;
	Cost		startup;
	Cost		per_row;
	int			n;

	if (es_prev_set_rel_pathlist != NULL)
		es_prev_set_rel_pathlist(root, rel, rti, rte);
	if (!es_enable_eventscan || IS_DUMMY_REL(rel))
		return;
	call = es_eventscan_call(root, rti, rte, &n);
	if (call == NULL)
		return;
	function = es_read_function_get(n);

	path = makeNode(CustomPath);
	path->path.pathtype = T_CustomScan;
	path->path.parent = rel;
	path->path.pathtarget = rel->reltarget;
	path->path.param_info = get_baserel_parampathinfo(root, rel, rel->lateral_relids);
	path->path.pathkeys = es_eventscan_pathkeys(root, rel, function, call);
	path->path.rows = path->path.param_info != NULL ? path->path.param_info->ppi_rows : rel->rows;

	/* down one index, then rows that mostly lie side by side */
	startup = 2 * random_page_cost + rel->baserestrictcost.startup +
		rel->reltarget->cost.startup;
	per_row = cpu_index_tuple_cost + cpu_tuple_cost + seq_page_cost / ES_EVENTS_PER_PAGE +
		rel->baserestrictcost.per_tuple;
	path->path.startup_cost = startup;
	path->path.total_cost = startup + per_row * rel->tuples +
		rel->reltarget->cost.per_tuple * path->path.rows;

	path->flags = CUSTOMPATH_SUPPORT_BACKWARD_SCAN | ES_CUSTOMPATH_PROJECTION;
	path->custom_private = list_make1(makeInteger(n));
	path->methods = &es_eventscan_path_methods;

	rel->pathlist = NIL;
	add_path(rel, (Path *) path);
}

/*
 * Is the event used as a whole anywhere in these expressions?
 */
static bool
es_eventscan_uses_whole(Node *exprs, Index rti)
{
	Bitmapset  *used = NULL;

	pull_varattnos(exprs, rti, &used);
	return bms_is_member(0 - FirstLowInvalidHeapAttributeNumber, used);
}

/*
 * Make the plan node.
 *
 * Its rows have the columns of es_event at their places, and behind them the
 * event as one value if that is used.  Which of them are formed shows when
 * the node is started and the final expressions are known.
 */
static Plan *
es_eventscan_plan(PlannerInfo *root, RelOptInfo *rel, CustomPath *path,
				  List *tlist, List *clauses, List *custom_plans)
{
	CustomScan *scan = makeNode(CustomScan);
	RangeTblEntry *rte = planner_rt_fetch(rel->relid, root);
	int			n = intVal(linitial(path->custom_private));
	FuncExpr   *call = (FuncExpr *) linitial_node(RangeTblFunction, rte->functions)->funcexpr;
	TupleDesc	desc = es_result_type_desc(call->funcresulttype, es_out_attributes, Natts_es_out);

	scan->scan.plan.targetlist = tlist;
	scan->scan.plan.qual = extract_actual_clauses(clauses, false);
	scan->scan.scanrelid = 0;	/* not a table */
	scan->flags = path->flags;
	scan->custom_exprs = list_make1(copyObject(call));
	scan->custom_private = list_make1(makeInteger(n));
	for (int column = 1; column <= Natts_es_out; column++)
	{
		Form_pg_attribute attr = TupleDescAttr(desc, column - 1);
		Var		   *var = makeVar(rel->relid, column, attr->atttypid, attr->atttypmod,
								  attr->attcollation, 0);

		scan->custom_scan_tlist = lappend(scan->custom_scan_tlist,
										  makeTargetEntry((Expr *) var, column,
														  pstrdup(NameStr(attr->attname)), false));
	}
	if (es_eventscan_uses_whole((Node *) rel->reltarget->exprs, rel->relid) ||
		es_eventscan_uses_whole((Node *) path->path.pathtarget->exprs, rel->relid) ||
		es_eventscan_uses_whole((Node *) tlist, rel->relid) ||
		es_eventscan_uses_whole((Node *) scan->scan.plan.qual, rel->relid))
		scan->custom_scan_tlist =
			lappend(scan->custom_scan_tlist,
					makeTargetEntry((Expr *) makeWholeRowVar(rte, rel->relid, 0, false),
									ES_WHOLE_ROW, pstrdup("event"), false));
	scan->methods = &es_eventscan_scan_methods[n];
	return &scan->scan.plan;
}

static Node *
es_eventscan_create_state(CustomScan *scan)
{
	EsEventScanState *state = palloc0(sizeof(EsEventScanState));

	NodeSetTag(state, T_CustomScanState);
	state->css.methods = &es_eventscan_exec_methods;
	return (Node *) state;
}

static bool
es_eventscan_find_params(Node *node, Bitmapset **params)
{
	if (node == NULL)
		return false;
	if (IsA(node, Param))
	{
		if (((Param *) node)->paramkind == PARAM_EXEC)
			*params = bms_add_member(*params, ((Param *) node)->paramid);
		return false;
	}
	return expression_tree_walker(node, es_eventscan_find_params, params);
}

/*
 * Which columns of the scan's rows do the node's expressions use?
 */
static Bitmapset *
es_eventscan_used(CustomScan *scan)
{
	Bitmapset  *used = NULL;
	Bitmapset  *result = NULL;
	int			member = -1;

	pull_varattnos((Node *) scan->scan.plan.targetlist, INDEX_VAR, &used);
	pull_varattnos((Node *) scan->scan.plan.qual, INDEX_VAR, &used);
	while ((member = bms_next_member(used, member)) >= 0)
		result = bms_add_member(result, member + FirstLowInvalidHeapAttributeNumber);
	return result;
}

static void
es_eventscan_begin(CustomScanState *node, EState *estate, int eflags)
{
	EsEventScanState *state = (EsEventScanState *) node;
	CustomScan *scan = (CustomScan *) node->ss.ps.plan;
	FuncExpr   *call = linitial_node(FuncExpr, scan->custom_exprs);
	Bitmapset  *used = es_eventscan_used(scan);
	TupleTableSlot *slot = node->ss.ss_ScanTupleSlot;

	/* the right to call the function is the right to scan it */
	if (!es_may_execute(call->funcid, GetUserId()))
		aclcheck_error(ACLCHECK_NO_PRIV, OBJECT_FUNCTION, get_func_name(call->funcid));
	InvokeFunctionExecuteHook(call->funcid);

	state->function = es_read_function_get(intVal(linitial(scan->custom_private)));
	state->args = ExecInitExprList(call->args, &node->ss.ps);
	(void) es_eventscan_find_params((Node *) call->args, &state->params);
	state->context = AllocSetContextCreate(estate->es_query_cxt, "event_store scan",
										   ALLOCSET_SMALL_SIZES);

	if (bms_is_member(ES_WHOLE_ROW, used))
	{
		state->row_type = es_result_type_desc(call->funcresulttype, es_out_attributes,
											  Natts_es_out);
		used = bms_add_range(used, 1, Natts_es_out);
	}
	state->used = !bms_is_empty(used);
	state->columns = es_columns_create(used);
	for (int column = 1; column <= slot->tts_tupleDescriptor->natts; column++)
		slot->tts_isnull[column - 1] = !bms_is_member(column, used);
}

/*
 * Evaluate the arguments and begin to read.
 */
static void
es_eventscan_open(EsEventScanState *state)
{
	ScanState  *ss = &state->css.ss;
	FuncExpr   *call = linitial_node(FuncExpr, ((CustomScan *) ss->ps.plan)->custom_exprs);
	LOCAL_FCINFO(fcinfo, ES_READ_MAX_ARGS);
	MemoryContext old_context;
	ListCell   *arg;
	ListCell   *expr;
	int			n = 0;

	InitFunctionCallInfoData(*fcinfo, NULL, state->function->nargs, InvalidOid, NULL, NULL);
	MemoryContextReset(state->context);
	forboth(arg, call->args, expr, state->args)
	{
		Datum		value = ExecEvalExprSwitchContext((ExprState *) lfirst(expr),
													  ss->ps.ps_ExprContext,
													  &fcinfo->args[n].isnull);

		/* they are needed as long as the reader */
		old_context = MemoryContextSwitchTo(state->context);
		if (!fcinfo->args[n].isnull)
		{
			int16		len;
			bool		byval;

			get_typlenbyval(exprType(lfirst(arg)), &len, &byval);
			value = datumCopy(value, byval, len);
		}
		fcinfo->args[n++].value = value;
		MemoryContextSwitchTo(old_context);
	}

	old_context = MemoryContextSwitchTo(state->context);
	memset(&state->read, 0, sizeof(EsRead));
	state->function->arguments(fcinfo, &state->read);
	state->read.as_stored = !es_upcast_enabled;
	state->reader = es_reader_begin(&state->read, ss->ps.state->es_snapshot);
	state->restart = false;
	MemoryContextSwitchTo(old_context);
}

/*
 * The event as one value.
 */
static Datum
es_eventscan_whole(EsEventScanState *state, const Datum *columns)
{
	TupleDesc	desc = state->row_type;
	Datum	   *values = palloc0(desc->natts * sizeof(Datum));
	bool	   *isnull = palloc(desc->natts * sizeof(bool));

	memset(isnull, true, desc->natts);
	es_event_nulls(columns, isnull);
	memcpy(values, columns, Min(desc->natts, Natts_es_out) * sizeof(Datum));
	return HeapTupleGetDatum(heap_form_tuple(desc, values, isnull));
}

/*
 * The next event, in the scan's slot.
 */
static TupleTableSlot *
es_eventscan_next(ScanState *node)
{
	EsEventScanState *state = (EsEventScanState *) node;
	TupleTableSlot *slot = node->ss_ScanTupleSlot;
	TupleTableSlot *row;

	if (unlikely(state->reader == NULL))
		es_eventscan_open(state);
	else if (unlikely(state->restart))
	{
		es_reader_restart(state->reader);
		state->restart = false;
	}

	/* which columns are null stays as it is, but for two */
	ExecClearTuple(slot);
	row = es_reader_next(state->reader,
						 !ScanDirectionIsBackward(node->ps.state->es_direction));
	if (row == NULL)
		return slot;
	if (state->used)
	{
		MemoryContext old_context =
			MemoryContextSwitchTo(node->ps.ps_ExprContext->ecxt_per_tuple_memory);

		es_columns_get(state->columns, state->reader, row, slot->tts_values,
					   slot->tts_isnull);
		if (state->row_type != NULL)
			slot->tts_values[ES_WHOLE_ROW - 1] = es_eventscan_whole(state, slot->tts_values);
		MemoryContextSwitchTo(old_context);
	}
	return ExecStoreVirtualTuple(slot);
}

/*
 * What the query has locked is looked at again.  There is no row of ours to be
 * looked at, see es_eventscan_call, so all that are joined with it come again.
 */
static bool
es_eventscan_recheck(ScanState *node, TupleTableSlot *slot)
{
	slot = es_eventscan_next(node);
	return !TupIsNull(slot);
}

static TupleTableSlot *
es_eventscan_exec(CustomScanState *node)
{
	return ExecScan(&node->ss, es_eventscan_next, es_eventscan_recheck);
}

static void
es_eventscan_end(CustomScanState *node)
{
	EsEventScanState *state = (EsEventScanState *) node;

	if (state->reader != NULL)
		es_reader_end(state->reader);
	MemoryContextDelete(state->context);
}

static void
es_eventscan_rescan(CustomScanState *node)
{
	EsEventScanState *state = (EsEventScanState *) node;

	if (state->reader != NULL)
	{
		if (bms_overlap(node->ss.ps.chgParam, state->params))
		{
			es_reader_end(state->reader);
			state->reader = NULL;
		}
		else
			state->restart = true;
	}
	ExecScanReScan(&node->ss);
}

/*
 * EXPLAIN: the arguments that choose something, by name.
 */
static void
es_eventscan_explain(CustomScanState *node, List *ancestors, ExplainState *es)
{
	EsEventScanState *state = (EsEventScanState *) node;
	CustomScan *scan = (CustomScan *) node->ss.ps.plan;
	FuncExpr   *call = linitial_node(FuncExpr, scan->custom_exprs);
	List	   *context = set_deparse_context_plan(es->deparse_cxt, node->ss.ps.plan, ancestors);
	bool		prefix = list_length(es->rtable) > 1 || es->verbose;
	ListCell   *lc;
	int			n = 0;

	foreach(lc, call->args)
	{
		const char *label = state->function->labels[n];
		Node	   *arg = lfirst(lc);

		if (IsA(arg, Const) &&
			(((Const *) arg)->constisnull ||
			 (n == state->function->backward && !DatumGetBool(((Const *) arg)->constvalue))))
			 /* the default */ ;
		else
			ExplainPropertyText(label, deparse_expression(arg, context, prefix, false), es);
		n++;
	}
	if (es->analyze && state->reader != NULL &&
		es_reader_blocked(state->reader).position != 0)
		ExplainPropertyInteger("Stopped Before Position", NULL,
							   es_reader_blocked(state->reader).position, es);
}

/*
 * Called once per process, from _PG_init.
 */
void
es_eventscan_init(void)
{
	const EsReadFunction *function;

	for (int i = 0; (function = es_read_function_get(i)) != NULL; i++)
	{
		Assert(i < ES_READ_MAX_FUNCTIONS);
		es_eventscan_scan_methods[i].CustomName = function->scan_name;
		es_eventscan_scan_methods[i].CreateCustomScanState = es_eventscan_create_state;
		RegisterCustomScanMethods(&es_eventscan_scan_methods[i]);
	}
	es_prev_set_rel_pathlist = set_rel_pathlist_hook;
	set_rel_pathlist_hook = es_eventscan_set_rel_pathlist;
}
