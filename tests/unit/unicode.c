/* SPDX-License-Identifier: MIT */
#include <stdlib.h>
#include <string.h>
#include <utf8proc.h>

#include "lib/text/unicode.h"
#include "tests/unit/tap.h"

enum { TEXTS = 100000, LENGTH = 12 };

static uint32_t state = 3;

static uint32_t
draw(uint32_t n)
{
	state = state * 1664525 + 1013904223;
	return (uint32_t)((uint64_t)(state >> 4) * n >> 28);
}

/* Where composition happens: Latin and its marks, Hangul, Indic, the compatibility ideographs, anything. */
static uint32_t
code_point(void)
{
	static const uint32_t blocks[][2] = { { 'A', 60 }, { 0xc0, 0x200 }, { 0x300, 0x50 }, { 0x900, 0x500 },
		{ 0x1100, 0x100 }, { 0x1e00, 0x200 }, { 0x2000, 0x300 }, { 0xac00, 60 }, { 0xf900, 0x100 },
		{ 0xfb00, 0x50 }, { 0x11080, 0x80 }, { 0x1d150, 0x80 }, { 0x2f800, 0x220 }, { 0, 0x110000 } };
	uint32_t b, c;

	do {
		b = draw(sizeof blocks / sizeof *blocks);
		c = blocks[b][0] + draw(blocks[b][1]);
	} while (c >= 0xd800 && c < 0xe000);
	return c;
}

static void
normal_form(void)
{
	unsigned char s[4 * LENGTH], *ours;
	utf8proc_uint8_t *theirs;
	utf8proc_ssize_t want;
	size_t n, size, i, k, differ = 0, unproved = 0;
	int unstable;

	for (i = 0; i < TEXTS; i++) {
		for (n = k = 0; k < LENGTH; k++)
			n += unicode_put(code_point(), s + n);
		want = utf8proc_map(s, (utf8proc_ssize_t)n, &theirs, UTF8PROC_STABLE | UTF8PROC_COMPOSE);
		ours = unicode_nfc(s, n, &size);
		differ += (utf8proc_ssize_t)size != want || memcmp(ours, theirs, size);
		unproved += unicode_check(s, n, &unstable) != n;
		unproved += !unstable && (size != n || memcmp(s, ours, n));
		free(theirs);
		free(ours);
	}
	ok(!differ, "%zu of %d random texts have another NFC than utf8proc's of the whole", differ, TEXTS);
	ok(!unproved, "%zu texts are called stable and are not", unproved);
}

static void
classes(void)
{
	utf8proc_category_t g;
	uint32_t c;
	size_t wrong = 0, spaces = 0;
	unsigned want;

	for (c = 0; c < 0x110000; c++) {
		if (c >= 0xd800 && c < 0xe000)
			continue;
		g = utf8proc_category((utf8proc_int32_t)c);
		want = g >= UTF8PROC_CATEGORY_LU && g <= UTF8PROC_CATEGORY_LO ? UNICODE_LETTER :
		    g >= UTF8PROC_CATEGORY_ND && g <= UTF8PROC_CATEGORY_NO ? UNICODE_NUMBER : 0;
		wrong += (unicode_flags(c) & (UNICODE_LETTER | UNICODE_NUMBER)) != want;
		spaces += (unicode_flags(c) & UNICODE_SPACE) != 0;
	}
	ok(!wrong, "%zu code points are letters or numbers here and not there", wrong);
	ok(spaces == 25 && !(unicode_flags(0x180e) & UNICODE_SPACE), "%zu code points are white space", spaces);
}

static void
validity(void)
{
	static const struct { const char *s; size_t n, valid; } cases[] = {
		{ "plain", 5, 5 }, { "\xc3\xa9", 2, 2 }, { "a\xc3", 2, 1 }, { "\xc0\xaf", 2, 0 }, { "\xe0\x80\xaf", 3, 0 },
		{ "\xed\xa0\x80", 3, 0 }, { "\xf4\x90\x80\x80", 4, 0 }, { "\xf4\x8f\xbf\xbf", 4, 4 }, { "12345678\xff", 9, 8 },
		{ "\0\0", 2, 2 }, { "\xf0\x9f\x98", 3, 0 }, { "\x80", 1, 0 }
	};
	size_t i;
	int unstable;

	for (i = 0; i < sizeof cases / sizeof *cases; i++)
		ok(unicode_check(cases[i].s, cases[i].n, &unstable) == cases[i].valid, "UTF-8, case %zu", i);
}

int
main(void)
{
	unicode_init();
	classes();
	validity();
	normal_form();
	ok(unicode_lower('Q') == 'q' && unicode_lower(0x130) == 'i' && unicode_lower(0x3a3) == 0x3c3, "simple lower case");
	return done();
}
