/*-------------------------------------------------------------------------
 * store.h
 *	  The connection to a database with an event store.
 *-------------------------------------------------------------------------
 */
#ifndef STORE_H
#define STORE_H

#include <libpq-fe.h>
#include <stdbool.h>

typedef struct Store
{
	PGconn	   *conn;
	char	   *schema;			/* of the functions, quoted */
	char	   *version;		/* of the extension */
	PGresult   *readable;		/* names in schema event_store that the role may select from */
	char	   *lost;			/* why there is no connection; NULL: there is one */
} Store;

/* Whether SIGINT or SIGTERM has come; also cancels the statement that runs. */
extern volatile bool store_interrupted;

extern bool store_connect(Store *store, const char *const *keywords, const char *const *values,
						  int password, char **error);
extern bool store_reconnect(Store *store);
extern void store_close(Store *store);
extern bool store_may_read(Store *store, const char *relation);
extern PGresult *store_look(Store *store, const char *sql, int nparams, const char *const *params);
extern PGresult *store_act(Store *store, const char *sql, int nparams, const char *const *params);
extern bool store_listen(Store *store, bool on);
extern bool store_notified(Store *store);
extern char *store_error(Store *store, const PGresult *result);

#endif
