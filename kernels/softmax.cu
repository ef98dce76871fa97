/* SPDX-License-Identifier: MIT */
/* softmax - log-probabilities of one id and of all, a block per row */
#include "kernels/softmax.cuh"

static __global__ void
__launch_bounds__(ROW_THREADS)
logprob_rows(float *logp, float *entropy, const float *logits, size_t ld, const int *ids, float scale, int v)
{
	const float *x = logits + blockIdx.x * ld;
	struct side s = side_of(x, scale, v);
	double sum = 0;

	if (threadIdx.x == 0)
		logp[blockIdx.x] = (float)log_of(&s, x[ids[blockIdx.x]]);
	if (!entropy)
		return;
	for (int j = (int)threadIdx.x; j < v; j += ROW_THREADS) {
		float l = (float)log_of(&s, x[j]), q = expf(l);

		sum -= q > 0 ? q * l : 0;
	}
	sum = block_reduce(sum, plus());
	if (threadIdx.x == 0)
		entropy[blockIdx.x] = (float)sum;
}

void
logprob_cuda(float *logp, float *entropy, const float *logits, size_t ld, const int *ids, float temperature, int m,
    int v)
{
	if (m)
		LAUNCH(logprob_rows, (unsigned)m, ROW_THREADS, 0, logp, entropy, logits, ld, ids, 1 / temperature, v);
}

static __global__ void
__launch_bounds__(ROW_THREADS)
log_softmax_rows(float *logits, size_t ld, int v)
{
	float *x = logits + blockIdx.x * ld;
	struct side s = side_of(x, 1, v);

	for (int j = (int)threadIdx.x; j < v; j += ROW_THREADS)
		x[j] = (float)log_of(&s, x[j]);
}

void
log_softmax_cuda(float *logits, size_t ld, int m, int v)
{
	if (m)
		LAUNCH(log_softmax_rows, (unsigned)m, ROW_THREADS, 0, logits, ld, v);
}
