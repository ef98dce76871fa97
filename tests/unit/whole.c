/* SPDX-License-Identifier: MIT */
/*
 * whole - quantised products have the same bytes on every CPU
 *
 * With VNNI, without it, which is compiled here from the same source, and with AVX2: any order of integers adds up
 * to the same, and each cut's sum is rounded alike. f32 is multiplied as by weights of f32. What cannot be a whole
 * number, and how exact the rest is.
 */
#pragma GCC target("avx512f,avx512bw,avx512vl,avx512dq,fma,f16c")
#include <stdlib.h>

#include "lib/base/mem.h"
#include "tests/unit/tap.h"

#define SEED 1
#include "tests/unit/uniform.h"

#include "kernels/matmul_avx512.h"
#define dot_fuses() 0
#include "kernels/words_f32.h"
#include "kernels/matmul_blocks.h"
#include "kernels/quant_blocks.h"

static struct weight
codes(struct quant q, int n, int k)
{
	struct weight w = { NULL, DT_U8, n, k, quant_bytes_cpu(&q, n, k), q };
	size_t count = (size_t)n * (size_t)k, heads = (size_t)n * (size_t)quant_group_count(&q, k), i;
	int8_t *code = mem_alloc(count);
	uint16_t *scales = mem_alloc(heads * sizeof *scales);
	int16_t *zeros = mem_alloc(heads * sizeof *zeros);

	for (i = 0; i < count; i++)
		code[i] = (int8_t)floorf((float)(1 << (q.bits - 1)) * uniform());
	for (i = 0; i < heads; i++) {
		scales[i] = f32_to_f16(uniform() / 16);
		zeros[i] = (int16_t)(8 * uniform());
	}
	w.data = alloc_cpu(w.elements);
	quant_put_cpu(&w, 0, n, code, scales, zeros);
	free(code);
	free(scales);
	free(zeros);
	return w;
}

static int
differs(const struct weight *w, const void *x, enum dtype type, int m)
{
	size_t n = (size_t)m * (size_t)w->n;
	float *plain = mem_zero(n, sizeof *plain), *other = mem_zero(n, sizeof *other);
	int wrong;

	forward_quantised(plain, DT_F32, x, type, w, NULL, m, w->n, 0);
	matmul_avx512(other, DT_F32, x, type, w, NULL, m, w->n, 0);
	wrong = memcmp(plain, other, n * sizeof *plain) != 0;
	matmul_avx2(other, DT_F32, x, type, w, NULL, m, w->n, 0);
	wrong |= memcmp(plain, other, n * sizeof *plain) != 0;
	free(plain);
	free(other);
	return wrong;
}

/* The weights that codes stand for. */
static struct weight
dense(const struct weight *w)
{
	struct weight d = { .type = DT_F32, .n = w->n, .k = w->k, .elements = weight_elements_cpu(DT_F32, w->n, w->k) };
	float *plain = mem_alloc((size_t)w->n * (size_t)w->k * sizeof *plain);

	d.data = alloc_cpu(d.elements * sizeof *plain);
	quant_get_cpu(plain, DT_F32, w, 0, w->n, 0);
	weight_put_cpu(&d, 0, d.n, plain, DT_F32, 0);
	free(plain);
	return d;
}

/* f32 is multiplied as by weights of f32. */
static int
differs_from_dense(const struct weight *w, const struct weight *d, const float *x, int m)
{
	size_t n = (size_t)m * (size_t)w->n;
	float *want = mem_zero(n, sizeof *want), *y = mem_zero(n, sizeof *y);
	int wrong;

	matmul_avx512(want, DT_F32, x, DT_F32, d, NULL, m, d->n, 0);
	matmul_avx512(y, DT_F32, x, DT_F32, w, NULL, m, w->n, 0);
	wrong = memcmp(want, y, n * sizeof *y) != 0;
	free(want);
	free(y);
	return wrong;
}

