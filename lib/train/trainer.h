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
	char **names;			/* [nseq] of the sequences of the batch */
	int nnames, cap_names;
	float *ce, *div;		/* host [max_rows] */
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
 * Loss and gradients of the batch, added to *sums and *g. `seed` and `micro` key the
 * dropout. Returns NULL, or the name of the sequence whose loss is not finite.
 */
const char *trainer_run(struct trainer *t, struct gradients *g, uint64_t seed, uint32_t micro, struct sums *sums);
/* Cross-entropy alone, without dropout or gradient. */
void trainer_score(struct trainer *t, struct sums *sums);
/* log p of the batch's targets by the teacher, whose distribution must be dense, in host memory. */
void trainer_judge(struct trainer *t, float *logp);

#endif
