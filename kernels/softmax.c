/* SPDX-License-Identifier: MIT */
/*
 * softmax - log-probabilities over a vocabulary: of one id, of all, of the k best
 *
 *   log q_j = x_j - log sum exp x,  entropy = -sum q log q
 */
#include <math.h>
#include <stdlib.h>

#include "kernels/cpu.h"
#include "kernels/order.h"
#include "lib/base/mem.h"

static double
log_sum_exp(const float *x, double temperature, int v)
{
	double max = -INFINITY, sum = 0;
	int j;

	for (j = 0; j < v; j++)
		max = fmax(max, x[j] / temperature);
	for (j = 0; j < v; j++)
		sum += exp(x[j] / temperature - max);
	return max + log(sum);
}

void
logprob_ref(float *logp, float *entropy, const float *logits, size_t ld, const int *ids,
    float temperature, int m, int v)
{
	int i, j;

	for (i = 0; i < m; i++) {
		const float *x = logits + (size_t)i * ld;
		double lse = log_sum_exp(x, temperature, v), sum = 0;

		logp[i] = (float)((double)x[ids[i]] / temperature - lse);
		for (j = 0; j < v; j++) {
			double l = (double)x[j] / temperature - lse, q = exp(l);

			sum -= q > 0 ? q * l : 0;
		}
		if (entropy)
			entropy[i] = (float)sum;
	}
}

void
log_softmax_ref(float *logits, size_t ld, int m, int v)
{
	int i, j;

	for (i = 0; i < m; i++) {
		float *x = logits + (size_t)i * ld;
		double lse = log_sum_exp(x, 1, v);

		for (j = 0; j < v; j++)
			x[j] = (float)(x[j] - lse);
	}
}

void
topk_ref(int32_t *ids, float *logprobs, float *log_tail, const float *logits, size_t ld, int k,
    int m, int v)
{
	struct ranked *order = mem_alloc((size_t)v * sizeof *order);
	int i, j;

	for (i = 0; i < m; i++) {
		const float *x = logits + (size_t)i * ld;
		double lse = log_sum_exp(x, 1, v), rest = 0;

		for (j = 0; j < v; j++)
			order[j] = (struct ranked){ x[j], j };
		qsort(order, (size_t)v, sizeof *order, ranked_compare);
		for (j = 0; j < k; j++) {
			ids[(size_t)i * k + j] = order[j].id;
			logprobs[(size_t)i * k + j] = (float)(order[j].value - lse);
		}
		for (j = k; j < v; j++)
			rest += exp(order[j].value - lse);
		log_tail[i] = (float)log(rest);
	}
	free(order);
}
