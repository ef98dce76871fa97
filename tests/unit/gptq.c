/* SPDX-License-Identifier: MIT */
/* gptq - a case by hand, every row of kernels against the definition, and what may go wrong */
#include <math.h>
#include <omp.h>
#include <stdlib.h>
#include <string.h>

#include "lib/base/die.h"
#include "lib/base/mem.h"
#include "lib/quant/gptq.h"
#include "tests/unit/tap.h"

static uint64_t seed = 88172645463325252ull;

static float
uniform(void)
{
	seed ^= seed << 13;
	seed ^= seed >> 7;
	seed ^= seed << 17;
	return (float)(seed >> 40) * 0x1p-23f - 1;
}

static float *
array(size_t n, float scale)
{
	float *x = mem_alloc(n * sizeof *x);
	size_t i;

	for (i = 0; i < n; i++)
		x[i] = scale * uniform();
	return x;
}

static float *
to_backend(const struct backend *be, const float *x, size_t n)
{
	float *device = be->alloc(n * sizeof *x);

	be->upload(device, x, n * sizeof *x);
	return device;
}

/* Quantise w [n, k], a few rows at a time, after inputs y [m, k]; the sum of e^2, or NaN with a reason. */
static double
quantise(struct quantised *l, const struct backend *be, const float *w, const float *y, int n, int k, int m,
    const struct gptq_options *o, double *energy, double *damp, char *why)
{
	enum { SLICE = 40 };
	float *inputs = to_backend(be, y, (size_t)m * (size_t)k);
	struct hessian h;
	struct factor f;
	double error = NAN;
	int row;

	hessian_init(&h, be, DT_F32, k, m, NULL);
	hessian_add(&h, inputs, NULL, m);
	be->free(inputs);
	if (!factor_init(&f, &h, o, why)) {
		gptq_begin(l, n, &f, o);
		for (error = row = 0; row < n; row += SLICE)
			error += gptq_quantise(l, w + (size_t)row * (size_t)k, row, n - row < SLICE ? n - row : SLICE, &h,
			    row, &f, o, energy);
		*damp = f.damp;
		factor_free(&f);
	}
	hessian_free(&h);
	return error;
}

/*
 * H = [2 1; 1 2], w = [0.3 1], s = -1/2: 0.3 becomes 0.5, 1 becomes 1 - (-0.2) (-1/2) = 0.9 and then
 * 1; (W - Q) H (W - Q)^T = 0.2^2 2 = 0.08. W H W^T = 0.18 + 0.6 + 2.
 */
static void
check_by_hand(const struct backend *be)
{
	const float w[2] = { 0.3f, 1 }, y[4] = { sqrtf(2), sqrtf(0.5f), 0, sqrtf(1.5f) };
	struct gptq_options o = { .bits = 2, .group = -1, .sym = 1, .signs = 1 };
	struct quantised l;
	double energy, damp, error;
	char why[REASON_MAX];

	error = quantise(&l, be, w, y, 1, 2, 2, &o, &energy, &damp, why);
	ok(l.q[0] == 1 && l.q[1] == 0 && l.scales[0] == -0.5f && l.zeros[0] == 2 && fabs(error - 0.08) < 1e-6 &&
	    fabs(energy - 2.78) < 1e-5, "%s: two weights, by hand", be->name);
	quantised_free(&l);
}

static const struct gptq_options variants[] = {
	{ .bits = 4, .group = 128, .sym = 1, .order = ORDER_STATIC, .signs = 1, .damp = 0.01f },
	{ .bits = 3, .group = 32, .sym = 1, .order = ORDER_OFF, .signs = 1, .damp = 0.01f },
	{ .bits = 4, .group = 48, .sym = 0, .order = ORDER_OFF, .least_zero = 1, .damp = 0.01f },
	{ .bits = 4, .group = 192, .sym = 1, .order = ORDER_FULL, .damp = 0.01f },
	{ .bits = 2, .group = 64, .sym = 0, .order = ORDER_GROUP, .damp = 0.1f, .mse = 2.4f },
	{ .bits = 8, .group = -1, .sym = 1, .order = ORDER_STATIC, .damp = 0.01f },
	{ .bits = 4, .group = 96, .sym = 1, .order = ORDER_OFF, .plain = 1, .damp = 0.01f, .mse = 2 },
};

