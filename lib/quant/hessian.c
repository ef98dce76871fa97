/* SPDX-License-Identifier: MIT */
#include <stdlib.h>

#include "lib/base/mem.h"
#include "lib/quant/hessian.h"

enum { TILE = 384 };		/* columns; what lies above the diagonal is wasted, 8 % of 4864 */

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

/* Columns of tile i along a side. */
static int
width(int k, int i)
{
	return k - i * TILE < TILE ? k - i * TILE : TILE;
}

static struct weight *
tile(const struct hessian *h, int i, int j)
{
	return &h->tiles[i * (i + 1) / 2 + j];
}

/* Inputs in bf16 are multiplied as whole numbers where the row can. */
static int
whole(const struct backend *be, enum dtype type)
{
	return be->gram && type == DT_BF16;
}

void
hessian_init(struct hessian *h, const struct backend *be, enum dtype type, int k, int rows,
    const struct weight *w)
{
	size_t m = (size_t)rows, size = dtype_size(type);
	int i, j;

	*h = (struct hessian){ .be = be, .type = type, .k = k, .rows = rows, .w = w, .side = (k + TILE - 1) / TILE };
	h->tiles = mem_zero((size_t)(h->side * (h->side + 1) / 2), sizeof *h->tiles);
	h->strips = mem_zero((size_t)h->side, sizeof *h->strips);
	for (i = 0; i < h->side; i++) {
		if (!whole(be, type))
			h->strips[i] = backend_alloc(be, m * (size_t)width(k, i), size, "the Hessian");
		for (j = 0; j <= i; j++) {
			*tile(h, i, j) = square(be, width(k, i), width(k, j));
			tile(h, i, j)->data = backend_alloc(be, tile(h, i, j)->elements, sizeof(float), "the Hessian");
		}
	}
	if (whole(be, type))
		h->inputs.data = backend_alloc(be, be->gram_bytes(rows, k), 1, "the Hessian");
	if (w) {
		h->cross = square(be, by_outputs(w, k) ? w->n : k, k);
		h->cross.data = backend_alloc(be, h->cross.elements, sizeof(float), "the Hessian");
		h->outputs = backend_alloc(be, m * (size_t)(by_outputs(w, k) ? w->n : 0), size, "the Hessian");
		if (whole(be, type))
			h->others.data = backend_alloc(be, be->gram_bytes(rows, h->cross.n), 1, "the Hessian");
	}
}

void
hessian_free(struct hessian *h)
{
	int i;

	for (i = 0; i < h->side * (h->side + 1) / 2; i++)
		h->be->free(h->tiles[i].data);
	for (i = 0; i < h->side; i++)
		h->be->free(h->strips[i]);
	h->be->free(h->inputs.data);
	h->be->free(h->others.data);
	free(h->tiles);
	free(h->strips);
	if (h->w) {
		h->be->free(h->cross.data);
		h->be->free(h->outputs);
	}
}

size_t
hessian_bytes(const struct backend *be, enum dtype type, int k, int rows, const struct weight *w)
{
	size_t m = (size_t)rows, size = dtype_size(type), c = (size_t)k, n = c;
	size_t bytes = (c * c + c * TILE) / 2 * sizeof(float) + (whole(be, type) ? be->gram_bytes(rows, k) : m * c * size);

	if (!w)
		return bytes;
	if (by_outputs(w, k)) {
		n = (size_t)w->n;
		bytes += m * n * size;
	}
	return bytes + n * c * sizeof(float) + (whole(be, type) ? be->gram_bytes(rows, (int)n) : 0);
}

/* Columns of tile i of x [m, k], dense. */
static void
columns(const struct hessian *h, void *out, const void *x, size_t size, int m, int i)
{
	size_t bytes = (size_t)width(h->k, i) * size;

	h->be->copy_rows(out, bytes, (const char *)x + (size_t)(i * TILE) * size, (size_t)h->k * size, bytes, m);
}

static void
add_cross(struct hessian *h, const void *y, void *x, int m)
{
	enum dtype t = h->type;

	h->be->add(x, -1, y, t, (size_t)m * (size_t)h->k);
	if (by_outputs(h->w, h->k)) {
		h->be->matmul(h->outputs, t, x, t, h->w, NULL, m, h->w->n, 0);
		x = h->outputs;
	}
	if (whole(h->be, t)) {
		h->be->gram_pack(&h->others, x, m, h->cross.n);
		h->be->gram(h->cross.data, &h->cross, &h->others, 0, &h->inputs, 0);
	} else
		h->be->matmul_dw(h->cross.data, &h->cross, x, t, y, t, m, h->cross.n);
}

