/* SPDX-License-Identifier: MIT */
/*
 * Words become numbers, equal for equal stems, and are remembered: a word is
 * stemmed when it is first seen. Two sequences of numbers are compared 64
 * positions at a time by the recurrence of Crochemore et al. (A fast and
 * practical bit-vector algorithm for the longest common subsequence problem,
 * 2001) in Hyyro's form: with a bit of V cleared where the LCS grows and M the
 * positions that hold the text's next word,
 *
 *	U = V & M	V = (V + U) | (V - U)
 *
 * The addition's carry goes from one block of 64 to the next, so a block passes
 * over the whole text before the next begins, and leaves its carries behind.
 */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <xxhash.h>

#include "lib/base/mem.h"
#include "lib/score/porter.h"
#include "lib/score/rouge.h"
#include "lib/text/unicode.h"

enum { WORDS_KEPT = 1 << 20 };	/* then the memory of words starts anew; 50 MB */

/*
 * Strings to numbers: open addressing, never more than half full. Strings of up
 * to HEAD bytes are compared in the entry itself, half a cache line. They are
 * read HEAD bytes at a time, so there must be as many behind their beginning.
 */
enum { HEAD = 16 };

struct head {
	uint64_t low, high;	/* the first bytes, zero beyond the end */
};

struct entry {
	struct head head;
	size_t at;		/* of all bytes, in bytes[] */
	uint32_t size;		/* 0 is a free place */
	uint32_t number;	/* the caller's */
};

struct table {
	struct entry *entries;
	size_t n, capacity;	/* capacity is a power of two */
	char *bytes;
	size_t nbytes, bytes_capacity;
};

struct sequence {
	uint32_t *words;
	size_t n, capacity;
};

/* The words of a text in lower case, one behind the other. */
struct spans {
	char *bytes;
	size_t *ends;		/* word i is bytes[ends[i - 1]] to bytes[ends[i] - 1] */
	uint32_t *hashes;
	size_t n, capacity;
};

struct rouge {
	enum rouge_mode mode;
	struct table words;		/* as they stand in the text, to the number of their stem */
	struct table stems;
	uint64_t *masks;		/* by number; zero between blocks */
	size_t masks_capacity;
	unsigned char *carries;		/* by position in the text */
	size_t carries_capacity;
	struct spans spans;
	struct sequence prediction, reference;
};

static void
table_clear(struct table *t)
{
	memset(t->entries, 0, t->capacity * sizeof *t->entries);
	t->n = t->nbytes = 0;
}

static void
table_init(struct table *t)
{
	*t = (struct table){ .capacity = 1 << 12 };
	t->entries = mem_zero(t->capacity, sizeof *t->entries);
}

static struct head
head_of(const char *s, size_t size)
{
	/* ones, then zeros: no branch on the size, which nobody can predict */
	static const unsigned char ones[2 * HEAD] = {
		255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255
	};
	struct head h, mask;

	memcpy(&h, s, HEAD);
	memcpy(&mask, ones + HEAD - (size < HEAD ? size : HEAD), HEAD);
	h.low &= mask.low;
	h.high &= mask.high;
	return h;
}

static uint32_t
hash(const char *s, size_t size)
{
	struct head h = head_of(s, size);
	uint64_t x = (h.low ^ h.high * 0x9e3779b97f4a7c15) * 0xd6e8feb86659fd93;

	return (uint32_t)(size > HEAD ? XXH3_64bits(s, size) : x >> 32);
}

static void
table_grow(struct table *t)
{
	struct entry *old = t->entries;
	size_t i, at, n = t->capacity;

	t->capacity *= 2;
	t->entries = mem_zero(t->capacity, sizeof *t->entries);
	for (i = 0; i < n; i++) {
		if (!old[i].size)
			continue;
		at = hash(t->bytes + old[i].at, old[i].size) & (t->capacity - 1);
		while (t->entries[at].size)
			at = (at + 1) & (t->capacity - 1);
		t->entries[at] = old[i];
	}
	free(old);
}

