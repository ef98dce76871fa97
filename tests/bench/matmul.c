/* SPDX-License-Identifier: MIT */
/*
 * matmul - matrix products of Qwen2.5-0.5B's shapes, as shares of what the machine can do
 *
 * Training: forward, dx and dw with bf16 weights and activations, a share of the
 * arithmetic peak of registers (of bf16 dot products where the CPU has them).
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
	    int);
	void (*dx)(void *, enum dtype, const void *, enum dtype, const struct weight *, int, int, int);
	void (*dw)(float *, const struct weight *, const void *, enum dtype, const void *, enum dtype, int, int);
} rows[] = {
	{ "avx2", 0, matmul_avx2, matmul_dx_avx2, matmul_dw_avx2 },
	{ "avx512", 1, matmul_avx512, matmul_dx_avx512, matmul_dw_avx512 },
};

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

/* Seconds of the three products at m rows, in all layers, added to total; *ideal: at peak. */
static void
train(const struct row *row, int unit, const struct shape *s, int m, double total[3], double *ideal)
{
	static const char *const names[] = { "forward", "dx", "dw" };
	struct weight w = weights(s);
	void *x = fill((size_t)m * (size_t)s->k), *dy = fill((size_t)m * (size_t)s->n);
	void *dx = fill((size_t)m * (size_t)s->k), *y = fill((size_t)m * (size_t)s->n);
	float *dw = alloc_cpu(w.elements * sizeof *dw);
	double flops = 2. * m * s->n * s->k, seconds[3][RUNS], shares[3][RUNS], peak = peak_flops(unit);
	int run, i;

	for (run = 0; run < RUNS; run++)
		for (i = 0; i < 3; i++) {
			double t = peak_now(), next;

			if (i == 0)
				row->forward(y, DT_BF16, x, DT_BF16, &w, NULL, m, s->n, 0);
			else if (i == 1)
				row->dx(dx, DT_BF16, dy, DT_BF16, &w, m, s->n, 0);
			else
				row->dw(dw, &w, dy, DT_BF16, x, DT_BF16, m, s->n);
			seconds[i][run] = peak_now() - t;
			next = peak_flops(unit);
			shares[i][run] = flops / seconds[i][run] / ((peak + next) / 2);
			peak = next;
		}
	printf("%-13s %5d rows ", s->name, m);
	for (i = 0; i < 3; i++) {
		double t = median(seconds[i]);

		printf("  %s %4.0f GFLOP/s %3.0f %%", names[i], 1e-9 * flops / t, 100 * median(shares[i]));
		total[i] += s->layers * t;
	}
	putchar('\n');
	*ideal += s->layers * flops / peak;
	free_cpu(w.data);
	free_cpu(x);
	free_cpu(dy);
	free_cpu(dx);
	free_cpu(y);
	free_cpu(dw);
}

static void
step(const struct row *row, int unit, int m)
{
	double total[3] = { 0 }, ideal = 0;
	int i;

	for (i = 0; i < SHAPES; i++)
		train(row, unit, &shapes[i], i == SHAPES - 1 ? m < 256 ? m : 256 : m, total, &ideal);
	printf("all matrices  %5d rows   forward %.0f %%, dx %.0f %%, dw %.0f %% of the peak\n", m,
	    100 * ideal / total[0], 100 * ideal / total[1], 100 * ideal / total[2]);
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
		int unit = rows[i].unit == 1 && peak_usable(2) ? 2 : rows[i].unit;

		if (!peak_usable(rows[i].unit) || (argc > 1 && strcmp(argv[1], rows[i].name)))
			continue;
		printf("%s, %d threads, peak of %s %.0f GFLOP/s\n", rows[i].name, omp_get_max_threads(),
		    peak_units[unit].name, 1e-9 * peak_flops(unit));
		if (argc < 3 || !strcmp(argv[2], "train"))
			step(&rows[i], unit, argc > 3 ? atoi(argv[3]) : 2048);
		if (argc < 3 || !strcmp(argv[2], "decode"))
			decode(&rows[i]);
	}
	return 0;
}
