/* SPDX-License-Identifier: MIT */
/*
 * cpu - the functions in the cells of the CPU rows of struct backend
 *
 * What each does is said in kernels/op.h. The suffix is the row; _cpu serves all
 * of them: kernels/memory.c, weight.c, quant.c, bias.c, embed.c. kernels/backend.c is the table.
 */
#ifndef KERNELS_CPU_H
#define KERNELS_CPU_H

#include "kernels/cells.h"

MEMORY_COLUMNS(PROTOTYPE, cpu)
COLUMNS(PROTOTYPE, ref)
COLUMNS(PROTOTYPE, avx2)
COLUMNS(PROTOTYPE, avx512)
GRAM_COLUMNS(PROTOTYPE, avx2)
GRAM_COLUMNS(PROTOTYPE, avx512)
PROTOTYPE(matmul_train, avx512)

/* The avx512 row calls these for bf16 weights, where the CPU has bf16 dot products; or else VNNI. */
MATMUL_COLUMNS(PROTOTYPE, avx512bf16)
PROTOTYPE(matmul_train, avx512vnni)
PROTOTYPE(matmul_dx, avx512vnni)
PROTOTYPE(matmul_dw, avx512vnni)

/* Quantised weights: kernels/quant.c. */
void quant_get_cpu(void *dst, enum dtype to, const struct weight *w, int row, int rows, int transposed);
void quant_matmul_ref(void *y, enum dtype ytype, const void *x, enum dtype xtype, const struct weight *w,
    const float *b, int m, int n, int accumulate);

#endif
