/* SPDX-License-Identifier: MIT */
/*
 * scan_known - the patterns of GPT-2 and Qwen2 without a matcher of patterns
 *
 * As scan_pieces() of lib/bpe/scan.h; unicode_init() comes before.
 */
#ifndef BPE_SCAN_KNOWN_H
#define BPE_SCAN_KNOWN_H

#include <stddef.h>

size_t scan_qwen2_pieces(const unsigned char *at, const unsigned char *end, const unsigned char **ends, size_t max);
size_t scan_gpt2_pieces(const unsigned char *at, const unsigned char *end, const unsigned char **ends, size_t max);

#endif
