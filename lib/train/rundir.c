/* SPDX-License-Identifier: MIT */
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <unistd.h>

#include "lib/base/die.h"
#include "lib/base/file.h"
#include "lib/base/json.h"
#include "lib/base/mem.h"
#include "lib/model/safetensors.h"
#include "lib/train/rundir.h"

enum { PIECE = 1 << 22 };		/* bytes between disk and backend at a time */

static char *
inside(const struct rundir *r, const char *name)
{
	return file_join(r->path, name);
}

static void
lock_directory(struct rundir *r)
{
	file_make_directories(r->path);
	r->lock = open(r->path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (r->lock < 0)
		die("cannot open '%s':", r->path);
	if (flock(r->lock, LOCK_EX | LOCK_NB))
		die("'%s' is in use by another process", r->path);
}

/* "0.001", "true", "dolly": as it stood on the command line. */
static char *
spelled(const json_t *value)
{
	if (json_is_string(value))
		return mem_string(json_string_value(value));
	return value ? json_dumps(value, JSON_ENCODE_ANY | JSON_REAL_PRECISION(6)) : mem_string("nothing");
}

static void
compare(const struct rundir *r, const json_t *old, const json_t *new)
{
	const char *key;
	json_t *value;

	json_object_foreach((json_t *)(uintptr_t)new, key, value)
		if (!json_equal(value, json_object_get(old, key)))
			die("'%s' was begun with --%s %s, not %s: another run needs another --output", r->path, key,
			    spelled(json_object_get(old, key)), spelled(value));
}

void
rundir_open(struct rundir *r, const char *path, const json_t *recipe)
{
	char *options, *model, *state, *saved, why[REASON_MAX];
	json_t *old;

	*r = (struct rundir){ .path = mem_string(path) };
	lock_directory(r);
	state = inside(r, "state");
	options = inside(r, "state/options.json");
	saved = inside(r, "state/state.safetensors");
	model = inside(r, "model");
	/* a run that has saved nothing begins anew, by any options */
	if (file_exists(saved)) {
		if (!(old = json_read(options, why)))
			die("%s", why);
		compare(r, old, recipe);
		json_decref(old);
	} else if (file_exists(model) && !file_exists(options)) {
		die("'%s' holds a model but no run: it would be overwritten", path);
	} else {
		file_make_directories(state);
		json_write(options, recipe);
	}
	free(state);
	free(options);
	free(saved);
	free(model);
}

void
rundir_watch(struct rundir *r, const char *path)
{
	*r = (struct rundir){ .path = mem_string(path), .lock = -1 };
}

void
rundir_close(struct rundir *r)
{
	if (r->metrics && fclose(r->metrics))
		die("cannot close '%s/metrics.jsonl':", r->path);
	if (r->lock >= 0)
		close(r->lock);
	free(r->path);
}

/* One tensor of the state: where it lies in the backend and what it is called. */
struct part {
	char name[32];
	enum dtype type;
	void *data;
	size_t n;
};

enum { PARTS = 4 };			/* of a storage */

static int
parts_of(struct part *parts, const struct optimizer *o, int i)
{
	const struct storage *s = &o->m->storage[i];
	struct part all[PARTS] = {
		{ "weight", s->matrix ? s->matrix->type : DT_F32, s->matrix ? s->matrix->data : *s->vector, s->n },
		{ "mean", DT_F32, o->mean[i], s->n },
		{ "variance", DT_F32, o->variance[i], s->n },
		{ "low", DT_I16, o->low[i], s->n },
	};
	int k, n = o->low[i] ? PARTS : PARTS - 1;

	for (k = 0; k < n; k++) {
		parts[k] = all[k];
		snprintf(parts[k].name, sizeof parts[k].name, "%.15s.%d", all[k].name, i);
	}
	return n;
}

/* All parts of all storages; to be freed. */
static struct part *
parts_all(const struct optimizer *o, int *n)
{
	struct part *parts = mem_zero((size_t)o->m->nstorage * PARTS, sizeof *parts);
	int i;

	for (i = *n = 0; i < o->m->nstorage; i++)
		*n += parts_of(parts + *n, o, i);
	return parts;
}

static json_t *
position_json(const struct rundir *r, const struct optimizer *o, const struct position *p)
{
	return json_pack("{ss sI sI sI sI sI sI sI sI sf sf sI sb}", "backend", o->m->be->name,
	    "metrics", (json_int_t)ftell(r->metrics), "updates", (json_int_t)o->step, "step", (json_int_t)p->step,
	    "records", (json_int_t)p->records, "dropped", (json_int_t)p->dropped,
	    "tokens", (json_int_t)p->tokens, "targets", (json_int_t)p->targets, "micro", (json_int_t)p->micro,
	    "seconds", p->seconds, "best", p->best, "best_step", (json_int_t)p->best_step,
	    "finished", p->finished);
}

static void
open_metrics(struct rundir *r, json_int_t size)
{
	char *path = inside(r, "metrics.jsonl");
	int fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0666);

	if (fd < 0 || !(r->metrics = fdopen(fd, "r+")) || fseek(r->metrics, 0, SEEK_END))
		die("cannot open '%s':", path);
	if (ftell(r->metrics) < size)
		die("'%s' is shorter than when the state was saved", path);
	if (ftruncate(fd, size) || fseek(r->metrics, size, SEEK_SET))
		die("cannot cut '%s':", path);
	free(path);
}

