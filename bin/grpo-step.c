/* SPDX-License-Identifier: MIT */
/*
 * grpo-step - reinforcement: rewards on stdin, a trained model in a run directory
 *
 * Group relative policy optimization: each reply counts by how much more it earned than the
 * other replies to its prompt. With rho = pi / pi_old and d = log pi_ref - log pi, minimise
 *
 *   -min(rho A, clip(rho, 1 - eps, 1 + eps) A) + beta (exp(d) - d - 1),   A = (r - mean) / std
 *
 * In `rollout --follow DIR | reward ... | grpo-step -o DIR` each step publishes the policy that
 * the next replies are drawn from.
 */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "lib/base/die.h"
#include "lib/base/mem.h"
#include "lib/model/row.h"
#include "lib/replies/reinforce.h"

#define SHOW POPT_ARGFLAG_SHOW_DEFAULT

/* What --like sets where no option does. */
static const struct preset {
	const char *loss, *kl, *tis_mode;
	double beta, tis_cap;
} presets[] = {
	{ "grpo", "k3", "token-truncate", 0.04, 0 },	/* paper */
	{ "dapo", "k3-ratio", "sequence-mask", 0, 3 },	/* TRL 1.16 */
};

static char *like = "paper", *loss, *ratio = "token", *scale, *kl, *tis_mode, *old = "auto", *reference, *place;
static double epsilon = 0.2, epsilon_high = NAN, delta = INFINITY, beta = NAN, tis_cap = NAN, tolerance = NAN;
static double cispo_max = 5, sapo_pos = 1, sapo_neg = 1.05;
static int inner = 1, max_completion, drop_truncated, skip_zero_std;

static struct poptOption grpo_options[] = {
	{ "like", 0, POPT_ARG_STRING | SHOW, &like, 0, "defaults of --loss, --beta, --kl, --tis-cap and --tis-mode: paper, trl",
	    "NAME" },
	{ "loss", 0, POPT_ARG_STRING, &loss, 0,
	    "how tokens are summed and clipped: grpo (default), dapo, dr-grpo, luspo, cispo, sapo", "NAME" },
	{ "ratio", 0, POPT_ARG_STRING | SHOW, &ratio, 0, "rho of each token, or of the whole sequence (GSPO)", "NAME" },
	{ "scale", 0, POPT_ARG_STRING, &scale, 0,
	    "divide advantages by the deviation of the group (default), of the batch, or none (default of dr-grpo)",
	    "NAME" },
	{ "epsilon", 0, POPT_ARG_DOUBLE | SHOW, &epsilon, 0, "rho is clipped at 1 - X", "X" },
	{ "epsilon-high", 0, POPT_ARG_DOUBLE, &epsilon_high, 0, "and at 1 + X (default: --epsilon)", "X" },
	{ "delta", 0, POPT_ARG_DOUBLE, &delta, 0, "rho is cut at X for negative advantages, too (default: not)", "X" },
	{ "cispo-max", 0, POPT_ARG_DOUBLE | SHOW, &cispo_max, 0, "cispo: rho is cut at X", "X" },
	{ "sapo-pos", 0, POPT_ARG_DOUBLE | SHOW, &sapo_pos, 0, "sapo: temperature for positive advantages", "X" },
	{ "sapo-neg", 0, POPT_ARG_DOUBLE | SHOW, &sapo_neg, 0, "sapo: and for the others", "X" },
	{ "beta", 0, POPT_ARG_DOUBLE, &beta, 0, "weight of the KL to the reference (default: 0.04)", "X" },
	{ "kl", 0, POPT_ARG_STRING, &kl, 0,
	    "its estimator: k3 (default), k3-ratio, which is times rho, or k2", "NAME" },
	{ "reference", 0, POPT_ARG_STRING, &reference, 0, "reference model (default: --model as it is)", "DIR" },
	{ "inner", 0, POPT_ARG_INT | SHOW, &inner, 0, "updates by the replies of a step", "N" },
	{ "old", 0, POPT_ARG_STRING | SHOW, &old, 0,
	    "rho starts from the log-probabilities in the stream, or of the model itself before the step; auto: stream "
	    "where replies were drawn without filters and nothing is corrected", "NAME" },
	{ "tis-cap", 0, POPT_ARG_DOUBLE, &tis_cap, 0,
	    "correct for a sampler that differs by importance weights up to X; 0: not (default)", "X" },
	{ "tis-mode", 0, POPT_ARG_STRING, &tis_mode, 0,
	    "beyond X: token-truncate (default), token-mask, sequence-truncate, sequence-mask", "NAME" },
	{ "drop-truncated", 0, POPT_ARG_NONE, &drop_truncated, 0, "do not learn from replies that were cut", NULL },
	{ "skip-zero-std", 0, POPT_ARG_NONE, &skip_zero_std, 0, "leave out groups whose rewards are all the same", NULL },
	{ "max-completion", 0, POPT_ARG_INT, &max_completion, 0, "what dr-grpo divides by (default: rollout's --max-tokens)",
	    "N" },
	{ "tolerance", 0, POPT_ARG_DOUBLE, &tolerance, 0,
	    "stop when the first step's log-probabilities differ from the sampler's by more; 0: never (default: 0.01, of "
	    "bf16 0.5)", "X" },
	{ "publish", 0, POPT_ARG_STRING, &place, 0,
	    "where the versions of the policy lie, as in /dev/shm/NAME (default: in the run directory)", "DIR" },
	POPT_TABLEEND
};

