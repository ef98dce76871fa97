/* SPDX-License-Identifier: MIT */
/* matmul_avx512bf16 - weights and activations in pairs of bf16, sums in f32; subnormals count as zero */
#include "kernels/matmul_avx512.h"

static inline vec
dot(vec sum, vec a, vec b)
{
	return _mm512_dpbf16_ps(sum, (__m512bh)a, (__m512bh)b);
}

enum { PAIRS = 1, WHOLE = 0 };
#include "kernels/matmul_blocks.h"

void
matmul_avx512bf16(void *y, enum dtype ytype, const void *x, enum dtype xtype, const struct weight *w, const float *b,
    int m, int n, int accumulate)
{
	forward(y, ytype, x, xtype, w, b, m, n, accumulate);
}

void
matmul_dx_avx512bf16(void *dx, enum dtype dxtype, const void *dy, enum dtype dytype, const struct weight *w, int m,
    int n, int accumulate)
{
	backward_x(dx, dxtype, dy, dytype, w, m, n, accumulate);
}

void
matmul_dw_avx512bf16(float *dw, const struct weight *w, const void *dy, enum dtype dytype, const void *x,
    enum dtype xtype, int m, int n)
{
	backward_w(dw, w, dy, dytype, x, xtype, m, n);
}
