/* SPDX-License-Identifier: MIT */
/*
 * Where a piece starts is decided by the classes of a few code points around:
 *
 *   Qwen2: contraction | one non-letter and letters | one number |
 *          a blank, others and line ends | white space up to its last line end |
 *          white space but its last code point | white space
 *   GPT-2: contraction | a blank and letters, numbers or others |
 *          white space but its last code point | white space
 *
 * So 64 bytes are classified at once, a bit for each byte and class, and the
 * starts among them are found by arithmetic on these words, without a branch
 * on where one lies, which nobody can predict. Carries run along: x + first
 * passes over a run of ones in x from its first bit. What 64 bytes cannot tell
 * (the end of a text, white space outside of ASCII, long pieces) is read by
 * next_qwen2() and next_gpt2(), one piece at a time.
 */
#include <emmintrin.h>
#include <stdint.h>
#include <string.h>

#include "lib/bpe/scan_known.h"
#include "lib/text/unicode.h"

enum { KINDS = UNICODE_LETTER | UNICODE_NUMBER | UNICODE_SPACE, WIDTH = 64, STEP = 16 };

/* Bit i speaks of byte i. */
struct window {
	uint64_t letter, number, other, white;
	uint64_t blank;			/* of white, ' ' alone */
	uint64_t line;			/* of white, \n and \r */
	uint64_t apostrophe;		/* of other */
	uint64_t rest;			/* the second byte of a code point and those behind it */
	unsigned known;			/* bytes classified; no bits are set from there on */
};

typedef uint64_t (*find_starts)(const struct window *w, const unsigned char *p, const unsigned char *end);
typedef const unsigned char *(*next_piece)(const unsigned char *p, const unsigned char *end);

static inline uint64_t
below(unsigned i)
{
	return i < WIDTH ? ((uint64_t)1 << i) - 1 : UINT64_MAX;
}

struct bytes {
	__m128i part[WIDTH / STEP];
};

static inline struct bytes
load(const unsigned char *p)
{
	const __m128i *from = (const __m128i *)p;

	return (struct bytes){ { _mm_loadu_si128(from), _mm_loadu_si128(from + 1), _mm_loadu_si128(from + 2),
	    _mm_loadu_si128(from + 3) } };
}

/* The high bit of each byte. */
static inline uint64_t
high_bits(struct bytes b)
{
	return (uint64_t)(unsigned)_mm_movemask_epi8(b.part[0]) |
	    (uint64_t)(unsigned)_mm_movemask_epi8(b.part[1]) << STEP |
	    (uint64_t)(unsigned)_mm_movemask_epi8(b.part[2]) << 2 * STEP |
	    (uint64_t)(unsigned)_mm_movemask_epi8(b.part[3]) << 3 * STEP;
}

/* Bytes from `low` on, `n` of them, where `ignored` bits do not matter. */
static inline uint64_t
between(struct bytes b, char low, char n, char ignored)
{
	__m128i from;
	int i;

#pragma GCC unroll 4
	for (i = 0; i < WIDTH / STEP; i++) {
		from = _mm_sub_epi8(_mm_or_si128(b.part[i], _mm_set1_epi8(ignored)), _mm_set1_epi8(low));
		b.part[i] = _mm_cmpeq_epi8(_mm_min_epu8(from, _mm_set1_epi8((char)(n - 1))), from);
	}
	return high_bits(b);
}

static inline uint64_t
equal(struct bytes b, char c)
{
	int i;

#pragma GCC unroll 4
	for (i = 0; i < WIDTH / STEP; i++)
		b.part[i] = _mm_cmpeq_epi8(b.part[i], _mm_set1_epi8(c));
	return high_bits(b);
}

/* The classes of ASCII; returns which bytes are none. */
static inline uint64_t
classify_ascii(struct window *w, const unsigned char *p)
{
	struct bytes b = load(p);
	uint64_t high = high_bits(b);

	w->letter = between(b, 'a', 26, 0x20);
	w->number = between(b, '0', 10, 0);
	w->blank = equal(b, ' ');
	w->line = equal(b, '\n') | equal(b, '\r');
	w->white = between(b, '\t', 5, 0) | w->blank;
	w->apostrophe = equal(b, '\'');
	w->other = ~(w->letter | w->number | w->white | high);
	w->rest = 0;
	w->known = WIDTH;
	return high;
}

/* Forget what is from byte `known` on. */
static inline void
cut(struct window *w, unsigned known)
{
	uint64_t keep = below(known);

	w->letter &= keep;
	w->number &= keep;
	w->other &= keep;
	w->white &= keep;
	w->blank &= keep;
	w->line &= keep;
	w->apostrophe &= keep;
	w->rest &= keep;
	w->known = known;
}

