/* SPDX-License-Identifier: MIT */
#include <ctype.h>
#include <stdlib.h>
#include <string.h>
#include <utf8proc.h>

#include "lib/base/mem.h"
#include "lib/text/match.h"

static int
is_space(utf8proc_int32_t c)
{
	return (c >= 0x9 && c <= 0xd) || c == ' ' || c == 0x85 || c == 0xa0 || c == 0x1680 ||
	    (c >= 0x2000 && c <= 0x200a) || c == 0x2028 || c == 0x2029 || c == 0x202f ||
	    c == 0x205f || c == 0x3000;
}

static int
is_ascii_punctuation(utf8proc_int32_t c)
{
	return c > ' ' && c < 0x7f && !isalnum(c);
}

char *
match_normalize(const char *text, size_t size, size_t *normal_size)
{
	utf8proc_uint8_t *normal = mem_alloc(2 * size + 1);	/* lower case may need a byte more */
	utf8proc_int32_t c;
	utf8proc_ssize_t k;
	size_t i, n = 0;

	for (i = 0; i < size; i += (size_t)k) {
		k = utf8proc_iterate((const utf8proc_uint8_t *)text + i, (utf8proc_ssize_t)(size - i), &c);
		if (k <= 0) {
			normal[n++] = (utf8proc_uint8_t)text[i];
			k = 1;
		} else if (is_space(c)) {
			if (n && normal[n - 1] != ' ')
				normal[n++] = ' ';
		} else if (!is_ascii_punctuation(c)) {
			n += (size_t)utf8proc_encode_char(utf8proc_tolower(c), normal + n);
		}
	}
	if (n && normal[n - 1] == ' ')
		n--;
	normal[n] = '\0';
	*normal_size = n;
	return (char *)normal;
}

static int
equals(const char *normal, size_t size, const json_t *reference)
{
	size_t n;
	char *other = match_normalize(json_string_value(reference), json_string_length(reference), &n);
	int equal = n == size && !memcmp(normal, other, n);

	free(other);
	return equal;
}

int
match_any(const json_t *prediction, const json_t *references)
{
	size_t i, size;
	char *normal = match_normalize(json_string_value(prediction),
	    json_string_length(prediction), &size);
	const json_t *reference;
	int any = json_is_string(references) && equals(normal, size, references);

	json_array_foreach(references, i, reference)
		any = any || equals(normal, size, reference);
	free(normal);
	return any;
}
