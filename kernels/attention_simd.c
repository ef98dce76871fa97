/* SPDX-License-Identifier: MIT */
/*
 * attention_simd - products of small f32 tiles, and a softmax that is corrected block by block
 *
 * Keys come in blocks of KEYS that begin at position 0 of the sequence, whoever asks. The forward's
 * unit of work is a slab: some positions of one key head, by all query heads that read it. A row of
 * a slab is computed in the order of its keys, by the same operations alone or among others; so a
 * page table gives the same bits as the packed sequence. The backward's unit is one head of a
 * sequence, key block by key block; gradients of keys that several heads read are added afterwards,
 * in the order of heads.
 */
#include <float.h>
#include <math.h>
#include <stdlib.h>

#include "kernels/cpu.h"
#include "kernels/page.h"
#include "kernels/shared.h"
#include "kernels/vkeep.h"
#include "kernels/vmath.h"
#include "kernels/vtile.h"
#include "lib/base/die.h"
#include "lib/base/mem.h"

enum {
	KEYS = 2 * KV_PAGE,	/* of a block */
	SLAB = 256,		/* rows of a slab, about */
	AHEAD = 16,		/* rows asked for before they are read */
	FAR = 8,		/* a probability is e^8 at most before it is divided by their sum */
	PAYS = 1 << 15,		/* numbers of keys that one thread attends faster than two */
};

/* Queries and what has been found out about them so far; keys and values of one block. */
struct slab {
	int rows, d, wide;	/* wide: d padded to a multiple of W */
	int *limit;		/* [rows] keys that the row sees */
	float *q;		/* [rows][wide], times the scale */
	float *s;		/* [TILE_ROWS][KEYS] scores, then probabilities */
	float *o;		/* [rows][wide] */
	float *max;		/* [rows] */
	vec *sum;		/* [rows] in lanes */
	float *flipped;		/* [wide][KEYS] keys */
	float *values;		/* [KEYS][wide] */
};

static int
padded(int n)
{
	return (n + W - 1) / W * W;
}

static int
least(int a, int b)
{
	return a < b ? a : b;
}

static float *
floats(size_t n)
{
	float *p = aligned_alloc(64, mem_mul((n + 15) / 16, 64));

	if (!p)
		die("out of memory");
	return p;
}

static size_t
width(const struct heads *h)
{
	return (size_t)(h->heads + 2 * h->kv_heads) * h->d;
}

static void
slab_open(struct slab *t, int rows, int d)
{
	t->d = d;
	t->wide = padded(d);
	t->q = floats((size_t)rows * (2 * t->wide + W + 1) + 2 * (size_t)KEYS * t->wide +
	    TILE_ROWS * KEYS);
	t->o = t->q + (size_t)rows * t->wide;
	t->flipped = t->o + (size_t)rows * t->wide;
	t->values = t->flipped + (size_t)KEYS * t->wide;
	t->s = t->values + (size_t)KEYS * t->wide;
	t->sum = (vec *)(t->s + TILE_ROWS * KEYS);
	t->max = (float *)(t->sum + rows);
	t->limit = mem_alloc((size_t)rows * sizeof *t->limit);
}

static void
slab_close(struct slab *t)
{
	free(t->q);
	free(t->limit);
}

/* Ask for a row that will be read soon: rows lie too far apart for the machine to expect them. */
INLINE void
row_fetch(const void *x, enum dtype type, size_t i, int d)
{
	size_t c, size = type == DT_BF16 ? 2 : 4;

	for (c = 0; c < d * size; c += 64)
		__builtin_prefetch((const char *)x + i * size + c);
}

/* y[n][wide] = scale x: n rows of d numbers, `step` apart from element i on, padded with zeros. */
INLINE void
rows_load(float *y, int wide, const void *x, enum dtype type, size_t i, size_t step, int n, int d,
    float scale)
{
	int j, c;

	for (j = 0; j < n; j++, y += wide, i += step) {
		row_fetch(x, type, i + AHEAD * step, d);
		for (c = 0; c + W <= d; c += W)
			vec_store(y + c, scale * vec_get(x, type, i + c));
		if (c < d)
			vec_store(y + c, scale * vec_get_n(x, type, i + c, d - c));
	}
}

