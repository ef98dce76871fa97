/* SPDX-License-Identifier: MIT */
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "lib/base/die.h"
#include "lib/base/options.h"
#include "lib/train/recipe.h"

enum { UNSET = -1 };

struct recipe recipe = {
	.schedule_name = "cosine", .betas = "0.9,0.999", .lr = UNSET, .lr_end = 1e-7, .clip = 1, .decay = 1e-2,
	.eps = 1e-8, .dropout = UNSET, .epochs = 1, .batch = 8, .micro_tokens = 1024, .seed = 10,
};

#define SHOW POPT_ARGFLAG_SHOW_DEFAULT

struct poptOption recipe_options[] = {
	{ "model", 'm', POPT_ARG_STRING, &recipe.model, 0, "train this model", "DIR" },
	{ "output", 'o', POPT_ARG_STRING, &recipe.output, 0,
	    "run directory; one that holds a run stopped half-way goes on", "DIR" },
	{ "lr", 0, POPT_ARG_DOUBLE, &recipe.lr, 0,
	    "learning rate (default: 5e-4 for GPT-2, else 1e-5; of grpo-step 1e-6)", "X" },
	{ "lr-end", 0, POPT_ARG_DOUBLE | SHOW, &recipe.lr_end, 0, "learning rate at the end", "X" },
	{ "schedule", 0, POPT_ARG_STRING | SHOW, &recipe.schedule_name, 0, "cosine, linear or constant", "NAME" },
	{ "warmup", 0, POPT_ARG_INT | SHOW, &recipe.warmup, 0, "steps of linear warm-up", "N" },
	{ "steps", 0, POPT_ARG_INT, &recipe.steps, 0, "optimizer steps (default: to the end of the data)", "N" },
	{ "batch", 0, POPT_ARG_INT | SHOW, &recipe.batch, 0, "records of an optimizer step", "N" },
	{ "micro-tokens", 0, POPT_ARG_INT | SHOW, &recipe.micro_tokens, 0,
	    "tokens computed at a time; another number changes the rounding", "N" },
	{ "clip", 0, POPT_ARG_DOUBLE | SHOW, &recipe.clip, 0, "largest norm of the gradient; 0: any", "X" },
	{ "decay", 0, POPT_ARG_DOUBLE | SHOW, &recipe.decay, 0, "weight decay, of matrices only", "X" },
	{ "betas", 0, POPT_ARG_STRING | SHOW, &recipe.betas, 0, "AdamW's two", "X,X" },
	{ "eps", 0, POPT_ARG_DOUBLE | SHOW, &recipe.eps, 0, "AdamW's epsilon", "X" },
	{ "seed", 's', POPT_ARG_INT | SHOW, &recipe.seed, 0, "of the order and the dropout", "N" },
	{ "dropout", 0, POPT_ARG_DOUBLE, &recipe.dropout, 0,
	    "all dropout probabilities of a GPT-2 (default: its config's)", "P" },
	{ "dtype", 0, POPT_ARG_STRING, &recipe.dtype_name, 0,
	    "compute in f32, or in bf16 with an f32 master (default: bf16 where the file is)", "TYPE" },
	{ "save-dtype", 0, POPT_ARG_STRING, &recipe.save_dtype_name, 0, "of the saved model (default: --dtype)", "TYPE" },
	{ "stochastic", 0, POPT_ARG_NONE, &recipe.stochastic, 0,
	    "bf16 without a master: updates are rounded at random, right in the mean", NULL },
	{ "recompute", 0, POPT_ARG_NONE, &recipe.recompute, 0, "compute activations twice, keep few", NULL },
	{ "save-every", 0, POPT_ARG_INT, &recipe.save_every, 0, "save every N steps (default: every ten minutes)", "N" },
	POPT_TABLEEND
};

struct poptOption recipe_data_options[] = {
	{ "epochs", 0, POPT_ARG_INT | SHOW, &recipe.epochs, 0, "times through the data", "N" },
	{ "no-shuffle", 0, POPT_ARG_NONE, &recipe.no_shuffle, 0, "take a file's records as they come", NULL },
	{ "dev", 0, POPT_ARG_STRING, &recipe.dev, 0, "development set, a file of tokens or logits", "FILE" },
	{ "dev-every", 0, POPT_ARG_INT, &recipe.dev_every, 0, "its loss every N steps (default: every epoch)", "N" },
	POPT_TABLEEND
};

static void
need(int holds, const char *what)
{
	if (!holds)
		die_usage("%s", what);
}

