/* SPDX-License-Identifier: MIT */
#include <stdlib.h>
#include <string.h>

#include "lib/base/die.h"
#include "lib/base/mem.h"
#include "lib/quant/hessian.h"

enum { BLOCK = 256 };	/* wasted: the upper halves of the blocks on the diagonal, 5 % of 4864 */

/* X W^T is less work than (X - Y)^T Y. */
static int
by_outputs(const struct weight *w, int k)
{
	return 2 * (int64_t)w->n < k;
}

static struct weight
square(const struct backend *be, int n, int k)
{
	struct weight w = { .type = DT_F32, .n = n, .k = k, .elements = be->weight_elements(DT_F32, n, k) };

	return w;
}

static void *
allocate(const struct backend *be, size_t bytes)
{
	void *p = be->alloc(bytes);

	if (!p)
		die("no memory for the Hessian, asking for %zu bytes", bytes);
	return p;
}

static int
block_rows(int k, int block)
{
	return k - block * BLOCK < BLOCK ? k - block * BLOCK : BLOCK;
}

void
hessian_init(struct hessian *h, const struct backend *be, enum dtype type, int k, int rows,
    const struct weight *w)
{
	size_t m = (size_t)rows, size = dtype_size(type);
	int i;

	*h = (struct hessian){ .be = be, .type = type, .k = k, .rows = rows, .w = w,
	    .nblocks = (k + BLOCK - 1) / BLOCK };
	h->blocks = mem_zero((size_t)h->nblocks, sizeof *h->blocks);
	for (i = 0; i < h->nblocks; i++) {
		int n = block_rows(k, i);

		h->blocks[i] = square(be, n, i * BLOCK + n);
		h->blocks[i].data = allocate(be, h->blocks[i].elements * sizeof(float));
	}
	h->part = allocate(be, m * BLOCK * size);
	h->left = allocate(be, m * (size_t)k * size);
	if (w) {
		h->cross = square(be, by_outputs(w, k) ? w->n : k, k);
		h->cross.data = allocate(be, h->cross.elements * sizeof(float));
		h->outputs = allocate(be, m * (size_t)(by_outputs(w, k) ? w->n : 0) * size);
	}
}

void
hessian_free(struct hessian *h)
{
	int i;

	for (i = 0; i < h->nblocks; i++)
		h->be->free(h->blocks[i].data);
	free(h->blocks);
	h->be->free(h->part);
	h->be->free(h->left);
	if (h->w) {
		h->be->free(h->cross.data);
		h->be->free(h->outputs);
	}
}

size_t
hessian_bytes(enum dtype type, int k, int rows, const struct weight *w)
{
	size_t m = (size_t)rows, size = dtype_size(type), c = (size_t)k;
	size_t triangle = (c * c + c * BLOCK) / 2 * sizeof(float), scratch = m * (BLOCK + c) * size;

	if (!w)
		return triangle + scratch;
	return triangle + scratch + (by_outputs(w, k) ? (size_t)w->n * (c * sizeof(float) + m * size) :
	    c * c * sizeof(float));
}

/* Columns from .. from+count-1 of x [m, k], dense. */
static void
columns(void *out, const void *x, size_t size, int m, int k, int from, int count)
{
	size_t width = (size_t)count * size;
	int r;

	#pragma omp parallel for
	for (r = 0; r < m; r++)
		memcpy((char *)out + (size_t)r * width,
		    (const char *)x + ((size_t)r * (size_t)k + (size_t)from) * size, width);
}

/* x -= y */
static void
subtract(void *x, const void *y, enum dtype type, size_t n)
{
	const uint16_t *y16 = y;
	const float *y32 = y;
	uint16_t *x16 = x;
	float *x32 = x;
	size_t i;

	#pragma omp parallel for
	for (i = 0; i < n; i++)
		if (type == DT_BF16)
			x16[i] = f32_to_bf16(bf16_to_f32(x16[i]) - bf16_to_f32(y16[i]));
		else
			x32[i] -= y32[i];
}

