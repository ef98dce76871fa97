/* SPDX-License-Identifier: MIT */
/* quant - quantised weights: packed by the host, read back by the GPU; kernels/matmul.cu multiplies by them */
#include <stdlib.h>
#include <string.h>

#include "kernels/quant.cuh"

extern "C" {
#include "lib/base/mem.h"
}

enum { THREADS = 256 };

/* Where the parts begin, from the codes on, and the end. */
struct parts {
	size_t pitch, scales, zeros, end;
	int groups;
};

static size_t
to_16(size_t bytes)
{
	return (bytes + 15) / 16 * 16;
}

static struct parts
parts_of(const struct quant *q, int n, int k)
{
	struct parts p;
	size_t heads;

	p.groups = (k + q->group - 1) / q->group;
	p.pitch = (size_t)pitch_cuda(k) * q->bits / 8;
	p.scales = to_16((size_t)n * p.pitch);
	heads = to_16((size_t)n * p.groups * sizeof(uint16_t));
	p.zeros = p.scales + heads;
	p.end = p.zeros + (q->asymmetric ? heads : 0);
	return p;
}

size_t
quant_bytes_cuda(const struct quant *q, int n, int k)
{
	return parts_of(q, n, k).end;
}

struct coded
coded_of(const struct weight *w)
{
	struct parts p = parts_of(&w->quant, w->n, w->k);
	const uint8_t *data = (const uint8_t *)w->data;

	return (struct coded){ data, (const __half *)(data + p.scales),
		w->quant.asymmetric ? (const __half *)(data + p.zeros) : NULL, w->quant.bits, w->quant.group, p.groups,
		(int)p.pitch };
}

/* [groups, rows] to [rows, groups] at `to`. */
static void
put_heads(char *to, const uint16_t *heads, int rows, int groups)
{
	uint16_t *lines = (uint16_t *)mem_alloc((size_t)rows * groups * sizeof *lines);

	for (int g = 0; g < groups; g++)
		for (int o = 0; o < rows; o++)
			lines[(size_t)o * groups + g] = heads[(size_t)g * rows + o];
	upload_cuda(to, lines, (size_t)rows * groups * sizeof *lines);
	free(lines);
}

void
quant_put_cuda(struct weight *w, int row, int rows, const int8_t *codes, const uint16_t *scales, const int16_t *zeros)
{
	struct parts p = parts_of(&w->quant, w->n, w->k);
	size_t n = (size_t)p.groups * rows, heads = (size_t)row * p.groups * sizeof(uint16_t);
	uint8_t *lines = (uint8_t *)mem_zero((size_t)rows, p.pitch);
	char *data = (char *)w->data;

	for (int i = 0; i < w->k; i++)
		for (int o = 0; o < rows; o++) {
			int code = codes[(size_t)i * rows + o];

			if (w->quant.bits == 8)
				lines[o * p.pitch + i] = (uint8_t)code;
			else
				lines[o * p.pitch + i / 2] |= (uint8_t)((code & 15) << i % 2 * 4);
		}
	upload_cuda(data + row * p.pitch, lines, (size_t)rows * p.pitch);
	put_heads(data + p.scales + heads, scales, rows, p.groups);
	if (w->quant.asymmetric) {
		uint16_t *wide = (uint16_t *)mem_zero(n, sizeof *wide);

		for (size_t i = 0; zeros && i < n; i++)
			wide[i] = f32_to_f16(zeros[i]);
		put_heads(data + p.zeros + heads, wide, rows, p.groups);
		free(wide);
	}
	free(lines);
}

template<typename T>
static __global__ void
decode_rows(T *out, struct coded c, const int *order, int row, int k, int pitch)
{
	T *line = out + (size_t)blockIdx.x * pitch;
	float x[8];

	for (int i = k + (int)threadIdx.x; i < pitch; i += THREADS)
		line[i] = down<T>(0);
	for (int i = (int)threadIdx.x * 8; i < k; i += THREADS * 8) {
		decode_8(x, &c, row + (size_t)blockIdx.x, i);
		for (int j = 0; j < 8 && i + j < k; j++)
			line[order ? order[i + j] : i + j] = down<T>(x[j]);
	}
}

void
quant_decode(void *out, enum dtype type, const struct weight *w, int row, int rows)
{
	WITH_TYPE(T, type, LAUNCH(decode_rows<T>, (unsigned)rows, THREADS, 0, (T *)out, coded_of(w), w->quant.order, row,
	    w->k, pitch_cuda(w->k)));
}