static void
check_bytes(void)
{
	static const struct { int bits, group, asymmetric, n, k; } kinds[] = {
		{ 4, 128, 0, 96, 896 }, { 4, 32, 1, 70, 480 }, { 8, 904, 0, 97, 900 }, { 8, 40, 1, 33, 85 }, { 4, 4864, 1, 64, 4864 },
	};
	static const int rows[] = { 1, 2, 5, 12, 13, 36, 37, 90 };
	size_t i, j, at;

	for (i = 0; i < sizeof kinds / sizeof *kinds; i++) {
		struct weight w = codes((struct quant){ kinds[i].bits, kinds[i].group, kinds[i].asymmetric, NULL }, kinds[i].n,
		    kinds[i].k), d = dense(&w);
		size_t n = 90 * (size_t)w.k;
		float *x = mem_alloc(n * sizeof *x);
		uint16_t *half = mem_alloc(n * sizeof *half);
		int wrong = 0;

		for (at = 0; at < n; at++) {
			x[at] = ldexpf(uniform(), (int)(12 * uniform()));
			half[at] = f32_to_bf16(x[at]);
		}
		for (j = 0; j < sizeof rows / sizeof *rows; j++)
			wrong += differs(&w, x, DT_F32, rows[j]) + differs(&w, half, DT_BF16, rows[j]) +
			    differs_from_dense(&w, &d, x, rows[j]);
		ok(!wrong, "%d bits by %d%s [%d, %d]: avx512 with and without VNNI, avx2 and, in f32, the weights themselves "
		    "agree in all bytes", w.quant.bits, w.quant.group, w.quant.asymmetric ? ", zeros" : "", w.n, w.k);
		free_cpu(w.data);
		free_cpu(d.data);
		free(x);
		free(half);
	}
}

/* Of one output whose codes are 1 and scale 1: the sum of x. */
static float
sum_of(const float *x, int k, enum dtype type)
{
	struct quant q = { .bits = 8, .group = (k + QUANT_WORD - 1) / QUANT_WORD * QUANT_WORD };
	struct weight w = { NULL, DT_U8, 1, k, quant_bytes_cpu(&q, 1, k), q };
	int8_t *ones = mem_alloc((size_t)k);
	uint16_t scale = f32_to_f16(1), *half = mem_alloc((size_t)k * sizeof *half);
	float y = -1;

	memset(ones, 1, (size_t)k);
	dtype_convert(half, DT_BF16, x, DT_F32, (size_t)k);
	w.data = alloc_cpu(w.elements);
	quant_put_cpu(&w, 0, 1, ones, &scale, NULL);
	forward_quantised(&y, DT_F32, type == DT_BF16 ? (const void *)half : x, type, &w, NULL, 1, 1, 0);
	free_cpu(w.data);
	free(ones);
	free(half);
	return y;
}

int
main(void)
{
	static const float spread[] = { 1.9921875f, -0.01556396484375f, 0.5f, 0.015625f };	/* 128 times, bf16 all */
	static const float fine[] = { 3.00000024f, 0.333333343f, -1e-5f }, zeros[200] = { 0 };
	static const float strange[] = { 1, NAN, 2 }, endless[] = { 1, -INFINITY }, tiny[] = { 1e-42f, 1e-38f };
	static const float huge[] = { 3.3e38f, -3.3e38f, 1e38f }, brink[] = { 1.99999988f, 1.99999988f };

	if (!__builtin_cpu_supports("avx512bw") || !__builtin_cpu_supports("avx512vl")) {
		skip("avx512", "this CPU lacks it");
		return done();
	}
	ok(sum_of(spread, 4, DT_BF16) == 2.49224853515625f, "bf16 numbers 128 times apart are added up exactly");
	ok(fabsf(sum_of(fine, 3, DT_F32) - 3.333323584f) <= 2.4e-7f, "f32 keeps its bits");
	ok(sum_of(zeros, 200, DT_F32) == 0 && sum_of(zeros, 200, DT_BF16) == 0, "zeros are zero");
	ok(isnan(sum_of(strange, 3, DT_F32)) && isnan(sum_of(strange, 3, DT_BF16)) && isnan(sum_of(endless, 2, DT_BF16)),
	    "what is not finite makes what is no number");
	ok(fabsf(sum_of(tiny, 2, DT_F32)) <= 1e-37f, "next to nothing stays it");
	ok(fabsf(sum_of(huge, 3, DT_F32) / 1e38f - 1) < 1e-4f, "the largest numbers do not overflow");
	ok(sum_of(brink, 2, DT_F32) == 3.99999976f, "nor do integers that would be rounded up to 2^15");
	check_bytes();
	(void)forward, (void)backward_x, (void)backward_w;
	return done();
}
