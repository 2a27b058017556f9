/*-------------------------------------------------------------------------
 * log.h
 *	  One line for each thing worth knowing, on standard error:
 *
 *	  2026-01-31T12:00:00.000Z LOG "connected" user="app" backends=3
 *
 * The text of a message never varies; what varies follows as key=value, with
 * text quoted as in JSON.  So lines can be grouped without parsing prose.
 *-------------------------------------------------------------------------
 */
#ifndef GW_LOG_H
#define GW_LOG_H

typedef enum LogLevel
{
	LOG_DEBUG,
	LOG_INFO,
	LOG_WARN,
	LOG_ERROR
} LogLevel;

extern LogLevel log_level;

/*
 * log_event(level, message, format, ...): the format describes the fields,
 * "user=%q rows=%d".  %q is a text (char *, may be NULL), %d an int, %ld a long.
 */
extern void log_event(LogLevel level, const char *message, const char *fields,...);

#endif							/* GW_LOG_H */
