/* SPDX-License-Identifier: MIT */
/*
 * gptq_simd - strips of STRIP outputs in f32, threads over strips
 *
 * A strip is [k][STRIP], so that a column is a few vectors. Inside a block of columns every later
 * column is updated at once; those behind the block when it is done, KEEP columns at a time in
 * registers.
 */
#include <stdlib.h>
#include <string.h>

#include "kernels/cpu.h"
#include "kernels/gptq.h"
#include "kernels/vec.h"
#include "kernels/vmath.h"
#include "lib/base/mem.h"

enum { HALVES = 2, STRIP = HALVES * W, KEEP = W / 2 };

struct strip {
	const struct gptq *g;
	int o, lanes;			/* outputs o .. o+lanes-1 */
	float *w;			/* [k][STRIP] in the order */
	float *block, *e;		/* [GPTQ_BLOCK][STRIP]: w when the block began; the block's errors */
	int begin, end;			/* columns of the block */
	float *s, *z;			/* [groups][STRIP] */
};

struct grid { vec s, z; };

INLINE vec
absolute(vec x)
{
	return vec_max(x, -x);
}

/* To nearest, ties to even, of numbers below 2^22. */
INLINE vec
nearest(vec x)
{
	const vec magic = vec_set(0x1.8p23f);

	return x + magic - magic;
}

INLINE vec
code(const struct gptq *g, vec w, struct grid grid)
{
	vec q = vec_min(vec_set(1024), vec_max(vec_set(-1024), w / grid.s));

	return vec_min(vec_set((float)((1 << g->bits) - 1)), vec_max(vec_set(0), nearest(q) + grid.z));
}

INLINE struct grid
range(const struct gptq *g, vec lo, vec hi, vec widest)
{
	float max = (float)((1 << g->bits) - 1), middle = (float)(1 << (g->bits - 1));
	float least = (float)g->least_zero;
	vec a = vec_max(-lo, hi), zero = vec_set(0), s, z;

	if (g->sym) {
		s = g->signs ? -widest / vec_set(middle) : (a + a) / vec_set(max);
		z = vec_set(middle);
	} else {
		lo = vec_less(zero, a, lo, vec_set(-1));
		hi = vec_less(zero, a, hi, vec_set(1));
		s = (hi - lo) / vec_set(max);
		z = nearest(-lo / s);
		s = vec_less(z, vec_set(least), hi / vec_set(max - least), s);
		z = vec_max(z, vec_set(least));
	}
	return (struct grid){ vec_less(zero, a, s, vec_set(2 / max)), z };
}

/* Column j as a group sees that is taken now. */
INLINE const float *
seen(const struct strip *t, int j)
{
	return t->g->stale && !t->g->ahead && j < t->end ? t->block + (size_t)(j - t->begin) * STRIP :
	    t->w + (size_t)j * STRIP;
}

INLINE vec
loss(const struct strip *t, int group, int from, int to, struct grid grid, int half)
{
	const struct gptq *g = t->g;
	vec sum = vec_set(0), power = vec_set(g->mse);
	int j;

	for (j = from; j < to; j++)
		if (g->group[g->order[j]] == group) {
			vec w = vec_load(seen(t, j) + half * W);
			vec d = absolute(w - grid.s * (code(g, w, grid) - grid.z));

			sum += vec_less(vec_set(1e-30f), d, vec_exp(power * vec_log(vec_max(d, vec_set(1e-30f)))),
			    vec_set(0));
		}
	return sum;
}

INLINE struct grid
search(const struct strip *t, int group, int from, int to, struct grid grid, int half)
{
	struct grid best = grid;
	vec least = loss(t, group, from, to, grid, half);
	int p;

	for (p = 99; p > 20; p--) {
		struct grid narrow = { grid.s * vec_set((float)p / 100), grid.z };
		vec sum = loss(t, group, from, to, narrow, half);

		best.s = vec_less(sum, least, narrow.s, best.s);
		least = vec_min(sum, least);
	}
	return best;
}

/* The scales of a group, whose columns lie between from and to. */
static void
take(const struct strip *t, int group, int from, int to)
{
	const struct gptq *g = t->g;
	float *s = t->s + (size_t)group * STRIP, *z = t->z + (size_t)group * STRIP;
	int half, j, l;

	for (half = 0; half < HALVES; half++) {
		vec lo = vec_set(0), hi = lo, widest = lo;
		struct grid grid;

		for (j = from; j < to; j++)
			if (g->group[g->order[j]] == group) {
				vec w = vec_load(seen(t, j) + half * W);

				lo = vec_min(lo, w);
				hi = vec_max(hi, w);
				widest = vec_less(absolute(widest), absolute(w), w, widest);
			}
		grid = range(g, lo, hi, widest);
		if (g->mse > 0)
			grid = search(t, group, from, to, grid, half);
		vec_store(s + half * W, grid.s);
		vec_store(z + half * W, grid.z);
	}
	for (l = 0; g->rounded && l < STRIP; l++)
		s[l] = gptq_round_scale(s[l]);
	for (l = 0; l < t->lanes; l++) {
		g->scales[(size_t)group * (size_t)g->stride + (size_t)(t->o + l)] = s[l];
		g->zeros[(size_t)group * (size_t)g->stride + (size_t)(t->o + l)] = (uint8_t)z[l];
	}
}

