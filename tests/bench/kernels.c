/* SPDX-License-Identifier: MIT */
/*
 * kernels - what is not a matrix product, at the shapes of Qwen2.5-0.5B and 2048 tokens, on every
 * usable row
 *
 * Work that only streams is given as a share of the rate at which memory is read, changed and
 * written back (bytes moved over the time), attention as a share of the multiply-adds that
 * registers allow, a draw and a step of decode in milliseconds. The ceiling is probed between the
 * runs; each figure is the median.
 */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/cpu.h"
#include "lib/base/mem.h"
#include "tests/bench/peak.h"

enum {
	RUNS = 5,
	M = 2048, C = 896, F = 4864, V = 151936, T = 512,
	HEADS = 14, KV = 2, D = 64, WIDTH = (HEADS + 2 * KV) * D,
	ROWS = 256,			/* of the loss at once */
	MOST = ROWS * V,		/* elements of any array */
	N = 32 << 20,			/* parameters of one step of the optimizer */
	PAGES = 16 * 10,		/* 16 sequences of 320 positions */
	STREAM = 256 << 20,
};

static const struct backend *be;
static void *a, *b, *c, *d;		/* as large as any operation needs */
static __m128i *stream;			/* the yardstick's */
static float *w, *stats, *table;
static int offsets[M / T + 1], positions[M], targets[M], pages[PAGES], lengths[16], places[M];
static const struct ragged seq = { M, M / T, offsets, positions, offsets };
static const struct heads heads = { HEADS, KV, D, 0.125f };
static struct kv kv = { NULL, DT_BF16, 1, PAGES, KV, D };
static struct dropout drop = { 0.1f, 1, 2 };

static void norm(void) { be->norm(a, b, DT_BF16, w, NULL, 1e-6f, stats, M, C); }
static void norm_back(void) { be->norm_backward(a, w, NULL, c, b, DT_BF16, w, stats, M, C); }
static void rope(void) { be->rope(a, DT_BF16, table, positions, M, WIDTH, HEADS + KV, D, 0); }
static void swiglu(void) { be->swiglu(a, b, DT_BF16, M, F); }
static void swiglu_back(void) { be->swiglu_backward(a, c, b, DT_BF16, M, F); }
static void gelu(void) { be->gelu(a, b, DT_BF16, (size_t)M * F); }
static void add(void) { be->add(a, 1, b, DT_BF16, (size_t)M * F); }
static void dropout(void) { be->dropout(a, b, DT_BF16, (size_t)M * F, &drop); }
static void attention(void) { be->attention(a, stats, b, DT_BF16, &seq, &heads, NULL); }
static void attention_drop(void) { be->attention(a, stats, b, DT_BF16, &seq, &heads, &drop); }
static void attention_back(void) { be->attention_backward(d, c, a, stats, b, DT_BF16, &seq, &heads,
    NULL); }
static void squares(void) { be->sum_squares((double *)stats, a, N); }

static void
paged(void)
{
	be->attention_paged(a, b, DT_BF16, &kv, 0, pages, PAGES / 16, lengths, 16, &heads);
}

static void
adamw(void)
{
	const struct adamw h = { 1e-5, 0.9, 0.999, 1e-8, 0.01, 0.1, 0.001, 1, 0, 0 };
	char *p = a;

	be->adamw(p, DT_BF16, (int16_t *)(p + 2 * (size_t)N), b, c, d, N, &h);
}

static void
loss(enum divergence_kind kind)
{
	const struct divergence way = { kind, 0.5f, 1, 0.1f, 0.5f };
	const struct teacher_rows t = { .form = kind == LOSS_CE ? TEACHER_NONE : TEACHER_DENSE,
	    .dense = b, .ld = V };

	be->loss(a, V, targets, &t, &way, 1e-3f, stats, stats + M, ROWS, V);
}

static void ce(void) { loss(LOSS_CE); }
static void kl(void) { loss(LOSS_FORWARD_KL); }
static void jsd(void) { loss(LOSS_JSD); }

static void
sample(float top_p, int top_k)
{
	const struct sampling s = { 0, 0.9f, top_k, top_p, 0 };

	be->copy(a, b, 16 * (size_t)V * 4);
	be->sample(targets + 16, stats, stats + 16, a, V, &s, w, 16, V);
}

static void copied(void) { be->copy(a, b, 16 * (size_t)V * 4); }
static void plain(void) { sample(1, 0); }
static void top_k(void) { sample(1, 50); }
static void top_p(void) { sample(0.95f, 0); }

static void
topk(void)
{
	be->topk(a, c, stats, b, V, 64, 16, V);
}

/*
 * Work of a call: bytes that it must move, or multiplications and additions; none: only the time is
 * given.
 */
