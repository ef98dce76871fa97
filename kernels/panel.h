/* SPDX-License-Identifier: MIT */
/*
 * panel - the layout of weights on CPUs, for every CPU row
 *
 * W [n, k] is cut into panels of PANEL outputs. f32: panel p is [k][PANEL],
 * element (o, i) at i * PANEL + o % PANEL. bf16: inputs come in pairs, as bf16 dot
 * products want them: panel p is [ceil(k/2)][PANEL][2]. A panel is one linear
 * read of the memory. Outputs beyond n, and the odd input, are zero.
 */
#ifndef KERNELS_PANEL_H
#define KERNELS_PANEL_H

#include <stddef.h>

#include "kernels/dtype.h"

enum { PANEL = 32 };

/* Elements of one panel of k inputs. */
static inline size_t
panel_elements(enum dtype type, int k)
{
	return (size_t)(type == DT_BF16 ? (k + 1) / 2 * 2 : k) * PANEL;
}

/* Place of W[o, i] among the elements. */
static inline size_t
panel_index(enum dtype type, int k, int o, int i)
{
	size_t base = (size_t)(o / PANEL) * panel_elements(type, k);

	if (type == DT_BF16)
		return base + ((size_t)(i / 2) * PANEL + (size_t)(o % PANEL)) * 2 + (size_t)(i % 2);
	return base + (size_t)i * PANEL + (size_t)(o % PANEL);
}

#endif
