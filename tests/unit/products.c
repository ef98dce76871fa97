/* SPDX-License-Identifier: MIT */
/*
 * products - every row's weights, products and embeddings, through the table and its own memory
 *
 * The definition is here in plain loops over matrices as files hold them, so that a row may lay out
 * weights as it likes. tests/unit/matmul.c goes deeper into the CPU rows. An argument names one row.
 */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/op.h"
#include "lib/base/mem.h"
#include "tests/unit/tap.h"

#define SEED 7
#include "tests/unit/uniform.h"

struct shape {
	int m, n, k, outputs;		/* n of w->n = outputs */
};

static const struct shape shapes[] = {
	{ 1, 1, 1, 1 }, { 2, 3, 5, 3 }, { 7, 48, 20, 48 }, { 13, 31, 33, 40 }, { 9, 70, 129, 70 }, { 33, 65, 193, 97 },
	{ 65, 96, 72, 96 }, { 100, 130, 72, 131 }, { 3, 1152, 896, 1152 }, { 513, 64, 72, 64 }, { 530, 67, 88, 67 },
};

enum { NSHAPES = sizeof shapes / sizeof *shapes };

static const enum dtype types[] = { DT_F32, DT_BF16 };

/* n numbers that `type` holds exactly, in f32. */
static float *
numbers(enum dtype type, size_t n)
{
	float *x = mem_alloc(n * sizeof *x);
	size_t i;

	for (i = 0; i < n; i++)
		x[i] = type == DT_BF16 ? bf16_to_f32(f32_to_bf16(uniform())) : uniform();
	return x;
}

static void *
to_row(const struct backend *be, const float *x, enum dtype type, size_t n)
{
	void *narrow = mem_alloc(n * dtype_size(type)), *p = be->alloc(n * dtype_size(type));

	dtype_convert(narrow, type, x, DT_F32, n);
	be->upload(p, narrow, n * dtype_size(type));
	free(narrow);
	return p;
}

static float *
from_row(const struct backend *be, const void *p, enum dtype type, size_t n)
{
	void *narrow = mem_alloc(n * dtype_size(type));
	float *x = mem_alloc(n * sizeof *x);

	be->sync();
	be->download(narrow, p, n * dtype_size(type));
	dtype_convert(x, DT_F32, narrow, type, n);
	free(narrow);
	return x;
}

static struct weight
weights(const struct backend *be, const float *plain, enum dtype type, int n, int k)
{
	struct weight w = { .type = type, .n = n, .k = k, .elements = be->weight_elements(type, n, k) };

	w.data = be->alloc(w.elements * dtype_size(type));
	be->weight_put(&w, 0, n, plain, DT_F32, 0);
	return w;
}

/* Distance over the tolerance of kernels/op.h. */
static double
distance(const float *got, const double *want, size_t n, double allowed, double least)
{
	double largest = least, worst = 0;
	size_t i;

	for (i = 0; i < n; i++) {
		largest = fmax(largest, fabs(want[i]));
		worst = isfinite(got[i]) ? fmax(worst, fabs(got[i] - want[i])) : INFINITY;
	}
	return largest > 0 ? worst / largest / allowed : worst;
}

static double
allowed(const struct weight *w, enum dtype in, enum dtype out, int sum)
{
	int rounded = out == DT_BF16 || (w->type == DT_BF16 && in == DT_F32) || w->type == DT_U8;

	return rounded ? 8e-3 : 2e-6 * sqrt(sum > 1 ? sum : 1);
}

/* In a training, numbers of bf16 may count 12 bits of their cut's largest. */
static double
allowed_train(const struct weight *w, enum dtype in, enum dtype out, int sum)
{
	return fmax(allowed(w, in, out, sum), w->type == DT_BF16 ? 2e-4 : 0);
}

