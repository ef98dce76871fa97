/* SPDX-License-Identifier: MIT */
#include <math.h>
#include <stdlib.h>

#include "lib/base/mem.h"
#include "lib/quant/calibrate.h"

enum { LOGITS = 128 };		/* rows of logits at a time */

static size_t
largest(size_t a, size_t b)
{
	return a > b ? a : b;
}

static size_t
attention_width(const struct model *m)
{
	return (size_t)m->config.heads * (size_t)m->config.d;
}

void
calibration_init(struct calibration *c, struct model *m, int rows, int corrected)
{
	*c = (struct calibration){ .m = m, .rows = rows, .corrected = corrected,
	    .widest = largest(attention_width(m), (size_t)m->config.ffn) };
}

void
calibration_free(struct calibration *c)
{
	void *memory[] = { c->x, c->y, c->inner, c->normed, c->qkv, c->up, c->ax, c->ay };
	size_t i;

	for (i = 0; i < sizeof memory / sizeof *memory; i++)
		c->m->be->free(memory[i]);
	for (i = 0; i < (size_t)c->n; i++)
		batch_free(&c->chunks[i].batch);
	free(c->chunks);
}

void
calibration_add(struct calibration *c, const int32_t *ids, int n, const int32_t *spans, int nspans,
    int held_out)
{
	int *open = &c->open[!!held_out];

	if (!*open || c->chunks[*open - 1].batch.m + n > c->rows) {
		struct chunk chunk = { .held_out = held_out };

		batch_init(&chunk.batch, c->m->be);
		MEM_PUSH(c->chunks, c->n, c->cap, chunk);
		*open = c->n;
	}
	batch_add(&c->chunks[*open - 1].batch, ids, n, spans, nspans, 0);
	c->most = (int)largest((size_t)c->most, (size_t)c->chunks[*open - 1].batch.m);
	c->total += (size_t)n;
	c->calibrated += held_out ? 0 : (size_t)n;
	model_rope(c->m, n);
}

static size_t
chunk_width(const struct calibration *c)
{
	const struct model *m = c->m;
	size_t hidden = (size_t)m->config.hidden;

	return hidden + (size_t)m->blocks[0].qkv.w.n + (size_t)m->blocks[0].up.w.n +
	    largest(c->widest, hidden) + hidden;
}

size_t
calibration_bytes(const struct calibration *c)
{
	size_t streams = c->total * (2 * (size_t)c->m->config.hidden + c->widest);

	return (streams + (size_t)c->most * chunk_width(c)) * dtype_size(c->m->type);
}

static void *
allocate(const struct calibration *c, size_t rows, size_t width)
{
	return backend_alloc(c->m->be, mem_mul(rows, width), dtype_size(c->m->type), "the activations");
}

static void *
at(const struct calibration *c, void *stream, const struct chunk *chunk, size_t width)
{
	return (char *)stream + chunk->first * width * dtype_size(c->m->type);
}

void
calibration_start(struct calibration *c)
{
	const struct model *m = c->m;
	size_t hidden = (size_t)m->config.hidden, most = (size_t)c->most, first = 0;
	int i;

	c->x = allocate(c, c->total, hidden);
	c->y = allocate(c, c->total, hidden);
	c->inner = allocate(c, c->total, c->widest);
	c->normed = allocate(c, most, hidden);
	c->qkv = allocate(c, most, (size_t)m->blocks[0].qkv.w.n);
	c->up = allocate(c, most, (size_t)m->blocks[0].up.w.n);
	c->ax = allocate(c, most, largest(c->widest, hidden));
	c->ay = allocate(c, most, hidden);
	for (i = 0; i < c->n; i++) {
		struct chunk *chunk = &c->chunks[i];

		chunk->first = first;
		first += (size_t)chunk->batch.m;
		batch_upload(&chunk->batch);
		m->be->embed(at(c, c->x, chunk, hidden), m->type, &m->embed, m->position.data ? &m->position : NULL,
		    chunk->batch.d_ids, chunk->batch.d_positions, chunk->batch.m);
	}
	m->be->copy(c->y, c->x, c->total * hidden * dtype_size(m->type));
}

