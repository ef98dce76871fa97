/* SPDX-License-Identifier: MIT */
/* vec_avx2 - what kernels/vec.h needs of AVX2 and FMA */
#ifndef KERNELS_VEC_AVX2_H
#define KERNELS_VEC_AVX2_H

enum { W = 8 };
typedef __m256 vec;
typedef int veci __attribute__((vector_size(32)));
typedef __m256i vecu;			/* W / 2 numbers of 64 bits */

INLINE __m256i
vec_mask(int n)
{
	return _mm256_cmpgt_epi32(_mm256_set1_epi32(n), _mm256_set_epi32(7, 6, 5, 4, 3, 2, 1, 0));
}

INLINE vec vec_set(float x) { return _mm256_set1_ps(x); }
INLINE vec vec_load(const float *x) { return _mm256_loadu_ps(x); }
INLINE void vec_store(float *x, vec v) { _mm256_storeu_ps(x, v); }
INLINE vec vec_load_n(const float *x, int n) { return _mm256_maskload_ps(x, vec_mask(n)); }
INLINE void vec_store_n(float *x, vec v, int n) { _mm256_maskstore_ps(x, vec_mask(n), v); }

INLINE vec
vec_blend(vec x, vec first, int n)
{
	return _mm256_blendv_ps(x, first, _mm256_castsi256_ps(vec_mask(n)));
}

INLINE vec
vec_load_bf16(const uint16_t *x)
{
	__m128i half = _mm_loadu_si128((const __m128i *)x);

	return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(half), 16));
}

/* W numbers of 16 bits, sign-extended; and their low 16 bits. */
INLINE veci
veci_load_16(const int16_t *x)
{
	return (veci)_mm256_cvtepi16_epi32(_mm_loadu_si128((const __m128i *)x));
}

INLINE void
veci_store_16(void *x, veci v)
{
	__m256i low = _mm256_and_si256((__m256i)v, _mm256_set1_epi32(0xffff));
	__m256i packed = _mm256_permute4x64_epi64(_mm256_packus_epi32(low, low), 0x08);

	_mm_storeu_si128((__m128i *)x, _mm256_castsi256_si128(packed));
}

INLINE void
vec_store_bf16(uint16_t *x, vec v)
{
	__m256i u = _mm256_castps_si256(v), high = _mm256_srli_epi32(u, 16);
	__m256i even = _mm256_and_si256(high, _mm256_set1_epi32(1));
	__m256i r = _mm256_add_epi32(_mm256_add_epi32(u, _mm256_set1_epi32(0x7fff)), even);
	__m256i nan = _mm256_castps_si256(_mm256_cmp_ps(v, v, _CMP_UNORD_Q));
	__m256i quiet = _mm256_or_si256(high, _mm256_set1_epi32(0x40));

	veci_store_16(x, (veci)_mm256_blendv_epi8(_mm256_srli_epi32(r, 16), quiet, nan));
}

INLINE vec vec_fma(vec a, vec b, vec c) { return _mm256_fmadd_ps(a, b, c); }
INLINE vec vec_max(vec a, vec b) { return _mm256_max_ps(a, b); }	/* b where either is NaN */
INLINE vec vec_min(vec a, vec b) { return _mm256_min_ps(a, b); }
INLINE vec vec_sqrt(vec x) { return _mm256_sqrt_ps(x); }
INLINE vec vec_inverse(vec x) { return 1.0f / x; }

/* a < b ? yes : no */
INLINE vec
vec_less(vec a, vec b, vec yes, vec no)
{
	return _mm256_blendv_ps(no, yes, _mm256_cmp_ps(a, b, _CMP_LT_OQ));
}

INLINE int
vec_any_less(vec a, vec b)
{
	return _mm256_movemask_ps(_mm256_cmp_ps(a, b, _CMP_LT_OQ)) != 0;
}

INLINE float
vec_largest(vec x)
{
	__m128 v = _mm_max_ps(_mm256_castps256_ps128(x), _mm256_extractf128_ps(x, 1));

	v = _mm_max_ps(v, _mm_movehl_ps(v, v));
	return _mm_cvtss_f32(_mm_max_ss(v, _mm_movehdup_ps(v)));
}

INLINE float
vec_sum(vec x)
{
	__m128 v = _mm_add_ps(_mm256_castps256_ps128(x), _mm256_extractf128_ps(x, 1));

	v = _mm_add_ps(v, _mm_movehl_ps(v, v));
	return _mm_cvtss_f32(_mm_add_ss(v, _mm_movehdup_ps(v)));
}

INLINE double
vec_sum_squares(vec x)
{
	__m256d a = _mm256_cvtps_pd(_mm256_castps256_ps128(x)),
	    b = _mm256_cvtps_pd(_mm256_extractf128_ps(x, 1));
	__m256d s = _mm256_fmadd_pd(a, a, _mm256_mul_pd(b, b));
	__m128d v = _mm_add_pd(_mm256_castpd256_pd128(s), _mm256_extractf128_pd(s, 1));

	return _mm_cvtsd_f64(_mm_add_sd(v, _mm_unpackhi_pd(v, v)));
}

/* x[0], x[2], ... and x[1], x[3], ... of the 2 W numbers in a and b */
INLINE void
vec_unzip(vec a, vec b, vec *even, vec *odd)
{
	__m256d e = _mm256_castps_pd(_mm256_shuffle_ps(a, b, 0x88)),
	    o = _mm256_castps_pd(_mm256_shuffle_ps(a, b, 0xdd));

	*even = _mm256_castpd_ps(_mm256_permute4x64_pd(e, 0xd8));
	*odd = _mm256_castpd_ps(_mm256_permute4x64_pd(o, 0xd8));
}

/* Lanes l with l & s: a's change places with those s before them in b. */
INLINE void
vec_exchange(vec *a, vec *b, int s)
{
	const __m256i lane = _mm256_set_epi32(7, 6, 5, 4, 3, 2, 1, 0), step = _mm256_set1_epi32(s);
	vec odd = _mm256_castsi256_ps(_mm256_cmpeq_epi32(_mm256_and_si256(lane, step), step));
	vec down = _mm256_permutevar8x32_ps(*a, _mm256_add_epi32(lane, step));
	vec up = _mm256_permutevar8x32_ps(*b, _mm256_sub_epi32(lane, step));

	*a = _mm256_blendv_ps(*a, up, odd);
	*b = _mm256_blendv_ps(down, *b, odd);
}

/* products of the low halves; the high halves moved down */
INLINE vecu vecu_multiply(vecu a, vecu b) { return _mm256_mul_epu32(a, b); }
INLINE vecu vecu_high(vecu x) { return _mm256_srli_epi64(x, 32); }
INLINE vecu vecu_set(uint64_t x) { return _mm256_set1_epi64x((long long)x); }

/* The low halves of a and b, as one number each, a below b. */
INLINE vecu
vecu_join(vecu a, vecu b)
{
	return _mm256_or_si256(_mm256_and_si256(a, vecu_set(0xffffffff)), _mm256_slli_epi64(b, 32));
}

/* a[0], b[0], a[1], b[1], ... */
INLINE void
vecu_zip(void *x, vecu a, vecu b)
{
	__m256i even = _mm256_unpacklo_epi64(a, b), odd = _mm256_unpackhi_epi64(a, b);

	_mm256_storeu_si256(x, _mm256_permute2x128_si256(even, odd, 0x20));
	_mm256_storeu_si256((__m256i *)x + 1, _mm256_permute2x128_si256(even, odd, 0x31));
}

#endif
