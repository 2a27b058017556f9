/*-------------------------------------------------------------------------
 * base/errors.h
 *	  SQLSTATEs of the event store's own error class.
 *
 * Class VE lies outside the ranges that the SQL standard reserves (classes
 * that begin with 0-4 and A-H).  A version conflict is not 40001 on purpose:
 * generic retry layers would repeat a decision made on stale data.
 *-------------------------------------------------------------------------
 */
#ifndef ES_BASE_ERRORS_H
#define ES_BASE_ERRORS_H

#include "utils/elog.h"

/* the stream is not at the version that the caller expected */
#define ERRCODE_ES_VERSION_CONFLICT		MAKE_SQLSTATE('V', 'E', '0', '0', '1')
/* an event id is already used for something else */
#define ERRCODE_ES_EVENT_ID_CONFLICT	MAKE_SQLSTATE('V', 'E', '0', '0', '2')
/* an attempt to change or remove events */
#define ERRCODE_ES_APPEND_ONLY			MAKE_SQLSTATE('V', 'E', '0', '0', '3')
/* a checkpoint or cursor is ahead of the head */
#define ERRCODE_ES_AHEAD_OF_HEAD		MAKE_SQLSTATE('V', 'E', '0', '0', '4')
/* the global order is not available here */
#define ERRCODE_ES_ORDER_UNAVAILABLE	MAKE_SQLSTATE('V', 'E', '0', '0', '5')
/* an upcaster, reducer or handler failed or returned what it must not */
#define ERRCODE_ES_USER_FUNCTION		MAKE_SQLSTATE('V', 'E', '0', '0', '6')
/* an event matches the condition of an append */
#define ERRCODE_ES_CONDITION_FAILED		MAKE_SQLSTATE('V', 'E', '0', '0', '7')

/* an event that a decision must not overlook has come in between */
#define ERRCODE_ES_CONDITION_FAILED		MAKE_SQLSTATE('V', 'E', '0', '0', '7')

#endif							/* ES_BASE_ERRORS_H */
