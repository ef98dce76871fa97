/* SPDX-License-Identifier: MIT */
/*
 * rope - rotary position embedding (Su et al. 2021), halves paired as Transformers does
 *
 *   (a, b) = x[i], x[i + d/2]  ->  (a cos - b sin, a sin + b cos)
 */
#include "kernels/cpu.h"
#include "kernels/value.h"

void
rope_ref(void *x, enum dtype type, const float *table, const int *positions, int m, int stride,
    int heads, int d, int inverse)
{
	int i, head, j, half = d / 2;

	for (i = 0; i < m; i++) {
		const float *angle = table + (size_t)positions[i] * half * 2;

		for (head = 0; head < heads; head++) {
			size_t at = (size_t)i * stride + (size_t)head * d;

			for (j = 0; j < half; j++) {
				double cosine = angle[2 * j],
				    sine = inverse ? -angle[2 * j + 1] : angle[2 * j + 1];
				double a = value_get(x, type, at + j),
				    b = value_get(x, type, at + half + j);

				value_put(x, type, at + j, a * cosine - b * sine);
				value_put(x, type, at + half + j, a * sine + b * cosine);
			}
		}
	}
}
