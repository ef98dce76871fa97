/* SPDX-License-Identifier: MIT */
/*
 * distill - knowledge distillation: a teacher's logits on stdin, a trained model in a run directory
 *
 * Minimise (1 - k) CE + k tau^2 D(p, q) over the supervised positions, p the
 * teacher and q the student, both softened by tau and cut to the tokenizer's ids.
 * With --on-policy the examples are the student's own, and the loss may be a
 * policy gradient (lib/replies/minillm.h).
 */
#include <math.h>
#include <string.h>

#include "lib/base/die.h"
#include "lib/model/row.h"
#include "lib/text/agree.h"
#include "lib/replies/onpolicy.h"

static char *teacher, *divergence_name = "forward-kl", *tail_name = "bucket";
static double ratio = NAN, tau = 1, alpha = NAN, beta = NAN, gamma_ = NAN, ratio_clip = NAN, kl_weight = NAN;
static int on_policy, no_whiten, no_length_norm;
static struct onpolicy online = {
	.minillm = { .reward_scale = 1 }, .inner_epochs = 1, .lm_coef = 1, .lm_batch = 8,
};

#define SHOW POPT_ARGFLAG_SHOW_DEFAULT

static struct poptOption distill_options[] = {
	{ "teacher", 0, POPT_ARG_STRING, &teacher, 0,
	    "whose head reads hidden states, or who is run where the input is tokens", "DIR" },
	{ "divergence", 0, POPT_ARG_STRING | SHOW, &divergence_name, 0,
	    "D: kd, forward-kl, reverse-kl, jsd, skew-kl, skew-rkl, alpha-beta", "NAME" },
	{ "kd-ratio", 0, POPT_ARG_DOUBLE, &ratio, 0,
	    "k, the weight of D against the cross-entropy (default: 0.5; 1 with --on-policy)", "X" },
	{ "tau", 0, POPT_ARG_DOUBLE | SHOW, &tau, 0, "temperature of both sides", "X" },
	{ "alpha", 0, POPT_ARG_DOUBLE, &alpha, 0, "of skew-kl, skew-rkl (default: 0.1), alpha-beta (0.5)", "X" },
	{ "beta", 0, POPT_ARG_DOUBLE, &beta, 0, "of jsd and alpha-beta (default: 0.5)", "X" },
	{ "tail", 0, POPT_ARG_STRING | SHOW, &tail_name, 0,
	    "what lies beyond a teacher's top ids: bucket, one outcome more; renormalise, nothing", "NAME" },
	POPT_TABLEEND
};

static struct poptOption online_options[] = {
	{ "on-policy", 0, POPT_ARG_NONE, &on_policy, 0,
	    "learn from rollout --follow, and publish a version of the model after each step", NULL },
	{ "publish", 0, POPT_ARG_STRING, &online.publish, 0,
	    "where versions lie (default: policy/ in the run directory)", "DIR" },
	{ "inner-epochs", 0, POPT_ARG_INT | SHOW, &online.inner_epochs, 0, "updates on each batch", "N" },
	{ "gamma", 0, POPT_ARG_DOUBLE, &gamma_, 0,
	    "discount of later rewards (default: 0.95 of minillm, 0 of policy-gradient)", "X" },
	{ "no-length-norm", 0, POPT_ARG_NONE, &no_length_norm, 0, "minillm: returns are not divided by what is left", NULL },
	{ "no-whiten", 0, POPT_ARG_NONE, &no_whiten, 0, "minillm: advantages are the returns", NULL },
	{ "ratio-clip", 0, POPT_ARG_DOUBLE, &ratio_clip, 0,
	    "clip of the ratio to what was drawn from; 0: none (default: 0.2 of minillm, 0)", "X" },
	{ "kl-weight", 0, POPT_ARG_DOUBLE, &kl_weight, 0,
	    "of KL(q, p) at each token (default: 1 of minillm, 0)", "X" },
	{ "reward-scale", 0, POPT_ARG_DOUBLE | SHOW, &online.minillm.reward_scale, 0, "divides the rewards", "X" },
	{ "reward-clip", 0, POPT_ARG_DOUBLE | SHOW, &online.minillm.reward_clip, 0, "cuts the rewards; 0: none", "X" },
	{ "lm", 0, POPT_ARG_STRING, &online.lm, 0, "plain text to learn beside, a file of tokens or logits", "FILE" },
	{ "lm-coef", 0, POPT_ARG_DOUBLE | SHOW, &online.lm_coef, 0, "weight of its loss", "X" },
	{ "lm-kd-ratio", 0, POPT_ARG_DOUBLE | SHOW, &online.lm_kd_ratio, 0, "weight of the teacher in it", "X" },
	{ "lm-batch", 0, POPT_ARG_INT | SHOW, &online.lm_batch, 0, "its records to an update", "N" },
	POPT_TABLEEND
};