static void
linear(const struct calibration *c, void *out, const void *in, const struct linear *l, int m, int accumulate)
{
	c->m->be->matmul(out, c->m->type, in, c->m->type, &l->w, l->b, m, l->w.n, accumulate);
}

static void
norm(const struct calibration *c, void *out, const void *in, const struct norm *n, int m)
{
	c->m->be->norm(out, in, c->m->type, n->w, n->b, c->m->config.norm_eps, NULL, m, c->m->config.hidden);
}

static void
attend(const struct calibration *c, const struct chunk *chunk, const struct block *b, const void *s, void *out)
{
	const struct model *m = c->m;
	const struct config *g = &m->config;
	struct heads h = { g->heads, g->kv_heads, g->d, 1 / sqrtf((float)g->d) };
	struct ragged seq = batch_ragged(&chunk->batch);
	struct dropout none = { .p = 0 };
	int rows = chunk->batch.m;

	norm(c, c->normed, s, &b->norm1, rows);
	linear(c, c->qkv, c->normed, &b->qkv, rows, 0);
	if (m->rope)
		m->be->rope(c->qkv, m->type, m->rope, chunk->batch.d_positions, rows, b->qkv.w.n,
		    g->heads + g->kv_heads, g->d, 0);
	m->be->attention(out, NULL, c->qkv, m->type, &seq, &h, &none);
}

static void
activate(const struct calibration *c, const struct block *b, const void *s, void *out, int rows)
{
	const struct model *m = c->m;

	norm(c, c->normed, s, &b->norm2, rows);
	linear(c, c->up, c->normed, &b->up, rows, 0);
	if (m->config.family == FAMILY_GPT2)
		m->be->gelu(out, c->up, m->type, (size_t)rows * (size_t)m->config.ffn);
	else
		m->be->swiglu(out, c->up, m->type, rows, m->config.ffn);
}

/* A stage's inputs from the stream s, which the stages before it have brought there. */
static void
inputs(const struct calibration *c, const struct chunk *chunk, enum stage stage, const struct block *b,
    const void *s, void *out)
{
	switch (stage) {
	case STAGE_QKV:
		norm(c, out, s, &b->norm1, chunk->batch.m);
		break;
	case STAGE_O:
		attend(c, chunk, b, s, out);
		break;
	case STAGE_UP:
		norm(c, out, s, &b->norm2, chunk->batch.m);
		break;
	case STAGE_DOWN:
		activate(c, b, s, out, chunk->batch.m);
		break;
	case STAGE_END:
		break;
	}
}

/* The layer whose outputs are added to the stream, once a stage's inputs are there. */
static const struct linear *
adds(const struct block *b, enum stage stage)
{
	return stage == STAGE_O ? &b->o : stage == STAGE_DOWN ? &b->down : NULL;
}

void
calibration_pass(struct calibration *c, enum stage stage, const struct block *block, const struct block *q,
    int with_x, struct hessian *h)
{
	size_t hidden = (size_t)c->m->config.hidden;
	const struct linear *late = stage == STAGE_QKV ? NULL : adds(q, stage - 1), *now = adds(block, stage);
	int i;

	for (i = 0; i < c->n; i++) {
		const struct chunk *chunk = &c->chunks[i];
		void *y = at(c, c->y, chunk, hidden), *x = at(c, c->x, chunk, hidden);
		void *inner = at(c, c->inner, chunk, c->widest), *in = now ? inner : c->ay;
		int rows = chunk->batch.m, has_x = with_x && (c->corrected || chunk->held_out);

		if (late)
			linear(c, y, inner, late, rows, 1);
		inputs(c, chunk, stage, q, y, in);
		if (has_x) {
			inputs(c, chunk, stage, block, x, c->ax);
			if (now)
				linear(c, x, c->ax, now, rows, 1);
		}
		if (h && !chunk->held_out)
			hessian_add(h, in, c->ax, rows);
	}
}

