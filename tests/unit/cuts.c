/* SPDX-License-Identifier: MIT */
/*
 * cuts - the products of a training in whole numbers
 *
 * Compiled here without VNNI, from the same source: the bytes are the same. Against sums in f64, by what op.h allows
 * each number to lose: half of the last of 12 bits of the largest in its cut.
 */
#pragma GCC target("avx512f,avx512bw,avx512vl,avx512dq,fma,f16c")
#include <math.h>
#include <stdlib.h>

#include "lib/base/mem.h"
#include "tests/unit/tap.h"

#define SEED 3
#include "tests/unit/uniform.h"

#include "kernels/matmul_avx512.h"
#define dot_fuses() 0

static inline vec
dot(vec sum, vec a, vec b)
{
	return dot_whole(sum, a, b, 0);
}

enum { PAIRS = 1, WHOLE = 1 };
#include "kernels/matmul_blocks.h"

/* m rows: y = x W^T, and the gradients. */
struct case_of {
	int m, n, k;
	uint16_t *x, *dy;		/* [m, k], [m, n] */
	uint16_t *plain;		/* [n, k] */
	struct weight w;
	float *y, *dx, *dw;
};

/* As many binary orders of magnitude apart as `spread` says. */
static uint16_t *
numbers(int n, int spread)
{
	uint16_t *x = mem_alloc((size_t)n * sizeof *x);
	int i;

	for (i = 0; i < n; i++)
		x[i] = f32_to_bf16(ldexpf(uniform(), (int)((float)spread * uniform())));
	return x;
}

static struct case_of
case_new(int m, int n, int k, int spread)
{
	struct case_of c = { m, n, k, numbers(m * k, spread), numbers(m * n, spread), numbers(n * k, spread),
	    { .type = DT_BF16, .n = n, .k = k, .elements = weight_elements_cpu(DT_BF16, n, k) }, NULL, NULL, NULL };

	c.w.data = alloc_cpu(c.w.elements * sizeof(uint16_t));
	weight_put_cpu(&c.w, 0, n, c.plain, DT_BF16, 0);
	c.y = alloc_cpu((size_t)(m * n) * sizeof(float));
	c.dx = alloc_cpu((size_t)(m * k) * sizeof(float));
	c.dw = alloc_cpu(c.w.elements * sizeof(float));
	return c;
}

static void
case_free(struct case_of *c)
{
	free(c->x);
	free(c->dy);
	free(c->plain);
	free_cpu(c->w.data);
	free_cpu(c->y);
	free_cpu(c->dx);
	free_cpu(c->dw);
}

static void
case_run(struct case_of *c)
{
	memset(c->dw, 0, c->w.elements * sizeof *c->dw);
	forward(c->y, DT_F32, c->x, DT_BF16, &c->w, NULL, c->m, c->n, 0);
	backward_x(c->dx, DT_F32, c->dy, DT_BF16, &c->w, c->m, c->n, 0);
	backward_w(c->dw, &c->w, c->dy, DT_BF16, c->x, DT_BF16, c->m, c->n);
}

/* What a number of a cut may lose: 2^-12 of the next power of two above the largest, or nothing. */
static double
loses(uint16_t x, double largest)
{
	int exponent;

	frexp(largest, &exponent);
	return fabs((double)bf16_to_f32(x)) >= ldexp(1, exponent - 5) ? 0 : ldexp(1, exponent - 13);
}

/* How far `got` is off the sum over i of a[i ra] b[i rb], over what it may be off. */
static double
off(float got, const uint16_t *a, int ra, const uint16_t *b, int rb, int n)
{
	double sum = 0, may = 0, size = 0;
	int at, i;

	for (at = 0; at < n; at += 2 * CUT_PAIRS) {
		int end = min(at + 2 * CUT_PAIRS, n);
		double most[2] = { 0 };

		for (i = at; i < end; i++) {
			most[0] = fmax(most[0], fabs((double)bf16_to_f32(a[i * ra])));
			most[1] = fmax(most[1], fabs((double)bf16_to_f32(b[i * rb])));
		}
		for (i = at; i < end; i++) {
			double x = bf16_to_f32(a[i * ra]), y = bf16_to_f32(b[i * rb]);
			double lx = loses(a[i * ra], most[0]), ly = loses(b[i * rb], most[1]);

			sum += x * y;
			may += lx * fabs(y) + ly * fabs(x) + lx * ly;
			size += fabs(x * y);
		}
	}
	return fabs(got - sum) / (may + 1e-6 * size + 1e-30);
}

static void
check_loss(int m, int n, int k, int spread)
{
	struct case_of c = case_new(m, n, k, spread);
	double forth = 0, back = 0, gradient = 0;
	int r, o, i;

	case_run(&c);
	for (r = 0; r < m; r++)
		for (o = 0; o < n; o++)
			forth = fmax(forth, off(c.y[r * n + o], c.x + r * k, 1, c.plain + o * k, 1, k));
	for (r = 0; r < m; r++)
		for (i = 0; i < k; i++)
			back = fmax(back, off(c.dx[r * k + i], c.dy + r * n, 1, c.plain + i, k, n));
	for (o = 0; o < n; o++)
		for (i = 0; i < k; i++)
			gradient = fmax(gradient, off(c.dw[panel_index(DT_BF16, k, o, i)], c.dy + o, n, c.x + i, k, m));
	ok(forth <= 1 && back <= 1 && gradient <= 1, "%d x [%d, %d], %d orders of magnitude: %.2f, %.2f, %.2f of what may be "
	    "lost", m, n, k, 2 * spread, forth, back, gradient);
	case_free(&c);
}

