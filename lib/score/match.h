/* SPDX-License-Identifier: MIT */
/*
 * match - whether two texts are equal but for case, punctuation and spacing
 *
 * Both sides in lower case, code point by code point; without the 32 ASCII
 * punctuation characters; white space collapsed to one space and stripped at
 * both ends. Articles stay, nothing is composed. Texts are UTF-8; bytes that
 * belong to no code point must be equal.
 */
#ifndef SCORE_MATCH_H
#define SCORE_MATCH_H

#include <jansson.h>
#include <stddef.h>

int match_pair(const char *a, size_t n, const char *b, size_t m);

/* 1 if a prediction equals a string, or any string of an array. */
int match_any(const json_t *prediction, const json_t *references);

#endif
