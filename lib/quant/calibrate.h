/* SPDX-License-Identifier: MIT */
/*
 * calibrate - what the layers of a model are fed, block by block, with and without quantisation
 *
 * Two streams of hidden states go through the blocks: x of the unquantised model and y of what is
 * quantised so far. A stage is a linear layer's inputs. Records that are held out pass through both
 * and are never calibrated on; the others need x only where the target is corrected.
 */
#ifndef QUANT_CALIBRATE_H
#define QUANT_CALIBRATE_H

#include "lib/model/forward.h"
#include "lib/quant/hessian.h"

enum stage { STAGE_QKV, STAGE_O, STAGE_UP, STAGE_DOWN, STAGE_END };

struct chunk {			/* records that go through the model together */
	struct batch batch;
	size_t first;		/* row of the streams */
	int held_out;
};

struct calibration {
	struct model *m;
	int rows;		/* of a chunk, unless a record is longer */
	int corrected;		/* x is wanted of all records */
	struct chunk *chunks;	/* [n]; the last one of each kind grows */
	int n, cap;
	int open[2];		/* index + 1 of the chunk that takes more records; [1]: held out */
	size_t total, calibrated;	/* rows */
	int most;		/* rows of the largest chunk */
	void *x, *y;		/* [total, hidden] */
	void *inner;		/* [total, widest]: y's inputs of STAGE_O and STAGE_DOWN, which wait for their layer */
	size_t widest;
	void *normed, *qkv, *up, *ax, *ay;	/* of a chunk */
};

void calibration_init(struct calibration *c, struct model *m, int rows, int corrected);
void calibration_free(struct calibration *c);
/* Add a record; a token is measured on where a span has it (lib/model/batch.h). */
void calibration_add(struct calibration *c, const int32_t *ids, int n, const int32_t *spans, int nspans,
    int held_out);
/* Bytes of streams and scratch. */
size_t calibration_bytes(const struct calibration *c);
/* Allocate and begin: x and y are the embeddings, which must be there. */
void calibration_start(struct calibration *c);

/*
 * One stage of a block: y goes through `q`, as far as the stage needs; so does x through `block`, where
 * `with_x`. The stage's inputs are added to h, unless that is NULL.
 */
void calibration_pass(struct calibration *c, enum stage stage, const struct block *block, const struct block *q,
    int with_x, struct hessian *h);
/* Inputs of the head; the final norm must be there. */
void calibration_pass_head(struct calibration *c, struct hessian *h);

/* On the held-out records; head `q` is y's. */
struct measure {
	int64_t targets;
	double nll, quantised_nll;	/* means */
	double kl;			/* mean of KL(unquantised, quantised) over the targets */
};
struct measure calibration_measure(struct calibration *c, const struct weight *q);

#endif
