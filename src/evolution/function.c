/*-------------------------------------------------------------------------
 * evolution/function.c
 *	  Users' functions over events: upcasters and reducers.
 *
 * Tables remember such a function by name and argument types, not by OID,
 * because of pg_dump and pg_upgrade; it is looked up when it is used.  A call
 * is an expression, planned and compiled once per backend, so that a function
 * in language SQL is inlined just as in a query.  It is compiled anew when
 * any function has changed, and for another user or search path: it runs with
 * the rights of whoever reads, and sees what he would see in a query of his.
 * Who has the rights of the function's owner anyhow, a superuser above all,
 * lays down all others for the call, and to compile it: what an admin has
 * defined must not act as the superuser who happens to read, and the planner
 * executes what is IMMUTABLE and has constant arguments.  There it may do no
 * more than a SECURITY DEFINER function that PostgreSQL does not trust: SET
 * ROLE, temporary tables, deferred triggers and settings that stay are refused
 * or undone.
 *
 * Whatever goes wrong inside is reported as VE006 and names the event; only
 * a cancelled query, a failed serialization and exhausted resources keep their
 * codes, because they say nothing about the function.
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "catalog/namespace.h"
#include "catalog/pg_authid.h"
#include "catalog/pg_language.h"
#include "catalog/pg_proc.h"
#include "catalog/pg_type.h"
#include "executor/executor.h"
#include "miscadmin.h"
#include "nodes/makefuncs.h"
#include "optimizer/optimizer.h"
#include "parser/parse_func.h"
#include "utils/acl.h"
#include "utils/builtins.h"
#include "utils/guc.h"
#include "utils/inval.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/regproc.h"
#include "utils/syscache.h"
#include "utils/varlena.h"

#include "base/compat.h"
#include "base/errors.h"
#include "evolution/function.h"
#include "log/event.h"

struct EsFunction
{
	EsFunction *next;			/* in es_functions */
	const char *what;			/* for messages: "upcaster", "reducer" */
	char	   *signature;
	int			nargs;
	Oid			argtypes[ES_FUNCTION_MAX_ARGS];
	bool		busy;			/* being called: not reentrant */
	bool		by_path;		/* what it does depends on search_path */
	uint64		generation;		/* of es_function_generation; 0 = not compiled */
	Oid			userid;			/* the reader whom it was compiled for */
	Oid			owner;			/* of the function */
	EsSearchPath *path;
	Oid			funcid;
	MemoryContext context;		/* holds what was compiled */
	ParamListInfo params;
	ExprContext *econtext;
	ExprState  *expr;
};

int			es_function_cause = 0;

/* never freed: there are only so many functions */
static EsFunction *es_functions = NULL;

/* moves whenever what was compiled may be out of date */
static uint64 es_function_generation = 1;

static void
es_function_callback(Datum arg, int cacheid, uint32 hashvalue)
{
	es_function_generation++;
}

/*
 * Called once per process, from _PG_init.
 */
void
es_function_init(void)
{
	CacheRegisterSyscacheCallback(PROCOID, es_function_callback, (Datum) 0);
	/* under that name */
	CacheRegisterSyscacheCallback(NAMESPACEOID, es_function_callback, (Datum) 0);
	/* and who may execute them */
	CacheRegisterSyscacheCallback(AUTHOID, es_function_callback, (Datum) 0);
	CacheRegisterSyscacheCallback(AUTHMEMROLEMEM, es_function_callback, (Datum) 0);
}

/*
 * Is it a function as upcasters and reducers have to be?
 */
static bool
es_function_fits(Form_pg_proc proc, int nargs, const Oid *argtypes)
{
	return proc->prokind == PROKIND_FUNCTION && !proc->proretset &&
		proc->prorettype == JSONBOID && proc->pronargs == nargs &&
		!OidIsValid(proc->provariadic) &&
		memcmp(proc->proargtypes.values, argtypes, nargs * sizeof(Oid)) == 0;
}

