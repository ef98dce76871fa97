/* SPDX-License-Identifier: MIT */
/* vkeep - dropout's factors of many elements: vectors of Philox's counters */
#ifndef KERNELS_VKEEP_H
#define KERNELS_VKEEP_H

#include "kernels/keep.h"
#include "kernels/vec.h"

enum {
	KEEP_STREAMS = 2,		/* that do not wait for each other's products */
	KEEP_COUNTERS = W / 2,		/* of a stream at once */
	KEEP_WORDS = 4 * KEEP_STREAMS * KEEP_COUNTERS,
};

/* The words of elements 4 counter .. 4 counter + KEEP_WORDS - 1; use: the last word of the counter. */
INLINE void
keep_words(uint32_t *words, uint64_t counter, uint64_t seed, uint32_t stream, uint32_t use)
{
	uint64_t low[KEEP_STREAMS][KEEP_COUNTERS], high[KEEP_STREAMS][KEEP_COUNTERS];
	vecu c0[KEEP_STREAMS], c1[KEEP_STREAMS], c2[KEEP_STREAMS], c3[KEEP_STREAMS];
	uint32_t k0 = (uint32_t)seed, k1 = (uint32_t)(seed >> 32);
	int i, s;

	for (s = 0; s < KEEP_STREAMS; s++)
		for (i = 0; i < KEEP_COUNTERS; i++, counter++) {
			low[s][i] = (uint32_t)counter;
			high[s][i] = counter >> 32;
		}
	memcpy(c0, low, sizeof c0);
	memcpy(c1, high, sizeof c1);
	for (s = 0; s < KEEP_STREAMS; s++) {
		c2[s] = vecu_set(stream);
		c3[s] = vecu_set(use);
	}
	#pragma GCC unroll 10
	for (i = 0; i < 10; i++) {
		#pragma GCC unroll 2
		for (s = 0; s < KEEP_STREAMS; s++) {
			vecu p0 = vecu_multiply(c0[s], vecu_set(0xD2511F53));
			vecu p1 = vecu_multiply(c2[s], vecu_set(0xCD9E8D57));

			c0[s] = vecu_high(p1) ^ c1[s] ^ vecu_set(k0);
			c1[s] = p1;
			c2[s] = vecu_high(p0) ^ c3[s] ^ vecu_set(k1);
			c3[s] = p0;
		}
		k0 += 0x9E3779B9;
		k1 += 0xBB67AE85;
	}
	for (s = 0; s < KEEP_STREAMS; s++)
		vecu_zip(words + 4 * KEEP_COUNTERS * s, vecu_join(c0[s], c1[s]),
		    vecu_join(c2[s], c3[s]));
}

/*
 * factors[n] of elements first .. first + n - 1; first is a multiple of 4, there is room for
 * KEEP_WORDS more.
 */
INLINE void
keep_factors(float *factors, uint64_t first, int n, const struct dropout *drop)
{
	uint32_t words[KEEP_WORDS];
	uint32_t threshold = (uint32_t)keep_threshold(drop);
	float scale = 1 / (1 - drop->p);
	int i, j;

	for (i = 0; i < n; i += KEEP_WORDS) {
		keep_words(words, (first + i) / 4, drop->seed, drop->stream, 0);
		for (j = 0; j < KEEP_WORDS; j++)
			factors[i + j] = words[j] >= threshold ? scale : 0;
	}
}

#endif
