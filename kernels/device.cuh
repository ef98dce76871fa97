/* SPDX-License-Identifier: MIT */
/*
 * device - what the CUDA kernels share: the stream, scratch memory, types, sums over warps and blocks
 *
 * All work goes to one stream, in order, and nothing here waits for it. Sums have one order, that of
 * the shuffles; no kernel adds floating-point numbers by atomics.
 */
#ifndef KERNELS_DEVICE_CUH
#define KERNELS_DEVICE_CUH

#include <cuda_bf16.h>
#include <cuda_runtime.h>
#include <stdint.h>

#define _Noreturn [[noreturn]]
extern "C" {
#include "kernels/cuda.h"
#include "lib/base/die.h"
}
#undef _Noreturn

#include "kernels/launch.cuh"

typedef __nv_bfloat16 bf16;

extern cudaStream_t cuda_stream;
extern unsigned long cuda_frees;	/* how often memory was freed: what pointed to it is of the past */

#define CUDA(call) do { \
	cudaError_t rc_ = (call); \
	if (rc_ != cudaSuccess) \
		die("cuda: %s, in %s", cudaGetErrorString(rc_), __func__); \
} while (0)

/* Statement with T as the C++ type of a DT_F32 or DT_BF16. */
#define WITH_TYPE(T, type, ...) do { \
	if ((type) == DT_BF16) { \
		typedef bf16 T; \
		__VA_ARGS__; \
	} else { \
		typedef float T; \
		__VA_ARGS__; \
	} \
} while (0)

/* Scratch of one operation, by purpose; what the last call of this purpose left is lost. Dies. */
enum scratch { SCRATCH_PARTS, SCRATCH_LEFT, SCRATCH_RIGHT, SCRATCH_OUT, SCRATCH_LIBRARY, SCRATCH_KINDS };
void *scratch(enum scratch purpose, size_t bytes);

/* Blocks of `size` that hold n. */
template<typename N>
__host__ __device__ inline N
blocks_of(N n, int size)
{
	return (n + (N)size - 1) / (N)size;
}

/* N neighbours, in one load. */
template<typename T, int N>
struct alignas(sizeof(T) * N) pack {
	T v[N];
};

static inline int
aligned(const void *p)
{
	return (uintptr_t)p % 16 == 0;
}

__device__ inline float
up(float x)
{
	return x;
}

__device__ inline float
up(bf16 x)
{
	return __bfloat162float(x);
}

template<typename T> __device__ T down(float x);

template<> __device__ inline float
down<float>(float x)
{
	return x;
}

template<> __device__ inline bf16
down<bf16>(float x)
{
	return __float2bfloat16_rn(x);
}

enum { WARP = 32 };

struct plus {
	template<typename T> __device__ T operator()(T a, T b) const { return a + b; }
};

struct largest {
	template<typename T> __device__ T operator()(T a, T b) const { return a > b ? a : b; }
};

/* Of all lanes, to all lanes. */
template<typename T, typename OP>
__device__ inline T
warp_reduce(T x, OP op)
{
	#pragma unroll
	for (int i = WARP / 2; i; i /= 2)
		x = op(x, __shfl_xor_sync(~0u, x, i));
	return x;
}

/* Of all threads, to all threads, of a block of whole warps. */
template<typename T, typename OP>
__device__ inline T
block_reduce(T x, OP op)
{
	__shared__ T of[WARP];
	int warps = (int)blockDim.x / WARP, warp = (int)threadIdx.x / WARP;

	x = warp_reduce(x, op);
	if (threadIdx.x % WARP == 0)
		of[warp] = x;
	__syncthreads();
	x = of[0];
	for (int i = 1; i < warps; i++)
		x = op(x, of[i]);
	__syncthreads();
	return x;
}

#endif