static double
try_forward(const struct backend *be, const struct weight *w, const float *plain, const struct shape *s,
    enum dtype in, enum dtype out, int accumulate)
{
	size_t m = (size_t)s->m, n = (size_t)s->n, k = (size_t)s->k, r, o, i;
	float *x = numbers(in, m * k), *y = numbers(out, m * n), *b = numbers(DT_F32, n), *got;
	double *want = mem_zero(m * n, sizeof *want), far;
	void *dx = to_row(be, x, in, m * k), *dy = to_row(be, y, out, m * n), *db = to_row(be, b, DT_F32, n);
	void *trained = to_row(be, y, out, m * n);

	for (r = 0; r < m; r++)
		for (o = 0; o < n; o++) {
			double *sum = &want[r * n + o];

			*sum = (accumulate ? y[r * n + o] : 0) + (accumulate ? 0 : b[o]);
			for (i = 0; i < k; i++)
				*sum += (double)x[r * k + i] * plain[o * k + i];
		}
	be->matmul(dy, out, dx, in, w, accumulate ? NULL : db, s->m, s->n, accumulate);
	got = from_row(be, dy, out, m * n);
	far = distance(got, want, m * n, allowed(w, in, out, s->k), 1);
	free(got);
	be->matmul_train(trained, out, dx, in, w, accumulate ? NULL : db, s->m, s->n, accumulate);
	got = from_row(be, trained, out, m * n);
	far = fmax(far, distance(got, want, m * n, allowed_train(w, in, out, s->k), 1));
	be->free(dx);
	be->free(dy);
	be->free(db);
	be->free(trained);
	free(x);
	free(y);
	free(b);
	free(want);
	free(got);
	return far;
}

static double
try_dx(const struct backend *be, const struct weight *w, const float *plain, const struct shape *s, enum dtype in,
    enum dtype out, int accumulate)
{
	size_t m = (size_t)s->m, n = (size_t)s->n, k = (size_t)s->k, r, o, i;
	float *y = numbers(in, m * n), *x = numbers(out, m * k), *got;
	double *want = mem_zero(m * k, sizeof *want), far;
	void *dy = to_row(be, y, in, m * n), *dx = to_row(be, x, out, m * k);

	for (r = 0; r < m; r++)
		for (i = 0; i < k; i++) {
			double *sum = &want[r * k + i];

			*sum = accumulate ? x[r * k + i] : 0;
			for (o = 0; o < n; o++)
				*sum += (double)y[r * n + o] * plain[o * k + i];
		}
	be->matmul_dx(dx, out, dy, in, w, s->m, s->n, accumulate);
	got = from_row(be, dx, out, m * k);
	far = distance(got, want, m * k, allowed_train(w, in, out, s->n), 1);
	be->free(dx);
	be->free(dy);
	free(x);
	free(y);
	free(want);
	free(got);
	return far;
}

/* A gradient is read as a weight of f32 is, where that has the same order. */
static double
try_dw(const struct backend *be, const struct weight *w, const struct shape *s, enum dtype dytype, enum dtype xtype)
{
	size_t m = (size_t)s->m, n = (size_t)s->n, k = (size_t)s->k, all = (size_t)w->n * k, r, o, i;
	float *y = numbers(dytype, m * n), *x = numbers(xtype, m * k), *old = numbers(DT_F32, all);
	float *got = mem_alloc(all * sizeof *got);
	struct weight g = { .type = DT_F32, .n = w->n, .k = w->k, .elements = be->weight_elements(DT_F32, w->n, w->k) };
	double *want = mem_zero(all, sizeof *want), far;
	void *dy = to_row(be, y, dytype, m * n), *dx = to_row(be, x, xtype, m * k);

	g.data = be->alloc(g.elements * sizeof(float));
	be->weight_put(&g, 0, g.n, old, DT_F32, 0);
	for (o = 0; o < (size_t)w->n; o++)
		for (i = 0; i < k; i++) {
			want[o * k + i] = old[o * k + i];
			for (r = 0; o < n && r < m; r++)
				want[o * k + i] += (double)y[r * n + o] * x[r * k + i];
		}
	be->matmul_dw(g.data, w, dy, dytype, dx, xtype, s->m, s->n);
	be->sync();
	be->weight_get(got, DT_F32, &g, 0, g.n, 0);
	far = distance(got, want, all, allowed_train(w, dytype == DT_F32 ? dytype : xtype, DT_F32, s->m), 1);
	be->free(dx);
	be->free(dy);
	be->free(g.data);
	free(x);
	free(y);
	free(old);
	free(got);
	free(want);
	return far;
}

