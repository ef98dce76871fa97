/* SPDX-License-Identifier: MIT */
/*
 * policy - the versions of a model in training, from the tool that trains to the one that samples
 *
 *   RUN/policy/            or a link to where the versions shall lie, /dev/shm for one
 *   RUN/policy/n/          the model after n batches of rollouts, complete when it has its name;
 *                          0 is a link to the one that the training began with, and stays
 *   RUN/policy/run.json    {"step": s, "steps": N, "dtype": "bf16"}: made by the trainer when it starts,
 *                          and locked as long as it lives; batches s .. N-1 are wanted
 *
 * With lag l batch n is sampled from version max(0, n - l). A version is published before the state of
 * its step is saved. So a run that was killed finds all that its first batch needs, and the versions
 * of steps that will be done again are made again.
 */
#ifndef TRAIN_POLICY_H
#define TRAIN_POLICY_H

#include "lib/model/model.h"

/* The trainer's side. */
struct policy {
	char *path;			/* RUN/policy */
	int lock;			/* on run.json */
	long saved;			/* version of the last saved state */
	long saved_from;		/* the oldest that a run from there may ask for */
	long from;			/* the oldest that this run may ask for */
};

/*
 * Announce a run of `steps` batches that goes on after `step` (rundir_step) and began with the model that `m` was
 * read from. Call it before the rollouts' header is read: whoever writes that waits for this. The caller holds
 * the run directory (rundir_open). `place`: where the versions lie, NULL for RUN/policy itself. Versions newer
 * than `step` are removed.
 */
void policy_open(struct policy *p, const char *run, const char *place, const struct model *m, long step, long steps);
void policy_close(struct policy *p);
/* The model as it is, in its own type, is `version`; nothing is done where that is published already. */
void policy_publish(struct policy *p, const struct model *m, long version);
/* The state after `version` is saved: a run that is killed goes on from there. */
void policy_saved(struct policy *p, long version);
/* A batch from version `used` was learned from: what is older and not needed by the saved state is removed. */
void policy_prune(struct policy *p, long used);

/* The sampler's side. */
struct follower {
	char *run, *path;		/* RUN, RUN/policy */
	int lock;			/* run.json, locked by the trainer while it lives */
	long step, steps;		/* the batches that are wanted: step .. steps - 1 */
	enum dtype type;		/* that the trainer computes in */
};

/*
 * Wait for a trainer of the run directory, at most `seconds`. This and policy_wait() die with a message when the
 * reader of stdout has gone or the trainer ends.
 */
void policy_follow(struct follower *f, const char *run, double seconds);
/* Wait for a version; its directory, to be freed. */
char *policy_wait(const struct follower *f, long version);
void policy_unfollow(struct follower *f);

#endif
