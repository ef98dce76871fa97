/* SPDX-License-Identifier: MIT */
/* weight - between matrices as files hold them and the CUDA row's layout: row-major, rows padded (kernels/cuda.h) */
#include <stdlib.h>

#include "kernels/quant.cuh"

extern "C" {
#include "lib/base/mem.h"
}

enum { LINE = 64 };		/* elements that are transposed in one go */

size_t
weight_elements_cuda(enum dtype, int n, int k)
{
	return (size_t)n * pitch_cuda(k);
}

static char *
rows_at(const struct weight *w, int row)
{
	return (char *)w->data + (size_t)row * pitch_cuda(w->k) * dtype_size(w->type);
}

/* An [n, k] of one type, k elements of `from` apart, to its transposed [k, n] of another. */
static void
transpose(char *dst, enum dtype to, size_t dst_pitch, const char *src, enum dtype from, size_t src_pitch, int n, int k)
{
	size_t size = dtype_size(to);

	for (int i = 0; i < k; i += LINE)
		for (int o = 0; o < n; o++) {
			uint64_t line[LINE];
			int width = k - i < LINE ? k - i : LINE;

			dtype_convert(line, to, src + ((size_t)o * src_pitch + i) * dtype_size(from), from, width);
			for (int j = 0; j < width; j++)
				memcpy(dst + ((size_t)(i + j) * dst_pitch + o) * size, (char *)line + j * size, size);
		}
}

void
weight_put_cuda(struct weight *w, int row, int rows, const void *src, enum dtype from, int transposed)
{
	size_t pitch = (size_t)pitch_cuda(w->k), k = (size_t)w->k, size = dtype_size(w->type);
	char *staged;

	if (from == w->type && !transposed && pitch == k) {
		upload_cuda(rows_at(w, row), src, (size_t)rows * k * size);
		return;
	}
	staged = (char *)mem_zero((size_t)rows * pitch, size);
	if (transposed)
		transpose(staged, w->type, pitch, (const char *)src, from, (size_t)rows, w->k, rows);
	else
		for (int i = 0; i < rows; i++)
			dtype_convert(staged + i * pitch * size, w->type,
			    (const char *)src + i * k * dtype_size(from), from, k);
	upload_cuda(rows_at(w, row), staged, (size_t)rows * pitch * size);
	free(staged);
}

void
weight_get_cuda(void *dst, enum dtype to, const struct weight *w, int row, int rows, int transposed)
{
	size_t pitch = (size_t)pitch_cuda(w->k), k = (size_t)w->k, size = dtype_size(w->type);
	char *staged;

	if (w->type == DT_U8) {
		struct weight plain = { .data = scratch(SCRATCH_LEFT, (size_t)rows * pitch * sizeof(float)),
			.type = DT_F32, .n = rows, .k = w->k };

		quant_decode(plain.data, DT_F32, w, row, rows);
		weight_get_cuda(dst, to, &plain, 0, rows, transposed);
		return;
	}
	if (to == w->type && !transposed && pitch == k) {
		download_cuda(dst, rows_at(w, row), (size_t)rows * k * size);
		return;
	}
	staged = (char *)mem_alloc((size_t)rows * pitch * size);
	download_cuda(staged, rows_at(w, row), (size_t)rows * pitch * size);
	if (transposed)
		transpose((char *)dst, to, (size_t)rows, staged, w->type, pitch, rows, w->k);
	else
		for (int i = 0; i < rows; i++)
			dtype_convert((char *)dst + i * k * dtype_size(to), to, staged + i * pitch * size, w->type, k);
	free(staged);
}
