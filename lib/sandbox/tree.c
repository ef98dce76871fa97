/* SPDX-License-Identifier: MIT */
#include <dirent.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <sys/vfs.h>
#include <unistd.h>

#include "lib/sandbox/tree.h"

/* A small file of /proc as text; empty when it is gone. */
static void
slurp(int directory, const char *path, char *text, size_t size)
{
	int fd = openat(directory, path, O_RDONLY | O_CLOEXEC);
	ssize_t n = fd < 0 ? 0 : read(fd, text, size - 1);

	text[n > 0 ? n : 0] = '\0';
	if (fd >= 0)
		close(fd);
}

static void
add_process(int proc, const char *pid, struct tree *t)
{
	char path[300], text[1024];
	const char *rest;
	unsigned long long ticks[4];
	long long pages;

	snprintf(path, sizeof path, "%s/stat", pid);
	slurp(proc, path, text, sizeof text);
	/* the name, in brackets, may hold anything; user and system time are fields 14 to 17, pages 24 */
	rest = strrchr(text, ')');
	if (!rest || sscanf(rest + 1, " %*c %*d %*d %*d %*d %*d %*u %*u %*u %*u %*u %llu %llu %llu %llu "
	    "%*d %*d %*d %*d %*u %*u %lld", &ticks[0], &ticks[1], &ticks[2], &ticks[3], &pages) != 5)
		return;
	t->cpu += (double)(ticks[0] + ticks[1] + ticks[2] + ticks[3]) / (double)sysconf(_SC_CLK_TCK);
	t->resident += (size_t)pages * (size_t)sysconf(_SC_PAGESIZE);
}

static double
waited(int proc)
{
	uint64_t ran = 0, waiting = 0;
	char text[128];

	/* the first process is bubblewrap's, the second the program */
	slurp(proc, "2/schedstat", text, sizeof text);
	if (sscanf(text, "%" SCNu64 " %" SCNu64, &ran, &waiting) != 2)
		return 0;
	return (double)waiting * 1e-9;
}

static size_t
files(int root)
{
	int fd = openat(root, "work", O_PATH | O_DIRECTORY | O_CLOEXEC);
	struct statfs fs;
	size_t n = 0;

	if (fd >= 0 && !fstatfs(fd, &fs))
		n = (size_t)(fs.f_files - fs.f_ffree);
	if (fd >= 0)
		close(fd);
	return n;
}

void
tree_measure(int root, struct tree *t)
{
	int proc = openat(root, "proc", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	DIR *directory = proc < 0 ? NULL : fdopendir(proc);
	const struct dirent *entry;

	memset(t, 0, sizeof *t);
	if (!directory) {
		if (proc >= 0)
			close(proc);
		return;
	}
	while ((entry = readdir(directory)))
		if (entry->d_name[0] >= '1' && entry->d_name[0] <= '9')
			add_process(proc, entry->d_name, t);
	t->waited = waited(proc);
	t->files = files(root);
	closedir(directory);
}