static void
load(float *y, int wide, const void *x, enum dtype type, size_t i, size_t step, int n, int d,
    float scale)
{
	if (type == DT_BF16)
		rows_load(y, wide, x, DT_BF16, i, step, n, d, scale);
	else
		rows_load(y, wide, x, DT_F32, i, step, n, d, scale);
}

/* y[wide][KEYS] = the same rows as columns, n of them padded to a multiple of W. */
INLINE void
rows_flip(float *y, const void *x, enum dtype type, size_t i, size_t step, int n, int d)
{
	int j, c, l;

	for (j = 0; j < n; j += W)
		for (c = 0; c < d; c += W) {
			vec r[W];

			#pragma GCC unroll 16
			for (l = 0; l < W; l++)
				r[l] = j + l < n ? vec_get_n(x, type, i + (j + l) * step + c, d - c) :
				    vec_set(0);
			tile_flip(r);
			#pragma GCC unroll 16
			for (l = 0; l < W; l++)
				vec_store(y + (size_t)(c + l) * KEYS + j, r[l]);
		}
}

static void
flip(float *y, const void *x, enum dtype type, size_t i, size_t step, int n, int d)
{
	if (type == DT_BF16)
		rows_flip(y, x, DT_BF16, i, step, n, d);
	else
		rows_flip(y, x, DT_F32, i, step, n, d);
}

/* y = scale x, in another type. */
INLINE void
row_save(void *y, enum dtype type, size_t i, const float *x, int d, float scale)
{
	int c;

	for (c = 0; c + W <= d; c += W)
		vec_put(y, type, i + c, vec_load(x + c) * scale);
	if (c < d)
		vec_put_n(y, type, i + c, vec_load(x + c) * scale, d - c);
}

static void
save(void *y, enum dtype type, size_t i, const float *x, int d, float scale)
{
	if (type == DT_BF16)
		row_save(y, DT_BF16, i, x, d, scale);
	else
		row_save(y, DT_F32, i, x, d, scale);
}

/*
 * Rows r .. r + n - 1 of the slab read the queries at element i, one beside the other, and see
 * `limit` keys.
 */
static void
slab_queries(struct slab *t, int r, const void *qkv, enum dtype type, size_t i, int n, float scale,
    int limit)
{
	load(t->q + (size_t)r * t->wide, t->wide, qkv, type, i, (size_t)t->d, n, t->d, scale);
	memset(t->o + (size_t)r * t->wide, 0, (size_t)n * t->wide * sizeof *t->o);
	for (; n > 0; n--, r++) {
		t->max[r] = -FLT_MAX;
		t->sum[r] = vec_set(0);
		t->limit[r] = limit;
	}
}

/* The first n lanes, `other` beyond; n may be less than 0 or more than W. */
INLINE vec
first_n(vec x, int n, float other)
{
	return vec_first(x, n > 0 ? n : 0, other);
}

INLINE vec
largest_scores(const float *s, int n)
{
	vec max = vec_set(-FLT_MAX);
	int j;

	#pragma GCC unroll 8
	for (j = 0; j < n; j += W)
		max = vec_max(first_n(vec_load(s + j), n - j, -FLT_MAX), max);
	return max;
}

/* What has been added up so far becomes relative to another maximum. */
static void
slab_renew(struct slab *t, int r, float max)
{
	vec factor = vec_set(expf(t->max[r] - max)), *o = (vec *)(t->o + (size_t)r * t->wide);
	int j;

	t->max[r] = max;
	t->sum[r] *= factor;
	for (j = 0; j < t->wide / W; j++)
		o[j] *= factor;
}

/*
 * The scores s of row r to probabilities relative to a maximum that is renewed only when it is far
 * off, which is rare. n of the scores count, the others up to `wide` become zero.
 */
