/* SPDX-License-Identifier: MIT */
#include <math.h>
#include <stdlib.h>

#include "lib/base/die.h"
#include "lib/base/mem.h"
#include "lib/model/forward.h"

/* What a block keeps for its backward. With less than KEEP_ALL the blocks share these buffers. */
struct kept {
	void *x;		/* [m, hidden] input */
	void *qkv;		/* [m, (heads + 2 kv_heads) d], rotated */
	void *attention;	/* [m, heads d] */
	float *lse;		/* [m, heads] */
	void *middle;		/* [m, hidden] after the attention */
	void *up;		/* [m, n of up] */
};

struct forward {
	struct model *m;
	const struct backend *be;
	enum keep keep;
	int max_rows;
	struct kept *blocks;	/* [layers] */
	void *last;		/* [m, hidden] output of the last block */
	void *hidden;		/* [m, hidden] after the final norm */
	void *normed;		/* [m, hidden] */
	void *active;		/* [m, ffn] */
	float *stats;		/* [m, 2] */
	void *dup, *dactive;	/* [m, n of up], [m, ffn]; backward only */
	void *dqkv, *dnormed;	/* [m, n of qkv], [m, max(hidden, heads d)]; backward only */
	void *dx;		/* [m, hidden]; backward only */
	void **allocated;
	int nallocated, cap_allocated;
	enum purpose purpose;	/* of the last run */
	uint64_t seed;
	uint32_t step;
};

struct sizes {
	size_t hidden, qkv, attention, up, ffn, element;
};

static struct sizes
sizes_of(const struct model *m)
{
	const struct config *c = &m->config;
	const struct block *b = m->blocks;

	return (struct sizes){
		.hidden = (size_t)c->hidden, .qkv = (size_t)b->qkv.w.n, .attention = (size_t)(c->heads * c->d),
		.up = (size_t)b->up.w.n, .ffn = (size_t)c->ffn, .element = dtype_size(m->type),
	};
}

static void *
allocate(struct forward *f, size_t bytes)
{
	void *p = backend_alloc(f->be, bytes, 1, "the activations");

	MEM_PUSH(f->allocated, f->nallocated, f->cap_allocated, p);
	return p;
}

static void
allocate_inner(struct forward *f, struct kept *k, const struct sizes *s)
{
	size_t m = (size_t)f->max_rows;

	k->qkv = allocate(f, m * s->qkv * s->element);
	k->attention = allocate(f, m * s->attention * s->element);
	k->lse = f->keep == KEEP_NONE ? NULL : allocate(f, m * (size_t)f->m->config.heads * sizeof(float));
	k->middle = f->keep == KEEP_NONE ? k->x : allocate(f, m * s->hidden * s->element);
	k->up = allocate(f, m * s->up * s->element);
}

struct forward *
forward_new(struct model *m, int max_rows, enum keep keep)
{
	struct forward *f = mem_zero(1, sizeof *f);
	struct sizes s = sizes_of(m);
	size_t rows = (size_t)max_rows, x = rows * s.hidden * s.element;
	size_t widest = s.hidden > s.attention ? s.hidden : s.attention;
	int l;

	f->m = m;
	f->be = m->be;
	f->keep = keep;
	f->max_rows = max_rows;
	f->blocks = mem_zero((size_t)m->config.layers, sizeof *f->blocks);
	for (l = 0; l < m->config.layers; l++) {
		struct kept *k = &f->blocks[l];

		if (l && keep != KEEP_ALL)
			*k = f->blocks[0];
		if (!l || keep != KEEP_NONE)
			k->x = allocate(f, x);
		if (!l || keep == KEEP_ALL)
			allocate_inner(f, k, &s);
	}
	f->last = keep == KEEP_NONE ? f->blocks[0].x : allocate(f, x);
	f->hidden = allocate(f, x);
	f->normed = allocate(f, x);
	f->active = allocate(f, rows * s.ffn * s.element);
	f->stats = allocate(f, rows * 2 * sizeof(float));
	if (keep != KEEP_NONE) {
		f->dup = allocate(f, rows * s.up * s.element);
		f->dactive = allocate(f, rows * s.ffn * s.element);
		f->dqkv = allocate(f, rows * s.qkv * s.element);
		f->dnormed = allocate(f, rows * widest * s.element);
		f->dx = allocate(f, x);
	}
	return f;
}