/*
 * How many arguments a function has; -1 if there is none.
 */
int
es_function_nargs(Oid funcid)
{
	HeapTuple	tuple = SearchSysCache1(PROCOID, ObjectIdGetDatum(funcid));
	int			result = -1;

	if (HeapTupleIsValid(tuple))
	{
		result = ((Form_pg_proc) GETSTRUCT(tuple))->pronargs;
		ReleaseSysCache(tuple);
	}
	return result;
}

/*
 * Check a function that is about to become an upcaster or reducer.
 *
 * argument		name of the SQL argument
 * immutable	must it be?
 *
 * Errors: 42883 when there is none, 42P13 for a wrong signature, 22023 when it
 * is temporary or not immutable, 42501 when the current user may not execute
 * it.
 */
void
es_function_check(Oid funcid, const char *argument, int nargs,
				  const Oid *argtypes, bool immutable)
{
	HeapTuple	tuple = SearchSysCache1(PROCOID, ObjectIdGetDatum(funcid));
	Form_pg_proc proc;

	if (!HeapTupleIsValid(tuple))
		ereport(ERROR,
				errcode(ERRCODE_UNDEFINED_FUNCTION),
				errmsg("\"%s\": function with OID %u does not exist", argument, funcid));
	proc = (Form_pg_proc) GETSTRUCT(tuple);
	if (!es_function_fits(proc, nargs, argtypes))
		ereport(ERROR,
				errcode(ERRCODE_INVALID_FUNCTION_DEFINITION),
				errmsg("function %s cannot be used for \"%s\"",
					   format_procedure(funcid), argument),
				errdetail("It must be an ordinary function of (%s%s%s) that returns jsonb.",
						  format_type_be(argtypes[0]),
						  nargs > 1 ? ", " : "",
						  nargs > 1 ? format_type_be(argtypes[1]) : ""));
	/* other sessions would call somebody else's */
	if (isAnyTempNamespace(proc->pronamespace))
		ereport(ERROR,
				errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				errmsg("function %s cannot be used for \"%s\"",
					   format_procedure(funcid), argument),
				errdetail("It must not be temporary."));
	if (immutable && proc->provolatile != PROVOLATILE_IMMUTABLE)
		ereport(ERROR,
				errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				errmsg("function %s cannot be used for \"%s\"",
					   format_procedure(funcid), argument),
				errdetail("It must be IMMUTABLE: an event looks the same whenever it is read."));
	ReleaseSysCache(tuple);

	if (!es_may_execute(funcid, GetUserId()))
		aclcheck_error(ACLCHECK_NO_PRIV, OBJECT_FUNCTION, get_func_name(funcid));
}

/*
 * The name under which a function is remembered.  The argument types stand
 * there for people; es_function_find knows them.
 */
char *
es_function_signature(Oid funcid)
{
	Oid		   *argtypes;
	int			nargs;
	StringInfoData result;

	initStringInfo(&result);
	appendStringInfo(&result, "%s(",
					 quote_qualified_identifier(get_namespace_name(get_func_namespace(funcid)),
												get_func_name(funcid)));
	(void) get_func_signature(funcid, &argtypes, &nargs);
	for (int i = 0; i < nargs; i++)
	{
		char	   *type = format_type_extended(argtypes[i], -1, 0);
		char	   *dot = strrchr(type, '.');

		appendStringInfo(&result, "%s%s", i > 0 ? ", " : "", dot != NULL ? dot + 1 : type);
	}
	appendStringInfoChar(&result, ')');
	return result.data;
}

/*
 * Look a function up by its signature.  Needs no rights on its schema, as a
 * view that calls it would need none.
 *
 * Result: InvalidOid when there is none.
 */
