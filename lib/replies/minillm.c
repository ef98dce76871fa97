/* SPDX-License-Identifier: MIT */
#include <math.h>

#include "lib/replies/minillm.h"

/* G of one sequence, from its end. */
static void
totals(struct token_value *values, const struct minillm *m, int n)
{
	double sum = 0;
	int t;

	for (t = n - 1; t >= 0; t--) {
		sum = values[t].reward + m->gamma * sum;
		values[t].total = (float)(m->length_norm ? sum / (n - t) : sum);
	}
}

static void
advantages(struct token_value *values, const struct minillm *m, int n)
{
	double mean = 0, variance = 0;
	int t;

	if (m->whiten) {
		for (t = 0; t < n; t++)
			mean += (double)values[t].total / n;
		for (t = 0; t < n; t++)
			variance += (values[t].total - mean) * (values[t].total - mean) / n;
	}
	for (t = 0; t < n; t++)
		values[t].advantage = m->whiten ? (float)((values[t].total - mean) / sqrt(variance + 1e-8)) :
		    values[t].total;
}

void
minillm_values(struct token_value *values, const struct minillm *m, const float *teacher, const float *old,
    const int *offsets, int n)
{
	int s, t;

	for (t = 0; t < offsets[n]; t++) {
		double ratio = (double)teacher[t] - old[t], reward = ratio / m->reward_scale;

		if (m->reward_clip > 0)
			reward = fmax(-m->reward_clip, fmin(m->reward_clip, reward));
		values[t].reward = (float)reward;
		values[t].weight = (float)(1 / (1 - m->alpha + m->alpha * exp(ratio)));
	}
	for (s = 0; s < n; s++)
		totals(values + offsets[s], m, offsets[s + 1] - offsets[s]);
	advantages(values, m, offsets[n]);
}

double
minillm_loss(double *factor, const struct minillm *m, const struct token_value *value, double old, double logp)
{
	double x = value->weight * exp(logp - old), a = value->advantage, gain = x * a;
	double clipped = m->clip > 0 ? fmax(1 - m->clip, fmin(1 + m->clip, x)) * a : gain;

	*factor = gain <= clipped ? gain : 0;
	return -fmin(gain, clipped);
}