static const struct work {
	const char *name;
	void (*call)(void);
	enum dtype type;		/* of a, b and c */
	double bytes, flops;
} works[] = {
	{ "norm", norm, DT_BF16, 4.0 * M * C, 0 },
	{ "norm backward", norm_back, DT_BF16, 8.0 * M * C, 0 },
	{ "rope", rope, DT_BF16, 4.0 * M * (HEADS + KV) * D, 0 },
	{ "swiglu", swiglu, DT_BF16, 6.0 * M * F, 0 },
	{ "swiglu backward", swiglu_back, DT_BF16, 10.0 * M * F, 0 },
	{ "gelu", gelu, DT_BF16, 4.0 * M * F, 0 },
	{ "add", add, DT_BF16, 6.0 * M * F, 0 },
	{ "dropout", dropout, DT_BF16, 4.0 * M * F, 0 },
	{ "adamw, bf16", adamw, DT_F32, 32.0 * N, 0 },
	{ "sum of squares", squares, DT_F32, 4.0 * N, 0 },
	{ "cross-entropy, 256 x 151936", ce, DT_F32, 8.0 * ROWS * V, 0 },
	{ "forward KL, 256 x 151936", kl, DT_F32, 12.0 * ROWS * V, 0 },
	{ "JSD, 256 x 151936", jsd, DT_F32, 12.0 * ROWS * V, 0 },
	{ "attention, 4 x 512", attention, DT_BF16, 0, 2.0 * M * (T + 1) * HEADS * D },
	{ "attention with dropout", attention_drop, DT_BF16, 0, 2.0 * M * (T + 1) * HEADS * D },
	{ "attention backward", attention_back, DT_BF16, 0, 5.0 * M * (T + 1) * HEADS * D },
	{ "decode, 16 x 320 positions, a layer", paged, DT_BF16, 0, 0 },
	{ "copy of logits, 16 rows", copied, DT_F32, 0, 0 },
	{ "copy and sample, 16 rows", plain, DT_F32, 0, 0 },
	{ "copy and sample, top-k 50", top_k, DT_F32, 0, 0 },
	{ "copy and sample, top-p 0.95", top_p, DT_F32, 0, 0 },
	{ "topk 64, 16 rows", topk, DT_F32, 0, 0 },
};

enum { WORKS = sizeof works / sizeof *works };

static int
ascending(const void *x, const void *y)
{
	double i = *(const double *)x, j = *(const double *)y;

	return (i > j) - (i < j);
}

/* Bytes per second, read and written, of numbers that are changed in place. */
static double
update_rate(void)
{
	double t = peak_now();
	const __m128i one = _mm_set1_epi32(1);
	size_t part, i;

	#pragma omp parallel for schedule(static) private(i)
	for (part = 0; part < STREAM / sizeof *stream; part += 1 << 16)
		#pragma GCC unroll 8
		for (i = part; i < part + (1 << 16); i++)
			stream[i] = _mm_xor_si128(stream[i], one);
	return 2.0 * STREAM / (peak_now() - t);
}

/* n numbers in [-scale, scale), of f32 or bf16. */
static void
fill(char *p, enum dtype type, size_t n, float scale)
{
	size_t i;

	#pragma omp parallel for schedule(static)
	for (i = 0; i < n; i++) {
		float x = scale * ((float)((i * 2654435761u) % 65536) / 32768 - 1);
		uint16_t h = f32_to_bf16(x);

		memcpy(p + i * dtype_size(type), type == DT_BF16 ? (void *)&h : (void *)&x,
		    dtype_size(type));
	}
}

static void *
numbers(enum dtype type, size_t n, float scale)
{
	void *p = alloc_cpu(n * dtype_size(type));

	fill(p, type, n, scale);
	return p;
}

static void
measure(const struct work *work, int unit)
{
	double seconds[RUNS], shares[RUNS];
	int i, k;

	fill(a, work->type, MOST, 3);
	fill(b, work->type, MOST, 2);
	fill(c, work->type, MOST, 1);
	fill(d, DT_F32, MOST, 1);
	for (i = 0; i < RUNS; i++) {
		double rate = work->flops > 0 ? peak_flops(unit) : update_rate(), t;

		work->call();
		t = peak_now();
		for (k = 0; k == 0 || (k < 100 && peak_now() - t < 0.05); k++)
			work->call();
		seconds[i] = (peak_now() - t) / k;
		shares[i] = (work->flops + work->bytes) / seconds[i] / rate;
	}
	qsort(seconds, RUNS, sizeof *seconds, ascending);
	qsort(shares, RUNS, sizeof *shares, ascending);
	printf("%-7s %-36s %9.3f ms", be->name, work->name, 1e3 * seconds[RUNS / 2]);
	if (work->flops + work->bytes > 0)
		printf("  %.2f of %s", shares[RUNS / 2],
		    work->flops > 0 ? "multiply-adds" : "memory");
	putchar('\n');
}

int
main(int argc, char **argv)
{
	int i;

	setvbuf(stdout, NULL, _IOLBF, 0);
	a = alloc_cpu(4 * (size_t)MOST);
	b = alloc_cpu(4 * (size_t)MOST);
	c = alloc_cpu(4 * (size_t)MOST);
	d = alloc_cpu(4 * (size_t)MOST);
	stream = alloc_cpu(STREAM);
	w = numbers(DT_F32, F, 1);
	stats = numbers(DT_F32, (size_t)M * HEADS, 1);
	table = numbers(DT_F32, (size_t)T * D, 1);
	kv.data = numbers(DT_BF16, (size_t)PAGES * 2 * KV * KV_PAGE * D, 1);
	for (i = 0; i < M; i++) {
		positions[i] = i % T;
		targets[i] = i * 31 % V;
		places[i] = i;
	}
	for (i = 0; i <= M / T; i++)
		offsets[i] = i * T;
	for (i = 0; i < PAGES; i++)
		pages[i] = i * 7 % PAGES;
	for (i = 0; i < 16; i++) {
		lengths[i] = PAGES / 16 * KV_PAGE;
		w[i] = (float)i / 16;
	}
	for (i = 0; i < 2 * WORKS; i++) {
		be = i < WORKS ? &backend_avx2 : &backend_avx512;
		if (be->usable() && (argc < 2 || strstr(works[i % WORKS].name, argv[1])))
			measure(&works[i % WORKS], i >= WORKS);
	}
	return 0;
}
