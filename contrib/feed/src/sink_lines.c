/*-------------------------------------------------------------------------
 * sink_lines.c
 *	  JSON, one event a line, on standard output or at the end of a file.
 *
 * Lines are gathered and written at once; in a file they are on disk before
 * they count as published.  When a file is opened a last line without its end
 * is cut off, and the newest lines say which events need not be written again.
 *-------------------------------------------------------------------------
 */
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "cloudevent.h"
#include "settings.h"
#include "sink.h"
#include "source.h"

#define GATHER_BYTES (1024 * 1024)

static int	out = -1;
static bool is_file;
static Buf	gathered;
static Event **waiting;			/* whose lines are gathered */
static int	nwaiting;
static int	waiting_size;

static void
init(void)
{
	if (settings.binary)
		settings_wrong("mode", "binary");
	if (settings.server)
		settings_wrong("server", settings.server);
	if (settings.target == NULL)
		settings.target = "-";
	if (target_varies(settings.target))
		settings_wrong("target", settings.target);
	settings_options_used();
}

static void
close_file(void)
{
	if (out > STDOUT_FILENO)
		close(out);
	out = -1;
	gathered.len = 0;
	nwaiting = 0;
}

/* A file that is new outlives a power failure when its name does. */
static bool
sync_folder(void)
{
	const char *slash = strrchr(settings.target, '/');
	char	   *name = slash ? xstrndup(settings.target, slash - settings.target + 1) : xstrdup(".");
	int			folder = open(name, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	bool		ok;

	free(name);
	/* who may not list it, or has a file system that cannot, goes without */
	if (folder < 0)
		return true;
	ok = fsync(folder) == 0 || errno == EINVAL || errno == EBADF;
	close(folder);
	return ok;
}

/* Cuts off half a line, and reads which events are in the newest lines. */
static bool
read_end(void)
{
	struct stat st;
	Buf			end = {0};
	off_t		from;
	size_t		len;
	int			lines = 0;

	if (fstat(out, &st) != 0)
		return sink_failed("%s", strerror(errno));
	is_file = S_ISREG(st.st_mode);
	/* what is taken for published below may have been written by one that was killed before it could sync */
	if (is_file && (fdatasync(out) != 0 || !sync_folder()))
		return sink_failed("%s", strerror(errno));
	if (!is_file || st.st_size == 0)
		return true;
	/* as many bytes as the lines could take that were written and not acknowledged */
	for (from = st.st_size; from > 0 && lines <= SOURCE_WINDOW;)
	{
		off_t		piece = from > 65536 ? 65536 : from;
		char		bytes[65536];

		if (pread(out, bytes, piece, from - piece) != piece)
			return sink_failed("%s", strerror(errno));
		for (off_t i = 0; i < piece; i++)
			lines += bytes[i] == '\n';
		from -= piece;
	}
	len = st.st_size - from;
	buf_reserve(&end, len + 1);
	if (pread(out, end.data, len, from) != (ssize_t) len)
	{
		buf_free(&end);
		return sink_failed("%s", strerror(errno));
	}
	while (len > 0 && end.data[len - 1] != '\n')
		len--;
	if (from + (off_t) len < st.st_size && (len > 0 || from == 0) && ftruncate(out, from + len) != 0)
	{
		buf_free(&end);
		return sink_failed("%s", strerror(errno));
	}
	end.data[len] = '\0';
	for (char *line = end.data; line && *line; line = strchr(line, '\n') ? strchr(line, '\n') + 1 : NULL)
	{
		char	   *stop = strchr(line, '\n');

		if (stop == NULL)
			break;
		*stop = '\0';
		seen_add(cloudevent_seen(line));
		*stop = '\n';
	}
	buf_free(&end);
	return true;
}

static bool
open_file(void)
{
	if (strcmp(settings.target, "-") == 0)
	{
		out = STDOUT_FILENO;
		is_file = false;
		return true;
	}
	out = open(settings.target, O_RDWR | O_CREAT | O_APPEND | O_CLOEXEC, 0666);
	if (out < 0)
		return sink_failed("%s", strerror(errno));
	if (!read_end())
	{
		close_file();
		return false;
	}
	return true;
}

static Put
put(Event *event)
{
	if (gathered.len >= GATHER_BYTES)
		return PUT_FULL;
	cloudevent_json(&gathered, event);
	buf_char(&gathered, '\n');
	if (nwaiting == waiting_size)
	{
		waiting_size = waiting_size ? waiting_size * 2 : 256;
		waiting = xrealloc(waiting, waiting_size * sizeof(Event *));
	}
	waiting[nwaiting++] = event;
	return PUT_TAKEN;
}

/* A pipe whose reader is slow makes everything wait, as it should. */
static bool
write_lines(void)
{
	size_t		done = 0;

	if (nwaiting == 0)
		return true;
	while (done < gathered.len)
	{
		ssize_t		n = write(out, gathered.data + done, gathered.len - done);

		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return sink_failed("%s", strerror(errno));
		done += n;
	}
	if (is_file && fdatasync(out) != 0)
		return sink_failed("%s", strerror(errno));
	for (int i = 0; i < nwaiting; i++)
		event_done(waiting[i], false);
	gathered.len = 0;
	nwaiting = 0;
	return true;
}

Sink		sink_lines = {
	.name = "lines", .init = init, .open = open_file, .put = put, .poll = write_lines, .close = close_file, .fd = -1,
};
