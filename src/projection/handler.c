/*-------------------------------------------------------------------------
 * projection/handler.c
 *	  Functions of the user that projections call: check them, call them.
 *
 * A handler is kept as its qualified signature, because an OID would not
 * survive dump and restore; it is looked up and checked again for each slice.
 *
 * A handler always runs as the projection's owner.  The worker is connected
 * as that role.  When somebody else (a member of the role, a superuser) runs
 * the projection in his own session, the user is switched for the call, and
 * as a security-restricted operation: what the handler leaves behind, such as
 * deferred triggers, would be executed at commit with the rights of the
 * session.  Settings that it changes are put back in either case.
 *
 * Handlers are called in an atomic context: they cannot commit.
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "catalog/dependency.h"
#include "catalog/namespace.h"
#include "catalog/pg_proc.h"
#include "catalog/pg_type.h"
#include "funcapi.h"
#include "miscadmin.h"
#include "pgstat.h"
#include "utils/acl.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/fmgrprotos.h"
#include "utils/guc.h"
#include "utils/lsyscache.h"
#include "utils/regproc.h"
#include "utils/syscache.h"

#include "base/compat.h"
#include "base/errors.h"
#include "base/result.h"
#include "log/event.h"
#include "projection/projection.h"

PG_FUNCTION_INFO_V1(es_is_replaying);

/* the user and settings of before a handler ran */
typedef struct EsHandlerUser
{
	Oid			user;
	int			context;
	int			guc_level;
} EsHandlerUser;

struct EsHandler
{
	FmgrInfo	function;
	Oid			event_type;		/* OID of es_event */
	TupleDesc	desc;			/* of es_event */
	bool		takes_array;
	EsHandlerUser before;
};

static bool es_in_handler = false;
static bool es_replaying = false;

/*
 * Is a handler running in this session?
 */
bool
es_handler_active(void)
{
	return es_in_handler;
}

/*
 * es_is_replaying() RETURNS boolean
 *
 * Inside a handler: has the event, or the slice, been applied before, by this
 * projection or the version of it that this one is to replace?  False
 * everywhere else.
 */
Datum
es_is_replaying(PG_FUNCTION_ARGS)
{
	PG_RETURN_BOOL(es_in_handler && es_replaying);
}

/*
 * The es_event type behind a handler's argument type.
 *
 * Result: InvalidOid when it is neither es_event nor es_event[].
 */
static Oid
es_handler_event_type(Oid argtype, bool *is_array)
{
	Oid			element = get_element_type(argtype);
	Oid			type = OidIsValid(element) ? element : argtype;
	HeapTuple	tuple = SearchSysCache1(TYPEOID, ObjectIdGetDatum(type));
	bool		matches = false;

	if (HeapTupleIsValid(tuple))
	{
		Form_pg_type form = (Form_pg_type) GETSTRUCT(tuple);

		matches = form->typtype == TYPTYPE_COMPOSITE &&
			strcmp(NameStr(form->typname), "es_event") == 0;
		ReleaseSysCache(tuple);
	}
	if (!matches ||
		getExtensionOfObject(TypeRelationId, type) != es_store_extension())
		return InvalidOid;
	*is_array = OidIsValid(element);
	return type;
}

/*
 * Is this function one that a projection can call, and may its owner?
 *
 * argument		for messages
 * takes_events	f(es_event) or f(es_event[]); otherwise f()
 * event_type, is_array		results, may be NULL
 *
 * Errors: 22023, 42501, 42883.
 */
