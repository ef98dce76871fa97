/* SPDX-License-Identifier: MIT */
#include <emmintrin.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <utf8proc.h>

#include "lib/base/die.h"
#include "lib/base/mem.h"
#include "lib/base/text.h"
#include "lib/text/unicode.h"

uint8_t unicode_table[UNICODE_TABLE];

static unsigned char *
compose(const unsigned char *s, size_t n, size_t *size)
{
	utf8proc_uint8_t *out;
	utf8proc_ssize_t rc;

	rc = utf8proc_map(s, (utf8proc_ssize_t)n, &out, UTF8PROC_STABLE | UTF8PROC_COMPOSE);
	if (rc < 0)
		die("cannot normalise a text of %zu bytes: %s", n, utf8proc_errmsg(rc));
	*size = (size_t)rc;
	return out;
}

static int
changes_alone(uint32_t c)
{
	unsigned char s[4], *nfc;
	size_t n = unicode_put(c, s), size;
	int changes;

	nfc = compose(s, n, &size);
	changes = size != n || memcmp(s, nfc, n);
	free(nfc);
	return changes;
}

/* A mark, the second half of a composition, or what becomes something else by itself. */
static int
unstable(uint32_t c, const utf8proc_property_t *p)
{
	int jamo = (c >= 0x1161 && c <= 0x1175) || (c >= 0x11a8 && c <= 0x11c2);
	int second = p->comb_index != UINT16_MAX && p->comb_index >= 0x8000;
	int decomposes = p->decomp_seqindex != UINT16_MAX && !p->decomp_type;

	return p->combining_class || jamo || second || (decomposes && changes_alone(c));
}

static int
white_space(uint32_t c)
{
	return (c >= 0x09 && c <= 0x0d) || c == 0x20 || c == 0x85 || c == 0xa0 || c == 0x1680 ||
	    (c >= 0x2000 && c <= 0x200a) || c == 0x2028 || c == 0x2029 || c == 0x202f ||
	    c == 0x205f || c == 0x3000;
}

static unsigned
category_flag(utf8proc_propval_t category)
{
	if (category >= UTF8PROC_CATEGORY_LU && category <= UTF8PROC_CATEGORY_LO)
		return UNICODE_LETTER;
	if (category >= UTF8PROC_CATEGORY_MN && category <= UTF8PROC_CATEGORY_ME)
		return UNICODE_MARK;
	if (category >= UTF8PROC_CATEGORY_ND && category <= UTF8PROC_CATEGORY_NO)
		return UNICODE_NUMBER;
	return 0;
}

static void
fill_table(void)
{
	const utf8proc_property_t *p;
	uint32_t c;

	for (c = 0; c < UNICODE_TABLE; c++) {
		if (c >= 0xd800 && c < 0xe000)
			continue;
		p = utf8proc_get_property((utf8proc_int32_t)c);
		unicode_table[c] = (uint8_t)(category_flag(p->category) |
		    (white_space(c) ? UNICODE_SPACE : 0u) | (unstable(c, p) ? UNICODE_UNSTABLE : 0u));
	}
}

void
unicode_init(void)
{
	static pthread_once_t once = PTHREAD_ONCE_INIT;

	pthread_once(&once, fill_table);
}

size_t
unicode_put(uint32_t c, unsigned char *p)
{
	return (size_t)utf8proc_encode_char((utf8proc_int32_t)c, p);
}

/* The bytes of the sequence at p, 0 if it is none. */
static size_t
sequence(const unsigned char *p, size_t left)
{
	unsigned char low = 0x80, high = 0xbf;
	size_t n = p[0] < 0xc2 ? 0 : p[0] < 0xe0 ? 2 : p[0] < 0xf0 ? 3 : p[0] < 0xf5 ? 4 : 0;
	size_t i;

	if (!n || n > left)
		return 0;
	low = p[0] == 0xe0 ? 0xa0 : p[0] == 0xf0 ? 0x90 : low;
	high = p[0] == 0xed ? 0x9f : p[0] == 0xf4 ? 0x8f : high;
	if (p[1] < low || p[1] > high)
		return 0;
	for (i = 2; i < n; i++)
		if ((p[i] & 0xc0) != 0x80)
			return 0;
	return n;
}

