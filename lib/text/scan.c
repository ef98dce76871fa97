/* SPDX-License-Identifier: MIT */
/*
 * The two patterns by hand. Both are decided by the first code point of a
 * piece and what follows it:
 *
 *   Qwen2: contraction | one non-letter and letters | one number |
 *          a blank, others and line ends | white space up to its last line end |
 *          white space but its last code point | white space
 *   GPT-2: contraction | a blank and letters, numbers or others |
 *          white space but its last code point | white space
 *
 * Letters of ASCII are looked at sixteen at a time.
 */
#define PCRE2_CODE_UNIT_WIDTH 8
#include <emmintrin.h>
#include <pcre2.h>
#include <pthread.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "lib/base/die.h"
#include "lib/base/mem.h"
#include "lib/text/scan.h"
#include "lib/text/unicode.h"

const char scan_qwen2[] = "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}"
    "| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+";
const char scan_gpt2[] = "'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?[^\\s\\p{L}\\p{N}]+|\\s+(?!\\S)|\\s+";

enum { WORD = UNICODE_LETTER | UNICODE_NUMBER, KINDS = WORD | UNICODE_SPACE };

struct scan {
	char *pattern;
	size_t (*pieces)(const struct scan *, const unsigned char *, const unsigned char *,
	    const unsigned char *, const unsigned char **, size_t);
	pcre2_code *code;
};

/* ASCII that a word may begin with; an apostrophe may begin a contraction instead. */
static uint8_t lead_gpt2[256], lead_qwen2[256];

typedef const unsigned char *(*next_piece)(const unsigned char *p, const unsigned char *end);

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

enum { STEP = 16 };

/* A bit for each of the 16 bytes at p that is an ASCII letter. */
static inline unsigned
letter_bits(const unsigned char *p)
{
	__m128i bytes = _mm_or_si128(_mm_loadu_si128((const __m128i *)p), _mm_set1_epi8(0x20));
	__m128i from_a = _mm_sub_epi8(bytes, _mm_set1_epi8('a'));

	return (unsigned)_mm_movemask_epi8(_mm_cmpeq_epi8(_mm_min_epu8(from_a, _mm_set1_epi8(25)), from_a));
}

static const unsigned char *
skip_letters(const unsigned char *p, const unsigned char *end)
{
	unsigned other;
	size_t size;

	for (;;) {
		while (end - p >= STEP) {
			other = ~letter_bits(p) & 0xffff;
			if (other) {
				p += __builtin_ctz(other);
				break;
			}
			p += STEP;
		}
		while (p < end && *p < 0x80 && unicode_table[*p] & UNICODE_LETTER)
			p++;
		if (p == end || *p < 0x80 || kind(p, end, &size) != UNICODE_LETTER)
			return p;
		p += size;
	}
}

/*
 * The most frequent piece: letters of ASCII behind one byte that may stand
 * before them, or that is one of them. NULL if this is not such a place.
 */
static inline const unsigned char *
plain_word(const unsigned char *p, const unsigned char *end, const uint8_t *may_lead)
{
	unsigned letters, n;

	if (end - p <= STEP || !may_lead[*p])
		return NULL;
	letters = letter_bits(p);
	if (!(letters & 3))
		return NULL;
	n = (unsigned)__builtin_ctz(~(letters | 1));
	return n < STEP && p[n] < 0x80 ? p + n : skip_letters(p + n, end);
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
	const unsigned char *word = plain_word(p, end, lead_qwen2);
	size_t size, after, n;
	unsigned k, follows;

	if (word)
		return word;
	k = kind(p, end, &size);
	if (k & UNICODE_LETTER)
		return skip_letters(p, end);
	if (k & UNICODE_NUMBER)
		return p + size;
	if (*p == '\'' && (n = contraction(p, end, 0x20)))
		return p + n;
	follows = kind(p + size, end, &after);
	if (follows & UNICODE_LETTER && *p != '\n' && *p != '\r')
		return skip_letters(p + size, end);
	if (!k)
		return skip_line_ends(skip_kind(p + size, end, 0), end);
	if (*p == ' ' && !follows)
		return skip_line_ends(skip_kind(p + 1, end, 0), end);
	return blanks_and_lines(p, end);
}

static inline const unsigned char *
next_gpt2(const unsigned char *p, const unsigned char *end)
{
	const unsigned char *word = plain_word(p, end, lead_gpt2);
	size_t size, n;
	unsigned k;

	if (word)
		return word;
	if (*p == '\'' && (n = contraction(p, end, 0)))
		return p + n;
	k = kind(p + (*p == ' '), end, &size);
	if (k & UNICODE_LETTER)
		return skip_letters(p + (*p == ' '), end);
	if (!(k & UNICODE_SPACE))
		return skip_kind(p + (*p == ' '), end, k);
	return blanks(p, end);
}