/* The code points outside of ASCII, up to white space and to U+017F, which folds to s. */
static inline unsigned
classify_high(struct window *w, const unsigned char *p, uint64_t high, unsigned known)
{
	uint64_t span;
	unsigned i, flags;
	size_t size;
	uint32_t c;

	for (high &= below(known); high; high &= ~span) {
		i = (unsigned)__builtin_ctzll(high);
		if (i + (p[i] < 0xe0 ? 2u : p[i] < 0xf0 ? 3u : 4u) > known)
			return i;
		c = unicode_get(p + i, &size);
		flags = unicode_flags(c);
		if (flags & UNICODE_SPACE || c == 0x17f)
			return i;
		span = below((unsigned)size) << i;
		w->letter |= flags & UNICODE_LETTER ? span : 0;
		w->number |= flags & UNICODE_NUMBER ? span : 0;
		w->other |= flags & (UNICODE_LETTER | UNICODE_NUMBER) ? 0 : span;
		w->rest |= span & (span - 1) & ~((uint64_t)1 << i);
	}
	return known;
}

static inline void
classify(struct window *w, const unsigned char *p, const unsigned char *end)
{
	unsigned char copy[WIDTH] = { 0 };
	unsigned known = WIDTH;
	uint64_t high;

	if (end - p < WIDTH) {
		known = (unsigned)(end - p);
		p = memcpy(copy, p, known);
	}
	high = classify_ascii(w, p);
	if (high)
		known = classify_high(w, p, high, known);
	if (known < WIDTH)
		cut(w, known);
}

/* The first of each run. */
static inline uint64_t
first(uint64_t x)
{
	return x & ~(x << 1);
}

/* The bytes of 's 't 're 've 'm 'll 'd after the apostrophe at p; 0 if there are none. */
static inline size_t
contraction(const unsigned char *p, const unsigned char *end, unsigned char fold)
{
	unsigned a = end - p > 1 ? p[1] | fold : 0u, b = end - p > 2 ? p[2] | fold : 0u;

	if (a == 's' || a == 't' || a == 'm' || a == 'd')
		return 2;
	if (((a == 'r' || a == 'v') && b == 'e') || (a == 'l' && b == 'l'))
		return 3;
	if (fold && end - p > 2 && p[1] == 0xc5 && p[2] == 0xbf)	/* U+017F folds to s */
		return 3;
	return 0;
}

/* Letters that follow a contraction begin a piece; the contraction's own do not. */
static inline uint64_t
contracted(uint64_t starts, uint64_t apostrophes, uint64_t letter, const unsigned char *p,
    const unsigned char *end, unsigned char fold)
{
	unsigned i;
	size_t n;

	for (; apostrophes; apostrophes &= apostrophes - 1) {
		i = (unsigned)__builtin_ctzll(apostrophes);
		n = contraction(p + i, end, fold);
		if (!n)
			continue;
		starts &= ~((uint64_t)2 << i);
		if (i + n < WIDTH)
			starts |= letter & (uint64_t)1 << (i + n);
	}
	return starts;
}

/* Of gaps that follow a line end, the first bytes of those that no other line end follows. */
static uint64_t
last_lines(uint64_t gaps, uint64_t indent, uint64_t line)
{
	uint64_t starts = 0, one;

	for (; indent; indent ^= one) {
		one = indent & -indent;
		starts |= (gaps + one) & line ? 0 : one;
	}
	return starts;
}

static inline uint64_t
starts_qwen2(const struct window *w, const unsigned char *p, const unsigned char *end)
{
	uint64_t gaps = w->white & ~w->line, other = first(w->other) & ~(w->blank << 1);
	uint64_t behind = ((w->rest | other) + other) & ~w->rest;	/* the first code point of others */
	uint64_t taken = w->line & ~(w->line + (w->line & w->other << 1));	/* line ends, by others */
	uint64_t indent = gaps & w->line << 1, starts;

	starts = first(w->letter) & ~behind & ~(gaps << 1);
	starts |= other | (w->number & ~w->rest) | first(w->white & ~taken) | (gaps & ~(w->white >> 1));
	starts |= (gaps + indent) & w->line ? last_lines(gaps, indent, w->line) : indent;
	return contracted(starts, other & w->apostrophe & w->letter >> 1, w->letter, p, end, 0x20);
}

static inline uint64_t
starts_gpt2(const struct window *w, const unsigned char *p, const unsigned char *end)
{
	uint64_t starts = (first(w->letter) | first(w->number) | first(w->other)) & ~(w->blank << 1);

	starts |= first(w->white) | (w->white & ~(w->white >> 1));
	return contracted(starts, first(w->other) & ~(w->blank << 1) & w->apostrophe & w->letter >> 1, w->letter, p, end, 0);
}

