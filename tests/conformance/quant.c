/* SPDX-License-Identifier: MIT */
/* pack: codes to words and back */
#include <stdlib.h>
#include <string.h>

#include "lib/base/mem.h"
#include "lib/quant/pack.h"
#include "tests/conformance/kit.h"

/* Integers of a tensor that the case names; values above 255 come as 255. */
static uint8_t *
codes(struct verdict *v, const struct safetensors *st, const json_t *names, const char *key, size_t *n)
{
	double *values = kit_tensor(v, st, get_string(names, key), n);
	uint8_t *q = mem_zero(*n + 1, 1);
	size_t i;

	for (i = 0; i < *n; i++)
		q[i] = (uint8_t)(values[i] < 0 ? 0 : values[i] > 255 ? 255 : values[i]);
	free(values);
	return q;
}

/* The words that the case expects under `key`, aligned; NULL where it expects none. */
static uint32_t *
words_of(const struct safetensors *st, const json_t *expected, const char *key, size_t words)
{
	const struct safetensor *t = safetensors_find(st, get_string(expected, key));

	return t && t->bytes == words * sizeof(uint32_t) ? mem_copy(t->data, t->bytes) : NULL;
}

static void
check_codes(struct verdict *v, const struct safetensors *st, const json_t *c, int k, int n, int bits)
{
	size_t count, words = (size_t)(k / 32 * bits) * (size_t)n;
	uint8_t *q = codes(v, st, json_object_get(c, "inputs"), "q", &count), *back = mem_zero(count + 1, 1);
	uint32_t *want = words_of(st, json_object_get(c, "expected"), "qweight", words);
	uint32_t *got = mem_zero(words + 1, sizeof *got);
	int max = (1 << bits) - 1;
	size_t i;

	expect(v, want && count == (size_t)k * (size_t)n, "q and qweight are not of the case's shape");
	if (want && count == (size_t)k * (size_t)n) {
		pack_codes(got, q, k, n, bits);
		expect(v, !memcmp(got, want, words * sizeof *got), "the codes' words differ");
		unpack_codes(back, want, k, n, bits);
		for (i = 0; i < count; i++)
			expect(v, back[i] == (q[i] < max ? q[i] : max), "code %zu is %d, not %d", i, back[i], q[i]);
	}
	free(q);
	free(back);
	free(want);
	free(got);
}

/* One version of the zeros; a case that says read_only has words that may be read but not written. */
static void
check_zeros(struct verdict *v, const struct safetensors *st, const json_t *c, const char *key, int n, int bits)
{
	int version = strstr(key, ".v1") ? 1 : 2, written = !strstr(key, "read_only"), packed;
	size_t count, words;
	uint8_t *z = codes(v, st, json_object_get(c, "inputs"), "zeros", &count), *back = mem_zero(count + 1, 1);
	int groups = (int)(count / (size_t)n);
	uint32_t *want, *got;

	words = (size_t)groups * (size_t)(n / 32 * bits);
	want = words_of(st, json_object_get(c, "expected"), key, words);
	got = mem_zero(words + 1, sizeof *got);
	expect(v, want != NULL, "%s is not of the case's shape", key);
	if (want) {
		packed = pack_zeros(got, z, groups, n, bits, version);
		expect(v, packed == (written ? 0 : -1), "zeros of %s are packed or refused wrongly", key);
		expect(v, !written || !memcmp(got, want, words * sizeof *got), "the words of %s differ", key);
		unpack_zeros(back, want, groups, n, bits, json_is_true(json_object_get(c, "sym")), version);
		expect(v, !memcmp(back, z, count), "the zeros of %s do not come back", key);
	}
	free(z);
	free(back);
	free(want);
	free(got);
}

void
kind_pack(struct verdict *v, const json_t *c, const struct kit *k)
{
	struct safetensors *st = kit_tensors(v, k, get_string(c, "tensors"));
	int in = (int)get_number(c, "in_features", 0), out = (int)get_number(c, "out_features", 0);
	int bits = (int)get_number(c, "bits", 0);
	const char *key;
	json_t *name;

	if (!st)
		return;
	check_codes(v, st, c, in, out, bits);
	json_object_foreach(json_object_get(c, "expected"), key, name)
		if (!strncmp(key, "qzeros", 6))
			check_zeros(v, st, c, key, out, bits);
	safetensors_close(st);
}
