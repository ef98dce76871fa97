/* SPDX-License-Identifier: MIT */
/* matmul_avx512 - the registers that kernels/matmul_blocks.h works with, 512 bits wide */
#ifndef KERNELS_MATMUL_AVX512_H
#define KERNELS_MATMUL_AVX512_H

#include <immintrin.h>
#include <stdint.h>

typedef __m512 vec;
enum { LANES = 16, ROWS = 12 };		/* 12 x 32 sums in 24 of 32 registers */

static inline vec
vec_load(const void *p)
{
	return _mm512_loadu_ps(p);
}

static inline void
vec_store(void *p, vec x)
{
	_mm512_storeu_ps(p, x);
}

/* The first n. */
static inline void
vec_store_few(void *p, vec x, int n)
{
	_mm512_mask_storeu_ps(p, (__mmask16)((1 << n) - 1), x);
}

static inline vec
vec_word(const uint32_t *p)
{
	return _mm512_castsi512_ps(_mm512_set1_epi32((int)*p));
}

/* Of 16 pairs of bf16, the first and the second halves as f32. */
static inline vec
vec_low(vec x)
{
	return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_castps_si512(x), 16));
}

static inline vec
vec_high(vec x)
{
	return _mm512_castsi512_ps(_mm512_and_si512(_mm512_castps_si512(x), _mm512_set1_epi32((int)0xffff0000)));
}

/* 16 bf16 as f32. */
static inline vec
vec_widened(const uint16_t *p)
{
	return vec_low(_mm512_castsi512_ps(_mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i *)p))));
}

/* 16 pairs of bf16. */
static inline vec
vec_zipped(const uint16_t *low, const uint16_t *high)
{
	return _mm512_castsi512_ps(_mm512_or_si512(_mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i *)low)),
	    _mm512_castps_si512(vec_widened(high))));
}

static inline vec
vec_fma(vec sum, vec a, vec b)
{
	return _mm512_fmadd_ps(a, b, sum);
}

static inline vec
vec_half(const uint16_t *p)
{
	return _mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *)p));
}

/* Integers: halves are 16 bits, the rest 32. */
static inline vec
vec_and(vec x, uint32_t mask)
{
	return _mm512_castsi512_ps(_mm512_and_si512(_mm512_castps_si512(x), _mm512_set1_epi32((int)mask)));
}

static inline vec
vec_right(vec halves, int n)
{
	return _mm512_castsi512_ps(_mm512_srli_epi16(_mm512_castps_si512(halves), (unsigned)n));
}

static inline vec
vec_minus_halves(vec halves, vec b)
{
	return _mm512_castsi512_ps(_mm512_sub_epi16(_mm512_castps_si512(halves), _mm512_castps_si512(b)));
}

static inline vec
vec_minus(vec a, vec b)
{
	return _mm512_castsi512_ps(_mm512_sub_epi32(_mm512_castps_si512(a), _mm512_castps_si512(b)));
}

static inline vec
vec_plus(vec a, vec b)
{
	return _mm512_castsi512_ps(_mm512_add_epi32(_mm512_castps_si512(a), _mm512_castps_si512(b)));
}

static inline vec
vec_times(vec a, vec b)
{
	return _mm512_castsi512_ps(_mm512_mullo_epi32(_mm512_castps_si512(a), _mm512_castps_si512(b)));
}

/* The larger of unsigned halves. */
static inline vec
vec_most_halves(vec a, vec b)
{
	return _mm512_castsi512_ps(_mm512_max_epu16(_mm512_castps_si512(a), _mm512_castps_si512(b)));
}

static inline vec
vec_integer(vec x)
{
	return _mm512_castsi512_ps(_mm512_cvtps_epi32(x));
}

static inline vec
vec_float(vec integers)
{
	return _mm512_cvtepi32_ps(_mm512_castps_si512(integers));
}

/* The number in `bits` bits of each lane from bit `at` on. A permutation looks at the low four of an index. */
static inline __attribute__((always_inline)) vec
vec_digit(vec x, int bits, int at)
{
	const vec number = _mm512_setr_ps(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
	__m512i right = _mm512_srli_epi32(_mm512_castps_si512(x), (unsigned)at);

	return bits == 4 ? _mm512_permutexvar_ps(right, number) :
	    _mm512_cvtepi32_ps(_mm512_and_si512(right, _mm512_set1_epi32(0xff)));
}

/* VNNI */
static inline int
dot_fuses(void)
{
	return __builtin_cpu_supports("avx512vnni");
}

/* sum + the products of halves, in pairs; the assembler knows VNNI where the compiler's flags do not. */
static inline vec
dot_whole(vec sum, vec a, vec b, int fused)
{
	if (fused)
		__asm__("vpdpwssd %2, %1, %0" : "+v"(sum) : "v"(a), "v"(b));
	else
		sum = vec_plus(sum, _mm512_castsi512_ps(_mm512_madd_epi16(_mm512_castps_si512(a),
		    _mm512_castps_si512(b))));
	return sum;
}

/* Words word .. word+3 of lines i, i+4, i+8, i+12. */
static inline vec
vec_quads(const uint32_t *const line[LANES], int i, int word)
{
	vec x = _mm512_castps128_ps512(_mm_loadu_ps((const float *)(line[i] + word)));

	x = _mm512_insertf32x4(x, _mm_loadu_ps((const float *)(line[i + 4] + word)), 1);
	x = _mm512_insertf32x4(x, _mm_loadu_ps((const float *)(line[i + 8] + word)), 2);
	return _mm512_insertf32x4(x, _mm_loadu_ps((const float *)(line[i + 12] + word)), 3);
}

/* to[word * stride + i] = line[i][word] for LANES words and lines, in rising order of words. */
static inline void
transpose(uint32_t *to, int stride, const uint32_t *const line[LANES])
{
	int word;

	for (word = 0; word < LANES; word += 4, to += 4 * stride) {
		__m512d a, b, c, d;
		vec x0 = vec_quads(line, 0, word), x1 = vec_quads(line, 1, word);
		vec x2 = vec_quads(line, 2, word), x3 = vec_quads(line, 3, word);

		a = _mm512_castps_pd(_mm512_unpacklo_ps(x0, x1));
		b = _mm512_castps_pd(_mm512_unpackhi_ps(x0, x1));
		c = _mm512_castps_pd(_mm512_unpacklo_ps(x2, x3));
		d = _mm512_castps_pd(_mm512_unpackhi_ps(x2, x3));
		_mm512_storeu_pd(to, _mm512_unpacklo_pd(a, c));
		_mm512_storeu_pd(to + stride, _mm512_unpackhi_pd(a, c));
		_mm512_storeu_pd(to + 2 * stride, _mm512_unpacklo_pd(b, d));
		_mm512_storeu_pd(to + 3 * stride, _mm512_unpackhi_pd(b, d));
	}
}

#endif