/* --divergence policy-gradient and minillm, which are no divergences over the vocabulary. */
static void
policy_gradient(void)
{
	struct minillm *m = &online.minillm;
	int whole = !strcmp(divergence_name, "minillm");

	if (!on_policy)
		die_usage("--divergence %s needs --on-policy", divergence_name);
	if (!isnan(ratio) || !isnan(alpha) || !isnan(beta) || fabs(tau - 1) > 0)
		die_usage("--divergence %s has no --kd-ratio, --alpha, --beta or --tau", divergence_name);
	online.policy_gradient = 1;
	ratio = 1;
	alpha = beta = 0;
	m->gamma = !isnan(gamma_) ? gamma_ : whole ? 0.95 : 0;
	m->clip = !isnan(ratio_clip) ? ratio_clip : whole ? 0.2 : 0;
	m->length_norm = whole && !no_length_norm;
	m->whiten = whole && !no_whiten;
	online.kl_weight = !isnan(kl_weight) ? kl_weight : whole;
	if (!(m->gamma >= 0 && m->gamma <= 1) || !(m->clip >= 0 && m->clip < 1) || !(online.kl_weight >= 0))
		die_usage("--gamma must be in [0, 1], --ratio-clip in [0, 1), --kl-weight not negative");
}

static void
check_online(void)
{
	struct minillm *m = &online.minillm;

	if (!on_policy)
		return;
	if (!recipe.steps)
		die_usage("--on-policy needs --steps");
	if (recipe.epochs > 1 || recipe.dev)
		die_usage("--on-policy has no --epochs and no --dev");
	if (online.inner_epochs < 1 || online.lm_batch < 1)
		die_usage("--inner-epochs and --lm-batch must be positive");
	if (!(m->reward_scale > 0) || !(m->reward_clip >= 0))
		die_usage("--reward-scale must be positive, --reward-clip not negative");
	if (!(online.lm_coef >= 0) || !(online.lm_kd_ratio >= 0 && online.lm_kd_ratio <= 1))
		die_usage("--lm-coef must not be negative, --lm-kd-ratio in [0, 1]");
	if (online.lm_kd_ratio > 0 && !teacher)
		die_usage("--lm-kd-ratio needs --teacher");
}

