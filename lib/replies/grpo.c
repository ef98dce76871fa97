/* SPDX-License-Identifier: MIT */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "lib/base/mem.h"
#include "lib/replies/grpo.h"

static const double STD_FLOOR = 1e-4;	/* TRL's */

/* Mean and standard deviation (n - 1) of numbers that come one after the other, twice. */
struct moments {
	double sum, squares, mean, min, max;
	long n;
};

static void
first_pass(struct moments *m, double x)
{
	if (isnan(x))
		return;
	m->min = m->n ? fmin(m->min, x) : x;
	m->max = m->n ? fmax(m->max, x) : x;
	m->sum += x;
	m->mean = m->sum / (double)++m->n;
}

static void
second_pass(struct moments *m, double x)
{
	if (!isnan(x))
		m->squares += (x - m->mean) * (x - m->mean);
}

static double
deviation(const struct moments *m)
{
	return m->n < 2 ? NAN : sqrt(m->squares / (double)(m->n - 1));
}

static struct mean_std
summary(const struct moments *m)
{
	return (struct mean_std){ m->n ? m->mean : NAN, deviation(m) };
}

/* The weighted sum of the rewards that judged. */
static double
total(const double *rewards, const double *weights, int n)
{
	double sum = 0;
	int i, judged = 0;

	for (i = 0; i < n; i++)
		if (!isnan(rewards[i])) {
			sum += weights[i] * rewards[i];
			judged = 1;
		}
	return judged ? sum : NAN;
}

static int
degenerate(const struct moments *m)
{
	return m->n < 2 || m->max == m->min;
}

static double
advantage(const struct grpo *g, const struct sample *r, const struct moments *group, const struct moments *batch)
{
	double scale = g->scale == SCALE_NONE ? 1 :
	    deviation(g->scale == SCALE_BATCH ? batch : group) + STD_FLOOR;

	return isnan(r->total) || degenerate(group) ? 0 : (r->total - group->mean) / scale;
}

static struct mean_std
reward_summary(const struct sample *samples, int n, int reward)
{
	struct moments m = { 0 };
	int i;

	for (i = 0; i < n; i++)
		first_pass(&m, samples[i].rewards[reward]);
	for (i = 0; i < n; i++)
		second_pass(&m, samples[i].rewards[reward]);
	return summary(&m);
}

/* Lengths, ends and advantages over all replies. */
static void
describe(struct judged *j, const struct sample *samples, int n)
{
	int i;

	j->min_length = n ? samples[0].n : 0;
	for (i = 0; i < n; i++) {
		const struct sample *r = &samples[i];

		j->min_length = r->n < j->min_length ? r->n : j->min_length;
		j->max_length = r->n > j->max_length ? r->n : j->max_length;
		j->mean_length += r->n;
		j->terminated += r->terminated != 0;
		j->advantage += fabs(r->advantage);
	}
	j->mean_length /= n;
	j->terminated /= n;
	j->advantage /= n;
}

void
grpo_judge(const struct grpo *g, struct sample *samples, int n, const double *weights, int nrewards,
    struct judged *j)
{
	struct moments *groups = mem_zero((size_t)n, sizeof *groups), batch = { 0 };
	int i;

	*j = (struct judged){ .rewards = mem_zero((size_t)nrewards, sizeof *j->rewards) };
	for (i = 0; i < n; i++) {
		struct sample *r = &samples[i];

		r->total = total(r->rewards, weights, nrewards);
		first_pass(&batch, r->total);
		first_pass(&groups[r->group], r->total);
		j->groups = r->group >= j->groups ? r->group + 1 : j->groups;
	}
	for (i = 0; i < n; i++) {
		second_pass(&batch, samples[i].total);
		second_pass(&groups[samples[i].group], samples[i].total);
	}
	for (i = 0; i < n; i++) {
		struct sample *r = &samples[i];

		r->advantage = advantage(g, r, &groups[r->group], &batch);
		r->in_batch = !g->skip_zero_std || !degenerate(&groups[r->group]);
		r->counts = r->in_batch && (r->terminated || !g->drop_truncated);
		j->replies += r->in_batch;
		j->tokens += r->counts ? r->n : 0;
	}
	for (i = 0; i < j->groups; i++)
		j->zero_std += degenerate(&groups[i]);
	j->total = summary(&batch);
	for (i = 0; i < nrewards; i++)
		j->rewards[i] = reward_summary(samples, n, i);
	describe(j, samples, n);
	free(groups);
}

void
judged_free(struct judged *j)
{
	free(j->rewards);
}

/* c of a reply's tokens. */
static double
share(const struct grpo *g, const struct judged *j, const struct sample *r)
{
	switch (g->loss) {
	case GRPO_DAPO:
	case GRPO_CISPO:
		return 1 / (double)j->tokens;
	case GRPO_DR_GRPO:
		return 1 / ((double)j->replies * g->max_completion);
	case GRPO_LUSPO:
		return 1 / (double)j->replies;
	default:
		return 1 / ((double)j->replies * r->n);
	}
}

