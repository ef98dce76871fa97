/* SPDX-License-Identifier: MIT */
/*
 * weight - between matrices as files hold them and the panels of kernels/panel.h
 *
 * One block of PANEL outputs and BLOCK inputs at a time passes through f32, so
 * that reads and writes are both in runs. Where both sides have one type, words
 * of 32 bits are moved as they are, one f32 or a pair of bf16: a panel is [words][PANEL].
 */
#include <string.h>

#include "kernels/cpu.h"
#include "kernels/panel.h"

enum { BLOCK = 64 };

struct block {
	int o0, o1;			/* outputs, of one panel */
	int i0, i1;			/* inputs */
	float x[BLOCK][PANEL];		/* by input, then output */
};

/* A matrix as files hold it: rows row .. row+rows-1 of W, [rows, k] or transposed [k, rows]. */
struct plain {
	char *data;
	enum dtype type;
	int row, rows, transposed;
};

size_t
weight_elements_cpu(enum dtype type, int n, int k)
{
	return (size_t)((n + PANEL - 1) / PANEL) * panel_elements(type, k);
}

static char *
plain_at(const struct plain *p, int k, int o, int i)
{
	size_t r = (size_t)(o - p->row), c = (size_t)i;
	size_t place = p->transposed ? c * (size_t)p->rows + r : r * (size_t)k + c;

	return p->data + place * dtype_size(p->type);
}

static void
block_read_plain(struct block *b, const struct plain *p, int k)
{
	float line[BLOCK];
	int o, i;

	if (p->transposed) {
		for (i = b->i0; i < b->i1; i++)
			dtype_convert(&b->x[i - b->i0][b->o0 % PANEL], DT_F32, plain_at(p, k, b->o0, i), p->type,
			    (size_t)(b->o1 - b->o0));
		return;
	}
	for (o = b->o0; o < b->o1; o++) {
		dtype_convert(line, DT_F32, plain_at(p, k, o, b->i0), p->type, (size_t)(b->i1 - b->i0));
		for (i = b->i0; i < b->i1; i++)
			b->x[i - b->i0][o % PANEL] = line[i - b->i0];
	}
}

static void
block_write_plain(const struct block *b, const struct plain *p, int k)
{
	float line[BLOCK];
	int o, i;

	if (p->transposed) {
		for (i = b->i0; i < b->i1; i++)
			dtype_convert(plain_at(p, k, b->o0, i), p->type, &b->x[i - b->i0][b->o0 % PANEL], DT_F32,
			    (size_t)(b->o1 - b->o0));
		return;
	}
	for (o = b->o0; o < b->o1; o++) {
		for (i = b->i0; i < b->i1; i++)
			line[i - b->i0] = b->x[i - b->i0][o % PANEL];
		dtype_convert(plain_at(p, k, o, b->i0), p->type, line, DT_F32, (size_t)(b->i1 - b->i0));
	}
}

static void
block_read_panel(struct block *b, const struct weight *w)
{
	const uint16_t *h = w->data;
	const float *f = w->data;
	int o, i;

	for (i = b->i0; i < b->i1; i++)
		for (o = b->o0; o < b->o1; o++) {
			size_t at = panel_index(w->type, w->k, o, i);

			b->x[i - b->i0][o % PANEL] = w->type == DT_BF16 ? bf16_to_f32(h[at]) : f[at];
		}
}

static void
block_write_panel(const struct block *b, struct weight *w)
{
	uint16_t *h = w->data;
	float *f = w->data;
	int o, i;

	for (i = b->i0; i < b->i1; i++)
		for (o = b->o0; o < b->o1; o++) {
			size_t at = panel_index(w->type, w->k, o, i);

			if (w->type == DT_BF16)
				h[at] = f32_to_bf16(b->x[i - b->i0][o % PANEL]);
			else
				f[at] = b->x[i - b->i0][o % PANEL];
		}
}

/* The outputs of panel p among rows row .. row+rows-1, and the inputs of block i. */
static void
block_place(struct block *b, const struct plain *s, int p, int i, int k)
{
	b->o0 = p * PANEL > s->row ? p * PANEL : s->row;
	b->o1 = (p + 1) * PANEL < s->row + s->rows ? (p + 1) * PANEL : s->row + s->rows;
	b->i0 = i;
	b->i1 = k - i < BLOCK ? k : i + BLOCK;
}

static int
same_words(const struct plain *s, const struct weight *w)
{
	return s->type == w->type && !s->transposed && (w->type == DT_F32 || w->k % 2 == 0);
}

/* Panel p's part of the rows, LINE words of each at a time. */
static void
move_words(const struct plain *s, const struct weight *w, int p, int put)
{
	enum { LINE = 16 };
	size_t words = (size_t)w->k * dtype_size(w->type) / 4, i, j;
	uint32_t *panel = (uint32_t *)w->data + (size_t)p * words * PANEL;
	int first = p * PANEL > s->row ? p * PANEL : s->row, o;
	int last = (p + 1) * PANEL < s->row + s->rows ? (p + 1) * PANEL : s->row + s->rows;

	for (i = 0; i < words; i += LINE)
		for (o = first; o < last; o++) {
			char *row = s->data + (size_t)(o - s->row) * words * 4;

			for (j = i; j < i + LINE && j < words; j++)
				if (put)
					memcpy(panel + j * PANEL + o % PANEL, row + j * 4, 4);
				else
					memcpy(row + j * 4, panel + j * PANEL + o % PANEL, 4);
		}
}

void
weight_put_cpu(struct weight *w, int row, int rows, const void *src, enum dtype from, int transposed)
{
	struct plain s = { (char *)src, from, row, rows, transposed };
	int p, i;

	#pragma omp parallel for schedule(static) private(i)
	for (p = row / PANEL; p < (row + rows + PANEL - 1) / PANEL; p++) {
		if (same_words(&s, w)) {
			move_words(&s, w, p, 1);
			continue;
		}
		for (i = 0; i < w->k; i += BLOCK) {
			struct block b;

			block_place(&b, &s, p, i, w->k);
			block_read_plain(&b, &s, w->k);
			block_write_panel(&b, w);
		}
	}
}

void
weight_get_cpu(void *dst, enum dtype to, const struct weight *w, int row, int rows, int transposed)
{
	struct plain s = { dst, to, row, rows, transposed };
	int p, i;

	if (w->type == DT_U8) {
		quant_get_cpu(dst, to, w, row, rows, transposed);
		return;
	}
	#pragma omp parallel for schedule(static) private(i)
	for (p = row / PANEL; p < (row + rows + PANEL - 1) / PANEL; p++) {
		if (same_words(&s, w)) {
			move_words(&s, w, p, 0);
			continue;
		}
		for (i = 0; i < w->k; i += BLOCK) {
			struct block b;

			block_place(&b, &s, p, i, w->k);
			block_read_panel(&b, w);
			block_write_plain(&b, &s, w->k);
		}
	}
}
