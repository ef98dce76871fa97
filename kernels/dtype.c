/* SPDX-License-Identifier: MIT */
#include "kernels/dtype.h"

static const struct {
	const char *name, *safetensors;
	size_t size;
} types[] = {
	[DT_NONE] = { "none", "", 0 },
	[DT_F32] = { "f32", "F32", 4 },
	[DT_BF16] = { "bf16", "BF16", 2 },
	[DT_F16] = { "f16", "F16", 2 },
	[DT_F64] = { "f64", "F64", 8 },
	[DT_I8] = { "i8", "I8", 1 },
	[DT_U8] = { "u8", "U8", 1 },
	[DT_I16] = { "i16", "I16", 2 },
	[DT_U16] = { "u16", "U16", 2 },
	[DT_I32] = { "i32", "I32", 4 },
	[DT_U32] = { "u32", "U32", 4 },
	[DT_I64] = { "i64", "I64", 8 },
	[DT_U64] = { "u64", "U64", 8 },
};
enum { TYPES = sizeof types / sizeof *types };

size_t
dtype_size(enum dtype type)
{
	return types[type].size;
}

const char *
dtype_name(enum dtype type)
{
	return types[type].name;
}

enum dtype
dtype_parse(const char *name)
{
	int i;

	for (i = DT_NONE + 1; i < TYPES; i++)
		if (!strcmp(name, types[i].name) || !strcmp(name, types[i].safetensors))
			return (enum dtype)i;
	return DT_NONE;
}

static uint32_t
bits(float f)
{
	uint32_t u;

	memcpy(&u, &f, sizeof u);
	return u;
}

static float
from_bits(uint32_t u)
{
	float f;

	memcpy(&f, &u, sizeof f);
	return f;
}

float
f16_to_f32(uint16_t h)
{
	uint32_t sign = (uint32_t)(h & 0x8000) << 16, exponent = h >> 10 & 31, fraction = h & 0x3ff;

	if (exponent == 0)
		return from_bits(sign | bits((float)fraction * 0x1p-24f));
	if (exponent == 31)
		return from_bits(sign | 0x7f800000 | fraction << 13);
	return from_bits(sign | (exponent + 112) << 23 | fraction << 13);
}

uint16_t
f32_to_f16(float f)
{
	uint32_t u = bits(f), sign = u >> 16 & 0x8000;

	u &= 0x7fffffff;
	if (u > 0x7f800000)
		return (uint16_t)(sign | 0x7e00 | (u >> 13 & 0x3ff));
	if (u >= 0x477ff000)		/* 65520, halfway to the first number that is too large */
		return (uint16_t)(sign | 0x7c00);
	if (u < 0x38800000)		/* below 2^-14: beside 0.5 the unit is 2^-24, that of a subnormal */
		return (uint16_t)(sign | (bits(from_bits(u) + 0.5f) - 0x3f000000));
	u += 0xfff + (u >> 13 & 1);
	return (uint16_t)(sign | (u - 0x38000000) >> 13);
}

static void
widen(float *restrict dst, const uint16_t *restrict src, enum dtype from, size_t n)
{
	size_t i;

	if (from == DT_BF16)
		for (i = 0; i < n; i++)
			dst[i] = bf16_to_f32(src[i]);
	else
		for (i = 0; i < n; i++)
			dst[i] = f16_to_f32(src[i]);
}

static void
narrow(uint16_t *restrict dst, enum dtype to, const float *restrict src, size_t n)
{
	size_t i;

	if (to == DT_BF16)
		for (i = 0; i < n; i++)
			dst[i] = f32_to_bf16(src[i]);
	else
		for (i = 0; i < n; i++)
			dst[i] = f32_to_f16(src[i]);
}

void
dtype_convert(void *dst, enum dtype to, const void *src, enum dtype from, size_t n)
{
	enum { CHUNK = 512 };
	float chunk[CHUNK];
	size_t i, m;

	if (to == from)
		memcpy(dst, src, n * dtype_size(to));
	else if (to == DT_F32)
		widen(dst, src, from, n);
	else if (from == DT_F32)
		narrow(dst, to, src, n);
	else
		for (i = 0; i < n; i += m) {
			m = n - i < CHUNK ? n - i : CHUNK;
			widen(chunk, (const uint16_t *)src + i, from, m);
			narrow((uint16_t *)dst + i, to, chunk, m);
		}
}

/* The count is known to the compiler where it is 2 or 4: those loops vectorise. */
static inline void
shuffle(unsigned char *restrict dst, const unsigned char *restrict src, size_t n, size_t size)
{
	size_t i, k;

	for (k = 0; k < size; k++)
		for (i = 0; i < n; i++)
			dst[k * n + i] = src[i * size + k];
}

void
dtype_shuffle(void *dst, const void *src, size_t n, size_t size)
{
	if (size == 2)
		shuffle(dst, src, n, 2);
	else if (size == 4)
		shuffle(dst, src, n, 4);
	else
		shuffle(dst, src, n, size);
}

static inline void
unshuffle(unsigned char *restrict dst, const unsigned char *restrict src, size_t n, size_t size)
{
	size_t i, k;

	for (i = 0; i < n; i++)
		for (k = 0; k < size; k++)
			dst[i * size + k] = src[k * n + i];
}

void
dtype_unshuffle(void *dst, const void *src, size_t n, size_t size)
{
	if (size == 2)
		unshuffle(dst, src, n, 2);
	else if (size == 4)
		unshuffle(dst, src, n, 4);
	else
		unshuffle(dst, src, n, size);
}
