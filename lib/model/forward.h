/* SPDX-License-Identifier: MIT */
/*
 * forward - the decoder from ids to final hidden states, and back
 *
 * The block (lib/model/model.h) is written once, for training, scoring, prefill
 * and decode. What the backward needs is kept by layer: input, qkv, attention,
 * middle, up. Norms and activations are computed again. With KEEP_INPUTS only
 * each block's input is kept and the whole block is computed again.
 */
#ifndef MODEL_FORWARD_H
#define MODEL_FORWARD_H

#include "lib/model/batch.h"
#include "lib/model/model.h"

enum keep { KEEP_NONE, KEEP_INPUTS, KEEP_ALL };

/* Where keys and values of a batch's rows go, and what its rows attend to; backend memory. */
struct cache {
	struct kv kv;
	const int *page, *place;	/* [m], see op.h kv_store */
	const int *tables;		/* [m, ntables], or NULL: rows attend inside the batch (prefill from position 0) */
	int ntables;
	const int *length;		/* [m] */
};

struct forward;				/* activations for up to max_rows rows, owned by the caller */

struct forward *forward_new(struct model *m, int max_rows, enum keep keep);
void forward_free(struct forward *f);
/* Bytes that forward_new() and backward() will hold: said before the first step. */
size_t forward_bytes(const struct model *m, int max_rows, enum keep keep);

enum purpose {
	FOR_SCORES,		/* a row's sums have one order: replies and their probabilities agree */
	FOR_POLICY,		/* so, with dropout */
	FOR_TRAINING,		/* with dropout, by the backend's matmul_train() */
};

/*
 * Run the batch (uploaded, at most max_rows rows). `cache` may be NULL. `seed`
 * and `step` key the dropout of GPT-2. Returns the states after the final norm
 * [m, hidden] of the model's type, valid until the next call.
 */
const void *forward_run(struct forward *f, const struct batch *b, const struct cache *cache, enum purpose purpose,
    uint64_t seed, uint32_t step);

/* Gradients, one f32 array by storage of the model (model.h), zero at first. */
struct gradients {
	const struct model *m;
	float **of;			/* [nstorage] */
};
void gradients_init(struct gradients *g, const struct model *m);
void gradients_free(struct gradients *g);
/* The array of a matrix (its struct weight) or of a vector (the address of its pointer in the model). */
float *gradient_of(const struct gradients *g, const void *storage);

/*
 * Add the gradient of the batch just run. `dhidden` [m, hidden], of the model's
 * type, is the gradient on forward_run()'s result; it is overwritten.
 */
void forward_backward(struct forward *f, const struct batch *b, void *dhidden, struct gradients *g);

#endif
