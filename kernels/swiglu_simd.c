/* SPDX-License-Identifier: MIT */
/* swiglu_simd - f32 in W lanes, threads over rows */
#include "kernels/cells.h"
#include "kernels/vmath.h"

INLINE void
forward_row(void *y, const void *gu, enum dtype type, size_t row, int f)
{
	int j;

	for (j = 0; j < f; j += W) {
		int n = f - j;
		vec g = vec_get_n(gu, type, 2 * row + j, n), u = vec_get_n(gu, type, 2 * row + f + j, n);

		vec_put_n(y, type, row + j, g * vec_logistic(g) * u, n);
	}
}

INLINE void
backward_row(void *dgu, const void *dy, const void *gu, enum dtype type, size_t row, int f)
{
	int j;

	for (j = 0; j < f; j += W) {
		int n = f - j;
		vec g = vec_get_n(gu, type, 2 * row + j, n), u = vec_get_n(gu, type, 2 * row + f + j, n);
		vec d = vec_get_n(dy, type, row + j, n), s = vec_logistic(g);

		vec_put_n(dgu, type, 2 * row + j, d * u * s * (1.0f + g * (1.0f - s)), n);
		vec_put_n(dgu, type, 2 * row + f + j, d * g * s, n);
	}
}

void
FN(swiglu)(void *y, const void *gu, enum dtype type, int m, int f)
{
	int i;

	#pragma omp parallel for schedule(static) if ((size_t)m * f > 1 << 14)
	for (i = 0; i < m; i++) {
		if (type == DT_BF16)
			forward_row(y, gu, DT_BF16, (size_t)i * f, f);
		else
			forward_row(y, gu, DT_F32, (size_t)i * f, f);
	}
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
