/* SPDX-License-Identifier: MIT */
#include <stdlib.h>
#include <string.h>

#include "lib/base/mem.h"
#include "lib/train/head.h"

struct head *
head_new(struct model *m, int columns, int chunk)
{
	struct head *h = mem_zero(1, sizeof *h);
	size_t x = (size_t)chunk * (size_t)m->config.hidden * dtype_size(m->type);

	h->m = m;
	h->columns = columns;
	h->chunk = chunk;
	h->x = backend_alloc(m->be, x, 1, "the head's logits");
	h->dx = backend_alloc(m->be, x, 1, "the head's logits");
	h->logits = backend_alloc(m->be, (size_t)chunk * (size_t)columns, sizeof *h->logits, "the head's logits");
	return h;
}

void
head_free(struct head *h)
{
	const struct backend *be;

	if (!h)
		return;
	be = h->m->be;
	be->free(h->x);
	be->free(h->dx);
	be->free(h->logits);
	be->free(h->exact);
	be->free(h->ce);
	be->free(h->div);
	be->free(h->weight);
	be->free(h->entropy);
	be->free(h->dhidden);
	free(h);
}

size_t
head_bytes(const struct model *m, int columns, int chunk, int max_rows)
{
	size_t hidden = (size_t)m->config.hidden * dtype_size(m->type);

	return (size_t)chunk * (2 * hidden + (size_t)columns * sizeof(float)) +
	    (size_t)max_rows * (hidden + 4 * sizeof(float));
}

static void
grow(struct head *h, int m, int p)
{
	const struct backend *be = h->m->be;

	if (p > h->cap) {
		be->free(h->ce);
		be->free(h->div);
		be->free(h->weight);
		be->free(h->entropy);
		h->cap = p;
		h->ce = backend_alloc(be, (size_t)p, sizeof *h->ce, "the head's logits");
		h->div = backend_alloc(be, (size_t)p, sizeof *h->div, "the head's logits");
		h->weight = backend_alloc(be, (size_t)p, sizeof *h->weight, "the head's logits");
		h->entropy = backend_alloc(be, (size_t)p, sizeof *h->entropy, "the head's logits");
	}
	if (m > h->cap_m) {
		be->free(h->dhidden);
		h->cap_m = m;
		h->dhidden = backend_alloc(be, (size_t)m * (size_t)h->m->config.hidden, dtype_size(h->m->type),
		    "the head's logits");
	}
}

/* h->logits of supervised rows first .. first+count-1. */
static void
logits(struct head *h, const struct batch *b, const void *hidden, enum purpose purpose, int first, int count)
{
	const struct model *m = h->m;

	m->be->gather(h->x, hidden, m->type, b->d_rows + first, count, m->config.hidden);
	(purpose == FOR_TRAINING ? m->be->matmul_train : m->be->matmul)(h->logits, DT_F32, h->x, m->type, &m->head, NULL,
	    count, h->columns, 0);
}

static int
chunk_at(const struct head *h, int first, int end)
{
	return end - first < h->chunk ? end - first : h->chunk;
}

/* From the gradient on the chunk's logits to those on the head and on the states. */
static void
backward(struct head *h, const struct batch *b, int first, int count, struct gradients *g)
{
	const struct model *m = h->m;
	const struct backend *be = m->be;
	float *dw = gradient_of(g, m->config.tied ? &m->embed : &m->head);

	be->matmul_dw(dw, &m->head, h->logits, DT_F32, h->x, m->type, count, h->columns);
	be->matmul_dx(h->dx, m->type, h->logits, DT_F32, &m->head, count, h->columns, 0);
	be->scatter(h->dhidden, h->dx, m->type, b->d_rows + first, count, m->config.hidden);
}

static void
begin(struct head *h, const struct batch *b)
{
	const struct model *m = h->m;

	grow(h, b->m, b->p);
	m->be->zero(h->dhidden, (size_t)b->m * (size_t)m->config.hidden * dtype_size(m->type));
}

void *
head_run(struct head *h, const struct batch *b, const void *hidden, const struct divergence *d,
    teacher_fn *teacher, void *user, float inv_count, struct gradients *g)
{
	int first, count;

	begin(h, b);
	for (first = 0; first < b->p; first += count) {
		struct teacher_rows t = { .form = TEACHER_NONE };

		count = chunk_at(h, first, b->p);
		if (teacher)
			teacher(&t, first, count, user);
		logits(h, b, hidden, FOR_TRAINING, first, count);
		h->m->be->loss(h->logits, (size_t)h->columns, b->d_targets + first, &t, d, inv_count, h->ce + first,
		    h->div + first, count, h->columns);
		backward(h, b, first, count, g);
	}
	return h->dhidden;
}

/* Log-probabilities of the targets first .. end-1, entropies where wanted; the last logits stay. */
static void
logprob(struct head *h, const struct batch *b, const void *hidden, float temperature, float *logp, float *entropy,
    int first, int end)
{
	int count;

	for (; first < end; first += count) {
		count = chunk_at(h, first, end);
		logits(h, b, hidden, FOR_SCORES, first, count);
		h->m->be->logprob(logp + first, entropy ? entropy + first : NULL, h->logits, (size_t)h->columns,
		    b->d_targets + first, temperature, count, h->columns);
	}
}

