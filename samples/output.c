/* SPDX-License-Identifier: MIT */
#include <stdint.h>
#include <stdlib.h>

#include "lib/base/file.h"
#include "lib/base/mem.h"
#include "samples/output.h"

/* Steele, Lea, Flood: Fast splittable pseudorandom number generators (2014). */
size_t
draw(size_t n)
{
	static uint64_t state;
	uint64_t z = state += 0x9e3779b97f4a7c15;

	z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9;
	z = (z ^ z >> 27) * 0x94d049bb133111eb;
	return (size_t)((z ^ z >> 31) % n);
}

void
output_add(struct output *out, json_t *example)
{
	MEM_PUSH(out->lines, out->n, out->capacity, json_dumps(example, JSON_COMPACT));
	json_decref(example);
}

void
output_write(struct output *out, const char *path)
{
	struct file *file = file_create(path);
	size_t i, j;
	char *line;

	for (i = out->n; i > 1; i--) {
		j = draw(i);
		line = out->lines[i - 1];
		out->lines[i - 1] = out->lines[j];
		out->lines[j] = line;
	}
	for (i = 0; i < out->n; i++)
		fprintf(file->f, "%s\n", out->lines[i]);
	file_commit(file);
	for (i = 0; i < out->n; i++)
		free(out->lines[i]);
	free(out->lines);
}
