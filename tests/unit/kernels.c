/* SPDX-License-Identifier: MIT */
/*
 * kernels - every row of the table against the definitions
 *
 * An operation is called twice on the same arrays, once by `ref` and once by the row under test,
 * and what it wrote is compared within the tolerance of kernels/op.h. Arrays pass through the row's
 * own memory. An argument names one row.
 */
#include <math.h>
#include <omp.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/op.h"
#include "lib/base/mem.h"
#include "tests/unit/tap.h"

enum {
	ARRAYS = 10,
	FEW = 100,		/* a norm of one or two channels cancels */
};

/* One argument of an operation. */
struct array {
	void *host;
	enum dtype type;
	size_t n;
	/* difference, relative to the largest expected value; negative: an input */
	double allowed;
	double least;		/* that value is taken as this at least */
};

/* What a call needs besides its arrays. */
struct shape {
	enum dtype type;
	int m, c, flag;
	const struct heads *heads;
	const struct ragged *seq;
	const struct dropout *drop;
	const struct divergence *divergence;
	const struct sampling *sampling;
	enum teacher_form form;
};

struct test {
	struct array arrays[ARRAYS];
	int n;
	int wrong;		/* comparisons that failed */
	int done;		/* comparisons */
};

typedef void call(const struct backend *be, void **p, const struct shape *s);

static const uint64_t first_seed = 88172645463325252ull;
static uint64_t seed;

static double
uniform(void)
{
	seed ^= seed << 13;
	seed ^= seed >> 7;
	seed ^= seed << 17;
	return (double)(seed >> 11) * 0x1p-53;
}

/* Nearly: four uniforms, of variance one together. */
static double
normal(void)
{
	return (uniform() + uniform() + uniform() + uniform() - 2) * sqrt(3);
}

static double
element(const struct array *a, size_t i)
{
	switch (a->type) {
	case DT_BF16: return bf16_to_f32(((uint16_t *)a->host)[i]);
	case DT_I16: return ((int16_t *)a->host)[i];
	case DT_I32: return ((int32_t *)a->host)[i];
	case DT_F64: return ((double *)a->host)[i];
	default: return ((float *)a->host)[i];
	}
}

static void
element_set(const struct array *a, size_t i, double value)
{
	switch (a->type) {
	case DT_BF16: ((uint16_t *)a->host)[i] = f32_to_bf16((float)value); break;
	case DT_I16: ((int16_t *)a->host)[i] = (int16_t)value; break;
	case DT_I32: ((int32_t *)a->host)[i] = (int32_t)value; break;
	case DT_F64: ((double *)a->host)[i] = value; break;
	default: ((float *)a->host)[i] = (float)value;
	}
}

static double
tolerance(enum dtype type, int length)
{
	return type == DT_BF16 ? 8e-3 : 2e-6 * sqrt(length > 1 ? length : 1);
}

/* Add an array of n normal numbers times `scale`. */
static struct array *
array(struct test *t, enum dtype type, size_t n, double scale, double allowed)
{
	struct array *a = &t->arrays[t->n++];
	size_t i;

	a->type = type;
	a->n = n;
	a->allowed = allowed;
	a->least = 0;
	a->host = mem_zero(n + 1, dtype_size(type));
	for (i = 0; scale != 0 && i < n; i++)
		element_set(a, i, scale * normal());
	return a;
}

static void
release(struct test *t)
{
	while (t->n)
		free(t->arrays[--t->n].host);
}

/* Run the call on copies of the arrays; returns what they hold afterwards. */
static void
run(struct array *after, const struct test *t, const struct backend *be, call *f,
    const struct shape *s)
{
	void *p[ARRAYS];
	size_t bytes[ARRAYS];
	int i;

	for (i = 0; i < t->n; i++) {
		bytes[i] = t->arrays[i].n * dtype_size(t->arrays[i].type);
		p[i] = be->alloc(bytes[i] + 64);
		be->upload(p[i], t->arrays[i].host, bytes[i]);
	}
	f(be, p, s);
	be->sync();
	for (i = 0; i < t->n; i++) {
		after[i] = t->arrays[i];
		after[i].host = mem_alloc(bytes[i] + 1);
		be->download(after[i].host, p[i], bytes[i]);
		be->free(p[i]);
	}
}

/*
 * The largest difference over what is allowed; above 1 is wrong, and so is a NaN that was not
 * expected.
 */
static double
difference(const struct array *got, const struct array *want)
{
	double scale = want->least, worst = 0;
	size_t i;

	for (i = 0; i < want->n; i++)
		if (isfinite(element(want, i)))
			scale = fmax(scale, fabs(element(want, i)));
	for (i = 0; i < want->n; i++) {
		double a = element(got, i), b = element(want, i);

		if (a == b || (isnan(a) && isnan(b)))
			continue;
		if (!isfinite(a) || !isfinite(b))
			return INFINITY;
		worst = fmax(worst, fabs(a - b) / (scale > 0 ? scale : 1));
	}
	return want->allowed > 0 ? worst / want->allowed : worst > 0 ? INFINITY : 0;
}

static void
compare(struct test *t, const struct backend *be, call *f, const struct shape *s)
{
	struct array want[ARRAYS], got[ARRAYS];
	int i;

	run(want, t, &backend_ref, f, s);
	run(got, t, be, f, s);
	for (i = 0; i < t->n; i++) {
		double d = t->arrays[i].allowed < 0 ? 0 : difference(&got[i], &want[i]);

		t->done += t->arrays[i].allowed >= 0;
		if (!(d <= 1) && !t->wrong++)
			printf("# array %d of %zu, m %d, c %d, %s: %g of what is allowed\n", i,
			    t->arrays[i].n, s->m, s->c, dtype_name(s->type), d);
		free(want[i].host);
		free(got[i].host);
	}
	release(t);
}

static void
verdict(struct test *t, const struct backend *be, const char *what)
{
	ok(!t->wrong && t->done, "%s: %s (%d comparisons)", be->name, what, t->done);
	t->wrong = t->done = 0;
}

static const enum dtype types[] = { DT_F32, DT_BF16 };
static const int widths[] = { 1, 2, 7, 8, 15, 16, 17, 31, 33, 40, 64, 100, 896, 4864 };

enum { NTYPES = 2, NWIDTHS = sizeof widths / sizeof *widths };

/* norm */

static void
call_norm(const struct backend *be, void **p, const struct shape *s)
{
	be->norm(p[0], p[1], s->type, p[2], s->flag ? p[3] : NULL, 1e-5f, p[4], s->m, s->c);
}

static void
call_norm_backward(const struct backend *be, void **p, const struct shape *s)
{
	be->norm(p[6], p[4], s->type, p[5], s->flag ? p[5] : NULL, 1e-5f, p[7], s->m, s->c);
	be->norm_backward(p[0], p[1], s->flag ? p[2] : NULL, p[3], p[4], s->type, p[5], p[7], s->m,
	    s->c);
}

