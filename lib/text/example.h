/* SPDX-License-Identifier: MIT */
/*
 * example - a record as ids, with the span that is to be learnt
 *
 * Prompt and response are tokenised apart, by definition. The response is the
 * target and EOS; it is cut where the example would be longer than max_length,
 * and then EOS is not there to be learnt.
 */
#ifndef TEXT_EXAMPLE_H
#define TEXT_EXAMPLE_H

#include <jansson.h>
#include <stddef.h>
#include <stdint.h>

#include "lib/base/text.h"
#include "lib/bpe/ids.h"
#include "lib/text/chat.h"
#include "lib/text/template.h"
#include "lib/text/tokenizer.h"

/* How records become examples: by one of template, chat and field. */
struct formatting {
	const struct tokenizer *tokenizer;
	const struct template *template;	/* {prompt, target} from fields */
	const struct chat *chat;		/* "messages": the last one, the assistant's, is the target */
	const char *field;			/* plain text: all of it is target, but its first id */
	int32_t eos;				/* -1: none is added */
	size_t max_prompt, max_length;		/* in ids */
};

/* Zero it before the first use; memory is used again. */
struct example {
	struct text prompt, target;
	struct ids ids;
	size_t begin, end;		/* supervised: ids[begin] .. ids[end - 1] */
	int dropped;			/* the prompt is too long: there are no ids */
	int cut;			/* something of the response was lost, EOS at least */
};

/* -1 and the reason when the record has not what the formatting needs. */
int example_make(const struct formatting *formatting, const json_t *record, struct example *e, char *why);
void example_free(struct example *e);

#endif
