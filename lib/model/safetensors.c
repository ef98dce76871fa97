/* SPDX-License-Identifier: MIT */
#include <stdlib.h>
#include <string.h>

#include "lib/base/die.h"
#include "lib/base/file.h"
#include "lib/base/json.h"
#include "lib/base/mem.h"
#include "lib/model/safetensors.h"

enum { MAX_HEADER = 100000000 };	/* the format's own limit */

static const char *const type_names[] = {
	[DT_F32] = "F32", [DT_BF16] = "BF16", [DT_F16] = "F16", [DT_F64] = "F64", [DT_I8] = "I8",
	[DT_U8] = "U8", [DT_I16] = "I16", [DT_U16] = "U16", [DT_I32] = "I32", [DT_U32] = "U32",
	[DT_I64] = "I64", [DT_U64] = "U64",
};

enum { NTYPES = sizeof type_names / sizeof *type_names };

const char *
safetensors_type(enum dtype type)
{
	return type_names[type];
}

static enum dtype
parse_type(const char *name)
{
	int i;

	for (i = 0; name && i < NTYPES; i++)
		if (type_names[i] && !strcmp(name, type_names[i]))
			return (enum dtype)i;
	return name && !strcmp(name, "BOOL") ? DT_U8 : DT_NONE;
}

/* The shape; and the bytes that it needs. */
static int
parse_shape(struct safetensor *t, const json_t *shape, uint64_t *need, char *why)
{
	size_t i;

	*need = dtype_size(t->type);
	if (!json_is_array(shape) || json_array_size(shape) > 8)
		return reason(why, "'%s' has no shape of at most 8 numbers", t->name);
	t->rank = (int)json_array_size(shape);
	for (i = 0; i < json_array_size(shape); i++) {
		const json_t *n = json_array_get(shape, i);

		if (!json_is_integer(n) || json_integer_value(n) < 0)
			return reason(why, "'%s' has a shape that is no list of sizes", t->name);
		t->shape[i] = (uint64_t)json_integer_value(n);
		if (__builtin_mul_overflow(*need, t->shape[i], need))
			return reason(why, "'%s' has a shape that overflows", t->name);
	}
	return 0;
}

static int
parse_tensor(struct safetensor *t, const json_t *entry, const unsigned char *data, size_t size,
    char *why)
{
	const char *type = json_string_value(json_object_get(entry, "dtype"));
	const json_t *offsets = json_object_get(entry, "data_offsets");
	const json_t *begin = json_array_get(offsets, 0), *end = json_array_get(offsets, 1);
	json_int_t from = json_integer_value(begin), to = json_integer_value(end);
	uint64_t need;

	if ((t->type = parse_type(type)) == DT_NONE)
		return reason(why, "'%s' has dtype '%s', which is not known", t->name,
		    type ? type : "");
	if (parse_shape(t, json_object_get(entry, "shape"), &need, why))
		return -1;
	if (json_array_size(offsets) != 2 || !json_is_integer(begin) || !json_is_integer(end))
		return reason(why, "'%s' has no data_offsets of two integers", t->name);
	if (from < 0 || to < from)
		return reason(why, "'%s' has data_offsets %lld to %lld", t->name, (long long)from,
		    (long long)to);
	if ((uint64_t)to > size)
		return reason(why, "'%s' reaches beyond the file: byte %lld of %zu", t->name,
		    (long long)to, size);
	if ((uint64_t)(to - from) != need)
		return reason(why, "'%s' has %lld bytes, but its shape needs %llu", t->name,
		    (long long)(to - from), (unsigned long long)need);
	t->data = data + from;
	t->bytes = (size_t)need;
	return 0;
}

static int
by_place(const void *a, const void *b)
{
	const struct safetensor *x = a, *y = b;
	const unsigned char *p = x->data, *q = y->data;

	if (p != q)
		return p < q ? -1 : 1;
	return x->bytes < y->bytes ? -1 : x->bytes > y->bytes;
}

static int
by_name(const void *a, const void *b)
{
	return strcmp(((const struct safetensor *)a)->name, ((const struct safetensor *)b)->name);
}

void
safetensors_sort(struct safetensors *st)
{
	if (st->count)
		qsort(st->tensors, (size_t)st->count, sizeof *st->tensors, by_name);
}

