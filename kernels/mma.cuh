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

#include "kernels/device.cuh"

enum { PAD = 8 };

static __device__ inline unsigned
shared_address(const void *p)
{
	return (unsigned)__cvta_generic_to_shared(p);
}

/* 16 bytes on their way to shared memory; zeros where not `there`, and from is not read. */
static __device__ inline void
fetch_16(void *to, const void *from, bool there)
{
	asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;\n" :: "r"(shared_address(to)), "l"(from),
	    "r"(there ? 16 : 0));
}

static __device__ inline void
fetch_commit(void)
{
	asm volatile("cp.async.commit_group;\n" ::);
}

/* All groups but the last `pending` have come. */
template<int pending>
static __device__ inline void
fetch_wait(void)
{
	asm volatile("cp.async.wait_group %0;\n" :: "n"(pending));
}

static __device__ inline void
load_4(unsigned r[4], const bf16 *p)
{
	asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];\n"
	    : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3]) : "r"(shared_address(p)));
}

static __device__ inline void
load_4_transposed(unsigned r[4], const bf16 *p)
{
	asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];\n"
	    : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3]) : "r"(shared_address(p)));
}

static __device__ inline void
load_2(unsigned r[2], const bf16 *p)
{
	asm volatile("ldmatrix.sync.aligned.m8n8.x2.shared.b16 {%0, %1}, [%2];\n"
	    : "=r"(r[0]), "=r"(r[1]) : "r"(shared_address(p)));
}

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

/* c += A B */
static __device__ inline void
multiply(float c[4], const unsigned a[4], const unsigned b[2])
{
	asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, "
	    "{%8, %9}, {%0, %1, %2, %3};\n" : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
	    : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}

/* Two neighbours of C as a part of A. */
static __device__ inline unsigned
pair(float low, float high)
{
	__nv_bfloat162 both = __floats2bfloat162_rn(low, high);

	return *(unsigned *)&both;
}

#endif
