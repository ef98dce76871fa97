/* SPDX-License-Identifier: MIT */
/* tokenizer_list - a tokenizer's parts one by one, as formats that carry it along want them */
#ifndef TEXT_TOKENIZER_LIST_H
#define TEXT_TOKENIZER_LIST_H

#include "lib/base/text.h"
#include "lib/text/tokenizer.h"

enum token_kind { TOKEN_NONE, TOKEN_NORMAL, TOKEN_SPECIAL, TOKEN_ADDED };

/* What the id is; its text is appended as tokenizer.json spells it. */
enum token_kind tokenizer_token(const struct tokenizer *t, int32_t id, struct text *out);
size_t tokenizer_merges(const struct tokenizer *t);
/* "left right" of a merge is appended, as tokenizer.json spells it. */
void tokenizer_merge(const struct tokenizer *t, size_t rank, struct text *out);
/* The regular expression that cuts text before merges. */
const char *tokenizer_pattern(const struct tokenizer *t);

#endif
