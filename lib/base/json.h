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

#include "lib/base/text.h"

json_t *json_parse(const char *text, size_t size, char *why);

/* A whole file; the reason names it. */
json_t *json_read(const char *path, char *why);

/* Indented by two, as Python writes it, numbers as short as they may be; dies. */
void json_write(const char *path, const json_t *json);

/*
 * Append a value as Python's json.dumps(ensure_ascii=False) writes it: reals
 * with the fewest digits that give them back. `spaced`: a space behind each
 * comma and colon, as there by default.
 */
void json_append(struct text *out, const json_t *value, int spaced);
void json_append_string(struct text *out, const char *s, size_t n);	/* valid UTF-8, with its quotes */

#endif