static void
es_handler_validate(Oid function, const char *argument, Oid owner, bool takes_events,
					Oid *event_type, bool *is_array)
{
	HeapTuple	tuple = SearchSysCache1(PROCOID, ObjectIdGetDatum(function));
	Form_pg_proc form;
	Oid			type = InvalidOid;
	bool		array = false;
	const char *complaint = NULL;

	if (!HeapTupleIsValid(tuple))
		ereport(ERROR,
				errcode(ERRCODE_UNDEFINED_FUNCTION),
				errmsg("function with OID %u does not exist", function));
	form = (Form_pg_proc) GETSTRUCT(tuple);
	if (form->prokind != PROKIND_FUNCTION)
		complaint = "It must be a function, not a procedure, aggregate or window function.";
	else if (form->proretset)
		complaint = "It must not return a set.";
	else if (takes_events)
	{
		if (form->pronargs == 1)
			type = es_handler_event_type(form->proargtypes.values[0], &array);
		if (!OidIsValid(type))
			complaint = "It must take one argument of type es_event or es_event[].";
	}
	else if (form->pronargs != 0)
		complaint = "It must take no arguments.";
	ReleaseSysCache(tuple);

	if (complaint != NULL)
		ereport(ERROR,
				errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				errmsg("invalid value for \"%s\": function %s", argument,
					   format_procedure(function)),
				errdetail("%s", complaint));
	if (!es_may_execute(function, owner))
		ereport(ERROR,
				errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
				errmsg("permission denied for function %s", format_procedure(function)),
				errdetail("The projection's owner \"%s\" must be allowed to execute it.",
						  GetUserNameFromId(owner, true)));
	if (event_type != NULL)
	{
		*event_type = type;
		*is_array = array;
	}
}

/*
 * Check a function that a projection is to call.
 *
 * is_stored	it will be called by other sessions, where a function of that
 *				name in a temporary schema would be somebody else's
 *
 * Result: its signature.
 */
char *
es_handler_check(Oid function, const char *argument, Oid owner, bool takes_events,
				 bool is_stored)
{
	es_handler_validate(function, argument, owner, takes_events, NULL, NULL);
	if (is_stored && isAnyTempNamespace(get_func_namespace(function)))
		ereport(ERROR,
				errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				errmsg("invalid value for \"%s\": function %s", argument,
					   format_procedure(function)),
				errdetail("It must not be temporary."));
	return format_procedure_qualified(function);
}

static Oid
es_handler_resolve(const char *signature)
{
	return DatumGetObjectId(DirectFunctionCall1(regprocedurein,
												CStringGetDatum(signature)));
}

/*
 * Become the projection's owner, until es_handler_leave.
 */
static void
es_handler_enter(EsProjection *projection, EsHandlerUser *before)
{
	if (!OidIsValid(projection->owner_oid))
		ereport(ERROR,
				errcode(ERRCODE_UNDEFINED_OBJECT),
				errmsg("role \"%s\", the owner of projection \"%s\", does not exist",
					   projection->owner, projection->name));
	GetUserIdAndSecContext(&before->user, &before->context);
	if (before->user != projection->owner_oid)
		SetUserIdAndSecContext(projection->owner_oid,
							   before->context | SECURITY_LOCAL_USERID_CHANGE |
							   SECURITY_RESTRICTED_OPERATION);
	before->guc_level = NewGUCNestLevel();
}

static void
es_handler_leave(EsHandlerUser *before)
{
	AtEOXact_GUC(false, before->guc_level);
	SetUserIdAndSecContext(before->user, before->context);
}

/*
 * Look up the handler of a projection and become its owner, until
 * es_handler_end.
 *
 * Result: in the current memory context.
 */
EsHandler *
es_handler_begin(EsProjection *projection)
{
	EsHandler  *handler = palloc0(sizeof(EsHandler));
	Oid			function;
	const EsStore *store;

	es_handler_enter(projection, &handler->before);

	/* events are handed to those only who may read them */
	store = es_store_get();
	if (pg_class_aclcheck(store->event, projection->owner_oid, ACL_SELECT) != ACLCHECK_OK)
		ereport(ERROR,
				errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
				errmsg("permission denied for the events of the store"),
				errdetail("The owner \"%s\" of projection \"%s\" must be allowed to read them; see es_grant.",
						  projection->owner, projection->name));

	function = es_handler_resolve(projection->handler);
	es_handler_validate(function, "handler", projection->owner_oid, true,
						&handler->event_type, &handler->takes_array);
	fmgr_info(function, &handler->function);
	handler->desc = es_result_type_desc(handler->event_type, es_out_attributes, Natts_es_out);
	return handler;
}

bool
es_handler_takes_array(EsHandler *handler)
{
	return handler->takes_array;
}

/*
 * An es_event, in the current memory context.
 */
Datum
es_handler_event(EsHandler *handler, Datum *values)
{
	bool		isnull[Natts_es_out];

	es_event_nulls(values, isnull);
	return HeapTupleGetDatum(heap_form_tuple(handler->desc, values, isnull));
}

