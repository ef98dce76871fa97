/* SPDX-License-Identifier: MIT */
/*
 * mma - the tensor core's product of 16 x 16 by 16 x 8 numbers of bf16, and what feeds it
 *
 * A warp holds A [16][16] (a row: i), B [16][8] (a column: j) and C [16][8] by lanes: with g = lane / 4
 * and t = lane % 4, c[0], c[1] are C[g][2t], C[g][2t + 1], c[2], c[3] the same of row g + 8.
 * In shared memory the rows of a tile are padded by 16 bytes, so that eight rows lie in eight banks.
 */
#ifndef KERNELS_MMA_CUH
#define KERNELS_MMA_CUH

#include "kernels/ptx.cuh"

enum { PAD = 8 };

/* A from 16 rows of 16 numbers at p, rows `pitch` apart. */
static __device__ inline void
load_a(unsigned a[4], const bf16 *p, int pitch, int lane)
{
	load_4(a, p + lane % 16 * pitch + lane / 16 * 8);
}

/* Two B side by side, b[0..1] and b[2..3], from 16 columns that lie as rows of 16 numbers at p. */
static __device__ inline void
load_b(unsigned b[4], const bf16 *p, int pitch, int lane)
{
	load_4(b, p + (lane % 8 + lane / 16 * 8) * pitch + lane / 8 % 2 * 8);
}

/* The same from 16 rows of 16 columns, as they are. */
static __device__ inline void
load_b_transposed(unsigned b[4], const bf16 *p, int pitch, int lane)
{
	load_4_transposed(b, p + lane % 16 * pitch + lane / 16 * 8);
}

/* Two neighbours of C as a part of A. */
static __device__ inline unsigned
pair(float low, float high)
{
	__nv_bfloat162 both = __floats2bfloat162_rn(low, high);
	unsigned bits;

	memcpy(&bits, &both, sizeof bits);
	return bits;
}

#endif
