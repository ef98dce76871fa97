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
	SLAB = 192,		/* rows of a slab, about */
	FAR = 8,		/* a probability is e^8 at most before it is divided by their sum */
	PAYS = 1 << 15,		/* numbers of keys that one thread attends faster than two */
};

/* Queries and what has been found out about them so far; keys and values of one block. */
struct slab {
	int rows, d, wide;	/* wide: d padded to a multiple of W */
	int *limit;		/* [rows] keys that the row sees */
	float *q;		/* [rows][wide], times the scale */
	float *s;		/* [rows][KEYS] scores, then probabilities */
	float *o;		/* [rows][wide] */
	float *max, *sum;	/* [rows] */
	float *keys;		/* [KEYS][wide] */
	float *flipped;		/* [wide][KEYS] keys */
	float *values;		/* [KEYS][wide] */
};

static int
padded(int n)
{
	return (n + W - 1) / W * W;
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
	float *p;

	t->d = d;
	t->wide = padded(d);
	p = floats((size_t)rows * (2 * t->wide + KEYS + 2) + 3 * (size_t)KEYS * t->wide);
	t->q = p;
	t->o = t->q + (size_t)rows * t->wide;
	t->keys = t->o + (size_t)rows * t->wide;
	t->flipped = t->keys + (size_t)KEYS * t->wide;
	t->values = t->flipped + (size_t)KEYS * t->wide;
	t->s = t->values + (size_t)KEYS * t->wide;
	t->max = t->s + (size_t)rows * KEYS;
	t->sum = t->max + rows;
	t->limit = mem_alloc((size_t)rows * sizeof *t->limit);
}

static void
slab_close(struct slab *t)
{
	free(t->q);
	free(t->limit);
}

/* d numbers from element i on, times scale, padded with zeros. */
INLINE void
row_load(float *y, const void *x, enum dtype type, size_t i, int d, float scale)
{
	int c;

	for (c = 0; c < d; c += W)
		vec_store(y + c, scale * vec_get_n(x, type, i + c, d - c));
}

static void
load(float *y, const void *x, enum dtype type, size_t i, int d, float scale)
{
	if (type == DT_BF16)
		row_load(y, x, DT_BF16, i, d, scale);
	else
		row_load(y, x, DT_F32, i, d, scale);
}

/* Rows that lie together; of full vectors, as one. */
static void
load_rows(float *y, int wide, const void *x, enum dtype type, size_t i, int rows, int d)
{
	int r;

	if (wide == d)
		load(y, x, type, i, rows * d, 1);
	for (r = 0; r < rows && wide > d; r++)
		load(y + (size_t)r * wide, x, type, i + (size_t)r * d, d, 1);
}

