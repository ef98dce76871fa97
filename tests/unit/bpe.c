/* SPDX-License-Identifier: MIT */
/* Merging against a ten-line definition, on vocabularies that no corpus would give; the cache against no cache. */
#include <stdlib.h>
#include <string.h>

#include "lib/base/die.h"
#include "lib/base/mem.h"
#include "lib/bpe/bpe.h"
#include "lib/bpe/bpe_cache.h"
#include "lib/bpe/bpe_train.h"
#include "tests/unit/tap.h"

enum { TABLES = 300, MERGES = 40, WORDS = 200, LONGEST = 200 };

static uint32_t state = 11;

static uint32_t
draw(uint32_t n)
{
	state = state * 1664525 + 1013904223;
	return (uint32_t)((uint64_t)(state >> 4) * n >> 28);
}

/* The definition: find the lowest rank, the leftmost of equals, merge it, again. */
static size_t
merge_plainly(const struct bpe *b, const unsigned char *word, size_t n, int32_t *out)
{
	uint32_t rank, best;
	size_t i, at;

	for (i = 0; i < n; i++)
		out[i] = b->of_byte[word[i]];
	for (;; n--) {
		for (best = b->merges, at = i = 0; i + 1 < n; i++)
			for (rank = 0; rank < best; rank++)
				if (b->made_of[rank] == ((uint64_t)out[i] << 32 | (uint32_t)out[i + 1])) {
					best = rank;
					at = i;
				}
		if (best == b->merges)
			return n;
		out[at] = (int32_t)b->merged[best];
		memmove(out + at + 1, out + at + 2, (n - at - 2) * sizeof *out);
	}
}

static int
is_there(const struct bpe *b, uint32_t left, uint32_t right)
{
	uint32_t k;

	for (k = 0; k < b->merges; k++)
		if (b->made_of[k] == ((uint64_t)left << 32 | right))
			return 1;
	return 0;
}

static struct bpe *
random_bpe(unsigned letters)
{
	struct bpe *b = bpe_new();
	unsigned char both[64];
	char why[REASON_MAX];
	uint32_t id, l, r, k;

	for (id = 0; id < 256; id++) {
		both[0] = (unsigned char)id;
		bpe_token(b, id, both, 1, why);
	}
	for (k = 0; k < MERGES; k++) {
		l = draw(2) ? 'a' + draw(letters) : draw(b->n);
		r = draw(2) ? 'a' + draw(letters) : draw(b->n);
		if (l < 256)
			l = 'a' + l % letters;
		if (r < 256)
			r = 'a' + r % letters;
		if (b->text[l].n + b->text[r].n > sizeof both || is_there(b, l, r))
			continue;
		memcpy(both, b->bytes + b->text[l].at, b->text[l].n);
		memcpy(both + b->text[l].n, b->bytes + b->text[r].at, b->text[r].n);
		if (bpe_id(b, both, b->text[l].n + b->text[r].n) < 0)
			bpe_token(b, b->n, both, b->text[l].n + b->text[r].n, why);
		bpe_merge(b, both, b->text[l].n, both + b->text[l].n, b->text[r].n, why);
	}
	bpe_finish(b, why);
	return b;
}

static void
random_tables(void)
{
	int32_t got[LONGEST], want[LONGEST];
	unsigned char word[LONGEST];
	size_t n, m, differ = 0, tried = 0, i, k;
	struct bpe *b;
	unsigned letters;

	for (k = 0; k < TABLES; k++) {
		letters = 1 + draw(3);
		b = random_bpe(letters);
		for (i = 0; i < WORDS; i++, tried++) {
			n = 1 + draw(i % 16 ? 16 : LONGEST);
			for (m = 0; m < n; m++)
				word[m] = (unsigned char)('a' + draw(letters));
			m = bpe_word(b, word, n, got);
			differ += m != merge_plainly(b, word, n, want) || memcmp(got, want, m * sizeof *got);
		}
		bpe_free(b);
	}
	ok(tried > 1000 && !differ, "%zu of %zu words are merged otherwise than by definition", differ, tried);
}

