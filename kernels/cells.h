/* SPDX-License-Identifier: MIT */
/*
 * cells - op.h's columns as lists, of which prototypes and table are made
 *
 * OP_ROW is the function in the cell of column OP, and has its type. MEMORY_COLUMNS are what machines that
 * share a memory share; upload, download and copy may be one function, and stand in the table by themselves.
 */
#ifndef KERNELS_CELLS_H
#define KERNELS_CELLS_H

#include "kernels/op.h"

#define MEMORY_COLUMNS(X, row) \
	X(limit, row) X(room, row) X(alloc, row) X(free, row) X(copy, row) X(copy_rows, row) X(zero, row) \
	X(sync, row) X(visit, row) X(repeat, row) X(forget, row) \
	X(weight_elements, row) X(weight_put, row) X(weight_get, row) X(quant_bytes, row) X(quant_put, row) \
	X(bias_backward, row) X(embed, row) X(embed_backward, row)

#define MATMUL_COLUMNS(X, row) \
	X(matmul, row) X(matmul_dx, row) X(matmul_dw, row)

/* Not every row has them. */
#define GRAM_COLUMNS(X, row) \
	X(gram_bytes, row) X(gram_pack, row) X(gram, row)

#define COLUMNS(X, row) \
	MATMUL_COLUMNS(X, row) X(norm, row) X(norm_backward, row) X(rope, row) \
	X(attention, row) X(attention_backward, row) X(kv_store, row) X(attention_paged, row) \
	X(swiglu, row) X(swiglu_backward, row) X(gelu, row) X(gelu_backward, row) \
	X(add, row) X(dropout, row) X(convert, row) X(gather, row) X(scatter, row) X(loss, row) X(policy, row) \
	X(logprob, row) X(sample, row) X(mix, row) X(topk, row) X(log_softmax, row) \
	X(adamw, row) X(gptq, row) X(sum_squares, row)

#define PROTOTYPE(op, row) __typeof__(*((struct backend *)0)->op) op##_##row;
#define CELL(op, row) .op = op##_##row,

#endif
