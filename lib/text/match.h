/* SPDX-License-Identifier: MIT */
/*
 * match - whether two texts are equal but for case, punctuation and spacing
 *
 * Both sides in lower case, code point by code point; without the 32 ASCII
 * punctuation characters; white space collapsed to one space and stripped at
 * both ends. Articles stay, nothing is composed. Texts are UTF-8; bytes that
 * belong to no code point must be equal.
 */
#ifndef TEXT_MATCH_H
#define TEXT_MATCH_H

#include <jansson.h>
#include <stddef.h>

/* The text in the form that is compared, NUL-terminated beyond its size; to be freed. */
char *match_normalize(const char *text, size_t size, size_t *normal_size);

/* 1 if a prediction equals a string, or any string of an array. */
int match_any(const json_t *prediction, const json_t *references);

#endif
