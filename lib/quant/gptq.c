/* SPDX-License-Identifier: MIT */
#include <cblas.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/gptq.h"
#include "lib/base/mem.h"
#include "lib/quant/gptq.h"

enum { SLICE = 64 };	/* rows of one call of BLAS, so that results do not depend on threads */

/* t = t inv(H) = t U^T U, columns in the order. */
static void
solve(float *t, int rows, const struct factor *f)
{
	int row;

	#pragma omp parallel for schedule(dynamic)
	for (row = 0; row < rows; row += SLICE) {
		float *slice = t + (size_t)row * (size_t)f->k;
		int n = rows - row < SLICE ? rows - row : SLICE;

		cblas_strmm(CblasRowMajor, CblasRight, CblasUpper, CblasTrans, CblasNonUnit, n, f->k, 1, f->u,
		    f->k, slice, f->k);
		cblas_strmm(CblasRowMajor, CblasRight, CblasUpper, CblasNoTrans, CblasNonUnit, n, f->k, 1,
		    f->u, f->k, slice, f->k);
	}
}

/* out = w + a T inv(H) */
static void
correct(float *out, const float *w, int row, int rows, const struct hessian *h, const struct factor *f, float a)
{
	size_t k = (size_t)f->k, n = (size_t)rows, o, j;
	float *t = mem_alloc(n * k * sizeof *t), *moved = mem_alloc(n * k * sizeof *moved);

	hessian_target(h, t, w, row, rows);
	for (o = 0; o < n; o++)
		for (j = 0; j < k; j++)
			moved[o * k + j] = t[o * k + (size_t)f->order[j]];
	solve(moved, rows, f);
	for (o = 0; o < n; o++)
		for (j = 0; j < k; j++)
			out[o * k + (size_t)f->order[j]] += a * moved[o * k + j];
	free(t);
	free(moved);
}

static void
clear_dead(float *w, int rows, const struct factor *f)
{
	int o, i;

	for (o = 0; o < rows; o++)
		for (i = 0; i < f->k; i++)
			if (f->dead[i])
				w[(size_t)o * (size_t)f->k + (size_t)i] = 0;
}

void
gptq_begin(struct quantised *l, int n, const struct factor *f, const struct gptq_options *o)
{
	size_t k = (size_t)f->k, scales;

	*l = (struct quantised){ .n = n, .k = f->k, .bits = o->bits };
	l->groups = o->group == -1 ? 1 : (f->k + o->group - 1) / o->group;
	scales = (size_t)l->groups * (size_t)n;
	l->q = mem_alloc(k * (size_t)n);
	l->zeros = mem_alloc(scales);
	l->scales = mem_alloc(scales * sizeof *l->scales);
	l->group = mem_copy(f->group, k * sizeof *f->group);
}

double
gptq_quantise(struct quantised *l, const float *w, int row, int rows, const struct hessian *h, int hrow,
    const struct factor *f, const struct gptq_options *o, double *energy)
{
	size_t k = (size_t)f->k, n = (size_t)rows, i;
	float *wanted = mem_copy(w, n * k * sizeof *w);
	double *error = mem_zero(n, sizeof *error), sum = 0;
	int g;

	if (energy)
		*energy = hessian_energy(h, w, rows);
	if (o->target > 0)
		correct(wanted, w, hrow, rows, h, f, o->target);
	clear_dead(wanted, rows, f);
	h->be->gptq(&(struct gptq){ .w = wanted, .u = f->u, .order = f->order, .group = f->group, .n = rows,
	    .k = f->k, .groups = l->groups, .bits = o->bits, .sym = o->sym, .signs = o->signs && !o->plain,
	    .least_zero = o->least_zero, .mse = o->mse, .ahead = o->order == ORDER_STATIC || l->groups == 1,
	    .rounded = !o->plain, .stale = o->plain, .stride = l->n, .q = l->q + row, .scales = l->scales + row,
	    .zeros = l->zeros + row, .error = error });
	for (i = 0; i < n; i++)
		sum += error[i];
	for (g = 0; g < l->groups; g++)		/* as they will be stored */
		for (i = 0; i < n; i++) {
			float *s = &l->scales[(size_t)g * (size_t)l->n + (size_t)row + i];

			*s = gptq_round_scale(*s);
		}
	free(wanted);
	free(error);
	return sum;
}
