/* SPDX-License-Identifier: MIT */
/*
 * matmul - every row's matrix products against the definition, and against themselves
 *
 * A machine without bf16 dot products runs their source with a dot() of two
 * multiply-adds. Hardware differs from that in the rounding between the two and
 * takes subnormal numbers for zero, within the tolerance either way; packing,
 * edges and layouts are the same code.
 */
#pragma GCC target("avx512f,avx512bw,avx512vl,avx512dq,fma,f16c")
#include <math.h>
#include <omp.h>
#include <stdlib.h>

#include "lib/base/mem.h"
#include "tests/unit/tap.h"

#define SEED 1
#include "tests/unit/uniform.h"

#include "kernels/matmul_avx512.h"

static inline vec
dot(vec sum, vec a, vec b)
{
	return _mm512_fmadd_ps(vec_high(a), vec_high(b), _mm512_fmadd_ps(vec_low(a), vec_low(b), sum));
}

enum { PAIRS = 1, WHOLE = 0 };
#include "kernels/matmul_blocks.h"
#include "kernels/quant.h"

struct row {
	const char *name;
	void (*forward)(void *, enum dtype, const void *, enum dtype, const struct weight *, const float *, int, int,
	    int);
	void (*dx)(void *, enum dtype, const void *, enum dtype, const struct weight *, int, int, int);
	void (*dw)(float *, const struct weight *, const void *, enum dtype, const void *, enum dtype, int, int);
	int usable, bf16_only;
	double cuts;		/* the tolerance of a training's products of bf16 */
};

struct array {
	char *data;
	enum dtype type;
	size_t n;
};

struct shape {
	int m, n, k, outputs;		/* n of w->n = outputs */
};

static struct array
array(enum dtype type, size_t n)
{
	struct array a = { alloc_cpu(n * dtype_size(type)), type, n };
	float *f = mem_zero(n, sizeof *f);
	size_t i;

	for (i = 0; i < n; i++)
		f[i] = uniform();
	dtype_convert(a.data, type, f, DT_F32, n);
	free(f);
	return a;
}

static struct array
duplicate(const struct array *a)
{
	struct array b = { alloc_cpu(a->n * dtype_size(a->type)), a->type, a->n };

	memcpy(b.data, a->data, a->n * dtype_size(a->type));
	return b;
}

static float
get(const struct array *a, size_t i)
{
	return a->type == DT_BF16 ? bf16_to_f32(((const uint16_t *)a->data)[i]) : ((const float *)a->data)[i];
}

/* The largest difference, relative to the largest value of `want`, over the tolerance of kernels/op.h, `cuts` at least.
 * Where x is rounded, values cancelled below 1 count as 1. */
static double
distance(const struct array *got, const struct array *want, int sum, int rounded, double cuts)
{
	double exact = fmax(2e-6 * sqrt(sum), cuts), allowed = rounded || got->type == DT_BF16 ? 8e-3 : exact;
	double largest = rounded || cuts, worst = 0;
	size_t i;

	for (i = 0; i < want->n; i++) {
		largest = fmax(largest, fabs(get(want, i)));
		worst = isnan(get(got, i)) ? INFINITY : fmax(worst, fabs(get(got, i) - get(want, i)));
	}
	return worst / (largest > 0 ? largest : 1) / allowed;
}

static struct weight
weights(enum dtype type, int n, int k)
{
	struct array plain = array(DT_F32, (size_t)n * (size_t)k);
	struct weight w = { .type = type, .n = n, .k = k, .elements = weight_elements_cpu(type, n, k) };

	w.data = alloc_cpu(w.elements * dtype_size(type));
	weight_put_cpu(&w, 0, n, plain.data, DT_F32, 0);
	free_cpu(plain.data);
	return w;
}

static double
try_forward(const struct row *row, const struct weight *w, const struct shape *s, enum dtype xtype,
    enum dtype ytype, int bias, int accumulate)
{
	struct array x = array(xtype, (size_t)s->m * (size_t)s->k), y = array(ytype, (size_t)s->m * (size_t)s->n);
	struct array want = duplicate(&y), b = array(DT_F32, (size_t)s->n);
	double far;

	matmul_ref(want.data, ytype, x.data, xtype, w, bias ? (float *)b.data : NULL, s->m, s->n, accumulate);
	row->forward(y.data, ytype, x.data, xtype, w, bias ? (float *)b.data : NULL, s->m, s->n, accumulate);
	far = distance(&y, &want, s->k, w->type == DT_BF16 && xtype == DT_F32,
	    row->forward == matmul_train_avx512 ? row->cuts : 0);
	free_cpu(x.data);
	free_cpu(y.data);
	free_cpu(b.data);
	free_cpu(want.data);
	return far;
}

