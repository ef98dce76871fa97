/* SPDX-License-Identifier: MIT */
/*
 * vsoftmax - maxima and sums of exponentials over a vocabulary
 *
 * A row is taken in spans of SPAN: f32 lanes inside a span, f64 between them. One pass over memory
 * gives both the maximum and the sum.
 */
#ifndef KERNELS_VSOFTMAX_H
#define KERNELS_VSOFTMAX_H

#include <float.h>

#include "kernels/vmath.h"

enum { SPAN = 1024 };

/* exp((x - max) / tau) sums to `sum`. */
struct total {
	float max;
	double sum;
};

INLINE int
span_size(int j, int v)
{
	return v - j < SPAN ? v - j : SPAN;
}

INLINE float
span_max(const float *x, int n)
{
	vec a = vec_set(-FLT_MAX), b = a;
	int j;

	for (j = 0; j + 2 * W <= n; j += 2 * W) {
		a = vec_max(vec_load(x + j), a);
		b = vec_max(vec_load(x + j + W), b);
	}
	for (; j < n; j += W)
		a = vec_max(vec_first(vec_get_n(x, DT_F32, j, n - j), n - j, -FLT_MAX), a);
	return vec_largest(vec_max(a, b));
}

INLINE vec
exponential(const float *x, int j, int n, float max, float scale)
{
	return vec_first(vec_exp((vec_get_n(x, DT_F32, j, n - j) - max) * scale), n - j, 0);
}

INLINE double
span_sum(const float *x, int n, float max, float scale)
{
	vec a = vec_set(0), b = a;
	int j;

	for (j = 0; j + 2 * W <= n; j += 2 * W) {
		a += vec_exp((vec_load(x + j) - max) * scale);
		b += vec_exp((vec_load(x + j + W) - max) * scale);
	}
	for (; j < n; j += W)
		a += exponential(x, j, n, max, scale);
	return vec_sum(a + b);
}

static inline float
row_max(const float *x, int v)
{
	float max = -FLT_MAX, m;
	int j;

	for (j = 0; j < v; j += SPAN) {
		m = span_max(x + j, span_size(j, v));
		max = m > max ? m : max;
	}
	return max;
}

static inline struct total
row_total(const float *x, float scale, int v)
{
	struct total t = { -FLT_MAX, 0 };
	int j;

	for (j = 0; j < v; j += SPAN) {
		float max = span_max(x + j, span_size(j, v));

		if (max > t.max) {
			t.sum *= exp(((double)t.max - max) * scale);
			t.max = max;
		}
		t.sum += span_sum(x + j, span_size(j, v), t.max, scale);
	}
	return t;
}

/* y = factor exp((x - max) scale), in place too. */
static inline void
row_exp(float *y, const float *x, float max, float scale, float factor, int v)
{
	int j = 0;

	for (; j + W <= v; j += W)
		vec_store(y + j, factor * vec_exp((vec_load(x + j) - max) * scale));
	if (j < v)
		vec_store_n(y + j, factor * vec_exp((vec_load_n(x + j, v - j) - max) * scale),
		    v - j);
}

#endif