INLINE void
row_softmax(struct slab *t, int r, float *s, int n, int wide)
{
	vec largest = largest_scores(s, n), lanes = vec_set(0), max;
	int j;

	if (vec_any_less(vec_set(t->max[r] + FAR), largest))
		slab_renew(t, r, vec_largest(largest));
	max = vec_set(t->max[r]);
	#pragma GCC unroll 8
	for (j = 0; j < wide; j += W) {
		vec p = first_n(vec_exp(vec_load(s + j) - max), n - j, 0);

		vec_store(s + j, p);
		lanes += p;
	}
	t->sum[r] += lanes;
}

/* The n probabilities at s through dropout, numbered from `first`. */
static void
row_drop(float *s, int n, uint64_t first, const struct dropout *drop)
{
	float factors[KEYS + KEEP_WORDS];
	int j;

	keep_factors(factors, first, n, drop);
	for (j = 0; j < n; j += W)
		vec_store(s + j, vec_load(s + j) * vec_load(factors + j));
}

/*
 * Of n rows and the block of `keys` at `start`, row i sees those before limit[i], which grows:
 * s = q k', as far as the last row of a tile sees.
 */
static void
scores(float *s, const float *q, const float *flipped, int wide, int d, const int *limit, int n,
    int start, int keys)
{
	int i, rows;

	for (i = 0; i < n; i += rows) {
		rows = least(n - i, TILE_ROWS);
		tile_product(s + i * KEYS, KEYS, q + (size_t)i * wide, wide, 1, flipped, KEYS, rows,
		    padded(least(limit[i + rows - 1] - start, keys)), d, 0);
	}
}

/* o += s v of the same */
static void
weigh(float *o, const float *s, const float *v, int wide, const int *limit, int n, int start,
    int keys)
{
	int i, rows;

	for (i = 0; i < n; i += rows) {
		rows = least(n - i, TILE_ROWS);
		tile_product(o + (size_t)i * wide, wide, s + i * KEYS, KEYS, 1, v, wide, rows, wide,
		    least(limit[i + rows - 1] - start, keys), 1);
	}
}

/* Every row attends the n keys of the loaded block, which begins at position `start`. */
static void
slab_attend(struct slab *t, int start, int n, const struct dropout *drop, const uint64_t *numbers)
{
	int first, last, r;

	for (first = 0; first < t->rows; first = last) {
		float *q = t->q + (size_t)first * t->wide, *o = t->o + (size_t)first * t->wide, *s;
		int *limit = t->limit + first, most;

		last = least(first + TILE_ROWS, t->rows);
		most = least(t->limit[last - 1] - start, n);
		if (most <= 0)
			continue;
		scores(t->s, q, t->flipped, t->wide, t->d, limit, last - first, start, n);
		for (r = first, s = t->s; r < last; r++, s += KEYS) {
			if (least(t->limit[r] - start, n) == KEYS)
				row_softmax(t, r, s, KEYS, KEYS);
			else
				row_softmax(t, r, s, least(t->limit[r] - start, n), padded(most));
			if (drop)
				row_drop(s, most, numbers[r] + start, drop);
		}
		weigh(o, t->s, t->values, t->wide, limit, last - first, start, n);
	}
}

static void
slab_finish(const struct slab *t, int r, void *out, enum dtype type, size_t i)
{
	save(out, type, i, t->o + (size_t)r * t->wide, t->d, 1 / vec_sum(t->sum[r]));
}

/* What a call of the forward is about. */
struct forward {
	void *out;
	float *lse;
	const void *qkv;
	enum dtype type;
	const struct ragged *seq;
	const struct heads *h;
	const struct dropout *drop;
};

