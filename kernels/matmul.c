/* SPDX-License-Identifier: MIT */
/*
 * matmul - products with a matrix of weights W [n, k], the definition
 *
 *	y[r, o]  = b[o] + sum_i x[r, i] W[o, i]		forward
 *	dx[r, i] = sum_o dy[r, o] W[o, i]
 *	dW[o, i] += sum_r dy[r, o] x[r, i]
 *	db[o]    += sum_r dy[r, o]
 *
 * Sums of the three products in double, in the order of their index. A panel's
 * outputs are summed side by side, which is the order W lies in.
 */
#include "kernels/cpu.h"
#include "kernels/panel.h"

static double
get(const void *p, enum dtype type, size_t i)
{
	return type == DT_BF16 ? bf16_to_f32(((const uint16_t *)p)[i]) : ((const float *)p)[i];
}

static void
put(void *p, enum dtype type, size_t i, double x)
{
	if (type == DT_BF16)
		((uint16_t *)p)[i] = f32_to_bf16((float)x);
	else
		((float *)p)[i] = (float)x;
}

/* n elements, `stride` apart. */
static void
get_line(double *line, const void *p, enum dtype type, size_t at, size_t stride, int n)
{
	const uint16_t *h = (const uint16_t *)p + at;
	const float *f = (const float *)p + at;
	int i;

	if (type == DT_BF16)
		for (i = 0; i < n; i++)
			line[i] = bf16_to_f32(h[(size_t)i * stride]);
	else
		for (i = 0; i < n; i++)
			line[i] = f[(size_t)i * stride];
}

/* W[o .. o+n-1, i], of one panel. */
static void
get_outputs(double *line, const struct weight *w, int o, int i, int n)
{
	get_line(line, w->data, w->type, panel_index(w->type, w->k, o, i), w->type == DT_BF16 ? 2 : 1, n);
}

static int
panel_width(int n, int o)
{
	return n - o < PANEL ? n - o : PANEL;
}

void
matmul_ref(void *y, enum dtype ytype, const void *x, enum dtype xtype, const struct weight *w, const float *b,
    int m, int n, int accumulate)
{
	int p, r, i, o;

	if (w->type == DT_U8) {
		quant_matmul_ref(y, ytype, x, xtype, w, b, m, n, accumulate);
		return;
	}
	#pragma omp parallel for schedule(static) private(r, i, o)
	for (p = 0; p < n; p += PANEL)
		for (r = 0; r < m; r++) {
			double sum[PANEL] = { 0 }, line[PANEL];
			int outputs = panel_width(n, p);

			for (i = 0; i < w->k; i++) {
				double xi = get(x, xtype, (size_t)r * (size_t)w->k + (size_t)i);

				get_outputs(line, w, p, i, outputs);
				for (o = 0; o < outputs; o++)
					sum[o] += xi * line[o];
			}
			for (o = 0; o < outputs; o++) {
				size_t at = (size_t)r * (size_t)n + (size_t)(p + o);

				put(y, ytype, at, sum[o] + (b ? b[p + o] : 0) + (accumulate ? get(y, ytype, at) : 0));
			}
		}
}

void
matmul_dx_ref(void *dx, enum dtype dxtype, const void *dy, enum dtype dytype, const struct weight *w, int m, int n,
    int accumulate)
{
	int r, i, p, o;

	#pragma omp parallel for schedule(static) private(i, p, o)
	for (r = 0; r < m; r++)
		for (i = 0; i < w->k; i++) {
			size_t at = (size_t)r * (size_t)w->k + (size_t)i;
			double sum = 0, line[PANEL], grad[PANEL];

			for (p = 0; p < n; p += PANEL) {
				get_outputs(line, w, p, i, panel_width(n, p));
				get_line(grad, dy, dytype, (size_t)r * (size_t)n + (size_t)p, 1, panel_width(n, p));
				for (o = 0; o < panel_width(n, p); o++)
					sum += grad[o] * line[o];
			}
			put(dx, dxtype, at, sum + (accumulate ? get(dx, dxtype, at) : 0));
		}
}

void
matmul_dw_ref(float *dw, const struct weight *w, const void *dy, enum dtype dytype, const void *x, enum dtype xtype,
    int m, int n)
{
	int p, i, o, r;

	#pragma omp parallel for schedule(static) private(i, o, r)
	for (p = 0; p < n; p += PANEL)
		for (i = 0; i < w->k; i++) {
			double sum[PANEL] = { 0 }, line[PANEL];
			int outputs = panel_width(n, p);

			for (r = 0; r < m; r++) {
				double xi = get(x, xtype, (size_t)r * (size_t)w->k + (size_t)i);

				get_line(line, dy, dytype, (size_t)r * (size_t)n + (size_t)p, 1, outputs);
				for (o = 0; o < outputs; o++)
					sum[o] += xi * line[o];
			}
			for (o = 0; o < outputs; o++)
				dw[panel_index(w->type, w->k, p + o, i)] += (float)sum[o];
		}
}

/* Columns are summed BLOCK rows at a time: the partial sums keep long columns exact. */
void
bias_backward_cpu(float *db, const void *dy, enum dtype type, int m, int n)
{
	enum { WIDTH = 64, BLOCK = 64 };
	int c, r, i;

	#pragma omp parallel for schedule(static) private(r, i) if ((size_t)m * (size_t)n > 1 << 16)
	for (c = 0; c < n; c += WIDTH) {
		int width = n - c < WIDTH ? n - c : WIDTH;
		float total[WIDTH] = { 0 }, sum[WIDTH];

		for (r = 0; r < m; r++) {
			size_t at = (size_t)r * (size_t)n + (size_t)c;

			for (i = 0; i < width && r % BLOCK == 0; i++)
				sum[i] = 0;
			if (type == DT_BF16)
				for (i = 0; i < width; i++)
					sum[i] += bf16_to_f32(((const uint16_t *)dy)[at + (size_t)i]);
			else
				for (i = 0; i < width; i++)
					sum[i] += ((const float *)dy)[at + (size_t)i];
			for (i = 0; i < width && (r % BLOCK == BLOCK - 1 || r == m - 1); i++)
				total[i] += sum[i];
		}
		for (i = 0; i < width; i++)
			db[c + i] += total[i];
	}
}
