/* SPDX-License-Identifier: MIT */
/*
 * groups - the replies of a step, from a stream of rewards
 *
 * A group is the records of one id within a step. A stream of rollout --follow says
 * how many records a step has, and each record its step and the version of the policy
 * that it was drawn from; of any other stream a step is as many whole groups as
 * reach `batch` records.
 */
#ifndef REPLIES_GROUPS_H
#define REPLIES_GROUPS_H

#include "lib/stream/stream.h"
#include "lib/train/data.h"
#include "lib/replies/grpo.h"

struct rollout {
	char *id;
	int32_t *ids;
	int n;				/* ids, prompt and reply */
	int32_t span[2];		/* the reply's */
	float *sampled;			/* log-probabilities of the distribution drawn from */
	float *model_logp;		/* of the sampler's model, temperature 1, no filter */
	float *old, *ref;		/* the learner's; NULL where not known yet */
	double *rewards;		/* NAN: not judged */
};

struct groups {
	struct stream_in *in;
	struct data data;
	int vocab;			/* ids that a record may have */
	uint64_t batch;			/* records of a step */
	int followed;			/* records have a step */
	double temperature;
	int filtered;			/* what was drawn from is not the model's own distribution */
	int max_tokens;			/* of a reply */
	int nrewards;
	const char **names;		/* the header's */
	double *weights;
	int has_ref;			/* records bring log-probabilities of a reference */
	/* the step */
	struct rollout *rollouts;	/* [n] */
	struct sample *samples;		/* [n] */
	int n, cap;
	int ngroups;
	json_t *index;			/* place of a group's first, by id */
	long version;			/* the oldest of the policies; -1: not said */
	double generated, judged;	/* seconds until the last reply was there, and of all judging */
};

/* Dies where the stream does not say what the loss needs. */
void groups_open(struct groups *g, struct stream_in *in, int vocab, int batch);
void groups_close(struct groups *g);
/*
 * Read the replies of `step`, counted from 0; 0 at the end of the stream. Dies where it ends inside of a step
 * that has a size, has records of a later one, or records that cannot be learned from.
 */
int groups_next(struct groups *g, long step);

#endif
