/* SPDX-License-Identifier: MIT */
/*
 * form - what of a teacher's distribution is stored: the four forms of `logits`
 *
 *   hidden   the state after the final norm, bf16: logits are head times state
 *   topk     the K likeliest ids, their log-probabilities, the log of what is left
 *   sample   ids and counts of N draws
 *   full     all log-probabilities, f16
 *
 * A batch goes through the head in chunks of rows; what is made of them stays
 * here until the next batch, and each record takes its rows.
 */
#ifndef TRAIN_FORM_H
#define TRAIN_FORM_H

#include "lib/train/pack.h"

enum stored { STORED_HIDDEN, STORED_TOPK, STORED_SAMPLE, STORED_FULL };

extern const char *const form_names[];	/* in the order of enum stored, NULL at the end */

struct form;

/* `vocab`: softmaxes are over the head's first columns. `count`: K of topk, N of sample. */
struct form *form_new(struct model *m, enum stored kind, int vocab, int count, uint64_t seed);
void form_free(struct form *f);
/* Declare the form's tensors. */
void form_header(const struct form *f, json_t *header);
/* Of the batch's supervised rows, from its states after the final norm. */
void form_compute(struct form *f, const struct pack *p, const void *hidden);
/* Add a record's rows to `out` as tensors, valid until the next call. */
void form_add(struct form *f, const struct packed *r, struct record *out);

#endif
