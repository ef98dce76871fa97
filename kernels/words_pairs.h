/* SPDX-License-Identifier: MIT */
/* words_pairs - what kernels/matmul_blocks.h needs to know where a word is two bf16; dot() is the machine's */
#ifndef KERNELS_WORDS_PAIRS_H
#define KERNELS_WORDS_PAIRS_H

enum { PAIRS = 1 };

static inline vec
code4_word(const void *p, int word)
{
	return vec_code4_pair(p, 4 * word);
}

static inline vec
word_of(const vec *x)
{
	return vec_pair(x[0], x[1]);
}

#endif
