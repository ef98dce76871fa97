/* SPDX-License-Identifier: MIT */
/* sampling, philox: from logits to the distribution that is drawn from, and the generator that draws */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/philox.h"
#include "lib/base/mem.h"
#include "tests/conformance/kit.h"

static void
compare_named(struct verdict *v, const struct safetensors *st, const json_t *expected, const char *item,
    const char *part, const double *got, size_t count)
{
	char name[200];
	const json_t *e;
	size_t n;
	double *want;

	snprintf(name, sizeof name, "%s.%s", item, part);
	e = json_object_get(expected, name);
	want = kit_tensor(v, st, get_string(e, "tensor"), &n);
	expect(v, n == count, "%s has %zu elements, not %zu", name, n, count);
	if (n == count)
		expect_near(v, name, got, want, n, get_number(e, "tol", 0) * get_number(e, "scale", 0));
	free(want);
}

/*
 * Draw once from `logits`; the distribution comes back in probs. The id drawn at
 * `uniform` is returned with its two log-probabilities.
 */
static int
draw(const struct backend *be, const double *logits, int n, const struct sampling *s, float uniform, double *probs,
    double *logp, double *model_logp)
{
	float *host = mem_zero((size_t)n, sizeof *host), *x = be->alloc((size_t)n * sizeof *x);
	float *u = be->alloc(sizeof *u), *lp = be->alloc(sizeof *lp), *mlp = be->alloc(sizeof *mlp), f[2];
	int *id = be->alloc(sizeof *id), drawn, i;

	for (i = 0; i < n; i++)
		host[i] = (float)logits[i];
	be->upload(x, host, (size_t)n * sizeof *x);
	be->upload(u, &uniform, sizeof uniform);
	be->sample(id, lp, mlp, x, (size_t)n, s, u, 1, n);
	be->download(host, x, (size_t)n * sizeof *x);
	be->download(&drawn, id, sizeof drawn);
	be->download(&f[0], lp, sizeof *f);
	be->download(&f[1], mlp, sizeof *f);
	for (i = 0; i < n; i++)
		probs[i] = host[i];
	*logp = f[0];
	*model_logp = f[1];
	free(host);
	be->free(x);
	be->free(u);
	be->free(lp);
	be->free(mlp);
	be->free(id);
	return drawn;
}

/* A uniform in the middle of what `id` has of the cumulated distribution: it must draw id. */
static float
uniform_of(const double *probs, int id)
{
	double below = 0;
	int i;

	for (i = 0; i < id; i++)
		below += probs[i];
	return (float)(below + probs[id] / 2);
}

static void
check_item(struct verdict *v, const json_t *item, const json_t *expected, const struct safetensors *st,
    const struct kit *k)
{
	const json_t *chosen = json_object_get(item, "chosen");
	const char *name = get_string(item, "name");
	struct sampling s = get_sampling(json_object_get(item, "options"));
	size_t n, count = json_array_size(chosen), i;
	char *tensor = mem_format("%s.logits", name);
	double *logits = kit_tensor(v, st, tensor, &n), *probs = mem_zero(n + 1, sizeof *probs);
	double *logp = mem_zero(count + 1, sizeof *logp), *model_logp = mem_zero(count + 1, sizeof *model_logp);
	double again;
	int kept = 0;
	json_t *id;

	draw(k->be, logits, (int)n, &s, 0, probs, &again, &again);
	compare_named(v, st, expected, name, "probs", probs, n);
	for (i = 0; i < n; i++)
		kept += probs[i] > 0;
	expect(v, kept == (int)get_number(item, "kept", -1), "%s keeps %d, not %d", name, kept,
	    (int)get_number(item, "kept", -1));
	json_array_foreach(chosen, i, id) {
		int want = (int)json_integer_value(id), got;
		float u = uniform_of(probs, want);

		got = draw(k->be, logits, (int)n, &s, u, probs, &logp[i], &model_logp[i]);
		/* a token that is too unlikely to have a uniform of its own may give way to a neighbour */
		expect(v, got == want || probs[want] < 1e-6, "%s draws %d, not %d", name, got, want);
		if (got != want)
			logp[i] = log(probs[want]);
	}
	compare_named(v, st, expected, name, "sampling_logp", logp, count);
	compare_named(v, st, expected, name, "model_logp", model_logp, count);
	free(logits);
	free(probs);
	free(logp);
	free(model_logp);
	free(tensor);
}

void
kind_sampling(struct verdict *v, const json_t *c, const struct kit *k)
{
	struct safetensors *st = kit_tensors(v, k, get_string(c, "tensors"));
	size_t i;
	json_t *item;

	if (!st)
		return;
	json_array_foreach(json_object_get(c, "items"), i, item)
		check_item(v, item, json_object_get(c, "expect"), st, k);
	safetensors_close(st);
}

static void
words(uint32_t *out, const json_t *list)
{
	size_t i;
	json_t *word;

	json_array_foreach(list, i, word)
		out[i] = (uint32_t)strtoul(json_string_value(word), NULL, 16);
}

void
kind_philox(struct verdict *v, const json_t *c, const struct kit *k)
{
	size_t i;
	json_t *vector;

	(void)k;
	json_array_foreach(json_object_get(c, "vectors"), i, vector) {
		uint32_t counter[4], key[2], want[4], got[4];

		words(counter, json_object_get(vector, "counter"));
		words(key, json_object_get(vector, "key"));
		words(want, json_object_get(vector, "out"));
		philox(got, counter, key);
		expect(v, !memcmp(got, want, sizeof got), "vector %zu is wrong", i);
	}
}