static void
add_cross(struct hessian *h, const void *y, void *x, int m)
{
	enum dtype t = h->type;

	subtract(x, y, t, (size_t)m * (size_t)h->k);
	if (by_outputs(h->w, h->k)) {
		h->be->matmul(h->outputs, t, x, t, h->w, NULL, m, h->w->n, 0);
		x = h->outputs;
	}
	h->be->matmul_dw(h->cross.data, &h->cross, x, t, y, t, m, h->cross.n);
}

void
hessian_add(struct hessian *h, const void *y, void *x, int m)
{
	size_t size = dtype_size(h->type);
	int i;

	for (i = 0; i < h->nblocks; i++) {
		struct weight *b = &h->blocks[i];
		const void *left = y;

		columns(h->part, y, size, m, h->k, i * BLOCK, b->n);
		if (b->k < h->k)
			columns(h->left, y, size, m, h->k, 0, b->k), left = h->left;
		h->be->matmul_dw(b->data, b, h->part, h->type, left, h->type, m, b->n);
	}
	if (h->w)
		add_cross(h, y, x, m);
	h->tokens += m;
}

/* Rows of a block as they are, [n, k] of it; to be freed. */
static float *
fetch(const struct hessian *h, int block)
{
	const struct weight *b = &h->blocks[block];
	float *rows = mem_alloc((size_t)b->n * (size_t)b->k * sizeof *rows);

	h->be->weight_get(rows, DT_F32, b, 0, b->n, 0);
	return rows;
}

void
hessian_diagonal(const struct hessian *h, float *d)
{
	int i, r;

	for (i = 0; i < h->nblocks; i++) {
		float *rows = fetch(h, i);

		for (r = 0; r < h->blocks[i].n; r++)
			d[i * BLOCK + r] = 2 / (float)h->tokens * rows[r * h->blocks[i].k + i * BLOCK + r];
		free(rows);
	}
}

void
hessian_lower(const struct hessian *h, const int *place, float *out)
{
	float scale = 2 / (float)h->tokens;
	int i;

	#pragma omp parallel for schedule(dynamic)
	for (i = 0; i < h->nblocks; i++) {
		const float *row;
		float *rows = fetch(h, i);
		int r, c;

		for (r = i * BLOCK, row = rows; r < h->blocks[i].k; r++, row += h->blocks[i].k)
			for (c = 0; c <= r; c++) {
				size_t to = (size_t)place[r], from = (size_t)place[c];

				out[to > from ? to * (size_t)h->k + from : from * (size_t)h->k + to] = scale * row[c];
			}
		free(rows);
	}
}

/* Blocks left of the diagonal count twice: H is symmetric. */
double
hessian_energy(const struct hessian *h, const float *w, int n)
{
	size_t k = (size_t)h->k;
	double sum = 0;
	int i, o, c;

	for (i = 0; i < h->nblocks; i++) {
		const struct weight *b = &h->blocks[i];
		size_t width = (size_t)b->k, rows = (size_t)b->n, from = (size_t)i * BLOCK;
		float *left = allocate(h->be, (size_t)n * width * sizeof *left);
		float *y = allocate(h->be, (size_t)n * rows * sizeof *y);

		for (o = 0; o < n; o++)
			for (c = 0; c < b->k; c++)
				left[(size_t)o * width + (size_t)c] = w[(size_t)o * k + (size_t)c] *
				    ((size_t)c < from ? 2.0f : 1.0f);
		h->be->matmul(y, DT_F32, left, DT_F32, b, NULL, n, b->n, 0);
		for (o = 0; o < n; o++)
			for (c = 0; c < b->n; c++)
				sum += (double)y[(size_t)o * rows + (size_t)c] *
				    (double)w[(size_t)o * k + from + (size_t)c];
		h->be->free(left);
		h->be->free(y);
	}
	return sum * 2 / (double)h->tokens;
}

void
hessian_target(const struct hessian *h, float *out, const float *w, int row, int rows)
{
	size_t n = (size_t)rows * (size_t)h->k, i;
	float scale = 2 / (float)h->tokens;

	if (by_outputs(h->w, h->k))
		h->be->weight_get(out, DT_F32, &h->cross, row, rows, 0);
	else
		h->be->matmul_dx(out, DT_F32, w, DT_F32, &h->cross, rows, h->k, 0);
	for (i = 0; i < n; i++)
		out[i] *= scale;
}
