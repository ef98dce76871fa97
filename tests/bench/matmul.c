/* SPDX-License-Identifier: MIT */
/*
 * matmul - matrix products of Qwen2.5-0.5B's shapes, as shares of what the machine can do
 *
 * Training: its forward, dx and dw with bf16 weights and activations, and the forward that replies have, each a
 * share of the arithmetic peak of registers: of dot products of bf16 or of integers, where these serve it.
 * Decode: all matrices of the model once per step, a share of the rate at which
 * memory is read. The peak is probed between products; each figure is the median
 * of the ratios.
 */
#include <stdio.h>
#include <stdlib.h>

#include "kernels/cpu.h"
#include "lib/base/mem.h"
#include "tests/bench/peak.h"

enum { RUNS = 5, LAYERS = 24 };

static const struct shape {
	const char *name;
	int n, k, layers;
} shapes[] = {
	{ "qkv", 1152, 896, LAYERS },
	{ "attention out", 896, 896, LAYERS },
	{ "gate and up", 9728, 896, LAYERS },
	{ "down", 896, 4864, LAYERS },
	{ "head", 151936, 896, 1 },
};
enum { SHAPES = sizeof shapes / sizeof *shapes };

static const struct row {
	const char *name;
	int unit;
	void (*forward)(void *, enum dtype, const void *, enum dtype, const struct weight *, const float *, int, int,
	    int), (*train)(void *, enum dtype, const void *, enum dtype, const struct weight *, const float *, int, int, int);
	void (*dx)(void *, enum dtype, const void *, enum dtype, const struct weight *, int, int, int);
	void (*dw)(float *, const struct weight *, const void *, enum dtype, const void *, enum dtype, int, int);
} rows[] = {
	{ "avx2", 0, matmul_avx2, matmul_avx2, matmul_dx_avx2, matmul_dw_avx2 },
	{ "avx512", 1, matmul_avx512, matmul_train_avx512, matmul_dx_avx512, matmul_dw_avx512 },
};

enum { FORWARD, TRAIN, DX, DW, PRODUCTS };
static const char *const names[] = { "forward", "in a training", "dx", "dw" };

/* What instructions serve the product. */
static int
unit_of(const struct row *row, int product)
{
	int bf16 = peak_usable(2), vnni = peak_usable(3) && product != FORWARD;

	return row->unit == 0 ? 0 : bf16 ? 2 : vnni ? 3 : 1;
}

static int
ascending(const void *a, const void *b)
{
	double x = *(const double *)a, y = *(const double *)b;

	return (x > y) - (x < y);
}

static double
median(double *x)
{
	qsort(x, RUNS, sizeof *x, ascending);
	return x[RUNS / 2];
}

/* bf16 numbers in [-1, 1). */
static void *
fill(size_t n)
{
	uint16_t *p = alloc_cpu(n * sizeof *p);
	uint32_t s = 1;
	size_t i;

	if (!p) {
		fputs("matmul: no memory\n", stderr);
		exit(1);
	}
	for (i = 0; i < n; i++) {
		s = s * 1664525 + 1013904223;
		p[i] = f32_to_bf16((float)(s >> 8) * 0x1p-23f - 1);
	}
	return p;
}

static struct weight
weights(const struct shape *s)
{
	struct weight w = { .type = DT_BF16, .n = s->n, .k = s->k,
	    .elements = weight_elements_cpu(DT_BF16, s->n, s->k) };

	w.data = fill(w.elements);
	return w;
}

/* Seconds of the products at m rows, in all layers, added to total; and to ideal, at peak. */
static void
train(const struct row *row, const struct shape *s, int m, double total[PRODUCTS], double ideal[PRODUCTS])
{
	struct weight w = weights(s);
	void *x = fill((size_t)m * (size_t)s->k), *dy = fill((size_t)m * (size_t)s->n);
	void *dx = fill((size_t)m * (size_t)s->k), *y = fill((size_t)m * (size_t)s->n);
	float *dw = alloc_cpu(w.elements * sizeof *dw);
	double flops = 2. * m * s->n * s->k, seconds[RUNS], shares[RUNS];
	int run, i;

	printf("%-13s %5d rows ", s->name, m);
	for (i = 0; i < PRODUCTS; i++) {
		int unit = unit_of(row, i);
		double peak = peak_flops(unit);

		for (run = 0; run < RUNS; run++) {
			double t = peak_now(), next;

			if (i == FORWARD || i == TRAIN)
				(i == TRAIN ? row->train : row->forward)(y, DT_BF16, x, DT_BF16, &w, NULL, m, s->n, 0);
			else if (i == DX)
				row->dx(dx, DT_BF16, dy, DT_BF16, &w, m, s->n, 0);
			else
				row->dw(dw, &w, dy, DT_BF16, x, DT_BF16, m, s->n);
			seconds[run] = peak_now() - t;
			next = peak_flops(unit);
			shares[run] = flops / seconds[run] / ((peak + next) / 2);
			peak = next;
		}
		printf("  %s %4.0f GFLOP/s %3.0f %%", names[i], 1e-9 * flops / median(seconds), 100 * median(shares));
		total[i] += s->layers * median(seconds);
		ideal[i] += s->layers * flops / peak;
	}
	putchar('\n');
	free_cpu(w.data);
	free_cpu(x);
	free_cpu(dy);
	free_cpu(dx);
	free_cpu(y);
	free_cpu(dw);
}

