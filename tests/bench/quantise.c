/* SPDX-License-Identifier: MIT */
/*
 * quantise [ROWS] - a block of Qwen2.5-0.5B's shape: seconds of Hessians, factors and codes
 *
 * The inputs are random, bf16, 65536 tokens unless ROWS says another number. The share of the peak
 * counts the half of Y^T Y that is computed; the target counts as it is summed (lib/quant/hessian.h).
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "lib/base/die.h"
#include "lib/base/mem.h"
#include "lib/quant/gptq.h"
#include "tests/bench/peak.h"

enum { CHUNK = 2048 };

static const struct shape {
	const char *name;
	int n, k;
} shapes[] = {
	{ "qkv", 1152, 896 },
	{ "attention out", 896, 896 },
	{ "gate and up", 9728, 896 },
	{ "down", 896, 4864 },
};

static uint16_t *
numbers(const struct backend *be, size_t n)
{
	uint16_t *x = mem_alloc(n * sizeof *x), *device = be->alloc(n * sizeof *device);
	uint32_t seed = 1;
	size_t i;

	for (i = 0; i < n; i++) {
		seed = seed * 1664525 + 1013904223;
		x[i] = f32_to_bf16((float)(int32_t)seed * 0x1p-31f);
	}
	be->upload(device, x, n * sizeof *x);
	free(x);
	return device;
}

static double
measure(const struct backend *be, const struct shape *s, int tokens, int target)
{
	struct weight w = { .type = DT_BF16, .n = s->n, .k = s->k,
	    .elements = be->weight_elements(DT_BF16, s->n, s->k) };
	struct gptq_options o = { .bits = 4, .group = 128, .sym = 1, .order = target ? ORDER_STATIC : ORDER_OFF,
	    .signs = target, .mse = target ? 2.4f : 0, .target = target ? 0.5f : 0, .plain = !target, .damp = 0.01f };
	uint16_t *y = numbers(be, (size_t)CHUNK * (size_t)s->k), *x = numbers(be, (size_t)CHUNK * (size_t)s->k);
	float *rows = mem_alloc((size_t)s->n * (size_t)s->k * sizeof *rows);
	double peak = peak_flops(1), flops = (double)tokens * s->k * (s->k + 1.0), t[4];
	struct hessian h;
	struct factor f;
	struct quantised l;
	char why[REASON_MAX];
	int done;

	w.data = numbers(be, w.elements);
	be->weight_get(rows, DT_F32, &w, 0, s->n, 0);
	hessian_init(&h, be, DT_BF16, s->k, CHUNK, target ? &w : NULL);
	t[0] = peak_now();
	for (done = 0; done < tokens; done += CHUNK)
		hessian_add(&h, y, x, CHUNK);
	t[1] = peak_now();
	if (factor_init(&f, &h, &o, why))
		die("%s", why);
	t[2] = peak_now();
	gptq_begin(&l, s->n, &f, &o);
	gptq_quantise(&l, rows, 0, s->n, &h, 0, &f, &o, NULL);
	t[3] = peak_now();
	if (target)
		flops += 2.0 * tokens * s->k * (2 * s->n < s->k ? 2.0 * s->n : s->k);
	printf("%-14s %s  Hessian %6.2f s (%3.0f %% of the peak)  factor %5.2f s  codes %5.2f s\n", s->name,
	    target ? "corrected" : "plain    ", t[1] - t[0], 100 * flops / (t[1] - t[0]) / peak, t[2] - t[1],
	    t[3] - t[2]);
	fflush(stdout);
	quantised_free(&l);
	factor_free(&f);
	hessian_free(&h);
	be->free(w.data);
	free(rows);
	be->free(x);
	be->free(y);
	return t[3] - t[0];
}

int
main(int argc, char **argv)
{
	const struct backend *be = backend_pick(NULL);
	int tokens = argc > 1 ? atoi(argv[1]) : 65536, target;
	size_t i;

	progname = "quantise";
	for (target = 0; target < 2; target++) {
		double sum = 0;

		for (i = 0; i < sizeof shapes / sizeof *shapes; i++)
			sum += measure(be, &shapes[i], tokens, target);
		printf("a block, %d tokens: %.1f s\n", tokens, sum);
	}
	return 0;
}
