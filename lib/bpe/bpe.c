/* SPDX-License-Identifier: MIT */
/*
 * Short words keep the rank of each pair in a small array, and where tokens
 * start in the bits of a word; long ones (a run of 5,000 letters) use a heap of pairs over a
 * linked list, so that n bytes cost n log n.
 *
 * A word that is a token as a whole needs no merging, if merging its bytes
 * would arrive there. That is proved for every token when loading: it holds
 * for l + r = t of rank k when it holds for l and r, and no merge across
 * their border that is possible on the way has a rank below k.
 */
#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "lib/base/die.h"
#include "lib/base/mem.h"
#include "lib/bpe/bpe.h"
#include "lib/text/unicode.h"

#define EMPTY UINT64_MAX

enum {
	SHORT = 64,			/* bytes: positions are bits of a word; beyond, the heap */
	FILTER_BITS = 20,
	NONE = BPE_MAX - 1		/* no rank: the low bits of EMPTY */
};

struct bpe *
bpe_new(void)
{
	return mem_zero(1, sizeof(struct bpe));
}

void
bpe_free(struct bpe *b)
{
	if (!b)
		return;
	free(b->text);
	free(b->bytes);
	free(b->index);
	free(b->merged);
	free(b->made_of);
	free(b->pair);
	free(b->pair_filter);
	free(b->text_filter);
	free(b->first);
	free(b->whole);
	free(b);
}

/* Tables that are read at random lie in large pages where the system has them. */
static void *
table(size_t size)
{
	const size_t page = (size_t)2 << 20;
	void *p;

	if (size < page)
		return mem_alloc(size);
	size = (size + page - 1) / page * page;
	if (!(p = aligned_alloc(page, size)))
		die("out of memory, asking for %zu bytes", size);
	madvise(p, size, MADV_HUGEPAGE);
	return p;
}

/* A bit for each hash, in the second-level cache, tells of most things that they are not in a table. */
static inline void
filter_add(uint64_t *filter, uint64_t hash)
{
	filter[hash >> (70 - FILTER_BITS)] |= (uint64_t)1 << (hash >> (64 - FILTER_BITS) & 63);
}

static inline int
filter_has(const uint64_t *filter, uint64_t hash)
{
	return filter[hash >> (70 - FILTER_BITS)] >> (hash >> (64 - FILTER_BITS) & 63) & 1;
}

static uint64_t
mix(uint64_t x)
{
	x *= 0x9e3779b97f4a7c15;
	return x ^ x >> 32;
}

static uint64_t
hash_bytes(const unsigned char *p, size_t n)
{
	uint64_t h = n, w;

	for (; n >= 8; p += 8, n -= 8) {
		memcpy(&w, p, 8);
		h = mix(h ^ w);
	}
	for (w = 0; n; n--)
		w = w << 8 | p[n - 1];
	return mix(mix(h ^ w));
}

/* The slot of this text, or the empty one where it would stand. */
static size_t
find_text(const struct bpe *b, const unsigned char *p, size_t n, uint64_t hash)
{
	size_t mask = ((size_t)1 << b->index_bits) - 1, i;
	const struct bpe_text *t;

	for (i = hash >> 8 & mask; b->index[i]; i = (i + 1) & mask) {
		if ((b->index[i] ^ hash) >> 32)
			continue;
		t = &b->text[(uint32_t)b->index[i] - 1];
		if (t->n == n && !memcmp(b->bytes + t->at, p, n))
			break;
	}
	return i;
}

static uint64_t
index_entry(uint64_t hash, uint32_t id)
{
	return (hash & 0xffffffff00000000) | (id + 1);
}

static void
grow_index(struct bpe *b)
{
	uint64_t hash;
	uint32_t id;

	b->index_bits = b->index_bits ? b->index_bits + 1 : 10;
	free(b->index);
	b->index = table(sizeof *b->index << b->index_bits);
	memset(b->index, 0, sizeof *b->index << b->index_bits);
	for (id = 0; id < b->n; id++) {
		if (!b->text[id].n)
			continue;
		hash = hash_bytes(b->bytes + b->text[id].at, b->text[id].n);
		b->index[find_text(b, b->bytes + b->text[id].at, b->text[id].n, hash)] = index_entry(hash, id);
	}
}