/* Past the ASCII at p. */
static inline const unsigned char *
skip_ascii(const unsigned char *p, const unsigned char *end)
{
	int high;

	for (; end - p >= 16; p += 16) {
		high = _mm_movemask_epi8(_mm_loadu_si128((const __m128i *)p));
		if (high)
			return p + __builtin_ctz((unsigned)high);
	}
	while (p < end && *p < 0x80)
		p++;
	return p;
}

size_t
unicode_check(const void *s, size_t n, int *changing)
{
	const unsigned char *p = s, *end = p + n;
	unsigned seen = 0;
	size_t k;

	while ((p = skip_ascii(p, end)) < end) {
		if (!(k = sequence(p, (size_t)(end - p))))
			break;
		seen |= unicode_flags(unicode_get(p, &k));
		p += k;
	}
	*changing = (seen & UNICODE_UNSTABLE) != 0;
	return (size_t)(p - (const unsigned char *)s);
}

uint32_t
unicode_lower(uint32_t c)
{
	return c < 0x80 ? c + (c - 'A' < 26) * 32 : (uint32_t)utf8proc_tolower((utf8proc_int32_t)c);
}

/*
 * Only a stable code point and the unstable ones behind it are normalised
 * together: nothing combines across the start of the next stable one.
 */
unsigned char *
unicode_nfc(const void *s, size_t n, size_t *size)
{
	const unsigned char *p = s;
	unsigned char *out = NULL, *part;
	size_t start = 0, done = 0, cap = 0, used = 0, i = 0, k, made;

	while (i < n) {
		if (!(unicode_flags(unicode_get(p + i, &k)) & UNICODE_UNSTABLE)) {
			start = i;
			i += k;
			continue;
		}
		for (i += k; i < n && unicode_flags(unicode_get(p + i, &k)) & UNICODE_UNSTABLE; i += k)
			;
		part = compose(p + start, i - start, &made);
		if (used + (start - done) + made + (n - i) > cap)
			out = mem_grow(out, cap = 2 * (used + (start - done) + made + (n - i)), 1);
		memcpy(out + used, p + done, start - done);
		memcpy(out + used + (start - done), part, made);
		used += start - done + made;
		free(part);
		start = done = i;
	}
	if (used + (n - done) > cap || !out)
		out = mem_grow(out, used + (n - done), 1);
	memcpy(out + used, p + done, n - done);
	*size = used + (n - done);
	return out;
}

/* Bytes at p, which begin no character, that could have begun one. */
static size_t
broken(const unsigned char *p, size_t n)
{
	unsigned char c = p[0];
	size_t i, more = c < 0xc2 || c > 0xf4 ? 0 : c < 0xe0 ? 1 : c < 0xf0 ? 2 : 3;
	unsigned char low = c == 0xe0 ? 0xa0 : c == 0xf0 ? 0x90 : 0x80;
	unsigned char high = c == 0xed ? 0x9f : c == 0xf4 ? 0x8f : 0xbf;

	for (i = 1; i <= more && i < n && p[i] >= low && p[i] <= high; i++) {
		low = 0x80;
		high = 0xbf;
	}
	return i;
}

char *
unicode_repair(const void *s, size_t n, size_t *size)
{
	static const char replacement[] = "\xef\xbf\xbd";
	const unsigned char *p = s;
	struct text out = { NULL, 0, 0 };
	size_t bytes;
	int unstable;

	for (;;) {
		bytes = unicode_check(p, n, &unstable);
		text_add(&out, (const char *)p, bytes);
		if (bytes == n)
			break;
		text_puts(&out, replacement);
		p += bytes;
		n -= bytes;
		bytes = broken(p, n);
		p += bytes;
		n -= bytes;
	}
	*size = out.n;
	text_add(&out, "", 1);
	return out.s;
}
