/* SPDX-License-Identifier: MIT */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <pthread.h>
#include <signal.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "lib/base/die.h"
#include "lib/base/file.h"
#include "lib/base/mem.h"

/* What is half-written now: removed when the process exits. */
static char **parts;
static int nparts, capparts;
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;

static int
remove_one(const char *path, const struct stat *st, int kind, struct FTW *ftw)
{
	(void)st, (void)kind, (void)ftw;
	return remove(path);
}

/* A file, or a directory with all that is in it. */
static int
remove_tree(const char *path)
{
	return nftw(path, remove_one, 16, FTW_DEPTH | FTW_PHYS);
}

static void
remove_parts(void)
{
	int i;

	for (i = 0; i < nparts; i++) {
		remove_tree(parts[i]);
		free(parts[i]);
	}
	free(parts);
}

static void
remember(const char *part)
{
	static int registered;

	pthread_mutex_lock(&lock);
	if (!registered && atexit(remove_parts))
		die("cannot register an exit handler");
	registered = 1;
	MEM_PUSH(parts, nparts, capparts, mem_string(part));
	pthread_mutex_unlock(&lock);
}

static void
forget(const char *part)
{
	int i;

	pthread_mutex_lock(&lock);
	for (i = 0; i < nparts; i++)
		if (!strcmp(parts[i], part)) {
			free(parts[i]);
			parts[i] = parts[--nparts];
			break;
		}
	pthread_mutex_unlock(&lock);
}

static void
sync_path(const char *path)
{
	int fd = open(path, O_RDONLY | O_CLOEXEC);

	if (fd < 0 || fsync(fd))
		die("cannot flush '%s':", path);
	close(fd);
}

/* The entry itself, which lies in the directory that holds it. */
static void
sync_parent(const char *path)
{
	char *parent = mem_string(path), *slash = strrchr(parent, '/');

	if (slash)
		slash[slash == parent] = '\0';
	sync_path(slash ? parent : ".");
	free(parent);
}

struct file *
file_create(const char *path)
{
	struct file *file = mem_alloc(sizeof *file);
	struct stat st;

	file->in_place = !stat(path, &st) && !S_ISREG(st.st_mode);
	file->path = mem_string(path);
	file->part = file->in_place ? mem_string(path) : mem_format("%s.part", path);
	if (!(file->f = fopen(file->part, "we")))
		die("cannot create '%s':", file->part);
	if (!file->in_place)
		remember(file->part);
	return file;
}

void
file_write(struct file *file, const void *data, size_t size)
{
	if (fwrite(data, 1, size, file->f) != size)
		die("cannot write '%s':", file->part);
}

static void
let_go(struct file *file)
{
	forget(file->part);
	free(file->path);
	free(file->part);
	free(file);
}

void
file_commit(struct file *file)
{
	if (fflush(file->f) || ferror(file->f) || (!file->in_place && fsync(fileno(file->f))))
		die("cannot write '%s':", file->part);
	if (fclose(file->f))
		die("cannot close '%s':", file->part);
	if (!file->in_place && rename(file->part, file->path))
		die("cannot rename '%s' to '%s':", file->part, file->path);
	if (!file->in_place)
		sync_parent(file->path);
	let_go(file);
}

void
file_discard(struct file *file)
{
	fclose(file->f);
	if (!file->in_place)
		remove(file->part);
	let_go(file);
}

/* "runs/a/" is "runs/a": what is appended to it must not land inside. */
static char *
without_slashes(const char *path)
{
	char *s = mem_string(path);
	size_t n = strlen(s);

	while (n > 1 && s[n - 1] == '/')
		s[--n] = '\0';
	return s;
}

void
file_check_directory(const char *path)
{
	DIR *directory = opendir(path);
	struct dirent *entry;
	int foreign = 0;

	if (!directory && errno != ENOENT)
		die("cannot make directory '%s':", path);
	while (directory && (entry = readdir(directory))) {
		if (!strcmp(entry->d_name, "config.json") || !strcmp(entry->d_name, "tokenizer.json")) {
			foreign = 0;
			break;
		}
		foreign |= strcmp(entry->d_name, ".") && strcmp(entry->d_name, "..");
	}
	if (directory)
		closedir(directory);
	if (foreign)
		die("'%s' would be replaced, and holds something else than a model", path);
}

