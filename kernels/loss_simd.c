/* SPDX-License-Identifier: MIT */
/*
 * loss_simd - f32 in W lanes, sums over the vocabulary in spans that join in f64, threads over rows
 *
 * A row is read once for its softmax, once for D and, where D's gradient is q - p, written in the
 * same pass; other divergences need sum h before they can write. Teachers of few ids at tau = 1 are
 * handled in f64 on those ids, and the student's gradient is a scaled softmax elsewhere. Left to
 * the definition: such teachers with a tau or a divergence that is dense all the same, and
 * alpha-beta near its limits, where f32 cancels.
 */
#include <math.h>
#include <stdlib.h>

#include "kernels/cpu.h"
#include "kernels/divergence.h"
#include "kernels/vsoftmax.h"
#include "lib/base/mem.h"

/* A softmax: log p = (x - max) scale - log_sum, p = exp((x - max) scale) inv_sum. */
struct side {
	float max, scale, log_sum, inv_sum;
	double exact;			/* log_sum */
};

/* What a pass over a row needs to know. */
struct pass {
	struct side p, q, q1;		/* teacher, student, student at tau = 1 */
	float offset;			/* log p - log q less that of their numbers */
	float c1, ck;			/* gradient = c1 q1 + ck (h - q h_sum) */
	float h_sum;
	double d;
};

static struct side
side(const float *x, float scale, int v)
{
	struct total t = row_total(x, scale, v);
	struct side s = { t.max, scale, (float)log(t.sum), (float)(1 / t.sum), log(t.sum) };

	return s;
}

/* log q of the number x. */
static double
log_of(const struct side *s, double x)
{
	return (x - s->max) * s->scale - s->exact;
}

/* p log_ratio, 0 where p is 0; a NaN stays */
INLINE vec
weighted(vec p, vec log_ratio)
{
	return vec_less(p, vec_set(FLT_MIN), vec_set(0), p * log_ratio);
}

/* divergence_term() in lanes; gap is a - b. Logs of quotients, so that what is alike leaves no rounding of a large log. */
INLINE vec
term(const struct divergence *d, vec a, vec b, vec gap, vec p, vec q, vec *h)
{
	float s = d->kind == LOSS_JSD ? d->beta : d->alpha, rest = 1 - s, sum = d->alpha + d->beta;
	vec m, f, pa, qa, pb, qb;

	switch (d->kind) {
	case LOSS_KD:
		*h = -p;
		return weighted(p, -b);
	case LOSS_FORWARD_KL:
		*h = -p;
		return weighted(p, gap);
	case LOSS_REVERSE_KL:
		*h = weighted(q, -gap);
		return *h;
	case LOSS_JSD:
		m = vec_max(vec_set(FLT_MIN), s * p + rest * q);
		*h = rest * weighted(q, vec_log(q / m));
		return s * weighted(p, vec_log(p / m)) + *h;
	case LOSS_SKEW_KL:
		m = vec_max(vec_set(FLT_MIN), s * p + rest * q);
		*h = -rest * p * q / m;
		return weighted(p, vec_log(p / m));
	case LOSS_SKEW_RKL:
		m = vec_max(vec_set(FLT_MIN), s * q + rest * p);
		f = weighted(q, vec_log(q / m));
		*h = f - s * q * q / m;
		return f;
	case LOSS_ALPHA_BETA:
		pa = vec_exp(d->alpha * a);
		qa = vec_exp(d->alpha * b);
		pb = vec_exp(d->beta * a);
		qb = vec_exp(d->beta * b);
		*h = qb * (qa - pa) / d->alpha;
		m = d->alpha * pa * pb + d->beta * qa * qb - sum * pa * qb;
		return m / (d->alpha * d->beta * sum);
	default:
		*h = vec_set(0);
		return vec_set(0);
	}
}

/* What D lacks by the rounding of log_sum and of offset, which are the same for the whole row. */
static double
rounding(const struct divergence *d, const struct pass *s)
{
	double gap = s->q.exact - s->p.exact - s->offset;

	switch (d->kind) {
	case LOSS_KD:
		return s->q.exact - s->q.log_sum;
	case LOSS_FORWARD_KL:
		return gap;
	case LOSS_REVERSE_KL:
		return -gap;
	default:
		return 0;
	}
}

/* What a pass over a row is for. */
/* D and h; the gradient; with a tau that is not 1 */
enum { SUM = 1, WRITE = 2, SOFT = 4 };

