/* SPDX-License-Identifier: MIT */
#include <assert.h>
#include <string.h>

#include "lib/quant/pack.h"

/* Strings of n codes side by side: code i of each at q[i * stride], its word j at words[j * stride]. */
static void
pack_strings(uint32_t *words, const uint8_t *q, int codes, int stride, int strings, int bits)
{
	uint32_t max = (1u << bits) - 1;
	int i, o;

	assert(codes % 32 == 0);
	for (i = 0; i < codes; i++) {
		int bit = i * bits, shift = bit % 32, crosses = shift + bits > 32;
		uint32_t *word = words + (size_t)(bit / 32) * (size_t)stride;
		const uint8_t *row = q + (size_t)i * (size_t)stride;

		for (o = 0; o < strings; o++) {
			uint32_t code = row[o] < max ? row[o] : max;

			word[o] = (shift ? word[o] : 0) | code << shift;
			if (crosses)
				word[o + stride] = code >> (32 - shift);
		}
	}
}

static void
unpack_strings(uint8_t *q, const uint32_t *words, int codes, int stride, int strings, int bits)
{
	uint32_t max = (1u << bits) - 1;
	int i, o;

	assert(codes % 32 == 0);
	for (i = 0; i < codes; i++) {
		int bit = i * bits, shift = bit % 32, crosses = shift + bits > 32;
		const uint32_t *word = words + (size_t)(bit / 32) * (size_t)stride;
		uint8_t *row = q + (size_t)i * (size_t)stride;

		for (o = 0; o < strings; o++) {
			uint32_t code = word[o] >> shift;

			if (crosses)
				code |= word[o + stride] << (32 - shift);
			row[o] = (uint8_t)(code & max);
		}
	}
}

void
pack_codes(uint32_t *words, const uint8_t *q, int k, int n, int bits)
{
	pack_strings(words, q, k, n, n, bits);
}

void
unpack_codes(uint8_t *q, const uint32_t *words, int k, int n, int bits)
{
	unpack_strings(q, words, k, n, n, bits);
}

int
pack_zeros(uint32_t *words, const uint8_t *z, int groups, int n, int bits, int version)
{
	int g, o;

	for (g = 0; g < groups; g++) {
		uint8_t row[32];

		for (o = 0; o < n; o++) {
			if (version == 1 && !z[o])
				return -1;
			row[o % 32] = (uint8_t)(z[o] - (version == 1));
			if (o % 32 == 31)
				pack_strings(words + o / 32 * bits, row, 32, 1, 1, bits);
		}
		words += n / 32 * bits;
		z += n;
	}
	return 0;
}

/* The version that the fields themselves show, 0 where they are not all 2^(bits-1) or one less. */
static int
symmetric_version(const uint8_t *fields, size_t n, int bits)
{
	uint8_t middle = (uint8_t)(1u << (bits - 1));
	int version = fields[0] == middle ? 2 : fields[0] == middle - 1 ? 1 : 0;
	size_t i;

	for (i = 1; i < n && version; i++)
		if (fields[i] != fields[0])
			version = 0;
	return version;
}

/* Each field one more: of 3 bits by itself, else with the carry that undoes what a zero of 0 had borrowed. */
static void
add_one(uint8_t *fields, size_t n, int bits)
{
	unsigned carry = 0, sum, max = (1u << bits) - 1, in_word = 32u / (unsigned)bits;
	size_t i;

	for (i = 0; i < n; i++) {
		sum = fields[i] + 1u + (bits != 3 && i % in_word ? carry : 0);
		carry = sum > max;
		fields[i] = (uint8_t)(sum & max);
	}
}

void
unpack_zeros(uint8_t *z, const uint32_t *words, int groups, int n, int bits, int sym, int version)
{
	size_t count = (size_t)groups * (size_t)n;
	int g, shown;

	for (g = 0; g < groups; g++)
		unpack_strings(z + (size_t)g * (size_t)n, words + (size_t)g * (size_t)(n / 32 * bits), n, 1, 1, bits);
	shown = sym && count ? symmetric_version(z, count, bits) : 0;
	if ((shown ? shown : version) == 1)
		add_one(z, count, bits);
}
