/* SPDX-License-Identifier: MIT */
/* dequant: quantised models of others, as they lie in memory and in what they compute */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "lib/base/mem.h"
#include "tests/conformance/kit.h"

/* W of the layer `name`, [n] row-major, read back from the model's memory; NULL and a failure. */
static float *
layer_weights(struct verdict *v, const struct model *m, const char *name, size_t *n)
{
	size_t length = strlen(name);
	int i;

	for (i = 0; i < m->nparams; i++) {
		const struct param *p = &m->params[i];
		float *w;

		if (strncmp(p->name, name, length) || strcmp(p->name + length, ".weight"))
			continue;
		*n = (size_t)p->rows * (size_t)p->columns;
		w = mem_zero(*n, sizeof *w);
		m->be->weight_get(w, DT_F32, m->storage[p->storage].matrix, p->row, p->rows, 0);
		return w;
	}
	fail(v, "the model has no layer '%s'", name);
	return NULL;
}

static void
check_weights(struct verdict *v, const struct model *m, const struct safetensors *st, const json_t *names)
{
	const char *name;
	json_t *tensor;

	json_object_foreach((json_t *)(uintptr_t)names, name, tensor) {
		size_t n = 0, count, i;
		float *w = layer_weights(v, m, name, &n);
		double *want = kit_tensor(v, st, json_string_value(tensor), &count);

		expect(v, n == count, "%s has %zu weights, not %zu", name, n, count);
		for (i = 0; w && want && n == count && i < n; i++)
			expect(v, (double)w[i] == want[i], "%s[%zu] is %.9g, not %.9g", name, i, (double)w[i], want[i]);
		free(w);
		free(want);
	}
}

static void
check_sums(struct verdict *v, const struct model *m, const json_t *sums, double tolerance)
{
	const char *name;
	json_t *want;

	json_object_foreach((json_t *)(uintptr_t)sums, name, want) {
		size_t n = 0, i;
		float *w = layer_weights(v, m, name, &n);
		double got[2] = { 0, 0 }, expected[2];

		for (i = 0; i < n; i++) {
			got[0] += (double)w[i];
			got[1] += fabs((double)w[i]);
		}
		for (i = 0; i < 2; i++)
			expected[i] = json_number_value(json_array_get(want, i));
		expect_near(v, name, got, expected, 2, tolerance * expected[1]);
		free(w);
	}
}

static void
check_logits(struct verdict *v, struct model *m, const struct safetensors *st, const json_t *c)
{
	const json_t *names = json_object_get(json_object_get(c, "expected"), "logits");
	json_t *sequence;
	size_t s;

	json_array_foreach(json_object_get(c, "sequences"), s, sequence) {
		size_t count, i;
		double *want = kit_tensor(v, st, json_string_value(json_array_get(names, s)), &count), largest = 0, *got;
		int n;
		int32_t *ids = get_ids(json_object_get(sequence, "ids"), &n);

		expect(v, count == (size_t)n * (size_t)m->config.vocab, "logits.%zu has %zu elements", s, count);
		if (count == (size_t)n * (size_t)m->config.vocab) {
			for (i = 0; i < count; i++)
				largest = fmax(largest, fabs(want[i]));
			got = kit_logits(m, ids, n);
			expect_near(v, "logits", got, want, count, get_number(c, "tol", 0) * largest);
			free(got);
		}
		free(want);
		free(ids);
	}
}

void
kind_dequant(struct verdict *v, const json_t *c, const struct kit *k)
{
	const json_t *expected = json_object_get(c, "expected");
	struct safetensors *st = kit_tensors(v, k, get_string(c, "tensors"));
	struct model *m;

	if (!st)
		return;
	m = kit_model(k, get_string(c, "model"));
	check_weights(v, m, st, json_object_get(expected, "weights"));
	check_sums(v, m, json_object_get(expected, "weight_sums"), get_number(c, "sums_tol", 0));
	check_logits(v, m, st, c);
	safetensors_close(st);
}