static void
test_norm(const struct backend *be)
{
	struct test t = { 0 };
	int i, k, flag, m;

	for (i = 0; i < NTYPES * NWIDTHS * 2; i++)
		for (m = 0; m < 131; m += m < 3 ? 1 : 64) {
			struct shape s = { .type = types[i % 2], .m = m, .c = widths[i / 4],
				.flag = i / 2 % 2 };
			size_t n = (size_t)m * s.c;

			array(&t, s.type, n, 0, tolerance(s.type, s.c + FEW));
			array(&t, s.type, n, 2, -1);
			array(&t, DT_F32, (size_t)s.c, 1, -1);
			array(&t, DT_F32, (size_t)s.c, 1, -1);
			array(&t, DT_F32, 2 * (size_t)m, 0, tolerance(DT_F32, s.c));
			compare(&t, be, call_norm, &s);
		}
	verdict(&t, be, "norm");
	for (i = 0; i < NTYPES * NWIDTHS; i++)
		for (flag = 0; flag < 2; flag++)
			for (m = 1; m < 300; m += 131) {
				struct shape s = { .type = types[i % 2], .m = m, .c = widths[i / 2],
					.flag = flag };
				size_t n = (size_t)m * s.c;

				array(&t, s.type, n, 1, tolerance(s.type, s.c + FEW));
				for (k = 0; k < 2; k++)
					array(&t, DT_F32, (size_t)s.c, 1,
					    tolerance(DT_F32, s.c + m));
				array(&t, s.type, n, 1, -1);
				array(&t, s.type, n, 2, -1);
				array(&t, DT_F32, (size_t)s.c, 1, -1);
				array(&t, s.type, n, 0, -1);
				array(&t, DT_F32, 2 * (size_t)m, 0, -1);
				compare(&t, be, call_norm_backward, &s);
			}
	verdict(&t, be, "norm_backward");
}

/* rope */

static void
call_rope(const struct backend *be, void **p, const struct shape *s)
{
	be->rope(p[0], s->type, p[1], p[2], s->m, s->heads->heads * s->c + 3, s->heads->heads, s->c,
	    s->flag);
}

static void
test_rope(const struct backend *be)
{
	static const int sizes[] = { 2, 4, 10, 16, 30, 32, 34, 64, 80, 96, 128 };
	struct test t = { 0 };
	struct array *a;
	int i, j, m;

	for (i = 0; i < 4 * 11; i++)
		for (m = 0; m < 60; m += 19) {
			struct heads h = { 1 + m % 5, 1, sizes[i / 4], 1 };
			struct shape s = { .type = types[i % 2], .m = m, .c = h.d,
				.flag = i / 2 % 2, .heads = &h };

			array(&t, s.type, (size_t)m * (h.heads * h.d + 3), 1, tolerance(s.type, 2));
			array(&t, DT_F32, 50 * (size_t)h.d, 1, -1);
			a = array(&t, DT_I32, (size_t)m, 0, -1);
			for (j = 0; j < m; j++)
				element_set(a, j, (int)(uniform() * 50));
			compare(&t, be, call_rope, &s);
		}
	verdict(&t, be, "rope");
}

/* elementwise */

static void
call_swiglu(const struct backend *be, void **p, const struct shape *s)
{
	be->swiglu(p[0], p[1], s->type, s->m, s->c);
}

static void
call_swiglu_backward(const struct backend *be, void **p, const struct shape *s)
{
	be->swiglu_backward(p[0], p[1], p[2], s->type, s->m, s->c);
}

static void
call_gelu(const struct backend *be, void **p, const struct shape *s)
{
	be->gelu(p[0], p[1], s->type, (size_t)s->c);
}

static void
call_gelu_backward(const struct backend *be, void **p, const struct shape *s)
{
	be->gelu_backward(s->flag ? p[1] : p[0], p[1], p[2], s->type, (size_t)s->c);
}

static void
call_add(const struct backend *be, void **p, const struct shape *s)
{
	be->add(p[0], s->flag ? 0.75f : -1, p[1], s->type, (size_t)s->c);
}

static void
call_dropout(const struct backend *be, void **p, const struct shape *s)
{
	be->dropout(s->flag ? p[1] : p[0], p[1], s->type, (size_t)s->c, s->drop);
}

static void
call_convert(const struct backend *be, void **p, const struct shape *s)
{
	be->convert(p[0], s->flag ? DT_BF16 : DT_F32, p[1], s->type, (size_t)s->c);
}

static void
call_rows(const struct backend *be, void **p, const struct shape *s)
{
	if (s->flag)
		be->gather(p[0], p[1], s->type, p[2], s->m, s->c);
	else
		be->scatter(p[0], p[1], s->type, p[2], s->m, s->c);
}

/* From rows of c + 2 pad elements to rows of c + pad. */
static void
call_copy_rows(const struct backend *be, void **p, const struct shape *s)
{
	size_t size = dtype_size(s->type), pad = s->flag ? 8 : 3, c = (size_t)s->c;

	be->copy_rows(p[0], (c + pad) * size, p[1], (c + 2 * pad) * size, c * size, s->m);
}

/* Lengths 0 .. 40 and some that threads share. */
static int
lengths(int i)
{
	static const int large[] = { 255, 1023, 16384, 16385, 70001 };

	return i <= 40 ? i : large[i - 41];
}

enum { NLENGTHS = 46 };

static void
test_gates(const struct backend *be)
{
	struct test t = { 0 };
	struct array *a;
	int i, j, m;

	for (i = 0; i < 2 * NLENGTHS; i++)
		for (m = 1; m < 4; m++) {
			struct shape s = { .type = types[i % 2], .m = m, .c = lengths(i / 2) };
			size_t n = (size_t)m * s.c;

			array(&t, s.type, n, 0, tolerance(s.type, 4));
			a = array(&t, s.type, 2 * n, 2, -1);
			/* every magnitude that exp can meet */
			for (j = 0; j < s.c && s.c > 1000; j++)
				element_set(a, j, 220.0 * j / s.c - 110);
			compare(&t, be, call_swiglu, &s);
			array(&t, s.type, 2 * n, 0, tolerance(s.type, 4));
			array(&t, s.type, n, 1, -1);
			array(&t, s.type, 2 * n, 3, -1);
			compare(&t, be, call_swiglu_backward, &s);
		}
	verdict(&t, be, "swiglu and its backward");
	for (i = 0; i < 4 * NLENGTHS; i++) {
		struct shape s = { .type = types[i % 2], .flag = i / 2 % 2, .c = lengths(i / 4) };

		array(&t, s.type, (size_t)s.c, 0, tolerance(s.type, 4))->least = 1e-3;
		a = array(&t, s.type, (size_t)s.c, 3, -1);
		for (j = 0; j < s.c && s.c > 1000; j++)
			element_set(a, j, 40.0 * j / s.c - 20);
		compare(&t, be, call_gelu, &s);
		array(&t, s.type, (size_t)s.c, 0, tolerance(s.type, 4))->least = 1e-3;
		array(&t, s.type, (size_t)s.c, 1, s.flag ? tolerance(s.type, 4) : -1)->least = 1e-3;
		array(&t, s.type, (size_t)s.c, 3, -1);
		compare(&t, be, call_gelu_backward, &s);
	}
	verdict(&t, be, "gelu and its backward, in place too");
}

