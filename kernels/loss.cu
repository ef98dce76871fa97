/* SPDX-License-Identifier: MIT */
/*
 * loss - a block per row: softmaxes, then sum h where the divergence needs it, then D and the gradient in one pass
 *
 * f32 by outcome, as in loss_simd, sums in double; alpha-beta, which cancels near its limits, in double.
 * A teacher of few ids is a distribution over them and one outcome more, all the rest: of probability
 * zero where the teacher has no tail. Its terms are taken in double, and a bit for each id of the
 * vocabulary tells the listed ones from the rest.
 */
#include <float.h>

#include "kernels/divergence.h"
#include "kernels/softmax.cuh"

/* What the gradient of an outcome is made of: w (q1 - onehot) + k (h - q h_sum). */
struct mix {
	struct side q1, q, p;	/* student, student and teacher at tau */
	float w, k, h_sum;
};

/* p log(p / m) */
static __device__ inline float
relative(float p, float m)
{
	return p > 0 ? p * logf(p / m) : 0;
}

/* divergence_term() in f32, unless the mixture m is so rare that f32 has no number for it. */
static __device__ float
term(const struct divergence *d, double log_p, double log_q, float *h)
{
	float a = (float)log_p, b = (float)log_q, p = expf(a), q = expf(b), s = d->kind == LOSS_JSD ? d->beta : d->alpha;
	float m = d->kind == LOSS_SKEW_RKL ? s * q + (1 - s) * p : s * p + (1 - s) * q;
	double wide, sum;

	switch (d->kind) {
	case LOSS_KD:
		*h = -p;
		return p > 0 ? -p * b : 0;
	case LOSS_FORWARD_KL:
		*h = -p;
		return p > 0 ? p * (a - b) : 0;
	case LOSS_REVERSE_KL:
		*h = q > 0 ? q * (b - a) : 0;
		return *h;
	case LOSS_JSD:
		if (m < FLT_MIN)
			break;
		*h = (1 - s) * relative(q, m);
		return s * relative(p, m) + *h;
	case LOSS_SKEW_KL:
		if (m < FLT_MIN)
			break;
		*h = -(1 - s) * p * (q / m);
		return relative(p, m);
	case LOSS_SKEW_RKL:
		if (m < FLT_MIN)
			break;
		*h = relative(q, m) - s * q * (q / m);
		return relative(q, m);
	default:
		break;
	}
	sum = divergence_term(d, log_p, log_q, &wide);
	*h = (float)wide;
	return (float)sum;
}

/* The cross-entropy's part of outcome j. */
static __device__ inline float
plain_part(const struct mix *x, float logit, int is_target)
{
	return x->w * ((float)(mass_of(&x->q1, logit) / x->q1.sum) - (float)is_target);
}

/* sum h over the vocabulary; -1 where h is -p. */
static __device__ float
sum_h(const struct mix *x, const struct divergence *d, const float *student, const float *teacher, int v)
{
	double sum = 0;
	float h;

	if (d->kind == LOSS_KD || d->kind == LOSS_FORWARD_KL)
		return -1;
	for (int j = (int)threadIdx.x; j < v; j += ROW_THREADS) {
		term(d, log_of(&x->p, teacher[j]), log_of(&x->q, student[j]), &h);
		sum += h;
	}
	return (float)block_reduce(sum, plus());
}

/* The gradient in place of the logits, from a dense teacher; D. */
static __device__ double
dense(struct mix *x, const struct divergence *d, float *student, const float *teacher, int target, int v)
{
	double sum = 0;
	float h;

	x->h_sum = sum_h(x, d, student, teacher, v);
	__syncthreads();
	for (int j = (int)threadIdx.x; j < v; j += ROW_THREADS) {
		float logit = student[j];
		double b = log_of(&x->q, logit);

		sum += term(d, log_of(&x->p, teacher[j]), b, &h);
		student[j] = plain_part(x, logit, j == target) + x->k * (h - expf((float)b) * x->h_sum);
	}
	return block_reduce(sum, plus());
}

