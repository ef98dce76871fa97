/* SPDX-License-Identifier: MIT */
/* swiglu_simd - f32 in W lanes, threads over rows */
#include "kernels/cpu.h"
#include "kernels/shared.h"
#include "kernels/vmath.h"

/* n <= W of the f gates at `gate`, their partners and the outputs at `at`. */
INLINE void
forward(void *y, const void *gu, enum dtype type, size_t gate, size_t at, int f, int n)
{
	vec g = vec_get_n(gu, type, gate, n), u = vec_get_n(gu, type, gate + f, n);

	vec_put_n(y, type, at, g * vec_logistic(g) * u, n);
}

INLINE void
backward(void *dgu, const void *dy, const void *gu, enum dtype type, size_t gate, size_t at, int f,
    int n)
{
	vec g = vec_get_n(gu, type, gate, n), u = vec_get_n(gu, type, gate + f, n);
	vec d = vec_get_n(dy, type, at, n), s = vec_logistic(g);

	vec_put_n(dgu, type, gate, d * u * s * (1.0f + g * (1.0f - s)), n);
	vec_put_n(dgu, type, gate + f, d * g * s, n);
}

INLINE void
forward_as(void *y, const void *gu, enum dtype type, size_t row, int f)
{
	int j = 0;

	for (; j + W <= f; j += W)
		forward(y, gu, type, 2 * row + j, row + j, f, W);
	if (j < f)
		forward(y, gu, type, 2 * row + j, row + j, f, f - j);
}

INLINE void
backward_row(void *dgu, const void *dy, const void *gu, enum dtype type, size_t row, int f)
{
	int j = 0;

	for (; j + W <= f; j += W)
		backward(dgu, dy, gu, type, 2 * row + j, row + j, f, W);
	if (j < f)
		backward(dgu, dy, gu, type, 2 * row + j, row + j, f, f - j);
}

static void
forward_row(void *y, const void *gu, enum dtype type, size_t row, int f)
{
	if (type == DT_BF16)
		forward_as(y, gu, DT_BF16, row, f);
	else
		forward_as(y, gu, DT_F32, row, f);
}

void
FN(swiglu)(void *y, const void *gu, enum dtype type, int m, int f)
{
	int i;

	SHARED((size_t)m * f > 1 << 14,
	    for (i = 0; i < m; i++)
		forward_row(y, gu, type, (size_t)i * f, f);
	);
}

void
FN(swiglu_backward)(void *dgu, const void *dy, const void *gu, enum dtype type, int m, int f)
{
	int i;

	#pragma omp parallel for schedule(static) if ((size_t)m * f > 1 << 14)
	for (i = 0; i < m; i++) {
		if (type == DT_BF16)
			backward_row(dgu, dy, gu, DT_BF16, (size_t)i * f, f);
		else
			backward_row(dgu, dy, gu, DT_F32, (size_t)i * f, f);
	}
}