/* The state where there is one, else NULL. */
static struct safetensors *
open_state(const struct rundir *r)
{
	char *path = inside(r, "state/state.safetensors"), why[REASON_MAX];
	struct safetensors *st = NULL;

	if (file_exists(path) && !(st = safetensors_open(path, why)))
		die("%s", why);
	free(path);
	return st;
}

/* A new object, or NULL. */
static json_t *
position_read(const struct safetensors *st)
{
	const char *text = json_string_value(json_object_get(st->metadata, "position"));

	return text ? json_loads(text, 0, NULL) : NULL;
}

long
rundir_step(const struct rundir *r)
{
	struct safetensors *st = open_state(r);
	json_t *json = st ? position_read(st) : NULL;
	long step = (long)json_integer_value(json_object_get(json, "step"));

	json_decref(json);
	if (st)
		safetensors_close(st);
	return step;
}

/* Returns the size that metrics.jsonl had. */
static json_int_t
position_parse(const struct rundir *r, const struct safetensors *st, struct optimizer *o, struct position *p)
{
	json_int_t metrics, updates, step, records, dropped, tokens, targets, micro, best_step;
	json_t *json = position_read(st);
	const char *backend;

	if (json_unpack(json, "{ss sI sI sI sI sI sI sI sI sF sF sI sb}", "backend", &backend, "metrics", &metrics,
	    "updates", &updates, "step", &step, "records", &records, "dropped", &dropped, "tokens", &tokens,
	    "targets", &targets, "micro", &micro, "seconds", &p->seconds, "best", &p->best,
	    "best_step", &best_step, "finished", &p->finished))
		die("'%s/state/state.safetensors' holds no position of a run", r->path);
	o->step = (long)updates;
	p->step = (long)step;
	p->records = (uint64_t)records;
	p->dropped = (uint64_t)dropped;
	p->tokens = (uint64_t)tokens;
	p->targets = (uint64_t)targets;
	p->micro = (uint32_t)micro;
	p->best_step = (long)best_step;
	if (strcmp(backend, o->m->be->name))
		warn("'%s' ran on %s, goes on with %s: not the same to the last bit", r->path, backend,
		    o->m->be->name);
	json_decref(json);
	return metrics;
}

