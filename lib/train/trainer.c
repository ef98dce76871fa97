/* SPDX-License-Identifier: MIT */
#include <math.h>
#include <stdlib.h>

#include "lib/base/die.h"
#include "lib/base/mem.h"
#include "lib/train/trainer.h"

/* Logits of a chunk: so large that a pass over the head's gradient pays, so small that it does not count. */
enum { CHUNK_BYTES = 160 << 20, CHUNK_ROWS = 1024, CHUNK_UNIT = 16 };

int
trainer_chunk(int columns, int max_rows)
{
	int rows = CHUNK_BYTES / 4 / columns / CHUNK_UNIT * CHUNK_UNIT;

	if (rows < CHUNK_UNIT)
		rows = CHUNK_UNIT;
	if (rows > CHUNK_ROWS)
		rows = CHUNK_ROWS;
	return rows < max_rows ? rows : max_rows;
}

void
trainer_init(struct trainer *t, struct model *m, int columns, int max_rows, enum keep keep,
    struct teacher *teacher, const struct divergence *d)
{
	*t = (struct trainer){ .m = m, .teacher = teacher, .divergence = *d, .scale = 1, .max_rows = max_rows };
	model_rope(m, max_rows);
	t->forward = forward_new(m, max_rows, keep);
	t->head = head_new(m, columns, trainer_chunk(columns, max_rows));
	batch_init(&t->batch, m->be);
}

static void
forget_names(struct trainer *t)
{
	while (t->nnames)
		free(t->names[--t->nnames]);
}

void
trainer_free(struct trainer *t)
{
	forget_names(t);
	free(t->names);
	forward_free(t->forward);
	head_free(t->head);
	batch_free(&t->batch);
	t->m->be->free(t->d_losses);
	free(t->owner);
	free(t->losses);
}

size_t
trainer_bytes(const struct model *m, enum dtype type, int columns, int max_rows, enum keep keep)
{
	struct model as = *m;
	size_t bytes = 0;
	int i;

	as.type = type;
	for (i = 0; i < m->nstorage; i++)
		bytes += m->storage[i].n * (m->storage[i].matrix ? dtype_size(type) : sizeof(float));
	return bytes + forward_bytes(&as, max_rows, keep) +
	    head_bytes(&as, columns, trainer_chunk(columns, max_rows), max_rows);
}

void
trainer_begin(struct trainer *t)
{
	if (!t->pending)
		forget_names(t);
	batch_clear(&t->batch);
	if (t->teacher)
		teacher_clear(t->teacher);
}

int
trainer_add(struct trainer *t, const char *stream, const struct record *r, const struct example *e)
{
	const struct config *c = &t->m->config;

	if (e->rows > t->max_rows)
		die("%s: record '%s' needs %d tokens at once: --micro-tokens is %d", stream, e->id, e->rows, t->max_rows);
	if (c->family == FAMILY_GPT2 && e->rows > c->positions)
		die("%s: record '%s' needs %d positions, the model has %d", stream, e->id, e->rows, c->positions);
	if (t->batch.m + e->rows > t->max_rows)
		return 0;
	batch_add(&t->batch, e->ids, e->n, e->spans, e->nspans, 1);
	if (t->teacher)
		teacher_add(t->teacher, stream, r, e);
	MEM_PUSH(t->names, t->nnames, t->cap_names, mem_string(e->id));
	return 1;
}

static void
grow(struct trainer *t, int rows)
{
	const struct backend *be = t->m->be;
	size_t cap = 2 * (size_t)(t->pending + rows), bytes = (size_t)t->pending * sizeof *t->losses;
	float *larger;

	if (t->pending + rows <= t->cap_pending)
		return;
	larger = backend_alloc(be, 2 * cap, sizeof *larger, "the losses of a step");
	if (t->pending) {
		be->copy(larger, t->d_losses, bytes);
		be->copy(larger + cap, t->d_losses + t->cap_pending, bytes);
	}
	be->free(t->d_losses);
	t->d_losses = larger;
	t->owner = mem_grow(t->owner, cap, sizeof *t->owner);
	t->losses = mem_grow(t->losses, 2 * cap, sizeof *t->losses);
	t->cap_pending = (int)cap;
}

/* Let the losses of the batch wait, with whose they are. */
static void
keep(struct trainer *t)
{
	const struct batch *b = &t->batch;
	size_t bytes = (size_t)b->p * sizeof *t->losses;
	int first = t->nnames - b->nseq, s = 0, i;

	grow(t, b->p);
	t->m->be->copy(t->d_losses + t->pending, t->head->ce, bytes);
	t->m->be->copy(t->d_losses + t->cap_pending + t->pending, t->head->div, bytes);
	for (i = 0; i < b->p; i++) {
		while (b->offsets[s + 1] <= b->rows[i])
			s++;
		t->owner[t->pending++] = first + s;
	}
}

/* The loss of the batch whose states are `hidden`, and the gradient on these. */
static void *
lose(struct trainer *t, const void *hidden, struct gradients *g)
{
	teacher_fn *rows = t->teacher ? teacher_rows : NULL;

	if (!t->policy)
		return head_run(t->head, &t->batch, hidden, &t->divergence, rows, t->teacher, t->scale, g);
	if (!(t->policy->kl_weight > 0))
		rows = NULL;
	return head_policy(t->head, &t->batch, hidden, t->policy, rows, t->teacher, g);
}

void
trainer_run(struct trainer *t, struct gradients *g, uint64_t seed, uint32_t micro)
{
	struct batch *b = &t->batch;
	const void *hidden;
	void *dhidden;

	batch_upload(b);
	if (t->teacher)
		teacher_begin(t->teacher, b);
	hidden = forward_run(t->forward, b, NULL, FOR_TRAINING, seed, micro);
	dhidden = lose(t, hidden, g);
	keep(t);
	forward_backward(t->forward, b, dhidden, g);
	t->tokens += (uint64_t)b->m;
}

const char *
trainer_collect(struct trainer *t, struct sums *sums)
{
	const float *ce = t->losses, *div = t->losses + t->pending;
	size_t bytes = (size_t)t->pending * sizeof *t->losses;
	int i, n = t->pending;

	if (!n)
		return NULL;
	t->m->be->download(t->losses, t->d_losses, bytes);
	t->m->be->download(t->losses + n, t->d_losses + t->cap_pending, bytes);
	t->pending = 0;
	for (i = 0; i < n; i++) {
		if (!isfinite(ce[i]) || !isfinite(div[i]))
			return t->names[t->owner[i]];
		sums->ce += ce[i];
		sums->div += div[i];
	}
	sums->targets += (uint64_t)n;
	sums->tokens += t->tokens;
	t->tokens = 0;
	return NULL;
}

void
trainer_score(struct trainer *t, struct sums *sums)
{
	struct batch *b = &t->batch;
	int i;

	batch_upload(b);
	grow(t, b->p);
	head_logprob(t->head, b, forward_run(t->forward, b, NULL, FOR_SCORES, 0, 0), 1, t->losses, NULL);
	t->m->be->sync();
	for (i = 0; i < b->p; i++)
		sums->ce -= t->losses[i];
	sums->targets += (uint64_t)b->p;
	sums->tokens += (uint64_t)b->m;
}

void
trainer_judge(struct trainer *t, float *logp)
{
	batch_upload(&t->batch);
	teacher_begin(t->teacher, &t->batch);
	head_judge(t->head, &t->batch, teacher_rows, t->teacher, logp);
}
