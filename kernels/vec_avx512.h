/* SPDX-License-Identifier: MIT */
/* vec_avx512 - what kernels/vec.h needs of AVX-512 F, BW, VL, DQ */
#ifndef KERNELS_VEC_AVX512_H
#define KERNELS_VEC_AVX512_H

enum { W = 16 };
typedef __m512 vec;
typedef int veci __attribute__((vector_size(64)));
typedef __m512i vecu;			/* W / 2 numbers of 64 bits */

INLINE __mmask16
vec_mask(int n)
{
	return (__mmask16)((1u << n) - 1);
}

INLINE vec vec_set(float x) { return _mm512_set1_ps(x); }
INLINE vec vec_load(const float *x) { return _mm512_loadu_ps(x); }
INLINE void vec_store(float *x, vec v) { _mm512_storeu_ps(x, v); }
INLINE vec vec_load_n(const float *x, int n) { return _mm512_maskz_loadu_ps(vec_mask(n), x); }
INLINE void vec_store_n(float *x, vec v, int n) { _mm512_mask_storeu_ps(x, vec_mask(n), v); }

INLINE vec vec_blend(vec x, vec first, int n) { return _mm512_mask_mov_ps(x, vec_mask(n), first); }

INLINE vec
vec_load_bf16(const uint16_t *x)
{
	__m256i half = _mm256_loadu_si256((const __m256i *)x);

	return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(half), 16));
}

INLINE void
vec_store_bf16(uint16_t *x, vec v)
{
	__m512i u = _mm512_castps_si512(v), high = _mm512_srli_epi32(u, 16);
	__m512i even = _mm512_and_si512(high, _mm512_set1_epi32(1));
	__m512i r = _mm512_add_epi32(_mm512_add_epi32(u, _mm512_set1_epi32(0x7fff)), even);
	__mmask16 nan = _mm512_cmp_ps_mask(v, v, _CMP_UNORD_Q);

	r = _mm512_mask_or_epi32(_mm512_srli_epi32(r, 16), nan, high, _mm512_set1_epi32(0x40));
	_mm256_storeu_si256((__m256i *)x, _mm512_cvtepi32_epi16(r));
}

/* W numbers of 16 bits, sign-extended; and their low 16 bits. */
INLINE veci
veci_load_16(const int16_t *x)
{
	return (veci)_mm512_cvtepi16_epi32(_mm256_loadu_si256((const __m256i *)x));
}

INLINE void
veci_store_16(void *x, veci v)
{
	_mm256_storeu_si256((__m256i *)x, _mm512_cvtepi32_epi16((__m512i)v));
}

INLINE vec vec_fma(vec a, vec b, vec c) { return _mm512_fmadd_ps(a, b, c); }
INLINE vec vec_max(vec a, vec b) { return _mm512_max_ps(a, b); }	/* b where either is NaN */
INLINE vec vec_min(vec a, vec b) { return _mm512_min_ps(a, b); }
INLINE vec vec_sqrt(vec x) { return _mm512_sqrt_ps(x); }

/*
 * 1 / x within 1.5 units in the last place, of ordinary numbers; an eighth of the time of a
 * division
 */
INLINE vec
vec_inverse(vec x)
{
	vec r = _mm512_rcp14_ps(x);

	return vec_fma(r, _mm512_fnmadd_ps(x, r, vec_set(1)), r);
}

/* a < b ? yes : no */
INLINE vec
vec_less(vec a, vec b, vec yes, vec no)
{
	return _mm512_mask_blend_ps(_mm512_cmp_ps_mask(a, b, _CMP_LT_OQ), no, yes);
}

INLINE int
vec_any_less(vec a, vec b)
{
	return _mm512_cmp_ps_mask(a, b, _CMP_LT_OQ) != 0;
}

INLINE float vec_largest(vec x) { return _mm512_reduce_max_ps(x); }

INLINE float
vec_sum(vec x)
{
	__m256 half = _mm256_add_ps(_mm512_castps512_ps256(x), _mm512_extractf32x8_ps(x, 1));
	__m128 v = _mm_add_ps(_mm256_castps256_ps128(half), _mm256_extractf128_ps(half, 1));

	v = _mm_add_ps(v, _mm_movehl_ps(v, v));
	return _mm_cvtss_f32(_mm_add_ss(v, _mm_movehdup_ps(v)));
}

INLINE double
vec_sum_squares(vec x)
{
	__m512d a = _mm512_cvtps_pd(_mm512_castps512_ps256(x)),
	    b = _mm512_cvtps_pd(_mm512_extractf32x8_ps(x, 1));

	return _mm512_reduce_add_pd(_mm512_fmadd_pd(a, a, _mm512_mul_pd(b, b)));
}

/* x[0], x[2], ... and x[1], x[3], ... of the 2 W numbers in a and b */
INLINE void
vec_unzip(vec a, vec b, vec *even, vec *odd)
{
	const __m512i e =
	    _mm512_set_epi32(30, 28, 26, 24, 22, 20, 18, 16, 14, 12, 10, 8, 6, 4, 2, 0);

	*even = _mm512_permutex2var_ps(a, e, b);
	*odd = _mm512_permutex2var_ps(a, _mm512_add_epi32(e, _mm512_set1_epi32(1)), b);
}

/* Lanes l with l & s: a's change places with those s before them in b. */
INLINE void
vec_exchange(vec *a, vec *b, int s)
{
	const __m512i lane = _mm512_set_epi32(15, 14, 13, 12, 11, 10, 9, 8, 7, 6, 5, 4, 3, 2, 1, 0);
	__mmask16 odd = _mm512_test_epi32_mask(lane, _mm512_set1_epi32(s));
	vec x = _mm512_permutex2var_ps(*a,
	    _mm512_mask_add_epi32(lane, odd, lane, _mm512_set1_epi32(W - s)), *b);
	__m512i from = _mm512_mask_add_epi32(_mm512_add_epi32(lane, _mm512_set1_epi32(s)), odd,
	    lane, _mm512_set1_epi32(W));

	*b = _mm512_permutex2var_ps(*a, from, *b);
	*a = x;
}

/* products of the low halves; the high halves moved down */
INLINE vecu vecu_multiply(vecu a, vecu b) { return _mm512_mul_epu32(a, b); }
INLINE vecu vecu_high(vecu x) { return _mm512_srli_epi64(x, 32); }
INLINE vecu vecu_set(uint64_t x) { return _mm512_set1_epi64((long long)x); }

/* The low halves of a and b, as one number each, a below b. */
INLINE vecu
vecu_join(vecu a, vecu b)
{
	return _mm512_or_si512(_mm512_and_si512(a, vecu_set(0xffffffff)), _mm512_slli_epi64(b, 32));
}

/* a[0], b[0], a[1], b[1], ... */
INLINE void
vecu_zip(void *x, vecu a, vecu b)
{
	const __m512i first = _mm512_set_epi64(11, 3, 10, 2, 9, 1, 8, 0);
	const __m512i second = _mm512_add_epi64(first, vecu_set(4));

	_mm512_storeu_si512(x, _mm512_permutex2var_epi64(a, first, b));
	_mm512_storeu_si512((char *)x + sizeof a, _mm512_permutex2var_epi64(a, second, b));
}

#endif
