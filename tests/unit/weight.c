/* SPDX-License-Identifier: MIT */
/* weight - panels hold what was put, where kernels/panel.h says, and embed finds it there */
#include <stdlib.h>

#include "kernels/cpu.h"
#include "kernels/panel.h"
#include "lib/base/mem.h"
#include "tests/unit/tap.h"

static struct weight
weight(enum dtype type, int n, int k)
{
	struct weight w = { .type = type, .n = n, .k = k, .elements = weight_elements_cpu(type, n, k) };

	w.data = alloc_cpu(w.elements * dtype_size(type));
	return w;
}

/* A value that bf16 and f16 hold exactly and that says where it stands. */
static float
value(int o, int i)
{
	return (float)((o * 7 + i * 3) % 251 - 125) / 16;
}

static float
element(const struct weight *w, size_t at)
{
	return w->type == DT_BF16 ? bf16_to_f32(((uint16_t *)w->data)[at]) : ((float *)w->data)[at];
}

static void
check_panels(enum dtype type, enum dtype from, int n, int k, int transposed)
{
	struct weight w = weight(type, n, k);
	size_t size = (size_t)n * (size_t)k, at, zeros = 0;
	float *plain = mem_zero(size, sizeof *plain), *back = mem_zero(size, sizeof *back);
	char *src = mem_zero(size, 8), *dst = mem_zero(size, 8);
	int o, i, cut = n / 3, wrong = 0;

	for (o = 0; o < n; o++)
		for (i = 0; i < k; i++)
			plain[transposed ? i * n + o : o * k + i] = value(o, i);
	if (transposed) {
		dtype_convert(src, from, plain, DT_F32, size);
		weight_put_cpu(&w, 0, n, src, from, 1);
	} else {
		dtype_convert(src, from, plain, DT_F32, size);
		weight_put_cpu(&w, 0, cut, src, from, 0);
		weight_put_cpu(&w, cut, n - cut, src + (size_t)cut * (size_t)k * dtype_size(from), from, 0);
	}
	for (o = 0; o < n; o++)
		for (i = 0; i < k; i++)
			wrong += element(&w, panel_index(type, k, o, i)) != value(o, i);
	for (at = 0; at < w.elements; at++)
		zeros += element(&w, at) == 0;
	for (o = 0; o < n; o++)
		for (i = 0; i < k; i++)
			zeros -= value(o, i) == 0;
	weight_get_cpu(dst, from, &w, 0, n, transposed);
	dtype_convert(back, DT_F32, dst, from, size);
	ok(!wrong && zeros == w.elements - size && !memcmp(plain, back, size * sizeof *plain),
	    "%s panels of [%d, %d] hold %s%s, zero elsewhere, and give it back", dtype_name(type), n, k,
	    dtype_name(from), transposed ? " transposed" : "");
	free(plain);
	free(back);
	free(src);
	free(dst);
	free_cpu(w.data);
}

static void
check_embed(enum dtype type, enum dtype wtype, int k)
{
	enum { N = 71, M = 37 };
	struct weight w = weight(wtype, N, k), p = weight(wtype, M, k);
	size_t size = (size_t)M * (size_t)k;
	float *plain = mem_zero((size_t)N * (size_t)k, sizeof *plain), *y = mem_zero(size, sizeof *y);
	float *dw = mem_zero(w.elements, sizeof *dw), *dp = mem_zero(p.elements, sizeof *dp);
	char *raw = mem_zero(size, sizeof(float));
	int ids[M], positions[M], o, i, r, wrong = 0;

	for (o = 0; o < N; o++)
		for (i = 0; i < k; i++)
			plain[o * k + i] = value(o, i);
	weight_put_cpu(&w, 0, N, plain, DT_F32, 0);
	weight_put_cpu(&p, 0, M, plain, DT_F32, 0);
	for (r = 0; r < M; r++) {
		ids[r] = r * 5 % 13 + N - 13;		/* repeated */
		positions[r] = r % 9;
	}
	embed_cpu(raw, type, &w, &p, ids, positions, M);
	dtype_convert(y, DT_F32, raw, type, size);
	for (r = 0; r < M; r++)
		for (i = 0; i < k; i++) {
			float want = value(ids[r], i) + value(positions[r], i);

			wrong += y[r * k + i] != (type == DT_BF16 ? bf16_to_f32(f32_to_bf16(want)) : want);
		}
	embed_cpu(raw, type, &w, NULL, ids, NULL, M);
	dtype_convert(y, DT_F32, raw, type, size);
	for (r = 0; r < M; r++)
		for (i = 0; i < k; i++)
			wrong += y[r * k + i] != value(ids[r], i);
	ok(!wrong, "embed gathers %s rows of %d channels as %s, with and without positions", dtype_name(wtype), k,
	    dtype_name(type));

	embed_backward_cpu(dw, &w, dp, &p, raw, type, ids, positions, M);
	for (wrong = 0, i = 0; i < k; i++) {
		float sums[N] = { 0 }, places[M] = { 0 };

		for (r = 0; r < M; r++) {
			sums[ids[r]] += y[r * k + i];
			places[positions[r]] += y[r * k + i];
		}
		for (o = 0; o < N; o++)
			wrong += dw[panel_index(wtype, k, o, i)] != sums[o];
		for (o = 0; o < M; o++)
			wrong += dp[panel_index(wtype, k, o, i)] != places[o];
	}
	ok(!wrong, "embed_backward adds the rows of one id, %s into the order of %s", dtype_name(type),
	    dtype_name(wtype));
	free(plain);
	free(y);
	free(raw);
	free(dw);
	free(dp);
	free_cpu(w.data);
	free_cpu(p.data);
}

static void
check_memory(void)
{
	size_t sizes[] = { 0, 1, 100, (size_t)5 << 20 }, i, at, wrong = 0;

	for (i = 0; i < sizeof sizes / sizeof *sizes; i++) {
		unsigned char *p = alloc_cpu(sizes[i]);

		wrong += !p || (uintptr_t)p % 64 != 0;
		for (at = 0; at < sizes[i]; at++)
			wrong += p[at];
		memset(p, 1, sizes[i]);
		free_cpu(p);
	}
	ok(!wrong, "memory is aligned to 64 bytes and zero, also when it was used before");
	ok(!alloc_cpu(SIZE_MAX - 100), "what cannot be had is NULL");
}

int
main(void)
{
	static const enum dtype types[] = { DT_F32, DT_BF16 }, files[] = { DT_F32, DT_BF16, DT_F16 };
	int t, f, transposed;

	check_memory();
	for (t = 0; t < 2; t++)
		for (f = 0; f < 3; f++)
			for (transposed = 0; transposed < 2; transposed++) {
				check_panels(types[t], files[f], 3, 1, transposed);
				check_panels(types[t], files[f], 32, 64, transposed);
				check_panels(types[t], files[f], 77, 131, transposed);
			}
	for (t = 0; t < 2; t++)
		for (f = 0; f < 2; f++) {
			check_embed(types[f], types[t], 1);
			check_embed(types[f], types[t], 131);
		}
	return done();
}
