/* SPDX-License-Identifier: MIT */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "lib/base/die.h"
#include "lib/base/file.h"
#include "lib/base/json.h"
#include "lib/base/mem.h"
#include "lib/quant/output.h"
#include "lib/quant/pack.h"

enum { HEAD = 64 };		/* bytes of the streams' first line */

void
output_open(struct output *o, const char *directory, const char *run)
{
	file_check_directory(directory);
	*o = (struct output){ .directory = directory, .state = mem_format("%s.state", directory),
	    .run = mem_string(run) };
}

void
output_close(struct output *o)
{
	free(o->state);
	free(o->run);
	free(o->tensors);
}

static char *
block_path(const struct output *o, int block)
{
	char *name = mem_format("block-%d.safetensors", block), *path = file_join(o->state, name);

	free(name);
	return path;
}

static size_t
stream_bytes(const struct calibration *c)
{
	return c->total * (size_t)c->m->config.hidden * dtype_size(c->m->type);
}

static void
first_line(char line[HEAD], const struct output *o, int blocks)
{
	memset(line, ' ', HEAD);
	line[snprintf(line, HEAD, "%s %d", o->run, blocks)] = '\n';
}

/* The streams' file says how many blocks are done; it is replaced when a block is. */
int
output_resume(struct output *o, struct calibration *c)
{
	char *path = file_join(o->state, "streams"), line[HEAD];
	struct map map;
	int blocks = 0;

	file_make_directories(o->state);
	if (file_exists(path)) {
		map = file_map(path);
		for (blocks = c->m->config.layers; blocks; blocks--) {
			first_line(line, o, blocks);
			if (map.size == HEAD + 2 * stream_bytes(c) && !memcmp(map.data, line, HEAD))
				break;
		}
		if (blocks) {
			c->m->be->upload(c->x, map.data + HEAD, stream_bytes(c));
			c->m->be->upload(c->y, map.data + HEAD + stream_bytes(c), stream_bytes(c));
		} else {
			warn("'%s' is of another run: starting anew", o->state);
		}
		file_unmap(map);
	}
	free(path);
	return blocks;
}

static void
add(struct output *o, const char *base, const char *what, enum dtype type, int rows, int columns, void *data)
{
	struct safetensor t = { .name = mem_format("%s.%s", base, what), .type = type, .rank = columns ? 2 : 1,
	    .shape = { (uint64_t)rows, (uint64_t)columns }, .data = data,
	    .bytes = (size_t)rows * (columns ? (size_t)columns : 1) * dtype_size(type) };

	MEM_PUSH(o->tensors, o->n, o->cap, t);
}

/* "X" of "X.weight" and "X.bias" */
static char *
base_of(const char *param)
{
	char *base = mem_string(param);

	*strrchr(base, '.') = '\0';
	return base;
}

void
output_layer(struct output *o, const char *weight, const struct quantised *l, const struct quant_config *c)
{
	int rows = l->k / 32 * l->bits, columns = l->n / 32 * l->bits;
	size_t scales = (size_t)l->groups * (size_t)l->n;
	uint32_t *codes = mem_alloc((size_t)rows * (size_t)l->n * sizeof *codes);
	uint32_t *zeros = mem_alloc((size_t)l->groups * (size_t)columns * sizeof *zeros);
	uint16_t *narrow = mem_alloc(scales * sizeof *narrow);
	char *base = base_of(weight);

	pack_codes(codes, l->q, l->k, l->n, l->bits);
	if (pack_zeros(zeros, l->zeros, l->groups, l->n, l->bits, c->version))
		die("'%s' has a zero of 0, which version 1 of the format cannot hold", base);
	dtype_convert(narrow, DT_F16, l->scales, DT_F32, scales);
	add(o, base, "g_idx", DT_I32, l->k, 0, mem_copy(l->group, (size_t)l->k * sizeof *l->group));
	add(o, base, "qweight", DT_I32, rows, l->n, codes);
	add(o, base, "qzeros", DT_I32, l->groups, columns, zeros);
	add(o, base, "scales", DT_F16, l->groups, l->n, narrow);
	free(base);
}

static void
forget(struct output *o)
{
	while (o->n) {
		struct safetensor *t = &o->tensors[--o->n];

		free(t->name);
		free((void *)(uintptr_t)t->data);
	}
}

static void
save_streams(const struct output *o, const struct calibration *c, int blocks)
{
	char *path = file_join(o->state, "streams"), line[HEAD];
	struct file *file = file_create(path);
	void *host = mem_alloc(stream_bytes(c));

	first_line(line, o, blocks);
	file_write(file, line, HEAD);
	c->m->be->download(host, c->x, stream_bytes(c));
	file_write(file, host, stream_bytes(c));
	c->m->be->download(host, c->y, stream_bytes(c));
	file_write(file, host, stream_bytes(c));
	file_commit(file);
	free(host);
	free(path);
}