static void
reach(struct bpe *b, uint32_t id)
{
	uint32_t cap = b->cap ? b->cap : 512;

	while (id >= cap)
		cap *= 2;
	if (cap > b->cap) {
		b->text = mem_grow(b->text, cap, sizeof *b->text);
		memset(b->text + b->cap, 0, (cap - b->cap) * sizeof *b->text);
		b->cap = cap;
	}
	if (id >= b->n)
		b->n = id + 1;
	while (b->n > (3u << b->index_bits) / 5)
		grow_index(b);
}

int
bpe_token(struct bpe *b, int64_t id, const void *bytes, size_t n, char *why)
{
	uint64_t hash = hash_bytes(bytes, n);
	size_t slot;

	if (id < 0 || id >= BPE_MAX)
		return reason(why, "token '%.*s' has id %lld, which is not in 0 .. %d", (int)n, (const char *)bytes,
		    (long long)id, BPE_MAX - 1);
	if (!n || n > INT_MAX || b->used + n > UINT32_MAX)
		return reason(why, "token %lld has %zu bytes", (long long)id, n);
	reach(b, (uint32_t)id);
	if (b->text[id].n)
		return reason(why, "two tokens have id %lld", (long long)id);
	slot = find_text(b, bytes, n, hash);
	if (b->index[slot])
		return reason(why, "token '%.*s' stands twice in the vocabulary", (int)n, (const char *)bytes);
	if (b->used + n > b->room)
		b->bytes = mem_grow(b->bytes, b->room = 2 * (b->used + n), 1);
	memcpy(b->bytes + b->used, bytes, n);
	b->text[id] = (struct bpe_text){ (uint32_t)b->used, (uint32_t)n };
	b->used += n;
	b->index[slot] = index_entry(hash, (uint32_t)id);
	return 0;
}

static int32_t
id_of(const struct bpe *b, const void *bytes, size_t n, uint64_t hash)
{
	uint64_t entry = b->index[find_text(b, bytes, n, hash)];

	return entry ? (int32_t)(uint32_t)entry - 1 : -1;
}

int32_t
bpe_id(const struct bpe *b, const void *bytes, size_t n)
{
	return b->n ? id_of(b, bytes, n, hash_bytes(bytes, n)) : -1;
}

/* 21 bits each: left, right, rank */
static uint64_t
pair_key(uint32_t left, uint32_t right)
{
	return (uint64_t)left << 21 | right;
}

static inline uint64_t
pair_hash(uint64_t key)
{
	return key * 0x9e3779b97f4a7c15;
}

static size_t
pair_slot(const struct bpe *b, uint64_t key)
{
	return (size_t)(pair_hash(key) >> (64 - b->pair_bits));
}

static inline uint32_t
pair_rank(const struct bpe *b, uint32_t left, uint32_t right)
{
	uint64_t key = pair_key(left, right);
	size_t mask = ((size_t)1 << b->pair_bits) - 1, i;

	if (!filter_has(b->pair_filter, pair_hash(key)))
		return NONE;
	for (i = pair_slot(b, key); b->pair[i] >> 21 != key && b->pair[i] != EMPTY; i = (i + 1) & mask)
		;
	return b->pair[i] & NONE;
}

