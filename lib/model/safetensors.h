/* SPDX-License-Identifier: MIT */
/*
 * safetensors - named tensors in a file, or in the shards of a model directory
 *
 * The reader parses foreign bytes: it returns NULL with a reason and never
 * reads beyond the file, allocates by its claims, or follows a path out of the
 * directory. Refused as the format says: holes, overlaps, bytes that no tensor
 * covers, one name twice, unknown dtypes, shapes that do not fit their bytes.
 */
#ifndef MODEL_SAFETENSORS_H
#define MODEL_SAFETENSORS_H

#include <jansson.h>
#include <stddef.h>
#include <stdint.h>

#include "kernels/dtype.h"

struct safetensor {
	char *name;
	enum dtype type;
	int rank;		/* 0 to 8 */
	uint64_t shape[8];
	const void *data;	/* in the mapped file; unaligned */
	size_t bytes;
};

struct safetensors {
	struct safetensor *tensors;	/* sorted by name */
	int count;
	json_t *metadata;		/* of the (first) file, or NULL */
	struct map *maps;		/* lib/base/file.h */
	int nmaps;
};

struct safetensors *safetensors_open(const char *file, char *why);
/* model.safetensors, or the shards that model.safetensors.index.json names. */
struct safetensors *safetensors_open_model(const char *directory, char *why);
const struct safetensor *safetensors_find(const struct safetensors *st, const char *name);
/* The same, and "model.X" or "transformer.X" found as X too: base models lack the first word. */
const struct safetensor *safetensors_find_weight(const struct safetensors *st, const char *name);
void safetensors_sort(struct safetensors *st);	/* by name, where tensors were added by hand */
void safetensors_close(struct safetensors *st);
/* "BF16": a type as the format spells it; NULL if it has none. */
const char *safetensors_type(enum dtype type);
/* The parser alone, for fuzzing: `data` must outlive the result. */
struct safetensors *safetensors_parse(const unsigned char *data, size_t size, char *why);

/*
 * Writing: declare all tensors, then hand over their data in the same order, as
 * many calls as wanted. Dies on failure; the file has its name only when complete.
 */
struct safetensors_writer;
struct safetensors_writer *safetensors_create(const char *path, const struct safetensor *tensors,
    int count, const json_t *metadata);
void safetensors_put(struct safetensors_writer *w, const void *data, size_t bytes);
void safetensors_finish(struct safetensors_writer *w);
/*
 * model.safetensors in a directory, or shards of at most `limit` bytes with their index. `put` hands
 * over the data of tensor i, in their order.
 */
void safetensors_save_model(const char *directory, const struct safetensor *tensors, int count, size_t limit,
    void (*put)(struct safetensors_writer *w, int i, void *user), void *user);

#endif