void
hessian_add(struct hessian *h, const void *y, void *x, int m)
{
	enum dtype t = h->type;
	int i, j;

	if (whole(h->be, t))
		h->be->gram_pack(&h->inputs, y, m, h->k);
	for (i = 0; i < h->side; i++) {
		if (!whole(h->be, t))
			columns(h, h->strips[i], y, dtype_size(t), m, i);
		for (j = 0; j <= i; j++)
			if (whole(h->be, t))
				h->be->gram(tile(h, i, j)->data, tile(h, i, j), &h->inputs, i * TILE, &h->inputs, j * TILE);
			else
				h->be->matmul_dw(tile(h, i, j)->data, tile(h, i, j), h->strips[i], t, h->strips[j], t, m,
			    tile(h, i, j)->n);
	}
	if (h->w)
		add_cross(h, y, x, m);
	h->tokens += m;
}

/* A tile, row-major; to be freed. */
static float *
fetch(const struct hessian *h, int i, int j)
{
	const struct weight *t = tile(h, i, j);
	float *rows = mem_alloc((size_t)t->n * (size_t)t->k * sizeof *rows);

	h->be->weight_get(rows, DT_F32, t, 0, t->n, 0);
	return rows;
}

void
hessian_diagonal(const struct hessian *h, float *d)
{
	int i, r;

	for (i = 0; i < h->side; i++) {
		float *rows = fetch(h, i, i);

		for (r = 0; r < width(h->k, i); r++)
			d[i * TILE + r] = 2 / (float)h->tokens * rows[r * width(h->k, i) + r];
		free(rows);
	}
}

static void
place_tile(const struct hessian *h, int i, int j, const int *place, float *out)
{
	float scale = 2 / (float)h->tokens, *rows = fetch(h, i, j);
	int n = width(h->k, i), k = width(h->k, j), r, c;

	for (r = 0; r < n; r++)
		for (c = 0; c < k && j * TILE + c <= i * TILE + r; c++) {
			size_t to = (size_t)place[i * TILE + r], from = (size_t)place[j * TILE + c];

			out[to > from ? to * (size_t)h->k + from : from * (size_t)h->k + to] = scale * rows[r * k + c];
		}
	free(rows);
}

void
hessian_lower(const struct hessian *h, const int *place, float *out)
{
	int i, j;

	#pragma omp parallel for schedule(dynamic) private(j)
	for (i = 0; i < h->side; i++)
		for (j = 0; j <= i; j++)
			place_tile(h, i, j, place, out);
}

static float *
upload(const struct backend *be, const float *w, size_t n)
{
	float *device = backend_alloc(be, n, sizeof *device, "the Hessian");

	be->upload(device, w, n * sizeof *w);
	return device;
}

/* sum of y[n, columns] w[n, k] over the columns of tile i of w. */
static double
dot(const struct hessian *h, const float *y, const float *w, int n, int i)
{
	size_t columns = (size_t)width(h->k, i), k = (size_t)h->k, o, c;
	double sum = 0;

	for (o = 0; o < (size_t)n; o++)
		for (c = 0; c < columns; c++)
			sum += (double)y[o * columns + c] * (double)w[o * k + (size_t)(i * TILE) + c];
	return sum;
}

/* Tiles left of the diagonal count twice: H is symmetric. */
double
hessian_energy(const struct hessian *h, const float *w, int n)
{
	size_t size = (size_t)n * TILE * sizeof(float);
	float *all = upload(h->be, w, (size_t)n * (size_t)h->k), *left = backend_alloc(h->be, size, 1, "the Hessian");
	float *product = backend_alloc(h->be, size, 1, "the Hessian"), *y = mem_alloc(size);
	double sum = 0;
	int i, j;

	for (j = 0; j < h->side; j++) {
		columns(h, left, all, sizeof *w, n, j);
		for (i = j; i < h->side; i++) {
			const struct weight *t = tile(h, i, j);

			h->be->matmul(product, DT_F32, left, DT_F32, t, NULL, n, t->n, 0);
			h->be->download(y, product, (size_t)n * (size_t)t->n * sizeof *y);
			sum += (i == j ? 1 : 2) * dot(h, y, w, n, i);
		}
	}
	h->be->free(all);
	h->be->free(left);
	h->be->free(product);
	free(y);
	return sum * 2 / (double)h->tokens;
}

/* out = w C */
static void
apply(const struct hessian *h, float *out, const float *w, int rows)
{
	size_t n = (size_t)rows * (size_t)h->k;
	float *in = upload(h->be, w, n), *product = backend_alloc(h->be, n, sizeof *product, "the Hessian");

	h->be->matmul_dx(product, DT_F32, in, DT_F32, &h->cross, rows, h->k, 0);
	h->be->download(out, product, n * sizeof *out);
	h->be->free(in);
	h->be->free(product);
}

void
hessian_target(const struct hessian *h, float *out, const float *w, int row, int rows)
{
	size_t n = (size_t)rows * (size_t)h->k, i;
	float scale = 2 / (float)h->tokens;

	if (by_outputs(h->w, h->k))
		h->be->weight_get(out, DT_F32, &h->cross, row, rows, 0);
	else
		apply(h, out, w, rows);
	for (i = 0; i < n; i++)
		out[i] *= scale;
}
