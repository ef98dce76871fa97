/* SPDX-License-Identifier: MIT */
#include <ctype.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include "lib/base/clock.h"
#include "lib/base/die.h"
#include "lib/base/file.h"
#include "lib/base/json.h"
#include "lib/base/mem.h"
#include "lib/train/policy.h"

enum { POLL = 20 };			/* milliseconds between two looks */

static char *
version_path(const char *policy, long version)
{
	return mem_format("%s/%ld", policy, version);
}

/* The number that a version's name is; -1 for other names. */
static long
version_number(const char *name)
{
	const char *p = name;

	while (isdigit((unsigned char)*p))
		p++;
	return *p || p == name ? -1 : atol(name);
}

/* Calls act(context, name) for everything in the directory, in no order. */
static void
each_entry(const char *path, void (*act)(void *context, const char *name), void *context)
{
	DIR *dir = opendir(path);
	struct dirent *entry;

	if (!dir)
		die("cannot open '%s':", path);
	while ((entry = readdir(dir)))
		if (strcmp(entry->d_name, ".") && strcmp(entry->d_name, ".."))
			act(context, entry->d_name);
	closedir(dir);
}

/* A name is complete or not there, while it is removed, too. */
static void
version_remove(const struct policy *p, long version)
{
	char *path = version_path(p->path, version), *part = mem_format("%s.part", path);

	if (rename(path, part))
		die("cannot rename '%s':", path);
	file_remove(part);
	free(path);
	free(part);
}

/* RUN/policy as a link to the place, which must not be another run's. */
static void
link_place(const char *path, const char *place)
{
	char *target, *there, *marker;

	file_make_directories(place);
	target = realpath(place, NULL);
	there = realpath(path, NULL);
	if (!target)
		die("cannot find '%s':", place);
	marker = file_join(target, "run.json");
	if (there && strcmp(there, target))
		die("'%s' is '%s' already, not '%s'", path, there, target);
	if (!there && file_exists(marker))
		die("'%s' has the versions of another run", place);
	if (!there && ((unlink(path) && errno != ENOENT) || symlink(target, path)))
		die("cannot make the link '%s':", path);
	free(marker);
	free(there);
	free(target);
}

/* Version 0 is the model that the training began with. */
static void
link_start(const struct policy *p, const char *model)
{
	char *path = version_path(p->path, 0), *target = realpath(model, NULL);

	if (!target)
		die("cannot find '%s':", model);
	if ((unlink(path) && errno != ENOENT) || symlink(target, path))
		die("cannot make the link '%s':", path);
	free(target);
	free(path);
}

static void
remove_part(void *context, const char *name)
{
	const struct policy *p = context;
	const char *end = strrchr(name, '.');
	char *path;

	if (!end || strcmp(end, ".part"))
		return;
	path = file_join(p->path, name);
	file_remove(path);
	free(path);
}

static void
remove_newer(void *context, const char *name)
{
	const struct policy *p = context;

	if (version_number(name) > p->saved)
		version_remove(p, version_number(name));
}

/* Locked before it has its name, so that whoever finds it unlocked knows that its trainer is gone. */
static int
announce(const struct policy *p, enum dtype type, long step, long steps)
{
	char *path = file_join(p->path, "run.json"), *text;
	json_t *json = json_pack("{sI sI ss}", "step", (json_int_t)step, "steps", (json_int_t)steps, "dtype",
	    dtype_name(type));
	struct file *file = file_create(path);
	int lock = fcntl(fileno(file->f), F_DUPFD_CLOEXEC, 0);

	if (lock < 0 || flock(lock, LOCK_EX | LOCK_NB))
		die("cannot lock '%s':", path);
	text = json_dumps(json, 0);
	file_write(file, text, strlen(text));
	file_write(file, "\n", 1);
	file_commit(file);
	json_decref(json);
	free(text);
	free(path);
	return lock;
}

void
policy_open(struct policy *p, const char *run, const char *place, const struct model *m, long step, long steps)
{
	*p = (struct policy){ .path = file_join(run, "policy"), .saved = step };
	if (place)
		link_place(p->path, place);
	else
		file_make_directories(p->path);
	each_entry(p->path, remove_part, p);
	each_entry(p->path, remove_newer, p);
	link_start(p, m->directory);
	p->lock = announce(p, m->type, step, steps);
}

void
policy_close(struct policy *p)
{
	close(p->lock);
	free(p->path);
}

void
policy_publish(struct policy *p, const struct model *m, long version)
{
	char *path = version_path(p->path, version);

	if (!file_exists(path))
		model_save(m, path, m->directory, m->type);
	free(path);
}

void
policy_saved(struct policy *p, long version)
{
	p->saved = version;
	p->saved_from = p->from;
}

static void
remove_unneeded(void *context, const char *name)
{
	const struct policy *p = context;
	long version = version_number(name);

	if (version > 0 && version < p->from && (version < p->saved_from || version > p->saved))
		version_remove(p, version);
}

void
policy_prune(struct policy *p, long used)
{
	p->from = used;
	each_entry(p->path, remove_unneeded, p);
}

/* Sleep a little, unless nobody is there to sleep for. */
static void
wait_a_little(void)
{
	struct pollfd out = { .fd = STDOUT_FILENO };

	if (poll(&out, 1, POLL) > 0 && out.revents & POLLERR)
		die("nobody reads <stdout> any more");
}

static int
trainer_lives(int lock)
{
	return flock(lock, LOCK_SH | LOCK_NB) && errno == EWOULDBLOCK;
}

/* run.json, where a living trainer holds it; else -1. */
static int
find_trainer(const char *path)
{
	int fd = open(path, O_RDONLY | O_CLOEXEC);

	if (fd < 0 && errno != ENOENT && errno != ENOTDIR)
		die("cannot open '%s':", path);
	if (fd >= 0 && !trainer_lives(fd)) {
		close(fd);
		fd = -1;
	}
	return fd;
}

void
policy_follow(struct follower *f, const char *run, double seconds)
{
	char *path, why[REASON_MAX];
	double end = clock_now() + seconds;
	json_int_t step, steps;
	const char *type;
	json_t *json;

	*f = (struct follower){ .run = mem_string(run), .path = file_join(run, "policy") };
	path = file_join(f->path, "run.json");
	while ((f->lock = find_trainer(path)) < 0) {
		if (clock_now() > end)
			die("nobody trains in '%s': waited %g seconds", run, seconds);
		wait_a_little();
	}
	if (!(json = json_read(path, why)))
		die("%s", why);
	if (json_unpack(json, "{sI sI ss}", "step", &step, "steps", &steps, "dtype", &type) ||
	    !(f->type = dtype_parse(type)))
		die("'%s' does not say what its rollouts shall be", path);
	f->step = (long)step;
	f->steps = (long)steps;
	json_decref(json);
	free(path);
}

char *
policy_wait(const struct follower *f, long version)
{
	char *path = version_path(f->path, version);

	while (!file_exists(path)) {
		if (version < f->step)
			die("'%s' has lost version %ld, which its rollouts need", f->path, version);
		if (!trainer_lives(f->lock))
			die("the training in '%s' ended before version %ld", f->run, version);
		wait_a_little();
	}
	return path;
}

void
policy_unfollow(struct follower *f)
{
	close(f->lock);
	free(f->run);
	free(f->path);
}
