/* SPDX-License-Identifier: MIT */
/*
 * recipe - how a model is trained, as options say it; the defaults are the paper's
 *
 * One table for every tool that trains. What changes the result is written into
 * the run directory, so that a run goes on only by the recipe it began with.
 */
#ifndef TRAIN_RECIPE_H
#define TRAIN_RECIPE_H

#include <jansson.h>
#include <popt.h>
#include <stddef.h>

#include "lib/model/model.h"
#include "lib/train/optimizer.h"
#include "lib/train/schedule.h"

struct recipe {
	char *model;			/* directory of the student */
	char *output;			/* run directory */
	char *schedule_name, *dtype_name, *save_dtype_name, *betas, *dev;
	double lr, lr_end, clip, decay, eps, dropout;
	int epochs, steps, warmup, batch, micro_tokens, no_shuffle, recompute, stochastic;
	int seed, dev_every, save_every;
	/* the same, understood: recipe_check() */
	struct schedule schedule;	/* steps are set when the data is known */
	struct adamw_options adamw;
	enum dtype type, save_type;	/* DT_NONE: the file's own */
};

extern struct recipe recipe;
extern struct poptOption recipe_options[];		/* of every training */
extern struct poptOption recipe_data_options[];		/* of one that may read its data again */

#define RECIPE_OPTIONS \
	{ NULL, 0, POPT_ARG_INCLUDE_TABLE, recipe_options, 0, "Training:", NULL }, \
	{ NULL, 0, POPT_ARG_INCLUDE_TABLE, recipe_data_options, 0, "Data:", NULL }

/* Refuse what cannot be (exit 2). */
void recipe_check(struct recipe *r);
/* What depends on the model: the learning rate by family, GPT-2's dropout. */
void recipe_model(struct recipe *r, struct model *m);
/* All that changes the result, by option name; a new object. */
json_t *recipe_json(const struct recipe *r);

#endif
