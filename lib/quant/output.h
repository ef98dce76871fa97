/* SPDX-License-Identifier: MIT */
/*
 * output - the checkpoint as it grows, and where an interrupted run goes on
 *
 * Beside the model DIR stands DIR.state while it is made: a file of codes for every block that is
 * done, and the two streams behind the last of them. It belongs to one run: model, tokens and options.
 */
#ifndef QUANT_OUTPUT_H
#define QUANT_OUTPUT_H

#include "lib/quant/calibrate.h"
#include "lib/quant/checkpoint.h"

struct output {
	const char *directory;	/* the model's */
	char *state;
	char *run;		/* digest of everything that the codes depend on */
	struct safetensor *tensors;	/* of the block at hand; data owned */
	int n, cap;
};

void output_open(struct output *o, const char *directory, const char *run);
void output_close(struct output *o);
/* Blocks that are done: the streams are set behind them. 0 where there is no state of this run. */
int output_resume(struct output *o, struct calibration *c);
/* Codes of a layer, called as a parameter is ("X.weight"), and then the block that they are of. */
void output_layer(struct output *o, const char *weight, const struct quantised *l, const struct quant_config *c);
void output_block(struct output *o, const struct calibration *c, int block);
/*
 * Put the model together, with the other weights as they are on the disk, and drop the state. Blocks
 * count from 0; the head, with codes or without, is the one behind the last.
 */
void output_finish(struct output *o, const struct shelf *s, const json_t *quantization);

#endif
