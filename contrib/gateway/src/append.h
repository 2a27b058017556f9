/*-------------------------------------------------------------------------
 * append.h
 *	  One append: what is expected of the stream, the events, the answer.
 *
 * Streams.Append, Streams.BatchAppend and the appends of version 2 differ in
 * how they say so; this is what they have in common.
 *-------------------------------------------------------------------------
 */
#ifndef GW_APPEND_H
#define GW_APPEND_H

#include "call.h"
#include "streams.pb-c.h"

/* the numbers are those of version 2 of the protocol; others are revisions */
#define EXPECT_NO_STREAM	INT64_C(-1)
#define EXPECT_ANY			INT64_C(-2)
#define EXPECT_EXISTS		INT64_C(-4)

typedef enum AppendOutcome
{
	APPEND_DONE,
	APPEND_CONFLICT,			/* the stream is not as expected */
	APPEND_TOO_LARGE,
	APPEND_REFUSED				/* error says why */
} AppendOutcome;

typedef struct Append Append;

typedef struct AppendResult
{
	AppendOutcome outcome;
	int64_t		revision;		/* last one now; -1: no stream */
	int64_t		position;		/* of the last event; -1: nothing was written */
	int			limit;			/* bytes, when too large */
	const DbError *error;
} AppendResult;

typedef void (*AppendDone) (void *arg, const AppendResult *result);

/* NULL: that is no stream's name */
extern Append *append_new(const void *stream, size_t len, int64_t expected);
/* false: no UUID or no type; error says which */
extern bool append_add(Append *append, const Gw__NewEvent *event, const char **error);
extern size_t append_size(const Append *append);
/* bytes that it takes here */
extern size_t append_memory(const Append *append);
/* more than may be at once */
extern bool append_too_large(const Append *append);
extern int	append_count(const Append *append);
extern const char *append_stream(const Append *append);
extern int64_t append_expected(const Append *append);
/*
 * Exactly one call of done follows, possibly at once; then the append is freed.
 */
extern void append_run(Append *append, Pool *pool, AppendDone done, void *arg);
/* before append_run(): free it; after it: done is not called */
extern void append_forget(Append *append);

extern const Method append_method;
extern const Method batch_append_method;
/* append_v2.c */
extern const Method append_session_method;
extern const Method append_records_method;

#endif							/* GW_APPEND_H */