/* Letter, number, white space or none of them; *size gets the bytes. Nothing at the end is white space. */
static inline unsigned
kind(const unsigned char *p, const unsigned char *end, size_t *size)
{
	if (p == end)
		return *size = 0, UNICODE_SPACE;
	if (*p < 0x80)
		return *size = 1, unicode_table[*p] & KINDS;
	return unicode_flags(unicode_get(p, size)) & KINDS;
}

static inline const unsigned char *
skip_kind(const unsigned char *p, const unsigned char *end, unsigned want)
{
	size_t size;

	while (p < end && kind(p, end, &size) == want)
		p += size;
	return p;
}

static inline const unsigned char *
skip_line_ends(const unsigned char *p, const unsigned char *end)
{
	while (p < end && (*p == '\n' || *p == '\r'))
		p++;
	return p;
}

/* White space at p that no letter or other follows up: leave the last code point to what comes next. */
static inline const unsigned char *
blanks(const unsigned char *p, const unsigned char *end)
{
	const unsigned char *stop, *last = p;
	size_t size;

	for (stop = p; stop < end && kind(stop, end, &size) == UNICODE_SPACE; stop += size)
		last = stop;
	return stop == end || last == p ? stop : last;
}

static inline const unsigned char *
blanks_and_lines(const unsigned char *p, const unsigned char *end)
{
	const unsigned char *stop, *last = p, *line = NULL;
	size_t size;

	for (stop = p; stop < end && kind(stop, end, &size) == UNICODE_SPACE; stop += size) {
		last = stop;
		if (*stop == '\n' || *stop == '\r')
			line = stop + 1;
	}
	return line ? line : stop == end || last == p ? stop : last;
}

static inline const unsigned char *
next_qwen2(const unsigned char *p, const unsigned char *end)
{
	size_t size, after, n;
	unsigned k, follows;

	k = kind(p, end, &size);
	if (k & UNICODE_LETTER)
		return skip_kind(p, end, UNICODE_LETTER);
	if (k & UNICODE_NUMBER)
		return p + size;
	if (*p == '\'' && (n = contraction(p, end, 0x20)))
		return p + n;
	follows = kind(p + size, end, &after);
	if (follows & UNICODE_LETTER && *p != '\n' && *p != '\r')
		return skip_kind(p + size, end, UNICODE_LETTER);
	if (!k)
		return skip_line_ends(skip_kind(p + size, end, 0), end);
	if (*p == ' ' && !follows)
		return skip_line_ends(skip_kind(p + 1, end, 0), end);
	return blanks_and_lines(p, end);
}

static inline const unsigned char *
next_gpt2(const unsigned char *p, const unsigned char *end)
{
	size_t size, n;
	unsigned k;

	if (*p == '\'' && (n = contraction(p, end, 0)))
		return p + n;
	k = kind(p + (*p == ' '), end, &size);
	if (k & UNICODE_LETTER)
		return skip_kind(p + (*p == ' '), end, UNICODE_LETTER);
	if (!(k & UNICODE_SPACE))
		return skip_kind(p + (*p == ' '), end, k);
	return blanks(p, end);
}

/* Whether the white space at the end of what is known goes on decides where in it pieces start, but the first. */
static inline uint64_t
certain(const struct window *w, uint64_t starts)
{
	uint64_t dark = ~(w->white << (WIDTH - w->known));
	unsigned white = dark ? (unsigned)__builtin_clzll(dark) : WIDTH;
	uint64_t sure = below(w->known - (white < w->known ? white : w->known)), open = starts & ~sure;

	return (starts & sure) | (open & -open);
}

static inline size_t
pieces(find_starts find, next_piece next, const unsigned char *at, const unsigned char *end,
    const unsigned char **ends, size_t max)
{
	struct window w;
	uint64_t starts;
	size_t n = 0, k;

	while (at < end && (!n || max - n >= WIDTH)) {
		k = n;
		if (max - n >= WIDTH) {
			classify(&w, at, end);
			/* the first byte begins what the others end */
			starts = w.known ? certain(&w, find(&w, at, end)) & ~(uint64_t)1 : 0;
			for (; starts; starts &= starts - 1)
				ends[n++] = at + __builtin_ctzll(starts);
		}
		if (n == k)
			ends[n++] = next(at, end);
		at = ends[n - 1];
	}
	return n;
}

size_t
scan_qwen2_pieces(const unsigned char *at, const unsigned char *end, const unsigned char **ends, size_t max)
{
	return pieces(starts_qwen2, next_qwen2, at, end, ends, max);
}

size_t
scan_gpt2_pieces(const unsigned char *at, const unsigned char *end, const unsigned char **ends, size_t max)
{
	return pieces(starts_gpt2, next_gpt2, at, end, ends, max);
}
