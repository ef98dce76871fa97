/* SPDX-License-Identifier: MIT */
/*
 * quant - the layout of quantised weights on CPUs, for every CPU row
 *
 * Panels of PANEL outputs as in kernels/panel.h, each one linear read: group after group
 *
 *	scales [PANEL] f16, zeros [PANEL] f16 where asymmetric, codes
 *
 * Codes lie in words of 32 bits [inputs / (32 / bits)][PANEL]; of a word's inputs number i has the bits from
 * 16 (i % 2) + bits (i / 2) on: neighbours lie one above the other in the halves, as products of pairs want them.
 * They count from the least: -2^(bits-1) is 0. The last group is filled up to a multiple of 8 inputs.
 */
#ifndef KERNELS_QUANT_H
#define KERNELS_QUANT_H

#include <stddef.h>

#include "kernels/op.h"
#include "kernels/panel.h"

enum { QUANT_WORD = 8 };	/* inputs that groups are filled up to */

/* Inputs with those that fill up the last group. */
static inline int
quant_padded(int k)
{
	return (k + QUANT_WORD - 1) / QUANT_WORD * QUANT_WORD;
}

static inline int
quant_group_count(const struct quant *q, int k)
{
	return (k + q->group - 1) / q->group;
}

/* Bytes before the codes of a group. */
static inline size_t
quant_head(const struct quant *q)
{
	return (size_t)PANEL * 2 * (q->asymmetric ? 2 : 1);
}

/* Bytes of the codes of n inputs, n a multiple of 8. */
static inline size_t
quant_codes(const struct quant *q, int n)
{
	return (size_t)n * PANEL * (size_t)q->bits / 8;
}

static inline size_t
quant_panel_bytes(const struct quant *q, int k)
{
	return (size_t)quant_group_count(q, k) * quant_head(q) + quant_codes(q, quant_padded(k));
}

/* Where group g of the panel of output o begins. */
static inline char *
quant_group(const struct weight *w, int o, int g)
{
	return (char *)w->data + (size_t)(o / PANEL) * quant_panel_bytes(&w->quant, w->k) +
	    (size_t)g * (quant_head(&w->quant) + quant_codes(&w->quant, w->quant.group));
}

#endif
