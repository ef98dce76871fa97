/* SPDX-License-Identifier: MIT */
/*
 * attention_simd - products of small f32 tiles, and a softmax that is corrected block by block
 *
 * Keys come in blocks of KEYS that begin at position 0 of the sequence, whoever asks. The forward's unit of
 * work is a slab: some positions of one key head, by all query heads that read it. A row of a slab is
 * computed in the order of its keys, by the same operations alone or among others; so a page table gives the
 * same bits as the packed sequence. The backward's unit is one head of a sequence, key block by key block;
 * gradients of keys that several heads read are added afterwards, in the order of heads.
 */
#include <float.h>
#include <math.h>
#include <stdlib.h>

#include "kernels/cells.h"
#include "kernels/page.h"
#include "kernels/vkeep.h"
#include "kernels/vmath.h"
#include "kernels/vtile.h"
#include "lib/base/die.h"
#include "lib/base/mem.h"

enum {
	KEYS = 2 * KV_PAGE,	/* of a block */
	SLAB = 96,		/* rows of a slab, about */
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
	p = floats((size_t)rows * (2 * t->wide + KEYS + 3) + 3 * (size_t)KEYS * t->wide);
	t->q = p;
	t->o = t->q + (size_t)rows * t->wide;
	t->keys = t->o + (size_t)rows * t->wide;
	t->flipped = t->keys + (size_t)KEYS * t->wide;
	t->values = t->flipped + (size_t)KEYS * t->wide;
	t->s = t->values + (size_t)KEYS * t->wide;
	t->max = t->s + (size_t)rows * KEYS;
	t->sum = t->max + rows;
	t->limit = (int *)(t->sum + rows);
}

