/* SPDX-License-Identifier: MIT */
/*
 * embed - rows of a table of weights, gathered; and their gradients, added
 *
 * A row of W lies in its panel with a stride of PANEL. In the backward each
 * thread takes a range of channels through all rows in order, so that rows of
 * one id add up in the same order whatever the number of threads.
 */
#include "kernels/cpu.h"
#include "kernels/panel.h"
#include "kernels/shared.h"

enum { CHUNK = 64 };		/* channels in one go; even, since bf16 inputs lie in pairs */

static void
get_chunk(float *line, const struct weight *w, int row, int c, int width)
{
	size_t base = panel_index(w->type, w->k, row, c);
	const uint16_t *h = (const uint16_t *)w->data + base;
	const float *f = (const float *)w->data + base;
	int i;

	if (w->type == DT_BF16)
		for (i = 0; i < width; i++)
			line[i] = bf16_to_f32(h[i / 2 * 2 * PANEL + i % 2]);
	else
		for (i = 0; i < width; i++)
			line[i] = f[i * PANEL];
}

static void
add_chunk(float *dw, const struct weight *w, int row, int c, const float *line, int width)
{
	int i;

	dw += panel_index(w->type, w->k, row, c);
	if (w->type == DT_BF16)
		for (i = 0; i < width; i++)
			dw[i / 2 * 2 * PANEL + i % 2] += line[i];
	else
		for (i = 0; i < width; i++)
			dw[i * PANEL] += line[i];
}

static int
chunk_width(int k, int c)
{
	return k - c < CHUNK ? k - c : CHUNK;
}

static void
embed_row(void *y, enum dtype type, const struct weight *w, const struct weight *p, int id, int position, size_t at)
{
	float line[CHUNK], more[CHUNK];
	int c, i;

	for (c = 0; c < w->k; c += CHUNK) {
		int width = chunk_width(w->k, c);
		size_t to = at + (size_t)c;

		get_chunk(line, w, id, c, width);
		if (p) {
			get_chunk(more, p, position, c, width);
			for (i = 0; i < width; i++)
				line[i] += more[i];
		}
		if (type == DT_BF16)
			for (i = 0; i < width; i++)
				((uint16_t *)y)[to + (size_t)i] = f32_to_bf16(line[i]);
		else
			memcpy((float *)y + to, line, (size_t)width * sizeof *line);
	}
}

void
embed_cpu(void *y, enum dtype type, const struct weight *w, const struct weight *p, const int *ids,
    const int *positions, int m)
{
	int r;

	SHARED(m > 8,
	    for (r = 0; r < m; r++)
		embed_row(y, type, w, p, ids[r], p ? positions[r] : 0, (size_t)r * (size_t)w->k);
	);
}

void
embed_backward_cpu(float *dw, const struct weight *w, float *dp, const struct weight *p, const void *dy,
    enum dtype type, const int *ids, const int *positions, int m)
{
	int c, r, i;

	#pragma omp parallel for schedule(static) private(r, i) if (m > 8)
	for (c = 0; c < w->k; c += CHUNK)
		for (r = 0; r < m; r++) {
			size_t at = (size_t)r * (size_t)w->k + (size_t)c;
			int width = chunk_width(w->k, c);
			float line[CHUNK];

			for (i = 0; i < width; i++)
				line[i] = type == DT_BF16 ? bf16_to_f32(((const uint16_t *)dy)[at + (size_t)i]) :
				    ((const float *)dy)[at + (size_t)i];
			add_chunk(dw, w, ids[r], c, line, width);
			if (p)
				add_chunk(dp, p, positions[r], c, line, width);
		}
}
