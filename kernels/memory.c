/* SPDX-License-Identifier: MIT */
/*
 * memory - the memory columns of the CPU rows
 *
 * Big blocks live in huge pages, but for their ends: a model has hundreds of blocks of a few megabytes,
 * and their last huge pages would be half empty.
 */
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "kernels/cpu.h"

enum { CACHE_LINE = 64, HUGE_PAGE = 2 << 20 };

void *
alloc_cpu(size_t bytes)
{
	size_t align = bytes < HUGE_PAGE ? CACHE_LINE : HUGE_PAGE;
	void *p;

	if (bytes > SIZE_MAX - HUGE_PAGE)
		return NULL;
	bytes = bytes ? (bytes + CACHE_LINE - 1) / CACHE_LINE * CACHE_LINE : CACHE_LINE;
	if (posix_memalign(&p, align, bytes))
		return NULL;
	if (align == HUGE_PAGE)
		madvise(p, bytes / HUGE_PAGE * HUGE_PAGE, MADV_HUGEPAGE);
	zero_cpu(p, bytes);
	return p;
}

void
free_cpu(void *p)
{
	free(p);
}

void
copy_cpu(void *dst, const void *src, size_t bytes)
{
	memcpy(dst, src, bytes);
}

void
zero_cpu(void *p, size_t bytes)
{
	size_t i, chunk = HUGE_PAGE;

	#pragma omp parallel for schedule(static) if (bytes > 2 * chunk)
	for (i = 0; i < bytes; i += chunk)
		memset((char *)p + i, 0, bytes - i < chunk ? bytes - i : chunk);
}

void
sync_cpu(void)
{
}