static void
check_fused(int m, int n, int k)
{
	struct case_of c = case_new(m, n, k, 6);
	size_t y = (size_t)(m * n) * sizeof(float), dx = (size_t)(m * k) * sizeof(float), dw = c.w.elements * sizeof(float);
	float *ys = mem_alloc(y), *dxs = mem_alloc(dx), *dws = mem_alloc(dw);

	case_run(&c);
	memcpy(ys, c.y, y);
	memcpy(dxs, c.dx, dx);
	memcpy(dws, c.dw, dw);
	memset(c.dw, 0, dw);
	matmul_train_avx512vnni(c.y, DT_F32, c.x, DT_BF16, &c.w, NULL, m, n, 0);
	matmul_dx_avx512vnni(c.dx, DT_F32, c.dy, DT_BF16, &c.w, m, n, 0);
	matmul_dw_avx512vnni(c.dw, &c.w, c.dy, DT_BF16, c.x, DT_BF16, m, n);
	ok(!memcmp(c.y, ys, y) && !memcmp(c.dx, dxs, dx) && !memcmp(c.dw, dws, dw), "%d x [%d, %d]: with and without VNNI "
	    "the same bytes", m, n, k);
	free(ys);
	free(dxs);
	free(dws);
	case_free(&c);
}

/* The largest integers there are: sums of 31 bits. */
static void
check_largest(void)
{
	enum { M = 13, N = 33, K = 640 };
	struct case_of c = case_new(M, N, K, 0);
	const float most = 1.9921875f;
	int i, wrong = 0;

	for (i = 0; i < M * K; i++)
		c.x[i] = f32_to_bf16(most);
	for (i = 0; i < N * K; i++)
		c.plain[i] = f32_to_bf16(-most);
	weight_put_cpu(&c.w, 0, N, c.plain, DT_BF16, 0);
	case_run(&c);
	for (i = 0; i < M * N; i++)
		wrong += c.y[i] != -K * most * most;
	ok(!wrong, "cuts of the largest numbers do not overflow");
	case_free(&c);
}

static void
check_strange(void)
{
	enum { M = 20, N = 40, K = 300, ROW = 7, OUTPUT = 5, INPUT = 290 };
	struct case_of c = case_new(M, N, K, 0);
	int r, o, i, wrong = 0;

	c.x[ROW * K + INPUT] = f32_to_bf16(INFINITY);
	c.dy[ROW * N + OUTPUT] = f32_to_bf16(NAN);
	case_run(&c);
	for (r = 0; r < M; r++)
		for (o = 0; o < N; o++)
			wrong += isfinite(c.y[r * N + o]) != (r != ROW);
	for (r = 0; r < M; r++)
		for (i = 0; i < K; i++)
			wrong += isfinite(c.dx[r * K + i]) != (r != ROW);
	for (o = 0; o < N; o++)
		for (i = 0; i < K; i++)
			wrong += isfinite(c.dw[panel_index(DT_BF16, K, o, i)]) != (o != OUTPUT && i != INPUT);
	ok(!wrong, "what is not finite stays in its row and column");
	case_free(&c);
}

static void
check_tiny(void)
{
	enum { M = 3, N = 3, K = 200 };
	struct case_of c = case_new(M, N, K, 0);
	int i, wrong = 0;

	for (i = 0; i < M * K; i++)
		c.x[i] = f32_to_bf16(i % 3 ? 0 : 1e-40f);
	memset(c.dy, 0, M * N * sizeof *c.dy);
	case_run(&c);
	for (i = 0; i < M * N; i++)
		wrong += !(fabsf(c.y[i]) < 1e-36f);
	for (i = 0; i < M * K; i++)
		wrong += c.dx[i] != 0;
	ok(!wrong, "next to nothing stays it, and nothing is nothing");
	case_free(&c);
}

int
main(void)
{
	static const int shapes[][3] = { { 1, 1, 1 }, { 2, 3, 5 }, { 13, 40, 128 }, { 40, 129, 130 }, { 300, 67, 515 },
		{ 129, 300, 33 }, { 30, 1000, 900 } };
	size_t i;

	if (!__builtin_cpu_supports("avx512bw") || !__builtin_cpu_supports("avx512vl")) {
		skip("avx512", "this CPU lacks it");
		return done();
	}
	for (i = 0; i < sizeof shapes / sizeof *shapes; i++) {
		check_loss(shapes[i][0], shapes[i][1], shapes[i][2], 0);
		check_loss(shapes[i][0], shapes[i][1], shapes[i][2], 12);
		if (__builtin_cpu_supports("avx512vnni"))
			check_fused(shapes[i][0], shapes[i][1], shapes[i][2]);
		else
			skip("VNNI", "this CPU lacks it");
	}
	check_largest();
	check_strange();
	check_tiny();
	return done();
}
