/* SPDX-License-Identifier: MIT */
/*
 * json - JSON in memory, by Jansson
 *
 * Strict: one name twice in an object, bytes that are no UTF-8 and nesting
 * deeper than Jansson's 2048 are refused with a reason.
 */
#ifndef BASE_JSON_H
#define BASE_JSON_H

#include <jansson.h>

json_t *json_parse(const char *text, size_t size, char *why);

/* A whole file; the reason names it. */
json_t *json_read(const char *path, char *why);

/* Indented by two, as Python writes it, numbers as short as they may be; dies. */
void json_write(const char *path, const json_t *json);

#endif