/* Rows first .. first + n - 1 of a sequence that begins at row `base`, all heads of kv_head. */
static void
forward_slab(const struct forward *f, struct slab *t, uint64_t *numbers, int base, int first, int n,
    int kv_head)
{
	const struct heads *h = f->h;
	int group = h->heads / h->kv_heads, r, start, count, end = first + n - base;
	size_t wide = width(h), k = (size_t)(h->heads + kv_head) * h->d,
	    v = k + (size_t)h->kv_heads * h->d;

	t->rows = n * group;
	for (r = 0; r < n; r++)
		slab_queries(t, r * group, f->qkv, f->type,
		    (size_t)(first + r) * wide + (size_t)kv_head * group * h->d, group, h->scale,
		    first + r - base + 1);
	for (r = 0; f->drop && r < t->rows; r++)
		numbers[r] = keep_attention(first + r / group, h->heads,
		    kv_head * group + r % group);
	for (start = 0; start < end; start += KEYS) {
		size_t at = (size_t)(base + start) * wide;

		count = least(end - start, KEYS);
		flip(t->flipped, f->qkv, f->type, at + k, wide, count, h->d);
		load(t->values, t->wide, f->qkv, f->type, at + v, wide, count, h->d, 1);
		slab_attend(t, start, count, f->drop, numbers);
	}
	for (r = 0; r < t->rows; r++) {
		size_t at = (size_t)(first + r / group) * h->heads + kv_head * group + r % group;

		slab_finish(t, r, f->out, f->type, at * h->d);
		if (f->lse)
			f->lse[at] = t->max[r] + logf(vec_sum(t->sum[r]));
	}
}

void
FN(attention)(void *out, float *lse, const void *qkv, enum dtype type, const struct ragged *seq,
    const struct heads *h, const struct dropout *drop)
{
	const struct forward f = { out, lse, qkv, type, seq, h, keep_all(drop) ? NULL : drop };
	int group = h->heads / h->kv_heads, block = SLAB / group ? SLAB / group : 1;

	#pragma omp parallel
	{
		struct slab t;
		uint64_t *numbers = mem_alloc((size_t)block * group * sizeof *numbers);
		int s, first, kv_head;

		slab_open(&t, block * group, h->d);
		for (s = 0; s < seq->nseq; s++) {
			int base = seq->host_offsets[s], end = seq->host_offsets[s + 1];

			#pragma omp for schedule(dynamic) collapse(2) nowait
			for (kv_head = 0; kv_head < h->kv_heads; kv_head++)
				for (first = base; first < end; first += block)
					forward_slab(&f, &t, numbers, base, first,
					    least(end - first, block), kv_head);
		}
		slab_close(&t);
		free(numbers);
	}
}

/* What a call of the paged forward is about. */
struct paged {
	void *out;
	const void *qkv;
	enum dtype type;
	const struct kv *kv;
	int layer;
	const int *tables;
	int ntables;
	const int *length;
	const struct heads *h;
};

/* Keys start .. start + n - 1 of the sequence of row i. */
static void
paged_load(const struct paged *f, struct slab *t, int i, int kv_head, int start, int n)
{
	const int *page = f->tables + (size_t)i * f->ntables + start / KV_PAGE;
	int j, d = f->h->d;

	for (j = 0; j < n; j += KV_PAGE, page++) {
		size_t key = page_at(f->kv, f->layer, *page, 0, kv_head);
		size_t value = page_at(f->kv, f->layer, *page, 1, kv_head);
		int count = least(n - j, KV_PAGE);

		flip(t->flipped + j, f->kv->data, f->kv->type, key, (size_t)d, count, d);
		load(t->values + (size_t)j * t->wide, t->wide, f->kv->data, f->kv->type, value,
		    (size_t)d, count, d, 1);
	}
}

/* Row i, all heads of kv_head. */
static void
paged_slab(const struct paged *f, struct slab *t, int i, int kv_head)
{
	const struct heads *h = f->h;
	int r, start, n, length = f->length[i], first = kv_head * t->rows;

	slab_queries(t, 0, f->qkv, f->type, i * width(h) + (size_t)first * h->d, t->rows, h->scale,
	    length);
	for (start = 0; start < length; start += KEYS) {
		n = least(length - start, KEYS);
		paged_load(f, t, i, kv_head, start, n);
		slab_attend(t, start, n, NULL, NULL);
	}
	for (r = 0; r < t->rows; r++)
		slab_finish(t, r, f->out, f->type, ((size_t)i * h->heads + first + r) * h->d);
}

