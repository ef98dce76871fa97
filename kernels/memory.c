/* SPDX-License-Identifier: MIT */
/*
 * memory - the memory columns of the CPU rows
 *
 * Big blocks live in huge pages, but for their ends: a model has hundreds of blocks of a few megabytes,
 * and their last huge pages would be half empty.
 */
#include <malloc.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "kernels/cpu.h"
#include "lib/base/file.h"

enum { CACHE_LINE = 64, HUGE_PAGE = 2 << 20 };

static size_t most = SIZE_MAX;
static _Atomic size_t given;

void
limit_cpu(size_t bytes)
{
	most = bytes ? bytes : SIZE_MAX;
}

/* memory.max of the control group, or no limit. */
static size_t
group_limit(void)
{
	size_t n, limit = SIZE_MAX;
	char *text = file_read("/sys/fs/cgroup/memory.max", &n), *end;
	unsigned long long max = text ? strtoull(text, &end, 10) : 0;

	if (max)
		limit = (size_t)max;
	free(text);
	return limit;
}

size_t
room_cpu(void)
{
	size_t machine = (size_t)sysconf(_SC_PHYS_PAGES) * (size_t)sysconf(_SC_PAGESIZE), group = group_limit();

	machine = group < machine ? group : machine;
	return most < SIZE_MAX ? most : machine;
}

void *
alloc_cpu(size_t bytes)
{
	size_t align = bytes < HUGE_PAGE ? CACHE_LINE : HUGE_PAGE, usable;
	void *p;

	if (bytes > SIZE_MAX - HUGE_PAGE)
		return NULL;
	bytes = bytes ? (bytes + CACHE_LINE - 1) / CACHE_LINE * CACHE_LINE : CACHE_LINE;
	if (posix_memalign(&p, align, bytes))
		return NULL;
	usable = malloc_usable_size(p);
	if (atomic_fetch_add(&given, usable) + usable > most) {
		free_cpu(p);
		return NULL;
	}
	if (align == HUGE_PAGE)
		madvise(p, bytes / HUGE_PAGE * HUGE_PAGE, MADV_HUGEPAGE);
	zero_cpu(p, bytes);
	return p;
}

void
free_cpu(void *p)
{
	atomic_fetch_sub(&given, malloc_usable_size(p));
	free(p);
}

void
copy_cpu(void *dst, const void *src, size_t bytes)
{
	if (bytes)
		memcpy(dst, src, bytes);
}

void
copy_rows_cpu(void *dst, size_t dst_pitch, const void *src, size_t src_pitch, size_t bytes, int m)
{
	int i;

	#pragma omp parallel for schedule(static) if (bytes * (size_t)m > HUGE_PAGE)
	for (i = 0; i < m; i++)
		memcpy((char *)dst + (size_t)i * dst_pitch, (const char *)src + (size_t)i * src_pitch, bytes);
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

void
visit_cpu(void *p, size_t bytes, void (*f)(void *host, size_t bytes, void *user), void *user)
{
	f(p, bytes, user);
}

/* A launch is a call here. */
void
repeat_cpu(void **kept, uint64_t key, void (*work)(void *user), void *user)
{
	(void)kept;
	(void)key;
	work(user);
}

void
forget_cpu(void *kept)
{
	(void)kept;
}