static inline size_t
by_hand(next_piece next, const unsigned char *at, const unsigned char *end, const unsigned char **ends, size_t max)
{
	size_t n;

	for (n = 0; n < max && at < end; n++)
		ends[n] = at = next(at, end);
	return n;
}

static size_t
pieces_qwen2(const struct scan *s, const unsigned char *begin, const unsigned char *at,
    const unsigned char *end, const unsigned char **ends, size_t max)
{
	(void)s, (void)begin;
	return by_hand(next_qwen2, at, end, ends, max);
}

static size_t
pieces_gpt2(const struct scan *s, const unsigned char *begin, const unsigned char *at,
    const unsigned char *end, const unsigned char **ends, size_t max)
{
	(void)s, (void)begin;
	return by_hand(next_gpt2, at, end, ends, max);
}

/* What lies between two matches is a piece too. */
static size_t
pieces_pcre2(const struct scan *s, const unsigned char *begin, const unsigned char *at,
    const unsigned char *end, const unsigned char **ends, size_t max)
{
	pcre2_match_data *match = pcre2_match_data_create(1, NULL);
	const PCRE2_SIZE *span;
	size_t n = 0;
	int rc;

	if (!match)
		die("out of memory");
	span = pcre2_get_ovector_pointer(match);
	while (n + 1 < max && at < end) {
		rc = pcre2_match(s->code, begin, (size_t)(end - begin), (size_t)(at - begin),
		    PCRE2_NO_UTF_CHECK | PCRE2_NOTEMPTY, match, NULL);
		if (rc < 0 && rc != PCRE2_ERROR_NOMATCH)
			die("the pre-tokenizer's pattern gives up on a text of %zu bytes (PCRE2 error %d)",
			    (size_t)(end - begin), rc);
		if (rc < 0 || begin + span[0] > at)
			ends[n++] = rc < 0 ? end : begin + span[0];
		if (rc >= 0)
			ends[n++] = begin + span[1];
		at = ends[n - 1];
	}
	pcre2_match_data_free(match);
	return n;
}

/* \s and \S as the property White_Space: PCRE2's own holds U+180E too. */
static char *
with_white_space(const char *pattern)
{
	char *out = mem_alloc(16 * strlen(pattern) + 1), *o = out;

	for (; *pattern; pattern++) {
		if (*pattern != '\\' || !pattern[1])
			*o++ = *pattern;
		else if (*++pattern == 's' || *pattern == 'S')
			o += strlen(strcpy(o, *pattern == 's' ? "\\p{White_Space}" : "\\P{White_Space}"));
		else
			*o++ = '\\', *o++ = *pattern;
	}
	*o = '\0';
	return out;
}

struct scan *
scan_open_pcre2(const char *pattern, char *why)
{
	struct scan *s = mem_zero(1, sizeof *s);
	char *text = with_white_space(pattern);
	PCRE2_UCHAR message[128];
	PCRE2_SIZE at;
	int error;

	unicode_init();
	s->pattern = mem_string(pattern);
	s->pieces = pieces_pcre2;
	s->code = pcre2_compile((PCRE2_SPTR)text, PCRE2_ZERO_TERMINATED, PCRE2_UTF | PCRE2_UCP, &error, &at, NULL);
	free(text);
	if (!s->code) {
		pcre2_get_error_message(error, message, sizeof message);
		reason(why, "the pre-tokenizer's pattern does not compile: %s", (char *)message);
		scan_close(s);
		return NULL;
	}
	pcre2_jit_compile(s->code, PCRE2_JIT_COMPLETE);
	return s;
}

static void
fill_leads(void)
{
	int c;

	unicode_init();
	for (c = 0; c < 0x80; c++) {
		lead_gpt2[c] = c == ' ' || unicode_table[c] & UNICODE_LETTER;
		lead_qwen2[c] = !(unicode_table[c] & UNICODE_NUMBER) && c != '\r' && c != '\n' && c != '\'';
	}
}

struct scan *
scan_open(const char *pattern, char *why)
{
	static pthread_once_t once = PTHREAD_ONCE_INIT;
	struct scan *s;

	if (strcmp(pattern, scan_qwen2) && strcmp(pattern, scan_gpt2))
		return scan_open_pcre2(pattern, why);
	pthread_once(&once, fill_leads);
	s = mem_zero(1, sizeof *s);
	s->pattern = mem_string(pattern);
	s->pieces = strcmp(pattern, scan_qwen2) ? pieces_gpt2 : pieces_qwen2;
	return s;
}

void
scan_close(struct scan *s)
{
	if (!s)
		return;
	pcre2_code_free(s->code);
	free(s->pattern);
	free(s);
}

const char *
scan_pattern(const struct scan *s)
{
	return s->pattern;
}

size_t
scan_pieces(const struct scan *s, const unsigned char *begin, const unsigned char *at,
    const unsigned char *end, const unsigned char **ends, size_t max)
{
	return s->pieces(s, begin, at, end, ends, max);
}