char *
file_directory(const char *path)
{
	char *name = without_slashes(path), *part = mem_format("%s.part", name);

	if (remove_tree(part) && errno != ENOENT)
		die("cannot remove '%s':", part);
	file_make_directories(part);
	remember(part);
	free(name);
	return part;
}

static int
sync_one(const char *path, const struct stat *st, int kind, struct FTW *ftw)
{
	(void)st, (void)ftw;
	if (kind == FTW_F || kind == FTW_D || kind == FTW_DP)
		sync_path(path);
	return 0;
}

void
file_directory_commit(char *part, const char *path)
{
	char *name = without_slashes(path);
	int replaced;

	if (nftw(part, sync_one, 16, FTW_PHYS))
		die("cannot flush '%s':", part);
	replaced = !renameat2(AT_FDCWD, part, AT_FDCWD, name, RENAME_EXCHANGE);
	if (!replaced && rename(part, name))
		die("cannot rename '%s' to '%s':", part, name);
	sync_parent(name);
	if (replaced)
		file_remove(part);
	forget(part);
	free(name);
	free(part);
}

void
file_remove(const char *path)
{
	if (remove_tree(path))
		die("cannot remove '%s':", path);
}

void
file_make_directories(const char *path)
{
	char *s = mem_string(path), *p;

	for (p = s + 1; (p = strchr(p, '/')); *p++ = '/') {
		*p = '\0';
		if (mkdir(s, 0777) && errno != EEXIST)
			die("cannot make directory '%s':", s);
	}
	if (mkdir(s, 0777) && errno != EEXIST)
		die("cannot make directory '%s':", s);
	free(s);
}

char *
file_join(const char *directory, const char *name)
{
	size_t n = strlen(directory);

	return mem_format("%s%s%s", directory, n && directory[n - 1] != '/' ? "/" : "", name);
}

int
file_exists(const char *path)
{
	return !access(path, F_OK);
}

char *
file_read(const char *path, size_t *size)
{
	int fd = open(path, O_RDONLY | O_CLOEXEC), error;
	size_t n = 0, cap = 0;
	ssize_t got;
	char *data = NULL;
	struct stat st;

	if (fd < 0)
		return NULL;
	if (!fstat(fd, &st) && st.st_size > 0)
		cap = (size_t)st.st_size;
	do {
		if (n + 1 >= cap || !data)
			data = mem_grow(data, cap = (n ? 2 * cap : cap) + 4096, 1);
		got = read(fd, data + n, cap - n - 1);
		n += got > 0 ? (size_t)got : 0;
	} while (got > 0 || (got < 0 && errno == EINTR));
	error = errno;
	close(fd);
	if (got < 0) {
		free(data);
		errno = error;
		return NULL;
	}
	data[n] = '\0';
	*size = n;
	return data;
}

static void
shrank(int number)
{
	static const char message[] = ": a mapped file became shorter while it was read\n";

	(void)number;
	if (write(STDERR_FILENO, progname, strlen(progname)) > 0)
		(void)!write(STDERR_FILENO, message, sizeof message - 1);
	_exit(1);
}

struct map
file_map(const char *path)
{
	static const unsigned char empty[1];
	struct map map = { empty, 0 };
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	struct stat st;
	void *p;

	if (fd < 0 || fstat(fd, &st))
		die("cannot open '%s':", path);
	if (st.st_size || !S_ISREG(st.st_mode)) {
		p = mmap(NULL, (size_t)st.st_size, PROT_READ, MAP_PRIVATE, fd, 0);
		if (p == MAP_FAILED)
			die("cannot map '%s':", path);
		map.data = p;
		map.size = (size_t)st.st_size;
		signal(SIGBUS, shrank);
	}
	close(fd);
	return map;
}

void
file_unmap(struct map map)
{
	if (map.size)
		munmap((void *)(uintptr_t)map.data, map.size);
}

static char *
parent_of(char *path)
{
	char *slash = strrchr(path, '/');

	if (slash)
		*slash = '\0';
	return path;
}

char *
file_data(const char *name)
{
	static const char *const places[] = { "", "/share/pipestill" };
	char self[4096], *path;
	ssize_t n = readlink("/proc/self/exe", self, sizeof self - 1);
	size_t i;

	if (n < 0)
		die("cannot read '/proc/self/exe':");
	self[n] = '\0';
	parent_of(parent_of(self));
	for (i = 0; i < sizeof places / sizeof *places; i++) {
		path = mem_format("%s%s/%s", self, places[i], name);
		if (file_exists(path))
			return path;
		free(path);
	}
	return NULL;
}