/*
 * An es_event[] of such.
 */
Datum
es_handler_array(EsHandler *handler, Datum *events, int nevents)
{
	return PointerGetDatum(construct_array(events, nevents, handler->event_type,
										   -1, false, TYPALIGN_DOUBLE));
}

/*
 * Call a function, noting that a handler runs.
 */
static void
es_handler_invoke(FmgrInfo *function, int nargs, Datum argument, bool replaying)
{
	LOCAL_FCINFO(fcinfo, 1);
	PgStat_FunctionCallUsage usage;

	InitFunctionCallInfoData(*fcinfo, function, nargs, InvalidOid, NULL, NULL);
	fcinfo->args[0].value = argument;
	fcinfo->args[0].isnull = false;

	Assert(!es_in_handler);
	es_in_handler = true;
	es_replaying = replaying;
	PG_TRY();
	{
		pgstat_init_function_usage(fcinfo, &usage);
		(void) FunctionCallInvoke(fcinfo);
		pgstat_end_function_usage(&usage, true);
	}
	PG_FINALLY();
	{
		es_in_handler = false;
	}
	PG_END_TRY();
}

/*
 * Give the handler an event, or an array of them.
 */
void
es_handler_call(EsHandler *handler, Datum argument, bool replaying)
{
	es_handler_invoke(&handler->function, 1, argument, replaying);
}

void
es_handler_end(EsHandler *handler)
{
	es_handler_leave(&handler->before);
}

/*
 * Within PG_CATCH: report a handler's failure to the session as VE006.
 *
 * What a retry may cure, what the session itself was told to do, and what is
 * not the handler's fault keeps its own code.
 */
void
es_handler_rethrow(EsProjection *projection, EsApplied *result, MemoryContext context)
{
	ErrorData  *error;
	int			category;

	MemoryContextSwitchTo(context);
	error = CopyErrorData();
	category = ERRCODE_TO_CATEGORY(error->sqlerrcode);
	if (result->phase == ES_APPLY_SETUP ||
		category == ERRCODE_TO_CATEGORY(ERRCODE_T_R_SERIALIZATION_FAILURE) ||
		category == ERRCODE_TO_CATEGORY(ERRCODE_INSUFFICIENT_RESOURCES) ||
		category == ERRCODE_TO_CATEGORY(ERRCODE_OPERATOR_INTERVENTION) ||
		error->sqlerrcode == ERRCODE_LOCK_NOT_AVAILABLE ||
		error->sqlerrcode == ERRCODE_ES_USER_FUNCTION)
		PG_RE_THROW();

	FlushErrorState();
	ereport(ERROR,
			errcode(ERRCODE_ES_USER_FUNCTION),
			errmsg("handler of projection \"%s\" failed: %s", projection->name,
				   error->message ? error->message : "unknown error"),
			errdetail("sqlstate=%s%s%s%s", unpack_sql_state(error->sqlerrcode),
					  result->fail_position == 0 ? "" :
					  psprintf(" position=" INT64_FORMAT, result->fail_position),
					  error->detail ? " detail: " : "", error->detail ? error->detail : ""),
			error->context ? errcontext("%s", error->context) : 0);
	pg_unreachable();
}

/*
 * Call a reset or switch handler, f(), as the projection's owner.
 *
 * Errors: VE006 when it fails, see es_handler_rethrow.
 */
void
es_handler_call_plain(EsProjection *projection, const char *signature)
{
	MemoryContext context = CurrentMemoryContext;
	EsApplied	result = {.phase = ES_APPLY_EVENT};
	EsHandlerUser before;
	FmgrInfo	function;
	Oid			oid;

	es_handler_enter(projection, &before);
	oid = es_handler_resolve(signature);
	es_handler_validate(oid, "handler", projection->owner_oid, false, NULL, NULL);
	fmgr_info(oid, &function);
	PG_TRY();
	{
		es_handler_invoke(&function, 0, (Datum) 0, false);
	}
	PG_CATCH();
	{
		es_handler_rethrow(projection, &result, context);
	}
	PG_END_TRY();
	es_handler_leave(&before);
}