static __device__ void
without_teacher(const struct mix *x, float *student, int target, int v)
{
	for (int j = (int)threadIdx.x; j < v; j += ROW_THREADS)
		student[j] = plain_part(x, student[j], j == target);
}

/* The listed ids of a row: log p of entry j is log_of_entry(). */
struct few {
	const int32_t *ids;
	const float *logprobs;
	const uint16_t *counts;
	int n;
	double log_total;	/* what log p is relative to */
	double log_tail;
};

static __device__ inline double
log_of_entry(const struct few *f, int j)
{
	return (f->counts ? log((double)f->counts[j]) : (double)f->logprobs[j]) - f->log_total;
}

static __device__ struct few
few_of(const struct teacher_rows *t, int row)
{
	struct few f = { t->ids, NULL, NULL, t->k, 0, -INFINITY };
	double sum = 0;

	if (t->form == TEACHER_SAMPLE) {
		f.n = t->offsets[row + 1] - t->offsets[row];
		f.ids += t->offsets[row];
		f.counts = t->counts + t->offsets[row];
	} else {
		f.ids += (size_t)row * t->k;
		f.logprobs = t->logprobs + (size_t)row * t->k;
	}
	if (t->form == TEACHER_TOPK_BUCKET) {
		f.log_tail = t->log_tail[row];
		return f;
	}
	for (int j = (int)threadIdx.x; j < f.n; j += ROW_THREADS)
		sum += exp(log_of_entry(&f, j));
	f.log_total = log(block_reduce(sum, plus()));
	return f;
}

/* The same from a teacher of few ids; bits [v / 32 + 1] is shared memory. */
static __device__ double
sparse(struct mix *x, const struct divergence *d, float *student, const struct teacher_rows *t, int row, unsigned *bits,
    int target, int v)
{
	struct few f = few_of(t, row);
	double rest = 0, sum = 0, hs = 0, h, h_rest;
	float share;

	for (int j = (int)threadIdx.x; j < v / 32 + 1; j += ROW_THREADS)
		bits[j] = 0;
	__syncthreads();
	for (int j = (int)threadIdx.x; j < f.n; j += ROW_THREADS)
		atomicOr(&bits[f.ids[j] / 32], 1u << f.ids[j] % 32);
	__syncthreads();
	for (int j = (int)threadIdx.x; j < v; j += ROW_THREADS)
		rest += bits[j / 32] >> j % 32 & 1 ? 0 : mass_of(&x->q, student[j]);
	rest = block_reduce(rest, plus()) / x->q.sum;
	for (int j = (int)threadIdx.x; j < f.n; j += ROW_THREADS) {
		sum += divergence_term(d, log_of_entry(&f, j), log_of(&x->q, student[f.ids[j]]), &h);
		hs += h;
	}
	sum = block_reduce(sum, plus()) + divergence_term(d, f.log_tail, rest > 0 ? log(rest) : -INFINITY, &h_rest);
	x->h_sum = (float)(block_reduce(hs, plus()) + h_rest);
	share = rest > 0 ? (float)(h_rest / rest) : 0;
	for (int j = (int)threadIdx.x; j < v; j += ROW_THREADS)
		if (!(bits[j / 32] >> j % 32 & 1)) {
			float logit = student[j], q = (float)(mass_of(&x->q, logit) / x->q.sum);

			student[j] = plain_part(x, logit, j == target) + x->k * q * (share - x->h_sum);
		}
	for (int j = (int)threadIdx.x; j < f.n; j += ROW_THREADS) {
		float logit = student[f.ids[j]];
		double b = log_of(&x->q, logit);

		divergence_term(d, log_of_entry(&f, j), b, &h);
		student[f.ids[j]] = plain_part(x, logit, f.ids[j] == target) + x->k * ((float)h - expf((float)b) * x->h_sum);
	}
	return sum;
}