static double
try_dx(const struct row *row, const struct weight *w, const struct shape *s, enum dtype dytype, enum dtype dxtype,
    int accumulate)
{
	struct array dy = array(dytype, (size_t)s->m * (size_t)s->n), dx = array(dxtype, (size_t)s->m * (size_t)s->k);
	struct array want = duplicate(&dx);
	double far;

	matmul_dx_ref(want.data, dxtype, dy.data, dytype, w, s->m, s->n, accumulate);
	row->dx(dx.data, dxtype, dy.data, dytype, w, s->m, s->n, accumulate);
	far = distance(&dx, &want, s->n, w->type == DT_BF16 && dytype == DT_F32, w->type == DT_BF16 ? row->cuts : 0);
	free_cpu(dy.data);
	free_cpu(dx.data);
	free_cpu(want.data);
	return far;
}

static double
try_dw(const struct row *row, const struct weight *w, const struct shape *s, enum dtype dytype, enum dtype xtype)
{
	struct array dy = array(dytype, (size_t)s->m * (size_t)s->n), x = array(xtype, (size_t)s->m * (size_t)s->k);
	struct array dw = array(DT_F32, w->elements), want = duplicate(&dw);
	int rounded = w->type == DT_BF16 && (dytype == DT_F32 || xtype == DT_F32);
	double far;

	matmul_dw_ref((float *)want.data, w, dy.data, dytype, x.data, xtype, s->m, s->n);
	row->dw((float *)dw.data, w, dy.data, dytype, x.data, xtype, s->m, s->n);
	far = distance(&dw, &want, s->m, rounded, w->type == DT_BF16 ? row->cuts : 0);
	free_cpu(dy.data);
	free_cpu(x.data);
	free_cpu(dw.data);
	free_cpu(want.data);
	return far;
}

/* Random codes, scales of both signs and, where q says so, zeros and an order of the inputs. */
static struct weight
quantised(struct quant q, int n, int k)
{
	struct weight w = { NULL, DT_U8, n, k, quant_bytes_cpu(&q, n, k), q };
	int groups = quant_group_count(&q, k), half = 1 << (q.bits - 1), i;
	size_t codes = (size_t)k * (size_t)n, heads = (size_t)groups * (size_t)n, j;
	int8_t *code = mem_alloc(codes);
	uint16_t *scales = mem_zero(heads, sizeof *scales);
	int16_t *zeros = mem_zero(heads, sizeof *zeros);

	for (j = 0; j < codes; j++)
		code[j] = (int8_t)floorf((float)half * uniform());
	for (j = 0; j < heads; j++) {
		scales[j] = f32_to_f16(uniform() / 16);
		zeros[j] = (int16_t)floorf((float)half * uniform());
	}
	w.data = alloc_cpu(w.elements);
	quant_put_cpu(&w, 0, n / 3, code, scales, zeros);	/* overwritten: rows have their places */
	quant_put_cpu(&w, 0, n, code, scales, zeros);
	if (q.order) {
		w.quant.order = mem_zero((size_t)k, sizeof *w.quant.order);
		for (i = 0; i < k; i++)
			w.quant.order[i] = (i * 5 + 3) % k;
	}
	free(code);
	free(scales);
	free(zeros);
	return w;
}

/* Against a dense product with what weight_get() reads, which holds the definition to the layout. */
static double
try_definition(const struct weight *w)
{
	struct shape s = { 3, w->n, w->k, w->n };
	struct array x = array(DT_F32, (size_t)s.m * (size_t)s.k), y = array(DT_F32, (size_t)s.m * (size_t)s.n);
	struct array want = array(DT_F32, y.n), plain = array(DT_F32, (size_t)s.n * (size_t)s.k);
	struct weight dense = { .type = DT_F32, .n = w->n, .k = w->k, .elements = weight_elements_cpu(DT_F32, w->n, w->k) };
	double far;

	dense.data = alloc_cpu(dense.elements * sizeof(float));
	weight_get_cpu(plain.data, DT_F32, w, 0, w->n, 0);
	weight_put_cpu(&dense, 0, w->n, plain.data, DT_F32, 0);
	matmul_ref(want.data, DT_F32, x.data, DT_F32, &dense, NULL, s.m, s.n, 0);
	matmul_ref(y.data, DT_F32, x.data, DT_F32, w, NULL, s.m, s.n, 0);
	far = distance(&y, &want, s.k, 0, 0);
	free_cpu(x.data);
	free_cpu(y.data);
	free_cpu(want.data);
	free_cpu(plain.data);
	free_cpu(dense.data);
	return far;
}

