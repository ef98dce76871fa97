/* SPDX-License-Identifier: MIT */
/*
 * head - from hidden states to the loss and back, in chunks of supervised rows
 *
 * No [tokens, vocabulary] array: a chunk's logits become their own gradient in
 * place. Sums and counts are never divided here: `inv_count` is one over the
 * targets of the whole optimizer step, so any cut into micro-batches gives the
 * same gradient (conformance, loss, micro_batches).
 */
#ifndef TRAIN_HEAD_H
#define TRAIN_HEAD_H

#include "lib/model/forward.h"

/*
 * Supplies the teacher at supervised rows first .. first+count-1 of the batch.
 * Fills *t with backend memory valid until the next call; `user` is its own.
 */
typedef void teacher_fn(struct teacher_rows *t, int first, int count, void *user);

/*
 * What a policy's gradient is made of. weights() is asked for whole sequences, some at a time: from log q of the
 * ids of supervised rows first .. first+count-1, it gives the factors of op.h's policy, minus the loss's
 * derivative by each. Host arrays. It is called when the row comes to it, as op.h's visit says.
 */
struct policy_loss {
	void (*weights)(float *weight, const float *logp, int first, int count, void *user);
	void *user;
	int first;		/* what rows are counted from: those of batches before this one */
	float kl_weight;	/* of KL(q, p), where there is a teacher */
	float temperature;
	int entropy;		/* h->entropy is wanted */
};

struct head {
	struct model *m;
	int columns;		/* softmax over the first `columns` of the head */
	int chunk;		/* rows at a time */
	void *x, *dx;		/* [chunk, hidden] */
	float *logits;		/* [chunk, columns] */
	float *exact;		/* [chunk, columns] of an exact head, once asked for */
	float *ce, *div;	/* [cap], by supervised row of the last call */
	float *weight;		/* [cap] of a policy's ids */
	float *entropy;		/* [cap] of the rows of a policy that wants it */
	int cap;
	void *dhidden;		/* [cap_m, hidden]: result of head_run() */
	int cap_m;
};

struct head *head_new(struct model *m, int columns, int chunk);
void head_free(struct head *h);
size_t head_bytes(const struct model *m, int columns, int chunk, int max_rows);

/*
 * Loss of the batch's supervised rows under `d`, with the gradient on the hidden
 * states (returned, [m, hidden], zero where not supervised) and on the head's
 * weights (added to g). teacher NULL: cross-entropy alone. The rows' losses stay in h->ce and h->div.
 */
void *head_run(struct head *h, const struct batch *b, const void *hidden, const struct divergence *d,
    teacher_fn *teacher, void *user, float inv_count, struct gradients *g);

/*
 * The same for a policy's loss; h->ce is -log q of the ids, h->div KL(q, p). The teacher may be NULL. The logits of
 * a sequence with more targets than a chunk are computed twice.
 */
void *head_policy(struct head *h, const struct batch *b, const void *hidden, const struct policy_loss *loss,
    teacher_fn *teacher, void *user, struct gradients *g);

/*
 * Scoring without gradient: log q(target) of every supervised row at `temperature`, and the entropy where
 * not NULL; host arrays [p], which are filled when the row's next sync() returns.
 */
void head_logprob(struct head *h, const struct batch *b, const void *hidden, float temperature, float *logp,
    float *entropy);
/* The same by a teacher, whose distribution must be dense. */
void head_judge(struct head *h, const struct batch *b, teacher_fn *teacher, void *user, float *logp);
/* KL(p, q) of every supervised row from the exact head's p to a rounded head's q; so is its host array [p]. */
void head_rounding(struct head *h, const struct batch *b, const void *hidden, float *kl);

#endif