static void
need(int holds, const char *what)
{
	if (!holds)
		die_usage("%s", what);
}

static void
fill_defaults(void)
{
	static const char *const names[] = { "paper", "trl", NULL };
	const struct preset *p = &presets[options_choice("like", like, names)];

	loss = loss ? loss : mem_string(p->loss);
	kl = kl ? kl : mem_string(p->kl);
	tis_mode = tis_mode ? tis_mode : mem_string(p->tis_mode);
	scale = scale ? scale : mem_string(strcmp(loss, "dr-grpo") ? "group" : "none");
	beta = isnan(beta) ? p->beta : beta;
	tis_cap = isnan(tis_cap) ? strcmp(old, "stream") ? p->tis_cap : 0 : tis_cap;
	epsilon_high = isnan(epsilon_high) ? epsilon : epsilon_high;
}

static struct grpo
grpo(void)
{
	static const char *const losses[] = { "grpo", "dapo", "dr-grpo", "luspo", "cispo", "sapo", NULL };
	static const char *const ratios[] = { "token", "sequence", NULL }, *const kls[] = { "k3", "k3-ratio", "k2", NULL };
	static const char *const scales[] = { "group", "batch", "none", NULL };
	static const char *const modes[] = { "token-truncate", "token-mask", "sequence-truncate", "sequence-mask", NULL };

	need(epsilon >= 0 && epsilon_high >= 0, "--epsilon and --epsilon-high must not be negative");
	need(epsilon < 1, "--epsilon must be below 1");
	need(delta > 1, "--delta must be above 1");
	need(cispo_max > 0 && sapo_pos > 0 && sapo_neg > 0, "--cispo-max, --sapo-pos and --sapo-neg must be positive");
	need(beta >= 0 && tis_cap >= 0, "--beta and --tis-cap must not be negative");
	need(max_completion >= 0, "--max-completion must be positive");
	return (struct grpo){
		.loss = (enum grpo_loss)options_choice("loss", loss, losses),
		.ratio = (enum grpo_ratio)options_choice("ratio", ratio, ratios),
		.scale = (enum grpo_scale)options_choice("scale", scale, scales),
		.low = epsilon, .high = epsilon_high, .delta = delta,
		.cispo_max = cispo_max, .sapo_pos = sapo_pos, .sapo_neg = sapo_neg,
		.beta = beta, .kl = (enum grpo_kl)options_choice("kl", kl, kls),
		.tis_cap = tis_cap > 0 ? tis_cap : INFINITY, .tis = (enum grpo_tis)options_choice("tis-mode", tis_mode, modes),
		.max_completion = max_completion, .drop_truncated = drop_truncated, .skip_zero_std = skip_zero_std,
	};
}

