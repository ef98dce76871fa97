/* SPDX-License-Identifier: MIT */
/* bias - its gradient: db[o] += sum_r dy[r, o] */
#include "kernels/cpu.h"

/* Columns are summed BLOCK rows at a time: the partial sums keep long columns exact. */
void
bias_backward_cpu(float *db, const void *dy, enum dtype type, int m, int n)
{
	enum { WIDTH = 64, BLOCK = 64 };
	int c, r, i;

	#pragma omp parallel for schedule(static) private(r, i) if ((size_t)m * (size_t)n > 1 << 16)
	for (c = 0; c < n; c += WIDTH) {
		int width = n - c < WIDTH ? n - c : WIDTH;
		float total[WIDTH] = { 0 }, sum[WIDTH];

		for (r = 0; r < m; r++) {
			size_t at = (size_t)r * (size_t)n + (size_t)c;

			for (i = 0; i < width && r % BLOCK == 0; i++)
				sum[i] = 0;
			if (type == DT_BF16)
				for (i = 0; i < width; i++)
					sum[i] += bf16_to_f32(((const uint16_t *)dy)[at + (size_t)i]);
			else
				for (i = 0; i < width; i++)
					sum[i] += ((const float *)dy)[at + (size_t)i];
			for (i = 0; i < width && (r % BLOCK == BLOCK - 1 || r == m - 1); i++)
				total[i] += sum[i];
		}
		for (i = 0; i < width; i++)
			db[c + i] += total[i];
	}
}
