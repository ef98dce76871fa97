/* SPDX-License-Identifier: MIT */
/*
 * reinforce - the story of a training by rewards
 *
 * A step: read its replies, judge them within their groups, ask the reference, then
 * one or more updates by the gradient over all micro-batches; publish the policy,
 * a line of metrics, the state from time to time. What is done with the replies of a
 * step depends on the state and on them alone, so a run that was killed goes on as if it was not.
 */
#ifndef REPLIES_REINFORCE_H
#define REPLIES_REINFORCE_H

#include "lib/base/options.h"
#include "lib/replies/grpo.h"
#include "lib/train/recipe.h"

struct reinforce {
	const struct recipe *recipe;
	const struct common *common;
	struct grpo grpo;		/* max_completion 0: as the rollouts had */
	int inner;			/* updates by the replies of a step */
	enum { OLD_AUTO, OLD_STREAM, OLD_SELF } old;	/* whose log-probabilities the ratio starts from */
	const char *reference;		/* model directory; NULL: the model that is trained, as it was */
	double tolerance;		/* of the first step's log-probabilities; 0: any */
	const char *place;		/* of the published policies; NULL: the run directory */
	json_t *options;		/* recipe_json() and what the tool adds; taken over */
};

void reinforce_run(struct reinforce *job, struct model *m);

#endif