/* All that decides the result, by option name. */
static json_t *
settings(void)
{
	json_t *all = json_pack("{ss ss ss sf sf sf ss ss si ss}", "loss", loss, "ratio", ratio, "scale", scale,
	    "epsilon", epsilon, "epsilon-high", epsilon_high, "beta", beta, "kl", kl,
	    "reference", reference ? reference : "", "inner", inner, "old", old);

	if (!strcmp(loss, "cispo"))
		json_object_set_new(all, "cispo-max", json_real(cispo_max));
	if (!strcmp(loss, "sapo"))
		json_object_update_new(all, json_pack("{sf sf}", "sapo-pos", sapo_pos, "sapo-neg", sapo_neg));
	if (!isinf(delta))
		json_object_set_new(all, "delta", json_real(delta));
	if (tis_cap > 0)
		json_object_update_new(all, json_pack("{sf ss}", "tis-cap", tis_cap, "tis-mode", tis_mode));
	json_object_update_new(all, json_pack("{si sb sb}", "max-completion", max_completion,
	    "drop-truncated", drop_truncated, "skip-zero-std", skip_zero_std));
	return all;
}

/* As options that would give the same. */
static void
announce(const json_t *all)
{
	char *line = mem_string("");
	const char *name;
	json_t *value;

	json_object_foreach((json_t *)(uintptr_t)all, name, value) {
		const char *space = *line ? " " : "";
		char *longer;

		if (json_is_false(value) || (json_is_string(value) && !*json_string_value(value)) ||
		    (json_is_integer(value) && !json_integer_value(value)))
			continue;
		longer = json_is_string(value) ? mem_format("%s%s--%s %s", line, space, name, json_string_value(value)) :
		    json_is_true(value) ? mem_format("%s%s--%s", line, space, name) :
		    mem_format("%s%s--%s %g", line, space, name, json_number_value(value));
		free(line);
		line = longer;
	}
	warn("%s", line);
	free(line);
}

int
main(int argc, const char **argv)
{
	static const char *const olds[] = { "auto", "stream", "self", NULL };
	struct common common;
	const struct poptOption options[] = {
		{ NULL, 0, POPT_ARG_INCLUDE_TABLE, grpo_options, 0, "Policy optimization:", NULL },
		{ NULL, 0, POPT_ARG_INCLUDE_TABLE, recipe_options, 0, "Training:", NULL },
		OPTIONS_COMMON
	};
	struct reinforce job = { .recipe = &recipe, .common = &common };
	const struct backend *be;
	struct model *m;
	json_t *all;

	/* arguments */
	recipe.lr = 1e-6;
	recipe.schedule_name = "constant";
	recipe.decay = recipe.dropout = 0;
	recipe.batch = 64;
	options_parse(argc, argv, options, "-m DIR -o DIR [FILE]",
	    "Train a policy on rewards: one step of GRPO for each batch of groups.", 1, &common);
	recipe_check(&recipe);
	fill_defaults();
	job.grpo = grpo();
	job.old = options_choice("old", old, olds);
	need(inner > 0, "--inner must be positive");
	need(job.old != OLD_STREAM || !(tis_cap > 0), "--tis-cap corrects from the stream to --old self, not to --old stream");
	be = row_pick(&common);

	/* model */
	m = model_load(recipe.model, be, recipe.type);
	recipe_model(&recipe, m);
	job.inner = inner;
	job.reference = reference;
	job.place = place;
	job.tolerance = isnan(tolerance) ? m->type == DT_BF16 ? 0.5 : 0.01 : tolerance;

	/* training */
	all = settings();
	if (!common.quiet)
		announce(all);
	job.options = recipe_json(&recipe);
	json_object_update_new(job.options, all);
	reinforce_run(&job, m);
	return 0;
}
