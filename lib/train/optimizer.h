/* SPDX-License-Identifier: MIT */
/*
 * optimizer - AdamW over all storages of a model, with one clip for all of them
 *
 * Gradients are sums over targets; their number comes with the step, so the
 * division happens once:
 *
 *   g = (sum / targets) min(1, clip / (norm + 1e-6)),   norm = |sum / targets|
 *
 * Two-dimensional storages decay, norms and biases do not. A bf16 matrix is the
 * upper half of its f32 master; the lower half lies here: 16 bytes per weight
 * with gradient and moments, as for f32. Stochastic: there is no master, 14 bytes,
 * and each update is rounded at random, right in the mean.
 */
#ifndef TRAIN_OPTIMIZER_H
#define TRAIN_OPTIMIZER_H

#include "lib/model/forward.h"

struct adamw_options {
	double beta1, beta2, eps, decay;
	double clip;			/* 0: none */
	int stochastic;			/* bf16 without a master */
	uint64_t seed;			/* of that rounding */
};

struct optimizer {
	struct model *m;
	struct adamw_options options;
	long step;			/* updates done */
	struct gradients gradients;
	float **mean, **variance;	/* [nstorage] moments, in the elements' order of the weight */
	int16_t **low;			/* [nstorage] lower halves; NULL where weights are their own masters */
	double *squares;		/* one number, memory of the backend */
};

void optimizer_init(struct optimizer *o, struct model *m, const struct adamw_options *options);
void optimizer_free(struct optimizer *o);
/* What optimizer_init() allocates for a model whose matrices are of `type`. */
size_t optimizer_bytes(const struct model *m, enum dtype type, int stochastic);

/* The L2 norm of the gradient of the mean over `targets`; all parameters, tied ones once. */
double optimizer_norm(struct optimizer *o, double targets);
/* One update; `norm` is optimizer_norm()'s. Gradients are zero afterwards. */
void optimizer_step(struct optimizer *o, double lr, double targets, double norm);

#endif
