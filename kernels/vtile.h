/* SPDX-License-Identifier: MIT */
/*
 * vtile - small products of f32 matrices that lie in the caches, for attention
 *
 * Each element is one chain of multiply-adds in the order of k, whatever the shape around it: a row
 * comes out the same alone and among others.
 */
#ifndef KERNELS_VTILE_H
#define KERNELS_VTILE_H

#include "kernels/vec.h"

enum {
	TILE_ROWS = 6,
	TILE_VECTORS = W / 4,		/* 6 x 4 sums fill AVX-512's registers, 6 x 2 AVX2's */
};

/* c[m][n W] (+)= a b, element (i, p) of a at i rs + p cs; b[k][ldb]. */
INLINE void
tile_fixed(float *c, int ldc, const float *a, int rs, int cs, const float *b, int ldb, int k, int m,
    int n, int accumulate)
{
	vec sum[TILE_ROWS][TILE_VECTORS], x[TILE_VECTORS];
	int i, j, p;

	#pragma GCC unroll 6
	for (i = 0; i < m; i++)
		#pragma GCC unroll 4
		for (j = 0; j < n; j++)
			sum[i][j] = accumulate ? vec_load(c + i * ldc + j * W) : vec_set(0);
	#pragma GCC unroll 2
	for (p = 0; p < k; p++) {
		#pragma GCC unroll 4
		for (j = 0; j < n; j++)
			x[j] = vec_load(b + (size_t)p * ldb + j * W);
		#pragma GCC unroll 6
		for (i = 0; i < m; i++) {
			vec y = vec_set(a[(size_t)i * rs + (size_t)p * cs]);

			#pragma GCC unroll 4
			for (j = 0; j < n; j++)
				sum[i][j] = vec_fma(y, x[j], sum[i][j]);
		}
	}
	#pragma GCC unroll 6
	for (i = 0; i < m; i++)
		#pragma GCC unroll 4
		for (j = 0; j < n; j++)
			vec_store(c + i * ldc + j * W, sum[i][j]);
}

INLINE void
tile_rows(float *c, int ldc, const float *a, int rs, int cs, const float *b, int ldb, int m,
    int width, int k, int accumulate)
{
	int j = 0;

	for (; j + TILE_VECTORS * W <= width; j += TILE_VECTORS * W)
		tile_fixed(c + j, ldc, a, rs, cs, b + j, ldb, k, m, TILE_VECTORS, accumulate);
	if (j + 2 * W <= width) {
		tile_fixed(c + j, ldc, a, rs, cs, b + j, ldb, k, m, 2, accumulate);
		j += 2 * W;
	}
	if (j < width)
		tile_fixed(c + j, ldc, a, rs, cs, b + j, ldb, k, m, 1, accumulate);
}

/* c[m][width] (+)= a[m][k] b[k][width]; width is a multiple of W. */
static inline void
tile_product(float *c, int ldc, const float *a, int rs, int cs, const float *b, int ldb, int m,
    int width, int k, int accumulate)
{
	int i = 0;

	for (; i + TILE_ROWS <= m; i += TILE_ROWS)
		tile_rows(c + (size_t)i * ldc, ldc, a + (size_t)i * rs, rs, cs, b, ldb, TILE_ROWS,
		    width, k, accumulate);
	for (; i + 2 <= m; i += 2)
		tile_rows(c + (size_t)i * ldc, ldc, a + (size_t)i * rs, rs, cs, b, ldb, 2, width, k,
		    accumulate);
	if (i < m)
		tile_rows(c + (size_t)i * ldc, ldc, a + (size_t)i * rs, rs, cs, b, ldb, 1, width, k,
		    accumulate);
}

/* W rows of W numbers: r[i][j] becomes r[j][i]. */
INLINE void
tile_flip(vec *r)
{
	int i, s;

	#pragma GCC unroll 4
	for (s = 1; s < W; s *= 2)
		#pragma GCC unroll 16
		for (i = 0; i < W; i++)
			if (!(i & s))
				vec_exchange(&r[i], &r[i + s], s);
}

#endif
