/* SPDX-License-Identifier: MIT */
/*
 * softmax - the softmax of a row of logits by a block
 *
 * Numbers are read one by one, 32 neighbours a warp, so that rows may begin anywhere; each thread keeps a
 * running maximum and sum, and the sums are joined in double.
 */
#ifndef KERNELS_SOFTMAX_CUH
#define KERNELS_SOFTMAX_CUH

#include <math.h>

#include "kernels/device.cuh"

enum { ROW_THREADS = 512 };

/* log q of x is (x - max) scale - log_sum. */
struct side {
	float max, scale;
	double sum, log_sum;
};

/* exp of a logit's distance to the maximum: q sum. */
static __device__ inline float
mass_of(const struct side *s, float x)
{
	return expf((x - s->max) * s->scale);
}

static __device__ inline double
log_of(const struct side *s, float x)
{
	return fma((double)(x - s->max), (double)s->scale, -s->log_sum);
}

/* Called by all threads, which all get it. */
static __device__ inline struct side
side_of(const float *x, float scale, int v)
{
	struct side s = { -INFINITY, scale, 0, 0 };
	float max = -INFINITY, sum = 0;

	#pragma unroll 4
	for (int j = (int)threadIdx.x; j < v; j += (int)blockDim.x) {
		float value = x[j];

		if (value > max) {
			sum = fmaf(sum, expf((max - value) * scale), 1);
			max = value;
		} else if (value != -INFINITY)	/* a NaN stays */
			sum += expf((value - max) * scale);
	}
	s.max = block_reduce(max, largest());
	s.sum = block_reduce(max == -INFINITY ? (double)sum : (double)(sum * expf((max - s.max) * scale)), plus());
	s.log_sum = log(s.sum);
	return s;
}

#endif
