/* SPDX-License-Identifier: MIT */
/*
 * factor - the Cholesky factor of the inverse, by BLAS and LAPACK in blocks that threads share
 *
 * With P the reversal, P H P = L L^T gives H = R R^T, R = P L P upper, and inv(H) = U^T U with
 * U = inv(R) = P inv(L) P: one factorisation and one inversion of a triangle, half of the work of
 * Cholesky, inverse, Cholesky. P on both sides reverses an array from its end to its beginning.
 * Each call works on one thread, and the blocks are the same for any number of them: so are the bytes.
 */
#include <cblas.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "lib/base/die.h"
#include "lib/base/mem.h"
#include "lib/quant/gptq.h"

void spotrf_(const char *uplo, const int *n, float *a, const int *lda, int *info);
void strtri_(const char *uplo, const char *diag, const int *n, float *a, const int *lda, int *info);

struct column {
	float widest;		/* d of the group; 0 where columns are sorted without regard to groups */
	int group;
	float d;
	int i;
};

/* By descending weight; equals as they came. */
static int
by_weight(const void *a, const void *b)
{
	const struct column *x = a, *y = b;

	if (x->widest != y->widest)
		return x->widest > y->widest ? -1 : 1;
	if (x->group != y->group)
		return x->group - y->group;
	if (x->d != y->d)
		return x->d > y->d ? -1 : 1;
	return x->i - y->i;
}

static void
sort(struct factor *f, const float *d, const struct gptq_options *o)
{
	int k = f->k, size = o->group == -1 ? k : o->group, i, j;
	struct column *columns = mem_zero((size_t)k, sizeof *columns);
	float *widest = mem_zero((size_t)k, sizeof *widest);

	for (i = 0; i < k; i++)
		widest[i / size] = fmaxf(widest[i / size], d[i]);
	for (i = 0; i < k; i++) {
		columns[i] = (struct column){ .d = d[i], .i = i };
		if (o->order == ORDER_GROUP) {
			columns[i].group = i / size;
			columns[i].widest = widest[i / size];
		}
	}
	if (o->order != ORDER_OFF)
		qsort(columns, (size_t)k, sizeof *columns, by_weight);
	for (j = 0; j < k; j++) {
		f->order[j] = columns[j].i;
		f->group[columns[j].i] = (o->order == ORDER_FULL ? j : columns[j].i) / size;
	}
	free(columns);
	free(widest);
}

/* Dead inputs count as 1. Returns the mean of the diagonal, NaN where it is not finite. */
static double
diagonal(struct factor *f, float *d)
{
	double sum = 0;
	int i;

	for (i = 0; i < f->k; i++) {
		f->dead[i] = d[i] == 0;
		f->ndead += f->dead[i];
		if (f->dead[i])
			d[i] = 1;
		sum += d[i];
	}
	return isfinite(sum) ? sum / f->k : NAN;
}

enum { BLOCK = 384, STRIP = 96 };

static inline int
block_at(int i, int k)
{
	return k - i < BLOCK ? k - i : BLOCK;
}

/* The lower triangle of a [k, k] becomes L of a = L L^T. Returns 0 where a is not positive definite. */
static int
cholesky(float *a, int k)
{
	int j, i, l, n, info;

	for (j = 0; j < k; j += BLOCK) {
		float *column = a + (size_t)j * (size_t)k + j;	/* the diagonal's block, and what lies below */

		n = block_at(j, k);
		spotrf_("U", &n, column, &k, &info);		/* by columns, what is the lower triangle by rows */
		if (info)
			return 0;
		#pragma omp parallel for schedule(dynamic)
		for (i = j + n; i < k; i += BLOCK)
			cblas_strsm(CblasRowMajor, CblasRight, CblasLower, CblasTrans, CblasNonUnit, block_at(i, k), n, 1,
			    column, k, a + (size_t)i * (size_t)k + j, k);
		#pragma omp parallel for schedule(dynamic) private(l)
		for (i = j + n + (k - j - n - 1) / BLOCK * BLOCK; i >= j + n; i -= BLOCK) {
			float *row = a + (size_t)i * (size_t)k;

			for (l = j + n; l < i; l += BLOCK)
				cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasTrans, block_at(i, k), BLOCK, n, -1, row + j, k,
				    a + (size_t)l * (size_t)k + j, k, 1, row + l, k);
			cblas_ssyrk(CblasRowMajor, CblasLower, CblasNoTrans, block_at(i, k), n, -1, row + j, k, 1, row + i, k);
		}
	}
	return 1;
}

