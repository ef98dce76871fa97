/* SPDX-License-Identifier: MIT */
/*
 * run - a training on its way: its directory, its optimizer, and where it stands
 *
 * What every training has, whatever its loss: the check of the memory before
 * anything large is taken, the state that it goes on from, one update, a line of
 * metrics, a word on stderr, the saves and the end.
 */
#ifndef TRAIN_RUN_H
#define TRAIN_RUN_H

#include "lib/train/plan.h"
#include "lib/train/policy.h"
#include "lib/train/ranks.h"
#include "lib/train/recipe.h"
#include "lib/train/rundir.h"

struct run {
	const struct recipe *recipe;
	int quiet;
	struct ranks ranks;		/* zero: a training that is not shared */
	int stop;			/* a rank was asked to */
	struct model *model;
	struct schedule schedule;	/* with its steps, 0 where nobody knows them */
	struct rundir dir;
	struct policy policy;		/* versions for a sampler; zero: not announced */
	struct optimizer optimizer;
	struct position at;
	double rate;			/* tokens a second of the last step */
	double started, saved, said;	/* times */
	long first;			/* step that this process began with */
};

/* Take part where mpirun started several processes; the first of them speaks and writes for all. */
void run_ranks(struct run *r);
/* The same for a step that cannot be shared: several processes are refused. */
void run_alone(struct run *r);
/* Say the plan, refuse it if it does not fit, make the optimizer. */
void run_plan(struct run *r, const struct plan *plan);
/* Enter the directory; after run_plan(), take up where it stands; 0: at the end. */
void run_enter(struct run *r, const json_t *options);
int run_resume(struct run *r);
void run_start(struct run *r);
void run_close(struct run *r);

/* The seed of this rank's dropout. */
uint64_t run_seed(const struct run *r);
/* Dies: the loss of a record of the next step is not finite. */
_Noreturn void run_not_finite(const struct run *r, const char *record);
/* A step's sums and gradients over all ranks; what was dropped and cut is counted. */
void run_share(struct run *r, struct sums *sums);
/*
 * One update by the gradients, which are sums over `targets`; returns their norm before the clip. Dies where it
 * is not finite, naming the record that the step began with.
 */
double run_update(struct run *r, double lr, double targets, const char *record);
/* A step is done that took `seconds` and `tokens`. */
void run_count(struct run *r, uint64_t tokens, uint64_t targets, double seconds);
/* Write a step's line of metrics, taken over, with what every step has behind it; and say how it goes. */
void run_report(struct run *r, json_t *line, double loss, double lr, double norm);

/*
 * Say in the directory, which was entered, what rollouts are wanted; before the input is opened, whose writer waits
 * for this. `place` is where the versions shall lie, NULL: in the directory.
 */
void run_announce(struct run *r, const char *place);
/* Publish the model as it is, unless it is the last; what nobody asks for after a batch from version `used` goes. */
void run_publish(struct run *r, long used);
/* Save model and state where that is due, or where a signal asked for the end: then it dies. */
void run_save_due(struct run *r);
/* Save for the last time and say what it took; `input` is what the records came from. */
void run_finish(struct run *r, const char *input);

#endif
