/* SPDX-License-Identifier: MIT */
#include <inttypes.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "lib/base/die.h"
#include "lib/base/file.h"
#include "lib/base/json.h"
#include "lib/base/mem.h"
#include "lib/base/options.h"
#include "lib/quant/checkpoint.h"
#include "lib/quant/pack.h"

/* Newer files have both names of a key; NULL where neither is there. */
static const json_t *
get(const json_t *json, const char *key, const char *newer)
{
	const json_t *value = json_object_get(json, key);

	if (!value && newer)
		value = json_object_get(json, newer);
	return json_is_null(value) ? NULL : value;
}

static int
flag(int *to, const json_t *json, const char *key, int fallback, char *why)
{
	const json_t *value = get(json, key, NULL);

	if (value && !json_is_boolean(value))
		return reason(why, "%s is neither true nor false", key);
	*to = value ? json_is_true(value) : fallback;
	return 0;
}

/* Rules for single layers: those that are left out show by themselves, other numbers are not read here. */
static int
check_dynamic(const json_t *json, char *why)
{
	const json_t *rules = get(json, "dynamic", NULL);
	const char *pattern;
	json_t *rule;

	json_object_foreach((json_t *)(uintptr_t)rules, pattern, rule)
		if (strncmp(pattern, "-:", 2) && json_object_size(rule))
			return reason(why, "layers that differ in their options (dynamic '%s') are not read here",
			    pattern);
	return 0;
}

int
quant_config_parse(struct quant_config *c, const json_t *json, char *why)
{
	const json_t *bits = get(json, "bits", NULL), *group = get(json, "group_size", NULL);
	const char *method = json_string_value(get(json, "quant_method", "method"));
	const char *format = json_string_value(get(json, "checkpoint_format", "format"));
	const char *word = json_string_value(get(json, "pack_dtype", NULL));
	json_int_t b = json_integer_value(bits), g = group ? json_integer_value(group) : 128;

	*c = (struct quant_config){ .version = 1 };
	if (!json_is_object(json))
		return reason(why, "the quantization is no object");
	if (method && strcmp(method, "gptq"))
		return reason(why, "quantization by '%s' is not read here, only by 'gptq'", method);
	if (b != 2 && b != 3 && b != 4 && b != 8)
		return reason(why, "bits is %lld, not 2, 3, 4 or 8", (long long)b);
	if (g != -1 && (g < 1 || g > 1 << 22))
		return reason(why, "group_size is %lld, neither -1 nor a size", (long long)g);
	if (format && strcmp(format, "gptq") && strcmp(format, "gptq_v2"))
		return reason(why, "checkpoint_format is '%s'; 'gptq' and 'gptq_v2' are read here", format);
	if (word && strcmp(word, "int32"))
		return reason(why, "pack_dtype is '%s'; 'int32' is read here", word);
	c->bits = (int)b;
	c->group = (int)g;
	c->version = format && !strcmp(format, "gptq_v2") ? 2 : 1;
	if (flag(&c->sym, json, "sym", 1, why) || flag(&c->scattered, json, "desc_act", 0, why) ||
	    flag(&c->lm_head, json, "lm_head", 0, why))
		return -1;
	return check_dynamic(json, why);
}

static int
read_file(struct quant_config *c, const char *directory, const char *file, const char *key, char *why)
{
	char *path = file_join(directory, file), inner[REASON_MAX];
	json_t *json = file_exists(path) ? json_read(path, why) : json_object();
	const json_t *own = key ? json_object_get(json, key) : json;
	int rc = json ? 0 : -1;

	*c = (struct quant_config){ .version = 1 };
	if (!rc && own && !json_is_null(own) && file_exists(path) && quant_config_parse(c, own, inner))
		rc = reason(why, "'%s': %s", path, inner);
	json_decref(json);
	free(path);
	return rc;
}

int
quant_config_read(struct quant_config *c, const char *directory, char *why)
{
	int rc = read_file(c, directory, "config.json", "quantization_config", why);

	return rc || c->bits ? rc : read_file(c, directory, "quantize_config.json", NULL, why);
}

json_t *
quant_config_json(const struct quant_config *c)
{
	const char *format = c->version == 2 ? "gptq_v2" : "gptq";

	return json_pack("{ss ss si si sb sb sb ss ss ss s{s[s]}}", "quant_method", "gptq", "method", "gptq",
	    "bits", c->bits, "group_size", c->group, "desc_act", c->scattered, "sym", c->sym,
	    "lm_head", c->lm_head, "checkpoint_format", format, "format", format, "pack_dtype", "int32",
	    "meta", "quantizer", "pipestill:" PIPESTILL_VERSION);
}

int
quant_groups(const struct quant_config *c, int k)
{
	return c->group == -1 ? 1 : (k + c->group - 1) / c->group;
}

static const struct safetensor *
part(const struct safetensors *st, const char *name, const char *what)
{
	char *full = mem_format("%s.%s", name, what);
	const struct safetensor *t = safetensors_find_weight(st, full);

	free(full);
	return t;
}

