/* SPDX-License-Identifier: MIT */
/* gptq - what the definition of GPTQ and its fast rows share */
#ifndef KERNELS_GPTQ_H
#define KERNELS_GPTQ_H

#include <math.h>

#include "kernels/device.h"
#include "kernels/op.h"

/* What f16 holds of a scale that must be finite and not 0. */
static inline float
gptq_round_scale(float s)
{
	float h = f16_to_f32(f32_to_f16(s));

	if (h == 0)
		return copysignf(0x1p-14f, s);
	return isinf(h) ? copysignf(65504, s) : h;
}

/* Scale and zero of a group: a weight is s (code - z). */
struct gptq_grid { double s, z; };

DEVICE static inline double
gptq_code(const struct gptq *g, double w, struct gptq_grid grid)
{
	double q = nearbyint(w / grid.s) + grid.z, max = (1 << g->bits) - 1;

	return q < 0 ? 0 : q > max ? max : q;
}

/* The grid of a group whose columns are min, max, and the one of largest magnitude. */
DEVICE static inline struct gptq_grid
gptq_range(const struct gptq *g, double lo, double hi, double widest)
{
	double max = (1 << g->bits) - 1, middle = 1 << (g->bits - 1), a = fmax(-lo, hi), z;

	if (lo == 0 && hi == 0)
		return (struct gptq_grid){ 2 / max, g->sym ? middle : nearbyint(max / 2) };
	if (g->sym)
		return (struct gptq_grid){ g->signs ? -widest / middle : 2 * a / max, middle };
	z = nearbyint(-lo / ((hi - lo) / max));
	if (z < g->least_zero)
		return (struct gptq_grid){ hi / (max - g->least_zero), (double)g->least_zero };
	return (struct gptq_grid){ (hi - lo) / max, z };
}

/* The first column, in the order, behind the group of column j. */
DEVICE static inline int
gptq_group_end(const struct gptq *g, int j)
{
	int first = g->group[g->order[j]];

	while (j < g->k && g->group[g->order[j]] == first)
		j++;
	return j;
}

/*
 * The end of the block that begins at column j. Where scales are taken on the way, no group lies
 * across it if that can be helped, so that a group sees all updates.
 */
DEVICE static inline int
gptq_block_end(const struct gptq *g, int j)
{
	int end = g->k - j < GPTQ_BLOCK ? g->k : j + GPTQ_BLOCK, border = end, next = j;

	while (!g->ahead && !g->stale && next < end) {
		next = gptq_group_end(g, next);
		border = next > end ? border : next;
	}
	return border;
}

#endif
