/*-------------------------------------------------------------------------
 * base/args.c
 *	  Check and unpack SQL arguments that are common to several functions.
 *
 * A NULL where a value is needed is 22004, anything else that is wrong is
 * 22023, a limit is 54000.  Within arrays the error names the element,
 * counted from 1.
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <stdarg.h>

#include "catalog/pg_proc.h"
#include "catalog/pg_type.h"
#include "mb/pg_wchar.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"
#include "utils/regproc.h"
#include "utils/syscache.h"
#include "utils/varlena.h"

#include "base/args.h"
#include "base/compat.h"

/* longest interval: 100 years */
#define ES_MAX_INTERVAL		(INT64CONST(36525) * USECS_PER_DAY)

/* es_any() and es_exists() of event_store 0.1 */
#define ES_0_1_ANY_VERSION		INT64CONST(-1)
#define ES_0_1_STREAM_EXISTS	INT64CONST(-2)

/*
 * Raise an error about an argument.
 *
 * element		1-based element of an array argument, 0 = not an array
 * fmt			a full sentence for the detail
 */
void
es_arg_error(int sqlstate, const char *argument, int element, const char *fmt,...)
{
	StringInfoData detail;

	initStringInfo(&detail);
	if (element > 0)
		appendStringInfo(&detail, "Element %d: ", element);
	for (;;)
	{
		va_list		args;
		int			needed;

		va_start(args, fmt);
		needed = appendStringInfoVA(&detail, fmt, args);
		va_end(args);
		if (needed == 0)
			break;
		enlargeStringInfo(&detail, needed);
	}

	if (sqlstate == ERRCODE_NULL_VALUE_NOT_ALLOWED)
		ereport(ERROR,
				errcode(sqlstate),
				errmsg("\"%s\" must not be null", argument),
				errdetail_internal("%s", detail.data));
	ereport(ERROR,
			errcode(sqlstate),
			errmsg("invalid value for \"%s\"", argument),
			errdetail_internal("%s", detail.data));
}

/*
 * Refuse a NULL argument.
 */
void
es_arg_required(FunctionCallInfo fcinfo, int n, const char *argument)
{
	if (PG_ARGISNULL(n))
		ereport(ERROR,
				errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
				errmsg("\"%s\" must not be null", argument));
}

/*
 * Check a name: 1 to ES_NAME_MAX bytes, no control characters.
 */
void
es_check_name(const char *argument, int element, const char *name, int len)
{
	bool		utf8 = GetDatabaseEncoding() == PG_UTF8;

	if (len == 0)
		es_arg_error(ERRCODE_INVALID_PARAMETER_VALUE, argument, element,
					 "A name must not be empty.");
	if (len > ES_NAME_MAX)
		es_arg_error(ERRCODE_INVALID_PARAMETER_VALUE, argument, element,
					 "A name has at most %d bytes, this one has %d.", ES_NAME_MAX, len);
	for (int i = 0; i < len; i++)
	{
		unsigned char c = name[i];

		/* C0, DEL, and in UTF-8 also C1 (U+0080 to U+009F) */
		if (c < 0x20 || c == 0x7f ||
			(utf8 && c == 0xc2 && i + 1 < len && (unsigned char) name[i + 1] < 0xa0))
			es_arg_error(ERRCODE_INVALID_PARAMETER_VALUE, argument, element,
						 "A name must not contain control characters; byte %d is one.",
						 i + 1);
	}
}

/*
 * A category is a name without '-': otherwise no stream could belong to it.
 * Streams whose names begin with '-' are of category "".
 */
static void
es_check_category(const char *argument, int element, const char *name, int len)
{
	const char *dash = memchr(name, '-', len);

	if (len > 0)
		es_check_name(argument, element, name, len);
	if (dash == NULL)
		return;

	/* what KurrentDB calls the stream of a category */
	if (len > 4 && memcmp(name, "$ce-", 4) == 0 && memchr(name + 4, '-', len - 4) == NULL)
		ereport(ERROR,
				errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				errmsg("invalid value for \"%s\"", argument),
				errdetail("\"%.*s\" is no category.", len, name),
				errhint("Write the category alone: \"%.*s\".", len - 4, name + 4));
	es_arg_error(ERRCODE_INVALID_PARAMETER_VALUE, argument, element,
				 "A category does not contain \"-\"; it is the part of a stream's name before that.");
}