/* L [k, k], lower, becomes its inverse, from the last block of columns to the first. */
static int
invert(float *a, int k)
{
	int j, i, n, info;

	for (j = (k - 1) / BLOCK * BLOCK; j >= 0; j -= BLOCK) {
		float *column = a + (size_t)j * (size_t)k + j, *below, *done;
		int rows;

		n = block_at(j, k);
		below = column + (size_t)n * (size_t)k;
		done = below + n;
		rows = k - j - n;
		#pragma omp parallel for schedule(dynamic)
		for (i = 0; i < n; i += STRIP)
			cblas_strmm(CblasRowMajor, CblasLeft, CblasLower, CblasNoTrans, CblasNonUnit, rows,
			    n - i < STRIP ? n - i : STRIP, 1, done, k, below + i, k);
		#pragma omp parallel for schedule(dynamic)
		for (i = 0; i < rows; i += BLOCK)
			cblas_strsm(CblasRowMajor, CblasRight, CblasLower, CblasNoTrans, CblasNonUnit, block_at(i, rows), n, -1,
			    column, k, below + (size_t)i * (size_t)k, k);
		strtri_("U", "N", &n, column, &k, &info);
		if (info)
			return 0;
	}
	return 1;
}

/* U of the permuted H + damp mean I, in place of whatever u holds; 0 where that is not positive definite. */
static int
decompose(struct factor *f, const struct hessian *h, const int *place, const float *d, double mean)
{
	size_t k = (size_t)f->k, n = k * k, i;

	hessian_lower(h, place, f->u);
	for (i = 0; i < k; i++)
		f->u[(size_t)place[i] * (k + 1)] = d[i] + (float)(f->damp * mean);
	if (!cholesky(f->u, f->k))
		return 0;
	for (i = 0; i < k; i++)
		if (!isfinite(f->u[i * (k + 1)]))
			return 0;
	if (!invert(f->u, f->k))
		return 0;
	#pragma omp parallel for
	for (i = 0; i < n / 2; i++) {
		float x = f->u[i];

		f->u[i] = f->u[n - 1 - i];
		f->u[n - 1 - i] = x;
	}
	for (i = 1; i < k; i++)
		memset(f->u + i * k, 0, i * sizeof *f->u);
	return 1;
}

int
factor_init(struct factor *f, const struct hessian *h, const struct gptq_options *o, char *why)
{
	size_t k = (size_t)h->k;
	float *d = mem_alloc(k * sizeof *d);
	int *place = mem_alloc(k * sizeof *place), j, done = 0;
	double mean;

	*f = (struct factor){ .k = h->k, .order = mem_alloc(k * sizeof *f->order),
	    .group = mem_alloc(k * sizeof *f->group), .dead = mem_alloc(k), .u = mem_alloc(k * k * sizeof *f->u) };
	openblas_set_num_threads(1);
	hessian_diagonal(h, d);
	mean = diagonal(f, d);
	if (isfinite(mean)) {
		sort(f, d, o);
		for (j = 0; j < f->k; j++)
			place[f->order[j]] = f->k - 1 - j;
		f->damp = o->damp;
		while (!(done = decompose(f, h, place, d, mean)) && f->damp + 0.01 < 1)
			f->damp += 0.01;
	}
	free(d);
	free(place);
	if (done)
		return 0;
	factor_free(f);
	return isfinite(mean) ? reason(why, "its Hessian is not positive definite, even with damping of 1")
	    : reason(why, "its inputs are not finite");
}

void
factor_free(struct factor *f)
{
	free(f->order);
	free(f->group);
	free(f->dead);
	free(f->u);
	*f = (struct factor){ 0 };
}
