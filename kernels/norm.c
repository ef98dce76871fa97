/* SPDX-License-Identifier: MIT */
/*
 * norm - LayerNorm (Ba et al. 2016) and RMSNorm (Zhang and Sennrich 2019)
 *
 *   y = n w + b,  n = (x - mean) r,  r = 1 / sqrt(var + eps)     RMSNorm: mean = 0, b = 0
 *   dx += r (g - avg(g) - n avg(g n)),  g = dy w                 RMSNorm: without avg(g)
 *   dw += sum dy n,  db += sum dy
 */
#include <math.h>

#include "kernels/cpu.h"
#include "kernels/value.h"

void
norm_ref(void *y, const void *x, enum dtype type, const float *w, const float *b, float eps,
    float *stats, int m, int c)
{
	int i, j;

	for (i = 0; i < m; i++) {
		size_t row = (size_t)i * c;
		double mean = 0, square = 0, r;

		for (j = 0; b && j < c; j++)
			mean += value_get(x, type, row + j) / c;
		for (j = 0; j < c; j++)
			square += pow(value_get(x, type, row + j) - mean, 2);
		r = 1 / sqrt(square / c + eps);
		for (j = 0; j < c; j++)
			value_put(y, type, row + j,
			    (value_get(x, type, row + j) - mean) * r * w[j] + (b ? b[j] : 0));
		if (stats) {
			stats[2 * i] = (float)mean;
			stats[2 * i + 1] = (float)r;
		}
	}
}

void
norm_backward_ref(void *dx, float *dw, float *db, const void *dy, const void *x, enum dtype type,
    const float *w, const float *stats, int m, int c)
{
	int i, j;

	for (i = 0; i < m; i++) {
		size_t row = (size_t)i * c;
		double mean = stats[2 * i], r = stats[2 * i + 1], sum = 0, dot = 0;

		for (j = 0; j < c; j++) {
			double d = value_get(dy, type, row + j),
			    n = (value_get(x, type, row + j) - mean) * r;

			dw[j] += (float)(d * n);
			if (db)
				db[j] += (float)d;
			sum += db ? d * w[j] : 0;
			dot += d * w[j] * n;
		}
		for (j = 0; j < c; j++) {
			double d = value_get(dy, type, row + j),
			    n = (value_get(x, type, row + j) - mean) * r;

			value_put(dx, type, row + j,
			    value_get(dx, type, row + j) + r * (d * w[j] - sum / c - n * dot / c));
		}
	}
}
