/* SPDX-License-Identifier: MIT */
/*
 * matmul_avx512 - f32 multiply-adds; or where weights are bf16, what dot products of pairs the CPU has: of bf16, or
 * in a training of integers
 */
#include "kernels/matmul_avx512.h"
#include "kernels/words_f32.h"
#include "kernels/matmul_blocks.h"
#include "kernels/quant_blocks.h"
#include "kernels/gram_blocks.h"

static int
by_pairs(const struct weight *w)
{
	return w->type == DT_BF16 && __builtin_cpu_supports("avx512bf16");
}

static int
by_whole(const struct weight *w)
{
	return w->type == DT_BF16 && !by_pairs(w) && dot_fuses();
}

void
matmul_avx512(void *y, enum dtype ytype, const void *x, enum dtype xtype, const struct weight *w, const float *b,
    int m, int n, int accumulate)
{
	(w->type == DT_U8 ? forward_quantised : by_pairs(w) ? matmul_avx512bf16 : forward)(y, ytype, x, xtype, w, b, m,
	    n, accumulate);
}

void
matmul_train_avx512(void *y, enum dtype ytype, const void *x, enum dtype xtype, const struct weight *w, const float *b,
    int m, int n, int accumulate)
{
	(by_whole(w) ? matmul_train_avx512vnni : matmul_avx512)(y, ytype, x, xtype, w, b, m, n, accumulate);
}

void
matmul_dx_avx512(void *dx, enum dtype dxtype, const void *dy, enum dtype dytype, const struct weight *w, int m, int n,
    int accumulate)
{
	(by_whole(w) ? matmul_dx_avx512vnni : by_pairs(w) ? matmul_dx_avx512bf16 : backward_x)(dx, dxtype, dy, dytype, w,
	    m, n, accumulate);
}

void
matmul_dw_avx512(float *dw, const struct weight *w, const void *dy, enum dtype dytype, const void *x,
    enum dtype xtype, int m, int n)
{
	(by_whole(w) ? matmul_dw_avx512vnni : by_pairs(w) ? matmul_dw_avx512bf16 : backward_w)(dw, w, dy, dytype, x,
	    xtype, m, n);
}

size_t
gram_bytes_avx512(int m, int k)
{
	return gram_bytes_of(m, k);
}

void
gram_pack_avx512(struct gram *g, const void *x, int m, int k)
{
	gram_pack(g, x, m, k);
}

void
gram_avx512(float *dw, const struct weight *w, const struct gram *dy, int output, const struct gram *x, int input)
{
	gram(dw, w, dy, output, x, input);
}
