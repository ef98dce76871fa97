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
