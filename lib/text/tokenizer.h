/* SPDX-License-Identifier: MIT */
/*
 * tokenizer - text to ids and back, as the model's own directory says
 *
 * Read from tokenizer.json, or from vocab.json and merges.txt with what
 * tokenizer_config.json and added_tokens.json add. Byte-level BPE only; what
 * would change ids and is not known here is refused, never guessed.
 *
 * A tokenizer is read-only after opening: any number of threads may encode
 * with it, each call takes one of the caches that it keeps.
 */
#ifndef TEXT_TOKENIZER_H
#define TEXT_TOKENIZER_H

#include <jansson.h>
#include <stddef.h>
#include <stdint.h>

#include "lib/bpe/ids.h"

struct tokenizer;

/* NULL and the reason when the directory has no tokenizer that can be used. */
struct tokenizer *tokenizer_open(const char *directory, char *why);
void tokenizer_close(struct tokenizer *t);

/*
 * Append the ids of n bytes of text, which may hold NUL; no BOS or EOS is added.
 * parse_special: added tokens (`<|im_end|>`) are cut out first, the leftmost and
 * longest, those that are not special too; otherwise they are only text.
 * Returns 0, or -1 and the reason when the text is not UTF-8; ids are as before then.
 */
int tokenizer_encode(const struct tokenizer *t, const char *text, size_t n, int parse_special,
    struct ids *ids, char *why);

/*
 * The bytes of all tokens, joined, as a new NUL-terminated string to be freed;
 * they need not be UTF-8. skip_special leaves out the special added tokens.
 * Ids that the tokenizer does not have (padding of the model's vocabulary) are empty.
 */
char *tokenizer_decode(const struct tokenizer *t, const int32_t *ids, size_t n, int skip_special, size_t *size);

int tokenizer_vocab(const struct tokenizer *t);			/* true size: the highest id, added tokens included, + 1 */
int32_t tokenizer_id(const struct tokenizer *t, const char *text);	/* an added token's or a token's id, -1 if there is none */
int32_t tokenizer_eos(const struct tokenizer *t);		/* where a response ends, by the directory's files; -1 */
int tokenizer_special(const struct tokenizer *t, int32_t id);	/* 1 for an added token that is special */

/*
 * 32 hex digits of XXH3-128 over all ids with their bytes, merges, added
 * tokens, pattern and normalisation: equal for two directories whose ids are
 * equal on every text, whatever files they are written in.
 */
const char *tokenizer_digest(const struct tokenizer *t);
const char *tokenizer_directory(const struct tokenizer *t);

/* tokenizer_config.json, or NULL when there is none. Owned by the tokenizer. */
const json_t *tokenizer_config(const struct tokenizer *t);

/* From the text of a tokenizer.json in memory, without a directory. */
struct tokenizer *tokenizer_parse(const void *json, size_t n, char *why);

#endif
