/* SPDX-License-Identifier: MIT */
/*
 * rope_simd - W angles of a row are taken apart once and serve all of its heads; threads over rows
 */
#include "kernels/cpu.h"
#include "kernels/shared.h"
#include "kernels/vec.h"

INLINE void
rope_as(void *x, enum dtype type, size_t row, const float *angle, int heads, int d, int inverse)
{
	int half = d / 2, j, head;

	for (j = 0; j < half; j += W) {
		int n = half - j < W ? half - j : W;
		vec cosine, sine, first = vec_get_n(angle, DT_F32, 2 * (size_t)j, 2 * n);
		vec second = 2 * n > W ? vec_get_n(angle, DT_F32, 2 * (size_t)j + W, 2 * n - W) :
		    vec_set(0);

		vec_unzip(first, second, &cosine, &sine);
		if (inverse)
			sine = -sine;
		for (head = 0; head < heads; head++) {
			size_t at = row + (size_t)head * d + j;
			vec a = vec_get_n(x, type, at, n), b = vec_get_n(x, type, at + half, n);

			vec_put_n(x, type, at, a * cosine - b * sine, n);
			vec_put_n(x, type, at + half, a * sine + b * cosine, n);
		}
	}
}

static void
rope_row(void *x, enum dtype type, size_t row, const float *angle, int heads, int d, int inverse)
{
	if (type == DT_BF16)
		rope_as(x, DT_BF16, row, angle, heads, d, inverse);
	else
		rope_as(x, DT_F32, row, angle, heads, d, inverse);
}

void
FN(rope)(void *x, enum dtype type, const float *table, const int *positions, int m, int stride,
    int heads, int d, int inverse)
{
	int i;

	SHARED((size_t)m * heads * d > 1 << 14,
	    for (i = 0; i < m; i++)
		rope_row(x, type, (size_t)i * stride, table + (size_t)positions[i] * (d / 2) * 2, heads, d, inverse);
	);
}
