/* SPDX-License-Identifier: MIT */
/*
 * trainer - the sums of loss and gradient over micro-batches
 *
 * The core of training, without files or time: begin, add examples, run, as often as
 * wanted; the gradients add up in the optimizer's arrays as sums over targets. One
 * optimizer_step() divides them. How a step is cut changes its rounding alone.
 */
#ifndef TRAIN_TRAINER_H
#define TRAIN_TRAINER_H

#include "lib/train/data.h"
#include "lib/train/head.h"
#include "lib/train/optimizer.h"
#include "lib/train/teacher.h"

struct sums {
	double ce, div;			/* over targets, in their order; div has tau^2 */
	uint64_t targets, tokens;
	uint64_t micro, dropped;	/* micro-batches, records without targets: who cuts a step counts them */
};

struct trainer {
	struct model *m;
	struct forward *forward;
	struct head *head;
	struct teacher *teacher;	/* NULL: cross-entropy */
	struct divergence divergence;
	const struct policy_loss *policy;	/* a policy's loss in its place, or NULL */
	float scale;			/* of the divergence's gradient: 1, unless another loss counts more or less */
	int max_rows;			/* of a micro-batch */
	struct batch batch;
	char **names;			/* of the sequences of the batch, behind those of what is pending */
	int nnames, cap_names;
	/* supervised rows whose losses the host has not seen yet */
	int pending, cap_pending;
	uint64_t tokens;		/* of their batches */
	float *d_losses;		/* [2, cap_pending] ce and div, backend memory */
	int *owner;			/* [cap_pending] into names */
	float *losses;			/* host [2, cap_pending] */
};

/* `columns` of the head count, in every softmax. The teacher is the caller's. */
void trainer_init(struct trainer *t, struct model *m, int columns, int max_rows, enum keep keep,
    struct teacher *teacher, const struct divergence *d);
void trainer_free(struct trainer *t);
/* Memory beside the optimizer's and the teacher's, the weights included, were matrices of `type`. */
size_t trainer_bytes(const struct model *m, enum dtype type, int columns, int max_rows, enum keep keep);
/* Supervised rows that the head takes at a time. */
int trainer_chunk(int columns, int max_rows);

void trainer_begin(struct trainer *t);
/* An example with targets; `stream` names where the record is from. 0 when it does not fit any more. */
int trainer_add(struct trainer *t, const char *stream, const struct record *r, const struct example *e);
/*
 * Loss and gradients of the batch, these added to *g. `seed` and `micro` key the dropout. Nothing waits for
 * the row: the losses stay there until trainer_collect() adds those of all batches run to *sums. It returns
 * NULL, or the name of a sequence whose loss is not finite, which is good until the next trainer_begin().
 */
void trainer_run(struct trainer *t, struct gradients *g, uint64_t seed, uint32_t micro);
const char *trainer_collect(struct trainer *t, struct sums *sums);
/* Cross-entropy alone, without dropout or gradient. */
void trainer_score(struct trainer *t, struct sums *sums);
/* head_judge() of the batch. */
void trainer_judge(struct trainer *t, float *logp);

#endif
