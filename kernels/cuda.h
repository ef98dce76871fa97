/* SPDX-License-Identifier: MIT */
/* cuda - the functions in the cells of the CUDA row: kernels/NAME.cu, named in kernels/cuda_row.c */
#ifndef KERNELS_CUDA_H
#define KERNELS_CUDA_H

#include "kernels/cells.h"

MEMORY_COLUMNS(PROTOTYPE, cuda)
COLUMNS(PROTOTYPE, cuda)
PROTOTYPE(usable, cuda)
PROTOTYPE(why, cuda)
PROTOTYPE(upload, cuda)
PROTOTYPE(download, cuda)

/* Elements from one row of a weight [n, k] to the next: rows begin at 16 bytes, what is beyond k is zero. */
static inline int
pitch_cuda(int k)
{
	return (k + 7) / 8 * 8;
}

#endif