static void
test_products(const struct backend *be, enum dtype type, const struct shape *s)
{
	float *plain = numbers(type, (size_t)s->outputs * (size_t)s->k);
	struct weight w = weights(be, plain, type, s->outputs, s->k);
	double forward = 0, dx = 0, dw = 0;
	int t, same_order = type == DT_F32 || be == &backend_cuda;

	for (t = 0; t < 8; t++) {
		enum dtype in = types[t & 1], out = types[t >> 1 & 1];

		forward = fmax(forward, try_forward(be, &w, plain, s, in, out, t >> 2));
		dx = fmax(dx, try_dx(be, &w, plain, s, in, out, t >> 2));
		if (same_order && t < 4)
			dw = fmax(dw, try_dw(be, &w, s, in, out));
	}
	ok(forward <= 1 && dx <= 1 && dw <= 1, "%s: products of %d rows with %s [%d of %d, %d], off by %.2f, %.2f, %.2f of the "
	    "tolerance", be->name, s->m, dtype_name(type), s->n, s->outputs, s->k, forward, dx, dw);
	be->free(w.data);
	free(plain);
}

/* Weights go in, by parts, and come out, also transposed and in another type. */
static void
test_weights(const struct backend *be, enum dtype type)
{
	enum { N = 70, K = 45, FIRST = 33 };
	float *plain = numbers(DT_BF16, N * K), across[N * K], got[N * K];
	uint16_t narrow[N * K];
	struct weight w = weights(be, plain, type, N, K);
	int o, i, wrong = 0;

	for (i = 0; i < K; i++)
		for (o = 0; o < FIRST; o++)
			across[i * FIRST + o] = plain[o * K + i];
	be->weight_put(&w, 0, FIRST, across, DT_F32, 1);
	dtype_convert(narrow, DT_BF16, plain + FIRST * K, DT_F32, (N - FIRST) * K);
	be->weight_put(&w, FIRST, N - FIRST, narrow, DT_BF16, 0);
	be->sync();
	be->weight_get(got, DT_F32, &w, 0, N, 0);
	wrong += memcmp(got, plain, sizeof got) != 0;
	be->weight_get(got, DT_F32, &w, 0, FIRST, 1);
	wrong += memcmp(got, across, K * FIRST * sizeof *got) != 0;
	be->weight_get(narrow, DT_BF16, &w, 5, 9, 0);
	dtype_convert(got, DT_F32, narrow, DT_BF16, 9 * K);
	wrong += memcmp(got, plain + 5 * K, 9 * K * sizeof *got) != 0;
	ok(!wrong, "%s: weights of %s are what was put", be->name, dtype_name(type));
	be->free(w.data);
	free(plain);
}

