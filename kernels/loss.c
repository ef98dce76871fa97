/* SPDX-License-Identifier: MIT */
/*
 * loss - cross-entropy and divergence from a teacher, and their gradient on the student's logits
 *
 *   loss = (1 - k) ce + k tau^2 D(p, q),  ce = -log q1(y)
 *   gradient = (1 - k) (q1 - onehot(y)) + k tau (h - q sum h)
 *
 * and a policy's, whose cross-entropy is weighted by row, at the temperature of D:
 *
 *   loss = k KL(q, p) - w log q(y)
 *   gradient = (w (q - onehot(y)) + k (h - q sum h)) / tau
 *
 * q1 is the student's softmax, q and p are the softmaxes of logits / tau; h: kernels/divergence.h.
 * A top-k teacher with a bucket is a distribution over k + 1 outcomes: outside the ids, h is the
 * bucket's share by q. Renormalised top-k and samples are distributions over the vocabulary that
 * are zero elsewhere.
 */
#include <math.h>
#include <stdlib.h>

#include "kernels/cpu.h"
#include "kernels/divergence.h"
#include "lib/base/mem.h"

/* One row's working space. */
struct row {
	double *a, *b, *b1;	/* [v] log p, log q at tau, log q at 1 */
	double *h;		/* [v] */
	double *own, *few;	/* [v + 1] of the bucket */
};

static void
log_softmax(double *out, const float *x, double tau, int v)
{
	double max = -INFINITY, sum = 0;
	int j;

	for (j = 0; j < v; j++)
		max = fmax(max, x[j]);
	for (j = 0; j < v; j++)
		sum += exp((x[j] - max) / tau);
	for (j = 0; j < v; j++)
		out[j] = (x[j] - max) / tau - log(sum);
}

/* log p over the vocabulary of every form but the bucket. */
static void
teacher(double *a, const struct teacher_rows *t, double tau, int i, int v)
{
	double sum = 0;
	int j;

	if (t->form == TEACHER_DENSE) {
		log_softmax(a, t->dense + (size_t)i * t->ld, tau, v);
		return;
	}
	for (j = 0; j < v; j++)
		a[j] = -INFINITY;
	if (t->form == TEACHER_SAMPLE) {
		for (j = t->offsets[i]; j < t->offsets[i + 1]; j++)
			sum += t->counts[j];
		for (j = t->offsets[i]; j < t->offsets[i + 1]; j++)
			a[t->ids[j]] = log(t->counts[j] / sum);
	} else {
		const float *logprobs = t->logprobs + (size_t)i * t->k;

		for (j = 0; j < t->k; j++)
			sum += exp(logprobs[j]);
		for (j = 0; j < t->k; j++)
			a[t->ids[(size_t)i * t->k + j]] = logprobs[j] - log(sum);
	}
}

/* D over the ids of a top-k teacher and the bucket of all others. */
static double
bucket(struct row *r, const struct teacher_rows *t, const struct divergence *d, int i, int v)
{
	const int32_t *ids = t->ids + (size_t)i * t->k;
	double rest = 0, sum;
	int j;

	for (j = 0; j < v; j++)
		r->h[j] = exp(r->b[j]);
	for (j = 0; j < t->k; j++) {
		r->own[j] = r->b[ids[j]];
		r->h[ids[j]] = 0;
	}
	for (j = 0; j < v; j++)
		rest += r->h[j];
	sum = divergence_bucket(d, t->logprobs + (size_t)i * t->k, t->log_tail[i], r->own,
	    rest > 0 ? log(rest) : -INFINITY, t->k, r->few);
	for (j = 0; j < v; j++)
		r->h[j] *= rest > 0 ? r->few[t->k] / rest : 0;
	for (j = 0; j < t->k; j++)
		r->h[ids[j]] = r->few[j];
	return sum;
}

/* D of row i; leaves h. */
static double
divergence(struct row *r, const struct teacher_rows *t, const struct divergence *d, int i, int v)
{
	double sum = 0;
	int j;

	if (t->form == TEACHER_TOPK_BUCKET)
		return bucket(r, t, d, i, v);
	teacher(r->a, t, d->tau, i, v);
	for (j = 0; j < v; j++)
		sum += divergence_term(d, r->a[j], r->b[j], &r->h[j]);
	return sum;
}

void
loss_ref(float *logits, size_t ld, const int *targets, const struct teacher_rows *t,
    const struct divergence *d, float inv_count, float *ce, float *div, int m, int v)
{
	int plain = d->kind == LOSS_CE || !t || t->form == TEACHER_NONE, i, j;
	double k = plain ? 0 : d->kd_ratio, tau = plain ? 1 : d->tau;
	double *space = mem_alloc(((size_t)v * 6 + 2) * sizeof *space);
	struct row r = { space, space + v, space + 2 * v, space + 3 * v, space + 4 * v,
	    space + 5 * v + 1 };

	for (i = 0; i < m; i++) {
		float *x = logits + (size_t)i * ld;
		double sum = 0;

		log_softmax(r.b1, x, 1, v);
		ce[i] = (float)-r.b1[targets[i]];
		div[i] = 0;
		if (!plain) {
			log_softmax(r.b, x, tau, v);
			div[i] = (float)(tau * tau * divergence(&r, t, d, i, v));
			for (j = 0; j < v; j++)
				sum += r.h[j];
		}
		for (j = 0; j < v; j++) {
			double g = (1 - k) * (exp(r.b1[j]) - (j == targets[i]));

			if (!plain)
				g += k * tau * (r.h[j] - exp(r.b[j]) * sum);
			x[j] = (float)(inv_count * g);
		}
		for (j = v; (size_t)j < ld; j++)
			x[j] = 0;
	}
	free(space);
}

void
policy_ref(float *logits, size_t ld, const int *ids, const float *weight, const struct teacher_rows *t,
    float kl_weight, float temperature, float *kl, int m, int v)
{
	const struct divergence d = { LOSS_REVERSE_KL, 1, temperature, 0, 0 };
	double *space = mem_zero((size_t)v * 3, sizeof *space);
	struct row r = { .a = space, .b = space + v, .h = space + 2 * v };
	int i, j;

	for (i = 0; i < m; i++) {
		float *x = logits + (size_t)i * ld;
		double sum = 0;

		log_softmax(r.b, x, temperature, v);
		if (t && t->form != TEACHER_NONE)
			sum = divergence(&r, t, &d, i, v);
		kl[i] = (float)sum;
		for (j = 0; j < v; j++) {
			double q = exp(r.b[j]);

			x[j] = (float)((weight[i] * (q - (j == ids[i])) + kl_weight * (r.h[j] - q * sum)) / temperature);
		}
		for (j = v; (size_t)j < ld; j++)
			x[j] = 0;
	}
	free(space);
}
