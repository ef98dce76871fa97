/* SPDX-License-Identifier: MIT */
/*
 * sample_simd - f32 in W lanes, threads over rows, no row is sorted
 *
 * The logits become numbers proportional to the probabilities at once, and filters zero some of
 * these. Top-k finds its edge in one scan. Top-p adds up probabilities by their leading bits and
 * sorts the one bin in which top_p is crossed. Sums are f64, by spans; the draw skips whole spans.
 */
#include <math.h>
#include <stdlib.h>

#include "kernels/best.h"
#include "kernels/cpu.h"
#include "kernels/vsoftmax.h"
#include "lib/base/mem.h"

enum {
	LONG = 1024,		/* top-k, beyond which sorting all is quicker */
	BINS = 1 << 11,		/* exponent and 3 bits of a probability, which is not negative */
	HANDS = 4,		/* that add to a bin, so that they do not wait for each other */
};

static unsigned
bin(float p)
{
	uint32_t bits;

	memcpy(&bits, &p, sizeof bits);
	return bits >> 20 & (BINS - 1);
}

/* The least number of bin b. */
static float
bin_least(unsigned b)
{
	uint32_t bits = b << 20;
	float p;

	memcpy(&p, &bits, sizeof p);
	return p;
}

/* The k-th largest of x. */
static float
edge_of(const float *x, int k, int v)
{
	struct ranked *best = mem_alloc((size_t)(k > LONG ? v : k) * sizeof *best);
	float edge;
	int j;

	if (k > LONG) {
		for (j = 0; j < v; j++)
			best[j] = (struct ranked){ x[j], j };
		qsort(best, (size_t)v, sizeof *best, ranked_compare);
	} else {
		best_of(best, k, x, v);
	}
	edge = best[k - 1].value;
	free(best);
	return edge;
}

/* p[j] = 0 where x[j] is less than edge. */
static void
cut(float *p, const float *x, float edge, int v)
{
	int j;

	for (j = 0; j < v; j += W) {
		vec z = vec_get_n(x, DT_F32, j, v - j), kept = vec_get_n(p, DT_F32, j, v - j);

		vec_put_n(p, DT_F32, j, vec_less(z, vec_set(edge), vec_set(0), kept), v - j);
	}
}

static double
mass(const float *p, int v)
{
	double sum = 0;
	int j, i;

	for (j = 0; j < v; j += SPAN) {
		vec lanes = vec_set(0);
		int n = span_size(j, v);

		for (i = 0; i < n; i += W)
			lanes += vec_get_n(p, DT_F32, (size_t)j + i, n - i);
		sum += vec_sum(lanes);
	}
	return sum;
}

/* Of the n ids in bin b, zero those that come when `before` has reached `goal`. */
static void
cut_bin(float *p, unsigned b, int n, double before, double goal, int v)
{
	struct ranked *order = mem_alloc((size_t)n * sizeof *order);
	int i, j;

	for (i = 0, j = 0; i < n && j < v; j++)
		if (bin(p[j]) == b)
			order[i++] = (struct ranked){ p[j], j };
	qsort(order, (size_t)n, sizeof *order, ranked_compare);
	for (j = 0; j < n; j++) {
		if (before >= goal)
			p[order[j].id] = 0;
		before += order[j].value;
	}
	free(order);
}

/*
 * Keep the largest p, which sum to `sum`, while what came before is less than top_p of it. What is
 * below the average of the mass to be removed is removed in any case.
 */
static void
keep_p(float *p, double sum, double top_p, int v)
{
	double sums[BINS][HANDS] = { 0 }, goal = top_p * sum, before = 0, next = 0;
	int counts[BINS][HANDS] = { 0 }, b, j, i;
	float least = (float)((sum - goal) / v / 2);

	cut(p, p, least, v);
	for (j = 0; j < v; j += W) {
		int n = v - j < W ? v - j : W;

		if (!vec_any_less(vec_set(0), vec_get_n(p, DT_F32, j, n)))
			continue;
		for (i = 0; i < n; i++) {
			sums[bin(p[j + i])][i % HANDS] += p[j + i];
			counts[bin(p[j + i])][i % HANDS]++;
		}
	}
	for (b = BINS - 1; b >= 0; b--, before = next) {
		next = before + (sums[b][0] + sums[b][1]) + (sums[b][2] + sums[b][3]);
		if (b == 0 || next >= goal)
			break;
	}
	cut(p, p, bin_least((unsigned)b), v);
	cut_bin(p, (unsigned)b, counts[b][0] + counts[b][1] + counts[b][2] + counts[b][3], before,
	    goal, v);
}