/* From the mapped file, whose pages are let go as they are read. */
static void
load_part(const struct rundir *r, const struct safetensors *st, const struct part *part, const struct backend *be)
{
	const struct safetensor *t = safetensors_find(st, part->name);
	size_t page = (size_t)sysconf(_SC_PAGESIZE), done, n;
	const char *from;
	uintptr_t first, last;

	if (!t || t->type != part->type || t->rank != 1 || t->shape[0] != part->n)
		die("'%s/state' is of another model or of a backend with other weights", r->path);
	for (done = 0; done < t->bytes; done += n) {
		n = t->bytes - done < PIECE ? t->bytes - done : PIECE;
		from = (const char *)t->data + done;
		be->upload((char *)part->data + done, from, n);
		first = ((uintptr_t)from + page - 1) / page * page;
		last = ((uintptr_t)from + n) / page * page;
		if (last > first)
			madvise((void *)first, last - first, MADV_DONTNEED);
	}
}

static void
load_state(const struct rundir *r, const struct safetensors *st, struct optimizer *o)
{
	int i, n;
	struct part *parts = parts_all(o, &n);

	for (i = 0; i < n; i++)
		load_part(r, st, &parts[i], o->m->be);
	free(parts);
}

int
rundir_resume(struct rundir *r, struct optimizer *o, struct position *p)
{
	struct safetensors *st = open_state(r);
	json_int_t metrics = 0;
	int there = st != NULL;

	if (there) {
		metrics = position_parse(r, st, o, p);
		if (!p->finished)
			load_state(r, st, o);
		safetensors_close(st);
	}
	if (r->lock >= 0)
		open_metrics(r, metrics);
	return there;
}

void
rundir_metric(struct rundir *r, const json_t *line)
{
	if (!r->metrics)
		return;
	if (json_dumpf(line, r->metrics, JSON_COMPACT | JSON_REAL_PRECISION(9)) ||
	    fputc('\n', r->metrics) == EOF || fflush(r->metrics))
		die("cannot write '%s/metrics.jsonl':", r->path);
}

void
rundir_save_model(const struct rundir *r, const struct model *m, const char *name, enum dtype type)
{
	char *path = inside(r, name);

	if (r->metrics)
		model_save(m, path, m->directory, type);
	free(path);
}

static void
write_part(struct safetensors_writer *w, const struct part *part, const struct backend *be, void *buffer)
{
	size_t bytes = part->n * dtype_size(part->type), done, n;

	for (done = 0; done < bytes; done += n) {
		n = bytes - done < PIECE ? bytes - done : PIECE;
		be->download(buffer, (const char *)part->data + done, n);
		safetensors_put(w, buffer, n);
	}
}

static json_t *
metadata(const struct rundir *r, const struct optimizer *o, const struct position *p)
{
	json_t *position = position_json(r, o, p), *m;
	char *text = json_dumps(position, JSON_COMPACT);

	m = json_pack("{ss}", "position", text);
	json_decref(position);
	free(text);
	return m;
}

static void
write_state(struct rundir *r, const struct optimizer *o, const struct position *p)
{
	char *path = inside(r, "state/state.safetensors");
	void *buffer = mem_alloc(PIECE);
	int i, n;
	struct part *parts = parts_all(o, &n);
	struct safetensor *tensors = mem_zero((size_t)n, sizeof *tensors);
	struct safetensors_writer *w;
	json_t *meta;

	/* nothing goes on from the end, and the model is saved */
	if (p->finished)
		n = 0;
	if (fflush(r->metrics) || fsync(fileno(r->metrics)))
		die("cannot write '%s/metrics.jsonl':", r->path);
	meta = metadata(r, o, p);
	for (i = 0; i < n; i++)
		tensors[i] = (struct safetensor){
			.name = parts[i].name, .type = parts[i].type, .rank = 1, .shape = { parts[i].n },
			.bytes = parts[i].n * dtype_size(parts[i].type),
		};
	w = safetensors_create(path, tensors, n, meta);
	for (i = 0; i < n; i++)
		write_part(w, &parts[i], o->m->be, buffer);
	safetensors_finish(w);
	json_decref(meta);
	free(tensors);
	free(parts);
	free(buffer);
	free(path);
}

void
rundir_save_state(struct rundir *r, const struct optimizer *o, const struct position *p)
{
	if (r->metrics)
		write_state(r, o, p);
}