static Oid
es_function_find(const EsFunction *function)
{
	char	   *name = pstrdup(function->signature);
	char	   *arguments = strrchr(name, '(');
	List	   *names;
	char	   *schema;
	char	   *proname;
	Oid			namespace;

	if (arguments != NULL)
		*arguments = '\0';
	names = textToQualifiedNameList(cstring_to_text(name));
	if (list_length(names) != 2)
		return InvalidOid;
	schema = strVal(linitial(names));
	proname = strVal(lsecond(names));
	namespace = get_namespace_oid(schema, true);
	if (!OidIsValid(namespace))
		return InvalidOid;
	return GetSysCacheOid3(PROCNAMEARGSNSP, Anum_pg_proc_oid,
						   CStringGetDatum(proname),
						   PointerGetDatum(buildoidvector(function->argtypes,
														  function->nargs)),
						   ObjectIdGetDatum(namespace));
}

/*
 * The function of that signature, which need not exist.
 *
 * what		"upcaster" or "reducer", for messages
 *
 * Result: good for the life of the process.
 */
EsFunction *
es_function_get(const char *what, const char *signature, int nargs, const Oid *argtypes)
{
	EsFunction *function;
	MemoryContext old_context;

	Assert(nargs <= ES_FUNCTION_MAX_ARGS);
	for (function = es_functions; function != NULL; function = function->next)
	{
		if (strcmp(function->what, what) == 0 &&
			strcmp(function->signature, signature) == 0 &&
			function->nargs == nargs &&
			memcmp(function->argtypes, argtypes, nargs * sizeof(Oid)) == 0)
			return function;
	}

	old_context = MemoryContextSwitchTo(TopMemoryContext);
	function = palloc0(sizeof(EsFunction));
	function->what = what;
	function->signature = pstrdup(signature);
	function->nargs = nargs;
	memcpy(function->argtypes, argtypes, nargs * sizeof(Oid));
	function->next = es_functions;
	es_functions = function;
	MemoryContextSwitchTo(old_context);
	return function;
}

/*
 * Which event an error is about, for its DETAIL.
 *
 * event	as from es_event_values
 */
void
es_function_detail(StringInfo detail, const Datum *event)
{
	bool		isnull[Natts_es_out];

	es_event_nulls(event, isnull);
	appendStringInfo(detail, "event_id=%s",
					 DatumGetCString(DirectFunctionCall1(uuid_out,
														 event[Anum_es_out_event_id - 1])));
	if (!isnull[Anum_es_out_stream_id - 1])
		appendStringInfo(detail, " stream=%s version=" INT64_FORMAT,
						 TextDatumGetCString(event[Anum_es_out_stream_id - 1]),
						 DatumGetInt64(event[Anum_es_out_version - 1]));
}

/*
 * VE006 without another error below it.
 */
static void
es_function_error(const EsFunction *function, const Datum *event,
				  int sqlstate, const char *cause)
{
	StringInfoData detail;

	es_function_cause = sqlstate;
	initStringInfo(&detail);
	es_function_detail(&detail, event);
	appendStringInfo(&detail, " sqlstate=%s cause=%s", unpack_sql_state(sqlstate), cause);
	ereport(ERROR,
			errcode(ERRCODE_ES_USER_FUNCTION),
			errmsg("%s %s failed: %s", function->what, function->signature, cause),
			errdetail_internal("%s", detail.data));
}

/*
 * Report the error that was caught as VE006, or as it is.
 */
