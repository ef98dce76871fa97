/* SPDX-License-Identifier: MIT */
/*
 * rundir - a run directory: what a training leaves, and what it goes on from
 *
 *   model/                   the last model saved, complete at any time
 *   best/                    the one of the least development loss
 *   metrics.jsonl            a line for every step
 *   state/options.json       what the run began with
 *   state/state.safetensors  weights, optimizer, and the position in its metadata
 *
 * The state is one file that holds all a step depends on, so that a rename moves a
 * run from one position to the next. Whatever was done after it is done again.
 * Tensors of the state are in the element order of the backend's weights; a
 * finished run keeps the position only.
 */
#ifndef TRAIN_RUNDIR_H
#define TRAIN_RUNDIR_H

#include <jansson.h>
#include <stdint.h>
#include <stdio.h>

#include "lib/train/optimizer.h"

struct position {
	long step;			/* steps done */
	uint64_t records;		/* read, dropped ones included */
	uint64_t dropped;		/* records without targets */
	uint64_t tokens, targets;	/* trained on */
	uint32_t micro;			/* micro-batches, which key the dropout */
	double seconds;			/* spent training */
	double best;			/* least development loss; meaningless before best_step */
	long best_step;			/* 0: none yet */
	int finished;
};

struct rundir {
	char *path;
	int lock;			/* the directory, held as long as the process lives */
	FILE *metrics;		/* NULL: another process writes the run */
};

/*
 * Make or enter the directory. Dies when it belongs to a run with another
 * recipe, naming the option, or to another process.
 */
void rundir_open(struct rundir *r, const char *path, const json_t *recipe);
/* To read only a run that another process has opened; what follows then writes nothing. */
void rundir_watch(struct rundir *r, const char *path);
void rundir_close(struct rundir *r);
/* Steps done when the state was saved; 0 where there is none. */
long rundir_step(const struct rundir *r);
/* Take the state up again, if there is one: position and metrics, and of an unfinished run weights and optimizer. */
int rundir_resume(struct rundir *r, struct optimizer *o, struct position *p);
/* Append a line. */
void rundir_metric(struct rundir *r, const json_t *line);
/* path/NAME from the model as it is; the tokenizer comes from the directory of the model. */
void rundir_save_model(const struct rundir *r, const struct model *m, const char *name, enum dtype type);
void rundir_save_state(struct rundir *r, const struct optimizer *o, const struct position *p);

#endif