size_t
forward_bytes(const struct model *m, int max_rows, enum keep keep)
{
	struct sizes s = sizes_of(m);
	size_t layers = (size_t)m->config.layers;
	size_t inner = (s.qkv + s.attention + s.up + (keep == KEEP_NONE ? 0 : s.hidden)) * s.element +
	    (keep == KEEP_NONE ? 0 : (size_t)m->config.heads * sizeof(float));
	size_t inputs = s.hidden * s.element * (keep == KEEP_NONE ? 1 : layers + 1);
	size_t widest = s.hidden > s.attention ? s.hidden : s.attention;
	size_t scratch = (2 * s.hidden + s.ffn) * s.element + 2 * sizeof(float);
	size_t backward = keep == KEEP_NONE ? 0 : (s.up + s.ffn + s.qkv + widest + s.hidden) * s.element;

	return (size_t)max_rows * (inputs + inner * (keep == KEEP_ALL ? layers : 1) + scratch + backward);
}

void
forward_free(struct forward *f)
{
	int i;

	if (!f)
		return;
	for (i = 0; i < f->nallocated; i++)
		f->be->free(f->allocated[i]);
	free(f->allocated);
	free(f->blocks);
	free(f);
}

/* The places where GPT-2 drops: embedding, attention, and the two sums into the residual stream. */
enum place { DROP_EMBED, DROP_ATTENTION, DROP_MIDDLE, DROP_OUTPUT, DROP_PLACES };

static struct dropout
drop_at(const struct forward *f, int layer, enum place place)
{
	const struct config *c = &f->m->config;
	float p = place == DROP_EMBED ? c->embed_drop :
	    place == DROP_ATTENTION ? c->attention_drop : c->residual_drop;

	return (struct dropout){
		.p = f->purpose == FOR_SCORES ? 0 : p, .seed = f->seed,
		.stream = (f->step * (uint32_t)(c->layers + 1) + (uint32_t)layer) * DROP_PLACES + place,
	};
}

static void
apply_norm(const struct forward *f, void *y, const void *x, const struct norm *n, int m)
{
	f->be->norm(y, x, f->m->type, n->w, n->b, f->m->config.norm_eps, f->stats, m, f->m->config.hidden);
}

static void
activate(const struct forward *f, const struct kept *k, int m)
{
	if (f->m->config.family == FAMILY_GPT2)
		f->be->gelu(f->active, k->up, f->m->type, (size_t)m * (size_t)f->m->config.ffn);
	else
		f->be->swiglu(f->active, k->up, f->m->type, m, f->m->config.ffn);
}

static void
linear(const struct forward *f, void *y, const void *x, const struct linear *l, int m, int accumulate)
{
	(f->purpose == FOR_TRAINING ? f->be->matmul_train : f->be->matmul)(y, f->m->type, x, f->m->type, &l->w, l->b, m,
	    l->w.n, accumulate);
}

/* out = x + dropout(in W^T + b): a sum into the residual stream; `out` may be x. */
static void
residual(const struct forward *f, void *out, const void *x, const void *in, const struct linear *l,
    struct dropout drop, int m)
{
	size_t n = (size_t)m * (size_t)f->m->config.hidden;

	if (out != x)
		f->be->copy(out, x, n * dtype_size(f->m->type));
	if (!drop.p) {
		linear(f, out, in, l, m, 1);
		return;
	}
	linear(f, f->normed, in, l, m, 0);
	f->be->dropout(f->normed, f->normed, f->m->type, n, &drop);
	f->be->add(out, 1, f->normed, f->m->type, n);
}

static struct heads
heads_of(const struct model *m)
{
	const struct config *c = &m->config;

	return (struct heads){ c->heads, c->kv_heads, c->d, 1 / sqrtf((float)c->d) };
}

