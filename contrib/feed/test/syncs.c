/*-------------------------------------------------------------------------
 * syncs.c
 *	  To be loaded before the C library: what a program syncs is written into the
 *	  file that FEED_SYNCS names, a line each: "file" and its size, or "folder".
 *-------------------------------------------------------------------------
 */
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

static int
told(int fd, long call)
{
	const char *name = getenv("FEED_SYNCS");
	int			out = name ? open(name, O_WRONLY | O_CREAT | O_APPEND, 0666) : -1;
	struct stat st;
	char		line[64] = "";
	int			result = syscall(call, fd);

	if (fstat(fd, &st) == 0 && S_ISDIR(st.st_mode))
		strcpy(line, "folder\n");
	else
		snprintf(line, sizeof(line), "file %ld\n", (long) st.st_size);
	if (out < 0 || write(out, line, strlen(line)) < 0)
		abort();
	close(out);
	return result;
}

int
fdatasync(int fd)
{
	return told(fd, SYS_fdatasync);
}

int
fsync(int fd)
{
	return told(fd, SYS_fsync);
}
