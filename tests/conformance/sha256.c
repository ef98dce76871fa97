/* SPDX-License-Identifier: MIT */
#include <math.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include "tests/conformance/sha256.h"

static uint32_t
rotate(uint32_t x, int n)
{
	return x >> n | x << (32 - n);
}

/* The first 32 bits of the fraction of a root of the i-th prime, as the standard defines its constants. */
static void
constants(uint32_t *k, int n, long double (*root)(long double))
{
	int i = 0, p, d;

	for (p = 2; i < n; p++) {
		for (d = 2; d * d <= p && p % d; d++)
			;
		if (d * d > p) {
			long double r = root((long double)p);

			k[i++] = (uint32_t)((r - floorl(r)) * 0x1p32L);
		}
	}
}

static void
block(uint32_t h[8], const uint32_t k[64], const unsigned char *p)
{
	uint32_t w[64], s[8];
	int i;

	for (i = 0; i < 16; i++, p += 4)
		w[i] = (uint32_t)p[0] << 24 | (uint32_t)p[1] << 16 | (uint32_t)p[2] << 8 | p[3];
	for (; i < 64; i++)
		w[i] = w[i - 16] + w[i - 7] + (rotate(w[i - 15], 7) ^ rotate(w[i - 15], 18) ^ w[i - 15] >> 3) +
		    (rotate(w[i - 2], 17) ^ rotate(w[i - 2], 19) ^ w[i - 2] >> 10);
	memcpy(s, h, sizeof s);
	for (i = 0; i < 64; i++) {
		uint32_t t = s[7] + (rotate(s[4], 6) ^ rotate(s[4], 11) ^ rotate(s[4], 25)) +
		    ((s[4] & s[5]) ^ (~s[4] & s[6])) + k[i] + w[i];
		uint32_t u = (rotate(s[0], 2) ^ rotate(s[0], 13) ^ rotate(s[0], 22)) +
		    ((s[0] & s[1]) ^ (s[0] & s[2]) ^ (s[1] & s[2]));

		memmove(s + 1, s, 7 * sizeof *s);
		s[4] += t;
		s[0] = t + u;
	}
	for (i = 0; i < 8; i++)
		h[i] += s[i];
}

void
sha256_hex(char hex[65], const void *data, size_t n)
{
	const unsigned char *p = data;
	unsigned char end[128] = { 0 };
	uint32_t h[8], k[64];
	size_t rest = n % 64, last = rest < 56 ? 64 : 128, i;

	constants(h, 8, sqrtl);
	constants(k, 64, cbrtl);
	for (i = 0; i + 64 <= n; i += 64)
		block(h, k, p + i);
	if (rest)
		memcpy(end, p + i, rest);
	end[rest] = 0x80;
	for (i = 0; i < 8; i++)
		end[last - 1 - i] = (unsigned char)((uint64_t)n * 8 >> 8 * i);
	for (i = 0; i < last; i += 64)
		block(h, k, end + i);
	for (i = 0; i < 8; i++)
		snprintf(hex + 8 * i, 9, "%08x", h[i]);
}
