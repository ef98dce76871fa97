/* SPDX-License-Identifier: MIT */
/*
 * bpe - byte-level byte pair encoding: a vocabulary, merges, and words to ids
 *
 * A token is a string of bytes; a merge of rank r makes one token of two. A
 * word starts as its bytes; the adjacent pair with the lowest rank is merged,
 * the leftmost of equals, until there is none.
 *
 * Build: bpe_new(), every bpe_token(), every bpe_merge() in the order of
 * ranks, bpe_finish(). Then it is read-only, for any number of threads.
 */
#ifndef BPE_BPE_H
#define BPE_BPE_H

#include <stddef.h>
#include <stdint.h>

enum { BPE_MAX = 1 << 21 };		/* ids and ranks lie below */

struct bpe_text {
	uint32_t at, n;			/* in bytes[]; n = 0: no such id */
};

struct bpe {
	uint32_t n;			/* ids 0 .. n-1 */
	struct bpe_text *text;		/* [n] */
	unsigned char *bytes;
	size_t used, room;
	uint32_t cap;

	uint64_t *index;		/* text to id: hash's upper half, id; 0 is empty */
	uint32_t index_bits;
	uint64_t *text_filter;		/* a bit for each hash of a text that is a token */

	uint32_t merges;
	uint32_t *merged;		/* [merges] rank to the id that it makes */
	int in_order;			/* merged[r] = merged[0] + r */
	uint64_t *made_of;		/* [merges] left << 32 | right */
	uint32_t merges_cap;
	uint64_t *pair;			/* (left, right) to rank, open addressing; ~0 is empty */
	uint32_t pair_bits;
	uint64_t *pair_filter;		/* a bit for each hash of a pair that has a rank */

	int32_t of_byte[256];
	uint32_t (*first)[256];		/* [256][256] rank of a pair of bytes */
	uint8_t *whole;			/* [n] 1: its bytes, as a word, become this id */
	int take_whole;			/* a word that is a token becomes it, whatever the merges */
};

struct bpe *bpe_new(void);
void bpe_free(struct bpe *b);

/* -1 and the reason: an id out of range or given twice, an empty or repeated text, a merge of no tokens. */
int bpe_token(struct bpe *b, int64_t id, const void *bytes, size_t n, char *why);
int bpe_merge(struct bpe *b, const void *left, size_t nleft, const void *right, size_t nright, char *why);
int bpe_finish(struct bpe *b, char *why);

int32_t bpe_id(const struct bpe *b, const void *bytes, size_t n);	/* -1: no such token */

/* Ids of a word of n > 0 bytes into out[n]; returns their number. */
size_t bpe_word(const struct bpe *b, const unsigned char *word, size_t n, int32_t *out);

/*
 * The printable form that vocab.json and merges.txt write bytes in: each byte
 * is one character of U+0021 .. U+0143. -1 if s is not such a text, else the
 * number of bytes written to out[n].
 */
ptrdiff_t bpe_unprintable(const char *s, size_t n, unsigned char *out);
size_t bpe_printable(const unsigned char *bytes, size_t n, char *out);	/* out[2n], not NUL-terminated */
uint32_t bpe_printable_byte(unsigned char byte);			/* its code point */

#endif