static void
test_elementwise(const struct backend *be)
{
	struct dropout drop = { 0.3f, 0x123456789abcdefull, 77 };
	struct test t = { 0 };
	struct array *a;
	int i, j;

	for (i = 0; i < 4 * NLENGTHS; i++) {
		struct shape s = { .type = types[i % 2], .flag = i / 2 % 2, .c = lengths(i / 4),
		    .drop = &drop };

		array(&t, s.type, (size_t)s.c, 1, tolerance(s.type, 1));
		array(&t, s.type, (size_t)s.c, 1, -1);
		compare(&t, be, call_add, &s);
		array(&t, s.type, (size_t)s.c, 0, tolerance(s.type, 1));
		array(&t, s.type, (size_t)s.c, 1, s.flag ? tolerance(s.type, 1) : -1);
		compare(&t, be, call_dropout, &s);
		array(&t, s.flag ? DT_BF16 : DT_F32, (size_t)s.c, 0, 0);
		a = array(&t, s.type, (size_t)s.c, 1, -1);
		for (j = 0; j < s.c && j < 3; j++)
			element_set(a, j, j == 0 ? NAN : j == 1 ? INFINITY : 3e38);
		compare(&t, be, call_convert, &s);
	}
	verdict(&t, be, "add, dropout, convert, in place too");
	for (i = 0; i < 4 * NWIDTHS; i++) {
		struct shape s = { .type = types[i % 2], .flag = i / 2 % 2, .m = 9,
		    .c = widths[i / 4] };

		array(&t, s.type, 20 * (size_t)s.c, 1, 0);
		array(&t, s.type, 20 * (size_t)s.c, 1, -1);
		a = array(&t, DT_I32, 9, 0, -1);
		for (j = 0; j < 9; j++)
			element_set(a, j, (j * 7 + 3) % 20);
		compare(&t, be, call_rows, &s);
		array(&t, s.type, (size_t)(s.m * (s.c + 8)), 1, 0);
		array(&t, s.type, (size_t)(s.m * (s.c + 16)), 1, -1);
		compare(&t, be, call_copy_rows, &s);
	}
	verdict(&t, be, "gather, scatter and copy_rows");
}

/* attention */

static void
call_attention(const struct backend *be, void **p, const struct shape *s)
{
	struct ragged seq = *s->seq;

	seq.offsets = p[3];
	seq.positions = p[4];
	be->attention(p[0], p[1], p[2], s->type, &seq, s->heads, s->drop);
}

static void
call_attention_backward(const struct backend *be, void **p, const struct shape *s)
{
	struct ragged seq = *s->seq;

	seq.offsets = p[3];
	seq.positions = p[4];
	be->attention(p[0], p[1], p[2], s->type, &seq, s->heads, s->drop);
	be->attention_backward(p[5], p[6], p[0], p[1], p[2], s->type, &seq, s->heads, s->drop);
}

struct sequences {
	struct ragged seq;
	int offsets[8], positions[1024];
};

static void
sequences(struct sequences *q, const int *sizes, int n)
{
	int s, i;

	q->offsets[0] = 0;
	for (s = 0; s < n; s++) {
		q->offsets[s + 1] = q->offsets[s] + sizes[s];
		for (i = 0; i < sizes[s]; i++)
			q->positions[q->offsets[s] + i] = i;
	}
	q->seq = (struct ragged){ q->offsets[n], n, q->offsets, q->positions, q->offsets };
}

/* The arrays that both directions begin with. */
static void
attention_arrays(struct test *t, const struct shape *s, double allowed)
{
	size_t m = (size_t)s->seq->m, i;
	const struct heads *h = s->heads;
	struct array *a;

	array(t, s->type, m * h->heads * h->d, 0, allowed);
	array(t, DT_F32, m * h->heads, 0, allowed < 0 ? -1 : tolerance(s->type, h->d));
	array(t, s->type, m * (h->heads + 2 * h->kv_heads) * h->d, 1, -1);
	a = array(t, DT_I32, (size_t)s->seq->nseq + 1, 0, -1);
	for (i = 0; i < a->n; i++)
		element_set(a, i, s->seq->offsets[i]);
	a = array(t, DT_I32, m, 0, -1);
	for (i = 0; i < a->n; i++)
		element_set(a, i, s->seq->positions[i]);
}

static const struct heads shapes[] = {
	{ 1, 1, 1, 1 }, { 2, 1, 5, 0.4f }, { 3, 3, 8, 0.35f }, { 4, 2, 17, 0.25f },
	{ 6, 2, 33, 0.2f }, { 14, 2, 64, 0.125f }, { 2, 2, 64, 0.125f }, { 4, 2, 80, 0.11f },
	{ 2, 1, 128, 0.0884f },
};

enum { NSHAPES = sizeof shapes / sizeof *shapes };

static void
test_attention(const struct backend *be)
{
	static const int sizes[][4] = { { 1, 2, 3, 16 }, { 40, 1, 64, 65 }, { 31, 0, 7, 130 } };
	struct dropout drop = { 0.2f, 99, 5 };
	struct test t = { 0 };
	struct sequences q;
	int i, k;

	for (i = 0; i < NSHAPES * 12; i++) {
		struct shape s = { .type = types[i % 2], .heads = &shapes[i / 12], .seq = &q.seq,
			.drop = i / 2 % 2 ? &drop : NULL };

		k = i / 4 % 3;
		sequences(&q, sizes[k], 4);
		attention_arrays(&t, &s, tolerance(s.type, 200));
		compare(&t, be, call_attention, &s);
		attention_arrays(&t, &s, -1);
		array(&t, s.type, t.arrays[2].n, 0, tolerance(s.type, 200) * 2);
		array(&t, s.type, t.arrays[0].n, 1, -1);
		compare(&t, be, call_attention_backward, &s);
	}
	verdict(&t, be, "attention and its backward, with dropout too");
}

enum { PAGES = 9, LAYERS = 2 };

static void
call_paged(const struct backend *be, void **p, const struct shape *s)
{
	struct kv kv = { p[1], s->flag ? DT_BF16 : DT_F32, LAYERS, PAGES, s->heads->kv_heads,
	    s->heads->d };

	be->kv_store(&kv, 1, p[2], s->type, p[3], p[4], s->m, s->heads);
	be->attention_paged(p[0], p[2], s->type, &kv, 1, p[5], 4, p[6], s->m, s->heads);
}

