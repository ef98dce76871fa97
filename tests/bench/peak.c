/* SPDX-License-Identifier: MIT */
/* peak - prints the ceilings of this machine */
#include <stdio.h>

#include "kernels/cpu.h"
#include "tests/bench/peak.h"

int
main(void)
{
	enum { MEMORY = 1 << 30 };
	void *p = alloc_cpu(MEMORY);
	double rate = 0;
	int i;

	for (i = 0; i < PEAK_UNITS; i++)
		if (peak_usable(i))
			printf("%-10s %7.1f GFLOP/s in registers, %d threads\n", peak_units[i].name,
			    1e-9 * peak_flops(i), omp_get_max_threads());
		else
			printf("%-10s not on this machine\n", peak_units[i].name);
	for (i = 0; p && i < 3; i++) {
		double r = peak_read(p, MEMORY);

		rate = r > rate ? r : rate;
	}
	printf("read       %7.1f GB/s from memory\n", 1e-9 * rate);
	free_cpu(p);
	return 0;
}
