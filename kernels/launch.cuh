/* SPDX-License-Identifier: MIT */
/* launch - what only nvcc understands; tests/emulate has its own */
#ifndef KERNELS_LAUNCH_CUH
#define KERNELS_LAUNCH_CUH

/* A launch that is not of an empty grid; what it was given is checked, what it does shows at the next wait. */
#define LAUNCH(kernel, grid, threads, shared, ...) do { \
	kernel<<<grid, threads, shared, cuda_stream>>>(__VA_ARGS__); \
	CUDA(cudaGetLastError()); \
} while (0)

/* Shared memory of the size that the launch says. */
#define LAUNCHED_SHARED(type, name) extern __shared__ type name[]

#endif