/* From k->x to k->middle. */
static void
attend(struct forward *f, int layer, const struct batch *b, const struct cache *cache)
{
	const struct block *block = &f->m->blocks[layer];
	const struct kept *k = &f->blocks[layer];
	const struct config *c = &f->m->config;
	const struct backend *be = f->be;
	struct heads h = heads_of(f->m);
	struct dropout drop = drop_at(f, layer, DROP_ATTENTION);
	struct ragged seq = batch_ragged(b);

	apply_norm(f, f->normed, k->x, &block->norm1, b->m);
	linear(f, k->qkv, f->normed, &block->qkv, b->m, 0);
	if (f->m->rope)
		be->rope(k->qkv, f->m->type, f->m->rope, b->d_positions, b->m, block->qkv.w.n,
		    c->heads + c->kv_heads, c->d, 0);
	if (cache) {
		struct kv kv = cache->kv;

		be->kv_store(&kv, layer, k->qkv, f->m->type, cache->page, cache->place, b->m, &h);
	}
	if (cache && cache->tables)
		be->attention_paged(k->attention, k->qkv, f->m->type, &cache->kv, layer, cache->tables,
		    cache->ntables, cache->length, b->m, &h);
	else
		be->attention(k->attention, k->lse, k->qkv, f->m->type, &seq, &h, &drop);
	residual(f, k->middle, k->x, k->attention, &block->o, drop_at(f, layer, DROP_MIDDLE), b->m);
}

/* From k->middle to k->up. */
static void
raise_up(struct forward *f, int layer, int m)
{
	const struct block *block = &f->m->blocks[layer];
	const struct kept *k = &f->blocks[layer];

	apply_norm(f, f->normed, k->middle, &block->norm2, m);
	linear(f, k->up, f->normed, &block->up, m, 0);
}

/* From k->middle to out. */
static void
feed_forward(struct forward *f, int layer, int m, void *out)
{
	const struct block *block = &f->m->blocks[layer];
	const struct kept *k = &f->blocks[layer];

	raise_up(f, layer, m);
	activate(f, k, m);
	residual(f, out, k->middle, f->active, &block->down, drop_at(f, layer, DROP_OUTPUT), m);
}

const void *
forward_run(struct forward *f, const struct batch *b, const struct cache *cache, enum purpose purpose,
    uint64_t seed, uint32_t step)
{
	const struct model *m = f->m;
	int l, layers = m->config.layers;
	struct dropout drop;

	if (b->m > f->max_rows)
		die("a batch of %d rows, where %d are planned for", b->m, f->max_rows);
	f->purpose = purpose;
	f->seed = seed;
	f->step = step;
	drop = drop_at(f, layers, DROP_EMBED);
	f->be->embed(f->blocks[0].x, m->type, &m->embed, m->position.data ? &m->position : NULL, b->d_ids,
	    b->d_positions, b->m);
	if (drop.p)
		f->be->dropout(f->blocks[0].x, f->blocks[0].x, m->type, (size_t)b->m * (size_t)m->config.hidden, &drop);
	for (l = 0; l < layers; l++) {
		attend(f, l, b, cache);
		feed_forward(f, l, b->m, l + 1 < layers ? f->blocks[l + 1].x : f->last);
	}
	apply_norm(f, f->hidden, f->last, &m->final, b->m);
	return f->hidden;
}

void
gradients_init(struct gradients *g, const struct model *m)
{
	int i;

	g->m = m;
	g->of = mem_zero((size_t)m->nstorage, sizeof *g->of);
	for (i = 0; i < m->nstorage; i++)
		g->of[i] = backend_alloc(m->be, m->storage[i].n, sizeof(float), "the gradients");
}

void
gradients_free(struct gradients *g)
{
	int i;

	for (i = 0; i < g->m->nstorage; i++)
		g->m->be->free(g->of[i]);
	free(g->of);
}

float *
gradient_of(const struct gradients *g, const void *storage)
{
	const struct storage *s = g->m->storage;
	int i;

	for (i = 0; i < g->m->nstorage; i++)
		if ((const void *)s[i].matrix == storage || (const void *)s[i].vector == storage)
			return g->of[i];
	die("no gradient is kept of this parameter");
}

/* dW, db and, where dx is not NULL, dx of y = x W^T + b. */
static void
linear_backward(const struct forward *f, void *dx, const void *dy, const void *x, const struct linear *l, int m,
    struct gradients *g)
{
	enum dtype type = f->m->type;

	f->be->matmul_dw(gradient_of(g, &l->w), &l->w, dy, type, x, type, m, l->w.n);
	if (l->b)
		f->be->bias_backward(gradient_of(g, &l->b), dy, type, m, l->w.n);
	f->be->matmul_dx(dx, type, dy, type, &l->w, m, l->w.n, 0);
}

