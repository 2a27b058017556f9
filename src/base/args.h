/*-------------------------------------------------------------------------
 * base/args.h
 *	  Check and unpack SQL arguments.
 *-------------------------------------------------------------------------
 */
#ifndef ES_BASE_ARGS_H
#define ES_BASE_ARGS_H

#include "fmgr.h"
#include "utils/jsonb.h"
#include "utils/timestamp.h"

/* bytes in the name of a stream, event type, subscription or projection */
#define ES_NAME_MAX			255

/*
 * Expected versions with a meaning of their own: es_any() and es_exists().
 * Far from -1, -2 and -4, which other stores use, each with its own meaning.
 */
#define ES_ANY_VERSION		INT64CONST(-100)
#define ES_STREAM_EXISTS	INT64CONST(-101)

extern Oid	es_function_oid(Oid schema, const char *name, int nargs, const Oid *argtypes);
extern void es_arg_required(FunctionCallInfo fcinfo, int n, const char *argument);
extern const char *es_arg_name(FunctionCallInfo fcinfo, int n, const char *argument,
							   int *len);
extern const char *es_arg_category(FunctionCallInfo fcinfo, int n, const char *argument,
								   int *len);
extern Datum es_arg_name_datum(FunctionCallInfo fcinfo, int n, const char *argument);
extern void es_check_name(const char *argument, int element, const char *name, int len);
extern int64 es_arg_int64(FunctionCallInfo fcinfo, int n, const char *argument,
						  int64 min, int64 max);
extern int64 es_arg_int64_default(FunctionCallInfo fcinfo, int n, const char *argument,
								  int64 min, int64 max, int64 null_value);
extern void es_expected_error(int sqlstate, const char *argument, int element,
							  const char *reason);
extern void es_check_expected(const char *argument, int element, int64 expected);
extern int64 es_arg_expected(FunctionCallInfo fcinfo, int n, const char *argument);
extern bool es_arg_bool(FunctionCallInfo fcinfo, int n, const char *argument);
extern int32 es_arg_int32(FunctionCallInfo fcinfo, int n, const char *argument,
						  int32 min, int32 max);
extern int64 es_arg_interval(FunctionCallInfo fcinfo, int n, const char *argument,
							 int64 min);
extern TimestampTz es_arg_deadline(FunctionCallInfo fcinfo, int n, const char *argument);
extern int64 es_interval_us(const Interval *interval);
extern Oid	es_arg_function(FunctionCallInfo fcinfo, int n, const char *argument);
extern Jsonb *es_arg_jsonb(FunctionCallInfo fcinfo, int n, const char *argument);
extern int	es_arg_names(FunctionCallInfo fcinfo, int n, const char *argument,
						 Datum **names);
extern int	es_arg_categories(FunctionCallInfo fcinfo, int n, const char *argument,
							  Datum **names);
extern int	es_arg_array(FunctionCallInfo fcinfo, int n, const char *argument, Oid elmtype,
						 int elmlen, char elmalign, Datum **values, bool **isnull);
extern void es_arg_error(int sqlstate, const char *argument, int element,
						 const char *fmt,...) pg_attribute_printf(4, 5);

#endif							/* ES_BASE_ARGS_H */