static enum dtype
type_parse(const char *option, const char *name)
{
	enum dtype type = name ? dtype_parse(name) : DT_NONE;

	if (name && type != DT_F32 && type != DT_BF16)
		die_usage("--%s takes f32 or bf16, not '%s'", option, name);
	return type;
}

static void
check_ranges(const struct recipe *r)
{
	need(r->model != NULL, "--model is needed: the model to train");
	need(r->output != NULL, "--output is needed: the run directory");
	need(r->lr > 0 || r->lr == UNSET, "--lr must be positive");
	need(r->lr_end >= 0, "--lr-end must not be negative");
	need(r->clip >= 0, "--clip must not be negative");
	need(r->decay >= 0, "--decay must not be negative");
	need(r->eps > 0, "--eps must be positive");
	need(r->epochs > 0, "--epochs must be positive");
	need(r->steps >= 0, "--steps must be positive");
	need(r->warmup >= 0, "--warmup must not be negative");
	need(r->batch > 0, "--batch must be positive");
	need(r->micro_tokens > 0 && r->micro_tokens <= 1 << 22, "--micro-tokens must be 1 to 4194304");
	need(r->dropout == UNSET || (r->dropout >= 0 && r->dropout < 1), "--dropout must be in [0, 1)");
	need(r->dev_every >= 0 && r->save_every >= 0, "--dev-every and --save-every must not be negative");
	need(!r->dev_every || r->dev, "--dev-every needs --dev");
	need(!r->dev || strcmp(r->dev, "-"), "--dev is read many times: it must be a file");
}

void
recipe_check(struct recipe *r)
{
	static const char *const schedules[] = { "cosine", "linear", "constant", NULL };
	char more;

	check_ranges(r);
	r->schedule = (struct schedule){
		.kind = (enum schedule_kind)options_choice("schedule", r->schedule_name, schedules),
		.lr = r->lr, .end = r->lr_end, .warmup = r->warmup,
	};
	r->adamw = (struct adamw_options){ .eps = r->eps, .decay = r->decay, .clip = r->clip,
	    .stochastic = r->stochastic, .seed = (uint64_t)r->seed };
	if (sscanf(r->betas, "%lf,%lf%c", &r->adamw.beta1, &r->adamw.beta2, &more) != 2)
		die_usage("--betas takes two numbers as in 0.9,0.999, not '%s'", r->betas);
	need(r->adamw.beta1 >= 0 && r->adamw.beta1 < 1 && r->adamw.beta2 >= 0 && r->adamw.beta2 < 1,
	    "--betas must be in [0, 1)");
	r->type = type_parse("dtype", r->dtype_name);
	r->save_type = type_parse("save-dtype", r->save_dtype_name);
}

void
recipe_model(struct recipe *r, struct model *m)
{
	struct config *c = &m->config;

	if (c->quantised)
		die("'%s' is quantised: a model is trained before that", r->model);
	if (r->lr == UNSET)
		r->schedule.lr = r->lr = c->family == FAMILY_GPT2 ? 5e-4 : 1e-5;
	r->type = m->type;
	if (r->stochastic && r->type != DT_BF16)
		die_usage("--stochastic rounds weights in bf16: it needs --dtype bf16");
	if (r->save_type == DT_NONE)
		r->save_type = m->type;
	if (r->dropout == UNSET)
		return;
	if (c->family != FAMILY_GPT2 && r->dropout > 0)
		die("'%s' has no dropout: only GPT-2 does", r->model);
	c->embed_drop = c->attention_drop = c->residual_drop = (float)r->dropout;
}

json_t *
recipe_json(const struct recipe *r)
{
	return json_pack("{ss sf sf ss si si si si si sf sf ss sf si so sb ss sb ss ss si}",
	    "model", r->model, "lr", r->lr, "lr-end", r->lr_end, "schedule", r->schedule_name,
	    "warmup", r->warmup, "epochs", r->epochs, "steps", r->steps, "batch", r->batch,
	    "micro-tokens", r->micro_tokens, "clip", r->clip, "decay", r->decay, "betas", r->betas,
	    "eps", r->eps, "seed", r->seed,
	    "dropout", r->dropout == UNSET ? json_string("config") : json_real(r->dropout),
	    "no-shuffle", r->no_shuffle,
	    "dtype", dtype_name(r->type), "stochastic", r->stochastic, "save-dtype", dtype_name(r->save_type),
	    "dev", r->dev ? r->dev : "", "dev-every", r->dev_every);
}
