/* SPDX-License-Identifier: MIT */
/*
 * keep - dropout's factor of element i: 0, or 1 / (1 - p) where its word of Philox says so (op.h)
 */
#ifndef KERNELS_KEEP_H
#define KERNELS_KEEP_H

#include <math.h>

#include "kernels/device.h"
#include "kernels/op.h"
#include "kernels/philox.h"

static inline int
keep_all(const struct dropout *drop)
{
	return !drop || drop->p <= 0;
}

/* word 2^-32 >= p exactly where word >= this. */
static inline uint64_t
keep_threshold(const struct dropout *drop)
{
	return (uint64_t)ceil(drop->p * 0x1p32);
}

static inline float
keep_factor(const struct dropout *drop, uint64_t i)
{
	const uint32_t counter[4] = { (uint32_t)(i / 4), (uint32_t)(i / 4 >> 32), drop->stream, 0 };
	const uint32_t key[2] = { (uint32_t)drop->seed, (uint32_t)(drop->seed >> 32) };
	uint32_t words[4];

	philox(words, counter, key);
	return words[i % 4] >= keep_threshold(drop) ? 1 / (1 - drop->p) : 0;
}

/* The number of attention's probability of column 0; column j follows at + j. */
DEVICE static inline uint64_t
keep_attention(int row, int heads, int head)
{
	return ((uint64_t)row * heads + head) << 20;
}

#endif