static void
step(const struct row *row, int m)
{
	double total[PRODUCTS] = { 0 }, ideal[PRODUCTS] = { 0 };
	int i;

	for (i = 0; i < SHAPES; i++)
		train(row, &shapes[i], i == SHAPES - 1 ? m < 256 ? m : 256 : m, total, ideal);
	printf("all matrices  %5d rows ", m);
	for (i = 0; i < PRODUCTS; i++)
		printf("  %s %.0f %% of the peak of %s", names[i], 100 * ideal[i] / total[i],
		    peak_units[unit_of(row, i)].name);
	putchar('\n');
}

/* Seconds of one step of m sequences through every matrix of the model. */
static double
decode_step(const struct row *row, struct weight w[LAYERS][SHAPES], float *y, const void *x, int m)
{
	double t = peak_now();
	int layer, i;

	for (layer = 0; layer < LAYERS; layer++)
		for (i = 0; i < SHAPES; i++)
			if (layer < shapes[i].layers)
				row->forward(y, DT_F32, x, DT_BF16, &w[layer][i], NULL, m, shapes[i].n, 0);
	return peak_now() - t;
}

static void
decode(const struct row *row)
{
	static const int streams[] = { 1, 2, 4, 8, 12, 16, 32 };
	struct weight w[LAYERS][SHAPES];
	void *x = fill(32 * 4864);
	float *y = alloc_cpu(sizeof *y * 32 * 151936);
	size_t bytes = 0, probe, m;
	double seconds[RUNS], shares[RUNS], first = 0;
	int layer, i, run;

	for (layer = 0; layer < LAYERS; layer++)
		for (i = 0; i < SHAPES; i++)
			if (layer < shapes[i].layers) {
				w[layer][i] = weights(&shapes[i]);
				bytes += w[layer][i].elements * sizeof(uint16_t);
			}
	probe = w[0][SHAPES - 1].elements * sizeof(uint16_t) >> 20 << 20;
	for (m = 0; m < sizeof streams / sizeof *streams; m++) {
		for (run = 0; run < RUNS; run++) {
			double rate = peak_read(w[0][SHAPES - 1].data, probe);

			seconds[run] = decode_step(row, w, y, x, streams[m]);
			rate = (rate + peak_read(w[0][SHAPES - 1].data, probe)) / 2;
			shares[run] = (double)bytes / seconds[run] / rate;
		}
		first = m ? first : median(seconds);
		printf("decode %2d streams   %5.1f steps/s, %3.0f %% of the read rate, %4.1f x one stream\n",
		    streams[m], 1 / median(seconds), 100 * median(shares), streams[m] * first / median(seconds));
	}
	for (layer = 0; layer < LAYERS; layer++)
		for (i = 0; i < SHAPES; i++)
			if (layer < shapes[i].layers)
				free_cpu(w[layer][i].data);
	free_cpu(x);
	free_cpu(y);
}

/* matmul [ROW [train|decode [ROWS]]] */
int
main(int argc, char **argv)
{
	size_t i;

	for (i = 0; i < sizeof rows / sizeof *rows; i++) {
		if (!peak_usable(rows[i].unit) || (argc > 1 && strcmp(argv[1], rows[i].name)))
			continue;
		printf("%s, %d threads, peak of %s %.0f GFLOP/s\n", rows[i].name, omp_get_max_threads(),
		    peak_units[rows[i].unit].name, 1e-9 * peak_flops(rows[i].unit));
		if (argc < 3 || !strcmp(argv[2], "train"))
			step(&rows[i], argc > 3 ? atoi(argv[3]) : 2048);
		if (argc < 3 || !strcmp(argv[2], "decode"))
			decode(&rows[i]);
	}
	return 0;
}
