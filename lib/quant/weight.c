/* SPDX-License-Identifier: MIT */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "lib/base/mem.h"
#include "lib/quant/weight.h"

static int
same_groups(const struct quantised *layers, int n)
{
	int i;

	for (i = 1; i < n; i++)
		if (layers[i].bits != layers[0].bits || layers[i].groups != layers[0].groups ||
		    memcmp(layers[i].group, layers[0].group, (size_t)layers[0].k * sizeof *layers[0].group))
			return 0;
	return 1;
}

static int
scales_fit(const struct quantised *l)
{
	size_t i, count = (size_t)l->groups * (size_t)l->n;

	for (i = 0; i < count; i++)
		if (f16_to_f32(f32_to_f16(l->scales[i])) != l->scales[i])
			return 0;
	return 1;
}

/* Inputs of a group, where all but the last have as many and the last no more; else 0. */
static int
group_size(const struct quantised *l)
{
	int *count = mem_zero((size_t)l->groups, sizeof *count), i, size;

	for (i = 0; i < l->k; i++)
		count[l->group[i]]++;
	size = count[0];
	for (i = 1; i < l->groups; i++)
		if (i + 1 < l->groups ? count[i] != size : count[i] > size || !count[i])
			size = 0;
	free(count);
	if (l->groups == 1)
		return (size + 7) / 8 * 8;
	return size % 8 ? 0 : size;
}

/* The inputs sorted by group, those of a group in their order; NULL where they are so already. To be freed. */
static int *
sorted(const struct quantised *l)
{
	int *order = mem_alloc((size_t)l->k * sizeof *order), g, i, at = 0, moved = 0;

	for (g = 0; g < l->groups; g++)
		for (i = 0; i < l->k; i++)
			if (l->group[i] == g) {
				moved |= i != at;
				order[at++] = i;
			}
	if (moved)
		return order;
	free(order);
	return NULL;
}

static int
is_symmetric(const struct quantised *l)
{
	size_t i, count = (size_t)l->groups * (size_t)l->n;

	for (i = 0; i < count; i++)
		if (l->zeros[i] != 1 << (l->bits - 1))
			return 0;
	return 1;
}

static void
put(struct weight *w, const struct backend *be, const struct quantised *l, const int *order, int row)
{
	size_t n = (size_t)l->n, heads = (size_t)l->groups * n, i, o;
	int8_t *codes = mem_alloc((size_t)l->k * n);
	uint16_t *scales = mem_alloc(heads * sizeof *scales);
	int16_t *zeros = mem_alloc(heads * sizeof *zeros);
	int half = 1 << (l->bits - 1);

	for (i = 0; i < (size_t)l->k; i++) {
		const uint8_t *q = l->q + (order ? (size_t)order[i] : i) * n;

		for (o = 0; o < n; o++)
			codes[i * n + o] = (int8_t)(q[o] - half);
	}
	for (i = 0; i < heads; i++) {
		scales[i] = f32_to_f16(l->scales[i]);
		zeros[i] = (int16_t)(l->zeros[i] - half);
	}
	be->quant_put(w, row, l->n, codes, scales, zeros);
	free(codes);
	free(scales);
	free(zeros);
}

int
weight_hold(struct weight *w, const struct backend *be, const struct quantised *layers, int n)
{
	struct quant q = { .bits = layers->bits > 4 ? 8 : 4 };
	int *order, i, row;

	if (!be->quant_put || !same_groups(layers, n) || !(q.group = group_size(layers)))
		return -1;
	for (i = 0; i < n; i++) {
		if (!scales_fit(&layers[i]))
			return -1;
		q.asymmetric |= !is_symmetric(&layers[i]);
	}
	order = sorted(layers);
	w->type = DT_U8;
	w->quant = q;
	w->elements = be->quant_bytes(&q, w->n, w->k);
	w->data = backend_alloc(be, w->elements, 1, "the weights");
	for (i = row = 0; i < n; row += layers[i++].n)
		put(w, be, &layers[i], order, row);
	if (order) {
		w->quant.order = backend_alloc(be, (size_t)w->k, sizeof *order, "the weights");
		be->upload(w->quant.order, order, (size_t)w->k * sizeof *order);
	}
	free(order);
	return 0;
}

/* Codes [k, rows] and scales of rows of x [rows, k]. */
static void
round_rows(int8_t *codes, uint16_t *scales, const float *x, int rows, int k)
{
	int o, i;

	for (o = 0; o < rows; o++, x += k) {
		float most = 0, scale;

		for (i = 0; i < k; i++)
			most = fmaxf(most, fabsf(x[i]));
		scales[o] = f32_to_f16(most / 127);
		scale = f16_to_f32(scales[o]);
		for (i = 0; i < k; i++)
			codes[(size_t)i * (size_t)rows + (size_t)o] = scale > 0 ?
			    (int8_t)fminf(fmaxf(rintf(x[i] / scale), -127), 127) : 0;
	}
}

void
weight_round(struct weight *w, const struct backend *be, const struct weight *from)
{
	enum { SLICE = 256 };		/* rows; a multiple of any panel */
	struct quant q = { .bits = 8, .group = (from->k + 7) / 8 * 8 };
	size_t k = (size_t)from->k;
	int row;

	*w = (struct weight){ .type = DT_U8, .n = from->n, .k = from->k, .quant = q };
	w->elements = be->quant_bytes(&q, w->n, w->k);
	w->data = backend_alloc(be, w->elements, 1, "the weights");
	#pragma omp parallel for schedule(dynamic)
	for (row = 0; row < w->n; row += SLICE) {
		int rows = w->n - row < SLICE ? w->n - row : SLICE;
		float *x = mem_alloc((size_t)rows * k * sizeof *x);
		int8_t *codes = mem_alloc((size_t)rows * k);
		uint16_t scales[SLICE];

		be->weight_get(x, DT_F32, from, row, rows, 0);
		round_rows(codes, scales, x, rows, w->k);
		be->quant_put(w, row, rows, codes, scales, NULL);
		free(x);
		free(codes);
	}
}

void
weight_release(struct weight *w, const struct backend *be)
{
	be->free(w->data);
	be->free(w->quant.order);
	w->data = NULL;
	w->quant.order = NULL;
}
