/* SPDX-License-Identifier: MIT */
/*
 * Words of up to 15 bytes that become up to 4 ids, which nearly all do, lie in
 * 32 bytes: two entries are a cache line and a set. Longer ones have a table of
 * their own. The text is cut into 64 pieces ahead, so that their sets are on
 * the way from memory when they are looked up.
 */
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "lib/base/die.h"
#include "lib/text/bpe_cache.h"

enum {
	AHEAD = 64,
	SETS = 1 << 17, NARROW = 15, NARROW_IDS = 4,
	WIDES = 1 << 14, WIDE = 62, WIDE_IDS = 16
};

struct key {
	uint64_t low, high;		/* the word and zeros; its length is the last byte */
};

struct narrow {
	struct key key;			/* all zero: empty */
	int32_t id[NARROW_IDS];		/* -1 behind the last */
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

/* The first n <= 15 bytes at p; `safe` says that 16 may be read there. */
static inline struct key
key_of(const unsigned char *p, size_t n, int safe)
{
	struct key k = { 0, 0 };

	if (!safe) {
		memcpy(&k, p, n);
		k.high |= (uint64_t)n << 56;
		return k;
	}
	memcpy(&k, p, sizeof k);
	if (n < 8) {
		k.low &= ((uint64_t)1 << 8 * n) - 1;
		k.high = 0;
	} else
		k.high &= ((uint64_t)1 << 8 * (n - 8)) - 1;
	k.high |= (uint64_t)n << 56;
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
static inline void
take(struct ids *out, const struct narrow *e)
{
	memcpy(out->id + out->n, e->id, sizeof e->id);
	out->n += (size_t)(4 + (e->id[1] >> 31) + (e->id[2] >> 31) + (e->id[3] >> 31));
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

/* A word that no narrow entry holds. */
static void
encode_word(struct bpe_cache *c, const unsigned char *word, size_t n, struct narrow *set, struct key key, struct ids *out)
{
	struct wide *w = wide_of(c, word, n);
	int32_t *id = out->id + out->n;
	size_t made, i;

	if (w->n == n && !memcmp(w->word, word, n)) {
		memcpy(id, w->id, sizeof w->id);
		out->n += w->ids;
		return;
	}
	made = bpe_word(c->bpe, word, n, id);
	out->n += made;
	if (n <= NARROW && made <= NARROW_IDS) {
		set[1] = set[0];
		set[0].key = key;
		for (i = 0; i < NARROW_IDS; i++)
			set[0].id[i] = i < made ? id[i] : -1;
	} else if (n <= WIDE && made <= WIDE_IDS) {
		w->n = (uint8_t)n;
		w->ids = (uint8_t)made;
		memcpy(w->word, word, n);
		memcpy(w->id, id, made * sizeof *id);
	}
}

void
bpe_cache_encode(struct bpe_cache *c, const struct scan *scan, const unsigned char *text, size_t n, struct ids *out)
{
	const unsigned char *ends[AHEAD], *end = text + n, *at = text, *p;
	struct key keys[AHEAD];
	struct narrow *sets[AHEAD];
	size_t pieces, i, size;

	while ((pieces = scan_pieces(scan, text, at, end, ends, AHEAD))) {
		for (i = 0, p = at; i < pieces; p = ends[i++]) {
			size = (size_t)(ends[i] - p);
			if (size > NARROW)
				continue;
			keys[i] = key_of(p, size, end - p >= 16);
			sets[i] = c->sets[set_of(keys[i])];
			__builtin_prefetch(sets[i]);
		}
		ids_reserve(out, (size_t)(ends[pieces - 1] - at) + WIDE_IDS);
		for (i = 0, p = at; i < pieces; p = ends[i++]) {
			size = (size_t)(ends[i] - p);
			if (size <= NARROW && same(sets[i][0].key, keys[i]))
				take(out, &sets[i][0]);
			else if (size <= NARROW && same(sets[i][1].key, keys[i]))
				take(out, &sets[i][1]);
			else
				encode_word(c, p, size, size <= NARROW ? sets[i] : NULL, size <= NARROW ? keys[i] : (struct key){ 0, 0 }, out);
		}
		at = ends[pieces - 1];
	}
}