void
output_block(struct output *o, const struct calibration *c, int block)
{
	char *path = block_path(o, block);
	struct safetensors_writer *w = safetensors_create(path, o->tensors, o->n, NULL);
	int i;

	for (i = 0; i < o->n; i++)
		safetensors_put(w, o->tensors[i].data, o->tensors[i].bytes);
	safetensors_finish(w);
	forget(o);
	free(path);
	if (block < c->m->config.layers)
		save_streams(o, c, block + 1);
}

/* The tensors of the model, in files that are mapped but for the narrow biases. */
struct assembly {
	struct safetensor *tensors;
	int n, cap;
	void **biases;
	int nbiases, cap_biases;
};

static void
gather(struct assembly *a, struct safetensor t, char *name)
{
	t.name = name;
	MEM_PUSH(a->tensors, a->n, a->cap, t);
}

/* In f16, as readers have the bias of a quantised layer. */
static struct safetensor
narrow_bias(struct assembly *a, struct safetensor t)
{
	size_t n = t.bytes / dtype_size(t.type);
	void *own = mem_copy(t.data, t.bytes);
	uint16_t *narrow = mem_alloc(n * sizeof *narrow);

	dtype_convert(narrow, DT_F16, own, t.type, n);
	free(own);
	MEM_PUSH(a->biases, a->nbiases, a->cap_biases, narrow);
	t.type = DT_F16;
	t.bytes = n * sizeof *narrow;
	t.data = narrow;
	return t;
}

/* The codes of a parameter, where its layer has some, or the parameter itself. */
static void
gather_param(struct assembly *a, const struct param *p, const struct safetensor *plain,
    const struct safetensors *codes)
{
	static const char *const parts[] = { "g_idx", "qweight", "qzeros", "scales" };
	char *base = base_of(p->name);
	size_t i;

	if (!quantised_lies(codes, base)) {
		gather(a, *plain, mem_string(p->name));
	} else if (!p->columns) {
		gather(a, narrow_bias(a, *plain), mem_string(p->name));
	} else {
		for (i = 0; i < sizeof parts / sizeof *parts; i++) {
			char *name = mem_format("%s.%s", base, parts[i]);

			gather(a, *safetensors_find(codes, name), name);
		}
	}
	free(base);
}

static void
put_tensor(struct safetensors_writer *w, int i, void *user)
{
	const struct assembly *a = user;

	safetensors_put(w, a->tensors[i].data, a->tensors[i].bytes);
}

static void
release(struct assembly *a)
{
	while (a->n)
		free(a->tensors[--a->n].name);
	while (a->nbiases)
		free(a->biases[--a->nbiases]);
	free(a->tensors);
	free(a->biases);
}

static void
save_configs(const struct model *m, const char *part, const json_t *quantization)
{
	json_t *config = json_copy(m->config.json);
	char *path = file_join(part, "config.json"), *older = file_join(part, "quantize_config.json");

	json_object_set(config, "quantization_config", (json_t *)(uintptr_t)quantization);
	json_write(path, config);
	json_write(older, quantization);
	json_decref(config);
	free(path);
	free(older);
}

static void
drop_state(const struct output *o, int blocks)
{
	char *streams = file_join(o->state, "streams");
	int i;

	unlink(streams);
	for (i = 0; i < blocks; i++) {
		char *path = block_path(o, i);

		unlink(path);
		free(path);
	}
	if (rmdir(o->state))
		warn("cannot remove '%s':", o->state);
	free(streams);
}

static struct safetensors *
open_block(const struct output *o, int block)
{
	char *path = block_path(o, block), why[REASON_MAX];
	struct safetensors *st = safetensors_open(path, why);

	if (!st)
		die("%s", why);
	free(path);
	return st;
}

void
output_finish(struct output *o, const struct shelf *s, const json_t *quantization)
{
	const struct model *m = s->m;
	int blocks = m->config.layers + 1, i;
	struct safetensors **codes = mem_zero((size_t)blocks, sizeof *codes);
	struct assembly a = { .n = 0 };
	char *part = file_directory(o->directory);

	for (i = 0; i < blocks; i++)
		codes[i] = open_block(o, i);
	for (i = 0; i < m->nparams; i++) {
		int layer = m->storage[m->params[i].storage].layer;

		gather_param(&a, &m->params[i], s->of[i], codes[layer < 0 ? blocks - 1 : layer]);
	}
	save_configs(m, part, quantization);
	model_copy_tokenizer(m->directory, part);
	safetensors_save_model(part, a.tensors, a.n, model_shard, put_tensor, &a);
	file_directory_commit(part, o->directory);
	release(&a);
	for (i = 0; i < blocks; i++)
		safetensors_close(codes[i]);
	free(codes);
	drop_state(o, blocks);
}