static int
holds(const struct table *t, const struct entry *e, struct head h, const char *s, size_t size)
{
	return e->head.low == h.low && e->head.high == h.high && e->size == size &&
	    (size <= HEAD || !memcmp(t->bytes + e->at, s, size));
}

/* The entry of a string of at least one byte; *is_new says that its number is still to be set. */
static struct entry *
table_find(struct table *t, const char *s, size_t size, uint32_t hashed, int *is_new)
{
	struct head h = head_of(s, size);
	size_t at = hashed & (t->capacity - 1);
	struct entry *e;

	for (; (e = &t->entries[at])->size; at = (at + 1) & (t->capacity - 1))
		if (holds(t, e, h, s, size)) {
			*is_new = 0;
			return e;
		}
	if (2 * t->n >= t->capacity) {
		table_grow(t);
		return table_find(t, s, size, hashed, is_new);
	}
	while (t->nbytes + size + HEAD > t->bytes_capacity) {
		t->bytes_capacity = t->bytes_capacity ? 2 * t->bytes_capacity : 1 << 16;
		t->bytes = mem_grow(t->bytes, t->bytes_capacity, 1);
	}
	memcpy(t->bytes + t->nbytes, s, size);
	*e = (struct entry){ h, t->nbytes, (uint32_t)size, 0 };
	t->nbytes += size;
	t->n++;
	*is_new = 1;
	return e;
}

static void
table_free(struct table *t)
{
	free(t->entries);
	free(t->bytes);
}

struct rouge *
rouge_new(enum rouge_mode mode)
{
	struct rouge *rouge = mem_zero(1, sizeof *rouge);

	unicode_init();
	rouge->mode = mode;
	table_init(&rouge->words);
	table_init(&rouge->stems);
	return rouge;
}

void
rouge_free(struct rouge *rouge)
{
	table_free(&rouge->words);
	table_free(&rouge->stems);
	free(rouge->masks);
	free(rouge->carries);
	free(rouge->spans.bytes);
	free(rouge->spans.ends);
	free(rouge->spans.hashes);
	free(rouge->prediction.words);
	free(rouge->reference.words);
	free(rouge);
}

static uint32_t
stem_number(struct rouge *rouge, const char *word, size_t size)
{
	char *stem = mem_copy(word, size + HEAD);
	struct entry *e;
	int is_new;

	if (rouge->mode == ROUGE_GOOGLE && size > 3)
		size = porter_stem(stem, size);
	e = table_find(&rouge->stems, stem, size, hash(stem, size), &is_new);
	if (is_new)
		e->number = (uint32_t)rouge->stems.n - 1;
	free(stem);
	return e->number;
}

/* Room for the words of a text of that size. */
static void
spans_start(struct spans *spans, size_t size)
{
	spans->n = 0;
	if (spans->capacity < size + HEAD) {
		spans->capacity = 2 * size + HEAD;
		spans->bytes = mem_grow(spans->bytes, spans->capacity, sizeof *spans->bytes);
		spans->ends = mem_grow(spans->ends, spans->capacity, sizeof *spans->ends);
		spans->hashes = mem_grow(spans->hashes, spans->capacity, sizeof *spans->hashes);
	}
}

/* The table is larger than the caches: ask for all its entries before the first is needed. */
static void
number(struct rouge *rouge, struct sequence *out)
{
	const struct table *t = &rouge->words;
	const struct spans *spans = &rouge->spans;
	const char *word;
	struct entry *e;
	size_t i, at, size;
	int is_new;

	for (i = at = 0; i < spans->n; at = spans->ends[i++]) {
		spans->hashes[i] = hash(spans->bytes + at, spans->ends[i] - at);
		__builtin_prefetch(&t->entries[spans->hashes[i] & (t->capacity - 1)]);
	}
	out->n = 0;
	for (i = at = 0; i < spans->n; at = spans->ends[i++]) {
		word = spans->bytes + at;
		size = spans->ends[i] - at;
		e = table_find(&rouge->words, word, size, spans->hashes[i], &is_new);
		if (is_new)
			e->number = stem_number(rouge, word, size);
		MEM_PUSH(out->words, out->n, out->capacity, e->number);
	}
}

