/* SPDX-License-Identifier: MIT */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "lib/base/die.h"
#include "lib/base/file.h"
#include "lib/base/json.h"
#include "lib/base/mem.h"
#include "lib/model/model.h"
#include "lib/model/safetensors.h"

size_t model_shard = 5000000000;

/* Transformers' names of its types: "bfloat16"; old files say torch_dtype, new ones dtype. */
static void
save_config(const struct model *m, const char *directory, enum dtype type)
{
	json_t *json = json_copy(m->config.json);
	const char *name = type == DT_BF16 ? "bfloat16" : type == DT_F16 ? "float16" : "float32";
	char *path = file_join(directory, "config.json");

	if (json_object_get(json, "dtype"))
		json_object_set_new(json, "dtype", json_string(name));
	if (json_object_get(json, "torch_dtype") || !json_object_get(json, "dtype"))
		json_object_set_new(json, "torch_dtype", json_string(name));
	json_write(path, json);
	json_decref(json);
	free(path);
}

static void
copy_file(const char *from, const char *to, const char *name)
{
	char *source = file_join(from, name), *target = file_join(to, name);
	size_t size;
	char *data = file_exists(source) ? file_read(source, &size) : NULL;

	if (data) {
		struct file *file = file_create(target);

		file_write(file, data, size);
		file_commit(file);
	} else if (file_exists(source)) {
		die("cannot read '%s':", source);
	}
	free(data);
	free(source);
	free(target);
}

void
model_copy_tokenizer(const char *from, const char *to)
{
	static const char *const names[] = {
		"generation_config.json", "tokenizer.json", "tokenizer_config.json", "vocab.json",
		"merges.txt", "special_tokens_map.json", "added_tokens.json", "chat_template.jinja",
	};
	size_t i;

	for (i = 0; i < sizeof names / sizeof *names; i++)
		copy_file(from, to, names[i]);
}

static void
describe(struct safetensor *t, const struct param *p, enum dtype type)
{
	uint64_t rows = (uint64_t)p->rows, columns = (uint64_t)p->columns;

	t->name = p->name;
	t->type = type;
	t->rank = p->columns ? 2 : 1;
	t->shape[0] = p->transposed ? columns : rows;
	t->shape[1] = p->transposed ? rows : columns;
	t->bytes = mem_mul((size_t)rows, p->columns ? (size_t)columns : 1) * dtype_size(type);
}

/* Whole where the file has it transposed, else by so many rows at a time. */
enum { ROWS = 8192 };

static void
put_matrix(struct safetensors_writer *w, const struct model *m, const struct weight *weight,
    const struct param *p, enum dtype type)
{
	int step = p->transposed ? p->rows : ROWS, row;
	size_t k = (size_t)p->columns * dtype_size(type);
	char *buffer = mem_alloc((size_t)(step < p->rows ? step : p->rows) * k);

	for (row = 0; row < p->rows; row += step) {
		int rows = p->rows - row < step ? p->rows - row : step;

		m->be->weight_get(buffer, type, weight, p->row + row, rows, p->transposed);
		safetensors_put(w, buffer, (size_t)rows * k);
	}
	free(buffer);
}

static void
put_vector(struct safetensors_writer *w, const struct model *m, const float *vector,
    const struct param *p, enum dtype type)
{
	size_t n = (size_t)p->rows;
	float *wide = mem_alloc(n * sizeof *wide);
	void *out = mem_alloc(n * dtype_size(type));

	m->be->download(wide, vector + p->row, n * sizeof *wide);
	dtype_convert(out, type, wide, DT_F32, n);
	safetensors_put(w, out, n * dtype_size(type));
	free(wide);
	free(out);
}

static void
save_shard(const struct model *m, const char *path, int first, int count,
    const struct safetensor *tensors, enum dtype type)
{
	json_t *metadata = json_pack("{s:s}", "format", "pt");
	struct safetensors_writer *w = safetensors_create(path, tensors + first, count, metadata);
	int i;

	for (i = first; i < first + count; i++) {
		const struct param *p = &m->params[i];
		const struct storage *s = &m->storage[p->storage];

		if (s->matrix)
			put_matrix(w, m, s->matrix, p, type);
		else
			put_vector(w, m, *s->vector, p, type);
	}
	safetensors_finish(w);
	json_decref(metadata);
}

/* The shard of each tensor: a new one begins when the next would not fit. Their number. */
static int
cut(int *shard, const struct safetensor *tensors, int n)
{
	size_t bytes = 0;
	int i, last = 0;

	for (i = 0; i < n; i++) {
		if (i && bytes + tensors[i].bytes > model_shard) {
			bytes = 0;
			last++;
		}
		bytes += tensors[i].bytes;
		shard[i] = last;
	}
	return last + 1;
}

static void
save_index(const char *directory, const json_t *places, size_t total)
{
	char *path = file_join(directory, "model.safetensors.index.json");
	json_t *index = json_pack("{s:{s:I}, s:O}", "metadata", "total_size", (json_int_t)total,
	    "weight_map", places);

	json_write(path, index);
	json_decref(index);
	free(path);
}

static void
save_weights(const struct model *m, const char *directory, enum dtype type)
{
	struct safetensor *tensors = mem_zero((size_t)m->nparams, sizeof *tensors);
	int *shard = mem_zero((size_t)m->nparams, sizeof *shard), i, first, last, shards;
	json_t *places = json_object();
	size_t total = 0;

	for (i = 0; i < m->nparams; i++) {
		describe(&tensors[i], &m->params[i], type);
		total += tensors[i].bytes;
	}
	shards = cut(shard, tensors, m->nparams);
	for (first = 0; first < m->nparams; first = last) {
		char *name = shards == 1 ? mem_string("model.safetensors")
		    : mem_format("model-%05d-of-%05d.safetensors", shard[first] + 1, shards);
		char *path = file_join(directory, name);

		for (last = first; last < m->nparams && shard[last] == shard[first]; last++)
			json_object_set_new(places, tensors[last].name, json_string(name));
		save_shard(m, path, first, last - first, tensors, type);
		free(name);
		free(path);
	}
	if (shards > 1)
		save_index(directory, places, total);
	json_decref(places);
	free(tensors);
	free(shard);
}

void
model_save(const struct model *m, const char *directory, const char *from, enum dtype type)
{
	char *part = file_directory(directory);

	m->be->sync();
	save_config(m, part, type);
	if (from)
		model_copy_tokenizer(from, part);
	save_weights(m, part, type);
	file_directory_commit(part, directory);
}
