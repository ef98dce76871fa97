/* SPDX-License-Identifier: MIT */
/*
 * bpe_cache - words that were seen and the ids they became
 *
 * Text repeats itself: most words of a page were on an earlier one. A cache
 * belongs to one thread at a time and has a fixed size; what falls out is
 * merged again. Ids do not depend on what it holds.
 */
#ifndef BPE_BPE_CACHE_H
#define BPE_BPE_CACHE_H

#include "lib/bpe/bpe.h"
#include "lib/bpe/ids.h"
#include "lib/bpe/scan.h"

struct bpe_cache;

struct bpe_cache *bpe_cache_new(const struct bpe *b);		/* b outlives it */
void bpe_cache_free(struct bpe_cache *c);

/* Append the ids of n bytes of valid UTF-8. */
void bpe_cache_encode(struct bpe_cache *c, const struct scan *scan, const unsigned char *text, size_t n, struct ids *out);

#endif
