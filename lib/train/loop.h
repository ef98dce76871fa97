/* SPDX-License-Identifier: MIT */
/*
 * loop - the story of a training, the same for every tool that has one
 *
 * Plan, take up where the run directory stands, step by step through the data,
 * a line of metrics for each; the development loss, the best model and the state
 * from time to time; at the end the model.
 */
#ifndef TRAIN_LOOP_H
#define TRAIN_LOOP_H

#include "lib/train/run.h"
#include "lib/train/trainer.h"

struct job {
	struct recipe *recipe;
	const struct common *common;
	struct model *model;			/* freed by the loop */
	struct stream_in *in;
	struct divergence divergence;
	const struct teacher_source *source;	/* NULL: no teacher */
	int vocab;				/* columns of the softmaxes without one; 0: all of the head's */
	json_t *options;			/* recipe_json() and what the tool adds; taken over */
};

/* Teacher, plan, optimizer and trainer: nothing large is taken before the plan. Returns the teacher or NULL. */
struct teacher *job_prepare(const struct job *job, struct run *run, struct trainer *trainer);
void loop_run(struct job *job);

#endif