static void check_forward_company(const struct row *row, const struct weight *w, const char *name);

static void
check_quantised(const struct row *row)
{
	static int scattered;
	static const struct { int bits, group, asymmetric, *order, n, k; } kinds[] = {
		{ 4, 128, 0, NULL, 96, 896 }, { 4, 128, 1, NULL, 160, 300 }, { 4, 32, 0, &scattered, 64, 96 },
		{ 4, 64, 1, &scattered, 32, 992 }, { 4, 4864, 0, NULL, 33, 4864 }, { 8, 128, 0, NULL, 128, 896 },
		{ 8, 904, 0, NULL, 517, 897 }, { 8, 40, 1, NULL, 70, 85 }, { 4, 8, 0, NULL, 31, 17 }, { 8, 8, 0, NULL, 1, 13 },
		{ 4, 200, 1, &scattered, 65, 2816 },
	};
	static const enum dtype types[] = { DT_F32, DT_BF16 };
	char name[96];
	size_t i;
	int t, m;

	for (i = 0; i < sizeof kinds / sizeof *kinds; i++) {
		struct weight w = quantised((struct quant){ kinds[i].bits, kinds[i].group, kinds[i].asymmetric, kinds[i].order },
		    kinds[i].n, kinds[i].k);
		double off = try_definition(&w), definition = off;

		snprintf(name, sizeof name, "%s %d bits by %d%s%s [%d, %d]", row->name, kinds[i].bits, kinds[i].group,
		    kinds[i].asymmetric ? ", zeros" : "", kinds[i].order ? ", scattered" : "", w.n, w.k);
		for (t = 0; t < 8; t++)
			for (m = 1; m <= 13; m += t ? 12 : 1) {
				struct shape s = { m, t & 1 ? (w.n + 1) / 2 : w.n, w.k, w.n };
				struct array x = array(types[t & 1], (size_t)m * (size_t)w.k), y = array(types[t >> 1 & 1], (size_t)m *
				    (size_t)s.n), want = duplicate(&y), b = array(DT_F32, (size_t)s.n);

				matmul_ref(want.data, y.type, x.data, x.type, &w, t & 1 ? (float *)b.data : NULL, m, s.n, t >> 2);
				row->forward(y.data, y.type, x.data, x.type, &w, t & 1 ? (float *)b.data : NULL, m, s.n, t >> 2);
				off = fmax(off, distance(&y, &want, w.k, 0, 0));
				free_cpu(x.data);
				free_cpu(y.data);
				free_cpu(b.data);
				free_cpu(want.data);
			}
		ok(definition < 1 && off < 1, "%s: off by %.2f of the tolerance, the definition by %.2f", name, off, definition);
		check_forward_company(row, &w, name);
		free_cpu(w.data);
		free(w.quant.order);
	}
}

/* Every combination of types, bias and accumulation. */
static void
check_shape(const struct row *row, enum dtype wtype, const struct shape *s)
{
	static const enum dtype types[] = { DT_F32, DT_BF16 };
	struct weight w = weights(wtype, s->outputs, s->k);
	double forward = 0, dx = 0, dw = 0;
	int t;

	for (t = 0; t < 8; t++) {
		enum dtype in = types[t & 1], out = types[t >> 1 & 1];

		forward = fmax(forward, try_forward(row, &w, s, in, out, t & 1, t >> 2));
		dx = fmax(dx, try_dx(row, &w, s, in, out, t >> 2));
		dw = fmax(dw, try_dw(row, &w, s, in, out));
	}
	ok(forward < 1 && dx < 1 && dw < 1,
	    "%s %s [%d of %d, %d] x %d rows: off by %.2f, dx %.2f, dw %.2f of the tolerance", row->name,
	    dtype_name(wtype), s->n, s->outputs, s->k, s->m, forward, dx, dw);
	free_cpu(w.data);
}