static size_t
paged_keys(const struct paged *f, int m)
{
	size_t keys = 0;
	int i;

	for (i = 0; i < m; i++)
		keys += (size_t)f->length[i];
	return keys;
}

void
FN(attention_paged)(void *out, const void *qkv, enum dtype type, const struct kv *kv, int layer,
    const int *tables, int ntables, const int *length, int m, const struct heads *h)
{
	const struct paged f = { out, qkv, type, kv, layer, tables, ntables, length, h };

	#pragma omp parallel if (paged_keys(&f, m) * h->heads * h->d > PAYS)
	{
		struct slab t;
		int i, kv_head;

		t.rows = h->heads / h->kv_heads;
		slab_open(&t, t.rows, h->d);
		#pragma omp for schedule(dynamic) collapse(2)
		for (i = 0; i < m; i++)
			for (kv_head = 0; kv_head < h->kv_heads; kv_head++)
				paged_slab(&f, &t, i, kv_head);
		slab_close(&t);
	}
}

/* The d numbers at `from` of x to `to` of y. */
static void
head_copy(void *y, enum dtype ytype, size_t to, const void *x, enum dtype xtype, size_t from, int d)
{
	float part[256];
	int c, n;

	for (c = 0; c < d; c += n) {
		n = least(d - c, 256);
		load(part, 256, x, xtype, from + c, 0, 1, n, 1);
		save(y, ytype, to + c, part, n, 1);
	}
}

/* Keys and values of row i. */
static void
store_row(struct kv *kv, int layer, const void *qkv, enum dtype type, int page, int place, int i,
    const struct heads *h)
{
	int values, head;

	for (values = 0; values < 2; values++)
		for (head = 0; head < h->kv_heads; head++) {
			size_t to = page_at(kv, layer, page, values, head);
			int source = h->heads + values * h->kv_heads + head;

			to += (size_t)(place % KV_PAGE) * h->d;
			head_copy(kv->data, kv->type, to, qkv, type,
			    i * width(h) + (size_t)source * h->d, h->d);
		}
}

void
FN(kv_store)(struct kv *kv, int layer, const void *qkv, enum dtype type, const int *page,
    const int *place, int m, const struct heads *h)
{
	int i;

	SHARED((size_t)m * h->kv_heads * h->d > 1 << 13,
	    for (i = 0; i < m; i++)
		store_row(kv, layer, qkv, type, page[i], place[i], i, h);
	);
}

/* What a call of the backward is about. */
struct backward {
	void *dqkv;
	const void *dout, *out;
	const float *lse;
	const void *qkv;
	enum dtype type;
	const struct ragged *seq;
	const struct heads *h;
	const struct dropout *drop;
	float *dk, *dv;		/* [heads][m][wide], of each query head by itself */
};

/* One head of a sequence of n rows, in f32, [n][wide] but for delta [n]. */
struct head {
	int n, base, head, d, wide;
	float *q, *dout, *dq, *delta;
	int *limit;				/* [n] keys that the row sees */
	float *keys;				/* [KEYS][wide] */
	float *keys_flipped, *values_flipped;	/* [wide][KEYS] */
	float *p, *ds;				/* [KEYS][KEYS] */
};

static void
head_open(struct head *t, int n, int d)
{
	size_t wide = (size_t)padded(d), rows = (size_t)n * wide, block = KEYS * wide;
	int i;

	t->d = d;
	t->wide = (int)wide;
	t->q = floats(3 * rows + 3 * block + 2 * KEYS * KEYS + n);
	t->dout = t->q + rows;
	t->dq = t->dout + rows;
	t->keys = t->dq + rows;
	t->keys_flipped = t->keys + block;
	t->values_flipped = t->keys_flipped + block;
	t->p = t->values_flipped + block;
	t->ds = t->p + KEYS * KEYS;
	t->delta = t->ds + KEYS * KEYS;
	t->limit = mem_alloc((size_t)n * sizeof *t->limit);
	for (i = 0; i < n; i++)
		t->limit[i] = i + 1;
}

