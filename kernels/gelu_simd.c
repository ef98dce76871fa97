/* SPDX-License-Identifier: MIT */
/*
 * gelu_simd - f32 in W lanes, threads over chunks
 *
 * (1 + tanh(u)) / 2 is the logistic function of 2 u, so exp is all it takes. u is clamped to |x| <=
 * 10, where the tail is below 1e-37.
 */
#include "kernels/cpu.h"
#include "kernels/vmath.h"

enum { CHUNK = 1 << 14 };

static const float ROOT = 0.797884561f;		/* sqrt(2 / pi) */

INLINE vec
clamped(vec x)
{
	return vec_min(vec_set(10), vec_max(vec_set(-10), x));
}

INLINE vec
share(vec x)
{
	return vec_logistic(2 * ROOT * (x + 0.044715f * x * x * x));
}

/* n <= W elements from i on. */
INLINE void
forward_lanes(void *y, const void *x, enum dtype type, size_t i, int n)
{
	vec a = vec_get_n(x, type, i, n);

	vec_put_n(y, type, i, a * share(clamped(a)), n);
}

INLINE void
backward_lanes(void *dx, const void *dy, const void *x, enum dtype type, size_t i, int n)
{
	vec a = clamped(vec_get_n(x, type, i, n)), s = share(a);
	vec slope = s + 2 * a * s * (1 - s) * ROOT * (1 + 3 * 0.044715f * a * a);

	vec_put_n(dx, type, i, vec_get_n(dy, type, i, n) * slope, n);
}

INLINE void
forward(void *y, const void *x, enum dtype type, size_t i, size_t to)
{
	for (; i + W <= to; i += W)
		forward_lanes(y, x, type, i, W);
	if (i < to)
		forward_lanes(y, x, type, i, (int)(to - i));
}

INLINE void
backward(void *dx, const void *dy, const void *x, enum dtype type, size_t i, size_t to)
{
	for (; i + W <= to; i += W)
		backward_lanes(dx, dy, x, type, i, W);
	if (i < to)
		backward_lanes(dx, dy, x, type, i, (int)(to - i));
}

void
FN(gelu)(void *y, const void *x, enum dtype type, size_t n)
{
	size_t i;

	#pragma omp parallel for schedule(static) if (n > CHUNK)
	for (i = 0; i < n; i += CHUNK) {
		size_t end = i + CHUNK < n ? i + CHUNK : n;

		if (type == DT_BF16)
			forward(y, x, DT_BF16, i, end);
		else
			forward(y, x, DT_F32, i, end);
	}
}

void
FN(gelu_backward)(void *dx, const void *dy, const void *x, enum dtype type, size_t n)
{
	size_t i;

	#pragma omp parallel for schedule(static) if (n > CHUNK)
	for (i = 0; i < n; i += CHUNK) {
		size_t end = i + CHUNK < n ? i + CHUNK : n;

		if (type == DT_BF16)
			backward(dx, dy, x, DT_BF16, i, end);
		else
			backward(dx, dy, x, DT_F32, i, end);
	}
}