enum { SEPARATOR, MAYBE_LETTER };	/* any other value is the lower case of the byte */

static const unsigned char ascii_lower[256] = {
	['0'] = '0', '1', '2', '3', '4', '5', '6', '7', '8', '9',
	['A'] = 'a', 'b', 'c', 'd', 'e', 'f', 'g', 'h', 'i', 'j', 'k', 'l', 'm',
	'n', 'o', 'p', 'q', 'r', 's', 't', 'u', 'v', 'w', 'x', 'y', 'z',
	['a'] = 'a', 'b', 'c', 'd', 'e', 'f', 'g', 'h', 'i', 'j', 'k', 'l', 'm',
	'n', 'o', 'p', 'q', 'r', 's', 't', 'u', 'v', 'w', 'x', 'y', 'z',
	[0xc4] = MAYBE_LETTER, [0xe2] = MAYBE_LETTER
};

/* Without a branch on where words end, which nobody can predict. */
static void
split_google(struct spans *spans, const char *s, size_t size)
{
	static const char dotted_i[2] = "\xc4\xb0", kelvin[3] = "\xe2\x84\xaa";
	size_t i, end = 0, n = 0;
	unsigned char c;
	int inside = 0;

	spans_start(spans, size + 1);
	for (i = 0; i < size; i++) {
		c = ascii_lower[(unsigned char)s[i]];
		if (c == MAYBE_LETTER) {
			c = SEPARATOR;
			if (size - i >= 3 && !memcmp(s + i, kelvin, 3)) {
				c = 'k';
				i += 2;
			} else if (size - i >= 2 && !memcmp(s + i, dotted_i, 2)) {
				spans->bytes[end++] = 'i';
				inside = 1;
			}
		}
		spans->bytes[end] = (char)c;
		spans->ends[n] = end;
		n += inside && c == SEPARATOR;
		inside = c != SEPARATOR;
		end += (size_t)inside;
	}
	spans->ends[n] = end;
	spans->n = n + (size_t)inside;
}

/* Scripts without spaces between words. */
static int
stands_alone(uint32_t c)
{
	static const uint32_t ranges[][2] = {
		{ 0x0e00, 0x0e7f }, { 0x3005, 0x3007 }, { 0x3021, 0x3029 }, { 0x3031, 0x3035 },
		{ 0x3038, 0x303c }, { 0x3041, 0x30ff }, { 0x31f0, 0x31ff }, { 0x3400, 0x4dbf },
		{ 0x4e00, 0x9fff }, { 0xf900, 0xfaff }, { 0xff66, 0xff9f }, { 0x1b000, 0x1b16f },
		{ 0x20000, 0x3ffff }
	};
	size_t i;

	for (i = 0; i < sizeof ranges / sizeof *ranges && c >= ranges[i][0]; i++)
		if (c <= ranges[i][1])
			return 1;
	return 0;
}

/* The text as NFC, its broken bytes as spaces; to be freed. */
static unsigned char *
compose(const char *text, size_t *size)
{
	unsigned char *whole = mem_copy(text, *size), *composed;
	int unstable, any = 0;
	size_t i = 0;

	while (i += unicode_check(whole + i, *size - i, &unstable), any |= unstable, i < *size)
		whole[i] = ' ';
	if (!any)
		return whole;
	composed = unicode_nfc(whole, *size, size);
	free(whole);
	return composed;
}

/* A word ends at `end`, if one began. */
static void
cut(struct spans *spans, size_t end)
{
	if (end > (spans->n ? spans->ends[spans->n - 1] : 0))
		spans->ends[spans->n++] = end;
}

static void
split_unicode(struct spans *spans, const char *text, size_t size)
{
	unsigned char *nfc = compose(text, &size);
	size_t i, k, end = 0;
	uint32_t c;
	int in_word, alone;

	spans_start(spans, 2 * size);	/* lower case may need a byte more */
	for (i = 0; i < size; i += k) {
		c = unicode_get(nfc + i, &k);
		in_word = unicode_flags(c) & (UNICODE_LETTER | UNICODE_MARK | UNICODE_NUMBER);
		alone = stands_alone(c);
		if (alone || !in_word)
			cut(spans, end);
		if (in_word)
			end += unicode_put(unicode_lower(c), (unsigned char *)spans->bytes + end);
		if (alone)
			cut(spans, end);
	}
	cut(spans, end);
	free(nfc);
}

