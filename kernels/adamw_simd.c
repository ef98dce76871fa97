/* SPDX-License-Identifier: MIT */
/*
 * adamw_simd - f32 in W lanes, threads over chunks; the norm sums each chunk in f64
 *
 * sqrt(v / correction2) is taken as sqrt(v) (1 / sqrt(correction2)).
 */
#include <math.h>

#include "kernels/cpu.h"
#include "kernels/vkeep.h"

enum { CHUNK = 1 << 14, PARTS = 1 << 10 };

INLINE vec
master_get(const void *w, enum dtype type, const int16_t *lo, size_t i, int n)
{
	int16_t tail[W] = { 0 };

	if (type != DT_BF16 || !lo)
		return vec_get_n(w, type, i, n);
	if (n >= W)
		return vec_from_bits(vec_bits(vec_get(w, DT_BF16, i)) + veci_load_16(lo + i));
	memcpy(tail, lo + i, (size_t)n * sizeof *tail);
	return vec_from_bits(vec_bits(vec_get_n(w, DT_BF16, i, n)) + veci_load_16(tail));
}

/* The lower halves of n numbers. */
INLINE void
halves_put(void *to, veci x, int n)
{
	uint16_t tail[W];

	if (n >= W) {
		veci_store_16(to, x);
	} else {
		veci_store_16(tail, x);
		memcpy(to, tail, (size_t)n * sizeof *tail);
	}
}

/* words: of the elements, where lo is NULL. */
INLINE void
master_put(void *w, enum dtype type, int16_t *lo, size_t i, vec value, int n, const uint32_t *words)
{
	veci bits = vec_bits(value), word;

	if (type != DT_BF16) {
		vec_put_n(w, DT_F32, i, value, n);
	} else if (lo) {
		halves_put((uint16_t *)w + i, (bits + 0x8000) >> 16, n);
		halves_put(lo + i, bits, n);
	} else {
		memcpy(&word, words, sizeof word);
		halves_put((uint16_t *)w + i, (bits + (word & 0xffff)) >> 16, n);
	}
}

INLINE void
update(void *w, enum dtype type, int16_t *lo, float *m, float *v, float *g, size_t from, size_t to,
    const struct adamw *h)
{
	const vec scale = vec_set((float)h->scale), eps = vec_set((float)h->eps);
	const vec beta1 = vec_set((float)h->beta1), rest1 = vec_set((float)(1 - h->beta1));
	const vec beta2 = vec_set((float)h->beta2), rest2 = vec_set((float)(1 - h->beta2));
	const vec decay = vec_set((float)(-h->lr * h->decay)),
	    rate = vec_set((float)(h->lr / h->correction1));
	const vec root2 = vec_set((float)(1 / sqrt(h->correction2)));
	uint32_t words[KEEP_WORDS];
	size_t i;

	for (i = from; i < to; i += W) {
		int n = to - i < W ? (int)(to - i) : W, at = (int)((i - from) % KEEP_WORDS);
		vec grad = scale * vec_get_n(g, DT_F32, i, n),
		    weight = master_get(w, type, lo, i, n);
		vec mean = vec_fma(rest1, grad, beta1 * vec_get_n(m, DT_F32, i, n));
		vec square = vec_fma(rest2, grad * grad, beta2 * vec_get_n(v, DT_F32, i, n));

		if (type == DT_BF16 && !lo && !at)
			keep_words(words, i / 4, h->seed, h->stream, 1);
		weight = vec_fma(decay, weight, weight);
		weight -= rate * mean / vec_fma(vec_sqrt(square), root2, eps);
		master_put(w, type, lo, i, weight, n, words + at);
		vec_put_n(m, DT_F32, i, mean, n);
		vec_put_n(v, DT_F32, i, square, n);
		vec_put_n(g, DT_F32, i, vec_set(0), n);
	}
}

void
FN(adamw)(void *w, enum dtype type, int16_t *lo, float *m, float *v, float *g, size_t n,
    const struct adamw *h)
{
	size_t i;

	#pragma omp parallel for schedule(static) if (n > CHUNK)
	for (i = 0; i < n; i += CHUNK) {
		size_t end = i + CHUNK < n ? i + CHUNK : n;

		if (type == DT_BF16 && lo)
			update(w, DT_BF16, lo, m, v, g, i, end, h);
		else if (type == DT_BF16)
			update(w, DT_BF16, NULL, m, v, g, i, end, h);
		else
			update(w, DT_F32, NULL, m, v, g, i, end, h);
	}
}

INLINE double
squares(const float *x, size_t from, size_t to)
{
	double sum = 0;
	size_t i;

	for (i = from; i < to; i += W)
		sum += vec_sum_squares(vec_get_n(x, DT_F32, i, to - i < W ? (int)(to - i) : W));
	return sum;
}

void
FN(sum_squares)(double *sum, const float *x, size_t n)
{
	double parts[PARTS];
	size_t part = n / PARTS / W * W + W;
	int i;

	#pragma omp parallel for schedule(static) if (n > CHUNK)
	for (i = 0; i < PARTS; i++) {
		size_t from = i * part < n ? i * part : n, to = n - from > part ? from + part : n;

		parts[i] = squares(x, from, to);
	}
	for (i = 0; i < PARTS; i++)
		*sum += parts[i];
}
