/* SPDX-License-Identifier: MIT */
/* The scanners written by hand give the pieces that PCRE2 gives, on texts made of what matters to the patterns. */
#include <stdlib.h>
#include <string.h>

#include "lib/base/die.h"
#include "lib/base/mem.h"
#include "lib/bpe/scan.h"
#include "lib/text/unicode.h"
#include "tests/unit/tap.h"

enum { TEXTS = 100000, LENGTH = 250, MAX = LENGTH + 4 };

static const uint32_t alphabet[] = {
	'a', 'b', 'Z', 's', 't', 'r', 'e', 'v', 'm', 'l', 'd', 'S', 'L', 'E', '\'', '\'', '\'', ' ', ' ', ' ', '\n', '\r', '\t',
	'\v', '\f', 0, 0x1c, '.', '(', '!', '_', '0', '9', 0x7f, 0x85, 0xa0, 0xb2, 0xe9, 0xdf, 0x17f, 0x301, 0x3b1, 0x5d0, 0x660,
	0x915, 0x94d, 0xe01, 0x1680, 0x180e, 0x2003, 0x2028, 0x200b, 0x202f, 0x205f, 0x2160, 0x212a, 0x3000, 0x4e2d, 0xac00,
	0xfeff, 0x1d54f, 0x1f600, 0x20000, 0xe0001, 0x10ffff
};

static uint32_t state = 7;

static uint32_t
draw(uint32_t n)
{
	state = state * 1664525 + 1013904223;
	return (uint32_t)((uint64_t)(state >> 4) * n >> 28);
}

/* Below U+10000, where the tables of PCRE2 and utf8proc are of one age as far as letters and numbers go. */
static uint32_t
code_point(void)
{
	uint32_t c;

	if (draw(8))
		return alphabet[draw(sizeof alphabet / sizeof *alphabet)];
	do
		c = draw(0x10000);
	while (c >= 0xd800 && c < 0xe000);
	return c;
}

/* Texts of runs, long enough to leave the fast paths in every place. */
static size_t
make_text(unsigned char *s)
{
	size_t n = 0, size = 1 + draw(draw(2) ? LENGTH : 40);
	uint32_t c = 'a';

	while (n < size) {
		if (!draw(3))
			c = code_point();
		else if (draw(2))
			c = 'a' + draw(26);
		n += unicode_put(c, s + n);
	}
	return n;
}

/* All pieces, asked for `max` at a time: where a scanner stops must not matter. */
static size_t
all_pieces(const struct scan *scan, const unsigned char *s, size_t n, const unsigned char **ends, size_t max)
{
	size_t pieces = 0, more;

	while ((more = scan_pieces(scan, s, pieces ? ends[pieces - 1] : s, s + n, ends + pieces, max)))
		pieces += more;
	return pieces;
}

static int
same(const struct scan *hand, const struct scan *oracle, const unsigned char *s, size_t n)
{
	const unsigned char *a[2 * MAX], *b[2 * MAX];
	size_t max = draw(2) ? MAX : 1 + draw(MAX), na = all_pieces(hand, s, n, a, max);

	return na == all_pieces(oracle, s, n, b, 3) && !memcmp(a, b, na * sizeof *a);
}

static void
compare(const char *pattern, const char *name)
{
	char why[REASON_MAX];
	struct scan *hand = scan_open(pattern, why), *oracle = scan_open_pcre2(pattern, why);
	unsigned char s[MAX], *exact;
	size_t n, differ = 0, i;

	for (i = 0; i < TEXTS; i++) {
		n = make_text(s);
		/* from a block of its own, so that reading beyond it is an error */
		exact = mem_copy(s, n);
		differ += !same(hand, oracle, exact, n);
		free(exact);
	}
	ok(!differ, "%s: %zu of %d random texts have other pieces than in PCRE2", name, differ, TEXTS);
	scan_close(hand);
	scan_close(oracle);
}

static void
gaps(void)
{
	static const unsigned char s[] = "ab12cd";
	const unsigned char *ends[8];
	char why[REASON_MAX];
	struct scan *scan = scan_open("[0-9]+", why);
	size_t n = scan_pieces(scan, s, s, s + 6, ends, 8);

	ok(n == 3 && ends[0] == s + 2 && ends[1] == s + 4 && ends[2] == s + 6, "what a pattern leaves between is a piece");
	scan_close(scan);
	ok(!scan_open("(", why), "a pattern that does not compile is refused: %s", why);
}

int
main(void)
{
	compare(scan_qwen2, "Qwen2");
	compare(scan_gpt2, "GPT-2");
	gaps();
	return done();
}
