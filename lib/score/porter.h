/* SPDX-License-Identifier: MIT */
/*
 * porter - the Porter stemmer, in the form that NLTK has by default
 *
 * M. F. Porter, An algorithm for suffix stripping, Program 14 (1980), with the
 * departures that NLTK makes in its mode NLTK_EXTENSIONS: a pool of irregular
 * words, -ies and -ied of four letters, y after any consonant, -alli tried
 * again as -al, -bli, -fulli and -logi, and a short syllable of two letters.
 */
#ifndef SCORE_PORTER_H
#define SCORE_PORTER_H

#include <stddef.h>

/* Stems the word of n bytes of [a-z0-9] in its place; its new length, at most n. */
size_t porter_stem(char *word, size_t n);

#endif
