/* SPDX-License-Identifier: MIT */
/* quantise - the layers of a model, block after block, each on inputs that passed those before it */
#ifndef QUANT_QUANTISE_H
#define QUANT_QUANTISE_H

#include "lib/quant/calibrate.h"
#include "lib/quant/gptq.h"

/* What became of a layer. */
struct quantised_layer {
	const struct param *param;
	const struct quantised *codes;
	double error;		/* of its outputs on the calibration, squared, as a share of them */
	double damp;
	int dead;		/* inputs that were always 0 */
	double seconds;		/* since the layer before it */
};
typedef void layer_fn(void *user, const struct quantised_layer *l);

struct plan {
	struct gptq_options options;
	int at_once;		/* a block's inputs are those of its unquantised layers; else of the quantised ones */
	char *skipped;		/* [nparams]; whatever is no matrix of a block, too */
	layer_fn *done;
	void *user;
};

/* Whether the parameter is a matrix of a block. */
int plan_takes(const struct model *m, const struct param *p);
/* The most bytes that a block takes besides the streams. */
size_t quantise_bytes(const struct calibration *c, const struct plan *p);

/* Quantise a block that was taken from the disk; the streams go behind it. Dies. */
void quantise_block(struct calibration *c, int layer, const struct plan *p);
/* The head, into `q` [vocab, hidden], which holds the head's layout and memory. */
void quantise_head(struct calibration *c, struct weight *q, const struct plan *p);

#endif
