/*-------------------------------------------------------------------------
 * store.c
 *	  The connection to a database with an event store.
 *
 *	  One connection, used by one thread, one statement at a time.  Its
 *	  transactions are read-only: looking at a store changes nothing, and the
 *	  server sees to that.  Only store_act() asks for one that writes.  A
 *	  connection that is lost is made anew by store_reconnect(), which the
 *	  caller calls whenever it would look again.
 *-------------------------------------------------------------------------
 */
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "store.h"

/* no look may take longer; what the user has asked for may */
#define LOOK_TIMEOUT "30s"

volatile bool store_interrupted = false;

static PGcancel *volatile cancel = NULL;

static void
interrupt(int signo)
{
	char		ignored[256];

	(void) signo;
	store_interrupted = true;
	if (cancel != NULL)
		PQcancel(cancel, ignored, sizeof(ignored));
}

static void
catch_signals(PGconn *conn)
{
	struct sigaction action = {.sa_handler = interrupt};
	PGcancel   *old = cancel;

	cancel = PQgetCancel(conn);
	PQfreeCancel(old);
	/* without SA_RESTART, so that a wait for a key ends, too */
	sigaction(SIGINT, &action, NULL);
	sigaction(SIGTERM, &action, NULL);
	signal(SIGPIPE, SIG_IGN);
}

/* An error's text in one line, its DETAIL and HINT included; malloc'd. */
char *
store_error(Store *store, const PGresult *result)
{
	const char *primary = PQresultErrorField(result, PG_DIAG_MESSAGE_PRIMARY);
	const char *detail = PQresultErrorField(result, PG_DIAG_MESSAGE_DETAIL);
	const char *hint = PQresultErrorField(result, PG_DIAG_MESSAGE_HINT);
	char	   *text;

	if (primary == NULL)
		primary = PQerrorMessage(store->conn);
	if (asprintf(&text, "%s%s%s%s%s", primary, detail ? ". " : "", detail ? detail : "",
				 hint ? " " : "", hint ? hint : "") < 0)
		abort();
	for (char *c = text; *c != '\0'; c++)
		if (*c == '\n')
			*c = c[1] == '\0' ? '\0' : ' ';
	return text;
}

static void
forget(Store *store)
{
	PQclear(store->readable);
	free(store->schema);
	free(store->version);
	free(store->lost);
	store->readable = NULL;
	store->schema = store->version = store->lost = NULL;
}

/*
 * What is to be known of a new connection.  Returns NULL, or why it will not
 * do, malloc'd.
 */
static char *
acquaint(Store *store)
{
	PGresult   *result;
	char	   *error = NULL;

	forget(store);
	result = PQexec(store->conn, "SET default_transaction_read_only = on;"
					"SET statement_timeout = '" LOOK_TIMEOUT "';"
					"SET search_path = pg_catalog;"
					"SELECT quote_ident(n.nspname), e.extversion"
					"  FROM pg_extension e JOIN pg_namespace n ON n.oid = e.extnamespace"
					" WHERE e.extname = 'event_store'");
	if (PQresultStatus(result) != PGRES_TUPLES_OK)
		error = store_error(store, result);
	else if (PQntuples(result) == 0)
	{
		if (asprintf(&error, "database \"%s\" has no event store: CREATE EXTENSION event_store", PQdb(store->conn)) < 0)
			abort();
	}
	else
	{
		store->schema = strdup(PQgetvalue(result, 0, 0));
		store->version = strdup(PQgetvalue(result, 0, 1));
		if (strcmp(store->version, "0.1") == 0)
			error = strdup("the extension is of version 0.1, and at least 0.2 is needed: ALTER EXTENSION event_store UPDATE");
	}
	PQclear(result);
	if (error != NULL)
		return error;

	store->readable = PQexec(store->conn, "SELECT c.relname FROM pg_class c"
							 " WHERE c.relnamespace = 'event_store'::regnamespace AND c.relkind IN ('r', 'v')"
							 " AND has_schema_privilege('event_store', 'USAGE') AND has_table_privilege(c.oid, 'SELECT')");
	if (PQresultStatus(store->readable) != PGRES_TUPLES_OK)
		error = store_error(store, store->readable);
	else if (!store_may_read(store, "status") &&
			 asprintf(&error, "role \"%s\" may not look at the event store: SELECT es_grant('%s', 'monitor')",
					  PQuser(store->conn), PQuser(store->conn)) < 0)
		abort();
	return error;
}

/*
 * Connects.  keywords and values are PQconnectdbParams', with the password last
 * but one, empty until it is asked for.  password: 1 ask for it first, 0 ask if
 * the server wants it, -1 never.  Returns false with a malloc'd error.
 */
