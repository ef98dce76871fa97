/* SPDX-License-Identifier: MIT */
#include <stdlib.h>

#include "lib/base/die.h"
#include "lib/base/mem.h"
#include "lib/train/head.h"

static void *
allocate(const struct backend *be, size_t bytes)
{
	void *p = be->alloc(bytes);

	if (!p)
		die("out of memory for the head's logits");
	return p;
}

struct head *
head_new(struct model *m, int columns, int chunk)
{
	struct head *h = mem_zero(1, sizeof *h);
	size_t x = (size_t)chunk * (size_t)m->config.hidden * dtype_size(m->type);

	h->m = m;
	h->columns = columns;
	h->chunk = chunk;
	h->x = allocate(m->be, x);
	h->dx = allocate(m->be, x);
	h->logits = allocate(m->be, (size_t)chunk * (size_t)columns * sizeof *h->logits);
	h->weight = allocate(m->be, (size_t)chunk * sizeof *h->weight);
	h->host_logp = mem_zero((size_t)chunk, sizeof *h->host_logp);
	h->host_weight = mem_zero((size_t)chunk, sizeof *h->host_weight);
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
	be->free(h->weight);
	free(h->host_logp);
	free(h->host_weight);
	be->free(h->ce);
	be->free(h->div);
	be->free(h->dhidden);
	free(h);
}

size_t
head_bytes(const struct model *m, int columns, int chunk, int max_rows)
{
	size_t hidden = (size_t)m->config.hidden * dtype_size(m->type);

	return (size_t)chunk * (2 * hidden + (size_t)columns * sizeof(float)) +
	    (size_t)max_rows * (hidden + 2 * sizeof(float));
}

static void
grow(struct head *h, int m, int p)
{
	const struct backend *be = h->m->be;

	if (p > h->cap) {
		be->free(h->ce);
		be->free(h->div);
		h->cap = p;
		h->ce = allocate(be, (size_t)p * sizeof *h->ce);
		h->div = allocate(be, (size_t)p * sizeof *h->div);
	}
	if (m > h->cap_m) {
		be->free(h->dhidden);
		h->cap_m = m;
		h->dhidden = allocate(be, (size_t)m * (size_t)h->m->config.hidden * dtype_size(h->m->type));
	}
}

/* h->logits of supervised rows first .. first+count-1. */
static void
logits(struct head *h, const struct batch *b, const void *hidden, int first, int count)
{
	const struct model *m = h->m;

	m->be->gather(h->x, hidden, m->type, b->d_rows + first, count, m->config.hidden);
	m->be->matmul(h->logits, DT_F32, h->x, m->type, &m->head, NULL, count, h->columns, 0);
}

static int
chunk_at(const struct head *h, const struct batch *b, int first)
{
	return b->p - first < h->chunk ? b->p - first : h->chunk;
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

		count = chunk_at(h, b, first);
		if (teacher)
			teacher(&t, first, count, user);
		logits(h, b, hidden, first, count);
		h->m->be->loss(h->logits, (size_t)h->columns, b->d_targets + first, &t, d, inv_count, h->ce + first,
		    h->div + first, count, h->columns);
		backward(h, b, first, count, g);
	}
	return h->dhidden;
}

/* Leaves h->logits, and h->ce of the chunk's ids. */
static void
weigh(struct head *h, const struct batch *b, const struct policy_loss *loss, int first, int count)
{
	const struct backend *be = h->m->be;
	size_t bytes = (size_t)count * sizeof *h->weight;
	int i;

	be->logprob(h->ce + first, NULL, h->logits, (size_t)h->columns, b->d_targets + first, loss->temperature,
	    count, h->columns);
	be->download(h->host_logp, h->ce + first, bytes);
	loss->weights(h->host_weight, h->host_logp, first, count, loss->user);
	be->upload(h->weight, h->host_weight, bytes);
	for (i = 0; i < count; i++)
		h->host_logp[i] = -h->host_logp[i];
	be->upload(h->ce + first, h->host_logp, bytes);
}

void *
head_policy(struct head *h, const struct batch *b, const void *hidden, const struct policy_loss *loss,
    teacher_fn *teacher, void *user, struct gradients *g)
{
	int first, count;

	begin(h, b);
	for (first = 0; first < b->p; first += count) {
		struct teacher_rows t = { .form = TEACHER_NONE };

		count = chunk_at(h, b, first);
		if (teacher)
			teacher(&t, first, count, user);
		logits(h, b, hidden, first, count);
		weigh(h, b, loss, first, count);
		h->m->be->policy(h->logits, (size_t)h->columns, b->d_targets + first, h->weight, &t, loss->kl_weight,
		    loss->temperature, h->div + first, count, h->columns);
		backward(h, b, first, count, g);
	}
	return h->dhidden;
}

void
head_logprob(struct head *h, const struct batch *b, const void *hidden, float temperature, float *logp,
    float *entropy)
{
	const struct backend *be = h->m->be;
	size_t bytes = (size_t)b->p * sizeof *logp;
	int first, count;

	grow(h, 0, b->p);
	for (first = 0; first < b->p; first += count) {
		count = chunk_at(h, b, first);
		logits(h, b, hidden, first, count);
		be->logprob(h->ce + first, entropy ? h->div + first : NULL, h->logits, (size_t)h->columns,
		    b->d_targets + first, temperature, count, h->columns);
	}
	be->download(logp, h->ce, bytes);
	if (entropy)
		be->download(entropy, h->div, bytes);
}
