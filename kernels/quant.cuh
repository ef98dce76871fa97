/* SPDX-License-Identifier: MIT */
/*
 * quant - the layout of quantised weights of the CUDA row
 *
 * Codes by output, two's complement, in the order of their places: of 4 bits 8 to a word of 32, the first
 * lowest, of 8 bits in bytes; filled up to a multiple of 8 by codes of 0. Then scales [n, groups] f16, and zeros
 * [n, groups] f16 where asymmetric. Each part begins at 16 bytes.
 */
#ifndef KERNELS_QUANT_CUH
#define KERNELS_QUANT_CUH

#include <cuda_fp16.h>

#include "kernels/device.cuh"

struct coded {
	const uint8_t *codes;
	const __half *scales, *zeros;	/* zeros: NULL where all are 0 */
	int bits, group, groups, pitch;	/* bytes of an output's codes */
};

struct coded coded_of(const struct weight *w);

/* Rows row .. row+rows-1 as a plain weight would have them, [rows, pitch_cuda(k)] of DT_F32 or DT_BF16. */
void quant_decode(void *out, enum dtype type, const struct weight *w, int row, int rows);

/* Eight weights of output o from place i on, a multiple of 8. */
static __device__ inline void
decode_8(float x[8], const struct coded *c, size_t o, int i)
{
	const uint8_t *at = c->codes + o * c->pitch + (size_t)i * c->bits / 8;
	size_t group = o * c->groups + i / c->group;
	float scale = __half2float(c->scales[group]), zero = c->zeros ? __half2float(c->zeros[group]) : 0;

	if (c->bits == 4) {
		uint32_t word = *(const uint32_t *)at;

		#pragma unroll
		for (int j = 0; j < 8; j++)
			x[j] = scale * ((float)((int)(word << (28 - 4 * j)) >> 28) - zero);
	} else {
		pack<int8_t, 8> bytes = *(const pack<int8_t, 8> *)at;

		#pragma unroll
		for (int j = 0; j < 8; j++)
			x[j] = scale * ((float)bytes.v[j] - zero);
	}
}

#endif