static struct bpe *
trained(struct scan *scan, const char *text)
{
	struct bpe_train *t = bpe_train_new(scan, 0);
	struct bpe *b = bpe_new();
	unsigned char bytes[2][256];
	char why[REASON_MAX], *token, *other;
	uint32_t id, l, r;
	size_t merges, i;

	bpe_train_add(t, text, strlen(text), 1, why);
	merges = bpe_train_run(t, 200, 1);
	for (id = 0; id < 256 + merges; id++) {
		token = bpe_train_token(t, id);
		bpe_token(b, id, bytes[0], (size_t)bpe_unprintable(token, strlen(token), bytes[0]), why);
		free(token);
	}
	for (i = 0; i < merges; i++) {
		bpe_train_merge(t, i, &l, &r);
		token = bpe_train_token(t, l);
		other = bpe_train_token(t, r);
		bpe_merge(b, bytes[0], (size_t)bpe_unprintable(token, strlen(token), bytes[0]),
		    bytes[1], (size_t)bpe_unprintable(other, strlen(other), bytes[1]), why);
		free(token);
		free(other);
	}
	bpe_finish(b, why);
	bpe_train_free(t);
	return b;
}

/* More words than the cache holds, some longer than its entries. */
static void
cache(void)
{
	enum { TEXT = 1 << 22 };
	char why[REASON_MAX], *text = mem_alloc(TEXT + 1);
	struct scan *scan = scan_open(scan_gpt2, why);
	struct ids ids = { NULL, 0, 0 };
	const unsigned char *p = (unsigned char *)text, *end = p + TEXT, *stop;
	struct bpe_cache *c;
	struct bpe *b;
	int32_t *want = mem_alloc(TEXT * sizeof *want);
	size_t i, n = 0;

	for (i = 0; i < TEXT; i++)
		text[i] = draw(7 + (i >> 18)) ? (char)('a' + draw(20)) : draw(30) ? ' ' : '\n';
	text[TEXT] = '\0';
	b = trained(scan, text + TEXT - 40000);
	ok(b->merges == 200, "a tokenizer is trained on %d bytes", 40000);
	c = bpe_cache_new(b);
	bpe_cache_encode(c, scan, p, TEXT, &ids);
	ids.n = 0;
	bpe_cache_encode(c, scan, p, TEXT, &ids);
	for (; p < end && scan_pieces(scan, (unsigned char *)text, p, end, &stop, 1); p = stop)
		n += bpe_word(b, p, (size_t)(stop - p), want + n);
	ok(n == ids.n && !memcmp(want, ids.id, n * sizeof *want), "a cache that overflows changes none of %zu ids", n);
	bpe_cache_free(c);
	bpe_free(b);
	scan_close(scan);
	free(ids.id);
	free(want);
	free(text);
}

static void
printable(void)
{
	unsigned char bytes[256], back[256];
	char text[512];
	size_t i, n;

	for (i = 0; i < 256; i++)
		bytes[i] = (unsigned char)i;
	n = bpe_printable(bytes, 256, text);
	ok(bpe_unprintable(text, n, back) == 256 && !memcmp(bytes, back, 256), "every byte has a printable form and comes back");
	ok(bpe_unprintable(" ", 1, back) < 0, "a blank is no printable form");
}

static void
refusals(void)
{
	struct bpe *b = bpe_new();
	char why[REASON_MAX];

	ok(!bpe_token(b, 3, "ab", 2, why) && bpe_token(b, 3, "cd", 2, why) < 0, "refused: %s", why);
	ok(bpe_token(b, 4, "ab", 2, why) < 0, "refused: %s", why);
	ok(bpe_token(b, -1, "x", 1, why) < 0 && bpe_token(b, BPE_MAX, "x", 1, why) < 0, "refused: %s", why);
	ok(bpe_merge(b, "a", 1, "b", 1, why) < 0, "refused: %s", why);
	ok(bpe_finish(b, why) < 0, "refused: %s", why);
	bpe_free(b);
}

int
main(void)
{
	printable();
	random_tables();
	cache();
	refusals();
	return done();
}