/* y = scale x, in another type. */
INLINE void
row_save(void *y, enum dtype type, size_t i, const float *x, int d, float scale)
{
	int c;

	for (c = 0; c < d; c += W)
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

/* Row r of the slab reads the query at element i and sees `limit` keys. */
static void
slab_query(struct slab *t, int r, const void *qkv, enum dtype type, size_t i, float scale,
    int limit)
{
	load(t->q + (size_t)r * t->wide, qkv, type, i, t->d, scale);
	memset(t->o + (size_t)r * t->wide, 0, (size_t)t->wide * sizeof *t->o);
	t->max[r] = -FLT_MAX;
	t->sum[r] = 0;
	t->limit[r] = limit;
}

/* Probabilities of n <= W scores; what is beyond is zero. */
INLINE vec
probabilities(float *s, float max, int n)
{
	vec p = vec_first(vec_exp(vec_load(s) - max), n, 0);

	vec_store(s, p);
	return p;
}

INLINE float
largest_score(const float *s, int n)
{
	vec max = vec_set(-FLT_MAX);
	int j;

	for (j = 0; j + W <= n; j += W)
		max = vec_max(vec_load(s + j), max);
	if (j < n)
		max = vec_max(vec_first(vec_load(s + j), n - j, -FLT_MAX), max);
	return vec_largest(max);
}

/*
 * Scores of a row to probabilities relative to a maximum that is renewed only when it is far off:
 * what has been added up is then scaled, which is rare. n of the scores count, the others up to
 * `wide` become zero.
 */
static void
row_softmax(float *s, int n, int wide, float *max, float *sum, vec *o, int vectors)
{
	float new = largest_score(s, n);
	vec lanes = vec_set(0);
	int j;

	if (!(new <= *max + FAR)) {
		float factor = expf(*max - new);

		*max = new;
		*sum *= factor;
		for (j = 0; j < vectors; j++)
			o[j] *= factor;
	}
	for (j = 0; j + W <= n; j += W)
		lanes += probabilities(s + j, *max, W);
	if (j < n) {
		lanes += probabilities(s + j, *max, n - j);
		j += W;
	}
	*sum += vec_sum(lanes);
	for (; j < wide; j += W)
		vec_store(s + j, vec_set(0));
}

/* Every row attends the n keys of the loaded block, which begins at position `start`. */
static void
slab_attend(struct slab *t, int start, int n, const struct dropout *drop, const uint64_t *numbers)
{
	float factors[KEYS + KEEP_WORDS];
	int r, j, seen, wide = padded(n);

	tile_transpose(t->flipped, KEYS, t->keys, t->wide, wide, t->wide);
	tile_product(t->s, KEYS, t->q, t->wide, 1, t->flipped, KEYS, t->rows, wide, t->d, 0);
	for (r = 0; r < t->rows; r++) {
		float *s = t->s + (size_t)r * KEYS;

		seen = t->limit[r] - start < n ? t->limit[r] - start : n;
		seen = seen > 0 ? seen : 0;
		row_softmax(s, seen, wide, &t->max[r], &t->sum[r],
		    (vec *)(t->o + (size_t)r * t->wide), t->wide / W);
		if (drop) {
			keep_factors(factors, numbers[r] + start, seen, drop);
			for (j = 0; j < seen; j += W)
				vec_store(s + j, vec_load(s + j) * vec_load(factors + j));
		}
	}
	tile_product(t->o, t->wide, t->s, KEYS, 1, t->values, t->wide, t->rows, t->wide, n, 1);
}

static void
slab_finish(const struct slab *t, int r, void *out, enum dtype type, size_t i)
{
	save(out, type, i, t->o + (size_t)r * t->wide, t->d, 1 / t->sum[r]);
}

/* Zero what a partial block leaves unwritten: the tiles are padded to W rows. */
static void
slab_pad(struct slab *t, int n)
{
	size_t rest = (size_t)(padded(n) - n) * t->wide * sizeof *t->keys;

	memset(t->keys + (size_t)n * t->wide, 0, rest);
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
	int group = h->heads / h->kv_heads, r, j, start, count, end = first + n - base;
	size_t wide = width(h), k = (size_t)(h->heads + kv_head) * h->d,
	    v = k + (size_t)h->kv_heads * h->d;

	t->rows = n * group;
	for (r = 0; r < t->rows; r++) {
		int row = first + r / group, head = kv_head * group + r % group;

		slab_query(t, r, f->qkv, f->type, row * wide + (size_t)head * h->d, h->scale,
		    row - base + 1);
		numbers[r] = keep_attention(row, h->heads, head);
	}
	for (start = 0; start < end; start += KEYS) {
		count = end - start < KEYS ? end - start : KEYS;
		for (j = 0; j < count; j++) {
			size_t at = (size_t)(base + start + j) * wide;

			load(t->keys + (size_t)j * t->wide, f->qkv, f->type, at + k, h->d, 1);
			load(t->values + (size_t)j * t->wide, f->qkv, f->type, at + v, h->d, 1);
		}
		slab_pad(t, count);
		slab_attend(t, start, count, f->drop, numbers);
	}
	for (r = 0; r < t->rows; r++) {
		size_t at = (size_t)(first + r / group) * h->heads + kv_head * group + r % group;

		slab_finish(t, r, f->out, f->type, at * h->d);
		if (f->lse)
			f->lse[at] = t->max[r] + logf(t->sum[r]);
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
					    end - first < block ? end - first : block, kv_head);
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
	int j, rows, d = f->h->d;

	for (j = 0; j < n; j += rows, page++) {
		rows = n - j < KV_PAGE ? n - j : KV_PAGE;
		load_rows(t->keys + (size_t)j * t->wide, t->wide, f->kv->data, f->kv->type,
		    page_at(f->kv, f->layer, *page, 0, kv_head), rows, d);
		load_rows(t->values + (size_t)j * t->wide, t->wide, f->kv->data, f->kv->type,
		    page_at(f->kv, f->layer, *page, 1, kv_head), rows, d);
	}
	slab_pad(t, n);
}

/* Row i, all heads of kv_head. */
static void
paged_slab(const struct paged *f, struct slab *t, int i, int kv_head)
{
	const struct heads *h = f->h;
	int r, start, n, length = f->length[i], first = kv_head * t->rows;

	for (r = 0; r < t->rows; r++)
		slab_query(t, r, f->qkv, f->type, i * width(h) + (size_t)(first + r) * h->d,
		    h->scale, length);
	for (start = 0; start < length; start += KEYS) {
		n = length - start < KEYS ? length - start : KEYS;
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
		n = d - c < 256 ? d - c : 256;
		load(part, x, xtype, from + c, n, 1);
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
	float *dk, *dv;		/* [m][heads][wide], of each query head by itself */
};

/* One head of a sequence of n rows, in f32, [n][wide] but for delta [n]. */
struct head {
	int n, base, head, d, wide;
	float *q, *dout, *dq, *delta;
	float *keys, *values;			/* [KEYS][wide] */
	float *keys_flipped, *values_flipped;	/* [wide][KEYS] */
	float *p, *ds;				/* [KEYS][KEYS] */
	float *dk, *dv;				/* [KEYS][wide] */
};

static void
head_open(struct head *t, int n, int d)
{
	size_t wide = (size_t)padded(d), rows = (size_t)n * wide, block = KEYS * wide;
	float *p = floats(3 * rows + 6 * block + 2 * KEYS * KEYS + n);

	t->d = d;
	t->wide = (int)wide;
	t->q = p;
	t->dout = t->q + rows;
	t->dq = t->dout + rows;
	t->keys = t->dq + rows;
	t->values = t->keys + block;
	t->keys_flipped = t->values + block;
	t->values_flipped = t->keys_flipped + block;
	t->dk = t->values_flipped + block;
	t->dv = t->dk + block;
	t->p = t->dv + block;
	t->ds = t->p + KEYS * KEYS;
	t->delta = t->ds + KEYS * KEYS;
}

/* Queries, gradients of the output, and their products with the output. */
static void
head_load(struct head *t, const struct backward *b)
{
	const struct heads *h = b->h;
	float *out = t->dq;
	int i, c;

	for (i = 0; i < t->n; i++) {
		size_t row = (size_t)(t->base + i), at = (row * h->heads + t->head) * h->d,
		    place = (size_t)i * t->wide;
		vec sum = vec_set(0);

		load(t->q + place, b->qkv, b->type, row * width(h) + (size_t)t->head * h->d, h->d,
		    h->scale);
		load(t->dout + place, b->dout, b->type, at, h->d, 1);
		load(out, b->out, b->type, at, h->d, 1);
		for (c = 0; c < t->wide; c += W)
			sum = vec_fma(vec_load(out + c), vec_load(t->dout + place + c), sum);
		t->delta[i] = vec_sum(sum);
	}
	memset(t->dq, 0, (size_t)t->n * t->wide * sizeof *t->dq);
}

/* p f, p = exp(s - lse), in the place of s, and p (f g - delta) in the place of g; n <= W count. */
INLINE void
gradients(float *s, float *g, float lse, float delta, const float *factors, int n)
{
	vec p = vec_first(vec_exp(vec_load(s) - lse), n, 0),
	    f = factors ? vec_load(factors) : vec_set(1);

	vec_store(g, vec_first(p * (vec_load(g) * f - delta), n, 0));
	vec_store(s, p * f);
}

/*
 * p = exp(s - lse) and ds = p (f dout.v - delta) of rows from .. from + n - 1 and the `keys` at
 * `start`.
 */
static void
head_scores(struct head *t, const struct backward *b, int from, int n, int start, int keys)
{
	float factors[KEYS + KEEP_WORDS];
	int i, j;

	tile_product(t->p, KEYS, t->q + (size_t)from * t->wide, t->wide, 1, t->keys_flipped, KEYS,
	    n, padded(keys), t->d, 0);
	tile_product(t->ds, KEYS, t->dout + (size_t)from * t->wide, t->wide, 1, t->values_flipped,
	    KEYS, n, padded(keys), t->d, 0);
	for (i = 0; i < n; i++) {
		float *p = t->p + (size_t)i * KEYS, *ds = t->ds + (size_t)i * KEYS;
		size_t row = (size_t)(t->base + from + i);
		float lse = b->lse[row * b->h->heads + t->head];
		int seen = from + i + 1 - start;

		if (b->drop)
			keep_factors(factors,
			    keep_attention((int)row, b->h->heads, t->head) + start, keys, b->drop);
		seen = seen < keys ? seen : keys;
		for (j = 0; j + W <= seen; j += W)
			gradients(p + j, ds + j, lse, t->delta[from + i],
			    b->drop ? factors + j : NULL, W);
		if (j < seen) {
			gradients(p + j, ds + j, lse, t->delta[from + i],
			    b->drop ? factors + j : NULL, seen - j);
			j += W;
		}
		for (; j < keys; j += W) {
			vec_store(p + j, vec_set(0));
			vec_store(ds + j, vec_set(0));
		}
	}
}

/* All that the block of keys at `start` gives to the gradients. */
static void
head_block(struct head *t, const struct backward *b, int start)
{
	const struct heads *h = b->h;
	int keys = t->n - start < KEYS ? t->n - start : KEYS, from, n, j;
	size_t wide = width(h), k = (size_t)(h->heads + t->head / (h->heads / h->kv_heads)) * h->d;
	size_t block = (size_t)KEYS * t->wide * sizeof(float);

	memset(t->keys, 0, block);
	memset(t->values, 0, block);
	for (j = 0; j < keys; j++) {
		size_t at = (size_t)(t->base + start + j) * wide + k;

		load(t->keys + (size_t)j * t->wide, b->qkv, b->type, at, h->d, 1);
		load(t->values + (size_t)j * t->wide, b->qkv, b->type,
		    at + (size_t)h->kv_heads * h->d, h->d, 1);
	}
	tile_transpose(t->keys_flipped, KEYS, t->keys, t->wide, KEYS, t->wide);
	tile_transpose(t->values_flipped, KEYS, t->values, t->wide, KEYS, t->wide);
	memset(t->dk, 0, block);
	memset(t->dv, 0, block);
	for (from = start; from < t->n; from += KEYS) {
		n = t->n - from < KEYS ? t->n - from : KEYS;
		head_scores(t, b, from, n, start, keys);
		tile_product(t->dv, t->wide, t->p, 1, KEYS, t->dout + (size_t)from * t->wide,
		    t->wide, keys, t->wide, n, 1);
		tile_product(t->dk, t->wide, t->ds, 1, KEYS, t->q + (size_t)from * t->wide, t->wide,
		    keys, t->wide, n, 1);
		tile_product(t->dq + (size_t)from * t->wide, t->wide, t->ds, KEYS, 1, t->keys,
		    t->wide, n, t->wide, keys, 1);
	}
	for (j = 0; j < keys; j++) {
		size_t to = ((size_t)(t->base + start + j) * h->heads + t->head) * t->wide;

		memcpy(b->dk + to, t->dk + (size_t)j * t->wide, (size_t)t->wide * sizeof(float));
		memcpy(b->dv + to, t->dv + (size_t)j * t->wide, (size_t)t->wide * sizeof(float));
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

	for (kv_head = 0; kv_head < h->kv_heads; kv_head++) {
		const float *part = parts + ((size_t)i * h->heads + (size_t)kv_head * group) * wide;

		for (c = 0; c < wide; c += W) {
			vec total = vec_load(part + c);

			for (g = 1; g < group; g++)
				total += vec_load(part + (size_t)g * wide + c);
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
		free(t.q);
	}
	free(space);
}
