/* SPDX-License-Identifier: MIT */
#include <stdlib.h>
#include <string.h>

#include "lib/base/die.h"
#include "lib/base/file.h"
#include "lib/base/mem.h"
#include "lib/model/safetensors.h"

struct safetensors_writer {
	struct file *file;
	size_t left;		/* bytes that were declared and have not come */
};

static json_t *
entry(const struct safetensor *t, size_t begin)
{
	json_t *shape = json_array();
	int i;

	for (i = 0; i < t->rank; i++)
		json_array_append_new(shape, json_integer((json_int_t)t->shape[i]));
	return json_pack("{s:s, s:o, s:[I, I]}", "dtype", safetensors_type(t->type), "shape", shape,
	    "data_offsets", (json_int_t)begin, (json_int_t)(begin + t->bytes));
}

/* Length, JSON, and spaces up to a multiple of 64, so that a mapped file is aligned. */
static void
write_header(struct file *file, const json_t *header)
{
	char *text = json_dumps(header, JSON_COMPACT);
	size_t n = strlen(text), padded = (8 + n + 63) / 64 * 64 - 8;
	unsigned char length[8];
	int i;

	for (i = 0; i < 8; i++)
		length[i] = (unsigned char)(padded >> 8 * i);
	file_write(file, length, sizeof length);
	text = mem_grow(text, padded, 1);
	memset(text + n, ' ', padded - n);
	file_write(file, text, padded);
	free(text);
}

struct safetensors_writer *
safetensors_create(const char *path, const struct safetensor *tensors, int count,
    const json_t *metadata)
{
	struct safetensors_writer *w = mem_zero(1, sizeof *w);
	json_t *header = json_object();
	int i;

	if (metadata)
		json_object_set_new(header, "__metadata__", json_deep_copy(metadata));
	for (i = 0; i < count; i++) {
		json_object_set_new(header, tensors[i].name, entry(&tensors[i], w->left));
		w->left += tensors[i].bytes;
	}
	w->file = file_create(path);
	write_header(w->file, header);
	json_decref(header);
	return w;
}

void
safetensors_put(struct safetensors_writer *w, const void *data, size_t bytes)
{
	if (bytes > w->left)
		die("'%s' gets %zu bytes more than were declared", w->file->path, bytes - w->left);
	file_write(w->file, data, bytes);
	w->left -= bytes;
}

void
safetensors_finish(struct safetensors_writer *w)
{
	if (w->left)
		die("'%s' lacks %zu of the bytes that were declared", w->file->path, w->left);
	file_commit(w->file);
	free(w);
}