static void
test_paged(const struct backend *be)
{
	struct test t = { 0 };
	struct array *a;
	int i, j;

	for (i = 0; i < NSHAPES * 4; i++) {
		const struct heads *h = &shapes[i / 4];
		struct shape s = { .type = types[i % 2], .flag = i / 2 % 2, .m = 6, .heads = h };
		size_t n = (size_t)LAYERS * PAGES * 2 * h->kv_heads * KV_PAGE * h->d;

		array(&t, s.type, 6 * (size_t)h->heads * h->d, 0, tolerance(s.type, 200));
		array(&t, s.flag ? DT_BF16 : DT_F32, n, 1, 0);
		array(&t, s.type, 6 * (size_t)(h->heads + 2 * h->kv_heads) * h->d, 1, -1);
		a = array(&t, DT_I32, 6, 0, -1);
		for (j = 0; j < 6; j++)
			element_set(a, j, (j * 4 + 1) % PAGES);
		a = array(&t, DT_I32, 6, 0, -1);
		for (j = 0; j < 6; j++)
			element_set(a, j, j * 37);
		a = array(&t, DT_I32, 24, 0, -1);
		for (j = 0; j < 24; j++)
			element_set(a, j, (j * 5 + j / 9) % PAGES);
		a = array(&t, DT_I32, 6, 0, -1);
		for (j = 0; j < 6; j++)
			element_set(a, j, (int[]){ 1, 31, 32, 65, 100, 128 }[j]);
		compare(&t, be, call_paged, &s);
	}
	verdict(&t, be, "kv_store and attention_paged");
}

/* A packed sequence in the row's memory, and its output. */
struct packed {
	struct sequences q;
	struct ragged seq;	/* in the row's memory */
	size_t row, width;	/* bytes of a row of the output, and of qkv */
	void *out, *qkv, *offsets, *positions;
};

static void
packed_init(struct packed *p, const struct backend *be, const struct heads *h, enum dtype type, int n)
{
	struct shape s = { .type = type, .heads = h, .seq = &p->q.seq };
	struct test t = { 0 };

	sequences(&p->q, &n, 1);
	p->row = (size_t)h->heads * h->d * dtype_size(type);
	p->width = (size_t)(h->heads + 2 * h->kv_heads) * h->d * dtype_size(type);
	p->out = be->alloc((size_t)n * p->row);
	p->qkv = be->alloc((size_t)n * p->width);
	p->offsets = be->alloc(sizeof p->q.offsets);
	p->positions = be->alloc(sizeof p->q.positions);
	attention_arrays(&t, &s, 0);
	be->upload(p->qkv, t.arrays[2].host, (size_t)n * p->width);
	be->upload(p->offsets, p->q.offsets, sizeof p->q.offsets);
	be->upload(p->positions, p->q.positions, sizeof p->q.positions);
	p->seq = p->q.seq;
	p->seq.offsets = p->offsets;
	p->seq.positions = p->positions;
	release(&t);
}

static void
packed_free(struct packed *p, const struct backend *be)
{
	be->free(p->out);
	be->free(p->qkv);
	be->free(p->offsets);
	be->free(p->positions);
}

/* Rows of a packed sequence of n, and the same rows that read pages: how many differ in a byte. */
static int
paged_differs(const struct backend *be, const struct heads *h, enum dtype type, int n, const int *rows, int nrows)
{
	enum { MOST = 1024, TABLE = MOST / KV_PAGE };
	int page[MOST], table[TABLE], ntables = (n + KV_PAGE - 1) / KV_PAGE, length, wrong = 0, i;
	struct kv kv = { NULL, type, 1, TABLE, h->kv_heads, h->d };
	void *d_page = be->alloc(sizeof page), *d_table = be->alloc(sizeof table), *d_length = be->alloc(sizeof length);
	struct packed p;
	void *again;
	char *a, *b;

	packed_init(&p, be, h, type, n);
	again = be->alloc(p.row);
	a = mem_alloc(p.row);
	b = mem_alloc(p.row);
	kv.data = be->alloc((size_t)TABLE * 2 * h->kv_heads * KV_PAGE * h->d * dtype_size(type));
	for (i = 0; i < ntables; i++)
		table[i] = (i * 3 + 2) % ntables;	/* 3 does not divide their numbers */
	for (i = 0; i < n; i++)
		page[i] = table[i / KV_PAGE];
	be->upload(d_page, page, (size_t)n * sizeof *page);
	be->upload(d_table, table, (size_t)ntables * sizeof *table);
	be->attention(p.out, NULL, p.qkv, type, &p.seq, h, NULL);
	be->kv_store(&kv, 0, p.qkv, type, d_page, p.positions, n, h);
	for (i = 0; i < nrows; i++) {
		length = rows[i] + 1;
		be->upload(d_length, &length, sizeof length);
		be->attention_paged(again, (char *)p.qkv + (size_t)rows[i] * p.width, type, &kv, 0, d_table, ntables,
		    d_length, 1, h);
		be->download(a, (char *)p.out + (size_t)rows[i] * p.row, p.row);
		be->download(b, again, p.row);
		wrong += memcmp(a, b, p.row) != 0;
	}
	for (i = 0; i < 5; i++)
		be->free((void *[]){ again, kv.data, d_page, d_table, d_length }[i]);
	packed_free(&p, be);
	free(a);
	free(b);
	return wrong;
}

static void
test_paged_same(const struct backend *be)
{
	static const int few[] = { 0, 11, 22, 33, 44, 55, 66, 77, 88, 99 }, many[] = { 3, 254, 255, 256, 400, 511, 512, 607 };
	static const struct heads long_heads[] = { { 2, 1, 64, 0.125f }, { 1, 1, 128, 0.0884f } };
	int wrong = 0, k;

	for (k = 0; k < NSHAPES * 2; k++)
		wrong += paged_differs(be, &shapes[k / 2], types[k % 2], 100, few, 10);
	for (k = 0; k < 4; k++)
		wrong += paged_differs(be, &long_heads[k / 2], types[k % 2], 608, many, 8);
	ok(!wrong, "%s: a row attends pages and packed rows with the same bytes", be->name);
}

/* What is not finite reaches the rows behind it, and no byte of those before. */
static void
test_causal(const struct backend *be)
{
	enum { N = 100, ODD = 53 };
	int wrong = 0, k;

	for (k = 0; k < NSHAPES * 4; k++) {
		const struct heads *h = &shapes[k / 4];
		enum dtype type = types[k % 2];
		struct packed p;
		struct array odd = { .type = type };
		char *a, *b;
		size_t i;

		packed_init(&p, be, h, type, N);
		a = mem_alloc(N * p.row);
		b = mem_alloc(N * p.row);
		be->attention(p.out, NULL, p.qkv, type, &p.seq, h, NULL);
		be->download(a, p.out, N * p.row);
		odd.host = mem_alloc(p.width);
		odd.n = p.width / dtype_size(type);
		for (i = 0; i < odd.n; i++)
			element_set(&odd, i, k / 2 % 2 ? NAN : INFINITY);
		be->upload((char *)p.qkv + ODD * p.width, odd.host, p.width);
		be->attention(p.out, NULL, p.qkv, type, &p.seq, h, NULL);
		be->download(b, p.out, N * p.row);
		wrong += memcmp(a, b, ODD * p.row) != 0;
		odd.host = memcpy(odd.host, b + (N - 1) * p.row, p.row);
		odd.n = p.row / dtype_size(type);
		for (i = 0; i < odd.n; i++)
			wrong += isfinite(element(&odd, i)) != 0;
		packed_free(&p, be);
		free(odd.host);
		free(a);
		free(b);
	}
	ok(!wrong, "%s: what is not finite reaches the rows behind it alone", be->name);
}