int
quantised_lies(const struct safetensors *st, const char *name)
{
	return part(st, name, "qweight") != NULL;
}

/* The tensor of that shape, aligned, to be freed; NULL with a reason. columns 0: one dimension. */
static void *
fetch(const struct safetensors *st, const char *name, const char *what, int rows, int columns, char *why)
{
	const struct safetensor *t = part(st, name, what);
	int rank = columns ? 2 : 1, floats = !strcmp(what, "scales");

	if (!t)
		return reason(why, "'%s.%s' is missing", name, what), NULL;
	if (floats ? t->type != DT_F16 && t->type != DT_BF16 && t->type != DT_F32 : t->type != DT_I32)
		return reason(why, "'%s' is of type %s", t->name, safetensors_type(t->type)), NULL;
	if (t->rank != rank || t->shape[0] != (uint64_t)rows || (rank == 2 && t->shape[1] != (uint64_t)columns))
		return reason(why, "'%s' is [%" PRIu64 ", %" PRIu64 "], not [%d, %d]", t->name, t->shape[0],
		    rank == 2 ? t->shape[1] : 0, rows, columns), NULL;
	return mem_copy(t->data, t->bytes);
}

static int
read_codes(struct quantised *l, const struct safetensors *st, const char *name, char *why)
{
	uint32_t *words = fetch(st, name, "qweight", l->k / 32 * l->bits, l->n, why);

	if (!words)
		return -1;
	l->q = mem_alloc((size_t)l->k * (size_t)l->n);
	unpack_codes(l->q, words, l->k, l->n, l->bits);
	free(words);
	return 0;
}

static int
read_zeros(struct quantised *l, const struct safetensors *st, const char *name, const struct quant_config *c,
    char *why)
{
	uint32_t *words = fetch(st, name, "qzeros", l->groups, l->n / 32 * l->bits, why);

	if (!words)
		return -1;
	l->zeros = mem_alloc((size_t)l->groups * (size_t)l->n);
	unpack_zeros(l->zeros, words, l->groups, l->n, l->bits, c->sym, c->version);
	free(words);
	return 0;
}

static int
read_scales(struct quantised *l, const struct safetensors *st, const char *name, char *why)
{
	size_t count = (size_t)l->groups * (size_t)l->n, i;
	void *raw = fetch(st, name, "scales", l->groups, l->n, why);

	if (!raw)
		return -1;
	l->scales = mem_alloc(count * sizeof *l->scales);
	dtype_convert(l->scales, DT_F32, raw, part(st, name, "scales")->type, count);
	free(raw);
	for (i = 0; i < count; i++)
		if (!isfinite(l->scales[i]))
			return reason(why, "'%s.scales' has a NaN or an infinity", name);
	return 0;
}

/* Old files may lack it where the groups are in order. */
static int
read_groups(struct quantised *l, const struct safetensors *st, const char *name, const struct quant_config *c,
    char *why)
{
	int i, size = c->group == -1 ? l->k : c->group;

	if (!part(st, name, "g_idx") && !c->scattered) {
		l->group = mem_alloc((size_t)l->k * sizeof *l->group);
		for (i = 0; i < l->k; i++)
			l->group[i] = i / size;
		return 0;
	}
	if (!(l->group = fetch(st, name, "g_idx", l->k, 0, why)))
		return -1;
	for (i = 0; i < l->k; i++)
		if (l->group[i] < 0 || l->group[i] >= l->groups)
			return reason(why, "'%s.g_idx' has group %d of %d", name, l->group[i], l->groups);
	return 0;
}

int
quantised_read(struct quantised *l, const struct safetensors *st, const char *name,
    const struct quant_config *c, int n, int k, char *why)
{
	*l = (struct quantised){ .n = n, .k = k, .bits = c->bits, .groups = quant_groups(c, k) };
	if (n % 32 || k % 32)
		return reason(why, "'%s' is [%d, %d]: both must be multiples of 32", name, n, k);
	if (!read_codes(l, st, name, why) && !read_zeros(l, st, name, c, why) &&
	    !read_scales(l, st, name, why) && !read_groups(l, st, name, c, why))
		return 0;
	quantised_free(l);
	return -1;
}

void
quantised_free(struct quantised *l)
{
	free(l->q);
	free(l->zeros);
	free(l->scales);
	free(l->group);
	*l = (struct quantised){ 0 };
}

int
quantised_in_order(const struct quantised *l, int size)
{
	int i;

	for (i = 0; i < l->k; i++)
		if (l->group[i] != i / size)
			return 0;
	return 1;
}

void
quantised_weights(float *w, const struct quantised *l, int row, int rows)
{
	int i, o;

	for (i = 0; i < l->k; i++) {
		size_t at = (size_t)l->group[i] * (size_t)l->n;
		const float *scale = l->scales + at;
		const uint8_t *zero = l->zeros + at, *q = l->q + (size_t)i * (size_t)l->n;

		for (o = row; o < row + rows; o++)
			w[(size_t)(o - row) * (size_t)l->k + (size_t)i] = scale[o] * (float)(q[o] - zero[o]);
	}
}
