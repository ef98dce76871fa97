/* SPDX-License-Identifier: MIT */
/*
 * unicode - what a code point is, and whether a text is in normal form C
 *
 * Classes come from utf8proc, once, into a table of one byte per code point
 * of the first four planes; above them there are no letters, numbers, marks
 * or white space, and nothing that normalisation changes.
 */
#ifndef TEXT_UNICODE_H
#define TEXT_UNICODE_H

#include <stddef.h>
#include <stdint.h>

enum unicode_flag {
	UNICODE_LETTER = 1,	/* general category L* */
	UNICODE_NUMBER = 2,	/* N* */
	UNICODE_MARK = 4,	/* M* */
	UNICODE_SPACE = 8,	/* property White_Space, 25 code points */
	UNICODE_UNSTABLE = 16	/* not certain to stay as it is under NFC, whatever stands before it */
};

enum { UNICODE_TABLE = 0x40000 };

extern uint8_t unicode_table[UNICODE_TABLE];	/* filled by unicode_init() */

void unicode_init(void);			/* once; any number of threads may call it */

static inline unsigned
unicode_flags(uint32_t c)
{
	return c < UNICODE_TABLE ? unicode_table[c] : 0;
}

/* The code point at p, which must be valid UTF-8; *size gets its bytes. */
static inline uint32_t
unicode_get(const unsigned char *p, size_t *size)
{
	if (p[0] < 0x80)
		return *size = 1, p[0];
	if (p[0] < 0xe0)
		return *size = 2, (p[0] & 0x1fu) << 6 | (p[1] & 0x3f);
	if (p[0] < 0xf0)
		return *size = 3, (p[0] & 0x0fu) << 12 | (p[1] & 0x3fu) << 6 | (p[2] & 0x3f);
	return *size = 4, (p[0] & 0x07u) << 18 | (p[1] & 0x3fu) << 12 | (p[2] & 0x3fu) << 6 | (p[3] & 0x3f);
}

size_t unicode_put(uint32_t c, unsigned char *p);	/* writes up to 4 bytes, returns how many */

/*
 * The length of the longest valid prefix: n when all of s is UTF-8 (no
 * surrogates, no overlong forms). *unstable gets 1 if a code point in it has
 * UNICODE_UNSTABLE, so that 0 proves the text to be in NFC.
 */
size_t unicode_check(const void *s, size_t n, int *unstable);

/*
 * The same text as valid UTF-8, a new NUL-terminated string to be freed: what is none, such as
 * half a character, becomes one U+FFFD for each longest beginning of a character.
 */
char *unicode_repair(const void *s, size_t n, size_t *size);

uint32_t unicode_lower(uint32_t c);			/* simple mapping, one to one */

/* NFC of valid UTF-8 as a new string, to be freed; *size gets its length. */
unsigned char *unicode_nfc(const void *s, size_t n, size_t *size);

#endif