/* loss */

static void
call_loss(const struct backend *be, void **p, const struct shape *s)
{
	struct teacher_rows t = { .form = s->form, .dense = p[4], .ld = (size_t)s->c + 2,
	    .ids = p[5],
		.logprobs = p[6], .log_tail = p[7], .k = 3, .counts = p[8], .offsets = p[9] };

	be->loss(p[0], (size_t)s->c + 5, p[1], &t, s->divergence, 0.37f, p[2], p[3], s->m, s->c);
}

static void
loss_arrays(struct test *t, const struct shape *s, double scale)
{
	int m = s->m, v = s->c, i, j;
	struct array *a, *ids, *counts;

	array(t, DT_F32, (size_t)m * (v + 5), scale, 1e-6)->least = 0.37;
	a = array(t, DT_I32, (size_t)m, 0, -1);
	for (i = 0; i < m; i++)
		element_set(a, i, (int)(uniform() * v));
	array(t, DT_F32, (size_t)m, 0, 1e-6)->least = 1;
	array(t, DT_F32, (size_t)m, 0, 1e-6)->least = 1;
	array(t, DT_F32, (size_t)m * (v + 2), scale, -1);
	ids = array(t, DT_I32, (size_t)m * 3, 0, -1);
	a = array(t, DT_F32, (size_t)m * 3, 0, -1);
	for (i = 0; i < 3 * m; i++) {
		element_set(ids, i, (i / 3 * 41 + i % 3 * 5) % v);
		element_set(a, i, log(0.2 + 0.05 * (i % 3)));
	}
	a = array(t, DT_F32, (size_t)m, 0, -1);
	for (i = 0; i < m; i++)
		element_set(a, i, log(0.25));
	counts = array(t, DT_I16, (size_t)m * 3, 0, -1);
	for (i = 0; i < 3 * m; i++)
		element_set(counts, i, 1 + i * 7 % 20);
	a = array(t, DT_I32, (size_t)m + 1, 0, -1);
	for (j = 0; j <= m; j++)
		element_set(a, j, 3 * j);
}

static const struct divergence divergences[] = {
	{ LOSS_CE, 0, 1, 0, 0 }, { LOSS_KD, 0.5f, 1, 0, 0 }, { LOSS_KD, 1, 2, 0, 0 },
	{ LOSS_FORWARD_KL, 0.3f, 1, 0, 0 }, { LOSS_FORWARD_KL, 1, 2, 0, 0 },
	{ LOSS_REVERSE_KL, 1, 1, 0, 0 }, { LOSS_REVERSE_KL, 0.5f, 2, 0, 0 },
	{ LOSS_JSD, 1, 1, 0, 0.1f }, { LOSS_JSD, 0.5f, 2, 0, 0.9f },
	{ LOSS_SKEW_KL, 1, 1, 0.1f, 0 }, { LOSS_SKEW_KL, 0.5f, 1.5f, 0.3f, 0 }, { LOSS_SKEW_KL, 1, 1, 0, 0 },
	{ LOSS_SKEW_RKL, 1, 1, 0.1f, 0 }, { LOSS_SKEW_RKL, 0.5f, 0.7f, 0.6f, 0 }, { LOSS_SKEW_RKL, 1, 1, 0, 0 },
	{ LOSS_ALPHA_BETA, 1, 1, 0.2f, 0.7f }, { LOSS_ALPHA_BETA, 0.5f, 2, 0.5f, 0.5f },
	{ LOSS_ALPHA_BETA, 1, 1, 1, 0 }, { LOSS_ALPHA_BETA, 1, 1, 0, 1 },
	{ LOSS_ALPHA_BETA, 1, 1, 0, 0 }, { LOSS_ALPHA_BETA, 1, 1, 0.5f, -0.5f },
	{ LOSS_ALPHA_BETA, 1, 1, 0.7f, -0.2f },
};

enum { NDIVERGENCES = sizeof divergences / sizeof *divergences };

static int
defined(enum teacher_form form, const struct divergence *d)
{
	if (form == TEACHER_TOPK_RENORMALISE || form == TEACHER_SAMPLE)
		return d->kind != LOSS_REVERSE_KL && d->kind != LOSS_ALPHA_BETA;
	return 1;
}

/* Outcomes about as rare as f32 can tell for one side, and rarer for the other, 60 of each; one rare for the student. */
static void
rare_outcomes(struct test *t)
{
	int k;

	for (k = 0; k < 120; k++) {
		element_set(&t->arrays[k < 60 ? 4 : 0], k, -90 - k % 60 * 0.25);
		element_set(&t->arrays[k < 60 ? 0 : 4], k, -130);
	}
	element_set(&t->arrays[0], k, -130);
}

static void
test_loss(const struct backend *be)
{
	static const int sizes[] = { 4, 9, 16, 31, 130, 1024, 1500, 9000 };
	static const char *const forms[] = { "loss without a teacher", "loss with a dense teacher",
		"loss with a top-k bucket", "loss with top-k renormalised", "loss with samples" };
	struct test t = { 0 };
	enum teacher_form form;
	int i, k;

	for (form = TEACHER_NONE; form <= TEACHER_SAMPLE; form++) {
		for (i = 0; i < NDIVERGENCES * 8; i++) {
			struct shape s = { .m = 1 + i % 4, .c = sizes[i % 8], .form = form,
				.divergence = &divergences[i / 8], .type = DT_F32 };

			if (!defined(form, s.divergence))
				continue;
			loss_arrays(&t, &s, 1 + i % 3);
			for (k = 0; i % 3 == 1 && k < s.c; k++)		/* logits far from zero */
				element_set(&t.arrays[0], k, element(&t.arrays[0], k) + 300);
			if (i % 3 == 2 && s.c > 120 && s.divergence->kind != LOSS_ALPHA_BETA)
				rare_outcomes(&t);
			compare(&t, be, call_loss, &s);
		}
		verdict(&t, be, forms[form]);
	}
}

static void
call_policy(const struct backend *be, void **p, const struct shape *s)
{
	struct teacher_rows t = { .form = s->form, .dense = p[4], .ld = (size_t)s->c + 2 };

	be->policy(p[0], (size_t)s->c + 5, p[1], p[2], &t, s->flag ? 0.4f : 1, s->flag ? 0.7f : 1, p[3], s->m, s->c);
}

