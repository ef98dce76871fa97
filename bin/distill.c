/* SPDX-License-Identifier: MIT */
/*
 * distill - knowledge distillation: a teacher's logits on stdin, a trained model in a run directory
 *
 * Minimise (1 - k) CE + k tau^2 D(p, q) over the supervised positions, p the
 * teacher and q the student, both softened by tau and cut to the tokenizer's ids.
 */
#include <math.h>

#include "lib/base/die.h"
#include "lib/text/agree.h"
#include "lib/train/loop.h"

static char *teacher, *divergence_name = "forward-kl", *tail_name = "bucket";
static double ratio = 0.5, tau = 1, alpha = NAN, beta = NAN;

#define SHOW POPT_ARGFLAG_SHOW_DEFAULT

static struct poptOption distill_options[] = {
	{ "teacher", 0, POPT_ARG_STRING, &teacher, 0,
	    "whose head reads hidden states, or who is run where the input is tokens", "DIR" },
	{ "divergence", 0, POPT_ARG_STRING | SHOW, &divergence_name, 0,
	    "D: kd, forward-kl, reverse-kl, jsd, skew-kl, skew-rkl, alpha-beta", "NAME" },
	{ "kd-ratio", 0, POPT_ARG_DOUBLE | SHOW, &ratio, 0, "k, the weight of D against the cross-entropy", "X" },
	{ "tau", 0, POPT_ARG_DOUBLE | SHOW, &tau, 0, "temperature of both sides", "X" },
	{ "alpha", 0, POPT_ARG_DOUBLE, &alpha, 0, "of skew-kl, skew-rkl (default: 0.1), alpha-beta (0.5)", "X" },
	{ "beta", 0, POPT_ARG_DOUBLE, &beta, 0, "of jsd and alpha-beta (default: 0.5)", "X" },
	{ "tail", 0, POPT_ARG_STRING | SHOW, &tail_name, 0,
	    "what lies beyond a teacher's top ids: bucket, one outcome more; renormalise, nothing", "NAME" },
	POPT_TABLEEND
};

/* The options' divergence; --alpha and --beta are refused where they mean nothing. */
static struct divergence
divergence(void)
{
	static const char *const names[] = {
		"kd", "forward-kl", "reverse-kl", "jsd", "skew-kl", "skew-rkl", "alpha-beta", NULL
	};
	enum divergence_kind kind = LOSS_KD + (enum divergence_kind)options_choice("divergence", divergence_name, names);
	int skew = kind == LOSS_SKEW_KL || kind == LOSS_SKEW_RKL, both = kind == LOSS_ALPHA_BETA;

	if (!(ratio >= 0 && ratio <= 1))
		die_usage("--kd-ratio must be in [0, 1]");
	if (!(tau > 0))
		die_usage("--tau must be positive");
	if (!isnan(alpha) && !skew && !both)
		die_usage("--divergence %s has no --alpha", divergence_name);
	if (!isnan(beta) && kind != LOSS_JSD && !both)
		die_usage("--divergence %s has no --beta", divergence_name);
	alpha = isnan(alpha) ? (skew ? 0.1 : 0.5) : alpha;
	beta = isnan(beta) ? 0.5 : beta;
	if ((skew && !(alpha >= 0 && alpha <= 1)) || (kind == LOSS_JSD && !(beta > 0 && beta < 1)))
		die_usage("--alpha must be in [0, 1] and --beta between 0 and 1");
	return (struct divergence){ kind, (float)ratio, (float)tau, (float)alpha, (float)beta };
}

int
main(int argc, const char **argv)
{
	static const char *const tails[] = { "bucket", "renormalise", NULL };
	struct common common;
	const struct poptOption options[] = {
		{ NULL, 0, POPT_ARG_INCLUDE_TABLE, distill_options, 0, "Distillation:", NULL },
		RECIPE_OPTIONS, OPTIONS_COMMON
	};
	struct job job = { .recipe = &recipe, .common = &common };
	struct teacher_source source;
	int tail;
	const struct backend *be;
	struct tokenizer *tokenizer;

	/* arguments */
	options_parse(argc, argv, options, "-m DIR -o DIR [--teacher DIR] [FILE]",
	    "Train a student on a teacher's distributions.", 1, &common);
	recipe_check(&recipe);
	job.divergence = divergence();
	tail = options_choice("tail", tail_name, tails);
	if (!(be = backend_pick(common.backend)))
		die_usage("--backend '%s': %s", common.backend, backend_why(common.backend));

	/* data, teacher, model */
	job.in = stream_open(options_input(&common), "logits|tokens|rollouts");
	tokenizer = agree_tokenizer(job.in, recipe.model);
	source = teacher_source(job.in, teacher, tokenizer ? tokenizer_vocab(tokenizer) : 0);
	source.type = recipe.type;
	source.renormalise = tail;
	teacher_check(&source, &job.divergence);
	if (tokenizer)
		tokenizer_close(tokenizer);
	job.source = &source;
	job.model = model_load(recipe.model, be, recipe.type);
	recipe_model(&recipe, job.model);

	/* training */
	job.options = recipe_json(&recipe);
	json_object_update_new(job.options, json_pack("{ss ss sf sf sf sf ss}", "teacher", teacher ? teacher : "",
	    "divergence", divergence_name, "kd-ratio", ratio, "tau", tau, "alpha", alpha, "beta", beta,
	    "tail", tail_name));
	loop_run(&job);
	stream_close(job.in);
	return 0;
}
