/* SPDX-License-Identifier: MIT */
#include <omp.h>
#include <stdlib.h>

#include "lib/base/threads.h"

/* libgomp, linked statically, reads its environment in a constructor of no priority: after this one */
__attribute__((constructor(101))) static void
spin_less(void)
{
	if (!getenv("OMP_WAIT_POLICY"))
		setenv("GOMP_SPINCOUNT", "1000", 0);
}

void
threads_use(int n)
{
	if (n)
		omp_set_num_threads(n);
}
