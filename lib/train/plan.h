/* SPDX-License-Identifier: MIT */
/* plan - how much memory a training will take, known before it is taken */
#ifndef TRAIN_PLAN_H
#define TRAIN_PLAN_H

#include "lib/train/trainer.h"

struct plan {
	const struct model *m;
	enum dtype type;
	int columns;
	int rows;			/* of a micro-batch */
	enum keep keep;
	size_t teacher;			/* bytes */
	int stochastic;			/* no masters of bf16 */
};

/* The peak, in bytes. */
size_t plan_bytes(const struct plan *p);
/* Die when the plan does not fit into `limit`, with the options that would. */
void plan_check(const struct plan *p, size_t limit);

#endif
