/* SPDX-License-Identifier: MIT */
/*
 * Pieces are counted once each. A pair knows its count and the pieces that it
 * was seen in; a merge visits only those, and corrects the counts of what it
 * changes there. A heap has the pairs by count: counts of old pairs only fall,
 * so an entry that is too high is put back when it comes to the top.
 */
#include <stdlib.h>
#include <string.h>
#include <xxhash.h>

#include "lib/base/die.h"
#include "lib/base/mem.h"
#include "lib/bpe/bpe.h"
#include "lib/bpe/bpe_train.h"
#include "lib/text/unicode.h"

enum { AHEAD = 64, BYTES = 256 };

struct piece {
	size_t at;			/* in bytes[]; in ids[] when merging */
	uint64_t count;
	uint32_t n, hash;
};

struct pair {
	uint32_t left, right;
	uint64_t count;
	uint32_t *pieces;		/* where it was seen; it may be gone from there */
	uint32_t n, cap;
};

struct entry {
	uint64_t count;
	uint32_t left, right, pair;
};

struct bpe_train {
	const struct scan *scan;
	int nfc;
	unsigned char byte_of[BYTES];	/* by id: in the order of their printable form */

	unsigned char *bytes;
	size_t used, room;
	struct piece *pieces;
	uint32_t npieces, pieces_cap;
	uint32_t *index;		/* piece + 1 by its hash */
	uint32_t index_bits;

	uint32_t *ids;			/* the pieces as ids */
	struct pair *pairs;
	uint32_t npairs, pairs_cap;
	uint32_t *pair_index;		/* pair + 1 by its hash */
	uint32_t pair_bits;
	struct entry *heap;
	size_t nheap, heap_cap;
	uint32_t *fresh;		/* pairs that the merge under way made */
	size_t nfresh, fresh_cap;
	uint64_t *merges;		/* left << 32 | right */
	size_t nmerges, merges_cap;
};

static void
order_bytes(unsigned char byte_of[BYTES])
{
	int b, c, id = 0;

	for (c = 0; id < BYTES; c++)
		for (b = 0; b < BYTES; b++)
			if (bpe_printable_byte((unsigned char)b) == (uint32_t)c)
				byte_of[id++] = (unsigned char)b;
}

struct bpe_train *
bpe_train_new(const struct scan *scan, int nfc)
{
	struct bpe_train *t = mem_zero(1, sizeof *t);

	t->scan = scan;
	t->nfc = nfc;
	order_bytes(t->byte_of);
	t->index_bits = t->pair_bits = 12;
	t->index = mem_zero((size_t)1 << t->index_bits, sizeof *t->index);
	t->pair_index = mem_zero((size_t)1 << t->pair_bits, sizeof *t->pair_index);
	return t;
}

void
bpe_train_free(struct bpe_train *t)
{
	uint32_t i;

	if (!t)
		return;
	for (i = 0; i < t->npairs; i++)
		free(t->pairs[i].pieces);
	free(t->bytes);
	free(t->pieces);
	free(t->index);
	free(t->ids);
	free(t->pairs);
	free(t->pair_index);
	free(t->heap);
	free(t->fresh);
	free(t->merges);
	free(t);
}

static void
grow_index(struct bpe_train *t)
{
	size_t mask = ((size_t)1 << ++t->index_bits) - 1, i;
	uint32_t k;

	free(t->index);
	t->index = mem_zero(mask + 1, sizeof *t->index);
	for (k = 0; k < t->npieces; k++) {
		for (i = t->pieces[k].hash & mask; t->index[i]; i = (i + 1) & mask)
			;
		t->index[i] = k + 1;
	}
}

static void
count_piece(struct bpe_train *t, const unsigned char *s, size_t n, uint64_t repeat)
{
	uint32_t hash = (uint32_t)XXH3_64bits(s, n);
	size_t mask = ((size_t)1 << t->index_bits) - 1, i;
	struct piece *p, new = { t->used, repeat, (uint32_t)n, hash };

	for (i = hash & mask; t->index[i]; i = (i + 1) & mask) {
		p = &t->pieces[t->index[i] - 1];
		if (p->hash == hash && p->n == n && !memcmp(t->bytes + p->at, s, n)) {
			p->count += repeat;
			return;
		}
	}
	if (t->used + n > t->room)
		t->bytes = mem_grow(t->bytes, t->room = 2 * (t->used + n), 1);
	memcpy(t->bytes + t->used, s, n);
	t->used += n;
	MEM_PUSH(t->pieces, t->npieces, t->pieces_cap, new);
	t->index[i] = t->npieces;
	if (t->npieces > mask / 2)
		grow_index(t);
}

