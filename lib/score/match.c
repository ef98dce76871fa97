/* SPDX-License-Identifier: MIT */
/* Both texts are walked side by side, up to the first difference: most pairs differ early. */
#include <stdint.h>
#include <utf8proc.h>

#include "lib/score/match.h"
#include "lib/text/unicode.h"

enum { BROKEN = 0x110000, END = -1 };

struct cursor {
	const unsigned char *p, *end;
	int started;
};

static int
is_ascii_punctuation(uint32_t c)
{
	return c - '!' < 15 || c - ':' < 7 || c - '[' < 6 || c - '{' < 4;
}

/* The code point at p; a byte that begins none is one beyond them all. */
static uint32_t
code_point(const struct cursor *k, size_t *size)
{
	utf8proc_int32_t c;
	utf8proc_ssize_t n;

	*size = 1;
	if (*k->p < 0x80)
		return *k->p;
	n = utf8proc_iterate(k->p, k->end - k->p, &c);
	if (n <= 0)
		return BROKEN + *k->p;
	*size = (size_t)n;
	return (uint32_t)c;
}

/* The next code point that counts; white space before it gives one space, if any came before that. */
static int32_t
next(struct cursor *k)
{
	int space = 0;
	size_t size;
	uint32_t c;

	for (; k->p < k->end; k->p += size) {
		c = code_point(k, &size);
		if (unicode_flags(c) & UNICODE_SPACE) {
			space = k->started;
			continue;
		}
		if (is_ascii_punctuation(c))
			continue;
		if (space)
			return ' ';
		k->started = 1;
		k->p += size;
		return (int32_t)(c < BROKEN ? unicode_lower(c) : c);
	}
	return END;
}

int
match_pair(const char *a, size_t n, const char *b, size_t m)
{
	struct cursor i = { (const unsigned char *)a, (const unsigned char *)a + n, 0 };
	struct cursor j = { (const unsigned char *)b, (const unsigned char *)b + m, 0 };
	int32_t c;

	unicode_init();
	while ((c = next(&i)) == next(&j))
		if (c == END)
			return 1;
	return 0;
}

static int
equal(const json_t *a, const json_t *b)
{
	return match_pair(json_string_value(a), json_string_length(a),
	    json_string_value(b), json_string_length(b));
}

int
match_any(const json_t *prediction, const json_t *references)
{
	const json_t *reference;
	size_t i;

	if (json_is_string(references))
		return equal(prediction, references);
	json_array_foreach(references, i, reference)
		if (equal(prediction, reference))
			return 1;
	return 0;
}
