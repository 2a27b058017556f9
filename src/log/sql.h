/*-------------------------------------------------------------------------
 * log/sql.h
 *	  Statements on the tables of the extension, with the rights of its owner.
 *-------------------------------------------------------------------------
 */
#ifndef ES_LOG_SQL_H
#define ES_LOG_SQL_H

#include "executor/spi.h"

#define ES_SQL_MAX_ARGS		12

/* a statement that is planned once per session */
typedef struct EsSql
{
	const char *text;			/* every name and operator qualified */
	int			nargs;
	Oid			types[ES_SQL_MAX_ARGS];
	SPIPlanPtr	plan;			/* made at first use, kept */
} EsSql;

/* text, number of parameters, their types */
#define ES_SQL(text_, nargs_, ...) \
	{.text = (text_), .nargs = (nargs_), .types = {__VA_ARGS__}}

/* a stretch of code that runs such statements */
typedef struct EsOwnerScope
{
	Oid			user;
	int			sec_context;
	int			guc_level;
} EsOwnerScope;

extern void es_owner_begin(EsOwnerScope *scope);
extern void es_owner_end(EsOwnerScope *scope);
extern uint64 es_sql_run(EsSql *sql, Datum *args, const char *nulls);
extern uint64 es_sql_read(EsSql *sql, Datum *args, const char *nulls);
extern uint64 es_sql_once(EsSql *sql, Datum *args, const char *nulls);
extern uint64 es_sql_latest(EsSql *sql, Datum *args, const char *nulls);
extern Datum es_sql_datum(uint64 row, int column, bool *isnull);
extern int64 es_sql_int64(uint64 row, int column, int64 null_value);
extern char *es_sql_string(uint64 row, int column);
extern int	es_sql_names(uint64 row, int column, Datum **names);

#endif							/* ES_LOG_SQL_H */