int
bpe_merge(struct bpe *b, const void *left, size_t nleft, const void *right, size_t nright, char *why)
{
	unsigned char joined[512], *both = nleft + nright > sizeof joined ? mem_alloc(nleft + nright) : joined;
	int32_t l = bpe_id(b, left, nleft), r = bpe_id(b, right, nright), id;

	memcpy(both, left, nleft);
	memcpy(both + nleft, right, nright);
	id = bpe_id(b, both, nleft + nright);
	if (both != joined)
		free(both);
	if (l < 0 || r < 0 || id < 0)
		return reason(why, "merge %u of '%.*s' and '%.*s': %s is not in the vocabulary", b->merges,
		    (int)nleft, (const char *)left, (int)nright, (const char *)right,
		    l < 0 ? "the first" : r < 0 ? "the second" : "the result");
	if (b->merges == BPE_MAX - 1)
		return reason(why, "more than %d merges", BPE_MAX - 1);
	if (b->merges == b->merges_cap) {
		b->merges_cap = b->merges_cap ? 2 * b->merges_cap : 1024;
		b->merged = mem_grow(b->merged, b->merges_cap, sizeof *b->merged);
		b->made_of = mem_grow(b->made_of, b->merges_cap, sizeof *b->made_of);
	}
	b->made_of[b->merges] = (uint64_t)l << 32 | (uint32_t)r;
	b->merged[b->merges++] = (uint32_t)id;
	return 0;
}

/* A pair that stands twice has its last rank, as it would in a dictionary. */
static void
index_pairs(struct bpe *b)
{
	size_t i, mask, slots;
	uint64_t key;
	uint32_t rank;

	for (b->pair_bits = 4; (3u << b->pair_bits) / 5 < b->merges; b->pair_bits++)
		;
	slots = (size_t)1 << b->pair_bits;
	mask = slots - 1;
	b->pair = table(slots * sizeof *b->pair);
	memset(b->pair, 0xff, slots * sizeof *b->pair);
	b->pair_filter = mem_zero((size_t)1 << (FILTER_BITS - 6), sizeof *b->pair_filter);
	for (rank = 0; rank < b->merges; rank++) {
		key = pair_key((uint32_t)(b->made_of[rank] >> 32), (uint32_t)b->made_of[rank]);
		for (i = pair_slot(b, key); b->pair[i] != EMPTY && b->pair[i] >> 21 != key; i = (i + 1) & mask)
			;
		b->pair[i] = key << 21 | rank;
		filter_add(b->pair_filter, pair_hash(key));
	}
}

/*
 * Does merging the bytes of two whole tokens leave them apart until `rank`,
 * when they meet? Backwards over the merges that made what touches the border:
 * none across it may come before the next of them, nor, being to the left of
 * it, at its own rank.
 */
static int
meet(const struct bpe *b, const uint32_t *rank_of, uint32_t left, uint32_t right, uint32_t rank)
{
	uint32_t l = rank_of[left], r = rank_of[right], across;

	if ((l != NONE && l >= rank) || (r != NONE && r >= rank))
		return 0;
	while (l != NONE || r != NONE) {
		if (r == NONE || (l != NONE && l > r)) {
			left = (uint32_t)b->made_of[l];
			across = pair_rank(b, left, right);
			if (across < l)
				return 0;
			l = rank_of[left];
		} else {
			right = (uint32_t)(b->made_of[r] >> 32);
			across = pair_rank(b, left, right);
			if (across <= r)
				return 0;
			r = rank_of[right];
		}
	}
	return 1;
}

static void
filter_texts(struct bpe *b)
{
	uint32_t id;

	b->text_filter = mem_zero((size_t)1 << (FILTER_BITS - 6), sizeof *b->text_filter);
	for (id = 0; id < b->n; id++)
		if (b->text[id].n)
			filter_add(b->text_filter, hash_bytes(b->bytes + b->text[id].at, b->text[id].n));
}

static void
find_whole(struct bpe *b)
{
	uint32_t *rank_of = mem_alloc(b->n * sizeof *rank_of), rank, id, l, r;
	int i;

	for (id = 0; id < b->n; id++)
		rank_of[id] = NONE;
	b->whole = mem_zero(b->n, 1);
	for (i = 0; i < 256; i++)
		b->whole[b->of_byte[i]] = 1;
	for (rank = 0; rank < b->merges; rank++) {
		id = b->merged[rank];
		l = (uint32_t)(b->made_of[rank] >> 32);
		r = (uint32_t)b->made_of[rank];
		if (b->whole[id] || !b->whole[l] || !b->whole[r] || pair_rank(b, l, r) != rank)
			continue;
		if ((b->whole[id] = (uint8_t)meet(b, rank_of, l, r, rank)))
			rank_of[id] = rank;
	}
	free(rank_of);
}

