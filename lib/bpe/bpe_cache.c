/* SPDX-License-Identifier: MIT */
/*
 * Words of up to 15 bytes that become up to 4 ids, which nearly all do, lie in
 * 32 bytes: two entries are a cache line and a set. Longer ones have a table of
 * their own. The text is cut into some hundred pieces ahead, so that their sets are on
 * the way from memory when they are looked up.
 */
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "lib/base/die.h"
#include "lib/bpe/bpe_cache.h"

enum {
	AHEAD = 192,
	SETS = 1 << 17, NARROW = 15, NARROW_IDS = 4,
	WIDES = 1 << 13, WIDE = 62, WIDE_IDS = 48
};

struct key {
	uint64_t low, high;		/* the word and zeros; its length is the last byte */
};

struct narrow {
	struct key key;			/* all zero: empty */
	int32_t id[NARROW_IDS];		/* -1 behind the last; all -1: too many, look among the wide */
};

struct wide {
	uint8_t n, ids;			/* n = 0: empty */
	unsigned char word[WIDE];
	int32_t id[WIDE_IDS];
};

struct bpe_cache {
	const struct bpe *bpe;
	struct narrow (*sets)[2];
	struct wide *wides;
	size_t size;
};

struct bpe_cache *
bpe_cache_new(const struct bpe *b)
{
	struct bpe_cache *c = mem_zero(1, sizeof *c);

	c->bpe = b;
	c->size = SETS * sizeof *c->sets + WIDES * sizeof *c->wides;
	c->sets = mmap(NULL, c->size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	if (c->sets == MAP_FAILED)
		die("out of memory, asking for %zu bytes", c->size);
	madvise(c->sets, c->size, MADV_HUGEPAGE);
	c->wides = (struct wide *)(c->sets + SETS);
	return c;
}

void
bpe_cache_free(struct bpe_cache *c)
{
	if (!c)
		return;
	munmap(c->sets, c->size);
	free(c);
}

/* The first n <= 15 bytes at p. */
static inline struct key
key_of(const unsigned char *p, size_t n, const unsigned char *end)
{
	static const struct key mask[NARROW + 1] = {
		{ 0, 0 }, { 0xff, 0 }, { 0xffff, 0 }, { 0xffffff, 0 }, { 0xffffffff, 0 }, { 0xffffffffff, 0 },
		{ 0xffffffffffff, 0 }, { 0xffffffffffffff, 0 }, { UINT64_MAX, 0 }, { UINT64_MAX, 0xff },
		{ UINT64_MAX, 0xffff }, { UINT64_MAX, 0xffffff }, { UINT64_MAX, 0xffffffff },
		{ UINT64_MAX, 0xffffffffff }, { UINT64_MAX, 0xffffffffffff }, { UINT64_MAX, 0xffffffffffffff }
	};
	unsigned char copy[sizeof(struct key)];
	struct key k;

	if (end - p < (ptrdiff_t)sizeof k)
		p = memcpy(copy, p, n);
	memcpy(&k, p, sizeof k);
	k.low &= mask[n].low;
	k.high = (k.high & mask[n].high) | (uint64_t)n << 56;
	return k;
}

static inline size_t
set_of(struct key k)
{
	uint64_t h = (k.low ^ 0x9e3779b97f4a7c15) * 0xbf58476d1ce4e5b9 ^ (k.high * 0x94d049bb133111eb);

	return (size_t)((h ^ h >> 29) * 0x9e3779b97f4a7c15 >> 47) & (SETS - 1);
}

static inline int
same(struct key a, struct key b)
{
	return !((a.low ^ b.low) | (a.high ^ b.high));
}

/* Copies all four, counts those that are ids. */
static inline size_t
take(const struct narrow *e, int32_t *id)
{
	memcpy(id, e->id, sizeof e->id);
	return (size_t)(4 + (e->id[1] >> 31) + (e->id[2] >> 31) + (e->id[3] >> 31));
}

static struct wide *
wide_of(struct bpe_cache *c, const unsigned char *word, size_t n)
{
	uint64_t h = n, w;
	size_t i;

	for (i = 0; i + 8 <= n; i += 8) {
		memcpy(&w, word + i, 8);
		h = (h ^ w) * 0x9e3779b97f4a7c15;
		h ^= h >> 32;
	}
	for (w = 0; i < n; i++)
		w = w << 8 | word[i];
	h = (h ^ w) * 0x9e3779b97f4a7c15;
	return &c->wides[h >> 40 & (WIDES - 1)];
}

/* The set that takes what does not fit into this one: the other half of two cache lines. */
static inline struct narrow *
neighbour(const struct bpe_cache *c, const struct narrow *set)
{
	return c->sets[((size_t)(set - c->sets[0]) / 2) ^ 1];
}

static void
keep_narrow(struct bpe_cache *c, struct narrow *set, struct key key, const int32_t *id, size_t n)
{
	struct narrow *other = neighbour(c, set), *e = &set[1];
	int i;

	if (!set[0].key.high)
		e = &set[0];
	else if (set[1].key.high && !other[0].key.high)
		e = &other[0];
	else if (set[1].key.high && !other[1].key.high)
		e = &other[1];
	e->key = key;
	for (i = 0; i < NARROW_IDS; i++)
		e->id[i] = i < (int)n ? id[i] : -1;
}

static void
keep_wide(struct wide *w, const unsigned char *word, size_t n, const int32_t *id, size_t ids)
{
	w->n = (uint8_t)n;
	w->ids = (uint8_t)ids;
	memcpy(w->word, word, n);
	memcpy(w->id, id, ids * sizeof *id);
}

/* These append a word's ids at id, where its size and NARROW_IDS more have room, and return their number. */
static size_t
encode_wide(struct bpe_cache *c, const unsigned char *word, size_t n, int32_t *id)
{
	struct wide *w = wide_of(c, word, n);
	size_t made;

	if (w->n == n && !memcmp(w->word, word, n)) {
		memcpy(id, w->id, w->ids * sizeof *id);
		return w->ids;
	}
	made = bpe_word(c->bpe, word, n, id);
	if (n <= WIDE && made <= WIDE_IDS)
		keep_wide(w, word, n, id, made);
	return made;
}

/* A short word that is in this entry. */
static inline size_t
encode_kept(struct bpe_cache *c, const unsigned char *word, size_t n, const struct narrow *e, int32_t *id)
{
	return e->id[0] >= 0 ? take(e, id) : encode_wide(c, word, n, id);
}

/* A short word that its set does not hold. */
static size_t
encode_narrow(struct bpe_cache *c, const unsigned char *word, size_t n, struct narrow *set, struct key key, int32_t *id)
{
	const struct narrow *other = neighbour(c, set);
	size_t made;

	/* the neighbour, which is far away, has something only when this one is full */
	if (set[1].key.high && (same(other[0].key, key) || same(other[1].key, key)))
		return encode_kept(c, word, n, same(other[0].key, key) ? &other[0] : &other[1], id);
	made = bpe_word(c->bpe, word, n, id);
	keep_narrow(c, set, key, id, made <= NARROW_IDS ? made : 0);
	if (made > NARROW_IDS)
		keep_wide(wide_of(c, word, n), word, n, id, made);
	return made;
}

void
bpe_cache_encode(struct bpe_cache *c, const struct scan *scan, const unsigned char *text, size_t n, struct ids *out)
{
	const unsigned char *ends[AHEAD], *end = text + n, *at = text, *p;
	struct key keys[AHEAD];
	struct narrow *sets[AHEAD];
	size_t pieces, i, size;
	int32_t *id;
	int second;

	while ((pieces = scan_pieces(scan, text, at, end, ends, AHEAD))) {
		for (i = 0, p = at; i < pieces; p = ends[i++]) {
			size = (size_t)(ends[i] - p);
			if (size > NARROW)
				continue;
			keys[i] = key_of(p, size, end);
			sets[i] = c->sets[set_of(keys[i])];
			__builtin_prefetch(sets[i]);
		}
		ids_reserve(out, (size_t)(ends[pieces - 1] - at) + NARROW_IDS);
		id = out->id + out->n;
		for (i = 0, p = at; i < pieces; p = ends[i++]) {
			size = (size_t)(ends[i] - p);
			if (size > NARROW) {
				id += encode_wide(c, p, size, id);
				continue;
			}
			second = same(sets[i][1].key, keys[i]);
			if (second | same(sets[i][0].key, keys[i]))
				id += encode_kept(c, p, size, &sets[i][second], id);
			else
				id += encode_narrow(c, p, size, sets[i], keys[i], id);
		}
		out->n = (size_t)(id - out->id);
		at = ends[pieces - 1];
	}
}