static void
policy_arrays(struct test *t, const struct shape *s, double scale)
{
	size_t m = (size_t)s->m, v = (size_t)s->c, i;
	struct array *ids;

	array(t, DT_F32, m * (v + 5), scale, 2e-6)->least = 1;
	ids = array(t, DT_I32, m, 0, -1);
	for (i = 0; i < m; i++)
		element_set(ids, i, (int)(uniform() * (double)v));
	array(t, DT_F32, m, 1, -1);
	array(t, DT_F32, m, 0, 1e-6)->least = 1;
	array(t, DT_F32, m * (v + 2), scale, -1);
}

static void
test_policy(const struct backend *be)
{
	static const int sizes[] = { 4, 9, 16, 31, 130, 1024, 1500, 9000 };
	struct test t = { 0 };
	int i;

	for (i = 0; i < 32; i++) {
		struct shape s = { .type = DT_F32, .m = 1 + i % 5, .c = sizes[i / 4], .flag = i % 2,
			.form = i / 2 % 2 ? TEACHER_DENSE : TEACHER_NONE };

		policy_arrays(&t, &s, 1 + i % 3);
		compare(&t, be, call_policy, &s);
	}
	verdict(&t, be, "policy, with a teacher and without");
}

/* softmax, sampling */

static void
call_logprob(const struct backend *be, void **p, const struct shape *s)
{
	be->logprob(p[0], s->flag ? p[1] : NULL, p[2], (size_t)s->c + 3, p[3], s->flag ? 0.7f : 1,
	    s->m, s->c);
}

static void
call_log_softmax(const struct backend *be, void **p, const struct shape *s)
{
	be->log_softmax(p[0], (size_t)s->c + 3, s->m, s->c);
}

static void
call_topk(const struct backend *be, void **p, const struct shape *s)
{
	be->topk(p[0], p[1], p[2], p[3], (size_t)s->c + 3, s->flag, s->m, s->c);
}

static void
call_sample(const struct backend *be, void **p, const struct shape *s)
{
	be->sample(p[0], p[1], p[2], p[3], (size_t)s->c + 3, s->sampling, p[4], s->m, s->c);
}

static void
test_softmax(const struct backend *be)
{
	static const int sizes[] = { 1, 2, 9, 16, 31, 130, 1024, 5000, 151936 };
	struct test t = { 0 };
	struct array *a;
	int i, j;

	for (i = 0; i < 18; i++) {
		struct shape s = { .type = DT_F32, .m = 3, .c = sizes[i / 2], .flag = i % 2 };
		size_t n = 3 * (size_t)(s.c + 3);

		array(&t, DT_F32, 3, 0, 2e-6)->least = 1;
		array(&t, DT_F32, 3, 0, 2e-6)->least = 1;
		a = array(&t, DT_F32, n, 4, -1);
		for (j = 0; j < s.c - 1; j += 5)
			element_set(a, (size_t)j + s.c + 3, -INFINITY);
		a = array(&t, DT_I32, 3, 0, -1);
		for (j = 0; j < 3; j++)
			element_set(a, j, s.c - 1);
		compare(&t, be, call_logprob, &s);
		array(&t, DT_F32, n, 4, 2e-6);
		compare(&t, be, call_log_softmax, &s);
	}
	verdict(&t, be, "logprob, entropy and log_softmax");
	for (i = 0; i < 18; i++) {
		struct shape s = { .type = DT_F32, .m = 3, .c = sizes[i / 2] };

		s.flag = i % 2 ? (s.c + 1) / 2 : s.c < 64 ? s.c : 64;
		array(&t, DT_I32, 3 * (size_t)s.flag, 0, 0);
		array(&t, DT_F32, 3 * (size_t)s.flag, 0, 2e-6)->least = 1;
		array(&t, DT_F32, 3, 0, 1e-5)->least = 1;
		a = array(&t, DT_F32, 3 * (size_t)(s.c + 3), 3, -1);
		for (j = 0; j < s.c; j++)				/* many equals */
			element_set(a, j, floor(element(a, j)));
		compare(&t, be, call_topk, &s);
	}
	verdict(&t, be, "topk, equals by id");
}

static void
test_sample(const struct backend *be)
{
	static const struct sampling ways[] = {
		{ 1, 0, 0, 0, 0 }, { 0, 1, 0, 1, 0 }, { 0, 0.7f, 0, 0, 0 }, { 0, 1, 1, 1, 0 },
		{ 0, 1, 50, 1, 0 }, { 0, 1, 2000, 1, 0 }, { 0, 1, 0, 0.9f, 0 },
		{ 0, 1, 0, 1e-4f, 0 }, { 0, 1, 0, 1, 0.05f }, { 0, 0.9f, 20, 0.95f, 0.02f },
		{ 0, 3, 7, 0.5f, 0.01f },
	};
	static const int sizes[] = { 1, 8, 33, 1024, 5000, 20011 };
	struct test t = { 0 };
	struct array *a;
	int i, j;

	for (i = 0; i < 11 * 6 * 2; i++) {
		struct shape s = { .type = DT_F32, .m = 5, .c = sizes[i / 2 % 6],
		    .sampling = &ways[i / 12] };

		array(&t, DT_I32, 5, 0, 0);
		array(&t, DT_F32, 5, 0, 2e-6)->least = 1;
		array(&t, DT_F32, 5, 0, 2e-6)->least = 1;
		a = array(&t, DT_F32, 5 * (size_t)(s.c + 3), 4, 4e-6);
		for (j = 0; i % 2 && j < s.c - 1; j += 3)
			element_set(a, (size_t)j, -INFINITY);
		a = array(&t, DT_F32, 5, 0, -1);
		for (j = 0; j < 5; j++)
			element_set(a, j, (float)(0.03 + 0.23 * j + 0.01 * uniform()));
		compare(&t, be, call_sample, &s);
	}
	verdict(&t, be, "sample, with every filter");
}

static void
call_mix(const struct backend *be, void **p, const struct shape *s)
{
	be->mix(p[0], p[1], p[2], p[3], (size_t)s->c + 3, 0.2f, p[4], s->m, s->c);
}

/* Rows of v + 3 numbers, of which v are probabilities, a third of them 0. */
static void
probabilities(struct array *a, int m, int v)
{
	int i, j;

	for (i = 0; i < m; i++) {
		size_t row = (size_t)i * (size_t)(v + 3);
		double sum = 0;

		for (j = 0; j < v; j++) {
			element_set(a, row + (size_t)j, j % 3 == i % 3 && v > 3 ? 0 : uniform());
			sum += element(a, row + (size_t)j);
		}
		for (j = 0; j < v; j++)
			element_set(a, row + (size_t)j, element(a, row + (size_t)j) / sum);
	}
}

