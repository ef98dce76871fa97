/* SPDX-License-Identifier: MIT */
/*
 * scan - pre-tokenisation: the pieces of a text, each of which BPE treats alone
 *
 * A scanner is made from a pattern as tokenizer.json writes it. The patterns
 * of GPT-2 and Qwen2 are recognised by their text and scanned by hand; any
 * other runs in PCRE2 with JIT, where \s is the property White_Space, as in
 * the library that the patterns were written for.
 */
#ifndef BPE_SCAN_H
#define BPE_SCAN_H

#include <stddef.h>

extern const char scan_gpt2[], scan_qwen2[];	/* the two patterns */

struct scan;

struct scan *scan_open(const char *pattern, char *why);		/* NULL and the reason if it does not compile */
struct scan *scan_open_pcre2(const char *pattern, char *why);	/* never by hand: the oracle of the tests */
void scan_close(struct scan *s);
const char *scan_pattern(const struct scan *s);

/*
 * Up to `max` pieces of the valid UTF-8 text [begin, end), from `at`, which is
 * begin or the end of a piece. ends[i] gets the end of the i-th; every byte
 * belongs to a piece. Returns their number, 0 only at the end.
 */
size_t scan_pieces(const struct scan *s, const unsigned char *begin, const unsigned char *at,
    const unsigned char *end, const unsigned char **ends, size_t max);

#endif