int
bpe_train_add(struct bpe_train *t, const char *text, size_t n, uint64_t repeat, char *why)
{
	const unsigned char *ends[AHEAD], *at, *end;
	unsigned char *nfc = NULL;
	size_t valid, pieces, i;
	int unstable;

	valid = unicode_check(text, n, &unstable);
	if (valid != n)
		return reason(why, "the text is not UTF-8, at its byte %zu", valid);
	if (n > UINT32_MAX)
		return reason(why, "a document of %zu bytes", n);
	if (unstable && t->nfc)
		text = (char *)(nfc = unicode_nfc(text, n, &n));
	at = (const unsigned char *)text;
	end = at + n;
	while ((pieces = scan_pieces(t->scan, (const unsigned char *)text, at, end, ends, AHEAD)))
		for (i = 0; i < pieces; at = ends[i++])
			count_piece(t, at, (size_t)(ends[i] - at), repeat);
	free(nfc);
	return 0;
}

static size_t
pair_hash(uint32_t left, uint32_t right)
{
	uint64_t h = ((uint64_t)left << 32 | right) * 0x9e3779b97f4a7c15;

	return (size_t)(h ^ h >> 32);
}

static void
grow_pairs(struct bpe_train *t)
{
	size_t mask = ((size_t)1 << ++t->pair_bits) - 1, i;
	uint32_t k;

	free(t->pair_index);
	t->pair_index = mem_zero(mask + 1, sizeof *t->pair_index);
	for (k = 0; k < t->npairs; k++) {
		for (i = pair_hash(t->pairs[k].left, t->pairs[k].right) & mask; t->pair_index[i]; i = (i + 1) & mask)
			;
		t->pair_index[i] = k + 1;
	}
}

/* Valid until the next call, which may move it. */
static struct pair *
pair_of(struct bpe_train *t, uint32_t left, uint32_t right)
{
	size_t mask = ((size_t)1 << t->pair_bits) - 1, i;
	struct pair *p, new = { .left = left, .right = right };

	for (i = pair_hash(left, right) & mask; t->pair_index[i]; i = (i + 1) & mask) {
		p = &t->pairs[t->pair_index[i] - 1];
		if (p->left == left && p->right == right)
			return p;
	}
	MEM_PUSH(t->pairs, t->npairs, t->pairs_cap, new);
	MEM_PUSH(t->fresh, t->nfresh, t->fresh_cap, t->npairs - 1);
	t->pair_index[i] = t->npairs;
	if (t->npairs > mask / 2)
		grow_pairs(t);
	return &t->pairs[t->npairs - 1];
}

/* A pair stands in a piece once more. */
static void
add_pair(struct bpe_train *t, uint32_t left, uint32_t right, uint32_t piece)
{
	struct pair *p = pair_of(t, left, right);

	p->count += t->pieces[piece].count;
	if (!p->n || p->pieces[p->n - 1] != piece)
		MEM_PUSH(p->pieces, p->n, p->cap, piece);
}

static void
drop_pair(struct bpe_train *t, uint32_t left, uint32_t right, uint32_t piece)
{
	pair_of(t, left, right)->count -= t->pieces[piece].count;
}

/* Does a come out of the heap before b? */
static int
before(const struct entry *a, const struct entry *b)
{
	if (a->count != b->count)
		return a->count > b->count;
	return a->left != b->left ? a->left < b->left : a->right < b->right;
}

static void
push(struct bpe_train *t, uint32_t pair)
{
	const struct pair *p = &t->pairs[pair];
	struct entry e = { p->count, p->left, p->right, pair };
	size_t i = t->nheap;

	MEM_PUSH(t->heap, t->nheap, t->heap_cap, e);
	for (; i && before(&e, &t->heap[(i - 1) / 2]); i = (i - 1) / 2)
		t->heap[i] = t->heap[(i - 1) / 2];
	t->heap[i] = e;
}

static struct entry
pop(struct bpe_train *t)
{
	struct entry top = t->heap[0], last = t->heap[--t->nheap];
	size_t i = 0, child;

	while ((child = 2 * i + 1) < t->nheap) {
		child += child + 1 < t->nheap && before(&t->heap[child + 1], &t->heap[child]);
		if (!before(&t->heap[child], &last))
			break;
		t->heap[i] = t->heap[child];
		i = child;
	}
	t->heap[i] = last;
	return top;
}

