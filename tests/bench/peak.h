/* SPDX-License-Identifier: MIT */
/*
 * peak - what this machine can do at most: the yardstick beside every measurement
 *
 * Arithmetic: multiply-adds on registers alone, on every OpenMP thread at once.
 * Memory: one linear stream per thread over a block far larger than the caches.
 * Machines shared with others drift: probe right before and after what is
 * measured and quote the ratio.
 */
#ifndef TESTS_BENCH_PEAK_H
#define TESTS_BENCH_PEAK_H

#include <immintrin.h>
#include <omp.h>
#include <stddef.h>
#include <time.h>

enum { PEAK_CHAINS = 12, PEAK_STEPS = 1 << 20 };

static inline double
peak_now(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

/* PEAK_CHAINS independent sums hide the latency; the empty asm keeps the compiler from thinking. */
#define PEAK_LOOP(name, machine, vec, start, step) \
	__attribute__((target(machine))) static inline void \
	name(void) \
	{ \
		vec sum[PEAK_CHAINS], a = start, b = start; \
		int i, c; \
		_Pragma("GCC unroll 12") \
		for (c = 0; c < PEAK_CHAINS; c++) \
			sum[c] = start; \
		for (i = 0; i < PEAK_STEPS; i++) { \
			_Pragma("GCC unroll 12") \
			for (c = 0; c < PEAK_CHAINS; c++) { \
				sum[c] = step; \
				__asm__ volatile("" : "+v"(sum[c])); \
			} \
		} \
	}
PEAK_LOOP(peak_loop_avx2, "avx2,fma", __m256, _mm256_setzero_ps(), _mm256_fmadd_ps(a, b, sum[c]))
PEAK_LOOP(peak_loop_avx512, "avx512f", __m512, _mm512_setzero_ps(), _mm512_fmadd_ps(a, b, sum[c]))
PEAK_LOOP(peak_loop_avx512bf16, "avx512f,avx512bf16", __m512, _mm512_setzero_ps(),
    _mm512_dpbf16_ps(sum[c], (__m512bh)a, (__m512bh)b))
PEAK_LOOP(peak_loop_avx512vnni, "avx512f,avx512vnni", __m512i, _mm512_setzero_si512(),
    _mm512_dpwssd_epi32(sum[c], a, b))

static const struct peak_unit {
	const char *name;
	void (*loop)(void);
	int flops;		/* of one step */
} peak_units[] = {
	{ "avx2", peak_loop_avx2, 16 },
	{ "avx512", peak_loop_avx512, 32 },
	{ "avx512bf16", peak_loop_avx512bf16, 64 },
	{ "avx512vnni", peak_loop_avx512vnni, 64 },	/* of 16 bits */
};
enum { PEAK_UNITS = sizeof peak_units / sizeof *peak_units };

static inline int
peak_usable(int unit)
{
	switch (unit) {
	case 0: return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
	case 1: return __builtin_cpu_supports("avx512f") != 0;
	case 2: return __builtin_cpu_supports("avx512bf16") != 0;
	default: return __builtin_cpu_supports("avx512vnni") != 0;
	}
}

/* Multiplications and additions per second of all threads: the best of 5 runs of some 10 ms. */
static inline double
peak_flops(int unit)
{
	const struct peak_unit *u = &peak_units[unit];
	double best = 0;
	int run;

	for (run = 0; run < 5; run++) {
		double t = peak_now(), rate;

		#pragma omp parallel
		u->loop();
		rate = (double)omp_get_max_threads() * u->flops * PEAK_CHAINS * PEAK_STEPS / (peak_now() - t);
		best = rate > best ? rate : best;
	}
	return best;
}

/* Bytes per second of reading p, a part for each thread; bytes is a multiple of 1 MiB. */
static inline double
peak_read(const void *p, size_t bytes)
{
	enum { PART = 1 << 20, LANES = 8 };
	size_t part, i;
	double t = peak_now();

	#pragma omp parallel for schedule(static) private(i)
	for (part = 0; part < bytes; part += PART) {
		const __m128i *x = (const __m128i *)((const char *)p + part);
		__m128i sum[LANES] = { 0 };
		int lane;

		for (i = 0; i < PART / sizeof *x; i += LANES)
			#pragma GCC unroll 8
			for (lane = 0; lane < LANES; lane++)
				sum[lane] = _mm_xor_si128(sum[lane], x[i + (size_t)lane]);
		for (lane = 0; lane < LANES; lane++)
			__asm__ volatile("" : : "x"(sum[lane]));
	}
	return (double)bytes / (peak_now() - t);
}

#endif