/* The forward alone: rows in any company, by any number of threads. */
static void
check_forward_company(const struct row *row, const struct weight *w, const char *name)
{
	enum { M = 83 };
	size_t n = (size_t)w->n, k = (size_t)w->k;
	struct array x = array(DT_BF16, M * k), y = array(DT_F32, M * n), yy = duplicate(&y);
	int m, wrong = 0, threads = omp_get_max_threads();

	row->forward(y.data, DT_F32, x.data, DT_BF16, w, NULL, M, w->n, 0);
	for (m = 1; m < M; m += m < 14 ? 1 : 17) {
		size_t from = (size_t)(M - m);

		row->forward(yy.data, DT_F32, x.data + from * k * 2, DT_BF16, w, NULL, m, w->n, 0);
		wrong += memcmp(yy.data, y.data + from * n * 4, (size_t)m * n * 4) != 0;
	}
	for (m = 1; m <= 5; m += 2) {
		omp_set_num_threads(m);
		row->forward(yy.data, DT_F32, x.data, DT_BF16, w, NULL, M, w->n, 0);
		wrong += memcmp(yy.data, y.data, y.n * 4) != 0;
		row->forward(yy.data, DT_F32, x.data, DT_BF16, w, NULL, 1, w->n, 0);
		wrong += memcmp(yy.data, y.data, n * 4) != 0;
	}
	omp_set_num_threads(threads);
	ok(!wrong, "%s: a row's result is the same in any company and by any number of threads", name);
	free_cpu(x.data);
	free_cpu(y.data);
	free_cpu(yy.data);
}

/* Row r of m rows has the bytes it has alone; and threads change nothing. */
static void
check_company(const struct row *row, enum dtype wtype, enum dtype type, int n, int k)
{
	enum { M = 523, FEW = 40 };	/* 4 strips: some of 5 threads have none */
	static const int some[] = { 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20, 21, 22, 23, 24,
		25, 26, 27, 28, 29, 30, 31, 32, 33, 34, 35, 36, 37, 38, 39, 40, 64, 512, M };
	size_t size = dtype_size(type), i;
	struct weight w = weights(wtype, n, k);
	struct array x = array(type, (size_t)M * (size_t)k), dy = array(type, (size_t)M * (size_t)n);
	struct array y = array(type, dy.n), yy = duplicate(&y), dx = array(type, x.n), dxx = duplicate(&dx);
	struct array dw = array(DT_F32, w.elements), dww = duplicate(&dw);
	int wrong = 0, threads = omp_get_max_threads();

	row->forward(y.data, type, x.data, type, &w, NULL, M, n, 0);
	row->dx(dx.data, type, dy.data, type, &w, M, n, 0);
	for (i = 0; i < sizeof some / sizeof *some; i++) {
		int m = some[i];
		size_t from = (size_t)(M - m);		/* the last m rows */

		row->forward(yy.data, type, x.data + from * (size_t)k * size, type, &w, NULL, m, n, 0);
		row->dx(dxx.data, type, dy.data + from * (size_t)n * size, type, &w, m, n, 0);
		wrong += memcmp(yy.data, y.data + from * (size_t)n * size, (size_t)m * (size_t)n * size) != 0;
		wrong += memcmp(dxx.data, dx.data + from * (size_t)k * size, (size_t)m * (size_t)k * size) != 0;
	}
	ok(!wrong, "%s %s [%d, %d], %s: a row's result is the same in any company", row->name, dtype_name(wtype), n, k,
	    dtype_name(type));

	row->dw((float *)dw.data, &w, dy.data, type, x.data, type, M, n);
	for (wrong = 0, i = 1; i <= 5; i += 2) {
		struct array again = duplicate(&dww);

		omp_set_num_threads((int)i);
		row->forward(yy.data, type, x.data, type, &w, NULL, M, n, 0);
		row->dx(dxx.data, type, dy.data, type, &w, M, n, 0);
		row->dw((float *)again.data, &w, dy.data, type, x.data, type, M, n);
		wrong += memcmp(y.data, yy.data, y.n * size) || memcmp(dx.data, dxx.data, dx.n * size);
		wrong += memcmp(dw.data, again.data, dw.n * sizeof(float)) != 0;
		row->forward(yy.data, type, x.data, type, &w, NULL, FEW, n, 0);
		wrong += memcmp(y.data, yy.data, FEW * (size_t)n * size) != 0;
		free_cpu(again.data);
	}
	omp_set_num_threads(threads);
	ok(!wrong, "%s %s [%d, %d], %s: 1, 3 and 5 threads give the same bytes", row->name, dtype_name(wtype), n, k,
	    dtype_name(type));
	free_cpu(w.data);
	free_cpu(x.data);
	free_cpu(y.data);
	free_cpu(yy.data);
	free_cpu(dy.data);
	free_cpu(dx.data);
	free_cpu(dxx.data);
	free_cpu(dw.data);
	free_cpu(dww.data);
}

