/* SPDX-License-Identifier: MIT */
/*
 * cuda_runtime - enough of CUDA to run kernels/NAME.cu on a CPU, one block at a time
 *
 * A thread of a block is a fiber. What joins threads (barriers, shuffles, votes, tensor cores) gives the
 * processor to the next one until all have come. Slow; for tests where there is no GPU.
 */
#ifndef EMULATE_CUDA_RUNTIME_H
#define EMULATE_CUDA_RUNTIME_H

#include <math.h>
#include <stdint.h>
#include <string.h>

#define __global__
#define __device__
#define __host__
#define __shared__ static
#define __launch_bounds__(...)

struct dim3 {
	unsigned x, y, z;

	dim3(unsigned a = 1, unsigned b = 1, unsigned c = 1) : x(a), y(b), z(c) {}
};

struct alignas(8) int2 { int x, y; };
struct alignas(8) float2 { float x, y; };
struct alignas(16) uint4 { unsigned x, y, z, w; };

typedef struct stream *cudaStream_t;
typedef int cudaError_t;
enum { cudaSuccess };
enum { SHARED = 163 << 10 };	/* bytes of a block at most, on sm_80 */
enum { cudaDevAttrMaxSharedMemoryPerBlockOptin, cudaFuncAttributeMaxDynamicSharedMemorySize };

/* What a stream was given in place of doing it. */
typedef struct graph *cudaGraph_t, *cudaGraphExec_t;
enum { cudaStreamCaptureModeThreadLocal };
cudaError_t cudaStreamBeginCapture(cudaStream_t, int);
cudaError_t cudaStreamEndCapture(cudaStream_t, cudaGraph_t *graph);
cudaError_t cudaGraphInstantiate(cudaGraphExec_t *out, cudaGraph_t graph, int);
cudaError_t cudaGraphLaunch(cudaGraphExec_t graph, cudaStream_t);
cudaError_t cudaGraphExecDestroy(cudaGraphExec_t graph);
static inline cudaError_t cudaGraphDestroy(cudaGraph_t) { return cudaSuccess; }
static inline cudaError_t cudaGetLastError(void) { return cudaSuccess; }

extern dim3 gridDim, blockIdx, blockDim, threadIdx;

/* In the order of lanes, what each lane of this warp brought; valid until the lane comes again. */
struct lanes {
	uint64_t word[32];
};
const struct lanes *warp_exchange(uint64_t mine);
void block_wait(void);
int block_or(int mine);
extern char *launched_shared;

static inline int
make_lane(void)
{
	return (int)threadIdx.x % 32;
}

template<typename T>
static inline uint64_t
to_word(T x)
{
	uint64_t w = 0;

	memcpy(&w, &x, sizeof x);
	return w;
}

template<typename T>
static inline T
of_word(uint64_t w)
{
	T x;

	memcpy(&x, &w, sizeof x);
	return x;
}

template<typename T> static inline T __shfl_sync(unsigned, T x, int lane) { return of_word<T>(warp_exchange(to_word(x))->word[lane & 31]); }
template<typename T> static inline T __shfl_xor_sync(unsigned, T x, int bits) { return of_word<T>(warp_exchange(to_word(x))->word[make_lane() ^ bits]); }

template<typename T>
static inline T
__shfl_up_sync(unsigned, T x, int by)
{
	const struct lanes *l = warp_exchange(to_word(x));

	return of_word<T>(l->word[make_lane() < by ? make_lane() : make_lane() - by]);
}

static inline unsigned
__ballot_sync(unsigned, int yes)
{
	const struct lanes *l = warp_exchange((uint64_t)(yes != 0));
	unsigned bits = 0;

	for (int i = 0; i < 32; i++)
		bits |= (unsigned)l->word[i] << i;
	return bits;
}

static inline void __syncthreads(void) { block_wait(); }
static inline int __syncthreads_or(int yes) { return block_or(yes != 0); }
static inline int __popc(unsigned x) { return __builtin_popcount(x); }
static inline int __ffs(int x) { return __builtin_ffs(x); }
static inline int __clz(int x) { return x ? __builtin_clz((unsigned)x) : 32; }
static inline int atomicAdd(int *p, int x) { int old = *p; *p += x; return old; }
static inline unsigned atomicOr(unsigned *p, unsigned x) { unsigned old = *p; *p |= x; return old; }
static inline unsigned __float_as_uint(float x) { return of_word<unsigned>(to_word(x)); }
static inline float __uint_as_float(unsigned x) { return of_word<float>(x); }
static inline float __fmul_rn(float a, float b) { return a * b; }
static inline float __fadd_rn(float a, float b) { return a + b; }
static inline float __fsub_rn(float a, float b) { return a - b; }
static inline float __fdiv_rn(float a, float b) { return a / b; }
static inline float __fsqrt_rn(float a) { return sqrtf(a); }
static inline float __fmaf_rn(float a, float b, float c) { return fmaf(a, b, c); }
static inline double __dmul_rn(double a, double b) { return a * b; }
static inline double __dadd_rn(double a, double b) { return a + b; }
static inline double __dsub_rn(double a, double b) { return a - b; }
static inline int2 make_int2(int x, int y) { return (int2){ x, y }; }
static inline const char *cudaGetErrorString(cudaError_t) { return "no error"; }
static inline cudaError_t cudaDeviceGetAttribute(int *value, int, int) { *value = SHARED; return cudaSuccess; }
struct cudaFuncAttributes { size_t sharedSizeBytes; };
template<typename F> static inline cudaError_t
cudaFuncGetAttributes(struct cudaFuncAttributes *own, F *)
{
	own->sharedSizeBytes = 0;
	return cudaSuccess;
}
template<typename F> static inline cudaError_t cudaFuncSetAttribute(F *, int, int bytes) { return bytes > SHARED; }

#endif
