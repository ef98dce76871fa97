/* SPDX-License-Identifier: MIT */
#include <omp.h>
#include <stdint.h>
#include <stdlib.h>
#include <unistd.h>

#include "lib/base/threads.h"

void
threads_tame(const char **argv)
{
	char self[4096];
	ssize_t n;

	if (getenv("GOMP_SPINCOUNT") || getenv("OMP_WAIT_POLICY"))
		return;
	setenv("GOMP_SPINCOUNT", "1000", 1);
	n = readlink("/proc/self/exe", self, sizeof self - 1);
	if (n < 0)
		return;
	self[n] = '\0';
	execv(self, (char *const *)(uintptr_t)argv);
}

void
threads_use(int n)
{
	if (n)
		omp_set_num_threads(n);
}
