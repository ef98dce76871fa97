/* SPDX-License-Identifier: MIT */
/*
 * norm_simd - rows in W lanes of f32, threads over rows
 *
 * The gradients of w and b are sums over rows: threads take strips of columns instead, and rows are
 * added in blocks, so that the order does not hang on the number of threads.
 */
#include <math.h>

#include "kernels/cpu.h"
#include "kernels/shared.h"
#include "kernels/vec.h"

enum {
	STRIP = 4,		/* vectors of columns */
	BLOCK = 64,		/* rows that are summed before they join the total */
	SMALL = 1 << 14,	/* elements that are not worth waking threads */
};

INLINE void
norm_as(void *y, const void *x, enum dtype type, size_t row, const float *w, const float *b,
    float eps, float *stats, int c)
{
	vec sum = vec_set(0), square = vec_set(0);
	float mean = 0, r;
	int j;

	if (b) {
		for (j = 0; j < c; j += W)
			sum += vec_get_n(x, type, row + j, c - j);
		mean = vec_sum(sum) / (float)c;
	}
	for (j = 0; j < c; j += W) {
		vec d = vec_first(vec_get_n(x, type, row + j, c - j) - mean, c - j, 0);

		square = vec_fma(d, d, square);
	}
	r = 1 / sqrtf(vec_sum(square) / (float)c + eps);
	for (j = 0; j < c; j += W) {
		int n = c - j;
		vec scaled = (vec_get_n(x, type, row + j, n) - mean) * r *
		    vec_get_n(w, DT_F32, j, n);

		if (b)
			scaled += vec_get_n(b, DT_F32, j, n);
		vec_put_n(y, type, row + j, scaled, n);
	}
	if (stats) {
		stats[0] = mean;
		stats[1] = r;
	}
}

static void
norm_row(void *y, const void *x, enum dtype type, size_t row, const float *w, const float *b,
    float eps, float *stats, int c)
{
	if (type == DT_BF16)
		norm_as(y, x, DT_BF16, row, w, b, eps, stats, c);
	else
		norm_as(y, x, DT_F32, row, w, b, eps, stats, c);
}

void
FN(norm)(void *y, const void *x, enum dtype type, const float *w, const float *b, float eps,
    float *stats, int m, int c)
{
	int i;

	SHARED((size_t)m * c > SMALL,
	    for (i = 0; i < m; i++)
		norm_row(y, x, type, (size_t)i * c, w, b, eps, stats ? stats + 2 * (size_t)i : NULL, c);
	);
}

INLINE void
dx_row(void *dx, const void *dy, const void *x, enum dtype type, size_t row, const float *w,
    const float *stats, int centred, int c)
{
	float mean = stats[0], r = stats[1], shift;
	vec sum = vec_set(0), dot = vec_set(0), slope;
	int j;

	for (j = 0; j < c; j += W) {
		int n = c - j;
		vec g = vec_get_n(dy, type, row + j, n) * vec_get_n(w, DT_F32, j, n);

		sum += g;
		dot = vec_fma(g, (vec_get_n(x, type, row + j, n) - mean) * r, dot);
	}
	shift = centred ? vec_sum(sum) / (float)c : 0;
	slope = vec_set(vec_sum(dot) / (float)c);
	for (j = 0; j < c; j += W) {
		int n = c - j;
		vec g = vec_get_n(dy, type, row + j, n) * vec_get_n(w, DT_F32, j, n);
		vec z = (vec_get_n(x, type, row + j, n) - mean) * r;

		vec_put_n(dx, type, row + j,
		    vec_get_n(dx, type, row + j, n) + r * (g - shift - z * slope), n);
	}
}

/* Columns j .. j + n - 1 of the sums over rows. */
INLINE void
dw_strip(float *dw, float *db, const void *dy, const void *x, enum dtype type, const float *stats,
    int m, int c, int j, int n)
{
	vec w = vec_set(0), b = vec_set(0);
	int i, block;

	for (block = 0; block < m; block += BLOCK) {
		int end = block + BLOCK < m ? block + BLOCK : m;
		vec dot = vec_set(0), sum = vec_set(0);

		for (i = block; i < end; i++) {
			size_t at = (size_t)i * c + j;
			vec d = vec_get_n(dy, type, at, n);

			dot = vec_fma(d,
			    (vec_get_n(x, type, at, n) - stats[2 * i]) * stats[2 * i + 1], dot);
			sum += d;
		}
		w += dot;
		b += sum;
	}
	vec_put_n(dw, DT_F32, j, vec_get_n(dw, DT_F32, j, n) + w, n);
	if (db)
		vec_put_n(db, DT_F32, j, vec_get_n(db, DT_F32, j, n) + b, n);
}

void
FN(norm_backward)(void *dx, float *dw, float *db, const void *dy, const void *x, enum dtype type,
    const float *w, const float *stats, int m, int c)
{
	int i, j;

	#pragma omp parallel if ((size_t)m * c > SMALL)
	{
		#pragma omp for schedule(static)
		for (i = 0; i < m; i++) {
			if (type == DT_BF16)
				dx_row(dx, dy, x, DT_BF16, (size_t)i * c, w, stats + 2 * (size_t)i,
				    db != NULL, c);
			else
				dx_row(dx, dy, x, DT_F32, (size_t)i * c, w, stats + 2 * (size_t)i,
				    db != NULL, c);
		}
		#pragma omp for schedule(static, STRIP)
		for (j = 0; j < c; j += W) {
			if (type == DT_BF16)
				dw_strip(dw, db, dy, x, DT_BF16, stats, m, c, j, c - j);
			else
				dw_strip(dw, db, dy, x, DT_F32, stats, m, c, j, c - j);
		}
	}
}
