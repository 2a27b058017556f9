/*
 * A disk that takes its time, can be held up, and tells what is on it:
 * preloaded by test/t/017_early_release.pl (LD_PRELOAD) below the server.
 *
 * The file that ES_DISK names is the first struct below.  What the server has
 * written to its WAL counts as being on disk once it has been flushed; whoever
 * kills the server can then take the rest away, as a power cut would.
 *
 * With ES_DISK_LATENCY (microseconds) and no ES_DISK it is only slow.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#define SEGMENT		((uint64_t) 16 << 20)
#define PAGE		8192

/* the WAL up to some point */
struct wal
{
	uint64_t	end;			/* LSN, the end of a page */
	char		page[PAGE];		/* the last page, which is written again as it
								 * fills up */
};

static struct disk
{
	uint32_t	held;			/* a flush waits as long as this is set */
	uint32_t	latency;		/* of a flush, in microseconds */
	uint32_t	current;		/* which of the two below is true */
	uint32_t	unused;
	struct wal	flushed[2];
	struct wal	written;
}		   *disk;

static struct disk nobodys;

__attribute__((constructor)) static void
begin(void)
{
	const char *name = getenv("ES_DISK");
	int			fd = name ? open(name, O_RDWR) : -1;
	void	   *map = fd >= 0 ? mmap(NULL, sizeof(struct disk), PROT_READ | PROT_WRITE,
									 MAP_SHARED, fd, 0) : MAP_FAILED;

	if (fd >= 0)
		close(fd);
	disk = map == MAP_FAILED ? &nobodys : map;
	if (getenv("ES_DISK_LATENCY"))
		disk->latency = atoi(getenv("ES_DISK_LATENCY"));
}

/* LSN of the first byte of the segment that a descriptor is open on, else -1 */
static int64_t
segment(int fd)
{
	char		link[64];
	char		path[4096];
	char	   *file;
	ssize_t		len;
	unsigned	timeline;
	unsigned	log;
	unsigned	seg;

	snprintf(link, sizeof(link), "/proc/self/fd/%d", fd);
	len = readlink(link, path, sizeof(path) - 1);
	if (len < 0)
		return -1;
	path[len] = '\0';
	file = strrchr(path, '/');
	if (file == NULL || file - path < 7 || strncmp(file - 7, "/pg_wal", 7) != 0 ||
		strlen(file) != 25 || sscanf(file + 1, "%8x%8x%8x", &timeline, &log, &seg) != 3)
		return -1;
	return ((uint64_t) log << 32) + seg * SEGMENT;
}

static ssize_t
write_at(const char *name, int fd, const void *buf, size_t n, off_t offset)
{
	ssize_t		(*real) (int, const void *, size_t, off_t) = dlsym(RTLD_NEXT, name);
	ssize_t		done = real(fd, buf, n, offset);
	int64_t		start = done > 0 ? segment(fd) : -1;

	/* one at a time: PostgreSQL writes and flushes its WAL under a lock */
	if (start >= 0 && done % PAGE == 0 && start + offset + done >= disk->written.end)
	{
		disk->written.end = start + offset + done;
		memcpy(disk->written.page, (const char *) buf + done - PAGE, PAGE);
	}
	return done;
}

ssize_t
pwrite(int fd, const void *buf, size_t n, off_t offset)
{
	return write_at("pwrite", fd, buf, n, offset);
}

ssize_t
pwrite64(int fd, const void *buf, size_t n, off_t offset)
{
	return write_at("pwrite64", fd, buf, n, offset);
}

int
fdatasync(int fd)
{
	int			(*real) (int) = dlsym(RTLD_NEXT, "fdatasync");
	int			other = 1 - disk->current;
	int			result;

	if (segment(fd) < 0)
		return real(fd);
	disk->flushed[other] = disk->written;
	if (disk->latency > 0)
		usleep(disk->latency);
	while (*(volatile uint32_t *) &disk->held)
		usleep(1000);
	result = real(fd);
	if (result == 0)
		*(volatile uint32_t *) &disk->current = other;
	return result;
}