static void
head_close(struct head *t)
{
	free(t->q);
	free(t->limit);
}

/* Queries, gradients of the output, and their products with the output. */
static void
head_load(struct head *t, const struct backward *b)
{
	const struct heads *h = b->h;
	size_t row = (size_t)t->base, at = (row * h->heads + t->head) * h->d,
	    step = (size_t)h->heads * h->d;
	float *out = t->dq;
	int i, c;

	load(t->q, t->wide, b->qkv, b->type, row * width(h) + (size_t)t->head * h->d, width(h), t->n,
	    h->d, h->scale);
	load(t->dout, t->wide, b->dout, b->type, at, step, t->n, h->d, 1);
	load(out, t->wide, b->out, b->type, at, step, t->n, h->d, 1);
	for (i = 0; i < t->n; i++) {
		size_t place = (size_t)i * t->wide;
		vec sum = vec_set(0);

		for (c = 0; c < t->wide; c += W)
			sum = vec_fma(vec_load(out + place + c), vec_load(t->dout + place + c), sum);
		t->delta[i] = vec_sum(sum);
	}
	memset(t->dq, 0, (size_t)t->n * t->wide * sizeof *t->dq);
}

/*
 * n scores s and products g = dout.v: p f, p = exp(s - lse), in the place of s, and p (f g - delta)
 * in the place of g; up to `wide` zeros.
 */
INLINE void
gradients(float *s, float *g, float lse, float delta, const float *factors, int n, int wide)
{
	int j;

	#pragma GCC unroll 8
	for (j = 0; j < wide; j += W) {
		vec p = first_n(vec_exp(vec_load(s + j) - lse), n - j, 0),
		    f = factors ? vec_load(factors + j) : vec_set(1);

		vec_store(g + j, p * (vec_load(g + j) * f - delta));
		vec_store(s + j, p * f);
	}
}

/* p = exp(s - lse) and ds = p (f dout.v - delta) of n rows at `from` and the `keys` at `start`. */
static void
head_scores(struct head *t, const struct backward *b, int from, int n, int start, int keys)
{
	float factors[KEYS + KEEP_WORDS];
	const int *limit = t->limit + from;
	size_t place = (size_t)from * t->wide;
	int j;

	scores(t->p, t->q + place, t->keys_flipped, t->wide, t->d, limit, n, start, keys);
	scores(t->ds, t->dout + place, t->values_flipped, t->wide, t->d, limit, n, start, keys);
	for (j = 0; j < n; j++) {
		size_t row = (size_t)(t->base + from + j);
		float lse = b->lse[row * b->h->heads + t->head], delta = t->delta[from + j],
		    *p = t->p + j * KEYS, *ds = t->ds + j * KEYS;
		int sees = least(limit[j] - start, keys);

		if (b->drop)
			keep_factors(factors, keep_attention((int)row, b->h->heads, t->head) + start,
			    keys, b->drop);
		if (sees == KEYS && !b->drop)
			gradients(p, ds, lse, delta, NULL, KEYS, KEYS);
		else
			gradients(p, ds, lse, delta, b->drop ? factors : NULL, sees, padded(keys));
	}
	weigh(t->dq + place, t->ds, t->keys, t->wide, limit, n, start, keys);
}

/* c[keys][wide] (+)= a[n][keys]' b[n][wide]; on the diagonal, where c begins, a is 0 above it. */
static void
head_keys(float *c, const float *a, const float *b, int wide, int keys, int n, int diagonal)
{
	int j, skip;

	for (j = 0; j < keys; j += TILE_ROWS) {
		skip = diagonal ? j : 0;
		tile_product(c + (size_t)j * wide, wide, a + skip * KEYS + j, 1, KEYS,
		    b + (size_t)skip * wide, wide, least(keys - j, TILE_ROWS), wide, n - skip,
		    !diagonal);
	}
}