/* Weights of codes: as they are read back, and their products. */
static void
test_quantised(const struct backend *be, int bits, int asymmetric, int ordered, enum dtype type)
{
	enum { N = 70, K = 150, GROUP = 64, GROUPS = 3, M = 40 };
	struct weight w = { .type = DT_U8, .n = N, .k = K, .quant = { bits, GROUP, asymmetric, NULL } };
	int8_t codes[K * N];
	uint16_t scales[GROUPS * N];
	int16_t zeros[GROUPS * N];
	int order[K], o, i, t;
	float plain[N * K], got[N * K];
	struct shape s = { 0, N, K, N };
	double far = 0;

	w.elements = be->quant_bytes(&w.quant, N, K);
	w.data = be->alloc(w.elements);
	for (i = 0; i < K; i++)
		order[i] = (i * 7 + 3) % K;
	if (ordered) {
		w.quant.order = be->alloc(sizeof order);
		be->upload(w.quant.order, order, sizeof order);
	}
	for (i = 0; i < GROUPS * N; i++) {
		scales[i] = f32_to_f16(0.01f + 0.02f * (1 + uniform()));
		zeros[i] = (int16_t)(3 * uniform());
	}
	for (i = 0; i < K; i++)
		for (o = 0; o < N; o++) {
			int at = i / GROUP * N + o;

			codes[i * N + o] = (int8_t)((1 << (bits - 1)) * uniform());
			plain[o * K + (ordered ? order[i] : i)] = f16_to_f32(scales[at]) *
			    (float)(codes[i * N + o] - (asymmetric ? zeros[at] : 0));
		}
	be->quant_put(&w, 0, N, codes, scales, asymmetric ? zeros : NULL);
	be->sync();
	be->weight_get(got, DT_F32, &w, 0, N, 0);
	for (t = 0; t < 4; t++) {
		s.m = (int[]){ 1, 9, 17, M }[t];
		far = fmax(far, try_forward(be, &w, plain, &s, type, type, t % 2));
	}
	ok(!memcmp(got, plain, sizeof got) && far <= 1, "%s: codes of %d bits%s%s, rows of %s: off by %.2f of the tolerance",
	    be->name, bits, asymmetric ? ", zeros" : "", ordered ? ", an order" : "", dtype_name(type), far);
	be->free(w.quant.order);
	be->free(w.data);
}

/* Row r of many has the bytes it has among fewer. */
static void
test_company(const struct backend *be, enum dtype type)
{
	enum { M = 512, N = 77, K = 387 };
	static const int some[] = { 1, 2, 7, 8, 9, 16, 17, 31, 32, 33, 64, 65, 300 };
	float *plain = numbers(type, N * K), *x = numbers(type, M * K), *all, *few;
	struct weight w = weights(be, plain, type, N, K);
	char *in = to_row(be, x, type, M * K);
	void *out = be->alloc(M * N * sizeof(float));
	int wrong = 0;
	size_t i;

	be->matmul(out, DT_F32, in, type, &w, NULL, M, N, 0);
	all = from_row(be, out, DT_F32, M * N);
	for (i = 0; i < sizeof some / sizeof *some; i++) {
		int m = some[i], from = M - m;

		be->matmul(out, DT_F32, in + (size_t)from * K * dtype_size(type), type, &w, NULL, m, N, 0);
		few = from_row(be, out, DT_F32, (size_t)m * N);
		wrong += memcmp(few, all + (size_t)from * N, (size_t)m * N * sizeof *few) != 0;
		free(few);
	}
	ok(!wrong, "%s: a row times weights of %s is the same in any company", be->name, dtype_name(type));
	be->free(w.data);
	be->free(in);
	be->free(out);
	free(plain);
	free(x);
	free(all);
}

static int *
places(const struct backend *be, int *host, int n, int below)
{
	int *p = be->alloc((size_t)n * sizeof *p), i;

	for (i = 0; i < n; i++)
		host[i] = (int)((uniform() + 1) / 2 * (float)below) % below;
	be->upload(p, host, (size_t)n * sizeof *p);
	return p;
}

