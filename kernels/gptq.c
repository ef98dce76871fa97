/* SPDX-License-Identifier: MIT */
#include <math.h>
#include <stdlib.h>

#include "kernels/cpu.h"
#include "kernels/gptq.h"
#include "lib/base/mem.h"

/* A row of W, its columns in the order. */
struct row {
	const struct gptq *g;
	int o;
	double *w, *stale;	/* [k]; as it was when the block began */
};

static double
loss(const struct row *r, const double *w, int group, int from, int to, struct gptq_grid grid)
{
	const struct gptq *g = r->g;
	double sum = 0;
	int j;

	for (j = from; j < to; j++)
		if (g->group[g->order[j]] == group)
			sum += pow(fabs(w[j] - grid.s * (gptq_code(g, w[j], grid) - grid.z)), g->mse);
	return sum;
}

static struct gptq_grid
search(const struct row *r, const double *w, int group, int from, int to, struct gptq_grid grid)
{
	double least = loss(r, w, group, from, to, grid);
	struct gptq_grid best = grid;
	int p;

	for (p = 99; p > 20; p--) {
		struct gptq_grid narrow = { grid.s * p / 100, grid.z };
		double sum = loss(r, w, group, from, to, narrow);

		if (sum < least) {
			least = sum;
			best = narrow;
		}
	}
	return best;
}

/* The grid of a group, whose columns lie between from and to. */
static void
take(const struct row *r, const double *w, int group, int from, int to)
{
	const struct gptq *g = r->g;
	size_t at = (size_t)group * (size_t)g->stride + (size_t)r->o;
	double lo = 0, hi = 0, widest = 0;
	struct gptq_grid grid;
	int j;

	for (j = from; j < to; j++)
		if (g->group[g->order[j]] == group) {
			lo = fmin(lo, w[j]);
			hi = fmax(hi, w[j]);
			widest = fabs(w[j]) > fabs(widest) ? w[j] : widest;
		}
	grid = gptq_range(g, lo, hi, widest);
	if (g->mse > 0)
		grid = search(r, w, group, from, to, grid);
	g->scales[at] = g->rounded ? gptq_round_scale((float)grid.s) : (float)grid.s;
	g->zeros[at] = (uint8_t)grid.z;
}

/* Quantise column j and let the later ones make up for it. Returns e^2. */
static double
column(const struct row *r, int j)
{
	const struct gptq *g = r->g;
	size_t k = (size_t)g->k, i = (size_t)g->order[j], at = (size_t)g->group[i] * (size_t)g->stride + (size_t)r->o;
	const float *u = g->u + (size_t)j * k;
	struct gptq_grid grid = { g->scales[at], g->zeros[at] };
	double q = gptq_code(g, r->w[j], grid), e = (r->w[j] - grid.s * (q - grid.z)) / u[j];
	int c;

	g->q[i * (size_t)g->stride + (size_t)r->o] = (uint8_t)q;
	for (c = j + 1; c < g->k; c++)
		r->w[c] -= e * u[c];
	return e * e;
}

static void
quantise(const struct row *r)
{
	const struct gptq *g = r->g;
	int j, i, begin = 0;
	double sum = 0;

	for (i = 0; g->ahead && i < g->groups; i++)
		take(r, r->w, i, 0, g->k);
	for (j = 0; j < g->k; j++) {
		if (j == begin) {
			for (i = 0; i < g->k; i++)
				r->stale[i] = r->w[i];
			begin = gptq_block_end(g, j);
		}
		if (!g->ahead && (!j || g->group[g->order[j]] != g->group[g->order[j - 1]]))
			take(r, g->stale ? r->stale : r->w, g->group[g->order[j]], j, gptq_group_end(g, j));
		sum += column(r, j);
	}
	g->error[r->o] = sum;
}

void
gptq_ref(const struct gptq *g)
{
	int o;

	#pragma omp parallel for schedule(dynamic)
	for (o = 0; o < g->n; o++) {
		double *w = mem_alloc(2 * (size_t)g->k * sizeof *w);
		struct row r = { g, o, w, w + g->k };
		int j;

		for (j = 0; j < g->k; j++)
			w[j] = g->w[(size_t)o * (size_t)g->k + (size_t)g->order[j]];
		quantise(&r);
		free(w);
	}
}