/*
 * A required text argument that is a name; not zero-terminated.
 */
const char *
es_arg_name(FunctionCallInfo fcinfo, int n, const char *argument, int *len)
{
	text	   *value;

	es_arg_required(fcinfo, n, argument);
	value = PG_GETARG_TEXT_PP(n);
	*len = VARSIZE_ANY_EXHDR(value);
	es_check_name(argument, 0, VARDATA_ANY(value), *len);
	return VARDATA_ANY(value);
}

/*
 * A required text argument that is a category; not zero-terminated.
 */
const char *
es_arg_category(FunctionCallInfo fcinfo, int n, const char *argument, int *len)
{
	text	   *value;

	es_arg_required(fcinfo, n, argument);
	value = PG_GETARG_TEXT_PP(n);
	*len = VARSIZE_ANY_EXHDR(value);
	es_check_category(argument, 0, VARDATA_ANY(value), *len);
	return VARDATA_ANY(value);
}

/*
 * A required text argument that is a name, as text, to be passed to a statement.
 */
Datum
es_arg_name_datum(FunctionCallInfo fcinfo, int n, const char *argument)
{
	int			len;
	const char *name = es_arg_name(fcinfo, n, argument, &len);

	return PointerGetDatum(cstring_to_text_with_len(name, len));
}

static int64
es_check_range(const char *argument, int64 value, int64 min, int64 max)
{
	if (value < min)
		es_arg_error(ERRCODE_INVALID_PARAMETER_VALUE, argument, 0,
					 "It must be at least " INT64_FORMAT ", not " INT64_FORMAT ".", min, value);
	if (value > max)
		es_arg_error(ERRCODE_INVALID_PARAMETER_VALUE, argument, 0,
					 "It must be at most " INT64_FORMAT ", not " INT64_FORMAT ".", max, value);
	return value;
}

/*
 * A required bigint argument.
 */
int64
es_arg_int64(FunctionCallInfo fcinfo, int n, const char *argument, int64 min, int64 max)
{
	es_arg_required(fcinfo, n, argument);
	return es_check_range(argument, PG_GETARG_INT64(n), min, max);
}

/*
 * A required integer argument.
 */
int32
es_arg_int32(FunctionCallInfo fcinfo, int n, const char *argument, int32 min, int32 max)
{
	es_arg_required(fcinfo, n, argument);
	return (int32) es_check_range(argument, PG_GETARG_INT32(n), min, max);
}

/*
 * An optional bigint argument, null_value when NULL.
 */
int64
es_arg_int64_default(FunctionCallInfo fcinfo, int n, const char *argument,
					 int64 min, int64 max, int64 null_value)
{
	if (PG_ARGISNULL(n))
		return null_value;
	return es_check_range(argument, PG_GETARG_INT64(n), min, max);
}

/*
 * OID of a function, whoever may use its schema; InvalidOid when there is none.
 */
Oid
es_function_oid(Oid schema, const char *name, int nargs, const Oid *argtypes)
{
	return GetSysCacheOid3(PROCNAMEARGSNSP, Anum_pg_proc_oid,
						   CStringGetDatum(name),
						   PointerGetDatum(buildoidvector(argtypes, nargs)),
						   ObjectIdGetDatum(schema));
}

/*
 * What to give instead of an expected version that is refused.  The numbers
 * in parentheses are those of KurrentDB and, the first, of message-db.
 */
static int
es_expected_hint(void)
{
	return errhint("Give 0 for a stream that must not exist yet (-1 elsewhere), es_any() for no check (-2 elsewhere), es_exists() for a stream that must exist (-4 elsewhere), or the version that was read.");
}

/*
 * Raise an error about an expected version.
 *
 * element		1-based element of an array argument, 0 = not an array
 * reason		a full sentence for the detail
 */
