/* SPDX-License-Identifier: MIT */
#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>
#include <stdlib.h>
#include <string.h>

#include "lib/base/die.h"
#include "lib/base/mem.h"
#include "lib/bpe/scan.h"
#include "lib/bpe/scan_known.h"
#include "lib/text/unicode.h"

const char scan_qwen2[] = "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}"
    "| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+";
const char scan_gpt2[] = "'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?[^\\s\\p{L}\\p{N}]+|\\s+(?!\\S)|\\s+";

struct scan {
	char *pattern;
	size_t (*pieces)(const struct scan *, const unsigned char *, const unsigned char *,
	    const unsigned char *, const unsigned char **, size_t);
	pcre2_code *code;
};

static size_t
pieces_qwen2(const struct scan *s, const unsigned char *begin, const unsigned char *at,
    const unsigned char *end, const unsigned char **ends, size_t max)
{
	(void)s, (void)begin;
	return scan_qwen2_pieces(at, end, ends, max);
}

static size_t
pieces_gpt2(const struct scan *s, const unsigned char *begin, const unsigned char *at,
    const unsigned char *end, const unsigned char **ends, size_t max)
{
	(void)s, (void)begin;
	return scan_gpt2_pieces(at, end, ends, max);
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

struct scan *
scan_open(const char *pattern, char *why)
{
	struct scan *s;

	if (strcmp(pattern, scan_qwen2) && strcmp(pattern, scan_gpt2))
		return scan_open_pcre2(pattern, why);
	unicode_init();
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