static void
push_fresh(struct bpe_train *t)
{
	size_t i;

	for (i = 0; i < t->nfresh; i++)
		if (t->pairs[t->fresh[i]].count)
			push(t, t->fresh[i]);
	t->nfresh = 0;
}

static void
count_pairs(struct bpe_train *t)
{
	uint32_t id_of[BYTES], k, j;
	const struct piece *p;

	for (k = 0; k < BYTES; k++)
		id_of[t->byte_of[k]] = k;
	t->ids = mem_alloc(mem_mul(t->used, sizeof *t->ids));
	for (k = 0; k < t->npieces; k++) {
		p = &t->pieces[k];
		for (j = 0; j < p->n; j++)
			t->ids[p->at + j] = id_of[t->bytes[p->at + j]];
		for (j = 1; j < p->n; j++)
			add_pair(t, t->ids[p->at + j - 1], t->ids[p->at + j], k);
	}
	push_fresh(t);
}

/* Left to right; the pairs that it breaks leave the counts, those with the new id come in. */
static void
merge_piece(struct bpe_train *t, uint32_t piece, uint32_t left, uint32_t right, uint32_t made)
{
	struct piece *p = &t->pieces[piece];
	uint32_t *ids = t->ids + p->at, i, n, end = 0;	/* where the last occurrence ended */

	for (i = n = 0; i < p->n; n++) {
		if (i + 1 == p->n || ids[i] != left || ids[i + 1] != right) {
			ids[n] = ids[i++];
			continue;
		}
		if (i > end)
			drop_pair(t, ids[n - 1], left, piece);
		drop_pair(t, left, right, piece);
		if (i + 2 < p->n)
			drop_pair(t, right, ids[i + 2], piece);
		ids[n] = made;
		end = i += 2;
	}
	if (n == p->n)
		return;
	p->n = n;
	for (i = 1; i < n; i++)
		if (ids[i - 1] == made || ids[i] == made)
			add_pair(t, ids[i - 1], ids[i], piece);
}

static void
make_merge(struct bpe_train *t, uint32_t pair)
{
	uint32_t left = t->pairs[pair].left, right = t->pairs[pair].right, n = t->pairs[pair].n, i;
	uint32_t *pieces = t->pairs[pair].pieces;

	t->pairs[pair].pieces = NULL;
	t->pairs[pair].n = t->pairs[pair].cap = 0;
	MEM_PUSH(t->merges, t->nmerges, t->merges_cap, (uint64_t)left << 32 | right);
	for (i = 0; i < n; i++)
		merge_piece(t, pieces[i], left, right, (uint32_t)(BYTES + t->nmerges - 1));
	free(pieces);
	push_fresh(t);
}

size_t
bpe_train_run(struct bpe_train *t, size_t merges, uint64_t min_frequency)
{
	struct entry e;

	count_pairs(t);
	while (t->nmerges < merges && t->nheap) {
		e = pop(t);
		if (!e.count || e.count < min_frequency)
			break;
		if (e.count == t->pairs[e.pair].count)
			make_merge(t, e.pair);
		else if (t->pairs[e.pair].count)
			push(t, e.pair);
	}
	return t->nmerges;
}

static size_t
token_size(const struct bpe_train *t, uint32_t id)
{
	if (id < BYTES)
		return 1;
	return token_size(t, (uint32_t)(t->merges[id - BYTES] >> 32)) + token_size(t, (uint32_t)t->merges[id - BYTES]);
}

static unsigned char *
token_bytes(const struct bpe_train *t, uint32_t id, unsigned char *out)
{
	if (id < BYTES) {
		*out = t->byte_of[id];
		return out + 1;
	}
	out = token_bytes(t, (uint32_t)(t->merges[id - BYTES] >> 32), out);
	return token_bytes(t, (uint32_t)t->merges[id - BYTES], out);
}

char *
bpe_train_token(const struct bpe_train *t, uint32_t id)
{
	size_t n = token_size(t, id);
	unsigned char *bytes = mem_alloc(n);
	char *s = mem_alloc(2 * n + 1);

	token_bytes(t, id, bytes);
	s[bpe_printable(bytes, n, s)] = '\0';
	free(bytes);
	return s;
}

void
bpe_train_merge(const struct bpe_train *t, size_t i, uint32_t *left, uint32_t *right)
{
	*left = (uint32_t)(t->merges[i] >> 32);
	*right = (uint32_t)t->merges[i];
}