static void
slab_close(struct slab *t)
{
	free(t->q);
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
slab_query(struct slab *t, int r, const void *qkv, enum dtype type, size_t i, float scale, int limit)
{
	load(t->q + (size_t)r * t->wide, qkv, type, i, t->d, scale);
	memset(t->o + (size_t)r * t->wide, 0, (size_t)t->wide * sizeof *t->o);
	t->max[r] = -FLT_MAX;
	t->sum[r] = 0;
	t->limit[r] = limit;
}

/* Scores of a row to probabilities, relative to its maximum so far; n of them count. */
static void
row_softmax(float *s, int n, float *max, float *sum, float *o, int wide)
{
	vec largest = vec_set(-FLT_MAX), lanes = vec_set(0);
	float new, factor;
	int j;

	for (j = 0; j < n; j += W)
		largest = vec_max(vec_first(vec_load(s + j), n - j, -FLT_MAX), largest);
	new = vec_largest(largest);
	new = new > *max ? new : *max;
	for (j = 0; j < n; j += W) {
		vec p = vec_first(vec_exp(vec_load(s + j) - new), n - j, 0);

		vec_store(s + j, p);
		lanes += p;
	}
	factor = *max == new ? 1 : expf(*max - new);
	*sum = *sum * factor + vec_sum(lanes);
	*max = new;
	for (j = 0; factor != 1 && j < wide; j += W)
		vec_store(o + j, vec_load(o + j) * factor);
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
		if (seen)
			row_softmax(s, seen, &t->max[r], &t->sum[r], t->o + (size_t)r * t->wide, t->wide);
		for (j = padded(seen); j < wide; j += W)
			vec_store(s + j, vec_set(0));
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
forward_slab(const struct forward *f, struct slab *t, uint64_t *numbers, int base, int first, int n, int kv_head)
{
	const struct heads *h = f->h;
	int group = h->heads / h->kv_heads, r, j, start, count, end = first + n - base;
	size_t wide = width(h), k = (size_t)(h->heads + kv_head) * h->d, v = k + (size_t)h->kv_heads * h->d;

	t->rows = n * group;
	for (r = 0; r < t->rows; r++) {
		int row = first + r / group, head = kv_head * group + r % group;

		slab_query(t, r, f->qkv, f->type, row * wide + (size_t)head * h->d, h->scale, row - base + 1);
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

void
FN(attention_paged)(void *out, const void *qkv, enum dtype type, const struct kv *kv, int layer,
    const int *tables, int ntables, const int *length, int m, const struct heads *h)
{
	int group = h->heads / h->kv_heads;
	size_t wide = width(h);

	#pragma omp parallel
	{
		struct slab t;
		int i, kv_head, r, j, start;

		slab_open(&t, group, h->d);
		t.rows = group;
		#pragma omp for schedule(dynamic) collapse(2)
		for (i = 0; i < m; i++)
			for (kv_head = 0; kv_head < h->kv_heads; kv_head++) {
				for (r = 0; r < group; r++)
					slab_query(&t, r, qkv, type, i * wide + (size_t)(kv_head * group + r) * h->d,
					    h->scale, length[i]);
				for (start = 0; start < length[i]; start += KEYS) {
					int n = length[i] - start < KEYS ? length[i] - start : KEYS;

					for (j = 0; j < n; j++) {
						int page = tables[(size_t)i * ntables + (start + j) / KV_PAGE];
						size_t at = (size_t)(j % KV_PAGE) * h->d;

						load(t.keys + (size_t)j * t.wide, kv->data, kv->type,
						    page_at(kv, layer, page, 0, kv_head) + at, h->d, 1);
						load(t.values + (size_t)j * t.wide, kv->data, kv->type,
						    page_at(kv, layer, page, 1, kv_head) + at, h->d, 1);
					}
					slab_pad(&t, n);
					slab_attend(&t, start, n, NULL, NULL);
				}
				for (r = 0; r < group; r++)
					slab_finish(&t, r, out, type,
					    ((size_t)i * h->heads + kv_head * group + r) * h->d);
			}
		slab_close(&t);
	}
}

void
FN(kv_store)(struct kv *kv, int layer, const void *qkv, enum dtype type, const int *page, const int *place,
    int m, const struct heads *h)
{
	int i;

	#pragma omp parallel for schedule(static) if ((size_t)m * h->kv_heads * h->d > 1 << 13)
	for (i = 0; i < m; i++) {
		float row[1024];
		int values, head, c, n;

		for (values = 0; values < 2; values++)
			for (head = 0; head < h->kv_heads; head++)
				for (c = 0; c < h->d; c += n) {
					size_t to = page_at(kv, layer, page[i], values, head) + c;
					size_t from = i * width(h) + c;

					n = h->d - c < 1024 ? h->d - c : 1024;
					to += (size_t)(place[i] % KV_PAGE) * h->d;
					from += (size_t)(h->heads + values * h->kv_heads + head) * h->d;
					load(row, qkv, type, from, n, 1);
					save(kv->data, kv->type, to, row, n, 1);
				}
	}
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
		size_t row = (size_t)(t->base + i), at = (row * h->heads + t->head) * h->d, place = (size_t)i * t->wide;
		vec sum = vec_set(0);

		load(t->q + place, b->qkv, b->type, row * width(h) + (size_t)t->head * h->d, h->d, h->scale);
		load(t->dout + place, b->dout, b->type, at, h->d, 1);
		load(out, b->out, b->type, at, h->d, 1);
		for (c = 0; c < t->wide; c += W)
			sum = vec_fma(vec_load(out + c), vec_load(t->dout + place + c), sum);
		t->delta[i] = vec_sum(sum);
	}
	memset(t->dq, 0, (size_t)t->n * t->wide * sizeof *t->dq);
}

/* p = exp(s - lse) and ds = p (f dout.v - delta) of rows from .. from + n - 1 and the `keys` at `start`. */
static void
head_scores(struct head *t, const struct backward *b, int from, int n, int start, int keys)
{
	float factors[KEYS + KEEP_WORDS];
	int i, j;

	tile_product(t->p, KEYS, t->q + (size_t)from * t->wide, t->wide, 1, t->keys_flipped, KEYS, n, padded(keys),
	    t->d, 0);
	tile_product(t->ds, KEYS, t->dout + (size_t)from * t->wide, t->wide, 1, t->values_flipped, KEYS, n,
	    padded(keys), t->d, 0);
	for (i = 0; i < n; i++) {
		float *p = t->p + (size_t)i * KEYS, *ds = t->ds + (size_t)i * KEYS;
		size_t row = (size_t)(t->base + from + i);
		float lse = b->lse[row * b->h->heads + t->head];
		int seen = from + i + 1 - start;

		if (b->drop)
			keep_factors(factors, keep_attention((int)row, b->h->heads, t->head) + start, keys, b->drop);
		for (j = 0; j < keys; j += W) {
			int left = seen - j > 0 ? seen - j : 0;
			vec q = vec_first(vec_exp(vec_load(p + j) - lse), left, 0), g = vec_load(ds + j);
			vec f = b->drop ? vec_load(factors + j) : vec_set(1);

			vec_store(ds + j, vec_first(q * (g * f - t->delta[from + i]), left, 0));
			vec_store(p + j, q * f);
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
		load(t->values + (size_t)j * t->wide, b->qkv, b->type, at + (size_t)h->kv_heads * h->d, h->d, 1);
	}
	tile_transpose(t->keys_flipped, KEYS, t->keys, t->wide, KEYS, t->wide);
	tile_transpose(t->values_flipped, KEYS, t->values, t->wide, KEYS, t->wide);
	memset(t->dk, 0, block);
	memset(t->dv, 0, block);
	for (from = start; from < t->n; from += KEYS) {
		n = t->n - from < KEYS ? t->n - from : KEYS;
		head_scores(t, b, from, n, start, keys);
		tile_product(t->dv, t->wide, t->p, 1, KEYS, t->dout + (size_t)from * t->wide, t->wide, keys, t->wide,
		    n, 1);
		tile_product(t->dk, t->wide, t->ds, 1, KEYS, t->q + (size_t)from * t->wide, t->wide, keys, t->wide,
		    n, 1);
		tile_product(t->dq + (size_t)from * t->wide, t->wide, t->ds, KEYS, 1, t->keys, t->wide, n, t->wide,
		    keys, 1);
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
		save(b->dqkv, b->type, (size_t)(t->base + i) * width(b->h) + (size_t)t->head * b->h->d,
		    t->dq + (size_t)i * t->wide, b->h->d, b->h->scale);
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
		save(b->dqkv, b->type, i * width(h) + (size_t)(h->heads + values * h->kv_heads + kv_head) * h->d, sum,
		    h->d, 1);
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
FN(attention_backward)(void *dqkv, const void *dout, const void *out, const float *lse, const void *qkv,
    enum dtype type, const struct ragged *seq, const struct heads *h, const struct dropout *drop)
{
	size_t parts = (size_t)seq->m * h->heads * padded(h->d);
	float *space = floats(2 * parts);
	const struct backward b = { dqkv, dout, out, lse, qkv, type, seq, h, keep_all(drop) ? NULL : drop,
	    space, space + parts };

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
