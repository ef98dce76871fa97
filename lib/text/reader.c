/* SPDX-License-Identifier: MIT */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "lib/base/die.h"
#include "lib/base/json.h"
#include "lib/base/mem.h"
#include "lib/text/reader.h"
#include "lib/text/unicode.h"

enum { DEPTH = 200, NUMBER = 64 };

void
reader_init(struct reader *r, const void *text, size_t n, char *why)
{
	*r = (struct reader){ .begin = text, .p = text, .end = (const char *)text + n, .why = why };
	unicode_init();
}

void
reader_free(struct reader *r)
{
	free(r->buffer.s);
}

static int
wrong(const struct reader *r, const char *what)
{
	return reason(r->why, "%s at byte %zu", what, (size_t)(r->p - r->begin));
}

int
reader_peek(struct reader *r)
{
	while (r->p < r->end && (*r->p == ' ' || *r->p == '\n' || *r->p == '\t' || *r->p == '\r'))
		r->p++;
	return r->p < r->end ? (unsigned char)*r->p : 0;
}

int
reader_take(struct reader *r, int c)
{
	if (reader_peek(r) != c || r->p == r->end)
		return 0;
	r->p++;
	return 1;
}

int
reader_expect(struct reader *r, int c)
{
	char what[] = "no 'x'";

	if (reader_take(r, c))
		return 0;
	what[4] = (char)c;
	return wrong(r, what);
}

int
reader_end(struct reader *r)
{
	reader_peek(r);
	return r->p == r->end ? 0 : wrong(r, "something after the JSON value");
}

static int
hex4(struct reader *r, uint32_t *value)
{
	int i, c;

	*value = 0;
	for (i = 0; i < 4; i++, r->p++) {
		c = r->p < r->end ? *r->p : 0;
		if (c >= '0' && c <= '9')
			c -= '0';
		else if ((c | 0x20) >= 'a' && (c | 0x20) <= 'f')
			c = (c | 0x20) - 'a' + 10;
		else
			return wrong(r, "a bad \\u escape");
		*value = *value << 4 | (uint32_t)c;
	}
	return 0;
}

static int
code_point(struct reader *r)
{
	unsigned char bytes[4];
	uint32_t c, low;

	if (hex4(r, &c))
		return -1;
	if (c >= 0xd800 && c < 0xe000) {
		if (c >= 0xdc00 || r->end - r->p < 6 || r->p[0] != '\\' || r->p[1] != 'u')
			return wrong(r, "half of a surrogate pair");
		r->p += 2;
		if (hex4(r, &low))
			return -1;
		if (low < 0xdc00 || low >= 0xe000)
			return wrong(r, "half of a surrogate pair");
		c = 0x10000 + ((c & 0x3ff) << 10 | (low & 0x3ff));
	}
	text_add(&r->buffer, (const char *)bytes, unicode_put(c, bytes));
	return 0;
}

static int
escape(struct reader *r)
{
	static const char from[] = "\"\\/bfnrt", to[] = "\"\\/\b\f\n\r\t";
	const char *at;
	int c = ++r->p < r->end ? *r->p++ : 0;

	if (c == 'u')
		return code_point(r);
	if (!c || !(at = strchr(from, c)))
		return wrong(r, "a bad escape");
	text_add(&r->buffer, to + (at - from), 1);
	return 0;
}

/* A string with escapes, whose first is where the reader is. */
static int
escaped(struct reader *r, const char *from)
{
	r->buffer.n = 0;
	for (;;) {
		text_add(&r->buffer, from, (size_t)(r->p - from));
		if (r->p == r->end || *r->p != '\\')
			return 0;
		if (escape(r))
			return -1;
		from = r->p;
		r->p = json_plain(from, r->end);
	}
}

int
reader_string(struct reader *r, const char **s, size_t *n)
{
	const char *start;
	int unstable;

	if (!reader_take(r, '"'))
		return wrong(r, "no string");
	start = r->p;
	r->p = json_plain(start, r->end);
	*s = start;
	*n = (size_t)(r->p - start);
	if (r->p < r->end && *r->p == '\\') {
		if (escaped(r, start))
			return -1;
		*s = r->buffer.s;
		*n = r->buffer.n;
	}
	if (r->p == r->end)
		return wrong(r, "a string without an end");
	if (*r->p != '"')
		return wrong(r, "a control character in a string");
	if (unicode_check(*s, *n, &unstable) != *n)
		return wrong(r, "a string that is not UTF-8");
	r->p++;
	return 0;
}

static size_t
digits(const char *p, const char *end)
{
	const char *start = p;

	while (p < end && *p >= '0' && *p <= '9')
		p++;
	return (size_t)(p - start);
}

/* A number's text in s, NUL-terminated; *real says that it has a fraction or an exponent. */
static int
number(struct reader *r, char s[NUMBER], int *real)
{
	const char *start, *p;
	size_t n;

	reader_peek(r);
	p = start = r->p;
	p += p < r->end && *p == '-';
	n = digits(p, r->end);
	if (!n || (n > 1 && *p == '0'))
		return wrong(r, "no JSON value");
	p += n;
	*real = p < r->end && (*p == '.' || (*p | 0x20) == 'e');
	if (p < r->end && *p == '.') {
		n = digits(++p, r->end);
		if (!n)
			return wrong(r, "a bad number");
		p += n;
	}
	if (p < r->end && (*p | 0x20) == 'e') {
		p++;
		p += p < r->end && (*p == '+' || *p == '-');
		n = digits(p, r->end);
		if (!n)
			return wrong(r, "a bad number");
		p += n;
	}
	if (p - start >= NUMBER)
		return wrong(r, "a number that is too long");
	memcpy(s, start, (size_t)(p - start));
	s[p - start] = '\0';
	r->p = p;
	return 0;
}

