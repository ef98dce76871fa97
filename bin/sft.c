/* SPDX-License-Identifier: MIT */
/*
 * sft - supervised fine-tuning: tokens on stdin, a trained model in a run directory
 *
 * Minimise -(1/|M|) sum log q(y_t) over the supervised positions M.
 */
#include "lib/base/die.h"
#include "lib/model/row.h"
#include "lib/text/agree.h"
#include "lib/train/loop.h"

int
main(int argc, const char **argv)
{
	struct common common;
	const struct poptOption options[] = { RECIPE_OPTIONS, OPTIONS_COMMON };
	struct job job = { .recipe = &recipe, .common = &common, .divergence = { .kind = LOSS_CE, .tau = 1 } };
	const struct backend *be;
	struct tokenizer *tokenizer;

	/* arguments */
	options_parse(argc, argv, options, "-m DIR -o DIR [FILE]",
	    "Fine-tune a model on the supervised ids of a stream of tokens.", 1, &common);
	recipe_check(&recipe);
	be = row_pick(&common);

	/* data, model */
	job.in = stream_open(options_input(&common), "tokens|rollouts");
	if ((tokenizer = agree_tokenizer(job.in, recipe.model)))
		tokenizer_close(tokenizer);
	job.model = model_load(recipe.model, be, recipe.type);
	recipe_model(&recipe, job.model);

	/* training */
	job.options = recipe_json(&recipe);
	loop_run(&job);
	stream_close(job.in);
	return 0;
}