void
calibration_pass_head(struct calibration *c, struct hessian *h)
{
	size_t hidden = (size_t)c->m->config.hidden;
	int i;

	for (i = 0; i < c->n; i++) {
		const struct chunk *chunk = &c->chunks[i];

		if (chunk->held_out)
			continue;
		norm(c, c->ay, at(c, c->y, chunk, hidden), &c->m->final, chunk->batch.m);
		if (c->corrected)
			norm(c, c->ax, at(c, c->x, chunk, hidden), &c->m->final, chunk->batch.m);
		hessian_add(h, c->ay, c->ax, chunk->batch.m);
	}
}

/* Sums over supervised rows first .. first+count-1 of a chunk, whose final states are ax and ay. */
static void
compare(const struct calibration *c, const struct batch *b, const struct weight *q, int first, int count,
    float *logits[2], void *gathered, float *terms[3], struct measure *sums)
{
	const struct model *m = c->m;
	const struct backend *be = m->be;
	const struct divergence kl = { .kind = LOSS_FORWARD_KL, .kd_ratio = 1, .tau = 1 };
	struct teacher_rows teacher = { .form = TEACHER_DENSE, .dense = logits[0], .ld = (size_t)m->config.vocab };
	size_t bytes = (size_t)count * sizeof(float);
	float host[3][LOGITS];
	int v = m->config.vocab, i;

	be->gather(gathered, c->ax, m->type, b->d_rows + first, count, m->config.hidden);
	be->matmul(logits[0], DT_F32, gathered, m->type, &m->head, NULL, count, v, 0);
	be->gather(gathered, c->ay, m->type, b->d_rows + first, count, m->config.hidden);
	be->matmul(logits[1], DT_F32, gathered, m->type, q, NULL, count, v, 0);
	be->logprob(terms[0], NULL, logits[0], (size_t)v, b->d_targets + first, 1, count, v);
	be->loss(logits[1], (size_t)v, b->d_targets + first, &teacher, &kl, 1, terms[1], terms[2], count, v);
	for (i = 0; i < 3; i++)
		be->download(host[i], terms[i], bytes);
	for (i = 0; i < count; i++) {
		sums->nll -= host[0][i];
		sums->quantised_nll += host[1][i];
		sums->kl += host[2][i];
	}
	sums->targets += count;
}

struct measure
calibration_measure(struct calibration *c, const struct weight *q)
{
	const struct backend *be = c->m->be;
	size_t hidden = (size_t)c->m->config.hidden, v = (size_t)c->m->config.vocab;
	float *logits[2] = { backend_alloc(be, LOGITS * v, sizeof(float), "the logits"),
	    backend_alloc(be, LOGITS * v, sizeof(float), "the logits") };
	float *memory = backend_alloc(be, 3 * LOGITS, sizeof(float), "the logits");
	float *terms[3];
	void *gathered = allocate(c, LOGITS, hidden);
	struct measure s = { .targets = 0 };
	int i, first;

	for (i = 0; i < 3; i++)
		terms[i] = memory + i * LOGITS;
	for (i = 0; i < c->n; i++) {
		const struct chunk *chunk = &c->chunks[i];

		if (!chunk->held_out)
			continue;
		norm(c, c->ax, at(c, c->x, chunk, hidden), &c->m->final, chunk->batch.m);
		norm(c, c->ay, at(c, c->y, chunk, hidden), &c->m->final, chunk->batch.m);
		for (first = 0; first < chunk->batch.p; first += LOGITS)
			compare(c, &chunk->batch, q, first, chunk->batch.p - first < LOGITS ?
			    chunk->batch.p - first : LOGITS, logits, gathered, terms, &s);
	}
	be->free(logits[0]);
	be->free(logits[1]);
	be->free(memory);
	be->free(gathered);
	s.nll /= (double)s.targets;
	s.quantised_nll /= (double)s.targets;
	s.kl /= (double)s.targets;
	return s;
}
