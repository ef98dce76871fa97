/* SPDX-License-Identifier: MIT */
/*
 * vec - W floats at once, for files that are compiled once per machine (*_simd.c, ROW in the
 * Makefile)
 *
 * + - * / work on vec and veci as on numbers; the order of every sum is therefore the one written
 * in the source, whatever the compiler and the alignment. Names with _n touch the first n elements
 * only, n <= W, and read zeros beyond. x, i, type: element i of an array of f32 or bf16.
 */
#ifndef KERNELS_VEC_H
#define KERNELS_VEC_H

#include <immintrin.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include "kernels/dtype.h"

#define FN(op) FN_PASTE(op, ROW)
#define FN_PASTE(op, row) FN_NAME(op, row)
#define FN_NAME(op, row) op##_##row

#define INLINE static inline __attribute__((always_inline))

#ifdef __AVX512F__
#include "kernels/vec_avx512.h"
#else
#include "kernels/vec_avx2.h"
#endif

INLINE veci
vec_bits(vec x)
{
	return (veci)x;
}

INLINE vec
vec_from_bits(veci x)
{
	return (vec)x;
}

INLINE vec
vec_get(const void *x, enum dtype type, size_t i)
{
	return type == DT_BF16 ? vec_load_bf16((const uint16_t *)x + i) :
	    vec_load((const float *)x + i);
}

INLINE void
vec_put(void *x, enum dtype type, size_t i, vec value)
{
	if (type == DT_BF16)
		vec_store_bf16((uint16_t *)x + i, value);
	else
		vec_store((float *)x + i, value);
}

INLINE vec
vec_get_n(const void *x, enum dtype type, size_t i, int n)
{
	uint16_t tail[W] = { 0 };

	if (n >= W)
		return vec_get(x, type, i);
	if (type == DT_F32)
		return vec_load_n((const float *)x + i, n);
	memcpy(tail, (const uint16_t *)x + i, (size_t)n * sizeof *tail);
	return vec_load_bf16(tail);
}

INLINE void
vec_put_n(void *x, enum dtype type, size_t i, vec value, int n)
{
	uint16_t tail[W];

	if (n >= W) {
		vec_put(x, type, i, value);
	} else if (type == DT_F32) {
		vec_store_n((float *)x + i, value, n);
	} else {
		vec_store_bf16(tail, value);
		memcpy((uint16_t *)x + i, tail, (size_t)n * sizeof *tail);
	}
}

/* The first n lanes of x, `other` in those beyond. */
INLINE vec
vec_first(vec x, int n, float other)
{
	return n >= W ? x : vec_blend(vec_set(other), x, n);
}

#endif