static void
es_function_rethrow(const EsFunction *function, const Datum *event)
{
	ErrorData  *edata = CopyErrorData();
	StringInfoData detail;

	/* first, or nested errors fill up the error stack */
	FlushErrorState();
	switch (ERRCODE_TO_CATEGORY(edata->sqlerrcode))
	{
		case ERRCODE_OPERATOR_INTERVENTION:
		case ERRCODE_TRANSACTION_ROLLBACK:
		case ERRCODE_INSUFFICIENT_RESOURCES:
			ReThrowError(edata);
			break;
	}
	/* an event that the function reads by itself: that is the one to name */
	if (edata->sqlerrcode == ERRCODE_ES_USER_FUNCTION)
		ReThrowError(edata);

	es_function_cause = edata->sqlerrcode;
	initStringInfo(&detail);
	es_function_detail(&detail, event);
	appendStringInfo(&detail, " sqlstate=%s cause=%s",
					 unpack_sql_state(edata->sqlerrcode), edata->message);
	if (edata->detail != NULL)
		appendStringInfo(&detail, "\n%s", edata->detail);
	ereport(ERROR,
			errcode(ERRCODE_ES_USER_FUNCTION),
			errmsg("%s %s failed: %s", function->what, function->signature, edata->message),
			errdetail_internal("%s", detail.data),
			edata->hint != NULL ? errhint("%s", edata->hint) : 0,
			edata->context != NULL ? errcontext_msg("%s", edata->context) : 0);
}

/*
 * Look up the function that is called, which may be another one than before.
 */
static void
es_function_resolve(EsFunction *function, const Datum *event)
{
	HeapTuple	tuple;
	Form_pg_proc proc;

	function->funcid = es_function_find(function);
	tuple = SearchSysCache1(PROCOID, ObjectIdGetDatum(function->funcid));
	if (!HeapTupleIsValid(tuple))
		es_function_error(function, event, ERRCODE_UNDEFINED_FUNCTION,
						  "function does not exist");
	proc = (Form_pg_proc) GETSTRUCT(tuple);
	if (!es_function_fits(proc, function->nargs, function->argtypes))
		es_function_error(function, event, ERRCODE_INVALID_FUNCTION_DEFINITION,
						  "it is not an ordinary function that returns jsonb any more");

	/* only functions in SQL are planned together with our expression */
	function->by_path = proc->prolang == SQLlanguageId;
	function->owner = proc->proowner;
	ReleaseSysCache(tuple);

	if (!es_may_execute(function->funcid, GetUserId()))
		aclcheck_error(ACLCHECK_NO_PRIV, OBJECT_FUNCTION,
					   get_func_name(function->funcid));
}

/*
 * Become the function's owner, if the reader has all that the owner may.  An
 * error leaves user and settings to the abort.
 *
 * Result: for es_function_leave; 0 = the reader stays himself.
 */
static int
es_function_enter(const EsFunction *function, Oid reader, int sec_context)
{
	if (likely(function->owner == reader) || superuser_arg(function->owner) ||
		!has_privs_of_role(reader, function->owner))
		return 0;

	SetUserIdAndSecContext(function->owner, sec_context |
						   SECURITY_LOCAL_USERID_CHANGE | SECURITY_RESTRICTED_OPERATION);
	return NewGUCNestLevel();
}

static void
es_function_leave(int guc_level, Oid reader, int sec_context)
{
	if (likely(guc_level == 0))
		return;
	AtEOXact_GUC(false, guc_level);
	SetUserIdAndSecContext(reader, sec_context);
}

/*
 * Compile the call, as whom es_function_enter has made the current user: the
 * planner inlines and executes.
 */