/* A row that differs in one code differs in many: rows are counted. */
static void
check_against_definition(const struct backend *be, const struct gptq_options *o)
{
	enum { N = 75, K = 300, M = 500 };
	float *w = array(N * K, 1), *y = array(M * K, 1);
	struct quantised want, got;
	double a, b, damp;
	char why[REASON_MAX];
	int r, i, different = 0;

	for (i = 0; i < M * K; i++)	/* inputs that depend on each other */
		y[i] += i % K ? 0.8f * y[i - 1] : 0;
	a = quantise(&want, &backend_ref, w, y, N, K, M, o, NULL, &damp, why);
	b = quantise(&got, be, w, y, N, K, M, o, NULL, &damp, why);
	for (r = 0; r < N; r++) {
		int same = 1;

		for (i = 0; i < K; i++)
			same &= want.q[i * N + r] == got.q[i * N + r];
		different += !same;
	}
	ok(different <= N / 20 && fabs(a - b) < 0.01 * a && !memcmp(want.group, got.group, sizeof(int) * K),
	    "%s: %d bits, group %d, order %d, as the definition has it (%d rows of %d differ)", be->name, o->bits,
	    o->group, o->order, different, N);
	quantised_free(&want);
	quantised_free(&got);
	free(w);
	free(y);
}

static int
equal(const struct quantised *a, const struct quantised *b)
{
	size_t codes = (size_t)a->n * (size_t)a->k, scales = (size_t)a->groups * (size_t)a->n;

	return !memcmp(a->q, b->q, codes) && !memcmp(a->scales, b->scales, scales * sizeof *a->scales);
}

static void
check_threads(const struct backend *be)
{
	enum { N = 200, K = 320, M = 700 };
	float *w = array(N * K, 1), *y = array(M * K, 1);
	struct quantised one, many;
	double damp, a, b;
	char why[REASON_MAX];

	omp_set_num_threads(1);
	a = quantise(&one, be, w, y, N, K, M, &variants[0], NULL, &damp, why);
	omp_set_num_threads(3);
	b = quantise(&many, be, w, y, N, K, M, &variants[0], NULL, &damp, why);
	ok(equal(&one, &many) && a == b, "%s: the same bytes from one thread and from three", be->name);
	quantised_free(&one);
	quantised_free(&many);
	free(w);
	free(y);
}

/* More inputs than tokens, undamped: damping rises until the factor exists. */
static void
check_degenerate(const struct backend *be)
{
	enum { N = 32, K = 96, M = 8 };
	float *w = array(N * K, 1), *y = array(M * K, 1);
	struct gptq_options o = { .bits = 4, .group = 32, .sym = 1, .order = ORDER_STATIC, .signs = 1 };
	struct quantised l;
	double damp = 0, error;
	char why[REASON_MAX];
	int i, zero = 1;

	error = quantise(&l, be, w, y, N, K, M, &o, NULL, &damp, why);
	ok(isfinite(error) && damp > 0.005, "%s: a singular Hessian gets damping %.2f", be->name, damp);
	quantised_free(&l);

	memset(y, 0, M * K * sizeof *y);
	error = quantise(&l, be, w, y, N, K, M, &o, NULL, &damp, why);
	for (i = 0; i < N * K; i++)
		zero &= l.q[i] == 8;
	ok(error == 0 && zero, "%s: inputs that are all zero give weights of zero", be->name);
	quantised_free(&l);

	y[5] = INFINITY;
	error = quantise(&l, be, w, y, N, K, M, &o, NULL, &damp, why);
	ok(isnan(error) && !strcmp(why, "its inputs are not finite"), "%s: an infinity is refused", be->name);
	free(w);
	free(y);
}

/*
 * T is W (X - Y)^T Y by either way, and what solves for it meets the outputs of X: with enough bits
 * and the whole correction, the quantised weights on Y are the least squares of X W^T.
 */