int
bpe_finish(struct bpe *b, char *why)
{
	unsigned char byte;
	uint32_t rank;
	int i, j;

	for (i = 0; i < 256; i++) {
		byte = (unsigned char)i;
		b->of_byte[i] = bpe_id(b, &byte, 1);
		if (b->of_byte[i] < 0)
			return reason(why, "the vocabulary has no token for byte 0x%02x", i);
	}
	index_pairs(b);
	b->first = mem_alloc(256 * sizeof *b->first);
	for (i = 0; i < 256; i++)
		for (j = 0; j < 256; j++)
			b->first[i][j] = pair_rank(b, (uint32_t)b->of_byte[i], (uint32_t)b->of_byte[j]);
	for (b->in_order = 1, rank = 0; rank < b->merges; rank++)
		b->in_order &= b->merged[rank] == b->merged[0] + rank;
	find_whole(b);
	filter_texts(b);
	return 0;
}

/* The token that a merge makes: mostly its rank and a constant, which needs no memory. */
static inline uint32_t
merged(const struct bpe *b, uint32_t rank)
{
	return b->in_order ? b->merged[0] + rank : b->merged[rank];
}

/* The lowest rank and where it stands, the leftmost of equals, in one number. */
static inline uint32_t
lowest(const uint32_t *rank, size_t n)
{
	uint32_t least = UINT32_MAX, key;
	size_t i;

	for (i = 0; i < n; i++) {
		key = rank[i] << 6 | (uint32_t)i;
		least = key < least ? key : least;
	}
	return least;
}

static size_t
merge_short(const struct bpe *b, const unsigned char *word, size_t n, int32_t *out)
{
	uint32_t id[SHORT], rank[SHORT], least, after, next;
	uint64_t starts = UINT64_MAX >> (64 - n), later;
	size_t i, at, made;

	for (i = 0; i + 1 < n; i++) {
		id[i] = (uint32_t)b->of_byte[word[i]];
		rank[i] = b->first[word[i]][word[i + 1]];
	}
	id[n - 1] = (uint32_t)b->of_byte[word[n - 1]];
	rank[n - 1] = NONE;
	while ((least = lowest(rank, n)) >> 6 != NONE) {
		at = least & 63;
		id[at] = merged(b, least >> 6);
		later = starts & ~(uint64_t)1 << at;
		next = (uint32_t)__builtin_ctzll(later);
		rank[next] = NONE;
		starts &= ~((uint64_t)1 << next);
		later &= later - 1;
		after = later ? (uint32_t)__builtin_ctzll(later) : (uint32_t)n;
		/* both at once on their way from memory */
		if (after < n)
			__builtin_prefetch(&b->pair[pair_slot(b, pair_key(id[at], id[after]))]);
		if (at) {
			i = 63 - (size_t)__builtin_clzll(starts & (((uint64_t)1 << at) - 1));
			rank[i] = pair_rank(b, id[i], id[at]);
		}
		rank[at] = after < n ? pair_rank(b, id[at], id[after]) : NONE;
	}
	for (made = 0; starts; starts &= starts - 1)
		out[made++] = (int32_t)id[__builtin_ctzll(starts)];
	return made;
}

struct heap {
	uint64_t *key;		/* rank << 32 | position */
	size_t n;
};

static void
heap_push(struct heap *h, uint64_t key)
{
	size_t i = h->n++;

	for (; i && h->key[(i - 1) / 2] > key; i = (i - 1) / 2)
		h->key[i] = h->key[(i - 1) / 2];
	h->key[i] = key;
}

static uint64_t
heap_pop(struct heap *h)
{
	uint64_t top = h->key[0], last = h->key[--h->n];
	size_t i = 0, child;

	while ((child = 2 * i + 1) < h->n) {
		child += child + 1 < h->n && h->key[child + 1] < h->key[child];
		if (h->key[child] >= last)
			break;
		h->key[i] = h->key[child];
		i = child;
	}
	h->key[i] = last;
	return top;
}

