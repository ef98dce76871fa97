/* SPDX-License-Identifier: MIT */
/*
 * philox - Philox4x32-10, a counter-based generator (Salmon et al. 2011)
 *
 * Every random draw of the project is a pure function of what it is for: the
 * same (seed, record, sample, position) gives the same number in any order.
 */
#ifndef KERNELS_PHILOX_H
#define KERNELS_PHILOX_H

#include <stdint.h>

#include "kernels/device.h"

DEVICE static inline void
philox(uint32_t out[4], const uint32_t counter[4], const uint32_t key[2])
{
	uint32_t c0 = counter[0], c1 = counter[1], c2 = counter[2], c3 = counter[3];
	uint32_t k0 = key[0], k1 = key[1];
	int round;

	for (round = 0; round < 10; round++) {
		uint64_t p0 = (uint64_t)0xD2511F53 * c0, p1 = (uint64_t)0xCD9E8D57 * c2;

		c0 = (uint32_t)(p1 >> 32) ^ c1 ^ k0;
		c1 = (uint32_t)p1;
		c2 = (uint32_t)(p0 >> 32) ^ c3 ^ k1;
		c3 = (uint32_t)p0;
		k0 += 0x9E3779B9;
		k1 += 0xBB67AE85;
	}
	out[0] = c0;
	out[1] = c1;
	out[2] = c2;
	out[3] = c3;
}

/* In [0, 1), 24 bits. */
DEVICE static inline float
philox_uniform(uint32_t word)
{
	return (float)(word >> 8) * 0x1p-24f;
}

#endif
