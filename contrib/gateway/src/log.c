/*-------------------------------------------------------------------------
 * log.c
 *	  See log.h.
 *-------------------------------------------------------------------------
 */
#include "log.h"

#include <stdarg.h>
#include <stdio.h>
#include <time.h>
#include <unistd.h>

#include "util.h"

LogLevel	log_level = LOG_INFO;

static void
quote(Buf *line, const char *text)
{
	buf_char(line, '"');
	for (const unsigned char *p = (const unsigned char *) (text ? text : ""); *p; p++)
	{
		if (*p == '"' || *p == '\\')
		{
			buf_char(line, '\\');
			buf_char(line, *p);
		}
		else if (*p == '\n')
			buf_str(line, "\\n");
		else if (*p < 0x20 || *p == 0x7f)
			buf_printf(line, "\\u%04x", *p);
		else
			buf_char(line, *p);
	}
	buf_char(line, '"');
}

void
log_event(LogLevel level, const char *message, const char *fields,...)
{
	static const char *const names[] = {"DEBUG", "LOG", "WARNING", "ERROR"};
	Buf			line = {0};
	struct timespec t;
	struct tm	tm;
	char		stamp[32];
	va_list		args;
	const char *rest;
	size_t		done = 0;

	if (level < log_level)
		return;
	clock_gettime(CLOCK_REALTIME, &t);
	gmtime_r(&t.tv_sec, &tm);
	strftime(stamp, sizeof(stamp), "%Y-%m-%dT%H:%M:%S", &tm);
	buf_printf(&line, "%s.%03ldZ %s ", stamp, t.tv_nsec / 1000000, names[level]);
	quote(&line, message);

	va_start(args, fields);
	if (fields && *fields)
		buf_char(&line, ' ');
	for (rest = fields ? fields : ""; *rest; rest++)
	{
		if (*rest != '%')
			buf_char(&line, *rest);
		else if (rest[1] == 'q')
			quote(&line, va_arg(args, const char *)), rest++;
		else if (rest[1] == 'd')
			buf_printf(&line, "%d", va_arg(args, int)), rest++;
		else if (rest[1] == 'l' && rest[2] == 'd')
			buf_printf(&line, "%ld", va_arg(args, long)), rest += 2;
	}
	va_end(args);
	buf_char(&line, '\n');

	/* one write for one line, so that lines of several processes do not mix */
	while (done < line.len)
	{
		ssize_t		n = write(STDERR_FILENO, line.data + done, line.len - done);

		if (n <= 0)
			break;
		done += n;
	}
	buf_free(&line);
}
