/* SPDX-License-Identifier: MIT */
/* vkeep - dropout's factors of many elements: W / 2 counters of Philox at once */
#ifndef KERNELS_VKEEP_H
#define KERNELS_VKEEP_H

#include "kernels/keep.h"
#include "kernels/vec.h"

enum { KEEP_WORDS = 2 * W };		/* words from one call of keep_words() */

/* The words of elements 4 counter .. 4 counter + KEEP_WORDS - 1. */
INLINE void
keep_words(uint32_t *words, uint64_t counter, const struct dropout *drop)
{
	uint64_t low[W / 2], high[W / 2];
	vecu c0, c1, c2 = vecu_set(drop->stream), c3 = vecu_set(0);
	uint32_t k0 = (uint32_t)drop->seed, k1 = (uint32_t)(drop->seed >> 32);
	int i;

	for (i = 0; i < W / 2; i++) {
		low[i] = (uint32_t)(counter + i);
		high[i] = (counter + i) >> 32;
	}
	memcpy(&c0, low, sizeof c0);
	memcpy(&c1, high, sizeof c1);
	for (i = 0; i < 10; i++) {
		vecu p0 = vecu_multiply(c0, vecu_set(0xD2511F53)), p1 = vecu_multiply(c2, vecu_set(0xCD9E8D57));

		c0 = vecu_high(p1) ^ c1 ^ vecu_set(k0);
		c1 = p1;
		c2 = vecu_high(p0) ^ c3 ^ vecu_set(k1);
		c3 = p0;
		k0 += 0x9E3779B9;
		k1 += 0xBB67AE85;
	}
	for (i = 0; i < W / 2; i++) {
		words[4 * i] = (uint32_t)c0[i];
		words[4 * i + 1] = (uint32_t)c1[i];
		words[4 * i + 2] = (uint32_t)c2[i];
		words[4 * i + 3] = (uint32_t)c3[i];
	}
}

/* factors[n] of elements first .. first + n - 1; first is a multiple of 4, there is room for KEEP_WORDS more. */
INLINE void
keep_factors(float *factors, uint64_t first, int n, const struct dropout *drop)
{
	uint32_t words[KEEP_WORDS];
	uint64_t threshold = keep_threshold(drop);
	float scale = 1 / (1 - drop->p);
	int i, j;

	for (i = 0; i < n; i += KEEP_WORDS) {
		keep_words(words, (first + i) / 4, drop);
		for (j = 0; j < KEEP_WORDS; j++)
			factors[i + j] = words[j] >= threshold ? scale : 0;
	}
}

#endif
