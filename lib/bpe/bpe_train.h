/* SPDX-License-Identifier: MIT */
/*
 * bpe_train - which merges a corpus asks for
 *
 * The alphabet is all 256 bytes. Over all pieces of all documents, the adjacent
 * pair with the highest count (occurrences that overlap count) is merged, left
 * to right, and so on; of equal counts, the pair with the smaller left id, then
 * the smaller right id. Ids: the bytes in the order of their printable form,
 * then merges as they are made.
 */
#ifndef BPE_BPE_TRAIN_H
#define BPE_BPE_TRAIN_H

#include <stddef.h>
#include <stdint.h>

#include "lib/bpe/scan.h"

struct bpe_train;

struct bpe_train *bpe_train_new(const struct scan *scan, int nfc);
void bpe_train_free(struct bpe_train *t);

/* One document, `repeat` times: pieces do not cross its borders. -1 and the reason if it is not UTF-8. */
int bpe_train_add(struct bpe_train *t, const char *text, size_t n, uint64_t repeat, char *why);

/* Up to `merges` of them, of pairs that occur min_frequency times. Returns how many were made. Call it once. */
size_t bpe_train_run(struct bpe_train *t, size_t merges, uint64_t min_frequency);

/* The printable form of an id's bytes (0 .. 255, then merges), NUL-terminated, to be freed. */
char *bpe_train_token(const struct bpe_train *t, uint32_t id);
/* The two ids that merge number i joins. */
void bpe_train_merge(const struct bpe_train *t, size_t i, uint32_t *left, uint32_t *right);

#endif
