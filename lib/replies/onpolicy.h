/* SPDX-License-Identifier: MIT */
/*
 * onpolicy - a student that learns from what it says itself, judged by a teacher
 *
 * The input comes from the versions of the student that are published here (policy.h). A
 * step takes the batch of rollouts that bears its number, learns from it, publishes the
 * next version. The loss is a divergence over all of the vocabulary, or a policy gradient
 * (minillm.h), to which a language model's loss on plain text may come.
 */
#ifndef REPLIES_ONPOLICY_H
#define REPLIES_ONPOLICY_H

#include "lib/train/loop.h"
#include "lib/replies/minillm.h"

struct onpolicy {
	char *publish;			/* where versions lie; NULL: in the run directory */
	int policy_gradient;		/* in the place of the job's divergence */
	struct minillm minillm;		/* alpha is what the rollouts say */
	double kl_weight;		/* of KL(q, p) at each token, beside the policy gradient */
	int inner_epochs;		/* updates on each batch */
	char *lm;			/* stream of plain text, tokens or logits; NULL: none */
	double lm_coef, lm_kd_ratio;
	int lm_batch;			/* its records to an update */
	/* onpolicy_announce() */
	struct run run;
};

/* Enter the run directory and say what rollouts are wanted; before the input is opened, whose writer waits for this. */
void onpolicy_announce(struct onpolicy *o, const struct job *job);
/* Whether the job needs no teacher, because the rollouts of `in` bring log p of their ids. */
int onpolicy_judged(const struct onpolicy *o, const struct stream_in *in);
void onpolicy_run(struct onpolicy *o, struct job *job);

#endif