bool
store_connect(Store *store, const char *const *keywords, const char *const *values, int password, char **error)
{
	memset(store, 0, sizeof(*store));
	for (int attempt = 0;; attempt++)
	{
		const char *with[32];
		int			n = 0;

		while (keywords[n] != NULL)
		{
			with[n] = values[n];
			n++;
		}
		with[n] = NULL;
		if (password > 0)
			with[n - 1] = getpass("Password: ");

		store->conn = PQconnectdbParams(keywords, with, 1);
		if (PQstatus(store->conn) == CONNECTION_OK)
			break;
		if (attempt > 0 || password != 0 || !PQconnectionNeedsPassword(store->conn))
		{
			*error = strdup(PQerrorMessage(store->conn));
			if (**error != '\0')
				(*error)[strlen(*error) - 1] = '\0';
			return false;
		}
		PQfinish(store->conn);
		password = 1;
	}
	*error = acquaint(store);
	catch_signals(store->conn);
	return *error == NULL;
}

/* Sees to it that there is a connection; false: store->lost says why not. */
bool
store_reconnect(Store *store)
{
	char	   *error;

	if (PQstatus(store->conn) == CONNECTION_OK && store->lost == NULL)
		return true;
	if (PQstatus(store->conn) != CONNECTION_OK)
		PQreset(store->conn);
	if (PQstatus(store->conn) == CONNECTION_OK)
		error = acquaint(store);
	else
	{
		const char *message = PQerrorMessage(store->conn);

		error = strndup(message, strcspn(message, "\n"));
	}
	catch_signals(store->conn);
	if (error != NULL)
	{
		free(store->lost);
		store->lost = error;
	}
	return error == NULL;
}

void
store_close(Store *store)
{
	PGcancel   *old = cancel;

	cancel = NULL;
	PQfreeCancel(old);
	forget(store);
	PQfinish(store->conn);
	store->conn = NULL;
}

/* Whether the role may select from a table or view of schema event_store. */
bool
store_may_read(Store *store, const char *relation)
{
	for (int i = 0; i < PQntuples(store->readable); i++)
		if (strcmp(PQgetvalue(store->readable, i, 0), relation) == 0)
			return true;
	return false;
}

/* The statement with the functions' schema in place of @schema@; malloc'd. */
static char *
in_schema(Store *store, const char *sql)
{
	static const char mark[] = "@schema@";
	char	   *done = NULL;
	size_t		size;
	FILE	   *out = open_memstream(&done, &size);
	const char *at;

	while ((at = strstr(sql, mark)) != NULL)
	{
		fprintf(out, "%.*s%s", (int) (at - sql), sql, store->schema);
		sql = at + strlen(mark);
	}
	fputs(sql, out);
	fclose(out);
	return done;
}

/* Runs a statement that only reads.  The caller frees the result and looks at its status. */
PGresult *
store_look(Store *store, const char *sql, int nparams, const char *const *params)
{
	char	   *statement = in_schema(store, sql);
	PGresult   *result = PQexecParams(store->conn, statement, nparams, NULL, params, NULL, NULL, 0);

	free(statement);
	return result;
}

/*
 * Runs a statement that may write and take its time, with the search path that
 * the role has: handlers of projections run in it.
 */
PGresult *
store_act(Store *store, const char *sql, int nparams, const char *const *params)
{
	PGresult   *result = PQexec(store->conn, "BEGIN READ WRITE; SET LOCAL statement_timeout = 0;"
								"SET LOCAL search_path TO DEFAULT");
	PGresult   *end;

	if (PQresultStatus(result) != PGRES_COMMAND_OK)
		return result;
	PQclear(result);
	result = store_look(store, sql, nparams, params);
	/* of a transaction that has failed this is the ROLLBACK */
	end = PQexec(store->conn, "COMMIT");
	if (PQresultStatus(result) == PGRES_TUPLES_OK && PQresultStatus(end) != PGRES_COMMAND_OK)
	{
		PQclear(result);
		return end;
	}
	PQclear(end);
	return result;
}

/* Whether to be told of new events; a standby does not tell, and that is no error. */
bool
store_listen(Store *store, bool on)
{
	PGresult   *result = PQexec(store->conn, on ? "LISTEN event_store" : "UNLISTEN event_store");
	bool		done = PQresultStatus(result) == PGRES_COMMAND_OK;

	PQclear(result);
	return done;
}

/* Takes what the server has sent by itself; true if it tells of new events. */
bool
store_notified(Store *store)
{
	bool		any = false;
	PGnotify   *notify;

	PQconsumeInput(store->conn);
	while ((notify = PQnotifies(store->conn)) != NULL)
	{
		any = true;
		PQfreemem(notify);
	}
	return any;
}
