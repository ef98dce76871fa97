/* SPDX-License-Identifier: MIT */
/*
 * quant - quantised weights: packed, read back, and the definition of the product
 *
 *	y[r, o] = b[o] + sum_i x[r, order[i]] scale (code[o, i] - zero)
 *
 * The weights are exact in f32, the sum is in double, in the order of their places.
 */
#include <stdlib.h>
#include <string.h>

#include "kernels/cpu.h"
#include "kernels/quant.h"

size_t
quant_bytes_cpu(const struct quant *q, int n, int k)
{
	return (size_t)((n + PANEL - 1) / PANEL) * quant_panel_bytes(q, k);
}

/* Codes of a word, and the least of them. */
static int
word_codes(const struct weight *w)
{
	return 32 / w->quant.bits;
}

static int
least(const struct weight *w)
{
	return -(1 << (w->quant.bits - 1));
}

static int
shift(const struct weight *w, int i)
{
	return 16 * (i % 2) + w->quant.bits * (i % word_codes(w) / 2);
}

/* The word that holds the code of output o and place i. */
static uint32_t *
word_at(const struct weight *w, int o, int i)
{
	char *codes = quant_group(w, o, i / w->quant.group) + quant_head(&w->quant);

	return (uint32_t *)codes + i % w->quant.group / word_codes(w) * PANEL + o % PANEL;
}

/* The word of places i .. of output row + o. */
static void
put_word(const struct weight *w, int row, int o, int rows, int i, const int8_t *codes)
{
	uint32_t word = 0;
	int end = w->k < i + word_codes(w) ? w->k : i + word_codes(w), j;

	codes += (size_t)i * (size_t)rows + (size_t)o;
	for (j = i; j < end; j++, codes += rows)
		word |= (uint32_t)(*codes - least(w)) << shift(w, j);
	*word_at(w, row + o, i) = word;
}

static int
get_code(const struct weight *w, int o, int i)
{
	return (int)(*word_at(w, o, i) >> shift(w, i) & ((1u << w->quant.bits) - 1)) + least(w);
}

void
quant_put_cpu(struct weight *w, int row, int rows, const int8_t *codes, const uint16_t *scales, const int16_t *zeros)
{
	size_t n = (size_t)rows;
	int o, i, g;

	for (g = 0; g < quant_group_count(&w->quant, w->k); g++)
		for (o = 0; o < rows; o++) {
			uint16_t *head = (uint16_t *)quant_group(w, row + o, g) + (row + o) % PANEL;

			head[0] = scales[(size_t)g * n + (size_t)o];
			if (w->quant.asymmetric)
				head[PANEL] = zeros ? f32_to_f16(zeros[(size_t)g * n + (size_t)o]) : 0;
		}
	for (i = 0; i < w->k; i += word_codes(w))
		for (o = 0; o < rows; o++)
			put_word(w, row, o, rows, i, codes);
}

/* W of output o at place i. */
static float
value(const struct weight *w, int o, int i)
{
	const uint16_t *head = (const uint16_t *)quant_group(w, o, i / w->quant.group) + o % PANEL;
	float zero = w->quant.asymmetric ? f16_to_f32(head[PANEL]) : 0;

	return f16_to_f32(head[0]) * ((float)get_code(w, o, i) - zero);
}

static int
input_at(const struct weight *w, int i)
{
	return w->quant.order ? w->quant.order[i] : i;
}

void
quant_get_cpu(void *dst, enum dtype to, const struct weight *w, int row, int rows, int transposed)
{
	size_t size = dtype_size(to);
	int o, i;

	for (o = 0; o < rows; o++)
		for (i = 0; i < w->k; i++) {
			size_t c = (size_t)input_at(w, i), r = (size_t)o;
			size_t at = transposed ? c * (size_t)rows + r : r * (size_t)w->k + c;
			float x = value(w, row + o, i);

			dtype_convert((char *)dst + at * size, to, &x, DT_F32, 1);
		}
}

void
quant_matmul_ref(void *y, enum dtype ytype, const void *x, enum dtype xtype, const struct weight *w, const float *b,
    int m, int n, int accumulate)
{
	int o;

	#pragma omp parallel for schedule(static)
	for (o = 0; o < n; o++) {
		float *line = malloc((size_t)w->k * sizeof *line), xi, old = 0;
		int r, i;

		for (i = 0; i < w->k; i++)
			line[i] = value(w, o, i);
		for (r = 0; r < m; r++) {
			size_t at = ((size_t)r * (size_t)n + (size_t)o) * dtype_size(ytype);
			double sum = 0;

			for (i = 0; i < w->k; i++) {
				size_t from = (size_t)r * (size_t)w->k + (size_t)input_at(w, i);

				dtype_convert(&xi, DT_F32, (const char *)x + from * dtype_size(xtype), xtype, 1);
				sum += (double)xi * (double)line[i];
			}
			if (accumulate)
				dtype_convert(&old, DT_F32, (char *)y + at, ytype, 1);
			xi = (float)(sum + (b ? b[o] : 0) + old);
			dtype_convert((char *)y + at, ytype, &xi, DT_F32, 1);
		}
		free(line);
	}
}
