/* SPDX-License-Identifier: MIT */
/* ptx - instructions that C++ has no words for; tests/emulate has its own */
#ifndef KERNELS_PTX_CUH
#define KERNELS_PTX_CUH

#include "kernels/device.cuh"

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

/* c += A B */
static __device__ inline void
multiply(float c[4], const unsigned a[4], const unsigned b[2])
{
	asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, "
	    "{%8, %9}, {%0, %1, %2, %3};\n" : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
	    : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}

#endif
