/* SPDX-License-Identifier: MIT */
/*
 * teacher - the teacher's distribution at the supervised rows of a micro-batch
 *
 * Whatever a stream of logits stores becomes struct teacher_rows: hidden states
 * are multiplied with the teacher's head, a chunk of rows at a time; log-probabilities of
 * all columns are widened by the chunk; top-K and draws are handed on. Fed with
 * tokens, the teacher itself runs. Both heads end at the tokenizer's true size.
 */
#ifndef TRAIN_TEACHER_H
#define TRAIN_TEACHER_H

#include "lib/stream/stream.h"
#include "lib/train/data.h"
#include "lib/train/head.h"

struct teacher_source {
	enum { FORM_COMPUTED, FORM_HIDDEN, FORM_FULL, FORM_TOPK, FORM_SAMPLE } form;
	const char *directory;		/* of the teacher; NULL: the form needs none */
	enum dtype type;		/* to load it in; DT_NONE: its own */
	int vocab;			/* columns of all softmaxes */
	int renormalise;		/* top-K: over the K ids, not with a bucket for the rest */
};

/*
 * From the header of `in`, tokens or logits; `vocab` is the size of its tokenizer where the header does not
 * say it, or 0. Dies where stream and directory do not fit.
 */
struct teacher_source teacher_source(const struct stream_in *in, const char *directory, int vocab);
/* Dies, with the reason, when the form cannot give what `d` needs. */
void teacher_check(const struct teacher_source *s, const struct divergence *d);

struct teacher;

/* For micro-batches of up to max_rows rows, in chunks of up to `chunk` supervised rows. */
struct teacher *teacher_new(const struct teacher_source *s, const struct backend *be, int max_rows, int chunk);
void teacher_free(struct teacher *t);
size_t teacher_bytes(const struct teacher *t);	/* memory held, the teacher's weights included */

/*
 * A micro-batch: clear, add every record as its sequence is added to the batch, then begin. Dies, naming
 * the stream, where a record's tensors are not one row for each target.
 */
void teacher_clear(struct teacher *t);
void teacher_add(struct teacher *t, const char *stream, const struct record *r, const struct example *e);
void teacher_begin(struct teacher *t, const struct batch *b);
/* head.h's teacher_fn; `user` is the struct teacher. */
teacher_fn teacher_rows;

#endif