static double
difference(const float *a, const float *b, int n)
{
	double sum = 0;
	int t;

	for (t = 0; t < n; t++)
		sum += (double)a[t] - b[t];
	return sum;
}

/* w of token t, of whose reply the log-probabilities differ by `sum` in all. */
static double
correction(const struct grpo *g, const struct sample *r, const float *old, int t, double sum)
{
	int whole = g->tis == TIS_SEQUENCE_TRUNCATE || g->tis == TIS_SEQUENCE_MASK;
	int masks = g->tis == TIS_TOKEN_MASK || g->tis == TIS_SEQUENCE_MASK;
	double w;

	if (!r->sampled || isinf(g->tis_cap))
		return 1;
	w = exp(whole ? sum : (double)old[t] - r->sampled[t]);
	if (w <= g->tis_cap)
		return w;
	return masks ? 0 : g->tis_cap;
}

/* P of a token, and its derivatives by log rho and, apart from that, by log pi. */
static double
policy_term(const struct grpo *g, double rho, double a, double logp, double *by_rho, double *by_logp)
{
	double cut = fmin(rho, g->delta) * a, clipped = fmin(fmax(rho, 1 - g->low), 1 + g->high) * a, tau, s;

	*by_rho = *by_logp = 0;
	switch (g->loss) {
	case GRPO_CISPO:
		*by_logp = -fmin(rho, g->cispo_max) * a;
		return *by_logp * logp;
	case GRPO_SAPO:
		tau = a > 0 ? g->sapo_pos : g->sapo_neg;
		s = 1 / (1 + exp(-tau * (rho - 1)));
		*by_rho = -4 * s * (1 - s) * rho * a;
		return -4 / tau * s * a;
	default:
		if (cut <= clipped && rho <= g->delta)
			*by_rho = -rho * a;
		return -fmin(cut, clipped);
	}
}

/* K without rho, and its derivative by log pi. */
static double
kl_term(const struct grpo *g, double d, double *by_logp)
{
	if (g->kl == KL_K2) {
		*by_logp = -d;
		return d * d / 2;
	}
	*by_logp = 1 - exp(d);
	return expm1(d) - d;
}

static void
count_clipped(const struct grpo *g, double rho, double a, struct grpo_sums *sums)
{
	if (g->loss == GRPO_CISPO) {
		sums->high += rho > g->cispo_max && a > 0;
		return;
	}
	sums->low += rho < 1 - g->low && a < 0;
	sums->high += rho > 1 + g->high && a > 0;
}

/* w P + beta K of token t, with its derivatives by log rho and, apart from that, by log pi. */
static double
token_term(const struct grpo *g, const struct sample *r, int t, double logp, double rho, double w,
    struct grpo_sums *sums, double *by_rho, double *by_logp)
{
	double l = w * policy_term(g, rho, r->advantage, logp, by_rho, by_logp), k, k_by_logp;
	double factor = g->kl == KL_K3_RATIO ? rho : 1;

	*by_rho *= w;
	*by_logp *= w;
	if (!r->ref)
		return l;
	k = factor * kl_term(g, r->ref[t] - logp, &k_by_logp);
	sums->kl += k;
	*by_logp += g->beta * factor * k_by_logp;
	if (g->kl == KL_K3_RATIO)
		*by_rho += g->beta * k;
	return l + g->beta * k;
}

int
grpo_sample(const struct grpo *g, const struct judged *j, const struct sample *r, const float *logp,
    float *dlogp, double *terms, struct grpo_sums *sums)
{
	const float *old = r->old ? r->old : logp;
	double c, ratio, mismatch, through_ratio = 0, by_rho, by_logp;
	int t, whole = g->ratio == RATIO_SEQUENCE, finite = 1;

	memset(dlogp, 0, (size_t)r->n * sizeof *dlogp);
	if (terms)
		memset(terms, 0, (size_t)r->n * sizeof *terms);
	if (!r->counts || !r->n)
		return 1;
	c = share(g, j, r);
	ratio = exp(difference(logp, old, r->n) / r->n);
	mismatch = r->sampled ? difference(old, r->sampled, r->n) : 0;
	for (t = 0; t < r->n; t++) {
		double rho = whole ? ratio : exp((double)logp[t] - old[t]);
		double l = token_term(g, r, t, logp[t], rho, correction(g, r, old, t, mismatch), sums, &by_rho, &by_logp);

		through_ratio += c * by_rho / r->n;
		dlogp[t] = (float)(c * (whole ? by_logp : by_logp + by_rho));
		if (terms)
			terms[t] = l;
		finite &= isfinite(l) && isfinite(dlogp[t]);
		sums->loss += c * l;
		sums->magnitude += fabs(c * l);
		if (!whole)
			count_clipped(g, rho, r->advantage, sums);
	}
	for (t = 0; whole && t < r->n; t++)
		dlogp[t] += (float)through_ratio;
	if (whole)
		count_clipped(g, ratio, r->advantage, sums);
	sums->tokens += r->n;
	sums->samples++;
	return finite;
}
