/* SPDX-License-Identifier: MIT */
/* library - large products by cuBLASLt, which is loaded when the first is asked for */
#ifndef KERNELS_LIBRARY_CUH
#define KERNELS_LIBRARY_CUH

#include "kernels/device.cuh"

/* A matrix as the library sees it: columns, `pitch` elements apart. */
struct operand {
	const void *data;
	enum dtype type;
	int pitch;
	int transposed;
};

/*
 * C [rows, columns] = A B (+ C) (+ bias[row], may be NULL), sums of `inner` products in f32. A and B have
 * one type and begin at 16 bytes. The rows of a batch are the columns here or, for `summed`, what is
 * summed over. 0 if the library has no way to do it.
 */
int library_multiply(void *c, enum dtype type, int pitch, const struct operand *a, const struct operand *b,
    int rows, int columns, int inner, int summed, const float *bias, int accumulate);

#endif