static void
test_embed(const struct backend *be, enum dtype type)
{
	enum { M = 700, V = 90, P = 33, K = 45 };
	float *words = numbers(type, V * K), *spots = numbers(type, P * K), *dy = numbers(type, M * K), *got;
	struct weight w = weights(be, words, type, V, K), p = weights(be, spots, type, P, K);
	struct weight dw = { .type = DT_F32, .n = V, .k = K, .elements = be->weight_elements(DT_F32, V, K) };
	struct weight dp = { .type = DT_F32, .n = P, .k = K, .elements = be->weight_elements(DT_F32, P, K) };
	double *want = mem_zero(M * K, sizeof *want), grad[V * K] = { 0 }, grad_p[P * K] = { 0 };
	int ids[M], positions[M], *d_ids = places(be, ids, M, V), *d_positions = places(be, positions, M, P), r, c;
	void *y = be->alloc(M * K * sizeof(float)), *up = to_row(be, dy, type, M * K);
	double far;

	for (r = 0; r < M; r++)
		for (c = 0; c < K; c++) {
			want[r * K + c] = words[ids[r] * K + c] + spots[positions[r] * K + c];
			grad[ids[r] * K + c] += dy[r * K + c];
			grad_p[positions[r] * K + c] += dy[r * K + c];
		}
	be->embed(y, type, &w, &p, d_ids, d_positions, M);
	got = from_row(be, y, type, M * K);
	far = distance(got, want, M * K, type == DT_BF16 ? 8e-3 : 2e-6, 0);
	free(got);
	if (type == DT_F32 || be == &backend_cuda) {
		dw.data = be->alloc(dw.elements * sizeof(float));
		dp.data = be->alloc(dp.elements * sizeof(float));
		got = mem_alloc(V * K * sizeof *got);
		be->embed_backward(dw.data, &w, dp.data, &p, up, type, d_ids, d_positions, M);
		be->sync();
		be->weight_get(got, DT_F32, &dw, 0, V, 0);
		far = fmax(far, distance(got, grad, V * K, 2e-6 * 5, 0));
		be->weight_get(got, DT_F32, &dp, 0, P, 0);
		far = fmax(far, distance(got, grad_p, P * K, 2e-6 * 5, 0));
		free(got);
	}
	ok(far <= 1, "%s: embed and its backward, %s, off by %.2f of the tolerance", be->name, dtype_name(type), far);
	for (r = 0; r < 8; r++)
		be->free((void *[]){ w.data, p.data, dw.data, dp.data, d_ids, d_positions, y, up }[r]);
	free(words);
	free(spots);
	free(dy);
	free(want);
}

static void
test_bias(const struct backend *be, enum dtype type)
{
	enum { M = 1000, N = 77 };
	float *dy = numbers(type, M * N), *got;
	double want[N] = { 0 };
	void *up = to_row(be, dy, type, M * N), *db = be->alloc(N * sizeof(float));
	int r, c;

	for (r = 0; r < M; r++)
		for (c = 0; c < N; c++)
			want[c] += 2 * (double)dy[r * N + c];
	be->bias_backward(db, up, type, M, N);
	be->bias_backward(db, up, type, M, N);
	got = from_row(be, db, DT_F32, N);
	ok(distance(got, want, N, 2e-6 * sqrt(M), 1) <= 1, "%s: bias_backward adds to what is there, %s", be->name,
	    dtype_name(type));
	be->free(up);
	be->free(db);
	free(dy);
	free(got);
}

static void
test_row(const struct backend *be)
{
	int i, t;

	for (t = 0; t < 2; t++) {
		test_weights(be, types[t]);
		for (i = 0; i < NSHAPES; i++)
			test_products(be, types[t], &shapes[i]);
		test_company(be, types[t]);
		for (i = 0; i < 8; i++)
			test_quantised(be, i & 1 ? 8 : 4, i >> 1 & 1, i >> 2, types[t]);
		test_embed(be, types[t]);
		test_bias(be, types[t]);
	}
}

int
main(int argc, char **argv)
{
	const struct backend *const *row;

	for (row = backends; *row; row++)
		if (argc > 1 && strcmp(argv[1], (*row)->name))
			continue;
		else if ((*row)->usable())
			test_row(*row);
		else
			skip((*row)->name, backend_why((*row)->name));
	return done();
}
