/* SPDX-License-Identifier: MIT */
/* words_f32 - what kernels/matmul_blocks.h needs to know where a word is one f32 */
#ifndef KERNELS_WORDS_F32_H
#define KERNELS_WORDS_F32_H

enum { PAIRS = 0, WHOLE = 0 };

static inline vec
dot(vec sum, vec a, vec b)
{
	return vec_fma(sum, a, b);
}

#endif