static void
es_function_compile(EsFunction *function, Oid reader)
{
	uint64		generation = es_function_generation;
	MemoryContext context = AllocSetContextCreate(CurrentMemoryContext,
												  "event_store function",
												  ALLOCSET_SMALL_SIZES);
	MemoryContext old_context;
	List	   *args = NIL;
	Expr	   *expr;

	for (int i = 0; i < function->nargs; i++)
	{
		Param	   *param = makeNode(Param);

		param->paramkind = PARAM_EXTERN;
		param->paramid = i + 1;
		param->paramtype = function->argtypes[i];
		param->paramtypmod = -1;
		param->paramcollid = InvalidOid;
		param->location = -1;
		args = lappend(args, param);
	}
	expr = (Expr *) makeFuncExpr(function->funcid, JSONBOID, args, InvalidOid,
								 InvalidOid, COERCE_EXPLICIT_CALL);
	expr = expression_planner(expr);

	old_context = MemoryContextSwitchTo(context);
	function->params = makeParamList(function->nargs);
	for (int i = 0; i < function->nargs; i++)
	{
		function->params->params[i].isnull = false;
		function->params->params[i].pflags = 0;
		function->params->params[i].ptype = function->argtypes[i];
	}
	function->econtext = CreateStandaloneExprContext();
	function->econtext->ecxt_param_list_info = function->params;
	function->expr = ExecInitExpr(copyObject(expr), NULL);
	function->path = es_search_path_get(context);
	MemoryContextSwitchTo(old_context);

	if (function->context != NULL)
		MemoryContextDelete(function->context);
	MemoryContextSetParent(context, TopMemoryContext);
	function->context = context;
	function->userid = reader;
	function->generation = generation;
}

/*
 * The result of a call.  It may be a constant of the expression, which goes
 * when that is compiled anew.
 */
static Datum
es_function_result(const EsFunction *function, const Datum *args, Datum result)
{
	for (int i = 0; i < function->nargs; i++)
	{
		if (result == args[i])
			return result;
	}
	return PointerGetDatum(PG_DETOAST_DATUM_COPY(result));
}

/*
 * Call a function.  The result may be an argument or lie in the current memory
 * context.
 *
 * args		none is null; jsonb or row
 * event	that an error is about, as from es_event_values
 *
 * Errors: VE006, also for a null result; 42501 when the current user may not
 * execute it.
 */
Datum
es_function_call(EsFunction *function, const Datum *args, const Datum *event)
{
	MemoryContext context = CurrentMemoryContext;
	EsFunction	nested;
	EsFunction *volatile callee = function;
	Datum		result = (Datum) 0;
	bool		isnull = true;
	bool		compiled;
	Oid			reader;
	int			sec_context;

	GetUserIdAndSecContext(&reader, &sec_context);
	if (unlikely(function->busy))
	{
		/* it reads events by itself: a copy for the length of this call */
		nested = *function;
		nested.context = NULL;
		nested.generation = 0;
		nested.busy = false;
		callee = &nested;
	}
	compiled = callee->generation == es_function_generation && callee->userid == reader;
	if (unlikely(!compiled))
	{
		callee->generation = 0;
		es_function_resolve(callee, event);
	}

	PG_TRY();
	{
		ErrorContextCallback *error_context = error_context_stack;
		EsFunction *f = callee;
		int			guc_level;

		/* what is further up is added when the error is reported anew */
		error_context_stack = NULL;
		guc_level = es_function_enter(f, reader, sec_context);
		if (unlikely(!compiled) || (f->by_path && unlikely(!es_search_path_matches(f->path))))
			es_function_compile(f, reader);
		f->busy = true;
		for (int i = 0; i < f->nargs; i++)
			f->params->params[i].value = args[i];
		f->econtext->ecxt_per_tuple_memory = context;
		result = ExecEvalExpr(f->expr, f->econtext, &isnull);
		f->busy = false;
		es_function_leave(guc_level, reader, sec_context);
		error_context_stack = error_context;
	}
	PG_CATCH();
	{
		SetUserIdAndSecContext(reader, sec_context);
		callee->busy = false;
		callee->generation = 0;
		MemoryContextSwitchTo(context);
		if (callee != function && callee->context != NULL)
			MemoryContextDelete(callee->context);
		es_function_rethrow(function, event);
	}
	PG_END_TRY();

	if (!isnull)
		result = es_function_result(function, args, result);
	if (callee != function)
		MemoryContextDelete(callee->context);
	if (isnull)
		es_function_error(function, event, ERRCODE_NULL_VALUE_NOT_ALLOWED,
						  "it returned NULL");
	return result;
}
