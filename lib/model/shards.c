/* SPDX-License-Identifier: MIT */
#include <stdlib.h>
#include <string.h>

#include "lib/base/die.h"
#include "lib/base/file.h"
#include "lib/base/json.h"
#include "lib/base/mem.h"
#include "lib/model/safetensors.h"

/* Every tensor of the shard is one that the index places there. */
static int
check_shard(const struct safetensors *shard, const char *name, const json_t *places, char *why)
{
	int i;

	for (i = 0; i < shard->count; i++) {
		const char *tensor = shard->tensors[i].name;
		const char *place = json_string_value(json_object_get(places, tensor));

		if (!place || strcmp(place, name))
			return reason(why, "'%s' lies in '%s', but the index has it %s%s", tensor,
			    name, place ? "in " : "nowhere", place ? place : "");
	}
	return 0;
}

/* Tensors and mapping of a shard move to st. */
static void
join(struct safetensors *st, struct safetensors *shard)
{
	size_t n = (size_t)shard->count;

	st->tensors = mem_grow(st->tensors, (size_t)st->count + n, sizeof *st->tensors);
	if (n)
		memcpy(st->tensors + st->count, shard->tensors, n * sizeof *st->tensors);
	st->count += shard->count;
	st->maps = mem_grow(st->maps, (size_t)st->nmaps + 1, sizeof *st->maps);
	st->maps[st->nmaps++] = shard->maps[0];
	if (!st->metadata)
		st->metadata = json_incref(shard->metadata);
	shard->count = shard->nmaps = 0;
}

static int
open_shard(struct safetensors *st, const char *directory, const char *name,
    const json_t *places, char *why)
{
	char *path = file_join(directory, name);
	struct safetensors *shard = safetensors_open(path, why);
	int rc = -1;

	if (shard) {
		rc = check_shard(shard, name, places, why);
		if (!rc)
			join(st, shard);
		safetensors_close(shard);
	}
	free(path);
	return rc;
}

static int
open_shards(struct safetensors *st, const char *directory, const json_t *index, char *why)
{
	json_t *places = json_object_get(index, "weight_map"), *shard, *opened;
	const char *tensor;
	int rc = 0;

	if (!json_is_object(places))
		return reason(why, "no weight_map");
	opened = json_object();
	json_object_foreach(places, tensor, shard) {
		const char *name = json_string_value(shard);

		if (!name || strchr(name, '/') || !strcmp(name, "..") || !strcmp(name, "."))
			rc = reason(why, "'%s' is said to lie in '%s', which is no file name",
			    tensor, name ? name : "");
		else if (!json_object_get(opened, name)) {
			json_object_set_new(opened, name, json_true());
			rc = open_shard(st, directory, name, places, why);
		}
		if (rc)
			break;
	}
	json_decref(opened);
	if (rc)
		return rc;
	safetensors_sort(st);
	json_object_foreach(places, tensor, shard)
		if (!safetensors_find(st, tensor))
			return reason(why, "'%s' is not in '%s'", tensor, json_string_value(shard));
	return 0;
}

static struct safetensors *
open_index(const char *path, const char *directory, char *why)
{
	struct safetensors *st;
	char inner[REASON_MAX];
	json_t *index = json_read(path, why);

	if (!index)
		return NULL;
	st = mem_zero(1, sizeof *st);
	if (open_shards(st, directory, index, inner)) {
		reason(why, "'%s': %s", path, inner);
		safetensors_close(st);
		st = NULL;
	}
	json_decref(index);
	return st;
}

struct safetensors *
safetensors_open_model(const char *directory, char *why)
{
	char *one = file_join(directory, "model.safetensors");
	char *index = file_join(directory, "model.safetensors.index.json");
	struct safetensors *st;

	st = !file_exists(one) && file_exists(index) ? open_index(index, directory, why)
	    : safetensors_open(one, why);
	free(one);
	free(index);
	return st;
}

/* The shard of each tensor: a new one begins when the next would not fit. Their number. */
static int
cut(int *shard, const struct safetensor *tensors, int n, size_t limit)
{
	size_t bytes = 0;
	int i, last = 0;

	for (i = 0; i < n; i++) {
		if (i && bytes + tensors[i].bytes > limit) {
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

void
safetensors_save_model(const char *directory, const struct safetensor *tensors, int count, size_t limit,
    void (*put)(struct safetensors_writer *w, int i, void *user), void *user)
{
	int *shard = mem_zero((size_t)count, sizeof *shard), i = 0, first, last;
	int shards = cut(shard, tensors, count, limit);
	json_t *places = json_object(), *metadata = json_pack("{s:s}", "format", "pt");
	size_t total = 0;

	for (first = 0; first < count; first = last) {
		char *name = shards == 1 ? mem_string("model.safetensors")
		    : mem_format("model-%05d-of-%05d.safetensors", shard[first] + 1, shards);
		char *path = file_join(directory, name);
		struct safetensors_writer *w;

		for (last = first; last < count && shard[last] == shard[first]; last++) {
			json_object_set_new(places, tensors[last].name, json_string(name));
			total += tensors[last].bytes;
		}
		w = safetensors_create(path, tensors + first, last - first, metadata);
		for (; i < last; i++)
			put(w, i, user);
		safetensors_finish(w);
		free(name);
		free(path);
	}
	if (shards > 1)
		save_index(directory, places, total);
	json_decref(places);
	json_decref(metadata);
	free(shard);
}