/* All that the block of keys at `start` gives to the gradients. */
static void
head_block(struct head *t, const struct backward *b, int start)
{
	const struct heads *h = b->h;
	int keys = least(t->n - start, KEYS), from, n;
	size_t wide = width(h), first = (size_t)(t->base + start),
	    k = first * wide + (size_t)(h->heads + t->head / (h->heads / h->kv_heads)) * h->d,
	    to = ((size_t)t->head * b->seq->m + first) * t->wide;

	load(t->keys, t->wide, b->qkv, b->type, k, wide, keys, h->d, 1);
	flip(t->keys_flipped, b->qkv, b->type, k, wide, keys, h->d);
	flip(t->values_flipped, b->qkv, b->type, k + (size_t)h->kv_heads * h->d, wide, keys, h->d);
	for (from = start; from < t->n; from += KEYS) {
		size_t place = (size_t)from * t->wide;

		n = least(t->n - from, KEYS);
		head_scores(t, b, from, n, start, keys);
		head_keys(b->dv + to, t->p, t->dout + place, t->wide, keys, n, from == start);
		head_keys(b->dk + to, t->ds, t->q + place, t->wide, keys, n, from == start);
	}
}

static void
head_backward(struct head *t, const struct backward *b)
{
	int i, start;

	head_load(t, b);
	for (start = 0; start < t->n; start += KEYS)
		head_block(t, b, start);
	for (i = 0; i < t->n; i++)
		save(b->dqkv, b->type, (size_t)(t->base + i) * width(b->h) +
		    (size_t)t->head * b->h->d, t->dq + (size_t)i * t->wide, b->h->d, b->h->scale);
}

/* Gradients of the keys (or values) of row i: sums over the heads that read them. */
static void
row_join(const struct backward *b, const float *parts, float *sum, int i, int values)
{
	const struct heads *h = b->h;
	int group = h->heads / h->kv_heads, kv_head, g, c, wide = padded(h->d);
	size_t m = (size_t)b->seq->m;

	for (kv_head = 0; kv_head < h->kv_heads; kv_head++) {
		const float *part = parts + ((size_t)kv_head * group * m + i) * wide;

		for (c = 0; c < wide; c += W) {
			vec total = vec_load(part + c);

			for (g = 1; g < group; g++)
				total += vec_load(part + g * m * wide + c);
			vec_store(sum + c, total);
		}
		save(b->dqkv, b->type, i * width(h) +
		    (size_t)(h->heads + values * h->kv_heads + kv_head) * h->d, sum, h->d, 1);
	}
}

static int
longest(const struct ragged *seq)
{
	int s, most = 0;

	for (s = 0; s < seq->nseq; s++)
		if (seq->host_offsets[s + 1] - seq->host_offsets[s] > most)
			most = seq->host_offsets[s + 1] - seq->host_offsets[s];
	return most;
}

void
FN(attention_backward)(void *dqkv, const void *dout, const void *out, const float *lse,
    const void *qkv, enum dtype type, const struct ragged *seq, const struct heads *h,
    const struct dropout *drop)
{
	size_t parts = (size_t)seq->m * h->heads * padded(h->d);
	float *space = floats(2 * parts);
	const struct backward b = { dqkv, dout, out, lse, qkv, type, seq, h,
	    keep_all(drop) ? NULL : drop, space, space + parts };

	#pragma omp parallel
	{
		struct head t;
		int s, i;

		head_open(&t, longest(seq), h->d);
		#pragma omp for schedule(dynamic) collapse(2)
		for (s = 0; s < seq->nseq; s++)
			for (i = 0; i < h->heads; i++) {
				t.base = seq->host_offsets[s];
				t.n = seq->host_offsets[s + 1] - t.base;
				t.head = i;
				head_backward(&t, &b);
			}
		#pragma omp for schedule(static)
		for (i = 0; i < seq->m; i++) {
			row_join(&b, b.dk, t.dq, i, 0);
			row_join(&b, b.dv, t.dq, i, 1);
		}
		head_close(&t);
	}
	free(space);
}
