/* SPDX-License-Identifier: MIT */
/* cuda - the functions in the cells of the CUDA row: kernels/NAME.cu, named in kernels/cuda_row.c */
#ifndef KERNELS_CUDA_H
#define KERNELS_CUDA_H

#include "kernels/cells.h"

CELLS(cuda);
CELL(usable, cuda);
CELL(why, cuda);
CELL(limit, cuda);
CELL(room, cuda);
CELL(alloc, cuda);
CELL(free, cuda);
CELL(upload, cuda);
CELL(download, cuda);
CELL(copy, cuda);
CELL(copy_rows, cuda);
CELL(zero, cuda);
CELL(sync, cuda);
CELL(visit, cuda);
CELL(repeat, cuda);
CELL(forget, cuda);
CELL(weight_elements, cuda);
CELL(weight_put, cuda);
CELL(weight_get, cuda);
CELL(quant_bytes, cuda);
CELL(quant_put, cuda);
CELL(matmul, cuda);
CELL(matmul_dx, cuda);
CELL(matmul_dw, cuda);
CELL(bias_backward, cuda);
CELL(embed, cuda);
CELL(embed_backward, cuda);

/* Elements from one row of a weight [n, k] to the next: rows begin at 16 bytes, what is beyond k is zero. */
static inline int
pitch_cuda(int k)
{
	return (k + 7) / 8 * 8;
}

#endif
