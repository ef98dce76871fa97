/* SPDX-License-Identifier: MIT */
/*
 * softmax_simd - f32 in W lanes, spans that join in f64, threads over rows
 *
 * The k best are kept in order while the row is scanned; a row of many ids is rarely touched. Lists
 * too long for that are left to the definition.
 */
#include <math.h>
#include <stdlib.h>

#include "kernels/best.h"
#include "kernels/cpu.h"
#include "kernels/vsoftmax.h"
#include "lib/base/mem.h"

enum { LONG = 1024 };		/* ids, beyond which sorting all is quicker */

/* sum e y / sum e, y = (x - max) scale, e = exp(y): minus the entropy, plus log sum e */
static double
mean_exponent(const float *x, const struct total *t, float scale, int v)
{
	double sum = 0;
	int j, end;

	for (j = 0; j < v; j = end) {
		vec lanes = vec_set(0);

		for (end = j + span_size(j, v); j < end; j += W) {
			vec y = (vec_get_n(x, DT_F32, j, end - j) - t->max) * scale;

			/* exp is 0 there, and 0 x inf is not */
			y = vec_max(vec_set(-100), y);
			lanes += vec_first(y * vec_exp(y), end - j, 0);
		}
		sum += vec_sum(lanes);
	}
	return sum / t->sum;
}

void
FN(logprob)(float *logp, float *entropy, const float *logits, size_t ld, const int *ids,
    float temperature, int m, int v)
{
	int i;

	#pragma omp parallel for schedule(static)
	for (i = 0; i < m; i++) {
		const float *x = logits + (size_t)i * ld;
		struct total t = row_total(x, 1 / temperature, v);

		logp[i] = (float)(((double)x[ids[i]] - t.max) / temperature - log(t.sum));
		if (entropy)
			entropy[i] = (float)(log(t.sum) - mean_exponent(x, &t, 1 / temperature, v));
	}
}

void
FN(log_softmax)(float *logits, size_t ld, int m, int v)
{
	int i, j;

	#pragma omp parallel for schedule(static) private(j)
	for (i = 0; i < m; i++) {
		float *x = logits + (size_t)i * ld;
		struct total t = row_total(x, 1, v);
		float log_sum = (float)log(t.sum);

		for (j = 0; j < v; j += W)
			vec_put_n(x, DT_F32, j, vec_get_n(x, DT_F32, j, v - j) - t.max - log_sum,
			    v - j);
	}
}

/* log of the sum of exp(x - lse) over all but the best k. */
static double
log_rest(const float *x, const struct ranked *best, int k, double lse, int v)
{
	const vec edge = vec_set(best[k - 1].value);
	double sum = 0, max = best[0].value;
	int j, end, equal = 0;

	for (j = 0; j < v; j = end) {
		vec lanes = vec_set(0);

		for (end = j + span_size(j, v); j < end; j += W) {
			vec z = vec_first(vec_get_n(x, DT_F32, j, end - j), end - j, INFINITY);

			lanes += vec_less(z, edge, vec_exp(z - (float)max), vec_set(0));
		}
		sum += vec_sum(lanes);
	}
	for (j = 0; j < v; j++)
		equal += x[j] == best[k - 1].value;
	for (j = 0; j < k; j++)
		equal -= best[j].value == best[k - 1].value;
	return log(sum + equal * exp(best[k - 1].value - max)) + max - lse;
}

void
FN(topk)(int32_t *ids, float *logprobs, float *log_tail, const float *logits, size_t ld, int k,
    int m, int v)
{
	int i, j;

	if (k > LONG) {
		topk_ref(ids, logprobs, log_tail, logits, ld, k, m, v);
		return;
	}
	#pragma omp parallel private(j)
	{
		struct ranked *best = mem_alloc((size_t)k * sizeof *best);

		#pragma omp for schedule(static)
		for (i = 0; i < m; i++) {
			const float *x = logits + (size_t)i * ld;
			struct total t = row_total(x, 1, v);
			double lse = t.max + log(t.sum);

			best_of(best, k, x, v);
			for (j = 0; j < k; j++) {
				ids[(size_t)i * k + j] = best[j].id;
				logprobs[(size_t)i * k + j] = (float)(best[j].value - lse);
			}
			log_tail[i] = (float)log_rest(x, best, k, lse, v);
		}
		free(best);
	}
}
