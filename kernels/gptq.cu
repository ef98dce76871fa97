/* SPDX-License-Identifier: MIT */
/*
 * gptq - a block per row of W, which stays in shared memory in double; threads share the columns that follow
 *
 * Products and differences are rounded one by one, as the definition does, so that codes are the same. The
 * arrays are the host's (op.h): they are uploaded, and what was found comes back.
 */
#include <cuda_fp16.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/device.cuh"
#include "kernels/gptq.h"

extern "C" {
#include "lib/base/mem.h"
}

enum { THREADS = 256, NARROWEST = 21 };

static __device__ inline double
left_over(double w, double q, struct gptq_grid grid)
{
	return __dsub_rn(w, __dmul_rn(grid.s, q - grid.z));
}

static __device__ inline float
rounded_scale(float s)
{
	float h = __half2float(__float2half_rn(s));

	if (h == 0)
		return copysignf(0x1p-14f, s);
	return isinf(h) ? copysignf(65504, s) : h;
}

static __device__ inline int
is_of(const struct gptq *g, int j, int group)
{
	return g->group[g->order[j]] == group;
}

struct smallest {
	template<typename T> __device__ T operator()(T a, T b) const { return a < b ? a : b; }
};

/* Of the widths 100 .. 21 percent, one a thread, the first with the least loss. */
static __device__ struct gptq_grid
search(const struct gptq *g, const double *w, int group, int from, int to, struct gptq_grid grid)
{
	int percent = 100 - (int)threadIdx.x, best;
	struct gptq_grid narrow = { grid.s * percent / 100, grid.z };
	double sum = percent < NARROWEST ? INFINITY : 0, least;

	for (int j = from; j < to && percent >= NARROWEST; j++)
		if (is_of(g, j, group))
			sum += pow(fabs(left_over(w[j], gptq_code(g, w[j], narrow), narrow)), (double)g->mse);
	least = block_reduce(sum, smallest());
	best = block_reduce(sum == least ? percent : 0, largest());
	return (struct gptq_grid){ grid.s * best / 100, grid.z };
}

/* The grid of a group, whose columns lie between from and to. */
static __device__ void
take(const struct gptq *g, int o, const double *w, int group, int from, int to)
{
	size_t at = (size_t)group * g->n + o;
	double lo = 0, hi = 0, widest;
	struct gptq_grid grid;
	int first = g->k;

	for (int j = from + (int)threadIdx.x; j < to; j += THREADS)
		if (is_of(g, j, group)) {
			lo = fmin(lo, w[j]);
			hi = fmax(hi, w[j]);
		}
	lo = block_reduce(lo, smallest());
	hi = block_reduce(hi, largest());
	widest = fmax(-lo, hi);
	for (int j = from + (int)threadIdx.x; j < to; j += THREADS)
		if (first == g->k && is_of(g, j, group) && fabs(w[j]) == widest)
			first = j;
	first = block_reduce(first, smallest());
	grid = gptq_range(g, lo, hi, widest > 0 && first < g->k ? w[first] : 0);
	if (g->mse > 0)
		grid = search(g, w, group, from, to, grid);
	if (threadIdx.x == 0) {
		g->scales[at] = g->rounded ? rounded_scale((float)grid.s) : (float)grid.s;
		g->zeros[at] = (uint8_t)grid.z;
	}
	__syncthreads();
}

/* Quantise column j and let the later ones make up for it. Returns e^2. */
static __device__ double
column(const struct gptq *g, int o, double *w, int j)
{
	size_t i = (size_t)g->order[j], at = (size_t)g->group[i] * g->n + o;
	const float *u = g->u + (size_t)j * g->k;
	struct gptq_grid grid = { g->scales[at], (double)g->zeros[at] };
	double q = gptq_code(g, w[j], grid), e = left_over(w[j], q, grid) / u[j];

	if (threadIdx.x == 0)
		g->q[i * g->n + o] = (uint8_t)q;
	for (int c = j + 1 + (int)threadIdx.x; c < g->k; c += THREADS)
		w[c] = __dsub_rn(w[c], __dmul_rn(e, (double)u[c]));
	__syncthreads();
	return __dmul_rn(e, e);
}

