/* SPDX-License-Identifier: MIT */
#include <stdlib.h>

#include "lib/bpe/scan.h"
#include "lib/text/tokenizer_list.h"
#include "lib/text/tokenizer_private.h"

static void
spell(const struct tokenizer *t, uint32_t id, struct text *out)
{
	const struct bpe_text *text = &t->bpe->text[id];
	char *printable = mem_alloc(2 * (size_t)text->n);

	text_add(out, printable, bpe_printable(t->bpe->bytes + text->at, text->n, printable));
	free(printable);
}

enum token_kind
tokenizer_token(const struct tokenizer *t, int32_t id, struct text *out)
{
	size_t i;

	for (i = 0; i < t->nadded; i++)
		if (t->added[i].id == id) {
			text_add(out, t->added[i].text, t->added[i].n);
			return t->added[i].special ? TOKEN_SPECIAL : TOKEN_ADDED;
		}
	if (id < 0 || (uint32_t)id >= t->bpe->n || !t->bpe->text[id].n)
		return TOKEN_NONE;
	spell(t, (uint32_t)id, out);
	return TOKEN_NORMAL;
}

size_t
tokenizer_merges(const struct tokenizer *t)
{
	return t->bpe->merges;
}

void
tokenizer_merge(const struct tokenizer *t, size_t rank, struct text *out)
{
	uint64_t pair = t->bpe->made_of[rank];

	spell(t, (uint32_t)(pair >> 32), out);
	text_puts(out, " ");
	spell(t, (uint32_t)pair, out);
}

const char *
tokenizer_pattern(const struct tokenizer *t)
{
	return scan_pattern(t->scan);
}
