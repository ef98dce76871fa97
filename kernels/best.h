/* SPDX-License-Identifier: MIT */
/* best - the k largest of a row, in order, in one scan */
#ifndef KERNELS_BEST_H
#define KERNELS_BEST_H

#include "kernels/order.h"
#include "kernels/vec.h"

/* Put x among the n best, which are k at most; equals that came first stay first. */
static inline int
best_insert(struct ranked *best, int n, int k, struct ranked x)
{
	int j = n < k ? n++ : k - 1;

	for (; j > 0 && best[j - 1].value < x.value; j--)
		best[j] = best[j - 1];
	best[j] = x;
	return n;
}

static inline void
best_of(struct ranked *best, int k, const float *x, int v)
{
	int j, i, n = 0;

	for (j = 0; j < v && n < k; j++)
		n = best_insert(best, n, k, (struct ranked){ x[j], j });
	for (; j < v; j += W) {
		vec edge = vec_set(best[k - 1].value);
		int end = v - j < W ? v - j : W;

		if (!vec_any_less(edge, vec_first(vec_get_n(x, DT_F32, j, end), end,
		    best[k - 1].value)))
			continue;
		for (i = j; i < j + end; i++)
			if (x[i] > best[k - 1].value)
				best_insert(best, k, k, (struct ranked){ x[i], i });
	}
}

#endif
