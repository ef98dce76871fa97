/* SPDX-License-Identifier: MIT */
/* feed - a model and the stream that it is fed: what teacher-logits, rollout and perplexity have in common */
#ifndef MODEL_FEED_H
#define MODEL_FEED_H

#include "lib/base/options.h"
#include "lib/model/model.h"
#include "lib/stream/stream.h"
#include "lib/text/tokenizer.h"

struct feed {
	const char *directory;
	int rows;			/* --micro-tokens */
	int int8;			/* --head int8 */
	struct stream_in *in;
	struct model *m;
	struct tokenizer *tokenizer;	/* NULL where the model has none */
};

extern struct poptOption options_feed[];	/* -m, --dtype, --head, --micro-tokens, --shard */

#define OPTIONS_FEED { NULL, 0, POPT_ARG_INCLUDE_TABLE, options_feed, 0, "Model and input:", NULL }

/* Whether --model is given; and the model where it may not be, in `type`, before feed_open(). */
int feed_named(void);
void feed_model(const char *directory, enum dtype type);
/*
 * What the options and the operand name; dies where they do not fit each other. `want` as in stream_open(),
 * `keep` as in model_round_head(), for --head int8.
 */
void feed_open(struct feed *f, const char *want, int keep, const struct common *common);
void feed_close(struct feed *f);

#endif