static void
check_target(const struct backend *be, int n, int k)
{
	enum { M = 600 };
	float *w = array((size_t)(n * k), 1), *x = array((size_t)(M * k), 1);
	float *y = array((size_t)(M * k), 0.1f), *t = mem_alloc((size_t)(n * k) * sizeof *t), *d_x, *d_y;
	struct weight weight = { .type = DT_F32, .n = n, .k = k, .elements = be->weight_elements(DT_F32, n, k) };
	struct hessian h;
	double worst = 0, largest = 0;
	int o, i, j, m;

	weight.data = be->alloc(weight.elements * sizeof(float));
	be->weight_put(&weight, 0, n, w, DT_F32, 0);
	for (i = 0; i < M * k; i++)
		y[i] += x[i];
	hessian_init(&h, be, DT_F32, k, M, &weight);
	d_x = to_backend(be, x, (size_t)(M * k));
	d_y = to_backend(be, y, (size_t)(M * k));
	hessian_add(&h, d_y, d_x, M);
	hessian_target(&h, t, w, 0, n);
	for (o = 0; o < n; o += 7)
		for (i = 0; i < k; i += 5) {
			double want = 0;

			for (m = 0; m < M; m++) {
				double d = 0;

				for (j = 0; j < k; j++)
					d += (double)w[o * k + j] * (double)(x[m * k + j] - y[m * k + j]);
				want += 2.0 / M * d * (double)y[m * k + i];
			}
			worst = fmax(worst, fabs(want - (double)t[o * k + i]));
			largest = fmax(largest, fabs(want));
		}
	ok(worst < 1e-4 * largest, "%s: the target's gradient of [%d, %d], off by %.1e", be->name, n, k,
	    worst / largest);
	hessian_free(&h);
	be->free(weight.data);
	be->free(d_x);
	be->free(d_y);
	free(w);
	free(x);
	free(y);
	free(t);
}

static float *
lower(const struct backend *be, const uint16_t *y, int k, int m, int step)
{
	struct hessian h;
	float *out = mem_zero((size_t)(k * k), sizeof *out);
	int *place = mem_alloc((size_t)k * sizeof *place), i;
	uint16_t *inputs = be->alloc((size_t)(step * k) * sizeof *inputs);

	for (i = 0; i < k; i++)
		place[i] = i;
	hessian_init(&h, be, DT_BF16, k, step, NULL);
	for (i = 0; i < m; i += step) {
		int rows = m - i < step ? m - i : step;

		be->upload(inputs, y + (size_t)i * (size_t)k, (size_t)(rows * k) * sizeof *y);
		hessian_add(&h, inputs, NULL, rows);
	}
	hessian_lower(&h, place, out);
	hessian_free(&h);
	be->free(inputs);
	free(place);
	return out;
}

/* Inputs in bf16, with a token that is a thousand times as large: H's errors, of the size of its diagonal. */
static void
check_halves(const struct backend *be)
{
	enum { M = 333, K = 421, STEP = 150 };
	float *x = array(M * K, 1), *h, *again;
	uint16_t *y = mem_alloc(M * K * sizeof *y);
	double worst = 0, *size = mem_zero(K, sizeof *size);
	int i, j, m, threads = omp_get_max_threads();

	for (i = 0; i < M * K; i++)
		y[i] = f32_to_bf16(x[i] * (i / K == 170 ? 1000 : 1));
	h = lower(be, y, K, M, STEP);
	for (i = 0; i < M * K; i++)
		size[i % K] += 2.0 / M * (double)bf16_to_f32(y[i]) * (double)bf16_to_f32(y[i]);
	for (i = 0; i < K; i++)
		for (j = 0; j <= i; j++) {
			double want = 0;

			for (m = 0; m < M; m++)
				want += 2.0 / M * (double)bf16_to_f32(y[m * K + i]) * (double)bf16_to_f32(y[m * K + j]);
			worst = fmax(worst, fabs(want - (double)h[i * K + j]) / sqrt(size[i] * size[j]));
		}
	ok(worst < 5e-4, "%s: the Hessian of inputs in bf16, off by %.1e", be->name, worst);
	omp_set_num_threads(3);
	again = lower(be, y, K, M, STEP);
	omp_set_num_threads(threads);
	ok(!memcmp(h, again, K * K * sizeof *h), "%s: and the same by three threads", be->name);
	free(again);
	y[200 * K + 40] = 0x7f80;
	again = lower(be, y, K, M, STEP);
	ok(!isfinite(again[40 * K + 40]) && !isfinite(again[400 * K + 40]) && isfinite(again[400 * K + 41]),
	    "%s: what is not finite stays so", be->name);
	free(again);
	free(h);
	free(size);
	free(x);
	free(y);
}

/* An argument names one row. */
int
main(int argc, char **argv)
{
	int i;
	size_t v;

	for (i = 0; backends[i]; i++) {
		if (argc > 1 && strcmp(argv[1], backends[i]->name))
			continue;
		if (!backends[i]->usable()) {
			skip(backends[i]->name, "this machine lacks it");
			continue;
		}
		check_by_hand(backends[i]);
		for (v = 0; v < sizeof variants / sizeof *variants; v++)
			check_against_definition(backends[i], &variants[v]);
		check_threads(backends[i]);
		check_degenerate(backends[i]);
		check_target(backends[i], 40, 300);
		check_target(backends[i], 90, 64);
		check_halves(backends[i]);
	}
	return done();
}