/*
 * The sequences from s on, at least one, whose targets, `first` and the following, fit into a chunk: their end, and
 * that of the targets.
 */
static int
whole_sequences(const struct head *h, const struct batch *b, int s, int first, int *end)
{
	int e = first;

	*end = first;
	do {
		while (e < b->p && b->rows[e] < b->offsets[s + 1])
			e++;
		if (*end > first && e - first > h->chunk)
			break;
		*end = e;
		s++;
	} while (s < b->nseq);
	return s;
}

/* Log-probabilities go to the host, weights come back. */
static void
weigh(void *weight, size_t bytes, void *user)
{
	struct policy_loss *loss = user;
	float *logp = mem_copy(weight, bytes);

	loss->weights(weight, logp, loss->first, (int)(bytes / sizeof *logp), loss->user);
	free(logp);
	free(loss);
}

/* h->weight and h->ce of targets whose log-probabilities stand in h->weight. */
static void
weigh_rows(struct head *h, const struct policy_loss *loss, int first, int count)
{
	const struct backend *be = h->m->be;
	size_t bytes = (size_t)count * sizeof *h->weight;
	struct policy_loss *of_rows = mem_copy(loss, sizeof *loss);

	be->zero(h->ce + first, bytes);
	be->add(h->ce + first, -1, h->weight + first, DT_F32, (size_t)count);
	of_rows->first += first;
	be->visit(h->weight + first, bytes, weigh, of_rows);
}

void *
head_policy(struct head *h, const struct batch *b, const void *hidden, const struct policy_loss *loss,
    teacher_fn *teacher, void *user, struct gradients *g)
{
	int first, count, end, again, s;

	begin(h, b);
	for (first = s = 0; s < b->nseq;) {
		s = whole_sequences(h, b, s, first, &end);
		again = end - first > h->chunk;
		logprob(h, b, hidden, loss->temperature, h->weight, loss->entropy ? h->entropy : NULL, first, end);
		weigh_rows(h, loss, first, end - first);
		for (; first < end; first += count) {
			struct teacher_rows t = { .form = TEACHER_NONE };

			count = chunk_at(h, first, end);
			if (teacher)
				teacher(&t, first, count, user);
			if (again)
				logits(h, b, hidden, FOR_SCORES, first, count);
			h->m->be->policy(h->logits, (size_t)h->columns, b->d_targets + first, h->weight + first, &t,
			    loss->kl_weight, loss->temperature, h->div + first, count, h->columns);
			backward(h, b, first, count, g);
		}
	}
	return h->dhidden;
}

static void
bring(void *host, size_t bytes, void *to)
{
	if (bytes)
		memcpy(to, host, bytes);
}

void
head_logprob(struct head *h, const struct batch *b, const void *hidden, float temperature, float *logp,
    float *entropy)
{
	size_t bytes = (size_t)b->p * sizeof *logp;

	grow(h, 0, b->p);
	logprob(h, b, hidden, temperature, h->ce, entropy ? h->entropy : NULL, 0, b->p);
	h->m->be->visit(h->ce, bytes, bring, logp);
	if (entropy)
		h->m->be->visit(h->entropy, bytes, bring, entropy);
}

void
head_judge(struct head *h, const struct batch *b, teacher_fn *teacher, void *user, float *logp)
{
	struct teacher_rows t;
	int first, count;

	grow(h, 0, b->p);
	for (first = 0; first < b->p; first += count) {
		count = chunk_at(h, first, b->p);
		teacher(&t, first, count, user);
		h->m->be->logprob(h->ce + first, NULL, t.dense, t.ld, b->d_targets + first, 1, count, h->columns);
	}
	h->m->be->visit(h->ce, (size_t)b->p * sizeof *logp, bring, logp);
}

void
head_rounding(struct head *h, const struct batch *b, const void *hidden, float *kl)
{
	const struct divergence d = { .kind = LOSS_FORWARD_KL, .kd_ratio = 1, .tau = 1 };
	const struct model *m = h->m;
	size_t columns = (size_t)h->columns;
	struct teacher_rows exact = { .form = TEACHER_DENSE, .ld = columns };
	int first, count;

	grow(h, 0, b->p);
	if (!h->exact)
		h->exact = backend_alloc(m->be, (size_t)h->chunk * columns, sizeof *h->exact, "the head's logits");
	exact.dense = h->exact;
	for (first = 0; first < b->p; first += count) {
		count = chunk_at(h, first, b->p);
		logits(h, b, hidden, FOR_SCORES, first, count);
		m->be->matmul(h->exact, DT_F32, h->x, m->type, &m->exact_head, NULL, count, h->columns, 0);
		m->be->loss(h->logits, columns, b->d_targets + first, &exact, &d, 1, h->ce + first, h->div + first, count,
		    h->columns);
	}
	m->be->visit(h->div, (size_t)b->p * sizeof *kl, bring, kl);
}