/* Codes and errors of column j; the rest of the block makes up for it. */
static void
column(const struct strip *t, int j)
{
	const struct gptq *g = t->g;
	size_t i = (size_t)g->order[j];
	const float *u = g->u + (size_t)j * (size_t)g->k;
	const float *s = t->s + (size_t)g->group[i] * STRIP, *z = t->z + (size_t)g->group[i] * STRIP;
	float *w = t->w + (size_t)j * STRIP, *e = t->e + (size_t)(j - t->begin) * STRIP, codes[STRIP];
	uint8_t *q = g->q + i * (size_t)g->stride + (size_t)t->o;
	vec error[HALVES];
	int half, c, l;

	for (half = 0; half < HALVES; half++) {
		struct grid grid = { vec_load(s + half * W), vec_load(z + half * W) };
		vec x = vec_load(w + half * W), y = code(g, x, grid);

		error[half] = (x - grid.s * (y - grid.z)) / vec_set(u[j]);
		vec_store(e + half * W, error[half]);
		vec_store(codes + half * W, y);
	}
	for (c = j + 1; c < t->end; c++)
		for (half = 0; half < HALVES; half++) {
			float *x = t->w + (size_t)c * STRIP + half * W;

			vec_store(x, vec_fma(-error[half], vec_set(u[c]), vec_load(x)));
		}
	for (l = 0; l < t->lanes; l++)
		q[l] = (uint8_t)codes[l];
}

/* Columns c .. c+count-1 behind the block make up for all of it. */
INLINE void
update(const struct strip *t, int c, int count)
{
	const struct gptq *g = t->g;
	vec sum[KEEP][HALVES];
	int i, half, j;

	for (i = 0; i < count; i++)
		for (half = 0; half < HALVES; half++)
			sum[i][half] = vec_load(t->w + (size_t)(c + i) * STRIP + half * W);
	for (j = t->begin; j < t->end; j++) {
		const float *u = g->u + (size_t)j * (size_t)g->k + c;
		const float *e = t->e + (size_t)(j - t->begin) * STRIP;
		vec error[HALVES];

		for (half = 0; half < HALVES; half++)
			error[half] = -vec_load(e + half * W);
		for (i = 0; i < count; i++)
			for (half = 0; half < HALVES; half++)
				sum[i][half] = vec_fma(error[half], vec_set(u[i]), sum[i][half]);
	}
	for (i = 0; i < count; i++)
		for (half = 0; half < HALVES; half++)
			vec_store(t->w + (size_t)(c + i) * STRIP + half * W, sum[i][half]);
}

static void
block(struct strip *t)
{
	const struct gptq *g = t->g;
	float squares[STRIP];
	int j, c, half, l;

	memcpy(t->block, t->w + (size_t)t->begin * STRIP, (size_t)(t->end - t->begin) * STRIP * sizeof *t->w);
	for (j = t->begin; j < t->end; j++) {
		int group = g->group[g->order[j]];

		if (!g->ahead && (!j || g->group[g->order[j - 1]] != group))
			take(t, group, j, gptq_group_end(g, j));
		column(t, j);
	}
	for (c = t->end; c + KEEP <= g->k; c += KEEP)
		update(t, c, KEEP);
	for (; c < g->k; c++)
		update(t, c, 1);
	for (half = 0; half < HALVES; half++) {
		vec sum = vec_set(0);

		for (j = 0; j < t->end - t->begin; j++) {
			vec e = vec_load(t->e + (size_t)j * STRIP + half * W);

			sum = vec_fma(e, e, sum);
		}
		vec_store(squares + half * W, sum);
	}
	for (l = 0; l < t->lanes; l++)
		g->error[t->o + l] += squares[l];
}

static void
strip(const struct gptq *g, int o)
{
	size_t k = (size_t)g->k, groups = (size_t)g->groups;
	float *memory = mem_zero((k + 2 * GPTQ_BLOCK + 2 * groups) * STRIP, sizeof *memory);
	struct strip t = { .g = g, .o = o, .lanes = g->n - o < STRIP ? g->n - o : STRIP, .w = memory };
	int j, l, i;

	t.block = t.w + k * STRIP;
	t.e = t.block + GPTQ_BLOCK * STRIP;
	t.s = t.e + GPTQ_BLOCK * STRIP;
	t.z = t.s + groups * STRIP;
	for (l = 0; l < t.lanes; l++) {
		const float *row = g->w + (size_t)(o + l) * k;

		for (j = 0; j < g->k; j++)
			t.w[(size_t)j * STRIP + (size_t)l] = row[g->order[j]];
		g->error[o + l] = 0;
	}
	for (i = 0; g->ahead && i < g->groups; i++)
		take(&t, i, 0, g->k);
	for (t.end = 0; t.end < g->k; ) {
		t.begin = t.end;
		t.end = gptq_block_end(g, t.begin);
		block(&t);
	}
	free(memory);
}

void
FN(gptq)(const struct gptq *g)
{
	int o;

	#pragma omp parallel for schedule(dynamic)
	for (o = 0; o < g->n; o += STRIP)
		strip(g, o);
}
