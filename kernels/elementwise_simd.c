/* SPDX-License-Identifier: MIT */
/* elementwise_simd - f32 in W lanes, threads over chunks; dropout's factors in batches */
#include "kernels/cpu.h"
#include "kernels/vkeep.h"

enum { CHUNK = 1 << 14, BATCH = 1 << 8 };

INLINE void
add(void *y, vec a, const void *x, enum dtype type, size_t from, size_t to)
{
	size_t i;

	for (i = from; i < to; i += W) {
		int n = to - i < W ? (int)(to - i) : W;

		vec_put_n(y, type, i, vec_fma(a, vec_get_n(x, type, i, n), vec_get_n(y, type, i, n)), n);
	}
}

void
FN(add)(void *y, float a, const void *x, enum dtype type, size_t n)
{
	size_t i;

	#pragma omp parallel for schedule(static) if (n > CHUNK)
	for (i = 0; i < n; i += CHUNK) {
		size_t end = i + CHUNK < n ? i + CHUNK : n;

		if (type == DT_BF16)
			add(y, vec_set(a), x, DT_BF16, i, end);
		else
			add(y, vec_set(a), x, DT_F32, i, end);
	}
}

INLINE void
copy(void *y, enum dtype ytype, const void *x, enum dtype xtype, size_t from, size_t to)
{
	size_t i;

	for (i = from; i < to; i += W) {
		int n = to - i < W ? (int)(to - i) : W;

		vec_put_n(y, ytype, i, vec_get_n(x, xtype, i, n), n);
	}
}

void
FN(convert)(void *y, enum dtype ytype, const void *x, enum dtype xtype, size_t n)
{
	size_t i;

	#pragma omp parallel for schedule(static) if (n > CHUNK)
	for (i = 0; i < n; i += CHUNK) {
		size_t end = i + CHUNK < n ? i + CHUNK : n;

		if (ytype == DT_BF16 && xtype == DT_BF16)
			copy(y, DT_BF16, x, DT_BF16, i, end);
		else if (ytype == DT_BF16)
			copy(y, DT_BF16, x, DT_F32, i, end);
		else if (xtype == DT_BF16)
			copy(y, DT_F32, x, DT_BF16, i, end);
		else
			copy(y, DT_F32, x, DT_F32, i, end);
	}
}

INLINE void
drop_batch(void *y, const void *x, enum dtype type, size_t from, int n, const float *factors)
{
	int i;

	for (i = 0; i < n; i += W)
		vec_put_n(y, type, from + i,
		    vec_get_n(x, type, from + i, n - i) * vec_load(factors + i), n - i);
}

void
FN(dropout)(void *y, const void *x, enum dtype type, size_t n, const struct dropout *drop)
{
	size_t i;

	if (keep_all(drop)) {
		FN(convert)(y, type, x, type, n);
		return;
	}
	#pragma omp parallel for schedule(static) if (n > CHUNK)
	for (i = 0; i < n; i += BATCH) {
		int count = n - i < BATCH ? (int)(n - i) : BATCH;
		float factors[BATCH + KEEP_WORDS];

		keep_factors(factors, i, count, drop);
		if (type == DT_BF16)
			drop_batch(y, x, DT_BF16, i, count, factors);
		else
			drop_batch(y, x, DT_F32, i, count, factors);
	}
}

void
FN(gather)(void *y, const void *x, enum dtype type, const int *rows, int m, int c)
{
	size_t bytes = (size_t)c * (type == DT_BF16 ? 2 : 4);
	int i;

	#pragma omp parallel for schedule(static) if (m * bytes > 4 * CHUNK)
	for (i = 0; i < m; i++)
		memcpy((char *)y + (size_t)i * bytes, (const char *)x + (size_t)rows[i] * bytes,
		    bytes);
}

void
FN(scatter)(void *dx, const void *dy, enum dtype type, const int *rows, int m, int c)
{
	size_t bytes = (size_t)c * (type == DT_BF16 ? 2 : 4);
	int i;

	#pragma omp parallel for schedule(static) if (m * bytes > 4 * CHUNK)
	for (i = 0; i < m; i++)
		memcpy((char *)dx + (size_t)rows[i] * bytes, (const char *)dy + (size_t)i * bytes,
		    bytes);
}
