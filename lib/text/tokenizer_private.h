/* SPDX-License-Identifier: MIT */
/* tokenizer_private - what tokenizer_load.c fills and tokenizer.c uses */
#ifndef TEXT_TOKENIZER_PRIVATE_H
#define TEXT_TOKENIZER_PRIVATE_H

#include <stdatomic.h>

#include "lib/bpe/bpe.h"
#include "lib/bpe/bpe_cache.h"
#include "lib/text/tokenizer.h"

enum { TOKENIZER_CACHES = 64 };		/* threads that find one kept; others make their own for a call */

struct added {
	char *text;
	size_t n;
	int32_t id;
	uint8_t special, normalized;	/* normalized: looked for in the text after NFC, not before */
};

struct tokenizer {
	char *directory;
	struct bpe *bpe;
	struct scan *scan;
	int nfc;
	struct added *added;		/* by first byte, then the longest first */
	size_t nadded, cap;
	size_t bucket[257];		/* added tokens that start with byte c: bucket[c] .. bucket[c + 1] - 1 */
	int vocab;
	int64_t eos;
	char digest[33];
	json_t *config;
	_Atomic(struct bpe_cache *) caches[TOKENIZER_CACHES];
};

/* Takes the id, replaces an added token with the same text. -1 and the reason. */
int tokenizer_add(struct tokenizer *t, const char *text, size_t n, int64_t id, int special, int normalized, char *why);

int tokenizer_load(struct tokenizer *t, const char *directory, char *why);
int tokenizer_load_json(struct tokenizer *t, const void *json, size_t n, char *why);
int tokenizer_finish(struct tokenizer *t, char *why);	/* after everything else is known */

#endif