static void
norm_backward(const struct forward *f, void *dx, const void *dy, const void *x, const struct norm *n, int m,
    struct gradients *g)
{
	f->be->norm_backward(dx, gradient_of(g, &n->w), n->b ? gradient_of(g, &n->b) : NULL, dy, x, f->m->type,
	    n->w, f->stats, m, f->m->config.hidden);
}

/* The gradient that goes into a residual sum's linear: dx through the same dropout, in scratch. */
static const void *
dropped(const struct forward *f, void *dx, void *scratch, struct dropout drop, int m)
{
	if (!drop.p)
		return dx;
	f->be->dropout(scratch, dx, f->m->type, (size_t)m * (size_t)f->m->config.hidden, &drop);
	return scratch;
}

/* dx: on the block's output at first, on k->middle afterwards. */
static void
feed_forward_backward(struct forward *f, int layer, int m, void *dx, struct gradients *g)
{
	const struct block *block = &f->m->blocks[layer];
	const struct kept *k = &f->blocks[layer];
	const struct config *c = &f->m->config;

	activate(f, k, m);
	linear_backward(f, f->dactive, dropped(f, dx, f->dnormed, drop_at(f, layer, DROP_OUTPUT), m), f->active,
	    &block->down, m, g);
	if (c->family == FAMILY_GPT2)
		f->be->gelu_backward(f->dup, f->dactive, k->up, f->m->type, (size_t)m * (size_t)c->ffn);
	else
		f->be->swiglu_backward(f->dup, f->dactive, k->up, f->m->type, m, c->ffn);
	apply_norm(f, f->normed, k->middle, &block->norm2, m);
	linear_backward(f, f->dnormed, f->dup, f->normed, &block->up, m, g);
	norm_backward(f, dx, f->dnormed, k->middle, &block->norm2, m, g);
}

/* dx: on k->middle at first, on k->x afterwards. */
static void
attend_backward(struct forward *f, int layer, const struct batch *b, void *dx, struct gradients *g)
{
	const struct block *block = &f->m->blocks[layer];
	const struct kept *k = &f->blocks[layer];
	const struct config *c = &f->m->config;
	struct heads h = heads_of(f->m);
	struct dropout drop = drop_at(f, layer, DROP_ATTENTION);
	struct ragged seq = batch_ragged(b);

	linear_backward(f, f->dnormed, dropped(f, dx, f->normed, drop_at(f, layer, DROP_MIDDLE), b->m),
	    k->attention, &block->o, b->m, g);
	f->be->attention_backward(f->dqkv, f->dnormed, k->attention, k->lse, k->qkv, f->m->type, &seq, &h, &drop);
	if (f->m->rope)
		f->be->rope(f->dqkv, f->m->type, f->m->rope, b->d_positions, b->m, block->qkv.w.n,
		    c->heads + c->kv_heads, c->d, 1);
	apply_norm(f, f->normed, k->x, &block->norm1, b->m);
	linear_backward(f, f->dnormed, f->dqkv, f->normed, &block->qkv, b->m, g);
	norm_backward(f, dx, f->dnormed, k->x, &block->norm1, b->m, g);
}

void
forward_backward(struct forward *f, const struct batch *b, void *dhidden, struct gradients *g)
{
	const struct model *m = f->m;
	size_t n = (size_t)b->m * (size_t)m->config.hidden;
	struct dropout drop = drop_at(f, m->config.layers, DROP_EMBED);
	int l;

	/* the states after the final norm are done with; its statistics are of the last run */
	f->be->zero(f->dx, n * dtype_size(m->type));
	apply_norm(f, f->hidden, f->last, &m->final, b->m);
	norm_backward(f, f->dx, dhidden, f->last, &m->final, b->m, g);
	for (l = m->config.layers - 1; l >= 0; l--) {
		if (f->keep == KEEP_INPUTS) {
			attend(f, l, b, NULL);
			raise_up(f, l, b->m);
		}
		feed_forward_backward(f, l, b->m, f->dx, g);
		attend_backward(f, l, b, f->dx, g);
	}
	if (drop.p)
		f->be->dropout(f->dx, f->dx, m->type, n, &drop);
	f->be->embed_backward(gradient_of(g, &m->embed), &m->embed,
	    m->position.data ? gradient_of(g, &m->position) : NULL, m->position.data ? &m->position : NULL,
	    f->dx, m->type, b->d_ids, b->d_positions, b->m);
}
