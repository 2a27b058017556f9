/*-------------------------------------------------------------------------
 * base/fault.c
 *	  Fault points of the test build (make FAULTS=1); empty otherwise.
 *
 * event_store.fault = 'point:action[,point:action ...]', where action is
 *	  pause=MS[@PERCENT]	sleep that long, at that share of the visits
 *	  error[=SQLSTATE]		raise an error
 *	  fatal					end the session as pg_terminate_backend would
 *	  crash					end the process as kill -9 would
 * Points may lie inside an LWLock, so a pause must not look at interrupts.
 *
 * event_store.fault_malloc = N makes the Nth malloc from now on fail, in a
 * server that runs with test/malloc.c preloaded; shown is what is left of N.
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#ifdef ES_FAULTS

#include <dlfcn.h>
#include <signal.h>
#include <unistd.h>

#include "base/compat.h"
#include "base/fault.h"

bool		es_fault_no_barrier = false;
bool		es_fault_no_stop = false;
bool		es_fault_no_flush = false;
bool		es_fault_no_confirm = false;
bool		es_fault_no_undo = false;
bool		es_fault_no_standby = false;
bool		es_fault_no_id_look = false;
int			es_fault_queue_ms = 20;

static char *es_fault_spec = NULL;
static int	es_fault_malloc = 0;

/* of test/malloc.c; NULL when that is not there */
static int *
es_fault_malloc_left(void)
{
	return (int *) dlsym(RTLD_DEFAULT, "es_malloc_left");
}

static void
es_fault_malloc_assign(int value, void *extra)
{
	int		   *left = es_fault_malloc_left();

	if (left != NULL)
		*left = value;
}

static const char *
es_fault_malloc_show(void)
{
	static char shown[16];
	int		   *left = es_fault_malloc_left();

	snprintf(shown, sizeof(shown), "%d", left != NULL ? *left : -1);
	return shown;
}

void
es_fault_init(void)
{
	DefineCustomStringVariable("event_store.fault",
							   "Test build: actions at named fault points.",
							   NULL, &es_fault_spec, "", PGC_SUSET, 0,
							   NULL, NULL, NULL);
	DefineCustomIntVariable("event_store.fault_malloc",
							"Test build: the malloc that fails, counted from now.",
							NULL, &es_fault_malloc, 0, 0, INT_MAX, PGC_SUSET, 0,
							NULL, es_fault_malloc_assign, es_fault_malloc_show);
	DefineCustomBoolVariable("event_store.fault_no_barrier",
							 "Test build: commit without the insertion barrier.",
							 NULL, &es_fault_no_barrier, false, PGC_SUSET, 0,
							 NULL, NULL, NULL);
	DefineCustomBoolVariable("event_store.fault_no_stop",
							 "Test build: readers do not stop at unsettled positions.",
							 NULL, &es_fault_no_stop, false, PGC_SUSET, 0,
							 NULL, NULL, NULL);
	DefineCustomBoolVariable("event_store.fault_no_flush",
							 "Test build: readers do not wait for the disk.",
							 NULL, &es_fault_no_flush, false, PGC_SUSET, 0,
							 NULL, NULL, NULL);
	DefineCustomBoolVariable("event_store.fault_no_confirm",
							 "Test build: conditions are not looked at again after writing.",
							 NULL, &es_fault_no_confirm, false, PGC_SUSET, 0,
							 NULL, NULL, NULL);
	DefineCustomBoolVariable("event_store.fault_no_undo",
							 "Test build: last versions of streams are kept when a transaction rolls back.",
							 NULL, &es_fault_no_undo, false, PGC_SUSET, 0,
							 NULL, NULL, NULL);
	DefineCustomBoolVariable("event_store.fault_no_standby",
							 "Test build: locks go early although a synchronous standby is to be waited for.",
							 NULL, &es_fault_no_standby, false, PGC_SUSET, 0,
							 NULL, NULL, NULL);
	DefineCustomBoolVariable("event_store.fault_no_id_look",
							 "Test build: a given id is not looked for at the position that it ends with once it has an entry.",
							 NULL, &es_fault_no_id_look, false, PGC_SUSET, 0,
							 NULL, NULL, NULL);
	DefineCustomIntVariable("event_store.fault_queue_ms",
							"Test build: how long one waits for a stream before it is left to the lock manager.",
							NULL, &es_fault_queue_ms, 20, 0, INT_MAX, PGC_SUSET, 0,
							NULL, NULL, NULL);
}

/*
 * Do what event_store.fault says for this point, if anything.
 */
void
es_fault_point(const char *name)
{
	size_t		len = strlen(name);
	const char *spec;

	if (es_fault_spec == NULL)
		return;

	for (spec = es_fault_spec; *spec != '\0';)
	{
		if (strncmp(spec, name, len) == 0 && spec[len] == ':')
		{
			const char *action = spec + len + 1;
			int			ms;
			int			percent = 100;

			if (sscanf(action, "pause=%d@%d", &ms, &percent) >= 1)
			{
				if (random() % 100 < percent)
					pg_usleep(ms * 1000L);
			}
			else if (strncmp(action, "error=", 6) == 0 && strlen(action) >= 11)
				ereport(ERROR,
						errcode(MAKE_SQLSTATE(action[6], action[7], action[8], action[9],
											  action[10])),
						errmsg("fault point \"%s\"", name));
			else if (strncmp(action, "error", 5) == 0)
				ereport(ERROR,
						errcode(ERRCODE_INTERNAL_ERROR),
						errmsg("fault point \"%s\"", name));
			else if (strncmp(action, "fatal", 5) == 0)
				ereport(FATAL,
						errcode(ERRCODE_ADMIN_SHUTDOWN),
						errmsg("fault point \"%s\"", name));
			else if (strncmp(action, "crash", 5) == 0)
				kill(getpid(), SIGKILL);
			return;
		}
		spec += strcspn(spec, ",");
		if (*spec == ',')
			spec++;
	}
}

#endif							/* ES_FAULTS */
