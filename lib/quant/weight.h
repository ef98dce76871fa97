/* SPDX-License-Identifier: MIT */
/*
 * weight - quantised layers in a backend's memory
 *
 * kernels/op.h's codes have 4 or 8 bits and are counted from the middle: those of 2 and 3 bits take 4. Inputs
 * whose groups are scattered are sorted by group, and the weight keeps the order.
 */
#ifndef QUANT_WEIGHT_H
#define QUANT_WEIGHT_H

#include "kernels/op.h"
#include "lib/quant/checkpoint.h"

/*
 * Layers of the same inputs become one weight, rows one after the other; 0. Or -1, and nothing is done, where it
 * could not be exact: layers that group their inputs differently, groups of unequal sizes, scales that are no f16;
 * or where the backend has no such weights.
 */
int weight_hold(struct weight *w, const struct backend *be, const struct quantised *layers, int n);
/* W in 8 bits, symmetric, a scale an output. Dies where there is no memory. */
void weight_round(struct weight *w, const struct backend *be, const struct weight *from);
void weight_release(struct weight *w, const struct backend *be);

#endif
