/* SPDX-License-Identifier: MIT */
/*
 * rouge - Rouge-L: how much of a text another one repeats, in order
 *
 *	P = LCS / words of the prediction	R = LCS / words of the reference
 *	F = 2PR / (P + R), all 0 when either has no words
 *
 * LCS is the length of the longest common subsequence of their words (Lin,
 * 2004). What a word is, the mode says:
 *
 * ROUGE_GOOGLE   as Google's rouge_score with use_stemmer: lower case, runs of
 *                [a-z0-9], those longer than 3 stemmed (lib/score/porter.h). Of
 *                the code points outside of ASCII, U+0130 lowers to an i and a
 *                separator, U+212A to a k; all others separate.
 * ROUGE_UNICODE  NFC, lower case, runs of letters, marks and numbers; the
 *                scripts that are written without spaces, per code point. Its
 *                figures do not compare with those of any other program.
 *
 * Texts are UTF-8; in one that is not, bytes that belong to no code point separate.
 */
#ifndef SCORE_ROUGE_H
#define SCORE_ROUGE_H

#include <jansson.h>
#include <stddef.h>

enum rouge_mode { ROUGE_GOOGLE, ROUGE_UNICODE };

struct rouge_score {
	double p, r, f;		/* 0 to 1 */
};

/* The words seen so far and the memory to compare them in; one per thread. */
struct rouge *rouge_new(enum rouge_mode mode);
void rouge_free(struct rouge *rouge);

struct rouge_score rouge_pair(struct rouge *rouge, const char *prediction, size_t size,
    const char *reference, size_t reference_size);

/* Against a string, or the strings of an array: the score whose F is highest, the first of equals. */
struct rouge_score rouge_best(struct rouge *rouge, const json_t *prediction, const json_t *references);

#endif
