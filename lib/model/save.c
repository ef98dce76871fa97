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

struct saved {
	const struct model *m;
	enum dtype type;
};

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
put_param(struct safetensors_writer *w, int i, void *user)
{
	const struct saved *saved = user;
	const struct param *p = &saved->m->params[i];
	const struct storage *s = &saved->m->storage[p->storage];

	if (s->matrix)
		put_matrix(w, saved->m, s->matrix, p, saved->type);
	else
		put_vector(w, saved->m, *s->vector, p, saved->type);
}

static void
save_weights(const struct model *m, const char *directory, enum dtype type)
{
	struct safetensor *tensors = mem_zero((size_t)m->nparams, sizeof *tensors);
	struct saved saved = { m, type };
	int i;

	for (i = 0; i < m->nparams; i++)
		describe(&tensors[i], &m->params[i], type);
	safetensors_save_model(directory, tensors, m->nparams, model_shard, put_param, &saved);
	free(tensors);
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