/* Each merge pushes two pairs at most and takes one id away: 3n entries are enough. */
static size_t
merge_long(const struct bpe *b, const unsigned char *word, size_t n, int32_t *out)
{
	struct heap h = { mem_alloc(mem_mul(3 * n, sizeof *h.key)), 0 };
	uint32_t *next = mem_alloc(mem_mul(n, sizeof *next)), *before = mem_alloc(mem_mul(n, sizeof *before));
	uint32_t i, j, k, rank;
	uint64_t top;
	size_t made = 0;

	for (i = 0; i < n; i++) {
		out[i] = b->of_byte[word[i]];
		next[i] = i + 1;
		before[i] = i ? i - 1 : UINT32_MAX;
		if (i + 1 < n && (rank = b->first[word[i]][word[i + 1]]) != NONE)
			heap_push(&h, (uint64_t)rank << 32 | i);
	}
	while (h.n) {
		top = heap_pop(&h);
		i = (uint32_t)top;
		rank = (uint32_t)(top >> 32);
		/* an entry may speak of a pair that is gone */
		if (out[i] < 0 || (j = next[i]) >= n || pair_rank(b, (uint32_t)out[i], (uint32_t)out[j]) != rank)
			continue;
		out[i] = (int32_t)merged(b, rank);
		out[j] = -1;
		k = next[i] = next[j];
		if (k < n) {
			before[k] = i;
			if ((rank = pair_rank(b, (uint32_t)out[i], (uint32_t)out[k])) != NONE)
				heap_push(&h, (uint64_t)rank << 32 | i);
		}
		k = before[i];
		if (k != UINT32_MAX && (rank = pair_rank(b, (uint32_t)out[k], (uint32_t)out[i])) != NONE)
			heap_push(&h, (uint64_t)rank << 32 | k);
	}
	for (i = 0; i < n; i = next[i])
		out[made++] = out[i];
	free(h.key);
	free(next);
	free(before);
	return made;
}

size_t
bpe_word(const struct bpe *b, const unsigned char *word, size_t n, int32_t *out)
{
	uint64_t hash = hash_bytes(word, n);
	int32_t id = filter_has(b->text_filter, hash) ? id_of(b, word, n, hash) : -1;

	if (id >= 0 && (b->whole[id] || b->take_whole)) {
		out[0] = id;
		return 1;
	}
	return n <= SHORT ? merge_short(b, word, n, out) : merge_long(b, word, n, out);
}

uint32_t
bpe_printable_byte(unsigned char byte)
{
	if ((byte >= 0x21 && byte <= 0x7e) || (byte >= 0xa1 && byte != 0xad))
		return byte;
	return byte <= 0x20 ? 0x100u + byte : byte <= 0xa0 ? 0x100u + 0x21 + (byte - 0x7fu) : 0x143;
}

ptrdiff_t
bpe_unprintable(const char *s, size_t n, unsigned char *out)
{
	const unsigned char *p = (const unsigned char *)s, *end = p + n;
	unsigned char *o = out;
	uint32_t c;

	while (p < end) {
		c = *p++;
		if (c >= 0x80) {
			if (c > 0xc5 || p == end)
				return -1;
			c = (c & 0x1f) << 6 | (*p++ & 0x3f);
		}
		if (c >= 0x100)
			c = c <= 0x120 ? c - 0x100 : c <= 0x142 ? c - 0x121 + 0x7f : c == 0x143 ? 0xad : 0x20;
		else if (bpe_printable_byte((unsigned char)c) != c)
			return -1;
		*o++ = (unsigned char)c;
	}
	return o - out;
}

size_t
bpe_printable(const unsigned char *bytes, size_t n, char *out)
{
	size_t i, used = 0;

	for (i = 0; i < n; i++)
		used += unicode_put(bpe_printable_byte(bytes[i]), (unsigned char *)out + used);
	return used;
}
