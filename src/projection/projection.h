/*-------------------------------------------------------------------------
 * projection/projection.h
 *	  Projections: read models that the server keeps up to date.
 *
 *	  projection/projection.c			SQL functions
 *	  projection/rebuild.c	rebuild, shadow versions, parked events
 *	  projection/table.c		rows of event_store.projection
 *	  projection/handler.c	functions of the user: check and call
 *	  projection/apply.c		the engine: one slice in one transaction
 *	  projection/worker.c	background workers
 *	  projection/starter.c	their start
 *	  projection/seen.c		what they remember between looks
 *-------------------------------------------------------------------------
 */
#ifndef ES_PROJECTION_PROJECTION_H
#define ES_PROJECTION_PROJECTION_H

#include "datatype/timestamp.h"
#include "executor/spi.h"
#include "fmgr.h"
#include "utils/snapshot.h"

#include "log/store.h"

/* a row of event_store.projection */
typedef struct EsProjection
{
	char	   *name;
	bool		is_shadow;		/* the next version, catching up beside it */
	int64		generation;		/* changes when position is set back */
	char	   *owner;			/* name of a role */
	Oid			owner_oid;		/* InvalidOid = no such role */
	char	   *handler;		/* signature */
	char	   *reset_handler;	/* signature or NULL */
	Datum	   *categories;		/* NULL = all */
	int			ncategories;
	Datum	   *event_types;	/* NULL = all */
	int			nevent_types;
	int			batch_size;
	int			max_attempts;
	char	   *policy;			/* stop, park, skip */
	char	   *state;			/* running, paused, stopped */
	int64		position;		/* everything up to here is in the read model */
	int64		replay_until;	/* up to here events were applied once before */
	bool		replicated;		/* not run here: see log/replicated.c */
	int64		limit_position; /* a shadow stays behind its original */
	int			attempts;
	TimestampTz next_attempt_at;	/* 0 = at once */
	double		rate;			/* events per second, of late */
	TimestampTz rate_since;		/* start of the present window */
	int64		rate_applied;	/* events in it */
	char	   *error_sqlstate; /* last error, NULL = there was none */
	char	   *error_message;
	int64		error_position; /* the event, 0 = none was to blame */
} EsProjection;

/* how a projection is to be locked */
typedef enum EsProjectionLock
{
	ES_PROJECTION_READ,			/* not */
	ES_PROJECTION_LOCK,			/* FOR UPDATE */
	ES_PROJECTION_TRY_LOCK		/* FOR UPDATE SKIP LOCKED */
} EsProjectionLock;

/* when a slice writes its checkpoint */
typedef enum EsCheckpointWhen
{
	ES_CHECKPOINT_NOW,
	ES_CHECKPOINT_LAZY,			/* not if nothing of interest was passed on the
								 * way to the head */
	ES_CHECKPOINT_LATER			/* the caller does, after further slices */
} EsCheckpointWhen;

/* what the handler was given when it failed */
typedef enum EsApplyPhase
{
	ES_APPLY_SETUP,				/* nothing yet: no event is to blame */
	ES_APPLY_EVENT,				/* the event at fail_position */
	ES_APPLY_SLICE				/* some event of the slice */
} EsApplyPhase;

/* result of one slice; meaningful up to the point of an error, too */
typedef struct EsApplied
{
	EsApplyPhase phase;
	int			events;			/* in the slice */
	int			before;			/* of them before the failing one */
	int64		fail_position;
	int64		applied;		/* given to the handler */
	int64		parked;			/* queued behind a parked event */
	int64		position;		/* new checkpoint */
	bool		moved;			/* the checkpoint was written */
	bool		more;			/* the slice was full: there may be more */
	bool		blocked;		/* something unsettled is in the way */
} EsApplied;

/* projection/projection.c */
extern void es_projection_init(void);
extern EsProjection *es_projection_get_own(const char *name);
extern EsProjection *es_projection_get_here(const char *name);
extern void es_projection_wake(void);
extern int64 es_projection_catch_up(EsProjection *projection, int64 upto);
extern char *es_projection_arg_name(FunctionCallInfo fcinfo, int n);

/* projection/table.c */
extern EsProjection *es_projection_load(const char *name, bool is_shadow,
										EsProjectionLock lock);
extern List *es_projection_list(Oid owner);
extern bool es_projection_any_follows(void);
extern void es_projection_checkpoint(EsProjection *projection, int64 position,
									 int64 applied);
extern void es_projection_park(EsProjection *projection, int64 position,
							   const char *stream, int len,
							   const char *disposition, ErrorData *error,
							   int attempts);
extern List *es_projection_parked_streams(EsProjection *projection);

/* projection/handler.c */
typedef struct EsHandler EsHandler;

extern char *es_handler_check(Oid function, const char *argument, Oid owner,
							  bool takes_events, bool is_stored);
extern EsHandler *es_handler_begin(EsProjection *projection);
extern bool es_handler_takes_array(EsHandler *handler);
extern Datum es_handler_event(EsHandler *handler, Datum *values);
extern void es_handler_call(EsHandler *handler, Datum argument, bool replaying);
extern Datum es_handler_array(EsHandler *handler, Datum *events, int nevents);
extern void es_handler_end(EsHandler *handler);
extern void es_handler_call_plain(EsProjection *projection, const char *signature);
extern bool es_handler_active(void);
extern void es_handler_rethrow(EsProjection *projection, EsApplied *result,
							   MemoryContext context);

/* projection/apply.c */
extern bool es_projection_has_work(EsProjection *projection, int64 after, int64 upto,
								   int64 *clear, bool *blocked);
extern void es_projection_apply(EsProjection *projection, int limit, int64 upto,
								EsCheckpointWhen when, EsApplied *result);
extern char *es_projection_stream_at(int64 position);
extern int64 es_projection_retry(EsProjection *projection, const char *stream,
								 EsApplied *result);

/* projection/seen.c */
typedef struct EsSeen
{
	char	   *name;
	bool		is_shadow;
	int64		generation;
	int64		position;		/* checkpoint before the present slice */
	int64		clear;			/* nothing of interest up to here, */
	uint64		upcasters;		/* with these upcasters */
	int			limit;			/* events in the next slice; 0 = batch_size */
	bool		is_cut;			/* it failed, and smaller slices tell where */
	bool		is_listed;		/* was there at the last look */
} EsSeen;

extern EsSeen *es_seen_get(EsProjection *projection);
extern bool es_seen_has_work(EsSeen *seen, EsProjection *projection, int64 bound,
							 bool *blocked);
extern bool es_seen_any_cut(void);
extern void es_seen_forget(void);

/* projection/starter.c */

/* fourth field of the advisory lock tag that a worker holds for its owner */
#define ES_LOCK_CLASS_PROJECTION	5

#define es_projection_owner_tag(tag, owner) \
	SET_LOCKTAG_ADVISORY(*(tag), MyDatabaseId, 0, (owner), ES_LOCK_CLASS_PROJECTION)

/* passed to a worker in bgw_extra */
typedef struct EsProjectionWorkerArgs
{
	Oid			database;
	Oid			owner;
} EsProjectionWorkerArgs;

extern bool es_projection_reconcile(bool *follows);
extern bool es_projection_others_wait(void);
extern bool es_projection_is_due(EsProjection *projection, TimestampTz now);
extern void es_projection_note_worker(Oid owner, const char *sqlstate, const char *message);

#endif							/* ES_PROJECTION_PROJECTION_H */