/* n <= W columns from x and teacher on: adds to the sums, writes the gradient. */
INLINE void
columns(int what, float *x, const float *teacher, const struct divergence *d, const struct pass *s,
    vec *d_sum, vec *h_sum, int n)
{
	vec z = vec_get_n(x, DT_F32, 0, n), y = (z - s->q.max) * s->q.scale;
	vec t = (vec_get_n(teacher, DT_F32, 0, n) - s->p.max) * s->p.scale;
	vec q = vec_exp(y) * s->q.inv_sum, p = vec_exp(t) * s->p.inv_sum, q1 = q, h;
	vec f = term(d, t - s->p.log_sum, y - s->q.log_sum, t - y + s->offset, p, q, &h);

	if (what & SUM) {
		*d_sum += vec_first(f, n, 0);
		*h_sum += vec_first(h, n, 0);
	}
	if (what & SOFT)
		q1 = vec_exp(z - s->q1.max) * s->q1.inv_sum;
	if (what & WRITE)
		vec_put_n(x, DT_F32, 0, s->c1 * q1 + s->ck * (h - q * s->h_sum), n);
}

/* One pass over a row. Where it both sums and writes, sum h is known beforehand. */
static void
row_pass(int what, float *x, const float *teacher, const struct divergence *d, struct pass *s,
    int v)
{
	double d_sum = 0, h_sum = 0;
	int j, end;

	for (j = 0; j < v; j = end) {
		vec d_lanes = vec_set(0), h_lanes = vec_set(0);

		for (end = j + span_size(j, v); j < end; j += W)
			columns(what, x + j, teacher + j, d, s, &d_lanes, &h_lanes, end - j);
		d_sum += vec_sum(d_lanes);
		h_sum += vec_sum(h_lanes);
	}
	if (what & SUM)
		s->d = d_sum + rounding(d, s);
	if ((what & (SUM | WRITE)) == SUM)
		s->h_sum = (float)h_sum;
}

/* Returns tau^2 D; the gradient lacks the target. */
static float
row_dense(float *x, const float *teacher, const struct divergence *d, const struct side *q1,
    float inv_count, int v)
{
	struct pass s = { .q1 = *q1, .q = *q1 };
	int soft = d->tau == 1 ? 0 : SOFT;

	s.p = side(teacher, 1 / d->tau, v);
	if (d->tau != 1)
		s.q = side(x, 1 / d->tau, v);
	s.offset = (float)(s.q.exact - s.p.exact);
	s.c1 = inv_count * (1 - d->kd_ratio);
	s.ck = inv_count * d->kd_ratio * d->tau;
	if (d->kind == LOSS_KD || d->kind == LOSS_FORWARD_KL) {
		s.h_sum = -1;
		row_pass(SUM | WRITE | soft, x, teacher, d, &s, v);
	} else {
		row_pass(SUM, x, teacher, d, &s, v);
		row_pass(WRITE | soft, x, teacher, d, &s, v);
	}
	return (float)((double)d->tau * d->tau * s.d);
}

/* The teacher's ids of row i and their probabilities, which sum to one. */
static int
few(double *p, const int32_t **ids, const struct teacher_rows *t, int i)
{
	int from = t->form == TEACHER_SAMPLE ? t->offsets[i] : i * t->k, j;
	int n = t->form == TEACHER_SAMPLE ? t->offsets[i + 1] - from : t->k;
	double sum = 0;

	*ids = t->ids + from;
	for (j = 0; j < n; j++)
		sum += p[j] = t->form == TEACHER_SAMPLE ? t->counts[from + j] :
		    exp(t->logprobs[from + j]);
	for (j = 0; j < n; j++)
		p[j] /= sum;
	return n;
}

/* KD or forward KL from few ids: the gradient is q, less p on the ids. */
static float
row_few(float *x, const struct teacher_rows *t, const struct divergence *d, const struct side *q,
    float inv_count, double *p, int i, int v)
{
	const int32_t *ids;
	int n = few(p, &ids, t, i), j;
	double sum = 0;

	for (j = 0; j < n; j++) {
		double h, a = log(p[j]);

		sum += divergence_term(d, a, log_of(q, x[ids[j]]), &h);
	}
	row_exp(x, x, q->max, 1, inv_count * q->inv_sum, v);
	for (j = 0; j < n; j++)
		x[ids[j]] -= (float)(inv_count * d->kd_ratio * p[j]);
	return (float)sum;
}

/*
 * The ids' logits are set aside, so that what is left is the bucket. Room for 2 k + 1 numbers in
 * `space`.
 */
static float
row_bucket(float *x, const struct teacher_rows *t, const struct divergence *d, const struct side *q,
    float inv_count, double *space, int i, int v)
{
	const int32_t *ids = t->ids + (size_t)i * t->k;
	double *own = space, *h = own + t->k, rest, sum, h_sum = 0, k = d->kd_ratio, factor;
	struct total outside;
	int j;

	for (j = 0; j < t->k; j++) {
		own[j] = log_of(q, x[ids[j]]);
		x[ids[j]] = -INFINITY;
	}
	outside = row_total(x, 1, v);
	rest = log_of(q, outside.max) + log(outside.sum);
	sum = divergence_bucket(d, t->logprobs + (size_t)i * t->k, t->log_tail[i], own, rest, t->k,
	    h);
	for (j = 0; j <= t->k; j++)
		h_sum += h[j];
	factor = (1 - k) - k * h_sum + (outside.sum > 0 ? k * h[t->k] / exp(rest) : 0);
	row_exp(x, x, q->max, 1, (float)(inv_count * factor * q->inv_sum), v);
	for (j = 0; j < t->k; j++)
		x[ids[j]] = (float)(inv_count * ((1 - k - k * h_sum) * exp(own[j]) + k * h[j]));
	return (float)sum;
}

