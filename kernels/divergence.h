/* SPDX-License-Identifier: MIT */
/*
 * divergence - the D(p, q) of the loss, outcome by outcome, in double
 *
 * a = log p, b = log q of one outcome. The term f(a, b) of D is returned, and h = df/db, up to a
 * multiple of q: since the q sum to one, D's gradient on the student's logits is h_k - q_k sum h
 * whatever the multiple. Terms of probability zero are exactly zero.
 */
#ifndef KERNELS_DIVERGENCE_H
#define KERNELS_DIVERGENCE_H

#include "kernels/op.h"

double divergence_term(const struct divergence *d, double a, double b, double *h);

/*
 * D of a row with a top-k teacher whose tail is one outcome more, from the student's
 * log-probabilities b[ids[.]] given as `own` and the logarithm `rest` of its mass outside the ids.
 * h receives k + 1 numbers.
 */
double divergence_bucket(const struct divergence *d, const float *logprobs, double log_tail,
    const double *own, double rest, int k, double *h);

#endif
