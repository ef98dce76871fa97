/* SPDX-License-Identifier: MIT */
/*
 * matmul_avx512vnni - products of a training with bf16 weights, in whole numbers
 *
 * For CPUs that have dot products of integers and not of bf16: these do twice as many multiply-adds as f32 does.
 */
#include "kernels/matmul_avx512.h"

static inline vec
dot(vec sum, vec a, vec b)
{
	return dot_whole(sum, a, b, 1);
}

enum { PAIRS = 1, WHOLE = 1 };
#include "kernels/matmul_blocks.h"

void
matmul_train_avx512vnni(void *y, enum dtype ytype, const void *x, enum dtype xtype, const struct weight *w,
    const float *b, int m, int n, int accumulate)
{
	forward(y, ytype, x, xtype, w, b, m, n, accumulate);
}

void
matmul_dx_avx512vnni(void *dx, enum dtype dxtype, const void *dy, enum dtype dytype, const struct weight *w, int m,
    int n, int accumulate)
{
	backward_x(dx, dxtype, dy, dytype, w, m, n, accumulate);
}

void
matmul_dw_avx512vnni(float *dw, const struct weight *w, const void *dy, enum dtype dytype, const void *x,
    enum dtype xtype, int m, int n)
{
	backward_w(dw, w, dy, dytype, x, xtype, m, n);
}