/* Gradients stay out of the padding, and out of the rows beyond n, whatever stands in dy. */
static void
check_padding(const struct row *row, enum dtype wtype)
{
	enum { M = 33, N = 37, OUTPUTS = 70, K = 15 };
	struct weight w = weights(wtype, OUTPUTS, K);
	struct array x = array(DT_F32, M * K), dy = array(DT_F32, M * N), dw = { NULL, DT_F32, w.elements };
	size_t i, touched = 0, inside = 0;
	int o, c;

	dw.data = alloc_cpu(w.elements * sizeof(float));
	for (i = 0; i < dy.n; i++)
		((float *)dy.data)[i] = INFINITY;
	row->dw((float *)dw.data, &w, dy.data, DT_F32, x.data, DT_F32, M, N);
	for (i = 0; i < w.elements; i++)
		touched += get(&dw, i) != 0;
	for (o = 0; o < N; o++)
		for (c = 0; c < K; c++)
			inside += get(&dw, panel_index(wtype, K, o, c)) != 0;
	ok(touched == inside && inside == N * K, "%s %s: gradients of %d of %d outputs touch nothing else", row->name,
	    dtype_name(wtype), N, OUTPUTS);
	free_cpu(w.data);
	free_cpu(x.data);
	free_cpu(dy.data);
	free_cpu(dw.data);
}

static void
check_bias(void)
{
	static const struct { int m, n; } shapes[] = { { 1, 1 }, { 7, 65 }, { 2048, 1152 } };
	size_t i, r, c;
	int t, wrong = 0;

	for (i = 0; i < sizeof shapes / sizeof *shapes; i++)
		for (t = DT_F32; t <= DT_BF16; t++) {
			size_t m = (size_t)shapes[i].m, n = (size_t)shapes[i].n;
			struct array dy = array((enum dtype)t, m * n), db = array(DT_F32, n), want = duplicate(&db);

			for (c = 0; c < n; c++) {
				double sum = 0;

				for (r = 0; r < m; r++)
					sum += get(&dy, r * n + c);
				((float *)want.data)[c] += (float)sum;
			}
			bias_backward_cpu((float *)db.data, dy.data, (enum dtype)t, (int)m, (int)n);
			wrong += distance(&db, &want, (int)m, 0, 0) >= 1;
			free_cpu(dy.data);
			free_cpu(db.data);
			free_cpu(want.data);
		}
	ok(!wrong, "bias_backward adds the columns up");
}

static void
check_row(const struct row *row)
{
	static const struct shape shapes[] = {
		{ 1, 1, 1, 1 }, { 2, 3, 5, 3 }, { 7, 48, 20, 48 }, { 13, 31, 33, 40 }, { 12, 32, 64, 32 },
		{ 25, 65, 193, 97 }, { 61, 100, 387, 100 }, { 490, 129, 67, 129 }, { 1, 1152, 896, 1152 }, { 30, 500, 1300, 500 },
		{ 16, 33, 4864, 33 }, { 40, 5200, 30, 5200 }, { 5300, 40, 22, 40 }, { 50, 896, 896, 896 },
	};
	enum dtype type;
	size_t i;

	if (!row->usable) {
		skip(row->name, "this CPU lacks it");
		return;
	}
	if (!row->bf16_only)
		check_quantised(row);
	for (type = row->bf16_only ? DT_BF16 : DT_F32; type <= DT_BF16; type++) {
		for (i = 0; i < sizeof shapes / sizeof *shapes; i++)
			check_shape(row, type, &shapes[i]);
		check_company(row, type, DT_BF16, 129, 387);
		check_company(row, type, DT_F32, 97, 64);
		check_company(row, type, DT_BF16, 64, 2817);
		check_padding(row, type);
	}
}

int
main(void)
{
	const int avx512 = __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl");
	const struct row rows[] = {
		{ "avx2", matmul_avx2, matmul_dx_avx2, matmul_dw_avx2, __builtin_cpu_supports("avx2"), 0, 0 },
		{ "avx512", matmul_avx512, matmul_dx_avx512, matmul_dw_avx512, avx512, 0, 2e-4 },
		{ "avx512 in a training", matmul_train_avx512, matmul_dx_avx512, matmul_dw_avx512, avx512, 1, 2e-4 },
		{ "avx512bf16", matmul_avx512bf16, matmul_dx_avx512bf16, matmul_dw_avx512bf16,
		    __builtin_cpu_supports("avx512bf16"), 1, 0 },
		{ "avx512bf16 with an emulated dot product", forward, backward_x, backward_w, avx512, 1, 0 },
	};
	size_t i;

	check_bias();
	for (i = 0; i < sizeof rows / sizeof *rows; i++)
		check_row(&rows[i]);
	return done();
}