static int
near_limit(float x)
{
	return fabsf(x) < 0.05f;
}

/* Whether only the definition does it: near a limit, and of a mixture that is the rarer side alone. */
static int
rare(const struct teacher_rows *t, const struct divergence *d)
{
	int skew = d->kind == LOSS_SKEW_KL || d->kind == LOSS_SKEW_RKL;

	if (t->form == TEACHER_DENSE)
		return (skew && d->alpha < FLT_EPSILON) || (d->kind == LOSS_ALPHA_BETA &&
		    (near_limit(d->alpha) || near_limit(d->beta) || near_limit(d->alpha + d->beta)));
	if (t->form == TEACHER_TOPK_BUCKET)
		return d->tau != 1;
	return d->tau != 1 || (d->kind != LOSS_KD && d->kind != LOSS_FORWARD_KL);
}

static size_t
most_ids(const struct teacher_rows *t, int m)
{
	int i, most = t->k;

	for (i = 0; t->form == TEACHER_SAMPLE && i < m; i++)
		if (t->offsets[i + 1] - t->offsets[i] > most)
			most = t->offsets[i + 1] - t->offsets[i];
	return (size_t)most;
}

void
FN(loss)(float *logits, size_t ld, const int *targets, const struct teacher_rows *t,
    const struct divergence *d, float inv_count, float *ce, float *div, int m, int v)
{
	int plain = d->kind == LOSS_CE || !t || t->form == TEACHER_NONE, i;
	size_t most = plain || t->form == TEACHER_DENSE ? 0 : most_ids(t, m);

	if (!plain && rare(t, d)) {
		loss_ref(logits, ld, targets, t, d, inv_count, ce, div, m, v);
		return;
	}
	#pragma omp parallel
	{
		double *space = mem_alloc((2 * most + 1) * sizeof *space);

		#pragma omp for schedule(static)
		for (i = 0; i < m; i++) {
			float *x = logits + (size_t)i * ld;
			struct side q = side(x, 1, v);

			ce[i] = (float)-log_of(&q, x[targets[i]]);
			if (plain) {
				row_exp(x, x, q.max, 1, inv_count * q.inv_sum, v);
				div[i] = 0;
			} else if (t->form == TEACHER_DENSE) {
				div[i] = row_dense(x, t->dense + (size_t)i * t->ld, d, &q,
				    inv_count, v);
			} else if (t->form == TEACHER_TOPK_BUCKET) {
				div[i] = row_bucket(x, t, d, &q, inv_count, space, i, v);
			} else {
				div[i] = row_few(x, t, d, &q, inv_count, space, i, v);
			}
			x[targets[i]] -= inv_count * (plain ? 1 : 1 - d->kd_ratio);
			memset(x + v, 0, (ld - (size_t)v) * sizeof *x);
		}
		free(space);
	}
}

/* Row i of a policy with a dense teacher; the gradient lacks the id. Returns KL(q, p). */
static float
row_policy(float *x, const float *teacher, const struct side *q, float weight, float kl_weight, int v)
{
	const struct divergence d = { .kind = LOSS_REVERSE_KL };
	struct pass s = { .q = *q, .p = side(teacher, q->scale, v), .c1 = weight, .ck = kl_weight };

	row_pass(SUM, x, teacher, &d, &s, v);
	row_pass(WRITE, x, teacher, &d, &s, v);
	return (float)s.d;
}

void
FN(policy)(float *logits, size_t ld, const int *ids, const float *weight, const struct teacher_rows *t,
    float kl_weight, float temperature, float *kl, int m, int v)
{
	int i;

	#pragma omp parallel for schedule(static)
	for (i = 0; i < m; i++) {
		float *x = logits + (size_t)i * ld, w = weight[i] / temperature;
		struct side q = side(x, 1 / temperature, v);

		if (t && t->form != TEACHER_NONE) {
			kl[i] = row_policy(x, t->dense + (size_t)i * t->ld, &q, w, kl_weight / temperature, v);
		} else {
			row_exp(x, x, q.max, q.scale, w * q.inv_sum, v);
			kl[i] = 0;
		}
		x[ids[i]] -= w;
		memset(x + v, 0, (ld - (size_t)v) * sizeof *x);
	}
}
