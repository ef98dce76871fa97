/* SPDX-License-Identifier: MIT */
/*
 * cpu - the functions in the cells of the CPU rows of struct backend
 *
 * What each does is said in kernels/op.h. The suffix is the row; _cpu serves all
 * of them. kernels/backend.c is the table.
 */
#ifndef KERNELS_CPU_H
#define KERNELS_CPU_H

#include "kernels/op.h"

/* Memory and weights: kernels/memory.c, kernels/weight.c. */
void limit_cpu(size_t bytes);
size_t room_cpu(void);
void *alloc_cpu(size_t bytes);
void free_cpu(void *p);
void copy_cpu(void *dst, const void *src, size_t bytes);	/* upload and download too */
void copy_rows_cpu(void *dst, size_t dst_pitch, const void *src, size_t src_pitch, size_t bytes, int m);
void zero_cpu(void *p, size_t bytes);
void sync_cpu(void);
void visit_cpu(void *p, size_t bytes, void (*f)(void *host, size_t bytes, void *user), void *user);
void repeat_cpu(void **kept, uint64_t key, void (*work)(void *user), void *user);
void forget_cpu(void *kept);
size_t weight_elements_cpu(enum dtype type, int n, int k);
void weight_put_cpu(struct weight *w, int row, int rows, const void *src, enum dtype from, int transposed);
void weight_get_cpu(void *dst, enum dtype to, const struct weight *w, int row, int rows, int transposed);
/* Quantised weights: kernels/quant.c. */
size_t quant_bytes_cpu(const struct quant *q, int n, int k);
void quant_put_cpu(struct weight *w, int row, int rows, const int8_t *codes, const uint16_t *scales,
    const int16_t *zeros);
void quant_get_cpu(void *dst, enum dtype to, const struct weight *w, int row, int rows, int transposed);
void quant_matmul_ref(void *y, enum dtype ytype, const void *x, enum dtype xtype, const struct weight *w,
    const float *b, int m, int n, int accumulate);

/* Matrix products: kernels/matmul*.c. */
#define CPU_MATMUL(row) \
	void matmul_##row(void *y, enum dtype ytype, const void *x, enum dtype xtype, const struct weight *w, \
	    const float *b, int m, int n, int accumulate); \
	void matmul_dx_##row(void *dx, enum dtype dxtype, const void *dy, enum dtype dytype, \
	    const struct weight *w, int m, int n, int accumulate); \
	void matmul_dw_##row(float *dw, const struct weight *w, const void *dy, enum dtype dytype, const void *x, \
	    enum dtype xtype, int m, int n)
CPU_MATMUL(ref);
CPU_MATMUL(avx2);
CPU_MATMUL(avx512);
CPU_MATMUL(avx512bf16);		/* for bf16 weights; the avx512 row calls it where the CPU has it */

/* One plain loop is as fast as the memory: kernels/matmul.c, kernels/embed.c. */
void bias_backward_cpu(float *db, const void *dy, enum dtype type, int m, int n);
void embed_cpu(void *y, enum dtype type, const struct weight *w, const struct weight *p, const int *ids,
    const int *positions, int m);
void embed_backward_cpu(float *dw, const struct weight *w, float *dp, const struct weight *p, const void *dy,
    enum dtype type, const int *ids, const int *positions, int m);

#endif