/* The first id at which the sum of p exceeds `goal`. */
static int
draw(const float *p, double goal, int v)
{
	double sum = 0;
	int j, i;

	for (j = 0; j < v; j += SPAN) {
		double next = sum + mass(p + j, span_size(j, v));

		for (i = j; next > goal && i < j + span_size(j, v); i++) {
			sum += p[i];
			if (sum > goal && p[i] > 0)
				return i;
		}
		sum = next;
	}
	for (j = v - 1; j > 0 && !(p[j] > 0); j--)
		;
	return j;
}

static int
largest(const float *x, float max, int v)
{
	int j;

	for (j = 0; j < v - 1 && x[j] != max; j++)
		;
	return j;
}

/* p = exp of what the filters leave of x, 1 for the largest. */
static void
filter(float *p, const float *x, float max, const struct sampling *s, int v)
{
	row_exp(p, x, max, s->temperature > 0 ? 1 / s->temperature : 1, 1, v);
	if (s->top_k > 0 && s->top_k < v)
		cut(p, x, edge_of(x, s->top_k, v), v);
	if (s->top_p > 0 && s->top_p < 1)
		keep_p(p, mass(p, v), s->top_p, v);
	if (s->min_p > 0)
		cut(p, p, s->min_p, v);
}

/* x becomes the probabilities; p is room for v numbers. */
static int
sample_row(float *logp, float *model_logp, float *x, float *p, const struct sampling *s,
    float uniform, int v)
{
	struct total t = row_total(x, 1, v);
	double sum;
	int id, j;

	if (s->greedy) {
		memset(p, 0, (size_t)v * sizeof *p);
		p[largest(x, t.max, v)] = 1;
	} else {
		filter(p, x, t.max, s, v);
	}
	sum = mass(p, v);
	id = draw(p, uniform * sum, v);
	*logp = (float)log(p[id] / sum);
	*model_logp = (float)((double)x[id] - t.max - log(t.sum));
	for (j = 0; j < v; j += W)
		vec_put_n(x, DT_F32, j, vec_get_n(p, DT_F32, j, v - j) * (float)(1 / sum), v - j);
	return id;
}

void
FN(sample)(int *ids, float *logp, float *model_logp, float *logits, size_t ld,
    const struct sampling *s, const float *uniform, int m, int v)
{
	int i;

	#pragma omp parallel if (m > 1)
	{
		float *p = mem_alloc((size_t)v * sizeof *p);

		#pragma omp for schedule(static)
		for (i = 0; i < m; i++)
			ids[i] = sample_row(&logp[i], &model_logp[i], logits + (size_t)i * ld, p, s,
			    uniform[i], v);
		free(p);
	}
}

void
FN(mix)(int *ids, float *logp, float *p, const float *other, size_t ld, float share, const float *uniform,
    int m, int v)
{
	int i, j;

	#pragma omp parallel for schedule(static) private(j)
	for (i = 0; i < m; i++) {
		float *row = p + (size_t)i * ld;
		const float *from = other + (size_t)i * ld;
		double sum;

		for (j = 0; j < v; j += W)
			vec_put_n(row, DT_F32, j, (1 - share) * vec_get_n(row, DT_F32, j, v - j) +
			    share * vec_get_n(from, DT_F32, j, v - j), v - j);
		sum = mass(row, v);
		ids[i] = draw(row, uniform[i] * sum, v);
		logp[i] = (float)log(row[ids[i]] / sum);
	}
}