/* Every byte belongs to one tensor. */
static int
check_cover(struct safetensors *st, const unsigned char *data, size_t size, char *why)
{
	const unsigned char *end = data;
	const char *last = "the header";
	int i;

	if (st->count)
		qsort(st->tensors, (size_t)st->count, sizeof *st->tensors, by_place);
	for (i = 0; i < st->count; i++) {
		const struct safetensor *t = &st->tensors[i];

		if ((const unsigned char *)t->data < end)
			return reason(why, "'%s' and '%s' overlap", last, t->name);
		if ((const unsigned char *)t->data > end)
			return reason(why, "bytes before '%s' belong to no tensor", t->name);
		end += t->bytes;
		last = t->name;
	}
	if (end != data + size)
		return reason(why, "%zu bytes after the last tensor", (size_t)(data + size - end));
	return 0;
}

static int
parse_header(struct safetensors *st, json_t *header, const unsigned char *data, size_t size,
    char *why)
{
	const char *name;
	json_t *entry;

	if (!json_is_object(header))
		return reason(why, "the header is no JSON object");
	st->tensors = mem_zero(json_object_size(header), sizeof *st->tensors);
	json_object_foreach(header, name, entry) {
		struct safetensor *t = &st->tensors[st->count];

		if (!strcmp(name, "__metadata__")) {
			if (!json_is_object(entry))
				return reason(why, "__metadata__ is no JSON object");
			st->metadata = json_incref(entry);
			continue;
		}
		st->count++;
		t->name = mem_string(name);
		if (parse_tensor(t, entry, data, size, why))
			return -1;
	}
	if (check_cover(st, data, size, why))
		return -1;
	safetensors_sort(st);
	return 0;
}

struct safetensors *
safetensors_parse(const unsigned char *data, size_t size, char *why)
{
	struct safetensors *st;
	char inner[REASON_MAX];
	uint64_t length = 0;
	json_t *header;
	int i, rc;

	if (size < 8) {
		reason(why, "%zu bytes are too few for a header", size);
		return NULL;
	}
	for (i = 7; i >= 0; i--)
		length = length << 8 | data[i];
	if (length > size - 8 || length > MAX_HEADER) {
		reason(why, "a header of %llu bytes does not fit", (unsigned long long)length);
		return NULL;
	}
	if (!(header = json_parse((const char *)data + 8, (size_t)length, inner))) {
		reason(why, "the header is %s", inner);
		return NULL;
	}
	st = mem_zero(1, sizeof *st);
	rc = parse_header(st, header, data + 8 + length, size - 8 - (size_t)length, why);
	json_decref(header);
	if (rc) {
		safetensors_close(st);
		return NULL;
	}
	return st;
}

struct safetensors *
safetensors_open(const char *file, char *why)
{
	struct safetensors *st;
	struct map map;
	char inner[REASON_MAX];

	if (!file_exists(file)) {
		reason(why, "'%s' is missing", file);
		return NULL;
	}
	map = file_map(file);
	if (!(st = safetensors_parse(map.data, map.size, inner))) {
		reason(why, "'%s': %s", file, inner);
		file_unmap(map);
		return NULL;
	}
	st->maps = mem_copy(&map, sizeof map);
	st->nmaps = 1;
	return st;
}

const struct safetensor *
safetensors_find(const struct safetensors *st, const char *name)
{
	struct safetensor key = { .name = (char *)(uintptr_t)name };

	if (!st->count)
		return NULL;
	return bsearch(&key, st->tensors, (size_t)st->count, sizeof key, by_name);
}

const struct safetensor *
safetensors_find_weight(const struct safetensors *st, const char *name)
{
	const struct safetensor *t = safetensors_find(st, name);

	if (!t && (!strncmp(name, "transformer.", 12) || !strncmp(name, "model.", 6)))
		t = safetensors_find(st, strchr(name, '.') + 1);
	return t;
}

void
safetensors_close(struct safetensors *st)
{
	int i;

	if (!st)
		return;
	for (i = 0; i < st->count; i++)
		free(st->tensors[i].name);
	for (i = 0; i < st->nmaps; i++)
		file_unmap(st->maps[i]);
	json_decref(st->metadata);
	free(st->tensors);
	free(st->maps);
	free(st);
}
