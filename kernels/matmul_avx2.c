/* SPDX-License-Identifier: MIT */
/* matmul_avx2 - f32 multiply-adds, in tiles of 6 x 16 */
#include <immintrin.h>
#include <stdint.h>

typedef __m256 vec;
enum { LANES = 8, ROWS = 6 };

static inline vec
vec_load(const void *p)
{
	return _mm256_loadu_ps(p);
}

static inline void
vec_store(void *p, vec x)
{
	_mm256_storeu_ps(p, x);
}

/* The first n. */
static inline void
vec_store_few(void *p, vec x, int n)
{
	const __m256i lane = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);

	_mm256_maskstore_ps(p, _mm256_cmpgt_epi32(_mm256_set1_epi32(n), lane), x);
}

static inline vec
vec_word(const uint32_t *p)
{
	return _mm256_castsi256_ps(_mm256_set1_epi32((int)*p));
}

/* Of 8 pairs of bf16, the first and the second halves as f32. */
static inline vec
vec_low(vec x)
{
	return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_castps_si256(x), 16));
}

static inline vec
vec_high(vec x)
{
	return _mm256_castsi256_ps(_mm256_and_si256(_mm256_castps_si256(x), _mm256_set1_epi32((int)0xffff0000)));
}

/* 8 bf16 as f32. */
static inline vec
vec_widened(const uint16_t *p)
{
	return vec_low(_mm256_castsi256_ps(_mm256_cvtepu16_epi32(_mm_loadu_si128((const __m128i *)p))));
}

/* 8 pairs of bf16. */
static inline vec
vec_zipped(const uint16_t *low, const uint16_t *high)
{
	return _mm256_or_ps(_mm256_castsi256_ps(_mm256_cvtepu16_epi32(_mm_loadu_si128((const __m128i *)low))),
	    vec_widened(high));
}

static inline vec
vec_fma(vec sum, vec a, vec b)
{
	return _mm256_fmadd_ps(a, b, sum);
}

static inline vec
vec_half(const uint16_t *p)
{
	return _mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)p));
}

/* Integers: halves are 16 bits, the rest 32. */
static inline vec
vec_and(vec x, uint32_t mask)
{
	return _mm256_castsi256_ps(_mm256_and_si256(_mm256_castps_si256(x), _mm256_set1_epi32((int)mask)));
}

static inline vec
vec_right(vec halves, int n)
{
	return _mm256_castsi256_ps(_mm256_srli_epi16(_mm256_castps_si256(halves), n));
}

static inline vec
vec_minus_halves(vec halves, vec b)
{
	return _mm256_castsi256_ps(_mm256_sub_epi16(_mm256_castps_si256(halves), _mm256_castps_si256(b)));
}

static inline vec
vec_minus(vec a, vec b)
{
	return _mm256_castsi256_ps(_mm256_sub_epi32(_mm256_castps_si256(a), _mm256_castps_si256(b)));
}

static inline vec
vec_plus(vec a, vec b)
{
	return _mm256_castsi256_ps(_mm256_add_epi32(_mm256_castps_si256(a), _mm256_castps_si256(b)));
}

static inline vec
vec_times(vec a, vec b)
{
	return _mm256_castsi256_ps(_mm256_mullo_epi32(_mm256_castps_si256(a), _mm256_castps_si256(b)));
}

/* The larger of unsigned halves. */
static inline vec
vec_most_halves(vec a, vec b)
{
	return _mm256_castsi256_ps(_mm256_max_epu16(_mm256_castps_si256(a), _mm256_castps_si256(b)));
}

static inline vec
vec_integer(vec x)
{
	return _mm256_castsi256_ps(_mm256_cvtps_epi32(x));
}

static inline vec
vec_float(vec integers)
{
	return _mm256_cvtepi32_ps(_mm256_castps_si256(integers));
}

/* The number in `bits` bits of each lane from bit `at` on. */
static inline __attribute__((always_inline)) vec
vec_digit(vec x, int bits, int at)
{
	return _mm256_cvtepi32_ps(_mm256_and_si256(_mm256_srli_epi32(_mm256_castps_si256(x), at),
	    _mm256_set1_epi32((1 << bits) - 1)));
}

static inline int
dot_fuses(void)
{
	return 0;
}

/* sum + the products of halves, in pairs. */
static inline vec
dot_whole(vec sum, vec a, vec b, int fused)
{
	(void)fused;
	return vec_plus(sum, _mm256_castsi256_ps(_mm256_madd_epi16(_mm256_castps_si256(a), _mm256_castps_si256(b))));
}

/* Words word .. word+3 of lines i and i+4. */
static inline vec
vec_quads(const uint32_t *const line[LANES], int i, int word)
{
	vec x = _mm256_castps128_ps256(_mm_loadu_ps((const float *)(line[i] + word)));

	return _mm256_insertf128_ps(x, _mm_loadu_ps((const float *)(line[i + 4] + word)), 1);
}

/* to[word * stride + i] = line[i][word] for LANES words and lines, in rising order of words. */
static inline void
transpose(uint32_t *to, int stride, const uint32_t *const line[LANES])
{
	int word;

	for (word = 0; word < LANES; word += 4, to += 4 * stride) {
		__m256d a, b, c, d;
		vec x0 = vec_quads(line, 0, word), x1 = vec_quads(line, 1, word);
		vec x2 = vec_quads(line, 2, word), x3 = vec_quads(line, 3, word);

		a = _mm256_castps_pd(_mm256_unpacklo_ps(x0, x1));
		b = _mm256_castps_pd(_mm256_unpackhi_ps(x0, x1));
		c = _mm256_castps_pd(_mm256_unpacklo_ps(x2, x3));
		d = _mm256_castps_pd(_mm256_unpackhi_ps(x2, x3));
		_mm256_storeu_pd((double *)to, _mm256_unpacklo_pd(a, c));
		_mm256_storeu_pd((double *)(to + stride), _mm256_unpackhi_pd(a, c));
		_mm256_storeu_pd((double *)(to + 2 * stride), _mm256_unpacklo_pd(b, d));
		_mm256_storeu_pd((double *)(to + 3 * stride), _mm256_unpackhi_pd(b, d));
	}
}

#include "kernels/words_f32.h"
#include "kernels/matmul_blocks.h"
#include "kernels/quant_blocks.h"
#include "kernels/gram_blocks.h"

void
matmul_avx2(void *y, enum dtype ytype, const void *x, enum dtype xtype, const struct weight *w, const float *b,
    int m, int n, int accumulate)
{
	(w->type == DT_U8 ? forward_quantised : forward)(y, ytype, x, xtype, w, b, m, n, accumulate);
}

void
matmul_dx_avx2(void *dx, enum dtype dxtype, const void *dy, enum dtype dytype, const struct weight *w, int m, int n,
    int accumulate)
{
	backward_x(dx, dxtype, dy, dytype, w, m, n, accumulate);
}

void
matmul_dw_avx2(float *dw, const struct weight *w, const void *dy, enum dtype dytype, const void *x,
    enum dtype xtype, int m, int n)
{
	backward_w(dw, w, dy, dytype, x, xtype, m, n);
}

size_t
gram_bytes_avx2(int m, int k)
{
	return gram_bytes_of(m, k);
}

void
gram_pack_avx2(struct gram *g, const void *x, int m, int k)
{
	gram_pack(g, x, m, k);
}

void
gram_avx2(float *dw, const struct weight *w, const struct gram *dy, int output, const struct gram *x, int input)
{
	gram(dw, w, dy, output, x, input);
}