/* The options' divergence; --alpha and --beta are refused where they mean nothing. */
static struct divergence
divergence(void)
{
	static const char *const names[] = {
		"kd", "forward-kl", "reverse-kl", "jsd", "skew-kl", "skew-rkl", "alpha-beta", "policy-gradient",
		"minillm", NULL
	};
	enum divergence_kind kind = LOSS_KD + (enum divergence_kind)options_choice("divergence", divergence_name, names);
	int skew = kind == LOSS_SKEW_KL || kind == LOSS_SKEW_RKL, both = kind == LOSS_ALPHA_BETA;

	if (kind > LOSS_ALPHA_BETA) {
		policy_gradient();
		return (struct divergence){ .kind = LOSS_REVERSE_KL, .kd_ratio = 1, .tau = 1 };
	}
	ratio = !isnan(ratio) ? ratio : on_policy ? 1 : 0.5;
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

/* What the options say of the model and the run, which goes on by the same alone. */
static void
load_model(struct job *job, const struct backend *be)
{
	job->model = model_load(recipe.model, be, recipe.type);
	recipe_model(&recipe, job->model);
	job->options = recipe_json(&recipe);
	json_object_update_new(job->options, json_pack("{ss ss sf sf sf sf ss}", "teacher", teacher ? teacher : "",
	    "divergence", divergence_name, "kd-ratio", job->divergence.kd_ratio, "tau", tau, "alpha", alpha,
	    "beta", beta, "tail", tail_name));
	if (!on_policy)
		return;
	json_object_del(job->options, "batch");
	json_object_update_new(job->options, json_pack("{sb sf sb sb sf sf sf sf si ss sf sf si}", "on-policy", 1,
	    "gamma", online.minillm.gamma, "length-norm", online.minillm.length_norm, "whiten", online.minillm.whiten,
	    "ratio-clip", online.minillm.clip, "kl-weight", online.kl_weight,
	    "reward-scale", online.minillm.reward_scale, "reward-clip", online.minillm.reward_clip,
	    "inner-epochs", online.inner_epochs, "lm", online.lm ? online.lm : "", "lm-coef", online.lm_coef,
	    "lm-kd-ratio", online.lm_kd_ratio, "lm-batch", online.lm_batch));
}

/* The tokenizer's size, 0 where there is none. */
static int
tokenizer_size(const struct job *job)
{
	struct tokenizer *tokenizer = agree_tokenizer(job->in, recipe.model);
	int size = tokenizer ? tokenizer_vocab(tokenizer) : 0;

	if (tokenizer)
		tokenizer_close(tokenizer);
	return size;
}

int
main(int argc, const char **argv)
{
	static const char *const tails[] = { "bucket", "renormalise", NULL };
	struct common common;
	const struct poptOption options[] = {
		{ NULL, 0, POPT_ARG_INCLUDE_TABLE, distill_options, 0, "Distillation:", NULL },
		{ NULL, 0, POPT_ARG_INCLUDE_TABLE, online_options, 0, "On-policy:", NULL },
		RECIPE_OPTIONS, OPTIONS_COMMON
	};
	struct job job = { .recipe = &recipe, .common = &common };
	const struct backend *be;
	struct teacher_source source;
	enum dtype type;
	int tail;

	/* arguments */
	options_parse(argc, argv, options, "-m DIR -o DIR [--teacher DIR] [FILE]",
	    "Train a student on a teacher's distributions.", 1, &common);
	recipe_check(&recipe);
	check_online();
	job.divergence = divergence();
	tail = options_choice("tail", tail_name, tails);
	be = row_pick(&common);

	/* data, teacher, model */
	type = recipe.type;
	if (on_policy) {
		load_model(&job, be);
		onpolicy_announce(&online, &job);
	}
	job.in = stream_open(options_input(&common), on_policy ? "logits|rollouts" : "logits|tokens|rollouts");
	job.vocab = tokenizer_size(&job);
	if (!on_policy || teacher || !onpolicy_judged(&online, job.in)) {
		source = teacher_source(job.in, teacher, job.vocab);
		source.type = type;
		source.renormalise = tail;
		teacher_check(&source, &job.divergence);
		if (online.policy_gradient && (source.form == FORM_TOPK || source.form == FORM_SAMPLE))
			die("a policy gradient needs all of the teacher's distribution: logits of the form hidden or full");
		job.source = &source;
	}

	/* training */
	if (on_policy) {
		onpolicy_run(&online, &job);
	} else {
		load_model(&job, be);
		loop_run(&job);
	}
	stream_close(job.in);
	return 0;
}
