/* SPDX-License-Identifier: MIT */
/* output - examples on their way to a file of JSON lines, and the dice that order them */
#ifndef SAMPLES_OUTPUT_H
#define SAMPLES_OUTPUT_H

#include <jansson.h>
#include <stddef.h>

struct output {
	char **lines;
	size_t n, capacity;
};

size_t draw(size_t n);					/* 0 to n - 1; the same numbers in every run */
void output_add(struct output *out, json_t *example);	/* takes the example */
void output_write(struct output *out, const char *path);	/* shuffled; frees them */

#endif