static __global__ void
__launch_bounds__(THREADS)
quantise(struct gptq g, double *all_stale)
{
	LAUNCHED_SHARED(double, w);
	int o = (int)blockIdx.x, begin = 0;
	double *stale = all_stale ? all_stale + (size_t)o * g.k : NULL, sum = 0;

	for (int j = (int)threadIdx.x; j < g.k; j += THREADS)
		w[j] = g.w[(size_t)o * g.k + g.order[j]];
	__syncthreads();
	for (int i = 0; g.ahead && i < g.groups; i++)
		take(&g, o, w, i, 0, g.k);
	for (int j = 0; j < g.k; j++) {
		if (stale && j == begin) {
			for (int i = (int)threadIdx.x; i < g.k; i += THREADS)
				stale[i] = w[i];
			begin = gptq_block_end(&g, j);
			__syncthreads();
		}
		if (!g.ahead && (!j || !is_of(&g, j, g.group[g.order[j - 1]])))
			take(&g, o, stale ? stale : w, g.group[g.order[j]], j, gptq_group_end(&g, j));
		sum = __dadd_rn(sum, column(&g, o, w, j));
	}
	if (threadIdx.x == 0)
		g.error[o] = sum;
}

static void *
to_device(const void *host, size_t bytes)
{
	void *p = alloc_cuda(bytes);

	if (!p)
		die("cuda: no memory for %zu bytes of a layer", bytes);
	if (host)
		upload_cuda(p, host, bytes);
	return p;
}

/* Rows of `width` bytes from the device to rows that are further apart. */
static void
spread(void *host, size_t pitch, const void *device, size_t width, int rows)
{
	char *dense = (char *)mem_alloc((size_t)rows * width);

	download_cuda(dense, device, (size_t)rows * width);
	for (int i = 0; i < rows; i++)
		memcpy((char *)host + i * pitch, dense + i * width, width);
	free(dense);
}

void
gptq_cuda(const struct gptq *host)
{
	size_t n = (size_t)host->n, k = (size_t)host->k, cells = (size_t)host->groups * n, row = k * sizeof(double);
	size_t stride = (size_t)host->stride;
	struct gptq g = *host;
	double *stale = host->stale && !host->ahead ? (double *)to_device(NULL, n * row) : NULL;
	struct cudaFuncAttributes own;
	int most = 0;

	CUDA(cudaDeviceGetAttribute(&most, cudaDevAttrMaxSharedMemoryPerBlockOptin, 0));
	CUDA(cudaFuncGetAttributes(&own, quantise));
	most -= (int)own.sharedSizeBytes;
	if (row > (size_t)most)
		die("cuda: gptq of rows of %d inputs, where shared memory holds %d: take --backend avx512", host->k,
		    most / (int)sizeof(double));
	g.w = (float *)to_device(host->w, n * k * sizeof *g.w);
	g.u = (float *)to_device(host->u, k * k * sizeof *g.u);
	g.order = (int *)to_device(host->order, k * sizeof *g.order);
	g.group = (int *)to_device(host->group, k * sizeof *g.group);
	g.q = (uint8_t *)to_device(NULL, k * n);
	g.scales = (float *)to_device(NULL, cells * sizeof *g.scales);
	g.zeros = (uint8_t *)to_device(NULL, cells);
	g.error = (double *)to_device(NULL, n * sizeof *g.error);
	CUDA(cudaFuncSetAttribute(quantise, cudaFuncAttributeMaxDynamicSharedMemorySize, (int)row));
	if (n)
		LAUNCH(quantise, (unsigned)n, THREADS, row, g, stale);
	spread(host->q, stride, g.q, n, host->k);
	spread(host->scales, stride * sizeof *g.scales, g.scales, n * sizeof *g.scales, host->groups);
	spread(host->zeros, stride, g.zeros, n, host->groups);
	download_cuda(host->error, g.error, n * sizeof *g.error);
	free_cuda((void *)g.w);
	free_cuda((void *)g.u);
	free_cuda((void *)g.order);
	free_cuda((void *)g.group);
	free_cuda(g.q);
	free_cuda(g.scales);
	free_cuda(g.zeros);
	free_cuda(g.error);
	free_cuda(stale);
}
