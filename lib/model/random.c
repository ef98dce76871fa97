/* SPDX-License-Identifier: MIT */
#include <math.h>
#include <stdlib.h>

#include "kernels/philox.h"
#include "lib/base/mem.h"
#include "lib/model/layout.h"

struct draw {
	const struct model *m;
	uint64_t seed;
};

/*
 * Box and Muller: four words make four normals. Element i of storage s is number
 * i % 4 of the counter {i / 4, s}.
 */
static void
normals(float x[4], uint64_t counter, uint32_t storage, uint64_t seed)
{
	uint32_t c[4] = { (uint32_t)counter, (uint32_t)(counter >> 32), storage, 0 };
	uint32_t key[2] = { (uint32_t)seed, (uint32_t)(seed >> 32) }, w[4];
	int i;

	philox(w, c, key);
	for (i = 0; i < 4; i += 2) {
		float radius = sqrtf(-2 * logf(1 - philox_uniform(w[i])));
		float angle = 6.28318531f * philox_uniform(w[i + 1]);

		x[i] = radius * cosf(angle);
		x[i + 1] = radius * sinf(angle);
	}
}

/* GPT-2 scales what is added to the residual stream by 1/sqrt(2 layers). */
static float
deviation(const struct model *m, const struct storage *s)
{
	const struct config *c = &m->config;
	const struct block *b = s->layer < 0 ? NULL : &m->blocks[s->layer];

	if (c->family == FAMILY_GPT2 && b && (s->matrix == &b->o.w || s->matrix == &b->down.w))
		return c->init_range / sqrtf(2 * (float)c->layers);
	return c->init_range;
}

static void
fill_matrix(const struct draw *draw, const struct storage *s, int row, int rows)
{
	size_t k = (size_t)s->matrix->k, first = (size_t)row * k, n = (size_t)rows * k, i;
	uint32_t number = (uint32_t)(s - draw->m->storage);
	float *x = mem_alloc(n * sizeof *x), four[4], sigma = deviation(draw->m, s);

	for (i = 0; i < n; i++) {
		if (i == 0 || (first + i) % 4 == 0)
			normals(four, (first + i) / 4, number, draw->seed);
		x[i] = sigma * four[(first + i) % 4];
	}
	draw->m->be->weight_put(s->matrix, row, rows, x, DT_F32, 0);
	free(x);
}

static int
is_scale(const struct model *m, const struct storage *s)
{
	const struct block *b = s->layer < 0 ? NULL : &m->blocks[s->layer];

	return s->vector == &m->final.w ||
	    (b && (s->vector == &b->norm1.w || s->vector == &b->norm2.w));
}

static void
fill(void *context, const struct storage *s, int row, int rows)
{
	const struct draw *draw = context;
	float *x;
	int i;

	if (s->matrix) {
		fill_matrix(draw, s, row, rows);
		return;
	}
	x = mem_alloc((size_t)rows * sizeof *x);
	for (i = 0; i < rows; i++)
		x[i] = is_scale(draw->m, s) ? 1 : 0;
	draw->m->be->upload(*s->vector, x, (size_t)rows * sizeof *x);
	free(x);
}

void
model_randomise(struct model *m, uint64_t seed)
{
	struct draw draw = { m, seed };

	layout_each_slice(m, fill, &draw);
}
