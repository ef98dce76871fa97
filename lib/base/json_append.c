/* SPDX-License-Identifier: MIT */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "lib/base/json.h"

static void
append_real(struct text *out, double x)
{
	char s[40], digits[40];
	int precision, exponent;

	for (precision = 0; precision < 17; precision++) {
		snprintf(s, sizeof s, "%.*e", precision, x);
		if (strtod(s, NULL) == x)
			break;
	}
	exponent = atoi(strchr(s, 'e') + 1);
	if (exponent >= -4 && exponent < 16) {
		snprintf(digits, sizeof digits, "%.*f", precision > exponent ? precision - exponent : 1, x);
		text_puts(out, digits);
		return;
	}
	*strchr(s, 'e') = '\0';
	text_puts(out, s);
	snprintf(digits, sizeof digits, "e%+03d", exponent);
	text_puts(out, digits);
}

static void
append_escape(struct text *out, char c)
{
	static const char from[] = "\"\\\b\f\n\r\t", to[] = "\"\\bfnrt", hex[] = "0123456789abcdef";
	const char *at = c ? strchr(from, c) : NULL;
	char escape[] = "\\u0000";

	if (at)
		escape[1] = to[at - from];
	escape[4] = hex[c >> 4 & 15];
	escape[5] = hex[c & 15];
	text_add(out, escape, at ? 2 : 6);
}

void
json_append_string(struct text *out, const char *s, size_t n)
{
	const char *end = s + n, *p;

	text_add(out, "\"", 1);
	while ((p = json_plain(s, end)) < end) {
		text_add(out, s, (size_t)(p - s));
		append_escape(out, *p);
		s = p + 1;
	}
	text_add(out, s, (size_t)(p - s));
	text_add(out, "\"", 1);
}

static void
append_array(struct text *out, const json_t *array, int spaced)
{
	size_t i;

	text_add(out, "[", 1);
	for (i = 0; i < json_array_size(array); i++) {
		if (i)
			text_add(out, ", ", spaced ? 2 : 1);
		json_append(out, json_array_get(array, i), spaced);
	}
	text_add(out, "]", 1);
}

static void
append_object(struct text *out, const json_t *object, int spaced)
{
	const json_t *value;
	const char *key;
	size_t n, i = 0;

	text_add(out, "{", 1);
	json_object_keylen_foreach((json_t *)object, key, n, value) {
		if (i++)
			text_add(out, ", ", spaced ? 2 : 1);
		json_append_string(out, key, n);
		text_add(out, ": ", spaced ? 2 : 1);
		json_append(out, value, spaced);
	}
	text_add(out, "}", 1);
}

void
json_append(struct text *out, const json_t *value, int spaced)
{
	char number[32];

	switch (json_typeof(value)) {
	case JSON_STRING:
		json_append_string(out, json_string_value(value), json_string_length(value));
		break;
	case JSON_INTEGER:
		text_add(out, number, (size_t)snprintf(number, sizeof number, "%lld",
		    (long long)json_integer_value(value)));
		break;
	case JSON_REAL:
		append_real(out, json_real_value(value));
		break;
	case JSON_ARRAY:
		append_array(out, value, spaced);
		break;
	case JSON_OBJECT:
		append_object(out, value, spaced);
		break;
	default:
		text_puts(out, json_is_true(value) ? "true" : json_is_false(value) ? "false" : "null");
	}
}