static void
test_mix(const struct backend *be)
{
	static const int sizes[] = { 1, 8, 33, 1024, 5000, 20011 };
	struct test t = { 0 };
	struct array *a;
	int i, j;

	for (i = 0; i < 12; i++) {
		struct shape s = { .type = DT_F32, .m = 5, .c = sizes[i / 2] };

		array(&t, DT_I32, 5, 0, 0);
		array(&t, DT_F32, 5, 0, 2e-6)->least = 1;
		probabilities(array(&t, DT_F32, 5 * (size_t)(s.c + 3), 0, 4e-6), 5, s.c);
		probabilities(array(&t, DT_F32, 5 * (size_t)(s.c + 3), 0, -1), 5, s.c);
		a = array(&t, DT_F32, 5, 0, -1);
		for (j = 0; j < 5; j++)
			element_set(a, j, (float)(0.03 + 0.23 * j + 0.01 * uniform()));
		compare(&t, be, call_mix, &s);
	}
	verdict(&t, be, "mix");
}

/* adamw */

static void
call_adamw(const struct backend *be, void **p, const struct shape *s)
{
	struct adamw h = { 1e-3, 0.9, 0.999, 1e-8, 0.01, 0, 0, 0.5, 7, 3 };
	int step;

	for (step = 1; step <= 3; step++) {
		h.correction1 = 1 - pow(h.beta1, step);
		h.correction2 = 1 - pow(h.beta2, step);
		be->adamw(p[0], s->type, s->type == DT_BF16 && !s->flag ? p[1] : NULL, p[2], p[3], p[4],
		    (size_t)s->c, &h);
		be->copy(p[4], p[5], (size_t)s->c * sizeof(float));
	}
}

static void
call_sum_squares(const struct backend *be, void **p, const struct shape *s)
{
	be->sum_squares(p[0], p[1], (size_t)s->c);
}

static void
test_adamw(const struct backend *be)
{
	struct test t = { 0 };
	struct array *a;
	int i, j;

	for (i = 0; i < 3 * NLENGTHS; i++) {
		struct shape s = { .type = types[i % 3 > 0], .c = lengths(i / 3), .flag = i % 3 == 2 };

		array(&t, s.type, (size_t)s.c, 1, tolerance(s.type, 1));
		array(&t, DT_I16, (size_t)s.c, 0, -1);
		array(&t, DT_F32, (size_t)s.c, 0, 2e-6)->least = 0.1;	/* gradients of both signs */
		a = array(&t, DT_F32, (size_t)s.c, 0.1, 2e-6);
		for (j = 0; j < s.c; j++)
			element_set(a, j, fabs(element(a, j)));
		array(&t, DT_F32, (size_t)s.c, 1, 0);
		array(&t, DT_F32, (size_t)s.c, 1, -1);
		compare(&t, be, call_adamw, &s);
		array(&t, DT_F64, 1, 1, 1e-12);
		array(&t, DT_F32, (size_t)s.c, 1, -1);
		compare(&t, be, call_sum_squares, &s);
	}
	verdict(&t, be, "adamw and sum_squares");
}

/* The two halves of a bf16 weight are one f32 number, and bf16 steps are f32 steps. */
static void
test_master(const struct backend *be)
{
	enum { N = 1000 };
	struct adamw h = { 1e-2, 0.9, 0.999, 1e-8, 0.01, 0.1, 1e-3, 1, 0, 0 };
	float *master = be->alloc(N * 4), *m = be->alloc(N * 4), *v = be->alloc(N * 4),
	    *g = be->alloc(N * 4);
	float *m2 = be->alloc(N * 4), *v2 = be->alloc(N * 4), *g2 = be->alloc(N * 4), host[N],
	    grad[N], left[N];
	uint16_t *w = be->alloc(N * 2), high[N];
	int16_t *lo = be->alloc(N * 2), low[N];
	int i, step, wrong = 0, cleared = 1;

	for (i = 0; i < N; i++) {
		high[i] = f32_to_bf16((float)normal());
		host[i] = bf16_to_f32(high[i]);
	}
	be->upload(master, host, sizeof host);
	be->upload(w, high, sizeof high);
	for (step = 0; step < 5; step++) {
		for (i = 0; i < N; i++)
			grad[i] = (float)normal();
		be->upload(g, grad, sizeof grad);
		be->upload(g2, grad, sizeof grad);
		be->adamw(master, DT_F32, NULL, m, v, g, N, &h);
		be->adamw(w, DT_BF16, lo, m2, v2, g2, N, &h);
	}
	be->sync();
	be->download(host, master, sizeof host);
	be->download(high, w, sizeof high);
	be->download(low, lo, sizeof low);
	be->download(left, g, sizeof left);
	for (i = 0; i < N; i++) {
		uint32_t bits = ((uint32_t)high[i] << 16) + (uint32_t)low[i];

		wrong += memcmp(&bits, &host[i], sizeof bits) != 0;
		wrong += fabsf(bf16_to_f32(high[i]) - host[i]) >
		    fabsf(bf16_to_f32(f32_to_bf16(host[i])) - host[i]);
		cleared &= left[i] == 0;
	}
	ok(!wrong && cleared, "%s: adamw's halves of a bf16 weight are its f32 master", be->name);
	for (i = 0; i < 9; i++)
		be->free((void *[]){ master, m, v, g, m2, v2, g2, w, lo }[i]);
}

/*
 * Steps of a tenth of what bf16 resolves, without a master: to nearest none would ever happen. At random,
 * 50 of them are 5 units in the mean, with the variance of independent draws, 50 0.1 0.9.
 */
static void
test_stochastic(const struct backend *be)
{
	enum { N = 10000, STEPS = 50 };
	struct adamw h = { .lr = 0x1p-7 / 10, .correction1 = 1, .correction2 = 1, .scale = 1, .seed = 5 };
	float *m = be->alloc(N * 4), *v = be->alloc(N * 4), *g = be->alloc(N * 4), ones[N];
	uint16_t *w = be->alloc(N * 2), host[N];
	double sum = 0, squares = 0, mean;
	int i;

	for (i = 0; i < N; i++) {
		ones[i] = 1;
		host[i] = f32_to_bf16(1.75f);
	}
	be->upload(w, host, sizeof host);
	for (h.stream = 0; h.stream < STEPS; h.stream++) {
		be->upload(g, ones, sizeof ones);
		be->adamw(w, DT_BF16, NULL, m, v, g, N, &h);
	}
	be->download(host, w, sizeof host);
	for (i = 0; i < N; i++) {
		double units = (1.75 - (double)bf16_to_f32(host[i])) * 0x1p7;

		sum += units;
		squares += units * units;
	}
	mean = sum / N;
	ok(fabs(mean - 5) < 0.1 && fabs(squares / N - mean * mean - 4.5) < 0.4,
	    "%s: steps below bf16's resolution are made in the mean: %.3f of 5 units, variance %.2f of 4.5", be->name,
	    mean, squares / N - mean * mean);
	for (i = 0; i < 4; i++)
		be->free((void *[]){ m, v, g, w }[i]);
}

/* Same bytes whatever the threads, and whatever the other rows. */

