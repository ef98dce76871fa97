/* SPDX-License-Identifier: MIT */
/*
 * backend - the table: a row per machine, a cell per operation
 *
 * A cell names the function that does the work. Where a machine has nothing better than the definition,
 * the definition stands in its cell.
 */
#include <cpuid.h>
#include <string.h>

#include "kernels/cpu.h"
#include "lib/base/die.h"
#include "lib/base/mem.h"

static int
always(void)
{
	return 1;
}

static int
has_avx2(void)
{
	unsigned a, b, c = 0, d;

	/* clang 14 does not know the name "f16c" */
	return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") &&
	    __get_cpuid(1, &a, &b, &c, &d) && c & bit_F16C;
}

static int
has_avx512(void)
{
	return has_avx2() && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
	    __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq");
}

/* Host memory and the panels of kernels/panel.h are the same for every CPU. */
#define CPU_ROW(row, when, ...) \
	const struct backend backend_##row = { \
		.name = #row, \
		.usable = when, \
		.upload = copy_cpu, \
		.download = copy_cpu, \
		MEMORY_COLUMNS(CELL, cpu) \
		COLUMNS(CELL, row) \
		__VA_ARGS__ \
	}
CPU_ROW(ref, always, .matmul_train = matmul_ref);
CPU_ROW(avx2, has_avx2, .matmul_train = matmul_avx2, GRAM_COLUMNS(CELL, avx2));
CPU_ROW(avx512, has_avx512, CELL(matmul_train, avx512) GRAM_COLUMNS(CELL, avx512));

const struct backend *const backends[] = { &backend_cuda, &backend_avx512, &backend_avx2, &backend_ref, NULL };

const struct backend *
backend_pick(const char *name)
{
	const struct backend *const *row;

	for (row = backends; *row; row++)
		if ((!name || !strcmp(name, (*row)->name)) && (*row)->usable())
			return *row;
	return NULL;
}

const char *
backend_why(const char *name)
{
	const struct backend *const *row;

	for (row = backends; *row; row++)
		if (!strcmp(name, (*row)->name))
			return (*row)->why ? (*row)->why() : "this CPU lacks it";
	return "there is no such row of kernels";
}

void *
backend_alloc(const struct backend *be, size_t n, size_t size, const char *what)
{
	size_t bytes = mem_mul(n, size);
	void *p = be->alloc(bytes);

	if (!p)
		die("no memory for %s: %zu bytes more do not fit into %zu", what, bytes, be->room());
	return p;
}
