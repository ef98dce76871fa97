/* SPDX-License-Identifier: MIT */
/*
 * swiglu - the gated unit of Shazeer (2020)
 *
 *   y = silu(g) u,  silu g = g s,  s = 1 / (1 + exp(-g))
 *   du = dy silu(g),  dg = dy u s (1 + g (1 - s))
 */
#include <math.h>

#include "kernels/cpu.h"
#include "kernels/value.h"

void
swiglu_ref(void *y, const void *gu, enum dtype type, int m, int f)
{
	int i, j;

	for (i = 0; i < m; i++)
		for (j = 0; j < f; j++) {
			size_t at = (size_t)i * 2 * f + j;
			double g = value_get(gu, type, at), u = value_get(gu, type, at + f);

			value_put(y, type, (size_t)i * f + j, g / (1 + exp(-g)) * u);
		}
}

void
swiglu_backward_ref(void *dgu, const void *dy, const void *gu, enum dtype type, int m, int f)
{
	int i, j;

	for (i = 0; i < m; i++)
		for (j = 0; j < f; j++) {
			size_t at = (size_t)i * 2 * f + j;
			double g = value_get(gu, type, at), u = value_get(gu, type, at + f);
			double d = value_get(dy, type, (size_t)i * f + j), s = 1 / (1 + exp(-g));

			value_put(dgu, type, at, d * u * s * (1 + g * (1 - s)));
			value_put(dgu, type, at + f, d * g * s);
		}
}