int
reader_integer(struct reader *r, int64_t *value)
{
	char s[NUMBER];
	int real;

	if (number(r, s, &real))
		return -1;
	errno = 0;
	*value = strtoll(s, NULL, 10);
	return real || errno ? wrong(r, "a number that is no 64-bit integer") : 0;
}

int
reader_next(struct reader *r, int close, int *first)
{
	if (reader_take(r, close))
		return 0;
	if (!*first && reader_expect(r, ','))
		return -1;
	*first = 0;
	return 1;
}

int
reader_key(struct reader *r, const char **s, size_t *n)
{
	return reader_string(r, s, n) ? -1 : reader_expect(r, ':');
}

static int value_at(struct reader *r, json_t **value, int depth);

static int
object(struct reader *r, json_t *object, int depth)
{
	const char *s;
	char *kept;
	size_t n;
	json_t *value;
	int first, rc;

	for (first = 1; (rc = reader_next(r, '}', &first)) > 0; ) {
		if (reader_key(r, &s, &n))
			return -1;
		/* the value may need the buffer */
		kept = s == r->buffer.s ? mem_copy(s, n) : NULL;
		rc = value_at(r, &value, depth);
		if (!rc)
			json_object_setn_new_nocheck(object, kept ? kept : s, n, value);
		free(kept);
		if (rc)
			return -1;
	}
	return rc;
}

static int
array(struct reader *r, json_t *array, int depth)
{
	json_t *value;
	int first, rc;

	for (first = 1; (rc = reader_next(r, ']', &first)) > 0; ) {
		if (value_at(r, &value, depth))
			return -1;
		json_array_append_new(array, value);
	}
	return rc;
}

static int
word(struct reader *r, const char *text, json_t *as, json_t **value)
{
	size_t n = strlen(text);

	if ((size_t)(r->end - r->p) < n || memcmp(r->p, text, n))
		return wrong(r, "no JSON value");
	r->p += n;
	*value = as;
	return 0;
}

static int
numeric(struct reader *r, json_t **value)
{
	char s[NUMBER];
	double d;
	int real;

	if (number(r, s, &real))
		return -1;
	errno = 0;
	if (real) {
		d = strtod(s, NULL);
		*value = json_real(d);
		return *value ? 0 : wrong(r, "a number that is too large");
	}
	*value = json_integer(strtoll(s, NULL, 10));
	if (!errno)
		return 0;
	json_decref(*value);
	return wrong(r, "an integer that is too large");
}

static int
value_at(struct reader *r, json_t **value, int depth)
{
	const char *s;
	size_t n;
	int rc, c = reader_peek(r);

	if (depth > DEPTH)
		return wrong(r, "too many brackets inside each other");
	if (c == '"') {
		if (reader_string(r, &s, &n))
			return -1;
		*value = json_stringn_nocheck(s, n);
		return 0;
	}
	if (c == '{' || c == '[') {
		r->p++;
		*value = c == '{' ? json_object() : json_array();
		rc = c == '{' ? object(r, *value, depth + 1) : array(r, *value, depth + 1);
		if (rc)
			json_decref(*value);
		return rc;
	}
	if (c == 't')
		return word(r, "true", json_true(), value);
	if (c == 'f')
		return word(r, "false", json_false(), value);
	if (c == 'n')
		return word(r, "null", json_null(), value);
	return numeric(r, value);
}

int
reader_value(struct reader *r, json_t **value)
{
	return value_at(r, value, 0);
}

static int
skip_string(struct reader *r)
{
	for (r->p++; (r->p = json_plain(r->p, r->end)) < r->end && *r->p != '"'; )
		r->p += *r->p == '\\' && r->end - r->p > 1 ? 2 : 1;
	if (r->p == r->end)
		return wrong(r, "a string without an end");
	r->p++;
	return 0;
}

int
reader_skip(struct reader *r)
{
	size_t depth = 0;
	int c;

	do {
		c = reader_peek(r);
		if (r->p == r->end)
			return wrong(r, "no JSON value");
		if (c == '"') {
			if (skip_string(r))
				return -1;
			continue;
		}
		if (c == ',' || c == ':' || c == '}' || c == ']') {
			if (!depth)
				return wrong(r, "no JSON value");
			depth -= c == '}' || c == ']';
			r->p++;
			continue;
		}
		depth += c == '{' || c == '[';
		for (r->p++; c != '{' && c != '[' && r->p < r->end && !strchr(",:]}\" \n\r\t", *r->p); )
			r->p++;
	} while (depth);
	return 0;
}

json_t *
reader_parse(const void *text, size_t n, char *why)
{
	struct reader r;
	json_t *value = NULL;

	reader_init(&r, text, n, why);
	if (reader_value(&r, &value))
		value = NULL;
	else if (reader_end(&r)) {
		json_decref(value);
		value = NULL;
	}
	reader_free(&r);
	return value;
}
