/* SPDX-License-Identifier: MIT */
/*
 * gptq - codes for linear layers, so that their outputs on the calibration stay what they were
 *
 * GPTQ (Frantar et al., 2210.17323) with what improves it and leaves the files as they are
 * (PAPER 7): scales with a sign, and a corrected target, W + a T inv(H) in the place of W
 * (GPTAQ, 2504.02692), which makes up for what the quantised layers before this one have changed.
 */
#ifndef QUANT_GPTQ_H
#define QUANT_GPTQ_H

#include "lib/quant/checkpoint.h"
#include "lib/quant/hessian.h"

/* In what order columns are quantised, by the diagonal of H, and which columns share a scale. */
enum quant_order {
	ORDER_OFF,		/* as they come */
	ORDER_STATIC,		/* descending; groups are of neighbouring columns, their scales taken before */
	ORDER_FULL,		/* descending; groups follow the order: scattered */
	ORDER_GROUP,		/* groups descending by their largest, and descending inside */
};

struct gptq_options {
	int bits, group, sym;	/* group -1: all columns */
	enum quant_order order;
	int signs;		/* scales may be negative (sym) */
	int plain;		/* GPTQModel's algorithm: scales unrounded, and of columns that lack updates */
	int least_zero;		/* 1 for files of version 1 */
	float mse;		/* exponent of the search of scales; 0: none */
	float target;		/* a, of the corrected target; 0: none */
	float damp;		/* of the mean of H's diagonal, added to it */
};

/* U^T U = inv(H + damp mean(diag H)), in the order; one for all layers with these inputs. */
struct factor {
	int k;
	int *order;		/* [k] */
	int *group;		/* [k] of each column, not in the order */
	char *dead;		/* [k]: the input is always 0, and so will be its weights */
	int ndead;
	float *u;		/* [k, k] */
	double damp;		/* that was needed: it rises by 0.01 until the matrix is positive definite */
};

/* 0, or -1 with a reason: inputs that are not finite, a matrix that no damping below 1 helps. */
int factor_init(struct factor *f, const struct hessian *h, const struct gptq_options *o, char *why);
void factor_free(struct factor *f);

/* A layer of n outputs whose codes are to be found. */
void gptq_begin(struct quantised *l, int n, const struct factor *f, const struct gptq_options *o);
/*
 * Codes of rows row .. row+rows-1 of it; w [rows, k] (host memory) are these, which are rows
 * hrow .. of the weights that h is of. Returns sum e^2, of which `energy` (where not NULL) is the
 * whole: the sum of squares of the rows' outputs, as H has them.
 */
double gptq_quantise(struct quantised *l, const float *w, int row, int rows, const struct hessian *h, int hrow,
    const struct factor *f, const struct gptq_options *o, double *energy);

#endif