static void
split(struct rouge *rouge, struct sequence *out, const char *text, size_t size)
{
	if (rouge->mode == ROUGE_GOOGLE)
		split_google(&rouge->spans, text, size);
	else
		split_unicode(&rouge->spans, text, size);
	number(rouge, out);
}

/* One block of at most 64 words against the whole text; the carries come in and go out. */
static size_t
lcs_block(uint64_t *masks, const uint32_t *block, size_t n, const uint32_t *text, size_t m,
    unsigned char *carries)
{
	uint64_t v = ~0ULL, u, sum;
	size_t i;

	for (i = 0; i < n; i++)
		masks[block[i]] |= 1ULL << i;
	for (i = 0; i < m; i++) {
		u = v & masks[text[i]];
		sum = v + carries[i];
		carries[i] = sum < v;
		sum += u;
		carries[i] |= sum < u;
		v = sum | (v - u);
	}
	for (i = 0; i < n; i++)
		masks[block[i]] = 0;
	return (size_t)__builtin_popcountll(n < 64 ? ~v & ((1ULL << n) - 1) : ~v);
}

static size_t
lcs(struct rouge *rouge, const struct sequence *a, const struct sequence *b)
{
	const struct sequence *few = a->n < b->n ? a : b, *many = few == a ? b : a;
	size_t i, n, length = 0;

	if (rouge->masks_capacity < rouge->stems.n) {
		free(rouge->masks);
		rouge->masks_capacity = 2 * rouge->stems.n;
		rouge->masks = mem_zero(rouge->masks_capacity, sizeof *rouge->masks);
	}
	if (rouge->carries_capacity < many->n) {
		rouge->carries_capacity = 2 * many->n;
		rouge->carries = mem_grow(rouge->carries, rouge->carries_capacity, 1);
	}
	memset(rouge->carries, 0, many->n);
	for (i = 0; i < few->n; i += n) {
		n = few->n - i < 64 ? few->n - i : 64;
		length += lcs_block(rouge->masks, few->words + i, n, many->words, many->n, rouge->carries);
	}
	return length;
}

static void
read_prediction(struct rouge *rouge, const char *text, size_t size)
{
	if (rouge->words.n > WORDS_KEPT) {
		table_clear(&rouge->words);
		table_clear(&rouge->stems);
	}
	split(rouge, &rouge->prediction, text, size);
}

static struct rouge_score
compare(struct rouge *rouge, const char *reference, size_t size)
{
	struct rouge_score s = { 0, 0, 0 };
	double common;

	split(rouge, &rouge->reference, reference, size);
	if (!rouge->prediction.n || !rouge->reference.n)
		return s;
	common = (double)lcs(rouge, &rouge->prediction, &rouge->reference);
	s.p = common / (double)rouge->prediction.n;
	s.r = common / (double)rouge->reference.n;
	if (common > 0)
		s.f = 2 * s.p * s.r / (s.p + s.r);
	return s;
}

struct rouge_score
rouge_pair(struct rouge *rouge, const char *prediction, size_t size,
    const char *reference, size_t reference_size)
{
	read_prediction(rouge, prediction, size);
	return compare(rouge, reference, reference_size);
}

struct rouge_score
rouge_best(struct rouge *rouge, const json_t *prediction, const json_t *references)
{
	struct rouge_score s, best = { 0, 0, 0 };
	const json_t *reference;
	size_t i;

	read_prediction(rouge, json_string_value(prediction), json_string_length(prediction));
	if (json_is_string(references))
		return compare(rouge, json_string_value(references), json_string_length(references));
	json_array_foreach(references, i, reference) {
		s = compare(rouge, json_string_value(reference), json_string_length(reference));
		if (!i || s.f > best.f)
			best = s;
	}
	return best;
}