void
es_expected_error(int sqlstate, const char *argument, int element, const char *reason)
{
	ereport(ERROR,
			errcode(sqlstate),
			sqlstate == ERRCODE_NULL_VALUE_NOT_ALLOWED ?
			errmsg("\"%s\" must not be null", argument) :
			errmsg("invalid value for \"%s\"", argument),
			element > 0 ? errdetail_internal("Element %d: %s", element, reason) :
			errdetail_internal("%s", reason),
			es_expected_hint());
}

/*
 * Check an expected version: 0 and up, es_any() or es_exists().
 *
 * A negative number of another store must not pass for something else than
 * it meant there.
 *
 * element		as above
 */
void
es_check_expected(const char *argument, int element, int64 expected)
{
	if (expected >= 0 || expected == ES_ANY_VERSION || expected == ES_STREAM_EXISTS)
		return;
	es_expected_error(ERRCODE_INVALID_PARAMETER_VALUE, argument, element,
					  psprintf(INT64_FORMAT " is no version of a stream.", expected));
}

/*
 * A required argument that is an expected version.
 *
 * Between the installation of this library and ALTER EXTENSION ... UPDATE the
 * database's es_any() and es_exists() are still those of 0.1.
 */
int64
es_arg_expected(FunctionCallInfo fcinfo, int n, const char *argument)
{
	int64		expected;

	if (PG_ARGISNULL(n))
		ereport(ERROR,
				errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
				errmsg("\"%s\" must not be null", argument),
				es_expected_hint());
	expected = PG_GETARG_INT64(n);
	if (expected == ES_0_1_ANY_VERSION || expected == ES_0_1_STREAM_EXISTS)
	{
		Oid			any = es_function_oid(get_func_namespace(fcinfo->flinfo->fn_oid),
										  "es_any", 0, NULL);

		if (OidIsValid(any) &&
			DatumGetInt64(OidFunctionCall0(any)) == ES_0_1_ANY_VERSION)
			return expected == ES_0_1_ANY_VERSION ? ES_ANY_VERSION : ES_STREAM_EXISTS;
	}
	es_check_expected(argument, 0, expected);
	return expected;
}

/*
 * Microseconds of an interval, a month counting 30 days, within sane bounds.
 */
int64
es_interval_us(const Interval *interval)
{
	double		us = (double) interval->time +
		(double) interval->day * USECS_PER_DAY +
		(double) interval->month * DAYS_PER_MONTH * USECS_PER_DAY;

	if (us > (double) ES_MAX_INTERVAL)
		return ES_MAX_INTERVAL;
	if (us < -(double) ES_MAX_INTERVAL)
		return -ES_MAX_INTERVAL;
	return (int64) us;
}

/*
 * A required interval argument in microseconds.
 *
 * min			0, or 1 for one that must be positive
 */
int64
es_arg_interval(FunctionCallInfo fcinfo, int n, const char *argument, int64 min)
{
	int64		us;

	es_arg_required(fcinfo, n, argument);
	us = es_interval_us(PG_GETARG_INTERVAL_P(n));
	if (us < min)
		es_arg_error(ERRCODE_INVALID_PARAMETER_VALUE, argument, 0,
					 min == 0 ? "It must not be negative." : "It must be positive.");
	return us;
}

/*
 * A required interval argument that says how long to wait: until when that is.
 */
TimestampTz
es_arg_deadline(FunctionCallInfo fcinfo, int n, const char *argument)
{
	return GetCurrentTimestamp() + es_arg_interval(fcinfo, n, argument, 0);
}

bool
es_arg_bool(FunctionCallInfo fcinfo, int n, const char *argument)
{
	es_arg_required(fcinfo, n, argument);
	return PG_GETARG_BOOL(n);
}

/*
 * The function of that name, which says its argument types or is the only one.
 *
 * Errors: 42883 when there is none, 42725 when there are several.
 */
