/* SPDX-License-Identifier: MIT */
/*
 * hessian - what the inputs of a linear layer say of its weights, summed over the calibration
 *
 *   H = (2 / tokens) Y^T Y      Y: inputs [tokens, k] that passed the quantised layers so far
 *   T = (2 / tokens) W (X - Y)^T Y      X: the same inputs of the unquantised model
 *
 * H is summed by tiles of its lower triangle, half of the product. T, [n, k], is the gradient that
 * a corrected target goes along; it is summed as W C, C = (X - Y)^T Y, or where that is less work as
 * (X W^T - Y W^T)^T Y. The order of all sums is fixed by the sizes.
 */
#ifndef QUANT_HESSIAN_H
#define QUANT_HESSIAN_H

#include "kernels/op.h"

struct hessian {
	const struct backend *be;
	enum dtype type;		/* of the inputs */
	int k, rows;			/* rows: the most of one call */
	int64_t tokens;
	struct weight *tiles;		/* f32, of the lower triangle: row i, column j <= i of tiles at i (i + 1) / 2 + j */
	int side;			/* tiles along the diagonal */
	const struct weight *w;		/* [n, k]; NULL: T is not wanted */
	struct weight cross;		/* C [k, k] or T [n, k] */
	void **strips;			/* [side]: the inputs' columns of a tile, dense; */
	struct gram inputs, others;	/* or all of them in whole numbers, and what the cross product takes beside them */
	void *outputs;			/* [rows, n] */
};

/* `w`: the weights that T is of, or NULL; must outlive the hessian. */
void hessian_init(struct hessian *h, const struct backend *be, enum dtype type, int k, int rows,
    const struct weight *w);
void hessian_free(struct hessian *h);
size_t hessian_bytes(const struct backend *be, enum dtype type, int k, int rows, const struct weight *w);

/* m more inputs y; x may be NULL where T is not wanted, and is overwritten. */
void hessian_add(struct hessian *h, const void *y, void *x, int m);

/* The diagonal of H, to d[k]. */
void hessian_diagonal(const struct hessian *h, float *d);
/* The lower triangle of H with input i at place[i], to out[k, k]; what lies above it is left alone. */
void hessian_lower(const struct hessian *h, const int *place, float *out);
/* sum of w H w^T over n rows w[k], host memory: the energy of their outputs. */
double hessian_energy(const struct hessian *h, const float *w, int n);
/* Rows row .. row+rows-1 of T; w [rows, k] are the weights' rows. Both are host memory. */
void hessian_target(const struct hessian *h, float *out, const float *w, int row, int rows);

#endif
