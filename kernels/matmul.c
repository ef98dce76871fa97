/* SPDX-License-Identifier: MIT */
/*
 * matmul - products with a matrix of weights W [n, k], the definition
 *
 *	y[r, o]  = b[o] + sum_i x[r, i] W[o, i]		forward
 *	dx[r, i] = sum_o dy[r, o] W[o, i]
 *	dW[o, i] += sum_r dy[r, o] x[r, i]
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

/* W[o .. o + PANEL - 1, i], o a multiple of PANEL: outputs that W lacks are zero. */
static void
get_outputs(double line[PANEL], const struct weight *w, int o, int i)
{
	size_t at = panel_index(w->type, w->k, o, i);
	const uint16_t *h = (const uint16_t *)w->data + at;
	const float *f = (const float *)w->data + at;
	int j;

	if (w->type == DT_BF16)
		for (j = 0; j < PANEL; j++)
			line[j] = bf16_to_f32(h[2 * j]);
	else
		for (j = 0; j < PANEL; j++)
			line[j] = f[j];
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

			for (i = 0; i < w->k; i++) {
				double xi = get(x, xtype, (size_t)r * (size_t)w->k + (size_t)i);

				get_outputs(line, w, p, i);
				for (o = 0; o < PANEL; o++)
					sum[o] += xi * line[o];
			}
			for (o = 0; o < panel_width(n, p); o++) {
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
			double sum = 0, line[PANEL];

			for (p = 0; p < n; p += PANEL) {
				get_outputs(line, w, p, i);
				for (o = 0; o < panel_width(n, p); o++)
					sum += get(dy, dytype, (size_t)r * (size_t)n + (size_t)(p + o)) * line[o];
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
			double sum[PANEL] = { 0 };

			for (r = 0; r < m; r++) {
				double xi = get(x, xtype, (size_t)r * (size_t)w->k + (size_t)i);

				for (o = 0; o < panel_width(n, p); o++)
					sum[o] += get(dy, dytype, (size_t)r * (size_t)n + (size_t)(p + o)) * xi;
			}
			for (o = 0; o < panel_width(n, p); o++)
				dw[panel_index(w->type, w->k, p + o, i)] += (float)sum[o];
		}
}
