/* SPDX-License-Identifier: MIT */
/*
 * sample - one id from each row of logits, after temperature, top-k, top-p (Holtzman et al. 2020)
 * and min-p
 *
 * The filters and their order are those of Transformers' processors. Each works on the softmax of
 * what the one before left. A filter removes an id by making its logit -inf.
 */
#include <math.h>
#include <stdlib.h>

#include "kernels/cpu.h"
#include "kernels/order.h"
#include "lib/base/mem.h"

/* p = softmax(x / temperature); returns log sum exp. */
static double
softmax(double *p, const float *x, double temperature, int v)
{
	double max = -INFINITY, sum = 0;
	int j;

	for (j = 0; j < v; j++)
		max = fmax(max, x[j] / temperature);
	for (j = 0; j < v; j++)
		sum += exp(x[j] / temperature - max);
	for (j = 0; j < v; j++)
		p[j] = exp(x[j] / temperature - max) / sum;
	return max + log(sum);
}

static void
keep_k(float *x, const struct ranked *order, int k, int v)
{
	int j;

	for (j = k; j < v; j++)
		if (order[j].value < order[k - 1].value)
			x[order[j].id] = -INFINITY;
}

static void
keep_p(float *x, const double *p, const struct ranked *order, double top_p, int v)
{
	double before = 0;
	int j;

	for (j = 0; j < v; j++) {
		if (before >= top_p)
			x[order[j].id] = -INFINITY;
		before += p[order[j].id];
	}
}

static void
keep_min(float *x, const double *p, double min_p, int best, int v)
{
	int j;

	for (j = 0; j < v; j++)
		if (p[j] < min_p * p[best])
			x[j] = -INFINITY;
}

static int
draw(const double *p, double uniform, int v)
{
	double sum = 0;
	int j, last = 0;

	for (j = 0; j < v; j++) {
		sum += p[j];
		if (p[j] > 0)
			last = j;
		if (sum > uniform)
			return j;
	}
	return last;
}

/* Leaves the probabilities in p and returns the id. */
static int
sample_row(double *p, float *x, struct ranked *order, const struct sampling *s, float uniform,
    int v)
{
	double temperature = s->temperature > 0 ? s->temperature : 1;
	int j, best;

	for (j = 0; j < v; j++)
		order[j] = (struct ranked){ x[j], j };
	qsort(order, (size_t)v, sizeof *order, ranked_compare);
	best = order[0].id;
	if (s->greedy) {
		for (j = 0; j < v; j++)
			p[j] = j == best;
		return best;
	}
	if (s->top_k > 0)
		keep_k(x, order, s->top_k < v ? s->top_k : v, v);
	softmax(p, x, temperature, v);
	if (s->top_p > 0 && s->top_p < 1)
		keep_p(x, p, order, s->top_p, v);
	if (s->min_p > 0)
		keep_min(x, p, s->min_p, best, v);
	softmax(p, x, temperature, v);
	return draw(p, uniform, v);
}

void
sample_ref(int *ids, float *logp, float *model_logp, float *logits, size_t ld,
    const struct sampling *s, const float *uniform, int m, int v)
{
	struct ranked *order = mem_alloc((size_t)v * sizeof *order);
	double *p = mem_alloc((size_t)v * sizeof *p);
	int i, j;

	for (i = 0; i < m; i++) {
		float *x = logits + (size_t)i * ld, *raw = mem_copy(x, (size_t)v * sizeof *x);
		double lse = softmax(p, x, 1, v);

		ids[i] = sample_row(p, x, order, s, uniform[i], v);
		logp[i] = (float)log(p[ids[i]]);
		model_logp[i] = (float)(raw[ids[i]] - lse);
		for (j = 0; j < v; j++)
			x[j] = (float)p[j];
		free(raw);
	}
	free(p);
	free(order);
}

void
mix_ref(int *ids, float *logp, float *p, const float *other, size_t ld, float share, const float *uniform,
    int m, int v)
{
	double *mixed = mem_alloc((size_t)v * sizeof *mixed);
	int i, j;

	for (i = 0; i < m; i++) {
		float *row = p + (size_t)i * ld;

		for (j = 0; j < v; j++) {
			mixed[j] = (1 - (double)share) * row[j] + (double)share * other[(size_t)i * ld + (size_t)j];
			row[j] = (float)mixed[j];
		}
		ids[i] = draw(mixed, uniform[i], v);
		logp[i] = (float)log(mixed[ids[i]]);
	}
	free(mixed);
}
