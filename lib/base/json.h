/* SPDX-License-Identifier: MIT */
/*
 * json - JSON in memory, by Jansson
 *
 * Strict: one name twice in an object, bytes that are no UTF-8 and nesting
 * deeper than Jansson's 2048 are refused with a reason.
 */
#ifndef BASE_JSON_H
#define BASE_JSON_H

#include <emmintrin.h>
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

/* Past what stands in a string as it is: to a quote, a backslash, a control character or the end. */
static inline const char *
json_plain(const char *p, const char *end)
{
	const __m128i quote = _mm_set1_epi8('"'), slash = _mm_set1_epi8('\\'), control = _mm_set1_epi8(0x1f);
	__m128i bytes, stops;
	int found;

	for (; end - p >= 16; p += 16) {
		bytes = _mm_loadu_si128((const __m128i *)p);
		stops = _mm_or_si128(_mm_cmpeq_epi8(bytes, quote), _mm_cmpeq_epi8(bytes, slash));
		stops = _mm_or_si128(stops, _mm_cmpeq_epi8(_mm_min_epu8(bytes, control), bytes));
		if ((found = _mm_movemask_epi8(stops)))
			return p + __builtin_ctz((unsigned)found);
	}
	while (p < end && *p != '"' && *p != '\\' && (unsigned char)*p >= 0x20)
		p++;
	return p;
}

#endif