static Oid
es_function_named(const char *name)
{
	bool		quoted = false;
	List	   *names;
	FuncCandidateList found;

	/* or its OID, which regprocedure takes, too */
	if (name[0] != '\0' && name[strspn(name, "0123456789")] == '\0')
		return DatumGetObjectId(DirectFunctionCall1(regprocedurein, CStringGetDatum(name)));
	for (const char *p = name; *p != '\0'; p++)
	{
		if (*p == '"')
			quoted = !quoted;
		else if (*p == '(' && !quoted)
			return DatumGetObjectId(DirectFunctionCall1(regprocedurein, CStringGetDatum(name)));
	}

	names = textToQualifiedNameList(cstring_to_text(name));
	found = es_function_candidates(names);
	if (found == NULL)
		ereport(ERROR,
				errcode(ERRCODE_UNDEFINED_FUNCTION),
				errmsg("function \"%s\" does not exist", name));
	if (found->next != NULL)
	{
		StringInfoData list;

		initStringInfo(&list);
		for (FuncCandidateList f = found; f != NULL; f = f->next)
			appendStringInfo(&list, "%s%s", f == found ? "" : ", ", format_procedure(f->oid));
		ereport(ERROR,
				errcode(ERRCODE_AMBIGUOUS_FUNCTION),
				errmsg("more than one function named \"%s\"", name),
				errdetail("There are %s.", list.data),
				errhint("Write the argument types of the one that you mean, too."));
	}
	return found->oid;
}

/*
 * A function, declared as regprocedure, or as text for its name.
 */
Oid
es_arg_function(FunctionCallInfo fcinfo, int n, const char *argument)
{
	Oid		   *argtypes;
	int			nargs;

	es_arg_required(fcinfo, n, argument);
	(void) get_func_signature(fcinfo->flinfo->fn_oid, &argtypes, &nargs);
	return argtypes[n] == TEXTOID ? es_function_named(text_to_cstring(PG_GETARG_TEXT_PP(n))) :
		PG_GETARG_OID(n);
}

Jsonb *
es_arg_jsonb(FunctionCallInfo fcinfo, int n, const char *argument)
{
	es_arg_required(fcinfo, n, argument);
	return PG_GETARG_JSONB_P(n);
}

/*
 * Elements of a required one-dimensional array argument.
 *
 * elmlen, elmalign		storage of the element type
 *
 * Result: their number.
 */
int
es_arg_array(FunctionCallInfo fcinfo, int n, const char *argument, Oid elmtype,
			 int elmlen, char elmalign, Datum **values, bool **isnull)
{
	ArrayType  *array;
	int			count;

	es_arg_required(fcinfo, n, argument);
	array = PG_GETARG_ARRAYTYPE_P(n);
	if (ARR_NDIM(array) > 1)
		es_arg_error(ERRCODE_INVALID_PARAMETER_VALUE, argument, 0,
					 "The array must have one dimension, not %d.", ARR_NDIM(array));
	deconstruct_array(array, elmtype, elmlen, elmlen == sizeof(int32), elmalign,
					  values, isnull, &count);
	return count;
}

/*
 * An optional array of texts, each of which must pass a check.
 */
static int
es_arg_texts(FunctionCallInfo fcinfo, int n, const char *argument, Datum **texts,
			 void (*check) (const char *argument, int element, const char *name, int len))
{
	bool	   *isnull;
	int			count;

	*texts = NULL;
	if (PG_ARGISNULL(n))
		return 0;
	count = es_arg_array(fcinfo, n, argument, TEXTOID, -1, TYPALIGN_INT, texts, &isnull);
	if (*texts == NULL)
		*texts = palloc0(sizeof(Datum));
	for (int i = 0; i < count; i++)
	{
		text	   *value;

		if (isnull[i])
			es_arg_error(ERRCODE_NULL_VALUE_NOT_ALLOWED, argument, i + 1, "It is null.");
		value = DatumGetTextPP((*texts)[i]);
		check(argument, i + 1, VARDATA_ANY(value), VARSIZE_ANY_EXHDR(value));
	}
	return count;
}

/*
 * An optional array of names.
 *
 * Result: number of elements; *names is NULL for a NULL argument only.
 */
int
es_arg_names(FunctionCallInfo fcinfo, int n, const char *argument, Datum **names)
{
	return es_arg_texts(fcinfo, n, argument, names, es_check_name);
}

/*
 * An optional array of categories.
 *
 * Result: as for es_arg_names.
 */
int
es_arg_categories(FunctionCallInfo fcinfo, int n, const char *argument, Datum **names)
{
	return es_arg_texts(fcinfo, n, argument, names, es_check_category);
}
