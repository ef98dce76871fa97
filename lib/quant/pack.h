/* SPDX-License-Identifier: MIT */
/*
 * pack - codes of 2, 3, 4 or 8 bits in 32-bit words, as GPTQ checkpoints hold them
 *
 * One rule for all widths: the codes of a column are one little-endian string of
 * bits, code i at bits * i, cut into words. So 3 bits give 32 codes in three
 * words, two of them across a border. The number of codes is a multiple of 32.
 *
 * Zeros are stored as z - 1 in version 1 of the format and as z in version 2.
 */
#ifndef QUANT_PACK_H
#define QUANT_PACK_H

#include <stdint.h>

/* q [k, n] to words [k * bits / 32, n], strings down k; codes that do not fit saturate. And back. */
void pack_codes(uint32_t *words, const uint8_t *q, int k, int n, int bits);
void unpack_codes(uint8_t *q, const uint32_t *words, int k, int n, int bits);

/*
 * z [groups, n] to words [groups, n * bits / 32], strings along n. Packing fails
 * with -1 where version 1 has no place for a zero of 0.
 */
int pack_zeros(uint32_t *words, const uint8_t *z, int groups, int n, int bits, int version);
/*
 * Of a symmetric layer all zeros are 2^(bits-1), and where that makes the words
 * one of the two versions, it goes before what `version` says. A zero of 0 that
 * a writer of version 1 took from the neighbouring field is found again.
 */
void unpack_zeros(uint8_t *z, const uint32_t *words, int groups, int n, int bits, int sym, int version);

#endif
