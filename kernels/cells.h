/* SPDX-License-Identifier: MIT */
/*
 * cells - prototypes of what stands in the table: OP_ROW has the type of op.h's column OP
 */
#ifndef KERNELS_CELLS_H
#define KERNELS_CELLS_H

#include "kernels/op.h"

#define CELL(op, row) __typeof__(*((struct backend *)0)->op) op##_##row

#define CELLS(row) \
	CELL(norm, row); CELL(norm_backward, row); CELL(rope, row); \
	CELL(attention, row); CELL(attention_backward, row); \
	CELL(kv_store, row); CELL(attention_paged, row); \
	CELL(swiglu, row); CELL(swiglu_backward, row); CELL(gelu, row); CELL(gelu_backward, row); \
	CELL(add, row); CELL(dropout, row); CELL(convert, row); \
	CELL(gather, row); CELL(scatter, row); CELL(loss, row); CELL(policy, row); \
	CELL(logprob, row); CELL(sample, row); CELL(mix, row); CELL(topk, row); CELL(log_softmax, row); \
	CELL(adamw, row); CELL(gptq, row); CELL(sum_squares, row)

CELLS(ref);
CELLS(avx2);
CELLS(avx512);

#endif
