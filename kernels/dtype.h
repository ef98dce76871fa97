/* SPDX-License-Identifier: MIT */
/* dtype - what a number is stored as, in streams, checkpoints and kernels */
#ifndef KERNELS_DTYPE_H
#define KERNELS_DTYPE_H

#include <stddef.h>
#include <stdint.h>
#include <string.h>

enum dtype { DT_NONE, DT_F32, DT_BF16, DT_F16, DT_F64, DT_I8, DT_U8, DT_I16, DT_U16, DT_I32, DT_U32, DT_I64, DT_U64 };

size_t dtype_size(enum dtype type);			/* bytes */
const char *dtype_name(enum dtype type);		/* "f32", "bf16", ... as schemas spell it */
enum dtype dtype_parse(const char *name);		/* DT_NONE if unknown; "F32" of safetensors too */

static inline float
bf16_to_f32(uint16_t h)
{
	uint32_t u = (uint32_t)h << 16;
	float f;

	memcpy(&f, &u, sizeof f);
	return f;
}

/* To nearest, ties to even; a NaN stays a NaN. */
static inline uint16_t
f32_to_bf16(float f)
{
	uint32_t u;

	memcpy(&u, &f, sizeof u);
	if ((u & 0x7fffffff) > 0x7f800000)
		return (uint16_t)(u >> 16 | 0x40);
	return (uint16_t)((u + 0x7fff + (u >> 16 & 1)) >> 16);
}

float f16_to_f32(uint16_t h);
uint16_t f32_to_f16(float f);				/* to nearest, ties to even */

/* n numbers from one type to another, of F32, BF16, F16. */
void dtype_convert(void *dst, enum dtype to, const void *src, enum dtype from, size_t n);

/*
 * n elements of `size` bytes as `size` planes of n bytes, first the first byte of each, and back;
 * floats compress better so.
 */
void dtype_shuffle(void *dst, const void *src, size_t n, size_t size);
void dtype_unshuffle(void *dst, const void *src, size_t n, size_t size);

#endif