static void
same_threads(struct test *t, const struct backend *be, call *f, const struct shape *s)
{
	struct array one[ARRAYS], three[ARRAYS];
	int i, threads = omp_get_max_threads();

	omp_set_num_threads(1);
	run(one, t, be, f, s);
	omp_set_num_threads(3);
	run(three, t, be, f, s);
	omp_set_num_threads(threads);
	for (i = 0; i < t->n; i++) {
		t->wrong += memcmp(one[i].host, three[i].host,
		    one[i].n * dtype_size(one[i].type)) != 0;
		t->done++;
		free(one[i].host);
		free(three[i].host);
	}
	release(t);
}

static void
test_threads(const struct backend *be)
{
	static const int sizes[] = { 70, 3, 129 };
	struct dropout drop = { 0.1f, 3, 4 };
	struct test t = { 0 };
	struct sequences q;
	struct shape s = { .type = DT_F32, .m = 77, .c = 900, .flag = 1, .heads = &shapes[5],
	    .seq = &q.seq,
		.drop = &drop };
	size_t n = (size_t)s.m * s.c;
	int i;

	array(&t, DT_F32, n, 1, 0);
	array(&t, DT_F32, (size_t)s.c, 1, 0);
	array(&t, DT_F32, (size_t)s.c, 1, 0);
	array(&t, DT_F32, n, 1, 0);
	array(&t, DT_F32, n, 1, 0);
	array(&t, DT_F32, (size_t)s.c, 1, 0);
	array(&t, DT_F32, n, 0, 0);
	array(&t, DT_F32, 2 * (size_t)s.m, 0, 0);
	same_threads(&t, be, call_norm_backward, &s);
	sequences(&q, sizes, 3);
	attention_arrays(&t, &s, 0);
	array(&t, s.type, t.arrays[2].n, 0, 0);
	array(&t, s.type, t.arrays[0].n, 1, -1);
	same_threads(&t, be, call_attention_backward, &s);
	s.c = 70001;
	array(&t, DT_F64, 1, 1, 0);
	array(&t, DT_F32, (size_t)s.c, 1, 0);
	same_threads(&t, be, call_sum_squares, &s);
	s.type = DT_BF16;
	array(&t, s.type, (size_t)s.c, 1, 0);
	array(&t, DT_I16, 1, 0, -1);
	array(&t, DT_F32, (size_t)s.c, 0, 0);
	array(&t, DT_F32, (size_t)s.c, 0, 0);
	array(&t, DT_F32, (size_t)s.c, 1, 0);
	array(&t, DT_F32, (size_t)s.c, 1, -1);
	same_threads(&t, be, call_adamw, &s);
	for (i = 0; i < NDIVERGENCES; i++) {
		s = (struct shape){ .type = DT_F32, .m = 7, .c = 1500, .form = TEACHER_DENSE,
			.divergence = &divergences[i] };
		loss_arrays(&t, &s, 2);
		same_threads(&t, be, call_loss, &s);
	}
	policy_arrays(&t, &s, 2);
	same_threads(&t, be, call_policy, &s);
	verdict(&t, be, "one thread or three, the same bytes");
}

/* Rows of a call of its own begin elsewhere in memory and have other neighbours. */
static void
test_alone(const struct backend *be)
{
	enum { M = 5, C = 901 };
	float *x = be->alloc((M + 1) * C * 4), *y = be->alloc((M + 1) * C * 4),
	    *w = be->alloc(C * 4);
	float *z = be->alloc((M + 1) * C * 4), *one = be->alloc((M + 1) * C * 4), host[M * C], a[C],
	    b[C];
	int i, wrong = 0;

	for (i = 0; i < M * C; i++)
		host[i] = (float)(3 * normal());
	be->upload(x, host, sizeof host);
	be->upload(w, host, C * 4);
	be->copy(z, x, sizeof host);
	be->norm(y, x, DT_F32, w, w, 1e-6f, NULL, M, C);
	be->log_softmax(z, C, M, C);
	for (i = 0; i < M; i++) {
		be->norm(one + 1, x + i * C, DT_F32, w, w, 1e-6f, NULL, 1, C);
		be->sync();
		be->download(a, y + i * C, sizeof a);
		be->download(b, one + 1, sizeof b);
		wrong += memcmp(a, b, sizeof a) != 0;
		be->copy(one + 1, x + i * C, sizeof a);
		be->log_softmax(one + 1, C, 1, C);
		be->sync();
		be->download(a, z + i * C, sizeof a);
		be->download(b, one + 1, sizeof b);
		wrong += memcmp(a, b, sizeof a) != 0;
	}
	ok(!wrong, "%s: a row alone and among others, the same bytes", be->name);
	for (i = 0; i < 5; i++)
		be->free((void *[]){ x, y, w, z, one }[i]);
}

/* What a visit saw. */
struct guest {
	float seen[5];
	int after;		/* how many came before */
};

static int guests;

static void
double_all(void *host, size_t bytes, void *user)
{
	struct guest *g = user;
	float *x = host;
	size_t i;

	memcpy(g->seen, x, bytes);
	g->after = guests++;
	for (i = 0; i < bytes / sizeof *x; i++)
		x[i] *= 2;
}

static void
test_visit(const struct backend *be)
{
	float host[5] = { 1, 2, 3, 4, 5 }, *x = be->alloc(sizeof host);
	struct guest first = { 0 }, second = { 0 };
	int i, wrong = 0;

	guests = 0;
	be->upload(x, host, sizeof host);
	be->visit(x, sizeof host, double_all, &first);
	be->add(x, 1, x, DT_F32, 5);
	be->visit(x + 2, sizeof *x, double_all, &second);
	be->download(host, x, sizeof host);
	for (i = 0; i < 5; i++)
		wrong += first.seen[i] != (float)(i + 1) || host[i] != (float)(i + 1) * (i == 2 ? 8 : 4);
	ok(!wrong && !first.after && second.after == 1 && second.seen[0] == 12,
	    "%s: what visits the host comes back changed, in the order of work", be->name);
	be->free(x);
}

static void
test_row(const struct backend *be)
{
	test_norm(be);
	test_rope(be);
	test_gates(be);
	test_elementwise(be);
	test_attention(be);
	test_paged(be);
	test_loss(be);
	test_policy(be);
	test_softmax(be);
	test_sample(be);
	test_mix(be);
	test_adamw(be);
	test_master(be);
	test_stochastic(be);
	test_threads(be);
	test_alone(be);
	test_visit(be);
}

int
main(int argc, char **argv)
{
	const struct backend *const *row;

	seed = first_seed;
	test_master(&backend_ref);
	for (row = backends; *row; row++) {
		if (*row == &backend_ref || (argc > 1 && strcmp(argv[1], (*row)->name)))
			continue;
		seed = first_seed;		/* numbers do not depend on the rows before */
		if (!(*row)->usable()) {
			skip((*row)->name, "this machine cannot run it");
			continue;
		}
		test_row(*row);
		test_paged_same(*row);
		if (*row == &backend_cuda)
			test_causal(*row);
	}
	ok(backend_pick("ref") == &backend_ref && !backend_pick("abacus"),
	    "a row is found by its name, or not");
	return done();
}