static __device__ void
clear_rest(float *x, int v, size_t ld)
{
	for (size_t j = v + threadIdx.x; j < ld; j += ROW_THREADS)
		x[j] = 0;
}

static __global__ void
__launch_bounds__(ROW_THREADS)
loss_rows(float *logits, size_t ld, const int *targets, struct teacher_rows t, struct divergence d, float inv_count,
    float *ce, float *div, int v)
{
	LAUNCHED_SHARED(unsigned, bits);
	int row = (int)blockIdx.x, target = targets[row], plain = d.kind == LOSS_CE || t.form == TEACHER_NONE;
	float *student = logits + row * ld, k = plain ? 0 : d.kd_ratio, scale = plain ? 1 : 1 / d.tau;
	const float *teacher = t.dense + row * t.ld;
	double sum = 0;
	struct mix x;

	x.q1 = side_of(student, 1, v);
	x.q = plain || scale == 1 ? x.q1 : side_of(student, scale, v);
	x.w = inv_count * (1 - k);
	x.k = inv_count * k * d.tau;
	if (threadIdx.x == 0)
		ce[row] = (float)(x.q1.log_sum - (double)(student[target] - x.q1.max));
	__syncthreads();
	if (plain) {
		without_teacher(&x, student, target, v);
	} else if (t.form == TEACHER_DENSE) {
		x.p = side_of(teacher, scale, v);
		sum = dense(&x, &d, student, teacher, target, v);
	} else
		sum = sparse(&x, &d, student, &t, row, bits, target, v);
	if (threadIdx.x == 0)
		div[row] = plain ? 0 : (float)((double)d.tau * d.tau * sum);
	clear_rest(student, v, ld);
}

void
loss_cuda(float *logits, size_t ld, const int *targets, const struct teacher_rows *teacher, const struct divergence *d,
    float inv_count, float *ce, float *div, int m, int v)
{
	const struct teacher_rows none = {};
	struct teacher_rows t = teacher ? *teacher : none;
	size_t bits = t.form == TEACHER_NONE || t.form == TEACHER_DENSE ? 0 : ((size_t)v / 32 + 1) * sizeof(unsigned);

	if (!m)
		return;
	CUDA(cudaFuncSetAttribute(loss_rows, cudaFuncAttributeMaxDynamicSharedMemorySize, (int)bits));
	LAUNCH(loss_rows, (unsigned)m, ROW_THREADS, bits, logits, ld, targets, t, *d, inv_count, ce, div, v);
}

static __global__ void
__launch_bounds__(ROW_THREADS)
policy_rows(float *logits, size_t ld, const int *ids, const float *weight, const float *dense_teacher, size_t teacher_ld,
    float kl_weight, float scale, float *kl, int v)
{
	int row = (int)blockIdx.x;
	const struct divergence d = { LOSS_REVERSE_KL, 1, 1, 0, 0 };
	float *student = logits + row * ld;
	const float *teacher = dense_teacher + row * teacher_ld;
	double sum = 0;
	struct mix x;

	x.q1 = x.q = side_of(student, scale, v);
	x.w = weight[row] * scale;
	x.k = kl_weight * scale;
	if (dense_teacher) {
		x.p = side_of(teacher, scale, v);
		sum = dense(&x, &d, student, teacher, ids[row], v);
	} else
		without_teacher(&x, student, ids[row], v);
	if (threadIdx.x == 0)
		kl[row] = (float)sum;
	clear_rest(student, v, ld);
}

void
policy_cuda(float *logits, size_t ld, const int *ids, const float *weight, const struct teacher_rows *t, float kl_weight,
    float temperature, float *kl, int m, int v)
{
	const float *dense_teacher = t && t->form == TEACHER_DENSE ? t->dense : NULL;

	if (m)
		LAUNCH(policy_rows, (unsigned)m, ROW_THREADS, 0, logits, ld, ids, weight, dense_teacher, t ? t->ld : 0,
		    kl_weight, 1 / temperature, kl, v);
}
